//! Lines of rows that hold anything.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::field::Fields;
use super::line::{MetricRow, rollup};
use crate::inventory::{Connection, Device, Profile, Site};
use crate::model::{DeviceId, Timestamp, Window};
use crate::rollup::{Aggregate, Combined, Point};

/// Start of the window of every line.
pub(crate) const START: Timestamp = Timestamp::from_millis(1_764_000_000_000);

/// What a line is to say.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row<'a> {
    pub(crate) kind: &'a str,
    pub(crate) area: &'a str,
    pub(crate) device: &'a str,
    pub(crate) operator: &'a str,
    pub(crate) site: &'a str,
    /// Gauges of one reading each.
    pub(crate) metrics: &'a [(String, f64)],
}

/// The line of `row`.
pub(crate) fn line(row: &Row<'_>) -> Option<String> {
    let site = Site {
        id: Arc::from(row.site),
        name: String::new(),
        kind: Arc::from(row.kind),
        area: Arc::from(row.area),
        operator: Arc::from(row.operator),
        position: None,
        attributes: BTreeMap::new(),
        in_service_from: None,
        in_service_to: None,
    };
    let device = Device {
        id: DeviceId(0),
        site: 0,
        name: Arc::from(row.device),
        profile: Arc::new(Profile::open()),
        connection: Connection::Mqtt,
        interval_ms: None,
        registered: false,
    };
    let combined: Vec<Combined> = row.metrics.iter().map(|(_, value)| combined(*value)).collect();
    let metrics =
        row.metrics.iter().zip(&combined).map(|((name, _), combined)| MetricRow::new(&device, name, combined));
    let mut text = String::new();
    rollup(&mut text, (&site, &device), (Window::Minute1, START), metrics, Fields::ALL).map(|()| text)
}

fn combined(value: f64) -> Combined {
    Combined {
        aggregate: Aggregate::of(Point { time: START, value }),
        increase: None,
        heard: 1,
        expected: None,
        late: 0,
        amendments: 0,
        minutes: 1,
        minutes_in_band: 0,
    }
}
