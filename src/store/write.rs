//! The one writer: rows, ledger, journal position and finality in one transaction.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};

use super::bound::{Bound, Fill, StoreBound};
use super::finality::{Amended, Feeder, Finality};
use super::heard::Heard;
use super::retention::Pruner;
use super::schema::{StateKey, to_sql};
use super::{Error, StorePath};
use crate::disk::Space;
use crate::inventory::{Device, Inventory};
use crate::ledger::Ledger;
use crate::model::{DeviceId, JournalPosition, MetricId, Timestamp, Window, WindowStart};
use crate::rollup::DeviceWindow;

/// Bytes of a rejected payload that are kept, and of its topic.
pub const DEAD_LETTER_BYTES_MAX: usize = 1_024;

/// Bytes of changed pages after which the log is folded into the file.
const CHECKPOINT_BYTES: i64 = 4_000 << 10;
/// Bytes of changed pages at the most that are in memory and not in the log before a commit: SQLite's cache.
const CACHE_BYTES_MAX: u64 = 2_000 * 1_024;
/// How long a flush waits for readers when the log is too long.
const LOG_WAIT: Duration = Duration::from_millis(200);

/// What the writer needs to know of the configuration.
#[derive(Clone, Debug)]
pub struct WriterOptions {
    /// Time from a window's end to its being final, ms.
    pub grace_ms: i64,
    /// Age at which rows are deleted, ms.
    pub retention_ms: i64,
    /// Windows that sinks are fed.
    pub feed_windows: BTreeSet<Window>,
    /// Windows that indicators are computed over.
    pub indicator_windows: BTreeSet<Window>,
    /// Names of the sinks that read the feed of roll-ups; what all of them have passed is deleted.
    pub rollup_sinks: Vec<String>,
    /// Devices that are listed, by which the pages of a new store are sized.
    pub devices: usize,
    /// Zone of hours and days.
    pub zone: TimeZone,
}

/// A device as the store knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredDevice {
    /// Its number.
    pub id: DeviceId,
    /// Its site.
    pub site: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// Kind of its site.
    pub kind: Arc<str>,
    /// Area of its site.
    pub area: Arc<str>,
    /// Operator of its site.
    pub operator: Arc<str>,
}

impl StoredDevice {
    /// A device of the inventory as the store is to know it.
    #[must_use]
    pub fn of(inventory: &Inventory, device: &Device) -> Self {
        let site = inventory.site_of(device);
        Self {
            id: device.id,
            site: site.id.clone(),
            name: device.name.clone(),
            kind: site.kind.clone(),
            area: site.area.clone(),
            operator: site.operator.clone(),
        }
    }
}

/// What was taken in without being listed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unlisted {
    /// Devices that were never listed, with the source that heard them first.
    pub devices: Vec<(DeviceId, Arc<str>)>,
    /// Devices that were, and are listed now.
    pub listed: Vec<DeviceId>,
    /// Metrics that a device has sent and its profile does not list.
    pub metrics: Vec<(DeviceId, MetricId)>,
}

/// A row to write.
#[derive(Clone, Copy, Debug)]
pub struct FlushedRow<'a> {
    /// Whose row it is.
    pub device: DeviceId,
    /// The row.
    pub window: &'a DeviceWindow,
    /// Whether the device has counters, whose next row changes with this one.
    pub has_counters: bool,
}

/// A rejected message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// When it arrived.
    pub at: Timestamp,
    /// Source that heard it.
    pub source: Arc<str>,
    /// Its topic.
    pub topic: Box<str>,
    /// Why it was rejected.
    pub reason: &'static str,
    /// Its payload.
    pub payload: Box<[u8]>,
}

/// What one flush writes.
pub struct Flush<'a> {
    /// Now, which makes windows final and rows expire.
    pub now: Timestamp,
    /// Changed rows, in order of (start, device).
    pub rows: &'a mut dyn Iterator<Item = FlushedRow<'a>>,
    /// Devices that the store does not know yet.
    pub devices: &'a [StoredDevice],
    /// Metrics that the store does not know yet.
    pub metrics: &'a [(MetricId, Arc<str>)],
    /// The ledger as of `position`.
    pub ledger: &'a Ledger,
    /// First record of the journal that the rows do not hold.
    pub position: JournalPosition,
    /// Messages rejected since the last flush.
    pub dead_letters: &'a [DeadLetter],
}

