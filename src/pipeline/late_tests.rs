//! Counters that wrap or are reset, delivered late and out of order.

use proptest::prelude::{Just, Strategy, any, prop};

use super::tests::{T0, World, frame, listed_with};
use crate::inventory::Profile;
use crate::journal::Entry;
use crate::model::{Timestamp, Window};

const WRAP: u32 = 1_000;
/// When everything arrives, ms after T0: later than all rows, and within the retention of their whole day.
const LATE_MS: i64 = 4 * 3_600_000;

fn world(wrap: Option<f64>) -> World {
    World::with(&listed_with(|profile: &mut Profile| profile.metrics[1].wrap = wrap))
}

fn counter(at_ms: i64, value: u32) -> Entry {
    let payload = format!(r#"{{"ts":{},"readings":{{"energy_kwh":{value}}}}}"#, T0 + at_ms);
    frame("telemetry/base_station/350102/B_1/meter", &payload, LATE_MS)
}

fn flush(world: &mut World) {
    world.flush(Timestamp::from_millis(T0 + LATE_MS));
}

/// Start (minutes after T0) and increase of every row.
fn increases(world: &World, window: Window) -> Vec<(i64, f64)> {
    let minute = |start: Timestamp| (start.as_millis() - T0).div_euclid(60_000);
    let rows = world.rows(window);
    rows.iter().map(|row| (minute(row.start), row.combined.increase.expect("a counter"))).collect()
}

#[test]
fn a_late_reading_just_before_a_wrap_splits_the_step_and_changes_no_total() {
    let mut world = world(Some(f64::from(WRAP)));
    world.apply(&counter(0, 900));
    world.apply(&counter(180_000, 40));
    flush(&mut world);
    assert_eq!(increases(&world, Window::Minute1), [(0, 0.0), (3, 140.0)]);
    // The last reading before the wrap and the first one after it come late, the later one first.
    world.apply(&counter(120_000, 10));
    flush(&mut world);
    assert_eq!(increases(&world, Window::Minute1), [(0, 0.0), (2, 110.0), (3, 30.0)]);
    world.apply(&counter(60_000, 990));
    flush(&mut world);
    assert_eq!(increases(&world, Window::Minute1), [(0, 0.0), (1, 90.0), (2, 20.0), (3, 30.0)]);
    assert_eq!(increases(&world, Window::Hour1), [(0, 140.0)]);
}

#[test]
fn a_late_reading_that_shows_a_reset_counts_what_was_lost_to_it() {
    let mut world = world(None);
    world.apply(&counter(0, 900));
    world.apply(&counter(120_000, 40));
    flush(&mut world);
    assert_eq!(increases(&world, Window::Hour1), [(0, 40.0)]);
    // The meter had gone on to 930 before it was exchanged.
    world.apply(&counter(60_000, 930));
    flush(&mut world);
    assert_eq!(increases(&world, Window::Minute1), [(0, 0.0), (1, 30.0), (2, 40.0)]);
    assert_eq!(increases(&world, Window::Hour1), [(0, 70.0)]);
}

#[test]
fn a_counter_that_falls_low_is_taken_for_reset_though_its_profile_names_a_wrap() {
    let mut world = world(Some(f64::from(WRAP)));
    for entry in [counter(60_000, 5), counter(0, 300)] {
        world.apply(&entry);
        flush(&mut world);
    }
    assert_eq!(increases(&world, Window::Minute1), [(0, 0.0), (1, 5.0)]);
}

/// Readings every 25 s, by the true total of a counter that rises by less than half its wrap within a minute; as they
/// are delivered; and where flushes fall.
fn walks() -> impl Strategy<Value = (Vec<u32>, Vec<usize>)> {
    prop::collection::vec(0u32..150, 2..120).prop_flat_map(|steps| {
        let totals: Vec<u32> = steps
            .iter()
            .scan(990, |total, step| {
                *total += step;
                Some(*total)
            })
            .collect();
        let order: Vec<usize> = (0..totals.len()).collect();
        (Just(totals), Just(order).prop_shuffle())
    })
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config { cases: 32, ..Default::default() })]

    #[test]
    fn a_wrapping_counter_is_exact_in_any_order_of_delivery(
        (totals, order) in walks(),
        flushes in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let mut world = world(Some(f64::from(WRAP)));
        let flushes: Vec<_> = flushes.iter().map(|index| index.index(order.len())).collect();
        for (place, &n) in order.iter().enumerate() {
            let at_ms = 25_000 * i64::try_from(n).expect("small");
            world.apply(&counter(at_ms, totals[n] % WRAP));
            if flushes.contains(&place) {
                flush(&mut world);
            }
        }
        flush(&mut world);
        // By minute: the last total of the minute less the last one before it.
        let mut expected: Vec<(i64, f64)> = Vec::new();
        let mut before = totals[0];
        for (n, &total) in totals.iter().enumerate() {
            let minute = 25 * i64::try_from(n).expect("small") / 60;
            let rise = f64::from(total - before);
            match expected.last_mut() {
                Some((last, sum)) if *last == minute => *sum += rise,
                _ => expected.push((minute, rise)),
            }
            before = total;
        }
        proptest::prop_assert_eq!(increases(&world, Window::Minute1), expected);
        let rise: f64 = increases(&world, Window::Day1).iter().map(|(_, rise)| rise).sum();
        proptest::prop_assert_eq!(rise, f64::from(totals[totals.len() - 1] - totals[0]));
    }
}
