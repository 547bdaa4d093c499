//! The native MQTT form: `{"ts": 1764000000123, "readings": {"pwr_w": 760.1, "temp_c": 13.9}}`.
//!
//! `ts` is the event time, as a number or a text; what it means is the profile's to say ([`super::event_time`]).

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::event_time::GivenTime;
use super::plain;
use crate::ledger::Rejection;

/// A decoded message. Names borrow from the payload where they need no unescaping.
#[derive(Debug, PartialEq)]
pub struct NativeMessage<'a> {
    /// Event time of all its readings as it was written; `None` where the message names none.
    pub time: Option<GivenTime<'a>>,
    /// Metric name and value, in the message's order; `None` where the value is no number.
    pub readings: Vec<(Cow<'a, str>, Option<f64>)>,
}

/// Decodes one payload.
///
/// # Errors
/// The [`Rejection`] under which the message is counted.
pub fn decode(payload: &[u8]) -> Result<NativeMessage<'_>, Rejection> {
    plain::read(payload).map_or_else(|| decode_any(payload), Ok)
}

/// Decodes a payload in any form.
fn decode_any(payload: &[u8]) -> Result<NativeMessage<'_>, Rejection> {
    // Serde would also take an array for the object, field by field.
    if payload.trim_ascii_start().first() == Some(&b'[') {
        return Err(Rejection::MissingReadings);
    }
    let wire: Wire<'_> = serde_json::from_slice(payload).map_err(|_| Rejection::MalformedJson)?;
    let time = wire.ts.and_then(|time| time.0);
    match wire.readings {
        Some(Readings::Object(readings)) => Ok(NativeMessage { time, readings }),
        Some(Readings::Other) | None => Err(Rejection::MissingReadings),
    }
}

#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(borrow, default)]
    ts: Option<Time<'a>>,
    #[serde(borrow, default)]
    readings: Option<Readings<'a>>,
}

/// `None` where the message says that it has no time.
struct Time<'a>(Option<GivenTime<'a>>);

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

