//! Roll-ups of any window, folded from base rows while they are read (P7).
//!
//! Two ways through the table, which is keyed (start, device): many devices are read by one scan, a few by seeks through
//! the index (device, start). Memory is bounded by the series of one window (scan) or by an hour of a few devices.

use std::borrow::Cow;
use std::ops::ControlFlow;
use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use jiff::tz::TimeZone;
use rusqlite::{Connection, OptionalExtension, params};

use super::finality::Finality;
use super::read::kept_from;
use super::schema::{count_at, device_at, time_at};
use super::{Error, Reader};
use crate::inventory::{Device, Inventory, MetricDef};
use crate::model::{BASE_WINDOW_MS, DeviceId, MetricId, MetricKind, Timestamp, Window, WindowStart};
use crate::rollup::{BaseRow, Combined, Fold, Point};

/// Rows of a device that are looked through for the latest reading of a counter before a window (a day of minutes and
/// a little more); a counter that was silent for longer starts anew.
pub(super) const STEP_ROWS_MAX: usize = 1_500;
/// Devices of a site are sought one by one where they are fewer than this part of all devices.
const SEEK_PART: usize = 8;
/// Event time that is read at once of one device, ms.
const CHUNK_MS_ONE: i64 = 24 * 60 * BASE_WINDOW_MS;
/// Event time that is read at once of several devices, ms.
const CHUNK_MS_MANY: i64 = 60 * BASE_WINDOW_MS;

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
    pub devices: Devices,
    /// Of one metric, or of all.
    pub metric: Option<MetricId>,
    /// Now: in a window that is not over, nothing is due after it.
    pub now: Timestamp,
}

/// Whose roll-ups to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Devices {
    /// Everybody's.
    All,
    /// Those of the site with this index in the inventory.
    Site(usize),
    /// One device's.
    One(DeviceId),
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
        let mut visit = Visit {
            connection: &snapshot,
            query,
            finality: Finality::read(&snapshot)?,
            definitions: HashMap::default(),
            folds: HashMap::default(),
            latest: HashMap::default(),
            damaged: 0,
        };
        let devices = query.inventory.devices();
        let of_site = |site| devices.iter().filter(move |device| device.site == site);
        match query.devices {
            Devices::One(device) => visit.seek(devices.get(device.index()).as_slice(), (from, to), each)?,
            Devices::Site(site) if of_site(site).count() < devices.len().div_ceil(SEEK_PART) => {
                visit.seek(&of_site(site).collect::<Vec<_>>(), (from, to), each)?;
            }
            Devices::Site(site) => visit.scan(Some(site), (from, to), each)?,
            Devices::All => visit.scan(None, (from, to), each)?,
        }
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

/// The latest reading of `metric` before `before`, for a counter's step into a window.
fn latest_before(
    connection: &Connection,
    device: DeviceId,
    metric: MetricId,
    before: WindowStart,
) -> Result<Option<Point>, rusqlite::Error> {
    let mut statement = connection.prepare_cached(
        "SELECT start, data FROM rollup INDEXED BY rollup_by_device
         WHERE device = ? AND start < ? ORDER BY start DESC LIMIT ?",
    )?;
    let mut rows = statement.query(params![device.0, before.as_millis(), STEP_ROWS_MAX])?;
    while let Some(row) = rows.next()? {
        let Ok(base) = BaseRow::unpack(time_at(row, 0)?, row.get_ref(1)?.as_blob()?) else { continue };
        if let Some(found) = base.metrics.iter().find(|found| found.metric == metric) {
            return Ok(Some(found.aggregate.last));
        }
    }
    Ok(None)
}

type SeriesKey = (DeviceId, MetricId);

/// A base row as it lies in the table.
struct TableRow<'a> {
    start: WindowStart,
    amendments: u64,
    data: &'a [u8],
}

/// One pass over base rows; holds the folds of one window at a time.
struct Visit<'a> {
    connection: &'a Connection,
    query: &'a SeriesQuery<'a>,
    finality: Option<Finality>,
    /// By the address of the device's profile, which devices share.
    definitions: HashMap<(usize, MetricId), Cow<'a, MetricDef>, RandomState>,
    folds: HashMap<SeriesKey, Fold, RandomState>,
    /// Latest reading of each counter in the windows passed.
    latest: HashMap<SeriesKey, Point, RandomState>,
    damaged: u64,
}

