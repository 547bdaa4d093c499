//! What an indicator is computed from, and the TOML form in which it is declared.
//!
//! Reads one file at a time and reports every fault of it. What depends on profiles is looked at in `check`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::formula::Formula;
use super::table::{self, Table};
use super::unit::Unit;
use super::{Description, Level, Target, TargetSense};
use crate::inventory::check_text;
use crate::model::Window;
use crate::problem::Problem;

/// One declared indicator.
#[derive(Clone, Debug, PartialEq)]
pub struct Definition {
    /// What people need to know of it.
    pub description: Description,
    /// Kind of the sites that it is about; `None` for every kind.
    pub site_kind: Option<String>,
    /// Windows in which it is computed for each site; a subset of the description's.
    pub site_windows: BTreeSet<Window>,
    /// What its formula names, in order of [`Formula::names`].
    pub inputs: Vec<NamedInput>,
    /// How the inputs make the value.
    pub formula: Formula,
    /// Where it was declared: file and key.
    pub(super) origin: Origin,
}

/// Where something was declared.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Origin {
    pub(super) file: String,
    pub(super) key: String,
}

impl Origin {
    pub(super) fn problem(&self, name: &str, message: impl Into<String>) -> Problem {
        Problem::new(self.file.clone(), format!("{}.{name}", self.key), message)
    }
}

/// An input under the name that the formula uses.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedInput {
    /// Name in the formula.
    pub name: String,
    /// What it is.
    pub input: Input,
    /// Unit as the declaration states it.
    pub unit: Option<Unit>,
}

impl NamedInput {
    /// The unit, where it does not depend on profiles.
    #[must_use]
    pub fn own_unit(&self) -> Option<Unit> {
        let natural = match &self.input {
            Input::Metric(metric) => metric.aggregate.own_unit(),
            Input::SiteMinutes { .. } => Some(Unit::MINUTE),
            Input::Attribute { .. } | Input::Population | Input::Sites { .. } | Input::Streams { .. } => {
                Some(Unit::ONE)
            }
        };
        self.unit.or(natural)
    }
}

/// What a formula's name stands for, summed over a group.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// An aggregate of a metric's series.
    Metric(MetricInput),
    /// A number that the inventory has of each site.
    Attribute {
        /// Its key there.
        name: String,
    },
    /// Inhabitants of the group's area.
    Population,
    /// Distinct sites.
    Sites {
        /// Which of them.
        which: Hearing,
        /// Profiles of the devices that count; `None` for all.
        profiles: Option<BTreeSet<String>>,
    },
    /// Slots of the devices' intervals.
    Streams {
        /// Which of them.
        which: Hearing,
        /// Profiles of the devices that count; `None` for all.
        profiles: Option<BTreeSet<String>>,
    },
    /// Minutes of the sites.
    SiteMinutes {
        /// Which of them.
        which: Hearing,
        /// Profiles of the devices that count; `None` for all.
        profiles: Option<BTreeSet<String>>,
    },
}

/// What was to come, or what came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hearing {
    /// What was to come: in service, and with a device that should speak.
    Expected,
    /// What was heard.
    Heard,
}

/// An aggregate of a metric's series.
#[derive(Clone, Debug, PartialEq)]
pub struct MetricInput {
    /// The metric's name in profiles.
    pub metric: String,
    /// What is taken of each series.
    pub aggregate: SeriesAggregate,
    /// How the series of a group come together.
    pub over: Over,
    /// Profiles of the devices whose series count; `None` for all that have the metric.
    pub profiles: Option<BTreeSet<String>>,
    /// How many of a site's devices must have been heard for the site to count.
    pub quorum: Quorum,
}

/// What is taken of one series in a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeriesAggregate {
    /// Counters: the increase; deltas: the sum.
    Total,
    /// Arithmetic mean of the readings.
    Mean,
    /// Smallest reading.
    Min,
    /// Largest reading.
    Max,
    /// Latest reading.
    Last,
    /// Sum of the readings.
    Sum,
    /// Number of readings.
    Count,
    /// Minutes that have readings.
    Minutes,
    /// Minutes whose mean lies in the metric's band.
    MinutesInBand,
    /// Slots of the device's interval that were heard.
    Heard,
    /// Slots that were due.
    Expected,
}

