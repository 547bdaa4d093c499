//! How long a reader bears with a disk that fails to read, before it reads around what fails.
//!
//! Pure: the time is given. A failure that goes away (a cable, a bus reset, a network disk that hangs) loses nothing; one
//! that stays must not stop the pipeline for ever.

use std::io;
use std::time::Duration;

use crate::model::Timestamp;

/// Failures in a row, and how long they last, before it is over.
#[derive(Clone, Debug)]
pub(super) struct Patience {
    attempts: u32,
    time: Duration,
    failures: u32,
    since: Timestamp,
}

impl Default for Patience {
    fn default() -> Self {
        Self::new(10, Duration::from_mins(1))
    }
}

impl Patience {
    /// Over after `attempts` failures in a row that have lasted for `time`.
    pub(super) fn new(attempts: u32, time: Duration) -> Self {
        Self { attempts, time, failures: 0, since: Timestamp::from_millis(0) }
    }

    /// Takes one more failure; whether to try again. What a person can put right without any loss is borne for ever.
    pub(super) fn bears(&mut self, failure: &io::Error, now: Timestamp) -> bool {
        if is_for_a_person(failure) {
            return true;
        }
        if self.failures == 0 || now < self.since {
            self.since = now;
        }
        self.failures = self.failures.saturating_add(1);
        let lasted_ms = u128::try_from(now.millis_since(self.since)).unwrap_or(0);
        self.failures < self.attempts || lasted_ms < self.time.as_millis()
    }

    /// Starts over after a success.
    pub(super) fn succeeded(&mut self) {
        self.failures = 0;
    }
}

/// Whether the failure says nothing of the disk: rights, or a machine that is out of something.
fn is_for_a_person(failure: &io::Error) -> bool {
    const FILES_OF_PROCESS: i32 = 24; // EMFILE
    const FILES_OF_SYSTEM: i32 = 23; // ENFILE
    matches!(failure.raw_os_error(), Some(FILES_OF_PROCESS | FILES_OF_SYSTEM))
        || matches!(failure.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::OutOfMemory)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_millis(second * 1_000)
    }

    #[test]
    fn it_is_over_after_both_the_attempts_and_the_time() {
        let broken = io::Error::from_raw_os_error(5);
        let mut patience = Patience::default();
        assert!((0..60).all(|second| patience.bears(&broken, at(second))), "not before the time");
        assert!(!patience.bears(&broken, at(60)));
        patience.succeeded();
        assert!((0..9).all(|attempt| patience.bears(&broken, at(100 + attempt * 3_600))), "not before the attempts");
        assert!(!patience.bears(&broken, at(100_000)));
    }

    #[test]
    fn a_clock_that_is_set_back_starts_the_time_anew() {
        let broken = io::Error::other("simulated");
        let mut patience = Patience::new(2, Duration::from_mins(1));
        assert!(patience.bears(&broken, at(1_000)) && patience.bears(&broken, at(10)));
        assert!(patience.bears(&broken, at(69)) && !patience.bears(&broken, at(70)));
    }

    #[test]
    fn what_a_person_can_put_right_is_borne_for_ever() {
        let mut patience = Patience::new(1, Duration::ZERO);
        for failure in [13, 24, 23, 12].map(io::Error::from_raw_os_error) {
            assert!((0..1_000).all(|day| patience.bears(&failure, at(day * 86_400))), "{failure}");
        }
        assert!(!patience.bears(&io::Error::from_raw_os_error(5), at(0)));
    }
}
