//! Sends live events to their subscribers.
//!
//! The executor publishes each event once it is in the journal, and never waits: each subscriber has a bounded buffer,
//! and one that lets it fill is cut off. So a client that subscribes first and reads the journal then misses nothing.
//! Not here: past events, which are in the journal, and what a subscriber does about a gap (`follow`).

use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use dashmap::DashMap;
use slotline_protocol::record::{Event, What};
use slotline_protocol::{ActionRef, ExecutionId, Status};
use tokio::sync::Notify;
use tokio::sync::mpsc::{self, Receiver, Sender};

use crate::board::Board;

/// The most updates that wait for one subscriber. One that lags further behind is cut off, and goes on from the
/// journal.
pub const BUFFER_MAX: usize = 256;

/// One event with its JSON, which is made once for all subscribers.
#[derive(Debug)]
pub struct LiveEvent {
    pub event: Arc<Event>,
    json: OnceLock<Arc<str>>,
}

impl LiveEvent {
    pub fn new(event: Arc<Event>) -> Self {
        Self { event, json: OnceLock::new() }
    }

    pub fn json(&self) -> &Arc<str> {
        self.json.get_or_init(|| serde_json::to_string(&self.event).expect("an event is plain data").into())
    }
}

/// Which events of all executions a subscriber receives. Empty lists stand for all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventFilter {
    pub actions: Vec<ActionRef>,
    /// Statuses that an execution moves to. If there are any here, all other events are left out.
    pub statuses: Vec<Status>,
}

impl EventFilter {
    fn passes(&self, event: &Event) -> bool {
        let status = match &event.what {
            What::Status { new, .. } => Some(new),
            What::Settled { status, .. } => Some(status),
            What::Started | What::Progress(_) | What::Log { .. } | What::Gap { .. } | What::Finished { .. } => None,
        };
        (self.actions.is_empty() || self.actions.contains(&event.action_ref))
            && (self.statuses.is_empty() || status.is_some_and(|status| self.statuses.contains(status)))
    }
}

/// What a subscriber receives.
#[derive(Clone, Debug)]
pub enum Update {
    Event(Arc<LiveEvent>),
    /// Events may have been missed: read the journal.
    Resync,
    /// The buffer was full: nothing follows.
    Lagged,
}

/// The events that have subscribers here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interest {
    /// All executions.
    pub all: bool,
    /// These executions, ascending.
    pub ids: Vec<ExecutionId>,
}

/// All subscribers of this process.
#[derive(Default)]
pub struct Hub {
    of_one: DashMap<ExecutionId, Vec<Subscriber>>,
    of_all: Mutex<Vec<(EventFilter, Subscriber)>>,
    /// The subscribers in both, and those in `of_all` alone.
    count: AtomicUsize,
    count_of_all: AtomicUsize,
    next_key: AtomicU64,
    changed: Notify,
    board: Arc<Board>,
}

/// The sending end of a subscription. Dropping it cuts the subscription off.
struct Subscriber {
    key: u64,
    sender: Sender<Update>,
}

impl Subscriber {
    /// Sends an update; `false` if there is no room.
    fn send(&self, update: Update) -> bool {
        self.sender.try_send(update).is_ok()
    }
}

impl Hub {
    /// Subscribes to one execution, from now on.
    pub fn subscribe(self: &Arc<Self>, id: ExecutionId) -> Subscription {
        let (subscriber, subscription) = self.open(Some(id));
        let is_first = {
            let mut subscribers = self.of_one.entry(id).or_default();
            subscribers.push(subscriber);
            subscribers.len() == 1
        };
        if is_first {
            self.changed.notify_one();
        }
        subscription
    }

    /// Subscribes to every execution, from now on.
    pub fn subscribe_all(self: &Arc<Self>, filter: EventFilter) -> Subscription {
        let (subscriber, subscription) = self.open(None);
        let mut subscribers = self.all();
        subscribers.push((filter, subscriber));
        self.count_of_all.store(subscribers.len(), Ordering::SeqCst);
        drop(subscribers);
        self.changed.notify_one();
        subscription
    }

    fn open(self: &Arc<Self>, id: Option<ExecutionId>) -> (Subscriber, Subscription) {
        let (sender, receiver) = mpsc::channel(BUFFER_MAX);
        let key = self.next_key.fetch_add(1, Ordering::Relaxed);
        self.count.fetch_add(1, Ordering::SeqCst);
        (Subscriber { key, sender }, Subscription { hub: Arc::clone(self), id, key, receiver })
    }

