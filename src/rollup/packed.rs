//! The packed form of a base row: one device, one minute, all its metrics, in one blob.
//!
//! Version 2, little-endian; `varint` is LEB128 of a `u64`:
//!
//! ```text
//! u8      version = 2
//! varint  interval of the device's readings, ms; 0 where unknown
//! varint  messages applied after the window was final
//! varint  n, number of event times;      then n x u16 offsets from the window's start, ms, ascending
//! varint  m, number of metrics;          then m times:
//!   varint  metric id
//!   varint  count << 2 | all << 1 | low  (all: every event time has this metric; low: the sum's low part is not 0)
//!   !all:       bitmap over the event times, lowest bit first, ceil(n / 8) bytes
//!   count = 1:  f64 value
//!   count > 1:  u8 min | max << 2 (0: written, 1: the first value, 2: the last), f64 sum high, [f64 sum low],
//!               [f64 min], [f64 max], f64 first, f64 last
//!   count > 2:  (count - 2) x u16 checks of the values between first and last, in order of event time
//! ```
//!
//! Version 1, which is read for ever and no longer written, has after the second varint:
//!
//! ```text
//!   count = 1:  u16 offset, f64 value
//!   count > 1:  f64 sum high, [f64 sum low], f64 min, f64 max, u16 offset + f64 value of first, the same of last
//!   !all:       bitmap as above
//!   count > 2:  count x u16 checks of the values, in order of event time (fewer follow from first and last)
//! ```
//!
//! What packing would not have written is refused, in either version.

mod read;

use std::sync::Arc;

use super::window::Series;
use super::{Aggregate, DeviceWindow, Point};
use crate::model::{MetricId, WindowStart};
use read::visit;

const VERSION: u8 = 2;
/// The version before, which is read as well.
const VERSION_1: u8 = 1;
/// What stands before the event times, at the longest.
const HEADER_BYTES_MAX: usize = 32;
/// Aggregates of one metric, at the longest.
const SERIES_BYTES_MAX: usize = 1 + 6 * 8;
/// One metric without its bitmap and checks, at the longest.
const METRIC_BYTES_MAX: usize = 5 + 3 + SERIES_BYTES_MAX;

/// A blob that is no packed row.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PackedError {
    /// The blob was written by a later version.
    #[error("a packed row of version {0}; this build reads version {VERSION}")]
    Version(u8),
    /// The blob is damaged.
    #[error("a packed row that ends or contradicts itself at byte {0}")]
    Corrupt(usize),
}

/// A base row as it is read: one device's minute.
#[derive(Clone, Debug, PartialEq)]
pub struct BaseRow {
    /// Start of the window.
    pub start: WindowStart,
    /// Milliseconds between the device's readings as declared when the row was written; `None` where unknown.
    pub interval_ms: Option<u32>,
    /// Messages applied after the window was final.
    pub late: u32,
    /// The metrics that have readings.
    pub metrics: Vec<BaseMetric>,
}

/// One metric of a base row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BaseMetric {
    /// The metric.
    pub metric: MetricId,
    /// Its readings in the window.
    pub aggregate: Aggregate,
    /// Distinct slots of the device's interval that were heard; the count of readings where no interval is known.
    pub heard: u32,
}

impl DeviceWindow {
    /// Appends the packed form to `out`.
    pub fn pack(&self, out: &mut Vec<u8>) {
        let times = self.seen().len();
        out.reserve(
            HEADER_BYTES_MAX + times * 2 + self.present().count() * (METRIC_BYTES_MAX + times * 2 + times.div_ceil(8)),
        );
        out.push(VERSION);
        put_varint(out, u64::from(self.interval_ms.unwrap_or(0)));
        put_varint(out, u64::from(self.late));
        put_varint(out, times as u64);
        for time in self.seen().times() {
            out.extend_from_slice(&time.to_le_bytes());
        }
        put_varint(out, self.present().count() as u64);
        for (metric, series, column) in self.present() {
            self.pack_metric(out, metric, series, column);
        }
    }

