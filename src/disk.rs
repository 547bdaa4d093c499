//! How much room the disk of a folder has, and how much of it is kept free.
//!
//! The journal and the store share a disk, as a rule. The store has to write before the journal can let go of anything,
//! so the journal stops while there is still room for the store.

use std::io;
use std::path::Path;

/// Part of a disk that the journal leaves free.
const RESERVE_PART: u64 = 8;
/// Bytes that the journal leaves free at the least: a flush of a small site, with its log.
const RESERVE_BYTES_MIN: u64 = 4 << 20;
/// Bytes that the journal leaves free at the most: a flush of a whole city, with its log.
const RESERVE_BYTES_MAX: u64 = 256 << 20;

/// The room of a disk at an instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Bytes that we may still write.
    pub free_bytes: u64,
    /// Bytes of the whole disk.
    pub total_bytes: u64,
}

impl Space {
    /// A disk that is never full.
    pub const BOUNDLESS: Self = Self { free_bytes: u64::MAX, total_bytes: u64::MAX };

    /// The room of the disk that `folder` is on.
    ///
    /// # Errors
    /// What the disk says.
    pub fn of(folder: &Path) -> io::Result<Self> {
        let found = rustix::fs::statvfs(folder)?;
        let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
        Ok(Self { free_bytes: bytes(found.f_bavail), total_bytes: bytes(found.f_blocks) })
    }

    /// Bytes that the journal leaves free for the store.
    #[must_use]
    pub fn reserve_bytes(self) -> u64 {
        (self.total_bytes / RESERVE_PART).clamp(RESERVE_BYTES_MIN, RESERVE_BYTES_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_grows_with_the_disk_between_two_bounds() {
        let reserve = |total_bytes| Space { free_bytes: 0, total_bytes }.reserve_bytes() >> 20;
        assert_eq!([16 << 20, 48 << 20, 64 << 30].map(reserve), [4, 6, 256]);
    }

    #[test]
    fn a_folder_has_room_and_one_that_is_missing_has_an_error() {
        let folder = tempfile::tempdir().expect("a folder");
        let space = Space::of(folder.path()).expect("room");
        assert!(space.free_bytes > 0 && space.free_bytes <= space.total_bytes, "{space:?}");
        assert!(Space::of(&folder.path().join("missing")).is_err());
    }
}
