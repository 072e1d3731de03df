//! Limits: requests at once and the time for each, open streams, and bytes of answers that wait for their clients.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::Error;

/// Requests that are worked on or answered at once; one beyond is refused, not queued. Each may hold a body of a
/// mebibyte.
pub(crate) const REQUESTS_MAX: usize = 256;
/// Streams and long polls that are open at once; one beyond is refused. Enough connections are left for other requests.
pub(crate) const STREAMS_MAX: usize = 384;
/// Bytes of answers that wait for their clients, all together; a large answer beyond is refused.
const ANSWER_BYTES_MAX: usize = 128 << 20;
/// Answers up to this size are always sent: those of all requests together have few bytes.
const SMALL_ANSWER_BYTES: usize = 64 << 10;
/// The longest time to an answer; more than every deadline below it (database 10 s, leader 5 s, a slow body).
pub(crate) const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// The permits of requests, streams and answers.
pub(crate) struct Permits {
    requests: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    /// In bytes.
    answers: Arc<Semaphore>,
}

impl Default for Permits {
    fn default() -> Self {
        let permits = |count| Arc::new(Semaphore::new(count));
        Self { requests: permits(REQUESTS_MAX), streams: permits(STREAMS_MAX), answers: permits(ANSWER_BYTES_MAX) }
    }
}

/// Kept as long as the request or stream lasts.
pub(crate) type Permit = OwnedSemaphorePermit;

impl Permits {
    pub(crate) fn request(&self) -> Result<Permit, Error> {
        Arc::clone(&self.requests).try_acquire_owned().map_err(|_| Error::Busy)
    }

    /// A permit for an answer of so many bytes.
    pub(crate) fn answer(&self, bytes: usize) -> Result<Option<Permit>, Error> {
        if bytes <= SMALL_ANSWER_BYTES {
            return Ok(None);
        }
        let bytes = u32::try_from(bytes).map_err(|_| Error::Busy)?;
        Arc::clone(&self.answers).try_acquire_many_owned(bytes).map(Some).map_err(|_| Error::Busy)
    }

    pub(crate) fn open_streams(&self) -> usize {
        STREAMS_MAX - self.streams.available_permits()
    }

    pub(crate) fn stream(&self) -> Result<Permit, Error> {
        Arc::clone(&self.streams).try_acquire_owned().map_err(|_| Error::TooManyStreams(STREAMS_MAX))
    }
}

pub(crate) async fn in_time<T>(answer: impl Future<Output = T>) -> Result<T, Error> {
    tokio::time::timeout(ANSWER_WITHIN, answer).await.map_err(|_| Error::Overdue)
}