impl<'a> Visit<'a> {
    /// Reads every row of the span in the table's own order.
    fn scan(
        &mut self,
        site: Option<usize>,
        (from, to): (WindowStart, Timestamp),
        each: &mut dyn FnMut(SeriesRow) -> ControlFlow<()>,
    ) -> Result<(), rusqlite::Error> {
        let query = self.query;
        let mut statement = self.connection.prepare_cached(
            "SELECT start, device, amendments, data FROM rollup WHERE start >= ? AND start < ? ORDER BY start, device",
        )?;
        let mut rows = statement.query(params![from.as_millis(), to.as_millis()])?;
        let mut current: Option<(WindowStart, Timestamp, DeviceId)> = None;
        while let Some(row) = rows.next()? {
            let (start, id) = (time_at(row, 0)?, device_at(row, 1)?);
            let Some(device) = query.inventory.device(id) else { continue };
            if site.is_some_and(|site| site != device.site) {
                continue;
            }
            // Base windows need no more than one row, so they go out row by row.
            let base = query.window == Window::Minute1;
            if let Some((open, end, last)) = current
                && (start >= end || (base && id != last))
                && self.finish((open, end), each).is_break()
            {
                return Ok(());
            }
            let bounds = match current {
                Some((open, end, _)) if start < end => (open, end),
                _ => query.window.bounds(start, query.zone),
            };
            current = Some((bounds.0, bounds.1, id));
            let data = row.get_ref(3)?.as_blob()?;
            self.add(device, bounds.0, &TableRow { start, amendments: count_at(row, 2)?, data })?;
        }
        if let Some((open, end, _)) = current {
            let _ = self.finish((open, end), each);
        }
        Ok(())
    }

