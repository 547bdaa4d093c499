//! A sum that does not depend on the order of its terms, to far better than 1e-12.

/// A running sum in double-double precision: about 106 bits, so that the order in which terms come is invisible after
/// rounding to `f64` (Dekker 1971; Knuth, The Art of Computer Programming 2, 4.2.2).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sum {
    high: f64,
    low: f64,
}

impl Sum {
    /// The sum whose leading part is `high` and whose rounding error is `low`.
    #[must_use]
    pub const fn from_parts(high: f64, low: f64) -> Self {
        Self { high, low }
    }

    /// Leading part and rounding error.
    #[must_use]
    pub const fn parts(self) -> (f64, f64) {
        (self.high, self.low)
    }

    /// Adds one term.
    pub fn add(&mut self, term: f64) {
        let (high, error) = two_sum(self.high, term);
        let (high, low) = two_sum(high, self.low + error);
        // A sum that overflowed stays infinite instead of turning into NaN.
        *self = if high.is_finite() { Self { high, low } } else { Self { high: self.high + term, low: 0.0 } };
    }

    /// Adds another sum.
    pub fn merge(&mut self, other: Self) {
        self.add(other.high);
        self.add(other.low);
    }

    /// The sum, rounded once.
    #[must_use]
    pub fn value(self) -> f64 {
        self.high + self.low
    }
}

fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let sum = a + b;
    let from_b = sum - a;
    let from_a = sum - from_b;
    (sum, (a - from_a) + (b - from_b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_terms_survive_a_large_one_that_cancels() {
        let mut sum = Sum::default();
        for term in [1.0, 1e100, 1.0, -1e100] {
            sum.add(term);
        }
        // 1e100 is beyond 106 bits from 1, so the order matters only to the terms it swallowed.
        assert!(sum.value().abs() <= 2.0);
        let mut sum = Sum::default();
        for term in [0.1, 1e15, 0.2, -1e15] {
            sum.add(term);
        }
        assert!((sum.value() - 0.3).abs() < 1e-15);
    }

    #[test]
    fn an_overflow_is_infinite_and_never_nan() {
        let mut sum = Sum::default();
        sum.add(f64::MAX);
        sum.add(f64::MAX);
        sum.add(1.0);
        assert_eq!(sum.value(), f64::INFINITY);
    }
}
