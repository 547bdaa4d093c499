//! What goes with age or for the bound in bytes, so that the store stays bounded.
//!
//! Rows go oldest first, whole base windows at a time. `kept from` is the end of the newest window that has gone: it is
//! raised first, the rows below it are deleted in bounded portions. What starts before it is not told any more,
//! neither to readers nor to sinks, so that nobody sees a window of which a part is deleted; and a late reading for it
//! counts as expired, since the row that it would begin anew would hide the whole one that sinks have.
//!
//! For the bound in bytes the order is: base rows that every sink has and every window that is made of them is over
//! and computed; indicators older than those rows that every sink has; then, at a tenth above the bound, base rows
//! whoever needs them, or indicators where these take more than half of the bound. The last two are counted as lost.

use rusqlite::{Transaction, params};

use super::WriterOptions;
use super::bound::{Bound, Fill, Pressure, hard, used_bytes};
use super::feed::Feed;
use super::schema::{StateKey, to_sql};
use crate::clock::CLOCK_SET_FROM;
use crate::model::{BASE_WINDOW_MS, Timestamp, Window};

/// Rejected messages that are kept.
const DEAD_LETTERS_MAX: i64 = 1_000;
/// Rows of a table that one flush deletes at the most, or twice as many as it wrote where that is more, so that
/// retention never holds up a flush for long and still gains on it.
const DELETED_ROWS_MAX: usize = 20_000;
/// Windows that one flush gives up at the most for the bound in bytes, or twice as many as it wrote rows where that is
/// more.
const SHED_WINDOWS_MAX: usize = 500;
/// Indicators that are deleted at a time for the bound in bytes.
const SHED_INDICATORS: i64 = 1_000;
/// Bytes of an indicator with its indices, near enough for its share.
const INDICATOR_BYTES: u64 = 256;
/// How far a clock may run ahead of the newest row and still be believed when rows are deleted, ms.
const CLOCK_AHEAD_MS_MAX: i64 = 24 * 3_600_000;

/// Start of the base window that holds `at`.
fn minute(at: Timestamp) -> Timestamp {
    Window::Minute1.bounds(at, &jiff::tz::TimeZone::UTC).0
}

/// The instant before which rows are too old.
///
/// Age counts to now, or to a day after the newest row where that is earlier: a clock that is set years ahead must not
/// delete everything there is.
fn aged_until(
    transaction: &Transaction<'_>,
    options: &WriterOptions,
    now: Timestamp,
) -> Result<Timestamp, rusqlite::Error> {
    let newest: Option<i64> =
        transaction.prepare_cached("SELECT max(start) FROM rollup")?.query_row((), |row| row.get(0))?;
    let Some(newest) = newest else { return Ok(Timestamp::from_millis(i64::MIN)) };
    let believed = now.min(Timestamp::from_millis(newest).plus_millis(CLOCK_AHEAD_MS_MAX));
    Ok(minute(believed.plus_millis(-options.retention_ms)))
}

/// Deletes what has to go, in a flush's transaction.
pub(super) struct Pruner<'a> {
    transaction: &'a Transaction<'a>,
    options: &'a WriterOptions,
    bound: &'a Bound,
    /// Rows before this are too old.
    aged_until: Timestamp,
    /// Rows before this went for the bound in bytes.
    shed_until: Timestamp,
    /// The later of the two.
    kept_from: Timestamp,
    /// What it was at the last flush.
    kept_before: Timestamp,
    /// Rows that may still be deleted.
    rows_left: usize,
    /// Windows that may still be given up.
    windows_left: usize,
}

/// Until where rows may go for the bound in bytes.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// Nobody needs the rows before this.
    taken: Timestamp,
    /// The windows before this are final.
    last: Timestamp,
}

