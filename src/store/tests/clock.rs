//! A clock of the gateway that ran ahead, fell back or was never set: what is final, and when.

use super::{City, DAY, GRACE, HOUR, MINUTE, POWER, at, options};
use crate::model::{Timestamp, Window};
use crate::store::{Devices, IndicatorRow, StaleWindow};

/// Windows of the feed after `end` that start at `from` or later, with the number of times each stands there.
fn changes(city: &City, end: u64, from: Timestamp) -> Vec<(Window, Timestamp)> {
    let changes = city.reader().changes(end, 100_000).expect("changes");
    changes.iter().filter(|change| change.start >= from).map(|change| (change.window, change.start)).collect()
}

fn feed_end(city: &City) -> u64 {
    city.reader().feed_end(crate::store::Feed::Rollup).expect("an end")
}

/// Reads ten minutes from 10:00 on, and has the clock run `ahead` for the last of them.
fn city_with_clock_ahead(ahead: i64) -> City {
    let mut city = City::new(&[1]);
    for minute in 0..10 {
        let time = 10 * HOUR + minute * MINUTE;
        city.hear(0, at(time), POWER, 1.0);
        city.flush(at(time + 30_000));
    }
    city.flush(at(10 * HOUR + 10 * MINUTE + ahead));
    city
}

#[test]
fn windows_become_final_at_their_own_time_after_a_clock_that_ran_ahead() {
    for ahead in [2 * HOUR, 8 * HOUR, 3_650 * DAY] {
        let mut city = city_with_clock_ahead(ahead);
        let end = feed_end(&city);
        let next = at(10 * HOUR + 10 * MINUTE);
        city.flush(next);
        city.restart(options());
        for second in [0, 20, 40] {
            city.hear(0, next.plus_millis(second * 1_000), POWER, 2.0);
            city.flush(next.plus_millis(second * 1_000));
        }
        let row = city.one(Window::Minute1, next, POWER);
        assert_eq!((row.is_final, row.revision), (false, 0), "{ahead}");
        assert_eq!(changes(&city, end, next), [], "{ahead}");
        city.flush(next.plus_millis(MINUTE + GRACE));
        let row = city.one(Window::Minute1, next, POWER);
        // The hour around it was final early and is amended by it, which raises the revision of both.
        assert_eq!((row.is_final, row.revision), (true, 2), "{ahead}");
        assert_eq!(changes(&city, end, next), [(Window::Minute1, next)], "{ahead}");
        // In an hour that had not begun there is no trace of it.
        let later = at(12 * HOUR);
        city.hear(0, later, POWER, 2.0);
        city.flush(later);
        assert_eq!(changes(&city, end, later), [], "{ahead}");
        city.flush(later.plus_millis(MINUTE + GRACE));
        assert_eq!(city.one(Window::Minute1, later, POWER).combined.amendments, u64::from(ahead > DAY), "{ahead}");
        city.flush(at(13 * HOUR + GRACE));
        assert_eq!(changes(&city, end, later), [(Window::Minute1, later), (Window::Hour1, later)], "{ahead}");
    }
}

#[test]
fn what_a_clock_that_ran_ahead_made_final_stays_final_and_is_amended() {
    let mut city = city_with_clock_ahead(8 * HOUR);
    assert_eq!(city.one(Window::Hour1, at(10 * HOUR), POWER).revision, 1);
    let next = at(10 * HOUR + 10 * MINUTE);
    for restart in [false, true] {
        if restart {
            city.restart(options());
        }
        city.flush(next);
        let hour = city.one(Window::Hour1, at(10 * HOUR), POWER);
        assert_eq!((hour.is_final, hour.revision), (true, 1));
        assert!(city.one(Window::Minute1, at(10 * HOUR + 9 * MINUTE), POWER).is_final);
    }
    // The hour that was final too early takes in the rest of its readings as amendments, minute by minute.
    let end = feed_end(&city);
    city.hear(0, next, POWER, 2.0);
    city.flush(next.plus_millis(1_000));
    assert_eq!(changes(&city, end, at(0)), []);
    city.flush(next.plus_millis(MINUTE + GRACE));
    // The day was not final: the clock did not run ahead as far.
    let expected = [(Window::Hour1, at(10 * HOUR)), (Window::Minute1, next)];
    assert_eq!(changes(&city, end, at(0)), expected);
    let hour = city.one(Window::Hour1, at(10 * HOUR), POWER);
    assert_eq!((hour.is_final, hour.combined.aggregate.count, hour.revision), (true, 11, 2));
    // Once its time has come it is like any other.
    city.flush(at(11 * HOUR + GRACE));
    let hour = city.one(Window::Hour1, at(10 * HOUR), POWER);
    assert_eq!((hour.is_final, hour.revision), (true, 2));
}

