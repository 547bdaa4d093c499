//! TOML documents: read into typed forms, with every fault found in one go.
//!
//! Serde stops at the first fault. So a document is read again and again, each time with the value at fault taken out,
//! until it reads; keys that nobody asked for are collected on the way. Owns no meaning: what keys there are and what
//! values are valid is the caller's. Never prints a value that might be a secret.

mod address;
mod faults;
mod suggest;
mod unit;
mod value;

use std::collections::{BTreeSet, HashMap};

use config::{ConfigError, File, FileFormat, Value, ValueKind};
use serde::de::DeserializeOwned;
use serde_path_to_error::{Path, Segment};

pub use address::{HostPort, address};
pub use faults::Faults;
pub use suggest::nearest;
pub use unit::{duration, duration_text, size, size_text};
pub use value::{Flag, Integer, List, Number, Text};

use crate::problem::Problem;

/// Origin that the config crate gives to values of environment variables.
const ENVIRONMENT: &str = "the environment";

/// First letters of environment variables that override keys.
pub const OVERRIDE_PREFIX: &str = "SITEPULSE__";

/// The keys that a table of a document may have.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    /// Where the table stands: empty for the root, `api`, `mqtt[]` for an array of tables.
    pub path: &'static str,
    /// Its keys.
    pub keys: &'static [&'static str],
}

impl Table {
    /// The table at `path`, with the fields of `T` as its keys.
    #[must_use]
    pub fn of<T: DeserializeOwned>(path: &'static str) -> Self {
        Self { path, keys: value::fields_of::<T>() }
    }
}

/// A TOML document, parsed but not yet understood.
#[derive(Debug)]
pub struct Document {
    file: String,
    root: Value,
    broken: BTreeSet<String>,
}

impl Document {
    /// Parses `text`, the contents of `file`.
    ///
    /// # Errors
    /// The problem where the text is no TOML.
    pub fn parse(file: &str, text: &str) -> Result<Self, Problem> {
        Self::with_overrides(file, text, std::iter::empty())
    }

