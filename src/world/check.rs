//! What has to hold when everything has calmed down.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use super::devices::{METRICS, PLACES, site};
use super::far_store::Fields;
use super::faults::Fault;
use super::gateway::{FEED_WINDOWS, INDICATOR_WINDOW, zone};
use super::oracle::{Key, Row};
use super::{START_MS, World};
use crate::ledger::Rejection;
use crate::model::{Timestamp, Window};
use crate::rollup::Combined;
use crate::store::{Devices, IndicatorQuery, Reader, SeriesQuery, StorePath};

/// Long before and long after everything.
const ALWAYS: (Timestamp, Timestamp) = (Timestamp::from_millis(0), Timestamp::from_millis(4_000_000_000_000));

/// Further from the beginning, ms, lie only readings of devices whose clocks are years off.
const FAR_OFF_MS: i64 = 300 * 86_400_000;

/// Length and shift of a window on the grid of its starts, ms.
fn grid(window: Window) -> (i64, i64) {
    match window {
        Window::Minute1 => (60_000, 0),
        Window::Minute5 => (300_000, 0),
        Window::Minute15 => (900_000, 0),
        Window::Hour1 => (3_600_000, 0),
        Window::Day1 => (86_400_000, 8 * 3_600_000),
    }
}

/// Everything.
pub(super) fn check(world: &World) {
    let reader = Reader::open(&StorePath::in_folder(&world.ground.folder)).expect("a reader");
    check_ledger(world);
    let is_whole = world.flips + world.given_up == 0;
    for window in [Window::Minute1, Window::Minute5, Window::Hour1, Window::Day1] {
        let (length_ms, shift_ms) = grid(window);
        let (expected, found) = (world.oracle.rows(length_ms, shift_ms), rows(world, &reader, window));
        if is_whole {
            compare(window, &expected, &found);
        } else {
            within(window, &expected, &found);
        }
    }
    if is_whole {
        check_indicators(world, &reader);
        check_far_store(world);
    }
}

/// The ledger balances and speaks of what was published.
fn check_ledger(world: &World) {
    let ledger = world.gateway().ledger();
    assert!(ledger.balanced(), "the ledger does not balance: {ledger:?}");
    assert_eq!(ledger.pending, 0, "{ledger:?}");
    let total = ledger.total();
    let lost = total.rejected.get(&Rejection::JournalDamage).copied().unwrap_or(0);
    let may_lose = world.flips + world.given_up + world.unreadable_starts > 0;
    assert!(lost == 0 || may_lose, "{lost} records lost on a disk that did not rot");
    // Without a clock of its own the gateway may believe devices that are years off, whose readings lie far from all rows.
    let strangers = if world.was_unset { 3 * world.faults.of(Fault::Misdated) } else { 0 };
    let missing = world.oracle.len() - total.applied.min(world.oracle.len());
    let applied_max = world.oracle.len() + strangers;
    assert!(total.applied <= applied_max, "counted twice: {} of {applied_max}", total.applied);
    let missing_max = if world.flips + world.given_up > 0 { 3 * lost } else { 0 };
    assert!(missing <= missing_max, "{missing} readings are missing and {lost} records were lost");
    assert_eq!(total.conflicting, 0);
    assert!(ledger.received >= world.broker.acknowledged);
}

fn rows(world: &World, reader: &Reader, window: Window) -> BTreeMap<Key, Combined> {
    let inventory = world.gateway().inventory.read().expect("no panic").clone();
    let zone = zone();
    let query = SeriesQuery {
        inventory: &inventory,
        zone: &zone,
        window,
        from: ALWAYS.0,
        to: ALWAYS.1,
        devices: Devices::All,
        metric: None,
        now: ALWAYS.1,
    };
    let mut rows = BTreeMap::new();
    let mut each = |row: crate::store::SeriesRow| {
        if world.was_unset && (row.start.as_millis() - START_MS).abs() > FAR_OFF_MS {
            return ControlFlow::Continue(());
        }
        assert!(row.is_final, "{window} {} is not final", row.start);
        let device = inventory.device(row.device).expect("listed");
        let place = (0..PLACES.len()).find(|&index| site(index) == *inventory.site_of(device).id).expect("a site");
        let name = inventory.metrics.name(row.metric).expect("named");
        let metric = METRICS.iter().position(|metric| **metric == **name).expect("a metric of theirs");
        rows.insert((place, metric, row.start.as_millis()), row.combined);
        ControlFlow::Continue(())
    };
    reader.visit_series(&query, &mut each).expect("rows");
    rows
}

fn compare(window: Window, expected: &BTreeMap<Key, Row>, found: &BTreeMap<Key, Combined>) {
    for (key, row) in expected {
        let combined = found.get(key).unwrap_or_else(|| panic!("{window}: no row {key:?}, should be {row:?}"));
        let aggregate = &combined.aggregate;
        let point = |point: crate::rollup::Point| (point.time.as_millis(), point.value);
        let is_counter = METRICS[key.1] != "pwr_w";
        let same = aggregate.count == row.count
            && is_near(aggregate.sum.value(), row.sum)
            && (aggregate.min, aggregate.max) == (row.min, row.max)
            && (point(aggregate.first), point(aggregate.last)) == (row.first, row.last)
            && combined.increase.is_some() == is_counter
            && combined.increase.is_none_or(|increase| is_near(increase, row.increase));
        assert!(same, "{window} {key:?}:\n   found {combined:?}\nexpected {row:?}");
    }
    let strange = found.keys().find(|key| !expected.contains_key(key));
    assert_eq!(strange, None, "{window}: a row of nothing");
}