impl SeriesAggregate {
    const ALL: [(&'static str, Self); 11] = [
        ("total", Self::Total),
        ("mean", Self::Mean),
        ("min", Self::Min),
        ("max", Self::Max),
        ("last", Self::Last),
        ("sum", Self::Sum),
        ("count", Self::Count),
        ("minutes", Self::Minutes),
        ("minutes_in_band", Self::MinutesInBand),
        ("heard", Self::Heard),
        ("expected", Self::Expected),
    ];

    /// The aggregate's name in declarations.
    #[must_use]
    pub fn label(self) -> &'static str {
        Self::ALL.iter().find(|(_, aggregate)| *aggregate == self).map_or("", |(label, _)| label)
    }

    /// The unit of those aggregates that are not in the metric's unit.
    #[must_use]
    pub const fn own_unit(self) -> Option<Unit> {
        match self {
            Self::Count | Self::Heard | Self::Expected => Some(Unit::ONE),
            Self::Minutes | Self::MinutesInBand => Some(Unit::MINUTE),
            Self::Total | Self::Mean | Self::Min | Self::Max | Self::Last | Self::Sum => None,
        }
    }
}

/// How the series of a group come together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Over {
    /// They are added.
    #[default]
    Sum,
    /// The largest counts.
    Max,
    /// The smallest counts.
    Min,
}

/// How many of a site's devices must have been heard for the site to count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Quorum {
    /// One is enough; the others lower completeness.
    #[default]
    Any,
    /// All: a total with a meter missing is no total.
    All,
}

/// Reads one file of `[[indicator]]` tables; `file` is its name for problems.
///
/// # Errors
/// Every fault of the file: unknown keys, formulas that do not parse, units that do not fit as far as inputs state theirs.
pub fn parse(file: &str, text: &str) -> Result<Vec<Definition>, Vec<Problem>> {
    let mut problems = Vec::new();
    let definitions = read(file, text, &mut problems);
    if problems.is_empty() { Ok(definitions) } else { Err(problems) }
}

/// Reads one file; what can be read of it comes back beside its problems, to be checked further.
pub fn read(file: &str, text: &str, problems: &mut Vec<Problem>) -> Vec<Definition> {
    let tables = table::tables(file, text, "indicator", problems);
    tables.into_iter().filter_map(|table| definition(file, table, problems)).collect()
}

fn definition(file: &str, mut table: Table<'_>, problems: &mut Vec<Problem>) -> Option<Definition> {
    let origin = Origin { file: file.to_owned(), key: table.key().to_owned() };
    let id = table.required_text("id", problems).filter(|id| is_id(&table, id, problems));
    let name = shown_text(&mut table, "name", problems);
    let name_zh = shown_text(&mut table, "name_zh", problems);
    let unit = table.required_text("unit", problems);
    let source = table.required_text("source", problems);
    let site_kind = table.text("site_kind", problems);
    let levels = required(table.list("levels", problems, str::parse::<Level>), &table, "levels", problems);
    let windows = required(table.list("windows", problems, str::parse::<Window>), &table, "windows", problems);
    let site_windows = table.list("site_windows", problems, str::parse::<Window>);
    let formula = table
        .required_text("formula", problems)
        .and_then(|text| Formula::parse(&text).map_err(|error| problems.push(table.problem("formula", error))).ok());
    let inputs = inputs(file, &mut table, problems);
    let target = target(file, &mut table, &levels, problems);
    let site_windows = site_windows.map_or_else(|| windows.clone(), |list| list.into_iter().collect());
    if let Some(window) = site_windows.difference(&windows).next() {
        problems.push(table.problem("site_windows", format_args!("{window} is not among the windows")));
    }
    if levels.contains(&Level::Site) && inputs.values().any(|input| input.input == Input::Population) {
        problems.push(table.problem("levels", "population is known of areas, not of a site; leave out site"));
    }
    let unit_of_result = unit
        .as_deref()
        .and_then(|unit| Unit::parse(unit).map_err(|error| problems.push(table.problem("unit", error))).ok());
    let inputs = formula.as_ref().and_then(|formula| in_order(formula, inputs, &table, problems));
    table.finish(problems);
    let (formula, inputs) = (formula?, inputs?);
    let description =
        Description { id: id?, name: name?, name_zh: name_zh?, unit: unit?, source: source?, levels, windows, target };
    let definition = Definition { description, site_kind, site_windows, inputs, formula, origin };
    let units: Option<Vec<Unit>> = definition.inputs.iter().map(NamedInput::own_unit).collect();
    if let (Some(units), Some(declared)) = (units, unit_of_result) {
        problems.extend(unit_problem(&definition, &units, declared));
    }
    Some(definition)
}

