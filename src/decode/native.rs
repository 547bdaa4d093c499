//! The native MQTT form: `{"ts": 1764000000123, "readings": {"pwr_w": 760.1, "temp_c": 13.9}}`.
//!
//! `ts` is the event time in epoch milliseconds or RFC 3339 with an offset; without it the arrival time counts.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::ledger::Rejection;
use crate::model::Timestamp;

/// A decoded message. Names borrow from the payload where they need no unescaping.
#[derive(Debug, PartialEq)]
pub struct NativeMessage<'a> {
    /// Event time of all its readings; `None` where the message names none.
    pub time: Option<Timestamp>,
    /// Metric name and value, in the message's order; `None` where the value is no number.
    pub readings: Vec<(Cow<'a, str>, Option<f64>)>,
}

/// Decodes one payload.
///
/// # Errors
/// The [`Rejection`] under which the message is counted.
pub fn decode(payload: &[u8]) -> Result<NativeMessage<'_>, Rejection> {
    // Serde would also take an array for the object, field by field.
    if payload.trim_ascii_start().first() == Some(&b'[') {
        return Err(Rejection::MissingReadings);
    }
    let wire: Wire<'_> = serde_json::from_slice(payload).map_err(|_| Rejection::MalformedJson)?;
    let time = match wire.ts {
        None | Some(Time::Absent) => None,
        Some(Time::Millis(millis)) => Some(Timestamp::from_millis(millis)),
        Some(Time::Text(text)) => Some(Timestamp::parse(&text).map_err(|_| Rejection::BadTimestamp)?),
        Some(Time::Other) => return Err(Rejection::BadTimestamp),
    };
    match wire.readings {
        Some(Readings::Object(readings)) => Ok(NativeMessage { time, readings }),
        Some(Readings::Other) | None => Err(Rejection::MissingReadings),
    }
}

#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(default)]
    ts: Option<Time>,
    #[serde(borrow, default)]
    readings: Option<Readings<'a>>,
}

enum Time {
    Millis(i64),
    Text(String),
    Absent,
    Other,
}

enum Readings<'a> {
    Object(Vec<(Cow<'a, str>, Option<f64>)>),
    Other,
}

/// Implements the visits of values that mean nothing in a place: they are read past, so that the message can be counted
/// under its reason instead of as malformed.
macro_rules! other {
    ($lifetime:lifetime, $other:expr; $($visit:ident: $type:ty),*) => {
        $(fn $visit<E>(self, _: $type) -> Result<Self::Value, E> { Ok($other) })*
    };
}

macro_rules! read_past {
    (seq => $other:expr) => {
        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
            while seq.next_element::<IgnoredAny>()?.is_some() {}
            Ok($other)
        }
    };
    (map => $other:expr) => {
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            Ok($other)
        }
    };
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TimeVisitor;
        impl<'de> Visitor<'de> for TimeVisitor {
            type Value = Time;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("epoch milliseconds or RFC 3339")
            }

            fn visit_i64<E>(self, millis: i64) -> Result<Time, E> {
                Ok(Time::Millis(millis))
            }

            fn visit_u64<E>(self, millis: u64) -> Result<Time, E> {
                Ok(i64::try_from(millis).map_or(Time::Other, Time::Millis))
            }

            #[expect(clippy::cast_possible_truncation, reason = "checked to be a whole number that i64 holds")]
            fn visit_f64<E>(self, millis: f64) -> Result<Time, E> {
                let whole = millis.trunc();
                Ok(if whole.abs() < 9e15 { Time::Millis(whole as i64) } else { Time::Other })
            }

            fn visit_str<E>(self, text: &str) -> Result<Time, E> {
                Ok(Time::Text(text.to_owned()))
            }

            fn visit_unit<E>(self) -> Result<Time, E> {
                Ok(Time::Absent)
            }

            other!('de, Time::Other; visit_bool: bool);
            read_past!(seq => Time::Other);
            read_past!(map => Time::Other);
        }
        deserializer.deserialize_any(TimeVisitor)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Readings<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ReadingsVisitor;
        impl<'de> Visitor<'de> for ReadingsVisitor {
            type Value = Readings<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of metric names and numbers")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Readings<'de>, A::Error> {
                let mut readings = Vec::with_capacity(16);
                while let Some((Name(name), Value(value))) = map.next_entry()? {
                    readings.push((name, value));
                }
                Ok(Readings::Object(readings))
            }

            fn visit_unit<E>(self) -> Result<Readings<'de>, E> {
                Ok(Readings::Other)
            }

            other!('de, Readings::Other; visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_f64: f64, visit_str: &str);
            read_past!(seq => Readings::Other);
        }
        deserializer.deserialize_any(ReadingsVisitor)
    }
}

