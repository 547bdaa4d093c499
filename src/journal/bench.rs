//! Stages of the journal for benchmarks.

use std::io;

use super::format::{Seed, Sources, Spare, decode, encode};
use super::{Folder, Storage};
use crate::model::Frame;

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
