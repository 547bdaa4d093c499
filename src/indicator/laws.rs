//! P7: what sites add up to is what readings say directly.

use std::collections::BTreeMap;

use proptest::prelude::{Strategy, any, prop};

use super::support::{City, by_place, define};
use super::{Definition, Level};
use crate::model::Window;
use crate::store::IndicatorRow;

const WINDOW: Window = Window::Minute5;
const AREAS: [&str; 4] = ["350102", "350105", "350128", "999999"];
const OPERATORS: [&str; 3] = ["mobile", "telecom", ""];

/// Rises per minute of a meter; `None` where the minute is missing.
type Meter = Vec<Option<f64>>;

#[derive(Clone, Debug)]
struct SiteCase {
    area: usize,
    operator: usize,
    totals: Vec<Meter>,
    its: Vec<Meter>,
}

fn meter() -> impl Strategy<Value = Meter> {
    prop::collection::vec(prop::option::weighted(0.7, 0.0f64..1e4), 5)
}

fn site() -> impl Strategy<Value = SiteCase> {
    let meters = || prop::collection::vec(meter(), 0..3);
    (0..AREAS.len(), 0..OPERATORS.len(), meters(), meters()).prop_map(|(area, operator, totals, its)| SiteCase {
        area,
        operator,
        totals,
        its,
    })
}

fn pue() -> Definition {
    let inputs = r#"
        total = { metric = "total_energy_kwh", aggregate = "total", unit = "kWh" }
        it = { metric = "it_energy_kwh", aggregate = "total", unit = "kWh" }
    "#;
    define("1", "data_centre", "total / it", inputs)
}

/// What a group comes to straight from readings.
#[derive(Clone, Copy, Debug, Default)]
struct Direct {
    total: f64,
    it: f64,
    sites: u32,
    /// Heard and due slots of both inputs.
    slots: [(f64, f64); 2],
}

/// Last minus first of the values that came.
fn rise(meter: &Meter) -> Option<f64> {
    let values = cumulative(meter);
    Some(values.last()?.1 - values.first()?.1)
}

fn cumulative(meter: &Meter) -> Vec<(i64, f64)> {
    let mut level = 1_000.0;
    let mut values = Vec::new();
    for (minute, rise) in (0..).zip(meter) {
        if let Some(rise) = rise {
            level += rise;
            values.push((minute, level));
        }
    }
    values
}

fn direct(site: &SiteCase, into: &mut Direct) {
    let sides = [&site.totals, &site.its];
    let rises = sides.map(|meters| meters.iter().filter_map(rise).collect::<Vec<_>>());
    let counts = rises.iter().all(|rises| !rises.is_empty());
    for ((meters, slots), _) in sides.iter().zip(&mut into.slots).zip(&rises) {
        slots.1 += meters.iter().map(|meter| meter.iter().map(|_| 1.0).sum::<f64>()).sum::<f64>();
        if counts {
            slots.0 += meters.iter().flat_map(|meter| meter.iter().flatten()).map(|_| 1.0).sum::<f64>();
        }
    }
    if counts {
        into.sites += 1;
        into.total += rises[0].iter().sum::<f64>();
        into.it += rises[1].iter().sum::<f64>();
    }
}

fn same(a: Option<f64>, b: Option<f64>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => (a - b).abs() <= 1e-9 * a.abs().max(b.abs()).max(1e-9),
        (a, b) => a.is_none() && b.is_none(),
    }
}

fn agrees(row: &IndicatorRow, direct: &Direct) -> bool {
    let known = direct.sites > 0;
    let completeness = |(heard, due): (f64, f64)| if due == 0.0 { 0.0 } else { heard / due };
    let least = direct.slots.map(completeness).into_iter().fold(1.0, f64::min);
    let value = (known && direct.it != 0.0).then(|| direct.total / direct.it);
    same(row.numerator, known.then_some(direct.total))
        && same(row.denominator, known.then_some(direct.it))
        && same(row.value, value)
        && same(row.completeness, Some(least))
}

fn build(sites: &[SiteCase]) -> City {
    let mut city = City::new();
    for (n, case) in sites.iter().enumerate() {
        let site = city.site(&format!("DC-{n}"), "data_centre", AREAS[case.area], OPERATORS[case.operator], &[]);
        let deliveries =
            [("dc-utility-meter", "total_energy_kwh", &case.totals), ("dc-ups", "it_energy_kwh", &case.its)];
        for (profile, metric, meters) in deliveries {
            for (k, meter) in meters.iter().enumerate() {
                let device = city.device(site, &format!("{profile}-{k}"), profile, Some(60_000));
                city.hear(WINDOW, device, metric, &cumulative(meter));
            }
        }
    }
    city
}

proptest::proptest! {
    #[test]
    fn site_district_operator_and_city_equal_the_direct_computation(
        sites in prop::collection::vec(site(), 1..12),
        turn in any::<prop::sample::Index>(),
    ) {
        let mut city = build(&sites);
        let rows = city.compute(&[pue()], WINDOW);

        let mut expected: BTreeMap<(Level, String), Direct> = BTreeMap::new();
        for (n, site) in sites.iter().enumerate() {
            let mut keys = vec![(Level::Site, format!("DC-{n}")), (Level::City, "350100".to_owned())];
            keys.push((Level::District, AREAS[site.area].to_owned()));
            if !OPERATORS[site.operator].is_empty() {
                keys.push((Level::Operator, OPERATORS[site.operator].to_owned()));
            }
            for key in keys {
                direct(site, expected.entry(key).or_default());
            }
        }
        proptest::prop_assert_eq!(rows.len(), expected.len());
        for ((level, place), direct) in &expected {
            let row = &by_place(&rows, *level)[place];
            proptest::prop_assert!(agrees(row, direct), "{} {}: {:?} against {:?}", level, place, row, direct);
        }

        // The order in which rows come changes nothing, to the last bit.
        let turn = turn.index(city.rows.len().max(1));
        city.rows.rotate_left(turn);
        proptest::prop_assert_eq!(city.compute(&[pue()], WINDOW), rows);
    }

    #[test]
    fn a_city_is_the_sum_of_its_sites_numerators_and_denominators(sites in prop::collection::vec(site(), 1..12)) {
        let rows = build(&sites).compute(&[pue()], WINDOW);
        for level in [Level::Site, Level::District] {
            let parts = by_place(&rows, level);
            let sum = |part: fn(&IndicatorRow) -> Option<f64>| parts.values().filter_map(part).reduce(|a, b| a + b);
            let city = &by_place(&rows, Level::City)["350100"];
            proptest::prop_assert!(same(city.numerator, sum(|row| row.numerator)), "{}", level);
            proptest::prop_assert!(same(city.denominator, sum(|row| row.denominator)), "{}", level);
        }
    }
}