    /// Parses `text`, the contents of `file`; variables called `SITEPULSE__SECTION__KEY` override its keys, and a
    /// number stands for a table of an array: `SITEPULSE__MQTT__0__URL`.
    ///
    /// # Errors
    /// The problem where the text is no TOML.
    pub fn with_overrides<'a>(
        file: &str,
        text: &str,
        environment: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, Problem> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut overrides = HashMap::new();
        for (name, value) in environment.filter(|(name, _)| name.starts_with(OVERRIDE_PREFIX)) {
            let is_key = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
            if !name.split("__").all(is_key) {
                let message = format!("names no key; write it like {OVERRIDE_PREFIX}API__LISTEN");
                return Err(Problem::new(format!("environment variable {}", name.escape_debug()), "", message));
            }
            overrides.insert(indexed(name), value.to_owned());
        }
        let built = config::Config::builder()
            .add_source(File::from_str(text, FileFormat::Toml))
            .add_source(
                config::Environment::with_prefix(OVERRIDE_PREFIX.trim_end_matches('_'))
                    .prefix_separator("__")
                    .separator("__")
                    .source(Some(overrides)),
            )
            .build()
            .map_err(|error| syntax_problem(file, &error))?;
        Ok(Self { file: file.to_owned(), root: built.cache, broken: BTreeSet::new() })
    }

    /// Reads the document; every value of a wrong type and every unknown key is added to `problems`.
    pub fn read<T: DeserializeOwned + Default>(&mut self, tables: &[Table], problems: &mut Vec<Problem>) -> T {
        let mut found = Vec::new();
        self.note_gaps(&mut found);
        let read = self.read_on(tables, &mut found);
        // The config crate keeps tables in no order; a person wants the same one every time.
        found.sort();
        problems.append(&mut found);
        read
    }

    /// Overrides may number the tables of an array with a gap, which leaves an empty place.
    fn note_gaps(&self, problems: &mut Vec<Problem>) {
        let ValueKind::Table(table) = &self.root.kind else { return };
        for (name, value) in table {
            let ValueKind::Array(items) = &value.kind else { continue };
            for index in (0..items.len()).filter(|&index| matches!(items[index].kind, ValueKind::Nil)) {
                let message = "is missing, but a later one is set; tables are numbered from 0 without a gap";
                problems.push(self.problem(&format!("{name}[{index}]"), message));
            }
        }
    }

    fn read_on<T: DeserializeOwned + Default>(&mut self, tables: &[Table], problems: &mut Vec<Problem>) -> T {
        loop {
            let mut unknown = BTreeSet::new();
            let mut note = |path: serde_ignored::Path<'_>| {
                unknown.insert(key_of_ignored(&path));
            };
            let mut track = serde_path_to_error::Track::new();
            let ignored = serde_ignored::Deserializer::new(self.root.clone(), &mut note);
            let outcome = T::deserialize(serde_path_to_error::Deserializer::new(ignored, &mut track));
            let error = match outcome {
                Ok(read) => {
                    for key in unknown {
                        problems.push(self.problem(&key, unknown_key(&key, tables)));
                    }
                    return read;
                }
                Err(error) => error,
            };
            let path = track.path();
            let key = key_of(&path);
            problems.push(self.problem(&key, type_fault(&error, &key)));
            self.broken.insert(key);
            match find_mut(&mut self.root, &path) {
                Some(value) if !matches!(value.kind, ValueKind::Nil) => value.kind = ValueKind::Nil,
                _ => return T::default(),
            }
        }
    }

    /// Whether the value at `key` was taken out because it is of the wrong type.
    #[must_use]
    pub fn is_broken(&self, key: &str) -> bool {
        self.broken.contains(key)
    }

    /// A problem at `key`, attributed to the environment variable where one has set it.
    #[must_use]
    pub fn problem(&self, key: &str, message: impl Into<String>) -> Problem {
        let variable = self.variable_behind(key);
        let file = variable.map_or_else(|| self.file.clone(), |variable| format!("environment variable {variable}"));
        Problem::new(file, key, message)
    }

    /// The environment variable that has set the value at `key`, or the table that it is missing from.
    fn variable_behind(&self, key: &str) -> Option<String> {
        let mut at = key;
        let value = loop {
            match find(&self.root, at) {
                Some(value) => break value,
                None => at = at.rsplit_once('.')?.0,
            }
        };
        let leaf = leaf_of_environment(value, at)?;
        Some(format!("{OVERRIDE_PREFIX}{}", variable_of(&leaf)))
    }
}

/// The first key in `value`, which is at `key`, where all that it holds comes from the environment.
fn leaf_of_environment(value: &Value, key: &str) -> Option<String> {
    let mut leaves: Vec<Option<String>> = match &value.kind {
        ValueKind::Table(table) => {
            table.iter().map(|(name, value)| leaf_of_environment(value, &format!("{key}.{name}"))).collect()
        }
        _ => vec![(value.origin() == Some(ENVIRONMENT)).then(|| key.to_owned())],
    };
    leaves.sort();
    // `None` sorts first: something in there is of the file.
    leaves.into_iter().next().flatten()
}

/// `SITEPULSE__MQTT__0__URL` as `SITEPULSE__MQTT[0]__URL`, which is how the config crate writes an index.
fn indexed(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for (position, part) in name.split("__").enumerate() {
        if position > 1 && !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()) {
            out.push('[');
            out.push_str(part);
            out.push(']');
        } else {
            if position > 0 {
                out.push_str("__");
            }
            out.push_str(part);
        }
    }
    out
}

/// `mqtt[0].url` as `MQTT__0__URL`.
fn variable_of(key: &str) -> String {
    key.replace(']', "").replace(['.', '['], "__").to_uppercase()
}

