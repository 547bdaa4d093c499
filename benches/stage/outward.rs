//! Stages between the store and those who read it.

use std::path::Path;

use jiff::tz::TimeZone;
use sitepulse::bench::{self, City, METRICS, START_MS};
use sitepulse::indicator;
use sitepulse::inventory::Inventory;
use sitepulse::model::{BASE_WINDOW_MS, DeviceId, Timestamp, Window};
use sitepulse::rollup::{Aggregate, BaseMetric, BaseRow, Fold, Point};
use sitepulse::store::SeriesRow;

use crate::Request;
use crate::support::{Line, median, per};

/// Lines of a write.
const BATCH_LINES: usize = 5_000;

/// Rows of one minute of a city, of every site's 13 series, as the store gives them.
fn rows(inventory: &Inventory) -> Vec<SeriesRow> {
    let start = Timestamp::from_millis(START_MS);
    let end = start.plus_millis(BASE_WINDOW_MS);
    let mut rng = fastrand::Rng::with_seed(2);
    let mut rows = Vec::new();
    for device in inventory.devices() {
        for metric in &device.profile.metrics {
            let id = inventory.metrics.find(&metric.name).expect("a metric");
            let mut points = (0..6).map(|slot| Point {
                time: start.plus_millis(slot * 10_000),
                value: f64::from(rng.u32(0..10_000)) / 10.0,
            });
            let mut aggregate = Aggregate::of(points.next().expect("six"));
            points.for_each(|point| aggregate.add(point));
            let base = BaseMetric { metric: id, aggregate, heard: 6 };
            let row = BaseRow { start, interval_ms: Some(10_000), late: 0, metrics: vec![base] };
            let mut fold = Fold::new(metric, None);
            fold.add(&row, &base, 0);
            let combined = fold.finish(start, end).expect("a row");
            let (device, window) = (DeviceId(device.id.0), Window::Minute1);
            rows.push(SeriesRow { device, metric: id, window, start, end, combined, is_final: true, revision: 1 });
        }
    }
    rows
}

fn lines(city: &City) -> Vec<String> {
    let rows = rows(city.inventory());
    let line = |device: &[SeriesRow]| {
        let mut text = String::new();
        bench::influx::line(&mut text, city.inventory(), device).map(|()| text)
    };
    rows.chunks(METRICS.len()).filter_map(line).collect()
}

pub(crate) fn line(request: &Request, _: &Path) -> Line {
    let city = City::new(request.sites);
    let rows = rows(city.inventory());
    let ns = median(
        request.samples,
        || (),
        |()| {
            let mut text = String::new();
            for batch in rows.chunks(BATCH_LINES * METRICS.len()) {
                text.clear();
                for device in batch.chunks(METRICS.len()) {
                    bench::influx::line(&mut text, city.inventory(), device);
                }
            }
            text.len()
        },
    );
    let fields = lines(&City::new(1))[0].matches(',').count() - 4;
    let note = format!("line protocol of a device's minute, {fields} fields");
    Line { stage: "line", ns: per(ns, city.sites()), floor_ns: Some(1_350.0 / 52.0 * per_float(fields)), note }
}

#[expect(clippy::cast_precision_loss, reason = "few")]
fn per_float(count: usize) -> f64 {
    count as f64
}

pub(crate) fn gzip(request: &Request, _: &Path) -> Line {
    let lines = lines(&City::new(BATCH_LINES));
    let text: String = lines.iter().flat_map(|line| [line, "\n"]).collect();
    let mut compressed = 0;
    let ns = median(request.samples, || (), |()| compressed = bench::influx::compress(&text));
    let plain: usize = lines.iter().map(|line| line.len() + 1).sum();
    let per_line = per(ns, lines.len());
    let note = format!(
        "a line of {} B, {:.0} MB/s, ratio {:.1}",
        plain / lines.len(),
        per_float(plain) / ns * 1e3,
        per_float(plain) / per_float(compressed)
    );
    let floor_ns = per_float(plain) / per_float(lines.len()) / 313e6 * 1e9;
    Line { stage: "gzip", ns: per_line, floor_ns: Some(floor_ns), note }
}

pub(crate) fn indicators(request: &Request, _: &Path) -> Line {
    let city = City::new(request.sites);
    let rows = rows(city.inventory());
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/config/indicators/base_station.toml");
    let definitions = indicator::parse(file, &std::fs::read_to_string(file).expect("a file")).expect("indicators");
    let start = Timestamp::from_millis(START_MS);
    let mut computed = 0;
    let ns = median(
        request.samples,
        || (),
        |()| {
            let window = Window::Minute1;
            computed = indicator::compute(&definitions, city.inventory(), &TimeZone::UTC, window, start, &rows).len();
        },
    );
    let note = format!("a site's share of {computed} indicators of a minute");
    Line { stage: "indicators", ns: per(ns, request.sites), floor_ns: None, note }
}
