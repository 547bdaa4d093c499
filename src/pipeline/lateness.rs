//! How late messages usually are.
//!
//! A broker that was cut off, or is at its end, delivers everything late. A window is then over long before its readings
//! are here: its row would be written, and read again for what comes next.

use crate::model::Timestamp;

/// By how much each message moves it, ms.
const STEP_MS: i64 = 10;
/// What it comes to at the most, ms: rows are written each minute whatever is underway.
const MAX_MS: i64 = 60_000;

/// The time from a message's event to its arrival of which about half of the messages take less. Few that are very late, or
/// have another time altogether, do not move it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Lateness {
    ms: i64,
}

impl Lateness {
    /// Notes a message of an event at `time`.
    pub(super) fn note(&mut self, time: Timestamp, arrival: Timestamp) {
        let step_ms = STEP_MS * (arrival.millis_since(time) - self.ms).signum();
        self.ms = (self.ms + step_ms).clamp(0, MAX_MS);
    }

    /// Milliseconds.
    pub(super) fn as_millis(self) -> i64 {
        self.ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_follows_most_messages_and_not_the_few_that_are_very_late_or_ahead() {
        let mut lateness = Lateness::default();
        let at = Timestamp::from_millis;
        let mut note = |late_ms, count: i64| {
            for number in 0..count {
                let late_ms = if number % 10 == 9 {
                    3_600_000
                } else if number % 10 == 4 {
                    -3_600_000
                } else {
                    late_ms
                };
                lateness.note(at(0), at(late_ms));
            }
            lateness.as_millis()
        };
        assert!((8_000 - 50..=8_000 + 50).contains(&note(8_000, 2_000)));
        assert!(note(0, 2_000) <= 50);
        assert_eq!(note(600_000, 10_000), MAX_MS);
    }
}
