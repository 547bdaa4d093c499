//! The protocol of an MQTT source for benchmarks: bytes to messages and acknowledgements, in memory.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Options;
use super::assembler::{Assembler, Message};
use super::intake::frame;
use super::session::{Epoch, Event, Fate, Session};
use crate::journal::Spare;
use crate::model::Timestamp;

/// Bytes that one read brings.
const CHUNK_BYTES: usize = 64 * 1024;
/// Payload bytes that are taken in.
const PAYLOAD_BYTES_MAX: usize = 1 << 20;

/// What a broker answers to CONNECT and SUBSCRIBE.
pub(crate) const GREETING: [u8; 9] = [0x20, 2, 0, 0, 0x90, 3, 0, 1, 1];

/// Options of a source that a benchmark runs.
pub(crate) fn options() -> Options {
    Options {
        name: "bench".into(),
        host: "broker".to_owned(),
        port: 1883,
        client_id: "bench".to_owned(),
        topics: vec!["#".to_owned()],
        login: None,
        keep_alive: Duration::from_hours(1),
        connect_timeout: Duration::from_hours(1),
        packet_bytes_max: PAYLOAD_BYTES_MAX,
        backoff_max: Duration::from_secs(30),
    }
}

/// Reads packets, hands them over in batches of one read, settles each batch. Returns bytes of acknowledgements.
///
/// # Panics
/// Where the bytes are no packets.
pub fn read_and_acknowledge(bytes: &[u8]) -> usize {
    read(bytes, drop)
}

/// The same, and the messages become the frames of a batch, which goes when it has `group` of them. Returns how many went.
///
/// # Panics
/// Where the bytes are no packets.
pub fn read_and_gather(bytes: &[u8], group: usize) -> usize {
    let (source, arrival) = (Arc::from("bench"), Timestamp::from_millis(0));
    let (mut batch, mut spare, mut gone) = (Vec::new(), Spare::default(), 0);
    read(bytes, |message| {
        batch.push(frame(&message, &source, arrival, &mut spare));
        if batch.len() == group {
            gone += std::hint::black_box(&mut batch).len();
            batch.drain(..).for_each(|frame| spare.add(frame));
        }
    });
    gone
}

fn read(bytes: &[u8], mut keep: impl FnMut(Message)) -> usize {
    let now = Instant::now();
    let mut session =
        Session::new(&options(), Epoch(1), now + Duration::from_hours(1), now).expect("CONNECT can be written");
    let mut assembler = Assembler::new(PAYLOAD_BYTES_MAX);
    let mut acknowledged = 0;
    for chunk in std::iter::once(GREETING.as_slice()).chain(bytes.chunks(CHUNK_BYTES)) {
        assembler.feed(chunk);
        let mut packet_ids = Vec::new();
        while let Some(packet) = assembler.next().expect("packets") {
            if let Event::Message(message) = session.take(packet, now).expect("in turn") {
                packet_ids.extend(std::hint::black_box(&message).packet_id);
                keep(message);
            }
        }
        let batch = session.hand_over(packet_ids, now);
        session.settle(Epoch(1), batch, Fate::Kept, now).expect("acknowledgements can be written");
        acknowledged += session.output().len();
        session.written(session.output().len(), now);
    }
    acknowledged
}
