//! Following one execution: its past events from the journal, then live ones, each exactly once and in order.
//!
//! The follower subscribes to the hub first and reads the journal then, so that no event falls between them. Events
//! that the hub left out are read from the journal; while that is away, the follower waits rather than skip them. Not
//! here: how an event looks on the wire (`stream`).

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use slotline_protocol::record::{Event, What};
use slotline_protocol::{ExecutionId, chain};
use slotline_store::{Error, RecordPart, Store};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::hub::{Hub, LiveEvent, Subscription, Update};

/// Events read from the journal at once, per follower.
const PAGE_MAX: u32 = 100;
/// Followers that read the journal at once. After a resync all of them do, and other requests need the journal, too.
const READS_MAX: usize = 2;
/// The waits between two reads of a journal that is away, or that lacks events from the hub: from the first, doubling
/// to the last.
const READ_AGAIN_MIN: Duration = Duration::from_millis(50);
const READ_AGAIN_MAX: Duration = Duration::from_secs(2);
/// How long a follower waits for the journal. Then its client may try another executor.
const AWAY_MAX: Duration = Duration::from_secs(30);

/// A part of the record, or `None` if there is no such execution.
type Read = Result<Option<RecordPart>, Error>;

/// A source of past events. Its futures are boxed, so that a follower that waits for live events holds no memory for a
/// read of the journal.
pub(crate) trait PastEvents {
    fn events(&self, id: ExecutionId, after: u64, limit: u32) -> BoxFuture<'_, Read>;
}

impl PastEvents for Store {
    fn events(&self, id: ExecutionId, after: u64, limit: u32) -> BoxFuture<'_, Read> {
        Self::events(self, id, after, limit).boxed()
    }
}

/// The journal, read by at most [`READS_MAX`] followers at once.
pub(crate) struct LimitedJournal {
    store: Store,
    reads: Semaphore,
}

impl LimitedJournal {
    pub(crate) fn new(store: Store) -> Self {
        Self { store, reads: Semaphore::new(READS_MAX) }
    }
}

impl PastEvents for LimitedJournal {
    fn events(&self, id: ExecutionId, after: u64, limit: u32) -> BoxFuture<'_, Read> {
        let read = async move {
            let _permit = self.reads.acquire().await.expect("the semaphore is never closed");
            self.store.events(id, after, limit).await
        };
        read.boxed()
    }
}

/// The next event of a follower, or its end.
#[derive(Debug)]
pub(crate) enum Next {
    Event(Arc<LiveEvent>),
    /// Nothing follows: the execution is settled, or forgotten.
    Over,
    /// The client was too slow; it may resume after [`EventFollower::last`].
    Lagged,
    /// The journal is away for too long; the client may resume in the same way.
    Away,
}

/// Follows the events of one execution.
pub(crate) struct EventFollower<P> {
    past: Arc<P>,
    hub: Arc<Hub>,
    subscription: Subscription,
    id: ExecutionId,
    /// The number of the last event that was returned.
    last: u64,
    /// Events that were read, and not returned yet.
    page: VecDeque<Event>,
    /// The journal must be read after `page`.
    is_behind: bool,
    /// The highest number that the hub published; the journal must have the events up to it.
    published: u64,
    /// Nothing follows `page`.
    is_over: bool,
}

impl<P: PastEvents> EventFollower<P> {
    /// Follows the events after that number; `None` if there is no such execution.
    pub(crate) async fn open(past: Arc<P>, hub: Arc<Hub>, id: ExecutionId, after: u64) -> Result<Option<Self>, Error> {
        let subscription = hub.subscribe(id);
        let Some(first) = past.events(id, after, PAGE_MAX).await? else { return Ok(None) };
        let page = VecDeque::new();
        let mut follower =
            Self { past, hub, subscription, id, last: after, page, is_behind: true, published: 0, is_over: false };
        follower.take(first);
        Ok(Some(follower))
    }

    /// The number of the last event that was returned.
    pub(crate) fn last(&self) -> u64 {
        self.last
    }

    /// Whether nothing follows.
    pub(crate) fn has_ended(&self) -> bool {
        self.is_over && self.page.is_empty()
    }

    /// What comes next. Not to be called again after anything but an event. Safe to drop while it waits.
    pub(crate) async fn next(&mut self) -> Next {
        loop {
            if let Some(event) = self.page.pop_front() {
                return self.return_event(Arc::new(LiveEvent::new(Arc::new(event))));
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
            match self.subscription.next().await {
                Update::Event(live) if live.event.number == self.last + 1 => return self.return_event(live),
                // A number at or below the last was in the journal already.
                Update::Event(live) => {
                    self.published = self.published.max(live.event.number);
                    self.is_behind = live.event.number > self.last || is_last(&live.event);
                }
                Update::Resync => self.is_behind = true,
                Update::Lagged => return Next::Lagged,
            }
        }
    }

    fn return_event(&mut self, live: Arc<LiveEvent>) -> Next {
        self.last = live.event.number;
        self.is_over |= is_last(&live.event);
        Next::Event(live)
    }

    /// Reads the journal, until there is an event to return or nothing left to read.
    async fn catch_up(&mut self) -> Result<(), JournalAway> {
        // The journal has the events that a full buffer could not take.
        if self.subscription.is_cut_off() {
            self.subscription = self.hub.subscribe(self.id);
        }
        let since = Instant::now();
        let mut wait = READ_AGAIN_MIN;
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
                return Err(JournalAway(cause));
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(READ_AGAIN_MAX);
        }
    }

    fn take(&mut self, events: RecordPart) {
        let end = events.events.last().map_or(self.last, |event| event.number);
        self.is_behind = end < events.last.max(self.published);
        self.is_over = events.is_over;
        self.page = events.events.into();
    }
}

/// Whether nothing follows `event`.
fn is_last(event: &Event) -> bool {
    matches!(event.what, What::Settled { .. })
}

/// The journal did not answer in time, or lacks events that the hub published.
#[derive(Debug, thiserror::Error)]
#[error("past events can't be read")]
struct JournalAway(#[source] Option<Error>);
