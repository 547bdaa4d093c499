//! Rows of some devices, found by the table's own key (start, device).
//!
//! There is no index by device: it would touch another page of the file for every row that is written. So whoever wants
//! some devices' rows goes from start to start and takes at each the rows of all of them, in order of device: devices
//! whose numbers lie close are read through together, a wide gap between two is sought over.
//!
//! So a device that speaks once a month is looked for at each start of the others: about two microseconds a start while
//! the pages are in memory, a fifth of a second for 90 days. Who asks for more than there is time for is told so.

use std::collections::BTreeMap;

use rusqlite::{CachedStatement, Connection, params};

use super::schema::{count_at, device_at};
use crate::model::{DeviceId, MetricId, Timestamp, WindowStart};
use crate::rollup::{BaseRow, Point};

/// Devices that are gone through together, so that what is held of them is bounded.
pub(super) const GROUP_DEVICES: usize = 512;
/// Rows of a device that are looked through for the latest reading of a counter before a window (a day of minutes and
/// a little more); a counter that the device has not sent for longer starts anew.
pub(super) const STEP_ROWS_MAX: usize = 1_500;
/// Minutes in which anybody was heard that are looked through for it (a week of them); a device that was silent for
/// longer starts anew. Time without any row, as when the collector was off, does not count.
pub(super) const STEP_STARTS_MAX: usize = 10_080;
/// Rows that are read over in about the time of one seek.
const GAP_DEVICES: u32 = 8;

/// A base row as it lies in the table.
pub(super) struct TableRow<'a> {
    pub(super) start: WindowStart,
    pub(super) amendments: u64,
    pub(super) data: &'a [u8],
}

/// What a walk over the table needs.
pub(super) struct Walk<'a> {
    from: CachedStatement<'a>,
    before: CachedStatement<'a>,
    rows: CachedStatement<'a>,
    /// Starts before an instant, backwards, as far as they were asked for.
    back: (Timestamp, Vec<WindowStart>),
}

impl<'a> Walk<'a> {
    pub(super) fn new(connection: &'a Connection) -> Result<Self, rusqlite::Error> {
        Ok(Self {
            from: connection.prepare_cached("SELECT min(start) FROM rollup WHERE start >= ?")?,
            before: connection.prepare_cached("SELECT max(start) FROM rollup WHERE start < ?")?,
            rows: connection.prepare_cached(
                "SELECT device, amendments, data FROM rollup WHERE start = ? AND device >= ? AND device <= ?
                 ORDER BY device",
            )?,
            back: (Timestamp::from_millis(i64::MIN), Vec::new()),
        })
    }

    /// The first start there is at `from` or later.
    pub(super) fn start_from(&mut self, from: Timestamp) -> Result<Option<WindowStart>, rusqlite::Error> {
        let start: Option<i64> = self.from.query_row([from.as_millis()], |row| row.get(0))?;
        Ok(start.map(Timestamp::from_millis))
    }

    /// The last start there is before `before`.
    pub(super) fn start_before(&mut self, before: Timestamp) -> Result<Option<WindowStart>, rusqlite::Error> {
        let start: Option<i64> = self.before.query_row([before.as_millis()], |row| row.get(0))?;
        Ok(start.map(Timestamp::from_millis))
    }

    /// All starts there are in a span.
    pub(super) fn starts(&mut self, (from, to): (Timestamp, Timestamp)) -> Result<Vec<WindowStart>, rusqlite::Error> {
        let mut starts = Vec::new();
        let mut next = self.start_from(from)?;
        while let Some(start) = next.filter(|start| *start < to) {
            starts.push(start);
            next = self.start_from(start.plus_millis(1))?;
        }
        Ok(starts)
    }

    /// The start that lies `number` starts before the last one before `before`.
    fn start_back(&mut self, before: Timestamp, number: usize) -> Result<Option<WindowStart>, rusqlite::Error> {
        if self.back.0 != before {
            self.back = (before, Vec::new());
        }
        while self.back.1.len() <= number {
            let cursor = self.back.1.last().copied().unwrap_or(before);
            let Some(start) = self.start_before(cursor)? else { return Ok(None) };
            self.back.1.push(start);
        }
        Ok(self.back.1.get(number).copied())
    }