/// The store's one writer.
#[derive(Debug)]
pub struct Writer {
    connection: Connection,
    path: StorePath,
    options: WriterOptions,
    /// What is final; `None` before the first flush of a new store.
    finality: Option<Finality>,
    /// Where the final windows ended when the clock was last seen behind them.
    fell_back_to: Option<Timestamp>,
    /// Windows that start before this are gone; `None` while nothing is.
    kept_from: Option<Timestamp>,
    bound: Bound,
    fill: Fill,
    /// What the next flush writes of what was taken in.
    unlisted: Unlisted,
    /// Devices with a row in the longer windows that sinks are fed.
    heard: Heard,
    scratch: Vec<u8>,
}

impl Writer {
    /// Opens the store, making it where there is none.
    ///
    /// # Errors
    /// [`Error`] where the folder or file cannot be made or read, or was written by a later version.
    pub fn open(path: &StorePath, options: WriterOptions) -> Result<Self, Error> {
        let connection = path.open_writer(options.devices)?;
        let finality = Finality::read(&connection).map_err(|source| path.error("read its state", source))?;
        let kept_from = super::read::kept_from(&connection).map_err(|source| path.error("read its state", source))?;
        let bound = Bound::new(StoreBound::default(), path.used_bytes(&connection)?);
        let newest = newest_row(&connection).map_err(|source| path.error("read its rows", source))?;
        let fed = options.feed_windows.iter().copied().filter(|_| !options.rollup_sinks.is_empty());
        let longer = fed.filter(|window| *window != Window::Minute1).collect();
        Ok(Self {
            connection,
            path: path.clone(),
            heard: Heard::new(newest, longer, options.zone.clone()),
            options,
            finality,
            fell_back_to: None,
            kept_from,
            bound,
            fill: Fill::default(),
            unlisted: Unlisted::default(),
            scratch: Vec::new(),
        })
    }

    /// Lets the file grow by `pages` pages at the most, or as it likes: beyond that the disk is full.
    #[cfg(test)]
    pub(crate) fn set_room(&self, pages: Option<i64>) {
        let pragma = |name: &str| self.connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
        let max = pages.map_or(i64::from(u32::MAX - 1), |pages| pragma("page_count").expect("a number") + pages);
        let set = self.connection.pragma_update_and_check(None, "max_page_count", max, |_| Ok(()));
        set.expect("a bound");
    }

    /// Keeps the store within `bound`, as far as its disk goes.
    ///
    /// # Errors
    /// [`Error`] where SQLite refuses.
    pub fn bounded(mut self, bound: StoreBound) -> Result<Self, Error> {
        self.bound = Bound::new(bound, self.path.used_bytes(&self.connection)?);
        self.look_at_disk();
        let set = |key, value: i64| self.connection.pragma_update_and_check(None, key, value, |_| Ok(()));
        let log_bytes = self.bound.log_bytes_max();
        let page_bytes = self.connection.pragma_query_value(None, "page_size", |row| row.get::<_, i64>(0));
        page_bytes
            .and_then(|page_bytes| set("wal_autocheckpoint", log_bytes.min(CHECKPOINT_BYTES) / page_bytes))
            .and_then(|()| set("journal_size_limit", log_bytes))
            .map_err(|source| self.path.error("set up", source))?;
        self.shorten_log();
        Ok(self)
    }

    fn look_at_disk(&mut self) {
        let space = self.path.space();
        if space != Space::BOUNDLESS {
            let (file, log) = self.path.file_bytes();
            self.bound.look(file + log, space.free_bytes);
        }
    }

    /// Where it lives.
    #[must_use]
    pub fn path(&self) -> &StorePath {
        &self.path
    }

    /// How full the store was after the last flush.
    #[must_use]
    pub fn fill(&self) -> Fill {
        self.fill
    }

    /// Windows that start before this are gone, and so is a late reading for them; `None` while nothing is gone.
    #[must_use]
    pub fn kept_from(&self) -> Option<Timestamp> {
        self.kept_from
    }

    /// First record of the journal that the rows do not hold.
    ///
    /// # Errors
    /// [`Error`] where SQLite refuses.
    pub fn position(&self) -> Result<JournalPosition, Error> {
        StateKey::JournalPosition
            .count(&self.connection)
            .map(JournalPosition)
            .map_err(|source| self.path.error("read its state", source))
    }

    /// The ledger as of [`Writer::position`].
    ///
    /// # Errors
    /// [`Error`] where SQLite refuses.
    pub fn ledger(&self) -> Result<Ledger, Error> {
        super::read::ledger(&self.connection).map_err(|source| self.path.error("read the ledger", source))
    }

    /// Windows that end here or before are final.
    pub fn final_until(&self) -> Option<Timestamp> {
        self.finality.map(|finality| finality.until)
    }

