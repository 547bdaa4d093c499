//! The stages, each by itself on what the one before it would give.

pub(crate) mod fixed;
mod outward;
pub(crate) mod window;

use std::fmt::Write as _;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use sitepulse::bench::{self, City, METRICS, START_MS};
use sitepulse::decode::native;
use sitepulse::journal::{Entry, Folder};
use sitepulse::model::{Frame, MetricId, Timestamp};
use sitepulse::rollup::DeviceWindow;

use crate::Request;
use crate::support::{Line, measure, median, per};

/// A stage: its name, whether it is part of the whole path, and what measures it.
type Stage = (&'static str, bool, fn(&Request, &Path) -> Line);

/// Messages of one group that is synced: 20 ms of a city at 1 Hz.
pub(crate) const GROUP_MESSAGES: usize = 1_500;
/// Seconds between the flushes of a whole city, see `src/pipeline/schedule.rs`.
pub(crate) const FLUSH_INTERVAL_S: usize = 60;
/// Seconds of a city at 1 Hz that a stage is measured over where a minute would be too long.
const SAMPLE_S: usize = 5;

pub(crate) const ALL: [Stage; 16] = [
    ("mqtt", true, mqtt),
    ("gather", true, gather),
    ("frame", true, frame),
    ("append", true, append),
    ("read", true, read),
    ("unframe", false, unframe),
    ("decode", true, decode),
    ("lookup", true, look_up),
    ("rollup", true, roll_up),
    ("flush", true, flush),
    ("merge", false, merge),
    ("pack", false, pack),
    ("line", false, outward::line),
    ("gzip", false, outward::gzip),
    ("indicators", false, outward::indicators),
    ("window", false, window::window),
];

/// Messages of every site, in random order.
fn messages(sites: usize) -> (City, Vec<Frame>) {
    let mut city = City::new(sites);
    let frames = city.frames(START_MS);
    (city, frames)
}

fn mqtt(request: &Request, _: &Path) -> Line {
    let (bytes, ends) = City::new(request.sites).packets(START_MS);
    let ns = median(request.samples, || (), |()| bench::mqtt::read_and_acknowledge(&bytes));
    let note = format!("assembler, session, acknowledgements; {} B a PUBLISH", bytes.len() / ends.len());
    Line { stage: "mqtt", ns: per(ns, ends.len()), floor_ns: Some(90.0), note }
}

/// What the source does beyond the protocol: each message is copied into the memory of one of the batch before.
fn gather(request: &Request, folder: &Path) -> Line {
    let (bytes, ends) = City::new(request.sites).packets(START_MS);
    let ns = median(request.samples, || (), |()| bench::mqtt::read_and_gather(&bytes, GROUP_MESSAGES));
    let rest = mqtt(request, folder).ns;
    let note = format!("messages -> frames of a batch of {GROUP_MESSAGES}, in the memory of the one before");
    Line { stage: "gather", ns: per(ns, ends.len()) - rest, floor_ns: None, note }
}

fn frame(request: &Request, _: &Path) -> Line {
    let (_, frames) = messages(request.sites);
    let mut out = Vec::new();
    let groups = || frames.chunks(GROUP_MESSAGES);
    let ns = median(
        request.samples,
        || (),
        |()| {
            groups().for_each(|group| {
                out.clear();
                bench::journal::encode_records(group, &mut out);
            });
        },
    );
    let note = "a record of the journal with its checksum".to_owned();
    Line { stage: "frame", ns: per(ns, frames.len()), floor_ns: Some(42.0), note }
}

fn append(request: &Request, folder: &Path) -> Line {
    let (_, frames) = messages(GROUP_MESSAGES);
    let mut group = Vec::new();
    bench::journal::encode_records(&frames, &mut group);
    let folder = Folder::open(folder.join("append")).expect("a folder");
    let groups = request.sites.div_ceil(GROUP_MESSAGES);
    let ns = median(
        request.samples,
        || (),
        |()| {
            bench::journal::append_and_sync(&folder, &group, groups).expect("a disk");
        },
    );
    let note = format!("write and fdatasync every {GROUP_MESSAGES} messages, {} KiB", group.len() >> 10);
    Line { stage: "append", ns: per(ns, groups * GROUP_MESSAGES), floor_ns: Some(258.0), note }
}

fn unframe(request: &Request, _: &Path) -> Line {
    let (_, frames) = messages(request.sites);
    let mut records = Vec::new();
    bench::journal::encode_records(&frames, &mut records);
    let ns = median(request.samples, || (), |()| bench::journal::decode_records(&frames, &records));
    let note = "a record becomes a frame".to_owned();
    Line { stage: "unframe", ns: per(ns, frames.len()), floor_ns: None, note }
}

/// The journal read back from its files, which the system has in memory still.
fn read(request: &Request, folder: &Path) -> Line {
    let (_, frames) = messages(request.sites);
    let folder = tempfile::tempdir_in(folder).expect("a folder");
    let (count, journal) = (frames.len(), bench::journal::filled(folder.path(), frames, GROUP_MESSAGES));
    let ns = median(request.samples, || (), |()| bench::journal::read_all(&journal));
    let note = "records read from the journal, checked, made frames".to_owned();
    Line { stage: "read", ns: per(ns, count), floor_ns: None, note }
}

fn decode(request: &Request, _: &Path) -> Line {
    let (_, frames) = messages(request.sites);
    let ns = median(
        request.samples,
        || (),
        |()| frames.iter().filter(|frame| native::decode(std::hint::black_box(&frame.payload)).is_ok()).count(),
    );
    let note =
        format!("native JSON, {} B", frames.iter().map(|frame| frame.payload.len()).sum::<usize>() / frames.len());
    Line { stage: "decode", ns: per(ns, frames.len()), floor_ns: Some(590.0), note }
}

fn look_up(request: &Request, folder: &Path) -> Line {
    let (city, frames) = messages(request.sites);
    let folder = tempfile::tempdir_in(folder).expect("a folder");
    let (mut roller, _writer) = bench::roller_and_writer(&city, folder.path()).expect("a store");
    let decoded: Vec<_> = frames.iter().map(|frame| native::decode(&frame.payload).expect("a message")).collect();
    let mut all = || {
        let pairs = frames.iter().zip(&decoded);
        pairs.filter(|(frame, message)| bench::roller::look_up(&mut roller, frame, message).is_ok()).count()
    };
    assert_eq!(all(), frames.len());
    let ns = median(request.samples, || (), |()| all());
    let note = "topic -> device, 13 names -> slots, ranges; cold, random order".to_owned();
    Line { stage: "lookup", ns: per(ns, frames.len()), floor_ns: Some(29.0), note }
}

/// What the roller does beyond decoding and looking up: windows made and found, readings merged, everything counted. A
/// whole minute of it, since windows grow.
fn roll_up(request: &Request, folder: &Path) -> Line {
    let (mut city, _) = messages(request.sites);
    let folder_of_store = tempfile::tempdir_in(folder).expect("a folder");
    let (mut roller, writer) = bench::roller_and_writer(&city, folder_of_store.path()).expect("a store");
    let (mut ns, mut count) = (0.0, 0);
    for second in (0..FLUSH_INTERVAL_S).step_by(request.interval_s) {
        let entries = entries(&mut city, second..second + 1);
        ns += measure(|| bench::roller::apply(&mut roller, &entries, &writer).expect("a store")).0;
        count += entries.len();
    }
    let rest = decode(request, folder).ns + look_up(request, folder).ns;
    let note = format!("roller without decode and lookup; with them {:.0} ns", per(ns, count));
    Line { stage: "rollup", ns: per(ns, count) - rest, floor_ns: Some(220.0), note }
}

/// Messages of every site for each of some seconds.
fn entries(city: &mut City, seconds: Range<usize>) -> Vec<Entry> {
    seconds.flat_map(|second| city.frames(at_ms(second))).map(Entry::Frame).collect()
}

fn at_ms(second: usize) -> i64 {
    START_MS + i64::try_from(second).expect("short") * 1_000
}

/// The windows of every device alone: no topics, no ledger, no map.
fn merge(request: &Request, _: &Path) -> Line {
    let metrics: Arc<Vec<MetricId>> = Arc::new((0..13).map(MetricId).collect());
    let start = Timestamp::from_millis(START_MS);
    let mut order: Vec<usize> = (0..request.sites).collect();
    let mut rng = fastrand::Rng::with_seed(1);
    rng.shuffle(&mut order);
    let fresh = || -> Vec<DeviceWindow> {
        (0..request.sites).map(|_| DeviceWindow::new(start, Some(10_000), metrics.clone())).collect()
    };
    let ns = median(request.samples, fresh, |windows| {
        for second in 0..SAMPLE_S {
            let time = Timestamp::from_millis(at_ms(second));
            for &site in &order {
                for slot in 0..13u32 {
                    let value = f64::from(slot * 7 + 1) + 0.1;
                    windows[site].apply(slot as usize, MetricId(slot), time, value);
                }
            }
        }
    });
    let note = format!("{} series in random order of sites", request.sites * METRICS.len());
    Line { stage: "merge", ns: per(ns, order.len() * SAMPLE_S), floor_ns: Some(220.0), note }
}

/// A roller whose windows hold a minute's messages of every site, over a store that has the minute before.
fn filled(request: &Request, folder: &Path) -> impl FnMut() -> Filled {
    let (mut city, _) = messages(request.sites);
    let (folder, interval_s) = (folder.to_owned(), request.interval_s);
    move || {
        let folder = tempfile::tempdir_in(&folder).expect("a folder");
        let (mut roller, mut writer) = bench::roller_and_writer(&city, folder.path()).expect("a store");
        for minute in 0..2 {
            // Names come with the first flush, and the log has its length from the second on.
            let now = Timestamp::from_millis(at_ms(minute * FLUSH_INTERVAL_S));
            bench::roller::flush(&mut roller, &mut writer, now).expect("a store");
            for second in (minute * FLUSH_INTERVAL_S..(minute + 1) * FLUSH_INTERVAL_S).step_by(interval_s) {
                bench::roller::apply(&mut roller, &entries(&mut city, second..second + 1), &writer).expect("a store");
            }
        }
        Filled { roller, writer, folder }
    }
}

struct Filled {
    roller: sitepulse::pipeline::Roller,
    writer: sitepulse::store::Writer,
    folder: tempfile::TempDir,
}

fn pack(request: &Request, folder: &Path) -> Line {
    let mut scratch = Vec::new();
    let mut size = (0, 0);
    let fresh = filled(request, folder);
    let ns = median(request.samples, fresh, |filled| size = bench::roller::pack(&filled.roller, &mut scratch));
    let messages = FLUSH_INTERVAL_S.div_ceil(request.interval_s);
    let note = format!("per row of {messages} messages, {} B; with the order of rows", size.1 / size.0);
    Line { stage: "pack", ns: per(ns, size.0), floor_ns: None, note }
}

fn flush(request: &Request, folder: &Path) -> Line {
    let (mut rows, mut bytes) = (0, 0);
    let fresh = filled(request, folder);
    let now = Timestamp::from_millis(at_ms(2 * FLUSH_INTERVAL_S));
    let ns = median(request.samples, fresh, |filled| {
        rows = bench::roller::flush(&mut filled.roller, &mut filled.writer, now).expect("a store");
        bytes = bytes_of(&filled.folder.path().join("sitepulse.db-wal"));
    });
    let messages = FLUSH_INTERVAL_S.div_ceil(request.interval_s);
    let mut note =
        format!("pack, SQLite, fsync: {:.0} ns a row, of which one stands for {messages} messages", per(ns, rows));
    if bytes > 0 {
        // One that grew long was folded into the store within the flush.
        write!(note, "; log {} B a row", bytes / rows).expect("invariant: writing to memory does not fail");
    }
    // The floor is of a row of one series of 58 B; a row here has 13.
    Line { stage: "flush", ns: per(ns, rows * messages), floor_ns: None, note }
}

/// Bytes of a file; 0 where there is none.
pub(crate) fn bytes_of(file: &Path) -> usize {
    std::fs::metadata(file).map_or(0, |data| usize::try_from(data.len()).expect("a size"))
}
