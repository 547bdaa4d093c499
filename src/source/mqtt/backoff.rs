//! How long to wait before the next attempt to connect.

use std::time::Duration;

/// The first wait, doubled by every failure in a row.
const FIRST: Duration = Duration::from_millis(250);

/// Waits that grow with the failures in a row, with jitter: many gateways must not come back in step.
#[derive(Debug)]
pub(super) struct Backoff {
    longest: Duration,
    ceiling: Duration,
}

impl Backoff {
    /// Waits of at most `longest`.
    pub(super) fn new(longest: Duration) -> Self {
        Self { longest, ceiling: FIRST.min(longest) }
    }

    /// The next wait: between half of the present ceiling and all of it.
    pub(super) fn next_wait(&mut self) -> Duration {
        let half = self.ceiling / 2;
        self.ceiling = (self.ceiling * 2).min(self.longest);
        half + half.mul_f64(fastrand::f64())
    }

    /// Begins anew after a connection that held.
    pub(super) fn reset(&mut self) {
        self.ceiling = FIRST.min(self.longest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_longest_and_start_over_after_a_reset() {
        let mut backoff = Backoff::new(Duration::from_secs(1));
        for ceiling_ms in [250, 500, 1_000, 1_000] {
            let (wait, ceiling) = (backoff.next_wait(), Duration::from_millis(ceiling_ms));
            assert!(wait >= ceiling / 2 && wait <= ceiling, "{wait:?} of {ceiling:?}");
        }
        backoff.reset();
        assert!(backoff.next_wait() <= FIRST);
    }
}
