//! The little that the journal asks of a disk, and the real disk.
//!
//! Owns names and bytes of one folder. Knows nothing of segments or records. Tests put a simulated disk in its place
//! that tears writes, drops what was not synced, fills up and fails.

use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::disk::Space;

/// A folder of files that are written once, from front to back.
pub trait Storage: Send + Sync + Debug {
    /// Names of the files in the folder, in any order; not of folders in it.
    ///
    /// # Errors
    /// When the folder cannot be read.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Creates `name` for appending. The entry outlives a crash only once [`Storage::sync_folder`] has run.
    ///
    /// # Errors
    /// `AlreadyExists` when there is such a file; otherwise what the disk says.
    fn create(&self, name: &str) -> io::Result<Box<dyn AppendFile>>;

    /// Opens `name` for reading.
    ///
    /// # Errors
    /// `NotFound` when there is no such file; otherwise what the disk says.
    fn open(&self, name: &str) -> io::Result<Box<dyn ReadFile>>;

    /// Bytes in `name`.
    ///
    /// # Errors
    /// `NotFound` when there is no such file; otherwise what the disk says.
    fn len(&self, name: &str) -> io::Result<u64>;

    /// Cuts `name` to `bytes` and syncs it.
    ///
    /// # Errors
    /// What the disk says.
    fn truncate(&self, name: &str, bytes: u64) -> io::Result<()>;

    /// Gives `from` the name `to`, in place of a file that has that name.
    ///
    /// # Errors
    /// What the disk says.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes `name`; who has it open can go on reading it.
    ///
    /// # Errors
    /// `NotFound` when there is no such file; otherwise what the disk says.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes creations, renames and removals so far outlive a crash.
    ///
    /// # Errors
    /// What the disk says.
    fn sync_folder(&self) -> io::Result<()>;

    /// Room on the disk; boundless where it cannot be told.
    fn space(&self) -> Space {
        Space::BOUNDLESS
    }
}

/// A file that grows at its end.
pub trait AppendFile: Send + Debug {
    /// Adds `bytes` at the end.
    ///
    /// # Errors
    /// What the disk says; any part of `bytes` may have been written then.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Makes everything appended so far outlive a crash.
    ///
    /// # Errors
    /// What the disk says. The fate of what was appended is then unknown for ever: a later sync that succeeds says
    /// nothing about it.
    fn sync(&mut self) -> io::Result<()>;
}

/// A file that is read at any place.
pub trait ReadFile: Send + Debug {
    /// Reads bytes from `offset` on into `buffer` and gives how many, 0 at the end of the file.
    ///
    /// # Errors
    /// What the disk says.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
}

/// A folder of the real disk.
#[derive(Clone, Debug)]
pub struct Folder {
    path: PathBuf,
}

impl Folder {
    /// The folder at `path`, created where there is none.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn open(path: impl Into<PathBuf>) -> io::Result<Self> {
        let path = path.into();
        if !path.is_dir() {
            fs::create_dir_all(&path)?;
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            File::open(parent.unwrap_or(Path::new(".")))?.sync_all()?;
        }
        Ok(Self { path })
    }

    /// The folder at `path`, which is only looked at.
    pub fn existing(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }
}

impl Storage for Folder {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            if let Ok(name) = entry.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn AppendFile>> {
        let file = OpenOptions::new().append(true).create_new(true).open(self.path.join(name))?;
        Ok(Box::new(file))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn ReadFile>> {
        Ok(Box::new(File::open(self.path.join(name))?))
    }

    fn len(&self, name: &str) -> io::Result<u64> {
        Ok(fs::metadata(self.path.join(name))?.len())
    }

    fn truncate(&self, name: &str, bytes: u64) -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(self.path.join(name))?;
        file.set_len(bytes)?;
        file.sync_all()
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn sync_folder(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }

    fn space(&self) -> Space {
        Space::of(&self.path).unwrap_or(Space::BOUNDLESS)
    }
}

impl AppendFile for File {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }
}

impl ReadFile for File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        loop {
            match FileExt::read_at(self, buffer, offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                done => return done,
            }
        }
    }
}