impl<'a> Pruner<'a> {
    /// Reads what went before. `last` is the end of the newest window that is final by the clock, `final_before` that of
    /// the newest one that was final before this flush.
    pub(super) fn new(
        transaction: &'a Transaction<'a>,
        options: &'a WriterOptions,
        bound: &'a Bound,
        (now, last, final_before): (Timestamp, Timestamp, Option<Timestamp>),
    ) -> Result<Self, rusqlite::Error> {
        let never = Timestamp::from_millis(i64::MIN);
        let read = |key: StateKey| Ok::<_, rusqlite::Error>(key.read(transaction)?.map(Timestamp::from_millis));
        let aged_until = aged_until(transaction, options, now)?;
        // What a clock that ran ahead let go is no reason to refuse what comes in now; one that is not set tells nothing.
        let shed_until = read(StateKey::ShedUntil)?.unwrap_or(never);
        let shed_until = if last < CLOCK_SET_FROM { shed_until } else { shed_until.min(last) };
        let kept_before = read(StateKey::KeptFrom)?.unwrap_or(never);
        // Only a clock that fell back takes anything back of it: a flush that goes by a backlog's time is a little behind
        // the one before it, one that is not set tells nothing, and a longer retention brings no row back.
        let is_behind = last >= CLOCK_SET_FROM && final_before.is_none_or(|before| last < before);
        let kept_from = aged_until.max(shed_until).max(if is_behind { never } else { kept_before });
        Ok(Self {
            transaction,
            options,
            bound,
            aged_until,
            shed_until,
            kept_from,
            kept_before,
            rows_left: 0,
            windows_left: 0,
        })
    }

    /// What a window that starts before this comes to can no longer be told.
    pub(super) fn kept_from(&self) -> Timestamp {
        self.kept_from
    }

    /// Deletes what is too old and, above the bound in bytes, what is worth the least. `rows_written` is what the flush
    /// wrote, `final_until` the end of the newest final window.
    pub(super) fn prune(
        mut self,
        rows_written: usize,
        (final_until, last): (Timestamp, Timestamp),
    ) -> Result<Fill, rusqlite::Error> {
        self.rows_left = DELETED_ROWS_MAX.max(2 * rows_written);
        self.windows_left = SHED_WINDOWS_MAX.max(2 * rows_written);
        let portion = to_sql(self.rows_left as u64);
        self.note_lost(self.kept_before, self.kept_from)?;
        self.delete_rows()?;
        self.expire_indicators(portion)?;
        let passed = self.passed_by_all(Feed::Rollup)?;
        self.delete(
            "DELETE FROM change WHERE seq IN (SELECT seq FROM change WHERE seq <= ? ORDER BY seq LIMIT ?)",
            passed,
            portion,
        )?;
        let (bytes_max, is_disks) = self.bound.bytes_max();
        let pressure =
            self.shed(bytes_max, Limits { taken: self.taken_until(final_until)?, last: last.min(final_until) })?;
        let kept_from = self.kept_from.as_millis();
        self.delete_changes(portion)?;
        let marks = self.delete(
            "DELETE FROM stale WHERE (start, window) IN (SELECT start, window FROM stale WHERE start < ? LIMIT ?)",
            kept_from,
            portion,
        )?;
        StateKey::MarksExpired.add(self.transaction, marks)?;
        self.drop_dead_letters()?;
        StateKey::KeptFrom.write(self.transaction, kept_from)?;
        StateKey::ShedUntil.write(self.transaction, self.shed_until.as_millis())?;
        let kept_from = (kept_from > i64::MIN).then_some(self.kept_from);
        Ok(Fill { used_bytes: used_bytes(self.transaction)?, log_bytes: 0, bytes_max, is_disks, pressure, kept_from })
    }

    /// Deletes changes of windows that are given up; what of them is lost was counted by then.
    fn delete_changes(&self, limit: i64) -> Result<u64, rusqlite::Error> {
        const SQL: &str =
            "DELETE FROM change WHERE seq IN (SELECT seq FROM change WHERE start < ? ORDER BY start LIMIT ?)";
        self.delete(SQL, self.kept_from.as_millis(), limit.saturating_mul(2))
    }

    /// Runs a deletion with two parameters and gives the number of rows.
    fn delete(&self, sql: &str, below: i64, limit: i64) -> Result<u64, rusqlite::Error> {
        Ok(self.transaction.prepare_cached(sql)?.execute(params![below, limit])? as u64)
    }

