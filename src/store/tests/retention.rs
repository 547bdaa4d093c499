//! What goes with age, and what must not.

use super::{City, DAY, GRACE, HOUR, MINUTE, POWER, RETENTION, at, options};
use crate::model::{DeviceId, Timestamp, Window};
use crate::store::{Devices, Feed, StaleWindow, WriterOptions};

#[test]
fn rows_marks_and_changes_go_with_age_and_lost_changes_are_counted() {
    let mut city = City::new(&[1]);
    for minute in 0..10 {
        city.hear(0, at(minute * MINUTE), POWER, 1.0);
    }
    city.flush(at(10 * MINUTE));
    city.flush(at(10 * MINUTE + GRACE));
    let reader = city.reader();
    // One sink got half of them; the other, which has no position yet, none.
    city.side_writer().set_position("influx", Feed::Rollup, 5).expect("a position");
    city.hear(0, at(RETENTION + 5 * MINUTE), POWER, 1.0);
    city.flush(at(RETENTION + 5 * MINUTE));
    assert_eq!(city.series(Window::Minute1, Devices::All).first().map(|row| row.start), Some(at(5 * MINUTE)));
    // Five minutes that were listed, and the hour and the day that were over only when their beginning was gone.
    assert_eq!(reader.feed_expired().expect("a count"), 7);
    assert_eq!(reader.changes(0, 1).expect("changes")[0].start, at(5 * MINUTE));
    assert!(reader.stale(100_000).expect("marks").iter().all(|mark| mark.start >= at(5 * MINUTE)));
    city.hear(0, at(RETENTION + HOUR), POWER, 1.0);
    city.flush(at(RETENTION + HOUR));
    assert_eq!(reader.feed_expired().expect("a count"), 12);
}

#[test]
fn what_every_sink_passed_is_not_counted_as_lost() {
    let mut city = City::new(&[1]);
    city.hear(0, at(0), POWER, 1.0);
    city.flush(at(MINUTE));
    city.flush(at(MINUTE + GRACE));
    for sink in ["influx", "archive"] {
        city.side_writer().set_position(sink, Feed::Rollup, 1).expect("a position");
    }
    city.hear(0, at(RETENTION + HOUR), POWER, 1.0);
    city.flush(at(RETENTION + HOUR));
    assert_eq!(city.reader().feed_expired().expect("a count"), 0);
}

#[test]
fn a_store_without_sinks_keeps_no_feed() {
    let mut city = City::new(&[1]);
    city.restart(WriterOptions { rollup_sinks: Vec::new(), ..options() });
    city.hear(0, at(0), POWER, 1.0);
    city.flush(at(MINUTE));
    city.flush(at(HOUR + GRACE));
    assert_eq!(city.reader().feed_end(Feed::Rollup).expect("an end"), 0);
}

#[test]
fn a_clock_that_is_years_ahead_deletes_nothing() {
    let mut city = City::new(&[1]);
    city.hear(0, at(0), POWER, 1.0);
    city.flush(at(MINUTE));
    city.flush(at(3_650 * DAY));
    city.flush(at(HOUR));
    assert_eq!(city.series(Window::Minute1, Devices::All).len(), 1);
}

#[test]
fn a_window_whose_beginning_is_gone_is_not_sent_again() {
    let mut city = City::new(&[1]);
    for hour in 0..24 {
        city.hear(0, at(hour * HOUR), POWER, 1.0);
    }
    city.flush(at(DAY + GRACE));
    let end = city.reader().feed_end(Feed::Rollup).expect("an end");
    // Half of the day has expired; a reading for its other half comes late.
    city.hear(0, at(RETENTION + 12 * HOUR), POWER, 1.0);
    city.hear(0, at(20 * HOUR + 5), POWER, 2.0);
    city.flush(at(RETENTION + 12 * HOUR));
    let changes = city.reader().changes(end, 1_000).expect("changes");
    let of_first_day: Vec<_> =
        changes.iter().filter(|change| change.start < at(DAY)).map(|change| (change.window, change.start)).collect();
    assert_eq!(of_first_day, [(Window::Minute1, at(20 * HOUR)), (Window::Hour1, at(20 * HOUR))]);
}

#[test]
fn old_indicators_go_and_one_flush_deletes_a_bounded_number() {
    let mut city = City::new(&[1]);
    let row = |start: Timestamp| crate::store::IndicatorRow {
        seq: 0,
        id: "BS7".into(),
        level: crate::indicator::Level::City,
        area: "350100".into(),
        operator: "".into(),
        site: "".into(),
        window: Window::Minute1,
        start,
        value: None,
        numerator: None,
        denominator: None,
        completeness: None,
        revision: 0,
    };
    let rows: Vec<_> = (0..20_100).map(|minute| row(at(minute * MINUTE))).collect();
    let computed = StaleWindow { window: Window::Minute1, start: at(0), generation: 0 };
    city.side_writer().write_indicators(&rows, &computed).expect("a write");
    city.hear(0, at(100 * DAY), POWER, 1.0);
    let left = |city: &City| city.reader().indicators_after(0, 100_000).expect("indicators").len();
    city.flush(at(100 * DAY));
    assert_eq!(left(&city), 100);
    city.flush(at(100 * DAY));
    assert_eq!(left(&city), 0);
    assert!(city.writer.load(at(100 * DAY), DeviceId(0)).expect("a store").is_some());
}

#[test]
fn what_is_kept_begins_no_earlier_because_a_flush_goes_by_the_time_of_a_backlog_or_keeps_for_longer() {
    let mut city = City::new(&[1]);
    let grace = WriterOptions { grace_ms: 10_000, ..options() };
    city.restart(grace.clone());
    city.hear(0, at(0), POWER, 1.0);
    city.flush(at(MINUTE));
    city.hear(0, at(RETENTION + HOUR), POWER, 1.0);
    city.flush(at(RETENTION + HOUR + 5_000));
    let kept_from = Some(at(HOUR));
    assert_eq!(city.writer.kept_from(), kept_from);
    // The end of the same window is final, and a minute that was too old is not so yet.
    city.flush(at(RETENTION + HOUR - 1_000));
    assert_eq!(city.writer.kept_from(), kept_from);
    city.restart(WriterOptions { retention_ms: 2 * RETENTION, ..grace });
    city.flush(at(RETENTION + HOUR + MINUTE));
    assert_eq!(city.writer.kept_from(), kept_from);
    // A clock that is set back makes the present of what it took to be too old.
    city.flush(at(RETENTION + HOUR - 2 * MINUTE));
    assert!(city.writer.kept_from() < kept_from);
}
