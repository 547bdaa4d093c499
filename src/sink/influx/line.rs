//! Rows as InfluxDB line protocol. Pure.
//!
//! One line per device and window: the measurement is the kind of the site, the tags say whose row it is, each
//! aggregate of each metric that the sink sends is a field. Numbers are always floats, so that a field never changes
//! its type. The same row always has the same tags and the same timestamp, so that an amended row overwrites the one
//! before it.

use std::borrow::Cow;
use std::fmt::Write as _;

use super::field::{Field, Fields};
use crate::indicator::Description;
use crate::inventory::{Device, MetricDef, Site};
use crate::model::{MetricKind, Timestamp, Window, WindowStart};
use crate::rollup::Combined;
use crate::store::IndicatorRow;

/// Measurement of indicators.
const INDICATOR: &str = "indicator";
/// Measurement of sites whose kind is empty.
const KIND_UNKNOWN: &str = "site";

/// What a metric of a device came to in a window.
#[derive(Clone, Copy, Debug)]
pub(super) struct MetricRow<'a> {
    /// Name of the metric.
    pub name: &'a str,
    /// How its values behave.
    pub kind: MetricKind,
    /// Its aggregates.
    pub combined: &'a Combined,
}

impl<'a> MetricRow<'a> {
    /// The row of the metric called `name`, which is a gauge where the device's profile does not list it.
    pub(super) fn new(device: &Device, name: &'a str, combined: &'a Combined) -> Self {
        let definition = device.profile.slot(name).map(|slot| &device.profile.metrics[slot]);
        Self { name, kind: definition.map_or(MetricKind::Gauge, |MetricDef { kind, .. }| *kind), combined }
    }
}

/// Writes the line of a device's window; `None` where it would have no field, and then what it wrote is of no use.
pub(super) fn rollup<'a>(
    out: &mut String,
    (site, device): (&Site, &Device),
    (window, start): (Window, WindowStart),
    metrics: impl IntoIterator<Item = MetricRow<'a>>,
    fields: Fields,
) -> Option<()> {
    let mut line = Line::new(out, if site.kind.is_empty() { KIND_UNKNOWN } else { &site.kind });
    line.tag("area", &site.area);
    line.tag("device", &device.name);
    line.tag("operator", &site.operator);
    line.tag("site", &site.id);
    line.tag("window", window.label());
    for metric in metrics {
        metric_fields(&mut line, &metric, fields);
    }
    line.finish(start)
}

#[expect(clippy::cast_precision_loss, reason = "no window holds 2^53 readings")]
fn metric_fields(line: &mut Line<'_>, metric: &MetricRow<'_>, fields: Fields) {
    let aggregate = &metric.combined.aggregate;
    let name = FieldKey::of(metric.name);
    let mut add = |field: Field, value: f64| {
        if fields.has(field) {
            line.field(&name, field.suffix(), value);
        }
    };
    match metric.kind {
        // With sum and count beside it, a mean over any group of rows can be had exactly.
        MetricKind::Gauge => {
            add(Field::Mean, aggregate.mean());
            add(Field::Min, aggregate.min);
            add(Field::Max, aggregate.max);
            add(Field::Sum, aggregate.sum.value());
            add(Field::Last, aggregate.last.value);
        }
        MetricKind::Counter => {
            add(Field::Last, aggregate.last.value);
            if let Some(increase) = metric.combined.increase {
                add(Field::Increase, increase);
            }
        }
        MetricKind::Delta => {
            add(Field::Sum, aggregate.sum.value());
            add(Field::Mean, aggregate.mean());
        }
        MetricKind::State => {
            add(Field::Mean, aggregate.mean());
            add(Field::Min, aggregate.min);
            add(Field::Max, aggregate.max);
            add(Field::Last, aggregate.last.value);
        }
    }
    add(Field::Count, aggregate.count as f64);
    if let Some(completeness) = metric.combined.completeness() {
        add(Field::Completeness, completeness);
    }
}

