//! What is wrong with the values of a document.

use super::{Document, nearest};
use crate::problem::Problem;

/// Collects what is wrong with the values of a document, once it is read.
pub struct Faults<'a> {
    document: &'a Document,
    problems: &'a mut Vec<Problem>,
}

impl<'a> Faults<'a> {
    /// Adds to `problems` what is found in `document`.
    pub fn of(document: &'a Document, problems: &'a mut Vec<Problem>) -> Self {
        Self { document, problems }
    }

    /// Whether the value at `key` was taken out because it is of the wrong type.
    #[must_use]
    pub fn is_broken(&self, key: &str) -> bool {
        self.document.is_broken(key)
    }

    /// Problems found so far.
    #[must_use]
    pub fn count(&self) -> usize {
        self.problems.len()
    }

    /// Adds a problem at `key`.
    pub fn add(&mut self, key: &str, message: impl Into<String>) {
        self.problems.push(self.document.problem(key, message));
    }

    /// The value where there is one; a problem where the file has none.
    pub fn required<T>(&mut self, key: &str, value: Option<T>, what: &str) -> Option<T> {
        if value.is_none() && !self.document.is_broken(key) {
            self.add(key, format!("is missing; give {what}"));
        }
        value
    }

    /// The value where `outcome` has one; a problem otherwise.
    pub fn ok<T>(&mut self, key: &str, outcome: Result<T, String>) -> Option<T> {
        outcome.map_err(|message| self.add(key, message)).ok()
    }

    /// The one of `choices` that `text` names.
    pub fn choice<T: Copy>(&mut self, key: &str, text: &str, choices: &[(&str, T)]) -> Option<T> {
        if let Some((_, choice)) = choices.iter().find(|(name, _)| *name == text) {
            return Some(*choice);
        }
        let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
        let message = match nearest(text, names.iter().copied()) {
            Some(near) => format!("`{text}` is not known; did you mean `{near}`? Valid: {}", names.join(", ")),
            None => format!("`{text}` is not known; give one of {}", names.join(", ")),
        };
        self.add(key, message);
        None
    }
}
