//! Units as dimension and factor, so that a formula's result can be compared with the unit that it claims.
//!
//! A number times its unit's factor is the quantity in base units. Owns the table of symbols; never converts values.

use std::fmt;

/// Base quantities; a dimension is an exponent for each.
const BASES: [&str; 8] = ["kg", "m", "s", "A", "C", "bit", "moves", "TEU"];

const KG: usize = 0;
const M: usize = 1;
const S: usize = 2;
const A: usize = 3;
const C: usize = 4;
const BIT: usize = 5;
const MOVES: usize = 6;
const TEU: usize = 7;

type Dimension = [i16; BASES.len()];

const NONE: Dimension = [0; BASES.len()];
const POWER: Dimension = dimension(&[(KG, 1), (M, 2), (S, -3)]);
const ENERGY: Dimension = dimension(&[(KG, 1), (M, 2), (S, -2)]);
const VOLTAGE: Dimension = dimension(&[(KG, 1), (M, 2), (S, -3), (A, -1)]);
const PRESSURE: Dimension = dimension(&[(KG, 1), (M, -1), (S, -2)]);

/// Longest unit text that is read.
const TEXT_BYTES_MAX: usize = 40;

/// Relative difference up to which two factors are the same one.
const FACTOR_TOLERANCE: f64 = 1e-9;

/// Symbol, dimension, factor to base units. The first symbol of a dimension and factor is the one that messages use.
const SYMBOLS: &[(&str, Dimension, f64)] = &[
    ("1", NONE, 1.0),
    ("%", NONE, 1e-2),
    ("‰", NONE, 1e-3),
    ("ppm", NONE, 1e-6),
    ("W", POWER, 1.0),
    ("mW", POWER, 1e-3),
    ("kW", POWER, 1e3),
    ("MW", POWER, 1e6),
    ("GW", POWER, 1e9),
    ("VA", POWER, 1.0),
    ("kVA", POWER, 1e3),
    ("MVA", POWER, 1e6),
    ("var", POWER, 1.0),
    ("kvar", POWER, 1e3),
    ("Wh", ENERGY, 3.6e3),
    ("kWh", ENERGY, 3.6e6),
    ("MWh", ENERGY, 3.6e9),
    ("GWh", ENERGY, 3.6e12),
    ("J", ENERGY, 1.0),
    ("kJ", ENERGY, 1e3),
    ("MJ", ENERGY, 1e6),
    ("GJ", ENERGY, 1e9),
    ("V", VOLTAGE, 1.0),
    ("mV", VOLTAGE, 1e-3),
    ("kV", VOLTAGE, 1e3),
    ("A", dimension(&[(A, 1)]), 1.0),
    ("mA", dimension(&[(A, 1)]), 1e-3),
    ("kA", dimension(&[(A, 1)]), 1e3),
    ("Ah", dimension(&[(A, 1), (S, 1)]), 3.6e3),
    ("C", dimension(&[(C, 1)]), 1.0),
    ("°C", dimension(&[(C, 1)]), 1.0),
    ("s", dimension(&[(S, 1)]), 1.0),
    ("ms", dimension(&[(S, 1)]), 1e-3),
    ("min", dimension(&[(S, 1)]), 60.0),
    ("h", dimension(&[(S, 1)]), 3.6e3),
    ("d", dimension(&[(S, 1)]), 8.64e4),
    ("Hz", dimension(&[(S, -1)]), 1.0),
    ("kHz", dimension(&[(S, -1)]), 1e3),
    ("MHz", dimension(&[(S, -1)]), 1e6),
    ("bit", dimension(&[(BIT, 1)]), 1.0),
    ("kbit", dimension(&[(BIT, 1)]), 1e3),
    ("Mbit", dimension(&[(BIT, 1)]), 1e6),
    ("Gbit", dimension(&[(BIT, 1)]), 1e9),
    ("Tbit", dimension(&[(BIT, 1)]), 1e12),
    ("B", dimension(&[(BIT, 1)]), 8.0),
    ("kB", dimension(&[(BIT, 1)]), 8e3),
    ("MB", dimension(&[(BIT, 1)]), 8e6),
    ("GB", dimension(&[(BIT, 1)]), 8e9),
    ("TB", dimension(&[(BIT, 1)]), 8e12),
    ("kg", dimension(&[(KG, 1)]), 1.0),
    ("kgCO2", dimension(&[(KG, 1)]), 1.0),
    ("g", dimension(&[(KG, 1)]), 1e-3),
    ("t", dimension(&[(KG, 1)]), 1e3),
    ("m", dimension(&[(M, 1)]), 1.0),
    ("mm", dimension(&[(M, 1)]), 1e-3),
    ("km", dimension(&[(M, 1)]), 1e3),
    ("m2", dimension(&[(M, 2)]), 1.0),
    ("L", dimension(&[(M, 3)]), 1e-3),
    ("m3", dimension(&[(M, 3)]), 1.0),
    ("Pa", PRESSURE, 1.0),
    ("hPa", PRESSURE, 1e2),
    ("kPa", PRESSURE, 1e3),
    ("bar", PRESSURE, 1e5),
    ("moves", dimension(&[(MOVES, 1)]), 1.0),
    ("TEU", dimension(&[(TEU, 1)]), 1.0),
];