/// Writes the line of an indicator; values that are unknown are left out (P6).
#[expect(clippy::cast_precision_loss, reason = "a row is not amended 2^53 times")]
pub(super) fn indicator(out: &mut String, row: &IndicatorRow, description: Option<&Description>) -> Option<()> {
    let mut line = Line::new(out, INDICATOR);
    line.tag("area", &row.area);
    line.tag("id", &row.id);
    line.tag("level", row.level.label());
    line.tag("operator", &row.operator);
    line.tag("site", &row.site);
    line.tag("window", row.window.label());
    let target = description.and_then(|description| description.target.as_ref());
    let target = target.filter(|target| target.levels.contains(&row.level)).map(|target| target.value);
    let fields = [
        ("value", row.value),
        ("numerator", row.numerator),
        ("denominator", row.denominator),
        ("completeness", row.completeness),
        ("target", target),
        ("revision", Some(row.revision as f64)),
    ];
    for (name, value) in fields {
        if let Some(value) = value {
            line.field(&FieldKey::of(name), "", value);
        }
    }
    line.finish(row.start)
}

/// A line while it is written: measurement, then tags, then fields.
struct Line<'a> {
    text: &'a mut String,
    fields_written: usize,
}

impl<'a> Line<'a> {
    fn new(text: &'a mut String, measurement: &str) -> Self {
        // A line that starts with # is a comment, and no escape makes it another.
        let (hash, rest) = measurement.strip_prefix('#').map_or(("", measurement), |rest| ("_", rest));
        text.push_str(hash);
        escape(text, rest, ", ");
        Self { text, fields_written: 0 }
    }

    fn tag(&mut self, key: &str, value: &str) {
        if value.is_empty() {
            return;
        }
        self.text.push(',');
        escape(self.text, key, ",= ");
        self.text.push('=');
        escape(self.text, value, ",= ");
    }

    /// Adds a field unless its value is no number; `suffix` needs no escaping.
    fn field(&mut self, FieldKey(name): &FieldKey<'_>, suffix: &'static str, value: f64) {
        if !value.is_finite() {
            return;
        }
        self.text.push(if self.fields_written == 0 { ' ' } else { ',' });
        self.text.push_str(name);
        self.text.push_str(suffix);
        self.fields_written += 1;
        self.text.push('=');
        number(self.text, value);
    }

    fn finish(self, at: Timestamp) -> Option<()> {
        if self.fields_written == 0 {
            return None;
        }
        write!(self.text, " {}", at.as_millis()).expect("invariant: writing to a string does not fail");
        Some(())
    }
}

/// A name as the key of a field, or the beginning of one.
struct FieldKey<'a>(Cow<'a, str>);

impl<'a> FieldKey<'a> {
    fn of(name: &'a str) -> Self {
        if is_plain(name) {
            return Self(Cow::Borrowed(name));
        }
        let mut key = String::new();
        // A quote is legal, but VictoriaMetrics takes it for the start of a text value, and stores 0.
        escape(&mut key, &name.replace('"', "_"), ",= ");
        Self(Cow::Owned(key))
    }
}

/// Whether `text` means itself wherever it stands, as nearly every name does.
fn is_plain(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b':'))
}

/// Appends a finite number in its shortest form that comes back as it was.
fn number(out: &mut String, value: f64) {
    let magnitude = value.abs();
    if short_number(out, value, magnitude) {
        return;
    }
    let written = if (1e-5..1e16).contains(&magnitude) { write!(out, "{value}") } else { write!(out, "{value:e}") };
    written.expect("invariant: writing to a string does not fail");
}

