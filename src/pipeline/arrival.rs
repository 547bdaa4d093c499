//! What a message's arrival says about the times in it, and which messages were set to it.
//!
//! A gateway without a clock of its own starts in 1970 or at the time it last saved, and one whose clock is set wrongly
//! may run years ahead. Such an arrival must neither make good event times invalid nor place readings: it is held
//! against the newest row of the store.

use std::collections::VecDeque;
use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use super::Options;
use crate::decode::event_time::{Placed, TimeLimits};
use crate::ledger::Invalid;
use crate::model::{DeviceId, Timestamp, WindowStart, millis};

/// 2025-01-01T00:00:00Z. A clock that shows an earlier time was not set: there was no Sitepulse then.
const CLOCK_SET_FROM: Timestamp = Timestamp::from_millis(1_735_689_600_000);
/// How far a clock may lie from the newest row and still be believed, ms: behind it, when it judges what is too far
/// ahead; beyond it, when it judges what is too old.
const BELIEVED_MS: i64 = 24 * 3_600_000;
/// Messages that are remembered as set to their arrival; more than brokers send again after a lost connection.
const REMEMBERED_MAX: usize = 65_536;

/// What a message that came at `arrival` is held against, where the store's newest row is `newest_row`.
pub(super) fn limits(arrival: Timestamp, newest_row: Option<WindowStart>, options: &Options) -> TimeLimits {
    let is_set = arrival >= CLOCK_SET_FROM;
    let is_behind = !is_set || newest_row.is_some_and(|row| arrival < row.plus_millis(-BELIEVED_MS));
    let today = match newest_row {
        Some(row) if is_behind => row,
        Some(row) => arrival.min(row.plus_millis(BELIEVED_MS)),
        None if is_behind => Timestamp::from_millis(i64::MIN),
        None => arrival,
    };
    TimeLimits {
        arrival: is_set.then_some(arrival),
        oldest: today.plus_millis(-millis(options.retention)),
        newest: (!is_behind).then(|| arrival.plus_millis(millis(options.future_limit))),
    }
}

/// Where the readings of a message go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// To this event time.
    At {
        /// The event time.
        time: Timestamp,
        /// Whether that is the arrival because the message's own time lay too far ahead.
        is_clamped: bool,
    },
    /// Nowhere, for this reason.
    Invalid(Invalid),
    /// Nowhere: they are older than the store keeps.
    Expired,
}

type Key = (DeviceId, Timestamp, u64);

/// The latest messages that were set to their arrival, so that one that is delivered again gets the same time again.
///
/// They are told by device, given time and payload: a clock that stands still gives different readings the same time.
/// What is forgotten, by a restart after the store has passed the message, is taken for new (ADR 0006).
#[derive(Debug, Default)]
pub(super) struct ClampMemory {
    hasher: RandomState,
    placed: HashMap<Key, Timestamp, RandomState>,
    order: VecDeque<Key>,
}

impl ClampMemory {
    /// The place of a message of `device` that reached us at `arrival`.
    pub(super) fn place(&mut self, placed: Placed, (device, payload): (DeviceId, &[u8]), arrival: Timestamp) -> Place {
        let (given, fallback) = match placed {
            Placed::Refused(reason) => return Place::Invalid(reason),
            Placed::Expired => return Place::Expired,
            // The time may lie too far ahead no longer when the message comes again.
            Placed::At(time) if self.placed.is_empty() => return Place::At { time, is_clamped: false },
            Placed::At(time) => (time, None),
            Placed::Clamped(given) => (given, Some(arrival)),
        };
        let key = (device, given, self.hasher.hash_one(payload));
        match (self.placed.get(&key), fallback) {
            (Some(&time), _) => Place::At { time, is_clamped: true },
            (None, None) => Place::At { time: given, is_clamped: false },
            (None, Some(time)) => {
                self.remember(key, time);
                Place::At { time, is_clamped: true }
            }
        }
    }

    fn remember(&mut self, key: Key, time: Timestamp) {
        if self.order.len() >= REMEMBERED_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.placed.remove(&oldest);
        }
        self.order.push_back(key);
        self.placed.insert(key, time);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::tests::options;

    const NOW: i64 = 1_795_507_200_000;
    const DAY: i64 = 86_400_000;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(NOW + millis)
    }

    #[test]
    fn a_clock_is_believed_within_a_day_of_the_newest_row_only() {
        let believed = |arrival, row: Option<Timestamp>| {
            let TimeLimits { arrival, oldest, newest } = limits(arrival, row, &options());
            // Retention is a day, the future limit five minutes.
            (arrival, oldest.plus_millis(DAY), newest.map(|newest| newest.plus_millis(-300_000)))
        };
        let far = Timestamp::from_millis(5_000);
        let never = Timestamp::from_millis(i64::MIN + DAY);
        for (arrival, row, expected) in [
            (at(0), None, (Some(at(0)), at(0), Some(at(0)))),
            (at(0), Some(at(-60_000)), (Some(at(0)), at(0), Some(at(0)))),
            // The clock of a gateway was never set.
            (far, None, (None, never, None)),
            (far, Some(at(0)), (None, at(0), None)),
            // It shows the time that it saved when it was switched off.
            (at(0), Some(at(2 * DAY)), (Some(at(0)), at(2 * DAY), None)),
            // It runs ten years ahead.
            (at(3_650 * DAY), Some(at(0)), (Some(at(3_650 * DAY)), at(DAY), Some(at(3_650 * DAY)))),
        ] {
            assert_eq!(believed(arrival, row), expected, "{arrival} {row:?}");
        }
    }

    #[test]
    fn a_message_that_comes_again_keeps_the_arrival_that_it_was_set_to() {
        let mut memory = ClampMemory::default();
        let mut place = |placed, payload: &[u8], arrival| memory.place(placed, (DeviceId(1), payload), arrival);
        let set_to = |time| Place::At { time, is_clamped: true };
        assert_eq!(place(Placed::Clamped(at(DAY)), b"a", at(0)), set_to(at(0)));
        assert_eq!(place(Placed::Clamped(at(DAY)), b"a", at(7_000)), set_to(at(0)));
        // Its time has come meanwhile.
        assert_eq!(place(Placed::At(at(DAY)), b"a", at(DAY)), set_to(at(0)));
        // A clock that stands still.
        assert_eq!(place(Placed::Clamped(at(DAY)), b"b", at(8_000)), set_to(at(8_000)));
        assert_eq!(place(Placed::At(at(9_000)), b"a", at(9_000)), Place::At { time: at(9_000), is_clamped: false });
    }

    #[test]
    fn the_memory_of_messages_is_bounded() {
        let mut memory = ClampMemory::default();
        for n in 0..70_000 {
            memory.place(Placed::Clamped(at(n)), (DeviceId(1), b"a"), at(0));
        }
        assert_eq!((memory.order.len(), memory.placed.len()), (REMEMBERED_MAX, REMEMBERED_MAX));
    }

    #[test]
    fn the_oldest_clamped_message_is_forgotten_at_the_bound() {
        let mut memory = ClampMemory::default();
        let mut place = |given: i64, arrival: i64| {
            let far_ahead = Placed::Clamped(at(given + 400 * DAY));
            memory.place(far_ahead, (DeviceId(0), b"{}"), at(arrival))
        };
        let max = i64::try_from(REMEMBERED_MAX).expect("small");
        for number in 0..=max {
            place(number, number);
        }
        assert_eq!(place(1, max + 1), Place::At { time: at(1), is_clamped: true });
        assert_eq!(place(0, max + 1), Place::At { time: at(max + 1), is_clamped: true });
    }
}
