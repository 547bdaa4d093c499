//! Devices that publish: which messages are due, and what goes wrong with them.
//!
//! Pure: `now` is an argument, chance is seeded.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::fault::{FaultKind, FaultTally, Recurring};
use super::{Model, Moment, Values};
use crate::model::Timestamp;

/// A device that publishes.
#[derive(Debug)]
pub struct Sender {
    /// Its topic.
    pub topic: Arc<str>,
    /// Time from message to message, ms.
    pub interval_ms: i64,
    /// Its messages lie this much after the interval's grid, ms.
    pub phase_ms: i64,
    /// Time from the instant that a message is of to its being sent, ms.
    pub delay_ms: i64,
    /// What it shows.
    pub model: Arc<dyn Model>,
    /// What is wrong with it.
    pub misbehaviour: Misbehaviour,
}

/// What is wrong with a device.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Misbehaviour {
    /// Nothing.
    None,
    /// It loses its link in these spans and sends what it kept at their end.
    Late(Recurring),
    /// It sends one message in so many twice.
    Repeats(u32),
    /// Its counter starts again at 0 at the start of these spans.
    Resets(Recurring),
    /// In these spans, by turns: cut JSON, a value that cannot be, text for a number.
    Nonsense {
        /// When.
        spans: Recurring,
        /// The metric that cannot be.
        metric: &'static str,
        /// Its value then.
        value: f64,
    },
    /// Nobody listed it.
    Unlisted,
}

/// A message to publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Topic.
    pub topic: Arc<str>,
    /// Payload.
    pub payload: Vec<u8>,
}

/// The devices that publish, and what they have yet to send.
#[derive(Debug)]
pub struct Outbox {
    midnight: Timestamp,
    senders: Vec<State>,
    due: BinaryHeap<Reverse<(Timestamp, usize)>>,
    /// Messages held back, by when they are sent and their number.
    held: BTreeMap<(Timestamp, u64), Message>,
    held_count: u64,
    tally: Arc<FaultTally>,
}

#[derive(Debug)]
struct State {
    sender: Sender,
    messages: u64,
    last_reset: Option<Timestamp>,
}

impl Outbox {
    /// Devices that send from `start` on, in a city whose time began at `midnight`.
    #[must_use]
    pub fn new(senders: Vec<Sender>, start: Timestamp, midnight: Timestamp, tally: Arc<FaultTally>) -> Self {
        let first = |sender: &Sender| {
            let since_phase = start.as_millis() - sender.phase_ms;
            let slots =
                since_phase.div_euclid(sender.interval_ms) + i64::from(since_phase.rem_euclid(sender.interval_ms) > 0);
            Timestamp::from_millis(slots * sender.interval_ms + sender.phase_ms + sender.delay_ms)
        };
        let due = senders.iter().enumerate().map(|(index, sender)| Reverse((first(sender), index))).collect();
        let senders = senders.into_iter().map(|sender| State { sender, messages: 0, last_reset: None }).collect();
        Self { midnight, senders, due, held: BTreeMap::new(), held_count: 0, tally }
    }

    /// When the next message is due.
    #[must_use]
    pub fn next_due(&self) -> Option<Timestamp> {
        let regular = self.due.peek().map(|Reverse((at, _))| *at);
        let held = self.held.keys().next().map(|(at, _)| *at);
        regular.into_iter().chain(held).min()
    }

    /// About `messages_max` of the messages that are due at `now`, in order.
    pub fn take(&mut self, now: Timestamp, messages_max: usize) -> Vec<Message> {
        let mut out = Vec::new();
        while out.len() < messages_max && self.next_due().is_some_and(|due| due <= now) {
            let regular = self.due.peek().map(|Reverse((at, _))| *at);
            if let Some(held) = self.held.first_entry()
                && regular.is_none_or(|regular| held.key().0 <= regular)
            {
                self.tally.count(FaultKind::Late);
                out.push(held.remove());
            } else if let Some(Reverse((at, index))) = self.due.pop() {
                self.due.push(Reverse((at.plus_millis(self.senders[index].sender.interval_ms), index)));
                self.send(index, at, &mut out);
            }
        }
        out
    }

