//! Bytes of segments: header and records, as the module's page lays them out.
//!
//! Owns the layout and nothing else. Never touches the disk, never panics on any bytes.

use std::sync::Arc;

use super::spare::Spare;
use crate::model::{Frame, FrameKind, Timestamp};

pub(super) const VERSION: u32 = 1;
pub(super) const HEADER_BYTES: u64 = 24;
/// Length, index and checksum, which stand before the body.
pub(super) const PREFIX_BYTES: usize = 12;
/// Kind, arrival and the three lengths.
const BODY_BYTES_MIN: usize = 1 + 8 + 2 + 2 + 4;
pub(super) const RECORD_BYTES_MIN: u64 = (PREFIX_BYTES + BODY_BYTES_MIN) as u64;
/// A larger payload is kept as the head of an oversize message.
pub(super) const PAYLOAD_BYTES_MAX: usize = 16 << 20;
const BODY_BYTES_MAX: usize = BODY_BYTES_MIN + 2 * u16::MAX as usize + PAYLOAD_BYTES_MAX;
/// All of a record before its payload, at the longest.
pub(super) const HEAD_BYTES_MAX: usize = PREFIX_BYTES + BODY_BYTES_MIN + 2 * u16::MAX as usize;
const OVERSIZE_HEAD_BYTES: usize = 1 << 10;
const MAGIC: [u8; 8] = *b"SPJOURNL";
/// Sources are few; what a damaged record calls one must not grow the list for ever.
const SOURCES_MAX: usize = 64;

/// Starts the checksum of every record of one segment, so that a record is valid only in the segment and under the
/// version it was written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seed(u32);

impl Seed {
    pub(super) fn of(first: u64) -> Self {
        Self(crc32c::crc32c(&header_fields(VERSION, first)))
    }

    fn checksum(self, prefix: &[u8], body: &[u8]) -> u32 {
        crc32c::crc32c_append(crc32c::crc32c_append(self.0, prefix), body)
    }
}

fn header_fields(version: u32, first: u64) -> [u8; 20] {
    let mut fields = [0; 20];
    fields[..8].copy_from_slice(&MAGIC);
    fields[8..12].copy_from_slice(&version.to_le_bytes());
    fields[12..].copy_from_slice(&first.to_le_bytes());
    fields
}

/// The header of the segment whose first record has position `first`.
pub(super) fn header(first: u64) -> Vec<u8> {
    header_of_version(VERSION, first)
}

pub(super) fn header_of_version(version: u32, first: u64) -> Vec<u8> {
    let fields = header_fields(version, first);
    let mut header = fields.to_vec();
    header.extend_from_slice(&crc32c::crc32c(&fields).to_le_bytes());
    header
}

/// What a segment's first bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Header {
    Valid,
    /// Written by a later program; its records cannot be read by this one.
    Future(u32),
    Unreadable,
}

/// Reads the header of the segment whose name says that it starts at `first`.
pub(super) fn read_header(bytes: &[u8], first: u64) -> Header {
    if bytes == header(first) {
        return Header::Valid;
    }
    match u32_at(bytes, 8) {
        Some(version) if version > VERSION && bytes == header_of_version(version, first) => Header::Future(version),
        _ => Header::Unreadable,
    }
}

/// What stands before a record's body.
#[derive(Clone, Copy, Debug)]
pub(super) struct Prefix {
    pub(super) body_bytes: usize,
    /// The record's place in its segment, from 0.
    pub(super) index: u64,
}

impl Prefix {
    /// The prefix at the start of `bytes`; `None` where no record can start.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let body_bytes = usize::try_from(u32_at(bytes, 0)?).ok()?;
        let index = u64::from(u32_at(bytes, 4)?);
        (BODY_BYTES_MIN..=BODY_BYTES_MAX).contains(&body_bytes).then_some(Self { body_bytes, index })
    }

    pub(super) fn record_bytes(self) -> usize {
        PREFIX_BYTES + self.body_bytes
    }
}

/// Whether `record`, a prefix and its body, is as it was written.
pub(super) fn is_intact(record: &[u8], seed: Seed) -> bool {
    match record.split_at_checked(PREFIX_BYTES) {
        Some((prefix, body)) => u32_at(prefix, 8) == Some(seed.checksum(&prefix[..8], body)),
        None => false,
    }
}

/// Whether the lengths in a record's body, whose first bytes are in `head`, add up to what its prefix says.
pub(super) fn lengths_add_up(head: &[u8], prefix: Prefix) -> bool {
    let body_bytes = || {
        let source_bytes = usize::from(u16_at(head, PREFIX_BYTES + 9)?);
        let topic_bytes = usize::from(u16_at(head, PREFIX_BYTES + 11 + source_bytes)?);
        let payload_bytes = usize::try_from(u32_at(head, PREFIX_BYTES + 13 + source_bytes + topic_bytes)?).ok()?;
        (BODY_BYTES_MIN + source_bytes + topic_bytes).checked_add(payload_bytes)
    };
    body_bytes() == Some(prefix.body_bytes)
}

