//! The duty book in use: one lock around it and around the attempts that it starts and ends.
//!
//! What happens to an attempt is reported at once, on the thread where it happens, so that the next of a chain starts
//! where the one before has ended, without waiting for the loop. What needs the broker waits for the loop.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use slotline_protocol::Sizes;
use tokio::sync::Notify;

use super::running::Running;
use super::watch::Gauge;
use crate::clock;
use crate::driver::{AttemptAction, Book};
use crate::duty::{Effect, Ending, Input, Shortage};
use crate::process::scratch::Scratch;
use crate::report::feed::{AttemptFeed, Listener};

pub(crate) struct SharedBook {
    inner: Mutex<Inner>,
    /// Something waits for the loop, or the time of the next look has changed.
    changed: Notify,
}

struct Inner {
    book: Book,
    running: Running,
}

impl SharedBook {
    pub(crate) fn new(book: Book, running: Running) -> Arc<Self> {
        Arc::new(Self { inner: Mutex::new(Inner { book, running }), changed: Notify::new() })
    }

    /// Reports to the book, and carries out at once its effects on attempts.
    pub(crate) fn handle(self: &Arc<Self>, input: Input) {
        self.lock().handle(self, input);
    }

    /// Carries out the driver's action on an attempt.
    pub(crate) fn act(self: &Arc<Self>, action: AttemptAction) {
        self.lock().running.act(|| BookListener::of(self), action);
    }

    /// Applies the message sizes that the broker of the session takes.
    pub(crate) fn keep_to(&self, sizes: Sizes) {
        self.lock().book.keep_to(sizes);
    }

    /// Takes up what an attempt has reported.
    pub(crate) fn look(self: &Arc<Self>, feed: &AttemptFeed) {
        self.lock().look(self, feed);
    }

    /// The next deadline; the gauge gets how long the lock may be held.
    pub(crate) fn next_deadline(&self, gauge: &Gauge) -> Option<Duration> {
        let inner = self.lock();
        let duty = inner.book.duty();
        gauge.note(duty.fence_deadline(), duty.fence());
        duty.next_deadline()
    }

    /// Waits until another thread has left something for the loop. Cancel-safe.
    pub(crate) async fn has_changed(&self) {
        self.changed.notified().await;
    }

    /// What waits for the loop.
    pub(crate) fn take_deferred(&self) -> Vec<Effect> {
        self.lock().book.take_deferred()
    }

    /// Drops every live attempt, which ends it.
    pub(crate) fn close(&self) -> Option<Scratch> {
        self.lock().running.close()
    }

    /// To be called when nothing of an attempt is left.
    fn close_attempt(self: &Arc<Self>, feed: &AttemptFeed, how: Input) {
        let mut inner = self.lock();
        inner.look(self, feed);
        inner.running.forget(feed.key);
        inner.handle(self, how);
        drop(inner);
        self.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic in here is a bug; to lose the rest of the table with it would make it worse.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The receiver of what attempts report.
struct BookListener(Arc<SharedBook>);

impl BookListener {
    fn of(book: &Arc<SharedBook>) -> Arc<dyn Listener> {
        Arc::new(Self(book.clone()))
    }
}

impl Listener for BookListener {
    fn ended(&self, feed: &AttemptFeed, ending: Ending) {
        self.0.close_attempt(feed, Input::Ended { key: feed.key, ending });
    }

    fn unstarted(&self, feed: &AttemptFeed, shortage: Shortage) {
        self.0.close_attempt(feed, Input::Unstarted { key: feed.key, shortage });
    }
}

impl Inner {
    fn look(&mut self, shared: &Arc<SharedBook>, feed: &AttemptFeed) {
        let (started_at, told) = feed.take();
        if let Some(at) = started_at {
            self.handle(shared, Input::Started { key: feed.key, at });
        }
        for event in told {
            self.handle(shared, Input::Reported { key: feed.key, event });
        }
    }

    fn handle(&mut self, shared: &Arc<SharedBook>, input: Input) {
        let Self { book, running } = self;
        book.handle(clock::now(), input, |action| running.act(|| BookListener::of(shared), action));
    }
}
