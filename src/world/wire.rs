//! A connection in memory that breaks, brings bytes in pieces, and takes them in pieces.

use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, MutexGuard};

#[derive(Debug, Default)]
struct Pipe {
    to_client: Vec<u8>,
    to_broker: Vec<u8>,
    broken: bool,
    rng: fastrand::Rng,
    /// Bytes that one call moves at the most.
    piece_bytes_max: usize,
}

/// Both ends of one connection; clones are the same one. Read and written as the client does.
#[derive(Clone, Debug)]
pub(super) struct Wire(Arc<Mutex<Pipe>>);

impl Wire {
    /// A connection that moves up to `piece_bytes_max` bytes at a time.
    pub(super) fn new(seed: u64, piece_bytes_max: usize) -> Self {
        let rng = fastrand::Rng::with_seed(seed);
        Self(Arc::new(Mutex::new(Pipe { rng, piece_bytes_max, ..Pipe::default() })))
    }

    fn pipe(&self) -> MutexGuard<'_, Pipe> {
        self.0.lock().unwrap()
    }

    /// The connection is gone, with all that was under way.
    pub(super) fn cut(&self) {
        let mut pipe = self.pipe();
        pipe.broken = true;
        pipe.to_broker.clear();
        pipe.to_client.clear();
    }

    /// Whether it is gone.
    pub(super) fn is_cut(&self) -> bool {
        self.pipe().broken
    }

    /// What the client has written and the broker not yet read.
    pub(super) fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.pipe().to_broker)
    }

    /// The broker writes.
    pub(super) fn send(&self, bytes: &[u8]) {
        self.pipe().to_client.extend_from_slice(bytes);
    }
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut pipe = self.pipe();
        if pipe.broken {
            return if pipe.rng.bool() { Ok(0) } else { Err(io::ErrorKind::ConnectionReset.into()) };
        }
        if pipe.to_client.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let most = pipe.piece_bytes_max.min(buffer.len());
        let count = pipe.rng.usize(1..=most).min(pipe.to_client.len());
        for (to, from) in buffer.iter_mut().zip(pipe.to_client.drain(..count)) {
            *to = from;
        }
        Ok(count)
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut pipe = self.pipe();
        if pipe.broken {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let most = pipe.piece_bytes_max;
        let count = pipe.rng.usize(1..=most).min(bytes.len());
        pipe.to_broker.extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