    /// Sends each event to its subscribers. Never waits: a subscriber without room is cut off.
    ///
    /// Call it after the events are in the journal, each execution's in the order of their numbers.
    pub fn publish(&self, events: &[Arc<LiveEvent>]) {
        if self.is_idle() {
            return;
        }
        for live in events {
            self.send_to(live.event.execution_id, &Update::Event(Arc::clone(live)));
        }
        if self.count_of_all.load(Ordering::SeqCst) > 0 {
            self.retain_all(|filter, subscriber| {
                let mut wanted = events.iter().filter(|live| filter.passes(&live.event));
                wanted.all(|live| subscriber.send(Update::Event(Arc::clone(live))))
            });
        }
    }

    /// Events may have been missed (a new leader, a lost connection): every subscriber of one execution reads the
    /// journal. A subscriber of all executions sees a gap in the numbers of an execution, and may read its events.
    pub fn resync(&self) {
        let ids: Vec<_> = self.of_one.iter().map(|entry| *entry.key()).collect();
        for id in ids {
            self.send_to(id, &Update::Resync);
        }
    }

    /// The lines, for the clients of this process.
    pub fn board(&self) -> &Arc<Board> {
        &self.board
    }

    /// Whether there are no subscribers. Costs next to nothing.
    pub fn is_idle(&self) -> bool {
        self.count.load(Ordering::SeqCst) == 0
    }

    /// Whether this execution has subscribers, or there are subscribers of all.
    pub fn wants(&self, id: ExecutionId) -> bool {
        !self.is_idle() && (self.count_of_all.load(Ordering::SeqCst) > 0 || self.of_one.contains_key(&id))
    }

    /// The events that have subscribers now.
    pub fn interest(&self) -> Interest {
        let mut ids: Vec<_> = self.of_one.iter().map(|entry| *entry.key()).collect();
        ids.sort_unstable();
        Interest { all: self.count_of_all.load(Ordering::SeqCst) > 0, ids }
    }

    /// Returns once [`Hub::interest`] may have changed since this last returned. For one caller.
    pub async fn interest_changed(&self) {
        self.changed.notified().await;
    }

    fn send_to(&self, id: ExecutionId, update: &Update) {
        self.retain_one(id, |subscriber| subscriber.send(update.clone()));
    }

    /// Drops the subscribers of one execution that are not kept.
    fn retain_one(&self, id: ExecutionId, keep: impl FnMut(&Subscriber) -> bool) {
        let Some(mut subscribers) = self.of_one.get_mut(&id) else { return };
        let before = subscribers.len();
        subscribers.retain(keep);
        let (dropped, is_empty) = (before - subscribers.len(), subscribers.is_empty());
        drop(subscribers);
        self.count.fetch_sub(dropped, Ordering::SeqCst);
        if is_empty {
            // Another may have come in between.
            self.of_one.remove_if(&id, |_, subscribers| subscribers.is_empty());
            self.changed.notify_one();
        }
    }

    fn retain_all(&self, mut keep: impl FnMut(&EventFilter, &Subscriber) -> bool) {
        let mut subscribers = self.all();
        let before = subscribers.len();
        subscribers.retain(|(filter, subscriber)| keep(filter, subscriber));
        let dropped = before - subscribers.len();
        self.count_of_all.store(subscribers.len(), Ordering::SeqCst);
        drop(subscribers);
        self.count.fetch_sub(dropped, Ordering::SeqCst);
        if dropped > 0 {
            self.changed.notify_one();
        }
    }

    fn all(&self) -> MutexGuard<'_, Vec<(EventFilter, Subscriber)>> {
        // A list of senders is whole after every single call on it.
        self.of_all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").field("count", &self.count).finish_non_exhaustive()
    }
}

/// Receives events until it is dropped.
pub struct Subscription {
    hub: Arc<Hub>,
    /// `None`: all executions.
    id: Option<ExecutionId>,
    key: u64,
    receiver: Receiver<Update>,
}

impl Subscription {
    /// The next update. Updates that were buffered before the subscription was cut off come before [`Update::Lagged`].
    /// Safe to drop while it waits.
    pub async fn next(&mut self) -> Update {
        self.receiver.recv().await.unwrap_or(Update::Lagged)
    }

    /// Whether this was cut off; its buffer may still hold updates.
    pub fn is_cut_off(&self) -> bool {
        self.receiver.is_closed()
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        match self.id {
            Some(id) => self.hub.retain_one(id, |subscriber| subscriber.key != self.key),
            None => self.hub.retain_all(|_, subscriber| subscriber.key != self.key),
        }
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").field("id", &self.id).field("key", &self.key).finish_non_exhaustive()
    }
}