    fn pack_metric(&self, out: &mut Vec<u8>, metric: MetricId, series: &Series, column: usize) {
        let times = self.seen().len();
        let (high, low) = series.sum.parts();
        let (all, has_low) = (usize::from(series.count) == times, low != 0.0);
        put_varint(out, u64::from(metric.0));
        put_varint(out, u64::from(series.count) << 2 | u64::from(all) << 1 | u64::from(has_low));
        if !all {
            let at = out.len();
            out.resize(at + times.div_ceil(8), 0);
            for (row, check) in self.seen().checks_of(column).enumerate() {
                if check != 0 {
                    out[at + row / 8] |= 1 << (row % 8);
                }
            }
        }
        // Put together apart and added at once: this runs for every series of a city.
        let mut fixed = [0; SERIES_BYTES_MAX];
        let mut rest = fixed.as_mut_slice();
        if series.count > 1 {
            let end_of = |value| End::of(value, series.first, series.last);
            let (min, max) = (end_of(series.min), end_of(series.max));
            rest = put(rest, [min.code() | max.code() << 2]);
            rest = put(rest, high.to_le_bytes());
            if has_low {
                rest = put(rest, low.to_le_bytes());
            }
            for (end, value) in [(min, series.min), (max, series.max)] {
                if end == End::Neither {
                    rest = put(rest, value.to_le_bytes());
                }
            }
        }
        rest = put(rest, series.first.to_le_bytes());
        if series.count > 1 {
            rest = put(rest, series.last.to_le_bytes());
        }
        let bytes = SERIES_BYTES_MAX - rest.len();
        out.extend_from_slice(&fixed[..bytes]);
        let between = usize::from(series.count).saturating_sub(2);
        let checks = self.seen().checks_of(column).filter(|&check| check != 0);
        for check in checks.skip(1).take(between) {
            out.extend_from_slice(&check.to_le_bytes());
        }
    }

    /// Reads back what [`DeviceWindow::pack`] wrote, for a device that now has `metrics`; metrics of the blob that the
    /// device no longer has are kept.
    ///
    /// # Errors
    /// [`PackedError`] where the blob is damaged or newer than this build.
    pub fn unpack(start: WindowStart, metrics: Arc<Vec<MetricId>>, blob: &[u8]) -> Result<Self, PackedError> {
        let mut window = Self::new(start, None, metrics);
        let mut checks = Vec::new();
        let header = visit(start, blob, &mut |metric, aggregate, heard| {
            checks.clear();
            heard.checks(&mut checks);
            window.restore(metric, &aggregate, &checks);
        })?;
        (window.interval_ms, window.late) = (header.interval_ms, header.late);
        Ok(window)
    }
}

impl BaseRow {
    /// Reads a packed row for querying.
    ///
    /// # Errors
    /// [`PackedError`] where the blob is damaged or newer than this build.
    pub fn unpack(start: WindowStart, blob: &[u8]) -> Result<Self, PackedError> {
        let mut row = Self::empty();
        row.read(start, blob)?;
        Ok(row)
    }

    /// A row to read others into.
    pub(crate) const fn empty() -> Self {
        Self { start: WindowStart::from_millis(0), interval_ms: None, late: 0, metrics: Vec::new() }
    }

    /// Reads a packed row in place of what was in this one, whose memory it takes over.
    ///
    /// # Errors
    /// [`PackedError`] as [`BaseRow::unpack`] has it; what is in the row then is of no use.
    pub(crate) fn read(&mut self, start: WindowStart, blob: &[u8]) -> Result<(), PackedError> {
        self.metrics.clear();
        // Most metrics have all the event times of their row, and so the same slots.
        let mut all_slots = None;
        let header = visit(start, blob, &mut |metric, aggregate, heard| {
            let heard = if heard.is_all() { *all_slots.get_or_insert_with(|| heard.slots()) } else { heard.slots() };
            self.metrics.push(BaseMetric { metric, aggregate, heard });
        })?;
        (self.start, self.interval_ms, self.late) = (start, header.interval_ms, header.late);
        Ok(())
    }

