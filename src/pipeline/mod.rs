//! The pipeline: one thread that takes records from the journal through decode and roll-up to the store.
//!
//! Invariants:
//! - Live and replayed records take the same way: everything is read from the journal.
//! - A message is counted and applied whole or, where the store cannot be read, not at all and again later.
//! - Rows, ledger and position reach the store in one transaction; the journal is released only after it.
//! - A flush that fails keeps everything in memory and is tried again; at the bound of open windows nothing more is read.
//!   Where the disk has no room for it, what the store does not have is read again and flushed in smaller portions.

mod arrival;
mod counters;
mod lateness;
mod open_windows;
mod plan;
mod registry;
mod rejections;
mod roller;
mod schedule;
mod store_health;
mod stored_rows;
mod topics;

#[cfg(test)]
mod final_tests;
#[cfg(test)]
mod full_disk_tests;
#[cfg(test)]
mod late_tests;
#[cfg(any(test, feature = "bench"))]
pub(crate) mod stepped;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod time_tests;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tracing::{error, info, warn};

use crate::background;
use crate::clock::{Clock, StepWatch};
use crate::health::{Part, State};
use crate::inventory::SharedInventory;
use crate::journal::{Entry, Journal, Reader};
use crate::ledger::Ledger;
use crate::model::{JournalPosition, Timestamp, millis};
use crate::problem::with_causes;
use crate::store::{self, Flush, Writer};

use counters::Counters;
pub use registry::adopt;
#[cfg(feature = "bench")]
pub use roller::bench;
pub use roller::{AHEAD, Roller};
use schedule::FlushSchedule;
use store_health::StoreHealth;

/// Bytes of records that are read from the journal at a time.
const READ_BYTES: usize = 256 * 1024;
/// Longest wait for new records, so that windows become final on time.
const IDLE_WAIT: Duration = Duration::from_millis(250);
/// How long records gather in the journal before they are read: the journal commits far more often than anybody looks.
const GATHER_WAIT: Duration = Duration::from_millis(25);
/// How long after its time a window is made final whose row is not written, so that what was underway is written with it, ms.
const FINAL_DELAY_MS: i64 = 250;
/// How long after its end a window is taken for whole, so that its row is mostly written once; half of the grace where that
/// is less, so that a row is mostly in the store when it becomes final. What messages usually are late comes on top.
const SETTLE_MAX: Duration = Duration::from_secs(1);
/// Wait after a flush or a read that failed.
const RETRY_WAIT: Duration = Duration::from_secs(1);
/// Bytes of open windows at the least with which a flush is tried again after the disk had no room for twice as many.
const OPEN_BYTES_MIN: usize = 4 * 1024;
/// How long a stop goes on reading; a longer backlog is read at the next start.
const STOP_READING_MAX: Duration = Duration::from_secs(2);

/// What becomes of devices that publish without being listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unregistered {
    /// Their messages are rejected and counted.
    Refuse,
    /// They are taken in, marked unregistered.
    Accept {
        /// Such devices of one source at the most.
        devices_max: usize,
        /// Metrics of one such device at the most.
        metrics_max: usize,
    },
}

/// How readings are rolled up and flushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Time between flushes to the store where few windows are open; longer where many are.
    pub flush_interval: Duration,
    /// How far ahead of its arrival an event time may lie.
    pub future_limit: Duration,
    /// Time from a window's end to its being final.
    pub grace: Duration,
    /// Age at which rows are deleted and readings count as expired.
    pub retention: Duration,
    /// Bytes of open windows at which a flush is made early.
    pub open_windows_bytes_max: usize,
    /// What becomes of devices that are not listed.
    pub unregistered: Unregistered,
}

/// The ledger as the pipeline last left it, with the position it speaks of.
#[derive(Debug, Default)]
pub struct LedgerBoard(Mutex<(Ledger, JournalPosition)>);