/// Appends a number of few decimals, as counts and what devices measure are, in a fraction of the time that any number
/// takes. Returns whether it is one.
///
/// The whole number and the power of ten are exact, so that their quotient is the very number that is read from the
/// text; and since fewer decimals were tried before, no text is shorter.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "not negative, and rounded on purpose")]
#[expect(clippy::cast_precision_loss, reason = "below 2^53")]
fn short_number(out: &mut String, value: f64, magnitude: f64) -> bool {
    const SCALED_MAX: f64 = 5e14;
    if magnitude == 0.0 {
        // Zero has a sign.
        out.push_str(if value.is_sign_negative() { "-0" } else { "0" });
        return true;
    }
    for (decimals, power) in [1.0, 10.0, 100.0, 1_000.0].into_iter().enumerate() {
        let scaled = magnitude * power;
        if scaled > SCALED_MAX {
            return false;
        }
        // Rounding by a cast is an instruction, by `round` a call.
        let whole = (scaled + 0.5) as u64;
        if whole as f64 / power == magnitude {
            if value < 0.0 {
                out.push('-');
            }
            digits(out, whole, decimals);
            return true;
        }
    }
    false
}

/// Appends a whole number with a point before the last `decimals` of its digits.
fn digits(out: &mut String, mut whole: u64, decimals: usize) {
    let mut text = [b'0'; 24];
    let mut at = text.len();
    let mut count = 0;
    while whole > 0 || count <= decimals {
        if count == decimals && decimals > 0 {
            at -= 1;
            text[at] = b'.';
        }
        at -= 1;
        text[at] = b"0123456789"[usize::try_from(whole % 10).unwrap_or(0)];
        whole /= 10;
        count += 1;
    }
    out.push_str(std::str::from_utf8(&text[at..]).expect("invariant: digits and a point"));
}

