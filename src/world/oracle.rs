//! What the rows have to be, from the readings in order: an implementation of its own, that shares nothing with ours.

use std::collections::BTreeMap;

use super::devices::{METRICS, PLACES, Reading, WRAP};

/// One row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Row {
    pub(super) count: u64,
    pub(super) sum: f64,
    pub(super) min: f64,
    pub(super) max: f64,
    pub(super) first: (i64, f64),
    pub(super) last: (i64, f64),
    /// Rise of a counter, with the step into the row.
    pub(super) increase: f64,
}

impl Row {
    pub(super) fn mean(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a test's few readings")]
        let count = self.count as f64;
        self.sum / count
    }
}

/// Device, index of the metric, start of the window in epoch ms.
pub(super) type Key = (usize, usize, i64);

/// Everything that was measured.
#[derive(Clone, Debug, Default)]
pub(super) struct Oracle {
    readings: BTreeMap<(usize, i64), [f64; 3]>,
}

impl Oracle {
    pub(super) fn note(&mut self, reading: Reading) {
        let earlier = self.readings.insert((reading.device, reading.time_ms), reading.values);
        assert_eq!(earlier, None, "a device measures once at a time");
    }

    /// How many readings of single metrics there are.
    pub(super) fn len(&self) -> u64 {
        (self.readings.len() * METRICS.len()) as u64
    }

    /// The rows of windows of `length_ms` that start at multiples of it less `shift_ms`.
    pub(super) fn rows(&self, length_ms: i64, shift_ms: i64) -> BTreeMap<Key, Row> {
        let mut rows: BTreeMap<Key, Row> = BTreeMap::new();
        let mut previous: BTreeMap<(usize, usize), f64> = BTreeMap::new();
        for (&(device, time_ms), values) in &self.readings {
            let start = (time_ms + shift_ms).div_euclid(length_ms) * length_ms - shift_ms;
            for (metric, &value) in values.iter().enumerate() {
                let before = previous.insert((device, metric), value);
                let rise = before.map_or(0.0, |before| rise(metric, before, value));
                let point = (time_ms, value);
                rows.entry((device, metric, start))
                    .and_modify(|row| {
                        row.count += 1;
                        row.sum += value;
                        row.min = row.min.min(value);
                        row.max = row.max.max(value);
                        row.last = point;
                        row.increase += rise;
                    })
                    .or_insert(Row {
                        count: 1,
                        sum: value,
                        min: value,
                        max: value,
                        first: point,
                        last: point,
                        increase: rise,
                    });
            }
        }
        rows
    }

    /// Power and energy of every group in windows of an hour: by indicator, area, operator, site and start.
    pub(super) fn indicators(&self) -> BTreeMap<(String, String, String, String, i64), f64> {
        let mut values = BTreeMap::new();
        for ((device, metric, start), row) in self.rows(3_600_000, 0) {
            let (id, value, of_sites) = match METRICS[metric] {
                "pwr_w" => ("P", row.mean(), true),
                "energy_kwh" => ("E", row.increase, false),
                _ => continue,
            };
            let (area, operator) = PLACES[device];
            let site = super::devices::site(device);
            let mut groups = vec![("350100", "", ""), ("350100", operator, ""), (area, "", "")];
            if of_sites {
                groups.push((area, operator, &*site));
            }
            for (area, operator, site) in groups {
                let key = (id.to_owned(), area.to_owned(), operator.to_owned(), site.to_owned(), start);
                *values.entry(key).or_insert(0.0) += value;
            }
        }
        values
    }
}

/// How far a counter rose between two readings that follow each other. A counter that wraps and is low has wrapped
/// where that is the shorter way; otherwise it began anew.
fn rise(metric: usize, before: f64, value: f64) -> f64 {
    let wraps = METRICS[metric] == "energy_kwh";
    if value >= before {
        value - before
    } else if wraps && WRAP - before + value < WRAP / 2.0 {
        WRAP - before + value
    } else {
        value
    }
}