const fn dimension(exponents: &[(usize, i16)]) -> Dimension {
    let mut dimension = [0; BASES.len()];
    let mut i = 0;
    while i < exponents.len() {
        dimension[exponents[i].0] = exponents[i].1;
        i += 1;
    }
    dimension
}

/// A text that is no unit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no known unit; give symbols such as 1, %, W, kWh, C, V, A, s, h, kbit, B, kg, L, moves, TEU, joined by * and /, with ^ for powers (moves/h, bit/J, 1/10^4)"
)]
pub struct UnknownUnit(pub String);

/// What one of a number stands for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Unit {
    dimension: Dimension,
    factor: f64,
}

impl Unit {
    /// The unit of counts and plain ratios.
    pub const ONE: Self = Self { dimension: NONE, factor: 1.0 };

    /// The unit of minutes of observation.
    pub const MINUTE: Self = Self { dimension: dimension(&[(S, 1)]), factor: 60.0 };

    /// Reads symbols joined by `*` and `/`, each with an optional `^` power: `kWh`, `moves/h`, `kbit/s`, `1/10^4`.
    ///
    /// # Errors
    /// [`UnknownUnit`] where a symbol is not in the table or the text is no such product.
    pub fn parse(text: &str) -> Result<Self, UnknownUnit> {
        let unknown = || UnknownUnit(text.to_owned());
        if text.len() > TEXT_BYTES_MAX {
            return Err(unknown());
        }
        let mut unit = Self::ONE;
        for (n, quotient) in text.split('/').enumerate() {
            for term in quotient.split(['*', '·']) {
                let term = power(term.trim()).ok_or_else(unknown)?;
                unit = if n == 0 { unit.times(term) } else { unit.per(term) };
            }
        }
        if unit.factor.is_normal() { Ok(unit) } else { Err(unknown()) }
    }

    /// The unit of a product.
    #[must_use]
    pub fn times(self, other: Self) -> Self {
        self.combine(other, i16::saturating_add, self.factor * other.factor)
    }

    /// The unit of a quotient.
    #[must_use]
    pub fn per(self, other: Self) -> Self {
        self.combine(other, i16::saturating_sub, self.factor / other.factor)
    }

    /// The unit of a number in this unit after it was multiplied by `number`: 100 times a ratio is in percent.
    #[must_use]
    pub fn scaled_by(self, number: f64) -> Self {
        Self { dimension: self.dimension, factor: self.factor / number.abs() }
    }

    /// Whether numbers in both units measure the same thing, on whatever scale.
    #[must_use]
    pub fn is_comparable_to(&self, other: &Self) -> bool {
        self.dimension == other.dimension
    }

    /// Whether numbers in both units may be added as they are.
    #[must_use]
    pub fn is_same_as(&self, other: &Self) -> bool {
        self.is_comparable_to(other) && (self.factor / other.factor - 1.0).abs() <= FACTOR_TOLERANCE
    }

    /// What a number in this unit has to be multiplied by to be in `other`.
    #[must_use]
    pub fn factor_to(&self, other: &Self) -> f64 {
        self.factor / other.factor
    }

    fn combine(self, other: Self, exponent: fn(i16, i16) -> i16, factor: f64) -> Self {
        let mut dimension = self.dimension;
        for (mine, theirs) in dimension.iter_mut().zip(other.dimension) {
            *mine = exponent(*mine, theirs);
        }
        Self { dimension, factor }
    }

    fn symbol(&self) -> Option<&'static str> {
        SYMBOLS
            .iter()
            .find(|(_, dimension, factor)| self.is_same_as(&Self { dimension: *dimension, factor: *factor }))
            .map(|(symbol, ..)| *symbol)
    }

    /// Two symbols whose quotient this unit is.
    fn quotient(&self) -> Option<(&'static str, &'static str)> {
        let units = || SYMBOLS.iter().filter(|(_, dimension, _)| *dimension != NONE);
        units().find_map(|&(below, dimension, factor)| {
            let above = self.times(Self { dimension, factor });
            (above.dimension != NONE || above.factor == 1.0).then(|| above.symbol().map(|above| (above, below)))?
        })
    }
}

