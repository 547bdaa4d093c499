//! A container terminal: quay cranes, automated vehicles, the yard and the shore power of its berths.

use super::wave::{DAY_S, Duty, Wave};
use super::{Model, Moment, Values, rounded};

/// A quay crane's control.
#[derive(Debug)]
pub(super) struct Crane {
    /// Moves per hour while it is allocated to a vessel.
    rate_per_hour: f64,
    allocated: Duty,
}

impl Crane {
    /// A crane that makes 20 to 30 moves an hour, and is allocated from `start_s` on for most of every day.
    #[must_use]
    pub(super) fn new(start_s: f64, rng: &mut fastrand::Rng) -> Self {
        let allocated = Duty { period_s: DAY_S, on_s: 0.85 * DAY_S, start_s };
        Self { rate_per_hour: 22.0 + 7.0 * rng.f64(), allocated }
    }
}

impl Model for Crane {
    fn values(&self, at: Moment) -> Values {
        let allocated_s = self.allocated.seconds_on(0.0, at.0);
        let moves = self.rate_per_hour * allocated_s / 3_600.0;
        // A box hangs on the hoist for the first half of a move.
        let loaded = self.allocated.is_on(at.0) && moves.fract() < 0.5;
        let load_t = if loaded { 14.0 + (moves.floor() * 7.3).rem_euclid(17.0) } else { 0.0 };
        vec![
            ("moves", 40_000.0 + moves.floor()),
            ("allocated_s", rounded(5.0e6 + allocated_s, 1.0)),
            ("hoist_load_t", rounded(load_t, 0.1)),
        ]
    }
}

/// An automated guided vehicle.
#[derive(Debug)]
pub(super) struct Agv {
    available: Duty,
    charge_pct: Wave,
}

impl Agv {
    /// A vehicle that is scheduled always and away for a minute or two every two hours.
    #[must_use]
    pub(super) fn new(rng: &mut fastrand::Rng) -> Self {
        let (period_s, away_s) = (7_200.0, 50.0 + 80.0 * rng.f64());
        let available = Duty { period_s, on_s: period_s - away_s, start_s: period_s * rng.f64() };
        Self { available, charge_pct: Wave::daily(65.0, 5.0, 24.0 * rng.f64()).restless(20.0, rng) }
    }
}

impl Model for Agv {
    fn values(&self, at: Moment) -> Values {
        vec![
            ("available_s", rounded(self.available.seconds_on(0.0, at.0), 1.0)),
            ("scheduled_s", rounded(at.0, 1.0)),
            ("battery_soc_pct", rounded(self.charge_pct.at(at.0), 0.1)),
        ]
    }
}

/// The yard.
#[derive(Debug)]
pub(super) struct Yard(Wave);

impl Yard {
    /// A yard for `capacity_teu` that is about 70 % full.
    #[must_use]
    pub(super) fn new(capacity_teu: f64, rng: &mut fastrand::Rng) -> Self {
        Self(Wave::daily(0.70 * capacity_teu, 0.04 * capacity_teu, 6.0).restless(0.03 * capacity_teu, rng))
    }
}

impl Model for Yard {
    fn values(&self, at: Moment) -> Values {
        vec![("yard_teu", rounded(self.0.at(at.0), 1.0))]
    }
}

/// The shore-power meter of a berth.
#[derive(Debug)]
pub(super) struct ShorePower {
    connected: Duty,
    power_kw: Wave,
    meter_kwh: f64,
}

impl ShorePower {
    /// A berth whose vessels are connected for 15 of 20 hours, one of them from `start_s`.
    #[must_use]
    pub(super) fn new(start_s: f64, rng: &mut fastrand::Rng) -> Self {
        let connected = Duty { period_s: 72_000.0, on_s: 54_000.0, start_s };
        let mean_kw = 900.0 + 700.0 * rng.f64();
        Self {
            connected,
            power_kw: Wave::flat(mean_kw).restless(0.12 * mean_kw, rng),
            meter_kwh: 200_000.0 + 100_000.0 * rng.f64(),
        }
    }
}

impl Model for ShorePower {
    fn values(&self, at: Moment) -> Values {
        let on = self.connected.is_on(at.0);
        let energy = self.connected.spans(0.0, at.0).map(|(from, to)| self.power_kw.integral(from, to)).sum::<f64>();
        vec![
            ("shore_pwr_kw", if on { self.power_kw.at(at.0) } else { 0.0 }),
            ("shore_energy_kwh", self.meter_kwh + energy / 3_600.0),
            ("connected", f64::from(u8::from(on))),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rise(model: &dyn Model, name: &str, from_s: f64, to_s: f64) -> f64 {
        let value = |at| model.values(Moment(at)).into_iter().find(|(metric, _)| *metric == name).expect("reported").1;
        value(to_s) - value(from_s)
    }

    #[test]
    fn cranes_make_20_to_30_moves_in_an_allocated_hour() {
        for seed in 0..20 {
            let crane = Crane::new(0.0, &mut fastrand::Rng::with_seed(seed));
            let (from_s, to_s) = (3.0 * DAY_S, 3.0 * DAY_S + 4.0 * 3_600.0);
            let hours = rise(&crane, "allocated_s", from_s, to_s) / 3_600.0;
            let rate = rise(&crane, "moves", from_s, to_s) / hours;
            assert!((20.0..=30.0).contains(&rate), "{rate} moves/h with seed {seed}");
        }
    }

    #[test]
    fn vehicles_are_available_for_most_of_what_they_are_scheduled() {
        let agv = Agv::new(&mut fastrand::Rng::with_seed(4));
        let part = rise(&agv, "available_s", DAY_S, 2.0 * DAY_S) / rise(&agv, "scheduled_s", DAY_S, 2.0 * DAY_S);
        assert!((0.98..1.0).contains(&part), "{part}");
    }

    #[test]
    fn the_yard_is_60_to_80_percent_full() {
        let yard = Yard::new(36_000.0, &mut fastrand::Rng::with_seed(2));
        for hour in 0..48 {
            let teu = yard.values(Moment(3_600.0 * f64::from(hour)))[0].1;
            assert!((0.6..0.8).contains(&(teu / 36_000.0)), "{teu}");
        }
    }

    #[test]
    fn shore_energy_rises_only_while_a_vessel_is_connected() {
        let berth = ShorePower::new(1_000.0, &mut fastrand::Rng::with_seed(9));
        assert_eq!(rise(&berth, "shore_energy_kwh", 1_000.0 - 18_000.0, 1_000.0), 0.0);
        let session = rise(&berth, "shore_energy_kwh", 1_000.0, 1_000.0 + 3_600.0);
        assert!((700.0..2_000.0).contains(&session), "{session}");
    }
}
