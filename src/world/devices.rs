//! Devices that come late, resend, jump their clocks, reset and wrap their counters, and send garbage.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;

use super::faults::{Fault, Faults};
use crate::inventory::{Area, Connection, Device, Inventory, MetricDef, Profile, Site, UnknownMetrics};
use crate::model::{DeviceId, MetricKind};

/// The metrics of every device, in the order in which they are sent.
pub(super) const METRICS: [&str; 3] = ["pwr_w", "energy_kwh", "moves"];
/// Value at which `energy_kwh` starts again at zero; `moves` has none.
pub(super) const WRAP: f64 = 65_536.0;
/// Area and operator of the sites, by device.
pub(super) const PLACES: [(&str, &str); 5] =
    [("350102", "mobile"), ("350102", "unicom"), ("350105", "mobile"), ("350105", "telecom"), ("350128", "mobile")];
/// Payload bytes that the source takes in.
pub(super) const PACKET_BYTES_MAX: usize = 1_024;

const DAY_MS: i64 = 86_400_000;

/// What a device publishes.
#[derive(Clone, Debug)]
pub(super) struct Message {
    pub(super) topic: Rc<str>,
    pub(super) payload: Bytes,
    /// Whether it was sent to the collector before; one for all copies of a message.
    pub(super) was_sent: Rc<Cell<bool>>,
}

impl Message {
    fn new(topic: &str, payload: impl Into<Bytes>) -> Self {
        Self { topic: topic.into(), payload: payload.into(), was_sent: Rc::default() }
    }
}

/// What a device measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Reading {
    pub(super) device: usize,
    /// Event time, epoch ms.
    pub(super) time_ms: i64,
    /// One value for each of [`METRICS`].
    pub(super) values: [f64; 3],
}

/// Name of a device's site.
pub(super) fn site(device: usize) -> String {
    format!("BS-{device}")
}

/// One device.
#[derive(Debug)]
pub(super) struct SimulatedDevice {
    index: usize,
    topic: String,
    /// Event time of its latest reading, epoch ms.
    last_ms: i64,
    energy: f64,
    moves: f64,
    /// Event time of the latest fall of a counter, epoch ms: within a minute there is one at the most.
    fell_ms: i64,
    /// Whether what it measures reaches the broker.
    pub(super) online: bool,
    /// What it has measured while it was not.
    pub(super) backlog: Vec<Message>,
    /// Some of what it has sent.
    sent: Vec<Message>,
}

impl SimulatedDevice {
    pub(super) fn new(index: usize, start_ms: i64, rng: &mut fastrand::Rng) -> Self {
        let (area, _) = PLACES[index];
        Self {
            index,
            topic: format!("telemetry/base_station/{area}/{}/meter", site(index)),
            last_ms: start_ms,
            energy: f64::from(rng.u32(..) % 65_000),
            moves: f64::from(rng.u32(..3_000)),
            fell_ms: start_ms,
            online: true,
            backlog: Vec::new(),
            sent: Vec::new(),
        }
    }

    /// Measures, at a time that it has not used, at `now_ms` at the latest; nothing where there is no such time.
    pub(super) fn measure(
        &mut self,
        now_ms: i64,
        rng: &mut fastrand::Rng,
        faults: &mut Faults,
    ) -> Option<(Reading, Message)> {
        if now_ms - self.last_ms > 120_000 {
            self.last_ms = now_ms - rng.i64(0..120_000);
        }
        let span = (now_ms - self.last_ms).min(20_000);
        if span <= 0 {
            return None;
        }
        self.last_ms += rng.i64(1..=span);
        self.energy += f64::from(rng.u32(..4_000)) / 8.0;
        self.moves += f64::from(rng.u32(..50));
        let may_reset = self.last_ms - self.fell_ms > 60_000;
        if self.energy >= WRAP {
            self.energy -= WRAP;
            self.fell_ms = self.last_ms;
            faults.count(Fault::CounterWraps);
        } else if may_reset && (20_000.0..30_000.0).contains(&self.energy) && rng.u8(..20) == 0 {
            self.energy = 0.0;
            self.fell_ms = self.last_ms;
            faults.count(Fault::CounterResets);
        }
        if self.moves > 2_000.0 && rng.u8(..30) == 0 {
            self.moves = 0.0;
            faults.count(Fault::CounterResets);
        }
        let values = [f64::from(rng.u32(..40_000)) / 8.0, self.energy, self.moves];
        let reading = Reading { device: self.index, time_ms: self.last_ms, values };
        let message = Message::new(&self.topic, self.payload(self.last_ms, values));
        if self.sent.len() < 16 {
            self.sent.push(message.clone());
        } else {
            let index = rng.usize(..16);
            self.sent[index] = message.clone();
        }
        Some((reading, message))
    }

