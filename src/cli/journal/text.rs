//! Strings of strangers made fit for a terminal and for JSON, base64, and topic filters.

use std::fmt::Write;

/// `text` with whatever is not to be printed escaped: control characters, marks that turn the writing around.
pub(super) fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '"' | '\'' => out.push(character),
            _ => out.extend(character.escape_debug()),
        }
    }
    out
}

/// The JSON text `json` with such characters escaped in JSON's own way, which means the same.
pub(super) fn printable_json(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for character in json.chars() {
        let is_plain = matches!(character, '"' | '\'' | '\\') || character.escape_debug().len() == 1;
        if is_plain {
            out.push(character);
        } else {
            for unit in character.encode_utf16(&mut [0; 2]) {
                let _ = write!(out, "\\u{unit:04x}");
            }
        }
    }
    out
}

/// `bytes` in base64, with padding (RFC 4648, section 4).
pub(super) fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits = (0..3).fold(0, |bits, place| bits << 8 | usize::from(group.get(place).copied().unwrap_or(0)));
        for place in 0..4 {
            let digit = DIGITS[bits >> (18 - 6 * place) & 63];
            out.push(if place <= group.len() { char::from(digit) } else { '=' });
        }
    }
    out
}

/// Whether the MQTT topic filter matches `topic`.
pub(super) fn matches(filter: &str, topic: &str) -> bool {
    let (mut filter, mut topic) = (filter.split('/'), topic.split('/'));
    loop {
        match (filter.next(), topic.next()) {
            (Some("#"), _) | (None, None) => return true,
            (Some("+"), Some(_)) => {}
            (Some(wanted), Some(level)) if wanted == level => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_escaped() {
        assert_eq!(
            printable("a\u{1b}[2Jb\u{9b}\u{202e}\u{7f}\n\u{6e2f}\"\\"),
            "a\\u{1b}[2Jb\\u{9b}\\u{202e}\\u{7f}\\n\u{6e2f}\"\\\\"
        );
        let text = "a\u{1b}\u{9b}\u{202e}\u{7f}\n\u{6e2f}\"\\\u{e0001}";
        let json = printable_json(&serde_json::to_string(text).expect("text"));
        assert!(json.chars().all(|character| character == '\u{6e2f}' || character.is_ascii_graphic()), "{json}");
        assert_eq!(serde_json::from_str::<String>(&json).expect("JSON"), text);
    }

    #[test]
    fn base64_is_that_of_the_standard() {
        for (plain, encoded) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
        assert_eq!(base64(&[0xff, 0xfe, 0xfd, 0x00]), "//79AA==");
    }

    #[test]
    fn filters_match_as_in_a_broker() {
        for filter in ["a/b/c", "+/b/c", "a/#", "#", "a/b/c/#", "a/+/+"] {
            assert!(matches(filter, "a/b/c"), "{filter}");
        }
        for filter in ["a/b", "a/b/c/d", "+", "b/#", "a/+"] {
            assert!(!matches(filter, "a/b/c"), "{filter}");
        }
    }
}
