//! Indicators of one window from the rows of its series.
//!
//! Invariants:
//! - Inputs are summed over a group first, then the formula runs once per group (P7).
//! - A site gives its values only where it has every metric and attribute that the formula names, so that both sides of a
//!   ratio are of the same sites; what was due from the others still lowers completeness.
//! - Every group with a site in service has a row; without data its value is null and its completeness 0 (P6).
//!
//! Pure: never reads the clock, never touches the store. Rows are taken one by one, so that a city need not be held.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::tz::TimeZone;

use super::Level;
use super::definition::{Definition, Hearing, Input, Over};
use super::groups::Groups;
use super::tally::{Cell, Contribution, InputTotal, Slots, Total, float};
use crate::inventory::{Inventory, Profile};
use crate::model::{BASE_WINDOW_MS, Timestamp, Window, WindowStart};
use crate::rollup::{Combined, expected_slots};
use crate::store::{IndicatorRow, SeriesRow};

/// Computes every indicator of a window.
#[must_use]
pub fn compute(
    definitions: &[Definition],
    inventory: &Inventory,
    zone: &TimeZone,
    window: Window,
    start: WindowStart,
    rows: &[SeriesRow],
) -> Vec<IndicatorRow> {
    let mut computation = Computation::new(definitions, inventory, zone, window, start);
    for row in rows {
        computation.add(row);
    }
    computation.finish()
}

/// The indicators of one window while its rows come in.
#[derive(Debug)]
pub struct Computation<'a> {
    inventory: &'a Inventory,
    window: Window,
    start: WindowStart,
    /// By site: the part of the window in which it is in service; `None` where it is not at all.
    spans: Vec<Option<Span>>,
    /// By site: its number among the sites of its kind.
    ranks: Vec<usize>,
    /// By device.
    streams: Vec<Stream>,
    plans: Vec<Plan<'a>>,
    /// By metric: plans and the inputs of theirs that take it.
    uses: Vec<Vec<(usize, usize)>>,
}

#[derive(Clone, Copy, Debug)]
struct Span {
    from: Timestamp,
    to: Timestamp,
}

/// A device in the window.
#[derive(Clone, Copy, Debug)]
struct Stream {
    site: usize,
    profile: usize,
    /// Whether it counts: listed, at a site in service.
    counts: bool,
    /// Slots that the inventory expects.
    due: Option<u64>,
    heard: bool,
    slots: Option<Slots>,
    /// Minutes in which it was certainly there.
    minutes: u64,
}

impl Stream {
    /// Takes in one of its series. Its metrics come in the same messages, so the best heard of them speaks for it.
    fn hear(&mut self, combined: &Combined, interval_ms: Option<u32>) {
        self.heard = true;
        let slots = Slots::of(combined);
        if slots.map(|slots| slots.heard) >= self.slots.map(|slots| slots.heard) {
            self.slots = slots;
        }
        // A device that speaks less than once a minute vouches for the whole of each interval.
        let interval = interval_ms.map_or(0, i64::from);
        let vouched = u64::try_from(interval / BASE_WINDOW_MS).unwrap_or(0).saturating_mul(combined.heard);
        self.minutes = self.minutes.max(combined.minutes).max(vouched);
    }
}

/// One indicator with what has come in for it.
#[derive(Debug)]
struct Plan<'a> {
    definition: &'a Definition,
    /// By input and profile: whether devices of that profile deliver it.
    accepts: Vec<Vec<bool>>,
    /// By site of its kind and input.
    cells: Vec<Cell>,
}

impl Plan<'_> {
    fn is_of(&self, kind: &str) -> bool {
        self.definition.site_kind.as_deref().is_none_or(|own| own == kind)
    }

    /// Where the site's cells begin.
    fn offset(&self, site: usize, ranks: &[usize]) -> usize {
        let number = if self.definition.site_kind.is_some() { ranks[site] } else { site };
        number * self.definition.inputs.len()
    }
}

