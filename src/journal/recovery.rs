//! Finds out, when the journal opens, which records it has. See the decision table on the module's page.
//!
//! Owns that table. Never deletes a record that the store has not passed, never fails for what a file holds.

use std::collections::VecDeque;
use std::io;

use tracing::{error, info, warn};

use super::cursor::{Bounds, Cursor};
use super::format::{HEADER_BYTES, Header, RECORD_BYTES_MIN, read_header};
use super::segment::{Segment, damaged_name};
use super::shared::Counters;
use super::storage::Storage;

/// Damaged segments that stay in the folder for a person to look at once nothing is to be read from them.
const DAMAGED_SEGMENTS_KEPT: usize = 4;

/// What the folder holds.
#[derive(Debug)]
pub(super) struct Recovered {
    /// Segments with records that the store has not passed, oldest first.
    pub(super) segments: VecDeque<Segment>,
    /// Where numbering goes on.
    pub(super) end: u64,
    pub(super) passed: u64,
}

/// What the last segment turned out to hold.
struct Last {
    /// Position after its last record.
    end: u64,
    damaged: bool,
    /// Where its torn tail starts.
    torn_at: Option<u64>,
}

/// Reads the folder.
///
/// # Errors
/// Only when the folder cannot be listed.
pub(super) fn recover(storage: &dyn Storage, passed: u64, counters: &Counters) -> io::Result<Recovered> {
    let mut segments = list(storage)?;
    let mut end = 0;
    if let Some(last) = segments.back_mut() {
        end = recover_last(storage, last, counters);
    }
    if passed > end {
        if !segments.is_empty() {
            warn!(end, passed, "the store has passed more records than the journal holds, going on where it stands");
        }
        end = passed;
    }
    let untils: Vec<u64> = segments.iter().skip(1).map(|next| next.first).chain([end]).collect();
    let mut kept = VecDeque::new();
    let mut gone = Vec::new();
    for (segment, until) in segments.into_iter().zip(untils) {
        if until <= passed {
            gone.push(segment);
        } else if segment.first < until {
            kept.push_back(segment);
        }
        // What is left out holds no record: a segment that was created and not used, or one that another took the
        // place of. It stays, as it still tells where the end was.
    }
    for segment in kept.iter_mut().rev().skip(1) {
        if !segment.damaged && has_foreign_header(storage, segment) {
            error!(segment = segment.name, "segment has no readable header");
            quarantine(storage, segment, counters);
        }
    }
    remove(storage, &gone);
    Ok(Recovered { segments: kept, end, passed })
}

/// Segments in order of their first positions; of two with the same one the damaged comes first, as it was there first.
fn list(storage: &dyn Storage) -> io::Result<VecDeque<Segment>> {
    let mut segments: Vec<Segment> = storage.list()?.into_iter().filter_map(Segment::named).collect();
    for segment in &mut segments {
        segment.bytes = storage.len(&segment.name).unwrap_or(0);
    }
    segments.sort_by_key(|segment| (segment.first, !segment.damaged));
    Ok(segments.into())
}

/// Judges the last segment, cuts its torn tail or quarantines it, and gives the position after its last record.
fn recover_last(storage: &dyn Storage, segment: &mut Segment, counters: &Counters) -> u64 {
    if segment.bytes <= HEADER_BYTES {
        return segment.first;
    }
    let last = judge_last(storage, segment);
    if last.damaged {
        let records_max = last.end - segment.first;
        error!(segment = segment.name, records_max, "last segment damaged");
        if !segment.damaged {
            quarantine(storage, segment, counters);
        }
        return last.end;
    }
    let bytes = last.torn_at.unwrap_or(segment.bytes);
    if last.torn_at.is_some() {
        info!(segment = segment.name, bytes = segment.bytes - bytes, end = last.end, "torn tail cut");
    }
    // Syncs too: what a killed process wrote but did not sync is durable before anybody reads it.
    match storage.truncate(&segment.name, bytes) {
        Ok(()) => {}
        Err(cause) => warn!(segment = segment.name, %cause, "torn tail left in place; the next segment hides it"),
    }
    segment.bytes = bytes;
    last.end
}

fn judge_last(storage: &dyn Storage, segment: &Segment) -> Last {
    // Nothing tells how many records an unreadable stretch held, so positions go on after as many as fit: none that may
    // have been acknowledged is given away twice.
    let after_unreadable = |index: u64, offset: u64| {
        let records_max = segment.bytes.saturating_sub(offset).div_ceil(RECORD_BYTES_MIN);
        Last { end: segment.first.saturating_add(index + records_max), damaged: true, torn_at: None }
    };
    let bounds = Bounds { records: u64::MAX, bytes: segment.bytes };
    let Ok(file) = storage.open(&segment.name) else { return after_unreadable(0, HEADER_BYTES) };
    let mut cursor = Cursor::new(file, segment.first);
    let header = cursor.head(header_bytes()).map(|bytes| read_header(bytes, segment.first));
    let mut damaged = segment.damaged || !matches!(header, Ok(Header::Valid));
    if let Ok(Header::Future(version)) = header {
        error!(segment = segment.name, version, "segment written by a later version of the program");
        return after_unreadable(0, HEADER_BYTES);
    }
    loop {
        match cursor.next(bounds) {
            Ok(Some(found)) => damaged |= found.damaged,
            Ok(None) => break,
            Err(cause) => {
                error!(segment = segment.name, %cause, "segment cannot be read to its end");
                return after_unreadable(cursor.index(), cursor.offset());
            }
        }
    }
    if damaged && cursor.index() == 0 {
        return after_unreadable(0, HEADER_BYTES);
    }
    let torn_at = (cursor.offset() < segment.bytes).then(|| cursor.offset());
    Last { end: segment.first.saturating_add(cursor.index()), damaged, torn_at }
}

fn has_foreign_header(storage: &dyn Storage, segment: &Segment) -> bool {
    let head = storage.open(&segment.name).and_then(|file| {
        let mut cursor = Cursor::new(file, segment.first);
        cursor.head(header_bytes()).map(|bytes| read_header(bytes, segment.first))
    });
    matches!(head, Ok(Header::Unreadable | Header::Future(_)))
}

fn header_bytes() -> usize {
    usize::try_from(HEADER_BYTES).unwrap_or(usize::MAX)
}

/// Renames a damaged segment. What is intact in it is still read.
pub(super) fn quarantine(storage: &dyn Storage, segment: &mut Segment, counters: &Counters) {
    counters.damaged_segments.add(1);
    segment.damaged = true;
    let name = damaged_name(segment.first);
    match storage.rename(&segment.name, &name) {
        Ok(()) => segment.name = name,
        Err(cause) => warn!(segment = segment.name, %cause, "damaged segment keeps its name"),
    }
}

/// Removes segments that the store has passed; of damaged ones the newest few stay.
pub(super) fn remove(storage: &dyn Storage, gone: &[Segment]) {
    for segment in gone.iter().filter(|segment| !segment.damaged) {
        if let Err(cause) = storage.remove(&segment.name) {
            warn!(segment = segment.name, %cause, "segment cannot be removed; tried again at the next start");
        }
    }
    let Some(passed) = gone.iter().filter(|segment| segment.damaged).map(|segment| segment.first).max() else { return };
    let Ok(segments) = list(storage) else { return };
    let kept = segments.into_iter().filter(|segment| segment.damaged && segment.first <= passed);
    for segment in kept.rev().skip(DAMAGED_SEGMENTS_KEPT) {
        if let Err(cause) = storage.remove(&segment.name) {
            warn!(segment = segment.name, %cause, "damaged segment cannot be removed");
        }
    }
}
