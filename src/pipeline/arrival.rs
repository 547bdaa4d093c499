//! What a message's arrival says about the times in it, and which messages were set to it.
//!
//! A gateway without a clock of its own starts in 1970 or at the time it last saved, and one whose clock is set wrongly
//! may run years ahead. Such an arrival must neither make good event times invalid nor place readings: it is held
//! against what the rows of the store and our own clock have agreed on.

use std::collections::VecDeque;
use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use super::Options;
use crate::clock::CLOCK_SET_FROM;
use crate::decode::event_time::{Placed, TimeLimits};
use crate::ledger::Invalid;
use crate::model::{DeviceId, Timestamp, WindowStart, millis};

/// How far a clock may lie from what is known and still be believed, ms: behind it, when it judges what is too far
/// ahead; beyond the newest row, when it judges what is too old.
const BELIEVED_MS: i64 = 24 * 3_600_000;
/// Messages that are remembered as set to their arrival; more than brokers send again after a lost connection.
const REMEMBERED_MAX: usize = 65_536;

/// What the store knows of the time: start of its newest row, and what is final by our own clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) newest_row: Option<WindowStart>,
    pub(super) final_until: Option<Timestamp>,
}

impl Known {
    /// The latest time that rows and our own clock agree on. Rows alone may be those of one device with a clock far ahead,
    /// and our clock alone may have run ahead.
    fn agreed(self) -> Option<Timestamp> {
        let until = self.final_until.filter(|until| *until >= CLOCK_SET_FROM)?;
        self.newest_row.map(|row| row.min(until))
    }
}

/// What a message that came at `arrival` is held against.
pub(super) fn limits(arrival: Timestamp, known: Known, options: &Options) -> TimeLimits {
    let is_set = arrival >= CLOCK_SET_FROM;
    let is_behind = !is_set || known.agreed().is_some_and(|agreed| arrival < agreed.plus_millis(-BELIEVED_MS));
    // What is too old is told with care: a reading that is taken for expired is lost.
    let today = match known.newest_row {
        Some(row) if is_set => arrival.min(row.plus_millis(BELIEVED_MS)),
        None if is_set => arrival,
        _ => known.agreed().unwrap_or(Timestamp::from_millis(i64::MIN)),
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
    fn a_clock_is_held_against_what_rows_and_it_have_agreed_on() {
        let believed = |arrival, newest_row: Option<Timestamp>, final_until: Option<Timestamp>| {
            let TimeLimits { arrival, oldest, newest } = limits(arrival, Known { newest_row, final_until }, &options());
            // Retention is a day, the future limit five minutes.
            (arrival, oldest.plus_millis(DAY), newest.map(|newest| newest.plus_millis(-300_000)))
        };
        let unset = Timestamp::from_millis(5_000);
        let never = Timestamp::from_millis(i64::MIN + DAY);
        for (arrival, row, until, expected) in [
            (at(0), None, None, (Some(at(0)), at(0), Some(at(0)))),
            (at(0), Some(at(-60_000)), Some(at(-120_000)), (Some(at(0)), at(0), Some(at(0)))),
            // The clock of a gateway was never set: not in this run, and never at all.
            (unset, Some(at(0)), Some(at(-60_000)), (None, at(-60_000), None)),
            (unset, None, None, (None, never, None)),
            (unset, Some(at(0)), Some(unset), (None, never, None)),
            // It shows the time that it saved when it was switched off, or was set back.
            (at(0), Some(at(2 * DAY)), Some(at(2 * DAY)), (Some(at(0)), at(0), None)),
            // It runs ten years ahead.
            (at(3_650 * DAY), Some(at(0)), Some(at(0)), (Some(at(3_650 * DAY)), at(DAY), Some(at(3_650 * DAY)))),
            // A device that was years ahead was believed while our clock was unset. It makes nothing old, and no other
            // is believed since.
            (at(0), Some(at(800 * DAY)), Some(at(-60_000)), (Some(at(0)), at(0), Some(at(0)))),
            (unset, Some(at(800 * DAY)), Some(at(-60_000)), (None, at(-60_000), None)),
        ] {
            assert_eq!(believed(arrival, row, until), expected, "{arrival} {row:?} {until:?}");
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