    /// Counts the changes that lie between two instants and that not every sink has passed.
    fn note_lost(&self, from: Timestamp, to: Timestamp) -> Result<(), rusqlite::Error> {
        if from >= to {
            return Ok(());
        }
        let passed = self.passed_by_all(Feed::Rollup)?;
        let lost = self
            .transaction
            .prepare_cached("SELECT count(*) FROM change WHERE start >= ? AND start < ? AND seq > ?")?
            .query_row(params![from.as_millis(), to.as_millis(), passed], |row| row.get::<_, i64>(0))?;
        StateKey::FeedExpired.add(self.transaction, u64::try_from(lost).unwrap_or(0))
    }

    /// Deletes rows of windows that are given up, as many as may still go. Returns how many.
    fn delete_rows(&mut self) -> Result<usize, rusqlite::Error> {
        const SQL: &str = "DELETE FROM rollup WHERE (start, device) IN
           (SELECT start, device FROM rollup WHERE start < ? ORDER BY start, device LIMIT ?)";
        let mut deleted = 0;
        for (until, key) in [(self.aged_until, StateKey::RowsExpired), (self.kept_from, StateKey::RowsShed)] {
            let rows = self.delete(SQL, until.as_millis(), to_sql(self.rows_left as u64))?;
            key.add(self.transaction, rows)?;
            let rows = usize::try_from(rows).unwrap_or(usize::MAX);
            self.rows_left = self.rows_left.saturating_sub(rows);
            deleted += rows;
        }
        Ok(deleted)
    }

    fn expire_indicators(&self, limit: i64) -> Result<(), rusqlite::Error> {
        let gone = self.delete_indicators(
            "DELETE FROM indicator WHERE seq IN (SELECT seq FROM indicator WHERE start < ? ORDER BY start LIMIT ?)
             RETURNING seq",
            params![self.aged_until.as_millis(), limit],
        )?;
        StateKey::IndicatorsExpired.add(self.transaction, gone)
    }

    /// Runs a deletion of indicators that returns their places; those that a sink has not passed are counted as lost.
    fn delete_indicators(&self, sql: &str, params: impl rusqlite::Params) -> Result<u64, rusqlite::Error> {
        let passed = self.passed_by_all(Feed::Indicator)?;
        let (mut gone, mut lost) = (0, 0);
        let mut statement = self.transaction.prepare_cached(sql)?;
        let mut rows = statement.query(params)?;
        while let Some(row) = rows.next()? {
            gone += 1;
            lost += u64::from(row.get::<_, i64>(0)? > passed);
        }
        StateKey::FeedExpired.add(self.transaction, lost)?;
        Ok(gone)
    }

    fn drop_dead_letters(&self) -> Result<(), rusqlite::Error> {
        let dropped = self
            .transaction
            .prepare_cached("DELETE FROM dead_letter WHERE seq <= (SELECT max(seq) FROM dead_letter) - ?")?
            .execute([DEAD_LETTERS_MAX])?;
        StateKey::DeadLettersDropped.add(self.transaction, dropped as u64)
    }

    /// The place in the feed that every configured sink has passed. A sink that has no position yet has passed nothing;
    /// one that is no longer configured is not asked.
    fn passed_by_all(&self, feed: Feed) -> Result<i64, rusqlite::Error> {
        let sinks = match feed {
            Feed::Rollup => &self.options.rollup_sinks,
            Feed::Indicator => &self.bound.indicator_sinks,
        };
        let mut position = self
            .transaction
            .prepare_cached("SELECT coalesce((SELECT position FROM sink WHERE name = ? AND feed = ?), 0)")?;
        let mut passed = i64::MAX;
        for sink in sinks {
            passed = passed.min(position.query_row(params![sink, feed.label()], |row| row.get(0))?);
        }
        Ok(passed)
    }

    /// The instant before which nobody needs the base rows: every window that is made of them is over, computed and
    /// with every sink.
    fn taken_until(&self, final_until: Timestamp) -> Result<Timestamp, rusqlite::Error> {
        let fed = if self.options.rollup_sinks.is_empty() { [].iter() } else { [()].iter() };
        let fed = fed.flat_map(|()| &self.options.feed_windows);
        let open = fed.chain(&self.options.indicator_windows).map(|w| w.bounds(final_until, &self.options.zone).0);
        let mut taken = open.min().unwrap_or(final_until).min(final_until);
        for sql in ["SELECT min(start) FROM change WHERE start >= ?", "SELECT min(start) FROM stale WHERE start >= ?"] {
            let mut oldest = self.transaction.prepare_cached(sql)?;
            let waiting = oldest.query_row([self.kept_from.as_millis()], |row| row.get::<_, Option<i64>>(0))?;
            taken = waiting.map_or(taken, |waiting| taken.min(Timestamp::from_millis(waiting)));
        }
        Ok(taken)
    }

