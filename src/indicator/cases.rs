//! Cases of the computation, one rule each.

use super::support::{City, START, by_place, define, define_at};
use super::{Definition, Level};
use crate::model::{BASE_WINDOW_MS, DeviceId, Window};
use crate::store::IndicatorRow;

const WINDOW: Window = Window::Minute5;
const EVERY_MINUTE: Option<u32> = Some(60_000);

fn steady(value: f64) -> [(i64, f64); 5] {
    [0, 1, 2, 3, 4].map(|minute| (minute, value))
}

fn city_row(city: &City, definition: &Definition) -> IndicatorRow {
    by_place(&city.compute(std::slice::from_ref(definition), WINDOW), Level::City).remove("350100").expect("a row")
}

fn values(row: &IndicatorRow) -> (Option<f64>, Option<f64>, Option<f64>, Option<f64>) {
    (row.value, row.numerator, row.denominator, row.completeness)
}

fn power() -> Definition {
    define("W", "base_station", "power", r#"power = { metric = "pwr_w", aggregate = "mean", unit = "W" }"#)
}

fn pue(devices: &str) -> Definition {
    let inputs = format!(
        r#"
        total = {{ metric = "total_energy_kwh", aggregate = "total", unit = "kWh", devices = "{devices}" }}
        it = {{ metric = "it_energy_kwh", aggregate = "total", unit = "kWh", devices = "{devices}" }}
        "#
    );
    define("1", "data_centre", "total / it", &inputs)
}

fn data_centre(city: &mut City, name: &str) -> (DeviceId, DeviceId) {
    let site = city.site(name, "data_centre", "350102", "fuzhou-cloud", &[("racks_built", 10.0)]);
    (city.device(site, "meter", "dc-utility-meter", EVERY_MINUTE), city.device(site, "ups", "dc-ups", EVERY_MINUTE))
}

#[test]
fn a_silent_device_lowers_completeness_and_never_reads_as_zero() {
    let mut city = City::new();
    for (n, site) in ["BS-1", "BS-2"].into_iter().enumerate() {
        let site = city.site(site, "base_station", "350102", "mobile", &[]);
        let device = city.device(site, "rect", "bs-rectifier", EVERY_MINUTE);
        if n == 0 {
            city.hear(WINDOW, device, "pwr_w", &steady(700.0));
        }
    }
    let rows = city.compute(&[power()], WINDOW);
    let sites = by_place(&rows, Level::Site);
    assert_eq!(values(&sites["BS-1"]), (Some(700.0), Some(700.0), None, Some(1.0)));
    assert_eq!(values(&sites["BS-2"]), (None, None, None, Some(0.0)));
    assert_eq!(values(&city_row(&city, &power())), (Some(700.0), Some(700.0), None, Some(0.5)));
}

#[test]
fn every_group_with_a_site_in_service_has_a_row_without_any_data() {
    let mut city = City::new();
    let site = city.site("BS-1", "base_station", "350105", "telecom", &[]);
    city.device(site, "rect", "bs-rectifier", EVERY_MINUTE);
    city.site("DC-1", "data_centre", "350102", "fuzhou-cloud", &[]);
    let rows = city.compute(&[power()], WINDOW);
    let places: Vec<_> = rows.iter().map(|row| (row.level, &*row.area, &*row.operator, &*row.site)).collect();
    let expected = [
        (Level::Site, "350105", "telecom", "BS-1"),
        (Level::District, "350105", "", ""),
        (Level::Operator, "350100", "telecom", ""),
        (Level::City, "350100", "", ""),
    ];
    assert_eq!(places, expected);
    assert!(rows.iter().all(|row| row.value.is_none() && row.completeness == Some(0.0)));
}

#[test]
fn a_site_that_lacks_an_input_is_on_neither_side_of_the_ratio() {
    let mut city = City::new();
    let (meter, ups) = data_centre(&mut city, "DC-1");
    city.hear(WINDOW, meter, "total_energy_kwh", &[(0, 100.0), (1, 101.0), (2, 102.0), (3, 103.0), (4, 112.0)]);
    city.hear(WINDOW, ups, "it_energy_kwh", &[(0, 50.0), (1, 51.0), (2, 52.0), (3, 53.0), (4, 60.0)]);
    let (meter, _) = data_centre(&mut city, "DC-2");
    city.hear(WINDOW, meter, "total_energy_kwh", &[(0, 500.0), (1, 600.0), (2, 700.0), (3, 800.0), (4, 900.0)]);
    assert_eq!(values(&city_row(&city, &pue("any"))), (Some(1.2), Some(12.0), Some(10.0), Some(0.5)));
}

#[test]
fn a_total_may_ask_for_every_meter() {
    let mut city = City::new();
    let (meter, ups) = data_centre(&mut city, "DC-1");
    let site = city.inventory.find_site("DC-1").expect("a site");
    city.device(site, "meter-2", "dc-utility-meter", EVERY_MINUTE);
    city.hear(WINDOW, meter, "total_energy_kwh", &[(0, 100.0), (1, 101.0), (2, 102.0), (3, 103.0), (4, 106.0)]);
    city.hear(WINDOW, ups, "it_energy_kwh", &[(0, 50.0), (1, 51.0), (2, 52.0), (3, 53.0), (4, 60.0)]);
    assert_eq!(values(&city_row(&city, &pue("any"))), (Some(0.6), Some(6.0), Some(10.0), Some(0.5)));
    assert_eq!(values(&city_row(&city, &pue("all"))), (None, None, None, Some(0.0)));
}

#[test]
fn an_attribute_that_is_missing_takes_its_site_out() {
    let mut city = City::new();
    let definition = define(
        "%",
        "data_centre",
        "100 * in_use / built",
        r#"
        in_use = { metric = "in_use", aggregate = "last", unit = "1" }
        built = { attribute = "racks_built" }
        "#,
    );
    for (name, attributes) in [("DC-1", &[("racks_built", 4.0)][..]), ("DC-2", &[])] {
        let site = city.site(name, "data_centre", "350102", "fuzhou-cloud", attributes);
        for rack in ["R1", "R2"] {
            let device = city.device(site, rack, "rack-pdu", EVERY_MINUTE);
            city.hear(WINDOW, device, "in_use", &steady(1.0));
        }
    }
    assert_eq!(values(&city_row(&city, &definition)), (Some(50.0), Some(200.0), Some(4.0), Some(0.5)));
}

#[test]
fn an_idle_crane_has_no_rate_and_is_complete() {
    let mut city = City::new();
    let definition = define(
        "moves/h",
        "port",
        "3600 * moves / allocated_s",
        r#"
        moves = { metric = "moves", aggregate = "total", unit = "moves" }
        allocated_s = { metric = "allocated_s", aggregate = "total", unit = "s" }
        "#,
    );
    let site = city.site("PT-1", "port", "350105", "fuzhou-port", &[]);
    let crane = city.device(site, "QC-1", "crane-plc", EVERY_MINUTE);
    city.hear(WINDOW, crane, "moves", &steady(7.0));
    city.hear(WINDOW, crane, "allocated_s", &steady(900.0));
    assert_eq!(values(&city_row(&city, &definition)), (None, Some(0.0), Some(0.0), Some(1.0)));
}

#[test]
fn stations_per_people_need_the_population_of_the_area() {
    let mut city = City::new();
    let inputs = r#"
        stations = { sites = "heard" }
        population = { population = true }
        "#;
    let formula = "stations / (population / 10000)";
    let definition = define_at(r#""district", "city""#, "1/10^4", "base_station", formula, inputs);
    for (n, area) in ["350102", "350102", "350105", "350128"].into_iter().enumerate() {
        let site = city.site(&format!("BS-{n}"), "base_station", area, "mobile", &[]);
        let device = city.device(site, "rect", "bs-rectifier", EVERY_MINUTE);
        if n != 1 {
            city.hear(WINDOW, device, "pwr_w", &steady(1.0));
        }
    }
    let districts = by_place(&city.compute(std::slice::from_ref(&definition), WINDOW), Level::District);
    assert_eq!(values(&districts["350102"]), (Some(0.25), Some(1.0), Some(4.0), Some(0.5)));
    assert_eq!(values(&districts["350128"]), (None, Some(1.0), None, Some(0.0)));
    // 350128 has no count, so the city's would be a wrong sum.
    assert_eq!(city_row(&city, &definition).value, None);
}

#[test]
fn a_group_that_is_not_heard_at_all_is_unknown_not_offline() {
    let mut city = City::new();
    let inputs = r#"
        heard = { site_minutes = "heard" }
        expected = { site_minutes = "expected" }
        "#;
    let online = define("%", "base_station", "100 * heard / expected", inputs);
    let first = city.site("BS-1", "base_station", "350102", "mobile", &[]);
    let device = city.device(first, "rect", "bs-rectifier", Some(10_000));
    let second = city.site("BS-2", "base_station", "350102", "mobile", &[]);
    city.device(second, "rect", "bs-rectifier", Some(10_000));
    let hourly = city.site("BS-3", "base_station", "350105", "mobile", &[]);
    city.device(hourly, "meter", "bs-energy-hourly", Some(3_600_000));

    assert_eq!(values(&city_row(&city, &online)), (None, Some(0.0), Some(15.0), Some(0.0)));
    city.hear(WINDOW, device, "pwr_w", &[(0, 1.0), (1, 1.0), (4, 1.0)]);
    let sites = by_place(&city.compute(std::slice::from_ref(&online), WINDOW), Level::Site);
    assert_eq!(sites["BS-1"].value, Some(60.0));
    assert_eq!(sites["BS-2"].value, None);
    assert_eq!(city_row(&city, &online).value, Some(20.0));
}

#[test]
fn a_device_that_speaks_once_an_hour_vouches_for_the_hour() {
    let mut city = City::new();
    let inputs = r#"
        heard = { site_minutes = "heard" }
        expected = { site_minutes = "expected" }
        "#;
    let mut online = define("%", "base_station", "100 * heard / expected", inputs);
    online.description.windows = [Window::Hour1].into();
    let site = city.site("BS-1", "base_station", "350102", "mobile", &[]);
    let device = city.device(site, "meter", "bs-energy-hourly", Some(3_600_000));
    assert_eq!(START.as_millis() % 3_600_000, 0, "the window starts on the hour");
    city.hear(Window::Hour1, device, "energy_kwh", &[(0, 2.5)]);
    let rows = city.compute(&[online], Window::Hour1);
    assert_eq!(values(&rows[0]), (Some(100.0), Some(6_000.0), Some(60.0), Some(1.0)));
}

#[test]
fn slots_of_silent_and_unknown_streams_are_told_apart() {
    let mut city = City::new();
    let inputs = r#"
        heard = { streams = "heard" }
        expected = { streams = "expected" }
        "#;
    let completeness = define("%", "base_station", "100 * heard / expected", inputs);
    let site = city.site("BS-1", "base_station", "350102", "mobile", &[]);
    let heard = city.device(site, "rect", "bs-rectifier", EVERY_MINUTE);
    city.device(site, "silent", "bs-meter", Some(10_000));
    let undeclared = city.device(site, "undeclared", "bs-meter", None);
    city.hear(WINDOW, heard, "pwr_w", &steady(1.0));
    city.hear(WINDOW, undeclared, "energy_kwh", &steady(1.0));
    let row = city_row(&city, &completeness);
    assert_eq!((row.numerator, row.denominator), (Some(500.0), Some(35.0)));
}

#[test]
fn a_site_counts_for_the_part_of_the_window_in_which_it_is_in_service() {
    let mut city = City::new();
    for name in ["BS-1", "BS-2", "BS-3"] {
        let site = city.site(name, "base_station", "350102", "mobile", &[]);
        city.device(site, "rect", "bs-rectifier", EVERY_MINUTE);
    }
    city.change_site(0, |site| site.in_service_from = Some(START.plus_millis(3 * BASE_WINDOW_MS)));
    city.change_site(1, |site| site.in_service_to = Some(START));
    city.hear(WINDOW, DeviceId(0), "pwr_w", &[(3, 10.0), (4, 20.0)]);
    let rows = city.compute(&[power()], WINDOW);
    let sites = by_place(&rows, Level::Site);
    assert_eq!(values(&sites["BS-1"]), (Some(15.0), Some(15.0), None, Some(1.0)));
    assert!(!sites.contains_key("BS-2"), "a site out of service has no row");
    assert_eq!(city_row(&city, &power()).completeness, Some(2.0 / 7.0));
}

#[test]
fn what_nobody_listed_belongs_to_no_indicator() {
    let mut city = City::new();
    let stations = define("1", "base_station", "stations", r#"stations = { sites = "heard" }"#);
    for name in ["BS-1", "STRANGER"] {
        let site = city.site(name, "base_station", "350102", "mobile", &[]);
        let device = city.device(site, "rect", "bs-rectifier", EVERY_MINUTE);
        city.hear(WINDOW, device, "pwr_w", &steady(1.0));
    }
    city.inventory.device_mut(DeviceId(1)).expect("a device").registered = false;
    let row = city_row(&city, &stations);
    assert_eq!(values(&row), (Some(1.0), Some(1.0), None, Some(1.0)));
}

#[test]
fn an_input_takes_only_the_profiles_it_names() {
    let mut city = City::new();
    let site = city.site("BS-1", "base_station", "350102", "mobile", &[]);
    let meter = city.device(site, "meter", "bs-meter", EVERY_MINUTE);
    let hourly = city.device(site, "hourly", "bs-energy-hourly", EVERY_MINUTE);
    city.hear(WINDOW, meter, "energy_kwh", &[(0, 10.0), (1, 11.0), (2, 12.0), (3, 13.0), (4, 14.0)]);
    city.hear(WINDOW, hourly, "energy_kwh", &steady(3.0));
    let energy = |more: &str| {
        let input = format!(r#"e = {{ metric = "energy_kwh", aggregate = "total", unit = "kWh"{more} }}"#);
        city_row(&city, &define("kWh", "base_station", "e", &input)).value
    };
    assert_eq!(energy(""), Some(19.0));
    assert_eq!(energy(r#", profiles = ["bs-meter"]"#), Some(4.0));
    assert_eq!(energy(r#", over = "max""#), Some(15.0));
    assert_eq!(energy(r#", over = "min""#), Some(4.0));
}

#[test]
fn rows_of_other_windows_are_passed_over() {
    let mut city = City::new();
    let site = city.site("BS-1", "base_station", "350102", "mobile", &[]);
    let device = city.device(site, "rect", "bs-rectifier", EVERY_MINUTE);
    city.hear(Window::Minute15, device, "pwr_w", &steady(9.0));
    assert_eq!(city_row(&city, &power()).value, None);
}

#[test]
fn an_indicator_is_computed_in_its_windows_only() {
    let mut city = City::new();
    city.site("BS-1", "base_station", "350102", "mobile", &[]);
    assert!(city.compute(&[power()], Window::Hour1).is_empty());
    let mut definition = power();
    definition.site_windows.clear();
    let rows = city.compute(&[definition], WINDOW);
    assert!(rows.iter().all(|row| row.level != Level::Site) && rows.len() == 3);
}
