//! What the city brain gets: topics and payloads. Pure.

use std::fmt::Write as _;

use serde::Serialize;
use serde_json::json;

use crate::indicator::Level;
use crate::model::Timestamp;
use crate::report::IndicatorJson;
use crate::store::IndicatorRow;

/// Name and version of the payload's shape.
const SCHEMA: &str = "sitepulse/indicator/v1";
/// Stands in a topic where a level has no text; an empty level would be easy to overlook.
const NONE: &str = "none";

/// The published shape of an indicator.
pub(super) const SCHEMA_TEXT: &str = include_str!("../../../docs/schema/indicator-v1.schema.json");

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    /// Where it is published.
    pub topic: String,
    /// JSON.
    pub payload: Vec<u8>,
    /// Whether the broker keeps it for those who come later.
    pub retain: Retain,
}

/// Whether the broker keeps a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Retain {
    /// It is the newest of its topic.
    Yes,
    /// It amends a window that is no longer the newest: for those who listen, not to replace the newest.
    No,
}

#[derive(Serialize)]
struct Payload<'a> {
    schema: &'static str,
    #[serde(flatten)]
    row: &'a IndicatorJson,
}

/// The message of a row.
pub(super) fn indicator(prefix: &str, row: &IndicatorRow, json: &IndicatorJson, retain: Retain) -> Message {
    let payload = serde_json::to_vec(&Payload { schema: SCHEMA, row: json });
    Message {
        topic: indicator_topic(prefix, row),
        payload: payload.expect("invariant: a row has no keys that are not text"),
        retain,
    }
}

/// `{prefix}/indicator/{level}/{area}/{id}/{window}`; at levels operator and site one more level says which.
pub(super) fn indicator_topic(prefix: &str, row: &IndicatorRow) -> String {
    let (level, area, id) = (row.level, level_text(&row.area), level_text(&row.id));
    let topic = format!("{prefix}/indicator/{level}/{area}/{id}/{}", row.window);
    match row.level {
        Level::City | Level::District => topic,
        Level::Operator => format!("{topic}/{}", level_text(&row.operator)),
        Level::Site => format!("{topic}/{}", level_text(&row.site)),
    }
}

/// Text as one level of a topic: what has a meaning in topics or cannot stand there is percent-encoded.
fn level_text(text: &str) -> String {
    if text.is_empty() {
        return NONE.to_owned();
    }
    let mut level = String::with_capacity(text.len());
    for character in text.chars() {
        if matches!(character, '/' | '+' | '#' | '%') || character.is_control() {
            let mut bytes = [0; 4];
            for byte in character.encode_utf8(&mut bytes).bytes() {
                write!(level, "%{byte:02X}").expect("invariant: writing to a string does not fail");
            }
        } else {
            level.push(character);
        }
    }
    level
}

/// `{prefix}/status`.
pub(super) fn status_topic(prefix: &str) -> String {
    format!("{prefix}/status")
}

/// Says that we are there.
pub(super) fn online(prefix: &str, now: Timestamp) -> Message {
    let payload = json!({ "status": "online", "since": now, "version": env!("CARGO_PKG_VERSION") });
    Message { topic: status_topic(prefix), payload: payload.to_string().into_bytes(), retain: Retain::Yes }
}

/// Says that we are gone: our last will, and our own word at a clean stop.
pub(super) fn offline(prefix: &str) -> Message {
    let payload = json!({ "status": "offline" }).to_string().into_bytes();
    Message { topic: status_topic(prefix), payload, retain: Retain::Yes }
}

/// The shape of indicators, beside them.
pub(super) fn schema(prefix: &str) -> Message {
    Message {
        topic: format!("{prefix}/schema/indicator/v1"),
        payload: SCHEMA_TEXT.as_bytes().to_vec(),
        retain: Retain::Yes,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use jiff::tz::TimeZone;
    use serde_json::Value;

    use super::*;
    use crate::inventory::Inventory;
    use crate::sink::testing;

    fn row(level: Level, operator: &str, site: &str) -> IndicatorRow {
        IndicatorRow {
            level,
            operator: Arc::from(operator),
            site: Arc::from(site),
            ..testing::indicator(testing::at(0), Some(1.25))
        }
    }

    #[test]
    fn every_group_has_a_topic_of_its_own() {
        let topic = |row| indicator_topic("citybrain/v1", &row);
        assert_eq!(topic(row(Level::City, "", "")), "citybrain/v1/indicator/city/350100/DC1/15m");
        assert_eq!(topic(row(Level::Operator, "mobile", "")), "citybrain/v1/indicator/operator/350100/DC1/15m/mobile");
        assert_eq!(topic(row(Level::Site, "mobile", "B_1")), "citybrain/v1/indicator/site/350100/DC1/15m/B_1");
    }

    #[test]
    fn names_cannot_break_out_of_their_level() {
        let topic = indicator_topic("p", &row(Level::Operator, "a/+#%\u{0}b", ""));
        assert_eq!(topic, "p/indicator/operator/350100/DC1/15m/a%2F%2B%23%25%00b");
        assert_eq!(indicator_topic("p", &row(Level::Operator, "", "")), "p/indicator/operator/350100/DC1/15m/none");
    }

    #[test]
    fn a_payload_has_exactly_the_keys_that_the_schema_requires() {
        let schema: Value = serde_json::from_str(SCHEMA_TEXT).expect("JSON");
        let required = schema["required"].as_array().expect("a list");
        let required: BTreeSet<_> = required.iter().map(|key| key.as_str().expect("text")).collect();
        let properties: BTreeSet<_> =
            schema["properties"].as_object().expect("keys").keys().map(String::as_str).collect();
        let row = row(Level::City, "", "");
        let json = IndicatorJson::of(&row, &testing::pue(), &Inventory::default(), &TimeZone::UTC);
        let payload = indicator("p", &row, &json, Retain::Yes).payload;
        let payload: Value = serde_json::from_slice(&payload).expect("JSON");
        let keys: BTreeSet<_> = payload.as_object().expect("keys").keys().map(String::as_str).collect();
        assert_eq!((&keys, &keys), (&required, &properties));
        assert_eq!(payload["schema"], schema["properties"]["schema"]["const"]);
    }
}