    /// Reads the rows of a few devices, a stretch of time after the other.
    fn seek(
        &mut self,
        devices: &[&'a Device],
        (from, to): (WindowStart, Timestamp),
        each: &mut dyn FnMut(SeriesRow) -> ControlFlow<()>,
    ) -> Result<(), rusqlite::Error> {
        let query = self.query;
        let chunk_ms = if devices.len() == 1 { CHUNK_MS_ONE } else { CHUNK_MS_MANY };
        let bounds = |at| query.window.bounds(at, query.zone);
        let mut rows = Vec::new();
        let mut cursor = from;
        while let Some(next) = self.first_row(devices, (cursor, to))? {
            let start = bounds(next).0;
            let end = bounds(start.plus_millis(chunk_ms - 1)).1.min(to);
            rows.clear();
            for device in devices {
                self.read_device(device, (start, end), &mut rows)?;
            }
            rows.sort_unstable_by_key(|row: &SeriesRow| (row.start, row.device, row.metric));
            if rows.drain(..).try_for_each(&mut *each).is_break() {
                return Ok(());
            }
            cursor = end;
        }
        Ok(())
    }

    /// Start of the first row that any of the devices has in a span.
    fn first_row(
        &self,
        devices: &[&'a Device],
        (from, to): (WindowStart, Timestamp),
    ) -> Result<Option<WindowStart>, rusqlite::Error> {
        let mut statement = self.connection.prepare_cached(
            "SELECT start FROM rollup INDEXED BY rollup_by_device
             WHERE device = ? AND start >= ? AND start < ? ORDER BY start LIMIT 1",
        )?;
        let mut first: Option<WindowStart> = None;
        for device in devices {
            let span = params![device.id.0, from.as_millis(), to.as_millis()];
            let start = statement.query_row(span, |row| time_at(row, 0)).optional()?;
            first = first.into_iter().chain(start).min();
        }
        Ok(first)
    }

    fn read_device(
        &mut self,
        device: &'a Device,
        (from, to): (WindowStart, Timestamp),
        out: &mut Vec<SeriesRow>,
    ) -> Result<(), rusqlite::Error> {
        let query = self.query;
        let mut statement = self.connection.prepare_cached(
            "SELECT start, amendments, data FROM rollup INDEXED BY rollup_by_device
             WHERE device = ? AND start >= ? AND start < ? ORDER BY start",
        )?;
        let mut keep = |row| {
            out.push(row);
            ControlFlow::Continue(())
        };
        let mut rows = statement.query(params![device.id.0, from.as_millis(), to.as_millis()])?;
        let mut current: Option<(WindowStart, Timestamp)> = None;
        while let Some(row) = rows.next()? {
            let start = time_at(row, 0)?;
            let bounds = match current {
                Some((open, end)) if start < end => (open, end),
                Some(passed) => {
                    let _ = self.finish(passed, &mut keep);
                    query.window.bounds(start, query.zone)
                }
                None => query.window.bounds(start, query.zone),
            };
            current = Some(bounds);
            let data = row.get_ref(2)?.as_blob()?;
            self.add(device, bounds.0, &TableRow { start, amendments: count_at(row, 1)?, data })?;
        }
        if let Some(passed) = current {
            let _ = self.finish(passed, &mut keep);
        }
        Ok(())
    }

    /// Folds one base row into the series of the window that starts at `window_start`.
    fn add(
        &mut self,
        device: &'a Device,
        window_start: WindowStart,
        row: &TableRow<'_>,
    ) -> Result<(), rusqlite::Error> {
        let Ok(base) = BaseRow::unpack(row.start, row.data) else {
            self.damaged += 1;
            return Ok(());
        };
        for metric in &base.metrics {
            if self.query.metric.is_some_and(|wanted| wanted != metric.metric) {
                continue;
            }
            let key = (device.id, metric.metric);
            if let Some(fold) = self.folds.get_mut(&key) {
                fold.add(&base, metric, row.amendments);
                continue;
            }
            let mut fold = self.start_fold(device, metric.metric, window_start)?;
            fold.add(&base, metric, row.amendments);
            self.folds.insert(key, fold);
        }
        Ok(())
    }

    fn start_fold(
        &mut self,
        device: &'a Device,
        metric: MetricId,
        window_start: WindowStart,
    ) -> Result<Fold, rusqlite::Error> {
        let inventory = self.query.inventory;
        let definition = self.definitions.entry((Arc::as_ptr(&device.profile).addr(), metric)).or_insert_with(|| {
            let name = inventory.metrics.name(metric).map_or("", |name| &**name);
            match device.profile.slot(name) {
                Some(slot) => Cow::Borrowed(&device.profile.metrics[slot]),
                None => Cow::Owned(MetricDef::gauge(name)),
            }
        });
        let previous = match (definition.kind, self.latest.get(&(device.id, metric))) {
            (MetricKind::Counter, Some(&passed)) => Some(passed),
            (MetricKind::Counter, None) => latest_before(self.connection, device.id, metric, window_start)?,
            _ => None,
        };
        Ok(Fold::new(definition, previous))
    }

    /// Hands out the series of a window that all its rows were read of.
    fn finish(
        &mut self,
        (start, end): (WindowStart, Timestamp),
        each: &mut dyn FnMut(SeriesRow) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let is_final = self.finality.is_some_and(|finality| finality.holds(start, end));
        let over = if is_final { end } else { end.min(self.query.now) };
        let mut folds: Vec<_> = self.folds.drain().collect();
        folds.sort_unstable_by_key(|(key, _)| *key);
        for ((device, metric), fold) in folds {
            let site = self.query.inventory.device(device).map(|device| self.query.inventory.site_of(device));
            let from = site.and_then(|site| site.in_service_from).map_or(start, |from| from.max(start));
            let to = site.and_then(|site| site.in_service_to).map_or(over, |to| to.min(over));
            let Some(combined) = fold.finish(from, to.max(from)) else { continue };
            if combined.increase.is_some() {
                self.latest.insert((device, metric), combined.aggregate.last);
            }
            let revision = if is_final { 1 + combined.amendments } else { 0 };
            let window = self.query.window;
            each(SeriesRow { device, metric, window, start, end, combined, is_final, revision })?;
        }
        ControlFlow::Continue(())
    }
}
