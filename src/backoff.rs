//! How long to wait before the next attempt: doubling, capped, and spread out so that many gateways and sinks do not
//! knock in step.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(250);

/// Waits between failed attempts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoff {
    failures: u32,
    first: Duration,
    longest: Duration,
}

impl Backoff {
    /// Waits of `longest` at the most, the first of 250 ms.
    pub(crate) fn new(longest: Duration) -> Self {
        Self::between(FIRST, longest)
    }

    /// Waits that begin with `first` and end with `longest`.
    pub(crate) fn between(first: Duration, longest: Duration) -> Self {
        Self { failures: 0, first, longest }
    }

    /// The wait after one more failure; `share` (0 to 1, drawn at random) places it between half and all of the step.
    pub(crate) fn failed(&mut self, share: f64) -> Duration {
        let step = self.first.saturating_mul(1 << self.failures.min(16)).min(self.longest);
        self.failures = self.failures.saturating_add(1);
        step.mul_f64(0.5 + share.clamp(0.0, 1.0) / 2.0)
    }

    /// The wait for something that only a person can put right: the longest, spread out the same way.
    pub(crate) fn slow(&mut self, share: f64) -> Duration {
        self.failures = self.failures.saturating_add(1);
        self.longest.mul_f64(0.5 + share.clamp(0.0, 1.0) / 2.0)
    }

    /// Starts over after a success.
    pub(crate) fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// Failures since the last success.
    pub(crate) fn failures(&self) -> u64 {
        self.failures.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_start_over_after_a_success() {
        let mut backoff = Backoff::new(Duration::from_secs(1));
        let waits: Vec<u128> = (0..4).map(|_| backoff.failed(1.0).as_millis()).collect();
        assert_eq!((waits, backoff.failures()), (vec![250, 500, 1_000, 1_000], 4));
        backoff.succeeded();
        assert_eq!(backoff.failures(), 0);
        assert_eq!(backoff.failed(0.0).as_millis(), 125);
        assert_eq!(backoff.slow(0.0).as_millis(), 500);
    }

    #[test]
    fn a_year_of_failures_does_not_overflow() {
        let mut backoff = Backoff::between(Duration::from_secs(30), Duration::from_mins(1));
        for _ in 0..1_000 {
            assert!(backoff.failed(1.0) <= Duration::from_mins(1));
        }
    }
}
