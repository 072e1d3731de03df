//! What is to be written and sent after a batch of inputs. Nothing here may leave the process before it is committed.

use std::collections::BTreeSet;
use std::sync::Arc;

use slotline_protocol::message::{AttemptKey, EndReason, Failure, Json, Shown};
use slotline_protocol::{
    ActionId, ActionRef, ExecutionId, Fence, Incarnation, OutcomeKind, Status, Timestamp, WorkerName,
};

use crate::{Evidence, Illegal, Lease, RequestToken};

/// The effects of a batch, in the order in which each kind came about.
#[derive(Clone, Debug, Default)]
pub struct Effects {
    pub accepted: Vec<Enqueued>,
    pub refused: Vec<RefusedRequest>,
    /// Live executions whose journaled state changed; read each with `Scheduler::snapshot` before the next input.
    pub changed: BTreeSet<ExecutionId>,
    pub attempts: Vec<AttemptEnded>,
    pub settled: Vec<Settled>,
    pub ended_incarnations: Vec<Departed>,
    pub announcements: Vec<Announcement>,
    /// To be published in this order: `n` rises.
    pub orders: Vec<Sent>,
    /// Greet every worker with this `n`, before the orders.
    pub hello: Option<u64>,
    /// Greet these incarnations, each with its `n`, before the orders: they may not know this epoch's terms yet.
    pub greetings: Vec<(Incarnation, u64)>,
    /// Publish one probe into each probed queue.
    pub probe: bool,
    /// Hardly ever there, and so apart: a batch's effects are moved as a whole.
    pub missing: Option<Box<Missing>>,
    /// How many messages were dropped because they bore numbers that no journal can have reached.
    pub wild: u32,
    /// Hopefully never there, and so apart.
    pub bugs: Option<Box<Bugs>>,
    /// Every lease is held under this leader's terms: a longer lease of an earlier leader need not be remembered.
    pub terms_are_known: bool,
}

impl Effects {
    /// None, with room for as many as there are of another batch: the next is about the same.
    pub(crate) fn with_room_of(other: &Self) -> Self {
        Self {
            accepted: Vec::with_capacity(other.accepted.len()),
            settled: Vec::with_capacity(other.settled.len()),
            announcements: Vec::with_capacity(other.announcements.len()),
            orders: Vec::with_capacity(other.orders.len()),
            ..Self::default()
        }
    }
}

/// What must not happen, for the log: the rest of the batch is as good as ever.
#[derive(Clone, Debug, Default)]
pub struct Bugs {
    /// Of this crate: moves that were not made.
    pub illegal: Vec<IllegalMove>,
    /// Of the journal: executions whose action it does not have.
    pub unplaced: Vec<ExecutionId>,
}

/// A move that no input may cause, and the execution as it stood before and stands still.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IllegalMove {
    pub id: ExecutionId,
    pub action: ActionId,
    pub attempt: u32,
    /// Of the attempt that is out, if there is one.
    pub fence: Option<Fence>,
    pub illegal: Illegal,
}

/// An incarnation that is over for ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Departed {
    pub incarnation: Incarnation,
    pub worker: WorkerName,
    pub how: Departure,
    /// Executions whose attempts ended with it, without an outcome.
    pub lost: Vec<ExecutionId>,
}

/// How an incarnation came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Departure {
    /// It has reported that it drained.
    Drained,
    /// It has reported that its fence fell.
    Fenced,
    /// Its process is gone, as the next process of its name reported.
    Replaced,
    /// It was silent for a whole lease.
    Silent,
}

impl From<EndReason> for Departure {
    fn from(reason: EndReason) -> Self {
        match reason {
            EndReason::Drain => Self::Drained,
            EndReason::Fence => Self::Fenced,
            EndReason::Replaced => Self::Replaced,
        }
    }
}

/// What the journal turned out not to know.
#[derive(Clone, Debug, Default)]
pub struct Missing {
    /// Executions that were taken over from their workers: live, with a lease.
    pub recovered: Vec<AdoptedExecution>,
    /// Actions of executions that can't be taken over before the journal has them.
    pub unknown_actions: BTreeSet<ActionRef>,
    /// The journal is older than something shows, and this leader must stand down.
    pub evidence: Option<Evidence>,
}

/// An execution that the journal did not know, as its worker showed it.
#[derive(Clone, Debug)]
pub struct AdoptedExecution {
    pub action: ActionId,
    pub incarnation: Incarnation,
    pub shown: Shown,
}

/// A request took its place in the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Enqueued {
    pub token: RequestToken,
    pub id: ExecutionId,
    /// 1-based.
    pub position: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefusedRequest {
    pub token: RequestToken,
    pub reason: Unacceptable,
}

/// Why a request takes no place in a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unacceptable {
    UnknownAction,
    LineFull { max_queue_length: u64 },
}

/// An attempt ended without settling its execution.
#[derive(Clone, Debug)]
pub struct AttemptEnded {
    pub id: ExecutionId,
    pub action: ActionId,
    pub attempt: u32,
    /// Since when it had waited in its line for this attempt.
    pub queued_at: Timestamp,
    pub lease: Lease,
    pub outcome: OutcomeKind,
    /// What it left as its result although it failed.
    pub result: Option<Json>,
    pub error: Option<Failure>,
    /// By the worker's stamp where there is one, so that it compares with the next start.
    pub ended_at: Timestamp,
}

/// An execution reached its terminal status and left the scheduler.
#[derive(Clone, Debug)]
pub struct Settled {
    pub id: ExecutionId,
    pub action: ActionId,
    pub action_ref: ActionRef,
    pub status: Status,
    pub attempt: u32,
    /// Since when it had waited in its line for its last attempt, or until it ended there.
    pub queued_at: Timestamp,
    /// The last attempt as people count them; 0 if it never had one.
    pub counts_as: u32,
    pub failures: u32,
    pub losses: u32,
    /// Of the last attempt; absent if it never had one.
    pub lease: Option<Lease>,
    pub result: Option<Json>,
    pub error: Option<Failure>,
    /// By the worker's stamp where there is one, so that it compares with the next start.
    pub ended_at: Timestamp,
}

/// A move from one status to the next, to be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    pub id: ExecutionId,
    pub action_ref: ActionRef,
    pub attempt: u32,
    /// The attempt as people count them.
    pub counts_as: u32,
    pub worker: Option<WorkerName>,
    pub from: Status,
    pub to: Status,
    pub at: Timestamp,
}

/// An order to one incarnation, with its number in this epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    pub incarnation: Incarnation,
    pub n: u64,
    pub order: Order,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// The journal has these outcomes.
    Recorded {
        attempts: Vec<AttemptKey>,
    },
    Dispatch(Dispatch),
    /// To be handed back, unless it has begun.
    Recall {
        key: AttemptKey,
        fence: Fence,
    },
    Cancel {
        key: AttemptKey,
        fence: Fence,
        reason: Option<String>,
    },
    /// The incarnation is over for ever.
    Lost,
}

/// One attempt, granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dispatch {
    pub id: ExecutionId,
    pub attempt: u32,
    /// The attempt as people count them.
    pub counts_as: u32,
    pub fence: Fence,
    pub action: ActionId,
    pub action_ref: ActionRef,
    pub key: Option<Arc<str>>,
    pub scheduled_at: Timestamp,
    /// The attempt whose completion starts this one; it has no slot before that.
    pub starts_after: Option<AttemptKey>,
}