impl LedgerBoard {
    fn post(&self, ledger: &Ledger, position: JournalPosition) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (ledger.clone(), position);
    }

    /// The ledger now, against a journal that ends at what `end` gives.
    pub fn ledger(&self, end: impl FnOnce() -> JournalPosition) -> Ledger {
        let board = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut ledger, position) = (board.0.clone(), board.1);
        // Asked for while the board is held: the journal only grows, so it never ends before what was processed.
        ledger.received = end().0;
        ledger.pending = ledger.received.saturating_sub(position.0);
        ledger
    }
}

/// Something to be done after a flush, which must not wait for anything; nothing by default.
#[derive(Default)]
pub struct OnFlush(Option<Box<dyn Fn() + Send + Sync>>);

impl OnFlush {
    /// Calls `done` after each flush.
    pub fn call(done: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Some(Box::new(done)))
    }

    fn flushed(&self) {
        if let Some(done) = &self.0 {
            done();
        }
    }
}

impl std::fmt::Debug for OnFlush {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OnFlush").finish_non_exhaustive()
    }
}

/// What the pipeline works with.
#[derive(Debug)]
pub struct Pipeline {
    /// The journal it reads and releases.
    pub journal: Arc<Journal>,
    /// The store it writes.
    pub writer: Writer,
    /// Devices and metrics, which it adds to; numbered as the store has them (see [`adopt`]).
    pub inventory: SharedInventory,
    /// Where it posts the ledger.
    pub board: Arc<LedgerBoard>,
    /// How it rolls up and flushes.
    pub options: Options,
    /// Now.
    pub clock: Clock,
    /// Where it reports.
    pub part: Arc<Part>,
    /// Where it reports how full the store is.
    pub store_part: Arc<Part>,
    /// Set once the journal, as it was at the start, is in the store.
    pub ready: Arc<AtomicBool>,
    /// What it calls after each flush that wrote something.
    pub on_flush: OnFlush,
    /// Ends it: what the journal holds by then is read first, as far as that takes two seconds, and flushed.
    pub stop: Arc<AtomicBool>,
}

impl Pipeline {
    /// Starts the pipeline's thread.
    ///
    /// # Errors
    /// Where the store cannot be read, or the thread not be started.
    pub fn start(self) -> Result<JoinHandle<()>, StartError> {
        let driver = self.driver()?;
        Ok(background::spawn("pipeline", move || driver.run())?)
    }

    fn driver(mut self) -> Result<Driver, StartError> {
        // The journal has let go of what the store has passed, so that there may be room for that.
        self.writer.shorten_log();
        let position = self.writer.position()?;
        let mut ledger = self.writer.ledger()?;
        (ledger.received, ledger.pending) = (position.0, 0);
        self.board.post(&ledger, position);
        let roller = Roller::new(self.options, self.inventory.clone(), ledger, position, &self.writer)?;
        let counters = Counters::of(&self.part);
        counters.stored_messages.set(position.0);
        Ok(Driver {
            reader: self.journal.reader(position),
            caught_up_at: self.journal.end(),
            schedule: FlushSchedule::new(self.options.flush_interval, Instant::now()),
            looked: Instant::now(),
            watch: StepWatch::new(self.clock.now(), Instant::now()),
            stepped: None,
            reads_until: None,
            counters,
            store_health: StoreHealth::of(self.store_part.clone()),
            reads_again: false,
            roller,
            pipeline: self,
        })
    }
}

/// Why the pipeline did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] crate::store::Error),
    /// The system gives no thread.
    #[error("cannot start the pipeline's thread")]
    Thread(#[from] std::io::Error),
}

struct Driver {
    pipeline: Pipeline,
    reader: Reader,
    roller: Roller,
    caught_up_at: JournalPosition,
    schedule: FlushSchedule,
    looked: Instant,
    watch: StepWatch,
    /// Where the clock was last set to, and by how much, ms.
    stepped: Option<(Timestamp, i64)>,
    /// Set when a stop was seen: nothing is read after it.
    reads_until: Option<Instant>,
    counters: Counters,
    store_health: StoreHealth,
    /// Whether what was read and not applied is going to be read again.
    reads_again: bool,
}

