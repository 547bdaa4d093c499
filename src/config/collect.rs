//! Puts the checked tables together, with the inventory and the indicators that they name.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::tz::TimeZone;
use tracing::level_filters::LevelFilter;

use super::raw::{self, Raw};
use super::section::{Section, Surroundings};
use super::{Config, LogFormat, LogOptions, sinks, sources};
use crate::document::{Text, size_text};
use crate::indicator;
use crate::inventory::{self, Inventory, ProfileSet};
use crate::pipeline::Unregistered;
use crate::problem::Problem;
use crate::{journal, pipeline, sink, source};

const DAY: Duration = Duration::from_hours(24);
/// Bytes of the store unless told otherwise.
const STORE_BYTES_MAX: u64 = 32 << 30;

/// Checks every table. The configuration is one to use only where `problems` stays empty.
pub(super) fn config(raw: Raw, around: &Surroundings<'_>, problems: &mut Vec<Problem>) -> Config {
    let mut section = Section::new(around, "", problems);
    let data_dir = match raw.data_dir {
        None => section.path("data"),
        Some(Text(text)) if text.trim().is_empty() => {
            section.add("data_dir", "is empty; give the folder of the journal and the store");
            section.path("data")
        }
        Some(Text(text)) => section.path(&text),
    };
    let zone = raw.time_zone.map_or_else(|| "Asia/Shanghai".to_owned(), |text| text.0);
    let zone = section.ok("time_zone", time_zone(&zone));
    let unregistered =
        unregistered(&raw.unregistered.unwrap_or_default(), &mut Section::new(around, "unregistered", problems));
    let mut rollup = raw.rollup.unwrap_or_default();
    let mut rollup_section = Section::new(around, "rollup", problems);
    let store_bytes_max =
        rollup_section.size("store_bytes_max", rollup.store_bytes_max.take(), STORE_BYTES_MAX, 1 << 20..=1 << 50);
    let pipeline = pipeline(rollup, unregistered, &mut rollup_section);
    let journal_table = raw.journal.unwrap_or_default();
    let folder = data_dir.join("journal");
    let journal = journal(journal_table, folder, &mut Section::new(around, "journal", problems));
    let mqtt = sources::mqtt(raw.mqtt.unwrap_or_default(), around, problems);
    let modbus = sources::modbus(raw.modbus.unwrap_or_default(), &mut Section::new(around, "modbus", problems));
    let influx = sinks::influx(raw.influx.unwrap_or_default(), around, problems);
    let city_brain =
        raw.city_brain.and_then(|table| sinks::city_brain(table, &mut Section::new(around, "city_brain", problems)));
    let api = sinks::api(raw.api.unwrap_or_default(), &mut Section::new(around, "api", problems));
    let log = log(&raw.log.unwrap_or_default(), &mut Section::new(around, "log", problems));
    let city = city(raw.inventory.unwrap_or_default(), around, problems);
    check_together(&mqtt, city_brain.as_ref(), &journal, around, problems);
    Config {
        data_dir,
        // What stands in for a zone at fault is never used: the problem keeps the configuration from being one.
        zone: zone.unwrap_or(TimeZone::UTC),
        inventory: city.inventory,
        profiles: city.profiles,
        pipeline,
        store_bytes_max,
        journal,
        mqtt: mqtt.into_iter().map(|(_, options)| options).collect(),
        modbus,
        indicators: city.indicators,
        influx,
        city_brain,
        api,
        log,
    }
}

fn time_zone(name: &str) -> Result<TimeZone, String> {
    TimeZone::get(name).map_err(|_| {
        let name = name.escape_debug();
        format!("`{name}` is no time zone of this machine's database; give an IANA name such as Asia/Shanghai")
    })
}

fn unregistered(table: &raw::Unregistered, section: &mut Section<'_>) -> Unregistered {
    let devices_max = section.whole("devices_max", table.devices_max, 1_000_u32, 1..=1_000_000);
    let metrics_max = section.whole("metrics_max", table.metrics_max, 64_u32, 1..=10_000);
    let accept = Unregistered::Accept {
        devices_max: usize::try_from(devices_max).unwrap_or(usize::MAX),
        metrics_max: usize::try_from(metrics_max).unwrap_or(usize::MAX),
    };
    let choices = [("accept", accept), ("refuse", Unregistered::Refuse)];
    section.choice("policy", table.policy.as_ref(), &choices).unwrap_or(accept)
}

fn pipeline(table: raw::Rollup, unregistered: Unregistered, section: &mut Section<'_>) -> pipeline::Options {
    let open_windows_bytes_max =
        section.size("open_windows_bytes_max", table.open_windows_bytes_max, 256 << 20, 1 << 20..=1 << 40);
    pipeline::Options {
        flush_interval: section.duration(
            "flush_interval",
            table.flush_interval,
            Duration::from_secs(5),
            Duration::from_millis(100)..=Duration::from_mins(1),
        ),
        future_limit: section.duration(
            "future_limit",
            table.future_limit,
            Duration::from_mins(5),
            Duration::ZERO..=DAY,
        ),
        grace: section.duration("grace", table.grace, Duration::from_mins(2), Duration::ZERO..=DAY),
        // Two days at the least, so that a day is whole and final before its first minute goes.
        retention: section.duration("retention", table.retention, DAY * 90, DAY * 2..=DAY * 3_650),
        open_windows_bytes_max: usize::try_from(open_windows_bytes_max).unwrap_or(usize::MAX),
        unregistered,
    }
}

