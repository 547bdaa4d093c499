//! `/api/v1/rollups`: rows of series over windows, those without a reading included where they can be named.

use std::ops::ControlFlow;
use std::sync::Arc;

use axum::extract::{Query, State};
use axum::response::Response;
use jiff::tz::TimeZone;
use serde::Serialize;

use super::Server;
use super::error::ApiError;
use super::params::{Pairs, Params};
use super::readers::{Deadline, QueryError};
use super::table::{CsvRow, Format, Rows, cell};
use crate::inventory::{Inventory, MetricDef, UnknownMetrics};
use crate::model::{DeviceId, MetricId, Timestamp, Window, WindowStart};
use crate::rollup::expected_slots;
use crate::store::{Devices, Finality, Reader, SeriesQuery, SeriesRow};

const HOUR_MS: i64 = 3_600_000;

/// One roll-up as the API gives it.
#[derive(Debug, Serialize)]
pub(super) struct RollupJson {
    site: Arc<str>,
    device: Arc<str>,
    metric: Arc<str>,
    unit: String,
    window: Window,
    start: WindowStart,
    end: Timestamp,
    count: u64,
    sum: Option<f64>,
    mean: Option<f64>,
    min: Option<f64>,
    max: Option<f64>,
    first: Option<f64>,
    first_time: Option<Timestamp>,
    last: Option<f64>,
    last_time: Option<Timestamp>,
    increase: Option<f64>,
    expected: Option<u64>,
    completeness: Option<f64>,
    late: u64,
    revision: u64,
    #[serde(rename = "final")]
    is_final: bool,
}

impl CsvRow for RollupJson {
    const COLUMNS: &'static [&'static str] = &[
        "site",
        "device",
        "metric",
        "unit",
        "window",
        "start",
        "end",
        "count",
        "sum",
        "mean",
        "min",
        "max",
        "first",
        "first_time",
        "last",
        "last_time",
        "increase",
        "expected",
        "completeness",
        "late",
        "revision",
        "final",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.site.to_string(),
            self.device.to_string(),
            self.metric.to_string(),
            self.unit.clone(),
            self.window.to_string(),
            self.start.to_string(),
            self.end.to_string(),
            self.count.to_string(),
            cell(self.sum),
            cell(self.mean),
            cell(self.min),
            cell(self.max),
            cell(self.first),
            cell(self.first_time),
            cell(self.last),
            cell(self.last_time),
            cell(self.increase),
            cell(self.expected),
            cell(self.completeness),
            self.late.to_string(),
            self.revision.to_string(),
            self.is_final.to_string(),
        ]
    }
}

/// What is asked for.
struct Asked {
    inventory: Arc<Inventory>,
    zone: TimeZone,
    window: Window,
    from: Timestamp,
    to: Timestamp,
    now: Timestamp,
    devices: Devices<'static>,
    metric: Option<MetricId>,
    limit: usize,
}

pub(super) async fn show(State(server): State<Server>, Query(pairs): Pairs) -> Result<Response, ApiError> {
    let known = ["site", "device", "metric", "window", "from", "to", "limit", "format"];
    let params = Params::checked(pairs, &known)?;
    let format = Format::of(&params)?;
    let inventory = server.inventory();
    let window = params.parsed("window")?.unwrap_or(Window::Minute1);
    let now = server.context.clock.now();
    let span_ms = if window == Window::Day1 { 7 * 24 * HOUR_MS } else { HOUR_MS };
    let (from, to) = params.span(now, span_ms)?;
    let limit = params.limit()?;
    let asked = Asked {
        devices: devices_of(&params, &inventory)?,
        metric: metric_of(&params, &inventory)?,
        zone: server.context.zone.clone(),
        inventory,
        window,
        from,
        to,
        now,
        limit,
    };
    let rows = server.readers.query(move |reader, deadline| read(reader, &asked, deadline)).await?;
    Rows::cut(rows, limit).respond(format)
}

fn devices_of(params: &Params, inventory: &Inventory) -> Result<Devices<'static>, ApiError> {
    let Some(site) = params.text("site") else {
        return match params.text("device") {
            None => Ok(Devices::All),
            Some(_) => {
                Err(ApiError::bad("parameter `device` needs `site`: device names are unique at their site only"))
            }
        };
    };
    let missing = |what: &str| ApiError::missing(format!("{what}; /api/v1/sites lists sites and devices"));
    let index = inventory.find_site(site).ok_or_else(|| missing(&format!("no site `{site}`")))?;
    match params.text("device") {
        None => Ok(Devices::Site(index)),
        Some(device) => {
            let id = inventory.find_device(site, device);
            id.map(Devices::One).ok_or_else(|| missing(&format!("no device `{device}` at site `{site}`")))
        }
    }
}

fn metric_of(params: &Params, inventory: &Inventory) -> Result<Option<MetricId>, ApiError> {
    let Some(name) = params.text("metric") else { return Ok(None) };
    let id = inventory.metrics.find(name);
    id.map(Some).ok_or_else(|| ApiError::missing(format!("no metric `{name}` is known; the profiles list them")))
}

