//! Times of devices and of the gateway that are wrong, from a message to its row.

use std::time::Instant;

use super::tests::{T0, World, frame, listed_with};
use super::{Driver, Pipeline, Progress, write};
use crate::clock::StepWatch;
use crate::inventory::{Profile, TimePolicy, TimeRule, TimeUnit};
use crate::journal::Entry;
use crate::ledger::{Invalid, Rejection};
use crate::model::{Frame, Timestamp, Window, millis};

const METER: &str = "telemetry/base_station/350102/B_1/meter";
const DAY: i64 = 86_400_000;

fn world(time: &TimePolicy) -> World {
    World::with(&listed_with(|profile: &mut Profile| profile.time = time.clone()))
}

/// A message with this `ts`, which arrives this long after the start.
pub(super) fn message(ts: &str, power: f64, arrival_ms: i64) -> Entry {
    frame(METER, &format!(r#"{{"ts":{ts},"readings":{{"pwr_w":{power}}}}}"#), arrival_ms)
}

/// The same as the journal is given it.
pub(super) fn message_frame(ts: &str, power: f64, arrival_ms: i64) -> Frame {
    match message(ts, power, arrival_ms) {
        Entry::Frame(frame) => frame,
        Entry::Lost { .. } => unreachable!("a message is a frame"),
    }
}

pub(super) fn ahead(ms: i64) -> String {
    (T0 + ms).to_string()
}

/// Event time of the first reading and number of readings, per row.
fn rows(world: &mut World, now_ms: i64) -> Vec<(i64, u64)> {
    world.flush(Timestamp::from_millis(T0 + now_ms));
    let rows = world.rows(Window::Minute1);
    rows.iter().map(|row| (row.combined.aggregate.first.time.as_millis() - T0, row.combined.aggregate.count)).collect()
}

#[test]
fn each_wrong_time_is_counted_under_its_own_reason_and_shown() {
    let mut world = world(&TimePolicy { unit: TimeUnit::Millis, ..TimePolicy::default() });
    let old = ahead(-40 * DAY);
    for ts in ["\"yesterday\"", "\"2025-11-24 16:00:00\"", "5000", "1764000000", &ahead(DAY), &old] {
        world.apply(&message(ts, 1.0, 0));
    }
    let total = world.ledger().total();
    assert_eq!(total.rejected, [(Rejection::BadTimestamp, 1), (Rejection::NoZone, 1)].into());
    let invalid = [(Invalid::ClockUnset, 1), (Invalid::WrongUnit, 1), (Invalid::Future, 1)];
    assert_eq!((total.invalid, total.expired), (invalid.into(), 1));
    assert!(world.ledger().balanced());
    let shown: Vec<_> = world.roller.flush_parts().dead_letters.iter().map(|letter| letter.reason).collect();
    assert_eq!(shown, ["bad_timestamp", "no_zone", "clock_unset", "wrong_unit", "future", "expired"]);
    assert_eq!(rows(&mut world, 1_000), []);
    let kept = world.reader().dead_letters(10).expect("letters");
    assert_eq!(kept.iter().rev().map(|letter| letter.reason).collect::<Vec<_>>(), shown);
}

#[test]
fn a_device_with_a_wrong_clock_does_not_crowd_out_other_dead_letters() {
    let mut world = world(&TimePolicy::default());
    for n in 0..1_000 {
        world.apply(&message("5000", f64::from(n), 0));
    }
    assert_eq!(world.roller.flush_parts().dead_letters.len(), 20);
    assert_eq!(world.ledger().total().invalid, [(Invalid::ClockUnset, 1_000)].into());
}

#[test]
fn a_rejected_time_takes_in_no_device() {
    let mut world = World::new();
    world.apply(&frame("telemetry/k/a/new/d", r#"{"ts":"2025-11-24T16:00:00","readings":{"a":1}}"#, 0));
    assert_eq!(world.ledger().total().rejected, [(Rejection::NoZone, 1)].into());
    assert_eq!(world.inventory.read().expect("no panic").devices().len(), 1);
}

#[test]
fn a_clamped_reading_counts_once_however_often_it_is_delivered() {
    let mut world = world(&TimePolicy { rule: TimeRule::Clamp, ..TimePolicy::default() });
    world.apply(&message(&ahead(DAY), 1.0, 1_000));
    // The connection was lost before the acknowledgement.
    world.apply(&message(&ahead(DAY), 1.0, 70_000));
    world.apply(&message(&ahead(DAY), 1.0, DAY));
    world.apply(&message(&ahead(DAY + 10_000), 2.0, 71_000));
    // The collector dies before a flush; the journal has it all.
    let entries = [
        message(&ahead(DAY), 1.0, 1_000),
        message(&ahead(DAY), 1.0, 70_000),
        message(&ahead(DAY), 1.0, DAY),
        message(&ahead(DAY + 10_000), 2.0, 71_000),
    ];
    let mut world = world.crash_with(|profile| profile.time.rule = TimeRule::Clamp);
    for entry in &entries {
        world.apply(entry);
    }
    let total = world.ledger().total();
    assert_eq!((total.applied, total.duplicate, total.clamped), (2, 2, 4));
    assert!(world.ledger().balanced());
    assert_eq!(rows(&mut world, 72_000), [(1_000, 1), (71_000, 1)]);
}

#[test]
fn under_the_arrival_policy_every_message_has_its_arrival() {
    let mut world = world(&TimePolicy { rule: TimeRule::Arrival, ..TimePolicy::default() });
    for (ts, arrival) in [("5000", 0), ("\"yesterday\"", 10_000), ("[]", 20_000)] {
        world.apply(&message(ts, 1.0, arrival));
    }
    assert_eq!(rows(&mut world, 21_000), [(0, 3)]);
    assert_eq!(world.ledger().total().clamped, 0);
}

#[test]
fn seconds_and_local_times_land_where_their_profile_says() {
    let zone = Some(jiff::tz::TimeZone::get("Asia/Shanghai").expect("a zone"));
    let mut world = world(&TimePolicy { unit: TimeUnit::Seconds, zone, ..TimePolicy::default() });
    world.apply(&message("1764000000.25", 1.0, 0));
    world.apply(&message("\"2025-11-25 00:01:00\"", 1.0, 0));
    world.apply(&message(&ahead(0), 1.0, 0));
    // T0 is 2025-11-24T16:00:00Z, midnight in Shanghai.
    assert_eq!(rows(&mut world, 1_000), [(250, 1), (60_000, 1)]);
    assert_eq!(world.ledger().total().invalid, [(Invalid::WrongUnit, 1)].into());
}

#[test]
fn a_gateway_whose_clock_was_never_set_keeps_what_devices_date_themselves() {
    let mut world = World::new();
    let boot = -T0 + 60_000;
    world.apply(&message(&ahead(3 * DAY), 1.0, boot));
    world.apply(&frame(METER, r#"{"readings":{"pwr_w":1}}"#, boot));
    let total = world.ledger().total();
    assert_eq!((total.applied, total.invalid), (1, [(Invalid::NoClock, 1)].into()));
    // One device with a clock far ahead does not make the others' readings old.
    world.flush(Timestamp::from_millis(120_000));
    world.apply(&message(&ahead(DAY), 1.0, boot));
    // The clock is set. What is too old is told, and nobody is believed to be ahead any more, also when it is lost again.
    world.flush(Timestamp::from_millis(T0 + 2 * DAY));
    world.apply(&message(&ahead(DAY - 1_000), 1.0, 2 * DAY));
    world.apply(&message(&ahead(3 * DAY), 2.0, 2 * DAY));
    world.flush(Timestamp::from_millis(T0 + 2 * DAY));
    world.apply(&message(&ahead(DAY - 120_000), 1.0, boot));
    let total = world.ledger().total();
    assert_eq!((total.applied, total.expired, total.invalid[&Invalid::Future]), (2, 2, 1));
    assert!(world.ledger().balanced());
    assert_eq!(rows(&mut world, 2 * DAY), [(DAY, 1), (3 * DAY, 1)]);
}

#[test]
fn a_gateway_that_wakes_up_with_an_old_time_keeps_what_devices_date_themselves() {
    let mut world = World::new();
    world.apply(&message(&ahead(10 * DAY), 1.0, 10 * DAY));
    world.flush(Timestamp::from_millis(T0 + 10 * DAY));
    world.apply(&message(&ahead(11 * DAY), 2.0, 3 * DAY));
    assert_eq!(world.ledger().total().applied, 2, "{:?}", world.ledger());
}

#[test]
fn a_gateway_whose_clock_runs_years_ahead_takes_nothing_for_expired() {
    let mut world = World::new();
    world.apply(&message(&ahead(0), 1.0, 0));
    world.flush(Timestamp::from_millis(T0));
    world.apply(&message(&ahead(60_000), 1.0, 3_650 * DAY));
    assert_eq!(world.ledger().total().applied, 2, "{:?}", world.ledger());
}

#[test]
fn what_devices_date_is_kept_once_a_clock_that_ran_years_ahead_is_right_again() {
    let mut world = World::new();
    // It dates a row itself.
    world.apply(&frame(METER, r#"{"readings":{"pwr_w":1}}"#, 3_650 * DAY));
    world.flush(Timestamp::from_millis(T0 + 3_650 * DAY));
    world.flush(Timestamp::from_millis(T0));
    world.apply(&message(&ahead(60_000), 2.0, 60_000));
    world.apply(&message(&ahead(400 * DAY), 2.0, 60_000));
    let total = world.ledger().total();
    assert_eq!((total.applied, total.expired, total.invalid), (2, 0, [(Invalid::Future, 1)].into()));
}

#[test]
fn a_step_of_the_clock_is_counted_and_told() {
    let (mut driver, _folder) = World::new().into_driver();
    let (clock, part) = (driver.pipeline.clock, driver.pipeline.part.clone());
    // The clock showed this a moment ago.
    driver.watch = StepWatch::new(clock.now().plus_millis(8 * 3_600_000 + 1_000), Instant::now());
    assert!(driver.flush() && driver.flush());
    let snapshot = part.snapshot();
    assert_eq!((snapshot.counters["clock_steps"], snapshot.counters["flushes"]), (1, 1));
    assert!(snapshot.detail.starts_with("rows reach the store; clock stepped back by 8h"), "{}", snapshot.detail);
}

/// Has the journal keep a message each of these long after the start.
pub(super) fn keep(pipeline: &Pipeline, arrivals_ms: &[i64]) {
    let (kept, is_kept) = std::sync::mpsc::channel();
    let frames = arrivals_ms.iter().map(|ms| message_frame(&ahead(*ms), 5.0, *ms));
    let receipt = Box::new(move |_| kept.send(()).expect("the test waits"));
    pipeline.journal.inlet().append(frames.collect(), receipt).expect("room");
    is_kept.recv().expect("they are on disk");
}

pub(super) fn read_one(driver: &mut Driver) {
    let mut entries = Vec::new();
    driver.reader.read(1, &mut entries).expect("readable");
    driver.roller.apply(&entries[0], None, &driver.pipeline.writer).expect("the store answers");
}

#[test]
fn a_backlog_makes_no_window_final_before_its_own_time_and_none_open_again() {
    let mut world = World::new();
    let first = Timestamp::from_millis(T0);
    world.flush(first);
    let (mut driver, _folder) = world.into_driver();
    keep(&driver.pipeline, &[0, 600_000]);
    let now = driver.pipeline.clock.now();
    // What was final stays so, and nothing more before the first message is read.
    let grace_ms = millis(driver.pipeline.options.grace);
    assert_eq!(Some(driver.flush_time(now)), driver.pipeline.writer.final_until().map(|at| at.plus_millis(grace_ms)));
    read_one(&mut driver);
    assert_eq!(driver.flush_time(now), first);
    assert!(driver.flush() && driver.pipeline.writer.final_until() <= Some(first));
    // What is final by another clock already stays so.
    write(&driver.roller, &mut driver.pipeline.writer, first.plus_millis(300_000)).expect("the store takes it");
    let until = driver.pipeline.writer.final_until().expect("something is final");
    assert!(driver.flush_time(now) > until && !driver.pipeline.writer.finality_due(driver.flush_time(now)));
    // The end of the backlog is the present.
    read_one(&mut driver);
    assert_eq!(driver.flush_time(now), now);
}

#[test]
fn a_start_is_ready_with_what_the_journal_held_then_and_its_age_is_no_delay() {
    let mut world = World::new();
    world.flush(Timestamp::from_millis(T0));
    let (pipeline, _folder) = world.into_pipeline();
    keep(&pipeline, &[600_000, 1_200_000]);
    let mut driver = pipeline.driver().expect("a driver");
    // More comes all the time.
    keep(&driver.pipeline, &[1_800_000, 2_400_000]);
    let final_delay_ms_max =
        |driver: &Driver| driver.pipeline.part.snapshot().counters.get("final_delay_ms_max").copied();
    read_one(&mut driver);
    assert!(!driver.has_caught_up(&Progress::Some));
    read_one(&mut driver);
    assert!(driver.has_caught_up(&Progress::Some) && driver.flush() && driver.is_ready());
    assert!(driver.pipeline.writer.final_until() > Some(Timestamp::from_millis(T0)));
    assert_eq!(final_delay_ms_max(&driver), Some(0));
    // From now on it counts.
    read_one(&mut driver);
    assert!(!driver.has_caught_up(&Progress::Some) && driver.flush());
    assert!(final_delay_ms_max(&driver) > Some(0));
}
