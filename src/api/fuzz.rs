//! Requests to the API, without a socket, from a store with a few rows.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, RwLock};

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::http::{Request, StatusCode, header};
use jiff::tz::TimeZone;
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tower_service::Service as _;

use super::readers::Readers;
use super::{Context, Server, live, router};
use crate::clock::Clock;
use crate::health::Health;
use crate::indicator::{Description, Level};
use crate::inventory::{Connection, Device, Inventory, MetricDef, Profile, Site, TimePolicy, UnknownMetrics};
use crate::ledger::Ledger;
use crate::model::{DeviceId, JournalPosition, MetricId, Timestamp, Window};
use crate::rollup::DeviceWindow;
use crate::store::{
    Flush, FlushedRow, IndicatorRow, SideWriter, StaleWindow, StorePath, StoredDevice, Writer, WriterOptions,
};

/// 2026-11-24T08:00:00Z.
const NOW: Timestamp = Timestamp::from_millis(1_795_507_200_000);
/// Names that the inventory takes and that are hard on a table, a page and a query.
const NAMES: [&str; 3] = ["B_1", "b, \"1\"; x=<i>", "福州 '站'"];
const METRIC: &str = "pwr_w";
/// Longest answer.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Statuses that a client may meet; that the store cannot be read is none of them.
const STATUSES: [u16; 10] = [200, 204, 400, 401, 404, 405, 414, 415, 422, 503];

struct Bench {
    runtime: Runtime,
    router: Router,
    _stop: watch::Sender<bool>,
    _folder: TempDir,
}

thread_local! {
    static BENCH: Bench = Bench::new();
}

/// `G` and a path with its query, or `P` with a path, a line feed and a body to post there.
pub fn api(data: &[u8]) {
    let Some((method, rest)) = data.split_first() else { return };
    let mut parts = rest.splitn(2, |&byte| byte == b'\n');
    let (path, body) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let request = Request::builder().uri(path);
    let request = match method {
        b'P' => request.method("POST").header(header::CONTENT_TYPE, "application/json").body(Body::from(body.to_vec())),
        _ => request.body(Body::empty()),
    };
    // What is no request does not get here.
    let Ok(request) = request else { return };
    let endless = request.uri().path() == "/api/v1/live";
    BENCH.with(|bench| {
        let mut router = bench.router.clone();
        bench.runtime.block_on(async move {
            let Ok(answer) = router.call(request).await;
            assert!(STATUSES.contains(&answer.status().as_u16()), "{}", answer.status());
            for guard in [header::CONTENT_SECURITY_POLICY, header::X_CONTENT_TYPE_OPTIONS] {
                assert!(answer.headers().contains_key(guard));
            }
            let kind = answer.headers().get(header::CONTENT_TYPE).map(|kind| kind.to_str().expect("text").to_owned());
            if !endless || answer.status() != StatusCode::OK {
                let body = to_bytes(answer.into_body(), ANSWER_BYTES_MAX).await.expect("an answer of bounded size");
                check_body(&kind.unwrap_or_default(), &body);
            }
        });
    });
}

fn check_body(kind: &str, body: &Bytes) {
    let text = std::str::from_utf8(body).expect("UTF-8");
    if kind.starts_with("application/json") {
        let value: Value = serde_json::from_str(text).expect("JSON");
        assert!(value["rows"].as_array().is_none_or(|rows| rows.len() <= 100_000), "more rows than may be");
    } else if kind.starts_with("text/csv") {
        check_csv(text);
    } else if kind.starts_with("application/openmetrics-text") {
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (_, value) = line.rsplit_once(' ').expect("a name and a value");
            assert!(value.parse::<f64>().is_ok(), "{line}");
        }
    } else if kind.starts_with("image/svg+xml") && text.contains("<title>") {
        assert_eq!(text.matches('<').count(), text.matches('>').count(), "{text}");
        assert!(!text.contains("<i>") && !text.contains("NaN"), "{text}");
    }
}

