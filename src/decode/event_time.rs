//! From the time that a message gives to the event time of its readings, under the time policy of the device's profile.
//!
//! Every outcome says what is wrong: a text that is no time and one without a zone cannot be understood and reject the
//! message; a time that is understood but cannot be right makes its readings invalid, by reason. Pure: arrival and
//! limits are arguments.

use std::borrow::Cow;

use jiff::tz::TimeZone;

use crate::inventory::{TimePolicy, TimeRule, TimeUnit};
use crate::ledger::{Invalid, Rejection};
use crate::model::Timestamp;

/// 2010-01-01T00:00:00Z. Clocks that were never set begin in 1970, 1980, 2000 or 2008 and have not come further; no
/// retention reaches back as far.
const DEVICE_CLOCK_SET_FROM: Timestamp = Timestamp::from_millis(1_262_304_000_000);
/// 2200-01-01T00:00:00Z, the latest event time that anyone may claim.
const LATEST: Timestamp = Timestamp::from_millis(7_258_118_400_000);
/// The units of numbers, with the powers of ten that lie between each and the second.
const UNITS: [(TimeUnit, u32); 4] =
    [(TimeUnit::Seconds, 0), (TimeUnit::Millis, 3), (TimeUnit::Micros, 6), (TimeUnit::Nanos, 9)];

/// The time that a message gives, as it was written.
#[derive(Clone, Debug, PartialEq)]
pub enum GivenTime<'a> {
    /// A whole number.
    Whole(i64),
    /// A number with a fraction or exponent, or beyond 63 bits.
    Real(f64),
    /// A text.
    Text(Cow<'a, str>),
    /// Neither a number nor a text.
    Other,
}

/// What the event time is held against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeLimits {
    /// When the message reached us; `None` where our own clock was not set then.
    pub arrival: Option<Timestamp>,
    /// Readings before this are older than the store keeps.
    pub oldest: Timestamp,
    /// Readings after this lie further ahead than allowed; `None` where our own clock cannot tell.
    pub newest: Option<Timestamp>,
}

/// Where a message's readings belong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placed {
    /// At this event time.
    At(Timestamp),
    /// At its arrival: the time that it gave, which is kept here, lies too far ahead.
    Clamped(Timestamp),
    /// Nowhere; every reading is invalid for this reason.
    Refused(Invalid),
    /// Nowhere; they are older than the store keeps.
    Expired,
}

/// Finds the event time of a message's readings.
///
/// # Errors
/// The [`Rejection`] of a message whose time cannot be understood.
pub fn place(given: Option<&GivenTime<'_>>, policy: &TimePolicy, limits: &TimeLimits) -> Result<Placed, Rejection> {
    let given = given.filter(|_| policy.rule != TimeRule::Arrival);
    let Some(given) = given else {
        return Ok(limits.arrival.map_or(Placed::Refused(Invalid::NoClock), Placed::At));
    };
    let number = number_of(given);
    let time = match (given, number) {
        (_, Some(number)) => number.read(policy.unit),
        (GivenTime::Text(text), None) => read_text(text, policy.zone.as_ref())?,
        _ => return Err(Rejection::BadTimestamp),
    };
    let newest = limits.newest.unwrap_or(LATEST).min(LATEST);
    if time >= DEVICE_CLOCK_SET_FROM && time <= newest {
        return Ok(if time < limits.oldest { Placed::Expired } else { Placed::At(time) });
    }
    // Only a number that another unit makes fit exactly is told to be in it.
    let fits = |unit| number.is_some_and(|number| (limits.oldest..=newest).contains(&number.read(unit)));
    if policy.unit != TimeUnit::Auto && UNITS.iter().any(|&(unit, _)| unit != policy.unit && fits(unit)) {
        return Ok(Placed::Refused(Invalid::WrongUnit));
    }
    Ok(match limits.arrival {
        _ if time < DEVICE_CLOCK_SET_FROM => Placed::Refused(Invalid::ClockUnset),
        Some(_) if policy.rule == TimeRule::Clamp && limits.newest.is_some() => Placed::Clamped(time),
        _ => Placed::Refused(Invalid::Future),
    })
}

#[derive(Clone, Copy)]
enum Number {
    Whole(i64),
    Real(f64),
}

/// The number that was given, be it in quotes.
fn number_of(given: &GivenTime<'_>) -> Option<Number> {
    match given {
        GivenTime::Whole(whole) => Some(Number::Whole(*whole)),
        GivenTime::Real(real) => real.is_finite().then_some(Number::Real(*real)),
        GivenTime::Text(text) => {
            let text = text.trim();
            // Rust also reads `inf`, `nan` and the like as numbers.
            let numeric = text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte));
            let real = || text.parse::<f64>().ok().filter(|real| numeric && real.is_finite()).map(Number::Real);
            text.parse::<i64>().ok().map(Number::Whole).or_else(real)
        }
        GivenTime::Other => None,
    }
}

