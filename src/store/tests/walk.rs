//! Rows of some devices are found without an index by device, however they lie and however long ago that was.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{City, DAY, ENERGY, GRACE, HOUR, MINUTE, POWER, at, options, rows, shanghai};
use crate::model::{DeviceId, Timestamp, Window, WindowStart};
use crate::store::walk::{GROUP_DEVICES, STEP_ROWS_MAX, STEP_STARTS_MAX, Walk, successors};
use crate::store::{Devices, Feed, SeriesQuery, StorePath, Writer};

/// The places in `devices` of those that have a row at a start.
fn rows_at(walk: &mut Walk<'_>, start: WindowStart, devices: &[u32]) -> Vec<usize> {
    let devices: Vec<DeviceId> = devices.iter().copied().map(DeviceId).collect();
    let mut found = Vec::new();
    walk.rows(start, &devices, &mut |place, row| {
        assert_eq!(row.start, start);
        found.push(place);
    })
    .expect("rows");
    found
}

#[test]
fn devices_that_lie_close_and_far_apart_are_found_by_their_place() {
    let mut city = City::new(&[300]);
    for device in (0..300).filter(|device| device % 3 == 0) {
        city.hear(device, at(0), POWER, 1.0);
    }
    city.flush(at(MINUTE));
    let reader = city.reader();
    let mut walk = Walk::new(&reader.connection).expect("a store");
    let wanted = [0, 1, 2, 3, 30, 32, 33, 36, 150, 200, 201, 299];
    let heard: Vec<usize> = (0..wanted.len()).filter(|place| wanted[*place] % 3 == 0).collect();
    assert_eq!(rows_at(&mut walk, at(0), &wanted), heard);
    assert!(rows_at(&mut walk, at(MINUTE), &wanted).is_empty());
    assert!(rows_at(&mut walk, at(0), &[]).is_empty());
    let all: Vec<DeviceId> = (0..300).map(DeviceId).collect();
    let found = walk.heard(&[at(0), at(MINUTE)], &all).expect("rows");
    assert_eq!(found, (0..300).step_by(3).map(DeviceId).collect::<Vec<_>>());
}

#[test]
fn a_counter_that_was_silent_for_days_while_others_spoke_finds_its_last_value() {
    let mut city = City::new(&[3]);
    for device in 0..3 {
        city.hear(device, at(0), ENERGY, 100.0);
    }
    for minute in 1..4 * 1_440 {
        city.hear(1, at(minute * MINUTE), POWER, 1.0);
    }
    let back = at(4 * DAY);
    for device in 0..3 {
        city.hear(device, back, ENERGY, 107.0);
    }
    city.flush(at(5 * DAY));
    let (zone, reader) = (shanghai(), city.reader());
    let increases = |window: Window, devices| -> Vec<Option<f64>> {
        let from = window.bounds(back, &zone).0;
        let query = SeriesQuery { from, metric: Some(ENERGY), ..city.query(&zone, window, devices) };
        rows(&reader, &query).iter().map(|row| row.combined.increase).collect()
    };
    for window in Window::ALL {
        // The one that spoke on has sent so many rows without its counter that it starts anew.
        let expected = [Some(7.0), Some(0.0), Some(7.0)];
        assert_eq!(increases(window, Devices::All), expected, "{window:?}");
        for (device, increase) in (0..3).map(DeviceId).zip(expected) {
            assert_eq!(increases(window, Devices::One(device)), [increase], "{window:?}");
        }
    }
}

#[test]
fn how_far_back_a_counter_is_looked_for_is_bounded_in_its_rows_and_in_minutes_of_others() {
    let minutes = i64::try_from(STEP_STARTS_MAX).expect("few");
    let mut city = City::new(&[2]);
    city.hear(0, at(0), ENERGY, 1.0);
    for minute in 1..=minutes {
        city.hear(1, at(minute * MINUTE), POWER, 1.0);
    }
    city.flush(at(30 * DAY));
    let reader = city.reader();
    let mut walk = Walk::new(&reader.connection).expect("a store");
    let mut latest = |before: Timestamp| {
        let mut found = Vec::new();
        let wanted = [(DeviceId(0), vec![ENERGY])];
        walk.latest_before(before, &wanted, &mut |place, metric, last| found.push((place, metric, last.value)))
            .expect("rows");
        found
    };
    assert_eq!(latest(at(0)), []);
    assert_eq!(latest(at(minutes * MINUTE)), [(0, ENERGY, 1.0)]);
    assert_eq!(latest(at((minutes + 1) * MINUTE)), []);

    let rows = i64::try_from(STEP_ROWS_MAX).expect("few");
    let mut city = City::new(&[1]);
    city.hear(0, at(0), ENERGY, 1.0);
    for minute in 1..=rows {
        city.hear(0, at(minute * MINUTE), POWER, 1.0);
    }
    city.flush(at(30 * DAY));
    let reader = city.reader();
    let mut walk = Walk::new(&reader.connection).expect("a store");
    for (before, is_found) in [(rows, true), (rows + 1, false)] {
        let mut found = false;
        let wanted = [(DeviceId(0), vec![ENERGY])];
        walk.latest_before(at(before * MINUTE), &wanted, &mut |_, _, _| found = true).expect("rows");
        assert_eq!(found, is_found, "{before}");
    }
}

