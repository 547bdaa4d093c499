//! A small city whose rows sinks send, and waiting without guessing how long.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use jiff::tz::TimeZone;
use tempfile::TempDir;

use super::Context;
use crate::clock::Clock;
use crate::indicator::{Description, Level, Target, TargetSense};
use crate::inventory::{Area, Connection, Device, Inventory, MetricDef, Profile, Site, UnknownMetrics};
use crate::ledger::Ledger;
use crate::model::{DeviceId, JournalPosition, MetricId, MetricKind, Timestamp, Window, WindowStart};
use crate::rollup::DeviceWindow;
use crate::store::{
    Feed, Flush, FlushedRow, IndicatorRow, Reader, SideWriter, StaleWindow, StorePath, StoredDevice, Writer,
    WriterOptions,
};

pub(super) const MINUTE: i64 = 60_000;
/// Name of the sink that tests run.
pub(super) const SINK: &str = "sink";
const METRICS: [MetricId; 2] = [MetricId(0), MetricId(1)];

/// `millis` after 2026-11-24T00:00:00Z.
pub(super) fn at(millis: i64) -> Timestamp {
    Timestamp::parse("2026-11-24T00:00:00Z").expect("test time").plus_millis(millis)
}

/// Waits until `holds` says so, for as long as a slow machine may need.
pub(super) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Sites `s0`, `s1` ... with one meter each, and their rows on a real file.
pub(super) struct City {
    _folder: TempDir,
    pub(super) store: StorePath,
    writer: Writer,
    inventory: Inventory,
    changed: BTreeMap<(WindowStart, DeviceId), DeviceWindow>,
    flushes: u64,
}

impl City {
    pub(super) fn new(sites: u32) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let store = StorePath::in_folder(folder.path());
        let options = WriterOptions {
            grace_ms: 0,
            retention_ms: 30 * 24 * 60 * MINUTE,
            feed_windows: BTreeSet::from([Window::Minute1, Window::Minute5]),
            indicator_windows: BTreeSet::new(),
            rollup_sinks: vec![SINK.to_owned()],
            devices: 100,
            zone: TimeZone::UTC,
        };
        let mut city = Self {
            _folder: folder,
            writer: Writer::open(&store, options).expect("a store"),
            store,
            inventory: inventory(sites),
            changed: BTreeMap::new(),
            flushes: 0,
        };
        // What is final before the first reading is fed to nobody.
        city.flush(at(0));
        city
    }

    pub(super) fn context(&self) -> Context {
        Context {
            store: self.store.clone(),
            inventory: Arc::new(RwLock::new(Arc::new(self.inventory.clone()))),
            descriptions: Arc::from([pue()]),
            zone: TimeZone::UTC,
            clock: Clock::system(),
            flushes: tokio::sync::watch::channel(()).1,
        }
    }

    /// Hears power and energy of a site's meter.
    pub(super) fn hear(&mut self, site: u32, time: Timestamp, value: f64) {
        let start = Window::Minute1.bounds(time, &TimeZone::UTC).0;
        let writer = &self.writer;
        let window = self.changed.entry((start, DeviceId(site))).or_insert_with(|| {
            let metrics = Arc::new(METRICS.to_vec());
            match writer.load(start, DeviceId(site)).expect("a store") {
                Some(blob) => DeviceWindow::unpack(start, metrics, &blob).expect("a row"),
                None => DeviceWindow::new(start, Some(30_000), metrics),
            }
        });
        for (slot, metric) in METRICS.into_iter().enumerate() {
            window.apply(slot, metric, time, value);
        }
    }

    /// Writes what was heard; windows that end before `now` are final.
    pub(super) fn flush(&mut self, now: Timestamp) {
        let mut rows =
            self.changed.iter().map(|(&(_, device), window)| FlushedRow { device, window, has_counters: true });
        let devices: Vec<_> =
            self.inventory.devices().iter().map(|device| StoredDevice::of(&self.inventory, device)).collect();
        let mut flush = Flush {
            now,
            rows: &mut rows,
            devices: if self.flushes == 0 { &devices } else { &[] },
            metrics: &[],
            ledger: &Ledger::default(),
            position: JournalPosition(self.flushes),
            dead_letters: &[],
        };
        self.writer.flush(&mut flush).expect("a flush");
        self.changed.clear();
        self.flushes += 1;
    }

    /// Stores indicators as the worker does.
    pub(super) fn store_indicators(&self, rows: &[IndicatorRow]) {
        let computed = StaleWindow { window: Window::Minute15, start: at(0), generation: 1 };
        SideWriter::open(&self.store).expect("a store").write_indicators(rows, &computed).expect("indicators");
    }

    pub(super) fn position(&self, feed: Feed) -> u64 {
        SideWriter::open(&self.store).expect("a store").position(SINK, feed).expect("a position")
    }

    pub(super) fn reader(&self) -> Reader {
        Reader::open(&self.store).expect("a store")
    }
}

/// An indicator of the city.
pub(super) fn indicator(start: Timestamp, value: Option<f64>) -> IndicatorRow {
    let (id, area, none): (Arc<str>, Arc<str>, Arc<str>) = (Arc::from("DC1"), Arc::from("350100"), Arc::from(""));
    IndicatorRow {
        seq: 0,
        id,
        level: Level::City,
        area,
        operator: none.clone(),
        site: none,
        window: Window::Minute15,
        start,
        value,
        numerator: value.map(|value| value * 100.0),
        denominator: Some(100.0),
        completeness: Some(0.75),
        revision: 1,
    }
}

pub(super) fn pue() -> Description {
    Description {
        id: "DC1".to_owned(),
        name: "Power usage effectiveness".to_owned(),
        name_zh: "电能利用效率".to_owned(),
        unit: "1".to_owned(),
        source: "GB/T 32910.3".to_owned(),
        levels: BTreeSet::from(Level::ALL),
        windows: BTreeSet::from([Window::Minute15]),
        target: Some(Target {
            sense: TargetSense::AtMost,
            value: 1.5,
            levels: BTreeSet::from([Level::City]),
            source: "GB 40879-2021".to_owned(),
        }),
    }
}

fn inventory(sites: u32) -> Inventory {
    let mut inventory = Inventory::default();
    assert_eq!([inventory.metrics.intern("energy_kwh"), inventory.metrics.intern("pwr_w")], METRICS);
    inventory.add_area(Area {
        code: Arc::from("350100"),
        name: "Fuzhou".to_owned(),
        name_zh: "福州市".to_owned(),
        parent: None,
        population: None,
    });
    let profile = Arc::new(Profile {
        id: "meter".to_owned(),
        description: String::new(),
        interval_ms: Some(30_000),
        unknown_metrics: UnknownMetrics::Refuse,
        time: crate::inventory::TimePolicy::default(),
        metrics: vec![
            MetricDef { kind: MetricKind::Counter, ..MetricDef::gauge("energy_kwh") },
            MetricDef::gauge("pwr_w"),
        ],
    });
    for number in 0..sites {
        let site = inventory.add_site(Site {
            id: Arc::from(format!("s{number}")),
            name: String::new(),
            kind: Arc::from("base_station"),
            area: Arc::from("350102"),
            operator: Arc::from("mobile"),
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
            interval_ms: Some(30_000),
            registered: true,
        });
    }
    inventory
}
