//! When the pipeline writes to the store.
//!
//! A row that is written while its window is open is written again later. For few devices that costs nothing, and people
//! see what is going on; for a city it would be most of the work, and of the wear of the disk. So the more open windows a
//! flush would write, the longer it waits; most rows are written once, when their window is over and what was underway
//! has come. Nothing waits for a backlog, whose windows are over. What becomes final does not wait either, and takes the
//! open windows along only where it has a row that is not written.

use std::time::{Duration, Instant};

/// Rows a second that flushes write of windows that are likely to change, on average and at the most.
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
    last_finality: Instant,
    failed: bool,
}

impl FlushSchedule {
    /// A schedule that begins `now`, with `interval` between flushes that write little.
    pub(super) const fn new(interval: Duration, now: Instant) -> Self {
        Self { interval, last: now, last_finality: now, failed: false }
    }

    /// Notes a flush that is begun `now`. Until it has succeeded it counts as failed.
    pub(super) fn begun(&mut self, now: Instant) {
        (self.last, self.last_finality, self.failed) = (now, now, true);
    }

    /// Notes that windows were made final alone; what is open waits no longer for that.
    pub(super) fn finalised(&mut self, now: Instant) {
        self.last_finality = now;
    }

    /// Notes that the flush that was begun last has succeeded.
    pub(super) fn succeeded(&mut self) {
        self.failed = false;
    }

    /// Whether what is open is due `now`, with `unsettled` windows that are likely to change.
    pub(super) fn is_due(&self, now: Instant, unsettled: usize) -> bool {
        let rows = u32::try_from(unsettled).unwrap_or(u32::MAX);
        let wait = (Duration::from_secs(1) * (rows / ROWS_PER_S)).min(WAIT_MAX);
        let passed = now.saturating_duration_since(self.last);
        passed >= if self.failed { self.interval } else { wait.max(self.interval) }
    }

    /// Whether windows that may become final do so `now`.
    pub(super) fn is_finality_due(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last_finality) >= self.interval.min(FINAL_WAIT)
    }

    /// Whether the last flush has failed.
    pub(super) fn has_failed(&self) -> bool {
        self.failed
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
        let is_due = |seconds, open| schedule.is_due(now + Duration::from_secs(seconds), open);
        let wait = |open| (0..100).find(|seconds| is_due(*seconds, open)).expect("some time");
        assert_eq!([0, 5_999, 12_500, 75_000].map(wait), [5, 5, 12, 60]);
    }

    #[test]
    fn what_is_to_become_final_does_not_wait() {
        let now = Instant::now();
        let mut schedule = FlushSchedule::new(INTERVAL, now);
        schedule.begun(now + INTERVAL);
        schedule.succeeded();
        let after = |ms| now + INTERVAL + Duration::from_millis(ms);
        assert!(schedule.is_finality_due(after(100)) && !schedule.is_finality_due(after(99)));
        assert!(schedule.is_due(after(60_000), 75_000) && !schedule.is_due(after(59_999), 75_000));
        // Nor do the open ones wait for it.
        schedule.finalised(after(59_950));
        assert!(schedule.is_due(after(60_000), 75_000) && !schedule.is_finality_due(after(60_000)));
    }

    #[test]
    fn a_flush_that_failed_is_tried_again_after_the_interval_however_much_is_open() {
        let now = Instant::now();
        let mut schedule = FlushSchedule::new(INTERVAL, now);
        schedule.begun(now);
        assert!(schedule.is_due(now + INTERVAL, 75_000));
        assert!(!schedule.is_due(now + INTERVAL / 2, 75_000));
    }
}
