//! Packed rows: what is read is what packing writes, and anything else is refused.

use std::sync::Arc;

use crate::model::{BASE_WINDOW_MS, Timestamp};
use crate::rollup::{BaseRow, DeviceWindow};

/// Bytes of memory that a byte of a row may take at the most, and what an empty one takes.
const MEMORY_FACTOR: usize = 100;
const MEMORY_BYTES_MIN: usize = 1_000;

/// Any bytes as a packed row.
pub fn packed(data: &[u8]) {
    let start = Timestamp::from_millis(1_764_000_000_000);
    let window = DeviceWindow::unpack(start, Arc::default(), data);
    let row = BaseRow::unpack(start, data);
    assert_eq!(window.as_ref().err(), row.as_ref().err(), "two readers of one form disagree");
    let (Ok(window), Ok(row)) = (window, row) else { return };
    let mut again = Vec::new();
    window.pack(&mut again);
    assert!(again == data, "a row that packs to other bytes was taken: {again:?}");
    assert!(window.memory_bytes() <= MEMORY_BYTES_MIN + MEMORY_FACTOR * data.len(), "{}", window.memory_bytes());
    for metric in &row.metrics {
        let aggregate = &metric.aggregate;
        assert!(u64::from(metric.heard) <= aggregate.count, "{metric:?}");
        assert!(aggregate.first.time <= aggregate.last.time, "{metric:?}");
        assert!(aggregate.last.time < start.plus_millis(BASE_WINDOW_MS), "{metric:?}");
        for value in [aggregate.first.value, aggregate.last.value] {
            assert!((aggregate.min..=aggregate.max).contains(&value), "{metric:?}");
        }
    }
}