/// Rows of one width, and no cell that a spreadsheet would compute.
fn check_csv(text: &str) {
    let mut rows = csv::ReaderBuilder::new().has_headers(false).flexible(false).from_reader(text.as_bytes());
    for row in rows.records() {
        for cell in &row.expect("rows of one width") {
            let formula = cell.starts_with(['=', '+', '-', '@', '\t', '\r']);
            assert!(!formula || cell.parse::<f64>().is_ok(), "{cell:?}");
        }
    }
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let store = StorePath::in_folder(folder.path());
        let inventory = inventory();
        fill(&store, &inventory);
        let runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
        let (stop, stopped) = watch::channel(false);
        let context = Context {
            store: store.clone(),
            inventory: Arc::new(RwLock::new(Arc::new(inventory))),
            descriptions: [description()].into(),
            zone: TimeZone::get("Asia/Shanghai").unwrap_or(TimeZone::UTC),
            clock: Clock::scaled(NOW, 1e-6),
            health: Arc::new(Health::default()),
            ledger: Arc::new(Ledger::default),
            ready: Arc::new(AtomicBool::new(true)),
        };
        let entered = runtime.enter();
        let readers = Readers::new(store);
        let live = live::start(context.clone(), readers.clone(), stopped);
        drop(entered);
        let router = router(Server { context, readers, live, token: None });
        Self { runtime, router, _stop: stop, _folder: folder }
    }
}

fn inventory() -> Inventory {
    let mut inventory = Inventory::default();
    let metrics = vec![MetricDef { unit: "W".to_owned(), ..MetricDef::gauge(METRIC) }];
    let profile = Arc::new(Profile {
        id: "meter".to_owned(),
        description: String::new(),
        interval_ms: Some(10_000),
        unknown_metrics: UnknownMetrics::Accept,
        time: TimePolicy::default(),
        metrics,
    });
    for name in NAMES {
        let site = inventory.add_site(Site {
            id: Arc::from(name),
            name: name.to_owned(),
            kind: Arc::from("base_station"),
            area: Arc::from("350102"),
            operator: Arc::from(name),
            position: Some((26.08, 119.3)),
            attributes: BTreeMap::new(),
            in_service_from: None,
            in_service_to: None,
        });
        inventory.add_device(Device {
            id: DeviceId(0),
            site,
            name: Arc::from(name),
            profile: profile.clone(),
            connection: Connection::Mqtt,
            interval_ms: Some(10_000),
            registered: true,
        });
    }
    inventory.metrics.intern(METRIC);
    inventory
}

fn description() -> Description {
    Description {
        id: "DC1".to_owned(),
        name: "PUE <i>\"a\", b & c".to_owned(),
        name_zh: "电能利用效率".to_owned(),
        unit: "1".to_owned(),
        source: "ISO/IEC 30134-2".to_owned(),
        levels: Level::ALL.into(),
        windows: [Window::Hour1].into(),
        target: None,
    }
}

/// Readings in the last hour, far below and above zero, and an indicator of each operator.
fn fill(store: &StorePath, inventory: &Inventory) {
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
    let devices: Vec<_> = inventory.devices().iter().map(|device| StoredDevice::of(inventory, device)).collect();
    let start = NOW.plus_millis(-600_000);
    let windows: Vec<_> = [-1e300, 0.5, 7.0]
        .map(|value| {
            let mut window = DeviceWindow::new(start, Some(10_000), Arc::new(vec![MetricId(0)]));
            window.apply(0, MetricId(0), start, value);
            window.apply(0, MetricId(0), start.plus_millis(10_000), -value);
            window
        })
        .into();
    let mut rows = windows.iter().zip(0..).map(|(window, device)| FlushedRow {
        device: DeviceId(device),
        window,
        has_counters: false,
    });
    let mut flush = Flush {
        now: NOW,
        rows: &mut rows,
        devices: &devices,
        metrics: &[(MetricId(0), Arc::from(METRIC))],
        ledger: &Ledger::default(),
        position: JournalPosition(1),
        dead_letters: &[],
    };
    writer.flush(&mut flush).expect("the store takes it");
    let start = NOW.plus_millis(-3_600_000);
    let indicators = NAMES.map(|name| IndicatorRow {
        seq: 0,
        id: Arc::from("DC1"),
        level: Level::Operator,
        area: Arc::from("350100"),
        operator: Arc::from(name),
        site: Arc::from(""),
        window: Window::Hour1,
        start,
        value: Some(-1.25),
        numerator: Some(1e300),
        denominator: None,
        completeness: Some(1.0),
        revision: 1,
    });
    let mark = StaleWindow { window: Window::Hour1, start, generation: 0 };
    let mut writer = SideWriter::open(store).expect("a writer");
    writer.write_indicators(&indicators, &mark).expect("the store takes them");
}
