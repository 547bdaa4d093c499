//! When the pipeline writes to the store.
//!
//! A row that is written while its window is open is written again later. For few devices that costs nothing, and people
//! see what is going on; for a city it would be most of the work, and of the wear of the disk. So the more a flush wrote,
//! the longer the next one waits. Where windows are to become final it does not wait.

use std::time::{Duration, Instant};

/// Rows a second that flushes write, on average and at the most, while nothing becomes final.
const ROWS_PER_S: u32 = 1_000;
/// Longest wait, however much the last flush wrote: what came since is read again after a crash.
const WAIT_MAX: Duration = Duration::from_mins(1);
/// Shortest time between flushes that make windows final: a backlog passes minutes within a second.
const FINAL_WAIT: Duration = Duration::from_millis(100);

/// When the next flush is due.
#[derive(Debug)]
pub(super) struct FlushSchedule {
    interval: Duration,
    last: Instant,
    wait: Duration,
}

impl FlushSchedule {
    /// A schedule that begins `now`, with `interval` between flushes that write little.
    pub(super) const fn new(interval: Duration, now: Instant) -> Self {
        Self { interval, last: now, wait: interval }
    }

    /// Notes a flush that was begun `now` and how many rows it wrote.
    pub(super) fn flushed(&mut self, now: Instant, rows: usize) {
        let rows = u32::try_from(rows).unwrap_or(u32::MAX);
        let wait = Duration::from_secs(1) * (rows / ROWS_PER_S);
        (self.last, self.wait) = (now, wait.min(WAIT_MAX).max(self.interval));
    }

    /// Whether a flush is due `now`; `finality` where one would make windows final.
    pub(super) fn is_due(&self, now: Instant, finality: bool) -> bool {
        let wait = if finality { self.interval.min(FINAL_WAIT) } else { self.wait };
        now.saturating_duration_since(self.last) >= wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(5);

    /// How long a flush waits after one that wrote `rows`, whole seconds.
    fn wait_s(rows: usize) -> u64 {
        let now = Instant::now();
        let mut schedule = FlushSchedule::new(INTERVAL, now);
        schedule.flushed(now, rows);
        (0..100).find(|s| schedule.is_due(now + Duration::from_secs(*s), false)).expect("some time")
    }

    #[test]
    fn a_flush_waits_the_longer_the_more_the_last_one_wrote_and_a_minute_at_the_most() {
        assert_eq!([0, 5_999, 12_500, 75_000].map(wait_s), [5, 5, 12, 60]);
    }

    #[test]
    fn what_is_to_become_final_does_not_wait() {
        let now = Instant::now();
        let mut schedule = FlushSchedule::new(INTERVAL, now);
        schedule.flushed(now, 75_000);
        let is_due = |wait_ms, finality| schedule.is_due(now + Duration::from_millis(wait_ms), finality);
        assert!(is_due(100, true) && !is_due(99, true) && !is_due(59_999, false) && is_due(60_000, false));
    }
}
