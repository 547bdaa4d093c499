//! A small line chart as SVG, drawn here so that the page needs no library.
//!
//! Unknown is a gap, never a zero (P6). Colours are `currentColor`, so that it fits light and dark; the classes `line`,
//! `last`, `target` and `label` are there for a style sheet. Pure: never reads the clock, the store or the request.

use std::fmt::Write as _;

use crate::model::Timestamp;

const WIDTH: f64 = 240.0;
const HEIGHT: f64 = 64.0;
const LEFT: f64 = 3.0;
const RIGHT: f64 = 194.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 52.0;
/// Distance of two labels that do not touch.
const LABEL_HEIGHT: f64 = 12.0;
/// A target is drawn to scale only where the values keep this part of the height.
const SQUEEZE_MAX: f64 = 4.0;
/// Values that differ by less than this part of themselves count as a flat line, so that noise does not look like a swing.
const FLAT: f64 = 0.05;
/// Windows further apart than this many of the smallest step have a gap between them.
const STEP_MAX: f64 = 1.5;

/// What is drawn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chart<'a> {
    /// What the values are; read aloud and shown by a pointer that rests on the chart. Any text.
    pub(super) title: &'a str,
    /// Unit symbol of the values and of the target; `1` is none.
    pub(super) unit: &'a str,
    /// What the values are to reach.
    pub(super) target: Option<f64>,
    /// Start of each window and its value, in order of start. A window that is not listed is unknown.
    pub(super) points: &'a [(Timestamp, Option<f64>)],
}

impl Chart<'_> {
    /// The chart as an SVG document.
    pub(super) fn svg(&self) -> String {
        let known: Vec<f64> = self.points.iter().filter_map(|&(_, value)| finite(value)).collect();
        let mut body = String::new();
        if let (Some(range), Some(&last)) = (Range::of(&known), known.last()) {
            self.draw(&mut body, &range, last);
        } else {
            let (x, y) = (LEFT, f64::midpoint(TOP, BOTTOM));
            text(&mut body, (x, y), "no data");
        }
        let summary = escape(&self.summary(&known));
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
             fill=\"none\" stroke-linecap=\"round\" stroke-linejoin=\"round\"><title>{summary}</title>{body}</svg>\n"
        )
    }

    fn draw(&self, body: &mut String, range: &Range, last: f64) {
        let target = finite(self.target);
        let scale = Scale::of(range, target);
        match target {
            Some(target) if scale.holds(target) => {
                let y = scale.y(target);
                push(
                    body,
                    format_args!(
                        "<path class=\"target\" d=\"M{LEFT} {y:.1}H{RIGHT}\" stroke=\"currentColor\" stroke-width=\"1\" \
                         stroke-dasharray=\"4 3\" stroke-opacity=\".7\"/>"
                    ),
                );
            }
            Some(target) => {
                let (arrow, y) = if target > range.high { ('↑', TOP - 7.0) } else { ('↓', BOTTOM + 7.0) };
                text(body, (LEFT, y), &format!("target {} {arrow}", short(target, self.unit)));
            }
            None => {}
        }
        let path = self.path(&scale);
        push(body, format_args!("<path class=\"line\" d=\"{path}\" stroke=\"currentColor\" stroke-width=\"1.5\"/>"));
        if let Some(&(start, _)) = self.points.iter().rfind(|(_, value)| finite(*value).is_some()) {
            let (x, y) = (self.x(start), scale.y(last));
            push(
                body,
                format_args!("<circle class=\"last\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.5\" fill=\"currentColor\"/>"),
            );
        }
        for (y, label) in labels(range, &scale, self.unit) {
            text(body, (RIGHT + 6.0, y), &label);
        }
    }

    /// One stretch per run of known neighbours; a lone value is a dot.
    fn path(&self, scale: &Scale) -> String {
        let (mut path, mut previous) = (String::new(), None);
        let reach = self.step() * STEP_MAX;
        for &(start, value) in self.points {
            let Some(value) = finite(value) else {
                previous = None;
                continue;
            };
            let (x, y) = (self.x(start), scale.y(value));
            match previous {
                Some(before) if span(before, start) <= reach => push(&mut path, format_args!("L{x:.1} {y:.1}")),
                _ => push(&mut path, format_args!("M{x:.1} {y:.1}h0")),
            }
            previous = Some(start);
        }
        path
    }

    fn x(&self, start: Timestamp) -> f64 {
        match (self.points.first(), self.points.last()) {
            (Some(&(first, _)), Some(&(last, _))) if last > first => {
                LEFT + (RIGHT - LEFT) * span(first, start) / span(first, last)
            }
            _ => RIGHT,
        }
    }

    /// The smallest distance of two windows.
    fn step(&self) -> f64 {
        self.points.windows(2).map(|pair| span(pair[0].0, pair[1].0)).fold(f64::INFINITY, f64::min)
    }

    fn summary(&self, known: &[f64]) -> String {
        let unit = if self.unit == "1" { "" } else { self.unit };
        let mut summary = self.title.to_owned();
        match (Range::of(known), known.last()) {
            (Some(Range { low, high }), Some(last)) => push(
                &mut summary,
                format_args!(": last {last} {unit}, lowest {low}, highest {high}, {} windows", known.len()),
            ),
            _ => summary.push_str(": no data"),
        }
        if let Some(target) = finite(self.target) {
            push(&mut summary, format_args!(", target {target} {unit}"));
        }
        summary
    }
}