    /// Whether a flush at `now` would make windows final, or find that the clock has fallen back behind them.
    #[must_use]
    pub fn finality_due(&self, now: Timestamp) -> bool {
        let until = self.final_until();
        self.makes_final(now) || (until > Some(self.final_at(now)) && self.fell_back_to != until)
    }

    /// Whether a flush at `now` would make windows final.
    #[must_use]
    pub fn makes_final(&self, now: Timestamp) -> bool {
        self.final_until() < Some(self.final_at(now))
    }

    /// Whether the store is above its bound, which indicators alone can bring it to.
    ///
    /// # Errors
    /// [`Error`] where SQLite refuses.
    pub fn bound_due(&self) -> Result<bool, Error> {
        Ok(self.path.used_bytes(&self.connection)? > self.bound.bytes_max().0)
    }

    /// End of the newest base window whose grace is over at `now`.
    #[must_use]
    pub fn final_at(&self, now: Timestamp) -> Timestamp {
        Window::Minute1.bounds(now.plus_millis(-self.options.grace_ms), &TimeZone::UTC).0
    }

    /// The devices it knows, by number.
    ///
    /// # Errors
    /// [`Error`] where SQLite refuses.
    pub fn devices(&self) -> Result<Vec<StoredDevice>, Error> {
        super::read::devices(&self.connection).map_err(|source| self.path.error("read its devices", source))
    }

    /// The metrics it knows, by number.
    ///
    /// # Errors
    /// [`Error`] where SQLite refuses.
    pub fn metrics(&self) -> Result<Vec<(MetricId, Arc<str>)>, Error> {
        super::read::metrics(&self.connection).map_err(|source| self.path.error("read its metrics", source))
    }

    /// What was taken in without being listed, as of the last flush.
    ///
    /// # Errors
    /// [`Error`] where SQLite refuses.
    pub fn unlisted(&self) -> Result<Unlisted, Error> {
        super::read::unlisted(&self.connection).map_err(|source| self.path.error("read what was not listed", source))
    }

    /// Has the next flush write what was taken in since the last one.
    pub fn note_unlisted(&mut self, unlisted: Unlisted) {
        self.unlisted = unlisted;
    }

    /// Start of the newest row.
    ///
    /// # Errors
    /// [`Error`] where SQLite refuses.
    pub fn newest_row(&self) -> Result<Option<WindowStart>, Error> {
        newest_row(&self.connection).map_err(|source| self.path.error("read its rows", source))
    }

    /// The packed row of one device's base window.
    ///
    /// # Errors
    /// [`Error`] where SQLite refuses.
    pub fn load(&self, start: WindowStart, device: DeviceId) -> Result<Option<Vec<u8>>, Error> {
        let load = || {
            self.connection
                .prepare_cached("SELECT data FROM rollup WHERE start = ? AND device = ?")?
                .query_row(params![start.as_millis(), device.0], |row| row.get(0))
                .optional()
        };
        load().map_err(|source| self.path.error("read a row", source))
    }

    /// Writes one flush; when it returns, everything is on disk. Returns the number of rows written.
    ///
    /// # Errors
    /// [`Error`] where SQLite refuses (disk full, damage); nothing of the flush is written then.
    pub fn flush(&mut self, flush: &mut Flush<'_>) -> Result<usize, Error> {
        let path = self.path.clone();
        self.look_at_disk();
        self.shorten_log();
        let rows = self.flush_inner(flush).map_err(|source| {
            // It was noted that rows were written which are not there.
            self.heard.forget();
            path.error("write a flush", source)
        })?;
        self.shorten_log();
        Ok(rows)
    }

    /// Makes windows final as a flush at `now` would, and writes no rows: of windows that become final, all must be written.
    ///
    /// # Errors
    /// As [`Writer::flush`].
    pub fn finalise(&mut self, now: Timestamp) -> Result<(), Error> {
        let (ledger, position) = (self.ledger()?, self.position()?);
        let rows = &mut std::iter::empty();
        let mut flush = Flush { now, rows, devices: &[], metrics: &[], ledger: &ledger, position, dead_letters: &[] };
        self.flush(&mut flush).map(|_| ())
    }

