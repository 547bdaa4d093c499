//! Roll-ups of any window, folded from base rows while they are read (P7).
//!
//! Window by window, and in each by groups of devices, whose rows are taken start by start ([`super::walk`]): what is held
//! is the folds of one group, however many devices there are and however long the window is. Where a query takes in
//! several windows, the latest reading of every counter as well.

use std::borrow::Cow;
use std::ops::ControlFlow;
use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use jiff::tz::TimeZone;
use rusqlite::Connection;

use super::finality::Finality;
use super::read::kept_from;
use super::walk::{GROUP_DEVICES, Walk};
use super::{Error, Reader};
use crate::inventory::{Device, Inventory, MetricDef};
use crate::model::{DeviceId, MetricId, Timestamp, Window, WindowStart};
use crate::rollup::{BaseRow, Combined, Fold, Point};

/// Which roll-ups to read: those of windows that start in `[from, to)`.
#[derive(Clone, Copy, Debug)]
pub struct SeriesQuery<'a> {
    /// Devices, their metrics and sites.
    pub inventory: &'a Inventory,
    /// Zone of hours and days.
    pub zone: &'a TimeZone,
    /// Window.
    pub window: Window,
    /// Earliest start, inclusive.
    pub from: Timestamp,
    /// Latest start, exclusive.
    pub to: Timestamp,
    /// Whose roll-ups.
    pub devices: Devices<'a>,
    /// Of one metric, or of all.
    pub metric: Option<MetricId>,
    /// Now: in a window that is not over, nothing is due after it.
    pub now: Timestamp,
}

/// Whose roll-ups to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Devices<'a> {
    /// Everybody's.
    All,
    /// Those of the site with this index in the inventory.
    Site(usize),
    /// One device's.
    One(DeviceId),
    /// These, in order of their numbers.
    These(&'a [DeviceId]),
}

/// A series' roll-up over one window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SeriesRow {
    /// Device.
    pub device: DeviceId,
    /// Metric.
    pub metric: MetricId,
    /// Window.
    pub window: Window,
    /// Start of the window.
    pub start: WindowStart,
    /// End of the window, exclusive.
    pub end: Timestamp,
    /// What the series came to.
    pub combined: Combined,
    /// Whether the window is final.
    pub is_final: bool,
    /// 0 while the window is open, 1 when it is final, and more after every amendment of it.
    pub revision: u64,
}

impl Reader {
    /// Calls `each` for every roll-up of the query, in order of window start, device, metric, until it breaks.
    ///
    /// A series without readings in a window has no roll-up there. Rows of devices that the query's inventory does not
    /// have are passed over, and so are damaged rows, which are logged. The store is held at one state meanwhile, which
    /// keeps its log from being shortened: `each` must not wait for anything, nor use this reader.
    ///
    /// # Errors
    /// [`Error`] where SQLite refuses.
    pub fn visit_series(
        &self,
        query: &SeriesQuery<'_>,
        each: &mut dyn FnMut(SeriesRow) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        self.visit(query, each).map_err(|source| self.path.error("read roll-ups", source))
    }

    fn visit(
        &self,
        query: &SeriesQuery<'_>,
        each: &mut dyn FnMut(SeriesRow) -> ControlFlow<()>,
    ) -> Result<(), rusqlite::Error> {
        let snapshot = self.connection.unchecked_transaction()?;
        let Some((from, to)) = rows_span(&snapshot, query)? else { return Ok(()) };
        let devices: Vec<DeviceId> = match query.devices {
            Devices::One(device) => query.inventory.device(device).into_iter().map(|device| device.id).collect(),
            Devices::These(these) => {
                these.iter().copied().filter(|device| query.inventory.device(*device).is_some()).collect()
            }
            Devices::Site(site) => {
                query.inventory.devices().iter().filter(|device| device.site == site).map(|device| device.id).collect()
            }
            Devices::All => query.inventory.devices().iter().map(|device| device.id).collect(),
        };
        let mut visit = Visit {
            walk: Walk::new(&snapshot)?,
            query,
            finality: Finality::read(&snapshot)?,
            definitions: HashMap::default(),
            series: Vec::new(),
            base: BaseRow::empty(),
            latest: (query.window.bounds(from, query.zone).1 < to).then(HashMap::default),
            damaged: 0,
        };
        visit.go(&devices, (from, to), each)?;
        if visit.damaged > 0 {
            tracing::warn!(rows = visit.damaged, path = %self.path.file().display(), "damaged roll-up rows were passed over");
        }
        Ok(())
    }
}

