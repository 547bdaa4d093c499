//! The faults that the simulated city has, when it has them, and how often it had them.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::model::Timestamp;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FaultKind {
    /// A device loses its link and sends what it kept minutes later.
    Late,
    /// A device sends messages twice.
    Repeated,
    /// A meter is replaced and starts again at 0.
    CounterReset,
    /// A Modbus gateway accepts requests and never answers.
    Timeout,
    /// A Modbus unit answers with exception 4, server device failure.
    Exception,
    /// A device sends what is no JSON.
    MalformedJson,
    /// A device sends a value that cannot be.
    OutOfRange,
    /// A device sends text where a number is due.
    NotANumber,
    /// A device that is not listed publishes.
    Unlisted,
}

impl FaultKind {
    /// Every kind.
    pub const ALL: [Self; 9] = [
        Self::Late,
        Self::Repeated,
        Self::CounterReset,
        Self::Timeout,
        Self::Exception,
        Self::MalformedJson,
        Self::OutOfRange,
        Self::NotANumber,
        Self::Unlisted,
    ];

    /// What happens, for people.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Late => "messages held back for minutes",
            Self::Repeated => "messages sent twice",
            Self::CounterReset => "energy meters that start again at 0",
            Self::Timeout => "Modbus requests never answered",
            Self::Exception => "Modbus requests answered with exception 4",
            Self::MalformedJson => "messages that are no JSON",
            Self::OutOfRange => "readings that cannot be",
            Self::NotANumber => "readings that are text",
            Self::Unlisted => "messages of a device that is not listed",
        }
    }
}

/// How often each fault was made.
#[derive(Debug, Default)]
pub struct FaultTally([AtomicU64; FaultKind::ALL.len()]);

impl FaultTally {
    /// Counts a fault.
    pub fn count(&self, kind: FaultKind) {
        self.0[kind as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// How often `kind` was made.
    #[must_use]
    pub fn get(&self, kind: FaultKind) -> u64 {
        self.0[kind as usize].load(Ordering::Relaxed)
    }

    /// How many faults were made in all.
    #[must_use]
    pub fn total(&self) -> u64 {
        FaultKind::ALL.iter().map(|kind| self.get(*kind)).sum()
    }
}

/// A span of time that comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recurring {
    /// Start of the first span.
    pub first: Timestamp,
    /// Time from start to start, ms.
    pub every_ms: i64,
    /// Length of a span, ms.
    pub length_ms: i64,
}

impl Recurring {
    /// Start of the latest span that began at `at` or before.
    #[must_use]
    pub fn latest(&self, at: Timestamp) -> Option<Timestamp> {
        let since_ms = at.millis_since(self.first);
        (since_ms >= 0).then(|| self.first.plus_millis(since_ms.div_euclid(self.every_ms) * self.every_ms))
    }

    /// End of the span that holds `at`; `None` outside the spans.
    #[must_use]
    pub fn end_of_current(&self, at: Timestamp) -> Option<Timestamp> {
        self.latest(at).map(|start| start.plus_millis(self.length_ms)).filter(|end| at < *end)
    }

    /// Whether a span holds `at`.
    #[must_use]
    pub fn holds(&self, at: Timestamp) -> bool {
        self.end_of_current(at).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_come_back_and_nothing_comes_before_the_first() {
        let at = Timestamp::from_millis;
        let spans = Recurring { first: at(1_000), every_ms: 100, length_ms: 30 };
        assert_eq!((spans.latest(at(999)), spans.holds(at(999))), (None, false));
        assert!(spans.holds(at(1_000)) && spans.holds(at(1_029)) && !spans.holds(at(1_030)));
        assert_eq!((spans.latest(at(1_199)), spans.end_of_current(at(1_129))), (Some(at(1_100)), Some(at(1_130))));
    }

    #[test]
    fn each_kind_has_its_own_count() {
        let tally = FaultTally::default();
        for (times, kind) in FaultKind::ALL.into_iter().enumerate() {
            (0..=times).for_each(|_| tally.count(kind));
        }
        for (times, kind) in FaultKind::ALL.into_iter().enumerate() {
            assert_eq!(tally.get(kind), times as u64 + 1);
        }
        assert_eq!(tally.total(), 45);
    }
}
