//! The journal on a disk that misbehaves.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::shared::Shared;
use super::simulated_disk::SimulatedDisk;
use super::writer::{Round, Writer};
use super::{Entry, Folder, Inlet, Journal, Options, Reader, Receipt, RefusedCause, Storage, assemble};
use crate::clock::Clock;
use crate::health::{Health, Part, PartKind, State};
use crate::model::{Frame, FrameKind, JournalPosition, Timestamp};

mod age;
mod faults;
mod model;
mod recovery;
mod table;
mod unreadable;

/// When the frame 0 came.
const EPOCH_MS: i64 = 1_764_000_000_000;

fn frame(number: u64) -> Frame {
    frame_of(number, format!("payload {number:04}").into_bytes())
}

fn frame_of(number: u64, payload: Vec<u8>) -> Frame {
    Frame {
        source: Arc::from("east"),
        kind: FrameKind::NativeJson,
        topic: format!("telemetry/base_station/350102/s{number:04}/d"),
        payload,
        arrival: Timestamp::from_millis(EPOCH_MS + i64::try_from(number).expect("small")),
    }
}

/// The number that [`frame_of`] was given.
fn number_of(frame: &Frame) -> u64 {
    u64::try_from(frame.arrival.as_millis() - EPOCH_MS).expect("a test's frame")
}

fn options() -> Options {
    Options {
        folder: "journal".into(),
        bytes_max: 1 << 30,
        segment_bytes: 1 << 20,
        commit_interval: Duration::ZERO,
        age_max: Duration::from_hours(1),
    }
}

fn part() -> Arc<Part> {
    Health::default().part(PartKind::Journal, "journal", Timestamp::from_millis(0))
}

/// A journal without its thread: a test says when a group is committed.
struct Bench {
    shared: Arc<Shared>,
    writer: Writer,
    part: Arc<Part>,
    /// Numbers of the batches whose receipts ran, in order.
    acked: Arc<Mutex<Vec<u64>>>,
}

impl Bench {
    fn open(disk: &SimulatedDisk, options: Options, passed: u64) -> Self {
        Self::open_at(Arc::new(disk.clone()), options, passed, Timestamp::from_millis(EPOCH_MS))
    }

    /// Opens it when it is `now`, and stays so for as long as the test takes.
    fn open_at(storage: Arc<dyn Storage>, options: Options, passed: u64, now: Timestamp) -> Self {
        let (part, clock) = (part(), Clock::scaled(now, 1e-6));
        let (shared, writer) =
            assemble(storage, options, JournalPosition(passed), Arc::clone(&part), clock).expect("opens");
        Self { shared, writer, part, acked: Arc::default() }
    }

    fn inlet(&self) -> Inlet {
        Inlet { shared: Arc::clone(&self.shared) }
    }

    fn receipt(&self, number: u64) -> Receipt {
        let acked = Arc::clone(&self.acked);
        Box::new(move |_| acked.lock().unwrap().push(number))
    }

    /// Appends one frame that [`Bench::acked`] knows by `number`.
    fn append(&self, number: u64) -> Result<(), RefusedCause> {
        self.inlet().append(vec![frame(number)], self.receipt(number)).map_err(|refused| refused.cause)
    }

    /// Appends and commits each of `numbers` by itself.
    fn keep(&mut self, numbers: std::ops::Range<u64>) {
        for number in numbers {
            self.append(number).expect("taken");
            assert_eq!(self.writer.round(), Round::Committed);
        }
    }

    fn acked(&self) -> Vec<u64> {
        self.acked.lock().unwrap().clone()
    }

    fn reader(&self, from: u64) -> Reader {
        Reader::new(Arc::clone(&self.shared), JournalPosition(from))
    }

    /// All entries from `from` on, read in small steps.
    fn entries(&self, from: u64) -> Vec<Entry> {
        let (mut reader, mut entries) = (self.reader(from), Vec::new());
        while reader.read(100, &mut entries).expect("readable") > 0 {}
        assert_eq!(reader.position().0, self.shared.end().max(from));
        entries
    }

    /// The entries from `from` on: numbers of frames, and negative how many were lost.
    fn story(&self, from: u64) -> Vec<i64> {
        let entries = self.entries(from);
        let tell = |entry: &Entry| match entry {
            Entry::Frame(frame) => i64::try_from(number_of(frame)).expect("small"),
            Entry::Lost { records } => -i64::try_from(*records).expect("small"),
        };
        entries.iter().map(tell).collect()
    }

    fn count(&self, name: &str) -> u64 {
        self.part.snapshot().counters[name]
    }
}

fn poll_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::yield_now();
    }
}

