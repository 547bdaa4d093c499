//! Entries of the journal applied to open windows, with the ledger that accounts for each.
//!
//! Owns the windows that changed since the last flush and those that messages usually still come for. Never reads the clock: everything
//! follows from the entries, so a replay comes to the same.

mod anew;
#[cfg(feature = "bench")]
#[path = "roller_bench.rs"]
pub mod bench;
mod unlisted;

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::{Arc, PoisonError};

use tracing::error;

use super::Options;
use super::arrival::{ClampMemory, Known, Place, limits};
use super::lateness::Lateness;
use super::open_windows::OpenWindows;
use super::plan::Plans;
use super::rejections::Rejections;
use super::stored_rows::StoredRows;
use super::topics::Topics;
use crate::decode::event_time::{self, GivenTime};
use crate::decode::modbus;
use crate::decode::native::{self, NativeMessage};
use crate::health::Trouble;
use crate::inventory::SharedInventory;
use crate::journal::Entry;
use crate::ledger::{Counts, EXPIRED, Invalid, Ledger, Rejection};
use crate::model::{
    BASE_WINDOW_MS, DeviceId, Frame, FrameKind, JournalPosition, MetricId, Timestamp, Window, WindowStart,
};
use crate::rollup::{DeviceWindow, Outcome};
use crate::store::{self, DeadLetter, FlushedRow, StoredDevice, Unlisted, Writer};

/// Rejected messages that one flush brings to the store; the others are only counted.
const DEAD_LETTERS_PER_FLUSH_MAX: usize = 200;
/// Messages whose readings could not be placed in time that one flush brings to the store; fewer, since one device with
/// a wrong clock makes them by the thousand.
const UNPLACED_LETTERS_PER_FLUSH_MAX: usize = 20;
/// Entries whose memory is asked for together before they are applied one by one.
pub const AHEAD: usize = 32;
/// The shortest of the longer windows, with which each of them ends, ms.
const LONGER_WINDOW_MS: i64 = 5 * BASE_WINDOW_MS;
/// Source under which records are counted that the journal lost.
const JOURNAL_SOURCE: &str = "journal";

/// A reading that is to go into a row.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    slot: usize,
    metric: MetricId,
    value: f64,
}

/// What became of one reading of a message.
type Judged = Result<Candidate, Invalid>;

/// Applies entries of the journal in order.
#[derive(Debug)]
pub struct Roller {
    options: Options,
    inventory: SharedInventory,
    plans: Plans,
    topics: Topics,
    /// Devices that were taken in without ever being listed, by the source that heard them first.
    taken_in: BTreeMap<Arc<str>, usize>,
    /// What of that the store does not have yet.
    new_unlisted: Unlisted,
    windows: OpenWindows,
    changes: bool,
    /// Start of the newest row of the store.
    newest_row: Option<WindowStart>,
    stored: StoredRows,
    final_until: Option<Timestamp>,
    /// Rows before this are gone from the store.
    kept_from: Option<Timestamp>,
    ledger: Ledger,
    position: JournalPosition,
    /// When the message before `position` arrived.
    last_arrival: Option<Timestamp>,
    lateness: Lateness,
    dead_letters: Vec<DeadLetter>,
    /// How many of the dead letters are of messages whose readings could not be placed.
    unplaced_letters: usize,
    clamped: ClampMemory,
    new_devices: Vec<StoredDevice>,
    new_metrics: Vec<(MetricId, Arc<str>)>,
    damaged_rows: u64,
    rejections: Rejections,
    judged: Vec<Judged>,
}

/// What one flush writes, in the store's words.
pub(super) struct FlushParts<'a> {
    pub(super) rows: Vec<FlushedRow<'a>>,
    pub(super) devices: &'a [StoredDevice],
    pub(super) metrics: &'a [(MetricId, Arc<str>)],
    pub(super) ledger: &'a Ledger,
    pub(super) position: JournalPosition,
    pub(super) dead_letters: &'a [DeadLetter],
}

