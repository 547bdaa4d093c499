//! The configuration: files and environment variables become options that every part can rely on.
//!
//! Reports every problem of every file at once and starts nothing with any of them. Missing keys have the defaults of
//! docs/configuration.md; a value at fault has none. Passwords and tokens come from environment variables or files
//! and never appear in a message.

mod collect;
mod raw;
mod section;
mod sinks;
mod sources;
mod topic_filter;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::tz::TimeZone;
use tracing::level_filters::LevelFilter;

pub use raw::tables;

use crate::document::Document;
use crate::inventory::{Inventory, Profile};
use crate::problem::Problem;
use crate::{api, indicator, journal, pipeline, sink, source};

/// Environment variables by name.
pub type Environment = BTreeMap<String, String>;

/// Name of the configuration file in its folder.
pub const FILE_NAME: &str = "sitepulse.toml";

/// Everything that a run needs to know, checked.
#[derive(Debug)]
pub struct Config {
    /// Folder of the journal and the store.
    pub data_dir: PathBuf,
    /// Time zone of hours and days.
    pub zone: TimeZone,
    /// Areas, sites and devices.
    pub inventory: Inventory,
    /// Device profiles by id.
    pub profiles: BTreeMap<String, Arc<Profile>>,
    /// How readings are rolled up and flushed.
    pub pipeline: pipeline::Options,
    /// Bytes of the store at which the oldest rows go.
    pub store_bytes_max: u64,
    /// How the journal keeps its records.
    pub journal: journal::Options,
    /// Brokers that we read from.
    pub mqtt: Vec<source::mqtt::Options>,
    /// How Modbus devices are polled.
    pub modbus: source::modbus::Options,
    /// Indicators that are computed.
    pub indicators: Vec<indicator::Definition>,
    /// Time-series stores that we write to.
    pub influx: Vec<sink::influx::Options>,
    /// The city brain's broker, where there is one.
    pub city_brain: Option<sink::city_brain::Options>,
    /// How the API listens.
    pub api: api::Options,
    /// What is logged and how.
    pub log: LogOptions,
}

/// What is logged and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// The least severe level that is written.
    pub level: LevelFilter,
    /// How a line is written.
    pub format: LogFormat,
}

/// How a line of the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Loads the configuration at `path`, a file or a folder with a `sitepulse.toml`, and the environment.
///
/// # Errors
/// Every problem of every file.
pub fn load(path: &Path) -> Result<Config, Vec<Problem>> {
    load_with(path, &environment())
}

/// The environment of this process; variables that are no UTF-8 are left out.
#[must_use]
pub fn environment() -> Environment {
    let text = |text: std::ffi::OsString| text.into_string().ok();
    std::env::vars_os().filter_map(|(name, value)| Some((text(name)?, text(value)?))).collect()
}

/// Loads the configuration at `path` with the given environment.
///
/// # Errors
/// Every problem of every file.
pub fn load_with(path: &Path, environment: &Environment) -> Result<Config, Vec<Problem>> {
    let file = if path.is_dir() { path.join(FILE_NAME) } else { path.to_owned() };
    let shown = file.display().to_string();
    let text = std::fs::read_to_string(&file).map_err(|error| {
        let message = format!("cannot read the file: {error}; give a configuration file or a folder with {FILE_NAME}");
        vec![Problem::new(shown.clone(), "", message)]
    })?;
    load_text(&shown, &text, file.parent().unwrap_or(Path::new("")), environment)
}

/// Loads the configuration in `text`, the contents of the file `shown`; the paths in it are relative to `folder`.
pub(crate) fn load_text(
    shown: &str,
    text: &str,
    folder: &Path,
    environment: &Environment,
) -> Result<Config, Vec<Problem>> {
    let variables = environment.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let mut document = Document::with_overrides(shown, text, variables).map_err(|problem| vec![problem])?;
    let mut problems = Vec::new();
    let raw = document.read(&raw::tables(), &mut problems);
    let around = section::Surroundings { document: &document, folder, environment };
    let config = collect::config(raw, &around, &mut problems);
    if problems.is_empty() { Ok(config) } else { Err(problems) }
}

#[cfg(test)]
mod tests;