#[test]
fn frames_come_back_as_they_were_appended_through_the_thread_and_a_real_folder() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("a/journal");
    let open = || {
        let storage: Arc<dyn Storage> = Arc::new(Folder::open(&path).expect("folder"));
        let options = Options { segment_bytes: 4_000, ..options() };
        Journal::open(storage, options, JournalPosition(0), part(), Clock::system()).expect("opens")
    };
    let sent: Vec<Frame> = (0..300).map(frame).collect();
    let journal = open();
    let acked = Arc::new(AtomicUsize::new(0));
    let mut taken = 0;
    for frames in sent.chunks(7) {
        let (count, expected) = (frames.len(), Arc::clone(&acked));
        let receipt = Box::new(move |_| {
            expected.fetch_add(count, Ordering::Relaxed);
        });
        journal.inlet().append(frames.to_vec(), receipt).expect("taken");
        taken += frames.len();
        poll_until("the receipt has run", || acked.load(Ordering::Relaxed) == taken);
    }
    let (mut reader, mut entries) = (journal.reader(JournalPosition(0)), Vec::new());
    poll_until("everything is read", || {
        let _ = reader.wait(Duration::from_millis(100));
        reader.read(1_000, &mut entries).expect("readable");
        entries.len() == sent.len()
    });
    journal.close();
    assert_eq!(acked.load(Ordering::Relaxed), 300);
    let expected: Vec<Entry> = sent.iter().cloned().map(Entry::Frame).collect();
    assert_eq!(entries, expected);

    let journal = open();
    assert_eq!(journal.end(), JournalPosition(300));
    let mut entries = Vec::new();
    journal.reader(JournalPosition(123)).read(usize::MAX, &mut entries).expect("readable");
    assert_eq!(entries, expected[123..]);
    assert!(std::fs::read_dir(&path).expect("folder").count() > 3);
    journal.release(JournalPosition(300));
    assert_eq!(std::fs::read_dir(&path).expect("folder").count(), 0);
}

#[test]
fn the_thread_commits_again_by_itself_when_the_disk_has_space_again() {
    let disk = SimulatedDisk::default();
    disk.set_bytes_max(Some(150));
    let part = part();
    let storage = Arc::new(disk.clone());
    let journal =
        Journal::open(storage, options(), JournalPosition(0), Arc::clone(&part), Clock::system()).expect("opens");
    let acked = Arc::new(AtomicUsize::new(0));
    for number in 0..2 {
        let acked = Arc::clone(&acked);
        let receipt = Box::new(move |_| {
            acked.fetch_add(1, Ordering::Relaxed);
        });
        // The second may already find the disk full.
        let _ = journal.inlet().append(vec![frame_of(number, vec![1; 200])], receipt);
    }
    poll_until("the journal is down", || part.snapshot().state == State::Down);
    let refused = journal.inlet().append(vec![frame(9)], Box::new(drop)).expect_err("the disk is full");
    assert_eq!((refused.cause, refused.frames), (RefusedCause::Full, vec![frame(9)]));
    assert_eq!((acked.load(Ordering::Relaxed), journal.end().0), (0, 0));
    disk.set_bytes_max(None);
    poll_until("the journal is up", || part.snapshot().state == State::Up);
    poll_until("the receipt has run", || acked.load(Ordering::Relaxed) > 0);
    journal.close();
}

#[test]
fn what_comes_within_the_commit_interval_is_synced_together() {
    let (part, disk) = (part(), Arc::new(SimulatedDisk::default()));
    let options = Options { commit_interval: Duration::from_hours(1), ..options() };
    let journal = Journal::open(disk, options, JournalPosition(0), Arc::clone(&part), Clock::system()).expect("opens");
    let acked = Arc::new(AtomicUsize::new(0));
    for number in 0..3 {
        let count = Arc::clone(&acked);
        let receipt = Box::new(move |_| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        journal.inlet().append(vec![frame(number)], receipt).expect("taken");
        poll_until("the thread gathers", || journal.shared.is_gathering());
        assert_eq!(acked.load(Ordering::Relaxed), 0);
    }
    // A journal that is closed does not wait for more.
    journal.close();
    assert_eq!((acked.load(Ordering::Relaxed), part.snapshot().counters["syncs"]), (3, 1));
}

#[test]
fn a_frame_in_the_memory_of_an_earlier_one_is_what_was_written() {
    let mut bench = Bench::open(&SimulatedDisk::default(), options(), 0);
    let lengths = (0..).zip([90, 60, 30, 90]);
    let sent: Vec<Frame> = lengths.map(|(number, bytes)| frame_of(number, vec![b'x'; bytes])).collect();
    bench.inlet().append(sent.clone(), Box::new(drop)).map_err(|refused| refused.cause).expect("taken");
    assert_eq!(bench.writer.round(), Round::Committed);
    let (mut reader, mut entries) = (bench.reader(0), Vec::new());
    for frame in sent {
        assert_eq!(reader.read(1, &mut entries).expect("readable"), 1);
        assert_eq!(entries, [Entry::Frame(frame)]);
        reader.give_back(entries.drain(..));
    }
}
