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

/// The most notices that wait for one subscriber. One that lags further behind is cut off, and goes on from the
/// journal.
pub const BUFFER_MAX: usize = 256;

/// One event with its JSON, which is made once for all subscribers.
#[derive(Debug)]
pub struct Live {
    pub event: Event,
    json: OnceLock<Arc<str>>,
}

impl Live {
    pub fn new(event: Event) -> Self {
        Self { event, json: OnceLock::new() }
    }

    pub fn json(&self) -> &Arc<str> {
        self.json.get_or_init(|| serde_json::to_string(&self.event).expect("an event is plain data").into())
    }
}

/// Which events of all executions a subscriber receives. Empty lists stand for all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    pub actions: Vec<ActionRef>,
    /// Statuses that an execution moves to. If there are any here, all other events are left out.
    pub statuses: Vec<Status>,
}

impl Filter {
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
pub enum Said {
    Event(Arc<Live>),
    /// Events may have been missed: read the journal.
    Seam,
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
    of_one: DashMap<ExecutionId, Vec<Post>>,
    of_all: Mutex<Vec<(Filter, Post)>>,
    /// The subscribers in both, and those in `of_all` alone.
    count: AtomicUsize,
    count_of_all: AtomicUsize,
    next_key: AtomicU64,
    changed: Notify,
}

/// The sending end of a subscription. Dropping it cuts the subscription off.
struct Post {
    key: u64,
    sender: Sender<Said>,
}

impl Post {
    /// Sends a notice; `false` if there is no room.
    fn take(&self, said: Said) -> bool {
        self.sender.try_send(said).is_ok()
    }
}

impl Hub {
    /// Subscribes to one execution, from now on.
    pub fn watch(self: &Arc<Self>, id: ExecutionId) -> Watch {
        let (post, watch) = self.open(Some(id));
        let is_first = {
            let mut posts = self.of_one.entry(id).or_default();
            posts.push(post);
            posts.len() == 1
        };
        if is_first {
            self.changed.notify_one();
        }
        watch
    }

    /// Subscribes to every execution, from now on.
    pub fn watch_all(self: &Arc<Self>, filter: Filter) -> Watch {
        let (post, watch) = self.open(None);
        let mut posts = self.all();
        posts.push((filter, post));
        self.count_of_all.store(posts.len(), Ordering::SeqCst);
        drop(posts);
        self.changed.notify_one();
        watch
    }

    fn open(self: &Arc<Self>, id: Option<ExecutionId>) -> (Post, Watch) {
        let (sender, receiver) = mpsc::channel(BUFFER_MAX);
        let key = self.next_key.fetch_add(1, Ordering::Relaxed);
        self.count.fetch_add(1, Ordering::SeqCst);
        (Post { key, sender }, Watch { hub: Arc::clone(self), id, key, receiver })
    }

    /// Sends each event to its subscribers. Never waits: a subscriber without room is cut off.
    ///
    /// Call it after the events are in the journal, each execution's in the order of their numbers.
    pub fn publish(&self, events: &[Arc<Live>]) {
        if self.is_idle() {
            return;
        }
        for live in events {
            self.tell(live.event.execution_id, &Said::Event(Arc::clone(live)));
        }
        if self.count_of_all.load(Ordering::SeqCst) > 0 {
            self.retain_all(|filter, post| {
                let mut wanted = events.iter().filter(|live| filter.passes(&live.event));
                wanted.all(|live| post.take(Said::Event(Arc::clone(live))))
            });
        }
    }

    /// Events may have been missed (a new leader, a lost connection): every subscriber of one execution reads the
    /// journal. A subscriber of all executions sees a gap in the numbers of an execution, and may read its events.
    pub fn seam(&self) {
        let ids: Vec<_> = self.of_one.iter().map(|entry| *entry.key()).collect();
        for id in ids {
            self.tell(id, &Said::Seam);
        }
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

    fn tell(&self, id: ExecutionId, said: &Said) {
        self.retain_one(id, |post| post.take(said.clone()));
    }

    /// Drops the subscribers of one execution that are not kept.
    fn retain_one(&self, id: ExecutionId, keep: impl FnMut(&Post) -> bool) {
        let Some(mut posts) = self.of_one.get_mut(&id) else { return };
        let before = posts.len();
        posts.retain(keep);
        let (dropped, is_empty) = (before - posts.len(), posts.is_empty());
        drop(posts);
        self.count.fetch_sub(dropped, Ordering::SeqCst);
        if is_empty {
            // Another may have come in between.
            self.of_one.remove_if(&id, |_, posts| posts.is_empty());
            self.changed.notify_one();
        }
    }

    fn retain_all(&self, mut keep: impl FnMut(&Filter, &Post) -> bool) {
        let mut posts = self.all();
        let before = posts.len();
        posts.retain(|(filter, post)| keep(filter, post));
        let dropped = before - posts.len();
        self.count_of_all.store(posts.len(), Ordering::SeqCst);
        drop(posts);
        self.count.fetch_sub(dropped, Ordering::SeqCst);
        if dropped > 0 {
            self.changed.notify_one();
        }
    }

    fn all(&self) -> MutexGuard<'_, Vec<(Filter, Post)>> {
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
pub struct Watch {
    hub: Arc<Hub>,
    /// `None`: all executions.
    id: Option<ExecutionId>,
    key: u64,
    receiver: Receiver<Said>,
}

impl Watch {
    /// The next notice. Notices that were buffered before the subscription was cut off come before [`Said::Lagged`].
    /// Safe to drop while it waits.
    pub async fn next(&mut self) -> Said {
        self.receiver.recv().await.unwrap_or(Said::Lagged)
    }

    /// Whether this was cut off; its buffer may still hold notices.
    pub fn is_cut_off(&self) -> bool {
        self.receiver.is_closed()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        match self.id {
            Some(id) => self.hub.retain_one(id, |post| post.key != self.key),
            None => self.hub.retain_all(|_, post| post.key != self.key),
        }
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("id", &self.id).field("key", &self.key).finish_non_exhaustive()
    }
}
