//! A whole city's five minutes, read from the store and computed as the indicator worker does.
//!
//! It runs in a process of its own, so that its peak of memory is not that of what made the store.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use jiff::tz::TimeZone;
use sitepulse::bench::{self, City, START_MS};
use sitepulse::indicator::{self, Computation};
use sitepulse::journal::Entry;
use sitepulse::model::{BASE_WINDOW_MS, Timestamp, Window};
use sitepulse::store::{Devices, Reader, SeriesQuery, StorePath};

use crate::Request;
use crate::support::{Line, measure, per};

/// The folder of the store that a process is to read a window of.
const STORE: &str = "SITEPULSE_BENCH_WINDOW";
/// Minutes of the window, and those before it.
const MINUTES: usize = 5;
const MINUTES_BEFORE: usize = 5;
/// Milliseconds between the messages of a site.
const INTERVAL_MS: usize = 10_000;

fn ms(count: usize) -> i64 {
    i64::try_from(count).expect("short")
}

/// Start of the window, which is on the grid of five minutes.
fn window_start() -> Timestamp {
    Timestamp::from_millis(START_MS + ms(MINUTES_BEFORE) * BASE_WINDOW_MS)
}

/// Writes the window and the minutes before it, flush by flush; ns and bytes for each row of a flush.
fn fill(request: &Request, folder: &Path) -> (f64, usize) {
    let mut city = City::new(request.sites);
    let (mut roller, mut writer) = bench::roller_and_writer(&city, folder).expect("a store");
    bench::roller::flush(&mut roller, &mut writer, Timestamp::from_millis(START_MS)).expect("a store");
    let (mut spent, mut rows, mut bytes) = (0.0, 0, 0);
    let messages = (MINUTES + MINUTES_BEFORE) * 60_000 / INTERVAL_MS;
    for message in 0..=messages {
        let at_ms = START_MS + ms(message * INTERVAL_MS);
        let entries: Vec<Entry> = city.frames(at_ms).into_iter().map(Entry::Frame).collect();
        bench::roller::apply(&mut roller, &entries, &writer).expect("a store");
        let before = written();
        let now = Timestamp::from_millis(at_ms + ms(INTERVAL_MS) / 2);
        let (ns, flushed) = measure(|| bench::roller::flush(&mut roller, &mut writer, now).expect("a store"));
        // The first minute begins the file.
        if message * INTERVAL_MS >= 60_000 {
            (spent, rows, bytes) = (spent + ns, rows + flushed, bytes + written() - before);
        }
    }
    (per(spent, rows), bytes / rows)
}

/// Bytes that this process has handed to the disk.
fn written() -> usize {
    field("/proc/self/io", "write_bytes:")
}

fn field(file: &str, name: &str) -> usize {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

pub(crate) fn window(request: &Request, folder: &Path) -> Line {
    let folder = folder.join("window");
    std::fs::create_dir_all(&folder).expect("a folder");
    let (flushed_ns, flushed_bytes) = fill(request, &folder);
    let program = std::env::current_exe().expect("a program");
    let output = Command::new(program)
        .arg(format!("sites={}", request.sites))
        .arg(format!("samples={}", request.samples))
        .env(STORE, &folder)
        .output()
        .expect("a process");
    let text = String::from_utf8(output.stdout).expect("text");
    let (ns, note) = text.trim().split_once(' ').unwrap_or(("0", "it failed"));
    let note = format!("{note}; before that each flushed row {flushed_ns:.0} ns and {flushed_bytes} B to the disk");
    Line { stage: "window", ns: ns.parse().expect("a number"), floor_ns: None, note }
}

/// What a process that [`window`] started does: reads and computes the window, and says what it took.
pub(crate) fn read(request: &Request) -> Option<String> {
    let folder = PathBuf::from(std::env::var_os(STORE)?);
    let city = City::new(request.sites);
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/config/indicators/base_station.toml");
    let definitions = indicator::parse(file, &std::fs::read_to_string(file).expect("a file")).expect("indicators");
    let reader = Reader::open(&StorePath::in_folder(&folder)).expect("a store");
    let start = window_start();
    let query = SeriesQuery {
        inventory: city.inventory(),
        zone: &TimeZone::UTC,
        window: Window::Minute5,
        from: start,
        to: start.plus_millis(1),
        devices: Devices::All,
        metric: None,
        now: start.plus_millis(86_400_000),
    };
    let before_kib = field("/proc/self/status", "VmHWM:");
    let mut runs = Vec::new();
    let mut series = 0;
    for _ in 0..request.samples {
        series = 0;
        let began = Instant::now();
        let (ns, _rows) = measure(|| {
            let mut computation =
                Computation::new(&definitions, city.inventory(), &TimeZone::UTC, Window::Minute5, start);
            let mut each = |row| {
                computation.add(&row);
                series += 1;
                ControlFlow::Continue(())
            };
            reader.visit_series(&query, &mut each).expect("a store");
            computation.finish()
        });
        runs.push((ns, began.elapsed().as_secs_f64()));
    }
    runs.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (ns, seconds) = runs[runs.len() / 2];
    let peak_kib = field("/proc/self/status", "VmHWM:");
    Some(format!(
        "{} {series} series of 5 minutes in {seconds:.2} s ({:.2} s of CPU), with {} MiB at the most beside {} MiB of names",
        per(ns, request.sites),
        ns / 1e9,
        (peak_kib - before_kib) >> 10,
        before_kib >> 10
    ))
}