    /// Deletes the oldest until the store is within its bound, or as much as may go in one flush.
    fn shed(&mut self, bytes_max: u64, limits: Limits) -> Result<Pressure, rusqlite::Error> {
        let mut pressure = Pressure::None;
        while self.may_shed() && used_bytes(self.transaction)? > bytes_max {
            pressure = Pressure::AtBound;
            self.windows_left -= 1;
            if self.delete_rows()? == 0 && !self.give_up_window(limits.taken)? && !self.shed_indicators(Whose::Taken)? {
                pressure = Pressure::Held;
                break;
            }
        }
        while self.may_shed() && used_bytes(self.transaction)? > hard(bytes_max) {
            pressure = Pressure::Shedding;
            self.windows_left -= 1;
            if self.delete_rows()? > 0 {
                continue;
            }
            let by_share = self.is_over_share(bytes_max)? && self.shed_indicators(Whose::All)?;
            if !by_share && !self.give_up_window(limits.last)? && !self.shed_indicators(Whose::All)? {
                pressure = Pressure::Stuck;
                break;
            }
        }
        // A portion that did not suffice goes on with the next flush.
        Ok(pressure)
    }

    fn may_shed(&self) -> bool {
        self.rows_left > 0 && self.windows_left > 0
    }

    /// Gives up the oldest base window that ends at `limit` or before; false where there is none.
    fn give_up_window(&mut self, limit: Timestamp) -> Result<bool, rusqlite::Error> {
        let oldest: Option<i64> =
            self.transaction.prepare_cached("SELECT min(start) FROM rollup")?.query_row((), |row| row.get(0))?;
        let Some(end) = oldest.map(|start| Timestamp::from_millis(start).plus_millis(BASE_WINDOW_MS)) else {
            return Ok(false);
        };
        if end > limit {
            return Ok(false);
        }
        self.note_lost(self.kept_from, end)?;
        self.shed_until = self.shed_until.max(end);
        self.kept_from = self.kept_from.max(end);
        self.delete_changes(to_sql(self.rows_left as u64))?;
        self.delete_rows()?;
        Ok(true)
    }

    /// Whether indicators take more than half of the bound, by the places that theirs lie apart in the feed.
    fn is_over_share(&self, bytes_max: u64) -> Result<bool, rusqlite::Error> {
        let span: i64 = self
            .transaction
            .prepare_cached("SELECT coalesce(max(seq) - min(seq), 0) FROM indicator")?
            .query_row((), |row| row.get(0))?;
        Ok(u64::try_from(span).unwrap_or(0).saturating_mul(INDICATOR_BYTES) > bytes_max / 2)
    }

    /// Deletes some of the oldest indicators that are older than the base rows, and so are never computed again; false
    /// where there are none.
    fn shed_indicators(&self, whose: Whose) -> Result<bool, rusqlite::Error> {
        let passed = match whose {
            Whose::Taken => self.passed_by_all(Feed::Indicator)?,
            Whose::All => i64::MAX,
        };
        let gone = self.delete_indicators(
            "DELETE FROM indicator WHERE seq IN
               (SELECT seq FROM (SELECT seq FROM indicator WHERE start < ? ORDER BY start LIMIT ?) WHERE seq <= ?)
             RETURNING seq",
            params![self.kept_from.as_millis(), SHED_INDICATORS, passed],
        )?;
        StateKey::IndicatorsShed.add(self.transaction, gone)?;
        Ok(gone > 0)
    }
}

/// Which indicators may go.
#[derive(Clone, Copy, Debug)]
enum Whose {
    /// Those that every sink has.
    Taken,
    /// The oldest, whoever has them.
    All,
}
