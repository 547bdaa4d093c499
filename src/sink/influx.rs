//! The InfluxDB v2 sink.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::model::Window;

/// One time-series store that takes the InfluxDB v2 write API.
#[derive(Clone, PartialEq, Eq)]
pub struct Options {
    /// Name of the sink in configuration and metrics.
    pub name: String,
    /// Base address (`http://host:8086`), checked to be a URL.
    pub url: String,
    /// Organisation.
    pub org: String,
    /// Bucket.
    pub bucket: String,
    /// Token; empty where the store wants none. Never logged.
    pub token: String,
    /// Whether to make the bucket where it is missing.
    pub create_bucket: bool,
    /// Windows whose roll-ups are sent.
    pub windows: BTreeSet<Window>,
    /// Lines of one write at the most.
    pub batch_lines_max: usize,
    /// Time that one request may take.
    pub timeout: Duration,
    /// Longest wait between attempts.
    pub backoff_max: Duration,
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options").field("name", &self.name).field("url", &self.url).finish_non_exhaustive()
    }
}
