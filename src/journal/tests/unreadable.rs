//! A disk that cannot read: for a moment, for good, in one place, in one file.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{Bench, EPOCH_MS, frame_of, number_of, options};
use crate::health::State;
use crate::journal::format::{HEADER_BYTES, record_bytes};
use crate::journal::patience::Patience;
use crate::journal::segment::{damaged_name, name};
use crate::journal::simulated_disk::SimulatedDisk;
use crate::journal::{AppendFile, Entry, Options, ReadFile, Storage};
use crate::model::{Frame, Timestamp};

/// What of a file fails.
#[derive(Clone, Debug)]
pub(super) enum Bad {
    /// Its size, and opening it.
    Entry,
    /// Opening it.
    Open,
    /// Opening it: a person has to give the right.
    Denied,
    /// Reading blocks of 4 KiB with any of these bytes.
    Bytes(u64, u64),
}

/// A simulated disk that fails to read some files, whatever they are called after their first position.
#[derive(Clone, Debug)]
pub(super) struct BadDisk {
    pub(super) disk: SimulatedDisk,
    bad: Arc<Mutex<BTreeMap<String, Bad>>>,
}

impl BadDisk {
    pub(super) fn over(disk: SimulatedDisk) -> Self {
        Self { disk, bad: Arc::default() }
    }

    pub(super) fn spoil(&self, first: u64, bad: Bad) {
        self.bad.lock().unwrap().insert(name(first)[..20].to_owned(), bad);
    }

    pub(super) fn heal(&self) {
        self.bad.lock().unwrap().clear();
    }

    fn bad(&self, name: &str) -> Option<Bad> {
        self.bad.lock().unwrap().get(name.get(..20)?).cloned()
    }
}

fn broken() -> io::Error {
    io::Error::from_raw_os_error(5)
}

impl Storage for BadDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn AppendFile>> {
        self.disk.create(name)
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn ReadFile>> {
        match self.bad(name) {
            Some(Bad::Entry | Bad::Open) => Err(broken()),
            Some(Bad::Denied) => Err(io::ErrorKind::PermissionDenied.into()),
            _ => Ok(Box::new(BadFile { name: name.to_owned(), file: self.disk.open(name)?, disk: self.clone() })),
        }
    }

    fn len(&self, name: &str) -> io::Result<u64> {
        match self.bad(name) {
            Some(Bad::Entry) if self.disk.len(name).is_ok() => Err(broken()),
            _ => self.disk.len(name),
        }
    }

    fn truncate(&self, name: &str, bytes: u64) -> io::Result<()> {
        self.disk.truncate(name, bytes)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }

    fn sync_folder(&self) -> io::Result<()> {
        self.disk.sync_folder()
    }
}

#[derive(Debug)]
struct BadFile {
    name: String,
    file: Box<dyn ReadFile>,
    disk: BadDisk,
}

impl ReadFile for BadFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        if let Some(Bad::Bytes(from, to)) = self.disk.bad(&self.name) {
            let end = (offset + buffer.len() as u64).next_multiple_of(4_096);
            if offset - offset % 4_096 < to && from < end {
                return Err(broken());
            }
        }
        self.file.read_at(buffer, offset)
    }
}

/// A frame whose record takes several blocks of the disk.
fn long_frame(number: u64) -> Frame {
    frame_of(number, vec![b'x'; 20_000])
}

/// Offset of the record at `index` of a segment of [`long_frame`]s.
fn offset(index: u64) -> u64 {
    HEADER_BYTES + index * record_bytes(&long_frame(0))
}

/// Segments of three long records: 0 to 2, 3 to 5, 6 to 8.
fn three_segments() -> BadDisk {
    let disk = SimulatedDisk::default();
    let segment_bytes = offset(3);
    let mut bench = Bench::open(&disk, Options { segment_bytes, ..options() }, 0);
    for number in 0..9 {
        bench.inlet().append(vec![long_frame(number)], Box::new(drop)).expect("taken");
        bench.writer.round();
    }
    assert_eq!(disk.names(), [name(0), name(3), name(6)]);
    BadDisk::over(disk)
}

fn open(disk: &BadDisk) -> Bench {
    Bench::open_at(Arc::new(disk.clone()), options(), 0, Timestamp::from_millis(EPOCH_MS))
}

pub(super) fn tell(entries: &[Entry]) -> Vec<i64> {
    let tell = |entry: &Entry| match entry {
        Entry::Frame(frame) => i64::try_from(number_of(frame)).expect("small"),
        Entry::Lost { records } => -i64::try_from(*records).expect("small"),
    };
    entries.iter().map(tell).collect()
}

/// Reads all with a reader that bears three failures in a row; gives the story and how many reads failed.
pub(super) fn read_impatiently(bench: &Bench, from: u64) -> (Vec<i64>, u32) {
    let (mut reader, mut entries, mut failures) = (bench.reader(from), Vec::new(), 0);
    reader.patience = Patience::new(3, Duration::ZERO);
    loop {
        match reader.read(100, &mut entries) {
            Ok(0) => return (tell(&entries), failures),
            Ok(_) => {}
            Err(_) => failures += 1,
        }
        assert!(failures < 100, "it is stuck");
    }
}