impl Roller {
    /// A roller that goes on at `position` with the ledger as of it. Devices and metrics of the inventory that `writer`'s
    /// store does not know, or knows otherwise, are written with the next flush.
    ///
    /// # Errors
    /// Where the store cannot be read.
    pub fn new(
        options: Options,
        inventory: SharedInventory,
        ledger: Ledger,
        position: JournalPosition,
        writer: &Writer,
    ) -> Result<Self, store::Error> {
        let snapshot = inventory.read().unwrap_or_else(PoisonError::into_inner).clone();
        let known = writer.devices()?;
        let devices = snapshot.devices().iter().map(|device| StoredDevice::of(&snapshot, device));
        let new_devices: Vec<_> = devices.filter(|device| known.get(device.id.index()) != Some(device)).collect();
        let metrics_known = writer.metrics()?.len();
        let names = snapshot.metrics.all().iter().enumerate().skip(metrics_known);
        let new_metrics: Vec<_> =
            names.filter_map(|(id, name)| Some((MetricId(u32::try_from(id).ok()?), name.clone()))).collect();
        let changes = !new_devices.is_empty() || !new_metrics.is_empty();
        let newest_row = writer.newest_row()?;
        let mut roller = Self {
            options,
            plans: Plans::of(&snapshot),
            topics: Topics::default(),
            taken_in: BTreeMap::new(),
            new_unlisted: Unlisted::default(),
            windows: OpenWindows::default(),
            changes,
            newest_row,
            stored: StoredRows::after(newest_row),
            final_until: writer.final_until(),
            kept_from: writer.kept_from(),
            ledger,
            position,
            last_arrival: None,
            lateness: Lateness::default(),
            dead_letters: Vec::new(),
            unplaced_letters: 0,
            clamped: ClampMemory::default(),
            new_devices,
            new_metrics,
            damaged_rows: 0,
            rejections: Rejections::default(),
            judged: Vec::new(),
            inventory,
        };
        roller.recall_unlisted(writer.unlisted()?, &snapshot);
        Ok(roller)
    }

    /// The devices of the next `entries`, [`AHEAD`] of them at the most, whose memory it looks at.
    ///
    /// A city does not fit the processor's caches, and its messages come in random order. Memory that is asked for message
    /// by message is waited for each time; asked for in a row, most of the waits fall together.
    #[must_use]
    pub fn look_ahead(&self, entries: &[Entry]) -> [Option<DeviceId>; AHEAD] {
        let mut topics = [None; AHEAD];
        for (place, entry) in topics.iter_mut().zip(entries) {
            if let Entry::Frame(frame) = entry {
                *place = Some(&*frame.topic);
            }
        }
        let found = self.topics.find_each(topics);
        black_box((self.plans.look(found), self.windows.look(found)));
        found
    }

    /// What was taken in without being listed since the last flush.
    pub(super) fn unlisted(&self) -> Unlisted {
        self.new_unlisted.clone()
    }

    /// Applies one entry: its message is counted and its readings go into their rows. `found` is the device that
    /// [`Self::look_ahead`] found for it, if any.
    ///
    /// # Errors
    /// Where a row that the message touches cannot be read; nothing of it is applied or counted then.
    pub fn apply(&mut self, entry: &Entry, found: Option<DeviceId>, writer: &Writer) -> Result<(), store::Error> {
        match entry {
            Entry::Lost { records } => {
                self.ledger.source(&Arc::from(JOURNAL_SOURCE)).reject(Rejection::JournalDamage, *records);
                self.position.0 += records;
            }
            Entry::Frame(frame) => {
                match self.message(frame, found, writer)? {
                    Ok(()) => self.ledger.source(&frame.source).messages_decoded += 1,
                    Err(reason) => self.reject(frame, reason),
                }
                self.position.0 += 1;
                self.last_arrival = Some(frame.arrival);
            }
        }
        self.changes = true;
        Ok(())
    }

