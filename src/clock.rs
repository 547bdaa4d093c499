//! Time as data: the one place that reads the machine's clock.
//!
//! Pure stages take `now` as an argument; sources, sinks and the application ask a [`Clock`]. The demo runs the same
//! daemon on a clock that goes faster than the wall's.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::model::{Timestamp, millis};

/// Where `now` comes from.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Timestamp,
    started: Instant,
    /// Simulated milliseconds per real one; `None` reads the machine's clock.
    speed: Option<f64>,
    /// What a test says that it is, epoch ms.
    #[cfg(test)]
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
            #[cfg(test)]
            told: None,
        }
    }

    /// A clock that starts at `origin` and runs `speed` times as fast as real time (`speed` > 0).
    #[must_use]
    pub fn scaled(origin: Timestamp, speed: f64) -> Self {
        Self { origin, speed: Some(speed), ..Self::system() }
    }

    /// A clock that shows what a test puts into `told`, epoch ms.
    #[cfg(test)]
    pub(crate) fn told(told: &'static std::sync::atomic::AtomicI64) -> Self {
        Self { told: Some(told), ..Self::system() }
    }

    /// The instant it is now on this clock.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "a float of milliseconds saturates, which is what is wanted")]
    pub fn now(&self) -> Timestamp {
        #[cfg(test)]
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

    /// How long really to wait for `span` to pass on this clock.
    #[must_use]
    pub fn real(&self, span: Duration) -> Duration {
        self.speed.map_or(span, |speed| span.div_f64(speed))
    }

    /// How long really to wait until this clock shows `then`; zero when it has passed.
    #[must_use]
    pub fn real_until(&self, then: Timestamp) -> Duration {
        let span_ms = u64::try_from(then.millis_since(self.now())).unwrap_or(0);
        self.real(Duration::from_millis(span_ms))
    }
}

fn system_now() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(millis(since_epoch))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scaled_clock_waits_less_than_it_shows() {
        let clock = Clock::scaled(Timestamp::from_millis(0), 60.0);
        assert_eq!(clock.real(Duration::from_mins(1)), Duration::from_secs(1));
        assert!(clock.now() >= Timestamp::from_millis(0));
    }
}
