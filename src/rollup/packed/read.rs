//! Reading packed rows of either version, strictly: what packing would not have written is refused.

use super::{End, PackedError, VERSION, VERSION_1};
use crate::model::{BASE_WINDOW_MS, MetricId, WindowStart};
use crate::rollup::window::check_of;
use crate::rollup::{Aggregate, Point, Sum};

/// Metrics that a row has at the most, mostly.
const METRICS_USUAL: usize = 64;

pub(super) struct Header {
    pub(super) interval_ms: Option<u32>,
    pub(super) late: u32,
}

/// The event times that a metric has.
#[derive(Clone, Copy)]
struct Times<'a> {
    offsets: &'a [u8],
    /// `None` where the metric has them all.
    bitmap: Option<&'a [u8]>,
}

impl<'a> Times<'a> {
    fn iter(self) -> impl DoubleEndedIterator<Item = u16> + 'a {
        u16s(self.offsets)
            .enumerate()
            .filter(move |(row, _)| self.bitmap.is_none_or(|bitmap| bitmap[row / 8] >> (row % 8) & 1 == 1))
            .map(|(_, offset)| offset)
    }

    /// Whether they are `count`, said in the one way in which packing says so.
    fn are(self, count: usize) -> bool {
        let len = self.offsets.len() / 2;
        let Some(bitmap) = self.bitmap else { return count == len };
        let set: u32 = bitmap.iter().map(|byte| byte.count_ones()).sum();
        let used = len % 8;
        let beyond = used != 0 && bitmap.last().is_some_and(|last| last >> used != 0);
        usize::try_from(set) == Ok(count) && count < len && !beyond
    }
}

/// What was heard of a metric, not yet unpacked.
pub(super) struct Heard<'a> {
    start: WindowStart,
    interval_ms: Option<u32>,
    times: Times<'a>,
    /// Checks of its values between the first and the last.
    checks: &'a [u8],
    aggregate: &'a Aggregate,
}

impl Heard<'_> {
    /// Whether the metric has all event times of its row.
    pub(super) fn is_all(&self) -> bool {
        self.times.bitmap.is_none()
    }

    /// Distinct slots of the device's interval; event times where no interval is known.
    pub(super) fn slots(&self) -> u32 {
        let slot_of = |offset: u16| match self.interval_ms {
            Some(interval) => self.start.plus_millis(i64::from(offset)).as_millis().div_euclid(i64::from(interval)),
            None => i64::from(offset),
        };
        let mut previous = None;
        let mut slots = 0;
        for slot in self.times.iter().map(slot_of) {
            slots += u32::from(previous != Some(slot));
            previous = Some(slot);
        }
        slots
    }

    /// Appends event times, as milliseconds from the window's start, and the checks of their values.
    pub(super) fn checks(&self, out: &mut Vec<(u16, u16)>) {
        let [first, last] = [self.aggregate.first, self.aggregate.last].map(|point| check_of(point.value));
        out.extend(self.times.iter().zip(std::iter::once(first).chain(u16s(self.checks)).chain([last])));
    }
}

fn u16s(bytes: &[u8]) -> impl DoubleEndedIterator<Item = u16> + ExactSizeIterator {
    bytes.chunks_exact(2).map(|bytes| u16::from_le_bytes([bytes[0], bytes[1]]))
}

