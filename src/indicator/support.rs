//! A small city for tests of indicators, and rows folded from plain readings as the store folds them.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::tz::TimeZone;

use super::{Definition, Level, compute, parse};
use crate::inventory::{
    Area, Band, Connection, Device, Inventory, MetricDef, Population, Profile, Site, UnknownMetrics,
};
use crate::model::{BASE_WINDOW_MS, DeviceId, MetricKind, Timestamp, Window};
use crate::rollup::{BaseRow, DeviceWindow, Fold};
use crate::store::{IndicatorRow, SeriesRow};

/// Start of the window that the tests compute.
pub(super) const START: Timestamp = Timestamp::from_millis(1_764_000_000_000);

pub(super) struct City {
    pub(super) inventory: Inventory,
    pub(super) profiles: BTreeMap<String, Arc<Profile>>,
    pub(super) rows: Vec<SeriesRow>,
}

pub(super) fn metric(name: &str, unit: &str, kind: MetricKind) -> MetricDef {
    MetricDef { unit: unit.to_owned(), kind, ..MetricDef::gauge(name) }
}

fn profile(id: &str, metrics: Vec<MetricDef>) -> (String, Arc<Profile>) {
    let (id, description) = (id.to_owned(), String::new());
    let unknown_metrics = UnknownMetrics::Refuse;
    let time = crate::inventory::TimePolicy::default();
    let profile = Profile { id: id.clone(), description, interval_ms: Some(60_000), unknown_metrics, time, metrics };
    (id, Arc::new(profile))
}

/// The profiles that the contract between parts names, as far as indicators use them.
pub(super) fn profiles() -> BTreeMap<String, Arc<Profile>> {
    use MetricKind::{Counter, Delta, Gauge, State};
    let inlet = MetricDef { band: Some(Band { low: 18.0, high: 27.0 }), ..metric("inlet_temp_c", "C", Gauge) };
    BTreeMap::from([
        profile("bs-rectifier", vec![metric("pwr_w", "W", Gauge)]),
        profile("bs-meter", vec![metric("energy_kwh", "kWh", Counter)]),
        profile("bs-energy-hourly", vec![metric("energy_kwh", "kWh", Delta)]),
        profile("dc-utility-meter", vec![metric("total_energy_kwh", "kWh", Counter)]),
        profile("dc-ups", vec![metric("it_energy_kwh", "kWh", Counter)]),
        profile("rack-pdu", vec![inlet, metric("in_use", "1", State)]),
        profile("crane-plc", vec![metric("moves", "moves", Counter), metric("allocated_s", "s", Counter)]),
        profile("agv", vec![metric("available_s", "s", Counter), metric("scheduled_s", "s", Counter)]),
        profile("yard", vec![metric("yard_teu", "TEU", Gauge)]),
        profile("shore-power-meter", vec![metric("shore_energy_kwh", "kWh", Counter)]),
    ])
}

impl City {
    /// City 350100 with three districts, of which two have a population.
    pub(super) fn new() -> Self {
        let mut inventory = Inventory::default();
        let city: Arc<str> = Arc::from("350100");
        for (code, persons) in [("350100", None), ("350102", Some(40_000)), ("350105", Some(60_000)), ("350128", None)]
        {
            inventory.add_area(Area {
                code: Arc::from(code),
                name: code.to_owned(),
                name_zh: code.to_owned(),
                parent: (code != "350100").then(|| city.clone()),
                population: persons.map(|persons| Population { persons, year: 2020 }),
            });
        }
        Self { inventory, profiles: profiles(), rows: Vec::new() }
    }

    pub(super) fn site(
        &mut self,
        id: &str,
        kind: &str,
        area: &str,
        operator: &str,
        attributes: &[(&str, f64)],
    ) -> usize {
        self.inventory.add_site(Site {
            id: Arc::from(id),
            name: id.to_owned(),
            kind: Arc::from(kind),
            area: Arc::from(area),
            operator: Arc::from(operator),
            position: None,
            attributes: attributes.iter().map(|&(key, value)| (key.to_owned(), value)).collect(),
            in_service_from: None,
            in_service_to: None,
        })
    }

