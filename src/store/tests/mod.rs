//! A small city on a real file, and what the store promises.

mod bound;
mod clock;
mod feed;
mod flush;
mod indicators;
mod retention;
mod series;
mod walk;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use jiff::tz::TimeZone;
use tempfile::TempDir;

use super::{
    DeadLetter, Devices, Error, Flush, FlushedRow, Reader, SeriesQuery, SeriesRow, SideWriter, StorePath, StoredDevice,
    Writer, WriterOptions,
};
use crate::inventory::{Connection, Device, Inventory, MetricDef, Profile, Site, UnknownMetrics};
use crate::ledger::Ledger;
use crate::model::{DeviceId, JournalPosition, MetricId, MetricKind, Timestamp, Window, WindowStart};
use crate::rollup::{DeviceWindow, Outcome};

pub(super) const MINUTE: i64 = 60_000;
pub(super) const HOUR: i64 = 60 * MINUTE;
pub(super) const DAY: i64 = 24 * HOUR;
/// Time from a window's end to its being final.
pub(super) const GRACE: i64 = 2 * MINUTE;
pub(super) const RETENTION: i64 = 30 * DAY;
/// Metric 0, a counter; the other is a gauge.
pub(super) const ENERGY: MetricId = MetricId(0);
pub(super) const POWER: MetricId = MetricId(1);
const INTERVAL_MS: u32 = 10_000;

/// `millis` after midnight of 2026-11-24 in Shanghai.
pub(super) fn at(millis: i64) -> Timestamp {
    Timestamp::parse("2026-11-24T00:00:00+08:00").expect("test time").plus_millis(millis)
}

pub(super) fn shanghai() -> TimeZone {
    TimeZone::get("Asia/Shanghai").expect("zone")
}

pub(super) fn options() -> WriterOptions {
    WriterOptions {
        grace_ms: GRACE,
        retention_ms: RETENTION,
        feed_windows: BTreeSet::from([Window::Minute1, Window::Hour1, Window::Day1]),
        indicator_windows: BTreeSet::from([Window::Minute15, Window::Hour1]),
        rollup_sinks: vec!["influx".to_owned(), "archive".to_owned()],
        devices: 100,
        zone: shanghai(),
    }
}

/// Devices of several sites that write what they heard to a store.
pub(super) struct City {
    _folder: TempDir,
    pub(super) path: StorePath,
    pub(super) writer: Writer,
    pub(super) inventory: Inventory,
    pub(super) ledger: Ledger,
    pub(super) dead_letters: Vec<DeadLetter>,
    changed: BTreeMap<(WindowStart, DeviceId), DeviceWindow>,
    with_counters: BTreeSet<DeviceId>,
    flushes: u64,
}

impl City {
    /// A city with as many sites as `devices` has numbers, each with that many devices.
    pub(super) fn new(devices: &[usize]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = StorePath::in_folder(folder.path());
        Self {
            writer: Writer::open(&path, options()).expect("a store"),
            path,
            _folder: folder,
            inventory: inventory(devices),
            ledger: Ledger::default(),
            dead_letters: Vec::new(),
            changed: BTreeMap::new(),
            with_counters: BTreeSet::new(),
            flushes: 0,
        }
    }

    /// Merges a reading as the pipeline does: into the open row, or into the stored one.
    pub(super) fn hear(&mut self, device: u32, time: Timestamp, metric: MetricId, value: f64) -> Outcome {
        let start = Window::Minute1.bounds(time, &TimeZone::UTC).0;
        let device = DeviceId(device);
        if metric == ENERGY {
            self.with_counters.insert(device);
        }
        let writer = &self.writer;
        let window = self.changed.entry((start, device)).or_insert_with(|| {
            let metrics = Arc::new(vec![ENERGY, POWER]);
            match writer.load(start, device).expect("a store") {
                Some(blob) => DeviceWindow::unpack(start, metrics, &blob).expect("a row"),
                None => DeviceWindow::new(start, Some(INTERVAL_MS), metrics),
            }
        });
        window.apply(metric.0 as usize, metric, time, value)
    }

    /// Writes what was heard since the last flush.
    pub(super) fn flush(&mut self, now: Timestamp) -> usize {
        self.try_flush(now).expect("a flush")
    }

