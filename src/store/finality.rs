//! What becomes final, and what is amended after it was: entries for sinks and marks for the indicator worker.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, HashSet};

use rusqlite::{Transaction, params};

use super::WriterOptions;
use super::schema::{count_at, time_at, to_sql};
use super::series::STEP_ROWS_MAX;
use crate::model::{BASE_WINDOW_MS, DeviceId, MetricId, Timestamp, Window, WindowStart};
use crate::rollup::BaseRow;

/// Span before the newest final window in which windows without a single row are marked for the indicator worker, ms.
/// Further back (a downtime of weeks, a first start with the clock in 1970) only windows with rows are.
const EMPTY_MARKED_MS: i64 = 48 * 3_600_000;

/// Writes entries for sinks and marks for the indicator worker, in a flush's transaction.
pub(super) struct Feeder<'a> {
    pub(super) transaction: &'a Transaction<'a>,
    pub(super) options: &'a WriterOptions,
    /// Number of the flush.
    pub(super) generation: u64,
    /// Rows before this are being deleted: what a window that starts before it comes to can no longer be told.
    pub(super) oldest: Timestamp,
    /// Rows that sinks are not told for that, and windows that are not computed.
    pub(super) untold: Cell<(u64, u64)>,
}

impl Feeder<'_> {
    /// Notes a device's window for sinks, moving it to the end of the feed.
    fn feed(&self, window: Window, start: WindowStart, device: DeviceId) -> Result<(), rusqlite::Error> {
        self.transaction
            .prepare_cached("INSERT OR REPLACE INTO change(window, start, device) VALUES(?, ?, ?)")?
            .execute(params![window.code(), start.as_millis(), device.0])
            .map(|_| ())
    }

    /// Notes a window of every device that has rows in it.
    fn feed_all(&self, window: Window, start: WindowStart, end: Timestamp) -> Result<(), rusqlite::Error> {
        // The rows of a day are far more than the devices, so a longer window asks the index device by device.
        let sql = if window == Window::Minute1 {
            "INSERT OR REPLACE INTO change(window, start, device)
             SELECT ?1, ?2, device FROM rollup WHERE start >= ?2 AND start < ?3 ORDER BY device"
        } else {
            "INSERT OR REPLACE INTO change(window, start, device)
             SELECT ?1, ?2, id FROM device WHERE EXISTS (SELECT 1 FROM rollup INDEXED BY rollup_by_device
               WHERE rollup.device = device.id AND rollup.start >= ?2 AND rollup.start < ?3) ORDER BY id"
        };
        self.transaction
            .prepare_cached(sql)?
            .execute(params![window.code(), start.as_millis(), end.as_millis()])
            .map(|_| ())
    }

    fn mark(&self, window: Window, start: WindowStart) -> Result<(), rusqlite::Error> {
        let sql = "INSERT INTO stale(start, window, generation) VALUES(?, ?, ?)
                   ON CONFLICT DO UPDATE SET generation = excluded.generation";
        self.transaction
            .prepare_cached(sql)?
            .execute(params![start.as_millis(), window.code(), to_sql(self.generation)])
            .map(|_| ())
    }

    fn fed(&self, window: Window) -> bool {
        self.options.feed_windows.contains(&window) && !self.options.rollup_sinks.is_empty()
    }

    fn computed(&self, window: Window) -> bool {
        self.options.indicator_windows.contains(&window)
    }

    /// Notes every window that became final between two instants.
    pub(super) fn finalise(&self, before: Timestamp, after: Timestamp) -> Result<(), rusqlite::Error> {
        for window in Window::ALL {
            let (fed, computed) = (self.fed(window), self.computed(window));
            if fed || computed {
                self.finalise_with_rows(window, before, after)?;
            }
            if computed {
                self.mark_empty(window, before, after)?;
            }
        }
        Ok(())
    }

    /// Goes from row to row, so that a span of years without rows costs nothing.
    fn finalise_with_rows(&self, window: Window, before: Timestamp, after: Timestamp) -> Result<(), rusqlite::Error> {
        let mut next = self.transaction.prepare_cached("SELECT min(start) FROM rollup WHERE start >= ?")?;
        // Rows before `oldest` may be there still; a window that they are a part of is looked at for the rest of it.
        let mut cursor = window.bounds(before, &self.options.zone).0.max(self.oldest);
        while let Some(row) = next.query_row([cursor.as_millis()], |row| row.get::<_, Option<i64>>(0))? {
            let (start, end) = window.bounds(Timestamp::from_millis(row), &self.options.zone);
            if end > after {
                break;
            }
            if start >= self.oldest {
                if self.fed(window) {
                    self.feed_all(window, start, end)?;
                }
                if self.computed(window) {
                    self.mark(window, start)?;
                }
            } else {
                self.note_untold(window, start, end)?;
            }
            cursor = end;
        }
        Ok(())
    }

    /// Counts a window that became final when its beginning was gone.
    fn note_untold(&self, window: Window, start: WindowStart, end: Timestamp) -> Result<(), rusqlite::Error> {
        let (mut rows, mut windows) = self.untold.get();
        if self.fed(window) {
            rows += self
                .transaction
                .prepare_cached(
                    "SELECT count(*) FROM device WHERE EXISTS (SELECT 1 FROM rollup INDEXED BY rollup_by_device
                       WHERE rollup.device = device.id AND rollup.start >= ? AND rollup.start < ?)",
                )?
                .query_row(params![start.as_millis(), end.as_millis()], |row| count_at(row, 0))?;
        }
        windows += u64::from(self.computed(window));
        self.untold.set((rows, windows));
        Ok(())
    }

    fn mark_empty(&self, window: Window, before: Timestamp, after: Timestamp) -> Result<(), rusqlite::Error> {
        let from = before.max(after.plus_millis(-EMPTY_MARKED_MS));
        let (mut start, mut end) = window.bounds(from, &self.options.zone);
        while end <= after {
            if start >= self.oldest {
                self.mark(window, start)?;
            }
            (start, end) = window.bounds(end, &self.options.zone);
        }
        Ok(())
    }
}

