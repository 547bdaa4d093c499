//! What became of the faults that the simulated city had: how the collector's own books show each of them.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use jiff::tz::TimeZone;

use super::Error;
use crate::health::{PartKind, PartSnapshot};
use crate::indicator::Description;
use crate::inventory::Inventory;
use crate::ledger::{Invalid, Ledger, Rejection};
use crate::model::{Timestamp, Window};
use crate::simulate::{City, FaultKind, FaultTally};
use crate::store::{Devices, IndicatorRow, Reader, SeriesQuery, SeriesRow};

/// What is told at the end.
#[derive(Debug)]
pub(super) struct Report {
    /// When devices began and ended to send.
    pub(super) start: Timestamp,
    pub(super) end: Timestamp,
    /// Messages that devices published.
    pub(super) published: u64,
    pub(super) ledger: Ledger,
    pub(super) faults: Vec<Finding>,
    /// Newest city row of each indicator and window.
    pub(super) rows: Vec<IndicatorRow>,
    pub(super) descriptions: Arc<[Description]>,
    pub(super) city: City,
}

/// One kind of fault: how often it was made, and how the collector shows it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Finding {
    pub(super) kind: FaultKind,
    pub(super) made: u64,
    pub(super) seen: u64,
    /// Where it is seen, for people.
    pub(super) place: &'static str,
}

/// What the store's rows show of faults.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Evidence {
    /// Messages that came after their window was final, and amended it.
    late: u64,
    /// Times a meter showed less than before.
    falls: u64,
    /// Devices that were taken in without being listed.
    unlisted: u64,
}

impl Evidence {
    /// Reads the rows of `[start, end)`.
    pub(super) fn gather(
        reader: &Reader,
        inventory: &Inventory,
        start: Timestamp,
        end: Timestamp,
    ) -> Result<Self, Error> {
        let mut evidence = Self { unlisted: inventory.unregistered_count() as u64, ..Self::default() };
        let visit = |metric: &str, each: &mut dyn FnMut(&SeriesRow)| {
            let Some(metric) = inventory.metrics.find(metric) else { return Ok(()) };
            let query = SeriesQuery {
                inventory,
                zone: &TimeZone::UTC,
                window: Window::Minute1,
                from: start,
                to: end,
                devices: Devices::All,
                metric: Some(metric),
                now: end,
            };
            reader.visit_series(&query, &mut |row| {
                each(&row);
                ControlFlow::Continue(())
            })
        };
        visit("pwr_w", &mut |row| evidence.late += row.combined.late)?;
        let mut shown = HashMap::new();
        visit("energy_kwh", &mut |row| {
            let (first, last) = (row.combined.aggregate.first.value, row.combined.aggregate.last.value);
            let before = shown.insert(row.device, last);
            evidence.falls += u64::from(before.is_some_and(|before| first < before));
            evidence.falls += u64::from(last < first);
        })?;
        Ok(evidence)
    }
}

/// Sets what was made beside what was seen.
pub(super) fn compare(
    tally: &FaultTally,
    ledger: &Ledger,
    health: &[PartSnapshot],
    evidence: &Evidence,
) -> Vec<Finding> {
    let total = ledger.total();
    let polled = health.iter().filter(|part| part.kind == PartKind::Modbus);
    let modbus = |name: &str| polled.clone().filter_map(|part| part.counters.get(name)).sum();
    let rejected = |reason| total.rejected.get(&reason).copied().unwrap_or(0);
    let invalid = |reason| total.invalid.get(&reason).copied().unwrap_or(0);
    let seen = |kind| match kind {
        FaultKind::Late => (evidence.late, "of them came after their window was final, and amended it"),
        FaultKind::Repeated => (total.duplicate, "readings: duplicate"),
        FaultKind::CounterReset => (evidence.falls, "falls of energy_kwh in the roll-ups; its increase has none"),
        FaultKind::Timeout => (modbus("timeouts"), "source health: timeouts"),
        FaultKind::Exception => (modbus("exceptions"), "source health: exceptions"),
        FaultKind::MalformedJson => (rejected(Rejection::MalformedJson), "messages rejected: malformed_json"),
        FaultKind::OutOfRange => (invalid(Invalid::OutOfRange), "readings invalid: out_of_range"),
        FaultKind::NotANumber => (invalid(Invalid::NotANumber), "readings invalid: not_a_number"),
        FaultKind::Unlisted => (evidence.unlisted, "devices taken in, marked unregistered"),
    };
    let finding = |kind| {
        let (seen, place) = seen(kind);
        Finding { kind, made: tally.get(kind), seen, place }
    };
    FaultKind::ALL.into_iter().map(finding).collect()
}
