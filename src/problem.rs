//! What is wrong, in a form that a person can act on: faults of a configuration, and errors with what caused them.

use std::fmt;
use std::fmt::Write as _;

use crate::visible::Visible;

/// One fault of the configuration: where it is, what it is, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// File, as the user can open it.
    pub file: String,
    /// Key (`mqtt[0].url`), or `line 12, column "area"` in a CSV file; empty where the whole file is meant.
    pub key: String,
    /// What is wrong and what would be valid.
    pub message: String,
}

impl Problem {
    /// A problem at `key` of `file`.
    pub fn new(file: impl Into<String>, key: impl Into<String>, message: impl Into<String>) -> Self {
        Self { file: file.into(), key: key.into(), message: message.into() }
    }
}

/// One line, whatever the file holds.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (file, key, message) = (Visible(&self.file), Visible(&self.key), Visible(&self.message));
        if self.key.is_empty() { write!(f, "{file}: {message}") } else { write!(f, "{file}: {key}: {message}") }
    }
}

/// An error with its causes, each once: many errors repeat their cause in their own words.
#[must_use]
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let cause = error.to_string();
        if !text.contains(&cause) {
            write!(text, ": {cause}").expect("invariant: writing to a string does not fail");
        }
        next = error.source();
    }
    text
}
