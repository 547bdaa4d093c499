//! A backlog that fills a small disk together with the journal. The disk is real (tmpfs), which needs the right to mount.

use std::path::Path;
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

use super::tests::{T0, World, frame, listed, options};
use super::{Driver, Options, Progress};
use crate::disk::Space;
use crate::journal::Entry;
use crate::ledger::Rejection;
use crate::model::{DeviceId, Timestamp, Window};
use crate::store::{StoreBound, Writer, WriterOptions};

const METER: &str = "telemetry/base_station/350102/B_1/meter";
const MINUTE_MS: i64 = 60_000;
const RETENTION: Duration = Duration::from_hours(90 * 24);

/// A small disk of its own.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// One of `mebibytes`; `None` where it cannot be mounted.
    fn mount(mebibytes: u32) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a folder");
        let size = format!("size={mebibytes}m");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(folder.path()).output();
        mounted.is_ok_and(|output| output.status.success()).then_some(Self(folder))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(self.path()).status());
    }
}

/// A message for a minute of its own, `number` minutes ago.
fn message(number: i64) -> Entry {
    let ts = T0 - number * MINUTE_MS;
    let room = " ".repeat(60);
    let payload = format!(r#"{{"ts":{ts},{room}"readings":{{"pwr_w":5}}}}"#);
    frame(METER, &payload, 0)
}

/// A pipeline on `disk` that holds as much open as it likes.
fn driver_on(disk: &SmallDisk) -> (Driver, tempfile::TempDir) {
    let folder = tempfile::tempdir_in(disk.path()).expect("a folder");
    let (mut pipeline, folder) = World::open_with(folder, &listed()).into_pipeline();
    pipeline.options = Options { open_windows_bytes_max: 1 << 30, retention: RETENTION, ..options() };
    let options_of_writer = WriterOptions {
        grace_ms: 10_000,
        retention_ms: i64::try_from(RETENTION.as_millis()).expect("few"),
        feed_windows: [Window::Minute1].into(),
        indicator_windows: [Window::Minute1].into(),
        rollup_sinks: vec!["store".to_owned()],
        devices: 100,
        zone: jiff::tz::TimeZone::UTC,
    };
    let path = pipeline.writer.path().clone();
    let writer = Writer::open(&path, options_of_writer).and_then(|writer| writer.bounded(StoreBound::default()));
    pipeline.writer = writer.expect("a store");
    (pipeline.driver().expect("a driver"), folder)
}

/// Has the journal keep messages until it refuses them. Returns how many.
fn fill(driver: &Driver) -> u64 {
    let inlet = driver.pipeline.journal.inlet();
    for batch in 0.. {
        let frames = (batch * 100..(batch + 1) * 100).map(|number| match message(number) {
            Entry::Frame(frame) => frame,
            Entry::Lost { .. } => unreachable!("a message is a frame"),
        });
        let (kept, is_kept) = mpsc::channel();
        let receipt = Box::new(move |_| kept.send(()).unwrap_or(()));
        if inlet.append(frames.collect(), receipt).is_err() {
            break;
        }
        is_kept.recv().expect("a sync");
    }
    driver.pipeline.journal.end().0
}

#[test]
fn a_backlog_whose_rows_the_disk_has_no_room_for_at_once_is_stored_in_portions() {
    let Some(disk) = SmallDisk::mount(16) else {
        eprintln!("passed over: no small disk can be mounted here");
        return;
    };
    let (mut driver, _folder) = driver_on(&disk);
    assert!(!driver.pipeline.journal.is_full());
    let messages = fill(&driver);
    assert!(driver.pipeline.journal.is_full());
    let (mut entries, mut failed, mut attempts) = (Vec::new(), 0, 0);
    while driver.pipeline.writer.position().expect("a position").0 < messages {
        attempts += 1;
        let free = Space::of(disk.path()).expect("room").free_bytes;
        assert!(attempts < 100, "stuck at {:?} of {messages}, {free} bytes are free", driver.roller.position());
        while !driver.roller.is_full() && matches!(driver.take_in(&mut entries), Progress::Some) {}
        failed += u32::from(!driver.flush());
    }
    assert!(failed > 0, "a disk of this size has room for it at once");
    let ledger = driver.pipeline.board.ledger(|| driver.pipeline.journal.end());
    assert_eq!((ledger.total().applied, ledger.pending), (messages, 0), "{ledger:?}");
    assert!(ledger.balanced());
    // The log was folded into the file as soon as there was room for it.
    assert!(driver.pipeline.writer.fill().log_bytes <= 4 << 20, "{:?}", driver.pipeline.writer.fill());
    // The last of them, too, lies where it belongs.
    let oldest = Timestamp::from_millis(T0 - (i64::try_from(messages).expect("few") - 1) * MINUTE_MS);
    assert!(driver.pipeline.writer.load(oldest, DeviceId(0)).expect("a store").is_some());
}

#[test]
fn what_was_taken_in_before_a_roller_begins_anew_is_counted_and_stored_with_what_is_read_again() {
    let mut world = World::new();
    let unlisted =
        |device| frame(&format!("telemetry/k/a/new/{device}"), r#"{"ts":1764000000000,"readings":{"a":1}}"#, 0);
    world.apply(&unlisted("d"));
    let anew = world.roller.anew(1 << 20, &world.writer).expect("the store answers");
    assert_eq!((anew.position().0, anew.ledger().total().applied, anew.open_windows()), (0, 0, 0));
    world.roller = anew;
    world.apply(&unlisted("d"));
    // One of each source may be taken in.
    world.apply(&unlisted("e"));
    let total = world.ledger().total();
    assert_eq!((total.applied, total.rejected), (1, [(Rejection::UnregisteredLimit, 1)].into()));
    world.flush(Timestamp::from_millis(T0));
    let stored = world.writer.unlisted().expect("devices");
    assert_eq!((stored.devices.len(), stored.metrics.len(), world.writer.devices().expect("devices").len()), (1, 1, 2));
}

#[test]
fn less_may_be_open_after_a_full_disk_and_soon_as_much_again_as_before() {
    let mut world = World::new();
    let bytes_max = options().open_windows_bytes_max;
    world.roller = world.roller.anew(bytes_max / 4, &world.writer).expect("the store answers");
    let mut number = 0;
    let mut filled = |world: &mut World| {
        while !world.roller.is_full() {
            let payload = format!(r#"{{"readings":{{"pwr_w":{}}}}}"#, number % 100);
            world.apply(&frame(METER, &payload, number * 1_000));
            number += 1;
        }
        world.roller.open_bytes()
    };
    assert!((bytes_max / 4..bytes_max / 4 + 4_096).contains(&filled(&mut world)));
    for _ in 0..10 {
        world.roller.widen(bytes_max);
    }
    assert!((bytes_max..bytes_max + 4_096).contains(&filled(&mut world)));
}
