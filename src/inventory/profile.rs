//! A device profile: what a family of devices measures and how it says so.

use jiff::tz::TimeZone;
use serde::Deserialize;

use crate::model::MetricKind;

/// What a family of identical devices measures.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    /// Identifier, as the device inventory names it.
    pub id: String,
    /// One line for people.
    pub description: String,
    /// Milliseconds between readings where the device inventory does not say otherwise.
    pub interval_ms: Option<u32>,
    /// What happens to a metric that the profile does not list.
    pub unknown_metrics: UnknownMetrics,
    /// What the times mean that its devices send.
    pub time: TimePolicy,
    /// The metrics; a metric's slot is its index here.
    pub metrics: Vec<MetricDef>,
}

impl Profile {
    /// The profile of a device that nobody listed: every metric is taken in as a gauge without a unit.
    #[must_use]
    pub fn open() -> Self {
        Self {
            id: "unregistered".to_owned(),
            description: "A device that publishes without being listed".to_owned(),
            interval_ms: None,
            unknown_metrics: UnknownMetrics::Accept,
            time: TimePolicy::default(),
            metrics: Vec::new(),
        }
    }

    /// Slot of the metric called `name`.
    #[must_use]
    pub fn slot(&self, name: &str) -> Option<usize> {
        self.metrics.iter().position(|metric| metric.name == name)
    }
}

/// What happens to a metric that the profile does not list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnknownMetrics {
    /// The reading is counted as invalid, with its reason.
    #[default]
    Refuse,
    /// The metric is taken in as a gauge without a unit.
    Accept,
}

/// What the times mean that a family of devices sends, and how far they are believed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TimePolicy {
    /// How far they are believed.
    pub rule: TimeRule,
    /// Unit of times that are numbers.
    pub unit: TimeUnit,
    /// Zone of times that are texts without an offset; without it such texts are not understood.
    pub zone: Option<TimeZone>,
}

/// How far the times are believed that a device sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TimeRule {
    /// As they are; what lies too far ahead is invalid.
    #[default]
    Trust,
    /// As they are; what lies too far ahead is set to its arrival.
    Clamp,
    /// Not at all: readings have the time of their arrival.
    Arrival,
}

/// Unit of a time that is a number, since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TimeUnit {
    /// Seconds.
    Seconds,
    /// Milliseconds.
    #[default]
    Millis,
    /// Microseconds.
    Micros,
    /// Nanoseconds.
    Nanos,
    /// Told by the number's size.
    Auto,
}

/// One metric of a profile.
#[derive(Clone, Debug, PartialEq)]
pub struct MetricDef {
    /// Name, lower case with underscores, the unit's short form last (`pwr_w`, `temp_c`, `energy_kwh`).
    pub name: String,
    /// Unit symbol (`W`, `kWh`, `C`, `%`, `1`); empty where unknown.
    pub unit: String,
    /// How its values behave.
    pub kind: MetricKind,
    /// Smallest and largest value that is valid, both inclusive; infinite where the profile names none.
    pub valid: (f64, f64),
    /// Value at which a counter wraps to zero (4294967296 for 32 bits), in the metric's unit.
    pub wrap: Option<f64>,
    /// Range that indicators count base windows in (18-27 C for server intakes).
    pub band: Option<Band>,
    /// Where a Modbus device holds it.
    pub register: Option<Register>,
}

impl MetricDef {
    /// A gauge without a unit, as metrics that no profile lists are taken in.
    #[must_use]
    pub fn gauge(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            unit: String::new(),
            kind: MetricKind::Gauge,
            valid: (f64::NEG_INFINITY, f64::INFINITY),
            wrap: None,
            band: None,
            register: None,
        }
    }
}

/// A range of values, both ends inclusive, in the metric's unit.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Band {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// Where and how a Modbus device holds a value. Addresses are wire addresses: the first register is 0.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Register {
    /// Which of the four tables.
    pub table: RegisterTable,
    /// Wire address of the first register or bit, 0-65535.
    pub address: u16,
    /// Type of the raw value.
    #[serde(rename = "type")]
    pub data_type: DataType,
    /// Order of the bytes; of a single register, the order of its two.
    #[serde(default)]
    pub order: ByteOrder,
    /// Bit of a 16-bit register, 0 the least significant; with type `u16` only.
    pub bit: Option<u8>,
    /// Factor from raw value to unit, applied first.
    #[serde(default = "one")]
    pub scale: f64,
    /// Added after scaling, in the metric's unit.
    #[serde(default)]
    pub offset: f64,
    /// Raw values (as unsigned integers of the type's width) that mean "no value".
    #[serde(default)]
    pub absent: Vec<u64>,
}

const fn one() -> f64 {
    1.0
}

/// The four Modbus tables (Modbus Application Protocol 1.1b3, 4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RegisterTable {
    /// Read/write bits, function 1.
    Coil,
    /// Read-only bits, function 2.
    DiscreteInput,
    /// Read/write registers, function 3.
    Holding,
    /// Read-only registers, function 4.
    Input,
}

/// Type of a raw value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DataType {
    /// One bit of a coil or discrete input.
    Bool,
    /// 16-bit unsigned.
    U16,
    /// 16-bit two's complement.
    I16,
    /// 32-bit unsigned.
    U32,
    /// 32-bit two's complement.
    I32,
    /// 64-bit unsigned.
    U64,
    /// 64-bit two's complement.
    I64,
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary64.
    F64,
}

/// Order of a value's bytes, written for four bytes ABCD (A the most significant). Longer values go by the same rule, and
/// of a single register `BADC` and `DCBA` mean that its low byte comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum ByteOrder {
    /// High word first, high byte first: plain big-endian.
    #[default]
    #[serde(rename = "ABCD")]
    Abcd,
    /// Low word first, high byte first within the word.
    #[serde(rename = "CDAB")]
    Cdab,
    /// High word first, low byte first within the word.
    #[serde(rename = "BADC")]
    Badc,
    /// Low word first, low byte first: plain little-endian.
    #[serde(rename = "DCBA")]
    Dcba,
}