    /// Gives `each` the metrics of a packed row with their last readings.
    ///
    /// # Errors
    /// [`PackedError`] as [`BaseRow::unpack`] has it; some metrics may have been given by then.
    pub(crate) fn last_readings(
        start: WindowStart,
        blob: &[u8],
        each: &mut dyn FnMut(MetricId, Point),
    ) -> Result<(), PackedError> {
        visit(start, blob, &mut |metric, aggregate, _| each(metric, aggregate.last)).map(|_| ())
    }
}

/// Which end of a series a value of it equals, so that it need not be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Neither,
    First,
    Last,
}

impl End {
    fn of(value: f64, first: f64, last: f64) -> Self {
        if value == first {
            Self::First
        } else if value == last {
            Self::Last
        } else {
            Self::Neither
        }
    }

    const fn code(self) -> u8 {
        match self {
            Self::Neither => 0,
            Self::First => 1,
            Self::Last => 2,
        }
    }

    const fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Neither),
            1 => Some(Self::First),
            2 => Some(Self::Last),
            _ => None,
        }
    }
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    loop {
        let byte = value.to_le_bytes()[0];
        if value < 0x80 {
            out.push(byte);
            return;
        }
        out.push(byte | 0x80);
        value >>= 7;
    }
}

/// Puts `bytes` at the start of `place` and gives what is left of it.
fn put<const N: usize>(place: &mut [u8], bytes: [u8; N]) -> &mut [u8] {
    let (start, rest) = place.split_at_mut(N);
    start.copy_from_slice(&bytes);
    rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Timestamp;
    use crate::rollup::Outcome;
    use crate::rollup::window::check_of;

    fn start() -> Timestamp {
        Timestamp::from_millis(1_764_000_000_000)
    }

    fn sample() -> DeviceWindow {
        let mut window = DeviceWindow::new(start(), Some(10_000), Arc::new(vec![MetricId(0), MetricId(300)]));
        for (ms, value) in [(0, 0.1), (10_000, 0.2), (20_004, 0.3), (59_999, -4.0)] {
            window.apply(0, MetricId(0), start().plus_millis(ms), value);
        }
        window.apply(1, MetricId(300), start().plus_millis(10_000), 7.5);
        window.late = 2;
        window
    }

    #[test]
    fn a_row_comes_back_as_it_was_packed() {
        let mut blob = Vec::new();
        sample().pack(&mut blob);
        let back = DeviceWindow::unpack(start(), Arc::new(vec![MetricId(0), MetricId(300)]), &blob);
        assert_eq!(back, Ok(sample()));
        let row = BaseRow::unpack(start(), &blob).expect("a row");
        assert_eq!(row.metrics[0].heard, 4);
        assert_eq!((row.metrics[1].heard, row.metrics[1].aggregate.count), (1, 1));
        assert_eq!((row.late, row.interval_ms), (2, Some(10_000)));
    }

    #[test]
    fn repeats_are_recognised_after_a_row_was_packed() {
        let mut blob = Vec::new();
        sample().pack(&mut blob);
        // The device's profile no longer has metric 300 and has another in front.
        let mut back = DeviceWindow::unpack(start(), Arc::new(vec![MetricId(5), MetricId(0)]), &blob).expect("a row");
        assert_eq!(back.apply(1, MetricId(0), start().plus_millis(20_004), 0.3), Outcome::Duplicate);
        assert_eq!(back.apply(1, MetricId(0), start().plus_millis(20_004), 0.4), Outcome::Conflicting);
        assert_eq!(back.apply(9, MetricId(300), start().plus_millis(10_000), 7.5), Outcome::Duplicate);
        assert_eq!(back.apply(0, MetricId(5), start().plus_millis(10_000), 7.5), Outcome::Applied);
    }

    #[test]
    fn the_frozen_row_of_version_1_is_read_for_ever() {
        let frozen = include_bytes!("../../tests/fixtures/rollup-v1.bin");
        let metrics = Arc::new(vec![MetricId(0), MetricId(300)]);
        assert_eq!(DeviceWindow::unpack(start(), metrics, frozen), Ok(sample()));
        let mut blob = Vec::new();
        sample().pack(&mut blob);
        assert_eq!(BaseRow::unpack(start(), frozen), BaseRow::unpack(start(), &blob));
    }

    #[test]
    fn the_frozen_row_of_version_2_is_written_and_read_for_ever() {
        let frozen = include_bytes!("../../tests/fixtures/rollup-v2.bin");
        let mut blob = Vec::new();
        sample().pack(&mut blob);
        assert_eq!(blob, frozen);
        assert!(DeviceWindow::unpack(start(), Arc::default(), frozen).is_ok());
    }

    #[test]
    fn every_truncation_and_a_later_version_are_refused_without_panic() {
        let mut blob = Vec::new();
        sample().pack(&mut blob);
        for len in 0..blob.len() {
            assert!(BaseRow::unpack(start(), &blob[..len]).is_err(), "{len} bytes");
        }
        blob[0] = 9;
        assert_eq!(BaseRow::unpack(start(), &blob), Err(PackedError::Version(9)));
    }

    /// Two readings of one metric in version 2: what says where its extremes are, and its numbers after it.
    fn two_readings(ends: u8, numbers: &[f64]) -> Vec<u8> {
        let mut blob = vec![VERSION, 0, 0, 2, 0, 0, 5, 0, 1, 7, 2 << 2 | 2, ends];
        blob.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
        blob
    }

    #[test]
    fn a_row_that_packing_would_not_have_written_is_refused() {
        let good = two_readings(1 | 2 << 2, &[3.0, 1.0, 2.0]);
        assert!(BaseRow::unpack(start(), &good).is_ok());
        let cases = [
            ("the smallest is the first and written", two_readings(2 << 2, &[3.0, 1.0, 1.0, 2.0])),
            ("the smallest is neither of the two", two_readings(2 << 2, &[3.0, 0.5, 1.0, 2.0])),
            ("the smallest is the larger one", two_readings(2 | 2 << 2, &[3.0, 1.0, 2.0])),
            ("the last of two that are equal", two_readings(1 | 2 << 2, &[2.0, 1.0, 1.0])),
            ("a value is minus zero", two_readings(1 | 2 << 2, &[2.0, -0.0, 2.0])),
            ("a value is infinite", two_readings(1 | 2 << 2, &[2.0, 1.0, f64::INFINITY])),
            ("no such end", two_readings(3, &[3.0, 1.0, 2.0])),
        ];
        for (what, blob) in cases {
            assert!(matches!(BaseRow::unpack(start(), &blob), Err(PackedError::Corrupt(_))), "{what}");
        }
    }

    #[test]
    fn a_row_of_version_1_whose_checks_are_not_those_of_its_ends_is_refused() {
        let mut blob = include_bytes!("../../tests/fixtures/rollup-v1.bin").to_vec();
        let check = check_of(0.1).to_le_bytes();
        let at = blob.windows(2).position(|bytes| bytes == check).expect("the first value's check");
        blob[at] ^= 1;
        assert!(matches!(BaseRow::unpack(start(), &blob), Err(PackedError::Corrupt(_))));
    }

    proptest::proptest! {
        #[test]
        fn hostile_bytes_never_panic(mut blob in proptest::collection::vec(0u8..=255, 1..200)) {
            blob[0] = VERSION_1 + blob[0] % 2;
            let _ = BaseRow::unpack(start(), &blob);
            let _ = DeviceWindow::unpack(start(), Arc::default(), &blob);
        }
    }
}
