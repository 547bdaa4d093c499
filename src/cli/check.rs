//! `sitepulse check`: every problem of a configuration, or what a run with it would do.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use super::EXIT_CONFIG;
use crate::config::{Config, Environment, load_with};
use crate::document::{HostPort, duration_text, size_text};
use crate::indicator::Definition;
use crate::inventory::Connection;
use crate::pipeline::Unregistered;
use crate::problem::Problem;
use crate::sink::influx::{Field, Fields};
use crate::source::modbus::requests_per_poll;
use crate::visible::Visible;

/// What `check` prints, and its exit code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The problems, or the summary.
    pub text: String,
    /// 0 where there is no problem.
    pub exit_code: u8,
}

/// Checks the configuration at `path`.
#[must_use]
pub fn check(path: &Path, environment: &Environment) -> Report {
    match load_with(path, environment) {
        Ok(config) => Report { text: render(&config), exit_code: 0 },
        Err(problems) => Report { text: render_problems(&problems), exit_code: EXIT_CONFIG },
    }
}

/// One problem a line, and how many there are.
#[must_use]
pub fn render_problems(problems: &[Problem]) -> String {
    let mut out = String::new();
    for problem in problems {
        let _ = writeln!(out, "{problem}");
    }
    let plural = if problems.len() == 1 { "" } else { "s" };
    let _ = writeln!(out, "\n{} problem{plural}; nothing is started with this configuration", problems.len());
    out
}

/// What a run with this configuration would do.
#[must_use]
pub fn render(config: &Config) -> String {
    let mut out = Summary::default();
    general(config, &mut out);
    subscribed(config, &mut out);
    polled(config, &mut out);
    computed(&config.indicators, &mut out);
    sent(config, &mut out);
    out.0
}

/// Lines of text: headings at the margin, what belongs to them indented.
#[derive(Default)]
struct Summary(String);

impl Summary {
    fn heading(&mut self, text: &str) {
        let _ = writeln!(self.0, "{}", Visible(text));
    }

    fn line(&mut self, text: &str) {
        self.0.push_str("  ");
        self.heading(text);
    }
}

fn general(config: &Config, out: &mut Summary) {
    out.heading("the configuration is good");
    out.line(&format!("data in {}", config.data_dir.display()));
    out.line(&format!("hours and days in {}", config.zone.iana_name().unwrap_or("UTC")));
    let journal = &config.journal;
    out.line(&format!(
        "journal up to {} in segments of {} or {}, synced every {}",
        size_text(journal.bytes_max),
        size_text(journal.segment_bytes),
        duration_text(journal.age_max),
        duration_text(journal.commit_interval)
    ));
    let pipeline = &config.pipeline;
    out.line(&format!(
        "windows final {} after their end, kept {}",
        duration_text(pipeline.grace),
        duration_text(pipeline.retention)
    ));
    let inventory = &config.inventory;
    let kinds = counted(inventory.sites().iter().map(|site| site.kind.to_string()));
    out.line(&format!(
        "inventory: {} areas, {} sites{}, {} devices, {} profiles",
        inventory.areas().len(),
        inventory.sites().len(),
        in_brackets(&kinds),
        inventory.devices().len(),
        config.profiles.len()
    ));
    out.line(&match pipeline.unregistered {
        Unregistered::Refuse => "devices that are not listed: refused".to_owned(),
        Unregistered::Accept { devices_max, metrics_max } => {
            format!("devices that are not listed: up to {devices_max} taken in, each with up to {metrics_max} metrics")
        }
    });
}

fn subscribed(config: &Config, out: &mut Summary) {
    out.heading("subscribed");
    if config.mqtt.is_empty() {
        out.line("nothing: there is no [[mqtt]]");
    }
    for broker in &config.mqtt {
        let address = HostPort { host: broker.host.clone(), port: broker.port };
        let user = broker.login.as_ref().map_or_else(String::new, |login| format!(", user {}", login.user));
        let topics = broker.topics.join(", ");
        out.line(&format!("{}: mqtt://{address} as {}{user}: {topics}", broker.name, broker.client_id));
    }
    let heard = config.inventory.devices().iter().filter(|device| device.connection == Connection::Mqtt);
    let profiles = counted(heard.map(|device| device.profile.id.clone()));
    let count: usize = profiles.values().sum();
    out.line(&format!("listed devices that publish: {count}{}", in_brackets(&profiles)));
}

