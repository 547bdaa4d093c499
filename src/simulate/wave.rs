//! Quantities over time in closed form: smooth ones, and ones that are on and off by turns.
//!
//! A value and its integral at any instant come from the same formula, so a simulated meter's energy is exactly the
//! integral of the simulated power, whenever and in whatever order it is asked. Never reads the clock.

use std::f64::consts::TAU;

/// Seconds of a day.
pub(super) const DAY_S: f64 = 86_400.0;

/// A mean with sines around it. Time is in seconds since a local midnight.
#[derive(Clone, Debug, PartialEq)]
pub struct Wave {
    mean: f64,
    sines: Vec<Sine>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Sine {
    amplitude: f64,
    /// Radians per second.
    frequency: f64,
    phase: f64,
}

impl Wave {
    /// Always `mean`.
    #[must_use]
    pub const fn flat(mean: f64) -> Self {
        Self { mean, sines: Vec::new() }
    }

    /// `mean`, and `swing` more at `peak_hour` of every day, `swing` less half a day later.
    #[must_use]
    pub fn daily(mean: f64, swing: f64, peak_hour: f64) -> Self {
        let frequency = TAU / DAY_S;
        // A cosine that peaks at the hour.
        let phase = TAU / 4.0 - frequency * peak_hour * 3_600.0;
        Self { mean, sines: vec![Sine { amplitude: swing, frequency, phase }] }
    }

    /// With unrest of up to `amplitude` over minutes and hours.
    #[must_use]
    pub fn restless(mut self, amplitude: f64, rng: &mut fastrand::Rng) -> Self {
        for (part, period_s) in [(0.3, 190.0), (0.3, 1_260.0), (0.4, 9_700.0)] {
            let frequency = TAU / (period_s * (0.8 + 0.4 * rng.f64()));
            self.sines.push(Sine { amplitude: amplitude * part, frequency, phase: TAU * rng.f64() });
        }
        self
    }

    /// `factor` times as much.
    #[must_use]
    pub fn times(mut self, factor: f64) -> Self {
        self.mean *= factor;
        self.sines.iter_mut().for_each(|sine| sine.amplitude *= factor);
        self
    }

    /// With `other` added.
    #[must_use]
    pub fn plus(mut self, other: &Self) -> Self {
        self.mean += other.mean;
        self.sines.extend(&other.sines);
        self
    }

    /// The value at `at_s`.
    #[must_use]
    pub fn at(&self, at_s: f64) -> f64 {
        self.mean
            + self.sines.iter().map(|sine| sine.amplitude * (sine.frequency * at_s + sine.phase).sin()).sum::<f64>()
    }

    /// The integral from `from_s` to `to_s`, in units of the value times seconds.
    #[must_use]
    pub fn integral(&self, from_s: f64, to_s: f64) -> f64 {
        let antiderivative = |sine: &Sine, at_s: f64| -(sine.frequency * at_s + sine.phase).cos() / sine.frequency;
        let rise = |sine: &Sine| sine.amplitude * (antiderivative(sine, to_s) - antiderivative(sine, from_s));
        self.mean * (to_s - from_s) + self.sines.iter().map(rise).sum::<f64>()
    }
}

/// On for a part of every period: a berth with a vessel, a vehicle out of maintenance.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Duty {
    /// Length of a period, s.
    pub period_s: f64,
    /// How long it is on, from the start of each period, s.
    pub on_s: f64,
    /// Start of some period, s.
    pub start_s: f64,
}

impl Duty {
    /// Whether it is on at `at_s`.
    #[must_use]
    pub fn is_on(&self, at_s: f64) -> bool {
        (at_s - self.start_s).rem_euclid(self.period_s) < self.on_s
    }

    /// The spans in which it is on, within `[from_s, to_s)`, in order.
    pub fn spans(&self, from_s: f64, to_s: f64) -> impl Iterator<Item = (f64, f64)> + use<> {
        let Self { period_s, on_s, start_s } = *self;
        let first = start_s + ((from_s - start_s) / period_s).floor() * period_s;
        std::iter::successors(Some(first), move |start| Some(start + period_s))
            .take_while(move |start| *start < to_s)
            .map(move |start| (start.max(from_s), (start + on_s).min(to_s)))
            .filter(|(from, to)| from < to)
    }

    /// Seconds for which it is on within `[from_s, to_s)`.
    #[must_use]
    pub fn seconds_on(&self, from_s: f64, to_s: f64) -> f64 {
        self.spans(from_s, to_s).map(|(from, to)| to - from).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn energy_is_the_integral_of_power() {
        let mut rng = fastrand::Rng::with_seed(7);
        let power = Wave::daily(3_200.0, 700.0, 20.0).restless(150.0, &mut rng);
        let (from_s, step_s) = (DAY_S * 3.0 + 17.0, 0.5);
        let count = 20_000;
        let by_hand: f64 = (0..count).map(|step| power.at(from_s + (f64::from(step) + 0.5) * step_s) * step_s).sum();
        let exact = power.integral(from_s, from_s + f64::from(count) * step_s);
        assert!((by_hand / exact - 1.0).abs() < 1e-7, "{by_hand} {exact}");
    }

    #[test]
    fn a_day_peaks_at_its_hour() {
        let wave = Wave::daily(10.0, 2.0, 20.0);
        assert!((wave.at(20.0 * 3_600.0) - 12.0).abs() < 1e-9);
        assert!((wave.at(DAY_S + 8.0 * 3_600.0) - 8.0).abs() < 1e-9);
    }

    #[test]
    fn sums_and_multiples_of_waves_are_those_of_their_values() {
        let mut rng = fastrand::Rng::with_seed(8);
        let (a, b) = (Wave::daily(5.0, 1.0, 3.0), Wave::flat(2.0).restless(0.5, &mut rng));
        let both = a.clone().times(3.0).plus(&b);
        assert!((both.at(12_345.0) - (3.0 * a.at(12_345.0) + b.at(12_345.0))).abs() < 1e-9);
    }

    #[test]
    fn seconds_on_are_counted_over_part_periods() {
        let duty = Duty { period_s: 100.0, on_s: 30.0, start_s: 10.0 };
        assert!(duty.is_on(10.0) && duty.is_on(139.0) && !duty.is_on(40.0) && !duty.is_on(9.0));
        assert_eq!(duty.seconds_on(20.0, 120.0), 20.0 + 10.0);
        assert_eq!(duty.seconds_on(45.0, 100.0), 0.0);
    }
}
