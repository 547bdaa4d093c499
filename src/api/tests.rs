//! The outside contract, asked over a real socket from a real store.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use jiff::tz::TimeZone;
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::{Context, Options, serve};
use crate::clock::Clock;
use crate::health::{Health, PartKind, State};
use crate::indicator::{Description, Level, Target, TargetSense};
use crate::inventory::{
    Area, Connection, Device, Inventory, MetricDef, Profile, SharedInventory, Site, UnknownMetrics,
};
use crate::ledger::{Ledger, Rejection};
use crate::model::{DeviceId, JournalPosition, MetricId, MetricKind, Timestamp, Window};
use crate::rollup::DeviceWindow;
use crate::store::{
    DeadLetter, Feed, Flush, FlushedRow, IndicatorRow, Reader, SideWriter, StorePath, StoredDevice, Writer,
    WriterOptions,
};

/// 2026-11-24T08:00:00Z, a whole hour here and in Shanghai.
const T0: Timestamp = Timestamp::from_millis(1_795_507_200_000);
/// A name that would break a page, a line of CSV and a log.
const HOSTILE: &str = "<b>\"B\",1";

pub(super) fn inventory() -> Inventory {
    let mut inventory = Inventory::default();
    inventory.add_area(Area {
        code: Arc::from("350102"),
        name: "Gulou".to_owned(),
        name_zh: "鼓楼区".to_owned(),
        parent: None,
        population: None,
    });
    let site = inventory.add_site(Site {
        id: Arc::from("B_1"),
        name: HOSTILE.to_owned(),
        kind: Arc::from("base_station"),
        area: Arc::from("350102"),
        operator: Arc::from("mobile"),
        position: Some((26.08, 119.3)),
        attributes: BTreeMap::from([("berths".to_owned(), 2.0)]),
        in_service_from: None,
        in_service_to: None,
    });
    let power = MetricDef { unit: "W".to_owned(), ..MetricDef::gauge("pwr_w") };
    let energy = MetricDef { unit: "kWh".to_owned(), kind: MetricKind::Counter, ..MetricDef::gauge("energy_kwh") };
    let profile = Profile {
        id: "meter".to_owned(),
        description: String::new(),
        interval_ms: Some(10_000),
        unknown_metrics: UnknownMetrics::Refuse,
        time: crate::inventory::TimePolicy::default(),
        metrics: vec![power, energy],
    };
    // In service for three minutes, and never heard.
    let silent = inventory.add_site(Site {
        id: Arc::from("B_2"),
        in_service_from: Some(T0.plus_millis(-600_000)),
        in_service_to: Some(T0.plus_millis(-420_000)),
        ..inventory.sites()[site].clone()
    });
    for (site, name, registered) in [(site, "meter", true), (site, "stray", false), (silent, "meter", true)] {
        inventory.add_device(Device {
            id: DeviceId(0),
            site,
            name: Arc::from(name),
            profile: Arc::new(profile.clone()),
            connection: Connection::Mqtt,
            interval_ms: Some(10_000),
            registered,
        });
    }
    inventory.metrics.intern("pwr_w");
    inventory.metrics.intern("energy_kwh");
    inventory
}

fn description() -> Description {
    let target = Target {
        sense: TargetSense::AtMost,
        value: 1.3,
        levels: [Level::City].into(),
        source: "GB 40879-2021".to_owned(),
    };
    Description {
        id: "DC1".to_owned(),
        name: "PUE".to_owned(),
        name_zh: "电能利用效率".to_owned(),
        unit: "1".to_owned(),
        source: "ISO/IEC 30134-2".to_owned(),
        levels: [Level::City].into(),
        windows: [Window::Hour1].into(),
        target: Some(target),
    }
}

fn indicator(start: Timestamp, value: Option<f64>) -> IndicatorRow {
    IndicatorRow {
        seq: 0,
        id: Arc::from("DC1"),
        level: Level::City,
        area: Arc::from("350102"),
        operator: Arc::from(""),
        site: Arc::from(""),
        window: Window::Hour1,
        start,
        value,
        numerator: value,
        denominator: Some(1.0),
        completeness: Some(if value.is_some() { 0.9 } else { 0.0 }),
        revision: 1,
    }
}

