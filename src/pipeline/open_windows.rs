//! The windows that changed since the last flush, and those that messages usually still come for.
//!
//! Owns them by device, so that a message finds its window with its device's number and a flush finds the rows in the
//! order of the store's key.

use std::collections::BTreeMap;

use super::stored_rows::StoredRows;
use crate::model::{BASE_WINDOW_MS, DeviceId, Timestamp, WindowStart};
use crate::rollup::DeviceWindow;

/// An open window.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) window: DeviceWindow,
    /// Whether the store does not have it as it is.
    pub(super) changed: bool,
}

#[derive(Debug, Default)]
pub(super) struct OpenWindows {
    /// By device, each in order of start; mostly one, after the end of a minute two.
    by_device: Vec<Vec<Open>>,
    /// How many there are by their start.
    starts: BTreeMap<WindowStart, usize>,
    bytes: usize,
}

/// An open window with a reading on its way into it; what it then takes more is counted when this is let go of.
pub(super) struct Place<'a> {
    pub(super) open: &'a mut Open,
    bytes: &'a mut usize,
    bytes_before: usize,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        // Less than before where spare room was given back.
        *self.bytes = *self.bytes + self.open.window.memory_bytes() - self.bytes_before;
    }
}

impl OpenWindows {
    /// The window of `device` that starts at `start`, which `make` gives where it is not open.
    pub(super) fn find_or<E>(
        &mut self,
        (start, device): (WindowStart, DeviceId),
        make: impl FnOnce() -> Result<DeviceWindow, E>,
    ) -> Result<Place<'_>, E> {
        if self.by_device.len() <= device.index() {
            self.by_device.resize_with(device.index() + 1, Vec::new);
        }
        let windows = &mut self.by_device[device.index()];
        let place = match windows.last() {
            Some(last) if last.window.start == start => windows.len() - 1,
            _ => match windows.binary_search_by_key(&start, |open| open.window.start) {
                Ok(place) => place,
                Err(place) => {
                    let window = make()?;
                    self.bytes += window.memory_bytes();
                    *self.starts.entry(start).or_default() += 1;
                    windows.reserve_exact(usize::from(windows.len() < 2));
                    windows.insert(place, Open { window, changed: false });
                    place
                }
            },
        };
        let open = &mut windows[place];
        let bytes_before = open.window.memory_bytes();
        Ok(Place { open, bytes: &mut self.bytes, bytes_before })
    }

    /// Looks at what a reading of each of `devices` will probably touch; what it gives means nothing.
    pub(super) fn look<const N: usize>(&self, devices: [Option<DeviceId>; N]) -> usize {
        // Each step waits for what the one before has found, so all take it together.
        let newest = devices.map(|device| self.by_device.get(device?.index())?.last());
        let heads = newest.iter().flatten().filter(|open| open.changed).count();
        heads + newest.iter().flatten().map(|open| open.window.look()).sum::<usize>()
    }

    /// Bytes that they take, near enough for a bound.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.starts.values().sum()
    }

    /// How many of them end after `until`.
    pub(super) fn ending_after(&self, until: Timestamp) -> usize {
        self.starts.range(until.plus_millis(1 - BASE_WINDOW_MS)..).map(|(_, count)| count).sum()
    }

    /// Whether the store has all that end after `after`, where that is given, and at `until` or before, as they are.
    pub(super) fn are_stored(&self, after: Option<Timestamp>, until: Timestamp) -> bool {
        let ends = |start: WindowStart| start.plus_millis(BASE_WINDOW_MS);
        let is_asked = |start| after.is_none_or(|after| ends(start) > after) && ends(start) <= until;
        let is_open = self.starts.iter().any(|(&start, &count)| count > 0 && is_asked(start));
        !is_open || !self.by_device.iter().flatten().any(|open| open.changed && is_asked(open.window.start))
    }

    /// Those that the store does not have as they are, in order of (start, device).
    pub(super) fn changed(&self) -> impl Iterator<Item = (DeviceId, &DeviceWindow)> {
        // Starts are few; the devices of each come in order.
        let mut by_start: BTreeMap<WindowStart, Vec<(DeviceId, &DeviceWindow)>> = BTreeMap::new();
        for (device, windows) in (0..).map(DeviceId).zip(&self.by_device) {
            for open in windows.iter().filter(|open| open.changed) {
                by_start.entry(open.window.start).or_default().push((device, &open.window));
            }
        }
        by_start.into_values().flatten()
    }

    /// Notes in `rows` that the store has them all, and lets go of those that `keeps` does not keep and of what takes more
    /// than `bytes_max`. Returns the start of the newest one that had changed.
    pub(super) fn stored(
        &mut self,
        rows: &mut StoredRows,
        bytes_max: usize,
        keeps: impl Fn(WindowStart) -> bool,
    ) -> Option<WindowStart> {
        let mut newest = None;
        self.starts.clear();
        self.bytes = 0;
        for (device, windows) in (0..).map(DeviceId).zip(&mut self.by_device) {
            windows.retain_mut(|open| {
                let start = open.window.start;
                if std::mem::take(&mut open.changed) {
                    newest = newest.max(Some(start));
                    rows.add(start, device);
                }
                let bytes = self.bytes + open.window.memory_bytes();
                let kept = keeps(start) && bytes <= bytes_max;
                if kept {
                    *self.starts.entry(start).or_default() += 1;
                    self.bytes = bytes;
                }
                kept
            });
            // A device that brought a backlog leaves no room behind.
            if windows.capacity() > windows.len().max(2) {
                windows.shrink_to(2);
            }
        }
        newest
    }
}