/// Where records were lost on the disk: nothing but what was measured, and nothing twice.
fn within(window: Window, expected: &BTreeMap<Key, Row>, found: &BTreeMap<Key, Combined>) {
    for (key, combined) in found {
        let row = expected.get(key).unwrap_or_else(|| panic!("{window}: a row of nothing: {key:?}"));
        let aggregate = &combined.aggregate;
        let fits = aggregate.count <= row.count && aggregate.min >= row.min && aggregate.max <= row.max;
        assert!(fits, "{window} {key:?}:\n   found {combined:?}\n  within {row:?}");
    }
}

fn is_near(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-12 * a.abs().max(b.abs()).max(1.0)
}

type IndicatorKey = (String, String, String, String, i64);

fn check_indicators(world: &World, reader: &Reader) {
    let query = IndicatorQuery {
        id: None,
        level: None,
        area: None,
        operator: None,
        site: None,
        window: Some(INDICATOR_WINDOW),
        from: ALWAYS.0,
        to: ALWAYS.1,
        limit: 1_000_000,
    };
    let mut found: BTreeMap<IndicatorKey, f64> = BTreeMap::new();
    for row in reader.indicators(&query).expect("indicators") {
        let key = (row.id.to_string(), row.area.to_string(), row.operator.to_string(), row.site.to_string());
        let is_far_off = world.was_unset && (row.start.as_millis() - START_MS).abs() > FAR_OFF_MS;
        if let Some(value) = row.value
            && !is_far_off
        {
            found.insert((key.0, key.1, key.2, key.3, row.start.as_millis()), value);
        }
    }
    let expected = world.oracle.indicators();
    for (key, value) in &expected {
        let have = found.get(key).unwrap_or_else(|| panic!("no indicator {key:?}, should be {value}"));
        assert!((have - value).abs() <= 1e-9 * value.abs().max(1.0), "{key:?}: {have}, should be {value}");
    }
    let strange = found.keys().find(|key| !expected.contains_key(key));
    assert_eq!(strange, None, "an indicator of nothing");
}

/// The time-series store has every row and indicator as it is at last, and no other.
fn check_far_store(world: &World) {
    let mut found = world.ground.far.rows();
    if world.was_unset {
        found.retain(|(_, start), _| (start - START_MS).abs() <= FAR_OFF_MS);
    }
    let mut expected: BTreeMap<(String, i64), Fields> = BTreeMap::new();
    for window in FEED_WINDOWS {
        let (length_ms, shift_ms) = grid(window);
        for ((device, metric, start), row) in world.oracle.rows(length_ms, shift_ms) {
            if world.ground.far.refuses(&site(device)) {
                continue;
            }
            let (area, operator) = PLACES[device];
            let (site, window) = (site(device), window.label());
            let series =
                format!("base_station,area={area},device=meter,operator={operator},site={site},window={window}");
            let fields = expected.entry((series, start)).or_default();
            #[expect(clippy::cast_precision_loss, reason = "a test's few readings")]
            fields.insert(format!("{}_count", METRICS[metric]), row.count as f64);
            fields.insert(format!("{}_last", METRICS[metric]), row.last.1);
            match METRICS[metric] {
                "pwr_w" => fields.insert("pwr_w_sum".to_owned(), row.sum),
                counter => fields.insert(format!("{counter}_increase"), row.increase),
            };
        }
    }
    for ((id, area, operator, site, start), value) in world.oracle.indicators() {
        if world.ground.far.refuses(&site) {
            continue;
        }
        let level = match (&*area, &*operator, &*site) {
            ("350100", "", _) => "city",
            ("350100", ..) => "operator",
            (_, _, "") => "district",
            _ => "site",
        };
        let operator = if operator.is_empty() { String::new() } else { format!(",operator={operator}") };
        let site = if site.is_empty() { site } else { format!(",site={site}") };
        let series = format!("indicator,area={area},id={id},level={level}{operator}{site},window=1h");
        expected.insert((series, start), Fields::from([("value".to_owned(), value)]));
    }
    for (key, fields) in &expected {
        let row = found.get(key).unwrap_or_else(|| panic!("the store has no {key:?}"));
        for (name, value) in fields {
            let have = row.get(name).unwrap_or_else(|| panic!("{key:?} has no field {name}: {row:?}"));
            assert!((have - value).abs() <= 1e-9 * value.abs().max(1.0), "{key:?} {name}: {have}, should be {value}");
        }
    }
    // Indicators without a value are sent for what else they say.
    let strange = found.iter().find(|(key, fields)| !expected.contains_key(key) && fields.contains_key("value"));
    assert_eq!(strange, None, "the store has a row of nothing");
    let strange = found
        .keys()
        .find(|(series, start)| !series.starts_with("indicator") && !expected.contains_key(&(series.clone(), *start)));
    assert_eq!(strange, None, "the store has a row of nothing");
}