fn ledger() -> Ledger {
    let mut ledger = Ledger { received: 3, pending: 1, ..Ledger::default() };
    let counts = ledger.source(&Arc::from("east"));
    counts.messages_decoded = 1;
    counts.reject(Rejection::MalformedJson, 1);
    (counts.readings_decoded, counts.applied, counts.duplicate) = (7, 6, 1);
    ledger
}

/// Minutes 0 and 2 of the hour before T0 have readings of both metrics; minute 1 has none.
fn fill(store: &StorePath) {
    let options = WriterOptions {
        grace_ms: 10_000,
        retention_ms: 86_400_000,
        feed_windows: [Window::Minute1].into(),
        indicator_windows: [Window::Hour1].into(),
        rollup_sinks: vec!["series".to_owned()],
        devices: 100,
        zone: TimeZone::UTC,
    };
    let mut writer = Writer::open(store, options).expect("a store");
    let metrics = Arc::new(vec![MetricId(0), MetricId(1)]);
    let windows: Vec<_> = [0, 2]
        .map(|minute| {
            let start = T0.plus_millis(-3_600_000 + minute * 60_000);
            let mut window = DeviceWindow::new(start, Some(10_000), metrics.clone());
            for (second, power) in [(0, 5.0), (10, 7.0), (20, 6.0)] {
                let time = start.plus_millis(second * 1_000);
                window.apply(0, MetricId(0), time, power);
                window.apply(
                    1,
                    MetricId(1),
                    time,
                    100.0 + f64::from(i32::try_from(minute * 60 + second).expect("small")),
                );
            }
            window
        })
        .into();
    let mut rows = windows.iter().map(|window| FlushedRow { device: DeviceId(0), window, has_counters: true });
    let devices = ["meter", "stray"].iter().zip(0..).map(|(name, id)| StoredDevice {
        id: DeviceId(id),
        site: Arc::from("B_1"),
        name: Arc::from(*name),
        kind: Arc::from("base_station"),
        area: Arc::from("350102"),
        operator: Arc::from("mobile"),
    });
    let devices: Vec<_> = devices.collect();
    let letter = DeadLetter {
        at: T0,
        source: Arc::from("east"),
        topic: "telemetry/x".into(),
        reason: Rejection::MalformedJson.label(),
        payload: (*b"{\xff").into(),
    };
    let mut flush = Flush {
        now: T0.plus_millis(60_000),
        rows: &mut rows,
        devices: &devices,
        metrics: &[(MetricId(0), Arc::from("pwr_w")), (MetricId(1), Arc::from("energy_kwh"))],
        ledger: &ledger(),
        position: JournalPosition(2),
        dead_letters: &[letter],
    };
    writer.flush(&mut flush).expect("the store takes it");
    store_indicator(store, &indicator(T0.plus_millis(-7_200_000), None));
    store_indicator(store, &indicator(T0.plus_millis(-3_600_000), Some(1.25)));
}

fn store_indicator(store: &StorePath, row: &IndicatorRow) {
    let mut writer = SideWriter::open(store).expect("a writer");
    let stale = Reader::open(store).expect("a reader").stale(1_000).expect("marks");
    let mark = stale.first().copied().unwrap_or(crate::store::StaleWindow {
        window: row.window,
        start: row.start,
        generation: 0,
    });
    let computed = crate::store::StaleWindow { window: row.window, start: row.start, ..mark };
    assert_eq!(writer.write_indicators(std::slice::from_ref(row), &computed).expect("written"), 1);
}

struct Running {
    address: SocketAddr,
    store: StorePath,
    stop: watch::Sender<bool>,
    _folder: tempfile::TempDir,
}