impl Driver {
    fn run(mut self) {
        let mut entries = Vec::new();
        loop {
            if self.pipeline.stop.load(Ordering::Acquire) {
                self.reads_until.get_or_insert_with(|| Instant::now() + STOP_READING_MAX);
            }
            let stopping = self.reads_until.is_some();
            let overdue = self.reads_until.is_some_and(|until| Instant::now() >= until);
            let progress = if overdue { Progress::Idle } else { self.take_in(&mut entries) };
            let due = if self.roller.is_full() || self.has_caught_up(&progress) { Some(Due::Rows) } else { self.due() };
            let done = match due {
                None => true,
                Some(Due::Rows) => self.flush(),
                Some(Due::Finality(time)) => self.finalise(time),
            };
            if !done {
                if stopping {
                    return; // The journal still has everything.
                }
                // Fewer rows are another attempt, and there are not many of these.
                if !self.reads_again {
                    std::thread::sleep(RETRY_WAIT);
                }
                continue;
            }
            if stopping && !matches!(progress, Progress::Some) {
                return;
            }
            match progress {
                Progress::Idle if self.reader.wait(IDLE_WAIT) => std::thread::sleep(GATHER_WAIT),
                Progress::Some | Progress::Idle => {}
                Progress::Failed => std::thread::sleep(RETRY_WAIT),
            }
        }
    }

    /// Whether what is to be caught up with has been read, at the end all there is, at the start what the journal held
    /// then: it is written without waiting for its turn. What has come since the start delays nothing.
    fn has_caught_up(&self, progress: &Progress) -> bool {
        let idle = matches!(progress, Progress::Idle);
        match self.reads_until {
            Some(_) => idle,
            None => !self.is_ready() && (idle || self.roller.position() >= self.caught_up_at),
        }
    }

    fn is_ready(&self) -> bool {
        self.pipeline.ready.load(Ordering::Acquire)
    }

    /// What is to be written now.
    fn due(&mut self) -> Option<Due> {
        let now = self.pipeline.clock.now();
        if self.looked.elapsed() >= self.pipeline.options.flush_interval {
            self.look(now);
        }
        let time = self.flush_time(now);
        let writer = &self.pipeline.writer;
        if self.schedule.is_due(Instant::now(), self.unsettled(time)) {
            Some(Due::Rows)
        } else if !self.schedule.is_finality_due(Instant::now()) || !writer.makes_final(time) {
            None
        } else if self.may_finalise(time) {
            Some(Due::Finality(time))
        } else {
            writer.makes_final(time.plus_millis(-FINAL_DELAY_MS)).then_some(Due::Rows)
        }
    }

    /// How many windows are likely to change after `time`.
    fn unsettled(&self, time: Timestamp) -> usize {
        // Nothing more comes in while the journal is full, so nothing is gained by waiting for it.
        if self.pipeline.journal.is_full() {
            return 0;
        }
        let settle_ms = millis(SETTLE_MAX.min(self.pipeline.options.grace / 2)) + self.roller.lateness_ms();
        self.roller.windows_ending_after(time.plus_millis(-settle_ms))
    }

    /// Whether what becomes final by `time` can do so without rows: the store has them, and all that was to go before.
    fn may_finalise(&self, time: Timestamp) -> bool {
        !self.schedule.has_failed() && self.roller.rows_are_stored(self.pipeline.writer.final_at(time))
    }

    /// The time by which a flush makes windows final: that of the messages while more of them wait in the journal, so that
    /// a backlog is not late for its own windows. Never before what is final, so that it looks like no clock that fell back.
    fn flush_time(&self, now: Timestamp) -> Timestamp {
        if self.roller.position() >= self.pipeline.journal.end() {
            return now;
        }
        let grace_ms = millis(self.pipeline.options.grace);
        let until = self.pipeline.writer.final_until().map(|until| until.plus_millis(grace_ms));
        // Neither is known only of a new store before the first message.
        self.roller.last_arrival().max(until).map_or(now, |time| time.min(now))
    }

    /// Says what is wrong with topics and the clock.
    fn look(&mut self, now: Timestamp) {
        self.looked = Instant::now();
        self.pipeline.part.set_troubles(self.roller.rejected_topics(now));
        self.note_step(now);
    }