/// The span of base rows that the query's windows take up, cut to the rows there are; its start is on the window's
/// grid. Whole windows only: a window that starts before `from` is left out, one that starts before `to` runs on.
fn rows_span(
    connection: &Connection,
    query: &SeriesQuery<'_>,
) -> Result<Option<(WindowStart, Timestamp)>, rusqlite::Error> {
    let end_of_rows = |sql| connection.prepare_cached(sql)?.query_row((), |row| row.get::<_, Option<i64>>(0));
    let (Some(oldest), Some(newest)) =
        (end_of_rows("SELECT min(start) FROM rollup")?, end_of_rows("SELECT max(start) FROM rollup")?)
    else {
        return Ok(None);
    };
    let bounds = |at| query.window.bounds(at, query.zone);
    // A window whose beginning is gone, or going, is not told: it would look whole.
    let from =
        query.from.max(bounds(Timestamp::from_millis(oldest)).0).max(kept_from(connection)?.unwrap_or(query.from));
    let to = query.to.min(Timestamp::from_millis(newest).plus_millis(1));
    if from >= to {
        return Ok(None);
    }
    let (start, end) = bounds(from);
    let start = if start < from { end } else { start };
    Ok((start < to).then(|| (start, bounds(to.plus_millis(-1)).1)))
}

type SeriesKey = (DeviceId, MetricId);

/// Folds of one device's series, mostly in order of metric.
type DeviceFolds = Vec<(MetricId, Fold)>;

/// One pass over base rows, window by window and in each by groups of devices; holds the folds of one group.
struct Visit<'a> {
    walk: Walk<'a>,
    query: &'a SeriesQuery<'a>,
    finality: Option<Finality>,
    /// By the address of the device's profile, which devices share.
    definitions: HashMap<(usize, MetricId), Cow<'a, MetricDef>, RandomState>,
    /// By place in the group.
    series: Vec<DeviceFolds>,
    base: BaseRow,
    /// Latest reading of each counter in the windows passed; `None` where there is one window only.
    latest: Option<HashMap<SeriesKey, Point, RandomState>>,
    damaged: u64,
}