    fn message(
        &mut self,
        frame: &Frame,
        found: Option<DeviceId>,
        writer: &Writer,
    ) -> Result<Result<(), Rejection>, store::Error> {
        self.judged.clear();
        let decoded = match frame.kind {
            FrameKind::NativeJson => self.native(frame, found),
            FrameKind::ModbusPoll => self.modbus(frame),
            FrameKind::Oversize => Err(Rejection::Oversize),
        };
        let (device, place) = match decoded {
            Ok(decoded) => decoded,
            Err(reason) => return Ok(Err(reason)),
        };
        if let Place::At { time, .. } = place {
            self.lateness.note(time, frame.arrival);
        }
        match place {
            Place::At { time, .. } if self.is_gone(frame, time) => {
                self.leave_out(frame, EXPIRED, |counts| counts.expired += 1);
            }
            Place::At { time, is_clamped } => self.roll_up(frame, device, (time, is_clamped), writer)?,
            Place::Invalid(reason) => self.leave_out(frame, reason.label(), |counts| counts.invalidate(reason)),
            Place::Expired => self.leave_out(frame, EXPIRED, |counts| counts.expired += 1),
        }
        Ok(Ok(()))
    }

    fn native(&mut self, frame: &Frame, found: Option<DeviceId>) -> Result<(DeviceId, Place), Rejection> {
        let message = native::decode(&frame.payload)?;
        self.assign(frame, found, &message)
    }

    /// Finds the device of a message and where its readings go in time, and judges each.
    fn assign(
        &mut self,
        frame: &Frame,
        found: Option<DeviceId>,
        message: &NativeMessage<'_>,
    ) -> Result<(DeviceId, Place), Rejection> {
        let time = message.time.as_ref();
        let device = found.map_or_else(|| self.device_of(frame, time), Ok)?;
        let place = self.place(frame, device, time)?;
        for (position, (name, value)) in message.readings.iter().enumerate() {
            let judged = match value {
                Some(value) => self.judge(device, position, name, *value),
                None => Err(Invalid::NotANumber),
            };
            self.judged.push(judged);
        }
        Ok((device, place))
    }

    /// Where the readings of a message go that gives this time.
    fn place(&mut self, frame: &Frame, device: DeviceId, time: Option<&GivenTime<'_>>) -> Result<Place, Rejection> {
        let limits = limits(frame.arrival, self.known(), &self.options);
        let placed = event_time::place(time, &self.plans[device].layout.profile.time, &limits)?;
        Ok(self.clamped.place(placed, (device, &frame.payload), frame.arrival))
    }

    fn known(&self) -> Known {
        Known { newest_row: self.newest_row, final_until: self.final_until }
    }

    fn modbus(&mut self, frame: &Frame) -> Result<(DeviceId, Place), Rejection> {
        let (site, device) = frame.topic.split_once('/').ok_or(Rejection::MalformedPoll)?;
        let inventory = self.inventory.read().unwrap_or_else(PoisonError::into_inner).clone();
        let device = inventory.find_device(site, device).ok_or(Rejection::UnknownDevice)?;
        let plan = &self.plans[device];
        if !plan.registered {
            return Err(Rejection::UnknownDevice);
        }
        let layout = &plan.layout;
        for (slot, value) in modbus::decode(&layout.profile, &frame.payload)? {
            let metric = layout.metrics[slot];
            let judged = value.and_then(|value| layout.check(slot, value));
            self.judged.push(judged.map(|value| Candidate { slot, metric, value }));
        }
        Ok((device, self.place(frame, device, None)?))
    }

    /// Finds the slot of a metric that came at `position` in its message, and checks the value.
    fn judge(&mut self, device: DeviceId, position: usize, name: &str, value: f64) -> Judged {
        let layout = &self.plans[device].layout;
        if let Some(slot) = layout.slot(position, name) {
            let value = layout.check(slot, value)?;
            return Ok(Candidate { slot, metric: layout.metrics[slot], value });
        }
        if !value.is_finite() {
            return Err(Invalid::NotANumber);
        }
        Ok(Candidate { slot: usize::MAX, metric: self.unlisted_metric(device, name)?, value })
    }