    /// Reads what the journal has and applies it, unless as much is open as may be.
    fn take_in(&mut self, entries: &mut Vec<Entry>) -> Progress {
        if std::mem::take(&mut self.reads_again) {
            entries.clear();
        }
        if entries.is_empty() {
            match self.reader.read(READ_BYTES, entries) {
                Ok(0) => return Progress::Idle,
                Ok(_) => {}
                Err(error) => {
                    self.trouble("cannot read the journal", &error);
                    return Progress::Failed;
                }
            }
        }
        let mut taken = 0;
        let mut failure = None;
        let mut found = [None; AHEAD];
        for (index, entry) in entries.iter().enumerate() {
            if index % AHEAD == 0 {
                found = self.roller.look_ahead(&entries[index..]);
            }
            if self.roller.is_full() {
                break;
            }
            if let Err(error) = self.roller.apply(entry, found[index % AHEAD], &self.pipeline.writer) {
                failure = Some(error);
                break;
            }
            taken += 1;
        }
        self.reader.give_back(entries.drain(..taken));
        self.counters.damaged_rows.set(self.roller.damaged_rows());
        self.pipeline.board.post(self.roller.ledger(), self.roller.position());
        match failure {
            None => Progress::Some,
            Some(error) => {
                self.trouble("cannot read the store", &error);
                Progress::Failed
            }
        }
    }

    /// Makes final by `time` what the store has the rows of, without those that are open; false where that failed.
    fn finalise(&mut self, time: Timestamp) -> bool {
        let begun = Instant::now();
        let final_before = self.pipeline.writer.final_until();
        if let Err(error) = self.pipeline.writer.finalise(time) {
            self.schedule.begun(begun);
            self.counters.flush_failures.add(1);
            self.trouble("cannot write to the store", &error);
            return false;
        }
        self.schedule.finalised(begun);
        self.roller.follow(&self.pipeline.writer);
        self.flushed(begun, final_before);
        true
    }

