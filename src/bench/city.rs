//! A city of base stations in memory: its inventory, and what its devices publish. The same seed gives the same bytes.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use crate::inventory::{Area, Connection, Device, Inventory, MetricDef, Profile, Site, TimePolicy, UnknownMetrics};
use crate::model::{DeviceId, Frame, FrameKind, MetricKind, Timestamp};

/// When the city begins: 2025-11-24T16:00:00Z, epoch ms.
pub const START_MS: i64 = 1_764_000_000_000;

/// What every device measures, in the order in which it is sent: name, kind, smallest value, span of tenths.
pub const METRICS: [(&str, MetricKind, u32, u32); 13] = [
    ("pwr_w", MetricKind::Gauge, 700, 3_000),
    ("energy_kwh", MetricKind::Counter, 10_000, 1),
    ("volt_v", MetricKind::Gauge, 52, 30),
    ("curr_a", MetricKind::Gauge, 10, 90),
    ("temp_c", MetricKind::Gauge, 10, 300),
    ("hum_pct", MetricKind::Gauge, 40, 400),
    ("batt_v", MetricKind::Gauge, 50, 40),
    ("batt_pct", MetricKind::Gauge, 80, 200),
    ("load_pct", MetricKind::Gauge, 10, 800),
    ("users", MetricKind::Gauge, 20, 2_000),
    ("prb_pct", MetricKind::Gauge, 10, 800),
    ("fan_rpm", MetricKind::Gauge, 1_000, 9_000),
    ("mains", MetricKind::State, 1, 0),
];

const AREAS: [&str; 4] = ["350102", "350103", "350104", "350105"];
const OPERATORS: [&str; 3] = ["mobile", "unicom", "telecom"];
/// Milliseconds between the readings of a device.
const INTERVAL_MS: u32 = 10_000;

/// The city.
pub struct City {
    inventory: Inventory,
    topics: Vec<String>,
    order: Vec<usize>,
    rng: fastrand::Rng,
}

impl City {
    /// A city of `sites` base stations with a device each.
    #[must_use]
    pub fn new(sites: usize) -> Self {
        let mut inventory = Inventory::default();
        for code in AREAS {
            let name = code.to_owned();
            inventory.add_area(Area {
                code: code.into(),
                name: name.clone(),
                name_zh: name,
                parent: None,
                population: None,
            });
        }
        let profile = Arc::new(profile());
        for metric in &profile.metrics {
            inventory.metrics.intern(&metric.name);
        }
        let topics = (0..sites).map(|number| add_site(&mut inventory, number, &profile)).collect();
        Self { inventory, topics, order: (0..sites).collect(), rng: fastrand::Rng::with_seed(4) }
    }

    /// What is known of the city.
    #[must_use]
    pub fn inventory(&self) -> &Inventory {
        &self.inventory
    }

    /// Number of sites.
    #[must_use]
    pub fn sites(&self) -> usize {
        self.topics.len()
    }

    /// Calls `each` with topic and payload of a message of every site, in random order, all of the same second.
    pub fn measure(&mut self, at_ms: i64, mut each: impl FnMut(&str, &str)) {
        self.rng.shuffle(&mut self.order);
        let mut payload = String::new();
        for &site in &self.order {
            payload.clear();
            let time_ms = at_ms + self.rng.i64(0..1_000);
            let _ = write!(payload, "{{\"ts\":{time_ms},\"readings\":{{");
            for (place, (name, kind, low, span)) in METRICS.iter().enumerate() {
                let comma = if place == 0 { "" } else { "," };
                let whole = u64::from(*low);
                let _ = match kind {
                    MetricKind::Counter => {
                        write!(payload, "{comma}\"{name}\":{}.{:02}", whole + site as u64, (at_ms / 1_000) % 100)
                    }
                    MetricKind::State => write!(payload, "{comma}\"{name}\":{low}"),
                    _ => {
                        let tenths = whole * 10 + u64::from(self.rng.u32(0..=*span));
                        write!(payload, "{comma}\"{name}\":{}.{}", tenths / 10, tenths % 10)
                    }
                };
            }
            payload.push_str("}}");
            each(&self.topics[site], &payload);
        }
    }

    /// A message of every site as PUBLISH packets at `QoS` 1, and where each ends.
    pub fn packets(&mut self, at_ms: i64) -> (Vec<u8>, Vec<usize>) {
        let (mut bytes, mut ends, mut packet_id) = (Vec::new(), Vec::new(), 0u16);
        self.measure(at_ms, |topic, payload| {
            packet_id = packet_id.checked_add(1).unwrap_or(1);
            push_publish(&mut bytes, topic, packet_id, payload);
            ends.push(bytes.len());
        });
        (bytes, ends)
    }

    /// A message of every site as frames.
    pub fn frames(&mut self, at_ms: i64) -> Vec<Frame> {
        let source: Arc<str> = "bench".into();
        let mut frames = Vec::new();
        self.measure(at_ms, |topic, payload| {
            frames.push(Frame {
                source: source.clone(),
                kind: FrameKind::NativeJson,
                topic: topic.into(),
                payload: payload.as_bytes().into(),
                arrival: Timestamp::from_millis(at_ms + 1_000),
            });
        });
        frames
    }
}

fn push_publish(bytes: &mut Vec<u8>, topic: &str, packet_id: u16, payload: &str) {
    let narrow = |length: usize| u16::try_from(length).expect("short");
    let remaining = narrow(2 + topic.len() + 2 + payload.len());
    let [low, high] = [remaining % 128, remaining / 128].map(|part| part.to_le_bytes()[0]);
    bytes.extend_from_slice(&[0x32, low | 0x80, high]);
    bytes.extend_from_slice(&narrow(topic.len()).to_be_bytes());
    bytes.extend_from_slice(topic.as_bytes());
    bytes.extend_from_slice(&packet_id.to_be_bytes());
    bytes.extend_from_slice(payload.as_bytes());
}

fn profile() -> Profile {
    let metrics =
        METRICS.iter().map(|&(name, kind, ..)| MetricDef { kind, valid: (-1e6, 1e6), ..MetricDef::gauge(name) });
    Profile {
        id: "bench".to_owned(),
        description: "A base station".to_owned(),
        interval_ms: Some(INTERVAL_MS),
        unknown_metrics: UnknownMetrics::Refuse,
        time: TimePolicy::default(),
        metrics: metrics.collect(),
    }
}

/// Adds a site with its device and returns the device's topic.
fn add_site(inventory: &mut Inventory, number: usize, profile: &Arc<Profile>) -> String {
    let (id, area) = (format!("BS-{number:05}"), AREAS[number % AREAS.len()]);
    let site = inventory.add_site(Site {
        id: id.as_str().into(),
        name: id.clone(),
        kind: "base_station".into(),
        area: area.into(),
        operator: OPERATORS[number % OPERATORS.len()].into(),
        position: None,
        attributes: BTreeMap::new(),
        in_service_from: None,
        in_service_to: None,
    });
    inventory.add_device(Device {
        id: DeviceId(0),
        site,
        name: "meter".into(),
        profile: profile.clone(),
        connection: Connection::Mqtt,
        interval_ms: profile.interval_ms,
        registered: true,
    });
    format!("telemetry/base_station/{area}/{id}/meter")
}
