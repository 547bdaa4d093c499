//! The pipeline: one thread that takes records from the journal through decode and roll-up to the store.

use std::time::Duration;

/// What becomes of devices that publish without being listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unregistered {
    /// Their messages are rejected and counted.
    Refuse,
    /// They are taken in, marked unregistered.
    Accept {
        /// Such devices at the most.
        devices_max: usize,
        /// Metrics of one such device at the most.
        metrics_max: usize,
    },
}

/// How readings are rolled up and flushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Time between flushes to the store.
    pub flush_interval: Duration,
    /// How far ahead of its arrival an event time may lie.
    pub future_limit: Duration,
    /// Time from a window's end to its being final.
    pub grace: Duration,
    /// Age at which rows are deleted and readings count as expired.
    pub retention: Duration,
    /// Bytes of open windows at which a flush is made early.
    pub open_windows_bytes_max: usize,
    /// What becomes of devices that are not listed.
    pub unregistered: Unregistered,
}