    pub(super) fn device(&mut self, site: usize, name: &str, profile: &str, interval_ms: Option<u32>) -> DeviceId {
        for metric in &self.profiles[profile].metrics {
            self.inventory.metrics.intern(&metric.name);
        }
        self.inventory.add_device(Device {
            id: DeviceId(0),
            site,
            name: Arc::from(name),
            profile: self.profiles[profile].clone(),
            connection: Connection::Mqtt,
            interval_ms,
            registered: true,
        })
    }

    /// Replaces a site; the inventory keeps those it has, so everything is taken over into a new one.
    pub(super) fn change_site(&mut self, index: usize, change: impl FnOnce(&mut Site)) {
        let mut inventory = Inventory::default();
        inventory.metrics = self.inventory.metrics.clone();
        self.inventory.areas().values().for_each(|area| inventory.add_area(area.clone()));
        let mut sites = self.inventory.sites().to_vec();
        change(&mut sites[index]);
        for site in sites {
            inventory.add_site(site);
        }
        for device in self.inventory.devices() {
            inventory.add_device(device.clone());
        }
        self.inventory = inventory;
    }

    /// What `device` said in `window` from [`START`]: readings as (minute, value), one a minute, of one metric.
    pub(super) fn hear(&mut self, window: Window, device: DeviceId, metric: &str, readings: &[(i64, f64)]) {
        let known = self.inventory.device(device).expect("a device");
        let (site, slot) = (self.inventory.site_of(known), known.profile.slot(metric).expect("a metric"));
        let id = self.inventory.metrics.find(metric).expect("a metric");
        let end = window.bounds(START, &TimeZone::UTC).1;
        let mut fold = Fold::new(&known.profile.metrics[slot], None);
        for &(minute, value) in readings {
            let at = START.plus_millis(minute * BASE_WINDOW_MS);
            let mut base = DeviceWindow::new(at, known.interval_ms, Arc::new(vec![id]));
            base.apply(0, id, at, value);
            let mut blob = Vec::new();
            base.pack(&mut blob);
            let row = BaseRow::unpack(at, &blob).expect("a row");
            fold.add(&row, &row.metrics[0], 0);
        }
        let from = site.in_service_from.map_or(START, |from| from.max(START));
        let to = site.in_service_to.map_or(end, |to| to.min(end));
        let Some(combined) = fold.finish(from, to) else { return };
        let (is_final, revision) = (true, 1);
        self.rows.push(SeriesRow { device, metric: id, window, start: START, end, combined, is_final, revision });
    }

    pub(super) fn compute(&self, definitions: &[Definition], window: Window) -> Vec<IndicatorRow> {
        compute(definitions, &self.inventory, &TimeZone::UTC, window, START, &self.rows)
    }
}

/// The rows of one level, by place: site, operator or area.
pub(super) fn by_place(rows: &[IndicatorRow], level: Level) -> BTreeMap<String, IndicatorRow> {
    let place = |row: &IndicatorRow| match level {
        Level::Site => row.site.to_string(),
        Level::Operator => row.operator.to_string(),
        Level::District | Level::City => row.area.to_string(),
    };
    rows.iter().filter(|row| row.level == level).map(|row| (place(row), row.clone())).collect()
}

/// One definition, with everything that is the same in all tests.
pub(super) fn define(unit: &str, site_kind: &str, formula: &str, inputs: &str) -> Definition {
    define_at(r#""site", "district", "operator", "city""#, unit, site_kind, formula, inputs)
}

/// The same for some levels only.
pub(super) fn define_at(levels: &str, unit: &str, site_kind: &str, formula: &str, inputs: &str) -> Definition {
    let text = format!(
        r#"
        [[indicator]]
        id = "X1"
        name = "test"
        name_zh = "测试"
        unit = "{unit}"
        source = "test"
        site_kind = "{site_kind}"
        levels = [{levels}]
        windows = ["5m"]
        formula = "{formula}"
        [indicator.inputs]
        {inputs}
        "#
    );
    let mut definitions = parse("test.toml", &text).expect("a definition");
    definitions.remove(0)
}
