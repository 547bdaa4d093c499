//! A 5G base station: what its rectifier, its meter and its gNB would report.

use super::wave::Wave;
use super::{Model, Moment, Values, rounded};

/// Seconds that a gNB's performance counters are for.
pub(super) const GNB_PERIOD_S: f64 = 60.0;

/// A base station's hidden state, of which its devices show parts.
#[derive(Clone, Debug)]
pub(super) struct BaseStation {
    /// Power from the mains, W.
    power_w: Wave,
    /// Downlink load, % of its physical resource blocks.
    load_pct: Wave,
    cabinet_c: Wave,
    humidity_pct: Wave,
    voltage_v: Wave,
    /// Meter reading when it was installed, kWh.
    meter_kwh: f64,
}

impl BaseStation {
    /// A station of ordinary size; busy in the evening, as its users are.
    #[must_use]
    pub(super) fn new(rng: &mut fastrand::Rng) -> Self {
        let size = 0.8 + 0.5 * rng.f64();
        let peak_hour = 19.0 + 3.0 * rng.f64();
        let load_pct = Wave::daily(34.0 * size, 18.0 * size, peak_hour).restless(6.0, rng);
        // Three radio units that draw 600 W idle and 1 kW busy, a baseband unit, and the cabinet's cooling.
        let power_w = Wave::flat(2_150.0 * size).plus(&load_pct.clone().times(21.0)).restless(60.0, rng);
        Self {
            power_w,
            load_pct,
            cabinet_c: Wave::daily(28.0 + 4.0 * rng.f64(), 4.0, 15.0).restless(0.8, rng),
            humidity_pct: Wave::daily(62.0, 12.0, 4.0).restless(3.0, rng),
            voltage_v: Wave::flat(53.5).restless(0.2, rng),
            meter_kwh: 4_000.0 + 60_000.0 * rng.f64(),
        }
    }

    /// The meter's reading at `at`, kWh.
    fn energy_kwh(&self, at: Moment) -> f64 {
        self.meter_kwh + self.power_w.integral(0.0, at.0) / 3.6e6
    }
}

/// The rectifier of a base station.
#[derive(Debug)]
pub(super) struct Rectifier(pub(super) std::sync::Arc<BaseStation>);

impl Model for Rectifier {
    fn values(&self, at: Moment) -> Values {
        let station = &self.0;
        let (power_w, voltage_v) = (station.power_w.at(at.0), station.voltage_v.at(at.0));
        // Rectifiers lose about 5 %.
        let load_a = power_w * 0.95 / voltage_v;
        vec![
            ("pwr_w", rounded(power_w, 0.1)),
            ("dc_voltage_v", rounded(voltage_v, 0.01)),
            ("load_current_a", rounded(load_a, 0.1)),
            ("temp_c", rounded(station.cabinet_c.at(at.0), 0.1)),
            ("humidity_pct", rounded(station.humidity_pct.at(at.0).clamp(0.0, 100.0), 0.1)),
            ("mains_ok", 1.0),
            ("battery_soc_pct", 100.0),
        ]
    }
}

/// The energy meter of a base station.
#[derive(Debug)]
pub(super) struct Meter(pub(super) std::sync::Arc<BaseStation>);

impl Model for Meter {
    fn values(&self, at: Moment) -> Values {
        vec![("energy_kwh", rounded(self.0.energy_kwh(at), 0.001))]
    }
}

/// The performance counters of a gNB, of the period that begins at the moment asked for.
#[derive(Debug)]
pub(super) struct Gnb(pub(super) std::sync::Arc<BaseStation>);

impl Model for Gnb {
    fn values(&self, at: Moment) -> Values {
        let load_pct = self.0.load_pct.integral(at.0, at.0 + GNB_PERIOD_S) / GNB_PERIOD_S;
        let load_pct = load_pct.clamp(0.0, 100.0);
        // A fully loaded carrier of 100 MHz moves about 1.2 Gbit/s with the users that a city has.
        let volume_kbit = load_pct / 100.0 * 1.2e6 * GNB_PERIOD_S;
        vec![
            ("users_mean", rounded(load_pct * 4.2, 0.1)),
            ("prb_dl_pct", rounded(load_pct, 0.01)),
            ("volume_kbit", rounded(volume_kbit, 1.0)),
        ]
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::simulate::wave::DAY_S;

    fn value(model: &dyn Model, name: &str, at_s: f64) -> f64 {
        let values = model.values(Moment(at_s));
        values.into_iter().find(|(metric, _)| *metric == name).expect("reported").1
    }

    #[test]
    fn the_meter_rises_by_what_the_rectifier_draws() {
        let station = Arc::new(BaseStation::new(&mut fastrand::Rng::with_seed(3)));
        let (meter, rectifier) = (Meter(station.clone()), Rectifier(station));
        let minutes = 24 * 60;
        let drawn_kwh: f64 = (0..minutes)
            .map(|minute| value(&rectifier, "pwr_w", DAY_S + 30.0 + 60.0 * f64::from(minute)) / 60_000.0)
            .sum();
        let metered_kwh = value(&meter, "energy_kwh", 2.0 * DAY_S) - value(&meter, "energy_kwh", DAY_S);
        assert!((drawn_kwh / metered_kwh - 1.0).abs() < 1e-3, "{drawn_kwh} {metered_kwh}");
    }

    #[test]
    fn an_ordinary_station_draws_two_to_four_and_a_half_kilowatts_all_day() {
        for seed in 0..50 {
            let rectifier = Rectifier(Arc::new(BaseStation::new(&mut fastrand::Rng::with_seed(seed))));
            for hour in 0..24 {
                let power_w = value(&rectifier, "pwr_w", 3_600.0 * f64::from(hour));
                assert!((1_900.0..4_500.0).contains(&power_w), "{power_w} W at {hour} h with seed {seed}");
            }
        }
    }
}
