//! The table of city indicators.

use comfy_table::{Cell, CellAlignment, Color, Table, TableComponent, presets};

use crate::indicator::{Description, Level, Target, TargetSense};
use crate::model::Window;
use crate::store::IndicatorRow;

/// Windows that have a column of their own where there is room.
const WINDOWS: [Window; 4] = [Window::Minute1, Window::Minute5, Window::Minute15, Window::Hour1];
/// Longest name that is shown whole.
const NAME_CHARS_MAX: usize = 22;

/// How much room there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// A column for each window.
    Wide,
    /// The newest value only; 80 columns are enough.
    Narrow,
}

/// Whether colours may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// They may.
    Colour,
    /// They may not.
    Plain,
}

/// The city's indicators, in the order of `descriptions`.
pub(super) fn indicators(
    descriptions: &[Description],
    rows: &[IndicatorRow],
    layout: Layout,
    style: Style,
) -> Vec<String> {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_style(TableComponent::HeaderLines, '─').set_style(TableComponent::MiddleHeaderIntersections, '─');
    match style {
        Style::Colour => table.enforce_styling(),
        Style::Plain => table.force_no_tty(),
    };
    let values: &[&str] = match layout {
        Layout::Wide => &["1m", "5m", "15m", "1h"],
        Layout::Narrow => &["value", "window"],
    };
    let header = ["id", "indicator", "unit"].into_iter().chain(values.iter().copied());
    table.set_header(header.chain(["target", "met", "complete"]).collect::<Vec<_>>());
    for description in descriptions.iter().filter(|description| description.levels.contains(&Level::City)) {
        let of = |window| rows.iter().find(|row| row.window == window && *row.id == *description.id);
        table.add_row(line(description, &WINDOWS.map(of), layout, style));
    }
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, if layout == Layout::Wide { 2 } else { 1 }));
        if (3..3 + values.len()).contains(&index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect()
}

fn line(description: &Description, of: &[Option<&IndicatorRow>], layout: Layout, style: Style) -> Vec<Cell> {
    let newest = of.iter().flatten().next();
    let value = |row: Option<&IndicatorRow>| row.map_or_else(String::new, |row| number(row.value));
    let mut cells =
        vec![Cell::new(&description.id), Cell::new(shortened(&description.name)), Cell::new(&description.unit)];
    match layout {
        Layout::Wide => cells.extend(of.iter().map(|row| Cell::new(value(*row)))),
        Layout::Narrow => {
            cells.push(Cell::new(value(newest.copied())));
            cells.push(Cell::new(newest.map_or("", |row| row.window.label())));
        }
    }
    let target = description.target.as_ref().filter(|target| target.levels.contains(&Level::City));
    cells.push(Cell::new(target.map_or_else(String::new, target_text)));
    let met = target.zip(newest.and_then(|row| row.value)).map(|(target, value)| target.is_met(value));
    let (text, colour) = match met {
        Some(true) => ("yes", Color::Green),
        Some(false) => ("no", Color::Red),
        None => ("", Color::Reset),
    };
    cells.push(if style == Style::Colour && met.is_some() { Cell::new(text).fg(colour) } else { Cell::new(text) });
    let completeness = newest.and_then(|row| row.completeness);
    cells.push(Cell::new(completeness.map_or_else(String::new, |part| format!("{:.0} %", part * 100.0))));
    cells
}

fn shortened(name: &str) -> String {
    // What stands in brackets is a remark.
    let name = name.split(" (").next().unwrap_or(name);
    if name.chars().count() <= NAME_CHARS_MAX {
        return name.to_owned();
    }
    name.chars().take(NAME_CHARS_MAX - 1).chain(['…']).collect()
}

fn target_text(target: &Target) -> String {
    let sense = match target.sense {
        TargetSense::AtLeast => "≥",
        TargetSense::AtMost => "≤",
    };
    format!("{sense} {}", target.value)
}

/// A value with about four digits; `-` where there is none, which is not 0.
pub(super) fn number(value: Option<f64>) -> String {
    let Some(value) = value else { return "-".to_owned() };
    let size = value.abs();
    if value.fract() == 0.0 || size >= 1_000.0 {
        return format!("{value:.0}");
    }
    if size >= 100.0 {
        format!("{value:.1}")
    } else if size >= 10.0 {
        format!("{value:.2}")
    } else {
        format!("{value:.3}")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::Timestamp;

    fn description() -> Description {
        Description {
            id: "DC1".to_owned(),
            name: "Power usage effectiveness (interim)".to_owned(),
            name_zh: String::new(),
            unit: "1".to_owned(),
            source: String::new(),
            levels: [Level::City].into(),
            windows: [Window::Minute1, Window::Minute5].into(),
            target: Some(Target {
                sense: TargetSense::AtMost,
                value: 1.3,
                levels: [Level::City].into(),
                source: String::new(),
            }),
        }
    }

    fn row(window: Window, value: Option<f64>) -> IndicatorRow {
        IndicatorRow {
            seq: 1,
            id: Arc::from("DC1"),
            level: Level::City,
            area: Arc::from("350100"),
            operator: Arc::from(""),
            site: Arc::from(""),
            window,
            start: Timestamp::from_millis(0),
            value,
            numerator: None,
            denominator: None,
            completeness: Some(0.976),
            revision: 1,
        }
    }

    #[test]
    fn a_narrow_table_shows_the_newest_value_and_whether_it_will_do() {
        let rows = [row(Window::Minute5, Some(1.31)), row(Window::Minute1, Some(1.2567))];
        let lines = indicators(&[description()], &rows, Layout::Narrow, Style::Plain);
        let cells: Vec<_> = lines[2].split_whitespace().collect();
        assert_eq!(cells, "DC1 Power usage effective… 1 1.257 1m ≤ 1.3 yes 98 %".split(' ').collect::<Vec<_>>());
        assert!(lines.iter().all(|line| line.chars().count() <= 80), "{lines:#?}");
    }

    #[test]
    fn what_is_not_known_is_neither_0_nor_a_failure() {
        let rows = [row(Window::Minute1, None), row(Window::Minute5, Some(1.31))];
        let lines = indicators(&[description()], &rows, Layout::Wide, Style::Plain);
        let cells: Vec<_> = lines[2].split_whitespace().collect();
        assert_eq!(cells, "DC1 Power usage effective… 1 - 1.310 ≤ 1.3 98 %".split(' ').collect::<Vec<_>>());
    }

    #[test]
    fn colours_appear_only_where_they_may() {
        let rows = [row(Window::Minute1, Some(1.4))];
        let text = |style| indicators(&[description()], &rows, Layout::Narrow, style).join("\n");
        assert!(text(Style::Colour).contains('\u{1b}'));
        assert!(!text(Style::Plain).contains('\u{1b}'));
    }

    #[test]
    fn numbers_keep_about_four_digits() {
        let shown = [0.0, 1.256_74, 24.518, 208_431.4, 60.0, 123.456].map(|value| number(Some(value)));
        assert_eq!(shown, ["0", "1.257", "24.52", "208431", "60", "123.5"]);
    }
}
