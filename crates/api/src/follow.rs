//! Following one execution: its past events from the journal, then live ones, each exactly once and in order.
//!
//! The hub is asked first and the journal then, so that nothing falls between them. A hole in what the hub says is read
//! from the journal; while that is away, nothing is said rather than something wrong.
//! Not here: how an event looks on the wire (`stream`).

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use slotline_protocol::record::{Event, What};
use slotline_protocol::{ExecutionId, chain};
use slotline_store::{Error, Events, Store};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::hub::{Hub, Live, Said, Watch};

/// Events read from the journal at once, per follower.
const PAGE_MAX: u32 = 100;
/// Followers that read the journal at once. After a seam all of them do, and others want to read too.
const READS_MAX: usize = 2;
/// Waits between looks into a journal that is away, or lacks what the hub told: from the first, doubling to the last.
const LOOK_AGAIN_MIN: Duration = Duration::from_millis(50);
const LOOK_AGAIN_MAX: Duration = Duration::from_secs(2);
/// For so long a follower waits for the journal. Then its client may try another executor.
const AWAY_MAX: Duration = Duration::from_secs(30);

/// A part of the record, or `None` if there is no such execution.
type Read = Result<Option<Events>, Error>;

/// Where past events are read. Boxed, so that one who waits for live events holds no room for a look into the journal.
pub(crate) trait Past {
    fn events(&self, id: ExecutionId, after: u64, limit: u32) -> BoxFuture<'_, Read>;
}

impl Past for Store {
    fn events(&self, id: ExecutionId, after: u64, limit: u32) -> BoxFuture<'_, Read> {
        Self::events(self, id, after, limit).boxed()
    }
}

/// The journal, as followers read it: not all at once.
pub(crate) struct Journal {
    store: Store,
    reads: Semaphore,
}

impl Journal {
    pub(crate) fn new(store: Store) -> Self {
        Self { store, reads: Semaphore::new(READS_MAX) }
    }
}

impl Past for Journal {
    fn events(&self, id: ExecutionId, after: u64, limit: u32) -> BoxFuture<'_, Read> {
        let read = async move {
            let _turn = self.reads.acquire().await.expect("the semaphore is never closed");
            self.store.events(id, after, limit).await
        };
        read.boxed()
    }
}

/// What a follower comes to.
#[derive(Debug)]
pub(crate) enum Next {
    Event(Arc<Live>),
    /// Nothing follows: the execution is settled, or forgotten.
    Over,
    /// The one who follows was too slow; he may resume after [`Follower::last`].
    Lagged,
    /// The journal is away for too long; the same.
    Away,
}

/// One who follows one execution.
pub(crate) struct Follower<P> {
    past: Arc<P>,
    hub: Arc<Hub>,
    watch: Watch,
    id: ExecutionId,
    /// The number of the last event that was handed on.
    last: u64,
    /// Read, and not yet handed on.
    page: VecDeque<Event>,
    /// The journal must be read once `page` is handed on.
    is_behind: bool,
    /// The hub told of events up to this number; the journal must have them.
    told: u64,
    /// Nothing follows `page`.
    is_over: bool,
}

impl<P: Past> Follower<P> {
    /// Follows from after the event of that number, or `None` if there is no such execution.
    pub(crate) async fn open(past: Arc<P>, hub: Arc<Hub>, id: ExecutionId, after: u64) -> Result<Option<Self>, Error> {
        let watch = hub.watch(id);
        let Some(first) = past.events(id, after, PAGE_MAX).await? else { return Ok(None) };
        let page = VecDeque::new();
        let mut follower = Self { past, hub, watch, id, last: after, page, is_behind: true, told: 0, is_over: false };
        follower.take(first);
        Ok(Some(follower))
    }

    /// The number of the last event that was handed on.
    pub(crate) fn last(&self) -> u64 {
        self.last
    }

    /// Whether it is known already that nothing follows.
    pub(crate) fn has_ended(&self) -> bool {
        self.is_over && self.page.is_empty()
    }

    /// What comes next. Not to be called again after anything but an event. Safe to drop while it waits.
    pub(crate) async fn next(&mut self) -> Next {
        loop {
            if let Some(event) = self.page.pop_front() {
                return self.hand_on(Arc::new(Live::new(event)));
            }
            if self.is_over {
                return Next::Over;
            }
            if self.is_behind {
                if let Err(error) = self.catch_up().await {
                    tracing::warn!(execution.id = %self.id, error = %chain(&error), "the journal is away; a stream ends");
                    return Next::Away;
                }
                continue;
            }
            match self.watch.next().await {
                Said::Event(live) if live.event.number == self.last + 1 => return self.hand_on(live),
                // A number at or below the last was in the journal already.
                Said::Event(live) => {
                    self.told = self.told.max(live.event.number);
                    self.is_behind = live.event.number > self.last || is_last(&live.event);
                }
                Said::Seam => self.is_behind = true,
                Said::Lagged => return Next::Lagged,
            }
        }
    }

    fn hand_on(&mut self, live: Arc<Live>) -> Next {
        self.last = live.event.number;
        self.is_over |= is_last(&live.event);
        Next::Event(live)
    }

    /// Reads on in the journal, until there is something to hand on or nothing left to read.
    async fn catch_up(&mut self) -> Result<(), Away> {
        // The journal has what a full buffer could not take.
        if self.watch.is_cut_off() {
            self.watch = self.hub.watch(self.id);
        }
        let since = Instant::now();
        let mut wait = LOOK_AGAIN_MIN;
        loop {
            let cause = match self.past.events(self.id, self.last, PAGE_MAX).await {
                Ok(Some(events)) => {
                    self.take(events);
                    if !self.page.is_empty() || !self.is_behind {
                        return Ok(());
                    }
                    None
                }
                Ok(None) => {
                    self.is_over = true;
                    return Ok(());
                }
                Err(error) => Some(error),
            };
            if since.elapsed() + wait > AWAY_MAX {
                return Err(Away(cause));
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(LOOK_AGAIN_MAX);
        }
    }

    fn take(&mut self, events: Events) {
        let end = events.events.last().map_or(self.last, |event| event.number);
        self.is_behind = end < events.last.max(self.told);
        self.is_over = events.is_over;
        self.page = events.events.into();
    }
}

/// Whether nothing follows `event`.
fn is_last(event: &Event) -> bool {
    matches!(event.what, What::Settled { .. })
}

/// The journal did not answer in time, or lacks events that the hub told of.
#[derive(Debug, thiserror::Error)]
#[error("past events can't be read")]
struct Away(#[source] Option<Error>);
