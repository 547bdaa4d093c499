//! One table of the configuration file while it is checked.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Environment;
use crate::document::{Document, Faults, Integer, Text, duration, duration_text, size, size_text};
use crate::problem::Problem;

/// Bytes of a password or token at the most.
const SECRET_BYTES_MAX: usize = 4_096;

/// What every table is checked against.
pub(super) struct Surroundings<'a> {
    /// The document that the table is of.
    pub(super) document: &'a Document,
    /// Folder that paths are relative to.
    pub(super) folder: &'a Path,
    /// Environment variables, for passwords and tokens.
    pub(super) environment: &'a Environment,
}

/// One table while it is checked. A value at fault is replaced by the default so that the rest can be looked at; the
/// problem that it leaves keeps the configuration from being used.
pub(super) struct Section<'a> {
    around: &'a Surroundings<'a>,
    path: String,
    pub(super) faults: Faults<'a>,
}

/// Where a secret is taken from.
pub(super) struct SecretKeys {
    /// What it is called: its keys are `<name>_env` and `<name>_file`.
    pub(super) name: &'static str,
    /// Environment variable that holds it.
    pub(super) variable: Option<Text>,
    /// File that holds it.
    pub(super) file: Option<Text>,
}

impl<'a> Section<'a> {
    /// The table at `path`.
    pub(super) fn new(around: &'a Surroundings<'a>, path: impl Into<String>, problems: &'a mut Vec<Problem>) -> Self {
        Self { around, path: path.into(), faults: Faults::of(around.document, problems) }
    }

    fn key(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// Adds a problem at the key called `name`.
    pub(super) fn add(&mut self, name: &str, message: impl Into<String>) {
        self.faults.add(&self.key(name), message);
    }

    /// The value where `outcome` has one; a problem otherwise.
    pub(super) fn ok<T>(&mut self, name: &str, outcome: Result<T, String>) -> Option<T> {
        self.faults.ok(&self.key(name), outcome)
    }

    /// The text at the key called `name`, which must be there.
    pub(super) fn required(&mut self, name: &str, value: Option<Text>, what: &str) -> Option<String> {
        let text = self.faults.required(&self.key(name), value, what)?.0;
        if text.trim().is_empty() {
            self.add(name, format!("is empty; give {what}"));
            return None;
        }
        Some(text)
    }

    /// The one of `choices` that the text names; the first where there is none.
    pub(super) fn choice<T: Copy>(&mut self, name: &str, value: Option<&Text>, choices: &[(&str, T)]) -> Option<T> {
        let key = self.key(name);
        value.and_then(|text| self.faults.choice(&key, &text.0, choices))
    }

    /// The duration at the key called `name`, `default` where there is none.
    pub(super) fn duration(
        &mut self,
        name: &str,
        value: Option<Text>,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Duration {
        let Some(text) = value else { return default };
        let read = duration(&text.0).and_then(|read| within(read, &range, duration_text));
        self.ok(name, read).unwrap_or(default)
    }

    /// The size at the key called `name`, `default` where there is none.
    pub(super) fn size(&mut self, name: &str, value: Option<Text>, default: u64, range: RangeInclusive<u64>) -> u64 {
        let Some(text) = value else { return default };
        let read = size(&text.0).and_then(|read| within(read, &range, size_text));
        self.ok(name, read).unwrap_or(default)
    }

    /// The whole number at the key called `name`, `default` where there is none.
    pub(super) fn whole<T>(&mut self, name: &str, value: Option<Integer>, default: T, range: RangeInclusive<T>) -> T
    where
        T: TryFrom<i64> + PartialOrd + Copy + Display,
    {
        let Some(Integer(number)) = value else { return default };
        let read = T::try_from(number).ok().filter(|read| range.contains(read));
        let refusal = || format!("{number} is out of range; give {} to {}", range.start(), range.end());
        self.ok(name, read.ok_or_else(refusal)).unwrap_or(default)
    }

    /// The path at a key, relative to the configuration file.
    pub(super) fn path(&self, text: &str) -> PathBuf {
        self.around.folder.join(text)
    }

    /// The secret that an environment variable or a file holds. It never gets into a message, and neither does what
    /// may be a secret that was put in the wrong place.
    pub(super) fn secret(&mut self, keys: SecretKeys) -> Option<String> {
        let variable_key = format!("{}_env", keys.name);
        let file_key = format!("{}_file", keys.name);
        let secret = match (keys.variable, keys.file) {
            (None, None) => return None,
            (Some(_), Some(_)) => {
                self.add(&file_key, format!("stands beside {variable_key}; give one of the two"));
                return None;
            }
            (Some(Text(name)), None) => {
                let found = self.around.environment.get(&name).cloned();
                let refusal = || format!("{} is not set; it must hold the {}", shown_variable(&name), keys.name);
                (self.ok(&variable_key, found.ok_or_else(refusal))?, variable_key)
            }
            (None, Some(Text(file))) => {
                let path = self.path(&file);
                // The name is not repeated: it may be the secret itself.
                let folder = self.around.folder.display();
                let refusal = |error| format!("cannot read that file, relative to `{folder}`: {error}");
                (self.ok(&file_key, std::fs::read_to_string(&path).map_err(refusal))?, file_key)
            }
        };
        let (secret, key) = secret;
        let secret = secret.trim_end_matches(['\r', '\n']);
        if secret.is_empty() {
            self.add(&key, format!("the {} there is empty", keys.name));
            return None;
        }
        if secret.len() > SECRET_BYTES_MAX || secret.chars().any(char::is_control) {
            self.add(&key, format!("the {} there is no single line of at most {SECRET_BYTES_MAX} bytes", keys.name));
            return None;
        }
        Some(secret.to_owned())
    }
}

/// The variable's name where it looks like one; a password that was put in its place is not repeated.
fn shown_variable(name: &str) -> String {
    let is_name = name.contains('_')
        && name.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_');
    if is_name {
        format!("environment variable {name}")
    } else {
        "the environment variable of that name (not shown, in case it is a secret; names look like BROKER_PASSWORD)"
            .to_owned()
    }
}

fn within<T: PartialOrd + Copy>(value: T, range: &RangeInclusive<T>, write: fn(T) -> String) -> Result<T, String> {
    if range.contains(&value) {
        return Ok(value);
    }
    Err(format!("{} is out of range; give {} to {}", write(value), write(*range.start()), write(*range.end())))
}
