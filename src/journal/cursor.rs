//! Walks the records of one segment, over damage where there is some.
//!
//! Owns the place in the file. Never judges what a gap means: that is `judge`'s and the reader's part. Reads no byte at
//! or beyond the end that it is given, so nothing that is still being written.
//!
//! Whatever the bytes, a walk over them costs a bounded number of checksummed bytes for each: see [`Cursor::next`].

use std::io;

use super::format::{
    HEAD_BYTES_MAX, HEADER_BYTES, PREFIX_BYTES, Prefix, RECORD_BYTES_MIN, Seed, is_intact, lengths_add_up,
};
use super::read_ahead::ReadAhead;
use super::storage::ReadFile;

/// Bytes of failing checksums that a walk may spend before it has earned any: enough for the largest records.
const WASTE_BYTES_START: u64 = 64 << 20;
/// Bytes of failing checksums that each byte walked over pays for.
const WASTE_BYTES_EARNED: u64 = 16;

/// How far a segment may be read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Records in the segment: no index at or beyond this is read.
    pub(super) records: u64,
    /// Bytes that are on disk: no byte at or beyond this is read.
    pub(super) bytes: u64,
}

/// An intact record, and how many are missing before it.
#[derive(Debug)]
pub(super) struct Found<'a> {
    pub(super) lost: u64,
    /// Its place in the segment.
    pub(super) index: u64,
    /// Whether bytes before it had to be skipped.
    pub(super) damaged: bool,
    pub(super) body: &'a [u8],
}

/// The place after the last record that was read.
#[derive(Debug)]
pub(super) struct Cursor {
    bytes: ReadAhead,
    seed: Seed,
    offset: u64,
    index: u64,
    /// Bytes of failing checksums that may still be spent.
    waste_bytes_left: u64,
}

impl Cursor {
    /// Stands before the first record of the segment in `file` that starts at position `first`.
    pub(super) fn new(file: Box<dyn ReadFile>, first: u64) -> Self {
        let bytes = ReadAhead::new(file);
        Self { bytes, seed: Seed::of(first), offset: HEADER_BYTES, index: 0, waste_bytes_left: WASTE_BYTES_START }
    }

    /// From now on bytes that the disk cannot read are skipped like damaged ones, instead of being an error.
    pub(super) fn read_around(&mut self) {
        self.bytes.read_around();
    }

    /// Where the last stretch ends that the disk could not read; 0 where it could read all.
    pub(super) fn unreadable_until(&self) -> u64 {
        self.bytes.unreadable_until()
    }

    /// Index of the next record.
    pub(super) fn index(&self) -> u64 {
        self.index
    }

    /// Offset of the next record.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Gives up what is left within `bounds`.
    pub(super) fn skip_to(&mut self, bounds: Bounds) {
        self.index = self.index.max(bounds.records);
        self.offset = self.offset.max(bounds.bytes);
    }

    /// The first `count` bytes of the file, fewer where it is shorter.
    pub(super) fn head(&mut self, count: usize) -> io::Result<&[u8]> {
        self.bytes.at(0, count, count as u64)
    }

    /// The next intact record within `bounds`, or `None`, which leaves the cursor where it stands.
    ///
    /// In a damaged stretch any offset may look like the start of a long record. A checksum there is tried only where
    /// the lengths inside add up, and while the bytes that failing checksums took stay within what the bytes walked over
    /// have earned; so a hostile file costs no more than a multiple of its size. What it may cost instead is an intact
    /// record behind such a stretch, which then counts as lost.
    ///
    /// # Errors
    /// What the disk says; the cursor stays where it stands.
    pub(super) fn next(&mut self, bounds: Bounds) -> io::Result<Option<Found<'_>>> {
        if self.index >= bounds.records {
            return Ok(None);
        }
        let mut at = self.offset;
        let mut waste_bytes_left = self.waste_bytes_left;
        loop {
            let bytes = self.bytes.at(at, PREFIX_BYTES, bounds.bytes)?;
            if bytes.len() < PREFIX_BYTES {
                return Ok(None);
            }
            if let Some(prefix) = Prefix::parse(bytes).filter(|prefix| self.may_stand_at(*prefix, at, bounds)) {
                let cost = prefix.record_bytes() as u64;
                if cost <= waste_bytes_left && self.adds_up(prefix, at, bounds)? {
                    let record = self.bytes.at(at, prefix.record_bytes(), bounds.bytes)?;
                    if record.len() == prefix.record_bytes() && is_intact(record, self.seed) {
                        self.waste_bytes_left = waste_bytes_left.saturating_add(WASTE_BYTES_EARNED * cost);
                        return self.take(prefix, at, bounds).map(Some);
                    }
                    waste_bytes_left -= cost;
                }
            }
            at += 1;
            waste_bytes_left = waste_bytes_left.saturating_add(WASTE_BYTES_EARNED);
        }
    }

    /// Whether the record that may stand at `at` is laid out like one. The one right behind an intact record need not
    /// be: a later program may lay it out in another way.
    fn adds_up(&mut self, prefix: Prefix, at: u64, bounds: Bounds) -> io::Result<bool> {
        if at == self.offset {
            return Ok(true);
        }
        let head = self.bytes.at(at, prefix.record_bytes().min(HEAD_BYTES_MAX), bounds.bytes)?;
        Ok(lengths_add_up(head, prefix))
    }

    /// Whether a record of this index can stand at this offset: the next one right here, or after skipped bytes one
    /// that leaves no more out than these can have held. Spares a checksum at almost every offset of a damaged stretch.
    fn may_stand_at(&self, prefix: Prefix, at: u64, bounds: Bounds) -> bool {
        let skipped = at - self.offset;
        let lost_max = skipped / RECORD_BYTES_MIN;
        let ends = at.saturating_add(prefix.record_bytes() as u64);
        prefix.index >= self.index
            && prefix.index - self.index <= lost_max
            && prefix.index < bounds.records
            && ends <= bounds.bytes
    }

    fn take(&mut self, prefix: Prefix, at: u64, bounds: Bounds) -> io::Result<Found<'_>> {
        let (lost, damaged) = (prefix.index - self.index, at > self.offset);
        let record = self.bytes.at(at, prefix.record_bytes(), bounds.bytes)?;
        self.index = prefix.index + 1;
        self.offset = at + record.len() as u64;
        Ok(Found { lost, index: prefix.index, damaged, body: record.get(PREFIX_BYTES..).unwrap_or_default() })
    }
}

