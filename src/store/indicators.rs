//! Indicators as they are stored: one row per indicator, group and window, with its revision and place in the feed.

use std::sync::Arc;

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Row, ToSql, TransactionBehavior, params, params_from_iter};

use super::read::{collect, kept_from};
use super::schema::{StateKey, count_at, time_at, to_sql, window_at};
use super::{Error, Reader};
use crate::indicator::Level;
use crate::model::{Timestamp, Window, WindowStart};

const COLUMNS: &str = "seq, id, level, area, operator, site, window, start, value, numerator, denominator, \
                       completeness, revision";

/// A window whose indicators are to be computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StaleWindow {
    /// The window.
    pub window: Window,
    /// Its start.
    pub start: WindowStart,
    /// The flush that marked it last.
    pub generation: u64,
}

/// One indicator of one group over one final window.
///
/// City: `area` is the city's code. Operator: `area` is the city's code and `operator` is set. District: `area` is the
/// district's code. Site: `area`, `operator` and `site` are set. What does not apply is empty.
#[derive(Clone, Debug, PartialEq)]
pub struct IndicatorRow {
    /// Its place in the feed; the store gives it.
    pub seq: u64,
    /// The indicator.
    pub id: Arc<str>,
    /// What it is computed for.
    pub level: Level,
    /// Area code.
    pub area: Arc<str>,
    /// Operator.
    pub operator: Arc<str>,
    /// Site.
    pub site: Arc<str>,
    /// Window.
    pub window: Window,
    /// Start of the window.
    pub start: WindowStart,
    /// Value in the indicator's unit; `None` where it cannot be told.
    pub value: Option<f64>,
    /// Numerator of a ratio.
    pub numerator: Option<f64>,
    /// Denominator of a ratio.
    pub denominator: Option<f64>,
    /// Part of the inputs that was there, 0 to 1.
    pub completeness: Option<f64>,
    /// 1, and one more for every time it changed; the store gives it.
    pub revision: u64,
}

/// Which indicators to read; `None` leaves a field open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndicatorQuery {
    /// The indicator.
    pub id: Option<String>,
    /// Level.
    pub level: Option<Level>,
    /// Area code.
    pub area: Option<String>,
    /// Operator.
    pub operator: Option<String>,
    /// Site.
    pub site: Option<String>,
    /// Window.
    pub window: Option<Window>,
    /// Earliest start, inclusive.
    pub from: Timestamp,
    /// Latest start, exclusive.
    pub to: Timestamp,
    /// Rows at the most.
    pub limit: usize,
}

impl Reader {
    /// The indicator feed: up to `limit` rows after place `seq`, in order.
    ///
    /// # Errors
    /// [`Error`] where SQLite refuses.
    pub fn indicators_after(&self, seq: u64, limit: usize) -> Result<Vec<IndicatorRow>, Error> {
        let sql = format!("SELECT {COLUMNS} FROM indicator WHERE seq > ? ORDER BY seq LIMIT ?");
        collect(&self.connection, &sql, params![to_sql(seq), to_sql(limit as u64)], indicator_row)
            .map_err(|source| self.path.error("read the feed of indicators", source))
    }

    /// The indicators that `query` asks for, in order of their start.
    ///
    /// # Errors
    /// [`Error`] where SQLite refuses.
    pub fn indicators(&self, query: &IndicatorQuery) -> Result<Vec<IndicatorRow>, Error> {
        let mut conditions = vec!["start >= ?", "start < ?"];
        let mut values: Vec<Value> = vec![query.from.as_millis().into(), query.to.as_millis().into()];
        let texts = [
            ("id = ?", query.id.as_deref()),
            ("level = ?", query.level.map(Level::label)),
            ("area = ?", query.area.as_deref()),
            ("operator = ?", query.operator.as_deref()),
            ("site = ?", query.site.as_deref()),
        ];
        for (condition, text) in texts {
            if let Some(text) = text {
                conditions.push(condition);
                values.push(text.to_owned().into());
            }
        }
        if let Some(window) = query.window {
            conditions.push("window = ?");
            values.push(i64::from(window.code()).into());
        }
        values.push(to_sql(query.limit as u64).into());
        let sql = format!(
            "SELECT {COLUMNS} FROM indicator WHERE {} ORDER BY start, id, level, window, area, operator, site LIMIT ?",
            conditions.join(" AND ")
        );
        collect(&self.connection, &sql, params_from_iter(values), indicator_row)
            .map_err(|source| self.path.error("read indicators", source))
    }

    /// The newest row of every indicator, group and window, or of one window or level only, of windows that begin at
    /// `now` or before: a clock that ran ahead leaves later ones.
    ///
    /// # Errors
    /// [`Error`] where SQLite refuses.
    pub fn latest_indicators(
        &self,
        window: Option<Window>,
        level: Option<Level>,
        now: Timestamp,
    ) -> Result<Vec<IndicatorRow>, Error> {
        self.latest(window, level, now).map_err(|source| self.path.error("read the newest indicators", source))
    }

