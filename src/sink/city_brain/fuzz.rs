//! Topics of groups that are called anything.

use std::sync::Arc;

use super::message;
use crate::indicator::Level;
use crate::model::{Timestamp, Window};
use crate::store::IndicatorRow;

/// The topic of a row of the operator called `operator`.
pub(crate) fn topic(operator: &str) -> String {
    let row = IndicatorRow {
        seq: 1,
        id: Arc::from("DC1"),
        level: Level::Operator,
        area: Arc::from("350100"),
        operator: Arc::from(operator),
        site: Arc::from(""),
        window: Window::Minute15,
        start: Timestamp::from_millis(0),
        value: None,
        numerator: None,
        denominator: None,
        completeness: None,
        revision: 1,
    };
    message::indicator_topic("p", &row)
}