    /// Writes what was heard since the last flush that went well.
    pub(super) fn try_flush(&mut self, now: Timestamp) -> Result<usize, Error> {
        let mut rows = self.changed.iter().map(|(&(_, device), window)| {
            let has_counters = self.with_counters.contains(&device);
            FlushedRow { device, window, has_counters }
        });
        let devices: Vec<_> =
            self.inventory.devices().iter().map(|device| StoredDevice::of(&self.inventory, device)).collect();
        let mut flush = Flush {
            now,
            rows: &mut rows,
            devices: if self.flushes == 0 { &devices } else { &[] },
            metrics: &[],
            ledger: &self.ledger,
            position: JournalPosition(self.flushes + 1),
            dead_letters: &self.dead_letters,
        };
        let written = self.writer.flush(&mut flush)?;
        self.flushes += 1;
        self.changed.clear();
        Ok(written)
    }

    /// Forgets what was heard since the last flush that went well.
    pub(super) fn forget_changes(&mut self) {
        self.changed.clear();
    }

    /// Closes the writer and opens it again, as a restart does.
    pub(super) fn restart(&mut self, options: WriterOptions) {
        self.writer = Writer::open(&self.path, options).expect("a store");
    }

    pub(super) fn reader(&self) -> Reader {
        Reader::open(&self.path).expect("a reader")
    }

    pub(super) fn side_writer(&self) -> SideWriter {
        SideWriter::open(&self.path).expect("a side writer")
    }

    pub(super) fn query<'a>(&'a self, zone: &'a TimeZone, window: Window, devices: Devices<'a>) -> SeriesQuery<'a> {
        SeriesQuery {
            inventory: &self.inventory,
            zone,
            window,
            from: Timestamp::from_millis(i64::MIN),
            to: Timestamp::from_millis(i64::MAX),
            devices,
            metric: None,
            now: at(365 * DAY),
        }
    }

    /// Every roll-up of a window.
    pub(super) fn series(&self, window: Window, devices: Devices) -> Vec<SeriesRow> {
        rows(&self.reader(), &self.query(&shanghai(), window, devices))
    }

    /// One series' roll-up over one window.
    pub(super) fn one(&self, window: Window, start: Timestamp, metric: MetricId) -> SeriesRow {
        let rows = self.series(window, Devices::All);
        *rows.iter().find(|row| row.start == start && row.metric == metric).expect("a roll-up")
    }
}

pub(super) fn rows(reader: &Reader, query: &SeriesQuery<'_>) -> Vec<SeriesRow> {
    let mut rows = Vec::new();
    let mut keep = |row| {
        rows.push(row);
        ControlFlow::Continue(())
    };
    reader.visit_series(query, &mut keep).expect("roll-ups");
    rows
}

fn inventory(devices: &[usize]) -> Inventory {
    let mut inventory = Inventory::default();
    assert_eq!((inventory.metrics.intern("energy_kwh"), inventory.metrics.intern("pwr_w")), (ENERGY, POWER));
    let profile = Arc::new(Profile {
        id: "meter".to_owned(),
        description: String::new(),
        interval_ms: Some(INTERVAL_MS),
        unknown_metrics: UnknownMetrics::Refuse,
        time: crate::inventory::TimePolicy::default(),
        metrics: vec![
            MetricDef { kind: MetricKind::Counter, ..MetricDef::gauge("energy_kwh") },
            MetricDef::gauge("pwr_w"),
        ],
    });
    for (site, &count) in devices.iter().enumerate() {
        let site = inventory.add_site(Site {
            id: Arc::from(format!("site-{site}")),
            name: String::new(),
            kind: Arc::from("base_station"),
            area: Arc::from("350102"),
            operator: Arc::from("mobile"),
            position: None,
            attributes: BTreeMap::new(),
            in_service_from: None,
            in_service_to: None,
        });
        for device in 0..count {
            inventory.add_device(Device {
                id: DeviceId(0),
                site,
                name: Arc::from(format!("meter-{device}")),
                profile: profile.clone(),
                connection: Connection::Mqtt,
                interval_ms: Some(INTERVAL_MS),
                registered: true,
            });
        }
    }
    inventory
}
