//! Which devices have a row in the longer windows that are not over, as far as this process has written them.
//!
//! When a day becomes final every device with a row in it is told to sinks. Most are found at the day's first start, but
//! one that was silent all day would be looked for at each of its 1,440. What was written since the store was opened
//! need not be looked for.

use std::collections::BTreeMap;

use jiff::tz::TimeZone;

use crate::model::{DeviceId, DeviceSet, Timestamp, Window, WindowStart};

/// Windows that are remembered at the most: an hour of one kind takes 9 KiB for 75,000 devices.
const WINDOWS_MAX: usize = 256;

/// Devices heard, by window.
#[derive(Debug)]
pub(super) struct Heard {
    /// Windows whose devices will be asked for.
    kinds: Vec<Window>,
    zone: TimeZone,
    windows: BTreeMap<(Window, WindowStart), DeviceSet>,
    /// Every row that starts here or later is in them.
    complete_from: Timestamp,
    /// The latest start that was noted.
    newest: Option<WindowStart>,
    /// Windows that start before this have lost rows: they are told by nobody, and not remembered.
    kept_from: Timestamp,
    /// Where the row before came to lie: rows come in order of their start.
    bounds: Option<(WindowStart, Vec<(Window, WindowStart)>)>,
}

impl Heard {
    /// Of a store whose newest row starts at `newest`.
    pub(super) fn new(newest: Option<WindowStart>, kinds: Vec<Window>, zone: TimeZone) -> Self {
        let kept_from = Timestamp::from_millis(i64::MIN);
        Self { kinds, zone, windows: BTreeMap::new(), complete_from: after(newest), newest, kept_from, bounds: None }
    }

    /// Every row that starts here or later was noted.
    pub(super) fn complete_from(&self) -> Timestamp {
        self.complete_from
    }

    /// Notes a row that is written.
    pub(super) fn note(&mut self, start: WindowStart, device: DeviceId) {
        self.newest = self.newest.max(Some(start));
        if start < self.complete_from {
            return;
        }
        if self.bounds.as_ref().is_none_or(|(known, _)| *known != start) {
            let keys = self.kinds.iter().map(|window| (*window, window.bounds(start, &self.zone).0));
            self.bounds = Some((start, keys.filter(|(_, start)| *start >= self.kept_from).collect()));
        }
        for key in self.bounds.iter().flat_map(|(_, keys)| keys) {
            if let Some(devices) = self.windows.get_mut(key) {
                devices.insert(device);
            } else if self.windows.len() < WINDOWS_MAX {
                self.windows.entry(*key).or_default().insert(device);
            } else {
                return self.forget();
            }
        }
    }

    /// Whether the device has a row in the window that starts at `start`; false where it was not noted.
    pub(super) fn holds(&self, window: Window, start: WindowStart, device: DeviceId) -> bool {
        self.windows.get(&(window, start)).is_some_and(|devices| devices.contains(device))
    }

    /// Lets go windows that end at `until` or before, which were asked for.
    pub(super) fn settle(&mut self, until: Timestamp) {
        self.windows.retain(|(window, start), _| window.bounds(*start, &self.zone).1 > until);
    }

    /// Lets go windows that start before `kept_from`, of which rows went. Where they are kept from an earlier instant
    /// again, everything is to be looked for in the table.
    pub(super) fn keep_from(&mut self, kept_from: Timestamp) {
        if kept_from < self.kept_from {
            self.forget();
        }
        if kept_from != self.kept_from {
            (self.kept_from, self.bounds) = (kept_from, None);
            self.windows.retain(|(_, start), _| *start >= kept_from);
        }
    }

    /// Begins anew: what was noted so far is to be looked for in the table.
    pub(super) fn forget(&mut self) {
        self.windows.clear();
        self.complete_from = self.complete_from.max(after(self.newest));
    }
}

fn after(newest: Option<WindowStart>) -> Timestamp {
    newest.map_or(Timestamp::from_millis(i64::MIN), |newest| newest.plus_millis(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: i64 = 60_000;

    fn minute(number: i64) -> Timestamp {
        Timestamp::from_millis(number * MINUTE)
    }

    fn heard() -> Heard {
        Heard::new(Some(minute(59)), vec![Window::Minute5, Window::Hour1], TimeZone::UTC)
    }

    #[test]
    fn what_was_written_before_the_store_was_opened_is_not_known() {
        let mut heard = heard();
        heard.note(minute(59), DeviceId(1));
        heard.note(minute(60), DeviceId(2));
        heard.note(minute(66), DeviceId(130));
        assert!(heard.complete_from() > minute(59) && heard.complete_from() <= minute(60));
        let hour = |device| heard.holds(Window::Hour1, minute(60), DeviceId(device));
        assert_eq!([1, 2, 130, 131].map(hour), [false, true, true, false]);
        assert!(heard.holds(Window::Minute5, minute(65), DeviceId(130)));
        assert!(!heard.holds(Window::Minute5, minute(60), DeviceId(130)));
    }

    #[test]
    fn what_is_forgotten_is_looked_for_in_the_table() {
        let mut heard = heard();
        heard.note(minute(60), DeviceId(1));
        heard.note(minute(70), DeviceId(1));
        heard.settle(minute(65));
        heard.keep_from(minute(60));
        assert!(!heard.holds(Window::Minute5, minute(60), DeviceId(1)), "it is over");
        assert!(heard.holds(Window::Hour1, minute(60), DeviceId(1)));
        heard.forget();
        assert!(!heard.holds(Window::Hour1, minute(60), DeviceId(1)) && heard.complete_from() > minute(70));
        heard.note(minute(70), DeviceId(2));
        assert!(!heard.holds(Window::Hour1, minute(60), DeviceId(2)), "it is looked for as well");
        heard.note(minute(71), DeviceId(2));
        assert!(heard.holds(Window::Hour1, minute(60), DeviceId(2)));
    }

    #[test]
    fn a_window_of_which_rows_went_costs_the_others_nothing_and_is_not_noted_again() {
        let mut heard = heard();
        heard.note(minute(70), DeviceId(1));
        heard.keep_from(minute(61));
        heard.note(minute(70), DeviceId(2));
        assert!(!heard.holds(Window::Hour1, minute(60), DeviceId(1)) && heard.windows.len() == 1);
        let five = |device| heard.holds(Window::Minute5, minute(70), DeviceId(device));
        assert_eq!([1, 2].map(five), [true, true]);
        assert!(heard.complete_from() <= minute(60), "the others are known as before");
        // The clock fell back: rows may be told again that nobody remembers.
        heard.keep_from(minute(60));
        assert!(heard.windows.is_empty() && heard.complete_from() > minute(70));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut heard = heard();
        for number in 0..10_000 {
            heard.note(minute(60 + number), DeviceId(1));
            assert!(heard.windows.len() <= WINDOWS_MAX);
        }
        assert!(heard.complete_from() > minute(60));
    }
}
