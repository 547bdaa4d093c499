//! A data centre: racks that draw power through two UPS, cooling on top, and the meters that see it.

use std::sync::Arc;

use super::wave::Wave;
use super::{Model, Moment, Values, rounded};

/// Part of the UPS' output that is lost before it reaches a rack.
const DISTRIBUTION_LOSS: f64 = 0.02;
/// Part of the UPS' output that the UPS lose themselves.
const UPS_LOSS: f64 = 0.055;

/// A data centre's hidden state.
#[derive(Clone, Debug)]
pub struct DataCentre {
    racks: Vec<Rack>,
    /// Output of each UPS, kW.
    ups_kw: [Wave; 2],
    total_kw: Wave,
}

#[derive(Clone, Debug)]
struct Rack {
    power_kw: Wave,
    inlet_c: Wave,
    in_use: bool,
    meter_kwh: f64,
}

impl DataCentre {
    /// A data centre with `racks` racks, about 70 % of them in use.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a few racks")]
    pub fn new(racks: usize, rng: &mut fastrand::Rng) -> Self {
        let racks: Vec<_> = (0..racks).map(|index| rack(index, rng)).collect();
        let it_kw = |part: usize| {
            let fed = racks.iter().skip(part).step_by(2);
            fed.fold(Wave::flat(0.0), |sum, rack| sum.plus(&rack.power_kw)).times(1.0 + DISTRIBUTION_LOSS)
        };
        let ups_kw = [it_kw(0), it_kw(1)];
        let it_kw = ups_kw[0].clone().plus(&ups_kw[1]);
        // Cooling follows the load, and the outside temperature with its peak in the afternoon.
        let installed_kw = racks.len() as f64 * 8.0;
        let cooling_kw = it_kw.clone().times(0.15).plus(&Wave::daily(0.055 * installed_kw, 0.025 * installed_kw, 15.0));
        let total_kw = it_kw.times(1.0 + UPS_LOSS).plus(&cooling_kw).plus(&Wave::flat(0.01 * installed_kw));
        Self { racks, ups_kw, total_kw }
    }

    /// Racks that are in use.
    #[must_use]
    pub fn racks_in_use(&self) -> usize {
        self.racks.iter().filter(|rack| rack.in_use).count()
    }

    /// Power usage effectiveness over a span, exactly: what the meters can at best come to.
    #[must_use]
    pub fn pue(&self, from: Moment, to: Moment) -> f64 {
        let it: f64 = self.ups_kw.iter().map(|ups| ups.integral(from.0, to.0)).sum();
        self.total_kw.integral(from.0, to.0) / it
    }
}

fn rack(index: usize, rng: &mut fastrand::Rng) -> Rack {
    // Seven of ten, spread over the rows.
    let in_use = index * 7 % 10 < 7;
    let power_kw = if in_use {
        let mean_kw = 8.0 + 8.0 * rng.f64();
        Wave::daily(mean_kw, 0.06 * mean_kw, 16.0).restless(0.05 * mean_kw, rng)
    } else {
        Wave::flat(0.06)
    };
    // One in twenty stands where the air comes back warm.
    let mean_c = if index % 20 == 13 { 27.8 } else { 21.0 + 3.5 * rng.f64() };
    let inlet_c = Wave::daily(mean_c, 0.4, 15.0).restless(0.7, rng);
    Rack { power_kw, inlet_c, in_use, meter_kwh: 3_000.0 + 20_000.0 * rng.f64() }
}

/// The meter at the utility feed.
#[derive(Debug)]
pub(super) struct UtilityMeter(pub(super) Arc<DataCentre>);

impl Model for UtilityMeter {
    fn values(&self, at: Moment) -> Values {
        let energy_kwh = 2_400_000.0 + self.0.total_kw.integral(0.0, at.0) / 3_600.0;
        vec![("total_pwr_kw", self.0.total_kw.at(at.0)), ("total_energy_kwh", energy_kwh)]
    }
}

/// One of the UPS.
#[derive(Debug)]
pub(super) struct Ups {
    /// The data centre.
    pub(super) centre: Arc<DataCentre>,
    /// Which of the two, 0 or 1.
    pub(super) index: usize,
}

impl Model for Ups {
    fn values(&self, at: Moment) -> Values {
        let output_kw = &self.centre.ups_kw[self.index];
        let energy_kwh = 900_000.0 + output_kw.integral(0.0, at.0) / 3_600.0;
        vec![("it_pwr_kw", output_kw.at(at.0)), ("battery_charge_pct", 100.0), ("it_energy_kwh", energy_kwh)]
    }
}

/// The power distribution unit of a rack.
#[derive(Debug)]
pub(super) struct RackPdu {
    /// The data centre.
    pub(super) centre: Arc<DataCentre>,
    /// Which of its racks.
    pub(super) index: usize,
}

impl Model for RackPdu {
    fn values(&self, at: Moment) -> Values {
        let rack = &self.centre.racks[self.index];
        vec![
            ("rack_pwr_kw", rack.power_kw.at(at.0)),
            ("rack_energy_kwh", rack.meter_kwh + rack.power_kw.integral(0.0, at.0) / 3_600.0),
            ("inlet_temp_c", rounded(rack.inlet_c.at(at.0), 0.1)),
            ("in_use", f64::from(u8::from(rack.in_use))),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulate::wave::DAY_S;

    #[test]
    fn pue_stays_between_1_2_and_1_4_all_day() {
        for seed in 0..20 {
            let centre = DataCentre::new(40, &mut fastrand::Rng::with_seed(seed));
            for hour in 0..24 {
                let at_s = DAY_S + 3_600.0 * f64::from(hour);
                let pue = centre.pue(Moment(at_s), Moment(at_s + 60.0));
                assert!((1.22..1.38).contains(&pue), "{pue} at {hour} h with seed {seed}");
            }
        }
    }

    #[test]
    fn seven_of_ten_racks_are_in_use() {
        let centre = DataCentre::new(40, &mut fastrand::Rng::with_seed(1));
        assert_eq!(centre.racks_in_use(), 28);
    }

    #[test]
    fn the_meters_agree_with_the_data_centre() {
        let centre = Arc::new(DataCentre::new(40, &mut fastrand::Rng::with_seed(5)));
        let (from, to) = (Moment(DAY_S), Moment(DAY_S + 900.0));
        let rise = |model: &dyn Model, name: &str| {
            let value = |at| model.values(at).into_iter().find(|(metric, _)| *metric == name).expect("reported").1;
            value(to) - value(from)
        };
        let total = rise(&UtilityMeter(centre.clone()), "total_energy_kwh");
        let it: f64 = (0..2).map(|index| rise(&Ups { centre: centre.clone(), index }, "it_energy_kwh")).sum();
        assert!((total / it - centre.pue(from, to)).abs() < 1e-6);
    }
}
