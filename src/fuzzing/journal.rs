//! A folder of segments that holds anything: records, damage, segments that overlap or are missing.
//!
//! Segments are written here anew from the description of the format, not by the journal's own code. Every record says in
//! its arrival time at which position it stands, so that one that is read at another place is found out.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use super::Script;
use crate::clock::Clock;
use crate::health::{Health, PartKind};
use crate::journal::{AppendFile, Entry, Journal, Options, ReadFile, Storage};
use crate::model::{Frame, FrameKind, JournalPosition, Timestamp};

const MAGIC: &[u8; 8] = b"SPJOURNL";
const FILES_MAX: u8 = 4;
/// Frames that are appended to what was found.
const FRESH: u64 = 3;
/// The arrival time of those, which no position has.
const FRESH_ARRIVAL: i64 = -1;

/// A folder of segments: what is intact is read at its place, what is gone is counted, and the journal goes on after it.
pub fn journal(data: &[u8]) {
    let mut script = Script::new(data);
    let passed = u64::from(script.byte() % 32);
    let disk = Memory::default();
    for _ in 0..script.byte() % (FILES_MAX + 1) {
        let (name, bytes) = segment(&mut script);
        disk.files().insert(name, Arc::new(Mutex::new(bytes)));
    }
    let first = open(&disk, passed);
    let (end, before) = (first.end().0, read(&first, passed));
    assert!(end >= passed, "the journal ends at {end}, before what the store has passed");
    assert_eq!(before.end, end, "what is read and what is lost do not add up");
    let (settle, settled) = mpsc::channel();
    let frames = (0..FRESH).map(|_| frame(FRESH_ARRIVAL)).collect();
    let taken = first.inlet().append(frames, Box::new(move |_| settle.send(()).expect("somebody waits")));
    assert!(taken.is_ok(), "an open journal takes frames");
    settled.recv_timeout(Duration::from_secs(20)).expect("the receipt runs");
    assert_eq!(first.end().0, end + FRESH);
    drop(first);

    let second = open(&disk, passed);
    let after = read(&second, passed);
    assert_eq!((second.end().0, after.end), (end + FRESH, end + FRESH), "the journal forgot what it acknowledged");
    let fresh = |at: &u64| after.frames.get(at) == Some(&FRESH_ARRIVAL);
    assert!((end..end + FRESH).all(|at| fresh(&at)), "an acknowledged frame is gone");
    for (at, arrival) in &before.frames {
        assert_eq!(after.frames.get(at), Some(arrival), "what could be read at {at} cannot be read again");
    }
}

/// What a reader found: arrival times by position, and where it ended.
struct Found {
    frames: BTreeMap<u64, i64>,
    end: u64,
}

fn read(journal: &Journal, passed: u64) -> Found {
    let mut reader = journal.reader(JournalPosition(passed));
    let mut found = Found { frames: BTreeMap::new(), end: passed };
    let mut entries = Vec::new();
    while reader.read(64, &mut entries).expect("memory can be read") > 0 {
        for entry in entries.drain(..) {
            match entry {
                Entry::Lost { records } => found.end += records,
                Entry::Frame(frame) => {
                    let arrival = frame.arrival.as_millis();
                    let at = i64::try_from(found.end).expect("small");
                    assert!(arrival == at || arrival == FRESH_ARRIVAL, "the record of {arrival} was read at {at}");
                    found.frames.insert(found.end, arrival);
                    found.end += 1;
                }
            }
        }
        assert_eq!(reader.position().0, found.end, "positions jumped");
    }
    found
}

fn open(disk: &Memory, passed: u64) -> Journal {
    let options = Options {
        folder: "journal".into(),
        bytes_max: 1 << 30,
        segment_bytes: 1 << 20,
        commit_interval: Duration::ZERO,
        age_max: Duration::from_hours(1),
    };
    let part = Health::default().part(PartKind::Journal, "journal", Timestamp::default());
    Journal::open(Arc::new(disk.clone()), options, JournalPosition(passed), part, Clock::system())
        .expect("it opens whatever the files hold")
}

fn frame(arrival: i64) -> Frame {
    Frame {
        source: Arc::from("east"),
        kind: FrameKind::NativeJson,
        topic: "t".into(),
        payload: (*b"{}").into(),
        arrival: Timestamp::from_millis(arrival),
    }
}

