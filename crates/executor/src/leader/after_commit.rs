//! What waits for a commit, and for the orders that leave after it.

use std::sync::Arc;

use slotline_broker::Tag;
use slotline_protocol::Timestamp;
use slotline_protocol::record::Event;
use slotline_scheduler::{Counters, Departed};
use slotline_store::Audit;

use super::ask::{Answered, Asker};
use super::input::Grants;
use super::item::Source;
use super::letters::{Purpose, Weighed};

/// What may leave once a batch is committed, but for what is written out.
#[derive(Clone, Debug)]
pub(super) struct AfterCommit {
    pub(super) batch: i64,
    /// The next numbers as of this batch.
    pub(super) next: Counters,
    /// When the probes of this batch were due; `None` if none were.
    pub(super) probe: Option<Timestamp>,
    pub(super) answers: Vec<(Asker, Answered)>,
    pub(super) acks: Vec<(Source, Tag)>,
    pub(super) requests: Option<Tag>,
    /// The session that the deliveries came by.
    pub(super) session: Option<u64>,
    /// For the log.
    pub(super) audit: Vec<Audit>,
    pub(super) departed: Vec<Departed>,
    pub(super) grants: Grants,
    pub(super) events: Events,
}

/// What a commit has made true and nothing waits for: it leaves once the broker has the orders of the same batch.
#[derive(Clone, Debug)]
pub(super) struct Deferred<P> {
    pub(super) publications: Vec<(P, Purpose)>,
    pub(super) probe: Option<Timestamp>,
    pub(super) acks: Vec<(Source, Tag)>,
    pub(super) requests: Option<Tag>,
    pub(super) dead: Vec<Weighed<P>>,
    /// The session that the deliveries came by.
    pub(super) session: Option<u64>,
    pub(super) events: Events,
}

/// Events of a batch, for the clients that watch.
#[derive(Clone, Debug)]
pub(super) struct Events {
    pub(super) batch: i64,
    pub(super) events: Arc<Vec<Arc<Event>>>,
    /// Whether the batch notes that they are to be published.
    pub(super) is_noted: bool,
}
