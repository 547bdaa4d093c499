//! What is kept of a series' readings in a span of event time.

use super::Sum;
use crate::model::Timestamp;

/// A value at an instant.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Event time.
    pub time: Timestamp,
    /// Value in the metric's unit.
    pub value: f64,
}

/// Count, sum, extremes and end points of a series' readings in a span.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Aggregate {
    /// Number of readings; at least 1.
    pub count: u64,
    /// Sum of values.
    pub sum: Sum,
    /// Smallest value.
    pub min: f64,
    /// Largest value.
    pub max: f64,
    /// Earliest reading by event time.
    pub first: Point,
    /// Latest reading by event time.
    pub last: Point,
}

impl Aggregate {
    /// The aggregate of one reading.
    #[must_use]
    pub fn of(point: Point) -> Self {
        let mut sum = Sum::default();
        sum.add(point.value);
        Self { count: 1, sum, min: point.value, max: point.value, first: point, last: point }
    }

    /// Takes in one more reading. Its event time must differ from those already in.
    pub fn add(&mut self, point: Point) {
        self.count += 1;
        self.sum.add(point.value);
        self.min = self.min.min(point.value);
        self.max = self.max.max(point.value);
        if point.time < self.first.time {
            self.first = point;
        }
        if point.time > self.last.time {
            self.last = point;
        }
    }

    /// Takes in the aggregate of other readings of the same series.
    pub fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.sum.merge(other.sum);
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        if other.first.time < self.first.time {
            self.first = other.first;
        }
        if other.last.time > self.last.time {
            self.last = other.last;
        }
    }

    /// Arithmetic mean of the values.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "no window holds 2^53 readings")]
    pub fn mean(&self) -> f64 {
        self.sum.value() / self.count as f64
    }
}

/// Increase of a cumulative counter inside one base row, which holds one reset or wrap at most.
///
/// Without a reset the first value is the smallest and the last the largest. Otherwise the counter rose from `first` to
/// `max`, fell, and rose to `last`. `wrap` is the value at which the counter starts again at zero, if its profile names
/// one.
#[must_use]
pub fn increase_within(row: &Aggregate, wrap: Option<f64>) -> f64 {
    let (first, last) = (row.first.value, row.last.value);
    if first <= row.min && last >= row.max {
        last - first
    } else {
        (row.max - first) + after_fall(row.max, last, row.min, wrap)
    }
}

/// Increase of a cumulative counter from the last value of one row to the first of the next.
#[must_use]
pub fn step(previous_last: f64, first: f64, wrap: Option<f64>) -> f64 {
    if first >= previous_last { first - previous_last } else { after_fall(previous_last, first, first, wrap) }
}

/// Increase over a fall from `before` that bottomed at `bottom` and came up to `after`: a wrap where the way through the
/// wrap value is the shorter one (serial-number arithmetic, RFC 1982), else a reset to zero.
fn after_fall(before: f64, after: f64, bottom: f64, wrap: Option<f64>) -> f64 {
    match wrap {
        Some(wrap) if before <= wrap && wrap - before + bottom < wrap / 2.0 => wrap - before + after,
        _ => after,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(values: &[f64]) -> Aggregate {
        let mut points = values.iter().zip(0..).map(|(&value, ms)| Point { time: Timestamp::from_millis(ms), value });
        let mut row = Aggregate::of(points.next().expect("a value"));
        points.for_each(|point| row.add(point));
        row
    }

    #[test]
    fn a_counter_that_only_rises_increases_by_last_minus_first() {
        assert_eq!(increase_within(&row(&[10.0, 12.0, 15.0]), None), 5.0);
    }

    #[test]
    fn a_reset_inside_a_row_counts_from_zero() {
        assert_eq!(increase_within(&row(&[100.0, 110.0, 3.0, 7.0]), None), 17.0);
    }

    #[test]
    fn a_reset_to_below_the_first_value_at_the_end_is_seen() {
        assert_eq!(increase_within(&row(&[100.0, 4.0]), None), 4.0);
    }

    #[test]
    fn a_wrap_goes_through_the_wrap_value_and_a_reset_does_not() {
        assert_eq!(increase_within(&row(&[65_530.0, 65_535.0, 4.0]), Some(65_536.0)), 10.0);
        assert_eq!(increase_within(&row(&[1_000.0, 4.0]), Some(65_536.0)), 4.0);
        assert_eq!(step(65_535.0, 4.0, Some(65_536.0)), 5.0);
        assert_eq!(step(1_000.0, 4.0, Some(65_536.0)), 4.0);
        assert_eq!(step(10.0, 12.5, None), 2.5);
    }
}
