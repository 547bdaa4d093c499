//! The journal: every frame is on disk before it is acknowledged (P1).
//!
//! Owns the folder of segments and the thread that writes them. Never decodes a payload, never decides what a frame is
//! worth.
//!
//! # Invariants
//!
//! 1. A receipt runs only after every frame of its batch is synced, in a file whose folder entry is synced; receipts
//!    run in the order of the appends.
//! 2. A position names one record for ever once that record's receipt has run.
//! 3. A reader sees a record only after it is synced, in order of positions, each once. Where records are missing it
//!    gets [`Entry::Lost`], so positions never jump unnoticed.
//! 4. The records of a segment end where the next segment starts, whatever bytes its file has beyond.
//! 5. A file is never appended to again after a write or a sync of it failed, only cut: what such a sync left on disk
//!    is unknown, and a later one that succeeds proves nothing. The group, still in memory, goes to a new segment that
//!    starts at the durable end; by 4 the leftover of the old one is never read.
//! 6. A run never appends to a segment of an earlier run; it begins a new one.
//! 7. The journal opens whatever bytes the files hold.
//!
//! # On-disk format, version 1
//!
//! Numbers are little-endian. A segment is the file `{first:020}.journal`, where `first` is the position of its first
//! record; once it is found to be damaged it is `{first:020}.damaged`.
//!
//! ```text
//! header   magic "SPJOURNL" 8 | version u32 | first u64 | crc32c of these 20 bytes u32
//! record   body length u32 | index u32 | crc32c u32 | body
//! body     kind u8 | arrival i64, epoch ms | source: length u16, UTF-8 | topic: the same |
//!          payload: length u32, bytes
//! ```
//!
//! `index` is the record's position less `first`. A record's checksum starts from the header's checksum as it has to be
//! by the file's name, then runs over length, index and body; so a record is valid only in its own segment, and the
//! header itself is not needed to read one. A body is at most 16 MiB of payload and two 16-bit names; a frame beyond
//! that is kept as `Oversize` with the first KiB of its payload.
//!
//! # Recovery
//!
//! Opening judges the last segment from front to back, because it tells where numbering goes on; of the others it reads
//! the header, and their records when a reader comes to them. "Torn" is what a crash leaves of records that were never
//! acknowledged; "damaged" is what a crash cannot leave. After damage the scan looks for the next intact record by
//! length, index and checksum, so only what is really gone is lost, and counted exactly. `tests/table.rs` goes through
//! every row, at every place, and reads this table to compare:
//!
//! | what is found | what is read | as the last segment | followed by another |
//! | --- | --- | --- | --- |
//! | as it was written | all | sound | sound |
//! | the end of its last record is missing | what is intact | torn: cut at the record boundary | damaged: renamed when read |
//! | its end is missing from a record boundary on | what is intact | sound | missing: not renamed |
//! | a byte changed, intact records after it | what is intact | damaged: renamed, goes on after the last intact record | damaged: renamed when read |
//! | zeros from a record on | what is intact | torn: cut at the record boundary | damaged: renamed when read |
//! | zeros behind its last record | all | torn: cut at the record boundary | sound |
//! | every byte changed | nothing | damaged: renamed, goes on after as many as fit | damaged: renamed when opened |
//! | header changed, records intact | all | damaged: renamed, goes on after the last intact record | damaged: renamed when opened |
//! | header and records of a later version | nothing | damaged: renamed, goes on after as many as fit | damaged: renamed when opened |
//! | bytes of another segment under this name | nothing | damaged: renamed, goes on after as many as fit | damaged: renamed when opened |
//! | no byte | nothing | unused: left in place, goes on at its first position | damaged: renamed when opened |
//! | only a header | nothing | unused: left in place, goes on at its first position | missing: not renamed |
//! | the file is missing | nothing | not known: goes on after the one before | missing: not renamed |
//! | a damaged file of the same first position beside it | all | sound | sound |
//! | a damaged file, and only a header under the intact name | all | renamed before: goes on after the last intact record | renamed before |
//! | a block inside cannot be read | what is intact | damaged: renamed, goes on after the last intact record | damaged: renamed after a minute of failing reads |
//! | the blocks at its end cannot be read | what is intact | damaged: renamed, goes on after as many as fit | damaged: renamed after a minute of failing reads |
//! | no byte can be read | nothing | damaged: renamed, goes on after as many as fit | damaged: renamed after a minute of failing reads |
//! | it cannot be opened | nothing | damaged: renamed, goes on after as many as fit | damaged: renamed after a minute of failing reads |
//! | its size cannot be had | nothing | damaged: renamed, goes on after as many as fit the largest segment | damaged: renamed after a minute of failing reads |
//!
//! What is not read is `Lost`, up to where the next segment starts or numbering goes on. Where nothing tells how many
//! records a stretch held, that is an upper bound. Other files, folders and names are left alone.
//!
//! Where `passed` lies beyond the last record (the folder was deleted and the store kept), numbering goes on at `passed`.
//! Segments that end below it go; of damaged ones the newest four stay for a person to look at.
//!
//! # Disks that cannot read
//!
//! A failing read is tried again, ten times and for a minute at the least, and loses nothing if it works by then. After
//! that the reader goes around: smaller reads find the blocks that fail, the segment is renamed, the records on those
//! blocks are lost. What a person can put right without loss (rights, open files) is waited for.
//!
//! # Age
//!
//! A segment is closed when its first record is [`Options::age_max`] old, though it is small and the daemon idle, so
//! that raw messages go soon after the store has passed them. Records that it has not passed are never dropped for their
//! age; when they are twice as old the part is degraded and says since when. Files renamed for damage are the exception:
//! the newest four stay until a person removes them.
//!
//! # What cannot be told
//!
//! Acknowledged records at the very end of the last segment that rot count as torn, and unacknowledged ones that a power
//! cut leaves with a hole before them count as damaged: each is judged for the more likely. A last segment whose file is
//! gone leaves no trace. A process that is killed between a failed sync and the cut of what it left may count records as
//! lost later that it never acknowledged.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use crate::clock::Clock;
use crate::health::Part;
use crate::model::{Frame, JournalPosition};

