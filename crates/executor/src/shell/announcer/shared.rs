//! What the leader's loop and the announcer share: which keys have subscribers, and the events under those that have
//! none.
//!
//! Events without a subscriber wake no other thread: they are noted in a list that the announcer takes now and then.

use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use slotline_protocol::record::Event;
use slotline_store::{BatchKey, EventRange};
use tokio::sync::Notify;

use crate::config::Public;
use crate::leader::heard::{EventKey, KEYS, SubscribedKeys};

/// Events that wait in memory; those of further batches are read from the record.
pub(super) const EVENTS_MAX: usize = 20_000;
/// With so many, no more requests are taken: while there is a subscriber, requests must not outrun the publications.
pub(super) const ROOM: usize = EVENTS_MAX / 2;
/// The most events that are noted between two looks; beyond, the oldest half is forgotten.
const NOTED_MAX: usize = 100_000;

/// An event without a known subscriber.
#[derive(Clone, Copy, Debug)]
pub(super) struct Missed {
    pub(super) batch: BatchKey,
    pub(super) range: EventRange,
    pub(super) keys: &'static [EventKey],
}

#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    /// The list of noted events was empty, and is no more.
    pub(super) noted: Notify,
    /// Events in memory.
    pub(super) waiting: AtomicUsize,
}

#[derive(Debug)]
struct State {
    heard: SubscribedKeys,
    missed: Vec<Missed>,
}

impl Shared {
    /// Until the broker is asked, every key that the operator has published may have a subscriber.
    pub(super) fn new(public: Public) -> Self {
        let heard = SubscribedKeys::of(KEYS.into_iter().filter(|key| key.is_in(public)));
        let state = State { heard, missed: Vec::new() };
        Self { state: Mutex::new(state), noted: Notify::new(), waiting: AtomicUsize::new(0) }
    }

    pub(super) fn heard(&self) -> SubscribedKeys {
        self.lock().heard
    }

    /// Notes events without subscribers. `false`: at least one of them may have one.
    pub(super) fn note(&self, batch: BatchKey, told: &[Arc<Event>]) -> bool {
        let mut state = self.lock();
        if told.iter().any(|event| state.heard.takes(event)) {
            return false;
        }
        if state.missed.len() >= NOTED_MAX {
            state.missed.drain(..NOTED_MAX / 2);
        }
        if state.missed.is_empty() {
            self.noted.notify_one();
        }
        state.missed.extend(told.iter().map(|event| {
            let range = EventRange { id: event.execution_id, first: event.number, last: event.number };
            Missed { batch, range, keys: EventKey::of(event) }
        }));
        true
    }

    /// Takes what was noted, and sets the keys with subscribers: from now on their events come as batches.
    pub(super) fn take(&self, heard: SubscribedKeys) -> Vec<Missed> {
        let mut state = self.lock();
        state.heard = heard;
        std::mem::take(&mut state.missed)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
