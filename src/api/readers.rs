//! A few connections to the store, so that queries neither block the runtime nor crowd out the writer.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use super::error::ApiError;
use crate::store::{self, Reader, StorePath};

/// Queries that run at once.
const READERS_MAX: usize = 4;
/// Time that a query may wait for its turn.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// Time that a query may run.
const RUN_MAX: Duration = Duration::from_secs(10);

/// When a query has to give up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline(Instant);

impl Deadline {
    /// Whether the time is up.
    pub(super) fn is_over(self) -> bool {
        Instant::now() >= self.0
    }

    /// What to tell the client then.
    pub(super) fn error() -> ApiError {
        ApiError::busy("the query took too long; ask for fewer sites, a shorter span or a coarser window")
    }
}

/// The connections.
#[derive(Clone)]
pub(super) struct Readers {
    store: StorePath,
    idle: Arc<Mutex<Vec<Reader>>>,
    turns: Arc<Semaphore>,
}

impl Readers {
    pub(super) fn new(store: StorePath) -> Self {
        Self { store, idle: Arc::default(), turns: Arc::new(Semaphore::new(READERS_MAX)) }
    }

    /// Runs a query on a blocking thread.
    pub(super) async fn query<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Reader, Deadline) -> Result<T, QueryError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let turn = tokio::time::timeout(WAIT_MAX, self.turns.clone().acquire_owned()).await;
        let Ok(Ok(turn)) = turn else { return Err(ApiError::busy("too many queries at once; ask again later")) };
        let (store, idle) = (self.store.clone(), self.idle.clone());
        let run = move || {
            let _turn = turn;
            let pooled = idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let reader = match pooled {
                Some(reader) => reader,
                None => Reader::open(&store)?,
            };
            let answer = query(&reader, Deadline(Instant::now() + RUN_MAX))?;
            // A reader that failed is not used again.
            idle.lock().unwrap_or_else(PoisonError::into_inner).push(reader);
            Ok::<T, QueryError>(answer)
        };
        match tokio::task::spawn_blocking(run).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(QueryError::Client(error))) => Err(error),
            Ok(Err(QueryError::Store(error))) => Err(ApiError::internal(&error)),
            Err(error) => Err(ApiError::internal(&error)),
        }
    }
}

/// Why a query gives no answer.
pub(super) enum QueryError {
    /// The client can do something about it.
    Client(ApiError),
    /// The store cannot be read.
    Store(store::Error),
}

impl From<store::Error> for QueryError {
    fn from(error: store::Error) -> Self {
        Self::Store(error)
    }
}