    fn send(&mut self, index: usize, at: Timestamp, out: &mut Vec<Message>) {
        let state = &mut self.senders[index];
        state.messages += 1;
        let time = at.plus_millis(-state.sender.delay_ms);
        let values = state.sender.model.values(Moment::of(time, self.midnight));
        let topic = state.sender.topic.clone();
        let plain = |values: Values| payload(time, values.into_iter().map(|(name, value)| (name, json!(value))));
        let mut repeats = 1;
        let payload = match state.sender.misbehaviour {
            Misbehaviour::Unlisted => {
                self.tally.count(FaultKind::Unlisted);
                plain(values)
            }
            Misbehaviour::Late(spans) => {
                if let Some(end) = spans.end_of_current(at) {
                    self.held_count += 1;
                    self.held.insert((end, self.held_count), Message { topic, payload: plain(values) });
                    return;
                }
                plain(values)
            }
            Misbehaviour::Repeats(one_in) => {
                if state.messages.is_multiple_of(one_in.into()) {
                    self.tally.count(FaultKind::Repeated);
                    repeats = 2;
                }
                plain(values)
            }
            Misbehaviour::Resets(spans) => {
                let reset = spans.latest(time);
                if reset != state.last_reset {
                    self.tally.count(FaultKind::CounterReset);
                    state.last_reset = reset;
                }
                let before = reset.map(|reset| state.sender.model.values(Moment::of(reset, self.midnight)));
                plain(since(values, before.as_deref()))
            }
            Misbehaviour::Nonsense { spans, metric, value } if spans.holds(at) => {
                let (kind, payload) = nonsense(state.messages, time, &values, (metric, value));
                self.tally.count(kind);
                payload
            }
            Misbehaviour::None | Misbehaviour::Nonsense { .. } => plain(values),
        };
        let message = Message { topic, payload };
        out.extend(std::iter::repeat_n(message, repeats));
    }
}