impl Number {
    /// The instant that the number means in a unit, down to the whole millisecond; beyond the range, the end of it.
    fn read(self, unit: TimeUnit) -> Timestamp {
        let unit = if unit == TimeUnit::Auto { self.unit_by_size() } else { unit };
        let power = UNITS.iter().find(|(known, _)| *known == unit).map_or(3, |&(_, power)| power);
        Timestamp::from_millis(match self {
            Self::Whole(whole) if power <= 3 => whole.saturating_mul(10_i64.pow(3 - power)),
            Self::Whole(whole) => whole.div_euclid(10_i64.pow(power - 3)),
            Self::Real(real) => millis_of(real * 10_f64.powi(3 - i32::try_from(power).unwrap_or(3))),
        })
    }

    /// The unit in which the number lies between 1973 and 5138.
    #[expect(clippy::cast_precision_loss, reason = "only the order of magnitude matters")]
    fn unit_by_size(self) -> TimeUnit {
        let size = match self {
            Self::Whole(whole) => (whole as f64).abs(),
            Self::Real(real) => real.abs(),
        };
        let limits = [(1e11, TimeUnit::Seconds), (1e14, TimeUnit::Millis), (1e17, TimeUnit::Micros)];
        limits.iter().find(|(limit, _)| size < *limit).map_or(TimeUnit::Nanos, |&(_, unit)| unit)
    }
}

/// Whole milliseconds. A binary fraction of a second falls short of the decimal one by less than a microsecond.
#[expect(clippy::cast_possible_truncation, reason = "a float saturates, which is what is wanted")]
fn millis_of(millis: f64) -> i64 {
    (millis + 1e-3).floor() as i64
}

