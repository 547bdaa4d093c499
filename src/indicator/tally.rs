//! Sums per input: of a site's series, and of a group's sites. Exact in any order, so that sums of sums are sums (P7).

use super::definition::{MetricInput, Over, Quorum, SeriesAggregate};
use crate::rollup::{Combined, Sum};

/// A value that is summed, or of which the largest or smallest counts.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Total(Option<Sum>);

impl Total {
    pub(super) fn add(&mut self, value: f64, over: Over) {
        let before = self.0.map(Sum::value);
        let total = self.0.get_or_insert_default();
        match (over, before) {
            (Over::Sum, _) | (_, None) => total.add(value),
            (Over::Max, Some(before)) => *total = Sum::from_parts(before.max(value), 0.0),
            (Over::Min, Some(before)) => *total = Sum::from_parts(before.min(value), 0.0),
        }
    }

    fn merge(&mut self, other: Self, over: Over) {
        match (over, other.0) {
            (_, None) => {}
            (Over::Sum, Some(sum)) => self.0.get_or_insert_default().merge(sum),
            (_, Some(extreme)) => self.add(extreme.value(), over),
        }
    }

    pub(super) fn value(self) -> Option<f64> {
        self.0.map(Sum::value)
    }
}

/// Slots heard and due, of streams that say how often they speak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Slots {
    pub(super) heard: u64,
    pub(super) due: u64,
}

impl Slots {
    /// Those of a series that was heard; `None` where its interval is not known. A reading in a window where none was
    /// due (an hourly one, on its minute) is all that could be had.
    pub(super) fn of(combined: &Combined) -> Option<Self> {
        let due = match combined.expected? {
            0 => combined.heard,
            due => due,
        };
        Some(Self { heard: combined.heard.min(due), due })
    }

    pub(super) fn add(&mut self, other: Self) {
        self.heard += other.heard;
        self.due += other.due;
    }
}

/// One input of one site while series come in.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cell {
    pub(super) total: Total,
    pub(super) slots: Slots,
    /// Devices that should deliver.
    pub(super) devices_due: u32,
    /// Devices that delivered.
    pub(super) devices_heard: u32,
}

impl Cell {
    /// A device that should deliver, with the slots that the inventory expects of it.
    pub(super) fn expect(&mut self, due: Option<u64>) {
        self.devices_due += 1;
        self.slots.due += due.unwrap_or(0);
    }

    /// A series of such a device, which was heard.
    pub(super) fn hear(&mut self, input: &MetricInput, due: Option<u64>, combined: &Combined) {
        self.devices_heard += 1;
        if let Some(slots) = Slots::of(combined) {
            // What the row says was due counts, not what the inventory says now.
            self.slots.due = self.slots.due.saturating_sub(due.unwrap_or(0));
            self.slots.add(slots);
        }
        if let Some(value) = aggregate(input.aggregate, combined) {
            self.total.add(value, input.over);
        }
    }

    /// Whether enough of the site's devices were heard for its value to count.
    pub(super) fn counts(&self, quorum: Quorum) -> bool {
        match quorum {
            Quorum::Any => self.devices_heard > 0,
            Quorum::All => self.devices_heard > 0 && self.devices_heard >= self.devices_due,
        }
    }
}

/// One input of one group.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct InputTotal {
    pub(super) total: Total,
    pub(super) slots: Slots,
}

impl InputTotal {
    /// Takes in a site; its value and what was heard of it only where the site `counts`.
    pub(super) fn add(&mut self, site: &Self, over: Over, counts: Contribution) {
        self.slots.due += site.slots.due;
        if counts == Contribution::Whole {
            self.slots.heard += site.slots.heard;
            self.total.merge(site.total, over);
        }
    }

    /// Heard slots per slot due; `None` where there is a value and nobody knows what was due for it.
    pub(super) fn completeness(&self) -> Option<f64> {
        match (self.slots.due, self.total.value()) {
            (0, Some(_)) => None,
            (0, None) => Some(0.0),
            (due, _) => Some(float(self.slots.heard) / float(due)),
        }
    }
}

/// What a site gives to its groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Contribution {
    /// Its values and its completeness.
    Whole,
    /// It lacks an input: only what was due from it.
    Absence,
}

fn aggregate(aggregate: SeriesAggregate, combined: &Combined) -> Option<f64> {
    let readings = &combined.aggregate;
    let value = match aggregate {
        SeriesAggregate::Total => combined.increase.unwrap_or(readings.sum.value()),
        SeriesAggregate::Mean => readings.mean(),
        SeriesAggregate::Min => readings.min,
        SeriesAggregate::Max => readings.max,
        SeriesAggregate::Last => readings.last.value,
        SeriesAggregate::Sum => readings.sum.value(),
        SeriesAggregate::Count => float(readings.count),
        SeriesAggregate::Minutes => float(combined.minutes),
        SeriesAggregate::MinutesInBand => float(combined.minutes_in_band),
        SeriesAggregate::Heard => float(combined.heard),
        SeriesAggregate::Expected => float(combined.expected?),
    };
    value.is_finite().then_some(value)
}

/// A count as a number to compute with.
#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
pub(super) const fn float(count: u64) -> f64 {
    count as f64
}
