//! Names and values as they leave: line protocol and topics, read back by a reader that knows nothing of the writer.

#![expect(clippy::panic, reason = "a target panics where a promise is broken")]

use super::Script;
use crate::inventory::check_name;
use crate::sink::city_brain::fuzz::topic;
use crate::sink::influx::fuzz::{Row, START, line};

/// A line that was read.
#[derive(Debug, PartialEq)]
struct Line {
    measurement: String,
    tags: Vec<(String, String)>,
    fields: Vec<(String, f64)>,
    timestamp: i64,
}

/// Names of a site and its device, and metrics with a value each.
pub fn outputs(data: &[u8]) {
    let mut script = Script::new(data);
    let names: [String; 5] = std::array::from_fn(|_| script.text());
    let [kind, area, device, operator, site] = &names;
    let mut metrics = Vec::new();
    while !script.is_over() && metrics.len() < 8 {
        metrics.push((script.text(), script.f64()));
    }
    let row = Row { kind, area, device, operator, site, metrics: &metrics };
    if let Some(written) = line(&row) {
        check_line(&row, &written);
    }
    for name in &names {
        check_topic(name);
    }
}

fn check_line(row: &Row<'_>, written: &str) {
    assert!(!written.contains(['\n', '\r', '\0']), "{written:?}");
    let read = parse(written).unwrap_or_else(|| panic!("nobody can read {written:?}"));
    assert_same(&read.measurement, if row.kind.is_empty() { "site" } else { row.kind }, Place::Measurement);
    let tags =
        [("area", row.area), ("device", row.device), ("operator", row.operator), ("site", row.site), ("window", "1m")];
    let given: Vec<_> = tags.into_iter().filter(|(_, value)| !value.is_empty()).collect();
    assert_eq!(read.tags.len(), given.len(), "{written:?}");
    for ((key, value), (given_key, given_value)) in read.tags.iter().zip(given) {
        assert_eq!(key, given_key);
        assert_same(value, given_value, Place::Tag);
    }
    let mut fields = read.fields.iter();
    for (name, value) in row.metrics {
        // Of a gauge; what is no number is left out.
        let numbers: &[_] = if value.is_finite() { &["_mean", "_min", "_max", "_sum", "_last"] } else { &[] };
        for suffix in numbers.iter().chain(&["_count"]) {
            let (key, read) = fields.next().unwrap_or_else(|| panic!("{name:?}{suffix} is missing in {written:?}"));
            assert_same(key, &format!("{name}{suffix}"), Place::Field);
            let expected = if *suffix == "_count" { 1.0 } else { *value };
            assert_eq!(*read, expected, "{key} in {written:?}");
        }
    }
    assert_eq!(fields.next(), None, "{written:?}");
    assert_eq!(read.timestamp, START.as_millis());
}

#[derive(Clone, Copy, PartialEq)]
enum Place {
    Measurement,
    Tag,
    Field,
}

/// `read` is `given`, but for what line protocol cannot say: a control character, a backslash, a `#` at the start of a
/// line, and for VictoriaMetrics a quote in a field's name. Each of these may have become an underscore, and nothing else.
fn assert_same(read: &str, given: &str, place: Place) {
    let may_change = |at: usize, character: char| {
        character.is_control()
            || character == '\\'
            || (place == Place::Field && character == '"')
            || (place == Place::Measurement && at == 0 && character == '#')
    };
    assert_eq!(read.chars().count(), given.chars().count(), "{given:?} became {read:?}");
    for (at, (got, character)) in read.chars().zip(given.chars()).enumerate() {
        assert!(got == character || (got == '_' && may_change(at, character)), "{given:?} became {read:?}");
    }
    let plain = check_name(given) == Ok(()) && !(place == Place::Field && given.contains('"'));
    assert!(!plain || read == given, "{given:?} became {read:?}");
}

/// Reads line protocol as its description says: a backslash escapes a comma, a space and, but in the measurement, an
/// equals sign; before anything else it is itself.
fn parse(line: &str) -> Option<Line> {
    let mut rest = line;
    let measurement = word(&mut rest, ", ", ", ");
    let mut tags = Vec::new();
    while let Some(after) = rest.strip_prefix(',') {
        rest = after;
        let key = word(&mut rest, "=, ", ",= ");
        rest = rest.strip_prefix('=')?;
        let value = word(&mut rest, "=, ", ",= ");
        if key.is_empty() || value.is_empty() || value.ends_with('\\') {
            return None;
        }
        tags.push((key, value));
    }
    rest = rest.strip_prefix(' ')?;
    let mut fields = Vec::new();
    loop {
        let key = word(&mut rest, "=, ", ",= ");
        rest = rest.strip_prefix('=')?;
        let end = rest.find([',', ' '])?;
        fields.push((key, rest[..end].parse().ok()?));
        rest = &rest[end..];
        match rest.strip_prefix(',') {
            Some(after) => rest = after,
            None => break,
        }
    }
    let timestamp = rest.strip_prefix(' ')?.parse().ok()?;
    (!measurement.is_empty()).then_some(Line { measurement, tags, fields, timestamp })
}

fn word(rest: &mut &str, ends: &str, escapable: &str) -> String {
    let mut word = String::new();
    let mut characters = rest.char_indices().peekable();
    while let Some((at, character)) = characters.next() {
        if ends.contains(character) {
            *rest = &rest[at..];
            return word;
        }
        let escaped = characters.peek().copied().filter(|(_, next)| character == '\\' && escapable.contains(*next));
        word.push(escaped.map_or(character, |(_, next)| next));
        if escaped.is_some() {
            characters.next();
        }
    }
    *rest = "";
    word
}

/// One level, without what has a meaning in topics, from which the name can be had back.
fn check_topic(name: &str) {
    let topic = topic(name);
    let levels: Vec<&str> = topic.split('/').collect();
    assert_eq!((levels.len(), &levels[..3]), (7, &["p", "indicator", "operator"][..]), "{name:?} became {topic:?}");
    let level = levels[6];
    assert!(!level.is_empty() && !level.contains(|c: char| matches!(c, '+' | '#') || c.is_control()), "{topic:?}");
    let mut bytes = Vec::new();
    let mut rest = level.as_bytes().iter();
    while let Some(&byte) = rest.next() {
        if byte == b'%' {
            let digits: String = rest.by_ref().take(2).map(|&digit| char::from(digit)).collect();
            bytes.push(u8::from_str_radix(&digits, 16).expect("two digits"));
        } else {
            bytes.push(byte);
        }
    }
    let back = String::from_utf8(bytes).expect("text");
    assert_eq!(back, if name.is_empty() { "none" } else { name });
}
