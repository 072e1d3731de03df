//! What one commit writes: everything a leader decided since the last one, as plain data.
//!
//! A batch is written whole or not at all. An execution appears at most once in each of its lists, except in those of
//! attempts and events. Not here: how a batch reaches a database (`postgres`, `sqlite`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;
use slotline_protocol::message::Reply;
use slotline_protocol::record::Event;
use slotline_protocol::{ActionId, Detail, Incarnation, RequestName, Timestamp, WorkerName, http};
use slotline_scheduler::{AttemptEnded, Counters, Settled, Snapshot};

use crate::{Audit, EventRange, Story};

/// One commit of one leader.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// A leader's batches count 1, 2, 3, ...; batch k+1 can't commit without k.
    pub number: i64,
    pub counters: Counters,
    pub actions: Vec<ActionChange>,
    /// New executions; an accepted one may already hold its lease.
    pub accepted: Vec<AcceptedRequest>,
    /// The new state of executions accepted by an earlier batch. Action, key and `enqueued_at` never change.
    pub live: Vec<Snapshot>,
    /// Attempts that ended without settling their executions.
    pub attempts: Vec<AttemptEnded>,
    /// Executions that reached their terminal status: their live rows move to the history. One may have been accepted
    /// by this very batch.
    pub settled: Vec<Arc<Settled>>,
    /// What to add to an action's totals: executions enqueued, and executions settled.
    pub totals: Vec<(ActionId, u64, u64)>,
    pub ended_incarnations: Vec<(Incarnation, WorkerName, Timestamp)>,
    /// New events of the record, those of each execution ascending without a gap. A number that was written before
    /// fails the batch. Never the event that settles: it follows from the execution's row.
    pub events: Vec<Arc<Event>>,
    /// How far the records go after this batch; each takes the place of the one before. Events below its `first` go.
    pub stories: Vec<Story>,
    /// The changes with their actors and reasons.
    pub audit: Vec<Audit>,
    /// Events of this batch that have a subscriber: kept until they are known to be published.
    pub announced: Vec<EventRange>,
}

impl Batch {
    /// Whether nothing but the counters would be written.
    pub fn is_empty(&self) -> bool {
        self.actions.is_empty()
            && self.accepted.is_empty()
            && self.live.is_empty()
            && self.attempts.is_empty()
            && self.settled.is_empty()
            && self.totals.is_empty()
            && self.ended_incarnations.is_empty()
            && self.events.is_empty()
            && self.stories.is_empty()
            && self.audit.is_empty()
            && self.announced.is_empty()
    }
}

/// A change to the actions.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "few at a time, and nearly all are the large one")]
pub enum ActionChange {
    /// Adds the action, or replaces the one with its id.
    Put(http::Action),
    /// Removes the action from every list; its history still shows its name.
    Delete { id: ActionId, at: Timestamp },
}

impl ActionChange {
    pub fn id(&self) -> ActionId {
        match self {
            Self::Put(action) => action.action_id,
            Self::Delete { id, .. } => *id,
        }
    }
}

/// A request that the journal takes.
#[derive(Clone, Debug)]
pub struct AcceptedRequest {
    pub snapshot: Snapshot,
    pub request: Arc<Request>,
}

/// The publisher's request, without what changes while the execution lives.
#[derive(Clone, Debug)]
pub struct Request {
    /// Its `message_id`, and its user, if the broker named one.
    pub name: Option<RequestName>,
    /// Digest of the request; distinguishes a repetition from a different request under the same name.
    pub digest: [u8; 32],
    pub parameters: Arc<RawValue>,
    pub timeout: Option<Duration>,
    pub detail: Detail,
    pub correlation_id: Option<String>,
    pub trace_id: Option<String>,
    pub source: Option<String>,
    pub reply_to: Option<String>,
    pub reply: Reply,
}

/// The largest result that is kept of an attempt which did not settle its execution: a hundred of them are shown at
/// once.
pub(crate) const LEFT_BYTES_MAX: usize = 64 << 10;

/// The part of its result that is kept of an attempt that did not settle its execution.
pub(crate) fn left(attempt: &AttemptEnded) -> Option<&str> {
    attempt.result.as_ref().map(|result| result.get()).filter(|result| result.len() <= LEFT_BYTES_MAX)
}

/// Changes to actions in an order that can be written set by set: each action at most once, its last state.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Collapsed<'b> {
    /// Deleted by this batch and not put by it. To be written first, since each may free a name.
    pub(crate) deleted: Vec<(ActionId, Timestamp)>,
    /// Put by this batch, and when it was deleted again if it was; ordered by the last change.
    pub(crate) put: Vec<(&'b http::Action, Option<Timestamp>)>,
}

pub(crate) fn collapse(changes: &[ActionChange]) -> Collapsed<'_> {
    let mut collapsed = Collapsed::default();
    for change in changes {
        match change {
            ActionChange::Put(action) => {
                collapsed.deleted.retain(|(id, _)| *id != action.action_id);
                collapsed.put.retain(|(earlier, _)| earlier.action_id != action.action_id);
                collapsed.put.push((action, None));
            }
            ActionChange::Delete { id, at } => match collapsed.put.iter().position(|(put, _)| put.action_id == *id) {
                Some(index) => {
                    let (action, _) = collapsed.put.remove(index);
                    collapsed.put.push((action, Some(*at)));
                }
                None => {
                    collapsed.deleted.retain(|(earlier, _)| earlier != id);
                    collapsed.deleted.push((*id, *at));
                }
            },
        }
    }
    collapsed
}

/// Totals with each action once.
pub(crate) fn sum(totals: &[(ActionId, u64, u64)]) -> Vec<(ActionId, u64, u64)> {
    let mut sums: BTreeMap<ActionId, (u64, u64)> = BTreeMap::new();
    for &(action, enqueued, completed) in totals {
        let sum = sums.entry(action).or_default();
        *sum = (sum.0.saturating_add(enqueued), sum.1.saturating_add(completed));
    }
    sums.into_iter().map(|(action, (enqueued, completed))| (action, enqueued, completed)).collect()
}
