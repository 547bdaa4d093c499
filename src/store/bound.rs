//! How many bytes the store may take, and how many it takes.
//!
//! The bound is the configured one, or what the disk can give where that is less. Two thirds of the room count as the
//! store's: the rest is for its log, for the journal, and for what the journal leaves free. The room is the most that
//! was there since the start, not what is there now: a foreign file that fills the disk for an hour must not make the
//! store throw away its rows; while it is there nothing new is acknowledged, so the store need not grow.

use std::path::Path;

use rusqlite::Connection;

use super::schema::LOG_BYTES_KEPT;
use super::{Error, StorePath};
use crate::disk::Space;
use crate::model::Timestamp;

/// What bounds the store by bytes.
#[derive(Clone, Debug)]
pub struct StoreBound {
    /// Bytes at which the oldest rows go that nobody needs any more. At a tenth more the oldest go whoever needs them.
    pub bytes_max: u64,
    /// Names of the sinks that read the feed of indicators.
    pub indicator_sinks: Vec<String>,
}

impl Default for StoreBound {
    fn default() -> Self {
        Self { bytes_max: u64::MAX, indicator_sinks: Vec::new() }
    }
}

/// How the store stands to its bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pressure {
    /// Below it.
    #[default]
    None,
    /// At it: the oldest rows go, and nobody misses them.
    AtBound,
    /// Above it: what is there is still needed by a sink, or by a window that is not over.
    Held,
    /// A tenth above it: the oldest rows go, whoever needs them.
    Shedding,
    /// More than a tenth above it, and nothing is left that could go.
    Stuck,
}

/// How full the store is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fill {
    /// Bytes of the pages in use.
    pub used_bytes: u64,
    /// Bytes of its write-ahead log.
    pub log_bytes: u64,
    /// Bytes at which the oldest rows go.
    pub bytes_max: u64,
    /// Whether that is what the disk can give, and not what is configured.
    pub is_disks: bool,
    /// How it stands to them.
    pub pressure: Pressure,
    /// Windows that start before this are gone; `None` while nothing is.
    pub kept_from: Option<Timestamp>,
}

/// The bound of a store that is open.
#[derive(Debug)]
pub(super) struct Bound {
    bytes_max: u64,
    /// Bytes that were in use when the store was opened: a disk that is full just then takes none of them away.
    used_at_start: u64,
    /// The most room that was there since.
    room_bytes: u64,
    pub(super) indicator_sinks: Vec<String>,
}

/// A tenth more than `bytes`.
pub(super) fn hard(bytes: u64) -> u64 {
    bytes.saturating_add(bytes / 10)
}

impl Bound {
    pub(super) fn new(bound: StoreBound, used_at_start: u64) -> Self {
        let StoreBound { bytes_max, indicator_sinks } = bound;
        Self { bytes_max, used_at_start, room_bytes: 0, indicator_sinks }
    }

    /// Takes in how much room there is now: what the store takes, and what is free besides.
    pub(super) fn look(&mut self, taken_bytes: u64, free_bytes: u64) {
        self.room_bytes = self.room_bytes.max(taken_bytes.saturating_add(free_bytes));
    }

    /// Bytes at which the oldest rows go, and whether the disk says so.
    pub(super) fn bytes_max(&self) -> (u64, bool) {
        // A tenth more comes to two thirds of the room.
        let disk = (self.room_bytes / 33 * 20).max(self.used_at_start);
        if self.room_bytes > 0 && disk < self.bytes_max { (disk, true) } else { (self.bytes_max, false) }
    }

    /// Bytes that the log keeps: less on a small disk.
    pub(super) fn log_bytes_max(&self) -> i64 {
        let part = i64::try_from(self.room_bytes / 16).unwrap_or(i64::MAX).max(1 << 20);
        if self.room_bytes == 0 { LOG_BYTES_KEPT } else { part.min(LOG_BYTES_KEPT) }
    }
}

/// Bytes of the pages in use, as the open transaction leaves them.
pub(super) fn used_bytes(connection: &Connection) -> Result<u64, rusqlite::Error> {
    let number = |sql| connection.prepare_cached(sql)?.query_row((), |row| row.get::<_, u32>(0)).map(u64::from);
    let used = number("PRAGMA page_count")?.saturating_sub(number("PRAGMA freelist_count")?);
    Ok(used * number("PRAGMA page_size")?)
}

impl StorePath {
    /// Bytes of the file, and of its log.
    pub(super) fn file_bytes(&self) -> (u64, u64) {
        let bytes = |path: &Path| std::fs::metadata(path).map_or(0, |found| found.len());
        let mut log = self.file().as_os_str().to_owned();
        log.push("-wal");
        (bytes(self.file()), bytes(Path::new(&log)))
    }

    /// Room on the store's disk.
    pub(super) fn space(&self) -> Space {
        self.file().parent().and_then(|folder| Space::of(folder).ok()).unwrap_or(Space::BOUNDLESS)
    }

    /// Bytes in use of a store that is open.
    pub(super) fn used_bytes(&self, connection: &Connection) -> Result<u64, Error> {
        used_bytes(connection).map_err(|source| self.error("read its size", source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn bound(bytes_max: u64, used_at_start: u64) -> Bound {
        Bound::new(StoreBound { bytes_max, ..StoreBound::default() }, used_at_start)
    }

    #[test]
    fn a_small_disk_bounds_the_store_to_two_thirds_of_its_room() {
        let mut bound = bound(1 << 40, 0);
        assert_eq!(bound.bytes_max(), (1 << 40, false));
        bound.look(8 * MIB, 40 * MIB);
        let (soft, is_disks) = bound.bytes_max();
        assert!(is_disks && hard(soft) <= 32 * MIB && hard(soft) > 31 * MIB, "{soft}");
        assert_eq!(bound.log_bytes_max(), 3 << 20);
    }

    #[test]
    fn a_disk_that_a_foreign_file_fills_takes_no_rows_away() {
        let mut bound = bound(1 << 40, 30 * MIB);
        bound.look(30 * MIB, 0);
        assert_eq!(bound.bytes_max(), (30 * MIB, true));
        bound.look(30 * MIB, 600 * MIB);
        let roomy = bound.bytes_max();
        bound.look(30 * MIB, 0);
        assert_eq!(bound.bytes_max(), roomy);
    }
}
