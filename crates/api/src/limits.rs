//! How many requests are worked on at once, and how long one may take; and how many streams are open.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::Api;
use crate::error::Error;

/// Requests that are worked on at once; one beyond is refused, not queued. Each may hold a body of a mebibyte.
pub(crate) const REQUESTS_MAX: usize = 512;
/// Streams and long polls that are open at once; one beyond is refused. Enough connections are left for requests.
pub(crate) const STREAMS_MAX: usize = 512;
/// The longest time to an answer; more than every deadline below it (database 10 s, leader 5 s, a slow body).
pub(crate) const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// Room for requests and for streams.
pub(crate) struct Places {
    requests: Arc<Semaphore>,
    streams: Arc<Semaphore>,
}

impl Default for Places {
    fn default() -> Self {
        Self { requests: Arc::new(Semaphore::new(REQUESTS_MAX)), streams: Arc::new(Semaphore::new(STREAMS_MAX)) }
    }
}

/// Held as long as the request or stream lasts.
pub(crate) type Place = OwnedSemaphorePermit;

impl Places {
    pub(crate) fn request(&self) -> Result<Place, Error> {
        Arc::clone(&self.requests).try_acquire_owned().map_err(|_| Error::Busy)
    }

    pub(crate) fn stream(&self) -> Result<Place, Error> {
        Arc::clone(&self.streams).try_acquire_owned().map_err(|_| Error::TooManyStreams(STREAMS_MAX))
    }
}

/// Health is asked past this: it must be seen while all places are taken. Streams have their own places.
pub(crate) async fn admit(State(api): State<Api>, request: Request, next: Next) -> Result<Response, Error> {
    let _place = api.places.request()?;
    Ok(next.run(request).await)
}

pub(crate) async fn hurry(request: Request, next: Next) -> Result<Response, Error> {
    in_time(next.run(request)).await
}

pub(crate) async fn in_time<T>(answer: impl Future<Output = T>) -> Result<T, Error> {
    tokio::time::timeout(ANSWER_WITHIN, answer).await.map_err(|_| Error::Overdue)
}