    /// Jumps from group to group through the index, so that the history behind each group is not read.
    fn latest(
        &self,
        window: Option<Window>,
        level: Option<Level>,
        now: Timestamp,
    ) -> Result<Vec<IndicatorRow>, rusqlite::Error> {
        const KEY: &str = "id, level, window, area, operator, site";
        let snapshot = self.connection.unchecked_transaction()?;
        let mut first = snapshot.prepare_cached(&format!("SELECT {KEY} FROM indicator ORDER BY {KEY} LIMIT 1"))?;
        let mut next = snapshot.prepare_cached(&format!(
            "SELECT {KEY} FROM indicator WHERE ({KEY}) > (?, ?, ?, ?, ?, ?) ORDER BY {KEY} LIMIT 1"
        ))?;
        let mut newest = snapshot.prepare_cached(&format!(
            "SELECT {COLUMNS} FROM indicator WHERE ({KEY}) = (?, ?, ?, ?, ?, ?) AND start <= {} ORDER BY start DESC LIMIT 1",
            now.as_millis()
        ))?;
        let mut rows = Vec::new();
        let mut group = first.query_row((), GroupKey::read).optional()?;
        while let Some(mut key) = group {
            if level.is_some_and(|level| level.label() != key.level) {
                // Over the other level's windows and groups, of which there may be tens of thousands, in one jump.
                key.window = u8::MAX;
            } else if window.is_none_or(|window| window.code() == key.window) {
                rows.extend(newest.query_row(key.params(), indicator_row).optional()?);
            }
            group = next.query_row(key.params(), GroupKey::read).optional()?;
        }
        Ok(rows)
    }

    /// Up to `limit` windows whose indicators are to be computed, oldest first.
    ///
    /// # Errors
    /// [`Error`] where SQLite refuses.
    pub fn stale(&self, limit: usize) -> Result<Vec<StaleWindow>, Error> {
        let sql = "SELECT window, start, generation FROM stale ORDER BY start, window LIMIT ?";
        let read = collect(&self.connection, sql, [to_sql(limit as u64)], |row| {
            Ok(StaleWindow { window: window_at(row, 0)?, start: time_at(row, 1)?, generation: count_at(row, 2)? })
        });
        read.map_err(|source| self.path.error("read what indicators are to be computed", source))
    }
}

/// What an indicator's history is kept under.
struct GroupKey {
    id: String,
    level: String,
    window: u8,
    area: String,
    operator: String,
    site: String,
}

impl GroupKey {
    fn read(row: &Row<'_>) -> Result<Self, rusqlite::Error> {
        Ok(Self {
            id: row.get(0)?,
            level: row.get(1)?,
            window: row.get(2)?,
            area: row.get(3)?,
            operator: row.get(4)?,
            site: row.get(5)?,
        })
    }

    fn params(&self) -> [&dyn ToSql; 6] {
        [&self.id, &self.level, &self.window, &self.area, &self.operator, &self.site]
    }
}

fn indicator_row(row: &Row<'_>) -> Result<IndicatorRow, rusqlite::Error> {
    let level: String = row.get(2)?;
    let level = level
        .parse()
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(2, rusqlite::types::Type::Text, Box::new(error)))?;
    Ok(IndicatorRow {
        seq: count_at(row, 0)?,
        id: row.get(1)?,
        level,
        area: row.get(3)?,
        operator: row.get(4)?,
        site: row.get(5)?,
        window: window_at(row, 6)?,
        start: time_at(row, 7)?,
        value: row.get(8)?,
        numerator: row.get(9)?,
        denominator: row.get(10)?,
        completeness: row.get(11)?,
        revision: count_at(row, 12)?,
    })
}

pub(super) fn write_indicators(
    connection: &mut Connection,
    rows: &[IndicatorRow],
    computed: &StaleWindow,
) -> Result<usize, rusqlite::Error> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut changed = 0;
    // Rows that went while it was computed are missing in it: what was told of the whole window stays.
    let is_gone = kept_from(&transaction)?.is_some_and(|kept_from| computed.start < kept_from);
    {
        let mut find = transaction.prepare_cached(
            "SELECT revision, value, numerator, denominator, completeness FROM indicator
             WHERE id = ? AND level = ? AND window = ? AND area = ? AND operator = ? AND site = ? AND start = ?",
        )?;
        // A row that is replaced gets the next number of the feed, being a new row to SQLite.
        let mut replace = transaction.prepare_cached(
            "INSERT OR REPLACE INTO indicator(id, level, window, area, operator, site, start, value, numerator,
               denominator, completeness, revision) VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )?;
        for row in rows.iter().filter(|_| !is_gone) {
            let (level, window, start) = (row.level.label(), row.window.code(), row.start.as_millis());
            let numbers = [row.value, row.numerator, row.denominator, row.completeness].map(told);
            let known = find
                .query_row(params![row.id, level, window, row.area, row.operator, row.site, start], |row| {
                    let stored: [Option<f64>; 4] = [row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?];
                    Ok((row.get::<_, i64>(0)?, stored))
                })
                .optional()?;
            let revision = match known {
                Some((_, stored)) if stored == numbers => continue,
                Some((revision, _)) => revision + 1,
                None => 1,
            };
            let [value, numerator, denominator, completeness] = numbers;
            replace.execute(params![
                row.id,
                level,
                window,
                row.area,
                row.operator,
                row.site,
                start,
                value,
                numerator,
                denominator,
                completeness,
                revision
            ])?;
            changed += 1;
        }
        transaction
            .prepare_cached("DELETE FROM stale WHERE start = ? AND window = ? AND generation = ?")?
            .execute(params![computed.start.as_millis(), computed.window.code(), to_sql(computed.generation)])?;
    }
    StateKey::MarksExpired.add(&transaction, is_gone.into())?;
    transaction.commit()?;
    Ok(changed)
}

/// A number that can be told; SQLite keeps NaN as NULL, so that it must not count as a change.
fn told(number: Option<f64>) -> Option<f64> {
    number.filter(|number| !number.is_nan())
}