fn read_text(text: &str, zone: Option<&TimeZone>) -> Result<Timestamp, Rejection> {
    let text = text.trim();
    if let Ok(instant) = text.parse::<jiff::Timestamp>() {
        return Ok(Timestamp::from_millis(instant.as_millisecond()));
    }
    // A date alone is no time.
    let local = text.contains(':').then(|| text.parse::<jiff::civil::DateTime>().ok()).flatten();
    let local = local.ok_or(Rejection::BadTimestamp)?;
    let zone = zone.ok_or(Rejection::NoZone)?;
    let instant = zone.to_timestamp(local).map_err(|_| Rejection::BadTimestamp)?;
    Ok(Timestamp::from_millis(instant.as_millisecond()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Strategy, any, prop, prop_oneof};

    use super::*;

    /// 2026-11-24T08:00:00Z.
    const NOW: i64 = 1_795_507_200_000;
    const DAY: i64 = 86_400_000;

    fn limits() -> TimeLimits {
        let at = |millis| Timestamp::from_millis(NOW + millis);
        TimeLimits { arrival: Some(at(0)), oldest: at(-90 * DAY), newest: Some(at(300_000)) }
    }

    fn policy(rule: TimeRule, unit: TimeUnit, zone: Option<&str>) -> TimePolicy {
        TimePolicy { rule, unit, zone: zone.map(|zone| TimeZone::get(zone).expect("a zone")) }
    }

    fn text(text: &str) -> GivenTime<'_> {
        GivenTime::Text(text.into())
    }

    #[expect(clippy::unnecessary_wraps, reason = "as `place` answers")]
    fn at(millis: i64) -> Result<Placed, Rejection> {
        Ok(Placed::At(Timestamp::from_millis(NOW + millis)))
    }

    #[expect(clippy::unnecessary_wraps, reason = "as `place` answers")]
    const fn refused(reason: Invalid) -> Result<Placed, Rejection> {
        Ok(Placed::Refused(reason))
    }

    #[expect(clippy::unnecessary_wraps, reason = "as `place` answers")]
    fn clamped(millis: i64) -> Result<Placed, Rejection> {
        Ok(Placed::Clamped(Timestamp::from_millis(millis)))
    }

    #[test]
    fn every_form_of_number_has_its_own_outcome_in_every_unit() {
        use GivenTime::{Real, Whole};
        use TimeUnit::{Auto, Micros, Millis, Nanos, Seconds};
        let table = [
            (Whole(NOW), Millis, at(0)),
            (Whole(NOW), Auto, at(0)),
            (Whole(NOW), Seconds, refused(Invalid::WrongUnit)),
            (Whole(NOW / 1_000), Seconds, at(0)),
            (Whole(NOW / 1_000), Auto, at(0)),
            (Whole(NOW / 1_000), Millis, refused(Invalid::WrongUnit)),
            (Whole(NOW * 1_000 + 7), Micros, at(0)),
            (Whole(NOW * 1_000), Auto, at(0)),
            (Whole(NOW * 1_000), Millis, refused(Invalid::WrongUnit)),
            (Whole(NOW * 1_000_000), Nanos, at(0)),
            (Whole(NOW * 1_000_000), Auto, at(0)),
            (Real(1_795_507_200.123), Seconds, at(123)),
            (Real(1_795_507_200.123), Auto, at(123)),
            (Real(1_795_507_200_123.9), Millis, at(123)),
            (Real(1e300), Millis, refused(Invalid::Future)),
            (Real(-1e300), Auto, refused(Invalid::ClockUnset)),
            (Real(f64::NAN), Millis, Err(Rejection::BadTimestamp)),
            (Real(f64::INFINITY), Auto, Err(Rejection::BadTimestamp)),
            (text("1795507200000"), Millis, at(0)),
            (text(" 1795507200 "), Auto, at(0)),
            (text("1795507200.5"), Seconds, at(500)),
            (text("1.7955072e12"), Millis, at(0)),
            (text("nan"), Millis, Err(Rejection::BadTimestamp)),
            (text("inf"), Millis, Err(Rejection::BadTimestamp)),
            (Whole(0), Millis, refused(Invalid::ClockUnset)),
            (Whole(0), Auto, refused(Invalid::ClockUnset)),
            (Whole(-1), Millis, refused(Invalid::ClockUnset)),
            // Four days after the start of a device that counts from 1970.
            (Whole(4 * DAY), Millis, refused(Invalid::ClockUnset)),
            (Whole(4 * DAY), Auto, refused(Invalid::ClockUnset)),
            (Whole(4 * DAY / 1_000), Seconds, refused(Invalid::ClockUnset)),
            (Whole(i64::MIN), Seconds, refused(Invalid::ClockUnset)),
            (Whole(i64::MAX), Millis, refused(Invalid::Future)),
            (Whole(i64::MAX), Seconds, refused(Invalid::Future)),
            (Whole(NOW + 300_000), Millis, at(300_000)),
            (Whole(NOW + 300_001), Millis, refused(Invalid::Future)),
            (Whole(NOW - 90 * DAY), Millis, at(-90 * DAY)),
            (Whole(NOW - 90 * DAY - 1), Millis, Ok(Placed::Expired)),
            (GivenTime::Other, Millis, Err(Rejection::BadTimestamp)),
        ];
        for (given, unit, expected) in table {
            let placed = place(Some(&given), &policy(TimeRule::Trust, unit, None), &limits());
            assert_eq!(placed, expected, "{given:?} in {unit:?}");
        }
    }

    #[test]
    fn every_form_of_text_has_its_own_outcome_with_and_without_a_zone() {
        let shanghai = Some("Asia/Shanghai");
        let table = [
            ("2026-11-24T16:00:00+08:00", None, at(0)),
            ("2026-11-24T08:00:00Z", None, at(0)),
            ("2026-11-24t08:00:00z", None, at(0)),
            ("2026-11-24 16:00:00+08", None, at(0)),
            ("2026-11-24T08:00:00.123456Z", None, at(123)),
            ("2026-11-24T08:00:00,5Z", None, at(500)),
            ("2026-11-24T16:00:00", None, Err(Rejection::NoZone)),
            ("2026-11-24 16:00:00.250", None, Err(Rejection::NoZone)),
            ("2026-11-24T16:00:00", shanghai, at(0)),
            ("2026-11-24 16:00:00.250", shanghai, at(250)),
            // An offset that is given is believed before the zone.
            ("2026-11-24T08:00:00Z", shanghai, at(0)),
            ("2026-11-24", shanghai, Err(Rejection::BadTimestamp)),
            ("16:00:00", shanghai, Err(Rejection::BadTimestamp)),
            ("24.11.2026 16:00:00", shanghai, Err(Rejection::BadTimestamp)),
            ("2026-11-24T25:00:00Z", None, Err(Rejection::BadTimestamp)),
            ("2026-02-30T00:00:00+08:00", None, Err(Rejection::BadTimestamp)),
            ("99999-01-01T00:00:00Z", None, Err(Rejection::BadTimestamp)),
            ("9999-12-30T00:00:00Z", None, refused(Invalid::Future)),
            ("1970-01-01T00:03:12Z", None, refused(Invalid::ClockUnset)),
            ("1970-01-01 08:03:12", shanghai, refused(Invalid::ClockUnset)),
            ("1980-01-06T00:00:00Z", None, refused(Invalid::ClockUnset)),
            ("2000-01-01T00:00:00Z", None, refused(Invalid::ClockUnset)),
            ("2016-01-01T00:00:00Z", None, Ok(Placed::Expired)),
            ("", None, Err(Rejection::BadTimestamp)),
            ("yesterday", shanghai, Err(Rejection::BadTimestamp)),
        ];
        for (given, zone, expected) in table {
            let placed = place(Some(&text(given)), &policy(TimeRule::Trust, TimeUnit::Millis, zone), &limits());
            assert_eq!(placed, expected, "{given} with {zone:?}");
        }
    }

    #[test]
    fn clamping_moves_what_lies_ahead_and_nothing_else() {
        let clamp = policy(TimeRule::Clamp, TimeUnit::Millis, None);
        let table = [
            (GivenTime::Whole(NOW + 299_000), at(299_000)),
            (GivenTime::Whole(NOW + DAY), clamped(NOW + DAY)),
            (GivenTime::Whole(i64::MAX), clamped(i64::MAX)),
            (GivenTime::Whole(NOW - 80 * DAY), at(-80 * DAY)),
            (GivenTime::Whole(NOW - 91 * DAY), Ok(Placed::Expired)),
            (GivenTime::Whole(4 * DAY), refused(Invalid::ClockUnset)),
            (GivenTime::Whole(NOW * 1_000), refused(Invalid::WrongUnit)),
            (text("later"), Err(Rejection::BadTimestamp)),
        ];
        for (given, expected) in table {
            assert_eq!(place(Some(&given), &clamp, &limits()), expected, "{given:?}");
        }
    }

    #[test]
    fn under_the_arrival_policy_no_time_that_is_given_is_looked_at() {
        let arrival = policy(TimeRule::Arrival, TimeUnit::Millis, None);
        for given in [GivenTime::Whole(0), GivenTime::Whole(i64::MAX), text("yesterday"), GivenTime::Other] {
            assert_eq!(place(Some(&given), &arrival, &limits()), at(0), "{given:?}");
        }
        assert_eq!(place(None, &arrival, &limits()), at(0));
    }

    #[test]
    fn a_gateway_without_a_clock_believes_devices_and_places_nothing_by_arrival() {
        let unset = TimeLimits { arrival: None, newest: None, ..limits() };
        let table = [
            (TimeRule::Trust, Some(GivenTime::Whole(NOW + 10 * DAY)), at(10 * DAY)),
            (TimeRule::Clamp, Some(GivenTime::Whole(NOW + 10 * DAY)), at(10 * DAY)),
            (TimeRule::Clamp, Some(GivenTime::Whole(i64::MAX)), refused(Invalid::Future)),
            (TimeRule::Trust, Some(GivenTime::Whole(NOW * 1_000)), refused(Invalid::WrongUnit)),
            (TimeRule::Trust, Some(GivenTime::Whole(NOW - 91 * DAY)), Ok(Placed::Expired)),
            (TimeRule::Trust, None, refused(Invalid::NoClock)),
            (TimeRule::Arrival, Some(GivenTime::Whole(NOW)), refused(Invalid::NoClock)),
        ];
        for (rule, given, expected) in table {
            let placed = place(given.as_ref(), &policy(rule, TimeUnit::Millis, None), &unset);
            assert_eq!(placed, expected, "{rule:?} {given:?}");
        }
    }

    fn givens() -> impl Strategy<Value = GivenTime<'static>> {
        prop_oneof![
            any::<i64>().prop_map(GivenTime::Whole),
            any::<f64>().prop_map(GivenTime::Real),
            ".{0,40}".prop_map(|text| GivenTime::Text(text.into())),
            "[0-9+-]{0,6}[-0-9T :.Zz+eE\\[\\]a-zA-Z/]{0,40}".prop_map(|text| GivenTime::Text(text.into())),
        ]
    }

    proptest::proptest! {
        #[test]
        fn no_time_panics_and_none_lands_outside_the_limits(
            given in givens(),
            rule in prop::sample::select(&[TimeRule::Trust, TimeRule::Clamp, TimeRule::Arrival][..]),
            unit in prop::sample::select(&[TimeUnit::Auto, TimeUnit::Seconds, TimeUnit::Nanos][..]),
            zone in prop::sample::select(&[None, Some("Asia/Shanghai"), Some("Europe/Berlin")][..]),
        ) {
            let limits = limits();
            let placed = place(Some(&given), &policy(rule, unit, zone), &limits);
            if let Ok(Placed::At(time)) = placed {
                proptest::prop_assert!(time >= limits.oldest && Some(time) <= limits.newest);
            }
        }
    }
}
