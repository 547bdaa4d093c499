//! Flushes: all or nothing, and what comes back after a restart.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::{City, DAY, ENERGY, GRACE, HOUR, MINUTE, POWER, at, options};
use crate::ledger::{Ledger, Rejection};
use crate::model::{DeviceId, JournalPosition, MetricId, Timestamp, Window};
use crate::rollup::{BaseRow, DeviceWindow};
use crate::store::{
    DeadLetter, Devices, Error, Flush, FlushedRow, Reader, StoreBound, StorePath, StoredDevice, Unlisted, Writer,
    WriterOptions,
};

#[test]
fn a_flush_that_breaks_off_leaves_no_row_and_no_position() {
    let mut city = City::new(&[2]);
    city.hear(0, at(0), POWER, 1.0);
    city.flush(at(MINUTE));
    let mut window = DeviceWindow::new(at(MINUTE), None, Arc::new(vec![POWER]));
    window.apply(0, POWER, at(MINUTE), 2.0);
    let mut ledger = Ledger::default();
    ledger.source(&Arc::from("broker")).applied = 1;
    let mut left = 2;
    let mut rows = std::iter::from_fn(|| {
        left -= 1;
        assert!(left > 0, "the process ends here");
        Some(FlushedRow { device: DeviceId(0), window: &window, has_counters: true })
    });
    let mut flush = Flush {
        now: at(DAY),
        rows: &mut rows,
        devices: &[],
        metrics: &[(MetricId(7), Arc::from("humidity_pct"))],
        ledger: &ledger,
        position: JournalPosition(9),
        dead_letters: &[],
    };
    assert!(catch_unwind(AssertUnwindSafe(|| city.writer.flush(&mut flush))).is_err());
    city.restart(options());
    assert_eq!(city.writer.position().expect("a position"), JournalPosition(1));
    assert_eq!(city.writer.load(at(MINUTE), DeviceId(0)).expect("a store"), None);
    assert_eq!(city.writer.newest_row().expect("a store"), Some(at(0)));
    assert_eq!(city.writer.final_until(), Some(at(MINUTE - GRACE)));
    assert_eq!(city.writer.ledger().expect("a ledger"), Ledger::default());
    assert_eq!(city.writer.metrics().expect("metrics"), []);
}

#[test]
fn everything_that_was_flushed_is_there_after_a_restart() {
    let mut city = City::new(&[1]);
    city.hear(0, at(0), POWER, 1.5);
    let source: Arc<str> = Arc::from("broker");
    let counts = city.ledger.source(&source);
    (counts.messages_decoded, counts.readings_decoded, counts.applied) = (1, 1, 1);
    counts.reject(Rejection::MalformedJson, 3);
    let mut ledger = city.ledger.clone();
    city.flush(at(MINUTE));
    let device = StoredDevice {
        id: DeviceId(0),
        site: Arc::from("site-0"),
        name: Arc::from("meter-0"),
        kind: Arc::from("base_station"),
        area: Arc::from("350102"),
        operator: Arc::from("mobile"),
    };
    let moved = StoredDevice { area: Arc::from("350103"), ..device.clone() };
    for (device, metrics) in [(&device, vec![(POWER, Arc::from("pwr_w"))]), (&moved, Vec::new())] {
        let mut flush = Flush {
            now: at(MINUTE),
            rows: &mut std::iter::empty(),
            devices: std::slice::from_ref(device),
            metrics: &metrics,
            ledger: &ledger,
            position: JournalPosition(42),
            dead_letters: &[],
        };
        city.writer.flush(&mut flush).expect("a flush");
        ledger.source(&source).duplicate += 1;
    }
    city.restart(options());
    assert_eq!(city.writer.position().expect("a position"), JournalPosition(42));
    assert_eq!(city.writer.devices().expect("devices"), [moved]);
    assert_eq!(city.writer.metrics().expect("metrics"), [(POWER, Arc::from("pwr_w"))]);
    let back = city.writer.ledger().expect("a ledger");
    assert_eq!((back.total().duplicate, back.total().messages_rejected()), (1, 3));
    let blob = city.writer.load(at(0), DeviceId(0)).expect("a store").expect("a row");
    let row = BaseRow::unpack(at(0), &blob).expect("a row");
    assert_eq!((row.metrics[0].metric, row.metrics[0].aggregate.last.value), (POWER, 1.5));
    let reader = city.reader();
    assert_eq!(reader.position().expect("a position"), JournalPosition(42));
    assert_eq!(reader.ledger().expect("a ledger"), back);
    assert_eq!(reader.final_until().expect("an instant"), city.writer.final_until());
}

