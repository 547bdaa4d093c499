//! What a site reports: 13 quantities, those of the profiles that ship first.
//!
//! A site's gateway sends in one message what the devices of the shipped profiles send in several; name, unit, kind and
//! valid range are theirs, so that the shipped indicators compute. Every value has a fixed number of characters.

use std::fmt::Write;

use super::fleet::SiteKind;
use super::mixed;

/// How a value moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Course {
    /// Anywhere between the ends.
    Between,
    /// Rises by so many steps an hour, a function of the event time, so that late readings agree with others.
    Rising(u64),
    /// Is 1, and 0 once in about five hundred readings.
    On,
}

/// One quantity.
#[derive(Clone, Copy, Debug)]
pub(super) struct Quantity {
    pub(super) name: &'static str,
    unit: &'static str,
    kind: &'static str,
    /// What the profile says of valid values and wrapping.
    valid: &'static str,
    /// Decimals; values count in steps of the last one.
    pub(super) decimals: usize,
    /// Smallest value, and the one after the largest, in steps; both with the same number of characters.
    low: u64,
    high: u64,
    course: Course,
}

const fn gauge(name: &'static str, unit: &'static str, valid: &'static str, scale: (usize, u64, u64)) -> Quantity {
    Quantity {
        name,
        unit,
        kind: "gauge",
        valid,
        decimals: scale.0,
        low: scale.1,
        high: scale.2,
        course: Course::Between,
    }
}

const fn counter(name: &'static str, unit: &'static str, valid: &'static str, scale: (usize, u64)) -> Quantity {
    let (low, high) = (1_000_000_000, 9_999_999_999);
    let course = Course::Rising(scale.1);
    Quantity { name, unit, kind: "counter", valid, decimals: scale.0, low, high, course }
}

const fn state(name: &'static str, valid: &'static str) -> Quantity {
    Quantity { name, unit: "1", kind: "state", valid, decimals: 0, low: 0, high: 2, course: Course::On }
}

const PERCENT: &str = "valid = { min = 0, max = 100 }";
const POSITIVE: &str = "valid = { min = 0 }";
const WEATHER_C: &str = "valid = { min = -50, max = 90 }";

/// Rectifier, meter and gNB of a station, and its battery.
const STATION: [Quantity; 13] = [
    gauge("pwr_w", "W", "valid = { min = 0, max = 20000 }", (1, 19_000, 44_000)),
    gauge("dc_voltage_v", "V", "valid = { min = 0, max = 80 }", (2, 5_300, 5_400)),
    gauge("load_current_a", "A", "valid = { min = 0, max = 400 }", (1, 350, 800)),
    gauge("temp_c", "C", WEATHER_C, (1, 240, 360)),
    gauge("humidity_pct", "%", PERCENT, (1, 450, 800)),
    state("mains_ok", "valid = { min = 0, max = 1 }"),
    gauge("battery_soc_pct", "%", PERCENT, (1, 900, 1_000)),
    counter("energy_kwh", "kWh", POSITIVE, (3, 3_100)),
    gauge("users_mean", "1", "valid = { min = 0, max = 100000 }", (1, 1_000, 3_000)),
    gauge("prb_dl_pct", "%", PERCENT, (2, 1_000, 9_000)),
    Quantity { kind: "delta", ..gauge("volume_kbit", "kbit", POSITIVE, (0, 1_000_000, 9_000_000)) },
    gauge("battery_voltage_v", "V", "valid = { min = 0, max = 80 }", (2, 5_300, 5_400)),
    gauge("battery_temp_c", "C", WEATHER_C, (1, 240, 360)),
];

const MAINS_V: &str = "valid = { min = 0, max = 500 }";
const PHASE_A: &str = "valid = { min = 0, max = 125 }";

/// Distribution unit of a rack with its phases, and a probe at the outlet.
const RACK: [Quantity; 13] = [
    gauge("rack_pwr_kw", "kW", "valid = { min = 0, max = 100 }", (3, 4_000, 10_000)),
    counter("rack_energy_kwh", "kWh", "wrap = 42949672.96\nvalid = { min = 0, max = 42949672.95 }", (3, 7_000)),
    gauge("inlet_temp_c", "C", "band = { low = 18, high = 27 }\nvalid = { min = -20, max = 80 }", (1, 180, 275)),
    Quantity { valid: "", ..state("in_use", "") },
    gauge("phase_1_a", "A", PHASE_A, (1, 100, 300)),
    gauge("phase_2_a", "A", PHASE_A, (1, 100, 300)),
    gauge("phase_3_a", "A", PHASE_A, (1, 100, 300)),
    gauge("phase_1_v", "V", MAINS_V, (1, 2_200, 2_400)),
    gauge("phase_2_v", "V", MAINS_V, (1, 2_200, 2_400)),
    gauge("phase_3_v", "V", MAINS_V, (1, 2_200, 2_400)),
    gauge("outlet_temp_c", "C", "valid = { min = -20, max = 80 }", (1, 280, 400)),
    gauge("humidity_pct", "%", PERCENT, (1, 400, 600)),
    gauge("power_factor", "1", "valid = { min = 0, max = 1 }", (2, 90, 100)),
];

