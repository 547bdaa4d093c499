//! One device's base window while readings come in: aggregates per metric and the set of event times applied.

use std::sync::Arc;

use super::{Aggregate, Point};
use crate::model::{BASE_WINDOW_MS, MetricId, Timestamp, WindowStart};

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
    aggregates: Vec<Option<Aggregate>>,
    seen: Seen,
}

impl DeviceWindow {
    /// An empty window for a device with these metrics.
    #[must_use]
    pub fn new(start: WindowStart, interval_ms: Option<u32>, metrics: Arc<Vec<MetricId>>) -> Self {
        let width = metrics.len();
        Self { start, interval_ms, late: 0, metrics, aggregates: vec![None; width], seen: Seen::new(width) }
    }

    /// Merges one reading. `slot` is where the device's profile lists the metric, which is where the window has it too
    /// unless the profile has changed since; `time` must lie inside the window.
    pub fn apply(&mut self, slot: usize, metric: MetricId, time: Timestamp, value: f64) -> Outcome {
        let offset = offset_in(self.start, time);
        // One zero only, so that -0 and 0 are the same reading.
        let value = value + 0.0;
        let column = self.column(slot, metric);
        let outcome = self.seen.insert(offset, column, check_of(value));
        if outcome == Outcome::Applied {
            let point = Point { time, value };
            match &mut self.aggregates[column] {
                Some(aggregate) => aggregate.add(point),
                empty => *empty = Some(Aggregate::of(point)),
            }
        }
        outcome
    }

    fn column(&mut self, slot: usize, metric: MetricId) -> usize {
        if self.metrics.get(slot) == Some(&metric) {
            return slot;
        }
        if let Some(column) = self.metrics.iter().position(|&known| known == metric) {
            return column;
        }
        Arc::make_mut(&mut self.metrics).push(metric);
        self.aggregates.push(None);
        self.seen.widen(self.metrics.len());
        self.metrics.len() - 1
    }

    /// Metrics that have readings: their id, aggregate and column in the set of event times.
    pub(super) fn present(&self) -> impl Iterator<Item = (MetricId, &Aggregate, usize)> {
        self.metrics
            .iter()
            .zip(&self.aggregates)
            .enumerate()
            .filter_map(|(column, (&metric, aggregate))| aggregate.as_ref().map(|a| (metric, a, column)))
    }

    pub(super) fn seen(&self) -> &Seen {
        &self.seen
    }

    /// Puts back what the packed form held.
    pub(super) fn restore(&mut self, metric: MetricId, aggregate: Aggregate, checks: &[(u16, u16)]) {
        let column = self.column(usize::MAX, metric);
        self.aggregates[column] = Some(aggregate);
        for &(offset, check) in checks {
            self.seen.insert(offset, column, check);
        }
    }

    /// Bytes of memory the window takes, near enough for a bound.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>()
            + self.aggregates.capacity() * size_of::<Option<Aggregate>>()
            + (self.seen.times.capacity() + self.seen.checks.capacity()) * size_of::<u16>()
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
    /// Milliseconds from the window's start, ascending.
    times: Vec<u16>,
    /// Row-major: `times.len()` rows of `width` checks.
    checks: Vec<u16>,
    width: usize,
}

impl Seen {
    fn new(width: usize) -> Self {
        Self { times: Vec::new(), checks: Vec::new(), width }
    }

    fn insert(&mut self, offset: u16, column: usize, check: u16) -> Outcome {
        let row = match self.times.last() {
            Some(&last) if last == offset => self.times.len() - 1,
            Some(&last) if last > offset => match self.times.binary_search(&offset) {
                Ok(row) => row,
                Err(row) => {
                    self.times.insert(row, offset);
                    let at = row * self.width;
                    self.checks.splice(at..at, std::iter::repeat_n(0, self.width));
                    row
                }
            },
            _ => {
                self.times.push(offset);
                self.checks.resize(self.times.len() * self.width, 0);
                self.times.len() - 1
            }
        };
        let cell = &mut self.checks[row * self.width + column];
        match *cell {
            0 => {
                *cell = check;
                Outcome::Applied
            }
            known if known == check => Outcome::Duplicate,
            _ => Outcome::Conflicting,
        }
    }

    fn widen(&mut self, width: usize) {
        let mut checks = Vec::with_capacity(self.times.len() * width);
        for row in 0..self.times.len() {
            checks.extend_from_slice(&self.checks[row * self.width..(row + 1) * self.width]);
            checks.resize((row + 1) * width, 0);
        }
        self.checks = checks;
        self.width = width;
    }

    pub(super) fn times(&self) -> &[u16] {
        &self.times
    }

    /// The checks of one metric, one per event time; 0 where it had no reading.
    pub(super) fn checks_of(&self, column: usize) -> impl Iterator<Item = u16> {
        self.checks.iter().skip(column).step_by(self.width.max(1)).copied()
    }
}

/// Two sets are equal when they hold the same readings, however wide their rows are.
impl PartialEq for Seen {
    fn eq(&self, other: &Self) -> bool {
        let width = self.width.max(other.width);
        let (mut a, mut b) = (self.clone(), other.clone());
        a.widen(width);
        b.widen(width);
        a.times == b.times && a.checks == b.checks
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
        let (_, aggregate, _) = window.present().next().expect("a metric");
        assert_eq!((aggregate.count, aggregate.last.value), (1, 1.5));
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