#[test]
fn a_fleet_whose_late_readings_come_after_an_outage_has_its_next_rows_amended() {
    let devices = u32::try_from(GROUP_DEVICES).expect("few") + 40;
    let mut city = City::new(&[devices as usize]);
    // Every other one is back after three hours, in which one that is not theirs spoke.
    for device in (0..devices).step_by(2) {
        city.hear(device, at(3 * HOUR), ENERGY, 110.0);
        city.hear(device, at(3 * HOUR + MINUTE), ENERGY, 111.0);
    }
    for minute in 0..180 {
        city.hear(1, at(minute * MINUTE), POWER, 1.0);
    }
    city.flush(at(DAY));
    let end = city.reader().feed_end(Feed::Rollup).expect("an end");
    for device in (0..devices).step_by(2) {
        city.hear(device, at(0), ENERGY, 100.0);
        city.hear(device, at(HOUR), ENERGY, 103.0);
    }
    city.flush(at(DAY));
    let changes = city.reader().changes(end, 100_000).expect("changes");
    let minutes: Vec<_> = changes
        .iter()
        .filter(|change| change.window == Window::Minute1)
        .map(|change| (change.start, change.device.0))
        .collect();
    let expected: Vec<_> = [at(0), at(HOUR), at(3 * HOUR)]
        .into_iter()
        .flat_map(|start| (0..devices).step_by(2).map(move |device| (start, device)))
        .collect();
    assert_eq!(minutes, expected);
    let rows = city.series(Window::Minute1, Devices::One(DeviceId(devices - 2)));
    assert_eq!(
        rows.iter().map(|row| row.combined.increase).collect::<Vec<_>>(),
        [Some(0.0), Some(3.0), Some(7.0), Some(1.0)]
    );
}

#[test]
fn a_walk_to_the_next_readings_ends_as_far_on_as_a_reader_looks_back() {
    let rows = i64::try_from(STEP_ROWS_MAX).expect("few");
    let mut city = City::new(&[2]);
    city.hear(0, at(0), ENERGY, 1.0);
    for minute in 1..rows + 10 {
        city.hear(0, at(minute * MINUTE), POWER, 1.0);
    }
    // The walk goes one row further than a reader, who begins at the row after it.
    for (minute, is_found) in [(rows + 2, false), (rows + 1, true)] {
        city.hear(0, at(minute * MINUTE), ENERGY, 2.0);
        city.flush(at(30 * DAY));
        let reader = city.reader();
        let mut walk = Walk::new(&reader.connection).expect("a store");
        let found = successors(&mut walk, &[(DeviceId(0), vec![at(0)])]).expect("rows");
        assert_eq!(found, if is_found { vec![(at(minute * MINUTE), DeviceId(0))] } else { Vec::new() }, "{minute}");
    }
}

#[test]
fn a_window_that_becomes_final_a_second_time_is_told_of_every_device_again() {
    let mut city = City::new(&[2]);
    city.flush(at(0));
    let far = 10 * DAY;
    city.hear(0, at(far), POWER, 1.0);
    city.flush(at(far + 2 * HOUR));
    let end = city.reader().feed_end(Feed::Rollup).expect("an end");
    // The clock was ten days ahead; the device's was too.
    city.flush(at(MINUTE));
    city.hear(1, at(far + 5 * MINUTE), POWER, 1.0);
    city.flush(at(far + 6 * MINUTE));
    city.flush(at(far + HOUR + GRACE));
    let changes = city.reader().changes(end, 100).expect("changes");
    let hours: Vec<_> =
        changes.iter().filter(|change| change.window == Window::Hour1).map(|change| change.device.0).collect();
    assert_eq!(hours, [0, 1]);
}

