//! Reading: ledger, names, dead letters and what the writer says of itself.

use std::sync::Arc;

use rusqlite::{Connection, InterruptHandle, Params, Row};

use super::finality::Finality;
use super::schema::{StateKey, count_at, device_at, time_at, to_sql};
use super::{DeadLetter, Error, StorePath, StoredDevice, Unlisted};
use crate::ledger::Ledger;
use crate::model::{JournalPosition, MetricId, Timestamp};

/// A connection that reads while the writer writes; every call sees one consistent state of the store.
#[derive(Debug)]
pub struct Reader {
    pub(super) connection: Connection,
    pub(super) path: StorePath,
}

/// Ends a running query of a [`Reader`].
pub struct Interrupter(InterruptHandle);

impl Interrupter {
    /// Ends whatever the reader is running; does nothing where it runs nothing.
    pub fn interrupt(&self) {
        self.0.interrupt();
    }
}

impl Reader {
    /// Opens the store, which a [`super::Writer`] has made.
    ///
    /// # Errors
    /// [`Error`] where the file cannot be opened or has the tables of another version.
    pub fn open(path: &StorePath) -> Result<Self, Error> {
        Ok(Self { connection: path.open_reader()?, path: path.clone() })
    }

    /// Ends a query of this reader from another thread; the query fails with an error that [`Error::is_interrupted`]
    /// tells.
    #[must_use]
    pub fn interrupter(&self) -> Interrupter {
        Interrupter(self.connection.get_interrupt_handle())
    }

    /// A query that ends only when it is interrupted.
    #[cfg(test)]
    pub(crate) fn query_for_ever(&self) -> Result<(), Error> {
        let endless = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT max(n) FROM c";
        let never = self.connection.query_row(endless, (), |_| Ok(()));
        never.map_err(|source| self.path.error("query for ever", source))
    }

    /// Windows that end here or before are final; `None` before the first flush.
    ///
    /// # Errors
    /// [`Error`] where SQLite refuses.
    pub fn final_until(&self) -> Result<Option<Timestamp>, Error> {
        Ok(self.finality()?.map(|finality| finality.until))
    }

    /// What is final; `None` before the first flush.
    ///
    /// # Errors
    /// [`Error`] where SQLite refuses.
    pub fn finality(&self) -> Result<Option<Finality>, Error> {
        Finality::read(&self.connection).map_err(|source| self.path.error("read its state", source))
    }

    /// First record of the journal that the rows do not hold.
    ///
    /// # Errors
    /// [`Error`] where SQLite refuses.
    pub fn position(&self) -> Result<JournalPosition, Error> {
        self.count(StateKey::JournalPosition).map(JournalPosition)
    }

    /// Entries of the feeds that went before every sink had read them, since the store was made.
    ///
    /// # Errors
    /// [`Error`] where SQLite refuses.
    pub fn feed_expired(&self) -> Result<u64, Error> {
        self.count(StateKey::FeedExpired)
    }

    /// What the store has let go since it was made, by name.
    ///
    /// # Errors
    /// [`Error`] where SQLite refuses.
    pub fn discards(&self) -> Result<Vec<(&'static str, u64)>, Error> {
        StateKey::DISCARDS.into_iter().map(|key| Ok((key.label(), self.count(key)?))).collect()
    }

    /// The ledger as of the last flush; `received` and `pending` are the journal's to tell.
    ///
    /// # Errors
    /// [`Error`] where SQLite refuses.
    pub fn ledger(&self) -> Result<Ledger, Error> {
        ledger(&self.connection).map_err(|source| self.path.error("read the ledger", source))
    }

    /// The devices the store knows, by number.
    ///
    /// # Errors
    /// [`Error`] where SQLite refuses.
    pub fn devices(&self) -> Result<Vec<StoredDevice>, Error> {
        devices(&self.connection).map_err(|source| self.path.error("read its devices", source))
    }