    /// Counts the judged readings of a message that has no place in time: the good ones by `count`.
    fn leave_out(&mut self, frame: &Frame, reason: &'static str, count: impl Fn(&mut Counts)) {
        let counts = self.ledger.source(&frame.source);
        for judged in &self.judged {
            counts.readings_decoded += 1;
            match judged {
                Ok(_) => count(counts),
                Err(reason) => counts.invalidate(*reason),
            }
        }
        let is_shown = self.unplaced_letters < UNPLACED_LETTERS_PER_FLUSH_MAX;
        if is_shown && self.judged.iter().any(Result::is_ok) {
            self.unplaced_letters += 1;
            self.keep_letter(frame, reason);
        }
    }

    /// Counts the judged readings of a message and merges the good ones into their row.
    fn roll_up(
        &mut self,
        frame: &Frame,
        device: DeviceId,
        (time, is_clamped): (Timestamp, bool),
        writer: &Writer,
    ) -> Result<(), store::Error> {
        let any = self.judged.iter().any(Result::is_ok);
        let start = Window::Minute1.bounds(time, &jiff::tz::TimeZone::UTC).0;
        let late = self.final_until.is_some_and(|until| start.plus_millis(BASE_WINDOW_MS) <= until);
        let plan = &self.plans[device];
        if !any {
            let counts = self.ledger.source(&frame.source);
            self.judged.iter().filter_map(|judged| judged.err()).for_each(|reason| {
                counts.readings_decoded += 1;
                counts.invalidate(reason);
            });
            return Ok(());
        }
        let (damaged_rows, stored) = (&mut self.damaged_rows, &self.stored);
        let place = self.windows.find_or((start, device), || {
            let stored = if stored.may_have(start, device) { writer.load(start, device)? } else { None };
            let fresh = || DeviceWindow::new(start, plan.interval_ms, plan.layout.metrics.clone());
            let Some(blob) = stored else { return Ok(fresh()) };
            Ok(DeviceWindow::unpack(start, plan.layout.metrics.clone(), &blob).unwrap_or_else(|error| {
                *damaged_rows += 1;
                error!(device = device.0, %start, %error, "a row of the store is damaged; it is begun anew");
                fresh()
            }))
        })?;
        let counts = self.ledger.source(&frame.source);
        let mut applied = 0u64;
        for judged in &self.judged {
            let candidate = match judged {
                Ok(candidate) => candidate,
                Err(reason) => {
                    counts.readings_decoded += 1;
                    counts.invalidate(*reason);
                    continue;
                }
            };
            counts.readings_decoded += 1;
            counts.clamped += u64::from(is_clamped);
            match place.open.window.apply(candidate.slot, candidate.metric, time, candidate.value) {
                Outcome::Applied => applied += 1,
                Outcome::Duplicate => counts.duplicate += 1,
                Outcome::Conflicting => counts.conflicting += 1,
            }
        }
        counts.applied += applied;
        if applied > 0 {
            place.open.changed = true;
            place.open.window.late += u32::from(late);
            place.open.window.interval_ms = plan.interval_ms;
        }
        Ok(())
    }

    /// Whether the row of `time` is gone from the store. One that is begun anew would hide the whole one that sinks have.
    fn is_gone(&self, frame: &Frame, time: Timestamp) -> bool {
        let start = |at| Window::Minute1.bounds(at, &jiff::tz::TimeZone::UTC).0;
        let Some(kept_from) = self.kept_from.filter(|kept_from| start(time) < *kept_from) else { return false };
        // What was deleted under a clock that ran ahead is no reason to refuse what is measured now.
        let limits = limits(frame.arrival, self.known(), &self.options);
        let today = limits.arrival.or(self.final_until).unwrap_or(frame.arrival);
        start(time) < kept_from.min(start(today))
    }

    fn reject(&mut self, frame: &Frame, reason: Rejection) {
        self.ledger.source(&frame.source).reject(reason, 1);
        self.rejections.note(frame, reason);
        self.keep_letter(frame, reason.label());
    }

