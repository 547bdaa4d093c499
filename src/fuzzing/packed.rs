//! Packed rows: what is read is what packing writes, or wrote in version 1, and anything else is refused.

use std::sync::Arc;

use crate::model::{BASE_WINDOW_MS, Timestamp};
use crate::rollup::{BaseRow, DeviceWindow, PackedError};

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
    if data.first() == Some(&1) {
        assert!(again[0] == 2, "what was read of version 1 is packed in version {}", again[0]);
        // Compared as they are shown: a sum that overflowed is no number, and equals nothing.
        let newer = DeviceWindow::unpack(start, Arc::default(), &again);
        assert_eq!(format!("{newer:?}"), format!("{:?}", Ok::<_, PackedError>(&window)));
        let newer = BaseRow::unpack(start, &again);
        assert_eq!(format!("{newer:?}"), format!("{:?}", Ok::<_, PackedError>(&row)));
    } else {
        assert!(again == data, "a row that packs to other bytes was taken: {again:?}");
    }
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