/// Crane, vehicle, yard and shore power of a port, and its weather.
const PORT: [Quantity; 13] = [
    counter("moves", "moves", POSITIVE, (0, 30)),
    counter("allocated_s", "s", POSITIVE, (0, 2_900)),
    gauge("hoist_load_t", "t", "valid = { min = -5, max = 150 }", (1, 100, 400)),
    counter("available_s", "s", POSITIVE, (0, 3_400)),
    counter("scheduled_s", "s", POSITIVE, (0, 3_600)),
    gauge("battery_soc_pct", "%", PERCENT, (1, 200, 1_000)),
    gauge("yard_teu", "TEU", "valid = { min = 0, max = 1000000 }", (0, 10_000, 30_000)),
    gauge("shore_pwr_kw", "kW", "valid = { min = -100, max = 20000 }", (1, 10_000, 20_000)),
    counter("shore_energy_kwh", "kWh", "valid = { min = 0, max = 1e12 }", (3, 1_500_000)),
    Quantity { valid: "", ..state("connected", "") },
    gauge("temp_c", "C", WEATHER_C, (1, 100, 360)),
    gauge("humidity_pct", "%", PERCENT, (1, 450, 900)),
    gauge("pwr_w", "W", "valid = { min = 0, max = 20000 }", (1, 10_000, 90_000)),
];

/// What a site of this kind reports.
pub(super) const fn quantities(kind: SiteKind) -> &'static [Quantity; 13] {
    match kind {
        SiteKind::Station => &STATION,
        SiteKind::Rack => &RACK,
        SiteKind::Port => &PORT,
    }
}

/// The profile of the gateways of such sites.
pub(super) fn profile_toml(kind: SiteKind) -> String {
    let mut text = format!("id = \"{}\"\ninterval = \"10s\"\n", kind.profile());
    for Quantity { name, unit, kind, valid, .. } in quantities(kind) {
        write!(text, "\n[[metric]]\nname = \"{name}\"\nunit = \"{unit}\"\nkind = \"{kind}\"\n{valid}\n")
            .expect("invariant: a String takes all that is written");
    }
    text
}

const HOUR_MS: u64 = 3_600_000;

impl Quantity {
    /// Characters of every value.
    pub(super) fn width(&self) -> usize {
        let digits = self.low.max(1).ilog10() as usize + 1;
        digits.max(self.decimals + 1) + usize::from(self.decimals > 0)
    }

    /// The value in steps: of the site with `site_seed`, at `time_ms`, by `chance`.
    pub(super) fn steps(&self, site_seed: u64, time_ms: u64, chance: u64) -> u64 {
        let span = self.high - self.low;
        match self.course {
            Course::Between => self.low + part_of(span, chance),
            Course::Rising(steps_per_hour) => {
                let risen = time_ms.saturating_mul(steps_per_hour) / HOUR_MS;
                // Begins anew after decades.
                self.low + (part_of(span / 2, mixed(site_seed)) + risen) % span
            }
            Course::On => u64::from(chance >> 55 != 0),
        }
    }

    /// Writes the value over the characters of another one.
    pub(super) fn write(&self, mut steps: u64, text: &mut [u8]) {
        let point = (self.decimals > 0).then(|| text.len() - 1 - self.decimals);
        for at in (0..text.len()).rev().filter(|at| Some(*at) != point) {
            text[at] = b'0' + u8::try_from(steps % 10).unwrap_or(0);
            steps /= 10;
        }
    }

    /// A value that is valid, as text.
    pub(super) fn sample(&self) -> String {
        let mut text = vec![b'.'; self.width()];
        self.write(self.low, &mut text);
        String::from_utf8(text).expect("invariant: digits and a point")
    }
}

/// Evenly spread over `0..span` as `chance` is over all of `u64`.
fn part_of(span: u64, chance: u64) -> u64 {
    u64::try_from((u128::from(span) * u128::from(chance)) >> 64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::parse_profile;
    use crate::simulate::PROFILES;

    #[test]
    fn what_the_shipped_profiles_name_means_here_what_it_means_there() {
        let parse = |(file, text): (&str, &str)| parse_profile(file, text).expect("a good profile");
        let shipped: Vec<_> = PROFILES.into_iter().map(parse).collect();
        let mut shared = 0;
        for kind in SiteKind::ALL {
            let profile = parse((kind.profile(), &profile_toml(kind)));
            assert_eq!(profile.metrics.len(), 13);
            for metric in &profile.metrics {
                let theirs = shipped.iter().filter(|theirs| theirs.id != "bs-energy-hourly");
                for theirs in theirs.flat_map(|theirs| &theirs.metrics).filter(|theirs| theirs.name == metric.name) {
                    let theirs = crate::inventory::MetricDef { register: None, ..theirs.clone() };
                    assert_eq!(*metric, theirs);
                    shared += 1;
                }
            }
        }
        assert!(shared >= 11 + 4 + 10, "{shared}");
    }

    #[test]
    fn every_value_has_its_width_and_lies_in_the_profiles_range() {
        for kind in SiteKind::ALL {
            let profile = parse_profile("x", &profile_toml(kind)).expect("a good profile");
            for (quantity, metric) in quantities(kind).iter().zip(&profile.metrics) {
                let mut text = quantity.sample().into_bytes();
                for (chance, time_ms) in
                    [0, 1, u64::MAX / 3, u64::MAX].into_iter().zip([0, 1_764_000_000_000, 1, 1 << 42])
                {
                    quantity.write(quantity.steps(chance, time_ms, chance), &mut text);
                    let text = std::str::from_utf8(&text).expect("digits");
                    let value: f64 = serde_json::from_str(text).expect("a JSON number");
                    assert!((metric.valid.0..=metric.valid.1).contains(&value), "{} = {text}", quantity.name);
                }
            }
        }
    }

    #[test]
    fn a_counter_never_falls_within_a_year() {
        let meter = &STATION[7];
        let at = |hour: u64| meter.steps(5, 1_764_000_000_000 + hour * 3_600_000, 0);
        assert!((0..8_760).all(|hour| at(hour) < at(hour + 1)));
        assert_eq!(at(1) - at(0), 3_100, "3.1 kW for an hour");
    }
}