impl<'de: 'a, 'a> Deserialize<'de> for Time<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TimeVisitor;
        impl<'de> Visitor<'de> for TimeVisitor {
            type Value = Time<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a time")
            }

            fn visit_i64<E>(self, number: i64) -> Result<Time<'de>, E> {
                Ok(Time(Some(GivenTime::Whole(number))))
            }

            #[expect(clippy::cast_precision_loss, reason = "beyond 63 bits it is no time in any unit")]
            fn visit_u64<E>(self, number: u64) -> Result<Time<'de>, E> {
                let whole = i64::try_from(number).map(GivenTime::Whole);
                Ok(Time(Some(whole.unwrap_or(GivenTime::Real(number as f64)))))
            }

            fn visit_f64<E>(self, number: f64) -> Result<Time<'de>, E> {
                Ok(Time(Some(GivenTime::Real(number))))
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Time<'de>, E> {
                Ok(Time(Some(GivenTime::Text(Cow::Borrowed(text)))))
            }

            fn visit_str<E>(self, text: &str) -> Result<Time<'de>, E> {
                Ok(Time(Some(GivenTime::Text(Cow::Owned(text.to_owned())))))
            }

            fn visit_unit<E>(self) -> Result<Time<'de>, E> {
                Ok(Time(None))
            }

            other!('de, Time(Some(GivenTime::Other)); visit_bool: bool);
            read_past!(seq => Time(Some(GivenTime::Other)));
            read_past!(map => Time(Some(GivenTime::Other)));
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
    fn the_time_is_handed_on_as_it_was_written() {
        let time = |payload: &'static str| decode(payload.as_bytes()).map(|message| message.time);
        let given = |given| Ok(Some(given));
        for (payload, expected) in [
            (r#"{"ts":1764000000123,"readings":{}}"#, given(GivenTime::Whole(1_764_000_000_123))),
            (r#"{"ts":-5,"readings":{}}"#, given(GivenTime::Whole(-5))),
            (r#"{"ts":1764000000.5,"readings":{}}"#, given(GivenTime::Real(1_764_000_000.5))),
            (r#"{"ts":1e300,"readings":{}}"#, given(GivenTime::Real(1e300))),
            (r#"{"ts":18446744073709551615,"readings":{}}"#, given(GivenTime::Real(18_446_744_073_709_551_615.0))),
            (r#"{"readings":{},"ts":"2026-11-24"}"#, given(GivenTime::Text("2026-11-24".into()))),
            (r#"{"ts":"a\u0041","readings":{}}"#, given(GivenTime::Text("aA".into()))),
            (r#"{"ts":[1,{}],"readings":{}}"#, given(GivenTime::Other)),
            (r#"{"ts":true,"readings":{}}"#, given(GivenTime::Other)),
            (r#"{"readings":{}}"#, Ok(None)),
            (r#"{"ts":null,"readings":{}}"#, Ok(None)),
            (r#"{"ts":NaN,"readings":{}}"#, Err(Rejection::MalformedJson)),
            (r#"{"ts":1e999,"readings":{}}"#, Err(Rejection::MalformedJson)),
        ] {
            assert_eq!(time(payload), expected, "{payload}");
        }
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

    #[test]
    fn the_usual_form_takes_the_short_way_and_others_do_not() {
        let usual = br#" {"ts": 1764000000123, "readings" : {"pwr_w": 760.1,"temp_c":-13.95, "n": 0,"z":-0.0}} "#;
        assert_eq!(plain::read(usual).map(Ok), Some(decode_any(usual)));
        for other in [
            r#"{"readings":{}}"#,
            r#"{"ts":01,"readings":{"a":1}}"#,
            r#"{"ts":1.5,"readings":{"a":1}}"#,
            r#"{"ts":1,"ts":1,"readings":{"a":1}}"#,
            r#"{"ts":1,"readings":{"a":1},"v":2}"#,
            r#"{"readings":{"a":1e3}}"#,
            r#"{"readings":{"a":.5}}"#,
            r#"{"readings":{"a":5.}}"#,
            r#"{"readings":{"a":00}}"#,
            r#"{"readings":{"a":1234567890.123456}}"#,
            r#"{"readings":{"a\u0041":1}}"#,
            r#"{"readings":{"a":true}}"#,
            r#"{"readings":{"a":1,}}"#,
            r#"{"readings":{"a":1}"#,
            r#"{"readings":{"a":1}} x"#,
        ] {
            assert_eq!(plain::read(other.as_bytes()), None, "{other}");
        }
    }

    /// Texts that are messages in the usual form, and others that nearly are.
    fn texts() -> impl proptest::strategy::Strategy<Value = String> {
        use proptest::prelude::{Strategy, prop};
        let number = "-?[0-9]{0,9}(\\.[0-9]{0,9})?(e[0-9])?|null|\"x\"";
        let readings = prop::collection::vec(("[a-z_\\\\é]{0,5}", number, " ?[,;]? ?"), 0..6);
        ("[0-9]{0,17}(\\.5)?", readings, "[ }]{0,2}").prop_map(|(time, readings, end)| {
            let readings: Vec<String> =
                readings.into_iter().map(|(name, number, comma)| format!("\"{name}\":{number}{comma}")).collect();
            format!("{{\"ts\": {time},\"readings\":{{{}}}}}{end}", readings.concat())
        })
    }

    proptest::proptest! {
        #[test]
        fn the_short_way_reads_what_the_long_one_reads(text in texts()) {
            if let Some(message) = plain::read(text.as_bytes()) {
                let bits = |message: &NativeMessage<'_>| -> Vec<Option<u64>> {
                    message.readings.iter().map(|(_, value)| value.map(f64::to_bits)).collect()
                };
                let known = decode_any(text.as_bytes()).expect("a message");
                proptest::prop_assert_eq!(bits(&message), bits(&known));
                proptest::prop_assert_eq!(message, known);
            }
        }

        #[test]
        fn any_short_decimal_takes_the_short_way(whole in 0u32..1_000_000_000, fraction in 0u32..1_000_000) {
            let text = format!("{{\"readings\":{{\"a\":{whole}.{fraction:06}}}}}");
            let value: f64 = format!("{whole}.{fraction:06}").parse().expect("a number");
            let message = plain::read(text.as_bytes()).expect("the usual form");
            proptest::prop_assert_eq!(message.readings[0].1, Some(value));
        }

        #[test]
        fn hostile_bytes_never_panic(payload: Vec<u8>) {
            let _ = decode(&payload);
        }
    }
}