/// Reads a packed row and gives `each` of its metrics.
pub(super) fn visit(
    start: WindowStart,
    blob: &[u8],
    each: &mut dyn FnMut(MetricId, Aggregate, Heard<'_>),
) -> Result<Header, PackedError> {
    let mut reader = Reader { blob, at: 0 };
    let version = reader.bytes(1)?[0];
    if ![VERSION_1, VERSION].contains(&version) {
        return Err(PackedError::Version(version));
    }
    let interval_ms = Some(reader.narrow()?).filter(|&interval| interval != 0);
    let late = reader.narrow()?;
    let offsets = reader.offsets()?;
    let metrics_len = reader.length(1)?;
    let mut metrics = Vec::with_capacity(metrics_len.min(METRICS_USUAL));
    let mut highest = None;
    let mut covered = Covered::new(offsets.len() / 2);
    for _ in 0..metrics_len {
        let metric = MetricId(reader.narrow()?);
        // Mostly they come in order.
        if highest.is_some_and(|highest| metric <= highest) && metrics.contains(&metric) {
            return Err(reader.corrupt());
        }
        highest = highest.max(Some(metric));
        metrics.push(metric);
        let tag = reader.tag()?;
        let (aggregate, times, checks) = if version == VERSION_1 {
            reader.series_1(start, &tag, offsets)?
        } else {
            reader.series(start, &tag, offsets)?
        };
        if !is_sound(&aggregate) || u16s(checks).any(|check| check == 0) {
            return Err(reader.corrupt());
        }
        covered.add(times.bitmap);
        each(metric, aggregate, Heard { start, interval_ms, times, checks, aggregate: &aggregate });
    }
    if covered.is_whole() && reader.at == blob.len() { Ok(Header { interval_ms, late }) } else { Err(reader.corrupt()) }
}

/// Whether readings have such extremes and end points. Of the sum nothing is asked: that of finite values may overflow.
fn is_sound(aggregate: &Aggregate) -> bool {
    let Aggregate { count, min, max, first, last, .. } = *aggregate;
    let ends = [first.value, last.value];
    // Of the two zeros a row has one only.
    let are_values =
        [min, max].iter().chain(&ends).all(|value| value.is_finite() && (*value + 0.0).to_bits() == value.to_bits());
    let is_between = ends.iter().all(|value| (min..=max).contains(value));
    let are_all_seen = count > 2 || ends.contains(&min) && ends.contains(&max);
    are_values && is_between && are_all_seen
}

/// Which event times some metric has; one that none has would not have been written.
struct Covered {
    left: usize,
    union: Vec<u8>,
}

impl Covered {
    fn new(times_len: usize) -> Self {
        Self { left: times_len, union: Vec::new() }
    }

    fn add(&mut self, bitmap: Option<&[u8]>) {
        let Some(bitmap) = bitmap else {
            self.left = 0;
            return;
        };
        if self.left > 0 {
            self.union.resize(bitmap.len(), 0);
            for (all, &byte) in self.union.iter_mut().zip(bitmap) {
                self.left -= usize::try_from((byte & !*all).count_ones()).unwrap_or(0);
                *all |= byte;
            }
        }
    }

    fn is_whole(&self) -> bool {
        self.left == 0
    }
}

/// What stands before a metric's values.
struct Tag {
    count: usize,
    all: bool,
    low: bool,
}

/// A metric's aggregate, its event times and the checks of its values between the first and the last.
type Read<'a> = (Aggregate, Times<'a>, &'a [u8]);

struct Reader<'a> {
    blob: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn corrupt(&self) -> PackedError {
        PackedError::Corrupt(self.at)
    }

    fn bytes(&mut self, len: usize) -> Result<&'a [u8], PackedError> {
        let end = self.at.checked_add(len).filter(|&end| end <= self.blob.len());
        let end = end.ok_or_else(|| self.corrupt())?;
        let bytes = &self.blob[self.at..end];
        self.at = end;
        Ok(bytes)
    }

    fn varint(&mut self) -> Result<u64, PackedError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.bytes(1)?[0];
            value |= u64::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                // One number has one form: no zeros in front, and no more than 64 bits.
                let is_canonical = (byte != 0 || shift == 0) && (shift < 63 || byte == 1);
                return if is_canonical { Ok(value) } else { Err(self.corrupt()) };
            }
        }
        Err(self.corrupt())
    }

    fn narrow(&mut self) -> Result<u32, PackedError> {
        u32::try_from(self.varint()?).map_err(|_| self.corrupt())
    }

    /// A length whose items take `item_bytes` at least, so that a damaged one cannot ask for more than there is.
    fn length(&mut self, item_bytes: usize) -> Result<usize, PackedError> {
        let length = usize::try_from(self.varint()?).map_err(|_| self.corrupt())?;
        if length <= (self.blob.len() - self.at) / item_bytes { Ok(length) } else { Err(self.corrupt()) }
    }

    fn f64(&mut self) -> Result<f64, PackedError> {
        let bytes = self.bytes(8)?;
        Ok(f64::from_le_bytes(bytes.try_into().expect("invariant: eight bytes were taken")))
    }

    /// Event times of the row, each once, in order and inside the window.
    fn offsets(&mut self) -> Result<&'a [u8], PackedError> {
        let len = self.length(2)?;
        let offsets = self.bytes(len * 2)?;
        let is_inside = u16s(offsets).next_back().is_none_or(|last| i64::from(last) < BASE_WINDOW_MS);
        if is_inside && u16s(offsets).is_sorted_by(|a, b| a < b) { Ok(offsets) } else { Err(self.corrupt()) }
    }

    fn tag(&mut self) -> Result<Tag, PackedError> {
        let tag = self.varint()?;
        let count = usize::try_from(tag >> 2).map_err(|_| self.corrupt())?;
        let (all, low) = (tag & 2 != 0, tag & 1 != 0);
        // One value is its own sum.
        if count > 1 || (count == 1 && !low) { Ok(Tag { count, all, low }) } else { Err(self.corrupt()) }
    }

    /// Event times of a metric; the first and the last of them, as milliseconds from the window's start.
    fn times(&mut self, tag: &Tag, offsets: &'a [u8]) -> Result<(Times<'a>, [u16; 2]), PackedError> {
        let bitmap = if tag.all { None } else { Some(self.bytes((offsets.len() / 2).div_ceil(8))?) };
        let times = Times { offsets, bitmap };
        match (times.iter().next(), times.iter().next_back()) {
            (Some(first), Some(last)) if times.are(tag.count) => Ok((times, [first, last])),
            _ => Err(self.corrupt()),
        }
    }

    fn sum(&mut self, tag: &Tag) -> Result<Sum, PackedError> {
        let high = self.f64()?;
        let low = if tag.low { self.f64()? } else { 0.0 };
        if tag.low && low == 0.0 { Err(self.corrupt()) } else { Ok(Sum::from_parts(high, low)) }
    }

    fn series(&mut self, start: WindowStart, tag: &Tag, offsets: &'a [u8]) -> Result<Read<'a>, PackedError> {
        let (times, ends_at) = self.times(tag, offsets)?;
        let [first_at, last_at] = ends_at.map(|offset| start.plus_millis(i64::from(offset)));
        if tag.count == 1 {
            return Ok((Aggregate::of(Point { time: first_at, value: self.f64()? }), times, &[]));
        }
        let ends = self.bytes(1)?[0];
        let (Some(min_end), Some(max_end)) = (End::from_code(ends & 3), End::from_code(ends >> 2)) else {
            return Err(self.corrupt());
        };
        let sum = self.sum(tag)?;
        let min = if min_end == End::Neither { self.f64()? } else { 0.0 };
        let max = if max_end == End::Neither { self.f64()? } else { 0.0 };
        let (first, last) = (self.f64()?, self.f64()?);
        let resolve = |end, written| match end {
            End::Neither => written,
            End::First => first,
            End::Last => last,
        };
        let (min, max) = (resolve(min_end, min), resolve(max_end, max));
        if End::of(min, first, last) != min_end || End::of(max, first, last) != max_end {
            return Err(self.corrupt());
        }
        let aggregate = Aggregate {
            count: tag.count as u64,
            sum,
            min,
            max,
            first: Point { time: first_at, value: first },
            last: Point { time: last_at, value: last },
        };
        Ok((aggregate, times, self.bytes((tag.count - 2) * 2)?))
    }

    /// A point of version 1, whose event time is written once more.
    fn point_1(&mut self, start: WindowStart) -> Result<(u16, Point), PackedError> {
        let bytes = self.bytes(2)?;
        let offset = u16::from_le_bytes([bytes[0], bytes[1]]);
        Ok((offset, Point { time: start.plus_millis(i64::from(offset)), value: self.f64()? }))
    }

    fn series_1(&mut self, start: WindowStart, tag: &Tag, offsets: &'a [u8]) -> Result<Read<'a>, PackedError> {
        let (aggregate, written_at) = if tag.count == 1 {
            let (at, point) = self.point_1(start)?;
            (Aggregate::of(point), [at, at])
        } else {
            let sum = self.sum(tag)?;
            let (min, max) = (self.f64()?, self.f64()?);
            let ((first_at, first), (last_at, last)) = (self.point_1(start)?, self.point_1(start)?);
            (Aggregate { count: tag.count as u64, sum, min, max, first, last }, [first_at, last_at])
        };
        let (times, ends_at) = self.times(tag, offsets)?;
        let checks = if tag.count > 2 { self.bytes(tag.count * 2)? } else { &[] };
        // Those of the ends say the same as the ends.
        let ends = [aggregate.first, aggregate.last].map(|point| Some(check_of(point.value)));
        let fit = tag.count <= 2 || [u16s(checks).next(), u16s(checks).next_back()] == ends;
        if written_at != ends_at || !fit {
            return Err(self.corrupt());
        }
        Ok((aggregate, times, checks.get(2..checks.len().saturating_sub(2)).unwrap_or_default()))
    }
}