/// Lowest and highest value.
#[derive(Clone, Copy, Debug)]
struct Range {
    low: f64,
    high: f64,
}

impl Range {
    fn of(values: &[f64]) -> Option<Self> {
        let low = values.iter().copied().reduce(f64::min)?;
        let high = values.iter().copied().reduce(f64::max)?;
        Some(Self { low, high })
    }
}

/// The values at the lower and at the upper edge of the plot.
#[derive(Clone, Copy, Debug)]
struct Scale {
    bottom: f64,
    top: f64,
}

impl Scale {
    /// Fits the values, and the target too where that leaves the values room.
    fn of(range: &Range, target: Option<f64>) -> Self {
        let swing = (range.high - range.low).max(FLAT * range.high.abs().max(range.low.abs()));
        let (mut bottom, mut top) = (range.low, range.high);
        if let Some(target) = target
            && top.max(target) - bottom.min(target) <= SQUEEZE_MAX * swing
        {
            (bottom, top) = (bottom.min(target), top.max(target));
        }
        if top > bottom {
            Self { bottom, top }
        } else {
            // A flat line runs through the middle.
            let margin = if swing > 0.0 { swing } else { 1.0 };
            Self { bottom: bottom - margin, top: top + margin }
        }
    }

    fn holds(&self, value: f64) -> bool {
        (self.bottom..=self.top).contains(&value)
    }

    fn y(&self, value: f64) -> f64 {
        // Halves first: the difference of two finite values may not be finite.
        let (half, whole) = (value / 2.0 - self.bottom / 2.0, self.top / 2.0 - self.bottom / 2.0);
        BOTTOM - (BOTTOM - TOP) * (half / whole)
    }
}

/// Where the labels of the highest and the lowest value stand, pushed apart where they would touch.
fn labels(range: &Range, scale: &Scale, unit: &str) -> Vec<(f64, String)> {
    let (high, low) = (scale.y(range.high), scale.y(range.low));
    let (highest, lowest) = (short(range.high, unit), short(range.low, unit));
    if highest == lowest {
        return vec![(f64::midpoint(high, low), highest)];
    }
    let apart = ((LABEL_HEIGHT - (low - high)) / 2.0).max(0.0);
    vec![(high - apart, highest), (low + apart, lowest)]
}

fn span(from: Timestamp, to: Timestamp) -> f64 {
    // Exact up to 285,000 years.
    #[expect(clippy::cast_precision_loss, reason = "milliseconds between two windows are far below 2^53")]
    let millis = to.millis_since(from) as f64;
    millis
}

fn finite(value: Option<f64>) -> Option<f64> {
    value.filter(|value| value.is_finite())
}