impl Running {
    async fn start(token: Option<&str>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let store = StorePath::in_folder(folder.path());
        fill(&store);
        let health = Arc::new(Health::default());
        health.part(PartKind::Mqtt, "east", T0).report(State::Up, "connected", T0);
        health.part(PartKind::Influx, "away", T0).report(State::Down, "connection refused", T0);
        health.part(PartKind::Influx, "series", T0);
        let inventory: SharedInventory = Arc::new(RwLock::new(Arc::new(inventory())));
        let context = Context {
            store: store.clone(),
            inventory,
            descriptions: [description()].into(),
            zone: TimeZone::UTC,
            clock: Clock::scaled(T0, 1e-6),
            health,
            ledger: Arc::new(ledger),
            ready: Arc::new(AtomicBool::new(false)),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (stop, stopped) = watch::channel(false);
        let options = Options { listen: address, token: token.map(str::to_owned) };
        tokio::spawn(serve(options, listener, context, stopped));
        Self { address, store, stop, _folder: folder }
    }

    async fn ask(&self, path: &str) -> (StatusCode, String) {
        let answer = reqwest::get(format!("http://{}{path}", self.address)).await.expect("an answer");
        (answer.status(), answer.text().await.expect("a body"))
    }

    async fn json(&self, path: &str) -> Value {
        let (status, text) = self.ask(path).await;
        assert_eq!(status, StatusCode::OK, "{path}: {text}");
        serde_json::from_str(&text).expect("JSON")
    }

    async fn refused(&self, path: &str) -> (u16, String) {
        let (status, text) = self.ask(path).await;
        let body: Value = serde_json::from_str(&text).expect("JSON");
        (status.as_u16(), body["error"].as_str().expect("an error").to_owned())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_series_has_its_rows_and_the_minutes_in_which_it_was_silent() {
    let server = Running::start(None).await;
    let answer = server
        .json("/api/v1/rollups?site=B_1&device=meter&metric=energy_kwh&from=1795503600000&to=1795503780000")
        .await;
    assert_eq!(answer["truncated"], json!(false));
    let rows = answer["rows"].as_array().expect("rows");
    assert_eq!(rows.len(), 3);
    let expected = json!({
        "site": "B_1", "device": "meter", "metric": "energy_kwh", "unit": "kWh", "window": "1m",
        "start": "2026-11-24T07:02:00Z", "end": "2026-11-24T07:03:00Z", "count": 3, "sum": 690.0, "mean": 230.0,
        "min": 220.0, "max": 240.0, "first": 220.0, "first_time": "2026-11-24T07:02:00Z", "last": 240.0,
        "last_time": "2026-11-24T07:02:20Z", "increase": 120.0, "expected": 6, "completeness": 0.5, "late": 0,
        "revision": 2, "final": true,
    });
    assert_eq!(rows[2], expected);
    let silent = &rows[1];
    assert_eq!((&silent["count"], &silent["mean"], &silent["increase"]), (&json!(0), &Value::Null, &Value::Null));
    assert_eq!((&silent["completeness"], &silent["expected"]), (&json!(0.0), &json!(6)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_series_is_silent_only_while_its_site_is_in_service_however_long_ago_one_asks_from() {
    let server = Running::start(None).await;
    // Walking through ten thousand years of minutes would take minutes.
    let path = "/api/v1/rollups?site=B_2&device=meter&metric=pwr_w&from=-374000000000000";
    let answer = tokio::time::timeout(Duration::from_secs(5), server.json(path)).await.expect("in time");
    let starts: Vec<_> = answer["rows"].as_array().expect("rows").iter().map(|row| row["start"].clone()).collect();
    assert_eq!(starts, ["2026-11-24T07:50:00Z", "2026-11-24T07:51:00Z", "2026-11-24T07:52:00Z"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_come_as_csv_too_and_say_where_they_were_cut() {
    let server = Running::start(None).await;
    let url = format!("http://{}/api/v1/rollups?site=B_1&format=csv&limit=1&from=1795503600000", server.address);
    let answer = reqwest::get(url).await.expect("an answer");
    assert_eq!(answer.headers()["sitepulse-truncated"], "true");
    let text = answer.text().await.expect("a body");
    let lines: Vec<_> = text.split("\r\n").collect();
    assert!(lines[0].starts_with("site,device,metric,unit,window,start,end,count,sum,mean"), "{text}");
    assert_eq!((lines.len(), lines[1].split(',').count()), (3, lines[0].split(',').count()));
    assert_eq!(server.json("/api/v1/rollups?site=B_1&limit=1&from=1795503600000").await["truncated"], json!(true));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_indicator_says_its_target_and_an_unknown_value_is_null() {
    let server = Running::start(None).await;
    let rows = server.json("/api/v1/indicators?id=DC1&level=city&area=350102&window=1h").await["rows"].take();
    assert_eq!(rows[0]["value"], Value::Null);
    assert_eq!(rows[0]["target"]["met"], Value::Null);
    assert_eq!(rows[1]["value"], json!(1.25));
    assert_eq!(rows[1]["target"], json!({ "value": 1.3, "sense": "<=", "met": true }));
    assert_eq!((&rows[1]["name_zh"], &rows[1]["area_name_zh"]), (&json!("电能利用效率"), &json!("鼓楼区")));
    assert_eq!((&rows[1]["start"], &rows[1]["end"]), (&json!("2026-11-24T07:00:00Z"), &json!("2026-11-24T08:00:00Z")));
    let latest = server.json("/api/v1/indicators/latest").await["rows"].take();
    assert_eq!((latest.as_array().map(Vec::len), &latest[0]["value"]), (Some(1), &json!(1.25)));
    let (_, csv) = server.ask("/api/v1/indicators?format=csv").await;
    assert!(csv.lines().nth(1).is_some_and(|line| line.contains(",,1,0,")), "{csv}");
    let (status, chart) = server.ask("/api/v1/indicators/chart.svg?id=DC1&level=city&area=350102&window=1h").await;
    assert!(status.is_success() && chart.starts_with("<svg"), "{chart}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_wrongly_is_refused_with_what_would_be_right() {
    let server = Running::start(None).await;
    for (path, status, hint) in [
        ("/api/v1/rollups?sight=B_1", 400, "valid are site, device"),
        ("/api/v1/rollups?window=2m", 400, "1m, 5m, 15m, 1h, 1d"),
        ("/api/v1/rollups?from=yesterday", 400, "RFC 3339"),
        ("/api/v1/rollups?from=2026-11-24T08:00:00Z&to=2026-11-24T07:00:00Z", 400, "lies after"),
        ("/api/v1/rollups?site=B_1&device=meter&metric=pwr_w&from=-9223372036854775808", 400, "year"),
        ("/api/v1/indicators?to=9223372036854775807", 400, "year"),
        ("/api/v1/rollups?limit=0", 400, "1 to 100000"),
        ("/api/v1/rollups?format=xml", 400, "json nor csv"),
        ("/api/v1/rollups?device=meter", 400, "needs `site`"),
        ("/api/v1/rollups?site=B_9", 404, "/api/v1/sites"),
        ("/api/v1/rollups?site=B_1&device=x", 404, "no device `x`"),
        ("/api/v1/rollups?metric=x", 404, "no metric `x`"),
        ("/api/v1/indicators?id=DC99", 404, "there are DC1"),
        ("/api/v1/indicators?level=galaxy", 400, "site, district, operator, city"),
        ("/api/v1/indicators?area=1", 404, "no area `1`"),
        ("/api/v1/nothing", 404, "nothing answers at /api/v1/nothing"),
    ] {
        let (got, error) = server.refused(path).await;
        assert_eq!(got, status, "{path}: {error}");
        assert!(error.contains(hint), "{path}: {error}");
    }
    let deleted = reqwest::Client::new().delete(format!("http://{}/api/v1/sites", server.address)).send().await;
    assert_eq!(deleted.expect("an answer").status(), StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test(flavor = "multi_thread")]
async fn state_ledger_sites_and_metrics_can_be_asked_for() {
    let server = Running::start(None).await;
    assert_eq!(server.json("/health").await["status"], json!("alive"));
    assert_eq!(server.ask("/ready").await.0, StatusCode::SERVICE_UNAVAILABLE);
    let ledger = server.json("/api/v1/ledger").await;
    assert_eq!(ledger["messages"]["rejected"], json!({ "total": 1, "reasons": { "malformed_json": 1 } }));
    assert_eq!((&ledger["messages"]["received"], &ledger["balanced"]), (&json!(3), &json!(true)));
    assert_eq!(server.json("/api/v1/health").await["parts"][0]["state"], json!("up"));
    let letters = server.json("/api/v1/dead_letters").await;
    assert_eq!(letters["rows"][0]["payload"], json!("{\u{fffd}"));
    let sites = server.json("/api/v1/sites?kind=base_station").await["rows"].take();
    assert_eq!((&sites[0]["name"], &sites[0]["devices"][0]["metrics"][1]["unit"]), (&json!(HOSTILE), &json!("kWh")));
    let kinds = server.json("/api/v1/sites?summary=true").await;
    let expected = json!([{ "kind": "base_station", "sites": 2, "heard_sites": 0, "registered_devices": 2, "unregistered_devices": 1 }]);
    assert_eq!(kinds["kinds"], expected);
    let (_, metrics) = server.ask("/metrics").await;
    for line in [
        "sitepulse_messages_received_total 3",
        r#"sitepulse_messages_rejected_total{source="east",reason="malformed_json"} 1"#,
        r#"sitepulse_part_state{kind="mqtt",name="east"} 3"#,
        r#"sitepulse_part_state_changes_total{kind="mqtt",name="east"} 1"#,
        "sitepulse_ledger_balanced 1",
        // It has never had a row, so it has them all to come.
        r#"sitepulse_sink_feed_behind_entries{sink="away",feed="indicator"} 2"#,
        "sitepulse_store_rows_shed 0",
    ] {
        assert!(metrics.lines().any(|have| have == line), "{line} is not in\n{metrics}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_is_no_longer_configured_has_no_gauge() {
    let server = Running::start(None).await;
    let mut side = SideWriter::open(&server.store).expect("a writer");
    for sink in ["series", "removed"] {
        side.set_position(sink, Feed::Rollup, 1).expect("a position");
    }
    let (_, metrics) = server.ask("/metrics").await;
    let of = |sink: &str| metrics.lines().filter(|line| line.contains(&format!("sink=\"{sink}\""))).count();
    assert!(of("series") > 0 && of("removed") == 0, "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configured_token_is_wanted_everywhere_but_for_life_signs_and_the_page() {
    let server = Running::start(Some("s3cret")).await;
    let client = reqwest::Client::new();
    let url = |path: &str| format!("http://{}{path}", server.address);
    for path in ["/health", "/ready", "/", "/page.js", "/page.css"] {
        assert_ne!(server.ask(path).await.0, StatusCode::UNAUTHORIZED, "{path}");
    }
    for path in ["/metrics", "/api/v1/ledger", "/api/v1/sites", "/api/v1/rollups", "/api/v1/live"] {
        let answer = client.get(url(path)).bearer_auth("s3cres").send().await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{path}");
        assert_eq!(answer.headers()["www-authenticate"], "Bearer");
    }
    let answer = client.get(url("/api/v1/ledger")).bearer_auth("s3cret").send().await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::OK);
    let opened = |token: &str| {
        let body = json!({ "token": token }).to_string();
        client.post(url("/api/v1/session")).header("content-type", "application/json").body(body).send()
    };
    assert_eq!(opened("wrong").await.expect("an answer").status(), StatusCode::UNAUTHORIZED);
    let cookie = opened("s3cret").await.expect("an answer").headers()["set-cookie"].to_str().expect("text").to_owned();
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
    let pair = cookie.split(';').next().expect("a pair");
    let answer = client.get(url("/api/v1/ledger")).header("cookie", pair).send().await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stored_right_after_a_client_came_does_not_fall_between_two_looks() {
    let server = Running::start(None).await;
    let mut stream = reqwest::get(format!("http://{}/api/v1/live", server.address)).await.expect("a stream");
    store_indicator(&server.store, &indicator(T0, Some(1.5)));
    let mut heard = String::new();
    let read = async {
        while !heard.contains("event: indicator") {
            heard.push_str(&String::from_utf8_lossy(&stream.chunk().await.expect("a chunk").expect("more")));
        }
    };
    tokio::time::timeout(Duration::from_secs(10), read).await.expect("in time");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_live_stream_brings_what_is_stored_after_the_client_came_and_ends_with_the_daemon() {
    let server = Running::start(None).await;
    let mut stream = reqwest::get(format!("http://{}/api/v1/live", server.address)).await.expect("a stream");
    let mut heard = String::new();
    let read = async {
        // A first ledger shows that the look that sets the starting place is done.
        while !heard.contains("event: ledger") {
            heard.push_str(&String::from_utf8_lossy(&stream.chunk().await.expect("a chunk").expect("more")));
        }
        store_indicator(&server.store, &indicator(T0, Some(1.5)));
        while !heard.contains("event: indicator") || !heard.ends_with("\n\n") {
            heard.push_str(&String::from_utf8_lossy(&stream.chunk().await.expect("a chunk").expect("more")));
        }
        server.stop.send_replace(true);
        while stream.chunk().await.expect("a clean end").is_some() {}
    };
    tokio::time::timeout(Duration::from_secs(20), read).await.expect("in time");
    let event = heard.split("\n\n").find(|event| event.contains("event: indicator")).expect("an event");
    let data = event.lines().find_map(|line| line.strip_prefix("data: ")).expect("data");
    let row: Value = serde_json::from_str(data).expect("JSON");
    assert_eq!((&row["value"], &row["target"]["met"]), (&json!(1.5), &json!(false)));
}