#[cfg(test)]
mod tests {
    use super::super::format::{encode, header};
    use super::super::storage::ReadFile;
    use super::*;
    use crate::model::{Frame, FrameKind, Timestamp};

    const FIRST: u64 = 5;

    #[derive(Debug)]
    struct Memory(Vec<u8>);

    impl ReadFile for Memory {
        fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
            let rest = &self.0[usize::try_from(offset).expect("small").min(self.0.len())..];
            let count = rest.len().min(buffer.len());
            buffer[..count].copy_from_slice(&rest[..count]);
            Ok(count)
        }
    }

    fn record(index: u32, payload_bytes: usize) -> Vec<u8> {
        let frame = Frame {
            source: "east".into(),
            kind: FrameKind::NativeJson,
            topic: "t".into(),
            payload: vec![b'x'; payload_bytes],
            arrival: Timestamp::from_millis(0),
        };
        let mut bytes = Vec::new();
        encode(&frame, Seed::of(FIRST), index, &mut bytes);
        bytes
    }

    /// A record in all but its checksum, of `record_bytes` with empty names; its first 29 bytes.
    fn lure(index: u32, record_bytes: u32) -> Vec<u8> {
        let mut bytes = (record_bytes - 12).to_le_bytes().to_vec();
        bytes.extend_from_slice(&index.to_le_bytes());
        bytes.extend_from_slice(&[0; 4 + 1 + 8 + 2 + 2]);
        bytes.extend_from_slice(&(record_bytes - 29).to_le_bytes());
        bytes
    }

    /// Walks to the end; gives the indices found, and the bytes of failing checksums by bytes of the file.
    fn walk(parts: &[Vec<u8>]) -> (Vec<u64>, u64) {
        let bytes = [vec![header(FIRST)], parts.to_vec()].concat().concat();
        let bounds = Bounds { records: u64::MAX, bytes: bytes.len() as u64 };
        let mut cursor = Cursor::new(Box::new(Memory(bytes)), FIRST);
        let mut found = Vec::new();
        while cursor.next(bounds).expect("readable").is_some() {
            found.push(cursor.index() - 1);
        }
        let earned = WASTE_BYTES_START + (cursor.offset() - HEADER_BYTES) * WASTE_BYTES_EARNED;
        (found, (earned - cursor.waste_bytes_left) / bounds.bytes)
    }

    #[test]
    fn a_stretch_full_of_what_looks_like_long_records_costs_a_multiple_of_its_bytes() {
        const BLOCKS: u32 = (16 << 20) / 32;
        let mut lures = Vec::new();
        for block in 0..BLOCKS {
            let left = (BLOCKS - block) * 32;
            lures.push([lure(0, left.min(8 << 20)), vec![0; 3]].concat());
        }
        let mut parts = lures.clone();
        parts.extend((0..2_000).map(|index| record(index, 100)));
        let (found, cost) = walk(&parts);
        assert!((2..=2 * WASTE_BYTES_EARNED).contains(&cost), "{cost} bytes checked for each byte");
        assert!(found.len() > 1_990 && found.last() == Some(&1_999), "{} found", found.len());
    }

    #[test]
    fn lures_between_intact_records_cost_no_more() {
        let count = 30_000;
        let mut parts = Vec::new();
        for index in 0..count {
            parts.push(lure(index, 2 << 20));
            parts.push(record(index, 10));
        }
        parts.push(vec![0; 2 << 20]);
        let (found, cost) = walk(&parts);
        assert!((2..=2 * WASTE_BYTES_EARNED).contains(&cost), "{cost} bytes checked for each byte");
        assert_eq!(found, (0..u64::from(count)).collect::<Vec<_>>());
    }

    #[test]
    fn behind_common_damage_the_longest_record_is_found() {
        let registers: Vec<u8> = (0..1_u32 << 18).flat_map(|value| (value % 200 * 256).to_le_bytes()).collect();
        for noise in [registers, vec![1; 1 << 20], vec![0; 1 << 20], record(0, 1 << 20)[1..].to_vec()] {
            let (found, _) = walk(&[noise, record(3, 16 << 20), record(4, 1)]);
            assert_eq!(found, [3, 4]);
        }
    }
}
