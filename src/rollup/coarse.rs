//! Base rows of a series folded into one row of a coarser window.

use super::{Aggregate, BaseMetric, BaseRow, Point, increase_within, step};
use crate::inventory::MetricDef;
use crate::model::{MetricKind, Timestamp, WindowStart};

/// What a series came to in a window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Combined {
    /// Readings of the window.
    pub aggregate: Aggregate,
    /// Counters: rise over the window, with the step from the last value before it. `None` for other kinds.
    pub increase: Option<f64>,
    /// Slots of the device's interval that were heard.
    pub heard: u64,
    /// Slots that were due; `None` where the device's interval is unknown.
    pub expected: Option<u64>,
    /// Messages that were applied after their base window was final.
    pub late: u64,
    /// Times a base row was written after it was final.
    pub amendments: u64,
    /// Base windows that have readings.
    pub minutes: u64,
    /// Base windows whose mean lies in the metric's band.
    pub minutes_in_band: u64,
}

impl Combined {
    /// Heard slots per slot due, 0 to 1; `None` where it is not known what was due.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "slot counts stay far below 2^53")]
    pub fn completeness(&self) -> Option<f64> {
        match self.expected? {
            // A reading in a window where none was due (an hourly one, on its minute) is all that could be had.
            0 => Some(1.0),
            expected => Some(self.heard.min(expected) as f64 / expected as f64),
        }
    }
}

/// Slots of an interval that start in `[from, to)`: multiples of the interval since the epoch.
#[must_use]
pub fn expected_slots(from: Timestamp, to: Timestamp, interval_ms: u32) -> u64 {
    let interval = i64::from(interval_ms.max(1));
    let before = |at: Timestamp| at.as_millis().saturating_add(interval - 1).div_euclid(interval);
    u64::try_from(before(to) - before(from)).unwrap_or(0)
}

/// Folds the base rows of one series, in order of their start, into one window.
#[derive(Clone, Debug)]
pub struct Fold {
    kind: MetricKind,
    wrap: Option<f64>,
    band: Option<(f64, f64)>,
    /// Last reading before the window, for the step into it.
    before: Option<Point>,
    /// Latest reading in it, for the step into the next row.
    previous: Option<Point>,
    last_slot: Option<i64>,
    /// The interval that the first row with one was written under.
    interval_ms: Option<u32>,
    /// Others that came after it, each with the first row that has it.
    changes: Vec<(WindowStart, u32)>,
    combined: Option<Combined>,
}

impl Fold {
    /// A fold for series of `metric`; `previous` is the series' last reading before the window, where there is one.
    #[must_use]
    pub fn new(metric: &MetricDef, previous: Option<Point>) -> Self {
        Self {
            kind: metric.kind,
            wrap: metric.wrap,
            band: metric.band.map(|band| (band.low, band.high)),
            before: previous,
            previous: None,
            last_slot: None,
            interval_ms: None,
            changes: Vec::new(),
            combined: None,
        }
    }

    /// Whether the series has an increase, to which the step from the last reading before the window belongs.
    pub(crate) fn is_counter(&self) -> bool {
        self.kind == MetricKind::Counter
    }

    /// Says what the series' last reading before the window was, which need not be known before it is finished.
    pub(crate) fn follow(&mut self, previous: Point) {
        self.before = Some(previous);
    }

    /// Takes in the next base row of the series; `amendments` is how often it was written after it was final.
    pub fn add(&mut self, row: &BaseRow, metric: &BaseMetric, amendments: u64) {
        let aggregate = &metric.aggregate;
        let increase = (self.kind == MetricKind::Counter).then(|| {
            let step = self.previous.map_or(0.0, |p| step(p.value, aggregate.first.value, self.wrap));
            step + increase_within(aggregate, self.wrap)
        });
        let heard = u64::from(metric.heard) - self.shared_slot(row, aggregate);
        let mean = aggregate.mean();
        let in_band = self.band.is_some_and(|(low, high)| (low..=high).contains(&mean));
        let row_facts = Combined {
            aggregate: *aggregate,
            increase,
            heard,
            expected: None,
            late: u64::from(row.late),
            amendments,
            minutes: 1,
            minutes_in_band: u64::from(in_band),
        };
        match &mut self.combined {
            None => self.combined = Some(row_facts),
            Some(combined) => {
                combined.aggregate.merge(aggregate);
                combined.increase = combined.increase.zip(increase).map(|(a, b)| a + b);
                combined.heard += row_facts.heard;
                combined.late += row_facts.late;
                combined.amendments += row_facts.amendments;
                combined.minutes += row_facts.minutes;
                combined.minutes_in_band += row_facts.minutes_in_band;
            }
        }
        self.previous = Some(aggregate.last);
        if let Some(interval) = row.interval_ms
            && self.changes.last().map(|&(_, last)| last).or(self.interval_ms) != Some(interval)
        {
            match self.interval_ms {
                None => self.interval_ms = Some(interval),
                Some(_) => self.changes.push((row.start, interval)),
            }
        }
    }

