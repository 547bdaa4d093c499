//! From a place in a feed to the lines of the next batch. Blocks: for threads that may.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{ControlFlow, Range};

use tokio::sync::watch;

use super::client::Body;
use super::field::Fields;
use super::line::{self, MetricRow};
use super::lines::Lines;
use super::spare::Spare;
use super::{Context, Encoding, Options};
use crate::inventory::Inventory;
use crate::model::{DeviceId, Timestamp, Window, WindowStart};
use crate::sink::describe;
use crate::store::{Devices, Error, Feed, Reader, SeriesQuery, SeriesRow};

/// The next lines of a feed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Batch {
    /// The lines.
    pub lines: Lines,
    /// Place in the feed once they are written.
    pub position: u64,
    /// Rows that had nothing to send: their readings are older than the retention, or no number, or have none of the
    /// fields that are sent.
    pub empty: u64,
    /// Entries of the feed behind `position`.
    pub behind: u64,
}

/// A batch that is ready to be sent.
pub(super) struct Prepared {
    /// The batch.
    pub batch: Batch,
    /// The body of its first request, and the lines that it has.
    pub body: Option<(Range<usize>, Body)>,
}

impl Prepared {
    /// Makes the body of what is sent first of a batch, `lines_max` lines at the most.
    pub(super) fn new(batch: Batch, lines_max: usize, encoding: Encoding) -> Self {
        let first = 0..batch.lines.len().min(lines_max.max(1));
        let body = (!first.is_empty()).then(|| (first.clone(), Body::of(&batch.lines, first, encoding)));
        Self { batch, body }
    }
}

/// The next batch of a feed after `after`; `None` at its end, or when the daemon stops.
///
/// # Errors
/// [`Error`] where the store refuses.
pub(super) fn next(
    reader: &Reader,
    (feed, after): (Feed, u64),
    options: &Options,
    context: &Context,
    stop: &watch::Receiver<bool>,
    spare: &Spare,
) -> Result<Option<Batch>, Error> {
    let batch = match feed {
        Feed::Rollup => rollups(reader, after, options, context, stop, spare)?,
        Feed::Indicator => indicators(reader, after, options, context, spare)?,
    };
    let Some(mut batch) = batch else { return Ok(None) };
    batch.behind = reader.feed_end(feed)?.saturating_sub(batch.position);
    Ok(Some(batch))
}

fn indicators(
    reader: &Reader,
    after: u64,
    options: &Options,
    context: &Context,
    spare: &Spare,
) -> Result<Option<Batch>, Error> {
    let rows = reader.indicators_after(after, options.batch_lines_max)?;
    let Some(last) = rows.last() else { return Ok(None) };
    let mut batch = Batch { lines: spare.lines(), position: last.seq, ..Batch::default() };
    for row in &rows {
        let description = describe(&context.descriptions, &row.id);
        if batch.lines.push(|text| line::indicator(text, row, description)).is_none() {
            batch.empty += 1;
        }
    }
    Ok(Some(batch))
}

fn rollups(
    reader: &Reader,
    after: u64,
    options: &Options,
    context: &Context,
    stop: &watch::Receiver<bool>,
    spare: &Spare,
) -> Result<Option<Batch>, Error> {
    let changes = reader.changes(after, options.batch_lines_max)?;
    let Some(last) = changes.last() else { return Ok(None) };
    let mut batch = Batch { lines: spare.lines(), position: last.seq, ..Batch::default() };
    let mut groups: BTreeMap<(Window, WindowStart), BTreeSet<DeviceId>> = BTreeMap::new();
    let mut wanted = 0;
    // The feed carries the windows of all sinks.
    for change in changes.iter().filter(|change| options.windows.contains(&change.window)) {
        wanted += u64::from(groups.entry((change.window, change.start)).or_default().insert(change.device));
    }
    let inventory = context.inventory();
    let mut view = View {
        reader,
        inventory: &inventory,
        context,
        now: context.clock.now(),
        fields: options.fields,
        lines: &mut batch.lines,
    };
    for (window, devices) in groups {
        if *stop.borrow() {
            return Ok(None);
        }
        view.read(window, &devices.into_iter().collect::<Vec<_>>())?;
    }
    batch.empty = wanted.saturating_sub(batch.lines.len() as u64);
    Ok(Some(batch))
}

/// Roll-ups as they become lines.
struct View<'a> {
    reader: &'a Reader,
    inventory: &'a Inventory,
    context: &'a Context,
    now: Timestamp,
    fields: Fields,
    lines: &'a mut Lines,
}

impl View<'_> {
    /// Adds the lines of some devices, which are in order.
    fn read(&mut self, (window, start): (Window, WindowStart), devices: &[DeviceId]) -> Result<(), Error> {
        let query = SeriesQuery {
            inventory: self.inventory,
            zone: &self.context.zone,
            window,
            from: start,
            to: start.plus_millis(1),
            devices: Devices::These(devices),
            metric: None,
            now: self.now,
        };
        // Rows come in order of device, so a device is complete when the next one begins.
        let mut rows: Vec<SeriesRow> = Vec::new();
        self.reader.visit_series(&query, &mut |row| {
            if rows.last().is_some_and(|last| last.device != row.device) {
                self.lines.push(|text| device_line(text, self.inventory, &rows, self.fields));
                rows.clear();
            }
            rows.push(row);
            ControlFlow::Continue(())
        })?;
        self.lines.push(|text| device_line(text, self.inventory, &rows, self.fields));
        Ok(())
    }
}

/// Writes the line of one device's window.
pub(super) fn device_line(text: &mut String, inventory: &Inventory, rows: &[SeriesRow], fields: Fields) -> Option<()> {
    let first = rows.first()?;
    let device = inventory.device(first.device)?;
    let metrics = rows.iter().filter_map(|row| {
        let name = inventory.metrics.name(row.metric)?;
        Some(MetricRow::new(device, name, &row.combined))
    });
    line::rollup(text, (inventory.site_of(device), device), (first.window, first.start), metrics, fields)
}
