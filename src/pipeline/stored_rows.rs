//! Which rows the store has of the newest windows, so that it need not be asked for every row that is begun.

use std::collections::BTreeMap;

use crate::model::{DeviceId, DeviceSet, WindowStart};

/// Windows whose rows are known; of older ones the store is asked.
const WINDOWS_MAX: usize = 8;

/// The rows of the newest windows, by device.
#[derive(Debug)]
pub(super) struct StoredRows {
    /// Windows that start here or before are not known.
    unknown_until: Option<WindowStart>,
    /// Windows without an entry have no row.
    by_start: BTreeMap<WindowStart, DeviceSet>,
}

impl StoredRows {
    /// Knows that the store, as it is now, has nothing after `newest_row`.
    pub(super) fn after(newest_row: Option<WindowStart>) -> Self {
        Self { unknown_until: newest_row, by_start: BTreeMap::new() }
    }

    /// Whether the store may have a row of `device` for the window that starts at `start`.
    pub(super) fn may_have(&self, start: WindowStart, device: DeviceId) -> bool {
        let has = |devices: &DeviceSet| devices.contains(device);
        self.unknown_until.is_some_and(|until| start <= until) || self.by_start.get(&start).is_some_and(has)
    }

    /// Notes a row that was written.
    pub(super) fn add(&mut self, start: WindowStart, device: DeviceId) {
        if self.unknown_until.is_some_and(|until| start <= until) {
            return;
        }
        self.by_start.entry(start).or_default().insert(device);
        if self.by_start.len() > WINDOWS_MAX {
            self.unknown_until = self.by_start.pop_first().map(|(start, _)| start);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{BASE_WINDOW_MS, Timestamp};

    fn minute(number: i64) -> WindowStart {
        Timestamp::from_millis(number * BASE_WINDOW_MS)
    }

    #[test]
    fn only_rows_that_were_written_and_windows_that_are_not_known_may_be_there() {
        let mut stored = StoredRows::after(Some(minute(5)));
        stored.add(minute(6), DeviceId(70));
        for (start, device, may) in [(5, 0, true), (6, 70, true), (6, 6, false), (6, 71, false), (7, 70, false)] {
            assert_eq!(stored.may_have(minute(start), DeviceId(device)), may, "device {device} at {start}");
        }
    }

    #[test]
    fn the_oldest_window_is_not_known_any_more_at_the_bound() {
        let mut stored = StoredRows::after(None);
        for number in 0..9 {
            stored.add(minute(number), DeviceId(1));
        }
        // One before all of them, too, was written or not: nobody remembers.
        assert!(stored.may_have(minute(-1), DeviceId(0)) && stored.may_have(minute(0), DeviceId(0)));
        assert!(!stored.may_have(minute(1), DeviceId(0)) && stored.may_have(minute(1), DeviceId(1)));
    }
}
