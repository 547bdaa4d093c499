//! What becomes final, and what is amended after it was: entries for sinks and marks for the indicator worker.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, HashSet};

use rusqlite::{Connection, Transaction, params};

use super::WriterOptions;
use super::heard::Heard;
use super::schema::{StateKey, to_sql};
use super::walk::{GROUP_DEVICES, Walk, known_devices, successors};
use crate::clock::CLOCK_SET_FROM;
use crate::model::{BASE_WINDOW_MS, DeviceId, Timestamp, Window, WindowStart};

/// Span before the newest final window in which windows without a single row are marked for the indicator worker, ms.
/// Further back (a downtime of weeks, a first start with the clock in 1970) only windows with rows are.
const EMPTY_MARKED_MS: i64 = 48 * 3_600_000;

/// Longest gap between the clock and the rows ahead of it, and between those, that is no sign of a clock that ran ahead
/// while they were made, ms.
const ROWS_GAP_MS_MAX: i64 = 24 * 3_600_000;

/// What is final: every window that ends at `until` or before, and those that a clock that ran ahead made final early.
///
/// When the clock falls back, `until` falls back too, to the end of the newest row that was final. Windows that had
/// begun by then stay final and are amended by what comes for them; others are final when their own time comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finality {
    /// Windows that end here or before are final.
    pub until: Timestamp,
    /// Windows that begin before the first instant and end at the second or before are final as well.
    early: Option<(Timestamp, Timestamp)>,
}

impl Finality {
    pub(super) const fn new(until: Timestamp) -> Self {
        Self { until, early: None }
    }

    /// Whether the window from `start` to `end` is final.
    #[must_use]
    pub fn holds(&self, start: WindowStart, end: Timestamp) -> bool {
        end <= self.until || self.is_early(start, end)
    }

    fn is_early(&self, start: WindowStart, end: Timestamp) -> bool {
        self.early.is_some_and(|(before, until)| start < before && end <= until)
    }

    pub(super) fn read(connection: &Connection) -> Result<Option<Self>, rusqlite::Error> {
        let read = |key: StateKey| Ok::<_, rusqlite::Error>(key.read(connection)?.map(Timestamp::from_millis));
        let early = read(StateKey::EarlyBefore)?.zip(read(StateKey::EarlyUntil)?);
        Ok(read(StateKey::FinalUntil)?.map(|until| Self { until, early }))
    }

    pub(super) fn write(&self, connection: &Connection) -> Result<(), rusqlite::Error> {
        StateKey::FinalUntil.write(connection, self.until.as_millis())?;
        let Some((before, until)) = self.early else { return Ok(()) };
        StateKey::EarlyBefore.write(connection, before.as_millis())?;
        StateKey::EarlyUntil.write(connection, until.as_millis())
    }

    /// What is final once base windows are final that end at `final_now` or before.
    pub(super) fn follow_on(self, final_now: Timestamp) -> Self {
        Self { until: self.until.max(final_now), ..self }
    }

    /// What is final where the clock makes `final_now` the end of the newest final base window.
    ///
    /// # Errors
    /// What SQLite says.
    pub(super) fn follow_back(self, connection: &Connection, final_now: Timestamp) -> Result<Self, rusqlite::Error> {
        if final_now >= self.until || final_now < CLOCK_SET_FROM {
            return Ok(self);
        }
        let rows_end = rows_end(connection, final_now, self.until)?.unwrap_or(final_now);
        let until = rows_end.max(final_now).min(self.until);
        let mut early = (rows_end.min(self.until), self.until);
        if let Some(before) = self.early {
            early = (early.0.max(before.0), early.1.max(before.1));
        }
        Ok(if until < self.until { Self { until, early: Some(early) } } else { self })
    }
}

/// End of the newest row that a clock that shows `now` may have seen, before `until`: the rows around `now` and those
/// that follow them without a long gap.
fn rows_end(connection: &Connection, now: Timestamp, until: Timestamp) -> Result<Option<Timestamp>, rusqlite::Error> {
    let mut walk = Walk::new(connection)?;
    let mut from = now;
    loop {
        let start = walk.start_before(from.plus_millis(ROWS_GAP_MS_MAX).min(until))?;
        let found = start.map(|start| start.plus_millis(BASE_WINDOW_MS));
        match found {
            Some(end) if end > from => from = end,
            _ => return Ok(found),
        }
    }
}

