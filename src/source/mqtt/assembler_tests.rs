//! Tests of the assembler: packets whole, split and broken.

use proptest::prelude::{any, prop, proptest};
use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v4::{ConnectReturnCode, PubRel, Publish, SubscribeReasonCode};

use super::*;

const LIMIT: usize = 1_000;

fn publish(topic: &str, payload: &[u8], packet_id: Option<u16>) -> Packet {
    let qos = if packet_id.is_some() { QoS::AtLeastOnce } else { QoS::AtMostOnce };
    let mut publish = Publish::new(topic, qos, payload);
    publish.pkid = packet_id.unwrap_or(0);
    Packet::Publish(publish)
}

fn bytes_of(packets: &[Packet]) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    for packet in packets {
        packet.write(&mut bytes, usize::MAX).unwrap();
    }
    bytes.to_vec()
}

fn message(topic: &str, packet_id: Option<u16>, body: Body) -> Incoming {
    Incoming::Message(Message { topic: topic.into(), packet_id, body })
}

fn assemble<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<Incoming>, Malformed> {
    let mut assembler = Assembler::new(LIMIT);
    let mut packets = Vec::new();
    for piece in pieces {
        assembler.feed(piece);
        while let Some(packet) = assembler.next()? {
            packets.push(packet);
        }
    }
    Ok(packets)
}

/// A connection with every packet a broker sends, small, at the limit, over it.
fn conversation() -> (Vec<u8>, Vec<Incoming>) {
    let connack = ConnAck::new(ConnectReturnCode::Success, true);
    let suback = SubAck::new(1, vec![SubscribeReasonCode::Success(QoS::AtLeastOnce), SubscribeReasonCode::Failure]);
    let long: Vec<u8> = (0..=LIMIT).map(|index| u8::try_from(index % 251).unwrap()).collect();
    let sent = [
        Packet::ConnAck(connack.clone()),
        publish("a", b"early", Some(7)),
        Packet::SubAck(suback.clone()),
        publish("a/b", b"", None),
        publish("at/the/limit", &long[..LIMIT], Some(8)),
        publish("over/it", &long, Some(9)),
        publish("over/it/at/qos/0", &long.repeat(3), None),
        Packet::PingResp,
        publish("last", b"{}", Some(65_535)),
    ];
    let head = || Body::Oversize(long[..OVERSIZE_HEAD_BYTES].into());
    let expected = vec![
        Incoming::ConnAck(connack),
        message("a", Some(7), Body::Whole(b"early".as_slice().into())),
        Incoming::SubAck(suback),
        message("a/b", None, Body::Whole(Bytes::new())),
        message("at/the/limit", Some(8), Body::Whole(long[..LIMIT].to_vec().into())),
        message("over/it", Some(9), head()),
        message("over/it/at/qos/0", None, head()),
        Incoming::PingResp,
        message("last", Some(65_535), Body::Whole(b"{}".as_slice().into())),
    ];
    (bytes_of(&sent), expected)
}

#[test]
fn packets_are_the_same_wherever_the_bytes_are_split() {
    let (bytes, expected) = conversation();
    for at in 0..=bytes.len() {
        let (left, right) = bytes.split_at(at);
        assert_eq!(assemble([left, right]).unwrap(), expected, "split at {at}");
    }
    assert_eq!(assemble(bytes.chunks(1)).unwrap(), expected, "byte by byte");
}

#[test]
fn a_message_over_the_limit_is_never_gathered() {
    let payload = vec![b'x'; 200 * 1024];
    let bytes = bytes_of(&[publish("big", &payload, Some(3)), publish("next", b"1", Some(4))]);
    let mut assembler = Assembler::new(LIMIT);
    let mut packets = Vec::new();
    for piece in bytes.chunks(4 * 1024) {
        assembler.feed(piece);
        while let Some(packet) = assembler.next().unwrap() {
            packets.push(packet);
        }
        assert!(assembler.buffer.len() <= 4 * 1024);
    }
    let head = Body::Oversize(payload[..OVERSIZE_HEAD_BYTES].into());
    let next = Body::Whole(b"1".as_slice().into());
    assert_eq!(packets, [message("big", Some(3), head), message("next", Some(4), next)]);
}

#[test]
fn what_a_broker_must_not_send_is_refused_at_its_first_byte() {
    let refused = |bytes: &[u8]| assemble([bytes]).unwrap_err();
    assert!(matches!(refused(&[0x10]), Malformed::UnexpectedType(1)));
    assert!(matches!(refused(&[0x00]), Malformed::UnexpectedType(0)));
    assert!(matches!(refused(&bytes_of(&[Packet::PubRel(PubRel::new(1))])), Malformed::UnexpectedType(6)));
    assert!(matches!(refused(&[0x21]), Malformed::ReservedFlags(0x21)));
    assert!(matches!(refused(&[0x34]), Malformed::ExactlyOnce));
    assert!(matches!(refused(&[0x36]), Malformed::Codec(CodecError::InvalidQoS(3))));
}

#[test]
fn malformed_packets_are_errors() {
    let refused = |bytes: &[u8]| assemble([bytes]).unwrap_err();
    // Five bytes of remaining length.
    let endless = [0x30, 0xff, 0xff, 0xff, 0xff, 0x01];
    assert!(matches!(refused(&endless), Malformed::Codec(CodecError::MalformedRemainingLength)));
    // A SUBACK of a megabyte.
    assert!(matches!(refused(&[0x90, 0x80, 0x80, 0x40]), Malformed::TooLong { packet_type: 9, remaining: 0x10_0000 }));
    // A topic longer than its packet, in a small one and in one over the limit.
    assert!(matches!(refused(&[0x30, 3, 0, 9, b'a']), Malformed::Codec(CodecError::BoundaryCrossed(9))));
    assert!(matches!(refused(&[0x30, 0xd0, 0x0f, 0xff, 0xff]), Malformed::Codec(CodecError::BoundaryCrossed(0xffff))));
    // A packet identifier of 0.
    assert!(matches!(refused(&[0x32, 5, 0, 1, b'a', 0, 0]), Malformed::Codec(CodecError::PacketIdZero)));
    // A topic that is not UTF-8, in a small message and in one over the limit.
    assert!(matches!(refused(&[0x30, 3, 0, 1, 0xff]), Malformed::TopicNotUtf8));
    let mut large = bytes_of(&[publish("a", &[0; 2 * LIMIT], None)]);
    large[5] = 0xff;
    assert!(matches!(refused(&large), Malformed::TopicNotUtf8));
}

proptest! {
    #[test]
    fn garbage_never_panics(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..8)) {
        let _ = assemble(pieces.iter().map(Vec::as_slice));
    }

    #[test]
    fn damage_to_a_conversation_never_panics(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let (mut bytes, _) = conversation();
        let index = at.index(bytes.len());
        bytes[index] = byte;
        let _ = assemble(bytes.chunks(700));
    }
}