    /// Notes a flush that was begun then and succeeded.
    fn flushed(&mut self, begun: Instant, final_before: Option<Timestamp>) {
        self.pipeline.on_flush.flushed();
        self.counters.flushes.add(1);
        self.counters.flush_us.add(u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX));
        self.note_final(final_before);
    }

    /// Writes what is open to the store; false where that failed.
    fn flush(&mut self) -> bool {
        let begun = Instant::now();
        let now = self.pipeline.clock.now();
        let time = self.flush_time(now);
        self.look(now);
        self.schedule.begun(begun);
        // What cannot be told now is looked at by the next flush.
        let above_bound = self.pipeline.writer.bound_due().unwrap_or(false);
        if !self.roller.has_changes() && !self.pipeline.writer.finality_due(time) && !above_bound {
            self.schedule.succeeded();
            self.note_readiness();
            return true;
        }
        let final_before = self.pipeline.writer.final_until();
        match write(&self.roller, &mut self.pipeline.writer, time) {
            Ok(rows) => {
                self.schedule.succeeded();
                self.counters.rows_written.add(rows as u64);
                self.flushed(begun, final_before);
            }
            Err(error) => {
                self.counters.flush_failures.add(1);
                self.trouble("cannot write to the store", &error);
                if error.is_full() {
                    self.begin_anew();
                }
                return false;
            }
        }
        self.store_health.report(self.pipeline.writer.fill(), now);
        let position = self.roller.flushed(time, &self.pipeline.writer);
        self.roller.widen(self.pipeline.options.open_windows_bytes_max);
        self.pipeline.journal.release(position);
        // On a full disk there may be room for that only now.
        self.pipeline.writer.shorten_log();
        self.counters.stored_messages.set(position.0);
        self.counters.open_windows.set(self.roller.open_windows() as u64);
        self.counters.open_windows_bytes.set(self.roller.open_bytes() as u64);
        if self.pipeline.part.report(State::Up, self.stored_well(), now) {
            info!("rows reach the store");
        }
        self.note_readiness();
        true
    }

    /// Has what the store does not have read again, to be flushed in portions of half the size. One flush of it all takes
    /// more room than the disk has, and would never have it: only a flush that succeeds lets the journal go on.
    fn begin_anew(&mut self) {
        self.pipeline.writer.shorten_log();
        let open_bytes_max = self.roller.open_bytes() / 2;
        if open_bytes_max < OPEN_BYTES_MIN {
            return;
        }
        // A store that cannot be read now is tried with the next flush that fails.
        let Ok(roller) = self.roller.anew(open_bytes_max, &self.pipeline.writer) else { return };
        info!(open_bytes_max, "the disk has no room for so many rows at once, trying fewer");
        self.reader = self.pipeline.journal.reader(roller.position());
        (self.roller, self.reads_again) = (roller, true);
        self.pipeline.board.post(self.roller.ledger(), self.roller.position());
    }

    /// Counts a step of the clock, and says how far it was set.
    fn note_step(&mut self, now: Timestamp) {
        let Some(step_ms) = self.watch.look(&self.pipeline.clock, now, Instant::now()) else { return };
        self.stepped = Some((now, step_ms));
        self.counters.clock_steps.add(1);
        warn!(step_ms, %now, "the clock was set; windows become final by the new time");
    }

    fn stored_well(&self) -> String {
        match self.stepped {
            None => "rows reach the store".to_owned(),
            Some((at, step_ms)) => format!("rows reach the store; {}", step_text(at, step_ms)),
        }
    }

    /// Notes by how much the newest window was in the store, final, later than its end and grace. Not before what the
    /// journal held at the start is in the store: how old that is says nothing of how fast it is now.
    fn note_final(&self, before: Option<Timestamp>) {
        if !self.is_ready() {
            return;
        }
        let Some(until) =
            self.pipeline.writer.final_until().filter(|&until| before.is_some_and(|before| until > before))
        else {
            return;
        };
        let due = until.plus_millis(millis(self.pipeline.options.grace));
        let delay_ms = u64::try_from(self.pipeline.clock.now().millis_since(due)).unwrap_or(0);
        self.counters.final_delay_ms.set(delay_ms);
        self.counters.final_delay_ms_max.set(self.counters.final_delay_ms_max.get().max(delay_ms));
    }

    /// Says so, once, when the journal as it was at the start is in the store.
    fn note_readiness(&self) {
        let position = self.roller.position();
        let stored = position >= self.caught_up_at && !self.roller.has_changes();
        if stored && !self.pipeline.ready.swap(true, Ordering::AcqRel) {
            info!(position = position.0, "ready: what the journal held at the start is in the store");
        }
    }

    /// A disk that is full is named, with what to do.
    fn with_advice(&self, cause: String) -> String {
        if !cause.contains("disk is full") {
            return cause;
        }
        let file = self.pipeline.writer.path().file();
        format!("{cause}; free some room on the disk of {}", file.parent().unwrap_or(file).display())
    }

    fn trouble(&self, what: &'static str, error: &dyn std::error::Error) {
        let cause = self.with_advice(with_causes(error));
        if self.pipeline.part.report(State::Down, format!("{what}: {cause}"), self.pipeline.clock.now()) {
            error!(cause, "{what}; the journal keeps what comes in, trying again");
        }
    }
}

/// Writes to the store what it does not have yet. Returns the number of rows.
fn write(roller: &Roller, writer: &mut Writer, now: Timestamp) -> Result<usize, store::Error> {
    writer.note_unlisted(roller.unlisted());
    let parts = roller.flush_parts();
    let mut rows = parts.rows.into_iter();
    writer.flush(&mut Flush {
        now,
        rows: &mut rows,
        devices: parts.devices,
        metrics: parts.metrics,
        ledger: parts.ledger,
        position: parts.position,
        dead_letters: parts.dead_letters,
    })
}

/// How far the clock was last set, for people.
fn step_text(at: Timestamp, step_ms: i64) -> String {
    let size = jiff::SignedDuration::from_secs(step_ms / 1_000).abs();
    let way = if step_ms < 0 { "back" } else { "forward" };
    format!("clock stepped {way} by {size:#} to {at}")
}

/// What is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    /// What is open, and what becomes final by now.
    Rows,
    /// Only what becomes final by that time, since its rows are written.
    Finality(Timestamp),
}

enum Progress {
    Some,
    Idle,
    Failed,
}
