//! How many requests are worked on at once, and how long one may take.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use tokio::sync::Semaphore;

use crate::error::Error;

/// Requests that are worked on at once; one beyond is refused, not queued. Each may hold a body of a mebibyte.
pub(crate) const REQUESTS_MAX: usize = 512;
/// The longest time to an answer; more than every deadline below it (database 10 s, leader 5 s, a slow body).
pub(crate) const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// Room for requests.
#[derive(Clone)]
pub(crate) struct Places(Arc<Semaphore>);

impl Default for Places {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(REQUESTS_MAX)))
    }
}

/// Health is asked past this: it must be seen while all places are taken.
pub(crate) async fn admit(State(places): State<Places>, request: Request, next: Next) -> Result<Response, Error> {
    let _place = places.0.try_acquire().map_err(|_| Error::Busy)?;
    Ok(next.run(request).await)
}

pub(crate) async fn hurry(request: Request, next: Next) -> Result<Response, Error> {
    tokio::time::timeout(ANSWER_WITHIN, next.run(request)).await.map_err(|_| Error::Overdue)
}
