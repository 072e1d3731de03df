//! Publishes the events of the record to the public exchange, once they are committed: each with its number, in an
//! envelope of its own.
//!
//! Runs beside the leader's loop, which hands over the events of each batch after all that is urgent has left. While a
//! key has a subscriber, a batch notes in the journal which events are to be published (`slotline_store::EventRange`);
//! the journal forgets them once the broker has them. So a leader that dies in between loses none: the next one reads
//! those events from the record and publishes them, again if need be, under the same `message_id`. Memory holds the
//! events of a few batches; further ones are read from the record when their turn comes.
//!
//! Not here: the keys that have subscribers (`audience`), the form of a message (`writer`), the streams of the API
//! (`slotline_api::Hub`).

mod audience;
mod shared;
mod task;
mod writer;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use slotline_protocol::Epoch;
use slotline_protocol::message::Lineage;
use slotline_protocol::record::Event;
use slotline_store::{BatchKey, Store};
use tokio::runtime;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::errands::Fate;
use super::seeking::Current;
use crate::config::Public;
use crate::leader::heard::{SubscribedKeys, ranges};
use shared::{EVENTS_MAX, ROOM, Shared};
use task::{Batch, Content, Task};
use writer::Writer;

/// Where and what an announcer publishes.
pub(crate) struct Outlet {
    pub(crate) store: Store,
    pub(crate) current: Current,
    pub(crate) public: Public,
    pub(crate) prefix: String,
    pub(crate) source: String,
    pub(crate) journal: Lineage,
    pub(crate) epoch: Epoch,
    /// Takes the notice for the loop that there is room again.
    pub(crate) fates: mpsc::UnboundedSender<Fate>,
}

/// The leader's handle of its announcer. Dropping it ends the announcements of this term.
pub(crate) struct Announcer {
    epoch: Epoch,
    batches: mpsc::UnboundedSender<Batch>,
    shared: Arc<Shared>,
    task: AbortHandle,
}

impl Announcer {
    /// Starts on another runtime: writing public events takes no time from the leader's thread.
    pub(crate) fn start(outlet: Outlet, on: &runtime::Handle) -> Self {
        let Outlet { store, current, public, prefix, source, journal, epoch, fates } = outlet;
        let shared = Arc::new(Shared::new(public));
        let (batches, taken) = mpsc::unbounded_channel();
        let writer = Writer { prefix, source, journal };
        let task = Task::new(store, current, public, writer, epoch, shared.clone(), (taken, fates));
        let task = on.spawn(task.run()).abort_handle();
        Self { epoch, batches, shared, task }
    }

    /// The keys that have a subscriber, or may have one.
    pub(crate) fn heard(&self) -> SubscribedKeys {
        self.shared.heard()
    }

    /// Whether few enough events wait that more may be made.
    pub(crate) fn has_room(&self) -> bool {
        self.shared.waiting.load(Ordering::Acquire) < ROOM
    }

    /// Publishes the events of a committed batch, after those of the batches before. `is_noted`: the journal has their
    /// ranges.
    pub(crate) fn announce(&self, number: i64, told: Vec<Arc<Event>>, is_noted: bool) {
        if told.is_empty() {
            return;
        }
        let key = BatchKey { epoch: self.epoch, number };
        if !is_noted && self.shared.note(key, &told) {
            return;
        }
        let waiting = self.shared.waiting.fetch_add(told.len(), Ordering::AcqRel);
        let content = if waiting < EVENTS_MAX {
            Content::Events(told)
        } else {
            self.shared.waiting.fetch_sub(told.len(), Ordering::AcqRel);
            if is_noted { Content::Noted } else { Content::Ranges(ranges(told.iter())) }
        };
        // The task ends with this handle, or not at all.
        drop(self.batches.send(Batch { key, content, only: None }));
    }
}

impl Drop for Announcer {
    fn drop(&mut self) {
        self.task.abort();
    }
}
