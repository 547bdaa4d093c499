//! Bodies of the InfluxDB sink for benchmarks.

use super::client::Body;
use super::feed::device_line;
use super::field::Fields;
use crate::inventory::Inventory;
use crate::store::SeriesRow;

/// Writes the line of one device's window, from the rows of its series; `None` where there is none.
pub fn line(text: &mut String, inventory: &Inventory, rows: &[SeriesRow]) -> Option<()> {
    device_line(text, inventory, rows, Fields::ALL)
}

/// Size of the compressed body of these lines, each with its newline.
pub fn compress(lines: &str) -> usize {
    Body::compressed(lines).bytes().len()
}