/// Writes entries for sinks and marks for the indicator worker, in a flush's transaction.
pub(super) struct Feeder<'a> {
    pub(super) transaction: &'a Transaction<'a>,
    pub(super) options: &'a WriterOptions,
    /// Number of the flush.
    pub(super) generation: u64,
    /// Devices whose rows were noted when they were written.
    pub(super) heard: &'a Heard,
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
        if window == Window::Minute1 {
            return self.feed_rows(window, start, (start, end));
        }
        for device in self.heard_in(window, (start, end))? {
            self.feed(window, start, device)?;
        }
        Ok(())
    }

    /// The devices that have rows in a longer window. Its rows are far more than the devices, so of those that were not
    /// noted when they were written one row each is looked for.
    fn heard_in(&self, window: Window, span: (WindowStart, Timestamp)) -> Result<Vec<DeviceId>, rusqlite::Error> {
        let devices = known_devices(self.transaction)?;
        let (noted, unknown): (Vec<_>, Vec<_>) =
            devices.into_iter().partition(|device| self.heard.holds(window, span.0, *device));
        let mut heard = self.look_for(&unknown, (span.0, span.1.min(self.heard.complete_from())))?;
        heard.extend(noted);
        heard.sort_unstable();
        Ok(heard)
    }

    /// Those of `devices` that have rows in a span: most have one at its first start.
    fn look_for(&self, devices: &[DeviceId], span: (Timestamp, Timestamp)) -> Result<Vec<DeviceId>, rusqlite::Error> {
        let mut walk = Walk::new(self.transaction)?;
        let starts = walk.starts(span)?;
        walk.heard(&starts, devices)
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

    /// Notes every window that became final since `before`, up to the instant `after`.
    pub(super) fn finalise(&self, before: Finality, after: Timestamp) -> Result<(), rusqlite::Error> {
        self.amend_early(before, after)?;
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

    /// Amends the longer windows that were made final early, by the base windows in them that become final only now.
    fn amend_early(&self, before: Finality, after: Timestamp) -> Result<(), rusqlite::Error> {
        let Some((_, early_until)) = before.early else { return Ok(()) };
        let mut walk = Walk::new(self.transaction)?;
        let end = after.min(early_until);
        let mut cursor = before.until.max(self.oldest);
        while let Some(start) = walk.start_from(cursor)?.filter(|start| *start < end) {
            cursor = start.plus_millis(BASE_WINDOW_MS);
            let longer =
                Window::ALL.into_iter().skip(1).map(|window| (window, window.bounds(start, &self.options.zone)));
            let early: Vec<_> = longer.filter(|(_, (start, end))| before.is_early(*start, *end)).collect();
            if early.is_empty() {
                continue;
            }
            self.transaction
                .prepare_cached("UPDATE rollup SET amendments = amendments + 1 WHERE start = ?")?
                .execute([start.as_millis()])?;
            for (window, (window_start, _)) in early {
                if self.fed(window) {
                    self.feed_rows(window, window_start, (start, cursor))?;
                }
                if self.computed(window) {
                    self.mark(window, window_start)?;
                }
            }
        }
        Ok(())
    }

    /// Notes a window of every device that has rows in a span of it.
    fn feed_rows(
        &self,
        window: Window,
        start: WindowStart,
        (from, to): (Timestamp, Timestamp),
    ) -> Result<(), rusqlite::Error> {
        let sql = "INSERT OR REPLACE INTO change(window, start, device)
                   SELECT DISTINCT ?1, ?2, device FROM rollup WHERE start >= ?3 AND start < ?4 ORDER BY device";
        self.transaction
            .prepare_cached(sql)?
            .execute(params![window.code(), start.as_millis(), from.as_millis(), to.as_millis()])
            .map(|_| ())
    }

    /// Goes from row to row, so that a span of years without rows costs nothing.
    fn finalise_with_rows(&self, window: Window, before: Finality, after: Timestamp) -> Result<(), rusqlite::Error> {
        let mut walk = Walk::new(self.transaction)?;
        // Rows before `oldest` may be there still; a window that they are a part of is looked at for the rest of it.
        let mut cursor = window.bounds(before.until, &self.options.zone).0.max(self.oldest);
        while let Some(row) = walk.start_from(cursor)? {
            let (start, end) = window.bounds(row, &self.options.zone);
            if end > after {
                break;
            }
            if before.is_early(start, end) {
                // It is final, and told.
            } else if start < self.oldest {
                self.note_untold(window, start, end)?;
            } else {
                if self.fed(window) {
                    self.feed_all(window, start, end)?;
                }
                if self.computed(window) {
                    self.mark(window, start)?;
                }
            }
            cursor = end;
        }
        Ok(())
    }

    /// Counts a window that became final when its beginning was gone.
    fn note_untold(&self, window: Window, start: WindowStart, end: Timestamp) -> Result<(), rusqlite::Error> {
        let (mut rows, mut windows) = self.untold.get();
        if self.fed(window) {
            rows += self.look_for(&known_devices(self.transaction)?, (start, end))?.len() as u64;
        }
        windows += u64::from(self.computed(window));
        self.untold.set((rows, windows));
        Ok(())
    }

    fn mark_empty(&self, window: Window, before: Finality, after: Timestamp) -> Result<(), rusqlite::Error> {
        let from = before.until.max(after.plus_millis(-EMPTY_MARKED_MS));
        let (mut start, mut end) = window.bounds(from, &self.options.zone);
        while end <= after {
            if start >= self.oldest && !before.is_early(start, end) {
                self.mark(window, start)?;
            }
            (start, end) = window.bounds(end, &self.options.zone);
        }
        Ok(())
    }
}

/// Rows that a flush changed after their window was final.
pub(super) struct Amended {
    /// What was final when the flush began.
    finality: Finality,
    rows: HashSet<(WindowStart, DeviceId)>,
    /// Rows of devices with counters, for the steps into the rows after them.
    with_counters: BTreeMap<DeviceId, BTreeSet<WindowStart>>,
}

impl Amended {
    pub(super) fn new(finality: Finality) -> Self {
        Self { finality, rows: HashSet::new(), with_counters: BTreeMap::new() }
    }

    pub(super) fn is_final(&self, start: WindowStart) -> bool {
        self.finality.holds(start, start.plus_millis(BASE_WINDOW_MS))
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
        let changed = std::mem::take(&mut self.with_counters);
        let changed: Vec<_> =
            changed.into_iter().map(|(device, starts)| (device, starts.into_iter().collect())).collect();
        let mut walk = Walk::new(transaction)?;
        let mut amend = transaction
            .prepare_cached("UPDATE rollup SET amendments = amendments + 1 WHERE start = ? AND device = ?")?;
        for group in changed.chunks(GROUP_DEVICES) {
            for (successor, device) in successors(&mut walk, group)? {
                if self.is_final(successor) && self.rows.insert((successor, device)) {
                    amend.execute(params![successor.as_millis(), device.0])?;
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
                if !self.finality.holds(window_start, end) || window_start < feeder.oldest {
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