    /// The metrics the store knows, by number.
    ///
    /// # Errors
    /// [`Error`] where SQLite refuses.
    pub fn metrics(&self) -> Result<Vec<(MetricId, Arc<str>)>, Error> {
        metrics(&self.connection).map_err(|source| self.path.error("read its metrics", source))
    }

    /// Up to `limit` rejected messages, newest first.
    ///
    /// # Errors
    /// [`Error`] where SQLite refuses.
    pub fn dead_letters(&self, limit: usize) -> Result<Vec<DeadLetter>, Error> {
        let sql = "SELECT at, source, topic, reason, payload FROM dead_letter ORDER BY seq DESC LIMIT ?";
        let read = collect(&self.connection, sql, [to_sql(limit as u64)], |row| {
            let reason: String = row.get(3)?;
            Ok(DeadLetter {
                at: time_at(row, 0)?,
                source: row.get(1)?,
                topic: row.get(2)?,
                reason: crate::ledger::reason(&reason).unwrap_or("unknown"),
                payload: row.get::<_, Vec<u8>>(4)?.into(),
            })
        });
        read.map_err(|source| self.path.error("read rejected messages", source))
    }

    fn count(&self, key: StateKey) -> Result<u64, Error> {
        key.count(&self.connection).map_err(|source| self.path.error("read its state", source))
    }
}

/// The rows of a query, each read by `read`.
pub(super) fn collect<T>(
    connection: &Connection,
    sql: &str,
    params: impl Params,
    read: impl FnMut(&Row<'_>) -> Result<T, rusqlite::Error>,
) -> Result<Vec<T>, rusqlite::Error> {
    connection.prepare_cached(sql)?.query_map(params, read)?.collect()
}

/// Windows that start before this are gone, or are going; `None` while nothing is.
pub(super) fn kept_from(connection: &Connection) -> Result<Option<Timestamp>, rusqlite::Error> {
    Ok(StateKey::KeptFrom.read(connection)?.filter(|at| *at > i64::MIN).map(Timestamp::from_millis))
}

pub(super) fn ledger(connection: &Connection) -> Result<Ledger, rusqlite::Error> {
    let mut ledger = Ledger::default();
    let mut unknown = 0u64;
    let entries = collect(connection, "SELECT source, class, reason, count FROM ledger", (), |row| {
        Ok((row.get::<_, Arc<str>>(0)?, row.get::<_, String>(1)?, row.get::<_, String>(2)?, count_at(row, 3)?))
    })?;
    for (source, class, reason, count) in entries {
        unknown += u64::from(!ledger.source(&source).restore(&class, &reason, count));
    }
    if unknown > 0 {
        tracing::warn!(unknown, "the ledger in the store has entries that this build does not know");
    }
    Ok(ledger)
}

pub(super) fn devices(connection: &Connection) -> Result<Vec<StoredDevice>, rusqlite::Error> {
    collect(connection, "SELECT id, site, name, kind, area, operator FROM device ORDER BY id", (), |row| {
        Ok(StoredDevice {
            id: device_at(row, 0)?,
            site: row.get(1)?,
            name: row.get(2)?,
            kind: row.get(3)?,
            area: row.get(4)?,
            operator: row.get(5)?,
        })
    })
}

pub(super) fn unlisted(connection: &Connection) -> Result<Unlisted, rusqlite::Error> {
    Ok(Unlisted {
        devices: collect(connection, "SELECT device, source FROM taken_in ORDER BY device", (), |row| {
            Ok((device_at(row, 0)?, row.get(1)?))
        })?,
        listed: Vec::new(),
        metrics: collect(
            connection,
            "SELECT device, metric FROM unlisted_metric ORDER BY device, metric",
            (),
            |row| Ok((device_at(row, 0)?, MetricId(row.get(1)?))),
        )?,
    })
}

pub(super) fn metrics(connection: &Connection) -> Result<Vec<(MetricId, Arc<str>)>, rusqlite::Error> {
    collect(connection, "SELECT id, name FROM metric ORDER BY id", (), |row| Ok((MetricId(row.get(0)?), row.get(1)?)))
}
