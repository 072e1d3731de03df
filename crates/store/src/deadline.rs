//! No call waits for ever: each has a deadline, and a connection that did not end well is closed.
//!
//! The driver of PostgreSQL sets no TCP keepalive, so a half-open connection would otherwise hang its caller for a
//! quarter of an hour. SQLite has no connection that could be half-open; but after a rollback of SQLite's own, on a
//! full disk for example, the driver still counts on the transaction, and could never begin another.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::{Database, Pool, Sqlite};

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

/// A connection borrowed from a pool, which goes back only through [`Self::give_back`].
pub(crate) struct Borrowed<DB: Database>(Option<PoolConnection<DB>>);

/// Borrows a connection of `pool`.
pub(crate) async fn borrow<DB: Database>(pool: &Pool<DB>) -> Result<Borrowed<DB>, Error> {
    let connection = within(pool.acquire()).await?;
    Ok(Borrowed(Some(connection)))
}

impl<DB: Database> Borrowed<DB> {
    /// To be called when the last answer was read to its end: the connection may serve the next call.
    pub(crate) fn give_back(mut self) {
        drop(self.0.take());
    }
}

impl<DB: Database> Drop for Borrowed<DB> {
    fn drop(&mut self) {
        let Some(mut connection) = self.0.take() else { return };
        if DB::NAME == Sqlite::NAME {
            // The next connection is opened once this one is closed, on a thread of its own: until then it holds its
            // locks, and in memory SQLite refuses a connection that comes too early instead of letting it wait.
            connection.close_on_drop();
        } else {
            drop(connection.detach());
        }
    }
}

impl<DB: Database> Deref for Borrowed<DB> {
    type Target = DB::Connection;

    fn deref(&self) -> &Self::Target {
        self.0.as_ref().expect("only dropping takes it out")
    }
}

impl<DB: Database> DerefMut for Borrowed<DB> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        self.0.as_mut().expect("only dropping takes it out")
    }
}