    /// 1 where the row's first reading lies in the slot of the reading before it, which was counted there.
    fn shared_slot(&mut self, row: &BaseRow, aggregate: &Aggregate) -> u64 {
        let Some(interval) = row.interval_ms.map(i64::from) else { return 0 };
        let slot_of = |at: Timestamp| at.as_millis().div_euclid(interval);
        let shared = self.last_slot == Some(slot_of(aggregate.first.time));
        self.last_slot = Some(slot_of(aggregate.last.time));
        u64::from(shared)
    }

    /// The window's row, or `None` where no base row was taken in. `from` to `to` is the part of the window in which
    /// readings were due: cut to the site's service and, while the window is open, to now.
    #[must_use]
    pub fn finish(self, from: Timestamp, to: Timestamp) -> Option<Combined> {
        let mut combined = self.combined?;
        if let (Some(increase), Some(before)) = (&mut combined.increase, self.before) {
            *increase += step(before.value, combined.aggregate.first.value, self.wrap);
        }
        // An interval counts from the first row written under it to the next one; the first from the beginning.
        combined.expected = self.interval_ms.map(|first| {
            let mut due = 0;
            let (mut since, mut interval) = (from, first);
            for &(row, next) in &self.changes {
                let row = row.clamp(from, to.max(from));
                due += expected_slots(since, row, interval);
                (since, interval) = (row, next);
            }
            due + expected_slots(since, to, interval)
        });
        Some(combined)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{BASE_WINDOW_MS, MetricId};

    fn minute(n: i64) -> Timestamp {
        Timestamp::from_millis(n * BASE_WINDOW_MS)
    }

    fn row(n: i64, interval_ms: u32, points: &[(i64, f64)]) -> (BaseRow, BaseMetric) {
        let mut points = points.iter().map(|&(ms, value)| Point { time: minute(n).plus_millis(ms), value });
        let mut aggregate = Aggregate::of(points.next().expect("a reading"));
        let mut heard = 1;
        for point in points {
            aggregate.add(point);
            heard += 1;
        }
        let metric = BaseMetric { metric: MetricId(0), aggregate, heard };
        (BaseRow { start: minute(n), interval_ms: Some(interval_ms), late: 0, metrics: vec![metric] }, metric)
    }

    fn counter() -> MetricDef {
        MetricDef { kind: MetricKind::Counter, ..MetricDef::gauge("energy_kwh") }
    }

    #[test]
    fn the_step_between_rows_belongs_to_the_later_row() {
        let mut fold = Fold::new(&counter(), Some(Point { time: minute(-9), value: 90.0 }));
        for (row, metric) in [row(0, 30_000, &[(0, 100.0), (30_000, 104.0)]), row(3, 30_000, &[(0, 110.0)])] {
            fold.add(&row, &metric, 0);
        }
        let combined = fold.finish(minute(0), minute(5)).expect("a row");
        assert_eq!(combined.increase, Some(10.0 + 4.0 + 6.0));
    }

    #[test]
    fn a_slot_that_spans_two_minutes_is_heard_once() {
        let mut fold = Fold::new(&MetricDef::gauge("x"), None);
        for (row, metric) in [row(0, 3_600_000, &[(0, 1.0)]), row(30, 3_600_000, &[(0, 1.0)])] {
            fold.add(&row, &metric, 0);
        }
        let combined = fold.finish(minute(0), minute(120)).expect("a row");
        assert_eq!((combined.heard, combined.expected), (1, Some(2)));
        assert_eq!(combined.completeness(), Some(0.5));
    }

    #[test]
    fn a_changed_interval_does_not_spoil_earlier_minutes() {
        let mut fold = Fold::new(&MetricDef::gauge("x"), None);
        for (row, metric) in [row(0, 60_000, &[(0, 1.0)]), row(1, 30_000, &[(0, 1.0), (30_000, 2.0)])] {
            fold.add(&row, &metric, 0);
        }
        let combined = fold.finish(minute(0), minute(2)).expect("a row");
        assert_eq!((combined.heard, combined.expected), (3, Some(3)));
    }

    #[test]
    fn slots_are_due_at_multiples_of_the_interval() {
        assert_eq!(expected_slots(minute(0), minute(1), 10_000), 6);
        assert_eq!(expected_slots(minute(17), minute(18), 3_600_000), 0);
        assert_eq!(expected_slots(minute(0), minute(1_440), 3_600_000), 24);
    }
}