    fn payload(&self, time_ms: i64, values: [f64; 3]) -> String {
        let [power, energy, moves] = values;
        // Half of them name their metrics in another order than the profile's.
        if self.index.is_multiple_of(2) {
            format!(r#"{{"ts":{time_ms},"readings":{{"pwr_w":{power},"energy_kwh":{energy},"moves":{moves}}}}}"#)
        } else {
            format!(r#"{{"readings":{{"moves":{moves},"pwr_w":{power},"energy_kwh":{energy}}},"ts":{time_ms}}}"#)
        }
    }

    /// Something that it has sent before.
    pub(super) fn resend(&self, rng: &mut fastrand::Rng) -> Option<Message> {
        if self.sent.is_empty() { None } else { Some(self.sent[rng.usize(..self.sent.len())].clone()) }
    }

    /// A message under a clock that is far ahead or far behind, so that it belongs into no row.
    pub(super) fn misdate(&self, now_ms: i64, rng: &mut fastrand::Rng) -> Message {
        let time_ms = match rng.u8(..3) {
            0 => now_ms + rng.i64(400 * DAY_MS..800 * DAY_MS),
            1 => now_ms - rng.i64(400 * DAY_MS..800 * DAY_MS),
            _ => rng.i64(0..DAY_MS),
        };
        Message::new(&self.topic, self.payload(time_ms, [1.0, 2.0, 3.0]))
    }

    /// A message that says nothing.
    pub(super) fn garble(&self, rng: &mut fastrand::Rng) -> Message {
        match rng.u8(..5) {
            0 => Message::new(&self.topic, "{"),
            1 => Message::new(&self.topic, vec![0xff; rng.usize(..40)]),
            2 => Message::new(&self.topic, "x".repeat(PACKET_BYTES_MAX + rng.usize(1..3_000))),
            3 => Message::new("elsewhere", self.payload(self.last_ms, [1.0, 2.0, 3.0])),
            _ => Message::new(&self.topic, r#"{"ts":1,"values":{}}"#),
        }
    }
}

/// The inventory that lists the devices.
pub(super) fn inventory() -> Inventory {
    let mut inventory = Inventory::default();
    let city: Arc<str> = Arc::from("350100");
    for code in ["350100", "350102", "350105", "350128"] {
        let parent = (code != &*city).then(|| city.clone());
        let (name, name_zh) = (code.to_owned(), code.to_owned());
        inventory.add_area(Area { code: Arc::from(code), name, name_zh, parent, population: None });
    }
    let counter = |name| MetricDef { kind: MetricKind::Counter, ..MetricDef::gauge(name) };
    let power = MetricDef { unit: "W".to_owned(), ..MetricDef::gauge("pwr_w") };
    let energy = MetricDef { unit: "kWh".to_owned(), wrap: Some(WRAP), ..counter("energy_kwh") };
    let profile = Arc::new(Profile {
        id: "bs-meter".to_owned(),
        interval_ms: Some(10_000),
        unknown_metrics: UnknownMetrics::Refuse,
        metrics: vec![power, energy, counter("moves")],
        ..Profile::open()
    });
    for (index, (area, operator)) in PLACES.into_iter().enumerate() {
        let site = inventory.add_site(Site {
            id: site(index).into(),
            name: site(index),
            kind: Arc::from("base_station"),
            area: Arc::from(area),
            operator: Arc::from(operator),
            position: None,
            attributes: BTreeMap::new(),
            in_service_from: None,
            in_service_to: None,
        });
        inventory.add_device(Device {
            id: DeviceId(0),
            site,
            name: Arc::from("meter"),
            profile: profile.clone(),
            connection: Connection::Mqtt,
            interval_ms: Some(10_000),
            registered: true,
        });
    }
    inventory
}
