//! Walks the records of one segment, over damage where there is some.
//!
//! Owns the read-ahead buffer and the place in the file. Never judges what a gap means: that is recovery's and the
//! reader's part. Reads no byte at or beyond the end that it is given, so nothing that is still being written.

use std::io;

use super::format::{HEADER_BYTES, PREFIX_BYTES, Prefix, RECORD_BYTES_MIN, Seed, is_intact};
use super::storage::ReadFile;

const READ_AHEAD_BYTES: usize = 256 << 10;

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
}

impl Cursor {
    /// Stands before the first record of the segment in `file` that starts at position `first`.
    pub(super) fn new(file: Box<dyn ReadFile>, first: u64) -> Self {
        let bytes = ReadAhead { file, buffer: Vec::new(), start: 0 };
        Self { bytes, seed: Seed::of(first), offset: HEADER_BYTES, index: 0 }
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
    /// # Errors
    /// What the disk says; the cursor stays where it stands.
    pub(super) fn next(&mut self, bounds: Bounds) -> io::Result<Option<Found<'_>>> {
        if self.index >= bounds.records {
            return Ok(None);
        }
        let mut at = self.offset;
        loop {
            let bytes = self.bytes.at(at, PREFIX_BYTES, bounds.bytes)?;
            if bytes.len() < PREFIX_BYTES {
                return Ok(None);
            }
            let prefix = Prefix::parse(bytes).filter(|prefix| self.may_stand_at(*prefix, at, bounds));
            if let Some(prefix) = prefix {
                let record = self.bytes.at(at, prefix.record_bytes(), bounds.bytes)?;
                if record.len() == prefix.record_bytes() && is_intact(record, self.seed) {
                    return self.take(prefix, at, bounds).map(Some);
                }
            }
            at += 1;
        }
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
        Ok(Found { lost, damaged, body: record.get(PREFIX_BYTES..).unwrap_or_default() })
    }
}

#[derive(Debug)]
struct ReadAhead {
    file: Box<dyn ReadFile>,
    buffer: Vec<u8>,
    /// Offset in the file of the buffer's first byte.
    start: u64,
}

impl ReadAhead {
    /// `count` bytes from `offset` on, fewer where `end` or the end of the file comes first.
    fn at(&mut self, offset: u64, count: usize, end: u64) -> io::Result<&[u8]> {
        let left = usize::try_from(end.saturating_sub(offset)).unwrap_or(usize::MAX);
        let count = count.min(left);
        let from = match usize::try_from(offset.wrapping_sub(self.start)) {
            Ok(from) if offset >= self.start && from + count <= self.buffer.len() => from,
            _ => {
                self.fill(offset, count.max(READ_AHEAD_BYTES.min(left)))?;
                0
            }
        };
        let to = self.buffer.len().min(from + count);
        Ok(self.buffer.get(from..to).unwrap_or_default())
    }

    /// Makes the buffer hold `count` bytes from `offset` on, fewer where the file ends; keeps what it has of them.
    fn fill(&mut self, offset: u64, count: usize) -> io::Result<()> {
        let held = usize::try_from(offset.wrapping_sub(self.start)).unwrap_or(usize::MAX);
        if offset >= self.start && held <= self.buffer.len() {
            self.buffer.drain(..held);
        } else {
            self.buffer.clear();
        }
        self.start = offset;
        let mut filled = self.buffer.len();
        if filled < count {
            self.buffer.resize(count, 0);
            self.buffer.shrink_to(READ_AHEAD_BYTES);
        }
        while filled < count {
            let read = self.file.read_at(&mut self.buffer[filled..], offset + filled as u64);
            match read {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) => {
                    self.buffer.truncate(filled);
                    return Err(error);
                }
            }
        }
        self.buffer.truncate(filled);
        Ok(())
    }
}