/// Appends `text` with `special` characters escaped.
///
/// Two things cannot be said in line protocol, and readers disagree on them, so they become an underscore: control
/// characters (a newline ends the line), and a backslash that would escape what follows it (a special character,
/// another backslash, the end).
fn escape(out: &mut String, text: &str, special: &str) {
    if is_plain(text) {
        out.push_str(text);
        return;
    }
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\\' => {
                let escapes = characters
                    .peek()
                    .is_none_or(|&next| next == '\\' || next == '"' || next.is_control() || ",= ".contains(next));
                out.push(if escapes { '_' } else { '\\' });
            }
            _ if character.is_control() => out.push('_'),
            _ => {
                if special.contains(character) {
                    out.push('\\');
                }
                out.push(character);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollup::{Aggregate, Point};

    fn line(measurement: &str, tag: (&str, &str), field: &str, value: f64) -> Option<String> {
        let mut text = String::new();
        let mut line = Line::new(&mut text, measurement);
        line.tag(tag.0, tag.1);
        line.field(&FieldKey::of(field), "", value);
        line.finish(Timestamp::from_millis(7)).map(|()| text)
    }

    #[test]
    fn a_kind_has_the_aggregates_that_mean_something_and_each_its_own_value() {
        let at = |second: i64| Timestamp::from_millis(second * 1_000);
        let mut aggregate = Aggregate::of(Point { time: at(0), value: 3.0 });
        aggregate.add(Point { time: at(1), value: 9.0 });
        aggregate.add(Point { time: at(2), value: 4.5 });
        let written = |kind, increase, fields: Fields| {
            let mut text = String::new();
            let combined = Combined {
                aggregate,
                increase,
                heard: 3,
                expected: Some(4),
                late: 0,
                amendments: 0,
                minutes: 1,
                minutes_in_band: 0,
            };
            metric_fields(&mut Line::new(&mut text, "m"), &MetricRow { name: "x", kind, combined: &combined }, fields);
            text.replace("m ", "").replace("x_", "")
        };
        for (kind, increase, expected) in [
            (MetricKind::Gauge, None, "mean=5.5,min=3,max=9,sum=16.5,last=4.5,count=3,completeness=0.75"),
            (MetricKind::Counter, Some(7.0), "last=4.5,increase=7,count=3,completeness=0.75"),
            (MetricKind::Delta, None, "sum=16.5,mean=5.5,count=3,completeness=0.75"),
            (MetricKind::State, None, "mean=5.5,min=3,max=9,last=4.5,count=3,completeness=0.75"),
        ] {
            assert_eq!(written(kind, increase, Fields::ALL), expected);
            for field in Field::ALL {
                let alone = written(kind, increase, Fields::from_iter([field]));
                let wanted = expected.split(',').find(|one| one.starts_with(field.label()));
                assert_eq!(alone, wanted.unwrap_or("m"), "{kind:?}");
            }
        }
    }

    #[test]
    fn what_separates_is_escaped_where_it_would() {
        let written = line("base station,x=1", ("a,b c=d", "e,f g=h"), "i,j k=l", 1.0);
        assert_eq!(written.as_deref(), Some(r"base\ station\,x=1,a\,b\ c\=d=e\,f\ g\=h i\,j\ k\=l=1 7"));
    }

    #[test]
    fn nothing_that_a_name_holds_breaks_the_line() {
        for (name, written) in [
            ("two\nlines\r", "two_lines_"),
            ("ends in \\", r"ends\ in\ _"),
            (r"a\,b", r"a_\,b"),
            (r"a\\b", r"a_\b"),
            (r"c:\temp", r"c:\temp"),
            ("\0", "_"),
            ("福州", "福州"),
        ] {
            let expected = format!("m,t={written} f=1 7");
            assert_eq!(line("m", ("t", name), "f", 1.0), Some(expected), "{name:?}");
        }
        assert_eq!(line("#m", ("t", "v"), "f", 1.0).as_deref(), Some("_m,t=v f=1 7"));
        assert_eq!(line("m", ("t", "\"v"), "\"f\\\"", 1.0).as_deref(), Some(r#"m,t="v _f\_=1 7"#));
    }

    #[test]
    fn an_empty_tag_is_left_out_and_so_is_a_field_that_is_no_number() {
        assert_eq!(line("m", ("t", ""), "f", 1.0).as_deref(), Some("m f=1 7"));
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert_eq!(line("m", ("t", "v"), "f", value), None);
        }
    }

    #[test]
    fn numbers_come_back_as_they_were() {
        for value in [0.1, -0.0, 1e-7, 2_606_487.145, 1e300, f64::MIN_POSITIVE, 9_007_199_254_740_993.0] {
            let written = line("m", ("t", "v"), "f", value).expect("a line");
            let text = written.strip_prefix("m,t=v f=").and_then(|rest| rest.strip_suffix(" 7")).expect("a field");
            assert_eq!(text.parse::<f64>().map(f64::to_bits), Ok(value.to_bits()));
            assert!(text.len() < 26, "{text}");
        }
    }

    #[test]
    fn a_number_of_few_decimals_is_written_as_any_other_is() {
        let mut rng = fastrand::Rng::with_seed(7);
        for round in 0..200_000 {
            let power = [1.0, 10.0, 100.0, 1_000.0, 1e4, 1e6, 3.0][round % 7];
            let (bits, sign) = (rng.u32(1..53), rng.i64(0..=1) * 2 - 1);
            let whole = rng.i64(0..1 << bits) * sign;
            #[expect(clippy::cast_precision_loss, reason = "below 2^53")]
            let value = if round % 5 == 0 { f64::from_bits(rng.u64(..)) } else { whole as f64 / power };
            if !value.is_finite() {
                continue;
            }
            let mut short = String::new();
            if short_number(&mut short, value, value.abs()) {
                assert_eq!(short, format!("{value}"), "{value:e}");
            }
        }
        for (value, text) in
            [(0.0, "0"), (-0.0, "-0"), (0.001, "0.001"), (-0.05, "-0.05"), (10.0, "10"), (1.25, "1.25")]
        {
            let mut short = String::new();
            assert!(short_number(&mut short, value, value.abs()), "{value}");
            assert_eq!(short, text);
        }
    }
}
