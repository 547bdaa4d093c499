//! Messages: topic and payload through decode and roll-up, with the ledger that must balance.

use std::sync::{Arc, RwLock};
use std::time::Duration;

use serde_json::Value;

use crate::decode::native;
use crate::decode::topic::Topic;
use crate::inventory::{Connection, Device, Site};
use crate::inventory::{Inventory, MetricDef, Profile, SharedInventory, TimePolicy, UnknownMetrics, check_unlisted};
use crate::journal::Entry;
use crate::ledger::Ledger;
use crate::model::{DeviceId, Frame, FrameKind, JournalPosition, Timestamp};
use crate::pipeline::{Options, Roller, Unregistered};
use crate::store::{StorePath, Writer, WriterOptions};

/// Ends one message of an input; no payload that is JSON holds it.
const END: u8 = 0x1E;
/// 2025-11-24T16:00:00Z.
const ARRIVAL: Timestamp = Timestamp::from_millis(1_764_000_000_000);
const DEVICES_MAX: usize = 3;
const METRICS_MAX: usize = 4;

thread_local! {
    /// A store without rows, made once.
    static STORE: (tempfile::TempDir, Writer) = {
        let folder = tempfile::tempdir().expect("a folder");
        let options = WriterOptions {
            grace_ms: 10_000,
            retention_ms: 86_400_000,
            feed_windows: [].into(),
            indicator_windows: [].into(),
            rollup_sinks: Vec::new(),
            devices: 100,
            zone: jiff::tz::TimeZone::UTC,
        };
        let writer = Writer::open(&StorePath::in_folder(folder.path()), options).expect("a store");
        (folder, writer)
    };
}

/// Messages, each a topic, a line feed and a payload.
pub fn native(data: &[u8]) {
    let frames: Vec<Frame> = data.split(|&byte| byte == END).map(frame).collect();
    for frame in &frames {
        check_topic(&frame.topic);
        check_payload(&frame.payload);
    }
    let inventory: SharedInventory = Arc::new(RwLock::new(Arc::new(listed())));
    STORE.with(|(_, writer)| roll_up(frames, &inventory, writer));
}

fn frame(message: &[u8]) -> Frame {
    let mut parts = message.splitn(2, |&byte| byte == b'\n');
    let topic = parts.next().unwrap_or_default();
    let payload = parts.next().unwrap_or_default();
    Frame {
        source: Arc::from("east"),
        kind: FrameKind::NativeJson,
        topic: String::from_utf8_lossy(topic).into_owned(),
        payload: payload.into(),
        arrival: ARRIVAL,
    }
}

fn check_topic(topic: &str) {
    if let Some(Topic { kind, area, site, device }) = Topic::parse(topic) {
        assert_eq!(topic, format!("telemetry/{kind}/{area}/{site}/{device}"), "a topic has other levels than it says");
    }
}

/// What is taken says what the JSON says, as another reader of JSON has it.
fn check_payload(payload: &[u8]) {
    let Ok(message) = native::decode(payload) else { return };
    // It has no opinion on what nests deep or is a number beyond binary64 where we read past it.
    let Ok(whole) = serde_json::from_slice::<Value>(payload) else { return };
    let readings = whole["readings"].as_object().expect("what was taken has readings");
    for (name, expected) in readings {
        let number = |value: &Value| value.as_f64().or(value.as_bool().map(|flag| f64::from(u8::from(flag))));
        let last = message.readings.iter().rev().find(|(read, _)| read == name);
        let (_, value) = last.expect("every reading is found");
        assert_eq!(value.map(f64::to_bits), number(expected).map(f64::to_bits), "{name}");
    }
    assert!(message.readings.iter().all(|(name, _)| readings.contains_key(name.as_ref())), "a reading was made up");
}

fn roll_up(frames: Vec<Frame>, inventory: &SharedInventory, writer: &Writer) {
    let options = Options {
        flush_interval: Duration::from_secs(2),
        future_limit: Duration::from_mins(5),
        grace: Duration::from_secs(10),
        retention: Duration::from_hours(24),
        open_windows_bytes_max: 1 << 20,
        unregistered: Unregistered::Accept { devices_max: DEVICES_MAX, metrics_max: METRICS_MAX },
    };
    let mut roller = Roller::new(options, inventory.clone(), Ledger::default(), JournalPosition(0), writer)
        .expect("an empty store can be read");
    let entries: Vec<Entry> = frames.into_iter().map(Entry::Frame).collect();
    let mut applied = 0;
    for pass in 1..=2 {
        for entry in &entries {
            roller.apply(entry, None, writer).expect("an empty store can be read");
        }
        let received = pass * entries.len() as u64;
        assert_eq!(roller.position(), JournalPosition(received));
        let ledger = Ledger { received, ..roller.ledger().clone() };
        assert!(ledger.balanced(), "{ledger:?}");
        assert!(pass == 1 || ledger.total().applied == applied, "what came twice counted twice: {ledger:?}");
        applied = ledger.total().applied;
    }
    let inventory = inventory.read().expect("nobody panicked").clone();
    assert!(inventory.unregistered_count() <= DEVICES_MAX);
    assert!(inventory.metrics.all().len() <= 2 + (1 + DEVICES_MAX) * METRICS_MAX);
    for device in inventory.devices().iter().filter(|device| !device.registered) {
        assert_eq!(check_unlisted(&device.name), Ok(()));
    }
    let names = inventory.metrics.all().iter().chain(inventory.sites().iter().map(|site| &site.id));
    names.for_each(|name| assert_eq!(check_unlisted(name), Ok(()), "{name:?}"));
}

/// One listed device that takes in what its profile does not list.
fn listed() -> Inventory {
    let mut inventory = Inventory::default();
    let site = inventory.add_site(Site {
        id: Arc::from("B_1"),
        name: "B 1".to_owned(),
        kind: Arc::from("base_station"),
        area: Arc::from("350102"),
        operator: Arc::from("mobile"),
        position: None,
        attributes: std::collections::BTreeMap::new(),
        in_service_from: None,
        in_service_to: None,
    });
    let metrics = vec![MetricDef { valid: (0.0, 10_000.0), ..MetricDef::gauge("pwr_w") }, MetricDef::gauge("temp_c")];
    for metric in &metrics {
        inventory.metrics.intern(&metric.name);
    }
    let profile = Profile {
        id: "meter".to_owned(),
        description: String::new(),
        interval_ms: Some(10_000),
        unknown_metrics: UnknownMetrics::Accept,
        time: TimePolicy::default(),
        metrics,
    };
    inventory.add_device(Device {
        id: DeviceId(0),
        site,
        name: Arc::from("meter"),
        profile: Arc::new(profile),
        connection: Connection::Mqtt,
        interval_ms: Some(10_000),
        registered: true,
    });
    inventory
}
