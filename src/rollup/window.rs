//! One device's base window while readings come in: aggregates per metric and the set of event times applied.
//!
//! A city's windows are found in random order, so what a message touches lies together: the series of a window in one
//! block, and the checks of one event time in one stretch of another.

use std::sync::Arc;

use super::{Aggregate, Sum};
use crate::model::{BASE_WINDOW_MS, MetricId, Timestamp, WindowStart};

/// Event times that a window has room for at first; a device that speaks more often makes it grow.
const TIMES_AT_FIRST: usize = 6;

/// What became of a reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is new and now part of the row.
    Applied,
    /// The same value of the same metric at the same event time is in the row already.
    Duplicate,
    /// The row holds another value of that metric at that event time; the first one recorded stays.
    Conflicting,
}

/// One device's base window.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceWindow {
    /// Start of the window.
    pub start: WindowStart,
    /// Milliseconds between the device's readings as declared when the row was last written; `None` where unknown.
    pub interval_ms: Option<u32>,
    /// Messages whose readings were applied after the window was final.
    pub late: u32,
    metrics: Arc<Vec<MetricId>>,
    /// One for each of `metrics`.
    series: Vec<Series>,
    seen: Seen,
}

/// The aggregate of one metric, with event times as milliseconds from the window's start.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Series {
    pub(super) sum: Sum,
    pub(super) min: f64,
    pub(super) max: f64,
    pub(super) first: f64,
    pub(super) last: f64,
    pub(super) first_at: u16,
    pub(super) last_at: u16,
    /// Number of readings; 0 where there is none, and then the rest means nothing.
    pub(super) count: u16,
}

impl Series {
    fn of(aggregate: &Aggregate, start: WindowStart) -> Self {
        Self {
            sum: aggregate.sum,
            min: aggregate.min,
            max: aggregate.max,
            first: aggregate.first.value,
            last: aggregate.last.value,
            first_at: offset_in(start, aggregate.first.time),
            last_at: offset_in(start, aggregate.last.time),
            count: u16::try_from(aggregate.count).expect("invariant: a base window has fewer instants"),
        }
    }

    fn add(&mut self, offset: u16, value: f64) {
        self.sum.add(value);
        if self.count == 0 {
            (self.min, self.max, self.first, self.last) = (value, value, value, value);
            (self.first_at, self.last_at) = (offset, offset);
        }
        self.count += 1;
        self.min = self.min.min(value);
        self.max = self.max.max(value);
        if offset < self.first_at {
            (self.first, self.first_at) = (value, offset);
        }
        if offset > self.last_at {
            (self.last, self.last_at) = (value, offset);
        }
    }
}

impl DeviceWindow {
    /// An empty window for a device with these metrics.
    #[must_use]
    pub fn new(start: WindowStart, interval_ms: Option<u32>, metrics: Arc<Vec<MetricId>>) -> Self {
        let width = metrics.len();
        let series = vec![Series::default(); width];
        Self { start, interval_ms, late: 0, metrics, series, seen: Seen::new(width) }
    }

    /// Merges one reading. `slot` is where the device's profile lists the metric, which is where the window has it too
    /// unless the profile has changed since; `time` must lie inside the window.
    #[inline]
    pub fn apply(&mut self, slot: usize, metric: MetricId, time: Timestamp, value: f64) -> Outcome {
        let offset = offset_in(self.start, time);
        // One zero only, so that -0 and 0 are the same reading.
        let value = value + 0.0;
        let column = self.column(slot, metric);
        let outcome = self.seen.insert(offset, column, check_of(value));
        if outcome == Outcome::Applied {
            self.series[column].add(offset, value);
        }
        outcome
    }

    #[inline]
    fn column(&mut self, slot: usize, metric: MetricId) -> usize {
        if self.metrics.get(slot) == Some(&metric) { slot } else { self.column_elsewhere(metric) }
    }