fn journal(table: raw::Journal, folder: PathBuf, section: &mut Section<'_>) -> journal::Options {
    let before = section.faults.count();
    let bytes_max = section.size("bytes_max", table.bytes_max, 1 << 30, 1 << 16..=1 << 44);
    let segment_bytes = section.size("segment_bytes", table.segment_bytes, 16 << 20, 1 << 14..=1 << 32);
    if section.faults.count() == before && segment_bytes > bytes_max / 2 {
        let (segment, whole) = (size_text(segment_bytes), size_text(bytes_max));
        let message = format!("{segment} is more than half of bytes_max, {whole}; whole segments are what is freed");
        section.add("segment_bytes", message);
    }
    let commit_interval = section.duration(
        "commit_interval",
        table.commit_interval,
        Duration::from_millis(5),
        Duration::ZERO..=Duration::from_secs(1),
    );
    let age_max =
        section.duration("age_max", table.age_max, Duration::from_hours(1), Duration::from_mins(1)..=DAY * 30);
    journal::Options { folder, bytes_max, segment_bytes, commit_interval, age_max }
}

fn log(table: &raw::Log, section: &mut Section<'_>) -> LogOptions {
    let levels = [
        ("error", LevelFilter::ERROR),
        ("warn", LevelFilter::WARN),
        ("info", LevelFilter::INFO),
        ("debug", LevelFilter::DEBUG),
        ("trace", LevelFilter::TRACE),
    ];
    let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    LogOptions {
        level: section.choice("level", table.level.as_ref(), &levels).unwrap_or(LevelFilter::INFO),
        format: section.choice("format", table.format.as_ref(), &formats).unwrap_or(LogFormat::Text),
    }
}

/// What `[inventory]` names.
struct City {
    inventory: Inventory,
    profiles: BTreeMap<String, std::sync::Arc<inventory::Profile>>,
    indicators: Vec<indicator::Definition>,
}

fn city(table: raw::Inventory, around: &Surroundings<'_>, problems: &mut Vec<Problem>) -> City {
    let path = |text: Option<Text>| text.map(|text| around.folder.join(text.0));
    let (areas, sites, devices) = (path(table.areas), path(table.sites), path(table.devices));
    let (profiles, indicators) = (path(table.profiles), path(table.indicators));
    let mut section = Section::new(around, "inventory", problems);
    if devices.is_some() && sites.is_none() {
        section.add("sites", "is missing; devices stand at sites, so give their CSV file");
    }
    if devices.is_some() && profiles.is_none() {
        section.add("profiles", "is missing; devices have profiles, so give the folder of their TOML files");
    }
    let set = profiles.map_or_else(ProfileSet::default, |folder| inventory::load_profiles(&folder, problems));
    let files = inventory::Files {
        areas: areas.as_deref(),
        sites: sites.as_deref(),
        devices: devices.as_deref().filter(|_| sites.is_some()),
    };
    let inventory = inventory::load(files, &set, problems);
    let indicators = indicators.map(|folder| load_indicators(&folder, problems)).unwrap_or_default();
    // Where a profile is at fault, its metrics would only be reported a second time as unknown.
    if set.broken.is_empty() {
        problems.extend(indicator::check(&indicators, &set.good, &inventory));
    }
    City { inventory, profiles: set.good, indicators }
}

fn load_indicators(folder: &Path, problems: &mut Vec<Problem>) -> Vec<indicator::Definition> {
    let shown = folder.display().to_string();
    let files = match inventory::toml_files(folder) {
        Ok(files) => files,
        Err(error) => {
            problems.push(Problem::new(shown, "", format!("cannot read the folder: {error}")));
            return Vec::new();
        }
    };
    let mut definitions = Vec::new();
    for file in files {
        let shown = file.display().to_string();
        match std::fs::read_to_string(&file) {
            Ok(text) => definitions.append(&mut indicator::read(&shown, &text, problems)),
            Err(error) => problems.push(Problem::new(shown, "", format!("cannot read the file: {error}"))),
        }
    }
    definitions
}

/// What no table can tell alone.
fn check_together(
    mqtt: &[(usize, source::mqtt::Options)],
    city_brain: Option<&sink::city_brain::Options>,
    journal: &journal::Options,
    around: &Surroundings<'_>,
    problems: &mut Vec<Problem>,
) {
    let twice = |other: &str| format!("source `{other}` has it at the same broker, which would drop one for the other");
    let mut sessions: BTreeMap<(&str, u16, &str), &str> = BTreeMap::new();
    for (index, broker) in mqtt {
        let mut section = Section::new(around, format!("mqtt[{index}]"), problems);
        if let Some(other) = sessions.insert((&broker.host, broker.port, &broker.client_id), &broker.name) {
            section.add("client_id", twice(other));
        }
        if u64::try_from(broker.packet_bytes_max).unwrap_or(u64::MAX) >= journal.segment_bytes {
            let segment = size_text(journal.segment_bytes);
            section.add("packet_bytes_max", format!("does not fit into journal.segment_bytes, {segment}"));
        }
    }
    if let Some(brain) = city_brain
        && let Some(other) = sessions.get(&(&*brain.host, brain.port, &*brain.client_id))
    {
        Section::new(around, "city_brain", problems).add("client_id", twice(other));
    }
}
