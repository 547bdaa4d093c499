//! What goes with age, so that the store stays bounded.

use rusqlite::{Transaction, params};

use super::WriterOptions;
use super::feed::Feed;
use super::schema::{StateKey, from_sql, to_sql};
use crate::model::Timestamp;

/// Rejected messages that are kept.
const DEAD_LETTERS_MAX: i64 = 1_000;
/// Rows of a table that one flush deletes at the most, so that retention never holds up a flush for long. A city makes
/// fewer in the time between two flushes.
const EXPIRED_ROWS_MAX: i64 = 20_000;
/// How far a clock may run ahead of the newest row and still be believed when rows are deleted, ms.
const CLOCK_AHEAD_MS_MAX: i64 = 24 * 3_600_000;

/// The instant before which rows are deleted.
///
/// Age counts to now, or to a day after the newest row where that is earlier: a clock that is set years ahead must not
/// delete everything there is.
pub(super) fn oldest_kept(
    transaction: &Transaction<'_>,
    options: &WriterOptions,
    now: Timestamp,
) -> Result<Timestamp, rusqlite::Error> {
    let newest: Option<i64> =
        transaction.prepare_cached("SELECT max(start) FROM rollup")?.query_row((), |row| row.get(0))?;
    let believed = newest.map_or(now, |newest| now.min(Timestamp::from_millis(newest).plus_millis(CLOCK_AHEAD_MS_MAX)));
    Ok(believed.plus_millis(-options.retention_ms))
}

/// Deletes what is older than `oldest`, and changes that every sink has passed.
///
/// A sink that has no position yet has passed nothing. Changes that expire before every sink has passed them are
/// counted.
pub(super) fn prune(
    transaction: &Transaction<'_>,
    options: &WriterOptions,
    oldest: Timestamp,
) -> Result<(), rusqlite::Error> {
    let expire = |sql| transaction.prepare_cached(sql)?.execute(params![oldest.as_millis(), EXPIRED_ROWS_MAX]);
    expire(
        "DELETE FROM rollup WHERE (start, device) IN
           (SELECT start, device FROM rollup WHERE start < ? ORDER BY start, device LIMIT ?)",
    )?;
    expire("DELETE FROM indicator WHERE seq IN (SELECT seq FROM indicator WHERE start < ? ORDER BY start LIMIT ?)")?;
    expire("DELETE FROM stale WHERE (start, window) IN (SELECT start, window FROM stale WHERE start < ? LIMIT ?)")?;
    transaction.prepare_cached("DELETE FROM change WHERE seq <= ?")?.execute([passed_by_all(transaction, options)?])?;
    let lost =
        expire("DELETE FROM change WHERE seq IN (SELECT seq FROM change WHERE start < ? ORDER BY start LIMIT ?)")?;
    if lost > 0 {
        let before = StateKey::FeedExpired.read(transaction)?.map_or(0, from_sql);
        StateKey::FeedExpired.write(transaction, to_sql(before + lost as u64))?;
    }
    transaction
        .prepare_cached("DELETE FROM dead_letter WHERE seq <= (SELECT max(seq) FROM dead_letter) - ?")?
        .execute([DEAD_LETTERS_MAX])?;
    Ok(())
}

/// The place in the feed that every sink has passed.
fn passed_by_all(transaction: &Transaction<'_>, options: &WriterOptions) -> Result<i64, rusqlite::Error> {
    let mut position =
        transaction.prepare_cached("SELECT coalesce((SELECT position FROM sink WHERE name = ? AND feed = ?), 0)")?;
    let mut passed = i64::MAX;
    for sink in &options.rollup_sinks {
        passed = passed.min(position.query_row(params![sink, Feed::Rollup.label()], |row| row.get(0))?);
    }
    Ok(passed)
}
