//! Definitions against profiles and inventory: metrics, attributes, kinds and units that do not exist or do not fit.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::definition::{Definition, Input, MetricInput, NamedInput, SeriesAggregate, unit_problem};
use super::unit::Unit;
use crate::inventory::{Inventory, MetricDef, Profile};
use crate::model::MetricKind;
use crate::problem::Problem;

type Profiles = BTreeMap<String, Arc<Profile>>;

/// What is wrong with the definitions, given the profiles and the inventory that they are to be computed from.
#[must_use]
pub fn check(definitions: &[Definition], profiles: &Profiles, inventory: &Inventory) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut ids = BTreeSet::new();
    let kinds: BTreeSet<&str> = inventory.sites().iter().map(|site| &*site.kind).collect();
    let attributes: BTreeSet<(&str, &str)> = inventory
        .sites()
        .iter()
        .flat_map(|site| site.attributes.keys().map(|attribute| (&*site.kind, attribute.as_str())))
        .collect();
    for definition in definitions {
        let id = &definition.description.id;
        if !ids.insert(id) {
            problems.push(definition.origin.problem("id", format!("{id} is declared before; give each its own")));
        }
        let kind = definition.site_kind.as_deref();
        // A city without data centres may well keep their indicators; only what is there can be looked at.
        let has_sites = kind.map_or(!kinds.is_empty(), |kind| kinds.contains(kind));
        for input in &definition.inputs {
            match &input.input {
                Input::Metric(metric) => metric_problems(definition, input, metric, profiles, &mut problems),
                Input::Attribute { name } if has_sites => {
                    let known =
                        |&&(of, attribute): &&(&str, &str)| attribute == name && kind.is_none_or(|kind| kind == of);
                    if attributes.iter().find(known).is_none() {
                        let known: BTreeSet<_> = attributes.iter().map(|(_, attribute)| *attribute).collect();
                        let message =
                            format!("{id}: no site {}has the attribute `{name}`; {}", of_kind(kind), among(&known));
                        problems.push(definition.origin.problem(&format!("inputs.{}.attribute", input.name), message));
                    }
                }
                Input::Sites { profiles: only, .. }
                | Input::Streams { profiles: only, .. }
                | Input::SiteMinutes { profiles: only, .. } => {
                    problems.extend(profile_problems(definition, input, only.as_ref(), profiles));
                }
                Input::Attribute { .. } | Input::Population => {}
            }
        }
        problems.extend(formula_problem(definition, profiles));
    }
    problems
}

fn of_kind(kind: Option<&str>) -> String {
    kind.map_or_else(String::new, |kind| format!("of kind {kind} "))
}

fn among(known: &BTreeSet<&str>) -> String {
    if known.is_empty() {
        return "there are none".to_owned();
    }
    format!("there are {}", known.iter().copied().collect::<Vec<_>>().join(", "))
}

fn profile_problems(
    definition: &Definition,
    input: &NamedInput,
    only: Option<&BTreeSet<String>>,
    profiles: &Profiles,
) -> Vec<Problem> {
    let unknown = only.into_iter().flatten().filter(|&name| !profiles.contains_key(name));
    unknown
        .map(|name| {
            let known: BTreeSet<_> = profiles.keys().map(String::as_str).collect();
            let message = format!("{}: no profile is called `{name}`; {}", definition.description.id, among(&known));
            definition.origin.problem(&format!("inputs.{}.profiles", input.name), message)
        })
        .collect()
}

/// The metric in every profile that the input takes it from.
fn sources<'a>(metric: &'a MetricInput, profiles: &'a Profiles) -> impl Iterator<Item = (&'a Profile, &'a MetricDef)> {
    let wanted = |profile: &&Arc<Profile>| metric.profiles.as_ref().is_none_or(|only| only.contains(&profile.id));
    profiles
        .values()
        .filter(wanted)
        .filter_map(|profile| Some((&**profile, profile.metrics.get(profile.slot(&metric.metric)?)?)))
}

fn metric_problems(
    definition: &Definition,
    input: &NamedInput,
    metric: &MetricInput,
    profiles: &Profiles,
    problems: &mut Vec<Problem>,
) {
    let id = &definition.description.id;
    let mut report = |key: &str, message: String| {
        problems.push(definition.origin.problem(&format!("inputs.{}.{key}", input.name), format!("{id}: {message}")));
    };
    if sources(metric, profiles).next().is_none() {
        let known: BTreeSet<_> = profiles.values().flat_map(|p| &p.metrics).map(|m| m.name.as_str()).collect();
        report("metric", format!("no profile has the metric `{}`; {}", metric.metric, among(&known)));
    }
    for (profile, found) in sources(metric, profiles) {
        let (name, label) = (&profile.id, metric.aggregate.label());
        match (metric.aggregate, found.kind) {
            (SeriesAggregate::Total, MetricKind::Gauge | MetricKind::State) => {
                report(
                    "aggregate",
                    format!("total is of counters and deltas; {name} has {} as another kind", found.name),
                );
            }
            (SeriesAggregate::Mean | SeriesAggregate::Sum, MetricKind::Counter) => {
                report(
                    "aggregate",
                    format!("{label} of a counter means nothing; {name} has {} as one: take total", found.name),
                );
            }
            (SeriesAggregate::MinutesInBand, _) if found.band.is_none() => {
                report("aggregate", format!("profile {name} gives {} no band", found.name));
            }
            _ => {}
        }
        if metric.aggregate.own_unit().is_none() {
            match (input.unit, Unit::parse(&found.unit)) {
                (Some(stated), Ok(unit)) if !stated.is_same_as(&unit) => {
                    report("unit", format!("profile {name} has {} in {}, not in {stated}", found.name, found.unit));
                }
                (None, Err(unknown)) => report(
                    "metric",
                    format!("profile {name} has {} in a unit that cannot be computed with: {unknown}", found.name),
                ),
                _ => {}
            }
        }
    }
    let only = metric.profiles.as_ref();
    problems.extend(profile_problems(definition, input, only, profiles));
}

/// The unit of the formula, where parsing alone could not tell it.
fn formula_problem(definition: &Definition, profiles: &Profiles) -> Option<Problem> {
    if definition.inputs.iter().all(|input| input.own_unit().is_some()) {
        return None;
    }
    let mut units = Vec::new();
    for input in &definition.inputs {
        let unit = match (&input.input, input.own_unit()) {
            (_, Some(unit)) => unit,
            (Input::Metric(metric), None) => {
                let mut found = sources(metric, profiles)
                    .filter_map(|(profile, found)| Some((profile, found, Unit::parse(&found.unit).ok()?)));
                let (first, metric, unit) = found.next()?;
                if let Some((other, theirs, _)) = found.find(|(.., other)| !other.is_same_as(&unit)) {
                    let message = format!(
                        "{}: profile {} has {} in {}, {} in {}; choose with profiles = [...]",
                        definition.description.id, first.id, metric.name, metric.unit, other.id, theirs.unit
                    );
                    return Some(definition.origin.problem(&format!("inputs.{}.metric", input.name), message));
                }
                unit
            }
            (_, None) => Unit::ONE,
        };
        units.push(unit);
    }
    unit_problem(definition, &units, Unit::parse(&definition.description.unit).ok()?)
}