/// Says where the syntax is wrong without the line itself, which may hold a secret.
fn syntax_problem(file: &str, error: &ConfigError) -> Problem {
    let cause = match error {
        ConfigError::FileParse { cause, .. } => cause.to_string(),
        other => other.to_string(),
    };
    let mut key = String::new();
    let mut said = Vec::new();
    for line in cause.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if let Some(place) = line.strip_prefix("TOML parse error at ") {
            place.clone_into(&mut key);
        } else if !line.contains('|') {
            said.push(line);
        }
    }
    Problem::new(file, key, format!("this is no valid TOML: {}", said.join(", ")))
}

fn type_fault(error: &ConfigError, key: &str) -> String {
    let message = match error {
        ConfigError::At { error, .. } => return type_fault(error, key),
        ConfigError::Type { unexpected, expected, .. } => format!("invalid type: {unexpected}, expected {expected}"),
        other => other.to_string(),
    };
    if message.contains("map, expected a sequence") {
        return format!("there may be several of these: write [[{key}]] with double brackets");
    }
    // What stands where a variable's name belongs may be the secret itself.
    if key.ends_with("_env") || key.ends_with("_file") {
        return "give the name in quotes".to_owned();
    }
    message
}

fn unknown_key(key: &str, tables: &[Table]) -> String {
    let (parent, name) = key.rsplit_once('.').unwrap_or(("", key));
    let shape = unindexed(parent);
    let known = tables.iter().find(|table| table.path == shape).map_or(&[] as &[&str], |table| table.keys);
    let longer: Vec<_> = known.iter().filter(|known| known.starts_with(&format!("{name}_"))).collect();
    if !longer.is_empty() {
        let longer: Vec<_> = longer.iter().map(|known| format!("`{known}`")).collect();
        return format!("unknown key; did you mean {}?", longer.join(" or "));
    }
    if let Some(near) = nearest(name, known.iter().copied()) {
        return format!("unknown key; did you mean `{near}`?");
    }
    let elsewhere = tables.iter().find(|table| table.path != shape && table.keys.contains(&name));
    if let Some(table) = elsewhere {
        return match table.path {
            "" => format!("unknown key; `{name}` belongs at the top of the file, before every [section]"),
            path => match path.strip_suffix("[]") {
                Some(path) => format!("unknown key; `{name}` belongs in [[{path}]]"),
                None => format!("unknown key; `{name}` belongs in [{path}]"),
            },
        };
    }
    format!("unknown key; valid here: {}", known.join(", "))
}

/// `mqtt[0]` as `mqtt[]`.
fn unindexed(path: &str) -> String {
    path.chars().filter(|character| !character.is_ascii_digit()).collect()
}

fn key_of(path: &Path) -> String {
    let mut key = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => key = format!("{key}[{index}]"),
            Segment::Map { key: name } | Segment::Enum { variant: name } => push_name(&mut key, name),
            Segment::Unknown => push_name(&mut key, "?"),
        }
    }
    key
}

fn key_of_ignored(path: &serde_ignored::Path<'_>) -> String {
    use serde_ignored::Path;
    match path {
        Path::Root => String::new(),
        Path::Seq { parent, index } => format!("{}[{index}]", key_of_ignored(parent)),
        Path::Map { parent, key: name } => {
            let mut key = key_of_ignored(parent);
            push_name(&mut key, name);
            key
        }
        Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => {
            key_of_ignored(parent)
        }
    }
}

fn push_name(key: &mut String, name: &str) {
    if !key.is_empty() {
        key.push('.');
    }
    key.push_str(name);
}

fn find_mut<'a>(root: &'a mut Value, path: &Path) -> Option<&'a mut Value> {
    let mut at = root;
    for segment in path {
        at = match (segment, &mut at.kind) {
            (Segment::Seq { index }, ValueKind::Array(values)) => values.get_mut(*index)?,
            (Segment::Map { key }, ValueKind::Table(table)) => table.get_mut(key)?,
            _ => return None,
        };
    }
    Some(at)
}