impl<'a> Computation<'a> {
    /// The indicators that are declared for `window`, of the one that starts at `start`.
    #[must_use]
    pub fn new(
        definitions: &'a [Definition],
        inventory: &'a Inventory,
        zone: &TimeZone,
        window: Window,
        start: WindowStart,
    ) -> Self {
        let end = window.bounds(start, zone).1;
        let spans = spans(inventory, start, end);
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        let mut rank = |kind: &'a str| {
            let next = counts.entry(kind).or_default();
            *next += 1;
            *next - 1
        };
        let ranks = inventory.sites().iter().map(|site| rank(&site.kind)).collect();
        let (streams, profiles) = streams(inventory, &spans);
        let wanted = definitions.iter().filter(|definition| definition.description.windows.contains(&window));
        let plans: Vec<_> = wanted
            .map(|definition| {
                let sites = definition
                    .site_kind
                    .as_deref()
                    .map_or(inventory.sites().len(), |kind| counts.get(kind).copied().unwrap_or(0));
                let accepts = definition.inputs.iter().map(|input| accepts(&input.input, &profiles)).collect();
                Plan { definition, accepts, cells: vec![Cell::default(); sites * definition.inputs.len()] }
            })
            .collect();
        let uses = uses(&plans, inventory);
        let mut computation = Self { inventory, window, start, spans, ranks, streams, plans, uses };
        computation.expect_devices();
        computation
    }

    /// Whether no indicator is declared for the window, so that no row need be added.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.plans.is_empty()
    }

    /// Counts what every listed device should deliver, heard or not.
    fn expect_devices(&mut self) {
        for stream in self.streams.iter().filter(|stream| stream.counts) {
            let kind = &self.inventory.sites()[stream.site].kind;
            for plan in self.plans.iter_mut().filter(|plan| plan.is_of(kind)) {
                let offset = plan.offset(stream.site, &self.ranks);
                for (input, accepts) in plan.accepts.iter().enumerate() {
                    if accepts[stream.profile] {
                        plan.cells[offset + input].expect(stream.due);
                    }
                }
            }
        }
    }

    /// Takes in the row of one series; rows of other windows are passed over. Each series comes once.
    pub fn add(&mut self, row: &SeriesRow) {
        if (row.window, row.start) != (self.window, self.start) {
            return;
        }
        let Some(stream) = self.streams.get_mut(row.device.index()).filter(|stream| stream.counts) else { return };
        stream.hear(&row.combined, self.inventory.devices()[row.device.index()].interval_ms);
        let uses = usize::try_from(row.metric.0).ok().and_then(|metric| self.uses.get(metric));
        for &(plan, input) in uses.into_iter().flatten() {
            let plan = &mut self.plans[plan];
            if !plan.accepts[input][stream.profile] || !plan.is_of(&self.inventory.sites()[stream.site].kind) {
                continue;
            }
            let offset = plan.offset(stream.site, &self.ranks);
            if let Input::Metric(metric) = &plan.definition.inputs[input].input {
                plan.cells[offset + input].hear(metric, stream.due, &row.combined);
            }
        }
    }

    /// The indicators, in order of definition, level and inventory.
    #[must_use]
    pub fn finish(mut self) -> Vec<IndicatorRow> {
        self.hear_streams();
        let groups = Groups::of(self.inventory);
        let mut rows = Vec::new();
        for plan in &self.plans {
            self.finish_plan(plan, &groups, &mut rows);
        }
        rows
    }

    /// Fills the cells of inputs that ask for what was heard at all, whatever the metric.
    fn hear_streams(&mut self) {
        for stream in self.streams.iter().filter(|stream| stream.counts && stream.heard) {
            let kind = &self.inventory.sites()[stream.site].kind;
            for plan in self.plans.iter_mut().filter(|plan| plan.is_of(kind)) {
                let offset = plan.offset(stream.site, &self.ranks);
                for (input, named) in plan.definition.inputs.iter().enumerate() {
                    let is_minutes = match &named.input {
                        Input::SiteMinutes { .. } => true,
                        Input::Sites { .. } | Input::Streams { .. } => false,
                        Input::Metric(_) | Input::Attribute { .. } | Input::Population => continue,
                    };
                    if !plan.accepts[input][stream.profile] {
                        continue;
                    }
                    let cell = &mut plan.cells[offset + input];
                    cell.devices_heard += 1;
                    if let Some(slots) = stream.slots {
                        cell.slots.due = cell.slots.due.saturating_sub(stream.due.unwrap_or(0));
                        cell.slots.add(slots);
                    }
                    if is_minutes {
                        cell.total.add(float(stream.minutes), Over::Max);
                    }
                }
            }
        }
    }

    fn finish_plan(&self, plan: &Plan<'_>, groups: &Groups, rows: &mut Vec<IndicatorRow>) {
        let definition = plan.definition;
        let width = definition.inputs.len();
        let levels = &definition.description.levels;
        let of_sites = levels.contains(&Level::Site) && definition.site_windows.contains(&self.window);
        let mut totals = vec![InputTotal::default(); groups.groups.len() * width];
        let mut sites = vec![0_u64; groups.groups.len()];
        for (number, site) in self.inventory.sites().iter().enumerate() {
            let Some(span) = self.spans[number].filter(|_| plan.is_of(&site.kind)) else { continue };
            let inputs = self.site_inputs(plan, number, span);
            let counts = contribution(definition, plan, &inputs, plan.offset(number, &self.ranks));
            let add_to = |totals: &mut [InputTotal]| {
                for ((total, input), named) in totals.iter_mut().zip(&inputs).zip(&definition.inputs) {
                    total.add(input, over(&named.input), counts);
                }
            };
            for group in groups.of_site(number) {
                sites[group] += 1;
                add_to(&mut totals[group * width..(group + 1) * width]);
            }
            if of_sites {
                let mut own = vec![InputTotal::default(); width];
                add_to(&mut own);
                let place = (site.area.clone(), site.operator.clone(), site.id.clone());
                rows.push(self.row(definition, Level::Site, place, None, &own));
            }
        }
        for level in [Level::District, Level::Operator, Level::City] {
            if !levels.contains(&level) {
                continue;
            }
            let of_level = groups.groups.iter().enumerate().filter(|(n, group)| group.level == level && sites[*n] > 0);
            for (n, group) in of_level {
                let place = (group.area.clone(), group.operator.clone(), Arc::from(""));
                rows.push(self.row(definition, level, place, group.persons, &totals[n * width..(n + 1) * width]));
            }
        }
    }

    /// What one site gives for each input.
    fn site_inputs(&self, plan: &Plan<'_>, site: usize, span: Span) -> Vec<InputTotal> {
        let offset = plan.offset(site, &self.ranks);
        let inputs = plan.definition.inputs.iter().zip(&plan.cells[offset..]);
        let of = |value: Option<f64>, slots: Slots| {
            let mut total = Total::default();
            if let Some(value) = value {
                total.add(value, Over::Sum);
            }
            InputTotal { total, slots }
        };
        inputs
            .map(|(named, cell)| match &named.input {
                Input::Metric(_) => InputTotal { total: cell.total, slots: cell.slots },
                Input::Attribute { name } => {
                    let value = self.inventory.sites()[site].attributes.get(name).copied();
                    of(value, Slots { heard: u64::from(value.is_some()), due: 1 })
                }
                Input::Population => InputTotal::default(),
                Input::Sites { which: Hearing::Expected, .. } => of(Some(1.0), cell.slots),
                Input::Sites { which: Hearing::Heard, .. } => {
                    of(Some(f64::from(u8::from(cell.devices_heard > 0))), cell.slots)
                }
                Input::Streams { which: Hearing::Expected, .. } => of(Some(float(cell.slots.due)), cell.slots),
                Input::Streams { which: Hearing::Heard, .. } => of(Some(float(cell.slots.heard)), cell.slots),
                Input::SiteMinutes { which, .. } => {
                    let due = if cell.devices_due == 0 { 0 } else { minutes(span) };
                    let heard = cell.total.value().unwrap_or(0.0).min(float(due));
                    of(Some(if *which == Hearing::Heard { heard } else { float(due) }), cell.slots)
                }
            })
            .collect()
    }

    fn row(
        &self,
        definition: &Definition,
        level: Level,
        (area, operator, site): (Arc<str>, Arc<str>, Arc<str>),
        persons: Option<u64>,
        totals: &[InputTotal],
    ) -> IndicatorRow {
        let values: Vec<_> = totals
            .iter()
            .zip(&definition.inputs)
            .map(|(total, named)| match named.input {
                Input::Population => persons.map(float),
                _ => total.total.value(),
            })
            .collect();
        let mut outcome = definition.formula.evaluate(&values);
        // Nothing heard from a whole group is more likely our own deafness than 0 (P6).
        let is_deaf = definition
            .inputs
            .iter()
            .zip(&values)
            .any(|(named, value)| asks_what_was_heard(&named.input) && *value == Some(0.0));
        if is_deaf {
            outcome.value = None;
            outcome.numerator = outcome.numerator.filter(|_| outcome.denominator.is_some());
        }
        let completeness = totals
            .iter()
            .zip(&definition.inputs)
            .map(|(total, named)| match &named.input {
                Input::Population => Some(f64::from(u8::from(persons.is_some()))),
                Input::Sites { which: Hearing::Expected, .. }
                | Input::Streams { which: Hearing::Expected, .. }
                | Input::SiteMinutes { which: Hearing::Expected, .. } => Some(1.0),
                _ if is_deaf && asks_what_was_heard(&named.input) => Some(0.0),
                _ => total.completeness(),
            })
            .try_fold(1.0_f64, |least, next| next.map(|next| least.min(next)));
        IndicatorRow {
            seq: 0,
            id: Arc::from(definition.description.id.as_str()),
            level,
            area,
            operator,
            site,
            window: self.window,
            start: self.start,
            value: outcome.value,
            numerator: outcome.numerator,
            denominator: outcome.denominator,
            completeness,
            revision: 1,
        }
    }
}

