//! An indicator's row as people and other systems get it: over HTTP, in the live stream, at the city brain.
//!
//! Owns the JSON shape (docs/schema/indicator-v1.schema.json) and the comparison with the target. Pure.

use jiff::tz::TimeZone;
use serde::Serialize;

use crate::indicator::{Description, Level, TargetSense};
use crate::inventory::Inventory;
use crate::model::{Timestamp, Window};
use crate::store::IndicatorRow;

/// An indicator's value for one group and window, with everything needed to read it alone.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct IndicatorJson {
    /// Identifier (`DC1`).
    pub id: String,
    /// English name.
    pub name: String,
    /// Chinese name.
    pub name_zh: String,
    /// Unit symbol.
    pub unit: String,
    /// What it is computed for.
    pub level: Level,
    /// Area code: the city's at levels city and operator, the district's at levels district and site.
    pub area: String,
    /// English name of the area; empty where the inventory does not list it.
    pub area_name: String,
    /// Chinese name of the area; empty where the inventory does not list it.
    pub area_name_zh: String,
    /// Operator, at levels operator and site; else empty.
    pub operator: String,
    /// Site, at level site; else empty.
    pub site: String,
    /// Window.
    pub window: Window,
    /// Start of the window, inclusive.
    pub start: Timestamp,
    /// End of the window, exclusive.
    pub end: Timestamp,
    /// The value; null where it is not known, which is not 0.
    pub value: Option<f64>,
    /// Numerator, where the formula is a ratio; else the value.
    pub numerator: Option<f64>,
    /// Denominator, where the formula is a ratio.
    pub denominator: Option<f64>,
    /// Share of the readings due that were heard, 0 to 1; null where nobody declared what is due.
    pub completeness: Option<f64>,
    /// What it is to reach at this level.
    pub target: Option<TargetJson>,
    /// 1 when first final, raised by every amendment.
    pub revision: u64,
    /// Always true: only final windows are reported.
    #[serde(rename = "final")]
    pub is_final: bool,
}

/// A target, and whether it is met.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TargetJson {
    /// The value to reach, in the indicator's unit.
    pub value: f64,
    /// `>=` or `<=`.
    pub sense: TargetSense,
    /// Whether the value reaches it; null where the value is not known.
    pub met: Option<bool>,
}

impl IndicatorJson {
    /// The row with what its description, the inventory and the zone add to it.
    #[must_use]
    pub fn of(row: &IndicatorRow, description: &Description, inventory: &Inventory, zone: &TimeZone) -> Self {
        let area = inventory.areas().get(&row.area);
        let target = description.target.as_ref().filter(|target| target.levels.contains(&row.level));
        Self {
            id: row.id.to_string(),
            name: description.name.clone(),
            name_zh: description.name_zh.clone(),
            unit: description.unit.clone(),
            level: row.level,
            area: row.area.to_string(),
            area_name: area.map(|area| area.name.clone()).unwrap_or_default(),
            area_name_zh: area.map(|area| area.name_zh.clone()).unwrap_or_default(),
            operator: row.operator.to_string(),
            site: row.site.to_string(),
            window: row.window,
            start: row.start,
            end: row.window.bounds(row.start, zone).1,
            value: row.value,
            numerator: row.numerator,
            denominator: row.denominator,
            completeness: row.completeness,
            target: target.map(|target| TargetJson {
                value: target.value,
                sense: target.sense,
                met: row.value.map(|value| target.is_met(value)),
            }),
            revision: row.revision,
            is_final: true,
        }
    }

    /// The rows that have a description; one whose indicator is no longer configured has no name or unit to go by.
    #[must_use]
    pub fn all(
        rows: &[IndicatorRow],
        descriptions: &[Description],
        inventory: &Inventory,
        zone: &TimeZone,
    ) -> Vec<Self> {
        let described = rows.iter().filter_map(|row| {
            let description = descriptions.iter().find(|description| description.id == *row.id)?;
            Some(Self::of(row, description, inventory, zone))
        });
        described.collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::indicator::Target;

    fn description() -> Description {
        let target = Target {
            sense: TargetSense::AtMost,
            value: 1.3,
            levels: [Level::City].into(),
            source: "GB 40879-2021".to_owned(),
        };
        Description {
            id: "DC1".to_owned(),
            name: "PUE".to_owned(),
            name_zh: "电能利用效率".to_owned(),
            unit: "1".to_owned(),
            source: "ISO/IEC 30134-2".to_owned(),
            levels: [Level::City, Level::District].into(),
            windows: [Window::Hour1].into(),
            target: Some(target),
        }
    }

    fn target(level: Level, value: Option<f64>) -> Option<TargetJson> {
        let row = IndicatorRow {
            seq: 1,
            id: Arc::from("DC1"),
            level,
            area: Arc::from("350100"),
            operator: Arc::from(""),
            site: Arc::from(""),
            window: Window::Hour1,
            start: Timestamp::from_millis(3_600_000),
            value,
            numerator: value,
            denominator: None,
            completeness: Some(1.0),
            revision: 1,
        };
        let json = IndicatorJson::of(&row, &description(), &Inventory::default(), &TimeZone::UTC);
        assert_eq!(json.end, Timestamp::from_millis(7_200_000));
        json.target
    }

    #[test]
    fn a_target_is_compared_at_its_levels_and_an_unknown_value_meets_nothing() {
        let met = |value| target(Level::City, value).expect("the city has a target").met;
        assert_eq!((met(Some(1.3)), met(Some(1.31)), met(None)), (Some(true), Some(false), None));
        assert_eq!(target(Level::District, Some(1.0)), None);
    }
}
