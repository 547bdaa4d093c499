//! A sink's connections to the store, used on threads that may block.

use std::sync::{Arc, Mutex, PoisonError};

use crate::problem::with_causes;
use crate::store::{Error, Reader, SideWriter, StorePath};

/// A reader and a writer of the store, opened when they are first needed and again after a failure.
#[derive(Clone, Debug)]
pub(super) struct Desk {
    path: StorePath,
    connections: Arc<Mutex<Option<(Reader, SideWriter)>>>,
}

impl Desk {
    /// A desk at the store; opens nothing yet.
    pub(super) fn new(path: StorePath) -> Self {
        Self { path, connections: Arc::default() }
    }

    /// Runs `work` with the store, off the threads of the runtime. It is begun at once, and ends even if nobody waits.
    ///
    /// # Errors
    /// For people: what the store refused. The next call opens it anew.
    pub(super) fn with<T, Work>(&self, work: Work) -> impl Future<Output = Result<T, String>> + Send + use<T, Work>
    where
        T: Send + 'static,
        Work: FnOnce(&Reader, &mut SideWriter) -> Result<T, Error> + Send + 'static,
    {
        let Self { path, connections } = self.clone();
        let task = tokio::task::spawn_blocking(move || {
            let mut connections = connections.lock().unwrap_or_else(PoisonError::into_inner);
            let (reader, mut writer) = match connections.take() {
                Some(open) => open,
                None => (Reader::open(&path)?, SideWriter::open(&path)?),
            };
            let done = work(&reader, &mut writer)?;
            *connections = Some((reader, writer));
            Ok(done)
        });
        async {
            match task.await {
                Ok(done) => done.map_err(|error: Error| with_causes(&error)),
                Err(broken) => Err(format!("reading the store broke off: {broken}")),
            }
        }
    }
}