#[test]
fn a_longer_window_is_told_of_the_devices_with_a_row_in_it_whether_they_were_noted_or_not() {
    for restarts in [false, true] {
        let mut city = City::new(&[700]);
        let days = |city: &City| -> Vec<(WindowStart, u32)> {
            let changes = city.reader().changes(0, 1_000_000).expect("changes");
            let days = changes.iter().filter(|change| change.window == Window::Day1);
            days.map(|change| (change.start, change.device.0)).collect()
        };
        // One is heard early, one late, one before and one after the day.
        for (device, time) in [(3, 0), (650, 30 * MINUTE), (4, -MINUTE), (5, DAY), (6, 23 * HOUR)] {
            city.hear(device, at(time), POWER, 1.0);
            city.flush(at(time.min(DAY - HOUR)));
            if restarts {
                city.restart(options());
            }
        }
        city.flush(at(DAY + GRACE));
        assert_eq!(days(&city), [(at(-DAY), 4), (at(0), 3), (at(0), 6), (at(0), 650)], "{restarts}");
    }
}

#[test]
fn a_flush_that_failed_leaves_no_device_noted() {
    let mut city = City::new(&[400]);
    city.flush(at(0));
    city.writer.set_room(Some(0));
    for device in 0..400 {
        for second in 0..20 {
            city.hear(device, at(second * 1_000), POWER, f64::from(device));
        }
    }
    city.try_flush(at(MINUTE)).expect_err("the disk is full");
    city.writer.set_room(None);
    city.forget_changes();
    city.hear(7, at(0), POWER, 1.0);
    city.flush(at(MINUTE));
    city.flush(at(HOUR + GRACE));
    let changes = city.reader().changes(0, 10_000).expect("changes");
    let hours: Vec<_> =
        changes.iter().filter(|change| change.window == Window::Hour1).map(|change| change.device.0).collect();
    assert_eq!(hours, [7]);
}

#[test]
fn a_store_with_an_index_by_device_loses_it_and_keeps_its_rows() {
    for version in [1, 2] {
        let folder = tempfile::tempdir().expect("a folder");
        let path = StorePath::in_folder(folder.path());
        std::fs::copy(format!("tests/fixtures/store-v{version}.db"), path.file()).expect("a fixture");
        let rows_and_indices = |path: &StorePath| -> (i64, i64) {
            let raw = rusqlite::Connection::open(path.file()).expect("a file");
            let count = |sql| raw.query_row(sql, (), |row| row.get::<_, i64>(0)).expect("a count");
            let indices =
                "SELECT count(*) FROM sqlite_master WHERE type = 'index' AND tbl_name = 'rollup' AND sql IS NOT NULL";
            (count("SELECT count(*) FROM rollup"), count(indices))
        };
        let (before, indices) = rows_and_indices(&path);
        assert!(before > 0 && indices == 1, "version {version}: {before} rows, {indices} indices");
        drop(Writer::open(&path, options()).expect("a store"));
        assert_eq!(rows_and_indices(&path), (before, 0), "version {version}");
        drop(Writer::open(&path, options()).expect("a store"));
    }
}

#[test]
fn a_walk_past_a_month_of_others_rows_finds_what_there_is_and_can_be_ended() {
    let mut city = City::new(&[2]);
    city.hear(1, at(0), POWER, 1.0);
    city.hear(1, at(30 * DAY - MINUTE), POWER, 2.0);
    city.flush(at(DAY));
    let raw = rusqlite::Connection::open(city.path.file()).expect("a file");
    let others = "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 43199)
                  INSERT INTO rollup SELECT ?1 + i * 60000, 0, 0, zeroblob(9) FROM n";
    raw.execute(others, [at(0).as_millis()]).expect("rows");
    let (zone, reader) = (shanghai(), city.reader());
    for window in [Window::Minute1, Window::Hour1, Window::Day1] {
        let found = rows(&reader, &city.query(&zone, window, Devices::One(DeviceId(1))));
        assert_eq!(found.iter().map(|row| row.combined.aggregate.count).collect::<Vec<_>>(), [1, 1], "{window:?}");
    }
    // It finds nothing to hand out, so only from outside can it be told that its time is over.
    let (interrupter, is_over) = (reader.interrupter(), AtomicBool::new(false));
    let query = city.query(&zone, Window::Minute1, Devices::One(DeviceId(1)));
    let ended = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Acquire) {
                interrupter.interrupt();
                std::thread::yield_now();
            }
        });
        let ended = reader.visit_series(&query, &mut |_| ControlFlow::Continue(()));
        is_over.store(true, Ordering::Release);
        ended
    });
    assert!(ended.expect_err("it is ended").is_interrupted());
}
