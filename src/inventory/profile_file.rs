//! Loads device profiles, one TOML file each.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use serde::Deserialize;

use super::name::{check_lower_snake, check_name, check_text};
use super::register_file::{RawRegister, register};
use super::{Band, MetricDef, Profile, TimePolicy, TimeRule, TimeUnit, UnknownMetrics};
use crate::document::{Document, Faults, Number, Table, Text, duration};
use crate::model::MetricKind;
use crate::problem::Problem;

/// Longest interval that a profile or a device may declare.
pub(super) const INTERVAL_MAX: Duration = Duration::from_hours(24);

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawProfile {
    id: Option<Text>,
    description: Option<Text>,
    interval: Option<Text>,
    unknown_metrics: Option<Text>,
    time: Option<RawTime>,
    metric: Option<Vec<Option<RawMetric>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawTime {
    policy: Option<Text>,
    unit: Option<Text>,
    zone: Option<Text>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawMetric {
    name: Option<Text>,
    unit: Option<Text>,
    kind: Option<Text>,
    valid: Option<RawValid>,
    wrap: Option<Number>,
    band: Option<RawBand>,
    register: Option<RawRegister>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawValid {
    min: Option<Number>,
    max: Option<Number>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawBand {
    low: Option<Number>,
    high: Option<Number>,
}

/// The profiles of a folder.
#[derive(Debug, Default)]
pub struct ProfileSet {
    /// Profiles by their id.
    pub good: BTreeMap<String, Arc<Profile>>,
    /// Names of the files that have problems, without their extension: by custom their ids.
    pub broken: BTreeSet<String>,
}

/// Reads the profiles of every `*.toml` file in `folder`, by their id; every fault is added to `problems`.
pub fn load_profiles(folder: &Path, problems: &mut Vec<Problem>) -> ProfileSet {
    let shown = folder.display().to_string();
    let mut profiles = ProfileSet::default();
    let files = match toml_files(folder) {
        Ok(files) => files,
        Err(error) => {
            problems.push(Problem::new(shown, "", format!("cannot read the folder: {error}")));
            return profiles;
        }
    };
    if files.is_empty() {
        problems.push(Problem::new(shown, "", "holds no *.toml file; give the folder of the device profiles"));
    }
    for file in files {
        let shown = file.display().to_string();
        let text = match std::fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) => {
                problems.push(Problem::new(shown, "", format!("cannot read the file: {error}")));
                continue;
            }
        };
        match parse_profile(&shown, &text) {
            Ok(profile) if profiles.good.contains_key(&profile.id) => {
                let message = format!("another file has the profile `{}` already; ids are unique", profile.id);
                problems.push(Problem::new(shown, "id", message));
            }
            Ok(profile) => {
                profiles.good.insert(profile.id.clone(), Arc::new(profile));
            }
            Err(mut found) => {
                problems.append(&mut found);
                profiles.broken.extend(file.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
            }
        }
    }
    profiles
}

/// The `*.toml` files of `folder`, sorted by name.
///
/// # Errors
/// What the file system says where the folder cannot be read.
pub fn toml_files(folder: &Path) -> std::io::Result<Vec<std::path::PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if !hidden && path.extension().is_some_and(|extension| extension == "toml") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Reads one profile from `text`, the contents of `file`.
///
/// # Errors
/// Every problem of the file.
pub fn parse_profile(file: &str, text: &str) -> Result<Profile, Vec<Problem>> {
    let mut document = Document::parse(file, text).map_err(|problem| vec![problem])?;
    let mut problems = Vec::new();
    let tables = [
        Table::of::<RawProfile>(""),
        Table::of::<RawTime>("time"),
        Table::of::<RawMetric>("metric[]"),
        Table::of::<RawValid>("metric[].valid"),
        Table::of::<RawBand>("metric[].band"),
        Table::of::<RawRegister>("metric[].register"),
    ];
    let raw: RawProfile = document.read(&tables, &mut problems);
    let mut found = Faults::of(&document, &mut problems);
    let profile = build(raw, &mut found);
    match profile {
        Some(profile) if problems.is_empty() => Ok(profile),
        _ => Err(problems),
    }
}

fn build(raw: RawProfile, found: &mut Faults<'_>) -> Option<Profile> {
    let id = found.required("id", raw.id, "the name by which devices.csv refers to this profile");
    let id = id.and_then(|id| found.ok("id", check_name(&id.0)).map(|()| id.0));
    let interval_ms = raw.interval.and_then(|text| {
        let read = interval_ms(&text.0);
        found.ok("interval", read)
    });
    let unknown_metrics = raw.unknown_metrics.and_then(|text| {
        let choices = [("refuse", UnknownMetrics::Refuse), ("accept", UnknownMetrics::Accept)];
        found.choice("unknown_metrics", &text.0, &choices)
    });
    let time = time_policy(raw.time.unwrap_or_default(), found);
    let mut metrics = Vec::new();
    let mut names = BTreeSet::new();
    let (mut with, mut without) = (Vec::new(), Vec::new());
    let listed = found.required("metric", raw.metric, "at least one [[metric]]").unwrap_or_default();
    for (index, raw) in listed.into_iter().enumerate() {
        let key = format!("metric[{index}]");
        let Some(raw) = raw else { continue };
        let place = if raw.register.is_some() || found.is_broken(&format!("{key}.register")) {
            &mut with
        } else {
            &mut without
        };
        place.extend(raw.name.as_ref().map(|name| name.0.clone()));
        let Some(metric) = metric(raw, &key, found) else { continue };
        if !names.insert(metric.name.clone()) {
            found.add(
                &format!("{key}.name"),
                format!("`{}` is listed before; names of metrics are unique", metric.name),
            );
        }
        metrics.push(metric);
    }
    if !with.is_empty() && !without.is_empty() {
        found.add("metric", format!("some metrics have a register and these have none: {}", without.join(", ")));
    }
    Some(Profile {
        id: id?,
        description: raw.description.map(|text| text.0).unwrap_or_default(),
        interval_ms,
        unknown_metrics: unknown_metrics.unwrap_or_default(),
        time,
        metrics,
    })
}

fn time_policy(raw: RawTime, found: &mut Faults<'_>) -> TimePolicy {
    let rules = [("trust", TimeRule::Trust), ("clamp", TimeRule::Clamp), ("arrival", TimeRule::Arrival)];
    let rule = raw.policy.and_then(|text| found.choice("time.policy", &text.0, &rules)).unwrap_or_default();
    let units = [
        ("s", TimeUnit::Seconds),
        ("ms", TimeUnit::Millis),
        ("us", TimeUnit::Micros),
        ("ns", TimeUnit::Nanos),
        ("auto", TimeUnit::Auto),
    ];
    let unit = raw.unit.as_ref().and_then(|text| found.choice("time.unit", &text.0, &units)).unwrap_or_default();
    let zone = raw.zone.as_ref().and_then(|name| {
        let zone = TimeZone::get(&name.0);
        let wanted = format!("`{}` is no known time zone; give an IANA name such as Asia/Shanghai", name.0);
        found.ok("time.zone", zone.map_err(|_| wanted))
    });
    if rule == TimeRule::Arrival && (raw.unit.is_some() || raw.zone.is_some()) {
        found.add("time", "under the policy \"arrival\" no time that a device sends is read; drop `unit` and `zone`");
    }
    TimePolicy { rule, unit, zone }
}

/// Reads the time between two readings, in milliseconds.
pub(super) fn interval_ms(text: &str) -> Result<u32, String> {
    let interval = duration(text)?;
    if !(Duration::from_millis(100)..=INTERVAL_MAX).contains(&interval) {
        return Err(format!("`{text}` is out of range; give 100ms to 24h"));
    }
    u32::try_from(interval.as_millis()).map_err(|_| format!("`{text}` is out of range; give 100ms to 24h"))
}

fn metric(raw: RawMetric, key: &str, found: &mut Faults<'_>) -> Option<MetricDef> {
    let sub = |name: &str| format!("{key}.{name}");
    let name = found.required(&sub("name"), raw.name, "the metric's name, such as \"pwr_w\"");
    let name = name.and_then(|name| found.ok(&sub("name"), check_lower_snake(&name.0)).map(|()| name.0));
    let kinds = [
        ("gauge", MetricKind::Gauge),
        ("counter", MetricKind::Counter),
        ("delta", MetricKind::Delta),
        ("state", MetricKind::State),
    ];
    let kind = found.required(&sub("kind"), raw.kind, "one of gauge, counter, delta, state");
    let kind = kind.and_then(|kind| found.choice(&sub("kind"), &kind.0, &kinds));
    let unit = found.required(&sub("unit"), raw.unit, "the unit's symbol, \"1\" for a plain number");
    let unit = unit.and_then(|unit| found.ok(&sub("unit"), check_unit(&unit.0)).map(|()| unit.0));
    let valid = raw.valid.map_or((f64::NEG_INFINITY, f64::INFINITY), |valid| {
        (valid.min.map_or(f64::NEG_INFINITY, |min| min.0), valid.max.map_or(f64::INFINITY, |max| max.0))
    });
    if valid.0 > valid.1 {
        found.add(&sub("valid"), format!("min {} is above max {}", valid.0, valid.1));
    }
    let wrap = raw.wrap.map(|wrap| wrap.0);
    if let Some(wrap) = wrap {
        if kind.is_some_and(|kind| kind != MetricKind::Counter) {
            found.add(&sub("wrap"), "only a counter wraps; drop `wrap` or make the kind \"counter\"");
        } else if wrap <= 0.0 {
            found.add(&sub("wrap"), format!("{wrap} is not above 0; give the value at which the counter is 0 again"));
        }
    }
    let band = raw.band.and_then(|band| {
        let low = found.required(&sub("band.low"), band.low, "the lower end");
        let high = found.required(&sub("band.high"), band.high, "the upper end");
        let (low, high) = (low?.0, high?.0);
        if low > high {
            found.add(&sub("band"), format!("low {low} is above high {high}"));
        }
        Some(Band { low, high })
    });
    let register = raw.register.and_then(|raw| register(raw, &sub("register"), found));
    Some(MetricDef { name: name?, unit: unit?, kind: kind?, valid, wrap, band, register })
}

fn check_unit(unit: &str) -> Result<(), String> {
    if unit.trim() != unit || unit.is_empty() || unit.len() > 16 || check_text(unit).is_err() {
        return Err(
            "give the unit's symbol, 16 bytes at the most, such as \"kWh\"; \"1\" for a plain number".to_owned()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::{ByteOrder, DataType, RegisterTable};

    fn problems(text: &str) -> Vec<String> {
        parse_profile("p.toml", text).expect_err("problems").iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_profile_is_read_whole() {
        let text = r#"
            id = "meter"
            description = "电表"
            interval = "10s"
            unknown_metrics = "accept"
            [[metric]]
            name = "energy_kwh"
            unit = "kWh"
            kind = "counter"
            wrap = 42949672.96
            valid = { min = 0 }
            register = { table = "input", address = 8, type = "u32", order = "CDAB", scale = 0.01, absent = [4294967295] }
            [[metric]]
            name = "inlet_temp_c"
            unit = "C"
            kind = "gauge"
            valid = { min = -40, max = 85.5 }
            band = { low = 18, high = 27 }
            register = { table = "holding", address = 0, type = "i16", scale = 0.1 }
        "#;
        let profile = parse_profile("p.toml", text).expect("a good profile");
        assert_eq!((profile.interval_ms, profile.unknown_metrics), (Some(10_000), UnknownMetrics::Accept));
        let energy = &profile.metrics[0];
        assert_eq!((energy.valid, energy.wrap), ((0.0, f64::INFINITY), Some(42_949_672.96)));
        let register = energy.register.as_ref().expect("a register");
        assert_eq!((register.table, register.address, register.data_type), (RegisterTable::Input, 8, DataType::U32));
        assert_eq!((register.order, register.scale, register.offset), (ByteOrder::Cdab, 0.01, 0.0));
        assert_eq!(register.absent, [u64::from(u32::MAX)]);
        assert_eq!(profile.metrics[1].band, Some(Band { low: 18.0, high: 27.0 }));
    }

    #[test]
    fn every_fault_of_a_profile_is_told_at_once() {
        let text = r#"
            id = "a/b"
            interval = "10"
            unknown_metrics = "acept"
            [[metric]]
            name = "Power"
            unit = ""
            kind = "guage"
            [[metric]]
            name = "temp_c"
            unit = "C"
            kind = "gauge"
            wrap = 65536
            valid = { min = 10, max = -10 }
            band = { low = 18 }
            [[metric]]
            name = "temp_c"
            unit = "C"
            kind = "gauge"
        "#;
        let found = problems(text);
        for key in [
            "id:",
            "interval:",
            "unknown_metrics:",
            "metric[0].name:",
            "metric[0].unit:",
            "metric[0].kind:",
            "metric[1].wrap:",
            "metric[1].valid:",
            "metric[1].band.high:",
            "metric[2].name:",
        ] {
            assert_eq!(
                found.iter().filter(|line| line.starts_with(&format!("p.toml: {key}"))).count(),
                1,
                "{key} {found:#?}"
            );
        }
        assert_eq!(found.len(), 10, "{found:#?}");
    }

    #[test]
    fn the_time_policy_is_read_and_its_faults_are_told() {
        let metric = "[[metric]]\nname = 'pwr_w'\nunit = 'W'\nkind = 'gauge'";
        let profile = |time: &str| parse_profile("p.toml", &format!("id = 'x'\n{time}\n{metric}"));
        assert_eq!(profile("").expect("a good profile").time, TimePolicy::default());
        let read =
            profile("time = { policy = 'clamp', unit = 's', zone = 'Asia/Shanghai' }").expect("a good profile").time;
        assert_eq!((read.rule, read.unit), (TimeRule::Clamp, TimeUnit::Seconds));
        assert_eq!(read.zone, Some(TimeZone::get("Asia/Shanghai").expect("a zone")));
        let found =
            profile("[time]\npolicy = 'clmp'\nunit = 'h'\nzone = 'Asia/Fuzhou'\nskew = 1").expect_err("problems");
        let keys: Vec<_> = found.iter().map(ToString::to_string).collect();
        for key in ["time.policy: `clmp`", "time.unit: `h`", "time.zone: `Asia/Fuzhou`", "time.skew: unknown key"] {
            assert!(keys.iter().any(|line| line.contains(key)), "{key} {keys:#?}");
        }
        assert_eq!(keys.len(), 4, "{keys:#?}");
        let found = profile("time = { policy = 'arrival', unit = 's' }").expect_err("a problem");
        assert!(found[0].to_string().contains("drop `unit`"), "{found:?}");
    }

    #[test]
    fn a_profile_without_metrics_is_refused() {
        assert_eq!(problems("id = 'x'"), ["p.toml: metric: is missing; give at least one [[metric]]"]);
    }
}