/// Name and bytes of one file.
fn segment(script: &mut Script<'_>) -> (String, Vec<u8>) {
    let first = u64::from(script.byte() % 48);
    let name = match script.byte() % 8 {
        0 => script.text(),
        1 => format!("{first:020}.damaged"),
        _ => format!("{first:020}.journal"),
    };
    let mut bytes = match script.byte() % 8 {
        0 => script.piece().to_vec(),
        1 => header(2, first),
        _ => header(1, first),
    };
    let mut index = 0;
    for _ in 0..script.byte() % 24 {
        match script.byte() % 12 {
            0 => bytes.extend_from_slice(script.piece()),
            1 => bytes.truncate(bytes.len().saturating_sub(usize::from(script.byte()))),
            2 => {
                let at = usize::from(script.u16());
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << (script.byte() % 8);
                }
            }
            3 => index = u32::from(script.byte() % 64),
            4 => bytes.extend(std::iter::repeat_n(0, usize::from(script.byte()))),
            _ => {
                bytes.extend(record(first, index, script.byte()));
                index += 1;
            }
        }
    }
    (name, bytes)
}

fn header(version: u32, first: u64) -> Vec<u8> {
    let mut header = [&MAGIC[..], &version.to_le_bytes(), &first.to_le_bytes()].concat();
    header.extend(crc32c::crc32c(&header).to_le_bytes());
    header
}

/// A record; its kind may be one that this version does not know.
fn record(first: u64, index: u32, kind: u8) -> Vec<u8> {
    let arrival = i64::try_from(first).expect("small") + i64::from(index);
    let mut body = vec![if kind >= 250 { kind } else { kind % 3 }];
    body.extend(arrival.to_le_bytes());
    for name in ["east", "telemetry/k/a/s/d"] {
        body.extend(u16::try_from(name.len()).expect("short").to_le_bytes());
        body.extend(name.as_bytes());
    }
    let payload = vec![kind; usize::from(kind)];
    body.extend(u32::try_from(payload.len()).expect("short").to_le_bytes());
    body.extend(payload);
    let mut prefix = u32::try_from(body.len()).expect("short").to_le_bytes().to_vec();
    prefix.extend(index.to_le_bytes());
    let seed = crc32c::crc32c(&header(1, first)[..20]);
    let checksum = crc32c::crc32c_append(crc32c::crc32c_append(seed, &prefix), &body);
    [&prefix[..], &checksum.to_le_bytes(), &body].concat()
}

type Bytes = Arc<Mutex<Vec<u8>>>;

/// A folder in memory whose writes are durable at once.
#[derive(Clone, Debug, Default)]
struct Memory(Arc<Mutex<BTreeMap<String, Bytes>>>);

impl Memory {
    fn files(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Bytes>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file(&self, name: &str) -> io::Result<Bytes> {
        self.files().get(name).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

#[derive(Debug)]
struct MemoryFile(Bytes);

impl MemoryFile {
    fn bytes(&self) -> std::sync::MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Storage for Memory {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.files().keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn AppendFile>> {
        let mut files = self.files();
        if files.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let file = Bytes::default();
        files.insert(name.to_owned(), Arc::clone(&file));
        Ok(Box::new(MemoryFile(file)))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn ReadFile>> {
        Ok(Box::new(MemoryFile(self.file(name)?)))
    }

    fn len(&self, name: &str) -> io::Result<u64> {
        Ok(MemoryFile(self.file(name)?).bytes().len() as u64)
    }

    fn truncate(&self, name: &str, bytes: u64) -> io::Result<()> {
        let bytes = usize::try_from(bytes).expect("small");
        MemoryFile(self.file(name)?).bytes().truncate(bytes);
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let file = self.file(from)?;
        let mut files = self.files();
        files.remove(from);
        files.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.files().remove(name).map(|_| ()).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn sync_folder(&self) -> io::Result<()> {
        Ok(())
    }
}

impl AppendFile for MemoryFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.bytes().extend_from_slice(bytes);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl ReadFile for MemoryFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let bytes = self.bytes();
        let rest = bytes.get(usize::try_from(offset).expect("small")..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }
}