/// A symbol or a number, with an optional power.
fn power(term: &str) -> Option<Unit> {
    if let Some((_, dimension, factor)) = SYMBOLS.iter().find(|(symbol, ..)| *symbol == term) {
        return Some(Unit { dimension: *dimension, factor: *factor });
    }
    let (base, exponent) = term.split_once('^').unwrap_or((term, "1"));
    let exponent: i16 = exponent.parse().ok().filter(|exponent| (-9..=9).contains(exponent))?;
    let base = match base.parse::<u32>() {
        Ok(number) if base.bytes().all(|byte| byte.is_ascii_digit()) => {
            Unit { dimension: NONE, factor: f64::from(number) }
        }
        _ => {
            let (_, dimension, factor) = SYMBOLS.iter().find(|(symbol, ..)| *symbol == base)?;
            Unit { dimension: *dimension, factor: *factor }
        }
    };
    let raised = (0..exponent.unsigned_abs()).fold(Unit::ONE, |unit, _| unit.times(base));
    Some(if exponent < 0 { Unit::ONE.per(raised) } else { raised })
}

/// The symbol where the table has one, else a quotient of two, else base units.
impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(symbol) = self.symbol() {
            return f.write_str(symbol);
        }
        if let Some((above, below)) = self.quotient() {
            return write!(f, "{above}/{below}");
        }
        let mut separator = "";
        if (self.factor - 1.0).abs() > FACTOR_TOLERANCE || self.dimension == NONE {
            write!(f, "{}", self.factor)?;
            separator = " ";
        }
        for (base, &exponent) in BASES.iter().zip(&self.dimension).filter(|(_, exponent)| **exponent != 0) {
            write!(f, "{separator}{base}")?;
            if exponent != 1 {
                write!(f, "^{exponent}")?;
            }
            separator = "*";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(text: &str) -> Unit {
        Unit::parse(text).expect("a unit")
    }

    #[test]
    fn products_and_quotients_of_symbols_are_units() {
        assert!(unit("kW*h").is_same_as(&unit("kWh")));
        assert!(unit("V*A").is_same_as(&unit("W")));
        assert!(unit("kWh/h").is_same_as(&unit("kW")));
        assert!(unit("m^3").is_same_as(&unit("m3")));
        assert!(unit("s^-1").is_same_as(&unit("Hz")));
        assert!(unit("1/10^4").is_same_as(&Unit::ONE.scaled_by(1e4)));
        assert!(!unit("kWh").is_same_as(&unit("MWh")));
        assert!(!unit("moves").is_comparable_to(&unit("TEU")));
    }

    #[test]
    fn a_number_in_one_unit_times_the_factor_is_in_the_other() {
        assert_eq!(unit("MWh").factor_to(&unit("kWh")), 1_000.0);
        assert!((unit("moves/s").factor_to(&unit("moves/h")) - 3_600.0).abs() < 1e-9);
    }

    #[test]
    fn what_is_no_unit_is_refused() {
        for text in ["", "watts", "kWh//h", "kWh^", "kWh^x", "kWh^10", "0", "1/0", "-1", "kWh per h", &"m*".repeat(30)]
        {
            assert!(Unit::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn messages_name_a_unit_as_people_write_it() {
        for text in ["1", "%", "kWh", "kW", "moves/h", "moves/s", "L/kWh", "TEU"] {
            assert_eq!(unit(text).to_string(), text);
        }
        assert_eq!(unit("1/10^4").to_string(), "0.0001");
        assert_eq!(unit("TEU^2").to_string(), "TEU^2");
    }

    #[test]
    fn every_symbol_of_the_table_is_found_once_and_reads_back() {
        for (n, (symbol, dimension, factor)) in SYMBOLS.iter().enumerate() {
            assert!(SYMBOLS[..n].iter().all(|(other, ..)| other != symbol), "{symbol}");
            assert_eq!(unit(symbol), Unit { dimension: *dimension, factor: *factor });
        }
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in "[ -~°‰·]{0,45}|[kWhmsbitTEU/*^0-9.-]{0,30}") {
            if let Ok(unit) = Unit::parse(&text) {
                proptest::prop_assert!(!unit.to_string().is_empty());
            }
        }
    }
}
