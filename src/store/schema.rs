//! The tables, and how a file is opened for each of its users.

use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, params};

use super::{Error, StorePath};
use crate::model::{DeviceId, Timestamp, Window};

/// Version of the tables this build writes.
pub(super) const VERSION: i64 = 3;

const TABLES: &str = "
CREATE TABLE state(key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE metric(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE device(id INTEGER PRIMARY KEY, site TEXT NOT NULL, name TEXT NOT NULL, kind TEXT NOT NULL,
  area TEXT NOT NULL, operator TEXT NOT NULL, UNIQUE(site, name));
-- One base window of one device; data is packed (rollup/packed.rs). amendments: writes after the window was final.
CREATE TABLE rollup(start INTEGER NOT NULL, device INTEGER NOT NULL, amendments INTEGER NOT NULL, data BLOB NOT NULL,
  PRIMARY KEY(start, device)) WITHOUT ROWID;
-- What sinks have to send, in order; a window that changes again moves to the end.
CREATE TABLE change(seq INTEGER PRIMARY KEY AUTOINCREMENT, window INTEGER NOT NULL, start INTEGER NOT NULL,
  device INTEGER NOT NULL, UNIQUE(start, window, device));
-- Windows whose indicators are to be computed (again); generation: the flush that said so last.
CREATE TABLE stale(start INTEGER NOT NULL, window INTEGER NOT NULL, generation INTEGER NOT NULL,
  PRIMARY KEY(start, window)) WITHOUT ROWID;
CREATE TABLE indicator(seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL, level TEXT NOT NULL,
  window INTEGER NOT NULL, area TEXT NOT NULL, operator TEXT NOT NULL, site TEXT NOT NULL, start INTEGER NOT NULL,
  value REAL, numerator REAL, denominator REAL, completeness REAL, revision INTEGER NOT NULL,
  UNIQUE(id, level, window, area, operator, site, start));
CREATE INDEX indicator_by_start ON indicator(start);
CREATE TABLE ledger(source TEXT NOT NULL, class TEXT NOT NULL, reason TEXT NOT NULL, count INTEGER NOT NULL,
  PRIMARY KEY(source, class, reason)) WITHOUT ROWID;
CREATE TABLE sink(name TEXT NOT NULL, feed TEXT NOT NULL, position INTEGER NOT NULL, PRIMARY KEY(name, feed))
  WITHOUT ROWID;
-- Messages that were rejected and lines that a sink's server refused, with the reason; the newest are kept.
CREATE TABLE dead_letter(seq INTEGER PRIMARY KEY AUTOINCREMENT, at INTEGER NOT NULL, source TEXT NOT NULL,
  topic TEXT NOT NULL, reason TEXT NOT NULL, payload BLOB NOT NULL);
CREATE TABLE quarantine(seq INTEGER PRIMARY KEY AUTOINCREMENT, at INTEGER NOT NULL, sink TEXT NOT NULL,
  line TEXT NOT NULL, reason TEXT NOT NULL);
";

/// What version 2 adds. A store of version 1 does not say which devices were taken in without being listed, nor what
/// metrics of theirs, so these are not counted against the bounds until they are heard anew.
const TABLES_2: &str = "
-- Devices that were taken in without ever being listed, by the source that heard them first.
CREATE TABLE taken_in(device INTEGER PRIMARY KEY, source TEXT NOT NULL);
-- Metrics that a device has sent and its profile does not list.
CREATE TABLE unlisted_metric(device INTEGER NOT NULL, metric INTEGER NOT NULL, PRIMARY KEY(device, metric)) WITHOUT ROWID;
";

/// What version 3 takes away: an index by device, which cost a page of the log for every row written.
const NO_INDEX_3: &str = "DROP INDEX IF EXISTS rollup_by_device;";

/// Bytes of a page of a new store. Small ones, since a page is what the smallest change writes.
const PAGE_BYTES: u32 = 4_096;
/// Devices from which on a store gets the large ones.
const MANY_DEVICES: usize = 5_000;
/// Bytes of a page for many devices: a row at 1 Hz is half as long as a small page, more than SQLite keeps within one, so
/// that it would take a page more by itself.
const PAGE_BYTES_OF_MANY: u32 = 16_384;

/// Bytes that the write-ahead log keeps after a checkpoint; a large flush makes it longer for a while.
pub(super) const LOG_BYTES_KEPT: i64 = 64 << 20;

impl StorePath {
    /// Opens the file for the writer, making folder and tables where there are none, with pages for that many devices. A
    /// file that is there keeps the pages it has.
    pub(super) fn open_writer(&self, devices: usize) -> Result<Connection, Error> {
        if let Some(folder) = self.file().parent() {
            std::fs::create_dir_all(folder).map_err(|source| Error::Directory { path: folder.to_owned(), source })?;
        }
        let mut connection = self.open(OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE)?;
        // The version comes first, so that a file of a later build is left as it is.
        let found = self.version(&connection)?;
        if !(0..=VERSION).contains(&found) {
            return Err(self.unknown_version(found));
        }
        let mut set_up = || {
            let page_bytes = if devices < MANY_DEVICES { PAGE_BYTES } else { PAGE_BYTES_OF_MANY };
            connection.pragma_update(None, "page_size", page_bytes)?;
            // FULL: a transaction is on disk when it returns, since journal segments are deleted on its strength.
            connection.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;")?;
            connection.pragma_update(None, "journal_size_limit", LOG_BYTES_KEPT)?;
            if found < VERSION {
                let transaction = connection.transaction()?;
                if found == 0 {
                    transaction.execute_batch(TABLES)?;
                }
                if found < 2 {
                    transaction.execute_batch(TABLES_2)?;
                }
                transaction.execute_batch(NO_INDEX_3)?;
                transaction.pragma_update(None, "user_version", VERSION)?;
                transaction.commit()?;
            }
            Ok(())
        };
        set_up().map_err(|source| self.error("set up", source))?;
        Ok(connection)
    }

    /// Opens the file for reading.
    pub(super) fn open_reader(&self) -> Result<Connection, Error> {
        let connection = self.open(OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        self.expect_version(&connection)?;
        Ok(connection)
    }

    /// Opens the file for the small writes of sinks and the indicator worker.
    pub(super) fn open_side_writer(&self) -> Result<Connection, Error> {
        let connection = self.open(OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        self.expect_version(&connection)?;
        // NORMAL: a power cut may take the latest of these writes back, never out of order: a sink then sends the same
        // rows again, and indicators are computed again.
        connection
            .execute_batch("PRAGMA synchronous = NORMAL;")
            .and_then(|()| connection.pragma_update(None, "journal_size_limit", LOG_BYTES_KEPT))
            .map_err(|source| self.error("set up", source))?;
        Ok(connection)
    }

    fn version(&self, connection: &Connection) -> Result<i64, Error> {
        connection
            .query_row("PRAGMA user_version", (), |row| row.get(0))
            .map_err(|source| self.error("read its version", source))
    }

    fn expect_version(&self, connection: &Connection) -> Result<(), Error> {
        match self.version(connection)? {
            VERSION => Ok(()),
            found => Err(self.unknown_version(found)),
        }
    }

    fn unknown_version(&self, found: i64) -> Error {
        Error::SchemaVersion { path: self.file().to_owned(), found, known: VERSION }
    }
}

/// One number of the table `state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StateKey {
    /// First record of the journal that the rows do not hold.
    JournalPosition,
    /// Windows that end here or before are final, ms since the epoch.
    FinalUntil,
    /// Windows that begin before this may have been made final early by a clock that ran ahead, ms since the epoch.
    EarlyBefore,
    /// Where that clock's final windows ended, ms since the epoch.
    EarlyUntil,
    /// Number of flushes.
    Generation,
    /// Entries of the feeds that went before every sink had read them.
    FeedExpired,
    /// Windows that start before this are gone or going, ms since the epoch; see [`super::retention`].
    KeptFrom,
    /// As far as that is for the bound in bytes and not for age, ms since the epoch.
    ShedUntil,
    /// Rows that were deleted for their age.
    RowsExpired,
    /// Rows that were deleted for the bound in bytes.
    RowsShed,
    /// Indicators that were deleted for their age.
    IndicatorsExpired,
    /// Indicators that were deleted for the bound in bytes.
    IndicatorsShed,
    /// Windows whose rows went before their indicators were computed.
    MarksExpired,
    /// Rejected messages that are no longer kept, or never were.
    DeadLettersDropped,
    /// Refused lines that are no longer kept.
    QuarantinedDropped,
}

impl StateKey {
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::JournalPosition => "journal_position",
            Self::FinalUntil => "final_until",
            Self::EarlyBefore => "early_before",
            Self::EarlyUntil => "early_until",
            Self::Generation => "generation",
            Self::FeedExpired => "feed_expired",
            Self::KeptFrom => "kept_from",
            Self::ShedUntil => "shed_until",
            Self::RowsExpired => "rows_expired",
            Self::RowsShed => "rows_shed",
            Self::IndicatorsExpired => "indicators_expired",
            Self::IndicatorsShed => "indicators_shed",
            Self::MarksExpired => "marks_expired",
            Self::DeadLettersDropped => "dead_letters_dropped",
            Self::QuarantinedDropped => "quarantined_dropped",
        }
    }

    /// What the store counts of what it lets go.
    pub(super) const DISCARDS: [Self; 8] = [
        Self::FeedExpired,
        Self::RowsExpired,
        Self::RowsShed,
        Self::IndicatorsExpired,
        Self::IndicatorsShed,
        Self::MarksExpired,
        Self::DeadLettersDropped,
        Self::QuarantinedDropped,
    ];

    pub(super) fn add(self, connection: &Connection, count: u64) -> Result<(), rusqlite::Error> {
        if count == 0 {
            return Ok(());
        }
        self.write(connection, to_sql(self.count(connection)?.saturating_add(count)))
    }

    pub(super) fn read(self, connection: &Connection) -> Result<Option<i64>, rusqlite::Error> {
        connection
            .prepare_cached("SELECT value FROM state WHERE key = ?")?
            .query_row([self.label()], |row| row.get(0))
            .optional()
    }

    /// The number as a count; 0 where it was never written.
    pub(super) fn count(self, connection: &Connection) -> Result<u64, rusqlite::Error> {
        Ok(self.read(connection)?.map_or(0, from_sql))
    }

    pub(super) fn write(self, connection: &Connection, value: i64) -> Result<(), rusqlite::Error> {
        connection
            .prepare_cached("INSERT INTO state VALUES(?, ?) ON CONFLICT DO UPDATE SET value = excluded.value")?
            .execute(params![self.label(), value])
            .map(|_| ())
    }
}

/// A count as SQLite's signed integer.
pub(super) fn to_sql(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// A count from SQLite's signed integer.
pub(super) fn from_sql(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

/// The count in column `index`.
pub(super) fn count_at(row: &Row<'_>, index: usize) -> Result<u64, rusqlite::Error> {
    row.get(index).map(from_sql)
}

/// The instant in column `index`.
pub(super) fn time_at(row: &Row<'_>, index: usize) -> Result<Timestamp, rusqlite::Error> {
    row.get(index).map(Timestamp::from_millis)
}

/// The device in column `index`.
pub(super) fn device_at(row: &Row<'_>, index: usize) -> Result<DeviceId, rusqlite::Error> {
    row.get(index).map(DeviceId)
}

/// The window in column `index`.
pub(super) fn window_at(row: &Row<'_>, index: usize) -> Result<Window, rusqlite::Error> {
    let code: u8 = row.get(index)?;
    Window::from_code(code).ok_or_else(|| rusqlite::Error::IntegralValueOutOfRange(index, i64::from(code)))
}