struct Name<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameVisitor;
        impl<'de> Visitor<'de> for NameVisitor {
            type Value = Name<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a metric name")
            }

            fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Borrowed(name)))
            }

            fn visit_str<E>(self, name: &str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Owned(name.to_owned())))
            }
        }
        deserializer.deserialize_str(NameVisitor)
    }
}

/// A number; booleans are 1 and 0, as states are often sent so.
struct Value(Option<f64>);

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ValueVisitor;
        impl<'de> Visitor<'de> for ValueVisitor {
            type Value = Value;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number")
            }

            fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
                Ok(Value(Some(value)))
            }

            #[expect(clippy::cast_precision_loss, reason = "JSON numbers are binary64 to the receiver (RFC 8259, 6)")]
            fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
                Ok(Value(Some(value as f64)))
            }

            #[expect(clippy::cast_precision_loss, reason = "JSON numbers are binary64 to the receiver (RFC 8259, 6)")]
            fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
                Ok(Value(Some(value as f64)))
            }

            fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
                Ok(Value(Some(f64::from(u8::from(value)))))
            }

            fn visit_unit<E>(self) -> Result<Value, E> {
                Ok(Value(None))
            }

            other!('de, Value(None); visit_str: &str);
            read_past!(seq => Value(None));
            read_past!(map => Value(None));
        }
        deserializer.deserialize_any(ValueVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_come_in_milliseconds_or_rfc_3339_or_not_at_all() {
        let time = |payload: &str| decode(payload.as_bytes()).map(|message| message.time.map(Timestamp::as_millis));
        assert_eq!(time(r#"{"ts":1764000000123,"readings":{}}"#), Ok(Some(1_764_000_000_123)));
        assert_eq!(time(r#"{"readings":{},"ts":"2026-11-24T08:00:00+08:00"}"#), Ok(Some(1_795_478_400_000)));
        assert_eq!(time(r#"{"readings":{}}"#), Ok(None));
        assert_eq!(time(r#"{"ts":null,"readings":{}}"#), Ok(None));
        assert_eq!(time(r#"{"ts":"yesterday","readings":{}}"#), Err(Rejection::BadTimestamp));
        assert_eq!(time(r#"{"ts":[1],"readings":{}}"#), Err(Rejection::BadTimestamp));
    }

    #[test]
    fn values_that_are_no_numbers_spoil_only_themselves() {
        let message = decode(br#"{"readings":{"a":1,"b":"x","c":null,"d":[1,{"e":2}],"f":true,"g\u0041":-2.5}}"#);
        let readings = message.expect("a message").readings;
        let values: Vec<_> = readings.iter().map(|(name, value)| (name.as_ref(), *value)).collect();
        let expected = [("a", Some(1.0)), ("b", None), ("c", None), ("d", None), ("f", Some(1.0)), ("gA", Some(-2.5))];
        assert_eq!(values, expected);
    }

    #[test]
    fn each_fault_has_its_own_reason() {
        for (payload, reason) in [
            ("", Rejection::MalformedJson),
            ("{", Rejection::MalformedJson),
            (r#"{"readings":{"a":NaN}}"#, Rejection::MalformedJson),
            (r#"{"readings":{"a":1}} trailing"#, Rejection::MalformedJson),
            (r#"[1,{"a":1}]"#, Rejection::MissingReadings),
            ("{}", Rejection::MissingReadings),
            (r#"{"readings":[1]}"#, Rejection::MissingReadings),
            (r#"{"readings":7}"#, Rejection::MissingReadings),
        ] {
            assert_eq!(decode(payload.as_bytes()), Err(reason), "{payload}");
        }
    }

    proptest::proptest! {
        #[test]
        fn hostile_bytes_never_panic(payload: Vec<u8>) {
            let _ = decode(&payload);
        }
    }
}