#[test]
fn rows_that_a_clock_years_ahead_has_dated_do_not_hold_back_the_rest() {
    let mut city = city_with_clock_ahead(3_650 * DAY);
    let far = at(3_650 * DAY + 10 * HOUR);
    city.hear(0, far, POWER, 9.0);
    city.flush(far.plus_millis(HOUR));
    let next = at(10 * HOUR + 10 * MINUTE);
    city.hear(0, next, POWER, 2.0);
    city.flush(next);
    assert_eq!(city.one(Window::Minute1, next, POWER).revision, 0);
    city.flush(next.plus_millis(MINUTE + GRACE));
    assert!(city.one(Window::Minute1, next, POWER).is_final);
}

#[test]
fn a_clock_that_wakes_up_days_behind_opens_nothing() {
    let mut city = City::new(&[1]);
    for half_day in 0..20 {
        city.hear(0, at(half_day * 12 * HOUR), POWER, 1.0);
    }
    city.flush(at(0));
    city.flush(at(10 * DAY));
    let end = feed_end(&city);
    city.restart(options());
    city.flush(at(2 * DAY));
    assert!(city.series(Window::Minute1, Devices::All).iter().all(|row| (row.is_final, row.revision) == (true, 1)));
    city.flush(at(10 * DAY + HOUR));
    assert_eq!(changes(&city, end, at(0)), [(Window::Day1, at(9 * DAY))]);
}

#[test]
fn a_silent_window_is_computed_at_its_own_time_after_a_clock_that_ran_ahead() {
    let mut city = city_with_clock_ahead(8 * HOUR);
    let next = at(10 * HOUR + 10 * MINUTE);
    city.flush(next);
    let generation = |city: &City| {
        let marks = city.reader().stale(100_000).expect("marks");
        let mark = marks.iter().find(|mark| (mark.window, mark.start) == (Window::Hour1, at(12 * HOUR)));
        mark.map(|mark| mark.generation)
    };
    let early = generation(&city);
    assert!(!city.writer.finality_due(next) && city.writer.finality_due(at(13 * HOUR + GRACE)));
    city.flush(at(13 * HOUR + GRACE));
    assert!(generation(&city) > early, "{:?} {early:?}", generation(&city));
}

#[test]
fn a_clock_that_fell_back_is_noticed_without_a_message() {
    let city = city_with_clock_ahead(8 * HOUR);
    assert!(city.writer.finality_due(at(10 * HOUR + 10 * MINUTE)));
}

#[test]
fn a_window_that_has_not_begun_is_nobody_s_newest() {
    let city = City::new(&[1]);
    let row = |start: Timestamp| IndicatorRow {
        seq: 0,
        id: "BS7".into(),
        level: crate::indicator::Level::City,
        area: "350100".into(),
        operator: "".into(),
        site: "".into(),
        window: Window::Hour1,
        start,
        value: None,
        numerator: None,
        denominator: None,
        completeness: None,
        revision: 0,
    };
    let rows = [row(at(0)), row(at(HOUR)), row(at(3_650 * DAY))];
    let computed = StaleWindow { window: Window::Hour1, start: at(0), generation: 0 };
    city.side_writer().write_indicators(&rows, &computed).expect("a write");
    let newest = city.reader().latest_indicators(None, None, at(HOUR)).expect("indicators");
    assert_eq!(newest.iter().map(|row| row.start).collect::<Vec<_>>(), [at(HOUR)]);
}

#[test]
fn a_start_in_1970_makes_nothing_open_and_nothing_final_twice() {
    let mut city = City::new(&[1]);
    city.hear(0, at(0), POWER, 1.0);
    city.flush(at(0));
    city.flush(at(2 * HOUR));
    let end = feed_end(&city);
    city.restart(options());
    city.hear(0, at(3 * HOUR), POWER, 2.0);
    city.flush(Timestamp::from_millis(5_000));
    assert!(city.one(Window::Hour1, at(0), POWER).is_final);
    assert!(!city.one(Window::Minute1, at(3 * HOUR), POWER).is_final);
    assert_eq!(changes(&city, end, at(0)), []);
    // The clock is set.
    city.flush(at(4 * HOUR + GRACE));
    assert_eq!(changes(&city, end, at(0)), [(Window::Minute1, at(3 * HOUR)), (Window::Hour1, at(3 * HOUR))]);
    assert_eq!(city.one(Window::Hour1, at(0), POWER).revision, 1);
    assert_eq!(city.series(Window::Minute1, Devices::All).len(), 2);
}
