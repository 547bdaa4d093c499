//! The bound in bytes: what goes, in what order, and what is counted.

use super::{City, DAY, GRACE, HOUR, MINUTE, POWER, at, options};
use crate::model::{DeviceId, Timestamp, Window};
use crate::store::{Devices, Feed, Pressure, StoreBound, Writer, WriterOptions};

const DEVICES: u32 = 50;
/// The bound of most of these stores: some hours of their rows.
const BYTES_MAX: u64 = 5 << 17;

/// A city whose store may take `bytes_max`, with the sinks and windows of `options`.
fn city(bytes_max: u64, options: WriterOptions) -> City {
    let mut city = City::new(&[DEVICES as usize]);
    let bound = StoreBound { bytes_max, indicator_sinks: Vec::new() };
    city.writer = Writer::open(&city.path, options).and_then(|writer| writer.bounded(bound)).expect("a store");
    city
}

/// Hears a minute of every device and flushes when it is final.
fn minute(city: &mut City, number: i64) -> usize {
    for device in 0..DEVICES {
        city.hear(device, at(number * MINUTE), POWER, 1.0);
    }
    city.flush(at((number + 1) * MINUTE + GRACE))
}

fn discard(city: &City, name: &str) -> u64 {
    let discards = city.reader().discards().expect("counts");
    discards.iter().find(|(known, _)| *known == name).expect("a count").1
}

fn only_minutes() -> WriterOptions {
    WriterOptions { feed_windows: [Window::Minute1].into(), indicator_windows: [].into(), ..options() }
}

fn pass_everything(city: &City) {
    let end = city.reader().feed_end(Feed::Rollup).expect("an end");
    for sink in ["influx", "archive"] {
        city.side_writer().set_position(sink, Feed::Rollup, end).expect("a position");
    }
}

#[test]
fn a_steady_stream_stays_within_the_bound_and_the_file_stops_growing() {
    let mut city = city(BYTES_MAX, only_minutes());
    let file_bytes = |city: &City| std::fs::metadata(city.path.file()).expect("a file").len();
    let mut half = 0;
    for number in 0..600 {
        minute(&mut city, number);
        pass_everything(&city);
        let fill = city.writer.fill();
        assert!(fill.used_bytes <= fill.bytes_max + fill.bytes_max / 10, "minute {number}: {fill:?}");
        assert!(matches!(fill.pressure, Pressure::None | Pressure::AtBound), "minute {number}: {fill:?}");
        if number == 400 {
            half = file_bytes(&city);
        }
    }
    assert!(file_bytes(&city) <= half + (64 << 10), "{half} bytes, then {}", file_bytes(&city));
    let kept = city.series(Window::Minute1, Devices::All).len() as u64;
    assert!(kept > 1_000 && kept + discard(&city, "rows_shed") == 600 * u64::from(DEVICES), "{kept} are kept");
    assert_eq!(discard(&city, "feed_expired"), 0);
}

#[test]
fn what_a_sink_has_not_taken_goes_only_a_tenth_above_the_bound_and_is_counted() {
    let mut city = city(BYTES_MAX, only_minutes());
    let mut seen = Vec::new();
    for number in 0..600 {
        minute(&mut city, number);
        let fill = city.writer.fill();
        if seen.last() != Some(&fill.pressure) {
            seen.push(fill.pressure);
        }
        assert!(fill.used_bytes <= fill.bytes_max + fill.bytes_max / 10 + (64 << 10), "{fill:?}");
        if fill.pressure == Pressure::Held {
            assert_eq!(discard(&city, "rows_shed"), 0);
        }
        if seen.len() == 3 {
            break;
        }
    }
    assert_eq!(seen, [Pressure::None, Pressure::Held, Pressure::Shedding]);
    let shed = discard(&city, "rows_shed");
    assert!(shed > 0 && shed.is_multiple_of(u64::from(DEVICES)), "{shed} rows");
    assert_eq!(discard(&city, "feed_expired"), shed);
    let oldest = city.reader().changes(0, 1).expect("changes")[0].start;
    assert_eq!(Some(oldest), city.writer.kept_from());
}

