//! A TOML table read key by key, so that every fault of a file is found at once.

use std::fmt::Display;

use config::{Config, File, FileFormat};
use serde_json::{Map, Value};

use crate::problem::Problem;

/// A table of a file, with the key it stands at. Keys are taken out as they are read; what is left is unknown.
pub(super) struct Table<'a> {
    file: &'a str,
    key: String,
    entries: Map<String, Value>,
    known: Vec<&'static str>,
}

/// The tables of the array `name`, which is all that the file may hold.
pub(super) fn tables<'a>(file: &'a str, text: &str, name: &'static str, problems: &mut Vec<Problem>) -> Vec<Table<'a>> {
    let document = Config::builder()
        .add_source(File::from_str(text, FileFormat::Toml))
        .build()
        .and_then(Config::try_deserialize::<Map<String, Value>>);
    let mut entries = match document {
        Ok(entries) => entries,
        Err(error) => {
            problems.push(Problem::new(file, "", format!("is no TOML: {}", error.to_string().trim_end())));
            return Vec::new();
        }
    };
    let tables = match entries.remove(name) {
        Some(Value::Array(values)) => values
            .into_iter()
            .enumerate()
            .filter_map(|(n, value)| Table::new(file, format!("{name}[{n}]"), value, problems))
            .collect(),
        None => Vec::new(),
        Some(_) => {
            problems.push(Problem::new(file, name, format!("is no list of tables; write [[{name}]]")));
            Vec::new()
        }
    };
    for key in entries.keys() {
        problems.push(Problem::new(file, key, format!("is unknown; the file holds [[{name}]] tables only")));
    }
    tables
}

impl<'a> Table<'a> {
    /// The table `value`; a problem where it is something else.
    pub(super) fn new(file: &'a str, key: String, value: Value, problems: &mut Vec<Problem>) -> Option<Self> {
        let Value::Object(entries) = value else {
            problems.push(Problem::new(file, key, "is no table"));
            return None;
        };
        Some(Self { file, key, entries, known: Vec::new() })
    }

    /// The key the table stands at.
    pub(super) fn key(&self) -> &str {
        &self.key
    }

    /// A problem at `name` of this table, at the table itself where `name` is empty.
    pub(super) fn problem(&self, name: &str, message: impl Display) -> Problem {
        let key = if name.is_empty() { self.key.clone() } else { format!("{}.{name}", self.key) };
        Problem::new(self.file, key, message.to_string())
    }

    /// Whether the table has `name` and nobody took it yet.
    pub(super) fn has(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// The value of `name`.
    pub(super) fn take(&mut self, name: &'static str) -> Option<Value> {
        self.known.push(name);
        self.entries.remove(name)
    }

    /// The text of `name`.
    pub(super) fn text(&mut self, name: &'static str, problems: &mut Vec<Problem>) -> Option<String> {
        match self.take(name)? {
            Value::String(text) if !text.trim().is_empty() => Some(text),
            _ => {
                problems.push(self.problem(name, "is no text, or an empty one"));
                None
            }
        }
    }

    /// The text of `name`, which must be there.
    pub(super) fn required_text(&mut self, name: &'static str, problems: &mut Vec<Problem>) -> Option<String> {
        if !self.has(name) {
            self.known.push(name);
            problems.push(self.problem(name, "is missing"));
            return None;
        }
        self.text(name, problems)
    }

    /// The number of `name`, which must be there and finite.
    pub(super) fn required_number(&mut self, name: &'static str, problems: &mut Vec<Problem>) -> Option<f64> {
        let number = self.take(name).and_then(|value| value.as_f64()).filter(|number| number.is_finite());
        if number.is_none() {
            problems.push(self.problem(name, "is missing or no number"));
        }
        number
    }

    /// The texts of the list `name`, each read by `read`; `None` where there is no such key.
    pub(super) fn list<T, E: Display>(
        &mut self,
        name: &'static str,
        problems: &mut Vec<Problem>,
        read: impl Fn(&str) -> Result<T, E>,
    ) -> Option<Vec<T>> {
        let Value::Array(values) = self.take(name)? else {
            problems.push(self.problem(name, "is no list of texts"));
            return Some(Vec::new());
        };
        if values.is_empty() {
            problems.push(self.problem(name, "is empty; name one or more, or leave it out where it is optional"));
        }
        let mut items = Vec::new();
        for (n, value) in values.iter().enumerate() {
            match value.as_str().map(&read) {
                Some(Ok(item)) => items.push(item),
                Some(Err(error)) => problems.push(self.problem(&format!("{name}[{n}]"), error)),
                None => problems.push(self.problem(&format!("{name}[{n}]"), "is no text")),
            }
        }
        Some(items)
    }

    /// All entries that are left, with their keys.
    pub(super) fn take_all(&mut self) -> Map<String, Value> {
        std::mem::take(&mut self.entries)
    }

    /// Reports what nobody took.
    pub(super) fn finish(self, problems: &mut Vec<Problem>) {
        for name in self.entries.keys() {
            problems.push(self.problem(name, format_args!("is unknown; there are {}", self.known.join(", "))));
        }
    }
}
