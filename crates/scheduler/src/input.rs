//! Everything that can happen to the scheduler: past facts, read on one screen.

use slotline_protocol::message::{AttemptKey, EndReason, Failure, Heartbeat, Json};
use slotline_protocol::{ActionId, ActionRef, ExecutionId, Fence, Incarnation, OutcomeKind, Timestamp};
use std::sync::Arc;
use std::time::Duration;

use crate::Limits;

/// Names a request within the caller's batch, so that its answer finds it.
pub type RequestToken = u64;

/// One happening. Facts about an attempt carry its fence; a stale fence changes nothing.
#[derive(Clone, Debug)]
pub enum Input {
    /// An action was created, or its policy changed.
    ActionPut {
        id: ActionId,
        action_ref: ActionRef,
        limits: Limits,
        paused: bool,
    },
    /// An action without live executions was deleted.
    ActionDeleted {
        id: ActionId,
    },
    /// A request was accepted by the broker and is no duplicate.
    Requested {
        token: RequestToken,
        action: ActionId,
        key: Option<Arc<str>>,
        /// Of its parameters.
        bytes: usize,
    },
    CancelRequested {
        id: ExecutionId,
        reason: Option<String>,
    },
    /// A worker reports what it is, what it holds, and what it has seen.
    Heartbeat(Heartbeat),
    /// An attempt really began.
    Started {
        key: AttemptKey,
        fence: Fence,
        started_at: Timestamp,
    },
    /// An attempt is over, as its worker reports. `incarnation` has sent the report and receives `recorded`; where a
    /// worker reports what an earlier incarnation has left, it is not the incarnation that ran the attempt.
    Completed {
        key: AttemptKey,
        fence: Fence,
        incarnation: Incarnation,
        outcome: Outcome,
    },
    /// An attempt was handed back; its number is used up. `started`: it had begun, and counts as lost without charge.
    Returned {
        key: AttemptKey,
        fence: Fence,
        incarnation: Incarnation,
        started: bool,
        reason: String,
    },
    /// An incarnation is over and nothing of it runs; it has reported all its outcomes before this.
    IncarnationEnded {
        incarnation: Incarnation,
        reason: EndReason,
    },
    /// An order could not be routed to the incarnation's queue.
    OrderReturned {
        incarnation: Incarnation,
    },
    /// A probe of this session came back out of a queue.
    Probed {
        queue: ProbedQueue,
        published_at: Timestamp,
    },
    /// A session with the broker began: every silence counts from now, and workers are greeted.
    SessionOpened,
    /// A deadline may have passed.
    Ticked,
}

/// How an attempt ended, and with what.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub kind: OutcomeKind,
    pub result: Option<Json>,
    pub error: Option<Failure>,
    pub started_at: Option<Timestamp>,
    pub ended_at: Timestamp,
    /// How long its worker had an attempt that was sent ahead, by that worker's clock; `None` for any other.
    pub held: Option<Duration>,
}

/// The two queues whose emptiness a loss is proven with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProbedQueue {
    Completions,
    Heartbeats,
}