#[test]
fn a_failure_that_goes_away_loses_nothing() {
    for bad in [Bad::Bytes(0, u64::MAX), Bad::Open, Bad::Denied, Bad::Bytes(offset(1), offset(1) + 1)] {
        let disk = three_segments();
        let bench = open(&disk);
        disk.spoil(3, bad);
        let (mut reader, mut entries) = (bench.reader(0), Vec::new());
        for _ in 0..40 {
            let _ = reader.read(usize::MAX, &mut entries);
        }
        disk.heal();
        while reader.read(usize::MAX, &mut entries).expect("readable again") > 0 {}
        assert_eq!(tell(&entries), (0..9).collect::<Vec<i64>>());
        assert_eq!((disk.disk.names(), bench.count("lost_records")), (vec![name(0), name(3), name(6)], 0));
    }
}

#[test]
fn one_bad_block_costs_the_records_that_lie_on_it_and_the_pipeline_goes_on() {
    let disk = three_segments();
    let bench = open(&disk);
    disk.spoil(3, Bad::Bytes(offset(1) + 8_192, offset(1) + 8_193));
    assert_eq!(read_impatiently(&bench, 0), (vec![0, 1, 2, 3, -1, 5, 6, 7, 8], 2));
    assert_eq!(disk.disk.names(), [name(0), damaged_name(3), name(6)]);
    assert_eq!((bench.count("lost_records"), bench.count("damaged_segments")), (1, 1));
}

#[test]
fn a_segment_that_cannot_be_read_at_all_is_lost_and_stays_on_the_disk() {
    for bad in [Bad::Bytes(0, u64::MAX), Bad::Open] {
        let disk = three_segments();
        let bench = open(&disk);
        disk.spoil(3, bad);
        assert_eq!(read_impatiently(&bench, 0), (vec![0, 1, 2, -3, 6, 7, 8], 2));
        bench.shared.release(9);
        assert_eq!((disk.disk.names(), bench.count("lost_records")), (vec![damaged_name(3)], 3));
    }
}

#[test]
fn what_a_person_can_put_right_is_waited_for() {
    let disk = three_segments();
    let bench = open(&disk);
    disk.spoil(3, Bad::Denied);
    let (mut reader, mut entries) = (bench.reader(0), Vec::new());
    reader.patience = Patience::new(3, Duration::ZERO);
    assert!((0..50).all(|_| reader.read(usize::MAX, &mut entries).is_err()));
    assert_eq!((tell(&entries), bench.count("damaged_segments")), (vec![0, 1, 2], 0));
}

#[test]
fn damage_to_the_segment_that_is_being_written_stops_neither_side() {
    let disk = BadDisk::over(SimulatedDisk::default());
    let mut bench = open(&disk);
    let keep = |bench: &mut Bench, number| {
        bench.inlet().append(vec![long_frame(number)], Box::new(drop)).expect("taken");
        bench.writer.round();
    };
    (0..4).for_each(|number| keep(&mut bench, number));
    disk.spoil(0, Bad::Bytes(offset(1) + 4_096, offset(1) + 4_097));
    let (mut reader, mut entries) = (bench.reader(0), Vec::new());
    reader.patience = Patience::new(1, Duration::ZERO);
    while reader.read(usize::MAX, &mut entries).expect("read around") > 0 {}
    keep(&mut bench, 4);
    while reader.read(usize::MAX, &mut entries).expect("read around") > 0 {}
    assert_eq!((tell(&entries), bench.part.snapshot().state), (vec![0, -1, 2, 3, 4], State::Up));
    assert_eq!(disk.disk.names(), [damaged_name(0)]);
}

#[test]
fn behind_a_bad_block_of_the_last_segment_numbering_goes_on_exactly() {
    let disk = three_segments();
    disk.spoil(6, Bad::Bytes(offset(1) + 8_192, offset(1) + 8_193));
    let bench = open(&disk);
    assert_eq!((bench.shared.end(), disk.disk.names()), (9, vec![name(0), name(3), damaged_name(6)]));
    assert_eq!(read_impatiently(&bench, 0).0, [0, 1, 2, 3, 4, 5, 6, -1, 8]);
}

#[test]
fn a_segment_whose_size_cannot_be_had_is_neither_removed_nor_written_over() {
    let disk = three_segments();
    disk.spoil(6, Bad::Entry);
    let mut bench = open(&disk);
    let end = bench.shared.end();
    assert!(end > 6 + (1 << 32) / 29, "positions of acknowledged records would be given away again: {end}");
    bench.keep(99..100);
    assert!(disk.disk.names().iter().any(|name| name.starts_with(&damaged_name(6)[..20])), "{:?}", disk.disk.names());
    disk.heal(); // before the reader comes to it
    let entries = bench.entries(0);
    let read = tell(&entries);
    assert_eq!(read[..9], [0, 1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!((read.len(), read[10]), (11, 99));
}
