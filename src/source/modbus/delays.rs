//! How long after its slot a poll began. Pure.

use crate::health::{Counter, Part};

/// Upper ends of the classes, ms, and the counter of the polls that began no later than that after their slot.
const CLASSES: [(i64, &str); 6] = [
    (2, "polls_begun_within_2_ms"),
    (5, "polls_begun_within_5_ms"),
    (10, "polls_begun_within_10_ms"),
    (20, "polls_begun_within_20_ms"),
    (50, "polls_begun_within_50_ms"),
    (100, "polls_begun_within_100_ms"),
];

/// The part's counters of it.
pub(super) struct DelayCounters {
    within: [Counter; CLASSES.len()],
    longest_ms: Counter,
}

impl DelayCounters {
    pub(super) fn of(part: &Part) -> Self {
        Self { within: CLASSES.map(|(_, name)| part.counter(name)), longest_ms: part.counter("poll_delay_ms_max") }
    }

    /// Counts a poll that began `delay_ms` after its slot, in each class that it fits.
    pub(super) fn note(&self, delay_ms: i64) {
        for (counter, (end_ms, _)) in self.within.iter().zip(CLASSES).rev() {
            if delay_ms > end_ms {
                break;
            }
            counter.add(1);
        }
        let delay_ms = u64::try_from(delay_ms).unwrap_or(0);
        if delay_ms > self.longest_ms.get() {
            self.longest_ms.set(delay_ms);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::{Health, PartKind};
    use crate::model::Timestamp;

    #[test]
    fn a_class_counts_all_that_began_no_later() {
        let part = Health::default().part(PartKind::Modbus, "host:502", Timestamp::from_millis(0));
        let delays = DelayCounters::of(&part);
        for delay_ms in [0, 2, 3, 20, 101] {
            delays.note(delay_ms);
        }
        let counts = part.snapshot().counters;
        let within = |limit: u64| counts[format!("polls_begun_within_{limit}_ms").as_str()];
        assert_eq!([2, 5, 10, 20, 50, 100].map(within), [2, 3, 3, 4, 4, 4]);
        assert_eq!(counts["poll_delay_ms_max"], 101);
    }
}
