//! What the pipeline counts.

use crate::health::{Counter, Part};

/// Counters of the pipeline.
pub(super) struct Counters {
    pub(super) flushes: Counter,
    pub(super) flush_failures: Counter,
    pub(super) flush_us: Counter,
    pub(super) final_delay_ms: Counter,
    pub(super) final_delay_ms_max: Counter,
    pub(super) rows_written: Counter,
    pub(super) open_windows: Counter,
    pub(super) open_windows_bytes: Counter,
    pub(super) damaged_rows: Counter,
    pub(super) stored_messages: Counter,
    pub(super) clock_steps: Counter,
}

impl Counters {
    pub(super) fn of(part: &Part) -> Self {
        Self {
            flushes: part.counter("flushes"),
            flush_failures: part.counter("flush_failures"),
            flush_us: part.counter("flush_us"),
            final_delay_ms: part.counter("final_delay_ms"),
            final_delay_ms_max: part.counter("final_delay_ms_max"),
            rows_written: part.counter("rows_written"),
            open_windows: part.counter("open_windows"),
            open_windows_bytes: part.counter("open_windows_bytes"),
            damaged_rows: part.counter("damaged_rows"),
            stored_messages: part.counter("stored_messages"),
            clock_steps: part.counter("clock_steps"),
        }
    }
}