    #[cold]
    fn column_elsewhere(&mut self, metric: MetricId) -> usize {
        if let Some(column) = self.metrics.iter().position(|&known| known == metric) {
            return column;
        }
        Arc::make_mut(&mut self.metrics).push(metric);
        self.series.push(Series::default());
        self.seen.widen(self.metrics.len());
        self.metrics.len() - 1
    }

    /// Metrics that have readings: their id, series and column in the set of event times.
    pub(super) fn present(&self) -> impl Iterator<Item = (MetricId, &Series, usize)> {
        let series = self.metrics.iter().zip(&self.series).enumerate();
        series.filter(|(_, (_, series))| series.count > 0).map(|(column, (&metric, series))| (metric, series, column))
    }

    pub(super) fn seen(&self) -> &Seen {
        &self.seen
    }

    /// Puts back what the packed form held.
    pub(super) fn restore(&mut self, metric: MetricId, aggregate: &Aggregate, checks: &[(u16, u16)]) {
        let column = self.column(usize::MAX, metric);
        self.series[column] = Series::of(aggregate, self.start);
        for &(offset, check) in checks {
            self.seen.insert(offset, column, check);
        }
    }

    /// Looks at what the next reading will touch; what it gives means nothing.
    #[must_use]
    pub fn look(&self) -> usize {
        let counts: usize = self.series.iter().map(|series| usize::from(series.count)).sum();
        counts + usize::from(self.seen.look())
    }

    /// Bytes of memory the window takes, near enough for a bound.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>() + self.series.capacity() * size_of::<Series>() + self.seen.cells.capacity() * size_of::<u16>()
    }
}

fn offset_in(start: WindowStart, time: Timestamp) -> u16 {
    let offset = time.millis_since(start);
    debug_assert!((0..BASE_WINDOW_MS).contains(&offset), "a reading outside its window");
    u16::try_from(offset.clamp(0, BASE_WINDOW_MS - 1)).expect("invariant: a base window's offsets fit 16 bits")
}

/// Sixteen bits of a value, never 0, to tell a repeat from a conflict. Two values that differ share them once in 65,535.
pub(super) fn check_of(value: f64) -> u16 {
    let mixed = value.to_bits().wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let folded = (mixed >> 48) ^ (mixed >> 32) ^ (mixed >> 16);
    u16::try_from(folded & 0xFFFF).expect("invariant: masked to 16 bits").max(1)
}

/// The event times applied, and per time and metric a check of the value; 0 where the metric had none.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    /// Rows in ascending order of time, each the milliseconds from the window's start and `width` checks; zeros beyond
    /// them, where the next ones go.
    cells: Vec<u16>,
    rows: usize,
    width: usize,
}

impl Seen {
    fn new(width: usize) -> Self {
        Self { cells: Vec::new(), rows: 0, width }
    }

    #[inline]
    fn insert(&mut self, offset: u16, column: usize, check: u16) -> Outcome {
        let last = self.rows.wrapping_sub(1).wrapping_mul(self.width + 1);
        let row = if self.cells.get(last) == Some(&offset) && self.rows > 0 { last } else { self.find_or_make(offset) };
        let cell = &mut self.cells[row + 1 + column];
        match *cell {
            0 => {
                *cell = check;
                Outcome::Applied
            }
            known if known == check => Outcome::Duplicate,
            _ => Outcome::Conflicting,
        }
    }

    /// Where the row of `offset` begins, which is made where there is none.
    fn find_or_make(&mut self, offset: u16) -> usize {
        let stride = self.width + 1;
        let (mut low, mut high) = (0, self.rows);
        // Mostly it is later than all the others.
        if high > 0 && self.cells[(high - 1) * stride] < offset {
            low = high;
        }
        while low < high {
            let middle = usize::midpoint(low, high);
            if self.cells[middle * stride] < offset { low = middle + 1 } else { high = middle }
        }
        let (row, end) = (low * stride, self.rows * stride);
        if low < self.rows && self.cells[row] == offset {
            return row;
        }
        if self.cells.len() == end {
            // By half, since a city's windows mostly are of one length: doubling would leave much of it empty.
            let more = (self.rows / 2).max(TIMES_AT_FIRST) * stride;
            self.cells.reserve_exact(more);
            self.cells.resize(end + more, 0);
        }
        self.cells.copy_within(row..end, row + stride);
        self.cells[row..row + stride].fill(0);
        self.cells[row] = offset;
        self.rows += 1;
        row
    }

