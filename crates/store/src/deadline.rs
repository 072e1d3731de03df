//! No call waits for ever: a deadline around each, and connections that did not end well are thrown away.
//!
//! The driver of PostgreSQL sets no TCP keepalive, so a half-open connection would otherwise hang its caller for a
//! quarter of an hour. SQLite has no connection that could be half-open; there, only the deadline is needed.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use sqlx::Postgres;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnection, PgPool};

use crate::Error;

/// How long one call of the database may take.
pub const CALL_DEADLINE: Duration = Duration::from_secs(10);

/// Waits for `call`, but no longer than [`CALL_DEADLINE`].
pub(crate) async fn within<T, E: Into<Error>>(call: impl Future<Output = Result<T, E>>) -> Result<T, Error> {
    within_time(CALL_DEADLINE, call).await
}

pub(crate) async fn within_time<T, E: Into<Error>>(
    deadline: Duration,
    call: impl Future<Output = Result<T, E>>,
) -> Result<T, Error> {
    match tokio::time::timeout(deadline, call).await {
        Ok(answer) => answer.map_err(Into::into),
        Err(_) => Err(Error::TimedOut(deadline)),
    }
}

/// A connection borrowed from a pool, which goes back only if its user says that all went well.
pub(crate) struct Borrowed(Option<PoolConnection<Postgres>>);

/// Borrows a connection of `pool`.
pub(crate) async fn borrow(pool: &PgPool) -> Result<Borrowed, Error> {
    let connection = within(pool.acquire()).await?;
    Ok(Borrowed(Some(connection)))
}

impl Borrowed {
    /// The last answer was read to its end; the connection may serve the next.
    pub(crate) fn give_back(mut self) {
        drop(self.0.take());
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            drop(connection.detach());
        }
    }
}

impl Deref for Borrowed {
    type Target = PgConnection;

    fn deref(&self) -> &Self::Target {
        self.0.as_ref().expect("only dropping takes it out")
    }
}

impl DerefMut for Borrowed {
    fn deref_mut(&mut self) -> &mut Self::Target {
        self.0.as_mut().expect("only dropping takes it out")
    }
}
