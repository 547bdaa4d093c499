//! A few connections to the store, so that queries neither block the runtime nor crowd out the writer.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use super::error::ApiError;
use crate::store::{self, Interrupter, Reader, StorePath};

/// Queries that run at once.
const READERS_MAX: usize = 4;
/// Time that a query may wait for its turn.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// Time that a query may run.
const RUN_MAX: Duration = Duration::from_secs(10);
/// Time after its deadline at which a query that has not ended by itself is ended.
const OVERTIME: Duration = Duration::from_secs(1);

/// When a query has to give up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline(Instant);

impl Deadline {
    /// Whether the time is up.
    pub(super) fn is_over(self) -> bool {
        Instant::now() >= self.0
    }

    /// A time that is up.
    #[cfg(test)]
    pub(super) fn over() -> Self {
        Self(Instant::now())
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
    run_max: Duration,
}

impl Readers {
    pub(super) fn new(store: StorePath) -> Self {
        Self { store, idle: Arc::default(), turns: Arc::new(Semaphore::new(READERS_MAX)), run_max: RUN_MAX }
    }

    /// Runs a query on a blocking thread.
    pub(super) async fn query<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Reader, Deadline) -> Result<T, QueryError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let turn = tokio::time::timeout(WAIT_MAX, self.turns.clone().acquire_owned()).await;
        let Ok(Ok(turn)) = turn else { return Err(ApiError::busy("too many queries at once; ask again later")) };
        let (store, idle, run_max) = (self.store.clone(), self.idle.clone(), self.run_max);
        // Holds the means to end the query while it runs, and nothing once it is through: what comes after it on the
        // same connection is never ended in its stead.
        let running: Arc<Mutex<Option<Interrupter>>> = Arc::default();
        let runs = running.clone();
        let run = move || {
            let _turn = turn;
            let pooled = idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let reader = match pooled {
                Some(reader) => reader,
                None => Reader::open(&store)?,
            };
            *runs.lock().unwrap_or_else(PoisonError::into_inner) = Some(reader.interrupter());
            let answer = query(&reader, Deadline(Instant::now() + run_max));
            runs.lock().unwrap_or_else(PoisonError::into_inner).take();
            // A reader that failed is not used again.
            let answer = answer?;
            idle.lock().unwrap_or_else(PoisonError::into_inner).push(reader);
            Ok::<T, QueryError>(answer)
        };
        let mut task = tokio::task::spawn_blocking(run);
        let mut wait = run_max + OVERTIME;
        let done = loop {
            tokio::select! {
                done = &mut task => break done,
                () = tokio::time::sleep(wait) => {}
            }
            if let Some(interrupter) = &*running.lock().unwrap_or_else(PoisonError::into_inner) {
                interrupter.interrupt();
            }
            // It may have begun late, or do several things one after the other.
            wait = OVERTIME;
        };
        match done {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(QueryError::Store(error))) if error.is_interrupted() => Err(Deadline::error()),
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

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;
    use axum::response::IntoResponse;
    use jiff::tz::TimeZone;

    use super::*;
    use crate::store::{Writer, WriterOptions};

    #[tokio::test(flavor = "multi_thread")]
    async fn a_query_that_does_not_end_is_ended_and_the_next_one_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = StorePath::in_folder(folder.path());
        let options = WriterOptions {
            grace_ms: 0,
            retention_ms: 86_400_000,
            feed_windows: [].into(),
            indicator_windows: [].into(),
            rollup_sinks: Vec::new(),
            devices: 100,
            zone: TimeZone::UTC,
        };
        Writer::open(&store, options).expect("a store");
        let readers = Readers { run_max: Duration::from_millis(10), ..Readers::new(store) };
        let endless = readers.query(|reader, _| Ok(reader.query_for_ever()?));
        let ended = tokio::time::timeout(Duration::from_secs(30), endless).await.expect("in time");
        let status = ended.expect_err("it has no answer").into_response().status();
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        let next = readers.query(|reader, _| Ok(reader.final_until()?)).await;
        assert_eq!(next.expect("an answer"), None);
    }
}
