//! Indicators: revisions, marks and queries.

use std::sync::Arc;

use super::{City, DAY, GRACE, HOUR, MINUTE, POWER, at};
use crate::indicator::Level;
use crate::model::{Timestamp, Window, WindowStart};
use crate::store::{IndicatorQuery, IndicatorRow, StaleWindow};

fn row(id: &str, site: &str, start: WindowStart, value: Option<f64>) -> IndicatorRow {
    IndicatorRow {
        seq: 0,
        id: Arc::from(id),
        level: Level::Site,
        area: Arc::from("350102"),
        operator: Arc::from("mobile"),
        site: Arc::from(site),
        window: Window::Hour1,
        start,
        value,
        numerator: value,
        denominator: Some(1.0),
        completeness: Some(1.0),
        revision: 0,
    }
}

fn mark(start: WindowStart) -> StaleWindow {
    StaleWindow { window: Window::Hour1, start, generation: 0 }
}

fn everything() -> IndicatorQuery {
    IndicatorQuery {
        id: None,
        level: None,
        area: None,
        operator: None,
        site: None,
        window: None,
        from: Timestamp::from_millis(i64::MIN),
        to: Timestamp::from_millis(i64::MAX),
        limit: usize::MAX,
    }
}

#[test]
fn only_a_row_that_changed_gets_a_revision_and_a_place_in_the_feed() {
    let city = City::new(&[1]);
    let (mut side, reader) = (city.side_writer(), city.reader());
    let first = [row("BS7", "a", at(0), Some(1.0)), row("BS7", "b", at(0), None)];
    assert_eq!(side.write_indicators(&first, &mark(at(0))).expect("a write"), 2);
    assert_eq!(side.write_indicators(&first, &mark(at(0))).expect("a write"), 0);
    let second = [row("BS7", "a", at(0), Some(1.5)), row("BS7", "b", at(0), Some(f64::NAN))];
    assert_eq!(side.write_indicators(&second, &mark(at(0))).expect("a write"), 1);
    // NaN is "not known", as it was before.
    assert_eq!(side.write_indicators(&second, &mark(at(0))).expect("a write"), 0);
    let feed = reader.indicators_after(2, 10).expect("a feed");
    assert_eq!(feed.iter().map(|row| (row.seq, row.revision)).collect::<Vec<_>>(), [(3, 2)]);
    assert_eq!(feed[0], IndicatorRow { seq: 3, revision: 2, ..second[0].clone() });
    assert_eq!(reader.indicators_after(0, 10).expect("a feed").len(), 2);
    assert_eq!(reader.indicators_after(3, 10).expect("a feed"), []);
}

#[test]
fn a_change_made_while_indicators_are_computed_leaves_the_window_marked() {
    let mut city = City::new(&[1]);
    city.hear(0, at(0), POWER, 1.0);
    city.flush(at(MINUTE));
    city.flush(at(HOUR + GRACE));
    let (mut side, reader) = (city.side_writer(), city.reader());
    let hour = || reader.stale(100).expect("marks").into_iter().find(|mark| mark.window == Window::Hour1);
    let computed = hour().expect("a mark");
    city.hear(0, at(5), POWER, 2.0);
    city.flush(at(HOUR + GRACE));
    side.write_indicators(&[row("BS7", "a", at(0), Some(1.0))], &computed).expect("a write");
    let again = hour().expect("a mark");
    assert!(again.generation > computed.generation);
    side.write_indicators(&[row("BS7", "a", at(0), Some(2.0))], &again).expect("a write");
    assert_eq!(hour(), None);
}

#[test]
fn marks_come_oldest_first() {
    let mut city = City::new(&[1]);
    city.flush(at(GRACE));
    city.flush(at(2 * HOUR + GRACE));
    let marks = city.reader().stale(3).expect("marks");
    let keys: Vec<_> = marks.iter().map(|mark| (mark.start, mark.window)).collect();
    assert_eq!(keys, [(at(0), Window::Minute15), (at(0), Window::Hour1), (at(15 * MINUTE), Window::Minute15)]);
}

