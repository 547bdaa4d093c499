//! What inlets, the commit thread and readers of one journal know in common.
//!
//! Owns the queue, the catalogue of segments and the durable end, all behind one lock that is held for moments: the
//! disk is not touched under it, but for the rare renaming of a damaged segment.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::{error, info, warn};

use super::recovery::{self, Recovered};
use super::segment::Segment;
use super::storage::Storage;
use super::{Options, Receipt, Refused, RefusedCause, format};
use crate::clock::Clock;
use crate::disk::Space;
use crate::document::size_text;
use crate::health::{Counter, Part, State as PartState};
use crate::model::{Frame, Timestamp};

/// Bounds of what is queued and not yet durable. One batch is taken whatever its size when nothing is queued.
const QUEUED_BYTES_MAX: u64 = 32 << 20;
const QUEUED_FRAMES_MAX: usize = 1 << 18;
/// How often an idle journal looks at the age of what it holds.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);

/// Frames that are appended together, and what to run when they are on disk.
pub(super) struct Batch {
    pub(super) frames: Vec<Frame>,
    pub(super) receipt: Receipt,
    pub(super) bytes: u64,
}

/// The journal's counters in its `Part`.
#[derive(Debug)]
pub(super) struct Counters {
    pub(super) records: Counter,
    pub(super) bytes_written: Counter,
    pub(super) bytes_on_disk: Counter,
    pub(super) segments: Counter,
    pub(super) syncs: Counter,
    pub(super) sync_failures: Counter,
    pub(super) damaged_segments: Counter,
    pub(super) lost_records: Counter,
    refused_full: Counter,
    refused_busy: Counter,
    oldest_record_age_s: Counter,
}

impl Counters {
    pub(super) fn of(part: &Part) -> Self {
        Self {
            records: part.counter("records"),
            bytes_written: part.counter("bytes_written"),
            bytes_on_disk: part.counter("bytes_on_disk"),
            segments: part.counter("segments"),
            syncs: part.counter("syncs"),
            sync_failures: part.counter("sync_failures"),
            damaged_segments: part.counter("damaged_segments"),
            lost_records: part.counter("lost_records"),
            refused_full: part.counter("refused_full"),
            refused_busy: part.counter("refused_busy"),
            oldest_record_age_s: part.counter("oldest_record_age_s"),
        }
    }
}

/// What the lock guards.
#[expect(clippy::struct_excessive_bools, reason = "each is one condition that is set and cleared by itself")]
struct State {
    queue: VecDeque<Batch>,
    /// Queued or being written: what the bounds of the queue count.
    queued_bytes: u64,
    queued_frames: usize,
    /// Segments with records, oldest first; the last one may be the active one and empty.
    segments: VecDeque<Segment>,
    bytes_on_disk: u64,
    /// Position after the last durable record.
    end: u64,
    /// What the store has passed.
    passed: u64,
    /// Whether the last segment is being written.
    active: bool,
    /// The active segment is to be closed, so that it can go.
    retire: bool,
    /// An append was refused for `bytes_max` and nothing has been released since.
    full: bool,
    /// Since when there are records that the store should have passed long ago.
    behind_since: Option<Timestamp>,
    /// When the store last passed records.
    passed_at: Option<Timestamp>,
    /// An append was refused because the disk's free room is what the store needs.
    short: Option<Space>,
    /// Why the last commit failed.
    failure: Option<Failure>,
    /// Space may have come back: try again now.
    retry: bool,
    /// The commit thread sleeps while more comes for its group, until so many bytes are queued.
    gathering: Option<u64>,
    closed: bool,
}

impl State {
    fn dequeue(&mut self, group: &[Batch]) {
        self.queued_bytes -= group.iter().map(|batch| batch.bytes).sum::<u64>();
        self.queued_frames -= group.iter().map(|batch| batch.frames.len()).sum::<usize>();
    }
}

struct Failure {
    detail: String,
    disk_full: bool,
}

