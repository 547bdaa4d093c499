//! The feed of roll-ups: each sink gets everything, at its own pace, whatever the clock does.

use std::collections::BTreeMap;

use super::{City, DAY, ENERGY, GRACE, HOUR, MINUTE, POWER, at, rows, shanghai};
use crate::model::{DeviceId, Timestamp, Window, WindowStart};
use crate::store::{Devices, Feed, Quarantined, Reader, SeriesQuery};

type Sent = BTreeMap<(Window, WindowStart, DeviceId), Vec<u64>>;

/// Sends up to `limit` changes as a sink does and notes the revisions it sent of each window.
fn send(city: &City, reader: &Reader, sink: &str, limit: usize, sent: &mut Sent) -> usize {
    let zone = shanghai();
    let mut side = city.side_writer();
    let after = side.position(sink, Feed::Rollup).expect("a position");
    let changes = reader.changes(after, limit).expect("changes");
    for change in &changes {
        let query = SeriesQuery {
            from: change.start,
            to: change.start.plus_millis(1),
            ..city.query(&zone, change.window, Devices::One(change.device))
        };
        let newest = rows(reader, &query).iter().map(|row| row.revision).max().expect("a roll-up");
        sent.entry((change.window, change.start, change.device)).or_default().push(newest);
        side.set_position(sink, Feed::Rollup, change.seq).expect("a position");
    }
    changes.len()
}

#[test]
fn two_sinks_at_different_positions_both_get_everything_and_what_both_have_goes() {
    let mut city = City::new(&[2]);
    let reader = city.reader();
    let (mut influx, mut archive) = (Sent::new(), Sent::new());
    for minute in 0..180 {
        for device in 0..2 {
            city.hear(device, at(minute * MINUTE), POWER, 1.0);
        }
        city.flush(at((minute + 1) * MINUTE));
        // One sink keeps up, the other is away for two hours.
        send(&city, &reader, "influx", usize::MAX, &mut influx);
        if minute >= 120 {
            send(&city, &reader, "archive", 50, &mut archive);
        }
    }
    city.flush(at(3 * HOUR + GRACE));
    for sent in [(&mut influx, "influx"), (&mut archive, "archive")] {
        while send(&city, &reader, sent.1, 50, sent.0) > 0 {}
        assert_eq!(sent.0.len(), 2 * (180 + 3), "{}", sent.1);
        assert!(sent.0.values().all(|revisions| revisions == &[1]), "{}", sent.1);
    }
    city.flush(at(3 * HOUR + GRACE));
    assert_eq!(reader.changes(0, 10).expect("changes"), []);
    assert_eq!(reader.feed_expired().expect("a count"), 0);
    assert!(reader.feed_end(Feed::Rollup).expect("an end") >= 2 * 183);
    assert_eq!(reader.sinks().expect("sinks").len(), 2);
    // An amended window comes again with a higher revision, with every window that holds it.
    city.hear(1, at(90 * MINUTE + 5), POWER, 2.0);
    city.flush(at(4 * HOUR));
    let mut again = Sent::new();
    send(&city, &reader, "influx", usize::MAX, &mut again);
    let keys = [(Window::Minute1, at(90 * MINUTE), DeviceId(1)), (Window::Hour1, at(HOUR), DeviceId(1))];
    for key in keys {
        assert_eq!(again.get(&key), Some(&vec![2]), "{key:?}");
    }
}

#[test]
fn a_window_that_changes_again_before_it_was_sent_stands_in_the_feed_once() {
    let mut city = City::new(&[1]);
    for second in 0..50 {
        city.hear(0, at(second * 1_000), POWER, 1.0);
        city.flush(at(HOUR));
    }
    let changes = city.reader().changes(0, 100).expect("changes");
    assert_eq!(changes.iter().filter(|change| change.window == Window::Minute1).count(), 1);
    assert_eq!(changes.last().map(|change| change.seq), Some(50));
}

#[test]
fn a_late_counter_reading_amends_the_next_row_that_has_the_counter() {
    let mut city = City::new(&[1]);
    let reader = city.reader();
    city.hear(0, at(0), ENERGY, 100.0);
    for minute in 2..5 {
        city.hear(0, at(minute * MINUTE), POWER, 1.0);
    }
    city.hear(0, at(5 * MINUTE), ENERGY, 110.0);
    city.hear(0, at(6 * MINUTE), ENERGY, 111.0);
    city.flush(at(HOUR));
    let end = reader.feed_end(Feed::Rollup).expect("an end");
    assert_eq!(city.one(Window::Minute1, at(5 * MINUTE), ENERGY).combined.increase, Some(10.0));
    city.hear(0, at(MINUTE), ENERGY, 107.0);
    city.flush(at(HOUR));
    let changes = reader.changes(end, 100).expect("changes");
    let minutes: Vec<_> =
        changes.iter().filter(|change| change.window == Window::Minute1).map(|change| change.start).collect();
    assert_eq!(minutes, [at(MINUTE), at(5 * MINUTE)]);
    let amended = city.one(Window::Minute1, at(5 * MINUTE), ENERGY);
    assert_eq!((amended.combined.increase, amended.revision), (Some(3.0), 3));
    assert_eq!(city.one(Window::Minute1, at(6 * MINUTE), ENERGY).revision, 2);
}

#[test]
fn a_first_start_with_the_clock_in_1970_costs_no_more_than_the_rows_there_are() {
    let mut city = City::new(&[1]);
    city.flush(Timestamp::from_millis(0));
    city.hear(0, at(0), POWER, 1.0);
    city.flush(at(MINUTE + GRACE));
    let reader = city.reader();
    let changes = reader.changes(0, 1_000).expect("changes");
    assert_eq!(
        changes.iter().map(|change| (change.window, change.start)).collect::<Vec<_>>(),
        [(Window::Minute1, at(0))]
    );
    // Windows without rows are marked for the two days before.
    let marks = reader.stale(100_000).expect("marks");
    assert_eq!(marks.iter().filter(|mark| mark.window == Window::Hour1).count(), 48);
    assert_eq!(marks.iter().filter(|mark| mark.window == Window::Minute15).count(), 4 * 48);
}

#[test]
fn windows_that_became_final_during_a_downtime_are_fed_once_it_is_over() {
    let mut city = City::new(&[1]);
    city.hear(0, at(0), POWER, 1.0);
    city.flush(at(MINUTE));
    city.flush(at(5 * DAY + GRACE));
    let reader = city.reader();
    let windows: Vec<_> = reader.changes(0, 100).expect("changes").iter().map(|change| change.window).collect();
    assert_eq!(windows, [Window::Minute1, Window::Hour1, Window::Day1]);
    let marks = reader.stale(100_000).expect("marks");
    let hours: Vec<_> = marks.iter().filter(|mark| mark.window == Window::Hour1).map(|mark| mark.start).collect();
    assert_eq!((hours.len(), hours[0], hours[1]), (1 + 48, at(0), at(3 * DAY)));
}

#[test]
fn the_newest_refused_lines_are_kept() {
    let city = City::new(&[1]);
    let mut side = city.side_writer();
    let line = |n: i64| Quarantined {
        at: at(n),
        sink: "influx".into(),
        line: format!("base_station pwr_w={n}"),
        reason: "field type conflict".to_owned(),
    };
    for n in 0..1_010 {
        side.quarantine(&line(n)).expect("a write");
    }
    let kept = city.reader().quarantined(5_000).expect("lines");
    assert_eq!((kept.len(), &kept[0]), (1_000, &line(1_009)));
}
