//! PUBLISH packets that are encoded once; when one is sent, packet identifier, `ts` and values are written over those of
//! the time before.
//!
//! Packets of one kind of site have one length and one layout, since names and values have fixed widths. Pure.

use bytes::BytesMut;
use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v4::Publish;

use super::fleet::{Fleet, Member, SiteKind};
use super::quantity::{Quantity, quantities};
use super::{Qos, mixed};

/// A time of 13 digits, which every time from 2001 to 2286 has.
const TIME_SAMPLE: &str = "1764000000000";
/// The flag of a packet that is sent again.
pub(super) const DUPLICATE_FLAG: u8 = 0x08;

/// Where the parts that change lie in a packet.
#[derive(Debug, Default)]
struct Layout {
    packet_bytes: usize,
    packet_id_at: Option<usize>,
    time_at: usize,
    values: Vec<(usize, usize, &'static Quantity)>,
}

/// One site's packet.
#[derive(Clone, Copy, Debug)]
struct Slot {
    start: usize,
    kind: SiteKind,
    seed: u64,
}

/// The packets of all sites of a connection, one behind the other in the order in which they are sent.
#[derive(Debug)]
pub(super) struct Templates {
    bytes: Vec<u8>,
    slots: Vec<Slot>,
    layouts: [Layout; 3],
}

impl Templates {
    /// Packets of `members`; `seed` makes their values.
    pub(super) fn new(members: &[Member], qos: Qos, seed: u64) -> Self {
        let mut templates =
            Self { bytes: Vec::new(), slots: Vec::with_capacity(members.len()), layouts: <[Layout; 3]>::default() };
        let mut packet = BytesMut::new();
        for member in members {
            let payload = payload(member.kind);
            packet.clear();
            let level = if qos == Qos::AtMostOnce { QoS::AtMostOnce } else { QoS::AtLeastOnce };
            let mut publish = Publish::new(member.topic(), level, payload.as_bytes());
            publish.pkid = u16::from(qos == Qos::AtLeastOnce);
            publish.write(&mut packet).expect("invariant: a few hundred bytes make a packet");
            templates.layouts[member.kind as usize] = Layout::of(member.kind, packet.len(), &payload, qos);
            let seed = mixed(seed ^ mixed(templates.slots.len() as u64 ^ hash_of(&member.site)));
            templates.slots.push(Slot { start: templates.bytes.len(), kind: member.kind, seed });
            templates.bytes.extend_from_slice(&packet);
        }
        templates
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Appends the packet of the site at `index`, as of `time_ms`, to `out`; returns its length.
    pub(super) fn append(&self, index: usize, time_ms: u64, packet_id: u16, out: &mut Vec<u8>) -> usize {
        let slot = self.slots[index];
        let layout = &self.layouts[slot.kind as usize];
        let begin = out.len();
        out.extend_from_slice(&self.bytes[slot.start..slot.start + layout.packet_bytes]);
        let packet = &mut out[begin..];
        set_packet_id(layout.packet_id_at, packet_id, packet);
        digits(time_ms, &mut packet[layout.time_at..layout.time_at + TIME_SAMPLE.len()]);
        let mut chance = slot.seed ^ time_ms;
        for &(at, width, quantity) in &layout.values {
            chance = mixed(chance.wrapping_add(0x9E37_79B9_7F4A_7C15));
            quantity.write(quantity.steps(slot.seed, time_ms, chance), &mut packet[at..at + width]);
        }
        layout.packet_bytes
    }

    /// Appends once more the packet of the site at `index` that stands at `from`, under another identifier.
    pub(super) fn append_again(&self, index: usize, from: usize, packet_id: u16, out: &mut Vec<u8>) -> usize {
        let layout = &self.layouts[self.slots[index].kind as usize];
        let begin = out.len();
        out.extend_from_within(from..from + layout.packet_bytes);
        set_packet_id(layout.packet_id_at, packet_id, &mut out[begin..]);
        layout.packet_bytes
    }
}

impl Layout {
    fn of(kind: SiteKind, packet_bytes: usize, payload: &str, qos: Qos) -> Self {
        let payload_at = packet_bytes - payload.len();
        let find =
            |text: &str| payload_at + payload.find(text).expect("invariant: the payload was made with it") + text.len();
        let value =
            |quantity: &'static Quantity| (find(&format!("\"{}\":", quantity.name)), quantity.width(), quantity);
        Self {
            packet_bytes,
            packet_id_at: (qos == Qos::AtLeastOnce).then(|| payload_at - 2),
            time_at: find("\"ts\":"),
            values: quantities(kind).iter().map(value).collect(),
        }
    }
}

fn payload(kind: SiteKind) -> String {
    let readings: Vec<_> =
        quantities(kind).iter().map(|quantity| format!("\"{}\":{}", quantity.name, quantity.sample())).collect();
    format!("{{\"ts\":{TIME_SAMPLE},\"readings\":{{{}}}}}", readings.join(","))
}

fn set_packet_id(at: Option<usize>, packet_id: u16, packet: &mut [u8]) {
    if let Some(at) = at {
        packet[at..at + 2].copy_from_slice(&packet_id.to_be_bytes());
    }
}

fn digits(mut value: u64, text: &mut [u8]) {
    for digit in text.iter_mut().rev() {
        *digit = b'0' + u8::try_from(value % 10).unwrap_or(0);
        value /= 10;
    }
}

fn hash_of(text: &str) -> u64 {
    text.bytes().fold(0, |hash, byte| mixed(hash ^ u64::from(byte)))
}

/// The members of a city in random order, dealt to so many connections.
pub(super) fn dealt(fleet: Fleet, connections: usize, seed: u64) -> Vec<Vec<Member>> {
    let mut members: Vec<_> = fleet.members().collect();
    fastrand::Rng::with_seed(seed).shuffle(&mut members);
    let per_connection = members.len().div_ceil(connections.max(1)).max(1);
    members.chunks(per_connection).map(<[Member]>::to_vec).collect()
}

#[cfg(test)]
mod tests {
    use rumqttc::mqttbytes::v4::Packet;

