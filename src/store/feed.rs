//! What sinks have to send, how far each has come, and the small writes they do themselves.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

use super::indicators::write_indicators;
use super::read::collect;
use super::schema::{StateKey, count_at, device_at, time_at, to_sql, window_at};
use super::{Error, IndicatorRow, Reader, StaleWindow, StorePath};
use crate::model::{DeviceId, Timestamp, Window, WindowStart};

/// Refused lines that are kept.
const QUARANTINED_MAX: i64 = 1_000;

/// Bytes of a refused line, and of the reason, that are kept.
const QUARANTINED_BYTES_MAX: usize = 16 * 1_024;

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(QUARANTINED_BYTES_MAX)]
}

/// A roll-up that became final or was amended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its place in the feed.
    pub seq: u64,
    /// Window of the roll-up.
    pub window: Window,
    /// Start of the window.
    pub start: WindowStart,
    /// Whose roll-up it is.
    pub device: DeviceId,
}

/// The two feeds that sinks read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Feed {
    /// Roll-ups: [`Reader::changes`].
    Rollup,
    /// Indicators: [`Reader::indicators_after`].
    Indicator,
}

impl Feed {
    const ALL: [Self; 2] = [Self::Rollup, Self::Indicator];

    /// The feed's name in the store and in metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Rollup => "rollup",
            Self::Indicator => "indicator",
        }
    }
}

/// How far a sink has come in a feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkState {
    /// Name of the sink.
    pub sink: Arc<str>,
    /// The feed.
    pub feed: Feed,
    /// Everything up to this place has reached the sink's server.
    pub position: u64,
}

/// A line that a sink's server refused for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantined {
    /// When it was refused.
    pub at: Timestamp,
    /// Name of the sink.
    pub sink: Arc<str>,
    /// The line as it was sent.
    pub line: String,
    /// The server's reason.
    pub reason: String,
}

impl Reader {
    /// Up to `limit` roll-ups that changed after place `after` of the feed, in order.
    ///
    /// What starts before the rows that are kept is passed over: it cannot be told any more, and was counted when it went.
    /// A window that changed again since has moved to its latest place, so what is read here is never out of date.
    ///
    /// # Errors
    /// [`Error`] where SQLite refuses.
    pub fn changes(&self, after: u64, limit: usize) -> Result<Vec<Change>, Error> {
        let sql = "SELECT seq, window, start, device FROM change WHERE seq > ? AND start >=
                     coalesce((SELECT value FROM state WHERE key = ?), start) ORDER BY seq LIMIT ?";
        let parameters = params![to_sql(after), StateKey::KeptFrom.label(), to_sql(limit as u64)];
        let read = collect(&self.connection, sql, parameters, |row| {
            Ok(Change {
                seq: count_at(row, 0)?,
                window: window_at(row, 1)?,
                start: time_at(row, 2)?,
                device: device_at(row, 3)?,
            })
        });
        read.map_err(|source| self.path.error("read the feed of roll-ups", source))
    }

    /// Place of the newest entry that `feed` ever had; 0 where it had none. What lies between a sink's position and
    /// this is its backlog.
    ///
    /// # Errors
    /// [`Error`] where SQLite refuses.
    pub fn feed_end(&self, feed: Feed) -> Result<u64, Error> {
        let table = match feed {
            Feed::Rollup => "change",
            Feed::Indicator => "indicator",
        };
        self.connection
            .query_row("SELECT seq FROM sqlite_sequence WHERE name = ?", [table], |row| count_at(row, 0))
            .optional()
            .map(Option::unwrap_or_default)
            .map_err(|source| self.path.error("read a feed's end", source))
    }

    /// How far every sink has come.
    ///
    /// # Errors
    /// [`Error`] where SQLite refuses.
    pub fn sinks(&self) -> Result<Vec<SinkState>, Error> {
        let sql = "SELECT name, position FROM sink WHERE feed = ? ORDER BY name";
        let mut sinks = Vec::new();
        for feed in Feed::ALL {
            let read = collect(&self.connection, sql, [feed.label()], |row| {
                Ok(SinkState { sink: row.get(0)?, feed, position: count_at(row, 1)? })
            });
            sinks.extend(read.map_err(|source| self.path.error("read the positions of sinks", source))?);
        }
        Ok(sinks)
    }

