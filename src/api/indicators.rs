//! `/api/v1/indicators` and what goes with it: rows, the newest ones, definitions, a chart.

use axum::Json;
use axum::extract::{Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::Server;
use super::chart::Chart;
use super::error::ApiError;
use super::params::{Pairs, Params};
use super::table::{CsvRow, Format, Rows, cell};
use crate::indicator::Level;
use crate::model::{Timestamp, Window};
use crate::report::IndicatorJson;
use crate::store::IndicatorQuery;

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;
/// Points of a chart at the most.
const CHART_POINTS_MAX: i64 = 120;

impl CsvRow for IndicatorJson {
    const COLUMNS: &'static [&'static str] = &[
        "id",
        "name",
        "name_zh",
        "unit",
        "level",
        "area",
        "area_name",
        "area_name_zh",
        "operator",
        "site",
        "window",
        "start",
        "end",
        "value",
        "numerator",
        "denominator",
        "completeness",
        "target",
        "target_sense",
        "target_met",
        "revision",
        "final",
    ];

    fn cells(&self) -> Vec<String> {
        let sense = self.target.as_ref().map(|target| json!(target.sense).as_str().unwrap_or_default().to_owned());
        vec![
            self.id.clone(),
            self.name.clone(),
            self.name_zh.clone(),
            self.unit.clone(),
            self.level.to_string(),
            self.area.clone(),
            self.area_name.clone(),
            self.area_name_zh.clone(),
            self.operator.clone(),
            self.site.clone(),
            self.window.to_string(),
            self.start.to_string(),
            self.end.to_string(),
            cell(self.value),
            cell(self.numerator),
            cell(self.denominator),
            cell(self.completeness),
            cell(self.target.as_ref().map(|target| target.value)),
            cell(sense),
            cell(self.target.as_ref().and_then(|target| target.met)),
            self.revision.to_string(),
            self.is_final.to_string(),
        ]
    }
}

/// Rows of indicators over a span.
pub(super) async fn show(State(server): State<Server>, Query(pairs): Pairs) -> Result<Response, ApiError> {
    let known = ["id", "level", "area", "operator", "site", "window", "from", "to", "limit", "format"];
    let params = Params::checked(pairs, &known)?;
    let format = Format::of(&params)?;
    let limit = params.limit()?;
    let (from, to) = params.span(server.context.clock.now(), DAY_MS)?;
    let query = IndicatorQuery { limit: limit + 1, ..query_of(&server, &params, from, to)? };
    let rows = read(&server, query).await?;
    Rows::cut(rows, limit).respond(format)
}

/// The newest row of every indicator, group and window.
pub(super) async fn latest(State(server): State<Server>, Query(pairs): Pairs) -> Result<Response, ApiError> {
    let params = Params::checked(pairs, &["window", "level", "format"])?;
    let format = Format::of(&params)?;
    let window = params.parsed::<Window>("window")?;
    let level = params.parsed::<Level>("level")?;
    let now = server.context.clock.now();
    let rows = server.readers.query(move |reader, _| Ok(reader.latest_indicators(window, level, now)?)).await?;
    let context = &server.context;
    let rows = IndicatorJson::all(&rows, &context.descriptions, &server.inventory(), &context.zone);
    Rows::cut(rows, usize::MAX).respond(format)
}

/// What indicators there are.
pub(super) async fn definitions(State(server): State<Server>) -> Response {
    Json(json!({ "rows": &*server.context.descriptions })).into_response()
}

/// A small chart of one group's indicator.
pub(super) async fn chart(State(server): State<Server>, Query(pairs): Pairs) -> Result<Response, ApiError> {
    let params = Params::checked(pairs, &["id", "level", "area", "operator", "site", "window"])?;
    let (Some(id), Some(window)) = (params.text("id"), params.parsed::<Window>("window")?) else {
        return Err(ApiError::bad("a chart needs `id` and `window`"));
    };
    let level = params.parsed("level")?.unwrap_or(Level::City);
    let Some(description) = server.context.descriptions.iter().find(|description| description.id == id).cloned() else {
        return Err(no_indicator(&server, id));
    };
    let now = server.context.clock.now();
    let (start, end) = window.bounds(now, &server.context.zone);
    let from = start.plus_millis(-CHART_POINTS_MAX * end.millis_since(start));
    let limit = usize::try_from(CHART_POINTS_MAX).unwrap_or(usize::MAX) + 2;
    let query = IndicatorQuery { level: Some(level), limit, ..query_of(&server, &params, from, now)? };
    let rows = server.readers.query(move |reader, _| Ok(reader.indicators(&query)?)).await?;
    let points: Vec<_> = rows.iter().map(|row| (row.start, row.value)).collect();
    let target = description.target.filter(|target| target.levels.contains(&level)).map(|target| target.value);
    let title = format!("{} {window}", description.name);
    let chart = Chart { title: &title, unit: &description.unit, target, points: &points };
    Ok(([(header::CONTENT_TYPE, "image/svg+xml")], chart.svg()).into_response())
}

fn query_of(server: &Server, params: &Params, from: Timestamp, to: Timestamp) -> Result<IndicatorQuery, ApiError> {
    let id = params.text("id");
    if let Some(id) = id.filter(|&id| server.context.descriptions.iter().all(|description| description.id != id)) {
        return Err(no_indicator(server, id));
    }
    let text = |name: &str| params.text(name).map(str::to_owned);
    let inventory = server.inventory();
    if let Some(area) = params.text("area").filter(|&area| !inventory.areas().contains_key(area)) {
        return Err(ApiError::missing(format!(
            "no area `{area}` is listed; areas.csv has them by their GB/T 2260 code"
        )));
    }
    if let Some(site) = params.text("site").filter(|&site| inventory.find_site(site).is_none()) {
        return Err(ApiError::missing(format!("no site `{site}`; /api/v1/sites lists them")));
    }
    Ok(IndicatorQuery {
        id: id.map(str::to_owned),
        level: params.parsed::<Level>("level")?,
        area: text("area"),
        operator: text("operator"),
        site: text("site"),
        window: params.parsed::<Window>("window")?,
        from,
        to,
        limit: 0,
    })
}

fn no_indicator(server: &Server, id: &str) -> ApiError {
    let known: Vec<_> = server.context.descriptions.iter().map(|description| description.id.as_str()).collect();
    ApiError::missing(format!("no indicator `{id}`; there are {}", known.join(", ")))
}

async fn read(server: &Server, query: IndicatorQuery) -> Result<Vec<IndicatorJson>, ApiError> {
    let rows = server.readers.query(move |reader, _| Ok(reader.indicators(&query)?)).await?;
    let context = &server.context;
    Ok(IndicatorJson::all(&rows, &context.descriptions, &server.inventory(), &context.zone))
}
