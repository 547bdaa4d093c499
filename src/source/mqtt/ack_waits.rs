//! How long messages waited for their acknowledgement: from the round that read them to the one that queued it.
//!
//! Counted by batch, since all messages of one have one answer. Pure.

use std::time::Duration;

use crate::health::{Counter, Part};

/// Upper ends of the classes, and the counter of the messages that waited no longer.
const CLASSES: [(Duration, &str); 12] = [
    (Duration::from_millis(1), "acks_within_1_ms"),
    (Duration::from_millis(2), "acks_within_2_ms"),
    (Duration::from_millis(5), "acks_within_5_ms"),
    (Duration::from_millis(10), "acks_within_10_ms"),
    (Duration::from_millis(15), "acks_within_15_ms"),
    (Duration::from_millis(20), "acks_within_20_ms"),
    (Duration::from_millis(30), "acks_within_30_ms"),
    (Duration::from_millis(50), "acks_within_50_ms"),
    (Duration::from_millis(100), "acks_within_100_ms"),
    (Duration::from_millis(200), "acks_within_200_ms"),
    (Duration::from_millis(500), "acks_within_500_ms"),
    (Duration::from_secs(1), "acks_within_1000_ms"),
];

/// Acknowledgements of which nobody was told yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct AckWaits {
    /// By the first class that they fit; the last place is for those that fit none.
    by_class: [u64; CLASSES.len() + 1],
    longest: Duration,
}

impl AckWaits {
    /// Notes a batch.
    pub(super) fn note(&mut self, waited: Duration, messages: usize) {
        let class = CLASSES.iter().position(|(end, _)| waited <= *end).unwrap_or(CLASSES.len());
        self.by_class[class] += messages as u64;
        self.longest = self.longest.max(waited);
    }

    /// All of them.
    pub(super) fn total(&self) -> u64 {
        self.by_class.iter().sum()
    }
}

/// The part's counters of them.
pub(super) struct AckCounters {
    acks: Counter,
    within: [Counter; CLASSES.len()],
    longest_us: Counter,
}

impl AckCounters {
    pub(super) fn of(part: &Part) -> Self {
        let within = CLASSES.map(|(_, name)| part.counter(name));
        Self { acks: part.counter("acks"), within, longest_us: part.counter("ack_wait_us_max") }
    }

    /// Adds `waits`, each class with those below it.
    pub(super) fn add(&self, waits: &AckWaits) {
        if waits.total() == 0 {
            return;
        }
        let mut sum = 0;
        for (counter, count) in self.within.iter().zip(waits.by_class) {
            sum += count;
            counter.add(sum);
        }
        self.acks.add(waits.total());
        let longest = u64::try_from(waits.longest.as_micros()).unwrap_or(u64::MAX);
        self.longest_us.set(self.longest_us.get().max(longest));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::{Health, PartKind};
    use crate::model::Timestamp;

    #[test]
    fn a_class_counts_all_that_waited_no_longer() {
        let part = Health::default().part(PartKind::Mqtt, "east", Timestamp::from_millis(0));
        let counters = AckCounters::of(&part);
        let mut waits = AckWaits::default();
        waits.note(Duration::from_micros(1_500), 3);
        waits.note(Duration::from_millis(10), 2);
        waits.note(Duration::from_secs(2), 1);
        counters.add(&waits);
        counters.add(&AckWaits::default());
        let counts = part.snapshot().counters;
        assert_eq!((counts["acks"], counts["ack_wait_us_max"]), (6, 2_000_000));
        let within = |limit| counts[format!("acks_within_{limit}_ms").as_str()];
        assert_eq!([1, 2, 5, 10, 1000].map(within), [0, 3, 3, 5, 5]);
    }
}
