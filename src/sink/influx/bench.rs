//! Bodies of the InfluxDB sink for benchmarks.

use super::client::Body;
use super::feed::device_line;
use super::lines::Lines;
use crate::inventory::Inventory;
use crate::store::SeriesRow;

/// Writes the line of one device's window, from the rows of its series; `None` where there is none.
pub fn line(text: &mut String, inventory: &Inventory, rows: &[SeriesRow]) -> Option<()> {
    device_line(text, inventory, rows)
}

/// Size of the compressed body of these lines.
pub fn compress(lines: &[String]) -> usize {
    let lines: Lines = lines.iter().collect();
    Body::of(lines.text(0..lines.len())).bytes().len()
}