fn read(reader: &Reader, asked: &Asked, deadline: Deadline) -> Result<Vec<RollupJson>, QueryError> {
    let query = SeriesQuery {
        inventory: &asked.inventory,
        zone: &asked.zone,
        window: asked.window,
        from: asked.from,
        to: asked.to,
        devices: asked.devices,
        metric: asked.metric,
        now: asked.now,
    };
    let mut silent = Silent::of(asked, reader.finality()?);
    let mut rows = Vec::new();
    let mut late = false;
    reader.visit_series(&query, &mut |row| {
        if let Some(silent) = &mut silent {
            silent.until(row.start, asked, deadline, &mut rows);
            silent.heard(row.end);
        }
        rows.push(heard(&asked.inventory, &row));
        late = deadline.is_over();
        if late || rows.len() > asked.limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    if let Some(silent) = silent.as_mut().filter(|_| !late) {
        silent.until(asked.to.min(asked.now).min(silent.service_end), asked, deadline, &mut rows);
        late = silent.is_late;
    }
    if late { Err(QueryError::Client(Deadline::error())) } else { Ok(rows) }
}

fn heard(inventory: &Inventory, row: &SeriesRow) -> RollupJson {
    let device = inventory.device(row.device).expect("invariant: rows are of devices of the query's inventory");
    let name = inventory.metrics.name(row.metric).cloned().unwrap_or_else(|| Arc::from(row.metric.0.to_string()));
    let aggregate = &row.combined.aggregate;
    RollupJson {
        site: inventory.site_of(device).id.clone(),
        device: device.name.clone(),
        unit: device.profile.slot(&name).map(|slot| device.profile.metrics[slot].unit.clone()).unwrap_or_default(),
        metric: name,
        window: row.window,
        start: row.start,
        end: row.end,
        count: aggregate.count,
        sum: finite(aggregate.sum.value()),
        mean: finite(aggregate.mean()),
        min: finite(aggregate.min),
        max: finite(aggregate.max),
        first: finite(aggregate.first.value),
        first_time: Some(aggregate.first.time),
        last: finite(aggregate.last.value),
        last_time: Some(aggregate.last.time),
        increase: row.combined.increase.and_then(finite),
        expected: row.combined.expected,
        completeness: row.combined.completeness(),
        late: row.combined.late,
        revision: row.revision,
        is_final: row.is_final,
    }
}

fn finite(value: f64) -> Option<f64> {
    value.is_finite().then_some(value)
}

/// Windows in which one named series of a listed device was due and not heard (P6).
struct Silent {
    device: DeviceId,
    metric: Arc<str>,
    definition: MetricDef,
    next: WindowStart,
    /// Whether the walk was given up because its time was over.
    is_late: bool,
    /// Nothing is due from here on.
    service_end: Timestamp,
    finality: Option<Finality>,
}

impl Silent {
    fn of(asked: &Asked, finality: Option<Finality>) -> Option<Self> {
        let (Devices::One(id), Some(metric)) = (asked.devices, asked.metric) else { return None };
        let device = asked.inventory.device(id)?;
        let name = asked.inventory.metrics.name(metric)?.clone();
        let definition = match device.profile.slot(&name) {
            Some(slot) => device.profile.metrics[slot].clone(),
            None if device.profile.unknown_metrics == UnknownMetrics::Accept => MetricDef::gauge(&name),
            None => return None,
        };
        // Without an interval nothing is due, so nothing can be missing.
        device.interval_ms?;
        // Years before the site was in service are not walked through window by window.
        let site = asked.inventory.site_of(device);
        let service_start = site.in_service_from.map_or(asked.from, |from| asked.window.bounds(from, &asked.zone).0);
        let from = asked.from.max(service_start);
        let (start, end) = asked.window.bounds(from, &asked.zone);
        let next = if start < from { end } else { start };
        let service_end = site.in_service_to.unwrap_or(asked.now);
        Some(Self { device: id, metric: name, definition, next, is_late: false, service_end, finality })
    }

    fn heard(&mut self, end: Timestamp) {
        self.next = end;
    }

    /// Adds the windows that start before `until`.
    fn until(&mut self, until: Timestamp, asked: &Asked, deadline: Deadline, rows: &mut Vec<RollupJson>) {
        while self.next < until && rows.len() <= asked.limit {
            self.is_late = deadline.is_over();
            if self.is_late {
                return;
            }
            let (start, end) = asked.window.bounds(self.next, &asked.zone);
            self.next = end;
            rows.extend(self.row(start, end, asked));
        }
    }

    fn row(&self, start: WindowStart, end: Timestamp, asked: &Asked) -> Option<RollupJson> {
        let device = asked.inventory.device(self.device)?;
        let site = asked.inventory.site_of(device);
        let from = site.in_service_from.map_or(start, |from| from.max(start));
        let to = site.in_service_to.map_or(end, |to| to.min(end)).min(asked.now);
        let expected = if from < to { expected_slots(from, to, device.interval_ms?) } else { 0 };
        let is_final = self.finality.is_some_and(|finality| finality.holds(start, end));
        (expected > 0).then(|| RollupJson {
            site: site.id.clone(),
            device: device.name.clone(),
            metric: self.metric.clone(),
            unit: self.definition.unit.clone(),
            window: asked.window,
            start,
            end,
            count: 0,
            sum: None,
            mean: None,
            min: None,
            max: None,
            first: None,
            first_time: None,
            last: None,
            last_time: None,
            increase: None,
            expected: Some(expected),
            completeness: Some(0.0),
            late: 0,
            revision: u64::from(is_final),
            is_final,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_through_silent_windows_ends_when_its_time_is_over() {
        let inventory = Arc::new(crate::api::tests::inventory());
        let now = Timestamp::from_millis(1_795_507_200_000);
        let asked = Asked {
            devices: Devices::One(inventory.find_device("B_1", "meter").expect("a device")),
            metric: inventory.metrics.find("pwr_w"),
            inventory,
            zone: TimeZone::UTC,
            window: Window::Minute1,
            from: now.plus_millis(-HOUR_MS),
            to: now,
            now,
            limit: 100_000,
        };
        let mut silent = Silent::of(&asked, None).expect("a series that is due");
        let mut rows = Vec::new();
        silent.until(now, &asked, Deadline::over(), &mut rows);
        assert!(silent.is_late && rows.is_empty(), "{} rows", rows.len());
    }
}
