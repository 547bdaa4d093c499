//! A look at the segments of a folder, for a person: what recovery would say of them, and their records.
//!
//! Judges by the same code as recovery. Only ever reads, so it may look on while a daemon runs.

use std::io;
use std::ops::{ControlFlow, Range};

use super::format::{Sources, decode};
use super::judge::{Survey, Verdict, judge_followed, judge_last, survey};
use super::recovery::{Listed, list};
use super::segment::Segment;
use super::spare::Spare;
use super::storage::Storage;
use crate::model::{Frame, JournalPosition, Timestamp};

/// One segment, as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentReport {
    /// Name of its file.
    pub name: String,
    /// Position of its first record.
    pub first: JournalPosition,
    /// Bytes of its file.
    pub bytes: u64,
    /// Intact records in it.
    pub records: u64,
    /// Positions in it without an intact record; at the end of a damaged last segment as many as may have been there.
    pub lost: u64,
    /// When its first and its last record came.
    pub arrivals: Option<(Timestamp, Timestamp)>,
    /// What it is found to be.
    pub verdict: Verdict,
    /// Whether it was renamed for damage, at some time.
    pub is_set_aside: bool,
}

impl SegmentReport {
    /// Whether a person should look at it.
    pub fn is_damaged(&self) -> bool {
        self.is_set_aside || !matches!(self.verdict, Verdict::Sound | Verdict::Unused | Verdict::Torn { .. })
    }
}

/// What is seen on the way, in the order of positions.
#[derive(Debug)]
pub enum Sight {
    /// An intact record.
    Record(JournalPosition, Frame),
    /// Positions from here on that have no record.
    Lost {
        /// The first of them.
        from: JournalPosition,
        /// How many.
        records: u64,
    },
    /// A segment is done.
    Segment(SegmentReport),
    /// A file that another of the same first position stands for.
    Twin(String),
    /// A segment that went, or was renamed, since the folder was listed.
    Gone(String),
}

/// Which records to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// Positions.
    pub positions: Range<u64>,
    /// Only the segment of this file name.
    pub name: Option<String>,
}

impl Scope {
    fn takes(&self, name: &str) -> bool {
        self.name.as_ref().is_none_or(|wanted| wanted == name)
    }
}

impl Default for Scope {
    fn default() -> Self {
        Self { positions: 0..u64::MAX, name: None }
    }
}

/// Bytes of all segments in `storage`, for a sense of how long a look takes.
///
/// # Errors
/// When the folder cannot be listed.
pub fn bytes_of(storage: &dyn Storage) -> io::Result<u64> {
    Ok(list(storage)?.segments.iter().map(|segment| segment.bytes).sum())
}

/// Whether `storage` has a segment of `scope`, whatever is in it.
///
/// # Errors
/// When the folder cannot be listed.
pub fn has_segments(storage: &dyn Storage, scope: &Scope) -> io::Result<bool> {
    Ok(list(storage)?.segments.iter().any(|segment| scope.takes(&segment.name)))
}

/// Walks over the segments in `storage` that have a position of `scope`, and shows what is there to `see`, until it has
/// seen enough.
///
/// # Errors
/// When the folder cannot be listed; never for what a file holds.
pub fn inspect(storage: &dyn Storage, scope: &Scope, see: &mut dyn FnMut(Sight) -> ControlFlow<()>) -> io::Result<()> {
    let Listed { segments, twins } = list(storage)?.apart();
    for twin in twins.into_iter().filter(|twin| scope.takes(&twin.name)) {
        if see(Sight::Twin(twin.name)).is_break() {
            return Ok(());
        }
    }
    for (place, segment) in segments.iter().enumerate() {
        let next = segments.get(place + 1);
        let (from, until) = (segment.first, next.map_or(u64::MAX, |next| next.first));
        if !scope.takes(&segment.name) || until <= scope.positions.start || from >= scope.positions.end {
            continue;
        }
        if look_at(storage, segment, next, &scope.positions, see).is_break() {
            break;
        }
    }
    Ok(())
}

fn look_at(
    storage: &dyn Storage,
    segment: &Segment,
    next: Option<&Segment>,
    positions: &Range<u64>,
    see: &mut dyn FnMut(Sight) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let first = segment.first;
    let lost = |from: u64, records: u64| Sight::Lost { from: JournalPosition(from), records };
    let (mut sources, mut arrivals) = (Sources::default(), None);
    let mut undecoded = 0;
    let mut enough = ControlFlow::Continue(());
    let file = match storage.open(&segment.name) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return see(Sight::Gone(segment.name.clone())),
        file => file.ok().filter(|_| segment.bytes_known),
    };
    let records_max = next.map_or(u64::MAX, |next| next.first - first);
    let found = file.map(|file| {
        survey(file, segment, records_max, &mut |found| {
            let position = first + found.index;
            if position >= positions.end {
                return ControlFlow::Break(());
            }
            let frame = decode(found.body, &mut sources, &mut Spare::default());
            if let Some(frame) = &frame {
                let earliest = arrivals.map_or(frame.arrival, |(earliest, _)| earliest);
                arrivals = Some((earliest, frame.arrival));
            }
            if found.lost > 0 && position > positions.start {
                see(lost(position - found.lost, found.lost)).map_break(|()| enough = ControlFlow::Break(()))?;
            }
            undecoded += u64::from(frame.is_none());
            if position < positions.start {
                return ControlFlow::Continue(());
            }
            let sight = frame.map_or(lost(position, 1), |frame| Sight::Record(JournalPosition(position), frame));
            see(sight).map_break(|()| enough = ControlFlow::Break(()))
        })
    });
    enough?;
    let end = first + found.as_ref().map_or(0, |found| found.end);
    let (verdict, judged_end) = judge(segment, next, found.as_ref());
    // What follows a segment that was set aside may have been passed and let go since.
    let missing = if segment.damaged && next.is_some() { 0 } else { judged_end.saturating_sub(end) };
    if missing > 0 && end < positions.end && judged_end > positions.start {
        see(lost(end, missing))?;
    }
    let intact = found.as_ref().map_or(0, |found| found.records);
    see(Sight::Segment(SegmentReport {
        name: segment.name.clone(),
        first: JournalPosition(first),
        bytes: segment.bytes,
        records: intact - undecoded,
        lost: end - first - intact + undecoded + missing,
        arrivals,
        verdict,
        is_set_aside: segment.damaged,
    }))
}

/// The verdict on a segment, and the position at which its records end.
fn judge(segment: &Segment, next: Option<&Segment>, found: Option<&Survey>) -> (Verdict, u64) {
    match (next, found) {
        (None, _) => judge_last(segment, found),
        (Some(next), None) => (Verdict::Damaged { at: 0 }, next.first),
        (Some(next), Some(found)) => (judge_followed(segment, found, next.first - segment.first), next.first),
    }
}
