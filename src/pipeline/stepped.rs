//! The pipeline without its thread: a test says when it reads and when it flushes.

use super::{Driver, Pipeline, Progress, StartError};
use crate::journal::Entry;
use crate::ledger::Ledger;

/// A pipeline that does one thing at a time.
pub(crate) struct SteppedPipeline {
    driver: Driver,
    entries: Vec<Entry>,
}

impl SteppedPipeline {
    /// The pipeline, as it is when its thread starts.
    pub(crate) fn new(pipeline: Pipeline) -> Result<Self, StartError> {
        Ok(Self { driver: pipeline.driver()?, entries: Vec::new() })
    }

    /// Reads what the journal has and applies it. Returns whether there was anything.
    pub(crate) fn read(&mut self) -> bool {
        matches!(self.driver.take_in(&mut self.entries), Progress::Some)
    }

    /// Writes what is open to the store. Returns whether that went well.
    pub(crate) fn flush(&mut self) -> bool {
        self.driver.flush()
    }

    /// Makes windows final without rows. Returns whether that went well; `None` where rows have to be written first.
    #[cfg(test)]
    pub(crate) fn finalise(&mut self) -> Option<bool> {
        let time = self.driver.flush_time(self.driver.pipeline.clock.now());
        self.driver.may_finalise(time).then(|| self.driver.finalise(time))
    }

    /// Whether as much is open as may be.
    pub(crate) fn is_full(&self) -> bool {
        self.driver.roller.is_full()
    }

    /// The ledger now.
    pub(crate) fn ledger(&self) -> Ledger {
        let Pipeline { board, journal, .. } = &self.driver.pipeline;
        board.ledger(|| journal.end())
    }

    /// The store's writer, to put faults into.
    #[cfg(test)]
    pub(crate) fn writer(&self) -> &crate::store::Writer {
        &self.driver.pipeline.writer
    }
}