    fn widen(&mut self, width: usize) {
        let mut cells = Vec::with_capacity(self.rows * (width + 1));
        for row in self.used() {
            let end = cells.len() + width + 1;
            cells.extend_from_slice(row);
            cells.resize(end, 0);
        }
        (self.cells, self.width) = (cells, width);
    }

    fn used(&self) -> impl Iterator<Item = &[u16]> {
        let stride = self.width + 1;
        self.cells[..self.rows * stride].chunks_exact(stride)
    }

    /// Looks at where the next row goes.
    fn look(&self) -> u16 {
        let stride = self.width + 1;
        let next = self.cells.get(self.rows * stride).copied().unwrap_or(0);
        next | self.cells.get(self.rows * stride + self.width).copied().unwrap_or(0)
    }

    /// Number of event times.
    pub(super) fn len(&self) -> usize {
        self.rows
    }

    /// Milliseconds from the window's start, ascending.
    pub(super) fn times(&self) -> impl Iterator<Item = u16> {
        self.used().map(|row| row[0])
    }

    /// The checks of one metric, one per event time; 0 where it had no reading.
    pub(super) fn checks_of(&self, column: usize) -> impl Iterator<Item = u16> {
        self.used().map(move |row| row[1 + column])
    }
}

/// Two sets are equal when they hold the same readings, however wide their rows are.
impl PartialEq for Seen {
    fn eq(&self, other: &Self) -> bool {
        let width = self.width.max(other.width);
        let (mut a, mut b) = (self.clone(), other.clone());
        a.widen(width);
        b.widen(width);
        a.cells == b.cells
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window() -> DeviceWindow {
        let metrics = Arc::new(vec![MetricId(7), MetricId(3)]);
        DeviceWindow::new(Timestamp::from_millis(60_000), Some(10_000), metrics)
    }

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millis(60_000 + ms)
    }

    #[test]
    fn a_repeat_is_a_duplicate_and_another_value_a_conflict() {
        let mut window = window();
        assert_eq!(window.apply(0, MetricId(7), at(5), 1.5), Outcome::Applied);
        assert_eq!(window.apply(0, MetricId(7), at(5), 1.5), Outcome::Duplicate);
        assert_eq!(window.apply(0, MetricId(7), at(5), 2.5), Outcome::Conflicting);
        let (_, series, _) = window.present().next().expect("a metric");
        assert_eq!((series.count, series.last), (1, 1.5));
    }

    #[test]
    fn two_metrics_of_one_time_that_come_apart_are_both_applied() {
        let mut window = window();
        assert_eq!(window.apply(0, MetricId(7), at(5), 1.5), Outcome::Applied);
        assert_eq!(window.apply(1, MetricId(3), at(5), 1.5), Outcome::Applied);
    }

    #[test]
    fn minus_zero_repeats_zero() {
        let mut window = window();
        assert_eq!(window.apply(0, MetricId(7), at(5), 0.0), Outcome::Applied);
        assert_eq!(window.apply(0, MetricId(7), at(5), -0.0), Outcome::Duplicate);
    }

    #[test]
    fn a_metric_that_the_profile_gained_keeps_the_others_apart() {
        let mut window = window();
        assert_eq!(window.apply(0, MetricId(7), at(9), 1.0), Outcome::Applied);
        assert_eq!(window.apply(2, MetricId(9), at(5), 4.0), Outcome::Applied);
        assert_eq!(window.apply(2, MetricId(9), at(5), 4.0), Outcome::Duplicate);
        assert_eq!(window.apply(0, MetricId(7), at(9), 1.0), Outcome::Duplicate);
        assert_eq!(window.present().count(), 2);
    }
}
