//! Connections: a limited number at once. When another comes, the one that has been idle for longest is closed.
//!
//! So clients that connect and send nothing keep no other client out, least of all a liveness probe: there are more
//! connections than requests and streams may hold together. Not here: requests, and how long they may take.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::limits::{REQUESTS_MAX, STREAMS_MAX};

/// Connections held at once. Well below the usual 1024 open files.
const CONNECTIONS_MAX: usize = 768;

const _: () = assert!(
    REQUESTS_MAX + STREAMS_MAX + 64 <= CONNECTIONS_MAX,
    "however many requests and streams there are, health has connections of its own"
);

/// All connections of one listener.
#[derive(Clone)]
pub(crate) struct Connections {
    permits: Arc<Semaphore>,
    idle: Arc<Idle>,
}

#[derive(Default)]
struct Idle {
    table: Mutex<Table>,
    /// Another connection is idle.
    changed: Notify,
}

#[derive(Default)]
struct Table {
    /// Rises whenever a connection becomes idle.
    next: u64,
    idle: BTreeMap<u64, CancellationToken>,
}

/// A connection's permit. Idle until its first request, and between requests.
pub(crate) struct Connection {
    _permit: OwnedSemaphorePermit,
    pub(crate) activity: Activity,
}

/// Tracks whether a connection has a request.
#[derive(Clone)]
pub(crate) struct Activity(Arc<ConnectionState>);

struct ConnectionState {
    idle: Arc<Idle>,
    evicted: CancellationToken,
    /// Its number among the idle connections; none while a request is answered.
    number: Mutex<Option<u64>>,
}

/// One request under way, until its answer is sent.
pub(crate) struct Busy(Arc<ConnectionState>);

impl Default for Connections {
    fn default() -> Self {
        Self { permits: Arc::new(Semaphore::new(CONNECTIONS_MAX)), idle: Arc::default() }
    }
}

impl Connections {
    /// A permit for a new connection; if there is none, the connection that has been idle for longest is closed.
    pub(crate) async fn admit(&self) -> Connection {
        loop {
            // Made before the check, so that no connection that becomes idle meanwhile is missed.
            let changed = self.idle.changed.notified();
            let acquired = match Arc::clone(&self.permits).try_acquire_owned() {
                Ok(permit) => Some(permit),
                Err(_) if self.idle.evict() => Arc::clone(&self.permits).acquire_owned().await.ok(),
                Err(_) => tokio::select! {
                    permit = Arc::clone(&self.permits).acquire_owned() => permit.ok(),
                    () = changed => None,
                },
            };
            if let Some(permit) = acquired {
                let activity = Activity::new(Arc::clone(&self.idle));
                return Connection { _permit: permit, activity };
            }
        }
    }
}

impl Idle {
    fn lock(&self) -> MutexGuard<'_, Table> {
        // Every change is complete before anything that could panic.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes the connection that has been idle for longest; `false` if none is idle.
    fn evict(&self) -> bool {
        let oldest = self.lock().idle.pop_first();
        oldest.map(|(_, evicted)| evicted.cancel()).is_some()
    }

    fn add(&self, evicted: &CancellationToken) -> u64 {
        let mut table = self.lock();
        let number = table.next;
        table.next += 1;
        table.idle.insert(number, evicted.clone());
        drop(table);
        self.changed.notify_one();
        number
    }
}

impl Activity {
    fn new(idle: Arc<Idle>) -> Self {
        let evicted = CancellationToken::new();
        let number = Mutex::new(Some(idle.add(&evicted)));
        Self(Arc::new(ConnectionState { idle, evicted, number }))
    }

    /// Marks the connection as busy until the returned value is dropped.
    pub(crate) fn begin(&self) -> Busy {
        if let Some(number) = self.0.lock().take() {
            self.0.idle.lock().idle.remove(&number);
        }
        Busy(Arc::clone(&self.0))
    }

    /// Resolves when the connection must make room for another.
    pub(crate) async fn evicted(&self) {
        self.0.evicted.cancelled().await;
    }
}

impl ConnectionState {
    fn lock(&self) -> MutexGuard<'_, Option<u64>> {
        self.number.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let number = self.0.idle.add(&self.0.evicted);
        *self.0.lock() = Some(number);
    }
}

impl Drop for ConnectionState {
    fn drop(&mut self) {
        if let Some(number) = self.lock().take() {
            self.idle.lock().idle.remove(&number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_connection_that_is_idle_for_longest_makes_room_and_a_busy_one_stays() {
        let connections = Connections::default();
        let mut all = Vec::new();
        for _ in 0..CONNECTIONS_MAX {
            all.push(connections.admit().await);
        }
        let busy = all[0].activity.begin();
        let evicted = all[1].activity.clone();
        let admitting = tokio::spawn({
            let connections = connections.clone();
            async move { connections.admit().await }
        });
        evicted.evicted().await;
        assert!(!all[0].activity.0.evicted.is_cancelled(), "it is busy");
        assert!(!all[2].activity.0.evicted.is_cancelled(), "one is enough");
        drop(all.remove(1));
        drop(admitting.await.expect("a permit"));
        drop(busy);
        assert_eq!(connections.idle.lock().idle.len(), CONNECTIONS_MAX - 1);
        drop(all);
        assert!(connections.idle.lock().idle.is_empty());
    }

    #[tokio::test]
    async fn while_all_are_busy_the_next_waits_for_the_first_that_becomes_idle() {
        let connections = Connections::default();
        let (mut all, mut busy) = (Vec::new(), Vec::new());
        for _ in 0..CONNECTIONS_MAX {
            let connection = connections.admit().await;
            busy.push(connection.activity.begin());
            all.push(connection);
        }
        let admitting = tokio::spawn({
            let connections = connections.clone();
            async move { connections.admit().await }
        });
        tokio::task::yield_now().await;
        assert!(!admitting.is_finished());
        busy.truncate(7);
        all[7].activity.evicted().await;
        drop(all.remove(7));
        drop(admitting.await.expect("a permit"));
    }
}