mod cursor;
mod format;
mod inspect;
mod judge;
mod patience;
mod read_ahead;
mod reader;
mod recovery;
mod segment;
mod shared;
mod spare;
mod storage;
mod writer;

pub use inspect::{Scope, SegmentReport, Sight, bytes_of, has_segments, inspect};
pub use judge::Verdict;
pub use reader::Reader;
use shared::{Counters, Shared};
pub(crate) use spare::Spare;
pub use storage::{AppendFile, Folder, ReadFile, Storage};
use writer::Writer;

#[cfg(feature = "bench")]
pub mod bench;
#[cfg(test)]
pub(crate) mod simulated_disk;
#[cfg(any(test, feature = "bench"))]
pub(crate) mod stepped;
#[cfg(test)]
mod tests;

/// How the journal keeps its records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Folder of the segments.
    pub folder: PathBuf,
    /// Bytes on disk at which it takes no more records until the store has passed some.
    pub bytes_max: u64,
    /// Bytes at which a segment is closed and the next one begun.
    pub segment_bytes: u64,
    /// How long a group of records may gather before it is synced.
    pub commit_interval: Duration,
    /// Age at which a segment is closed, so that its records can go as soon as the store has passed them.
    pub age_max: Duration,
}

/// What keeps the journal from working.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder cannot be listed.
    #[error("cannot list the journal's folder {folder}")]
    List {
        /// The folder.
        folder: PathBuf,
        /// What the disk says.
        #[source]
        source: io::Error,
    },
    /// The commit thread cannot be started.
    #[error("cannot start the journal's thread")]
    Thread(#[source] io::Error),
    /// A segment cannot be read.
    #[error("cannot read segment {segment}")]
    Read {
        /// File name of the segment.
        segment: String,
        /// What the disk says.
        #[source]
        source: io::Error,
    },
}

