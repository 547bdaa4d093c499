//! A disk in memory that loses what was not synced, tears writes, fails and fills up.
//!
//! A crash keeps of each file what was synced and any number of the bytes after it, and of the folder's unsynced
//! changes any choice. After a failed sync the bytes it was for are never durable, whatever a later sync says, as
//! on a real kernel.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use super::storage::{AppendFile, ReadFile, Storage};

#[derive(Clone, Debug, Default)]
struct Inode {
    current: Vec<u8>,
    /// What is on the platter.
    durable: Vec<u8>,
    /// A sync failed: nothing more becomes durable.
    poisoned: bool,
}

type FileRef = Arc<Mutex<Inode>>;

#[derive(Debug, Default)]
struct State {
    current: BTreeMap<String, FileRef>,
    durable: BTreeMap<String, FileRef>,
    rng: fastrand::Rng,
    /// Operations from now on at which one write or sync fails.
    failures: Vec<Failure>,
    bytes_max: Option<usize>,
    unreadable: bool,
}

/// What fails next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    Append,
    Sync,
    SyncFolder,
    Create,
}

/// The disk; clones are the same disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct SimulatedDisk(Arc<Mutex<State>>);

impl SimulatedDisk {
    pub(crate) fn seeded(seed: u64) -> Self {
        let disk = Self::default();
        disk.state().rng = fastrand::Rng::with_seed(seed);
        disk
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// The next operation of this kind fails.
    pub(crate) fn fail_next(&self, failure: Failure) {
        self.state().failures.push(failure);
    }

    /// All reads fail, or none.
    pub(crate) fn set_unreadable(&self, unreadable: bool) {
        self.state().unreadable = unreadable;
    }

    /// Whether all reads fail.
    pub(crate) fn is_unreadable(&self) -> bool {
        self.state().unreadable
    }

    /// The disk takes this many bytes and no more.
    pub(crate) fn set_bytes_max(&self, bytes_max: Option<usize>) {
        self.state().bytes_max = bytes_max;
    }

    pub(crate) fn bytes(&self) -> usize {
        self.state().bytes()
    }

    /// The power goes.
    pub(crate) fn crash(&self) {
        let mut state = self.state();
        let names: Vec<String> = state.current.keys().chain(state.durable.keys()).cloned().collect();
        let mut after = BTreeMap::new();
        for name in names {
            let source = if state.rng.bool() { &state.current } else { &state.durable };
            if let Some(file) = source.get(&name) {
                after.insert(name, Arc::clone(file));
            }
        }
        state.undo_half_renames(&mut after);
        for file in after.values() {
            let mut inode = file.lock().unwrap();
            let extra = inode.current.len().saturating_sub(inode.durable.len());
            let kept = state.rng.usize(..=extra);
            let zeroed = state.rng.u8(..4) == 0;
            let mut left = inode.durable.clone();
            let start = left.len();
            left.extend_from_slice(inode.current.get(start..start + kept).unwrap_or_default());
            if zeroed {
                left.resize(start + extra, 0);
            }
            *inode = Inode { current: left.clone(), durable: left, poisoned: false };
        }
        state.durable.clone_from(&after);
        state.current = after;
        state.failures.clear();
    }

    /// Everything works from now on.
    pub(crate) fn calm(&self) {
        let mut state = self.state();
        state.failures.clear();
        (state.bytes_max, state.unreadable) = (None, false);
    }

    /// Flips a bit of some file but the last one, on the platter and in memory. Returns whether there was one.
    pub(crate) fn flip_bit(&self) -> bool {
        let mut state = self.state();
        let names = state.current.keys().count().saturating_sub(1);
        if names == 0 {
            return false;
        }
        let index = state.rng.usize(..names);
        let file = state.current.values().nth(index).cloned();
        let Some(file) = file else { return false };
        let mut inode = file.lock().unwrap();
        if inode.durable.is_empty() {
            return false;
        }
        let (at, bit) = (state.rng.usize(..inode.durable.len()), 1 << state.rng.u8(..8));
        inode.durable[at] ^= bit;
        if let Some(byte) = inode.current.get_mut(at) {
            *byte ^= bit;
        }
        true
    }

    /// The bytes of `name` now.
    pub(crate) fn contents(&self, name: &str) -> Vec<u8> {
        self.state().current[name].lock().unwrap().current.clone()
    }

    /// Makes `name` hold `bytes`, durably.
    pub(crate) fn put(&self, name: &str, bytes: Vec<u8>) {
        let inode = Inode { current: bytes.clone(), durable: bytes, poisoned: false };
        let file = Arc::new(Mutex::new(inode));
        let mut state = self.state();
        state.current.insert(name.to_owned(), Arc::clone(&file));
        state.durable.insert(name.to_owned(), file);
    }

    /// Removes `name`, durably.
    pub(crate) fn delete(&self, name: &str) {
        let mut state = self.state();
        state.current.remove(name);
        state.durable.remove(name);
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.state().current.keys().cloned().collect()
    }

    fn file(&self, name: &str) -> io::Result<FileRef> {
        self.state().current.get(name).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl State {
    fn bytes(&self) -> usize {
        self.current.values().map(|file| file.lock().unwrap().current.len()).sum()
    }

    /// A rename is done or not done: a file that has two names by now has one after a crash, never both or none.
    fn undo_half_renames(&mut self, after: &mut BTreeMap<String, FileRef>) {
        let is = |file: &FileRef| {
            let file = Arc::clone(file);
            move |(_, other): &(&String, &FileRef)| Arc::ptr_eq(&file, other)
        };
        let moved = self.durable.iter().filter_map(|(from, file)| {
            let (to, _) = self.current.iter().find(is(file))?;
            (to != from).then(|| (from.clone(), to.clone(), Arc::clone(file)))
        });
        for (from, to, file) in moved.collect::<Vec<_>>() {
            let done = self.rng.bool();
            after.retain(|_, other| !Arc::ptr_eq(&file, other));
            after.insert(if done { to } else { from }, file);
        }
    }

    fn fails(&mut self, failure: Failure) -> bool {
        let found = self.failures.iter().position(|next| *next == failure);
        found.map(|index| self.failures.remove(index)).is_some()
    }
}

impl Storage for SimulatedDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.names())
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn AppendFile>> {
        let mut state = self.state();
        if state.fails(Failure::Create) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if state.current.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let file = FileRef::default();
        state.current.insert(name.to_owned(), Arc::clone(&file));
        Ok(Box::new(SimulatedFile { disk: self.clone(), file }))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn ReadFile>> {
        Ok(Box::new(SimulatedFile { disk: self.clone(), file: self.file(name)? }))
    }

    fn len(&self, name: &str) -> io::Result<u64> {
        Ok(self.file(name)?.lock().unwrap().current.len() as u64)
    }

    fn truncate(&self, name: &str, bytes: u64) -> io::Result<()> {
        let file = self.file(name)?;
        let mut inode = file.lock().unwrap();
        inode.current.resize(usize::try_from(bytes).unwrap(), 0);
        if !inode.poisoned {
            inode.durable = inode.current.clone();
        }
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let file = self.file(from)?;
        let mut state = self.state();
        state.current.remove(from);
        state.current.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.file(name)?;
        self.state().current.remove(name);
        Ok(())
    }

    fn sync_folder(&self) -> io::Result<()> {
        let mut state = self.state();
        if state.fails(Failure::SyncFolder) {
            return Err(io::Error::other("simulated"));
        }
        let current = state.current.clone();
        state.durable = current;
        Ok(())
    }
}

#[derive(Debug)]
struct SimulatedFile {
    disk: SimulatedDisk,
    file: FileRef,
}

impl AppendFile for SimulatedFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.disk.state();
        let fails = state.fails(Failure::Append);
        let room = state.bytes_max.map_or(usize::MAX, |bytes_max| bytes_max.saturating_sub(state.bytes()));
        let written = if fails { state.rng.usize(..=bytes.len()) } else { bytes.len().min(room) };
        self.file.lock().unwrap().current.extend_from_slice(&bytes[..written]);
        match (fails, written < bytes.len()) {
            (true, _) => Err(io::Error::other("simulated")),
            (false, true) => Err(io::ErrorKind::StorageFull.into()),
            (false, false) => Ok(()),
        }
    }

    fn sync(&mut self) -> io::Result<()> {
        let fails = self.disk.state().fails(Failure::Sync);
        let mut inode = self.file.lock().unwrap();
        if fails {
            inode.poisoned = true;
            return Err(io::Error::other("simulated"));
        }
        if !inode.poisoned {
            inode.durable = inode.current.clone();
        }
        Ok(())
    }
}

impl ReadFile for SimulatedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        if self.disk.state().unreadable {
            return Err(io::Error::other("simulated"));
        }
        let inode = self.file.lock().unwrap();
        let rest = inode.current.get(usize::try_from(offset).unwrap()..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }
}
