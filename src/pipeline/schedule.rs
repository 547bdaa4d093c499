//! When the pipeline writes to the store.
//!
//! A row that is written while its window is open is written again later. For few devices that costs nothing, and people
//! see what is going on; for a city it would be most of the work, and of the wear of the disk. So the more open windows a
//! flush would write, the longer it waits. Where windows are to become final it does not wait, nor for a backlog, whose
//! windows are over.

use std::time::{Duration, Instant};

/// Rows a second of open windows that flushes write, on average and at the most, while nothing becomes final.
const ROWS_PER_S: u32 = 1_000;
/// Longest wait, however much is open: what came since is read again after a crash.
const WAIT_MAX: Duration = Duration::from_mins(1);
/// Shortest time between flushes that make windows final: a backlog passes minutes within a second.
const FINAL_WAIT: Duration = Duration::from_millis(100);

/// When the next flush is due.
#[derive(Debug)]
pub(super) struct FlushSchedule {
    interval: Duration,
    last: Instant,
    failed: bool,
}

impl FlushSchedule {
    /// A schedule that begins `now`, with `interval` between flushes that write little.
    pub(super) const fn new(interval: Duration, now: Instant) -> Self {
        Self { interval, last: now, failed: false }
    }

    /// Notes a flush that is begun `now`. Until it has succeeded it counts as failed.
    pub(super) fn begun(&mut self, now: Instant) {
        (self.last, self.failed) = (now, true);
    }

    /// Notes that the flush that was begun last has succeeded.
    pub(super) fn succeeded(&mut self) {
        self.failed = false;
    }

    /// Whether a flush is due `now`, with `unfinished` windows that are not over; `finality` where it would make windows
    /// final.
    pub(super) fn is_due(&self, now: Instant, finality: bool, unfinished: usize) -> bool {
        let passed = now.saturating_duration_since(self.last);
        if finality {
            return passed >= self.interval.min(FINAL_WAIT);
        }
        if self.failed {
            return passed >= self.interval;
        }
        let rows = u32::try_from(unfinished).unwrap_or(u32::MAX);
        passed >= (Duration::from_secs(1) * (rows / ROWS_PER_S)).min(WAIT_MAX).max(self.interval)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(5);

    #[test]
    fn a_flush_waits_the_longer_the_more_is_open_and_a_minute_at_the_most() {
        let now = Instant::now();
        let schedule = FlushSchedule::new(INTERVAL, now);
        let is_due = |seconds, open| schedule.is_due(now + Duration::from_secs(seconds), false, open);
        let wait = |open| (0..100).find(|seconds| is_due(*seconds, open)).expect("some time");
        assert_eq!([0, 5_999, 12_500, 75_000].map(wait), [5, 5, 12, 60]);
    }

    #[test]
    fn what_is_to_become_final_does_not_wait() {
        let now = Instant::now();
        let mut schedule = FlushSchedule::new(INTERVAL, now);
        schedule.begun(now + INTERVAL);
        schedule.succeeded();
        let is_due = |ms, finality| schedule.is_due(now + INTERVAL + Duration::from_millis(ms), finality, 75_000);
        assert!(is_due(100, true) && !is_due(99, true) && !is_due(59_999, false) && is_due(60_000, false));
    }

    #[test]
    fn a_flush_that_failed_is_tried_again_after_the_interval_however_much_is_open() {
        let now = Instant::now();
        let mut schedule = FlushSchedule::new(INTERVAL, now);
        schedule.begun(now);
        assert!(schedule.is_due(now + INTERVAL, false, 75_000));
        assert!(!schedule.is_due(now + INTERVAL / 2, false, 75_000));
    }
}
