//! Windows that become final, with and without the rows that are open.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use super::schedule::FlushSchedule;
use super::tests::{T0, World};
use super::time_tests::{ahead, keep, message, message_frame, read_one};
use super::{Driver, Due};
use crate::clock::Clock;
use crate::health::{Health, PartKind};
use crate::journal::{self, Journal};
use crate::model::{JournalPosition, Timestamp};

fn ago(seconds: u64) -> Instant {
    Instant::now().checked_sub(Duration::from_secs(seconds)).expect("this machine has run longer")
}

/// A driver of which a minute's row is written and the next one is open, a moment after the first one's end and grace.
fn written_and_open() -> (Driver, tempfile::TempDir) {
    let mut world = World::new();
    world.flush(Timestamp::from_millis(T0));
    let (mut driver, folder) = world.into_driver();
    let told: &'static AtomicI64 = Box::leak(Box::new(AtomicI64::new(T0 + 62_000)));
    driver.pipeline.clock = Clock::told(told);
    keep(&driver.pipeline, &[1_000, 65_000]);
    read_one(&mut driver);
    assert!(driver.flush());
    read_one(&mut driver);
    told.store(T0 + 70_300, Ordering::Relaxed);
    // Rows are due in an hour, and what becomes final at once.
    driver.schedule = FlushSchedule::new(Duration::from_hours(1), ago(1));
    (driver, folder)
}

#[test]
fn a_window_whose_row_is_written_becomes_final_without_those_that_are_open() {
    let (mut driver, _folder) = written_and_open();
    let flushed = |driver: &Driver| {
        let writer = &driver.pipeline.writer;
        let rows = writer.newest_row().expect("rows");
        (writer.position().expect("a position"), rows, writer.final_until().map(|until| until.as_millis() - T0))
    };
    let at = |ms| Some(Timestamp::from_millis(T0 + ms));
    assert_eq!(flushed(&driver), (JournalPosition(1), at(0), Some(-60_000)));
    let time = Timestamp::from_millis(T0 + 70_300);
    assert_eq!(driver.due(), Some(Due::Finality(time)));
    assert!(driver.finalise(time));
    assert_eq!(flushed(&driver), (JournalPosition(1), at(0), Some(60_000)));
    assert_eq!((driver.due(), driver.roller.has_changes()), (None, true));
    assert!(driver.pipeline.writer.ledger().expect("a ledger").total().applied == 1);
    // What comes for it from now on amends it.
    let late = message(&ahead(2_000), 5.0, 71_000);
    driver.roller.apply(&late, None, &driver.pipeline.writer).expect("the store answers");
    let rows = driver.roller.flush_parts().rows;
    assert_eq!(rows.iter().map(|row| row.window.late).collect::<Vec<_>>(), [1, 0]);
}

#[test]
fn a_window_with_a_row_that_is_not_written_becomes_final_with_it() {
    let (mut driver, _folder) = written_and_open();
    let straggler = message(&ahead(2_000), 5.0, 66_000);
    driver.roller.apply(&straggler, None, &driver.pipeline.writer).expect("the store answers");
    assert_eq!(driver.due(), Some(Due::Rows));
}

#[test]
fn what_is_late_for_a_final_minute_holds_up_only_the_end_of_a_longer_window() {
    let (mut driver, _folder) = written_and_open();
    assert!(driver.flush());
    let late = message(&ahead(2_000), 5.0, 71_000);
    driver.roller.apply(&late, None, &driver.pipeline.writer).expect("the store answers");
    assert_eq!(driver.roller.flush_parts().rows.len(), 1);
    let stored = |minutes: i64| driver.roller.rows_are_stored(Timestamp::from_millis(T0 + minutes * 60_000));
    assert_eq!([2, 4, 5, 6].map(stored), [true, true, false, false]);
}

#[test]
fn a_window_is_likely_to_change_until_a_second_after_its_end() {
    let (driver, _folder) = written_and_open();
    let unsettled = |ms| driver.unsettled(Timestamp::from_millis(T0 + ms));
    assert_eq!([65_000, 120_999, 121_000].map(unsettled), [1, 1, 0]);
}

#[test]
fn while_the_journal_is_full_no_window_is_waited_for() {
    let (mut driver, folder) = written_and_open();
    let time = Timestamp::from_millis(T0 + 65_000);
    assert_eq!(driver.unsettled(time), 1);
    let small = journal::Options {
        folder: folder.path().join("small"),
        bytes_max: 1 << 14,
        segment_bytes: 1 << 13,
        commit_interval: Duration::ZERO,
        age_max: Duration::from_hours(1),
    };
    std::fs::create_dir(&small.folder).expect("a folder");
    let storage = Arc::new(journal::Folder::open(&small.folder).expect("a folder"));
    let part = Health::default().part(PartKind::Journal, "small", time);
    let small = Journal::open(storage, small, JournalPosition(0), part, driver.pipeline.clock).expect("a journal");
    driver.pipeline.journal = Arc::new(small);
    let inlet = driver.pipeline.journal.inlet();
    let batch = || (0..10).map(|at| message_frame(&ahead(at), 5.0, at)).collect();
    let refused = (0..1_000).find(|_| inlet.append(batch(), Box::new(drop)).is_err());
    assert!(refused.is_some_and(|earlier| earlier > 0), "it takes some and refuses some");
    assert_eq!(driver.unsettled(time), 0);
}

#[test]
fn after_a_failure_all_is_written_with_what_becomes_final() {
    let (mut driver, _folder) = written_and_open();
    driver.schedule.begun(ago(1));
    assert_eq!(driver.due(), Some(Due::Rows));
}

#[test]
fn windows_whose_messages_are_late_as_a_rule_stay_open_and_are_written_once_they_are_here() {
    let (mut driver, _folder) = World::new().into_driver();
    let told: &'static AtomicI64 = Box::leak(Box::new(AtomicI64::new(T0 + 70_000)));
    driver.pipeline.clock = Clock::told(told);
    driver.schedule = FlushSchedule::new(Duration::from_secs(1), ago(30));
    let hear = |driver: &mut Driver, late_ms: i64| {
        for second in 0..60 {
            let entry = message(&ahead(second * 1_000), 5.0, second * 1_000 + late_ms);
            driver.roller.apply(&entry, None, &driver.pipeline.writer).expect("the store answers");
        }
    };
    for _ in 0..50 {
        hear(&mut driver, 20_000);
    }
    // The window of a single device is no reason to wait, but it stays.
    assert_eq!((driver.due(), driver.roller.lateness_ms()), (Some(Due::Rows), 20_000));
    assert_eq!([80_999, 81_000].map(|ms| driver.unsettled(Timestamp::from_millis(T0 + ms))), [1, 0]);
    driver.roller.flushed(Timestamp::from_millis(T0 + 70_000), &driver.pipeline.writer);
    assert_eq!(driver.roller.windows_ending_after(Timestamp::from_millis(T0)), 1);
    for _ in 0..50 {
        hear(&mut driver, 0);
    }
    driver.roller.flushed(Timestamp::from_millis(T0 + 70_000), &driver.pipeline.writer);
    assert_eq!((driver.roller.lateness_ms(), driver.roller.open_windows()), (0, 0));
}
