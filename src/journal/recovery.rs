//! Finds out, when the journal opens, which records it has. See the decision table on the module's page.
//!
//! Acts by that table. Never deletes a record that the store has not passed, never fails for what a file holds.

use std::collections::VecDeque;
use std::io;
use std::ops::ControlFlow;

use tracing::{error, info, warn};

use super::format::HEADER_BYTES;
use super::judge::{Verdict, beginning, judge_last, survey};
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

/// Reads the folder.
///
/// # Errors
/// Only when the folder cannot be listed.
pub(super) fn recover(storage: &dyn Storage, passed: u64, counters: &Counters) -> io::Result<Recovered> {
    let Listed { mut segments, twins } = list(storage)?.apart();
    let mut end = 0;
    let mut last = None;
    if let Some(segment) = segments.back_mut() {
        end = recover_last(storage, segment, counters);
        last = Some(segment.first);
    }
    if passed > end {
        if last.is_some() {
            warn!(end, passed, "the store has passed more records than the journal holds, going on where it stands");
        }
        end = passed;
    }
    let untils: Vec<u64> = segments.iter().skip(1).map(|next| next.first).chain([end]).collect();
    let mut kept = VecDeque::new();
    let mut gone: Vec<Segment> = twins.into_iter().filter(|twin| !twin.damaged).collect();
    for (segment, until) in segments.into_iter().zip(untils) {
        if until <= passed {
            gone.push(segment);
        } else if segment.first < until {
            kept.push_back(segment);
        }
        // What is left out holds no record: a segment that was created and not used. It stays, as it still tells where
        // the end was.
    }
    for segment in &mut kept {
        let beginning = beginning(storage, segment);
        segment.begun = beginning.begun;
        if beginning.is_foreign && !segment.damaged && Some(segment.first) != last {
            error!(segment = segment.name, "segment has no readable header");
            quarantine(storage, segment, counters);
        }
    }
    remove(storage, &gone);
    Ok(Recovered { segments: kept, end, passed })
}

/// Segments of the folder, in order of their first positions.
#[derive(Debug)]
pub(super) struct Listed {
    pub(super) segments: VecDeque<Segment>,
    /// Of two with the same first position the one that is not taken for it.
    pub(super) twins: Vec<Segment>,
}

/// All segments in order of their first positions; of two with the same one the damaged comes first.
pub(super) fn list(storage: &dyn Storage) -> io::Result<Listed> {
    let mut segments: Vec<Segment> = storage.list()?.into_iter().filter_map(Segment::named).collect();
    segments.retain_mut(|segment| match storage.len(&segment.name) {
        Ok(bytes) => {
            (segment.bytes, segment.bytes_known) = (bytes, true);
            true
        }
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => false,
        Err(cause) => {
            error!(segment = segment.name, %cause, "segment whose size cannot be had");
            true
        }
    });
    segments.sort_by_key(|segment| (segment.first, !segment.damaged));
    Ok(Listed { segments: segments.into(), twins: Vec::new() })
}

impl Listed {
    /// Sets twins apart: the intact name stands for a position, unless nothing is in it.
    pub(super) fn apart(self) -> Self {
        let (mut segments, mut twins): (VecDeque<Segment>, _) = (VecDeque::new(), self.twins);
        for segment in self.segments {
            match segments.back_mut() {
                Some(damaged) if damaged.first == segment.first => {
                    let is_empty = segment.bytes_known && segment.bytes <= HEADER_BYTES;
                    let twin = if is_empty { segment } else { std::mem::replace(damaged, segment) };
                    warn!(segment = twin.name, "left alone: another file has the same first position");
                    twins.push(twin);
                }
                _ => segments.push_back(segment),
            }
        }
        Self { segments, twins }
    }
}

/// Judges the last segment, cuts its torn tail or quarantines it, and gives the position after its last record.
fn recover_last(storage: &dyn Storage, segment: &mut Segment, counters: &Counters) -> u64 {
    let file = if segment.bytes_known { storage.open(&segment.name).ok() } else { None };
    let survey = file.map(|file| survey(file, segment, u64::MAX, &mut |_| ControlFlow::Continue(())));
    let (verdict, end) = judge_last(segment, survey.as_ref());
    let bytes = match verdict {
        Verdict::Unused => return end,
        Verdict::Torn { at } => {
            info!(segment = segment.name, bytes = segment.bytes - at, end, "torn tail cut");
            at
        }
        Verdict::Sound => segment.bytes,
        Verdict::Damaged { .. } | Verdict::Later { .. } | Verdict::Short => {
            error!(segment = segment.name, ?verdict, records_max = end - segment.first, "last segment damaged");
            if !segment.damaged {
                quarantine(storage, segment, counters);
            }
            return end;
        }
    };
    // Syncs too: what a killed process wrote but did not sync is durable before anybody reads it.
    if let Err(cause) = storage.truncate(&segment.name, bytes) {
        warn!(segment = segment.name, %cause, "torn tail left in place; the next segment hides it");
    }
    segment.bytes = bytes;
    end
}

/// Renames a damaged segment. What is intact in it is still read.
pub(super) fn quarantine(storage: &dyn Storage, segment: &mut Segment, counters: &Counters) {
    counters.damaged_segments.add(1);
    segment.damaged = true;
    let name = damaged_name(segment.first);
    if storage.len(&name).is_ok() {
        warn!(segment = segment.name, "damaged segment keeps its name: another one has the name it should get");
        return;
    }
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
    let Ok(listed) = list(storage) else { return };
    let kept = listed.segments.into_iter().filter(|segment| segment.damaged && segment.first <= passed);
    for segment in kept.rev().skip(DAMAGED_SEGMENTS_KEPT) {
        if let Err(cause) = storage.remove(&segment.name) {
            warn!(segment = segment.name, %cause, "damaged segment cannot be removed");
        }
    }
}
