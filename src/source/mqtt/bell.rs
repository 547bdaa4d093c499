//! What ends the wait for a quiet socket: bytes, or the journal's word on a batch.
//!
//! Ringing costs a system call only where somebody waits, so that it costs a busy connection nothing.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// A bell that one thread waits for and others ring.
#[derive(Debug)]
pub(super) struct Bell {
    /// Both ends; none where the system gave none, and every wait is a nap.
    ends: Option<(UnixStream, UnixStream)>,
    awaited: AtomicBool,
}

impl Bell {
    pub(super) fn new() -> Self {
        let pair = || {
            let (ring, hear) = UnixStream::pair()?;
            ring.set_nonblocking(true)?;
            hear.set_nonblocking(true)?;
            std::io::Result::Ok((ring, hear))
        };
        Self { ends: pair().ok(), awaited: AtomicBool::new(false) }
    }

    /// Ends the wait, where there is one. What it is rung for has to be there already.
    pub(super) fn ring(&self) {
        // Both sides swap, so that one of them comes second and sees what the other did before.
        if self.awaited.swap(false, Ordering::AcqRel)
            && let Some((ring, _)) = &self.ends
        {
            // A byte that does not fit finds others that say the same.
            let _ = (&mut &*ring).write(&[1]);
        }
    }

    /// From now on it is heard. Whoever is about to wait looks after this for what it may have been rung for before.
    pub(super) fn listen(&self) {
        self.awaited.swap(true, Ordering::AcqRel);
    }

    /// Waits until `socket` has bytes or has failed, or the bell rings, `time_max` at the most; where there is no bell or
    /// the system cannot wait, for `nap`.
    pub(super) fn wait(&self, socket: impl AsFd, time_max: Duration, nap: Duration) {
        let waited = self.ends.as_ref().is_some_and(|(_, hear)| {
            let mut watched = [PollFd::new(&socket, PollFlags::IN), PollFd::new(hear, PollFlags::IN)];
            let time_max = Timespec::try_from(time_max).ok();
            // A signal ends a wait early, as a nap that is cut short would.
            let waited = matches!(poll(&mut watched, time_max.as_ref()), Ok(_) | Err(rustix::io::Errno::INTR));
            if !watched[1].revents().is_empty() {
                let _ = (&mut &*hear).read(&mut [0; 8]);
            }
            waited
        });
        self.awaited.store(false, Ordering::Release);
        if !waited {
            std::thread::sleep(nap);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use super::*;

    const LONG: Duration = Duration::from_mins(1);

    /// Whether a wait of a minute ended early.
    fn ends_early(bell: &Bell, socket: &UnixStream) -> bool {
        let began = Instant::now();
        bell.wait(socket, LONG, LONG);
        began.elapsed() < LONG / 2
    }

    #[test]
    fn bytes_end_a_wait_and_so_does_a_bell_that_rang_since_it_was_listened_for() {
        let bell = Arc::new(Bell::new());
        let (ours, mut theirs) = UnixStream::pair().expect("a pair");
        theirs.write_all(b"x").expect("written");
        bell.listen();
        assert!(ends_early(&bell, &ours));
        (&ours).read_exact(&mut [0]).expect("read");
        bell.listen();
        bell.ring();
        assert!(ends_early(&bell, &ours));
        bell.listen();
        let ringer = bell.clone();
        let ringing = std::thread::spawn(move || ringer.ring());
        assert!(ends_early(&bell, &ours), "rung while it waits, or before");
        ringing.join().expect("rung");
    }

    #[test]
    fn a_wait_has_an_end_and_a_bell_that_nobody_waits_for_is_not_heard_later() {
        let bell = Bell::new();
        let (ours, _theirs) = UnixStream::pair().expect("a pair");
        bell.ring();
        bell.listen();
        let (span, began) = (Duration::from_millis(5), Instant::now());
        bell.wait(&ours, span, LONG);
        assert!((span..LONG).contains(&began.elapsed()));
    }
}