    /// Folds a log into the file that readers, or a full disk, have kept from being begun anew, as far as they let it in a
    /// moment. A flush that succeeds does so; it is worth trying again where the disk has got room since.
    pub fn shorten_log(&mut self) {
        let (log_bytes, space) = (self.path.file_bytes().1, self.path.space());
        self.fill.log_bytes = log_bytes;
        // Where little is free, all of it: a flush that fails leaves the log as long as there was room, and its space comes
        // back only while nothing else is in it.
        let log_bytes_max =
            if is_tight(space) { 0 } else { 2 * u64::try_from(self.bound.log_bytes_max()).unwrap_or(0) };
        if log_bytes <= log_bytes_max {
            return;
        }
        let fold = || {
            self.connection.busy_timeout(LOG_WAIT)?;
            let folded = self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |_| Ok(()));
            self.connection.busy_timeout(super::BUSY_WAIT)?;
            folded
        };
        // Failing is no harm to what was flushed: it is tried again with the next flush.
        if let Err(error) = fold() {
            tracing::debug!(%error, log_bytes, "the store's log cannot be shortened now");
        }
    }

    fn flush_inner(&mut self, flush: &mut Flush<'_>) -> Result<usize, rusqlite::Error> {
        let final_now = self.final_at(flush.now);
        let options = &self.options;
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        // A new store has nothing to make final; a clock that steps back makes nothing open again.
        let before = self.finality.unwrap_or(Finality::new(final_now)).follow_back(&transaction, final_now)?;
        let after = before.follow_on(final_now);
        if self.finality.is_some_and(|known| before.until < known.until) {
            // A window that was final already may become so again.
            self.heard.forget();
        }
        let generation = StateKey::Generation.count(&transaction)? + 1;
        write_names(&transaction, flush)?;
        write_unlisted(&transaction, &self.unlisted)?;
        write_dead_letters(&transaction, flush.dead_letters)?;
        let mut amended = Amended::new(before);
        let rows = write_rows(&transaction, flush.rows, &mut self.scratch, (&mut amended, &mut self.heard))?;
        amended.amend_successors(&transaction)?;
        let pruner = Pruner::new(
            &transaction,
            options,
            &self.bound,
            (flush.now, final_now, self.finality.map(|known| known.until)),
        )?;
        let oldest = pruner.kept_from();
        self.heard.keep_from(oldest);
        let heard = &self.heard;
        let feeder = Feeder { transaction: &transaction, options, generation, heard, oldest, untold: Cell::default() };
        amended.write(&feeder)?;
        feeder.finalise(before, after.until)?;
        let (untold, uncomputed) = feeder.untold.get();
        StateKey::FeedExpired.add(&transaction, untold)?;
        StateKey::MarksExpired.add(&transaction, uncomputed)?;
        write_ledger(&transaction, flush.ledger)?;
        StateKey::JournalPosition.write(&transaction, to_sql(flush.position.0))?;
        after.write(&transaction)?;
        StateKey::Generation.write(&transaction, to_sql(generation))?;
        let fill = pruner.prune(rows, (after.until, final_now))?;
        check_room(&transaction, &self.path)?;
        transaction.commit()?;
        self.finality = Some(after);
        self.fell_back_to = (after.until > final_now).then_some(after.until);
        (self.fill, self.kept_from) = (fill, fill.kept_from);
        self.unlisted = Unlisted::default();
        self.heard.settle(after.until);
        self.heard.keep_from(fill.kept_from.unwrap_or(oldest));
        Ok(rows)
    }
}

/// Fails where the disk would be left without the room that the file needs to take in what the log holds: then neither
/// could grow any more, whatever is to be written.
fn check_room(transaction: &Transaction<'_>, path: &StorePath) -> Result<(), rusqlite::Error> {
    let space = path.space();
    if !is_tight(space) {
        return Ok(());
    }
    let number = |sql| transaction.prepare_cached(sql)?.query_row((), |row| row.get::<_, u32>(0)).map(u64::from);
    let bytes = number("PRAGMA page_count")? * number("PRAGMA page_size")?;
    let growth = bytes.saturating_sub(path.file_bytes().0);
    if growth == 0 || space.free_bytes >= growth + CACHE_BYTES_MAX {
        return Ok(());
    }
    let message = "database or disk is full: the file would have no room for what its log holds".to_owned();
    Err(rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL), Some(message)))
}

/// Whether so little is free that a large flush may take it all.
fn is_tight(space: Space) -> bool {
    space.free_bytes < 2 * space.reserve_bytes()
}

fn newest_row(connection: &Connection) -> Result<Option<WindowStart>, rusqlite::Error> {
    let start: Option<i64> = connection.query_row("SELECT max(start) FROM rollup", (), |row| row.get(0))?;
    Ok(start.map(Timestamp::from_millis))
}