    /// Up to `limit` lines that sinks' servers refused, newest first.
    ///
    /// # Errors
    /// [`Error`] where SQLite refuses.
    pub fn quarantined(&self, limit: usize) -> Result<Vec<Quarantined>, Error> {
        let sql = "SELECT at, sink, line, reason FROM quarantine ORDER BY seq DESC LIMIT ?";
        let read = collect(&self.connection, sql, [to_sql(limit as u64)], |row| {
            Ok(Quarantined { at: time_at(row, 0)?, sink: row.get(1)?, line: row.get(2)?, reason: row.get(3)? })
        });
        read.map_err(|source| self.path.error("read refused lines", source))
    }
}

/// The small writes of a sink or of the indicator worker, on a connection of its own.
#[derive(Debug)]
pub struct SideWriter {
    connection: Connection,
    path: StorePath,
}

impl SideWriter {
    /// Opens the store, which a [`super::Writer`] has made.
    ///
    /// # Errors
    /// [`Error`] where the file cannot be opened or has the tables of another version.
    pub fn open(path: &StorePath) -> Result<Self, Error> {
        Ok(Self { connection: path.open_side_writer()?, path: path.clone() })
    }

    /// How far `sink` has come in `feed`; 0 where it never said.
    ///
    /// # Errors
    /// [`Error`] where SQLite refuses.
    pub fn position(&self, sink: &str, feed: Feed) -> Result<u64, Error> {
        let position = || {
            self.connection
                .prepare_cached("SELECT position FROM sink WHERE name = ? AND feed = ?")?
                .query_row(params![sink, feed.label()], |row| count_at(row, 0))
                .optional()
        };
        position().map(Option::unwrap_or_default).map_err(|source| self.path.error("read a sink's position", source))
    }

    /// Notes that everything of `feed` up to `seq` has reached `sink`'s server.
    ///
    /// # Errors
    /// [`Error`] where SQLite refuses.
    pub fn set_position(&mut self, sink: &str, feed: Feed, seq: u64) -> Result<(), Error> {
        let sql = "INSERT INTO sink VALUES(?, ?, ?) ON CONFLICT DO UPDATE SET position = excluded.position";
        let write = || self.connection.prepare_cached(sql)?.execute(params![sink, feed.label(), to_sql(seq)]);
        write().map(|_| ()).map_err(|source| self.path.error("write a sink's position", source))
    }

    /// Keeps a line that a sink's server refused; the newest thousand are kept.
    ///
    /// # Errors
    /// [`Error`] where SQLite refuses.
    pub fn quarantine(&mut self, line: &Quarantined) -> Result<(), Error> {
        let mut write = || {
            let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            transaction
                .prepare_cached("INSERT INTO quarantine(at, sink, line, reason) VALUES(?, ?, ?, ?)")?
                .execute(params![line.at.as_millis(), line.sink, cut(&line.line), cut(&line.reason)])?;
            let dropped = transaction
                .prepare_cached("DELETE FROM quarantine WHERE seq <= (SELECT max(seq) FROM quarantine) - ?")?
                .execute([QUARANTINED_MAX])?;
            StateKey::QuarantinedDropped.add(&transaction, dropped as u64)?;
            transaction.commit()
        };
        write().map_err(|source| self.path.error("write a refused line", source))
    }

    /// Writes the indicators of one window in one transaction and returns how many are new or changed.
    ///
    /// A row whose value, numerator, denominator or completeness differs from the stored one gets the next revision
    /// and a new place in the feed, others stay as they are. The window's mark goes only where its generation is still
    /// the computed one: a change in between leaves it to be computed again.
    ///
    /// # Errors
    /// [`Error`] where SQLite refuses; nothing is written then.
    pub fn write_indicators(&mut self, rows: &[IndicatorRow], computed: &StaleWindow) -> Result<usize, Error> {
        write_indicators(&mut self.connection, rows, computed)
            .map_err(|source| self.path.error("write indicators", source))
    }
}
