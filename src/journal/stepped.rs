//! The journal without its thread: a test says when a group is committed.

use std::sync::Arc;

use super::writer::{Round, Writer};
use super::{Error, Journal, Options, Storage, assemble};
use crate::clock::Clock;
use crate::health::Part;
use crate::model::JournalPosition;

/// A journal that commits when it is told to.
pub(crate) struct SteppedJournal {
    /// Its ways in and out.
    pub(crate) journal: Arc<Journal>,
    writer: Writer,
}

impl SteppedJournal {
    /// Opens the journal as [`Journal::open`] does, but for the thread.
    pub(crate) fn open(
        storage: Arc<dyn Storage>,
        options: Options,
        passed: JournalPosition,
        part: Arc<Part>,
        clock: Clock,
    ) -> Result<Self, Error> {
        let (shared, writer) = assemble(storage, options, passed, part, clock)?;
        Ok(Self { journal: Arc::new(Journal { shared, thread: None }), writer })
    }

    /// Commits a group, or tries the one again that failed. Returns whether there was one that is durable now.
    pub(crate) fn round(&mut self) -> bool {
        self.writer.round() == Round::Committed
    }
}
