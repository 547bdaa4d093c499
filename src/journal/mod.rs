//! The journal: every frame is on disk before it is acknowledged (P1).

use std::path::PathBuf;
use std::time::Duration;

/// How the journal keeps its records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Folder of the segments.
    pub folder: PathBuf,
    /// Bytes on disk at which it takes no more records until the store has passed some.
    pub bytes_max: u64,
    /// Bytes at which a segment is closed and the next one begun.
    pub segment_bytes: u64,
    /// How long a group of records may gather before it is synced.
    pub commit_interval: Duration,
}
