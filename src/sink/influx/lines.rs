//! The lines of a batch, one after the other in one piece of memory. Pure.

use std::ops::Range;

/// Lines, each with the newline that ends it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Lines {
    text: String,
    /// Where each line ends, behind its newline.
    ends: Vec<usize>,
}

impl Lines {
    /// Number of lines.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The line with this number, without its newline.
    pub(super) fn get(&self, number: usize) -> Option<&str> {
        let end = *self.ends.get(number)?;
        self.text.get(self.start(number)..end.saturating_sub(1))
    }

    /// The text of some lines, newlines and all.
    pub(super) fn text(&self, lines: Range<usize>) -> &str {
        &self.text[self.start(lines.start)..self.start(lines.end)]
    }

    /// Adds what `write` writes as a line, unless it says that there is none.
    pub(super) fn push(&mut self, write: impl FnOnce(&mut String) -> Option<()>) -> Option<()> {
        let begun = self.start(self.len());
        if write(&mut self.text).is_none() {
            self.text.truncate(begun);
            return None;
        }
        self.text.push('\n');
        self.ends.push(self.text.len());
        Some(())
    }

    fn start(&self, number: usize) -> usize {
        number.checked_sub(1).map_or(0, |before| self.ends[before])
    }
}

#[cfg(any(test, feature = "bench"))]
impl<T: AsRef<str>> FromIterator<T> for Lines {
    fn from_iter<I: IntoIterator<Item = T>>(lines: I) -> Self {
        let mut all = Self::default();
        for line in lines {
            all.push(|text| {
                text.push_str(line.as_ref());
                Some(())
            });
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_lie_one_after_the_other_and_one_that_came_to_nothing_leaves_nothing() {
        let mut lines: Lines = ["one", "", "three"].into_iter().collect();
        let nothing = lines.push(|text| {
            text.push_str("half");
            None
        });
        assert_eq!((nothing, lines.len(), lines.is_empty()), (None, 3, false));
        assert_eq!([0, 1, 2, 3].map(|number| lines.get(number)), [Some("one"), Some(""), Some("three"), None]);
        lines.push(|text| {
            text.push_str("four");
            Some(())
        });
        assert_eq!(lines.get(3), Some("four"));
        assert_eq!([lines.text(0..3), lines.text(1..3), lines.text(2..2)], ["one\n\nthree\n", "\nthree\n", ""]);
    }
}
