//! Values as strict as a person expects: a number is no text, a fraction no whole number.
//!
//! The config crate turns numbers into texts and rounds fractions silently. Texts are parsed only because environment
//! variables know nothing else.

use std::fmt;

use serde::de::value::Error as Refusal;
use serde::de::{Deserialize, DeserializeOwned, Deserializer, Error, SeqAccess, Unexpected, Visitor};

/// Text in quotes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text(pub String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Seen;
        impl Visitor<'_> for Seen {
            type Value = Text;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text in quotes")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Text, E> {
                Ok(Text(text.to_owned()))
            }
        }
        deserializer.deserialize_any(Seen)
    }
}

/// A whole number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Integer(pub i64);

impl<'de> Deserialize<'de> for Integer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Seen;
        impl Visitor<'_> for Seen {
            type Value = Integer;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number")
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Integer, E> {
                Ok(Integer(number))
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Integer, E> {
                i64::try_from(number).map(Integer).map_err(|_| E::invalid_value(Unexpected::Unsigned(number), &self))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Integer, E> {
                text.trim().parse().map(Integer).map_err(|_| E::custom(format!("`{text}` is no whole number")))
            }
        }
        deserializer.deserialize_any(Seen)
    }
}

/// A finite number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Number(pub f64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Seen;
        impl Visitor<'_> for Seen {
            type Value = Number;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number")
            }

            #[expect(
                clippy::cast_precision_loss,
                reason = "a whole number past 2^53 is no quantity that anyone measures"
            )]
            fn visit_i64<E: Error>(self, number: i64) -> Result<Number, E> {
                Ok(Number(number as f64))
            }

            fn visit_f64<E: Error>(self, number: f64) -> Result<Number, E> {
                if number.is_finite() { Ok(Number(number)) } else { Err(E::custom("give a finite number")) }
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Number, E> {
                let number = text.trim().parse::<f64>().ok().filter(|number| number.is_finite());
                number.map(Number).ok_or_else(|| E::custom(format!("`{text}` is no number")))
            }
        }
        deserializer.deserialize_any(Seen)
    }
}

/// True or false.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flag(pub bool);

impl<'de> Deserialize<'de> for Flag {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Seen;
        impl Visitor<'_> for Seen {
            type Value = Flag;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("true or false")
            }

            fn visit_bool<E: Error>(self, flag: bool) -> Result<Flag, E> {
                Ok(Flag(flag))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Flag, E> {
                text.trim().parse().map(Flag).map_err(|_| E::custom(format!("`{text}` is neither true nor false")))
            }
        }
        deserializer.deserialize_any(Seen)
    }
}

/// Texts in brackets; of an environment variable, texts with commas between.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List(pub Vec<String>);

impl<'de> Deserialize<'de> for List {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Seen;
        impl<'de> Visitor<'de> for Seen {
            type Value = List;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of texts in brackets")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<List, A::Error> {
                let mut texts = Vec::new();
                while let Some(item) = items.next_element::<Option<Text>>()? {
                    texts.extend(item.map(|text| text.0));
                }
                Ok(List(texts))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<List, E> {
                Ok(List(text.split(',').map(|item| item.trim().to_owned()).filter(|item| !item.is_empty()).collect()))
            }
        }
        deserializer.deserialize_any(Seen)
    }
}

/// The names of the fields of `T`, as serde knows them; none where `T` is no struct.
pub(super) fn fields_of<T: DeserializeOwned>() -> &'static [&'static str] {
    let mut fields: &'static [&'static str] = &[];
    // The refusal is how it stops: the names are all that is asked for.
    let _ = T::deserialize(FieldNames(&mut fields));
    fields
}

struct FieldNames<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for FieldNames<'_> {
    type Error = Refusal;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Refusal> {
        Err(Refusal::custom("no struct"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Refusal> {
        *self.0 = fields;
        Err(Refusal::custom("only the names are asked for"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}