/// What is wrong with the formula's unit, given those of its inputs.
pub(super) fn unit_problem(definition: &Definition, inputs: &[Unit], declared: Unit) -> Option<Problem> {
    let id = &definition.description.id;
    let symbol = &definition.description.unit;
    match definition.formula.unit(inputs) {
        Err(fault) => Some(definition.origin.problem("formula", format!("{id}: {fault}"))),
        Ok(given) if given.is_same_as(&declared) => None,
        Ok(given) if given.is_comparable_to(&declared) => {
            let factor = given.factor_to(&declared);
            let message = format!("{id}: the formula gives {given}, not {symbol}: multiply it by {}", tidy(factor));
            Some(definition.origin.problem("formula", message))
        }
        Ok(given) => {
            let message = format!("{id}: the formula gives {given}, and the unit says {symbol}; change one of them");
            Some(definition.origin.problem("unit", message))
        }
    }
}

/// A factor without the last bits that came from computing it.
fn tidy(factor: f64) -> f64 {
    let rounded = factor.round();
    if rounded != 0.0 && (factor / rounded - 1.0).abs() < 1e-9 { rounded } else { factor }
}

/// A text that goes to people, tables and logs as it is.
fn shown_text(table: &mut Table<'_>, key: &'static str, problems: &mut Vec<Problem>) -> Option<String> {
    let text = table.required_text(key, problems)?;
    check_text(&text).map_err(|fault| problems.push(table.problem(key, fault))).ok().map(|()| text)
}

fn is_id(table: &Table<'_>, id: &str, problems: &mut Vec<Problem>) -> bool {
    let starts_well = id.starts_with(|first: char| first.is_ascii_alphanumeric());
    let good = id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
    let good = good && starts_well && id.len() <= 32;
    if !good {
        let message = format!(
            "`{id}` is no identifier: up to 32 letters, digits, _ and -, a letter or digit first (it stands in topics and tags)"
        );
        problems.push(table.problem("id", message));
    }
    good
}

fn required<T: Ord>(list: Option<Vec<T>>, table: &Table<'_>, name: &str, problems: &mut Vec<Problem>) -> BTreeSet<T> {
    if list.is_none() {
        problems.push(table.problem(name, "is missing"));
    }
    list.into_iter().flatten().collect()
}

fn target(file: &str, table: &mut Table<'_>, levels: &BTreeSet<Level>, problems: &mut Vec<Problem>) -> Option<Target> {
    let key = format!("{}.target", table.key());
    let mut table = Table::new(file, key, table.take("target")?, problems)?;
    let sense = table.required_text("sense", problems).and_then(|sense| match sense.as_str() {
        ">=" => Some(TargetSense::AtLeast),
        "<=" => Some(TargetSense::AtMost),
        other => {
            problems.push(table.problem("sense", format_args!("`{other}` is neither >= nor <=")));
            None
        }
    });
    let value = table.required_number("value", problems);
    let own = required(table.list("levels", problems, str::parse::<Level>), &table, "levels", problems);
    if let Some(level) = own.difference(levels).next() {
        problems.push(table.problem("levels", format_args!("{level} is not among the indicator's levels")));
    }
    let source = table.required_text("source", problems);
    table.finish(problems);
    Some(Target { sense: sense?, value: value?, levels: own, source: source? })
}

fn inputs(file: &str, table: &mut Table<'_>, problems: &mut Vec<Problem>) -> BTreeMap<String, NamedInput> {
    let key = format!("{}.inputs", table.key());
    let Some(value) = table.take("inputs") else {
        problems.push(table.problem("inputs", "is missing"));
        return BTreeMap::new();
    };
    let Some(mut inputs) = Table::new(file, key.clone(), value, problems) else { return BTreeMap::new() };
    let mut named = BTreeMap::new();
    for (name, value) in inputs.take_all() {
        let input = Table::new(file, format!("{key}.{name}"), value, problems)
            .and_then(|table| input(name.clone(), table, problems));
        if let Some(input) = input {
            named.insert(name, input);
        }
    }
    named
}

