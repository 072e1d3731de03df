//! Live events, from whoever learns of them to all who watch.
//!
//! The executor publishes each event once it is in the journal, and never waits: each watcher has a bounded buffer, and
//! one that lets it fill is cut off. So a watcher that registers first and reads the journal then misses nothing.
//! Not here: past events, which are the journal's, and what a watcher does about a hole (`follow`).

use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use dashmap::DashMap;
use slotline_protocol::record::{Event, What};
use slotline_protocol::{ActionRef, ExecutionId, Status};
use tokio::sync::Notify;
use tokio::sync::mpsc::{self, Receiver, Sender};

/// What may wait for one watcher. One that lags further behind is cut off, and goes on from the journal.
pub const BUFFER_MAX: usize = 256;

/// One event with its JSON, made once however many watch.
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

/// What a watcher of everything wants to see. Empty lists stand for all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    pub actions: Vec<ActionRef>,
    /// Statuses that an execution moves to. Events that are no such move are left out, if there are any here.
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

/// What a watcher hears.
#[derive(Clone, Debug)]
pub enum Said {
    Event(Arc<Live>),
    /// Something may have been missed: look into the journal.
    Seam,
    /// The buffer was full: nothing is heard any more.
    Lagged,
}

/// Which events somebody watches here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interest {
    /// Those of every execution.
    pub all: bool,
    /// Those of these, ascending.
    pub ids: Vec<ExecutionId>,
}

/// All watchers of this process.
#[derive(Default)]
pub struct Hub {
    of_one: DashMap<ExecutionId, Vec<Post>>,
    of_all: Mutex<Vec<(Filter, Post)>>,
    /// Watchers in both, and those in the second alone.
    count: AtomicUsize,
    count_of_all: AtomicUsize,
    next_key: AtomicU64,
    changed: Notify,
}

/// The sending end of a watcher's buffer. Without it the watcher has been cut off.
struct Post {
    key: u64,
    sender: Sender<Said>,
}

impl Post {
    /// Whether there was room.
    fn take(&self, said: Said) -> bool {
        self.sender.try_send(said).is_ok()
    }
}

impl Hub {
    /// Watches one execution, from now on.
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

    /// Watches every execution, from now on.
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

    /// Hands events to who watches them. Never waits: a watcher without room is cut off.
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

    /// Something may have been missed (a new leader, a lost connection): everyone who watches one execution looks into
    /// the journal. Who watches everything sees a hole in the numbers of an execution, and may look for himself.
    pub fn seam(&self) {
        let ids: Vec<_> = self.of_one.iter().map(|entry| *entry.key()).collect();
        for id in ids {
            self.tell(id, &Said::Seam);
        }
    }

    /// Nobody watches anything. Costs next to nothing.
    pub fn is_idle(&self) -> bool {
        self.count.load(Ordering::SeqCst) == 0
    }

    /// Somebody watches this execution, or everything.
    pub fn wants(&self, id: ExecutionId) -> bool {
        !self.is_idle() && (self.count_of_all.load(Ordering::SeqCst) > 0 || self.of_one.contains_key(&id))
    }

    /// What is watched now.
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

    /// Drops the posts of one execution that are not kept.
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

/// One who watches. Dropping it ends that.
pub struct Watch {
    hub: Arc<Hub>,
    /// `None` watches everything.
    id: Option<ExecutionId>,
    key: u64,
    receiver: Receiver<Said>,
}

impl Watch {
    /// The next thing heard. What was buffered before a watcher was cut off is heard before [`Said::Lagged`]. Safe to
    /// drop while it waits.
    pub async fn next(&mut self) -> Said {
        self.receiver.recv().await.unwrap_or(Said::Lagged)
    }

    /// Whether this was cut off; there may be something left in its buffer.
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
