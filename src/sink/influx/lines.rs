//! The lines of a batch, one after the other in one piece of memory, which a body can share. Pure.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

/// Lines, each with the newline that ends it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Lines {
    text: Arc<String>,
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

    /// The same as bytes, which are shared and not copied.
    pub(super) fn bytes(&self, lines: Range<usize>) -> Bytes {
        Bytes::from_owner(Text(self.text.clone())).slice(self.start(lines.start)..self.start(lines.end))
    }

    /// Adds what `write` writes as a line, unless it says that there is none. A text that is shared is copied first.
    pub(super) fn push(&mut self, write: impl FnOnce(&mut String) -> Option<()>) -> Option<()> {
        let begun = self.start(self.len());
        let text = Arc::make_mut(&mut self.text);
        if write(text).is_none() {
            text.truncate(begun);
            return None;
        }
        text.push('\n');
        self.ends.push(text.len());
        Some(())
    }

    /// Bytes that the text may have before it asks for memory.
    pub(super) fn room_bytes(&self) -> usize {
        self.text.capacity()
    }

    /// Its memory without a line; new memory where somebody still has the text.
    pub(super) fn emptied(mut self) -> Self {
        self.ends.clear();
        match Arc::get_mut(&mut self.text) {
            Some(text) => text.clear(),
            None => self.text = Arc::default(),
        }
        self
    }

    fn start(&self, number: usize) -> usize {
        number.checked_sub(1).map_or(0, |before| self.ends[before])
    }
}

/// A text that bytes keep alive.
struct Text(Arc<String>);

impl AsRef<[u8]> for Text {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

#[cfg(test)]
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

    #[test]
    fn a_body_has_the_text_itself_and_what_is_written_later_does_not_reach_it() {
        let mut lines: Lines = ["one", "two", "three"].into_iter().collect();
        let (body, text) = (lines.bytes(1..3), lines.text(1..3).as_ptr());
        assert_eq!((&body[..], body.as_ptr()), (&b"two\nthree\n"[..], text));
        lines.push(|text| {
            text.replace_range(.., "six");
            Some(())
        });
        assert_eq!(&body[..], b"two\nthree\n");
    }
}
