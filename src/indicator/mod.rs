//! Indicators: declared in configuration, computed from roll-ups, each with its completeness.
//!
//! Inputs are summed over the group first, then the formula runs once per group (P7): a ratio of sums, never a mean of
//! ratios. Formulas are data; this module knows none.

mod check;
mod compute;
mod definition;
mod formula;
mod groups;
mod table;
mod tally;
mod unit;
mod worker;

#[cfg(test)]
mod cases;
#[cfg(test)]
mod laws;
#[cfg(test)]
mod shipped;
#[cfg(test)]
mod support;

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use check::check;
pub use compute::{Computation, compute};
pub use definition::{
    Definition, Hearing, Input, MetricInput, NamedInput, Over, Quorum, SeriesAggregate, descriptions, parse, read,
};
pub use formula::{Formula, FormulaError, Outcome};
pub use unit::{Unit, UnknownUnit};
#[cfg(test)]
pub(crate) use worker::SteppedWorker;
pub use worker::run_worker;

use crate::model::Window;

/// What an indicator is computed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// One site.
    Site,
    /// One administrative district.
    District,
    /// One operator's sites in the city.
    Operator,
    /// The city.
    City,
}

impl Level {
    /// Every level, smallest first.
    pub const ALL: [Self; 4] = [Self::Site, Self::District, Self::Operator, Self::City];

    /// The level's name in configuration, API, tags and topics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Site => "site",
            Self::District => "district",
            Self::Operator => "operator",
            Self::City => "city",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// A text that names no level.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no level; give one of site, district, operator, city")]
pub struct UnknownLevel(pub String);

impl FromStr for Level {
    type Err = UnknownLevel;

    fn from_str(text: &str) -> Result<Self, UnknownLevel> {
        Self::ALL.into_iter().find(|level| level.label() == text).ok_or_else(|| UnknownLevel(text.to_owned()))
    }
}

/// Which way a target is met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TargetSense {
    /// The value is to be this or more.
    #[serde(rename = ">=")]
    AtLeast,
    /// The value is to be this or less.
    #[serde(rename = "<=")]
    AtMost,
}

/// What an indicator is to reach.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// Which way it is met.
    pub sense: TargetSense,
    /// The value, in the indicator's unit.
    pub value: f64,
    /// Levels it holds for; it is compared at no other.
    pub levels: BTreeSet<Level>,
    /// Who set it: plan, standard and clause.
    pub source: String,
}

impl Target {
    /// Whether `value` reaches it.
    #[must_use]
    pub fn is_met(&self, value: f64) -> bool {
        match self.sense {
            TargetSense::AtLeast => value >= self.value,
            TargetSense::AtMost => value <= self.value,
        }
    }
}

/// What people need to know of an indicator, apart from how it is computed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Description {
    /// Identifier (`DC1`).
    pub id: String,
    /// English name.
    pub name: String,
    /// Chinese name, as its standard has it.
    pub name_zh: String,
    /// Unit symbol (`1`, `%`, `kWh`, `moves/h`).
    pub unit: String,
    /// Standard and clause of the definition.
    pub source: String,
    /// Levels it is computed at.
    pub levels: BTreeSet<Level>,
    /// Windows it is computed over.
    pub windows: BTreeSet<Window>,
    /// What it is to reach, if anybody said so.
    pub target: Option<Target>,
}
