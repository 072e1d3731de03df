//! The duty book at work: one lock around the state and the hands that start and end attempts.
//!
//! Whoever learns of something tells it at once, on its own thread, so that the next of a chain starts where the one
//! before has ended, without waiting for the loop. What needs the broker waits for the loop, as an errand.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use slotline_protocol::message::{self, AttemptKey};
use slotline_protocol::{ActionRef, Incarnation, Sizes};
use tokio::sync::Notify;

use crate::clock;
use crate::duty::{Duty, Effect, Ending, Input, Shortage, Traced};
use crate::feed::{Feed, Listener};
use crate::hands::Hands;
use crate::scratch::Scratch;
use crate::watch::Gauge;

pub(crate) struct Book {
    inner: Mutex<Inner>,
    /// There are errands, or the time of the next look has changed.
    news: Notify,
}

struct Inner {
    duty: Duty,
    hands: Hands,
    effects: Vec<Effect>,
    /// Bounded by what the loop takes each turn: it takes all.
    errands: Vec<Errand>,
}

/// What the loop is to do: the effects that need the broker, or end the worker.
pub(crate) enum Errand {
    Complete(Traced<message::Completed>),
    Return(Traced<message::Returned>),
    ChangeStatus(Traced<message::StatusChanged>),
    Progress(Traced<message::Progress>),
    Resend {
        key: AttemptKey,
        range: (u64, Option<u64>),
        action_ref: ActionRef,
    },
    Beat {
        heartbeat: message::Heartbeat,
        sent: Duration,
    },
    Farewell(message::Ended),
    /// What the worker takes has changed: the most attempts at once and why; `None`: as many as ever.
    Takes(Option<(u32, Shortage)>),
    /// The executor does not take this worker.
    Refused(String),
    /// The incarnation is over.
    Rename(Incarnation),
    /// What the next process is to find.
    Keep(Vec<message::Ended>),
    GiveUp(Vec<AttemptKey>),
    Finish,
}

impl Book {
    pub(crate) fn new(duty: Duty, hands: Hands) -> Arc<Self> {
        let inner = Inner { duty, hands, effects: Vec::new(), errands: Vec::new() };
        Arc::new(Self { inner: Mutex::new(inner), news: Notify::new() })
    }

    /// Tells the book, and does at once what it asks of attempts.
    pub(crate) fn handle(self: &Arc<Self>, input: Input) {
        self.lock().handle(self, input);
    }

    /// Keeps to what the broker of the session takes.
    pub(crate) fn keep_to(&self, sizes: Sizes) {
        self.lock().duty.keep_to(sizes);
    }

    /// Takes up what an attempt has told.
    pub(crate) fn look(self: &Arc<Self>, feed: &Feed) {
        self.lock().look(self, feed);
    }

    /// Goes on under a new name.
    pub(crate) fn rename(self: &Arc<Self>, incarnation: Incarnation) {
        let mut inner = self.lock();
        inner.hands.extend(None);
        inner.handle(self, Input::NewIncarnation(incarnation));
    }

    /// Under which name, and when time must be looked at; tells the watch how long that may take.
    pub(crate) fn outlook(&self, gauge: &Gauge) -> (Incarnation, Option<Duration>) {
        let inner = self.lock();
        gauge.note(inner.duty.fence_deadline(), inner.duty.fence());
        (inner.duty.incarnation(), inner.duty.next_deadline())
    }

    /// Waits until another thread has left something for the loop. Cancel-safe.
    pub(crate) async fn has_errands(&self) {
        self.news.notified().await;
    }

    pub(crate) fn take_errands(&self) -> Vec<Errand> {
        std::mem::take(&mut self.lock().errands)
    }

    /// Lets go of everything that still lives; it ends with that.
    pub(crate) fn close(&self) -> Option<Scratch> {
        self.lock().hands.close()
    }

    /// Nothing of an attempt is left.
    fn close_attempt(self: &Arc<Self>, feed: &Feed, how: Input) {
        let mut inner = self.lock();
        inner.look(self, feed);
        inner.hands.forget(feed.key);
        inner.handle(self, how);
        drop(inner);
        self.news.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic in here is a bug; to lose the rest of the table with it would make it worse.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where attempts report to.
pub(crate) struct Ear(pub(crate) Arc<Book>);

impl Listener for Ear {
    fn ended(&self, feed: &Feed, ending: Ending) {
        self.0.close_attempt(feed, Input::Ended { key: feed.key, ending });
    }

    fn unstarted(&self, feed: &Feed, shortage: Shortage) {
        self.0.close_attempt(feed, Input::Unstarted { key: feed.key, shortage });
    }
}

impl Inner {
    fn look(&mut self, book: &Arc<Book>, feed: &Feed) {
        let (started_at, told) = feed.take();
        if let Some(at) = started_at {
            self.handle(book, Input::Started { key: feed.key, at });
        }
        for event in told {
            self.handle(book, Input::Reported { key: feed.key, event });
        }
    }

    fn handle(&mut self, book: &Arc<Book>, input: Input) {
        self.duty.handle(clock::now(), input, &mut self.effects);
        let Self { hands, effects, errands, .. } = self;
        for effect in effects.drain(..) {
            match effect {
                Effect::Start(start) => hands.start(book, start),
                Effect::Interrupt { key, grace } => hands.interrupt(key, grace),
                Effect::Kill { key } => hands.kill(key),
                Effect::Extend { deadline } => hands.extend(Some(deadline)),
                Effect::Complete(word) => errands.push(Errand::Complete(word)),
                Effect::Return(word) => errands.push(Errand::Return(word)),
                Effect::ChangeStatus(word) => errands.push(Errand::ChangeStatus(word)),
                Effect::Progress(word) => errands.push(Errand::Progress(word)),
                Effect::Resend { key, first, last, action_ref } => {
                    errands.push(Errand::Resend { key, range: (first, last), action_ref });
                }
                Effect::Beat { heartbeat, sent } => errands.push(Errand::Beat { heartbeat, sent }),
                Effect::Farewell(ended) => errands.push(Errand::Farewell(ended)),
                Effect::TakeLess { shortage, most } => errands.push(Errand::Takes(Some((most, shortage)))),
                Effect::TakeAll => errands.push(Errand::Takes(None)),
                Effect::Refused(reason) => errands.push(Errand::Refused(reason)),
                Effect::IncarnationOver(former) => errands.push(Errand::Rename(former)),
                Effect::Keep(words) => errands.push(Errand::Keep(words)),
                Effect::GiveUp(attempts) => errands.push(Errand::GiveUp(attempts)),
                Effect::Finish => errands.push(Errand::Finish),
            }
        }
    }
}