/// Runs once, on the journal's thread, when all frames of its batch are on disk; it is given them back, whose memory may
/// serve again. Must not block.
pub type Receipt = Box<dyn FnOnce(Vec<Frame>) + Send>;

/// A batch that was not taken, as it was given.
pub struct Refused {
    /// The frames.
    pub frames: Vec<Frame>,
    /// Their receipt, which has not run.
    pub receipt: Receipt,
    /// Why.
    pub cause: RefusedCause,
}

impl std::fmt::Debug for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Refused")
            .field("frames", &self.frames.len())
            .field("cause", &self.cause)
            .finish_non_exhaustive()
    }
}

/// Why a batch is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusedCause {
    /// The queue is full; the disk is behind.
    Busy,
    /// The journal is at its bound, or the disk is full.
    Full,
    /// The journal is closed.
    Closed,
}

/// What a reader finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A frame, as it was appended.
    Frame(Frame),
    /// Records that are gone.
    Lost {
        /// How many positions they had.
        records: u64,
    },
}

/// An open journal.
#[derive(Debug)]
pub struct Journal {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Journal {
    /// Opens the journal in `storage`, recovers what is there and starts the commit thread. `passed` is the position
    /// that the store has durably passed.
    ///
    /// # Errors
    /// When the folder cannot be listed or the thread not be started; never for what the files hold.
    pub fn open(
        storage: Arc<dyn Storage>,
        options: Options,
        passed: JournalPosition,
        part: Arc<Part>,
        clock: Clock,
    ) -> Result<Self, Error> {
        let (shared, writer) = assemble(storage, options, passed, part, clock)?;
        let thread = Builder::new().name("journal".to_owned()).spawn(|| writer.run()).map_err(Error::Thread)?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// A way in.
    pub fn inlet(&self) -> Inlet {
        Inlet { shared: Arc::clone(&self.shared) }
    }

    /// A reader that starts at `from`, which must not lie below what was released.
    pub fn reader(&self, from: JournalPosition) -> Reader {
        Reader::new(Arc::clone(&self.shared), from)
    }

    /// Position after the last durable record.
    pub fn end(&self) -> JournalPosition {
        JournalPosition(self.shared.end())
    }

    /// Whether it refuses records until the store has passed some of it.
    pub fn is_full(&self) -> bool {
        self.shared.is_full()
    }

    /// The store has durably passed the records below `passed`: whole segments of them go.
    pub fn release(&self, passed: JournalPosition) {
        self.shared.release(passed.0);
    }

    /// Commits what is queued, runs its receipts and ends the thread. What cannot be written now is given up, its
    /// receipts never run.
    pub fn close(self) {
        drop(self);
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.shared.close();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the journal's thread panicked");
        }
    }
}

/// Recovers what is in `storage` and gives the parts of a journal without a thread to run them.
fn assemble(
    storage: Arc<dyn Storage>,
    options: Options,
    passed: JournalPosition,
    part: Arc<Part>,
    clock: Clock,
) -> Result<(Arc<Shared>, Writer), Error> {
    let counters = Counters::of(&part);
    let found = recovery::recover(storage.as_ref(), passed.0, &counters)
        .map_err(|source| Error::List { folder: options.folder.clone(), source })?;
    let shared = Arc::new(Shared::new(storage, options, found, part, clock));
    let writer = Writer::new(Arc::clone(&shared));
    Ok((shared, writer))
}

/// A way into the journal; cheap to clone.
#[derive(Clone, Debug)]
pub struct Inlet {
    shared: Arc<Shared>,
}

impl Inlet {
    /// Queues a batch; `receipt` runs once on the journal's thread when all its frames are on disk. Never blocks.
    ///
    /// # Errors
    /// When the batch is not taken; it comes back whole.
    pub fn append(&self, frames: Vec<Frame>, receipt: Receipt) -> Result<(), Refused> {
        self.shared.append(frames, receipt)
    }
}
