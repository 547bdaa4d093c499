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

    /// Whether somebody listens for it.
    #[cfg(test)]
    pub(super) fn is_awaited(&self) -> bool {
        self.awaited.load(Ordering::Acquire)
    }

    /// Waits until `socket` has bytes or has failed, or the bell rings, `time_max` at the most; where there is no bell or
    /// the system cannot wait, for `nap`. Returns whether anything came.
    pub(super) fn wait(&self, socket: impl AsFd, time_max: Duration, nap: Duration) -> bool {
        let waited = self.ends.as_ref().and_then(|(_, hear)| {
            let mut watched = [PollFd::new(&socket, PollFlags::IN), PollFd::new(hear, PollFlags::IN)];
            let time_max = Timespec::try_from(time_max).ok();
            let came = match poll(&mut watched, time_max.as_ref()) {
                Ok(count) => Some(count > 0),
                // A signal ends a wait early, as a nap that is cut short would.
                Err(rustix::io::Errno::INTR) => Some(false),
                Err(_) => None,
            };
            if !watched[1].revents().is_empty() {
                let _ = (&mut &*hear).read(&mut [0; 8]);
            }
            came
        });
        self.awaited.store(false, Ordering::Release);
        waited.unwrap_or_else(|| {
            std::thread::sleep(nap);
            false
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const LONG: Duration = Duration::from_mins(1);

    #[test]
    fn bytes_end_a_wait_and_so_does_a_bell_that_rang_since_it_was_listened_for() {
        let bell = Arc::new(Bell::new());
        let (ours, mut theirs) = UnixStream::pair().expect("a pair");
        theirs.write_all(b"x").expect("written");
        bell.listen();
        assert!(bell.wait(&ours, LONG, LONG));
        (&ours).read_exact(&mut [0]).expect("read");
        bell.listen();
        bell.ring();
        assert!(bell.wait(&ours, LONG, LONG));
        bell.listen();
        let ringer = bell.clone();
        let ringing = std::thread::spawn(move || ringer.ring());
        assert!(bell.wait(&ours, LONG, LONG), "rung while it waits, or before");
        ringing.join().expect("rung");
    }

    #[test]
    fn a_wait_has_an_end_and_a_bell_that_nobody_waits_for_is_not_heard_later() {
        let bell = Bell::new();
        let (ours, _theirs) = UnixStream::pair().expect("a pair");
        bell.ring();
        bell.listen();
        assert!(!bell.wait(&ours, Duration::from_millis(5), LONG));
    }
}