fn text(body: &mut String, (x, y): (f64, f64), content: &str) {
    let (baseline, content) = (y + 4.0, escape(content));
    push(
        body,
        format_args!(
            "<text class=\"label\" x=\"{x}\" y=\"{baseline:.1}\" font-size=\"11\" font-family=\"system-ui, sans-serif\" \
             fill=\"currentColor\">{content}</text>"
        ),
    );
}

/// A value in a few characters: three to five digits that count, and the prefix that the page shows the unit with.
fn short(value: f64, unit: &str) -> String {
    const PREFIXES: [&str; 5] = ["", "k", "M", "G", "T"];
    const PREFIXED: [&str; 5] = ["kW", "kWh", "kVA", "kbit", "kbit/s"];
    let prefixes = if PREFIXED.contains(&unit) { &PREFIXES[1..] } else { &PREFIXES };
    if value.abs() >= 1e13 || (value != 0.0 && value.abs() < 1e-3) {
        return format!("{value:.1e}");
    }
    let (mut value, mut steps) = (value, 0);
    while value.abs() >= 1e4 && steps + 1 < prefixes.len() {
        value /= 1e3;
        steps += 1;
    }
    let decimals = match value.abs() {
        size if size >= 1000.0 => 0,
        size if size >= 100.0 => 1,
        size if size >= 1.0 => 2,
        _ => 3,
    };
    let digits = format!("{value:.decimals$}");
    let digits = if digits.contains('.') { digits.trim_end_matches('0').trim_end_matches('.') } else { &digits };
    format!("{digits}{}", if steps > 0 { prefixes[steps] } else { "" })
}

/// Text that may stand anywhere in XML; characters that XML has no way to write become U+FFFD.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\t' | '\n' => escaped.push(' '),
            '\u{0}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => escaped.push(char::REPLACEMENT_CHARACTER),
            other => escaped.push(other),
        }
    }
    escaped
}

