//! Files that an operator writes or exports from elsewhere: profiles, indicators, formulas, settings, tables.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::OnceLock;

use crate::cli::check::render_problems;
use crate::config;
use crate::indicator::{self, Formula, Unit};
use crate::inventory::{self, Connection, ProfileSet, check_name};
use crate::problem::Problem;

/// What stands between the three tables of one input.
const NEXT_TABLE: &[u8] = b"\n---\n";

/// A letter that says which reader, a line feed, and the file.
pub fn configuration(data: &[u8]) {
    let Some((reader, file)) =
        data.split_first().map(|(reader, rest)| (reader, rest.strip_prefix(b"\n").unwrap_or(rest)))
    else {
        return;
    };
    let text = String::from_utf8_lossy(file);
    match reader {
        b'p' => profile(&text),
        b'i' => indicators(&text),
        b'f' => formula(&text),
        b's' => settings(&text),
        b't' => tables(file),
        _ => {}
    }
}

/// Problems are for people: one line each, however long and strange what was read.
fn check_problems(problems: &[Problem]) {
    let printed = render_problems(problems);
    assert!(!printed.contains(|character: char| character.is_control() && character != '\n'), "{printed:?}");
    assert_eq!(printed.lines().count(), problems.len() + 2, "a problem takes more than its line: {printed:?}");
}

fn profile(text: &str) {
    match inventory::parse_profile("profile.toml", text) {
        Ok(profile) => {
            assert_eq!(check_name(&profile.id), Ok(()));
            let _ = crate::decode::modbus::decode(&profile, &[1, 0, 0]);
            let _ = crate::source::modbus::requests_per_poll(&profile, 8);
        }
        Err(problems) => {
            assert!(!problems.is_empty(), "refused without a reason");
            check_problems(&problems);
        }
    }
}

fn indicators(text: &str) {
    let mut problems = Vec::new();
    let definitions = indicator::read("indicators.toml", text, &mut problems);
    for definition in &definitions {
        let inputs = vec![Some(1.5); definition.inputs.len()];
        let value = definition.formula.evaluate(&inputs).value;
        assert!(value.is_none_or(f64::is_finite), "{value:?}");
    }
    problems.extend(indicator::check(&definitions, &profiles().good, &inventory::Inventory::default()));
    check_problems(&problems);
}

fn formula(text: &str) {
    let Ok(formula) = Formula::parse(text) else { return };
    let names = formula.names().len();
    assert!(names <= text.len(), "more inputs than letters");
    let values = [0.0, 1.0, -2.5, f64::MAX, f64::MIN_POSITIVE];
    let inputs: Vec<Option<f64>> = (0..names).map(|at| values.get(at % 6).copied()).collect();
    for inputs in [inputs, vec![None; names], vec![Some(3.0); names]] {
        let outcome = formula.evaluate(&inputs);
        let parts = [outcome.value, outcome.numerator, outcome.denominator];
        assert!(parts.iter().flatten().all(|part| part.is_finite()), "{outcome:?}");
        assert!(names == 0 || inputs.iter().any(Option::is_some) || outcome.value.is_none(), "made of nothing");
    }
    let _ = formula.unit(&vec![Unit::ONE; names]);
}

fn settings(text: &str) {
    // Nothing that the file names is there; what it says is checked all the same.
    let Err(problems) = config::load_text("sitepulse.toml", text, Path::new("not-there"), &BTreeMap::new()) else {
        return;
    };
    assert!(!problems.is_empty(), "refused without a reason");
    check_problems(&problems);
}

fn tables(file: &[u8]) {
    let mut rest = file;
    let mut table = || {
        let end = rest.windows(NEXT_TABLE.len()).position(|window| window == NEXT_TABLE);
        let (table, after) = rest.split_at(end.unwrap_or(rest.len()));
        rest = after.strip_prefix(NEXT_TABLE).unwrap_or(after);
        table
    };
    let mut file = |name: &str| Some(inventory::File { name: name.to_owned(), bytes: Some(table().to_vec()) });
    let contents =
        inventory::Contents { areas: file("areas.csv"), sites: file("sites.csv"), devices: file("devices.csv") };
    let mut problems = Vec::new();
    let inventory = inventory::load_contents(&contents, profiles(), &mut problems);
    check_problems(&problems);
    for site in inventory.sites() {
        assert_eq!(check_name(&site.id), Ok(()));
        assert!(site.position.is_none_or(|(lat, lon)| lat.abs() <= 90.0 && lon.abs() <= 180.0));
        assert!(site.attributes.values().all(|value| value.is_finite()));
    }
    for device in inventory.devices() {
        assert_eq!(check_name(&device.name), Ok(()));
        let polled = device.profile.metrics.iter().any(|metric| metric.register.is_some());
        assert_eq!(polled, device.connection != Connection::Mqtt, "a device that cannot be read was taken");
    }
}

/// One profile that is polled and one that publishes.
fn profiles() -> &'static ProfileSet {
    static PROFILES: OnceLock<ProfileSet> = OnceLock::new();
    PROFILES.get_or_init(|| {
        let mut set = ProfileSet::default();
        for text in
            [include_str!("../../config/devices/bs-meter.toml"), include_str!("../../config/devices/rack-pdu.toml")]
        {
            let profile = inventory::parse_profile("profile.toml", text).expect("a shipped profile is good");
            set.good.insert(profile.id.clone(), profile.into());
        }
        set
    })
}
