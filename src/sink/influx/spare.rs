//! Memory of batches that are done, for those to come: texts of several MiB that come and go on several threads leave
//! their heaps in pieces.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::lines::Lines;

/// Lines that were sent, whose memory the next ones take.
#[derive(Clone, Debug, Default)]
pub(super) struct Spare(Arc<Mutex<Vec<Lines>>>);

impl Spare {
    /// Texts that are kept at the most, the one on its way and the next of each feed, and bytes of each.
    const TEXTS_MAX: usize = 3;
    const BYTES_MAX: usize = 32 << 20;

    /// Takes back the lines of a batch.
    pub(super) fn add(&self, lines: Lines) {
        let emptied = lines.emptied();
        let mut kept = self.kept();
        if kept.len() < Self::TEXTS_MAX && emptied.room_bytes() <= Self::BYTES_MAX {
            kept.push(emptied);
        }
    }

    /// Lines without a line, in the memory of earlier ones where there is any.
    pub(super) fn lines(&self) -> Lines {
        self.kept().pop().unwrap_or_default()
    }

    fn kept(&self) -> MutexGuard<'_, Vec<Lines>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(bytes: usize) -> Lines {
        ["x".repeat(bytes - 1)].into_iter().collect()
    }

    #[test]
    fn few_texts_and_none_that_is_long_are_kept_for_their_memory() {
        let spare = Spare::default();
        spare.add(lines(Spare::BYTES_MAX + 1));
        assert_eq!(spare.kept().len(), 0);
        for _ in 0..=Spare::TEXTS_MAX {
            spare.add(lines(4_096));
        }
        assert_eq!(spare.kept().len(), Spare::TEXTS_MAX);
        for _ in 0..Spare::TEXTS_MAX {
            let next = spare.lines();
            assert!(next.is_empty() && next.room_bytes() >= 4_096);
        }
        assert_eq!(spare.lines().room_bytes(), 0);
    }

    #[test]
    fn a_body_keeps_its_text_while_the_next_batch_is_written() {
        let spare = Spare::default();
        let sent = lines(4_096);
        let body = sent.bytes(0..1);
        spare.add(sent);
        let mut next = spare.lines();
        assert_eq!(next.room_bytes(), 0);
        next.push(|text| {
            text.push_str("four");
            Some(())
        });
        assert!(body.len() == 4_096 && body.starts_with(b"xxx"));
    }
}