    /// Gives `each` the rows that `devices`, in order, have at `start`, with the place of the row's device among them.
    pub(super) fn rows(
        &mut self,
        start: WindowStart,
        devices: &[DeviceId],
        each: &mut dyn FnMut(usize, &TableRow<'_>),
    ) -> Result<(), rusqlite::Error> {
        let mut place = 0;
        for run in devices.chunk_by(|a, b| b.0 - a.0 <= GAP_DEVICES) {
            let [first, .., last] = run else {
                let [only] = run else { continue };
                self.run(start, (*only, *only), &mut |_, row| each(place, row))?;
                place += 1;
                continue;
            };
            let mut at = 0;
            self.run(start, (*first, *last), &mut |device, row| {
                while run.get(at).is_some_and(|wanted| *wanted < device) {
                    at += 1;
                }
                if run.get(at) == Some(&device) {
                    each(place + at, row);
                }
            })?;
            place += run.len();
        }
        Ok(())
    }

    fn run(
        &mut self,
        start: WindowStart,
        (first, last): (DeviceId, DeviceId),
        each: &mut dyn FnMut(DeviceId, &TableRow<'_>),
    ) -> Result<(), rusqlite::Error> {
        let mut rows = self.rows.query(params![start.as_millis(), first.0, last.0])?;
        while let Some(row) = rows.next()? {
            let data = row.get_ref(2)?.as_blob()?;
            each(device_at(row, 0)?, &TableRow { start, amendments: count_at(row, 1)?, data });
        }
        Ok(())
    }

    /// Those of `devices`, in order, that have a row at one of `starts`.
    pub(super) fn heard(
        &mut self,
        starts: &[WindowStart],
        devices: &[DeviceId],
    ) -> Result<Vec<DeviceId>, rusqlite::Error> {
        let mut heard = Vec::new();
        for group in devices.chunks(GROUP_DEVICES) {
            let mut waiting = group.to_vec();
            for &start in starts {
                let mut found = vec![false; waiting.len()];
                self.rows(start, &waiting, &mut |place, _| found[place] = true)?;
                let mut places = found.iter();
                waiting.retain(|_| places.next() == Some(&false));
                if waiting.is_empty() {
                    break;
                }
            }
            let mut silent = waiting.iter().peekable();
            heard.extend(group.iter().filter(|device| silent.next_if_eq(device).is_none()));
        }
        Ok(heard)
    }

    /// Gives `each` the latest reading before `before` of every counter that `wanted` names, by device in order, with
    /// the place of the device in it. A counter without one within [`STEP_ROWS_MAX`] rows of its device and
    /// [`STEP_STARTS_MAX`] starts is passed over.
    pub(super) fn latest_before(
        &mut self,
        before: WindowStart,
        wanted: &[(DeviceId, Vec<MetricId>)],
        each: &mut dyn FnMut(usize, MetricId, Point),
    ) -> Result<(), rusqlite::Error> {
        let mut open: Vec<Sought> = wanted.iter().enumerate().map(Sought::new).collect();
        let mut devices: Vec<DeviceId> = wanted.iter().map(|(device, _)| *device).collect();
        for number in 0..STEP_STARTS_MAX {
            if open.is_empty() {
                break;
            }
            let Some(start) = self.start_back(before, number)? else { break };
            let mut is_done = false;
            self.rows(start, &devices, &mut |place, row| {
                let sought = &mut open[place];
                sought.look(row, each);
                is_done |= sought.is_done();
            })?;
            if is_done {
                open.retain(|sought| !sought.is_done());
                devices = open.iter().map(|sought| wanted[sought.place].0).collect();
            }
        }
        Ok(())
    }
}

/// Counters of one device whose latest reading is looked for.
struct Sought {
    place: usize,
    metrics: Vec<MetricId>,
    rows_left: usize,
}

impl Sought {
    fn new((place, (_, metrics)): (usize, &(DeviceId, Vec<MetricId>))) -> Self {
        Self { place, metrics: metrics.clone(), rows_left: STEP_ROWS_MAX }
    }

    fn is_done(&self) -> bool {
        self.metrics.is_empty() || self.rows_left == 0
    }

    fn look(&mut self, row: &TableRow<'_>, each: &mut dyn FnMut(usize, MetricId, Point)) {
        self.rows_left -= 1;
        // A row that is damaged further on gives nothing, not even what stands before the damage.
        let mut found: Vec<(MetricId, Point)> = Vec::new();
        let read = BaseRow::last_readings(row.start, row.data, &mut |metric, last| {
            if self.metrics.contains(&metric) {
                found.push((metric, last));
            }
        });
        if read.is_err() {
            return;
        }
        for (metric, last) in found {
            self.metrics.retain(|wanted| *wanted != metric);
            each(self.place, metric, last);
        }
    }
}

/// Changed rows of a device, and the device.
pub(super) type ChangedRows = (DeviceId, Vec<WindowStart>);

/// A device on the walk from its changed rows to those after them.
#[derive(Default)]
struct Follower {
    /// Metrics of changed rows that were not met again yet.
    waiting: Vec<MetricId>,
    /// Rows since the last changed one.
    rows: usize,
    /// Starts since then.
    starts: usize,
}

impl Follower {
    fn is_over(&self) -> bool {
        self.waiting.is_empty() || self.rows > STEP_ROWS_MAX || self.starts >= STEP_STARTS_MAX
    }
}

/// Rows that hold the next reading of a metric after one of the changed rows, of devices in order.
///
/// One walk along the starts: it takes up the metrics of every changed row it passes, lets go a device when each of them
/// was met again, or was not for as long as a reader looks back, and jumps to the next changed row where none is left.
pub(super) fn successors(
    walk: &mut Walk<'_>,
    changed: &[ChangedRows],
) -> Result<Vec<(WindowStart, DeviceId)>, rusqlite::Error> {
    let mut by_start: BTreeMap<WindowStart, Vec<usize>> = BTreeMap::new();
    for (place, (_, starts)) in changed.iter().enumerate() {
        for start in starts {
            by_start.entry(*start).or_default().push(place);
        }
    }
    let mut followers: Vec<Follower> = changed.iter().map(|_| Follower::default()).collect();
    let mut found = Vec::new();
    // Places of the devices that wait for a metric, in order.
    let mut active: Vec<usize> = Vec::new();
    let mut next = by_start.first_key_value().map(|(start, _)| *start);
    while let Some(start) = next.map(|from| walk.start_from(from)).transpose()?.flatten() {
        let changed_here = by_start.remove(&start).unwrap_or_default();
        active.extend(&changed_here);
        active.sort_unstable();
        active.dedup();
        let devices: Vec<DeviceId> = active.iter().map(|&place| changed[place].0).collect();
        for &place in &active {
            followers[place].starts += 1;
        }
        walk.rows(start, &devices, &mut |at, row| {
            let place = active[at];
            let is_changed = changed_here.binary_search(&place).is_ok();
            if followers[place].follow(row, is_changed) {
                found.push((start, changed[place].0));
            }
        })?;
        active.retain(|&place| !followers[place].is_over());
        // A changed row that is gone is passed over.
        while by_start.first_key_value().is_some_and(|(changed, _)| *changed <= start) {
            by_start.pop_first();
        }
        let changed_next = by_start.first_key_value().map(|(start, _)| *start);
        next = if active.is_empty() { changed_next } else { Some(start.plus_millis(1)) };
    }
    Ok(found)
}

impl Follower {
    /// Takes in the device's next row; whether it is one that a changed row's metric was met again in.
    fn follow(&mut self, row: &TableRow<'_>, is_changed: bool) -> bool {
        if is_changed {
            (self.rows, self.starts) = (0, 0);
        } else {
            self.rows += 1;
        }
        let mut metrics = Vec::new();
        if BaseRow::last_readings(row.start, row.data, &mut |metric, _| metrics.push(metric)).is_err() {
            return false;
        }
        let waited = self.waiting.len();
        self.waiting.retain(|metric| !metrics.contains(metric));
        let met = self.waiting.len() < waited;
        if is_changed {
            self.waiting.extend(metrics);
        }
        met && !is_changed
    }
}

/// The devices that the store knows, in order.
pub(super) fn known_devices(connection: &Connection) -> Result<Vec<DeviceId>, rusqlite::Error> {
    super::read::collect(connection, "SELECT id FROM device ORDER BY id", (), |row| device_at(row, 0))
}
