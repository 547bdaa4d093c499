//! The store: SQLite as the daemon's state, its embedded time series and the buffer of its sinks.
//!
//! Invariants:
//! - Rows, ledger and journal position change in one transaction: the position never runs ahead of the rows.
//! - One table row per base window and device, keyed (window, device), so that a flush is sequential and retention a
//!   range delete; the aggregates are packed ([`crate::rollup`]). Coarser windows are folded when they are read.
//! - `change` lists, in order, what sinks have to send: a window when it becomes final, and again when it is amended.
//!   Every sink keeps its own position in it. A window stands in it once, at its latest change.
//! - `stale` lists the windows whose indicators are to be computed, each with the generation of its latest change, so
//!   that a change made while they are computed is not lost.
//! - What is final stays final, whatever the clock does, and what is not there yet becomes final at its own time, also
//!   after a clock that ran ahead ([`Finality`]).
//! - Nothing grows without bound: rows, indicators and changes go by age and for a bound in bytes ([`retention`]), dead
//!   letters and quarantined lines by number; what goes is counted.
//!
//! There is one [`Writer`], owned by the pipeline; [`Reader`]s are many and never block it (write-ahead log). Sinks and
//! the indicator worker write their own small rows through [`SideWriter`]. Never reads the clock.

mod bound;
mod feed;
mod finality;
mod heard;
mod indicators;
mod read;
mod retention;
mod schema;
mod series;
mod walk;
mod write;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

pub use bound::{Fill, Pressure, StoreBound};
pub use feed::{Change, Feed, Quarantined, SideWriter, SinkState};
pub use finality::Finality;
pub use indicators::{IndicatorQuery, IndicatorRow, StaleWindow};
pub use read::{Interrupter, Reader};
pub use series::{Devices, SeriesQuery, SeriesRow};
pub use write::{DEAD_LETTER_BYTES_MAX, DeadLetter, Flush, FlushedRow, StoredDevice, Unlisted, Writer, WriterOptions};

/// How long a connection waits for another one to let go.
const BUSY_WAIT: Duration = Duration::from_secs(20);

/// Why the store did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// SQLite refused.
    #[error("the store {path} failed to {action}", path = path.display())]
    Sqlite {
        /// The database file.
        path: PathBuf,
        /// What was being done.
        action: &'static str,
        /// SQLite's own error.
        #[source]
        source: rusqlite::Error,
    },
    /// The file's tables are not those of this build.
    #[error("the store {path} has schema version {found}, this build reads version {known}: run the version that wrote it, or move the file away", path = path.display())]
    SchemaVersion {
        /// The database file.
        path: PathBuf,
        /// Version found; 0 where the file has no tables of ours.
        found: i64,
        /// Version that this build knows.
        known: i64,
    },
    /// The data directory cannot be made.
    #[error("cannot make the folder {path}", path = path.display())]
    Directory {
        /// The folder.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
}

impl Error {
    /// Whether the query was ended from outside ([`Interrupter`]).
    #[must_use]
    pub fn is_interrupted(&self) -> bool {
        let Self::Sqlite { source, .. } = self else { return false };
        source.sqlite_error_code() == Some(rusqlite::ErrorCode::OperationInterrupted)
    }

    /// Whether the disk has no room for what was to be written.
    #[must_use]
    pub fn is_full(&self) -> bool {
        let Self::Sqlite { source, .. } = self else { return false };
        source.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull)
    }
}

/// Where the store lives, and how its connections are opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorePath(PathBuf);

impl StorePath {
    /// The store in `data_dir`.
    #[must_use]
    pub fn in_folder(data_dir: &Path) -> Self {
        Self(data_dir.join("sitepulse.db"))
    }

    /// The database file.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.0
    }

    fn open(&self, flags: OpenFlags) -> Result<Connection, Error> {
        let open = || {
            let connection = Connection::open_with_flags(&self.0, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
            connection.busy_timeout(BUSY_WAIT)?;
            connection.set_prepared_statement_cache_capacity(64);
            Ok(connection)
        };
        open().map_err(|source| self.error("open", source))
    }

    fn error(&self, action: &'static str, source: rusqlite::Error) -> Error {
        Error::Sqlite { path: self.0.clone(), action, source }
    }
}
