//! Bodies of the InfluxDB sink for benchmarks.

use super::client::Body;
use super::line::{MetricRow, rollup};
use crate::inventory::Inventory;
use crate::store::SeriesRow;

/// The line of one device's window, from the rows of its series.
pub fn line(inventory: &Inventory, rows: &[SeriesRow]) -> Option<String> {
    let first = rows.first()?;
    let device = inventory.device(first.device)?;
    let metrics = rows
        .iter()
        .filter_map(|row| inventory.metrics.name(row.metric).map(|name| MetricRow::new(device, name, &row.combined)));
    rollup((inventory.site_of(device), device), (first.window, first.start), metrics)
}

/// The compressed body of these lines.
pub fn compress(lines: &[String]) -> usize {
    Body::of(lines).bytes().len()
}