fn input(name: String, mut table: Table<'_>, problems: &mut Vec<Problem>) -> Option<NamedInput> {
    const FORMS: [&str; 6] = ["metric", "attribute", "population", "sites", "streams", "site_minutes"];
    let forms: Vec<_> = FORMS.into_iter().filter(|form| table.has(form)).collect();
    let [form] = forms[..] else {
        problems.push(table.problem("", format_args!("names {} of {}; one is due", forms.len(), FORMS.join(", "))));
        return None;
    };
    let unit = table
        .text("unit", problems)
        .and_then(|unit| Unit::parse(&unit).map_err(|error| problems.push(table.problem("unit", error))).ok());
    let input = match form {
        "metric" => metric(&mut table, problems).map(Input::Metric),
        "attribute" => table.required_text("attribute", problems).map(|name| Input::Attribute { name }),
        "population" => {
            if table.take("population") != Some(serde_json::Value::Bool(true)) {
                problems.push(table.problem("population", "can only be true"));
            }
            Some(Input::Population)
        }
        "sites" => hearing(&mut table, "sites", "in_service", problems)
            .map(|(which, profiles)| Input::Sites { which, profiles }),
        "streams" => hearing(&mut table, "streams", "expected", problems)
            .map(|(which, profiles)| Input::Streams { which, profiles }),
        _ => hearing(&mut table, "site_minutes", "expected", problems)
            .map(|(which, profiles)| Input::SiteMinutes { which, profiles }),
    };
    table.finish(problems);
    input.map(|input| NamedInput { name, input, unit })
}

fn hearing(
    table: &mut Table<'_>,
    form: &'static str,
    expected: &str,
    problems: &mut Vec<Problem>,
) -> Option<(Hearing, Option<BTreeSet<String>>)> {
    let profiles = profiles(table, problems);
    let text = table.required_text(form, problems)?;
    let which = choice(table, form, &text, &[("heard", Hearing::Heard), (expected, Hearing::Expected)], problems)?;
    Some((which, profiles))
}

fn metric(table: &mut Table<'_>, problems: &mut Vec<Problem>) -> Option<MetricInput> {
    let metric = table.required_text("metric", problems);
    let aggregate = table
        .required_text("aggregate", problems)
        .and_then(|text| choice(table, "aggregate", &text, &SeriesAggregate::ALL, problems));
    let overs = [("sum", Over::Sum), ("max", Over::Max), ("min", Over::Min)];
    let over = table.text("over", problems).map(|text| choice(table, "over", &text, &overs, problems));
    let quorums = [("any", Quorum::Any), ("all", Quorum::All)];
    let quorum = table.text("devices", problems).map(|text| choice(table, "devices", &text, &quorums, problems));
    let profiles = profiles(table, problems);
    Some(MetricInput {
        metric: metric?,
        aggregate: aggregate?,
        over: over.unwrap_or(Some(Over::default()))?,
        profiles,
        quorum: quorum.unwrap_or(Some(Quorum::default()))?,
    })
}

fn profiles(table: &mut Table<'_>, problems: &mut Vec<Problem>) -> Option<BTreeSet<String>> {
    let read = |text: &str| Ok::<_, std::convert::Infallible>(text.to_owned());
    table.list("profiles", problems, read).map(|list| list.into_iter().collect())
}

fn choice<T: Copy>(
    table: &Table<'_>,
    name: &str,
    text: &str,
    choices: &[(&str, T)],
    problems: &mut Vec<Problem>,
) -> Option<T> {
    let found = choices.iter().find(|(label, _)| *label == text).map(|(_, choice)| *choice);
    if found.is_none() {
        let labels: Vec<_> = choices.iter().map(|(label, _)| *label).collect();
        problems.push(table.problem(name, format_args!("`{text}` is none of {}", labels.join(", "))));
    }
    found
}

/// The inputs in the formula's order; a problem for each that is missing or not used.
fn in_order(
    formula: &Formula,
    mut inputs: BTreeMap<String, NamedInput>,
    table: &Table<'_>,
    problems: &mut Vec<Problem>,
) -> Option<Vec<NamedInput>> {
    let declared: Vec<String> = inputs.keys().cloned().collect();
    let mut ordered = Vec::new();
    for name in formula.names() {
        match inputs.remove(name) {
            Some(input) => ordered.push(input),
            None => problems.push(table.problem(
                "formula",
                format_args!("names `{name}`, which is none of the inputs: {}", declared.join(", ")),
            )),
        }
    }
    for name in inputs.keys() {
        problems.push(table.problem(&format!("inputs.{name}"), "is not used by the formula"));
    }
    if formula.names().is_empty() {
        problems.push(table.problem("formula", "names no input"));
    }
    (ordered.len() == formula.names().len() && !ordered.is_empty()).then_some(ordered)
}

/// Everything about indicators that sinks and the API show.
#[must_use]
pub fn descriptions(definitions: &[Definition]) -> Arc<[Description]> {
    definitions.iter().map(|definition| definition.description.clone()).collect()
}