/// The part of the window in which each site is in service. A site of which only unlisted devices are known was taken in
/// without being listed and belongs to no group.
fn spans(inventory: &Inventory, start: WindowStart, end: Timestamp) -> Vec<Option<Span>> {
    let sites = inventory.sites();
    let (mut listed, mut unlisted) = (vec![false; sites.len()], vec![false; sites.len()]);
    for device in inventory.devices() {
        let flag = if device.registered { &mut listed } else { &mut unlisted };
        flag[device.site] = true;
    }
    let span = |(number, site): (usize, &crate::inventory::Site)| {
        let from = site.in_service_from.map_or(start, |from| from.max(start));
        let to = site.in_service_to.map_or(end, |to| to.min(end));
        (from < to && (listed[number] || !unlisted[number])).then_some(Span { from, to })
    };
    sites.iter().enumerate().map(span).collect()
}

/// Every device with what is due from it, and the distinct profiles that they name.
fn streams<'a>(inventory: &'a Inventory, spans: &[Option<Span>]) -> (Vec<Stream>, Vec<&'a Profile>) {
    let mut numbers = BTreeMap::new();
    let mut profiles = Vec::new();
    let stream = |device: &'a crate::inventory::Device| {
        let profile = *numbers.entry(Arc::as_ptr(&device.profile)).or_insert_with(|| {
            profiles.push(&*device.profile);
            profiles.len() - 1
        });
        let span = spans[device.site].filter(|_| device.registered);
        let due = span.zip(device.interval_ms).map(|(span, interval)| expected_slots(span.from, span.to, interval));
        Stream { site: device.site, profile, counts: span.is_some(), due, heard: false, slots: None, minutes: 0 }
    };
    (inventory.devices().iter().map(stream).collect(), profiles)
}

