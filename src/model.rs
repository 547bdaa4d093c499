//! The words of the field as types: times, windows, metrics, frames, readings.
//!
//! Owns the vocabulary that every stage shares and nothing else. Imports nothing of ours, never reads the clock,
//! never touches disk or network.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

/// An instant, in milliseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The instant that lies `millis` milliseconds after the Unix epoch.
    #[must_use]
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// This instant moved by `millis` (negative: back), saturating at the ends of the range.
    #[must_use]
    pub const fn plus_millis(self, millis: i64) -> Self {
        Self(self.0.saturating_add(millis))
    }

    /// Milliseconds from `earlier` to this instant; negative when this one is the earlier.
    #[must_use]
    pub const fn millis_since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Reads epoch milliseconds or RFC 3339 with an offset (`2026-11-24T08:00:00+08:00`).
    ///
    /// # Errors
    /// [`InvalidTimestamp`] where the text is neither.
    pub fn parse(text: &str) -> Result<Self, InvalidTimestamp> {
        if let Ok(millis) = text.parse::<i64>() {
            return Ok(Self(millis));
        }
        text.parse::<jiff::Timestamp>()
            .map(|instant| Self(instant.as_millisecond()))
            .map_err(|_| InvalidTimestamp(text.to_owned()))
    }
}

/// A span in whole milliseconds, saturating.
#[must_use]
pub fn millis(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

/// RFC 3339 in UTC, whole seconds where the milliseconds are zero.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(instant) => write!(f, "{instant}"),
            Err(_) => write!(f, "{}ms", self.0),
        }
    }
}

impl Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A text that is no instant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no time; give epoch milliseconds or RFC 3339 with an offset, such as 2026-11-24T08:00:00+08:00")]
pub struct InvalidTimestamp(pub String);

/// Start of a window, an instant on its grid.
pub type WindowStart = Timestamp;

/// Length of the base window, in milliseconds (one minute).
pub const BASE_WINDOW_MS: i64 = 60_000;

/// A window of event time over which readings are rolled up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Window {
    /// One minute, the base window that is stored.
    Minute1,
    /// Five minutes.
    Minute5,
    /// Fifteen minutes, the usual 3GPP granularity period.
    Minute15,
    /// One hour.
    Hour1,
    /// One civil day in the configured time zone.
    Day1,
}

impl Window {
    /// Every window, shortest first.
    pub const ALL: [Self; 5] = [Self::Minute1, Self::Minute5, Self::Minute15, Self::Hour1, Self::Day1];

    /// The window's label in configuration, API, tags and topics: `1m`, `5m`, `15m`, `1h`, `1d`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Minute1 => "1m",
            Self::Minute5 => "5m",
            Self::Minute15 => "15m",
            Self::Hour1 => "1h",
            Self::Day1 => "1d",
        }
    }

    /// The number that stands for this window on disk. Never renumber.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Minute1 => 0,
            Self::Minute5 => 1,
            Self::Minute15 => 2,
            Self::Hour1 => 3,
            Self::Day1 => 4,
        }
    }

    /// The window whose disk number is `code`.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|window| window.code() == code)
    }

    /// Start (inclusive) and end (exclusive) of the window that holds `at`.
    ///
    /// Windows up to fifteen minutes lie on the UTC grid, which every civil offset in use shares; an hour lies on
    /// the local hour and a day on the local midnight of `zone`, so a day with a clock change is 23 or 25 hours.
    #[must_use]
    pub fn bounds(self, at: Timestamp, zone: &TimeZone) -> (WindowStart, Timestamp) {
        let fixed = |length_ms: i64, shift_ms: i64| {
            let start = (at.0 + shift_ms).div_euclid(length_ms) * length_ms - shift_ms;
            (Timestamp(start), Timestamp(start + length_ms))
        };
        match self {
            Self::Minute1 => fixed(BASE_WINDOW_MS, 0),
            Self::Minute5 => fixed(5 * BASE_WINDOW_MS, 0),
            Self::Minute15 => fixed(15 * BASE_WINDOW_MS, 0),
            Self::Hour1 => fixed(60 * BASE_WINDOW_MS, offset_ms(at, zone)),
            Self::Day1 => day_bounds(at, zone).unwrap_or_else(|_| fixed(24 * 60 * BASE_WINDOW_MS, offset_ms(at, zone))),
        }
    }
}

fn offset_ms(at: Timestamp, zone: &TimeZone) -> i64 {
    jiff::Timestamp::from_millisecond(at.0).map_or(0, |instant| i64::from(zone.to_offset(instant).seconds()) * 1_000)
}

