//! Bytes of one file, read ahead; around what the disk cannot read, where that is wanted.
//!
//! Owns the buffer. Reads no byte at or beyond the end that it is given. Knows nothing of records.

use std::io;
use std::ops::Range;

use super::storage::ReadFile;

const READ_AHEAD_BYTES: usize = 256 << 10;
/// What a disk fails to read at a time: a page of the kernel's cache.
const BLOCK_BYTES: u64 = 4 << 10;
/// Attempts at a block before it counts as unreadable.
const BLOCK_ATTEMPTS: u32 = 3;

#[derive(Debug)]
pub(super) struct ReadAhead {
    file: Box<dyn ReadFile>,
    buffer: Vec<u8>,
    /// Offset in the file of the buffer's first byte.
    start: u64,
    /// Whether zeros stand in for what cannot be read.
    around: bool,
    /// The last stretch that could not be read.
    hole: Range<u64>,
}

impl ReadAhead {
    pub(super) fn new(file: Box<dyn ReadFile>) -> Self {
        Self { file, buffer: Vec::new(), start: 0, around: false, hole: 0..0 }
    }

    /// From now on zeros stand in for what cannot be read, where no record can start.
    pub(super) fn read_around(&mut self) {
        self.around = true;
    }

    /// Where the last stretch ends that could not be read; 0 where all could.
    pub(super) fn unreadable_until(&self) -> u64 {
        self.hole.end
    }

    /// `count` bytes from `offset` on, fewer where `end` or the end of the file comes first.
    ///
    /// # Errors
    /// What the disk says of these bytes; never of those that are only read ahead.
    pub(super) fn at(&mut self, offset: u64, count: usize, end: u64) -> io::Result<&[u8]> {
        let left = usize::try_from(end.saturating_sub(offset)).unwrap_or(usize::MAX);
        let count = count.min(left);
        let from = match usize::try_from(offset.wrapping_sub(self.start)) {
            Ok(from) if offset >= self.start && from + count <= self.buffer.len() => from,
            _ => {
                self.fill(offset, count, end)?;
                0
            }
        };
        let to = self.buffer.len().min(from + count);
        Ok(self.buffer.get(from..to).unwrap_or_default())
    }