impl Visit<'_> {
    fn go(
        &mut self,
        devices: &[DeviceId],
        (from, to): (WindowStart, Timestamp),
        each: &mut dyn FnMut(SeriesRow) -> ControlFlow<()>,
    ) -> Result<(), rusqlite::Error> {
        let mut cursor = from;
        while let Some(first) = self.walk.start_from(cursor)?.filter(|start| *start < to) {
            let (start, end) = self.query.window.bounds(first, self.query.zone);
            let starts = match self.query.window {
                Window::Minute1 => vec![first],
                _ => self.walk.starts((first, end))?,
            };
            for group in devices.chunks(GROUP_DEVICES) {
                self.read(group, &starts)?;
                self.find_previous(group, start)?;
                if self.finish(group, (start, end), each).is_break() {
                    return Ok(());
                }
            }
            cursor = end;
        }
        Ok(())
    }

    /// Folds the rows that a group has at `starts`.
    fn read(&mut self, group: &[DeviceId], starts: &[WindowStart]) -> Result<(), rusqlite::Error> {
        let Self { walk, query, definitions, series, base, damaged, .. } = self;
        series.resize_with(series.len().max(group.len()), Vec::new);
        for &start in starts {
            walk.rows(start, group, &mut |place, row| {
                if base.read(start, row.data).is_err() {
                    *damaged += 1;
                    return;
                }
                let folds = &mut series[place];
                for (number, metric) in base.metrics.iter().enumerate() {
                    if query.metric.is_some_and(|wanted| wanted != metric.metric) {
                        continue;
                    }
                    let is_it = |(id, _): &(MetricId, Fold)| *id == metric.metric;
                    // Mostly a device's rows have the same metrics in the same order.
                    let at =
                        if folds.get(number).is_some_and(is_it) { Some(number) } else { folds.iter().position(is_it) };
                    let at = at.unwrap_or_else(|| {
                        let device = query.inventory.device(group[place]);
                        let device = device.expect("invariant: groups are of devices of the query's inventory");
                        let definition = definition(definitions, query.inventory, device, metric.metric);
                        folds.push((metric.metric, Fold::new(definition, None)));
                        folds.len() - 1
                    });
                    folds[at].1.add(base, metric, row.amendments);
                }
            })?;
        }
        Ok(())
    }

    /// Tells the counters of a group their latest readings before the window.
    fn find_previous(&mut self, group: &[DeviceId], start: WindowStart) -> Result<(), rusqlite::Error> {
        let mut missing: Vec<(DeviceId, Vec<MetricId>)> = Vec::new();
        let mut places = Vec::new();
        for (place, (&device, folds)) in group.iter().zip(&mut self.series).enumerate() {
            let mut unknown = Vec::new();
            for (metric, fold) in folds.iter_mut().filter(|(_, fold)| fold.is_counter()) {
                match self.latest.as_ref().and_then(|latest| latest.get(&(device, *metric))) {
                    Some(&passed) => fold.follow(passed),
                    None => unknown.push(*metric),
                }
            }
            if !unknown.is_empty() {
                missing.push((device, unknown));
                places.push(place);
            }
        }
        let series = &mut self.series;
        self.walk.latest_before(start, &missing, &mut |number, metric, last| {
            let folds = &mut series[places[number]];
            if let Some((_, fold)) = folds.iter_mut().find(|(id, _)| *id == metric) {
                fold.follow(last);
            }
        })
    }

    /// Hands out the series of a group in a window that all its rows were read of.
    fn finish(
        &mut self,
        group: &[DeviceId],
        (start, end): (WindowStart, Timestamp),
        each: &mut dyn FnMut(SeriesRow) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let (window, inventory) = (self.query.window, self.query.inventory);
        let is_final = self.finality.is_some_and(|finality| finality.holds(start, end));
        let over = if is_final { end } else { end.min(self.query.now) };
        for (&device, folds) in group.iter().zip(&mut self.series).filter(|(_, folds)| !folds.is_empty()) {
            let site = inventory.device(device).map(|device| inventory.site_of(device));
            let from = site.and_then(|site| site.in_service_from).map_or(start, |from| from.max(start));
            let to = site.and_then(|site| site.in_service_to).map_or(over, |to| to.min(over)).max(from);
            if !folds.is_sorted_by_key(|(metric, _)| *metric) {
                folds.sort_unstable_by_key(|(metric, _)| *metric);
            }
            for (metric, fold) in folds.drain(..) {
                let Some(combined) = fold.finish(from, to) else { continue };
                if let Some(latest) = self.latest.as_mut().filter(|_| combined.increase.is_some()) {
                    latest.insert((device, metric), combined.aggregate.last);
                }
                let revision = if is_final { 1 + combined.amendments } else { 0 };
                each(SeriesRow { device, metric, window, start, end, combined, is_final, revision })?;
            }
        }
        ControlFlow::Continue(())
    }
}

/// What the inventory says of a metric of a device; a gauge where its profile does not list it.
fn definition<'d, 'a>(
    known: &'d mut HashMap<(usize, MetricId), Cow<'a, MetricDef>, RandomState>,
    inventory: &'a Inventory,
    device: &'a Device,
    metric: MetricId,
) -> &'d MetricDef {
    known.entry((Arc::as_ptr(&device.profile).addr(), metric)).or_insert_with(|| {
        let name = inventory.metrics.name(metric).map_or("", |name| &**name);
        match device.profile.slot(name) {
            Some(slot) => Cow::Borrowed(&device.profile.metrics[slot]),
            None => Cow::Owned(MetricDef::gauge(name)),
        }
    })
}
