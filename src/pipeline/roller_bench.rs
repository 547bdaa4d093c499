//! Stages of the roller for benchmarks.

use super::{AHEAD, Roller};
use crate::decode::native::NativeMessage;
use crate::journal::Entry;
use crate::ledger::Rejection;
use crate::model::{Frame, Timestamp};
use crate::pipeline::write;
use crate::store::{Error, Writer};

/// Finds device and slots of a decoded message, and checks its values. Returns how many are good.
///
/// # Errors
/// Why the message is rejected.
pub fn look_up(roller: &mut Roller, frame: &Frame, message: &NativeMessage<'_>) -> Result<usize, Rejection> {
    roller.judged.clear();
    roller.assign(frame, None, message)?;
    Ok(roller.judged.iter().filter(|judged| judged.is_ok()).count())
}

/// Applies entries.
///
/// # Errors
/// Where the store cannot be read.
pub fn apply(roller: &mut Roller, entries: &[Entry], writer: &Writer) -> Result<(), Error> {
    for chunk in entries.chunks(AHEAD) {
        let found = roller.look_ahead(chunk);
        chunk.iter().zip(found).try_for_each(|(entry, found)| roller.apply(entry, found, writer))?;
    }
    Ok(())
}

/// Packs every row that the next flush would write. Returns rows and bytes.
pub fn pack(roller: &Roller, scratch: &mut Vec<u8>) -> (usize, usize) {
    let (mut rows, mut bytes) = (0, 0);
    for row in roller.flush_parts().rows {
        scratch.clear();
        row.window.pack(scratch);
        (rows, bytes) = (rows + 1, bytes + scratch.len());
    }
    (rows, bytes)
}

/// Writes what is open to the store at `now`. Returns the number of rows.
///
/// # Errors
/// Where SQLite refuses.
pub fn flush(roller: &mut Roller, writer: &mut Writer, now: Timestamp) -> Result<usize, Error> {
    let count = write(roller, writer, now)?;
    roller.flushed(now, writer);
    Ok(count)
}
