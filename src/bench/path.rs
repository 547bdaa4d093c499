//! The data path without its threads: PUBLISH bytes in memory to rows in SQLite, fsync on, acknowledgements out.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use jiff::tz::TimeZone;

use super::{City, START_MS};
use crate::clock::Clock;
use crate::health::{Health, PartKind};
use crate::journal::stepped::SteppedJournal;
use crate::journal::{self, Folder};
use crate::ledger::Ledger;
use crate::model::Window;
use crate::pipeline::stepped::SteppedPipeline;
use crate::pipeline::{self, Pipeline, Roller, Unregistered};
use crate::source::mqtt::bench::{GREETING, options};
use crate::source::mqtt::stepped::SteppedSource;
use crate::store::{Error, StorePath, Writer, WriterOptions};

const DAY: Duration = Duration::from_hours(24);
/// Bytes of one PUBACK.
const PUBACK_BYTES: usize = 4;

/// A connection in memory: what the broker has sent and was not read yet, and how much it was sent.
#[derive(Default)]
struct Held {
    sent: Vec<u8>,
    read: usize,
    heard: usize,
}

#[derive(Clone, Default)]
struct Wire(Rc<RefCell<Held>>);

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut held = self.0.borrow_mut();
        let rest = &held.sent[held.read..];
        if rest.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        held.read += count;
        Ok(count)
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().heard += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Source, journal, pipeline and store.
pub struct DataPath {
    wire: Wire,
    source: SteppedSource<Wire>,
    journal: SteppedJournal,
    pipeline: SteppedPipeline,
    clock: &'static AtomicI64,
    greeted: usize,
}

impl DataPath {
    /// The path of `city`, with journal and store in `folder`.
    ///
    /// # Panics
    /// Where the folder cannot be used.
    #[must_use]
    pub fn new(city: &City, folder: &Path) -> Self {
        let told: &'static AtomicI64 = Box::leak(Box::new(AtomicI64::new(START_MS)));
        let (health, clock) = (Arc::<Health>::default(), Clock::told(told));
        let part = |kind, name: &str| health.part(kind, name, clock.now());
        let writer = writer(folder, city.sites()).expect("a store");
        let position = writer.position().expect("a position");
        let journal_options = journal::Options {
            folder: folder.join("journal"),
            bytes_max: 8 << 30,
            segment_bytes: 64 << 20,
            commit_interval: Duration::ZERO,
            age_max: Duration::from_hours(1),
        };
        let storage = Arc::new(Folder::open(folder.join("journal")).expect("a folder"));
        let journal =
            SteppedJournal::open(storage, journal_options, position, part(PartKind::Journal, "journal"), clock)
                .expect("a journal");
        let mut source = SteppedSource::new(options(), journal.journal.inlet(), clock, part(PartKind::Mqtt, "bench"));
        let pipeline = Pipeline {
            journal: Arc::clone(&journal.journal),
            writer,
            inventory: Arc::new(RwLock::new(Arc::new(city.inventory().clone()))),
            board: Arc::default(),
            options: pipeline_options(),
            clock,
            part: part(PartKind::Pipeline, "pipeline"),
            store_part: part(PartKind::Store, "store"),
            ready: Arc::default(),
            on_flush: pipeline::OnFlush::default(),
            stop: Arc::default(),
        };
        let wire = Wire::default();
        source.connect(wire.clone(), Instant::now());
        wire.0.borrow_mut().sent.extend_from_slice(&GREETING);
        let pipeline = SteppedPipeline::new(pipeline).expect("a pipeline");
        let mut path = Self { wire, source, journal, pipeline, clock: told, greeted: 0 };
        path.take_in();
        path.greeted = path.wire.0.borrow().heard;
        path
    }

    /// It is now `now_ms`.
    pub fn set_time(&self, now_ms: i64) {
        self.clock.store(now_ms, Ordering::Relaxed);
    }

    /// The broker sends these bytes.
    pub fn send(&self, bytes: &[u8]) {
        let mut held = self.wire.0.borrow_mut();
        held.sent.clear();
        held.sent.extend_from_slice(bytes);
        held.read = 0;
    }

    /// The source reads what was sent, hands it to the journal, and acknowledges what that has on disk.
    ///
    /// # Panics
    /// Where the connection has ended.
    pub fn take_in(&mut self) {
        assert!(self.source.round(Instant::now()), "connected");
    }

    /// The journal writes and syncs what it was given. Returns whether there was anything.
    pub fn commit(&mut self) -> bool {
        self.journal.round()
    }

    /// The pipeline reads from the journal and rolls up.
    pub fn roll_up(&mut self) {
        while self.pipeline.read() && !self.pipeline.is_full() {}
    }

    /// The pipeline writes to the store.
    ///
    /// # Panics
    /// Where that fails.
    pub fn flush(&mut self) {
        assert!(self.pipeline.flush(), "the store takes it");
    }

    /// Messages acknowledged.
    #[must_use]
    pub fn acknowledged(&self) -> usize {
        (self.wire.0.borrow().heard - self.greeted) / PUBACK_BYTES
    }

    /// The ledger.
    #[must_use]
    pub fn ledger(&self) -> Ledger {
        self.pipeline.ledger()
    }
}

/// A store in `folder` for some devices.
///
/// # Errors
/// Where it cannot be made.
fn writer(folder: &Path, devices: usize) -> Result<Writer, Error> {
    let options = WriterOptions {
        grace_ms: 10_000,
        retention_ms: 7 * 86_400_000,
        feed_windows: BTreeSet::new(),
        indicator_windows: BTreeSet::from(Window::ALL),
        rollup_sinks: Vec::new(),
        devices,
        zone: TimeZone::UTC,
    };
    Writer::open(&StorePath::in_folder(folder), options)
}

fn pipeline_options() -> pipeline::Options {
    pipeline::Options {
        flush_interval: Duration::from_secs(5),
        future_limit: DAY,
        grace: Duration::from_secs(10),
        retention: 7 * DAY,
        // A city at 1 Hz has 205 MB open at the end of a minute, and half of the bound is what flushes keep.
        open_windows_bytes_max: 640 << 20,
        unregistered: Unregistered::Refuse,
    }
}

/// Roller and store by themselves.
///
/// # Errors
/// Where the store cannot be made.
pub fn roller(city: &City, folder: &Path) -> Result<(Roller, Writer), Error> {
    let writer = writer(folder, city.sites())?;
    let inventory = Arc::new(RwLock::new(Arc::new(city.inventory().clone())));
    let roller = Roller::new(pipeline_options(), inventory, Ledger::default(), writer.position()?, &writer)?;
    Ok((roller, writer))
}