fn payload(time: Timestamp, values: impl Iterator<Item = (&'static str, Value)>) -> Vec<u8> {
    let readings: Map<_, _> = values.map(|(name, value)| (name.to_owned(), value)).collect();
    json!({ "ts": time.as_millis(), "readings": readings }).to_string().into_bytes()
}

/// What a counter shows that began at 0 when it would have shown `before`, to a thousandth.
fn since(values: Values, before: Option<&[(&'static str, f64)]>) -> Values {
    let at_reset = |name: &str| before.and_then(|before| before.iter().find(|(known, _)| *known == name));
    let shown = |(name, value): (&'static str, f64)| {
        let start = at_reset(name).map_or(0.0, |(_, start)| *start);
        (name, super::rounded(value - start, 0.001))
    };
    values.into_iter().map(shown).collect()
}

fn nonsense(
    turn: u64,
    time: Timestamp,
    values: &[(&'static str, f64)],
    impossible: (&'static str, f64),
) -> (FaultKind, Vec<u8>) {
    let with = |replaced: Value| {
        let value = |(name, value)| (name, if name == impossible.0 { replaced.clone() } else { json!(value) });
        payload(time, values.iter().copied().map(value))
    };
    match turn % 3 {
        0 => {
            let mut cut = with(json!(1));
            cut.truncate(cut.len() * 2 / 3);
            (FaultKind::MalformedJson, cut)
        }
        1 => (FaultKind::OutOfRange, with(json!(impossible.1))),
        _ => (FaultKind::NotANumber, with(json!("n/a"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::event_time::GivenTime;
    use crate::decode::native::decode;
    use crate::ledger::Rejection;

    const START: Timestamp = Timestamp::from_millis(1_764_000_000_000);

    /// Shows the seconds since midnight.
    #[derive(Debug)]
    struct Seconds;

    impl Model for Seconds {
        fn values(&self, at: Moment) -> Values {
            vec![("seconds", at.0)]
        }
    }

    fn outbox(misbehaviour: Misbehaviour) -> Outbox {
        let sender = Sender {
            topic: Arc::from("telemetry/k/a/s/d"),
            interval_ms: 10_000,
            phase_ms: 2_000,
            delay_ms: 0,
            model: Arc::new(Seconds),
            misbehaviour,
        };
        Outbox::new(vec![sender], START, START.plus_millis(-1_000), Arc::default())
    }

    fn spans(first_s: i64, every_s: i64, length_s: i64) -> Recurring {
        let first = START.plus_millis(first_s * 1_000);
        Recurring { first, every_ms: every_s * 1_000, length_ms: length_s * 1_000 }
    }

    /// Seconds after the start that the messages until `until_s` are of, and the values they carry.
    fn heard(outbox: &mut Outbox, until_s: i64) -> Vec<(i64, Option<f64>)> {
        let messages = outbox.take(START.plus_millis(until_s * 1_000), usize::MAX);
        let read = |message: &Message| {
            let decoded = decode(&message.payload).expect("well formed");
            let Some(GivenTime::Whole(millis)) = decoded.time else { panic!("has a time") };
            (Timestamp::from_millis(millis).millis_since(START) / 1_000, decoded.readings[0].1)
        };
        messages.iter().map(read).collect()
    }

    #[test]
    fn messages_lie_on_the_grid_of_the_interval() {
        let mut outbox = outbox(Misbehaviour::None);
        assert_eq!(heard(&mut outbox, 25), [(2, Some(3.0)), (12, Some(13.0)), (22, Some(23.0))]);
        assert_eq!(heard(&mut outbox, 31), []);
        assert_eq!(outbox.next_due(), Some(START.plus_millis(32_000)));
    }

    #[test]
    fn a_link_that_was_lost_brings_its_messages_late_and_with_their_own_times() {
        let mut outbox = outbox(Misbehaviour::Late(spans(10, 100, 40)));
        assert_eq!(heard(&mut outbox, 49).len(), 1);
        let times: Vec<_> = heard(&mut outbox, 52).into_iter().map(|(at, _)| at).collect();
        assert_eq!(times, [12, 22, 32, 42, 52]);
        assert_eq!(outbox.tally.get(FaultKind::Late), 4);
    }

    #[test]
    fn one_message_in_two_is_sent_twice() {
        let mut outbox = outbox(Misbehaviour::Repeats(2));
        let times: Vec<_> = heard(&mut outbox, 32).into_iter().map(|(at, _)| at).collect();
        assert_eq!(times, [2, 12, 12, 22, 32, 32]);
        assert_eq!(outbox.tally.get(FaultKind::Repeated), 2);
    }

    #[test]
    fn a_counter_that_resets_goes_on_from_0() {
        let mut outbox = outbox(Misbehaviour::Resets(spans(20, 1_000, 1)));
        let values: Vec<_> = heard(&mut outbox, 40).into_iter().filter_map(|(_, value)| value).collect();
        assert_eq!(values, [3.0, 13.0, 2.0, 12.0]);
        assert_eq!(outbox.tally.get(FaultKind::CounterReset), 1);
    }

    #[test]
    fn nonsense_comes_in_all_its_kinds() {
        let spans = spans(0, 1_000, 30);
        let mut outbox = outbox(Misbehaviour::Nonsense { spans, metric: "seconds", value: -1.0 });
        let messages = outbox.take(START.plus_millis(40_000), usize::MAX);
        let read: Vec<_> = messages.iter().map(|message| decode(&message.payload).map(|it| it.readings[0].1)).collect();
        assert_eq!(read, [Ok(Some(-1.0)), Ok(None), Err(Rejection::MalformedJson), Ok(Some(33.0))]);
    }
}