#[test]
fn rows_that_an_open_day_is_made_of_are_kept_while_the_bound_allows_it() {
    let days = WriterOptions { feed_windows: [Window::Minute1, Window::Day1].into(), ..only_minutes() };
    let mut city = city(BYTES_MAX, days);
    let mut number = 0;
    while city.writer.fill().pressure == Pressure::None {
        minute(&mut city, number);
        pass_everything(&city);
        number += 1;
    }
    assert_eq!(city.writer.fill().pressure, Pressure::Held);
    assert_eq!(discard(&city, "rows_shed"), 0);
}

#[test]
fn a_late_reading_for_a_row_that_went_begins_none_and_a_window_without_its_beginning_is_not_told() {
    let mut city =
        city(BYTES_MAX, WriterOptions { feed_windows: [Window::Minute1, Window::Hour1].into(), ..only_minutes() });
    for number in 0..480 {
        minute(&mut city, number);
        pass_everything(&city);
    }
    let kept_from = city.writer.kept_from().expect("rows went");
    assert!(kept_from > at(HOUR), "{kept_from}");
    let hours = city.series(Window::Hour1, Devices::One(DeviceId(0)));
    assert!(hours.iter().all(|hour| hour.start >= kept_from), "{kept_from}: {:?}", hours.first());
    let minutes = city.series(Window::Minute1, Devices::One(DeviceId(0)));
    assert_eq!(minutes.first().map(|row| row.start), Some(kept_from));
    // Also after a restart.
    let writer = Writer::open(&city.path, only_minutes()).expect("a store");
    assert_eq!(writer.kept_from(), Some(kept_from));
}

#[test]
fn a_clock_that_ran_ahead_when_rows_went_refuses_nothing_once_it_is_back() {
    let mut city = city(BYTES_MAX, only_minutes());
    let ahead = 300 * DAY;
    for number in 0..400 {
        for device in 0..DEVICES {
            city.hear(device, at(ahead + number * MINUTE), POWER, 1.0);
        }
        city.flush(at(ahead + (number + 1) * MINUTE + GRACE));
        pass_everything(&city);
    }
    assert!(city.writer.kept_from() > Some(at(ahead)));
    city.hear(0, at(HOUR), POWER, 1.0);
    city.flush(at(HOUR + MINUTE));
    assert!(city.writer.kept_from() <= Some(at(HOUR)), "{:?}", city.writer.kept_from());
}

#[test]
fn rows_that_went_stay_gone_under_a_clock_that_is_not_set() {
    let mut city = city(BYTES_MAX, only_minutes());
    for number in 0..420 {
        minute(&mut city, number);
        pass_everything(&city);
    }
    let kept_from = city.writer.kept_from().expect("rows went");
    city.flush(Timestamp::from_millis(60_000));
    assert_eq!(city.writer.kept_from(), Some(kept_from));
    minute(&mut city, 420);
    assert!(city.writer.kept_from() >= Some(kept_from), "{:?}, was {kept_from}", city.writer.kept_from());
}

#[test]
fn one_flush_deletes_a_bounded_number_of_rows_when_the_bound_is_lowered() {
    let mut city = city(1 << 40, only_minutes());
    for number in 0..900 {
        minute(&mut city, number);
        pass_everything(&city);
    }
    let bound = StoreBound { bytes_max: BYTES_MAX, indicator_sinks: Vec::new() };
    city.writer = Writer::open(&city.path, only_minutes()).and_then(|writer| writer.bounded(bound)).expect("a store");
    let mut before = 0;
    for round in 0..6 {
        minute(&mut city, 900 + round);
        pass_everything(&city);
        let shed = discard(&city, "rows_shed");
        assert!(shed - before <= 20_000 + u64::from(DEVICES), "{}", shed - before);
        before = shed;
    }
    assert_eq!(city.writer.fill().pressure, Pressure::AtBound);
    assert!(city.writer.fill().used_bytes <= BYTES_MAX);
}

