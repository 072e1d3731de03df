//! From the leader to workers: orders, and its greeting.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::parts::{AttemptKey, Json, Lineage};
use crate::{ActionId, ActionRef, Detail, Epoch, ExecutionId, Fence, Timestamp};

/// Grants one attempt a slot on this worker.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Scheduled {
    pub epoch: Epoch,
    pub n: u64,
    pub execution_id: ExecutionId,
    pub attempt: u32,
    /// The attempt as people count them, where that is not the number of its grant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counts_as: Option<u32>,
    pub fence: Fence,
    pub action_id: ActionId,
    pub action_ref: ActionRef,
    pub parameters: Json,
    #[serde(default, with = "crate::duration::seconds")]
    pub timeout_seconds: Option<Duration>,
    #[serde(default, with = "crate::duration::seconds", skip_serializing_if = "Option::is_none")]
    pub start_timeout_seconds: Option<Duration>,
    #[serde(default, with = "crate::duration::seconds", skip_serializing_if = "Option::is_none")]
    pub stall_timeout_seconds: Option<Duration>,
    #[serde(default)]
    pub progress: Detail,
    /// This attempt starts once that one has `completed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starts_after: Option<AttemptKey>,
    pub scheduled_at: Timestamp,
    /// The concurrency key of the line that it holds a slot of, and the `message_id` of its request: the worker reports
    /// both to a leader that does not find the attempt in its journal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency_key: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
    /// Continue past the fence: the action gave up promise 1 for itself.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub continue_when_isolated: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
}

/// Orders an attempt to end.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Cancel {
    pub epoch: Epoch,
    pub n: u64,
    pub execution_id: ExecutionId,
    pub attempt: u32,
    pub fence: Fence,
    /// Only if its process or handler has not started yet.
    #[serde(default)]
    pub if_not_started: bool,
    /// Time between the request to end and the kill; `None` is the action's own on the worker.
    #[serde(default, with = "crate::duration::seconds")]
    pub grace_seconds: Option<Duration>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Takes back an attempt that has not started; answered by [`Returned`](super::Returned) or by its start.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Recall {
    pub epoch: Epoch,
    pub n: u64,
    pub execution_id: ExecutionId,
    pub attempt: u32,
    pub fence: Fence,
    pub reason: String,
}

/// The journal has these outcomes; the worker may forget the attempts.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Recorded {
    pub epoch: Epoch,
    pub n: u64,
    pub attempts: Vec<AttemptKey>,
}

/// Some events of an attempt did not arrive; the worker sends again those it still has, under their numbers, and one
/// [`Event::Gap`](super::Event::Gap) for the others.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Resend {
    pub epoch: Epoch,
    pub n: u64,
    pub execution_id: ExecutionId,
    pub action_ref: ActionRef,
    pub attempt: u32,
    /// The first number that is missing.
    pub first_sequence: u64,
    /// The last one; `None`: all that follow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_sequence: Option<u64>,
}

/// A leader introduces itself; every worker answers with a heartbeat and repeats what is unrecorded.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Hello {
    pub epoch: Epoch,
    pub n: u64,
    #[serde(with = "crate::duration::seconds")]
    pub lease_seconds: Option<Duration>,
    #[serde(with = "crate::duration::seconds")]
    pub fence_seconds: Option<Duration>,
    #[serde(with = "crate::duration::seconds")]
    pub heartbeat_seconds: Option<Duration>,
    /// Addressed to one incarnation: it is over for ever; the process must go on as a new one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lost: bool,
    /// The leader's journal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub journal: Option<Lineage>,
    /// That journal may be older than the attempts of its workers: each heartbeat is to bring an [`Account`](super::Account) of them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub account: bool,
    /// Addressed to one incarnation: why its worker is refused. The worker takes nothing more, ends what it runs as in
    /// a drain, and exits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}