#[test]
fn a_query_narrows_by_every_field_and_comes_in_order_of_time() {
    let city = City::new(&[1]);
    let mut side = city.side_writer();
    let district = IndicatorRow { level: Level::District, site: Arc::from(""), ..row("BS7", "", at(0), Some(9.0)) };
    let rows = [
        row("DC1", "a", at(HOUR), Some(1.0)),
        row("BS7", "b", at(HOUR), Some(2.0)),
        row("BS7", "a", at(0), Some(3.0)),
        IndicatorRow { window: Window::Day1, ..row("BS7", "a", at(0), Some(4.0)) },
        IndicatorRow { operator: Arc::from("unicom"), ..row("BS7", "c", at(0), Some(5.0)) },
        IndicatorRow { area: Arc::from("350103"), ..row("BS7", "d", at(0), Some(6.0)) },
        district,
    ];
    side.write_indicators(&rows, &mark(at(0))).expect("a write");
    let reader = city.reader();
    let values = |query: IndicatorQuery| -> Vec<f64> {
        reader.indicators(&query).expect("indicators").iter().filter_map(|row| row.value).collect()
    };
    assert_eq!(values(everything()), [9.0, 3.0, 5.0, 6.0, 4.0, 2.0, 1.0]);
    assert_eq!(values(IndicatorQuery { id: Some("DC1".to_owned()), ..everything() }), [1.0]);
    assert_eq!(values(IndicatorQuery { level: Some(Level::District), ..everything() }), [9.0]);
    assert_eq!(values(IndicatorQuery { area: Some("350103".to_owned()), ..everything() }), [6.0]);
    assert_eq!(values(IndicatorQuery { operator: Some("unicom".to_owned()), ..everything() }), [5.0]);
    assert_eq!(values(IndicatorQuery { site: Some("a".to_owned()), ..everything() }), [3.0, 4.0, 1.0]);
    assert_eq!(values(IndicatorQuery { window: Some(Window::Day1), ..everything() }), [4.0]);
    assert_eq!(values(IndicatorQuery { from: at(HOUR), limit: 1, ..everything() }), [2.0]);
    assert_eq!(values(IndicatorQuery { to: at(HOUR), limit: 2, ..everything() }), [9.0, 3.0]);
}

#[test]
fn the_newest_row_of_every_group_is_found_past_its_history() {
    let city = City::new(&[1]);
    let (mut side, reader) = (city.side_writer(), city.reader());
    for hour in 0..24 {
        let start = at(hour * HOUR);
        let mut rows = vec![row("BS7", "a", start, Some(1.0)), row("DC1", "a", start, Some(2.0))];
        if hour < 3 {
            rows.push(row("BS7", "b", start, None));
            rows.push(IndicatorRow { window: Window::Day1, ..row("BS7", "a", start, Some(3.0)) });
        }
        side.write_indicators(&rows, &mark(start)).expect("a write");
    }
    let newest = |window| -> Vec<_> {
        let rows = reader.latest_indicators(window, None, at(365 * DAY)).expect("indicators");
        rows.iter().map(|row| (row.id.to_string(), row.window, row.site.to_string(), row.start)).collect()
    };
    let hourly = [
        ("BS7".to_owned(), Window::Hour1, "a".to_owned(), at(23 * HOUR)),
        ("BS7".to_owned(), Window::Hour1, "b".to_owned(), at(2 * HOUR)),
        ("DC1".to_owned(), Window::Hour1, "a".to_owned(), at(23 * HOUR)),
    ];
    assert_eq!(newest(Some(Window::Hour1)), hourly);
    assert_eq!(newest(None).len(), 4);
    assert_eq!(newest(Some(Window::Minute5)), []);
    let district = IndicatorRow { level: Level::District, ..row("BS7", "", at(0), Some(4.0)) };
    side.write_indicators(std::slice::from_ref(&district), &mark(at(0))).expect("a write");
    let at_level = |level| reader.latest_indicators(None, Some(level), at(365 * DAY)).expect("indicators").len();
    assert_eq!((at_level(Level::District), at_level(Level::Site), at_level(Level::City)), (1, 4, 0));
}