/// By profile: whether its devices deliver the input.
fn accepts(input: &Input, profiles: &[&Profile]) -> Vec<bool> {
    let is_among = |only: &Option<BTreeSet<String>>, profile: &Profile| {
        only.as_ref().is_none_or(|only| only.contains(&profile.id))
    };
    let accepts = |profile: &&Profile| match input {
        Input::Metric(metric) => profile.slot(&metric.metric).is_some() && is_among(&metric.profiles, profile),
        Input::Sites { profiles, .. } | Input::Streams { profiles, .. } | Input::SiteMinutes { profiles, .. } => {
            is_among(profiles, profile)
        }
        Input::Attribute { .. } | Input::Population => false,
    };
    profiles.iter().map(accepts).collect()
}

fn uses(plans: &[Plan<'_>], inventory: &Inventory) -> Vec<Vec<(usize, usize)>> {
    let mut uses = vec![Vec::new(); inventory.metrics.all().len()];
    for (plan, of) in plans.iter().enumerate() {
        for (input, named) in of.definition.inputs.iter().enumerate() {
            if let Input::Metric(metric) = &named.input
                && let Some(id) = inventory.metrics.find(&metric.metric)
                && let Some(uses) = usize::try_from(id.0).ok().and_then(|metric| uses.get_mut(metric))
            {
                uses.push((plan, input));
            }
        }
    }
    uses
}

/// Whether a site has every metric and attribute that the formula names.
fn contribution(definition: &Definition, plan: &Plan<'_>, inputs: &[InputTotal], offset: usize) -> Contribution {
    let has = |(n, input): (usize, &InputTotal)| match &definition.inputs[n].input {
        Input::Metric(metric) => plan.cells[offset + n].counts(metric.quorum) && input.total.value().is_some(),
        Input::Attribute { .. } => input.total.value().is_some(),
        Input::Population | Input::Sites { .. } | Input::Streams { .. } | Input::SiteMinutes { .. } => true,
    };
    if inputs.iter().enumerate().all(has) { Contribution::Whole } else { Contribution::Absence }
}

fn over(input: &Input) -> Over {
    if let Input::Metric(metric) = input { metric.over } else { Over::Sum }
}

fn asks_what_was_heard(input: &Input) -> bool {
    matches!(
        input,
        Input::Sites { which: Hearing::Heard, .. }
            | Input::Streams { which: Hearing::Heard, .. }
            | Input::SiteMinutes { which: Hearing::Heard, .. }
    )
}

fn minutes(span: Span) -> u64 {
    u64::try_from(span.to.millis_since(span.from) / BASE_WINDOW_MS).unwrap_or(0)
}
