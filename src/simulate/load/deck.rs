//! Which message comes next: every site once a round, at which event time, which late and which twice.
//!
//! Pure: `now` is an argument, chance is seeded. No two messages of a site have one event time but those that repeat.

use super::Qos;
use super::fleet::Member;
use super::template::Templates;

/// A share of messages, in 2^32nds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share(u32);

impl Share {
    /// The share `part` of 1.
    ///
    /// # Errors
    /// What would be valid.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be between 0 and 1")]
    pub fn new(part: f64) -> Result<Self, String> {
        if (0.0..=1.0).contains(&part) {
            Ok(Self((part * f64::from(u32::MAX)) as u32))
        } else {
            Err(format!("{part} is no share; give 0 to 1, such as 0.01"))
        }
    }

    fn falls_on(self, rng: &mut fastrand::Rng) -> bool {
        self.0 > 0 && rng.u32(..) <= self.0
    }
}

/// What time messages are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventTime {
    /// When they are sent.
    Real,
    /// From this instant on, in step with the messages and not with the clock.
    From {
        /// Of the first message, ms since 1970.
        start_ms: u64,
        /// From a site's message to its next one, ms.
        interval_ms: u64,
    },
}

/// How messages are dealt.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    pub(super) time: EventTime,
    pub(super) late: Share,
    pub(super) late_by_ms: u64,
    pub(super) repeat: Share,
}

/// What was dealt so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Dealt {
    /// Messages without those that repeat another.
    pub(super) distinct: u64,
    pub(super) late: u64,
    pub(super) repeated: u64,
}

/// The messages of some sites, in their order.
#[derive(Debug)]
pub(super) struct Deck {
    templates: Templates,
    rules: Rules,
    rng: fastrand::Rng,
    next: usize,
    /// Event time of each site's last message, ms.
    last_ms: Vec<u64>,
    dealt: Dealt,
}

impl Deck {
    pub(super) fn new(members: &[Member], qos: Qos, rules: Rules, seed: u64) -> Self {
        let templates = Templates::new(members, qos, seed);
        let rng = fastrand::Rng::with_seed(seed);
        Self { last_ms: vec![0; templates.len()], templates, rules, rng, next: 0, dealt: Dealt::default() }
    }

    pub(super) fn sites(&self) -> usize {
        self.templates.len()
    }

    pub(super) fn dealt(&self) -> Dealt {
        self.dealt
    }

    /// Appends the next message to `out`, and that message again where it repeats and `packets_max` allows.
    ///
    /// `each` gets the length of each packet and gives the identifier of the next.
    pub(super) fn deal(&mut self, now_ms: u64, packets_max: u64, out: &mut Vec<u8>, each: &mut dyn Identify) {
        let index = self.next;
        self.next = (index + 1) % self.templates.len();
        let time_ms = self.event_time(index, now_ms);
        self.last_ms[index] = time_ms;
        self.dealt.distinct += 1;
        let late = self.rules.late.falls_on(&mut self.rng);
        self.dealt.late += u64::from(late);
        // Times are even and late ones odd, so that the two never meet.
        let time_ms = if late { time_ms.saturating_sub(self.rules.late_by_ms) | 1 } else { time_ms };
        let begin = out.len();
        let length = self.templates.append(index, time_ms, each.next(), out);
        each.appended(length);
        if packets_max > 1 && self.rules.repeat.falls_on(&mut self.rng) {
            self.dealt.repeated += 1;
            let length = self.templates.append_again(index, begin, each.next(), out);
            each.appended(length);
        }
    }

    fn event_time(&self, index: usize, now_ms: u64) -> u64 {
        let wanted = match self.rules.time {
            EventTime::Real => now_ms,
            EventTime::From { start_ms, interval_ms } => {
                start_ms + self.dealt.distinct * interval_ms / self.templates.len() as u64
            }
        };
        (wanted & !1).max(self.last_ms[index] + 2)
    }
}