#[test]
fn flushes_of_thousands_of_windows_of_one_device_stay_within_the_bound() {
    const WINDOWS: i64 = 3_000;
    let mut city = city(BYTES_MAX, only_minutes());
    for round in 0..8 {
        for number in round * WINDOWS..(round + 1) * WINDOWS {
            city.hear(0, at(number * MINUTE), POWER, 1.0);
        }
        city.flush(at((round + 1) * WINDOWS * MINUTE + GRACE));
        pass_everything(&city);
        let fill = city.writer.fill();
        assert!(fill.used_bytes <= fill.bytes_max + fill.bytes_max / 10, "round {round}: {fill:?}");
    }
    assert!(discard(&city, "rows_shed") > 0);
}

#[test]
fn a_backlog_of_half_a_million_changes_is_read_in_bounded_batches() {
    const CHANGES: u64 = 500_000;
    const BATCH: usize = 5_000;
    let city = City::new(&[1]);
    let raw = rusqlite::Connection::open(city.path.file()).expect("a file");
    let fill = "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < ?1 - 1)
                INSERT INTO change(window, start, device) SELECT 1, ?2 + i * 60000, 0 FROM n";
    raw.execute(fill, rusqlite::params![CHANGES.cast_signed(), at(0).as_millis()]).expect("changes");
    let reader = city.reader();
    let (mut place, mut read) = (0, 0);
    loop {
        let batch = reader.changes(place, BATCH).expect("changes");
        assert!(batch.len() <= BATCH && batch.capacity() <= 2 * BATCH, "{}", batch.capacity());
        let Some(last) = batch.last() else { break };
        place = last.seq;
        read += batch.len() as u64;
    }
    assert_eq!(read, CHANGES);
}

#[test]
fn a_sink_that_is_no_longer_configured_holds_nothing_back() {
    let alone = WriterOptions { rollup_sinks: vec!["influx".to_owned()], ..only_minutes() };
    let mut city = city(1 << 40, only_minutes());
    minute(&mut city, 0);
    let mut side = city.side_writer();
    side.set_position("influx", Feed::Rollup, u64::from(DEVICES)).expect("a position");
    side.set_position("archive", Feed::Rollup, 1).expect("a position");
    minute(&mut city, 1);
    assert_eq!(city.reader().changes(0, 1).expect("changes")[0].seq, 2);
    city.restart(alone);
    minute(&mut city, 2);
    assert_eq!(city.reader().changes(0, 1).expect("changes")[0].seq, u64::from(DEVICES) + 1);
    // It comes back at the place where it was, and what the feed still holds after that is sent.
    assert_eq!(city.side_writer().position("archive", Feed::Rollup).expect("a place"), 1);
}

#[test]
fn topics_lines_and_reasons_are_cut_and_what_goes_is_counted() {
    let mut city = City::new(&[1]);
    let letter = |millis| crate::store::DeadLetter {
        at: Timestamp::from_millis(millis),
        source: "broker".into(),
        topic: "é".repeat(30_000).into(),
        reason: crate::ledger::Rejection::UnknownTopic.label(),
        payload: (*b"{}").into(),
    };
    city.dead_letters = (0..1_200).map(letter).collect();
    city.flush(at(0));
    assert!(city.reader().dead_letters(1).expect("letters")[0].topic.len() <= 1_024);
    assert_eq!(discard(&city, "dead_letters_dropped"), 200);
    let mut side = city.side_writer();
    for number in 0..1_003 {
        let text = "x".repeat(20_000);
        let line =
            crate::store::Quarantined { at: at(number), sink: "influx".into(), line: text.clone(), reason: text };
        side.quarantine(&line).expect("a write");
    }
    let kept = city.reader().quarantined(2_000).expect("lines");
    assert_eq!((kept.len(), kept[0].line.len(), kept[0].reason.len()), (1_000, 16 * 1_024, 16 * 1_024));
    assert_eq!(discard(&city, "quarantined_dropped"), 3);
}