fn day_bounds(at: Timestamp, zone: &TimeZone) -> Result<(Timestamp, Timestamp), jiff::Error> {
    let day = jiff::Timestamp::from_millisecond(at.0)?.to_zoned(zone.clone()).start_of_day()?;
    let next = day.tomorrow()?.start_of_day()?;
    Ok((Timestamp(day.timestamp().as_millisecond()), Timestamp(next.timestamp().as_millisecond())))
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// A text that names no window.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no window; give one of 1m, 5m, 15m, 1h, 1d")]
pub struct UnknownWindow(pub String);

impl FromStr for Window {
    type Err = UnknownWindow;

    fn from_str(text: &str) -> Result<Self, UnknownWindow> {
        Self::ALL.into_iter().find(|window| window.label() == text).ok_or_else(|| UnknownWindow(text.to_owned()))
    }
}

impl Serialize for Window {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.label())
    }
}

impl<'de> Deserialize<'de> for Window {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// How a metric's values behave over time, and so which aggregates of it mean something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MetricKind {
    /// A value that goes up and down (power, temperature).
    Gauge,
    /// A cumulative value that only rises, but for resets and wraps (an energy meter).
    Counter,
    /// A total per period (a 3GPP cumulative-counter measurement, energy of an hour).
    Delta,
    /// An enumerated condition (mains failed, rack in use).
    State,
}

/// A device's number in the store: stable across restarts, dense, starting at 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceId(pub u32);

impl DeviceId {
    /// The number as an index into per-device arrays.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A set of devices, a bit for each number up to the largest in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceSet(Vec<u64>);

impl DeviceSet {
    /// Adds `device`.
    pub fn insert(&mut self, device: DeviceId) {
        let (word, bit) = Self::place(device);
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= bit;
    }

    /// Whether `device` is in it.
    #[must_use]
    pub fn contains(&self, device: DeviceId) -> bool {
        let (word, bit) = Self::place(device);
        self.0.get(word).is_some_and(|bits| bits & bit != 0)
    }

    const fn place(device: DeviceId) -> (usize, u64) {
        (device.index() / 64, 1 << (device.index() % 64))
    }
}

/// A metric name's number in the store: stable across restarts, dense, starting at 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MetricId(pub u32);

/// A record's place in the journal: the count of all records ever appended before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JournalPosition(pub u64);

/// What a source heard, raw: one MQTT message or one Modbus poll.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Name of the source in the configuration.
    pub source: Arc<str>,
    /// How the payload is to be read.
    pub kind: FrameKind,
    /// MQTT topic, or `site/device` of a Modbus poll.
    pub topic: String,
    /// The bytes as they came.
    pub payload: Vec<u8>,
    /// When the frame reached us.
    pub arrival: Timestamp,
}

/// How a frame's payload is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameKind {
    /// An MQTT message in the native JSON form.
    NativeJson,
    /// The register blocks of one Modbus poll.
    ModbusPoll,
    /// The head of a message that was larger than the source's limit; kept so that its rejection is accounted for.
    Oversize,
}

impl FrameKind {
    /// The number that stands for this kind on disk. Never renumber.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::NativeJson => 0,
            Self::ModbusPoll => 1,
            Self::Oversize => 2,
        }
    }

    /// The kind whose disk number is `code`.
    #[must_use]
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::NativeJson),
            1 => Some(Self::ModbusPoll),
            2 => Some(Self::Oversize),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp::parse(text).expect("test time")
    }

    #[test]
    fn a_day_follows_the_configured_zone() {
        let zone = TimeZone::get("Asia/Shanghai").expect("zone");
        let (start, end) = Window::Day1.bounds(at("2026-11-23T20:00:00Z"), &zone);
        assert_eq!(start, at("2026-11-24T00:00:00+08:00"));
        assert_eq!(end, at("2026-11-25T00:00:00+08:00"));
    }

    #[test]
    fn a_day_of_a_clock_change_has_its_real_length() {
        let zone = TimeZone::get("Europe/Berlin").expect("zone");
        let (start, end) = Window::Day1.bounds(at("2026-10-25T12:00:00+01:00"), &zone);
        assert_eq!(end.millis_since(start), 25 * 3_600_000);
    }

    #[test]
    fn windows_before_1970_lie_on_the_same_grid() {
        let (start, end) = Window::Minute1.bounds(Timestamp::from_millis(-1), &TimeZone::UTC);
        assert_eq!((start.as_millis(), end.as_millis()), (-60_000, 0));
    }

    #[test]
    fn a_time_without_an_offset_is_refused() {
        assert!(Timestamp::parse("2026-11-24T08:00:00").is_err());
        assert_eq!(Timestamp::parse("1764000000123").map(Timestamp::as_millis), Ok(1_764_000_000_123));
    }

    #[test]
    fn codes_and_labels_name_each_window_once() {
        for window in Window::ALL {
            assert_eq!(Window::from_code(window.code()), Some(window));
            assert_eq!(window.label().parse(), Ok(window));
        }
    }

    #[test]
    fn a_set_of_devices_holds_what_was_added_and_nothing_beside_it() {
        let mut set = DeviceSet::default();
        for device in [0, 63, 64, 130] {
            set.insert(DeviceId(device));
        }
        let held: Vec<u32> = (0..300).filter(|device| set.contains(DeviceId(*device))).collect();
        assert_eq!(held, [0, 63, 64, 130]);
    }
}
