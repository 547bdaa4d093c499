//! What sites, devices, areas and metrics may be called.
//!
//! A name goes to many places: topics, tags, cells of a table, a page, a terminal, a log. Each place escapes what it has
//! to; here is refused what no place could show or take unchanged. Those that an operator lists may hold more than those
//! that anyone who can publish makes up.

use crate::decode::topic::LEVEL_BYTES_MAX;
use crate::visible::deceives;

/// Characters at whose sight a spreadsheet takes a cell for a formula.
const FORMULA_STARTS: [char; 4] = ['=', '+', '-', '@'];

/// Checks that `name` can be a level of an MQTT topic, a tag of the line protocol, a value in a URL and a cell of a table.
///
/// # Errors
/// What is wrong and what would be valid.
pub fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("give a name".to_owned());
    }
    if name.len() > LEVEL_BYTES_MAX {
        return Err(format!("the name is {} bytes long; {LEVEL_BYTES_MAX} are the most", name.len()));
    }
    if let Some(bad) = name.chars().find(|&c| deceives(c) || matches!(c, '/' | '+' | '#' | '\\')) {
        let why = if deceives(bad) { "which nobody sees for what it is" } else { "which no topic level can hold" };
        let (name, bad) = (name.escape_debug(), bad.escape_debug());
        return Err(format!("`{name}` holds '{bad}', {why}; use letters, digits, `-`, `_`, `.`"));
    }
    check_cell(name)
}

/// Checks that `text`, which is for people, is one line that shows what it holds and that a spreadsheet takes for text.
///
/// # Errors
/// What is wrong and what would be valid.
pub fn check_text(text: &str) -> Result<(), String> {
    match text.chars().find(|&c| deceives(c)) {
        Some(c) if c.is_control() => {
            Err("holds a line break or control character; is a double quote left open?".to_owned())
        }
        Some(c) => Err(format!("holds '{}', which nobody sees for what it is; leave it out", c.escape_debug())),
        None => check_cell(text),
    }
}

fn check_cell(text: &str) -> Result<(), String> {
    match text.chars().next().filter(|first| FORMULA_STARTS.contains(first)) {
        Some(first) => {
            Err(format!("`{text}` starts with `{first}`, as formulas do in a spreadsheet; start it otherwise"))
        }
        None => Ok(()),
    }
}

/// Checks a name that nobody listed: letters and digits of any script, `-`, `_`, `.`, `:`, the first a letter, a digit or
/// `_`.
///
/// # Errors
/// What is wrong and what would be valid.
pub fn check_unlisted(name: &str) -> Result<(), String> {
    check_name(name)?;
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    if name.starts_with(is_word) && name.chars().all(|c| is_word(c) || matches!(c, '-' | '.' | ':')) {
        return Ok(());
    }
    Err(format!("`{name}` is not made of letters, digits, `-`, `_`, `.`, `:`, the first a letter, a digit or `_`"))
}

/// Checks that `name` is lower case with underscores: a letter first, then letters, digits, underscores.
///
/// # Errors
/// What is wrong and what would be valid.
pub fn check_lower_snake(name: &str) -> Result<(), String> {
    check_name(name)?;
    let starts_well = name.starts_with(|c: char| c.is_ascii_lowercase());
    if starts_well && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_') {
        return Ok(());
    }
    Err(format!("`{name}` is not lower case with underscores; write it like `pwr_w`: a letter, then a-z, 0-9, `_`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_topics_line_protocol_and_tables() {
        for good in ["FZ-GL-001", "福州站", "R_A07.PDU1", "a b", "a=b, \"c\"", "<b>"] {
            assert_eq!(check_name(good), Ok(()), "{good}");
        }
        let deceiving = ["a\n", "a\u{200b}", "\u{202e}a", "a\u{feff}", "\u{3164}", "\u{85}"];
        for bad in ["", "a/b", "a+b", "a#", "a\\", "=1+1", "-a", "@a", &"x".repeat(129)].iter().chain(&deceiving) {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn names_that_nobody_listed_are_words_of_any_script() {
        for good in ["FZ-GL-001", "福州站", "R_A07.PDU1", "00:1a:2b", "_x", "Straße", "станция", "7"] {
            assert_eq!(check_unlisted(good), Ok(()), "{good}");
        }
        for bad in
            ["a b", "a,b", "a=b", "\"a\"", "<b>", "..", ".a", ":a", "a'", "a;b", "{a}", "a%20b", "$SYS", "😀", ""]
        {
            assert!(check_unlisted(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn text_for_people_is_one_line_that_shows_what_it_holds() {
        for good in ["", "Gulou <north>, \"old\" site", "用电 - 总", "100 %"] {
            assert_eq!(check_text(good), Ok(()), "{good}");
        }
        for bad in ["two\nlines", "=HYPERLINK(\"x\")", "+1", "a\u{202e}b", "\t=1"] {
            assert!(check_text(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn metric_names_are_lower_snake() {
        assert_eq!(check_lower_snake("energy_kwh"), Ok(()));
        for bad in ["Energy", "energy-kwh", "1st", "_x", "energy kwh", "温度"] {
            assert!(check_lower_snake(bad).is_err(), "{bad}");
        }
    }
}
