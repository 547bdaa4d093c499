//! `/api/v1/sites`: what is known of sites and their devices.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::json;

use super::Server;
use super::error::ApiError;
use super::params::{Pairs, Params};
use crate::inventory::{Connection, Device, Inventory, Site};
use crate::model::{BASE_WINDOW_MS, Timestamp, Window};
use crate::store::{Devices, SeriesQuery};

/// Span before the newest final minute in which a site counts as heard, ms.
const HEARD_MS: i64 = 15 * BASE_WINDOW_MS;

#[derive(Serialize)]
struct SiteJson<'a> {
    site: &'a str,
    name: &'a str,
    kind: &'a str,
    area: &'a str,
    operator: &'a str,
    lat: Option<f64>,
    lon: Option<f64>,
    attributes: &'a BTreeMap<String, f64>,
    in_service_from: Option<Timestamp>,
    in_service_to: Option<Timestamp>,
    devices: Vec<DeviceJson<'a>>,
}

#[derive(Serialize)]
struct DeviceJson<'a> {
    device: &'a str,
    profile: &'a str,
    connection: String,
    interval_ms: Option<u32>,
    registered: bool,
    metrics: Vec<MetricJson<'a>>,
}

#[derive(Serialize)]
struct MetricJson<'a> {
    metric: &'a str,
    unit: &'a str,
    kind: crate::model::MetricKind,
}

#[derive(Default, Serialize)]
struct KindJson {
    kind: Arc<str>,
    sites: usize,
    heard_sites: usize,
    registered_devices: usize,
    unregistered_devices: usize,
}

/// Sites with their devices, or with `summary=true` numbers per kind.
pub(super) async fn sites(State(server): State<Server>, Query(pairs): Pairs) -> Result<Response, ApiError> {
    let params = Params::checked(pairs, &["site", "kind", "area", "summary"])?;
    if params.flag("summary")? {
        return summary(&server).await;
    }
    let inventory = server.inventory();
    let mut devices: BTreeMap<usize, Vec<DeviceJson<'_>>> = BTreeMap::new();
    for device in inventory.devices() {
        devices.entry(device.site).or_default().push(device_json(device));
    }
    let fits = |name: &str, value: &str| params.text(name).is_none_or(|wanted| wanted == value);
    let chosen = inventory
        .sites()
        .iter()
        .enumerate()
        .filter(|(_, site)| fits("site", &site.id) && fits("kind", &site.kind) && fits("area", &site.area));
    let rows: Vec<_> =
        chosen.map(|(index, site)| site_json(site, devices.remove(&index).unwrap_or_default())).collect();
    Ok(Json(json!({ "rows": rows })).into_response())
}

fn site_json<'a>(site: &'a Site, devices: Vec<DeviceJson<'a>>) -> SiteJson<'a> {
    SiteJson {
        site: &site.id,
        name: &site.name,
        kind: &site.kind,
        area: &site.area,
        operator: &site.operator,
        lat: site.position.map(|(lat, _)| lat),
        lon: site.position.map(|(_, lon)| lon),
        attributes: &site.attributes,
        in_service_from: site.in_service_from,
        in_service_to: site.in_service_to,
        devices,
    }
}

fn device_json(device: &Device) -> DeviceJson<'_> {
    let metrics = device.profile.metrics.iter();
    DeviceJson {
        device: &device.name,
        profile: &device.profile.id,
        connection: match &device.connection {
            Connection::Mqtt => "mqtt".to_owned(),
            Connection::ModbusTcp { endpoint, unit } => format!("modbus-tcp://{endpoint} unit {unit}"),
        },
        interval_ms: device.interval_ms,
        registered: device.registered,
        metrics: metrics.map(|m| MetricJson { metric: &m.name, unit: &m.unit, kind: m.kind }).collect(),
    }
}

async fn summary(server: &Server) -> Result<Response, ApiError> {
    let inventory = server.inventory();
    let (listed, zone, now) = (inventory.clone(), server.context.zone.clone(), server.context.clock.now());
    let heard = move |reader: &crate::store::Reader, _| {
        let mut sites = BTreeSet::new();
        let until = reader.final_until()?.unwrap_or(now);
        let query = SeriesQuery {
            inventory: &listed,
            zone: &zone,
            window: Window::Minute1,
            from: until.plus_millis(-HEARD_MS),
            to: now.max(until),
            devices: Devices::All,
            metric: None,
            now,
        };
        reader.visit_series(&query, &mut |row| {
            sites.extend(listed.device(row.device).map(|device| device.site));
            ControlFlow::Continue(())
        })?;
        Ok(sites)
    };
    let heard = server.readers.query(heard).await?;
    Ok(Json(json!({ "kinds": kinds(&inventory, &heard) })).into_response())
}

fn kinds(inventory: &Inventory, heard: &BTreeSet<usize>) -> Vec<KindJson> {
    let mut kinds: BTreeMap<Arc<str>, KindJson> = BTreeMap::new();
    for (index, site) in inventory.sites().iter().enumerate() {
        let kind = kinds.entry(site.kind.clone()).or_default();
        kind.kind = site.kind.clone();
        kind.sites += 1;
        kind.heard_sites += usize::from(heard.contains(&index));
    }
    for device in inventory.devices() {
        let kind = kinds.entry(inventory.site_of(device).kind.clone()).or_default();
        kind.registered_devices += usize::from(device.registered);
        kind.unregistered_devices += usize::from(!device.registered);
    }
    kinds.into_values().collect()
}
