//! Roll-ups: readings of a series merged into windows of event time.
//!
//! The merge is commutative and idempotent: readings may come in any order, any number of times, and the row is the
//! same (P2, P4). Rows of coarser windows are folded from base rows exactly (P7). Pure: never reads the clock, never
//! touches the store.

mod aggregate;
mod coarse;
mod packed;
mod sum;
mod window;

pub use aggregate::{Aggregate, Point, increase_within, step};
pub use coarse::{Combined, Fold, expected_slots};
pub use packed::{BaseMetric, BaseRow, PackedError};
pub use sum::Sum;
pub use window::{DeviceWindow, Outcome};

#[cfg(test)]
mod laws;
