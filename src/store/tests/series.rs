//! Roll-ups of any window are exact (P7), whichever way they are read.

use std::ops::ControlFlow;

use proptest::prelude::{ProptestConfig, Strategy, prop, prop_assert, prop_assert_eq, proptest};

use super::{City, DAY, ENERGY, HOUR, INTERVAL_MS, MINUTE, POWER, at, rows, shanghai};
use crate::model::{DeviceId, MetricId, Timestamp, Window};
use crate::rollup::{expected_slots, step};
use crate::store::{Devices, SeriesQuery, SeriesRow};

/// A counter's readings. It rises far between two minutes and little inside one, and is reset once a minute at the most,
/// so that it never climbs back over its old value in the minute of the reset, where a base row could not tell.
fn counter() -> impl Strategy<Value = Vec<(Timestamp, f64)>> {
    let minute = (prop::collection::btree_map(0i64..60_000, 0u32..500, 1..4), 0usize..8);
    prop::collection::btree_map(0i64..3 * 1_440, minute, 1..60).prop_map(|minutes| {
        let mut readings = Vec::new();
        let mut value = 1_000.0;
        for (minute, (rises, reset_at)) in minutes {
            for (index, (offset, rise)) in rises.into_iter().enumerate() {
                let base = match index {
                    _ if index == reset_at => 0.0,
                    0 => value + 2_000.0,
                    _ => value,
                };
                value = base + f64::from(rise) / 4.0;
                readings.push((at(minute * MINUTE + offset), value));
            }
        }
        readings
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_roll_up_of_minutes_equals_what_the_readings_themselves_come_to(
        readings in counter(),
        order in prop::collection::vec(0usize..1_000, 200),
    ) {
        let mut city = City::new(&[1]);
        // The readings come in any order, in several flushes.
        let mut shuffled: Vec<_> = readings.iter().zip(order.iter().cycle()).collect();
        shuffled.sort_by_key(|(_, key)| **key);
        for chunk in shuffled.chunks(25) {
            for ((time, value), _) in chunk {
                city.hear(0, *time, ENERGY, *value);
            }
            city.flush(at(4 * DAY));
        }
        for window in Window::ALL {
            let mut seen = 0;
            for row in city.series(window, Devices::All) {
                let inside: Vec<_> = readings.iter().filter(|(time, _)| (row.start..row.end).contains(time)).collect();
                let before = readings.iter().rfind(|(time, _)| *time < row.start);
                let values = inside.iter().map(|(_, value)| *value);
                let path: Vec<f64> = before.map(|(_, value)| *value).into_iter().chain(values.clone()).collect();
                let increase: f64 = path.windows(2).map(|pair| step(pair[0], pair[1], None)).sum();
                let found = row.combined;
                prop_assert_eq!(found.aggregate.count, inside.len() as u64);
                prop_assert_eq!(found.aggregate.min, values.clone().fold(f64::INFINITY, f64::min));
                prop_assert_eq!(found.aggregate.max, values.clone().fold(f64::NEG_INFINITY, f64::max));
                prop_assert_eq!((found.aggregate.first.time, found.aggregate.first.value), *inside[0]);
                prop_assert_eq!((found.aggregate.last.time, found.aggregate.last.value), *inside[inside.len() - 1]);
                let sum: f64 = values.sum();
                prop_assert!((found.aggregate.sum.value() - sum).abs() <= 1e-12 * sum.abs().max(1.0));
                // Quarters of a unit add up exactly.
                prop_assert_eq!(found.increase, Some(increase), "{:?} at {}", window, row.start);
                seen += inside.len();
            }
            prop_assert_eq!(seen, readings.len());
        }
    }

    #[test]
    fn the_scan_and_the_seek_find_the_same(
        heard in prop::collection::btree_map((0u32..12, 0i64..2_000, 0u32..2), -5.0f64..5.0, 1..80),
        (from, span) in (0i64..2_000, 0i64..2_000),
    ) {
        let mut city = City::new(&[3, 1, 8]);
        for ((device, minute, metric), value) in heard {
            city.hear(device, at(minute * MINUTE), MetricId(metric), value);
        }
        city.flush(at(DAY));
        let (zone, reader) = (shanghai(), city.reader());
        for window in Window::ALL {
            let query = |devices| SeriesQuery {
                from: at(from * MINUTE + 1),
                to: at((from + span) * MINUTE + 1),
                ..city.query(&zone, window, devices)
            };
            let all = rows(&reader, &query(Devices::All));
            prop_assert!(all.is_sorted_by_key(|row| (row.start, row.device, row.metric)));
            let of = |wanted: &dyn Fn(DeviceId) -> bool| -> Vec<SeriesRow> {
                all.iter().copied().filter(|row| wanted(row.device)).collect()
            };
            for device in (0..12).map(DeviceId) {
                prop_assert_eq!(rows(&reader, &query(Devices::One(device))), of(&|id| id == device));
            }
            let these = [1, 2, 5, 11].map(DeviceId);
            prop_assert_eq!(rows(&reader, &query(Devices::These(&these))), of(&|id| these.contains(&id)));
            for (site, span) in [(0, 0..3), (1, 3..4), (2, 4..12)] {
                prop_assert_eq!(rows(&reader, &query(Devices::Site(site))), of(&|id| span.contains(&id.0)));
            }
            let power = rows(&reader, &SeriesQuery { metric: Some(POWER), ..query(Devices::All) });
            prop_assert_eq!(power, all.iter().copied().filter(|row| row.metric == POWER).collect::<Vec<_>>());
        }
    }
}

#[test]
fn only_windows_that_start_in_the_span_come_and_each_comes_whole() {
    let mut city = City::new(&[1]);
    for minute in 0..180 {
        city.hear(0, at(minute * MINUTE), POWER, 1.0);
    }
    city.flush(at(DAY));
    let (zone, reader) = (shanghai(), city.reader());
    let query = city.query(&zone, Window::Hour1, Devices::All);
    let found = rows(&reader, &SeriesQuery { from: at(1), to: at(HOUR + 1), ..query });
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].start, found[0].end, found[0].combined.aggregate.count), (at(HOUR), at(2 * HOUR), 60));
    assert_eq!(rows(&reader, &SeriesQuery { from: at(1), to: at(HOUR), ..query }), []);
    assert_eq!(rows(&reader, &SeriesQuery { from: at(2), to: at(1), ..query }), []);
}