/// Bytes that `frame` takes in a segment.
pub(super) fn record_bytes(frame: &Frame) -> u64 {
    let parts = Parts::of(frame);
    (PREFIX_BYTES + BODY_BYTES_MIN + parts.source.len() + parts.topic.len() + parts.payload.len()) as u64
}

/// Adds `frame` to `out` as the record at `index` of the segment of `seed`.
pub(super) fn encode(frame: &Frame, seed: Seed, index: u32, out: &mut Vec<u8>) {
    let parts = Parts::of(frame);
    let start = out.len();
    out.extend_from_slice(&[0; PREFIX_BYTES]);
    out.push(parts.kind.code());
    out.extend_from_slice(&frame.arrival.as_millis().to_le_bytes());
    for name in [parts.source, parts.topic] {
        let bytes = u16::try_from(name.len()).expect("invariant: names are cut to 16 bits");
        out.extend_from_slice(&bytes.to_le_bytes());
        out.extend_from_slice(name.as_bytes());
    }
    let payload_bytes = u32::try_from(parts.payload.len()).expect("invariant: payloads are cut to their bound");
    out.extend_from_slice(&payload_bytes.to_le_bytes());
    out.extend_from_slice(parts.payload);
    let (prefix, body) = out[start..].split_at_mut(PREFIX_BYTES);
    let body_bytes = u32::try_from(body.len()).expect("invariant: a body's parts are bounded");
    prefix[..4].copy_from_slice(&body_bytes.to_le_bytes());
    prefix[4..8].copy_from_slice(&index.to_le_bytes());
    let checksum = seed.checksum(&prefix[..8], body);
    prefix[8..].copy_from_slice(&checksum.to_le_bytes());
}

/// What of a frame goes to disk: all of it, or the head of one that is beyond the bounds.
struct Parts<'a> {
    kind: FrameKind,
    source: &'a str,
    topic: &'a str,
    payload: &'a [u8],
}

impl<'a> Parts<'a> {
    fn of(frame: &'a Frame) -> Self {
        let (source, topic) = (cut(&frame.source), cut(&frame.topic));
        let whole = source.len() == frame.source.len()
            && topic.len() == frame.topic.len()
            && frame.payload.len() <= PAYLOAD_BYTES_MAX;
        if whole {
            return Self { kind: frame.kind, source, topic, payload: &frame.payload };
        }
        let head = &frame.payload[..frame.payload.len().min(OVERSIZE_HEAD_BYTES)];
        Self { kind: FrameKind::Oversize, source, topic, payload: head }
    }
}

fn cut(name: &str) -> &str {
    &name[..name.floor_char_boundary(usize::from(u16::MAX))]
}

/// Names of sources, each kept once.
#[derive(Debug, Default)]
pub(super) struct Sources(Vec<Arc<str>>);

impl Sources {
    fn named(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.0.iter().find(|known| known.as_ref() == name) {
            return Arc::clone(known);
        }
        if self.0.len() >= SOURCES_MAX {
            self.0.clear();
        }
        let name: Arc<str> = Arc::from(name);
        self.0.push(Arc::clone(&name));
        name
    }
}

/// The frame in the body of an intact record; `None` where a later program wrote what this one does not know.
pub(super) fn decode(body: &[u8], sources: &mut Sources, spare: &mut Spare) -> Option<Frame> {
    let (kind, rest) = body.split_first()?;
    let (arrival, rest) = rest.split_first_chunk::<8>()?;
    let (source, rest) = name(rest)?;
    let (topic, rest) = name(rest)?;
    let (payload_bytes, payload) = rest.split_first_chunk::<4>()?;
    if usize::try_from(u32::from_le_bytes(*payload_bytes)).ok()? != payload.len() {
        return None;
    }
    let kind = FrameKind::from_code(*kind)?;
    let (topic, payload) = spare.texts(topic, payload);
    Some(Frame {
        kind,
        source: sources.named(source),
        topic,
        payload,
        arrival: Timestamp::from_millis(i64::from_le_bytes(*arrival)),
    })
}

fn name(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    let (name, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
    Some((std::str::from_utf8(name).ok()?, rest))
}

fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    bytes.get(offset..)?.first_chunk::<2>().map(|bytes| u16::from_le_bytes(*bytes))
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes.get(offset..)?.first_chunk::<4>().map(|bytes| u32::from_le_bytes(*bytes))
}
