//! Text that shows what it holds.
//!
//! Owns the list of characters that deceive whoever reads them: they are not seen, end a line, reorder what stands beside
//! them or speak to a terminal. Names must not hold them, and text of others is printed with them written out. Pure.

use std::fmt::{self, Write};

/// Whether `character` is not seen for what it is: a control character, a line or paragraph separator, a mark that sets
/// the direction of writing (Unicode UAX 9), or one that takes no room.
#[must_use]
pub fn deceives(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{AD}' | '\u{34F}' | '\u{61C}' | '\u{115F}' | '\u{1160}' | '\u{17B4}' | '\u{17B5}'
            | '\u{180B}'..='\u{180F}' | '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{206F}'
            | '\u{2800}' | '\u{3164}' | '\u{FE00}'..='\u{FE0F}' | '\u{FEFF}' | '\u{FFA0}' | '\u{FFF0}'..='\u{FFFB}'
            | '\u{1D173}'..='\u{1D17A}' | '\u{E0000}'..='\u{E0FFF}')
}

/// A text on one line, what deceives in it written as `\n` or `\u{202e}`.
#[derive(Clone, Copy, Debug)]
pub struct Visible<'a>(pub &'a str);

impl fmt::Display for Visible<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Escaping(f).write_str(self.0)
    }
}

/// Writes what is written to it, what deceives written out.
#[derive(Debug)]
pub struct Escaping<W>(pub W);

impl<W: Write> Write for Escaping<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut plain = 0;
        for (at, character) in text.char_indices().filter(|(_, character)| deceives(*character)) {
            self.0.write_str(&text[plain..at])?;
            match character {
                '\n' | '\r' | '\t' => write!(self.0, "{}", character.escape_default())?,
                _ => write!(self.0, "{}", character.escape_unicode())?,
            }
            plain = at + character.len_utf8();
        }
        self.0.write_str(&text[plain..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_seen_stays_and_what_deceives_is_written_out() {
        for plain in ["", "FZ-GL-001 福州", "temperature °C", "a\\nb", "é"] {
            assert_eq!(Visible(plain).to_string(), plain);
        }
        for (text, shown) in [
            ("two\nlines\r\tend", r"two\nlines\r\tend"),
            ("\u{1b}[31mred", r"\u{1b}[31mred"),
            ("\u{9b}31m", r"\u{9b}31m"),
            ("abc\u{202e}cba", r"abc\u{202e}cba"),
            ("zero\u{200b}width\u{feff}", r"zero\u{200b}width\u{feff}"),
        ] {
            assert_eq!(Visible(text).to_string(), shown);
        }
    }
}