/// Gives packets their identifiers and keeps count of them.
pub(super) trait Identify {
    /// The identifier of the next packet.
    fn next(&mut self) -> u16;
    /// The packet with that identifier was appended.
    fn appended(&mut self, length: usize);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bytes::BytesMut;
    use rumqttc::mqttbytes::v4::Packet;

    use super::*;
    use crate::decode::event_time::GivenTime;
    use crate::decode::native::decode;
    use crate::simulate::load::fleet::Fleet;

    #[derive(Default)]
    struct Counting(u16);

    impl Identify for Counting {
        fn next(&mut self) -> u16 {
            self.0 + 1
        }

        fn appended(&mut self, _: usize) {
            self.0 += 1;
        }
    }

    fn share(part: f64) -> Share {
        Share::new(part).expect("a share")
    }

    /// Event times by topic of so many deals.
    fn times(rules: Rules, sites: usize, deals: u64, now: impl Fn(u64) -> u64) -> (Dealt, BTreeMap<String, Vec<u64>>) {
        let members: Vec<_> = Fleet { sites }.members().collect();
        let mut deck = Deck::new(&members, Qos::AtLeastOnce, rules, 11);
        let (mut out, mut ids) = (Vec::new(), Counting::default());
        for deal in 0..deals {
            deck.deal(now(deal), 2, &mut out, &mut ids);
        }
        let (mut bytes, mut times) = (BytesMut::from(&out[..]), BTreeMap::<_, Vec<_>>::new());
        while !bytes.is_empty() {
            let Packet::Publish(publish) = Packet::read(&mut bytes, 10_000).expect("whole packets") else { panic!() };
            let time = decode(&publish.payload).expect("well formed").time;
            let Some(GivenTime::Whole(time)) = time else { panic!("has a time") };
            times.entry(publish.topic).or_default().push(u64::try_from(time).expect("after 1970"));
        }
        assert_eq!(times.values().map(Vec::len).sum::<usize>(), usize::from(ids.0));
        (deck.dealt(), times)
    }

    const RULES: Rules = Rules { time: EventTime::Real, late: Share(0), late_by_ms: 300_000, repeat: Share(0) };

    #[test]
    fn no_site_has_two_messages_of_one_time_however_fast_the_rounds_are_and_however_many_are_late() {
        // So little late that late times lie among the others.
        let rules = Rules { late: share(0.5), late_by_ms: 20, ..RULES };
        let (dealt, times) = times(rules, 3, 3_000, |deal| 1_764_000_000_000 + deal / 50);
        assert_eq!((dealt.distinct, dealt.repeated), (3_000, 0));
        assert!((1_300..1_700).contains(&dealt.late), "{dealt:?}");
        for of_site in times.values() {
            let mut sorted = of_site.clone();
            sorted.sort_unstable();
            sorted.dedup();
            assert_eq!(sorted.len(), 1_000);
        }
    }

    #[test]
    fn a_told_time_goes_by_messages_and_gives_every_site_its_interval() {
        let rules = Rules { time: EventTime::From { start_ms: 1_700_000_000_000, interval_ms: 10_000 }, ..RULES };
        let (_, times) = times(rules, 20, 60, |_| 5);
        assert_eq!(times.len(), 20);
        for of_site in times.values() {
            assert_eq!((of_site[1] - of_site[0], of_site[2] - of_site[1]), (10_000, 10_000));
            assert!(of_site[0] < 1_700_000_010_000);
        }
    }

    #[test]
    fn a_share_of_messages_repeats_the_one_before() {
        let (dealt, times) = times(Rules { repeat: share(0.25), ..RULES }, 10, 1_000, |deal| 1_764_000_000_000 + deal);
        assert!((180..320).contains(&dealt.repeated), "{dealt:?}");
        let twice = times.values().flat_map(|of_site| of_site.windows(2)).filter(|pair| pair[0] == pair[1]).count();
        assert_eq!(twice as u64, dealt.repeated);
        assert!(Share::new(1.5).is_err() && Share::new(f64::NAN).is_err());
    }
}
