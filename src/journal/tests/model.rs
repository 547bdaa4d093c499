//! Random appends, failures, crashes, restarts and releases against a model that knows what was acknowledged.

use std::collections::BTreeSet;

use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::{collection, proptest};

use super::{Bench, frame_of, number_of, options};
use crate::journal::simulated_disk::{Failure, SimulatedDisk};
use crate::journal::{Entry, Options, RefusedCause};

#[derive(Clone, Debug)]
enum Action {
    /// Queues a batch of this many frames with payloads of this many bytes.
    Append { frames: u64, payload_bytes: usize },
    /// Runs one round of the commit thread.
    Commit,
    /// The next operation of this kind fails.
    Fail(Failure),
    /// The disk takes this many bytes more, or any number.
    Fill(Option<usize>),
    /// The process is killed and started again; the kernel has what was written.
    Kill,
    /// The power goes; only what was synced is certain.
    Crash,
    /// The store durably passes this share, in 255ths, of what the reader has read.
    Release(u8),
    /// The reader reads about so many bytes.
    Read(usize),
}

fn action() -> impl Strategy<Value = Action> {
    let failure =
        prop_oneof![Just(Failure::Append), Just(Failure::Sync), Just(Failure::SyncFolder), Just(Failure::Create),];
    prop_oneof![
        8 => (0..6u64, 0..300usize).prop_map(|(frames, payload_bytes)| Action::Append { frames, payload_bytes }),
        10 => Just(Action::Commit),
        3 => failure.prop_map(Action::Fail),
        1 => proptest::option::of(0..3_000usize).prop_map(Action::Fill),
        1 => Just(Action::Kill),
        3 => Just(Action::Crash),
        2 => any::<u8>().prop_map(Action::Release),
        4 => (1..2_000usize).prop_map(Action::Read),
    ]
}

/// The journal, and what is known of it from outside.
struct Model {
    disk: SimulatedDisk,
    options: Options,
    bench: Bench,
    /// First and last number of each batch, by batch.
    batches: Vec<std::ops::Range<u64>>,
    acked: Vec<u64>,
    /// What the store holds durably: numbers it took in, and the position it has passed.
    stored: Vec<u64>,
    passed: u64,
    /// What the reader has read since, not yet stored.
    pending: Vec<u64>,
    reader: crate::journal::Reader,
    next: u64,
}

impl Model {
    fn new(seed: u64, bytes_max: u64) -> Self {
        let disk = SimulatedDisk::seeded(seed);
        let options = Options { bytes_max, segment_bytes: 700, ..options() };
        let bench = Bench::open(&disk, options.clone(), 0);
        let reader = bench.reader(0);
        let (batches, acked, stored, pending) = Default::default();
        Self { disk, options, bench, batches, acked, stored, passed: 0, pending, reader, next: 0 }
    }

    fn step(&mut self, action: &Action) {
        match *action {
            Action::Append { frames, payload_bytes } => self.append(frames, payload_bytes),
            Action::Commit => {
                self.bench.writer.round();
                self.note_acked();
            }
            Action::Fail(failure) => self.disk.fail_next(failure),
            Action::Fill(room) => self.disk.set_bytes_max(room.map(|room| self.disk.bytes() + room)),
            Action::Kill => self.restart(),
            Action::Crash => {
                self.disk.crash();
                self.restart();
            }
            Action::Release(share) => self.release(share),
            Action::Read(bytes_max) => self.read(bytes_max),
        }
    }

    fn append(&mut self, frames: u64, payload_bytes: usize) {
        let numbers = self.next..self.next + frames;
        let batch = u64::try_from(self.batches.len()).unwrap();
        let frames = numbers.clone().map(|number| frame_of(number, vec![0; payload_bytes])).collect();
        match self.bench.inlet().append(frames, self.bench.receipt(batch)) {
            Ok(()) => {
                self.next = numbers.end;
                self.batches.push(numbers);
            }
            Err(refused) => assert_ne!(refused.cause, RefusedCause::Closed),
        }
    }

    fn note_acked(&mut self) {
        let batches = std::mem::take(&mut *self.bench.acked.lock().unwrap());
        let numbers = batches.iter().flat_map(|batch| self.batches[usize::try_from(*batch).unwrap()].clone());
        self.acked.extend(numbers);
        assert!(self.acked.is_sorted_by(|earlier, later| earlier < later), "receipts out of order");
    }

    fn read(&mut self, bytes_max: usize) {
        let mut entries = Vec::new();
        self.reader.read(bytes_max, &mut entries).expect("readable");
        assert!(self.reader.position().0 <= self.bench.shared.end());
        for entry in entries {
            match entry {
                Entry::Frame(frame) => self.pending.push(number_of(&frame)),
                Entry::Lost { records } => panic!("{records} records lost, but nothing was damaged"),
            }
        }
    }

    fn release(&mut self, share: u8) {
        let count = self.pending.len() * usize::from(share) / 255;
        self.stored.extend(self.pending.drain(..count));
        self.passed += count as u64;
        self.bench.shared.release(self.passed);
    }

    fn restart(&mut self) {
        self.pending.clear();
        self.bench = Bench::open(&self.disk, self.options.clone(), self.passed);
        self.reader = self.bench.reader(self.passed);
    }

    /// Everything that was ever acknowledged is in the store or can be read, once, in order.
    fn check(&mut self) {
        while self.reader.position().0 < self.bench.shared.end() {
            self.read(usize::MAX);
        }
        let seen: Vec<u64> = self.stored.iter().chain(&self.pending).copied().collect();
        assert!(seen.is_sorted_by(|earlier, later| earlier < later), "twice or out of order: {seen:?}");
        let known: BTreeSet<u64> = seen.into_iter().collect();
        let missing: Vec<u64> = self.acked.iter().filter(|number| !known.contains(number)).copied().collect();
        assert!(missing.is_empty(), "acknowledged and gone: {missing:?}");
        assert_eq!(self.bench.count("lost_records") + self.bench.count("damaged_segments"), 0);
        assert!(self.bench.count("bytes_on_disk") <= self.options.bytes_max + 700);
    }
}

proptest! {
    #[test]
    fn what_was_acknowledged_is_read_exactly_once_in_order(
        seed in any::<u64>(),
        bytes_max in 3_000..20_000u64,
        actions in collection::vec(action(), 1..120),
    ) {
        let mut model = Model::new(seed, bytes_max);
        for action in &actions {
            model.step(action);
        }
        model.check();
        model.disk.crash();
        model.restart();
        model.check();
        model.disk.set_bytes_max(None);
        model.release(255);
        while model.bench.writer.round() != super::Round::Idle {}
        model.release(255);
        model.append(1, 10);
        assert_eq!(model.bench.writer.round(), super::Round::Committed, "does not work any more");
        model.note_acked();
        model.check();
    }
}
