//! Stages of the journal for benchmarks.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::format::{Seed, Sources, decode, encode};
use super::spare::Spare;
use super::stepped::SteppedJournal;
use super::{Folder, Journal, Options, Storage};
use crate::clock::Clock;
use crate::health::{Health, PartKind};
use crate::model::{Frame, JournalPosition};

/// Adds `frames` to `out` as records of one segment.
pub fn encode_records(frames: &[Frame], out: &mut Vec<u8>) {
    for (index, frame) in (0..).zip(frames) {
        encode(frame, Seed::of(0), index, out);
    }
}

/// Bodies of records become frames. Returns how many were read.
pub fn decode_records(frames: &[Frame], records: &[u8]) -> usize {
    let (mut sources, mut spare) = (Sources::default(), Spare::default());
    let (mut at, mut read) = (0, 0);
    for frame in frames {
        let end = at + usize::try_from(super::format::record_bytes(frame)).unwrap_or(usize::MAX);
        if let Some(frame) = decode(&records[at + super::format::PREFIX_BYTES..end], &mut sources, &mut spare) {
            read += 1;
            spare.add(frame);
        }
        at = end;
    }
    read
}

/// Appends `group` to a new file of `folder` again and again, each time with a sync, then removes the file.
///
/// # Errors
/// What the disk says.
pub fn append_and_sync(folder: &Folder, group: &[u8], groups: usize) -> io::Result<()> {
    let mut file = folder.create("bench")?;
    for _ in 0..groups {
        file.append(group)?;
        file.sync()?;
    }
    drop(file);
    folder.remove("bench")
}

/// A journal in `folder` that has `frames`, synced in groups of `group`.
///
/// # Panics
/// Where the folder cannot be used.
#[must_use]
pub fn filled(folder: &Path, frames: Vec<Frame>, group: usize) -> Arc<Journal> {
    let options = Options {
        folder: folder.to_owned(),
        bytes_max: 8 << 30,
        segment_bytes: 16 << 20,
        commit_interval: Duration::ZERO,
        age_max: Duration::from_hours(1),
    };
    let clock = Clock::system();
    let part = Health::default().part(PartKind::Journal, "journal", clock.now());
    let storage = Arc::new(Folder::open(folder).expect("a folder"));
    let mut journal = SteppedJournal::open(storage, options, JournalPosition(0), part, clock).expect("a journal");
    let mut frames = frames.into_iter().peekable();
    while frames.peek().is_some() {
        let batch = frames.by_ref().take(group).collect();
        assert!(journal.journal.inlet().append(batch, Box::new(drop)).is_ok() && journal.round(), "room");
    }
    journal.journal
}

/// Reads all that `journal` has, as the pipeline does. Returns how many entries.
///
/// # Panics
/// Where it cannot be read.
pub fn read_all(journal: &Journal) -> usize {
    let (mut reader, mut entries, mut count) = (journal.reader(JournalPosition(0)), Vec::new(), 0);
    while reader.read(256 << 10, &mut entries).expect("readable") > 0 {
        count += entries.len();
        reader.give_back(entries.drain(..));
    }
    count
}