    fn keep_letter(&mut self, frame: &Frame, reason: &'static str) {
        if self.dead_letters.len() < DEAD_LETTERS_PER_FLUSH_MAX {
            self.dead_letters.push(DeadLetter {
                at: frame.arrival,
                source: frame.source.clone(),
                topic: frame.topic[..frame.topic.floor_char_boundary(store::DEAD_LETTER_BYTES_MAX)].into(),
                reason,
                payload: frame.payload[..frame.payload.len().min(store::DEAD_LETTER_BYTES_MAX)].into(),
            });
        }
    }

    /// The ledger as of [`Roller::position`].
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The next entry's position.
    #[must_use]
    pub fn position(&self) -> JournalPosition {
        self.position
    }

    /// When the last message arrived; `None` before the first one.
    pub(super) fn last_arrival(&self) -> Option<Timestamp> {
        self.last_arrival
    }

    /// The topics whose messages are rejected at `now`; ends what is over.
    pub(super) fn rejected_topics(&mut self, now: Timestamp) -> Vec<Trouble> {
        self.rejections.settle(now)
    }

    /// Bytes that open windows take, near enough for a bound.
    #[must_use]
    pub fn open_bytes(&self) -> usize {
        self.windows.bytes()
    }

    /// Number of open windows.
    #[must_use]
    pub fn open_windows(&self) -> usize {
        self.windows.len()
    }

    /// Number of open windows that end after `until`.
    pub(super) fn windows_ending_after(&self, until: Timestamp) -> usize {
        self.windows.ending_after(until)
    }

    /// Rows of the store that could not be read and were begun anew.
    #[must_use]
    pub fn damaged_rows(&self) -> u64 {
        self.damaged_rows
    }

    /// Whether the store has every row, as it is, of the windows that become final with `until`.
    ///
    /// What came too late for a minute that is final already amends it with the next rows, and does not count, but where a
    /// longer window ends, which that minute is a part of.
    pub(super) fn rows_are_stored(&self, until: Timestamp) -> bool {
        let longer = |end: Timestamp| end.as_millis().div_euclid(LONGER_WINDOW_MS);
        let after = self.final_until.filter(|after| longer(*after) == longer(until));
        self.windows.are_stored(after, until)
    }

    /// Whether there is anything that the store does not have.
    #[must_use]
    pub fn has_changes(&self) -> bool {
        self.changes
    }

    /// What the store does not have yet, rows in the order of its key.
    pub(super) fn flush_parts(&self) -> FlushParts<'_> {
        let row = |(device, window): (DeviceId, _)| {
            let has_counters = self.plans[device].layout.has_counters;
            FlushedRow { device, window, has_counters }
        };
        let rows = self.windows.changed().map(row).collect();
        FlushParts {
            rows,
            devices: &self.new_devices,
            metrics: &self.new_metrics,
            ledger: &self.ledger,
            position: self.position,
            dead_letters: &self.dead_letters,
        }
    }

    /// How late messages usually are, ms.
    pub(super) fn lateness_ms(&self) -> i64 {
        self.lateness.as_millis()
    }

    /// Notes that the store has everything, and lets go of windows that are over, with what usually is underway for them, and
    /// of others where they take too much.
    /// Returns the position that the store has passed.
    pub(super) fn flushed(&mut self, now: Timestamp, writer: &Writer) -> JournalPosition {
        self.follow(writer);
        self.changes = false;
        self.new_devices.clear();
        self.new_metrics.clear();
        self.new_unlisted = Unlisted::default();
        self.dead_letters.clear();
        self.unplaced_letters = 0;
        // What comes late for a window that is over finds its row in the store.
        let over_until = self.final_until.map_or(now, |until| until.max(now)).plus_millis(-self.lateness_ms());
        let kept_from = self.kept_from;
        let bytes_max = self.options.open_windows_bytes_max / 4 * 3;
        let newest = self.windows.stored(&mut self.stored, bytes_max, |start| {
            kept_from.is_none_or(|kept_from| start >= kept_from) && start.plus_millis(BASE_WINDOW_MS) > over_until
        });
        self.newest_row = self.newest_row.max(newest);
        self.position
    }

    /// Notes which rows are final and which are gone.
    pub(super) fn follow(&mut self, writer: &Writer) {
        (self.final_until, self.kept_from) = (writer.final_until(), writer.kept_from());
    }
}