fn find<'a>(root: &'a Value, key: &str) -> Option<&'a Value> {
    let mut at = root;
    for part in key.split(['.', '[']) {
        at = match (&at.kind, part.strip_suffix(']')) {
            (ValueKind::Array(values), Some(index)) => values.get(index.parse::<usize>().ok()?)?,
            (ValueKind::Table(table), None) => table.get(part)?,
            _ => return None,
        };
    }
    Some(at)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Default, Deserialize)]
    #[serde(default)]
    struct Form {
        name: Option<Text>,
        items: Option<Vec<Option<Item>>>,
    }

    #[derive(Debug, Default, Deserialize)]
    #[serde(default)]
    struct Item {
        count: Option<Integer>,
        on: Option<Flag>,
        ratio: Option<Number>,
    }

    fn read(text: &str, environment: &[(&str, &str)]) -> (Form, Vec<String>) {
        let mut document = Document::with_overrides("f.toml", text, environment.iter().copied()).expect("TOML");
        let mut problems = Vec::new();
        let form = document.read(&[Table::of::<Form>(""), Table::of::<Item>("items[]")], &mut problems);
        (form, problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn every_fault_is_found_and_the_rest_is_read() {
        let text =
            "name = 5\nnmae = 'x'\n[[items]]\ncount = 1.5\non = true\n[[items]]\ncount = 'x'\nration = 2\nratio = 1\n";
        let (form, problems) = read(text, &[]);
        assert_eq!(
            problems,
            [
                "f.toml: items[0].count: invalid type: floating point `1.5`, expected a whole number",
                "f.toml: items[1].count: `x` is no whole number",
                "f.toml: items[1].ration: unknown key; did you mean `ratio`?",
                "f.toml: name: invalid type: integer `5`, expected text in quotes",
                "f.toml: nmae: unknown key; did you mean `name`?",
            ]
        );
        let items: Vec<_> = form.items.expect("items").into_iter().flatten().collect();
        assert_eq!(items[0].on, Some(Flag(true)));
        assert_eq!(items[1].ratio, Some(Number(1.0)));
    }

    #[test]
    fn variables_override_keys_and_tables_of_arrays() {
        let text = "name = 'a'\n[[items]]\ncount = 1\n[[items]]\ncount = 2\n";
        let environment = [
            ("SITEPULSE__NAME", "b"),
            ("SITEPULSE__ITEMS__1__COUNT", "7"),
            ("SITEPULSE_NAME", "c"),
            ("SITEPULSE__ITEMS__0__ON", "maybe"),
        ];
        let (form, problems) = read(text, &environment);
        assert_eq!(
            problems,
            ["environment variable SITEPULSE__ITEMS__0__ON: items[0].on: `maybe` is neither true nor false"]
        );
        assert_eq!(form.name, Some(Text("b".to_owned())));
        let items: Vec<_> = form.items.expect("items").into_iter().flatten().collect();
        assert_eq!((items[0].count, items[1].count), (Some(Integer(1)), Some(Integer(7))));
    }

    #[test]
    fn a_syntax_fault_names_its_place_and_not_its_line() {
        let problem = Document::parse("f.toml", "name = 'a'\ntoken = hunter2\n").expect_err("no TOML").to_string();
        assert!(problem.starts_with("f.toml: line 2, column 9: this is no valid TOML: "), "{problem}");
        assert!(!problem.contains("hunter2"), "{problem}");
    }

    #[test]
    fn one_table_where_several_may_stand_is_told_of_double_brackets() {
        let (_, problems) = read("[items]\ncount = 1\n", &[]);
        assert_eq!(problems, ["f.toml: items: there may be several of these: write [[items]] with double brackets"]);
    }
}
