//! Bytes of a hostile broker, through assembler and session.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Options;
use super::assembler::{Assembler, Body, Incoming, OVERSIZE_HEAD_BYTES};
use super::session::{Epoch, Event, Fate, Session};
use crate::fuzzing::Script;

/// CONNACK, and SUBACK for one filter.
const GREETING: [u8; 9] = [0x20, 2, 0, 0, 0x90, 3, 0, 1, 1];
/// Bytes that may wait beside payload and piece: the longest topic, or the longest control packet.
const BESIDE_BYTES: usize = 65_535 + 64;

/// The limit of payloads, the size of pieces, whether the broker begins well, and what it sends.
pub fn mqtt(data: &[u8]) {
    let mut script = Script::new(data);
    let payload_bytes_max = usize::from(script.byte()) * 8;
    let stride = 1 + usize::from(script.byte());
    let greeting = if script.flag() { &GREETING[..] } else { &[] };
    let stream = [greeting, script.rest()].concat();
    let whole = assemble(&stream, stream.len().max(1), payload_bytes_max);
    let (packets, fault) = assemble(&stream, stride, payload_bytes_max);
    assert_eq!((&packets, &fault), (&whole.0, &whole.1), "how the bytes are cut makes a difference");
    converse(packets);
}

fn assemble(stream: &[u8], stride: usize, payload_bytes_max: usize) -> (Vec<Incoming>, Option<String>) {
    let mut assembler = Assembler::new(payload_bytes_max);
    let mut packets = Vec::new();
    for piece in stream.chunks(stride) {
        assembler.feed(piece);
        loop {
            match assembler.next() {
                Ok(Some(packet)) => packets.push(packet),
                Ok(None) => break,
                Err(fault) => return (packets, Some(fault.to_string())),
            }
        }
        let waiting = assembler.waiting_bytes();
        assert!(waiting <= payload_bytes_max + stride + BESIDE_BYTES, "{waiting} bytes wait");
    }
    for packet in &packets {
        if let Incoming::Message(message) = packet {
            match &message.body {
                Body::Whole(payload) => assert!(payload.len() <= payload_bytes_max, "{message:?}"),
                Body::Oversize(head) => assert!(head.len() <= OVERSIZE_HEAD_BYTES, "{message:?}"),
            }
        }
    }
    (packets, None)
}

/// Every message with a packet identifier is acknowledged once it is kept, in the order in which they came.
fn converse(packets: Vec<Incoming>) {
    let now = Instant::now();
    let mut session = Session::new(&options(), Epoch(1), now + Duration::from_mins(1), now).expect("a session");
    let (mut batches, mut expected) = (Vec::new(), Vec::new());
    for packet in packets {
        match session.take(packet, now) {
            Ok(Event::Message(message)) => {
                expected.extend(message.packet_id);
                batches.push(session.hand_over(message.packet_id.into_iter().collect(), now));
            }
            Ok(Event::None | Event::Subscribed { .. }) => {}
            Err(_) => break,
        }
    }
    let greeted = session.output().len();
    session.written(greeted, now);
    for batch in batches.into_iter().rev() {
        session.settle(Epoch(1), batch, Fate::Kept, now).expect("a kept batch is settled");
    }
    let acks = expected.iter().flat_map(|id: &u16| [0x40, 2, id.to_be_bytes()[0], id.to_be_bytes()[1]]);
    assert!(acks.eq(session.output().iter().copied()), "{expected:?} are not acknowledged so: {:?}", session.output());
    assert_eq!(session.take_acks().total(), expected.len() as u64);
    assert!(!session.has_outstanding());
}

fn options() -> Options {
    Options {
        name: Arc::from("east"),
        host: "broker".to_owned(),
        port: 1883,
        client_id: "sitepulse".to_owned(),
        topics: vec!["telemetry/#".to_owned()],
        login: None,
        keep_alive: Duration::from_secs(30),
        connect_timeout: Duration::from_secs(5),
        packet_bytes_max: 1 << 20,
        backoff_max: Duration::from_secs(1),
    }
}
