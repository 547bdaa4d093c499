//! Time as data: the one place that reads the machine's clock.
//!
//! Pure stages take `now` as an argument; sources, sinks and the application ask a [`Clock`]. The demo runs the same
//! daemon on a clock that goes faster than the wall's.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::model::{Timestamp, millis};

/// 2025-01-01T00:00:00Z. A clock of ours that shows an earlier time was not set: there was no Sitepulse then.
pub const CLOCK_SET_FROM: Timestamp = Timestamp::from_millis(1_735_689_600_000);

/// Where `now` comes from.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Timestamp,
    started: Instant,
    /// Simulated milliseconds per real one; `None` reads the machine's clock.
    speed: Option<f64>,
    /// What a test or benchmark says that it is, epoch ms.
    #[cfg(any(test, feature = "bench"))]
    told: Option<&'static std::sync::atomic::AtomicI64>,
}

impl Clock {
    /// The machine's own clock.
    #[must_use]
    pub fn system() -> Self {
        Self {
            origin: system_now(),
            started: Instant::now(),
            speed: None,
            #[cfg(any(test, feature = "bench"))]
            told: None,
        }
    }

    /// A clock that starts at `origin` and runs `speed` times as fast as real time (`speed` > 0).
    #[must_use]
    pub fn scaled(origin: Timestamp, speed: f64) -> Self {
        Self { origin, speed: Some(speed), ..Self::system() }
    }

    /// A clock that shows what a test or benchmark puts into `told`, epoch ms.
    #[cfg(any(test, feature = "bench"))]
    pub(crate) fn told(told: &'static std::sync::atomic::AtomicI64) -> Self {
        Self { told: Some(told), ..Self::system() }
    }

    /// The instant it is now on this clock.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "a float of milliseconds saturates, which is what is wanted")]
    pub fn now(&self) -> Timestamp {
        #[cfg(any(test, feature = "bench"))]
        if let Some(told) = self.told {
            return Timestamp::from_millis(told.load(std::sync::atomic::Ordering::Relaxed));
        }
        match self.speed {
            None => system_now(),
            Some(speed) => {
                let elapsed_ms = self.started.elapsed().as_secs_f64() * 1_000.0 * speed;
                self.origin.plus_millis(elapsed_ms as i64)
            }
        }
    }

    fn is_machine_s(&self) -> bool {
        #[cfg(any(test, feature = "bench"))]
        if self.told.is_some() {
            return false;
        }
        self.speed.is_none()
    }

    /// How long really to wait for `span` to pass on this clock.
    #[must_use]
    pub fn real(&self, span: Duration) -> Duration {
        self.speed.map_or(span, |speed| span.div_f64(speed))
    }

    /// How long really to wait until this clock shows `then`; zero when it has passed.
    #[must_use]
    pub fn real_until(&self, then: Timestamp) -> Duration {
        if self.is_machine_s() {
            return span_until(then, SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default());
        }
        let span_ms = u64::try_from(then.millis_since(self.now())).unwrap_or(0);
        self.real(Duration::from_millis(span_ms))
    }
}

/// Difference between the clock and the time that passed from which the clock is said to have been set, ms. A clock that
/// is merely steered (NTP slews by half a millisecond a second) stays far below it between two looks.
const STEP_MS_MIN: i64 = 2_000;

/// Notices that a clock was set: it is looked at now and then, beside a clock that only ever runs on.
#[derive(Clone, Copy, Debug)]
pub struct StepWatch {
    shown: Timestamp,
    at: Instant,
}

impl StepWatch {
    /// A watch of a clock that shows `shown` at `at`.
    #[must_use]
    pub const fn new(shown: Timestamp, at: Instant) -> Self {
        Self { shown, at }
    }

    /// Milliseconds by which a clock that shows `shown` at `at` was set since the last look, forward or (negative) back.
    ///
    /// `clock` is the one that is looked at, for its speed.
    pub fn look(&mut self, clock: &Clock, shown: Timestamp, at: Instant) -> Option<i64> {
        let passed_ms = at.saturating_duration_since(self.at).as_secs_f64() * 1_000.0 * clock.speed.unwrap_or(1.0);
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a float of milliseconds saturates, which is what is wanted"
        )]
        let step_ms = shown.millis_since(self.shown).saturating_sub(passed_ms as i64);
        *self = Self { shown, at };
        // A clock that runs faster than the wall's cannot be set, only rounded; one that a test tells says nothing of time.
        (clock.is_machine_s() && step_ms.abs() >= STEP_MS_MIN).then_some(step_ms)
    }
}

/// Time from `since_epoch` until `then`, to the nanosecond, so that all who wait for the same instant are woken together.
fn span_until(then: Timestamp, since_epoch: Duration) -> Duration {
    Duration::from_millis(u64::try_from(then.as_millis()).unwrap_or(0)).saturating_sub(since_epoch)
}

fn system_now() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(millis(since_epoch))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_set_is_noticed_once_and_one_that_is_steered_is_not() {
        let (clock, begun) = (Clock::system(), Instant::now());
        let year_ms = 365 * 86_400_000;
        let mut watch = StepWatch::new(Timestamp::from_millis(0), begun);
        let mut look = |after_s: u64, shown_ms: i64| {
            watch.look(&clock, Timestamp::from_millis(shown_ms), begun + Duration::from_secs(after_s))
        };
        assert_eq!(look(5, 5_000), None);
        assert_eq!(look(10, 10_400), None);
        // At start in 1970, then set.
        assert_eq!(look(15, 56 * year_ms + 15_400), Some(56 * year_ms));
        assert_eq!(look(20, 56 * year_ms + 20_400), None);
        assert_eq!(look(25, 56 * year_ms - 3_574_600), Some(-3_600_000));
        // A stall is no step.
        assert_eq!(look(625, 56 * year_ms - 2_974_600), None);
    }

    #[test]
    fn all_who_wait_for_the_same_instant_wait_until_the_same() {
        let then = Timestamp::from_millis(1_764_000_000_010);
        for now_ns in [1_764_000_000_000_000_001_u64, 1_764_000_000_003_900_000, 1_764_000_000_010_000_000] {
            let now = Duration::from_nanos(now_ns);
            assert_eq!(now + span_until(then, now), Duration::from_millis(1_764_000_000_010));
        }
        assert_eq!(span_until(then, Duration::from_millis(1_764_000_000_011)), Duration::ZERO);
    }

    #[test]
    fn a_scaled_clock_waits_less_than_it_shows() {
        let clock = Clock::scaled(Timestamp::from_millis(0), 60.0);
        assert_eq!(clock.real(Duration::from_mins(1)), Duration::from_secs(1));
        assert!(clock.now() >= Timestamp::from_millis(0));
    }
}