#[test]
fn a_clock_that_steps_back_makes_nothing_open_again() {
    let mut city = City::new(&[1]);
    city.hear(0, at(0), POWER, 1.0);
    city.flush(at(MINUTE));
    city.flush(at(HOUR + GRACE));
    let end = city.reader().changes(0, 100).expect("changes").last().map_or(0, |change| change.seq);
    city.restart(options());
    city.flush(at(10 * MINUTE));
    assert!(city.one(Window::Hour1, at(0), POWER).is_final);
    assert_eq!(city.reader().changes(end, 100).expect("changes"), []);
    // The windows in between are not made final a second time when the clock comes by again.
    city.flush(at(HOUR + GRACE));
    assert_eq!(city.reader().changes(end, 100).expect("changes"), []);
    // A reading for one of them makes a row that is final in its time, and amends the hour then.
    city.hear(0, at(30 * MINUTE), POWER, 3.0);
    city.flush(at(31 * MINUTE));
    assert_eq!(city.reader().changes(end, 100).expect("changes"), []);
    city.flush(at(31 * MINUTE + GRACE));
    let changes = city.reader().changes(end, 100).expect("changes");
    assert!(changes.iter().any(|change| (change.window, change.start) == (Window::Minute1, at(30 * MINUTE))));
    assert_eq!(city.one(Window::Hour1, at(0), POWER).revision, 2);
}

#[test]
fn a_file_of_a_later_version_is_refused_and_left_as_it_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = StorePath::in_folder(folder.path());
    let raw = rusqlite::Connection::open(path.file()).expect("a file");
    raw.pragma_update(None, "user_version", 99).expect("a version");
    drop(raw);
    let before = std::fs::read(path.file()).expect("a file");
    let error = Writer::open(&path, options()).expect_err("a refusal");
    assert!(matches!(error, Error::SchemaVersion { found: 99, known: 3, .. }), "{error}");
    assert!(error.to_string().contains("has schema version 99, this build reads version 3"), "{error}");
    assert!(matches!(Reader::open(&path), Err(Error::SchemaVersion { found: 99, .. })));
    assert_eq!(std::fs::read(path.file()).expect("a file"), before);
}

#[test]
fn a_store_of_version_1_is_read_and_written_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = StorePath::in_folder(folder.path());
    std::fs::copy("tests/fixtures/store-v1.db", path.file()).expect("a fixture");
    let mut writer = Writer::open(&path, options()).expect("a store");
    assert_eq!((writer.position().expect("a position").0, writer.devices().expect("devices").len()), (2, 2));
    assert_eq!(writer.newest_row().expect("rows"), Some(at(2 * MINUTE)));
    assert_eq!(writer.unlisted().expect("none"), Unlisted::default());
    let reader = Reader::open(&path).expect("a reader");
    assert_eq!(reader.changes(0, 100).expect("changes").len(), 6);
    assert_eq!(reader.sinks().expect("sinks")[0].position, 2);
    assert_eq!(reader.dead_letters(9).expect("letters").len(), 2);
    let taken_in = Unlisted { devices: vec![(DeviceId(1), Arc::from("east"))], ..Unlisted::default() };
    writer.note_unlisted(taken_in.clone());
    let ledger = writer.ledger().expect("a ledger");
    let mut flush = Flush {
        now: at(10 * MINUTE),
        rows: &mut std::iter::empty(),
        devices: &[],
        metrics: &[],
        ledger: &ledger,
        position: JournalPosition(3),
        dead_letters: &[],
    };
    writer.flush(&mut flush).expect("a flush");
    drop(writer);
    assert_eq!(Writer::open(&path, options()).expect("a store").unlisted().expect("one"), taken_in);
}