    use super::*;
    use crate::decode::event_time::GivenTime;
    use crate::decode::native::decode;
    use crate::decode::topic::Topic;
    use crate::inventory::parse_profile;
    use crate::simulate::load::quantity::profile_toml;

    const TIME_MS: u64 = 1_771_234_567_890;

    fn publish(bytes: &[u8]) -> Publish {
        match Packet::read(&mut BytesMut::from(bytes), 10_000).expect("a packet") {
            Packet::Publish(publish) => publish,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_patched_packet_is_a_publish_with_13_readings_in_range_and_the_time_asked_for() {
        let members: Vec<_> = Fleet { sites: 200 }.members().collect();
        for qos in [Qos::AtMostOnce, Qos::AtLeastOnce] {
            let templates = Templates::new(&members, qos, 7);
            let mut out = Vec::new();
            for (index, member) in members.iter().enumerate() {
                out.clear();
                for (turn, time_ms) in [TIME_MS, TIME_MS + 10_000].into_iter().enumerate() {
                    let begin = out.len();
                    let length = templates.append(index, time_ms, 515, &mut out);
                    assert_eq!(out.len(), begin + length);
                    let read = publish(&out[begin..]);
                    assert_eq!(
                        (read.topic.as_str(), read.pkid),
                        (member.topic().as_str(), if qos == Qos::AtMostOnce { 0 } else { 515 })
                    );
                    assert!(Topic::parse(&read.topic).is_some());
                    let message = decode(&read.payload).expect("well formed");
                    let time = i64::try_from(time_ms).expect("a time");
                    assert_eq!(message.time, Some(GivenTime::Whole(time)), "{turn}");
                    assert_eq!(message.readings.len(), 13);
                    let profile = parse_profile("x", &profile_toml(member.kind)).expect("a good profile");
                    for (name, value) in message.readings {
                        let metric = &profile.metrics[profile.slot(&name).expect("listed")];
                        let value = value.expect("a number");
                        assert!((metric.valid.0..=metric.valid.1).contains(&value), "{name} = {value}");
                    }
                }
                assert_ne!(out[..out.len() / 2], out[out.len() / 2..], "other values at another time");
            }
        }
    }

    #[test]
    fn a_packet_that_is_repeated_differs_in_its_identifier_alone() {
        let members: Vec<_> = Fleet { sites: 5 }.members().collect();
        let templates = Templates::new(&members, Qos::AtLeastOnce, 7);
        let mut out = vec![0; 3];
        templates.append(2, TIME_MS, 1, &mut out);
        templates.append_again(2, 3, 2, &mut out);
        let half = 3 + (out.len() - 3) / 2;
        let (first, second) = (publish(&out[3..half]), publish(&out[half..]));
        assert_eq!((first.pkid, second.pkid), (1, 2));
        assert_eq!((first.topic, first.payload), (second.topic, second.payload));
    }

    #[test]
    fn every_member_is_dealt_to_one_connection_and_the_same_seed_deals_alike() {
        let hands = dealt(Fleet { sites: 100 }, 7, 3);
        assert_eq!(hands.len(), 7);
        assert_eq!(hands, dealt(Fleet { sites: 100 }, 7, 3));
        let mut topics: Vec<_> = hands.iter().flatten().map(Member::topic).collect();
        topics.sort();
        topics.dedup();
        assert_eq!(topics.len(), 100);
    }
}
