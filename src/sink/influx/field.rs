//! The aggregates of a metric that a sink sends, each a field of its own.

use std::str::FromStr;

/// An aggregate of a metric over a window, as a field of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Field {
    /// Sum by count.
    Mean,
    /// The smallest value.
    Min,
    /// The largest value.
    Max,
    /// The sum of the values.
    Sum,
    /// The value of the newest event time.
    Last,
    /// Rise of a counter, from the last value before the window on.
    Increase,
    /// Number of readings.
    Count,
    /// Share of the readings due that were heard, 0 to 1.
    Completeness,
}

/// A word that names no field.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no field; give some of mean, min, max, sum, last, increase, count, completeness")]
pub struct UnknownField(String);

impl Field {
    /// All of them.
    pub const ALL: [Self; 8] =
        [Self::Mean, Self::Min, Self::Max, Self::Sum, Self::Last, Self::Increase, Self::Count, Self::Completeness];

    /// Its name in configuration.
    #[must_use]
    pub const fn label(self) -> &'static str {
        self.suffix().split_at(1).1
    }

    /// What follows the metric's name in the name of the field.
    pub(super) const fn suffix(self) -> &'static str {
        match self {
            Self::Mean => "_mean",
            Self::Min => "_min",
            Self::Max => "_max",
            Self::Sum => "_sum",
            Self::Last => "_last",
            Self::Increase => "_increase",
            Self::Count => "_count",
            Self::Completeness => "_completeness",
        }
    }
}

impl FromStr for Field {
    type Err = UnknownField;

    fn from_str(text: &str) -> Result<Self, UnknownField> {
        Self::ALL.into_iter().find(|field| field.label() == text).ok_or_else(|| UnknownField(text.to_owned()))
    }
}

/// The fields that a sink sends, a bit each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fields(u8);

const _: () = assert!(Field::ALL.len() <= 8, "a bit each");

impl Fields {
    /// All of them.
    pub const ALL: Self = Self(u8::MAX);

    /// Each of them.
    pub fn iter(self) -> impl Iterator<Item = Field> {
        Field::ALL.into_iter().filter(move |&field| self.has(field))
    }

    /// Whether `field` is one of them.
    pub(super) const fn has(self, field: Field) -> bool {
        self.0 & 1 << field as u8 != 0
    }
}

impl FromIterator<Field> for Fields {
    fn from_iter<I: IntoIterator<Item = Field>>(fields: I) -> Self {
        Self(fields.into_iter().fold(0, |bits, field| bits | 1 << field as u8))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_is_read_from_its_label_and_stands_for_itself() {
        for field in Field::ALL {
            assert_eq!(field.label().parse(), Ok(field));
            let one = Fields::from_iter([field]);
            assert_eq!(one.iter().collect::<Vec<_>>(), [field]);
            assert!(Fields::ALL.has(field));
        }
        assert_eq!(Fields::from_iter(Field::ALL), Fields::ALL);
        assert_eq!("average".parse::<Field>(), Err(UnknownField("average".to_owned())));
    }
}