#[test]
fn a_store_of_version_2_or_3_is_read_as_it_was_written() {
    for version in [2, 3] {
        let folder = tempfile::tempdir().expect("a folder");
        let mut city = City::new(&[2, 1]);
        city.path = StorePath::in_folder(folder.path());
        std::fs::copy(format!("tests/fixtures/store-v{version}.db"), city.path.file()).expect("a fixture");
        city.restart(options());
        let writer = &city.writer;
        assert_eq!((writer.position().expect("a position").0, writer.devices().expect("devices").len()), (3, 3));
        let until = at(4 * MINUTE);
        assert_eq!((writer.newest_row().expect("rows"), writer.final_until()), (Some(at(2 * MINUTE)), Some(until)));
        let unlisted = Unlisted {
            devices: vec![(DeviceId(2), Arc::from("east"))],
            metrics: vec![(DeviceId(2), POWER)],
            ..Unlisted::default()
        };
        assert_eq!(writer.unlisted().expect("devices"), unlisted);
        assert_eq!(writer.ledger().expect("a ledger").total().applied, 73);
        let reader = city.reader();
        assert_eq!(reader.sinks().expect("sinks")[0].position, 3);
        assert_eq!(reader.dead_letters(9).expect("letters").len(), 1);
        // A minute is told anew for its late reading, and the one after it for its counter.
        let told = reader.changes(7, 100).expect("changes").into_iter().map(|change| (change.start, change.device));
        assert_eq!(told.collect::<Vec<_>>(), [(at(0), DeviceId(0)), (at(MINUTE), DeviceId(0))]);
        let power: Vec<_> = city
            .series(Window::Minute1, Devices::All)
            .into_iter()
            .filter(|row| row.metric == POWER)
            .map(|row| (row.start, row.device.0, row.combined.aggregate.count, row.revision))
            .collect();
        let expected =
            [(0, 0, 7, 3), (0, 1, 6, 2), (1, 0, 6, 3), (1, 1, 6, 2), (1, 2, 1, 2), (2, 0, 6, 2), (2, 1, 6, 2)];
        assert_eq!(power, expected.map(|(minute, device, count, told)| (at(minute * MINUTE), device, count, told)));
        let energy = city.one(Window::Minute1, at(2 * MINUTE), ENERGY).combined;
        assert_eq!((energy.aggregate.last.value, energy.increase), (117.0, Some(6.0)));
    }
}

#[test]
fn a_new_store_has_pages_for_its_devices_and_keeps_them() {
    let page_bytes = |path: &StorePath, devices| {
        let writer = Writer::open(path, WriterOptions { devices, ..options() }).expect("a store");
        drop(writer.bounded(StoreBound::default()).expect("a store"));
        let file = rusqlite::Connection::open(path.file()).expect("a file");
        file.pragma_query_value(None, "page_size", |row| row.get::<_, i64>(0)).expect("a size")
    };
    for (devices, wanted) in [(4_999, 4_096), (5_000, 16_384)] {
        let folder = tempfile::tempdir().expect("a folder");
        let path = StorePath::in_folder(folder.path());
        assert_eq!([devices, 1, 75_000].map(|devices| page_bytes(&path, devices)), [wanted; 3]);
    }
}

#[test]
fn a_reader_before_the_first_writer_says_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = StorePath::in_folder(&folder.path().join("deeper"));
    let error = Reader::open(&path).expect_err("a refusal").to_string();
    assert!(error.contains("failed to open"), "{error}");
    drop(Writer::open(&path, options()).expect("a store"));
    assert_eq!(Reader::open(&path).expect("a reader").final_until().expect("a state"), None);
}

#[test]
fn the_newest_rejected_messages_are_kept_cut_to_a_kilobyte() {
    let mut city = City::new(&[1]);
    let letter = |millis| DeadLetter {
        at: Timestamp::from_millis(millis),
        source: Arc::from("broker"),
        topic: "telemetry/x".into(),
        reason: Rejection::MalformedJson.label(),
        payload: vec![b'{'; 2_000].into(),
    };
    city.dead_letters = (0..1_500).map(letter).collect();
    city.flush(at(0));
    let kept = city.reader().dead_letters(10_000).expect("letters");
    assert_eq!(kept.len(), 1_000);
    assert_eq!(kept[0], DeadLetter { payload: vec![b'{'; 1_024].into(), ..letter(1_499) });
}

#[test]
fn the_log_of_a_steady_writer_stays_bounded_while_readers_come_and_go() {
    let mut city = City::new(&[100]);
    let mut written = 0;
    for minute in 0..60 {
        for device in 0..100 {
            for second in 0..6 {
                city.hear(device, at(minute * MINUTE + second * 10_000), POWER, 0.1);
            }
        }
        written += city.flush(at((minute + 1) * MINUTE));
        assert!(city.reader().changes(0, 1).is_ok());
    }
    assert_eq!(written, 6_000);
    let log = city.path.file().with_extension("db-wal");
    let bytes = std::fs::metadata(log).expect("a log").len();
    // The log is folded into the file every 4,000 KiB; a flush may run over that by its own size.
    assert!(bytes < 6 << 20, "{bytes} bytes");
}
