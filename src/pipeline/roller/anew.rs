//! How much may be open, and a roller that begins where the store is instead of one whose windows the store cannot take.

use std::mem::take;

use super::Roller;
use crate::store::{self, Writer};

impl Roller {
    /// A roller that goes on at the store's position with the ledger as of it, as after a start, and holds
    /// `open_bytes_max` of open windows. What this one took in since then is in the inventory already, so that nobody
    /// would hear that it is new: it is carried over. So is what was learnt of messages that the store has passed, and what
    /// was counted and said.
    ///
    /// # Errors
    /// Where the store cannot be read.
    pub(in crate::pipeline) fn anew(&mut self, open_bytes_max: usize, writer: &Writer) -> Result<Self, store::Error> {
        let (ledger, position) = (writer.ledger()?, writer.position()?);
        let mut roller = Self::new(self.options, self.inventory.clone(), ledger, position, writer)?;
        roller.options.open_windows_bytes_max = open_bytes_max;
        roller.clamped = take(&mut self.clamped);
        roller.rejections = take(&mut self.rejections);
        roller.lateness = take(&mut self.lateness);
        roller.damaged_rows = self.damaged_rows;
        for (device, source) in &self.new_unlisted.devices {
            *roller.taken_in.entry(source.clone()).or_default() += 1;
            roller.new_unlisted.devices.push((*device, source.clone()));
        }
        Ok(roller)
    }

    /// Whether as much is open as may be.
    pub(in crate::pipeline) fn is_full(&self) -> bool {
        self.open_bytes() >= self.options.open_windows_bytes_max
    }

    /// Lets a quarter more be open than before, `open_bytes_max` at the most: what the disk has room for is found again
    /// from below, with few flushes that fail.
    pub(in crate::pipeline) fn widen(&mut self, open_bytes_max: usize) {
        let bytes_max = self.options.open_windows_bytes_max;
        self.options.open_windows_bytes_max = bytes_max.saturating_add(bytes_max / 4).min(open_bytes_max);
    }
}
