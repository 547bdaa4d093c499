//! Reads committed records in order, and says where some are missing.
//!
//! Never sees a record that is not synced. Never stops at damage: what is intact beyond it is read.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tracing::error;

use super::cursor::{Bounds, Cursor};
use super::format::{Sources, decode};
use super::patience::Patience;
use super::segment::Segment;
use super::shared::{Shared, Stretch};
use super::spare::Spare;
use super::{Entry, Error};
use crate::model::JournalPosition;

/// A place in the journal from which records are read on.
#[derive(Debug)]
pub struct Reader {
    shared: Arc<Shared>,
    position: u64,
    open: Option<Open>,
    sources: Sources,
    spare: Spare,
    pub(super) patience: Patience,
}

#[derive(Debug)]
struct Open {
    first: u64,
    cursor: Cursor,
}

/// What may still be read in one call.
struct Budget {
    bytes: usize,
    entries: usize,
}

impl Reader {
    pub(super) fn new(shared: Arc<Shared>, from: JournalPosition) -> Self {
        Self {
            shared,
            position: from.0,
            open: None,
            sources: Sources::default(),
            spare: Spare::default(),
            patience: Patience::default(),
        }
    }

    /// Position of the next record.
    pub fn position(&self) -> JournalPosition {
        JournalPosition(self.position)
    }

    /// Adds committed entries to `out`: until about `bytes_max` bytes of records are read (at least one entry) or there
    /// are no more. Returns how many entries; 0 means that there is nothing to read yet.
    ///
    /// # Errors
    /// When the disk cannot be read. What was read until then is in `out`, and the next call goes on after it. Where this
    /// lasts, ten calls and a minute, it reads around what fails instead, and what is gone is lost.
    pub fn read(&mut self, bytes_max: usize, out: &mut Vec<Entry>) -> Result<usize, Error> {
        let mut budget = Budget { bytes: bytes_max.max(1), entries: 0 };
        while budget.bytes > 0 {
            match self.shared.stretch(self.position) {
                Stretch::End => {
                    // A file that is removed gives its space back only when nobody has it open.
                    self.open.take_if(|open| !self.shared.has_segment(open.first));
                    break;
                }
                Stretch::Missing { until } => {
                    error!(from = self.position, until, "records of the journal are missing");
                    self.lose(until, out, &mut budget);
                }
                Stretch::Segment { segment, until } => match self.read_segment(&segment, until, out, &mut budget) {
                    Ok(()) => self.patience.succeeded(),
                    Err(source) if self.patience.bears(&source, self.shared.now()) => {
                        return Err(Error::Read { segment: segment.name, source });
                    }
                    Err(source) => {
                        error!(segment = segment.name, cause = %source, "segment still cannot be read, reading around it");
                        self.give_up(&segment, until, out, &mut budget);
                    }
                },
            }
        }
        Ok(budget.entries)
    }

    /// Takes back entries that were read, whose memory the next ones take.
    pub fn give_back(&mut self, entries: impl Iterator<Item = Entry>) {
        for entry in entries {
            if let Entry::Frame(frame) = entry {
                self.spare.add(frame);
            }
        }
    }

    /// Waits until there is something to read, at most `timeout`. Returns whether there is.
    pub fn wait(&self, timeout: Duration) -> bool {
        self.shared.await_record(self.position, timeout)
    }

    fn read_segment(
        &mut self,
        segment: &Segment,
        until: u64,
        out: &mut Vec<Entry>,
        budget: &mut Budget,
    ) -> io::Result<()> {
        let first = segment.first;
        let bytes = if segment.bytes_known { segment.bytes } else { self.shared.storage.len(&segment.name)? };
        let mut open = match self.open.take().filter(|open| open.first == first) {
            Some(open) => open,
            None => match self.shared.storage.open(&segment.name) {
                Ok(file) => Open { first, cursor: Cursor::new(file, first) },
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.lose_segment(segment, until, out, budget);
                    return Ok(());
                }
                Err(error) => return Err(error),
            },
        };
        let bounds = Bounds { records: until - first, bytes };
        let read = self.read_open(&mut open, bounds, out, budget);
        self.open = Some(open);
        read
    }

    fn read_open(
        &mut self,
        open: &mut Open,
        bounds: Bounds,
        out: &mut Vec<Entry>,
        budget: &mut Budget,
    ) -> io::Result<()> {
        let until = open.first + bounds.records;
        while self.position < until && budget.bytes > 0 {
            let Some(found) = open.cursor.next(bounds)? else {
                if open.cursor.offset() < bounds.bytes {
                    self.shared.quarantine(open.first);
                }
                error!(from = self.position, until, "records of the journal are lost");
                open.cursor.skip_to(bounds);
                self.lose(until, out, budget);
                return Ok(());
            };
            let (body, lost, damaged) = (found.body, found.lost, found.damaged);
            let bytes = body.len();
            let entry =
                decode(body, &mut self.sources, &mut self.spare).map_or(Entry::Lost { records: 1 }, Entry::Frame);
            let position = open.first + open.cursor.index() - 1;
            if damaged {
                error!(from = position - lost, until = position, "records of the journal are lost");
                self.shared.quarantine(open.first);
            }
            self.lose(position, out, budget);
            if position < self.position {
                continue; // before the place where this reader began
            }
            if matches!(entry, Entry::Lost { .. }) {
                self.shared.counters.lost_records.add(1);
            }
            out.push(entry);
            self.position = position + 1;
            budget.entries += 1;
            budget.bytes = budget.bytes.saturating_sub(bytes);
        }
        Ok(())
    }

    /// Reads on around what cannot be read in this segment; all of it is lost where it cannot even be opened.
    fn give_up(&mut self, segment: &Segment, until: u64, out: &mut Vec<Entry>, budget: &mut Budget) {
        self.patience.succeeded();
        self.shared.quarantine(segment.first);
        match &mut self.open {
            Some(open) if open.first == segment.first => open.cursor.read_around(),
            _ => self.lose(until, out, budget),
        }
    }

    /// The segment's file is gone, unless it only has another name by now.
    fn lose_segment(&mut self, segment: &Segment, until: u64, out: &mut Vec<Entry>, budget: &mut Budget) {
        match self.shared.stretch(self.position) {
            Stretch::Segment { segment: now, .. } if now.name != segment.name => {}
            _ => {
                error!(segment = segment.name, from = self.position, until, "segment is missing");
                self.lose(until, out, budget);
            }
        }
    }

    /// Passes over the positions before `until` as lost.
    fn lose(&mut self, until: u64, out: &mut Vec<Entry>, budget: &mut Budget) {
        if self.position < until {
            let records = until - self.position;
            self.shared.counters.lost_records.add(records);
            out.push(Entry::Lost { records });
            self.position = until;
            budget.entries += 1;
        }
    }
}