#[test]
fn a_visit_ends_when_it_is_told_to() {
    let mut city = City::new(&[2]);
    for minute in 0..10 {
        city.hear(0, at(minute * MINUTE), POWER, 1.0);
    }
    city.flush(at(DAY));
    let (zone, reader) = (shanghai(), city.reader());
    for devices in [Devices::All, Devices::One(DeviceId(0))] {
        let mut calls = 0;
        let mut stop = |_| {
            calls += 1;
            if calls == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        reader.visit_series(&city.query(&zone, Window::Minute1, devices), &mut stop).expect("a visit");
        assert_eq!(calls, 3);
    }
}

#[test]
fn an_open_window_expects_up_to_now_and_a_site_only_while_it_is_in_service() {
    let mut city = City::new(&[1, 1]);
    let mut retired = city.inventory.sites()[1].clone();
    (retired.id, retired.in_service_from, retired.in_service_to) =
        ("site-2".into(), Some(at(10 * MINUTE)), Some(at(25 * MINUTE)));
    let site = city.inventory.add_site(retired);
    let mut device = city.inventory.devices()[0].clone();
    device.site = site;
    let device = city.inventory.add_device(device);
    city.flush(at(0));
    for id in [0, device.0] {
        city.hear(id, at(12 * MINUTE), POWER, 1.0);
    }
    city.flush(at(13 * MINUTE));
    let (zone, reader) = (shanghai(), city.reader());
    let now = at(20 * MINUTE);
    let expected = |now| -> Vec<_> {
        let query = SeriesQuery { now, ..city.query(&zone, Window::Hour1, Devices::All) };
        rows(&reader, &query).iter().map(|row| (row.is_final, row.revision, row.combined.expected)).collect()
    };
    let slots = |from, to| Some(expected_slots(at(from), at(to), INTERVAL_MS));
    assert_eq!(expected(now), [(false, 0, slots(0, 20 * MINUTE)), (false, 0, slots(10 * MINUTE, 20 * MINUTE))]);
    city.flush(at(DAY));
    // A final window is due whole, even for somebody whose clock is behind.
    assert_eq!(city.series(Window::Hour1, Devices::All)[0].combined.expected, Some(360));
    let (zone, reader) = (shanghai(), city.reader());
    let query = SeriesQuery { now, ..city.query(&zone, Window::Hour1, Devices::One(device)) };
    let row = rows(&reader, &query)[0];
    assert_eq!((row.is_final, row.revision), (true, 1));
    assert_eq!(row.combined.expected, slots(10 * MINUTE, 25 * MINUTE));
}

#[test]
fn a_damaged_row_costs_only_itself() {
    let mut city = City::new(&[2]);
    for device in 0..2 {
        city.hear(device, at(0), ENERGY, 1.0);
        city.hear(device, at(MINUTE), ENERGY, 3.0);
    }
    city.flush(at(DAY));
    let raw = rusqlite::Connection::open(city.path.file()).expect("a file");
    let damage = "UPDATE rollup SET data = x'01ff' WHERE device = 0 AND start = ?";
    assert_eq!(raw.execute(damage, [at(0).as_millis()]).expect("damage"), 1);
    let found = city.series(Window::Minute1, Devices::All);
    let keys: Vec<_> = found.iter().map(|row| (row.device, row.start, row.combined.increase)).collect();
    assert_eq!(
        keys,
        [(DeviceId(1), at(0), Some(0.0)), (DeviceId(0), at(MINUTE), Some(0.0)), (DeviceId(1), at(MINUTE), Some(2.0))]
    );
}
