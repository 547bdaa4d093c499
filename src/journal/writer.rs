//! The commit thread: gathers batches for a while, writes them in one go, syncs, publishes, then runs receipts.
//!
//! Owns the active segment. Never writes to a segment again after a write or a sync of it failed.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::error;

use super::format::{HEADER_BYTES, Seed, encode, header};
use super::segment::{Segment, damaged_name, name};
use super::shared::{Batch, Shared};
use super::storage::AppendFile;
use crate::backoff::Backoff;
use crate::model::Timestamp;

/// A group that is longer is closed.
const GROUP_BYTES_MAX: u64 = 8 << 20;
/// Indices take 32 bits; far below that a segment is closed.
const SEGMENT_RECORDS_MAX: u64 = 1 << 30;
/// Longest wait before a commit that failed is tried again.
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// Segments that fit at least into the room that the journal leaves free on its disk.
const SEGMENTS_IN_RESERVE: u64 = 4;

/// What one round of the commit thread did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Round {
    /// Nothing was queued.
    Idle,
    /// A group is durable and its receipts have run.
    Committed,
    /// A group is not durable; it is kept and written again to a new segment.
    Failed,
}

/// The only writer of a journal.
#[derive(Debug)]
pub(super) struct Writer {
    shared: Arc<Shared>,
    active: Option<Active>,
    /// What is being written: kept until it is durable.
    group: Vec<Batch>,
    buffer: Vec<u8>,
    segment_bytes: u64,
}

#[derive(Debug)]
struct Active {
    file: Box<dyn AppendFile>,
    first: u64,
    seed: Seed,
    bytes: u64,
    begun: Timestamp,
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batch").field("frames", &self.frames.len()).finish_non_exhaustive()
    }
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        // At least four segments fit, so that releasing what is passed makes room while the last one is written.
        let segment_bytes = shared.options.segment_bytes.min(shared.options.bytes_max / 4);
        // What the journal leaves free holds the rows of one and the store's log of them: that is how the store gets to
        // where a first segment can go, on a disk that the journal has filled.
        let segment_bytes = segment_bytes.min(shared.storage.space().reserve_bytes() / SEGMENTS_IN_RESERVE);
        Self { shared, active: None, group: Vec::new(), buffer: Vec::new(), segment_bytes }
    }

    /// Commits group after group until the journal is closed and nothing is left.
    pub(super) fn run(mut self) {
        let mut backoff = Backoff::new(BACKOFF_MAX);
        let mut may_retry = true;
        loop {
            match self.round() {
                Round::Committed => {
                    backoff.succeeded();
                    may_retry = true;
                }
                Round::Idle if self.shared.await_work() => {}
                Round::Idle => return,
                Round::Failed if may_retry => {
                    may_retry = self.shared.await_retry(backoff.failed(fastrand::f64()));
                }
                Round::Failed => return self.give_up(),
            }
        }
    }

    /// Commits one group, or tries the one again that failed.
    pub(super) fn round(&mut self) -> Round {
        if self.shared.take_retire() || self.active.as_ref().is_some_and(|active| self.shared.is_aged(active.begun)) {
            self.close_segment();
            self.shared.release(0);
        }
        let started = Instant::now();
        if self.group.is_empty() && !self.shared.take(GROUP_BYTES_MAX, &mut self.group) {
            self.shared.look();
            return Round::Idle;
        }
        self.shared.gather(started + self.shared.options.commit_interval, GROUP_BYTES_MAX, &mut self.group);
        match self.write_group() {
            Ok(records) => {
                self.publish(records);
                Round::Committed
            }
            Err(cause) => {
                if let Some(segment) = self.close_segment() {
                    self.cut_leftover(&segment);
                }
                self.shared.fail(&cause);
                Round::Failed
            }
        }
    }

    /// Takes what a failed commit left in `segment` out of the kernel's cache, where a process that is killed now and
    /// started again would find it and take it for durable. Gives its space back, too.
    fn cut_leftover(&self, segment: &Segment) {
        // Failing is no harm: the next segment hides the leftover.
        let _ = self.shared.storage.truncate(&segment.name, segment.bytes);
    }

    /// Writes the group to the active segment, and syncs it. Returns how many records.
    fn write_group(&mut self) -> io::Result<u64> {
        if self.active.as_ref().is_some_and(|active| self.is_to_close(active)) {
            self.close_segment();
        }
        let end = self.shared.end();
        let mut active = match self.active.take() {
            Some(active) => active,
            None => self.begin_segment(end)?,
        };
        self.buffer.clear();
        let mut index = end - active.first;
        for frame in self.group.iter().flat_map(|batch| &batch.frames) {
            let place = u32::try_from(index).expect("invariant: a segment closes before its indices run out");
            encode(frame, active.seed, place, &mut self.buffer);
            index += 1;
        }
        if !self.buffer.is_empty() {
            active.file.append(&self.buffer)?;
            active.file.sync()?;
            self.shared.counters.syncs.add(1);
        }
        active.bytes += self.buffer.len() as u64;
        let records = index - (end - active.first);
        self.active = Some(active);
        Ok(records)
    }

    fn is_to_close(&self, active: &Active) -> bool {
        active.bytes >= self.segment_bytes || self.shared.end() - active.first >= SEGMENT_RECORDS_MAX
    }

    /// Creates the segment that starts at the durable end, and sees to it that it outlives a crash before its first
    /// use.
    fn begin_segment(&self, first: u64) -> io::Result<Active> {
        let name = name(first);
        let storage = &self.shared.storage;
        let created = match storage.create(&name) {
            // Of an earlier try or an earlier run: it holds no record that was ever durable, or the end lay beyond it.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // What is no file at all only has to get out of the way.
                storage.remove(&name).or_else(|_| storage.rename(&name, &damaged_name(first)))?;
                storage.create(&name)
            }
            created => created,
        };
        let mut file = created?;
        file.append(&header(first))?;
        file.sync()?;
        storage.sync_folder()?;
        let begun = self.shared.now();
        let bytes = HEADER_BYTES;
        self.shared.activate(Segment { first, name, bytes, bytes_known: true, begun: Some(begun), damaged: false });
        Ok(Active { file, first, seed: Seed::of(first), bytes, begun })
    }

    /// Closes the active segment and gives what is known of it.
    fn close_segment(&mut self) -> Option<Segment> {
        self.active = None;
        self.shared.deactivate()
    }

    fn publish(&mut self, records: u64) {
        let group = std::mem::take(&mut self.group);
        self.shared.publish(records, self.buffer.len() as u64, &group);
        for batch in group {
            (batch.receipt)(batch.frames);
        }
        if self.buffer.capacity() as u64 > 2 * GROUP_BYTES_MAX {
            self.buffer = Vec::new();
        }
    }

    /// Ends without having written what is left; its receipts never run, so nobody takes it for kept.
    fn give_up(mut self) {
        while self.shared.take(u64::MAX, &mut self.group) {}
        let frames: usize = self.group.iter().map(|batch| batch.frames.len()).sum();
        self.shared.abandon(&self.group);
        error!(frames, "journal closed before these could be written; none of them was acknowledged");
    }
}