fn write_names(transaction: &Transaction<'_>, flush: &Flush<'_>) -> Result<(), rusqlite::Error> {
    let mut insert = transaction.prepare_cached("INSERT INTO metric VALUES(?, ?)")?;
    for (id, name) in flush.metrics {
        insert.execute(params![id.0, name])?;
    }
    // A device that is known already may have got another area, operator or kind.
    let mut upsert = transaction.prepare_cached(
        "INSERT INTO device VALUES(?, ?, ?, ?, ?, ?) ON CONFLICT(id) DO UPDATE SET site = excluded.site,
           name = excluded.name, kind = excluded.kind, area = excluded.area, operator = excluded.operator",
    )?;
    for device in flush.devices {
        upsert.execute(params![device.id.0, device.site, device.name, device.kind, device.area, device.operator])?;
    }
    Ok(())
}

fn write_unlisted(transaction: &Transaction<'_>, unlisted: &Unlisted) -> Result<(), rusqlite::Error> {
    let mut insert = transaction.prepare_cached("INSERT OR IGNORE INTO taken_in VALUES(?, ?)")?;
    for (device, source) in &unlisted.devices {
        insert.execute(params![device.0, source])?;
    }
    let mut delete = transaction.prepare_cached("DELETE FROM taken_in WHERE device = ?")?;
    for device in &unlisted.listed {
        delete.execute([device.0])?;
    }
    let mut insert = transaction.prepare_cached("INSERT OR IGNORE INTO unlisted_metric VALUES(?, ?)")?;
    for (device, metric) in &unlisted.metrics {
        insert.execute([device.0, metric.0])?;
    }
    Ok(())
}

fn write_dead_letters(transaction: &Transaction<'_>, letters: &[DeadLetter]) -> Result<(), rusqlite::Error> {
    let mut insert = transaction
        .prepare_cached("INSERT INTO dead_letter(at, source, topic, reason, payload) VALUES(?, ?, ?, ?, ?)")?;
    for letter in letters {
        let payload = &letter.payload[..letter.payload.len().min(DEAD_LETTER_BYTES_MAX)];
        let topic = &letter.topic[..letter.topic.floor_char_boundary(DEAD_LETTER_BYTES_MAX)];
        insert.execute(params![letter.at.as_millis(), letter.source, topic, letter.reason, payload])?;
    }
    Ok(())
}

fn write_rows(
    transaction: &Transaction<'_>,
    rows: &mut dyn Iterator<Item = FlushedRow<'_>>,
    scratch: &mut Vec<u8>,
    (amended, heard): (&mut Amended, &mut Heard),
) -> Result<usize, rusqlite::Error> {
    let mut upsert = transaction.prepare_cached(
        "INSERT INTO rollup VALUES(?, ?, ?, ?)
         ON CONFLICT DO UPDATE SET data = excluded.data, amendments = amendments + excluded.amendments",
    )?;
    let mut count = 0;
    for FlushedRow { device, window, has_counters } in rows {
        scratch.clear();
        window.pack(scratch);
        let late = amended.is_final(window.start);
        upsert.execute(params![window.start.as_millis(), device.0, i64::from(late), &*scratch])?;
        count += 1;
        heard.note(window.start, device);
        if late {
            amended.add(window.start, device, has_counters);
        }
    }
    Ok(count)
}

fn write_ledger(transaction: &Transaction<'_>, ledger: &Ledger) -> Result<(), rusqlite::Error> {
    let mut upsert = transaction
        .prepare_cached("INSERT INTO ledger VALUES(?, ?, ?, ?) ON CONFLICT DO UPDATE SET count = excluded.count")?;
    for (source, counts) in &ledger.sources {
        for (class, reason, count) in counts.entries() {
            upsert.execute(params![source, class, reason, to_sql(count)])?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::model::{JournalPosition, MetricId};
    use crate::store::tests::{City, MINUTE, POWER, at};

    #[test]
    fn a_full_disk_fails_the_whole_flush_and_the_next_one_succeeds() {
        let mut city = City::new(&[200]);
        city.flush(at(0));
        let pages = |city: &City, max: i64| {
            let connection = &city.writer.connection;
            connection.pragma_update_and_check(None, "max_page_count", max, |row| row.get::<_, i64>(0)).expect("pages")
        };
        let full = pages(&city, 1);
        for device in 0..200 {
            for slot in 0..60 {
                city.hear(device, at(slot * 1_000), POWER, 1.0);
                city.hear(device, at(slot * 1_000), MetricId(0), 1.0);
            }
        }
        assert!(full < 40, "the tables alone take {full} pages");
        city.try_flush(at(MINUTE)).expect_err("the disk is full");
        assert_eq!(city.writer.position().expect("a position"), JournalPosition(1));
        assert_eq!(city.writer.newest_row().expect("rows"), None);
        pages(&city, 1_000_000);
        assert_eq!(city.flush(at(MINUTE)), 200);
        assert_eq!(city.writer.newest_row().expect("rows"), Some(at(0)));
    }
}
