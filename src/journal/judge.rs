//! What the bytes of one segment are worth: the part of the decision table on the module's page that looks at bytes.
//!
//! Owns the verdicts. Recovery acts by them, inspection prints them. Never writes, renames or counts.

use std::io;
use std::ops::ControlFlow;

use super::cursor::{Bounds, Cursor, Found};
use super::format::{HEADER_BYTES, Header, RECORD_BYTES_MIN, Sources, decode, read_header};
use super::segment::Segment;
use super::spare::Spare;
use super::storage::{ReadFile, Storage};
use crate::model::Timestamp;

/// Bytes that a segment may have whose size cannot be had: the largest `segment_bytes`, and what a last group adds.
const SEGMENT_BYTES_MAX: u64 = (1 << 32) + (64 << 20);

/// What a walk from the front of a segment to its end has found.
#[derive(Debug)]
pub(super) struct Survey {
    header: Header,
    /// Intact records.
    pub(super) records: u64,
    /// Index after the last of them.
    pub(super) end: u64,
    /// Offset after the last of them.
    offset: u64,
    /// Where bytes start that are no record, with an intact one after them.
    damaged_at: Option<u64>,
    /// Where the last stretch ends that the disk could not read.
    unreadable_until: u64,
}

/// What a segment is found to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every byte belongs to an intact record.
    Sound,
    /// No longer than its header: created, and not used.
    Unused,
    /// From `at` on there is no intact record; what a crash leaves, or what is being written right now.
    Torn {
        /// Offset in the file.
        at: u64,
    },
    /// Its records end before the next segment starts, and nothing tells why.
    Short,
    /// Bytes at `at` are not as they were written, or cannot be read.
    Damaged {
        /// Offset in the file.
        at: u64,
    },
    /// Written by a later version of the program.
    Later {
        /// Version of its format.
        version: u32,
    },
}

/// Walks over the records of a segment whose index is below `records_max`, around what the disk cannot read, and shows
/// each to `visit`, until it breaks off.
pub(super) fn survey(
    file: Box<dyn ReadFile>,
    segment: &Segment,
    records_max: u64,
    visit: &mut dyn FnMut(&Found<'_>) -> ControlFlow<()>,
) -> Survey {
    let mut cursor = Cursor::new(file, segment.first);
    cursor.read_around();
    let header = header(&mut cursor, segment.first).unwrap_or(Header::Unreadable);
    let bounds = Bounds { records: records_max, bytes: segment.bytes };
    let (mut records, mut damaged_at) = (0, None);
    loop {
        let offset = cursor.offset();
        // A cursor that reads around what fails gives no error.
        let Ok(Some(found)) = cursor.next(bounds) else { break };
        if found.damaged {
            damaged_at.get_or_insert(offset);
        }
        records += 1;
        if visit(&found).is_break() {
            break;
        }
    }
    let (end, offset, unreadable_until) = (cursor.index(), cursor.offset(), cursor.unreadable_until());
    Survey { header, records, end, offset, damaged_at, unreadable_until }
}

/// Judges a segment that no other follows. Gives the position after its last record, too: where nothing tells how many
/// records a stretch held, as many as fit, so that none that may have been acknowledged is given away twice.
pub(super) fn judge_last(segment: &Segment, survey: Option<&Survey>) -> (Verdict, u64) {
    let end_after = |records: u64| segment.first.saturating_add(records);
    let fitting = |index: u64, offset: u64| {
        let bytes = if segment.bytes_known { segment.bytes } else { SEGMENT_BYTES_MAX };
        end_after(index + bytes.saturating_sub(offset).div_ceil(RECORD_BYTES_MIN))
    };
    if segment.bytes_known && segment.bytes <= HEADER_BYTES {
        return (Verdict::Unused, segment.first);
    }
    let Some(survey) = survey else { return (Verdict::Damaged { at: 0 }, fitting(0, HEADER_BYTES)) };
    if let Header::Future(version) = survey.header {
        return (Verdict::Later { version }, fitting(0, HEADER_BYTES));
    }
    if survey.unreadable_until > survey.offset {
        return (survey.damage().unwrap_or(Verdict::Damaged { at: survey.offset }), fitting(survey.end, survey.offset));
    }
    let end = end_after(survey.end);
    let torn = survey.offset < segment.bytes;
    match survey.damage() {
        Some(damage) if survey.end == 0 => (damage, fitting(0, HEADER_BYTES)),
        Some(damage) => (damage, end),
        None if segment.damaged && survey.end == 0 => (Verdict::Damaged { at: HEADER_BYTES }, fitting(0, HEADER_BYTES)),
        None if segment.damaged => (Verdict::Damaged { at: survey.offset }, end),
        None if torn => (Verdict::Torn { at: survey.offset }, end),
        None => (Verdict::Sound, end),
    }
}

/// Judges a segment whose records end where the next segment starts, after `records` of them.
pub(super) fn judge_followed(segment: &Segment, survey: &Survey, records: u64) -> Verdict {
    match survey.header {
        Header::Future(version) => return Verdict::Later { version },
        Header::Unreadable => return Verdict::Damaged { at: 0 },
        Header::Valid => {}
    }
    match survey.damage() {
        Some(damage) => damage,
        None if survey.end >= records => Verdict::Sound,
        None if survey.offset < segment.bytes => Verdict::Damaged { at: survey.offset },
        None => Verdict::Short,
    }
}

impl Survey {
    /// What is damaged before its last intact record, or unreadable.
    fn damage(&self) -> Option<Verdict> {
        if self.header != Header::Valid {
            return Some(Verdict::Damaged { at: 0 });
        }
        let unreadable = (self.unreadable_until > 0).then_some(self.offset);
        self.damaged_at.or(unreadable).map(|at| Verdict::Damaged { at })
    }
}

/// What the first bytes of a segment say that others follow.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Beginning {
    /// Whether its header is not the one it should have; unknown ones are not.
    pub(super) is_foreign: bool,
    /// When its first intact record came.
    pub(super) begun: Option<Timestamp>,
}

/// Looks at the first bytes of a segment.
pub(super) fn beginning(storage: &dyn Storage, segment: &Segment) -> Beginning {
    let Ok(file) = storage.open(&segment.name) else { return Beginning::default() };
    let mut cursor = Cursor::new(file, segment.first);
    let header = header(&mut cursor, segment.first);
    let is_foreign = matches!(header, Ok(Header::Unreadable | Header::Future(_)));
    let bounds = Bounds { records: u64::MAX, bytes: segment.bytes };
    let first = cursor
        .next(bounds)
        .ok()
        .flatten()
        .and_then(|found| decode(found.body, &mut Sources::default(), &mut Spare::default()));
    Beginning { is_foreign, begun: first.map(|frame| frame.arrival) }
}

fn header(cursor: &mut Cursor, first: u64) -> io::Result<Header> {
    cursor.head(usize::try_from(HEADER_BYTES).unwrap_or(usize::MAX)).map(|bytes| read_header(bytes, first))
}