/// A run of positions that are read in one way.
#[derive(Debug)]
pub(super) enum Stretch {
    /// Nothing is committed there yet.
    End,
    /// No segment has them.
    Missing { until: u64 },
    /// `segment` has them, up to position `until`.
    Segment { segment: Segment, until: u64 },
}

/// The common state of one journal.
pub(super) struct Shared {
    pub(super) storage: Arc<dyn Storage>,
    pub(super) options: Options,
    pub(super) counters: Counters,
    part: Arc<Part>,
    clock: Clock,
    state: Mutex<State>,
    /// Something for the commit thread to do.
    work: Condvar,
    /// The durable end has moved.
    published: Condvar,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("options", &self.options).field("end", &self.end()).finish_non_exhaustive()
    }
}

impl Shared {
    pub(super) fn new(
        storage: Arc<dyn Storage>,
        options: Options,
        found: Recovered,
        part: Arc<Part>,
        clock: Clock,
    ) -> Self {
        let bytes_on_disk = found.segments.iter().map(|segment| segment.bytes).sum();
        let state = State {
            queue: VecDeque::new(),
            queued_bytes: 0,
            queued_frames: 0,
            segments: found.segments,
            bytes_on_disk,
            end: found.end,
            passed: found.passed,
            active: false,
            retire: false,
            full: false,
            behind_since: None,
            passed_at: None,
            short: None,
            failure: None,
            retry: false,
            gathering: None,
            closed: false,
        };
        let counters = Counters::of(&part);
        let (state, work, published) = (Mutex::new(state), Condvar::new(), Condvar::new());
        let shared = Self { storage, options, counters, part, clock, state, work, published };
        shared.report(&shared.state());
        shared.look();
        shared
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Position after the last durable record.
    pub(super) fn end(&self) -> u64 {
        self.state().end
    }

    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    // Inlets.

    pub(super) fn append(&self, frames: Vec<Frame>, receipt: Receipt) -> Result<(), Refused> {
        let bytes: u64 = frames.iter().map(format::record_bytes).sum();
        let space = self.storage.space();
        let mut state = self.state();
        let cause = self.refusal(&mut state, space, (bytes, frames.len()));
        if let Some(cause) = cause {
            drop(state);
            match cause {
                RefusedCause::Full => self.counters.refused_full.add(1),
                RefusedCause::Busy => self.counters.refused_busy.add(1),
                RefusedCause::Closed => {}
            }
            return Err(Refused { frames, receipt, cause });
        }
        state.queued_bytes += bytes;
        state.queued_frames += frames.len();
        state.queue.push_back(Batch { frames, receipt, bytes });
        // A batch more is no reason to wake a thread that waits for more of them.
        let wakes = state.gathering.is_none_or(|bytes_max| state.queued_bytes >= bytes_max);
        drop(state);
        if wakes {
            self.work.notify_one();
        }
        Ok(())
    }

    fn refusal(&self, state: &mut State, space: Space, (bytes, frames): (u64, usize)) -> Option<RefusedCause> {
        if state.closed {
            return Some(RefusedCause::Closed);
        }
        if state.failure.as_ref().is_some_and(|failure| failure.disk_full) {
            return Some(RefusedCause::Full);
        }
        self.look_at_disk(state, space, bytes);
        if state.short.is_some() {
            self.retire_passed(state);
            return Some(RefusedCause::Full);
        }
        let used = state.bytes_on_disk + state.queued_bytes;
        if used > 0 && used + bytes > self.options.bytes_max {
            if !state.full {
                state.full = true;
                self.report(state);
                warn!(bytes = used, bytes_max = self.options.bytes_max, "journal full, refusing records");
            }
            self.retire_passed(state);
            return Some(RefusedCause::Full);
        }
        let idle = state.queued_frames == 0;
        let busy = state.queued_bytes + bytes > QUEUED_BYTES_MAX || state.queued_frames + frames > QUEUED_FRAMES_MAX;
        (busy && !idle).then_some(RefusedCause::Busy)
    }

    /// Notes whether the disk has room for `bytes` more besides what the store needs to pass what is here.
    fn look_at_disk(&self, state: &mut State, space: Space, bytes: u64) {
        let reserve = space.reserve_bytes();
        // Some more than that has to be free again, or else every batch would change the state.
        let again = if state.short.is_some() { reserve / 4 } else { 0 };
        let is_short = space.free_bytes < (reserve + again).saturating_add(state.queued_bytes + bytes);
        let was_short = state.short.is_some();
        state.short = is_short.then_some(space);
        if is_short != was_short {
            self.report(state);
            let Space { free_bytes, .. } = space;
            if is_short {
                warn!(free_bytes, reserve, folder = %self.options.folder.display(), "disk nearly full, refusing records");
            } else {
                info!(free_bytes, "disk has room again, journal takes records");
            }
        }
    }

    /// Has the active segment closed when it fills the journal and the store has passed all of it.
    fn retire_passed(&self, state: &mut State) {
        if (state.full || state.short.is_some())
            && state.active
            && state.passed >= state.end
            && state.queued_frames == 0
        {
            state.retire = true;
            self.work.notify_one();
        }
    }

    /// Commits what is queued and ends the commit thread.
    pub(super) fn close(&self) {
        self.state().closed = true;
        self.work.notify_all();
    }

    // The commit thread.

    /// Moves batches of up to `bytes_max` from the queue to `group`, at least one. Returns whether there were any.
    pub(super) fn take(&self, bytes_max: u64, group: &mut Vec<Batch>) -> bool {
        let mut state = self.state();
        let (held, mut taken) = (group.len(), 0);
        while let Some(batch) = state.queue.front() {
            if taken > 0 && taken + batch.bytes > bytes_max {
                break;
            }
            taken += batch.bytes;
            group.extend(state.queue.pop_front());
        }
        group.len() > held
    }

    /// Adds to `group` what is queued until the instant `until`, or until about `bytes_max` are in it, or the journal is
    /// closed.
    pub(super) fn gather(&self, until: Instant, bytes_max: u64, group: &mut Vec<Batch>) {
        let timeout = until.saturating_duration_since(Instant::now());
        let mut state = self.state();
        if !timeout.is_zero() {
            state.gathering = Some(bytes_max);
            let wait = |state: &mut State| !state.closed && state.queued_bytes < bytes_max;
            state = self.work.wait_timeout_while(state, timeout, wait).unwrap_or_else(PoisonError::into_inner).0;
            state.gathering = None;
        }
        let gathered: u64 = group.iter().map(|batch| batch.bytes).sum();
        let (has_room, bytes) = (gathered < bytes_max, bytes_max.saturating_sub(gathered));
        drop(state);
        if has_room {
            self.take(bytes, group);
        }
    }

    /// Whether the commit thread has a group that more may join.
    #[cfg(test)]
    pub(super) fn is_gathering(&self) -> bool {
        self.state().gathering.is_some()
    }

    /// Waits until something is queued, a segment is to be retired, or it is time to look at ages. Returns false when
    /// the journal is closed and nothing is left.
    pub(super) fn await_work(&self) -> bool {
        let idle = |state: &mut State| state.queue.is_empty() && !state.closed && !state.retire;
        let state = self.state();
        let state = if state.segments.is_empty() {
            self.work.wait_while(state, idle).unwrap_or_else(PoisonError::into_inner)
        } else {
            let timeout = self.clock.real(LOOK_INTERVAL);
            self.work.wait_timeout_while(state, timeout, idle).unwrap_or_else(PoisonError::into_inner).0
        };
        !(state.queue.is_empty() && state.closed)
    }

    /// Waits before a failed commit is tried again. Returns false when the journal is closed.
    pub(super) fn await_retry(&self, timeout: Duration) -> bool {
        let wait = |state: &mut State| !state.closed && !state.retry;
        let (mut state, _) =
            self.work.wait_timeout_while(self.state(), timeout, wait).unwrap_or_else(PoisonError::into_inner);
        state.retry = false;
        !state.closed
    }

    /// Whether the active segment is to be closed; says so once.
    pub(super) fn take_retire(&self) -> bool {
        std::mem::take(&mut self.state().retire)
    }

    /// A segment was created at the durable end and is written from now on.
    pub(super) fn activate(&self, segment: Segment) {
        let mut state = self.state();
        state.bytes_on_disk += segment.bytes;
        state.segments.push_back(segment);
        state.active = true;
        self.gauge(&state);
    }

    /// The active segment is not written any more; gives what is known of it. One without a durable record is
    /// forgotten: its name is used again.
    pub(super) fn deactivate(&self) -> Option<Segment> {
        let mut state = self.state();
        if !std::mem::take(&mut state.active) {
            return None;
        }
        let segment = state.segments.back().cloned()?;
        if segment.first == state.end {
            state.segments.pop_back();
            state.bytes_on_disk -= segment.bytes;
        }
        self.gauge(&state);
        Some(segment)
    }

    /// `records` more records, `bytes` of the active segment, are durable.
    pub(super) fn publish(&self, records: u64, bytes: u64, group: &[Batch]) {
        let mut state = self.state();
        state.end += records;
        state.bytes_on_disk += bytes;
        if let Some(segment) = state.segments.back_mut() {
            segment.bytes += bytes;
        }
        state.dequeue(group);
        if let Some(failure) = state.failure.take() {
            self.report(&state);
            info!(failure = failure.detail, "journal writes again");
        }
        self.gauge(&state);
        self.look_at_age(&mut state);
        drop(state);
        self.counters.records.add(records);
        self.counters.bytes_written.add(bytes);
        self.published.notify_all();
    }

    /// `group` is no longer queued.
    pub(super) fn abandon(&self, group: &[Batch]) {
        self.state().dequeue(group);
    }

    /// A commit failed and will be tried again.
    pub(super) fn fail(&self, cause: &io::Error) {
        self.counters.sync_failures.add(1);
        let disk_full = matches!(cause.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        let mut state = self.state();
        let known = state.failure.replace(Failure { detail: format!("cannot write: {cause}"), disk_full });
        self.report(&state);
        if known.is_none() {
            error!(%cause, "journal cannot write, acknowledging nothing");
        }
    }

    // Readers.

    /// Who has the record at `position`, and the ones after it.
    pub(super) fn stretch(&self, position: u64) -> Stretch {
        let state = self.state();
        if position >= state.end {
            return Stretch::End;
        }
        let after = state.segments.partition_point(|segment| segment.first <= position);
        let until = state.segments.get(after).map_or(state.end, |next| next.first.min(state.end));
        match after.checked_sub(1).and_then(|index| state.segments.get(index)) {
            Some(segment) => Stretch::Segment { segment: segment.clone(), until },
            None => Stretch::Missing { until },
        }
    }

    /// Whether there is a segment that starts at `first`.
    pub(super) fn has_segment(&self, first: u64) -> bool {
        self.state().segments.iter().any(|segment| segment.first == first)
    }

    /// Waits until something at or beyond `position` is durable, at most `timeout`. Returns whether it is.
    pub(super) fn await_record(&self, position: u64, timeout: Duration) -> bool {
        let wait = |state: &mut State| state.end <= position;
        let waited = self.published.wait_timeout_while(self.state(), timeout, wait);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// Marks the segment that starts at `first` as damaged and renames it, once.
    pub(super) fn quarantine(&self, first: u64) {
        let mut state = self.state();
        if let Some(segment) = state.segments.iter_mut().find(|segment| segment.first == first && !segment.damaged) {
            recovery::quarantine(self.storage.as_ref(), segment, &self.counters);
        }
    }

    // The store's side.

    /// Whether records are refused until the store has passed some.
    pub(super) fn is_full(&self) -> bool {
        let state = self.state();
        state.full || state.short.is_some() || state.failure.as_ref().is_some_and(|failure| failure.disk_full)
    }

    /// Removes the segments whose records the store has all passed.
    pub(super) fn release(&self, passed: u64) {
        let mut gone = Vec::new();
        let mut state = self.state();
        if passed > state.passed {
            (state.passed, state.passed_at) = (passed, Some(self.now()));
        }
        loop {
            let until = state.segments.get(1).map_or(state.end, |next| next.first);
            let is_active = state.active && state.segments.len() == 1;
            if is_active || until > state.passed {
                break;
            }
            let Some(segment) = state.segments.pop_front() else { break };
            state.bytes_on_disk -= segment.bytes;
            gone.push(segment);
        }
        let used = state.bytes_on_disk + state.queued_bytes;
        if state.full && !gone.is_empty() && used < self.options.bytes_max {
            state.full = false;
            self.report(&state);
            info!(bytes = used, bytes_max = self.options.bytes_max, "journal takes records again");
        }
        self.retire_passed(&mut state);
        if state.failure.is_some() && !gone.is_empty() {
            state.retry = true;
        }
        self.gauge(&state);
        self.look_at_age(&mut state);
        drop(state);
        recovery::remove(self.storage.as_ref(), &gone);
        self.work.notify_one();
    }

    // Ages.

    /// Whether a segment that was begun then is to be closed.
    pub(super) fn is_aged(&self, begun: Timestamp) -> bool {
        age(begun, self.now()) >= self.options.age_max
    }

    /// Sees how old the oldest record is by now.
    pub(super) fn look(&self) {
        self.look_at_age(&mut self.state());
    }

    fn look_at_age(&self, state: &mut State) {
        let now = self.now();
        let begun = state.segments.iter().find_map(|segment| segment.begun);
        self.counters.oldest_record_age_s.set(begun.map_or(0, |begun| age(begun, now).as_secs()));
        // Twice the age: once to close the segment, and time to pass it.
        let is_closed = !(state.active && state.segments.len() == 1);
        let old = begun.filter(|begun| is_closed && age(*begun, now) >= self.options.age_max * 2);
        let before = std::mem::replace(&mut state.behind_since, old);
        if before.is_some() || old.is_some() {
            self.report(state);
        }
        match (before, old) {
            (None, Some(since)) => warn!(%since, "the store has not passed records that are old by now"),
            (Some(_), None) => info!("the store has passed the old records"),
            _ => {}
        }
    }

    /// What a person is to do about a disk that is nearly full.
    fn short_detail(&self, space: Space) -> String {
        format!(
            "full: the disk of {} has {} free, and {} are left to the store; nothing is acknowledged until there is more \
             room: remove what does not belong there, or lower journal.bytes_max or rollup.store_bytes_max",
            self.options.folder.display(),
            size_text(space.free_bytes >> 20 << 20),
            size_text(space.reserve_bytes() >> 20 << 20),
        )
    }

    fn gauge(&self, state: &State) {
        self.counters.bytes_on_disk.set(state.bytes_on_disk);
        self.counters.segments.set(state.segments.len() as u64);
    }

    fn report(&self, state: &State) {
        let (condition, detail) = match &state.failure {
            Some(Failure { detail, disk_full: false }) => (PartState::Down, detail.clone()),
            Some(Failure { detail, disk_full: true }) => {
                (PartState::Down, format!("{detail}; free some room on the disk of {}", self.options.folder.display()))
            }
            None if state.short.is_some() => {
                (PartState::Degraded, state.short.map(|space| self.short_detail(space)).unwrap_or_default())
            }
            None if state.full => {
                let detail =
                    format!("full: at bytes_max ({} bytes); the store has to pass records", self.options.bytes_max);
                (PartState::Degraded, detail)
            }
            None => match (state.behind_since, state.passed_at) {
                (None, _) => (PartState::Up, String::new()),
                (Some(begun), None) => (
                    PartState::Degraded,
                    format!("the store has not passed records from {begun} on; it passed none so far"),
                ),
                (Some(begun), Some(passed_at)) => {
                    let detail =
                        format!("the store has not passed records from {begun} on; it last passed some at {passed_at}");
                    (PartState::Degraded, detail)
                }
            },
        };
        self.part.report(condition, detail, self.clock.now());
        self.gauge(state);
    }
}

fn age(begun: Timestamp, now: Timestamp) -> Duration {
    Duration::from_millis(u64::try_from(now.millis_since(begun)).unwrap_or(0))
}