fn push(out: &mut String, arguments: std::fmt::Arguments<'_>) {
    out.write_fmt(arguments).expect("invariant: writing to a String does not fail");
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE_MS: i64 = 60_000;

    fn minutes(values: &[Option<f64>]) -> Vec<(Timestamp, Option<f64>)> {
        (0..).zip(values).map(|(minute, &value)| (Timestamp::from_millis(minute * MINUTE_MS), value)).collect()
    }

    fn chart(points: &[(Timestamp, Option<f64>)], target: Option<f64>) -> String {
        Chart { title: "Online rate", unit: "%", target, points }.svg()
    }

    /// The `d` of the first path of this class.
    fn path<'a>(svg: &'a str, class: &str) -> Option<&'a str> {
        let (_, rest) = svg.split_once(&format!("<path class=\"{class}\" d=\""))?;
        rest.split_once('"').map(|(d, _)| d)
    }

    fn label_texts(svg: &str) -> Vec<&str> {
        svg.split("</text>")
            .filter_map(|part| part.rsplit_once('>'))
            .map(|(_, text)| text)
            .filter(|t| !t.trim().is_empty())
            .collect()
    }

    #[test]
    fn an_unknown_window_is_a_gap_and_never_a_zero() {
        let svg = chart(&minutes(&[Some(90.0), Some(91.0), None, Some(93.0), Some(94.0)]), None);
        let line = path(&svg, "line").unwrap();
        assert_eq!((line.matches('M').count(), line.matches('L').count()), (2, 2), "{line}");
        assert!(svg.contains("lowest 90, highest 94, 4 windows"), "{svg}");
    }

    #[test]
    fn a_window_that_is_not_listed_is_a_gap_too() {
        let mut points = minutes(&[Some(1.0), Some(2.0), Some(3.0), Some(4.0), Some(5.0)]);
        points.remove(2);
        assert_eq!(path(&chart(&points, None), "line").unwrap().matches('M').count(), 2);
    }

    #[test]
    fn a_value_that_is_no_number_is_unknown() {
        let svg = chart(&minutes(&[Some(1.0), Some(f64::NAN), Some(f64::INFINITY), Some(2.0)]), Some(f64::NAN));
        assert_eq!(path(&svg, "line").unwrap().matches('M').count(), 2);
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }

    #[test]
    fn without_a_value_it_says_so_and_draws_nothing() {
        for points in [vec![], minutes(&[None, None])] {
            let svg = chart(&points, Some(98.0));
            assert!(svg.contains(">no data</text>") && svg.contains("Online rate: no data"), "{svg}");
            assert!(!svg.contains("<path") && !svg.contains("<circle"), "{svg}");
        }
    }

    #[test]
    fn the_highest_value_is_at_the_top_and_the_last_has_the_dot() {
        let svg = chart(&minutes(&[Some(10.0), Some(30.0), Some(20.0), None]), None);
        let line = path(&svg, "line").unwrap();
        assert!(line.starts_with("M3.0 52.0") && line.contains(" 12.0L"), "{line}");
        assert!(svg.contains("cx=\"130.3\" cy=\"32.0\""), "the last known value, not the right edge: {svg}");
        assert_eq!(label_texts(&svg)[..2], ["30", "10"]);
    }

    #[test]
    fn a_target_near_the_values_is_a_dashed_line_to_scale() {
        let svg = chart(&minutes(&[Some(96.0), Some(100.0)]), Some(98.0));
        assert_eq!(path(&svg, "target"), Some("M3 32.0H194"));
        assert!(svg.contains("stroke-dasharray") && svg.contains("target 98 %"), "{svg}");
    }

    #[test]
    fn a_target_far_away_is_named_and_does_not_flatten_the_line() {
        let svg = chart(&minutes(&[Some(800.0), Some(820.0)]), Some(30_000.0));
        assert_eq!(path(&svg, "target"), None);
        assert!(svg.contains(">target 30k ↑</text>"), "{svg}");
        assert!(path(&svg, "line").unwrap().contains("52.0"), "{svg}");
        let below = chart(&minutes(&[Some(800.0), Some(820.0)]), Some(1.0));
        assert!(below.contains(">target 1 ↓</text>"), "{below}");
    }

    #[test]
    fn a_flat_line_runs_through_the_middle_and_has_one_label() {
        for value in [0.0, 100.0, -3.0] {
            let svg = chart(&minutes(&[Some(value), Some(value)]), None);
            assert_eq!(path(&svg, "line"), Some("M3.0 32.0h0L194.0 32.0"));
            assert_eq!(label_texts(&svg), [short(value, "%")]);
        }
    }

    #[test]
    fn labels_that_would_touch_are_pushed_apart() {
        let range = Range { low: 99.98, high: 100.0 };
        let scale = Scale::of(&range, Some(98.0));
        let labels = labels(&range, &scale, "%");
        assert!((labels[1].0 - labels[0].0 - LABEL_HEIGHT).abs() < 1e-9, "{labels:?}");
    }

    #[test]
    fn the_widest_values_stay_inside_the_picture() {
        let svg = chart(&minutes(&[Some(f64::MIN), Some(f64::MAX)]), None);
        assert_eq!(path(&svg, "line"), Some("M3.0 52.0h0L194.0 12.0"));
    }

    #[test]
    fn a_hostile_title_stays_text() {
        let title = "</title><script>alert('x')</script>\u{0}&\u{b}";
        let svg = Chart { title, unit: "\"><b>", target: None, points: &minutes(&[Some(1.0)]) }.svg();
        assert!(!svg.contains("<script") && !svg.contains("<b>"), "{svg}");
        assert!(svg.contains("&lt;/title&gt;&lt;script&gt;alert(&#39;x&#39;)") && !svg.contains('\u{b}'), "{svg}");
    }

    #[test]
    fn values_are_told_in_a_few_characters() {
        let cases = [
            (0.0, "1", "0"),
            (1.234_56, "1", "1.23"),
            (99.951, "%", "99.95"),
            (0.1234, "1", "0.123"),
            (812.26, "kWh", "812.3"),
            (9_999.4, "kWh", "9999"),
            (25_210.0, "kWh", "25.21M"),
            (30_000.0, "1", "30k"),
            (1_230_000.0, "W", "1230k"),
            (24_710_000.0, "W", "24.71M"),
            (-2.5e10, "W", "-25G"),
            (1e-5, "1", "1.0e-5"),
            (1e15, "1", "1.0e15"),
        ];
        for (value, unit, expected) in cases {
            assert_eq!(short(value, unit), expected);
        }
    }
}