    /// Makes the buffer hold `wanted` bytes from `offset` on, fewer where the file ends; keeps what it has of them, and
    /// reads more where that costs nothing.
    fn fill(&mut self, offset: u64, wanted: usize, end: u64) -> io::Result<()> {
        let left = usize::try_from(end.saturating_sub(offset)).unwrap_or(usize::MAX);
        let count = wanted.max(READ_AHEAD_BYTES.min(left));
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
        let mut count = count;
        let mut result = Ok(());
        while filled < count {
            let at = offset + filled as u64;
            match self.read(filled..count, at, end) {
                Ok(0) => break,
                Ok(read) => filled += read,
                // What fails may lie beyond what is wanted.
                Err(_) if count > wanted => count = wanted,
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        self.buffer.truncate(filled);
        result
    }

    /// Reads into `places` of the buffer, which start at the file's `at`.
    fn read(&mut self, places: Range<usize>, at: u64, end: u64) -> io::Result<usize> {
        let buffer = &mut self.buffer[places];
        if self.hole.contains(&at) {
            return Ok(blank(buffer, self.hole.end - at));
        }
        let error = match self.file.read_at(buffer, at) {
            Err(error) if self.around => error,
            done => return done,
        };
        // Nearer and nearer to the block that fails, then over it.
        let mut count = buffer.len() as u64;
        loop {
            let block_left = BLOCK_BYTES - at % BLOCK_BYTES;
            if count <= block_left {
                break;
            }
            let blocks_beyond = (count - block_left) / 2 / BLOCK_BYTES;
            count = block_left + blocks_beyond * BLOCK_BYTES;
            if let Ok(read) = self.file.read_at(&mut buffer[..to_usize(count)], at) {
                return Ok(read);
            }
        }
        for _ in 1..BLOCK_ATTEMPTS {
            if let Ok(read) = self.file.read_at(&mut buffer[..to_usize(count)], at) {
                return Ok(read);
            }
        }
        let until = readable_after(self.file.as_ref(), at, end);
        tracing::error!(from = at, until, cause = %error, "bytes of a segment cannot be read");
        self.hole = at..until;
        Ok(blank(buffer, until - at))
    }
}

fn to_usize(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// Zeros in place of the next `bytes`, as far as they are in `buffer`; gives how many.
fn blank(buffer: &mut [u8], bytes: u64) -> usize {
    let count = buffer.len().min(to_usize(bytes));
    buffer[..count].fill(0);
    count
}

/// The first block after the one of `bad` that can be read, or `end`. Asks few times, as each time may take a failing
/// disk seconds: at doubling distances, then half-way between what fails and what does not.
fn readable_after(file: &dyn ReadFile, bad: u64, end: u64) -> u64 {
    let is_readable = |block: u64| {
        let mut buffer = vec![0; to_usize(BLOCK_BYTES.min(end - block))];
        file.read_at(&mut buffer, block).is_ok()
    };
    let mut low = bad - bad % BLOCK_BYTES;
    let mut stride = BLOCK_BYTES;
    let mut high = loop {
        let probe = low + stride;
        if probe >= end {
            break end.next_multiple_of(BLOCK_BYTES);
        }
        if is_readable(probe) {
            break probe;
        }
        (low, stride) = (probe, stride * 2);
    };
    while high - low > BLOCK_BYTES {
        let middle = low + ((high - low) / 2).next_multiple_of(BLOCK_BYTES);
        let middle = if middle < high { middle } else { high - BLOCK_BYTES };
        if is_readable(middle) {
            high = middle;
        } else {
            low = middle;
        }
    }
    high.min(end)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const FILE_BYTES: u64 = 1 << 20;

    /// A file whose byte at `n` is `n / 4096 + 1`, with stretches that cannot be read.
    #[derive(Debug)]
    struct BadDisk {
        bad: Vec<(u64, u64)>,
        failures: Arc<AtomicUsize>,
    }

    impl ReadFile for BadDisk {
        fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
            let end = FILE_BYTES.min(offset + buffer.len() as u64);
            let (first, last) = (offset - offset % BLOCK_BYTES, end.next_multiple_of(BLOCK_BYTES));
            if self.bad.iter().any(|bad| bad.0 < last && first < bad.1) {
                self.failures.fetch_add(1, Ordering::Relaxed);
                return Err(io::Error::other("simulated"));
            }
            for (place, at) in (offset..end).enumerate() {
                buffer[place] = byte_at(at);
            }
            Ok(usize::try_from(end.saturating_sub(offset)).expect("small"))
        }
    }

    fn byte_at(offset: u64) -> u8 {
        u8::try_from(offset / BLOCK_BYTES % 255 + 1).expect("small")
    }

    fn open(bad: &[(u64, u64)]) -> (ReadAhead, Arc<AtomicUsize>) {
        let failures = Arc::<AtomicUsize>::default();
        let file = BadDisk { bad: bad.to_vec(), failures: Arc::clone(&failures) };
        (ReadAhead::new(Box::new(file)), failures)
    }

    #[test]
    fn only_the_blocks_that_cannot_be_read_are_blank_and_few_questions_find_them() {
        let cases: [&[(u64, u64)]; 6] = [
            &[],
            &[(40_000, 40_001)],
            &[(0, 5_000)],
            &[(100_000, 700_000)],
            &[(9_000, 9_500), (300_000, 300_001), (1_000_000, FILE_BYTES)],
            &[(0, FILE_BYTES)],
        ];
        for bad in cases {
            let (mut bytes, failures) = open(bad);
            bytes.read_around();
            for (step, at) in [(1_000, 0), (70_000, 1_234)] {
                let mut at = at;
                while at < FILE_BYTES {
                    let read = bytes.at(at, step, FILE_BYTES).expect("read around").to_vec();
                    assert!(!read.is_empty());
                    for (byte, offset) in read.iter().zip(at..) {
                        let block = offset - offset % BLOCK_BYTES..offset - offset % BLOCK_BYTES + BLOCK_BYTES;
                        let is_bad = bad.iter().any(|bad| bad.0 < block.end && block.start < bad.1);
                        assert_eq!(*byte, if is_bad { 0 } else { byte_at(offset) }, "{offset} of {bad:?}");
                    }
                    at += read.len() as u64;
                }
            }
            let failures = failures.load(Ordering::Relaxed);
            assert!(failures < 70 * bad.len() + 1, "{failures} failing reads of {bad:?}");
        }
    }

    #[test]
    fn what_lies_ahead_of_what_is_wanted_may_be_unreadable() {
        let (mut bytes, _) = open(&[(FILE_BYTES - 10_000, FILE_BYTES)]);
        let mut at = 0;
        while let Ok(read) = bytes.at(at, 1_000, FILE_BYTES) {
            at += read.len() as u64;
        }
        assert!((FILE_BYTES - 15_000..FILE_BYTES - 10_000).contains(&at), "stops at {at}");
        let (mut bytes, _) = open(&[]);
        assert_eq!(bytes.at(FILE_BYTES - 5, 100, FILE_BYTES + 50).expect("read").len(), 5);
    }
}