fn polled(config: &Config, out: &mut Summary) {
    out.heading("polled");
    let mut endpoints: BTreeMap<&str, Endpoint> = BTreeMap::new();
    for device in config.inventory.devices() {
        let Connection::ModbusTcp { endpoint, unit } = &device.connection else { continue };
        let at = endpoints.entry(endpoint).or_default();
        at.units.insert(*unit);
        let polls = at.polls.entry((device.interval_ms.unwrap_or(0), &device.profile.id)).or_default();
        polls.devices += 1;
        polls.requests += requests_per_poll(&device.profile, config.modbus.gap_registers_max);
    }
    if endpoints.is_empty() {
        out.line("nothing: no device is connected over modbus-tcp");
    }
    for (endpoint, at) in endpoints {
        let units: Vec<_> = at.units.iter().map(u8::to_string).collect();
        let polls: Vec<_> = at
            .polls
            .iter()
            .map(|((interval_ms, profile), Polls { devices, requests })| {
                let interval = duration_text(Duration::from_millis(u64::from(*interval_ms)));
                let plural = if *requests == 1 { "" } else { "s" };
                format!("{devices} {profile}, {requests} request{plural} every {interval}")
            })
            .collect();
        out.line(&format!("modbus-tcp://{endpoint}: units {}: {}", units.join(" "), polls.join("; ")));
    }
}

/// What is polled over one connection.
#[derive(Default)]
struct Endpoint<'a> {
    units: BTreeSet<u8>,
    /// What is polled at each interval, in milliseconds, with each profile.
    polls: BTreeMap<(u32, &'a str), Polls>,
}

/// Devices that are polled alike.
#[derive(Default)]
struct Polls {
    devices: usize,
    /// Requests that one round takes.
    requests: usize,
}

fn computed(indicators: &[Definition], out: &mut Summary) {
    out.heading("computed");
    if indicators.is_empty() {
        out.line("nothing: no indicator is declared");
    }
    for definition in indicators {
        let it = &definition.description;
        let levels: Vec<_> = it.levels.iter().map(|level| level.label()).collect();
        let windows: Vec<_> = it.windows.iter().map(|window| window.label()).collect();
        out.line(&format!(
            "{} {} / {} [{}] per {} over {}",
            it.id,
            it.name,
            it.name_zh,
            it.unit,
            levels.join(", "),
            windows.join(", ")
        ));
    }
}

fn sent(config: &Config, out: &mut Summary) {
    out.heading("sent");
    for store in &config.influx {
        let windows: Vec<_> = store.windows.iter().map(|window| window.label()).collect();
        let mut rows = if windows.is_empty() { "indicators only".to_owned() } else { windows.join(", ") };
        if store.fields != Fields::ALL {
            let labels: Vec<_> = store.fields.iter().map(Field::label).collect();
            rows = format!("{rows}; of each metric {} only", labels.join(", "));
        }
        let token = if store.token.is_empty() { "no token" } else { "token set" };
        let bucket = if store.create_bucket { "made where missing" } else { "must be there" };
        out.line(&format!(
            "{}: {} organisation {} bucket {} ({bucket}), {token}: {rows}",
            store.name, store.url, store.org, store.bucket
        ));
    }
    if let Some(brain) = &config.city_brain {
        let address = HostPort { host: brain.host.clone(), port: brain.port };
        out.line(&format!("city brain: mqtt://{address} as {}: {}/#", brain.client_id, brain.topic_prefix));
    }
    if config.influx.is_empty() && config.city_brain.is_none() {
        out.line("nowhere: there is neither [[influx]] nor [city_brain]");
    }
    out.heading("served");
    let token = if config.api.token.is_some() { "with a token" } else { "without a token" };
    out.line(&format!("http://{} {token}", config.api.listen));
}

fn counted(words: impl Iterator<Item = String>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for word in words {
        *counts.entry(word).or_default() += 1;
    }
    counts
}

fn in_brackets(counts: &BTreeMap<String, usize>) -> String {
    if counts.is_empty() {
        return String::new();
    }
    let parts: Vec<_> = counts.iter().map(|(word, count)| format!("{count} {word}")).collect();
    format!(" ({})", parts.join(", "))
}
