//! The laws of the merge (P4): order, repetition and being packed in between change nothing.

use std::sync::Arc;

use proptest::prelude::{Just, Strategy, any, prop};

use super::{BaseRow, DeviceWindow, Outcome};
use crate::model::{MetricId, Timestamp};

const METRICS: usize = 3;

/// Milliseconds into the window, slot, value.
type Delivery = (i64, usize, f64);

fn metrics() -> Arc<Vec<MetricId>> {
    Arc::new((0..METRICS).map(|id| MetricId(u32::try_from(id).expect("small"))).collect())
}

/// Distinct (time, metric) keys with a value each: what one device measured in one minute.
fn readings() -> impl Strategy<Value = Vec<Delivery>> {
    prop::collection::btree_map((0i64..60_000, 0..METRICS), -1e9f64..1e9, 1..60)
        .prop_map(|map| map.into_iter().map(|((ms, slot), value)| (ms, slot, value)).collect())
}

/// The same readings in another order, each up to three times.
fn deliveries() -> impl Strategy<Value = (Vec<Delivery>, Vec<Delivery>)> {
    readings()
        .prop_flat_map(|readings| {
            let repeats = prop::collection::vec(1usize..4, readings.len());
            (Just(readings), repeats)
        })
        .prop_flat_map(|(readings, repeats)| {
            let copies = readings.iter().zip(repeats).flat_map(|(&r, n)| std::iter::repeat_n(r, n)).collect::<Vec<_>>();
            (Just(readings), Just(copies).prop_shuffle())
        })
}

fn apply(window: &mut DeviceWindow, (ms, slot, value): Delivery) -> Outcome {
    let id = MetricId(u32::try_from(slot).expect("small"));
    window.apply(slot, id, window.start.plus_millis(ms), value)
}

fn row_of(window: &DeviceWindow) -> BaseRow {
    let mut blob = Vec::new();
    window.pack(&mut blob);
    BaseRow::unpack(window.start, &blob).expect("a packed row reads back")
}

proptest::proptest! {
    #[test]
    fn any_order_any_repetition_and_any_crash_point_give_the_same_row(
        (readings, deliveries) in deliveries(),
        crashes in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
    ) {
        let start = Timestamp::from_millis(1_764_000_000_000);
        let mut oracle = DeviceWindow::new(start, Some(10_000), metrics());
        for &reading in &readings {
            proptest::prop_assert_eq!(apply(&mut oracle, reading), Outcome::Applied);
        }

        let crashes: Vec<usize> = crashes.iter().map(|index| index.index(deliveries.len())).collect();
        let mut window = DeviceWindow::new(start, Some(10_000), metrics());
        let mut applied = 0;
        for (n, &reading) in deliveries.iter().enumerate() {
            if crashes.contains(&n) {
                let mut blob = Vec::new();
                window.pack(&mut blob);
                window = DeviceWindow::unpack(start, metrics(), &blob).expect("a packed row reads back");
            }
            match apply(&mut window, reading) {
                Outcome::Applied => applied += 1,
                Outcome::Duplicate => {}
                Outcome::Conflicting => proptest::prop_assert!(false, "a repeat was taken for a conflict"),
            }
        }

        proptest::prop_assert_eq!(applied, readings.len());
        let (row, expected) = (row_of(&window), row_of(&oracle));
        proptest::prop_assert_eq!(row.metrics.len(), expected.metrics.len());
        for (got, want) in row.metrics.iter().zip(&expected.metrics) {
            let (g, w) = (&got.aggregate, &want.aggregate);
            proptest::prop_assert_eq!((g.count, g.min, g.max, g.first, g.last), (w.count, w.min, w.max, w.first, w.last));
            proptest::prop_assert_eq!(got.heard, want.heard);
            let magnitude: f64 = w.sum.value().abs();
            proptest::prop_assert!((g.sum.value() - w.sum.value()).abs() <= 1e-12 * magnitude);
        }
    }
}
