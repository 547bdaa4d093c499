//! Topics whose messages keep being rejected: each is reported once when it begins and once when it is over.
//!
//! Owns a bounded table; what goes beyond it is counted together. Never decides what is rejected.

use std::collections::BTreeMap;
use std::sync::Arc;

use tracing::{info, warn};

use crate::health::Trouble;
use crate::ledger::Rejection;
use crate::model::{Frame, Timestamp};

/// Topics that are told apart.
const TOPICS_MAX: usize = 64;
/// Bytes of a topic by which it is told apart.
const TOPIC_BYTES_MAX: usize = 256;
/// Time without a rejected message after which it is over.
const QUIET_MS: i64 = 5 * 60_000;
/// What stands for the topics that the table has no room for.
const FURTHER: &str = "further topics";

/// What was rejected of one topic since it began.
#[derive(Debug)]
struct Spell {
    reason: Rejection,
    since: Timestamp,
    last: Timestamp,
    count: u64,
    /// Whether there was one since it was last looked at: those of a backlog arrived long ago.
    is_fresh: bool,
}

/// Topics whose messages are rejected now, by source.
#[derive(Debug, Default)]
pub(super) struct Rejections {
    sources: BTreeMap<Arc<str>, BTreeMap<Box<str>, Spell>>,
    topics: usize,
}

impl Rejections {
    /// Counts a rejected message; the log says so for the first one.
    pub(super) fn note(&mut self, frame: &Frame, reason: Rejection) {
        let topic = &frame.topic[..frame.topic.floor_char_boundary(TOPIC_BYTES_MAX)];
        let spells = self.sources.entry(frame.source.clone()).or_default();
        let topic = if self.topics >= TOPICS_MAX && !spells.contains_key(topic) { FURTHER } else { topic };
        if let Some(spell) = spells.get_mut(topic) {
            (spell.reason, spell.last) = (reason, spell.last.max(frame.arrival));
            spell.count += 1;
            spell.is_fresh = true;
            return;
        }
        warn!(source = %frame.source, topic, reason = reason.label(), "messages are rejected");
        let (since, last) = (frame.arrival, frame.arrival);
        spells.insert(topic.into(), Spell { reason, since, last, count: 1, is_fresh: true });
        self.topics += 1;
    }

    /// Ends what is over at `now`, and gives what is not.
    pub(super) fn settle(&mut self, now: Timestamp) -> Vec<Trouble> {
        for (source, spells) in &mut self.sources {
            spells.retain(|topic, spell| {
                // An arrival far ahead is of a clock that was set back since.
                let is_recent = now.millis_since(spell.last).saturating_abs() < QUIET_MS;
                let lasts = std::mem::take(&mut spell.is_fresh) || is_recent;
                if !lasts {
                    info!(%source, topic, rejected = spell.count, "messages are no longer rejected");
                }
                lasts
            });
        }
        self.topics = self.sources.values().map(BTreeMap::len).sum();
        let trouble = |source: &str, topic: &str, spell: &Spell| Trouble {
            subject: format!("{source}: {topic}"),
            reason: format!("messages are rejected ({}); see the dead letters", spell.reason.label()),
            since: spell.since,
            count: spell.count,
            next: None,
        };
        let of_source = |(source, spells): (&Arc<str>, &BTreeMap<Box<str>, Spell>)| {
            spells.iter().map(|(topic, spell)| trouble(source, topic, spell)).collect::<Vec<_>>()
        };
        self.sources.iter().flat_map(of_source).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::FrameKind;

    fn frame(topic: &str, at: i64) -> Frame {
        let arrival = Timestamp::from_millis(at);
        Frame { source: "east".into(), kind: FrameKind::NativeJson, topic: topic.into(), payload: Vec::new(), arrival }
    }

    #[test]
    fn a_topic_is_one_trouble_from_its_first_rejection_until_five_quiet_minutes() {
        let mut rejections = Rejections::default();
        for at in 0..1_000 {
            rejections.note(&frame("a", at), Rejection::MalformedJson);
        }
        rejections.note(&frame("b", 500), Rejection::Unregistered);
        let troubles = rejections.settle(Timestamp::from_millis(300_499));
        let told: Vec<_> = troubles.iter().map(|it| (it.subject.as_str(), it.since.as_millis(), it.count)).collect();
        assert_eq!(told, [("east: a", 0, 1_000), ("east: b", 500, 1)]);
        assert!(troubles[0].reason.contains("malformed_json"), "{troubles:?}");
        assert_eq!(rejections.settle(Timestamp::from_millis(300_500)).len(), 1);
        assert!(rejections.settle(Timestamp::from_millis(300_999)).is_empty());
        rejections.note(&frame("a", 400_000), Rejection::MalformedJson);
        assert_eq!(rejections.settle(Timestamp::from_millis(400_000))[0].count, 1);
    }

    #[test]
    fn a_rejection_under_a_clock_that_ran_years_ahead_does_not_last_for_years() {
        let mut rejections = Rejections::default();
        rejections.note(&frame("a", 3_650 * 86_400_000), Rejection::MalformedJson);
        assert_eq!(rejections.settle(Timestamp::from_millis(3_650 * 86_400_000)).len(), 1);
        assert!(rejections.settle(Timestamp::from_millis(0)).is_empty());
    }

    #[test]
    fn a_backlog_of_rejected_messages_is_one_trouble_while_it_is_read() {
        let mut rejections = Rejections::default();
        let today = Timestamp::from_millis(86_400_000);
        for flush in 1..4 {
            rejections.note(&frame("a", flush * 1_000), Rejection::MalformedJson);
            let troubles = rejections.settle(today);
            assert_eq!((troubles.len(), troubles[0].count), (1, flush.unsigned_abs()));
        }
        assert!(rejections.settle(today).is_empty());
    }

    #[test]
    fn a_publisher_that_invents_topics_fills_no_more_than_the_table() {
        let mut rejections = Rejections::default();
        for number in 0..10_000 {
            rejections.note(&frame(&format!("{number}{}", "ü".repeat(10_000)), 0), Rejection::MalformedJson);
        }
        let troubles = rejections.settle(Timestamp::from_millis(0));
        assert_eq!(troubles.len(), TOPICS_MAX + 1);
        assert_eq!(troubles.iter().map(|trouble| trouble.count).sum::<u64>(), 10_000);
        assert!(troubles.iter().all(|trouble| trouble.subject.len() <= TOPIC_BYTES_MAX + 6));
        assert!(troubles.iter().any(|trouble| trouble.subject == "east: further topics"));
    }
}