/// Rows that a flush changed after their window was final.
pub(super) struct Amended {
    /// Windows that ended here or before were final when the flush began.
    pub(super) final_until: Timestamp,
    rows: HashSet<(WindowStart, DeviceId)>,
    /// Rows of devices with counters, for the steps into the rows after them.
    with_counters: BTreeMap<DeviceId, BTreeSet<WindowStart>>,
}

impl Amended {
    pub(super) fn new(final_until: Timestamp) -> Self {
        Self { final_until, rows: HashSet::new(), with_counters: BTreeMap::new() }
    }

    pub(super) fn is_final(&self, start: WindowStart) -> bool {
        start.plus_millis(BASE_WINDOW_MS) <= self.final_until
    }

    /// Notes a row that was written.
    pub(super) fn add(&mut self, start: WindowStart, device: DeviceId, has_counters: bool) {
        self.rows.insert((start, device));
        if has_counters {
            self.with_counters.entry(device).or_default().insert(start);
        }
    }

    /// Amends the rows whose counters rose from a changed row: the step into a row belongs to it.
    pub(super) fn amend_successors(&mut self, transaction: &Transaction<'_>) -> Result<(), rusqlite::Error> {
        for (device, changed) in std::mem::take(&mut self.with_counters) {
            for successor in successors(transaction, device, &changed)? {
                if self.is_final(successor) && self.rows.insert((successor, device)) {
                    transaction
                        .prepare_cached("UPDATE rollup SET amendments = amendments + 1 WHERE start = ? AND device = ?")?
                        .execute(params![successor.as_millis(), device.0])?;
                }
            }
        }
        Ok(())
    }

    /// Notes every final window that holds an amended row, each once.
    pub(super) fn write(&self, feeder: &Feeder<'_>) -> Result<(), rusqlite::Error> {
        let mut changes = BTreeSet::new();
        let mut stale = BTreeSet::new();
        for &(start, device) in &self.rows {
            for window in Window::ALL {
                let (fed, computed) = (feeder.fed(window), feeder.computed(window));
                if !fed && !computed {
                    continue;
                }
                let (window_start, end) = window.bounds(start, &feeder.options.zone);
                if end > self.final_until || window_start < feeder.oldest {
                    continue;
                }
                if fed {
                    changes.insert((window, window_start, device));
                }
                if computed {
                    stale.insert((window, window_start));
                }
            }
        }
        for (window, start, device) in changes {
            feeder.feed(window, start, device)?;
        }
        for (window, start) in stale {
            feeder.mark(window, start)?;
        }
        Ok(())
    }
}

/// Rows of `device` that hold the next reading of a metric after one of the `changed` rows.
///
/// One walk along the device's rows: it takes up the metrics of every changed row it passes, and jumps to the next
/// changed row when each of them was met again, or was not for as many rows as a reader looks back.
fn successors(
    transaction: &Transaction<'_>,
    device: DeviceId,
    changed: &BTreeSet<WindowStart>,
) -> Result<Vec<WindowStart>, rusqlite::Error> {
    let mut statement = transaction.prepare_cached(
        "SELECT start, data FROM rollup INDEXED BY rollup_by_device WHERE device = ? AND start >= ? ORDER BY start",
    )?;
    let mut found = Vec::new();
    let mut next = changed.first().copied();
    while let Some(from) = next {
        let mut waiting: HashSet<MetricId> = HashSet::new();
        let mut walked = 0;
        next = None;
        let mut rows = statement.query(params![device.0, from.as_millis()])?;
        while let Some(row) = rows.next()? {
            let start = time_at(row, 0)?;
            let is_changed = changed.contains(&start);
            if start > from && !is_changed && (waiting.is_empty() || walked > STEP_ROWS_MAX) {
                next = changed.range(start..).next().copied();
                break;
            }
            walked = if is_changed { 0 } else { walked + 1 };
            let Ok(base) = BaseRow::unpack(start, row.get_ref(1)?.as_blob()?) else { continue };
            let mut met = false;
            for metric in &base.metrics {
                met |= waiting.remove(&metric.metric);
            }
            if is_changed {
                waiting.extend(base.metrics.iter().map(|metric| metric.metric));
            } else if met {
                found.push(start);
            }
        }
    }
    Ok(found)
}
