//! Request and response bodies of the HTTP API.
//!
//! Every answer is `{"data": ...}`, a page adds `next_cursor`; every refusal is `{"error": {"code", "message", ...}}`.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::message::{Failure, Served};
use crate::record::{Event, Latest, Newest};
use crate::{
    ActionId, ActionRef, Detail, ExecutionId, Fence, Incarnation, LimitOverride, OutcomeKind, Policy, Status,
    Timestamp, WorkerName,
};

pub use crate::refusal::Refusal;

/// One answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Answer<T> {
    pub data: T,
}

/// One page of a list, newest first; `next_cursor` is absent on the last page.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Page<T> {
    pub data: Vec<T>,
    #[serde(default)]
    pub next_cursor: Option<String>,
}

/// One refusal.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Refused {
    pub error: Refusal,
}

/// One action, and what its live workers can do: `GET /api/v1/actions/{ref}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ActionDetail {
    #[serde(flatten)]
    pub action: Action,
    /// What every live worker that serves it can do: `report-progress` if that is declared, `cancel`, `logs`; empty if
    /// none serves it.
    #[serde(default)]
    pub capabilities: Vec<String>,
}

/// An action and its policy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Action {
    pub action_id: ActionId,
    pub action_ref: ActionRef,
    pub paused: bool,
    /// As declared; see [`Action::limit`] for the limit in force.
    pub policy: Policy,
    /// The temporary limit in place of the policy's, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_override: Option<LimitOverride>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

impl Action {
    /// The limit in force: the declared one, or that of an override.
    pub fn limit(&self) -> Option<u32> {
        self.limit_override.as_ref().map_or(self.policy.limit, |temporary| temporary.limit)
    }
}

/// The state of an action's line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QueueStats {
    pub action_id: ActionId,
    pub action_ref: ActionRef,
    /// Executions in line, those waiting for a retry included.
    pub queue_length: u64,
    /// Slots in use.
    pub active_count: u64,
    /// Executions in line that wait at the worker of the one before them, to start there without a round trip.
    #[serde(default)]
    pub ahead_count: u64,
    /// The limit in force; null where there is none.
    pub max_concurrent: Option<u32>,
    /// The limit of the policy, also during an override; null where there is none.
    #[serde(default)]
    pub declared_limit: Option<u32>,
    /// The temporary limit in place of the policy's, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_override: Option<LimitOverride>,
    /// The limit of each concurrency key, and of the executions without one; null where there is none.
    #[serde(default)]
    pub key_limit: Option<u32>,
    pub oldest_enqueued_at: Option<Timestamp>,
    pub total_enqueued: u64,
    /// Executions that reached any terminal status.
    pub total_completed: u64,
    pub last_updated: Timestamp,
    pub paused: bool,
    /// From the line to the first start, over the newest executions; null before any started.
    pub wait_seconds: Option<Percentiles>,
    /// From start to end, over the newest executions.
    pub run_seconds: Option<Percentiles>,
    /// The lines of the concurrency keys, where the action has a `key_limit`; the longest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<KeyStats>,
}

/// The state of one concurrency key's line, or that of the executions without a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyStats {
    /// `None`: of the executions without a key.
    pub key: Option<String>,
    pub queue_length: u64,
    pub active_count: u64,
    #[serde(default)]
    pub ahead_count: u64,
}

/// Percentiles in seconds over the newest `count` executions.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Percentiles {
    pub count: u64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
}

/// Body of `POST /api/v1/executions`; the same members as `execution.requested`.
pub type Submit = crate::message::Requested;

/// Answer to a submission: 201 once accepted, 202 while no leader has answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Submitted {
    pub message_id: String,
    /// Absent on 202.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub execution_id: Option<ExecutionId>,
    pub status: Status,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<u64>,
}

/// Body of `POST /api/v1/executions/{id}/cancel`; may be empty.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CancelBody {
    pub reason: Option<String>,
}

/// One execution, whole.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Execution {
    pub execution_id: ExecutionId,
    pub action_id: ActionId,
    pub action_ref: ActionRef,
    pub status: Status,
    /// The current or last attempt, as people count them: 1-based; 0 before the first. One that was handed back or lost
    /// before it began does not count.
    pub attempt: u32,
    /// The number of its newest grant, which is higher if some grants did not become attempts; 0 before the first.
    #[serde(default)]
    pub grant: u32,
    pub concurrency_key: Option<String>,
    pub parameters: Arc<RawValue>,
    /// The longest run of one attempt: of the newest one, and of the next one while it waits.
    pub timeout_seconds: Option<f64>,
    /// What set that time-out.
    #[serde(default)]
    pub timeout_from: TimeoutFrom,
    pub progress_detail: Detail,
    pub message_id: Option<String>,
    pub correlation_id: Option<String>,
    pub trace_id: Option<String>,
    pub source: Option<String>,
    pub enqueued_at: Timestamp,
    pub scheduled_at: Option<Timestamp>,
    /// Start of the last attempt, as its worker stamped it.
    pub start_time: Option<Timestamp>,
    pub end_time: Option<Timestamp>,
    pub worker: Option<WorkerName>,
    pub fence: Option<Fence>,
    pub result: Option<Arc<RawValue>>,
    pub error: Option<Failure>,
    /// 1-based place in the line, while it waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<u64>,
    /// Why it is not running, while it waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<Waiting>,
    /// How far it has come; null where nothing was reported. Left out of lists, as is `progress_events`.
    #[serde(default)]
    pub progress: Option<Latest>,
    /// The newest message of each level: `{"Info": "...", "Error": "..."}`.
    #[serde(default)]
    pub progress_events: Newest,
    /// Attempts that ended without settling it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub earlier_attempts: Vec<Attempt>,
    /// It has ended, and its last events are still on their way: the progress shown may not be final.
    #[serde(skip)]
    pub awaits_events: bool,
}

/// What set a time-out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimeoutFrom {
    /// The request names it.
    Request,
    /// The action's policy, as it was when the attempt was granted.
    Action,
    /// Neither: there is none.
    #[default]
    Default,
}

/// A page of an execution's events, oldest first: `GET /api/v1/executions/{id}/events`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Events {
    pub data: Vec<Event>,
    /// The number after which to ask for more.
    pub next_after: u64,
    /// The last event of the execution is among these, or was before them: nothing follows.
    pub is_over: bool,
}

/// An attempt that did not settle its execution.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Attempt {
    /// As people count them: one that did not begin has the number of the next.
    pub attempt: u32,
    #[serde(default)]
    pub grant: u32,
    pub fence: Fence,
    pub worker: Option<WorkerName>,
    pub outcome: OutcomeKind,
    pub error: Option<Failure>,
    /// The result that it left although it failed, up to 64 KiB; not in lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Arc<RawValue>>,
    pub start_time: Option<Timestamp>,
    pub end_time: Timestamp,
}

/// Why an execution waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    pub reason: WaitReason,
    /// One sentence for people.
    pub message: String,
    /// Executions that hold the slots it waits for; at most 100 are listed.
    pub held_by: Vec<ExecutionId>,
    pub position: u64,
    /// Earliest next try, while it backs off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// When it starts, nine times of ten: between these two. Absent without an estimate, and in lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eta_low: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eta_high: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WaitReason {
    /// Every slot of the action is taken.
    Limit,
    /// Every slot of its concurrency key is taken.
    KeyLimit,
    /// No live worker serves the action.
    NoWorker,
    /// Workers serve the action, but none has room.
    Capacity,
    Paused,
    /// It failed and waits for its next try.
    Backoff,
}

/// A worker as the leader sees it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Worker {
    pub worker: WorkerName,
    pub incarnation: Incarnation,
    pub capacity: u32,
    /// Leases it holds.
    pub active_count: u32,
    pub holding: Vec<ExecutionId>,
    pub draining: bool,
    /// Two heartbeats in a row are missing. It is lost once its lease is over; until then it may come back.
    #[serde(default)]
    pub silent: bool,
    pub actions: Vec<Served>,
    pub labels: std::collections::BTreeMap<String, String>,
    pub last_heartbeat_at: Timestamp,
    /// How far its clock is ahead of the leader's, or behind if negative; only beyond a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_ahead_seconds: Option<f64>,
}

impl Worker {
    pub fn state(&self) -> WorkerState {
        WorkerState::of(self.silent, self.draining)
    }
}

/// How a worker stands, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerState {
    Ready,
    Silent,
    Draining,
}

impl WorkerState {
    pub const ALL: [Self; 3] = [Self::Ready, Self::Silent, Self::Draining];

    /// A worker that is silent may be gone, so that is what counts of one that drains as well.
    pub fn of(is_silent: bool, is_draining: bool) -> Self {
        match (is_silent, is_draining) {
            (true, _) => Self::Silent,
            (false, true) => Self::Draining,
            (false, false) => Self::Ready,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Silent => "silent",
            Self::Draining => "draining",
        }
    }
}

/// A message that was put aside.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DeadLetter {
    /// Names it for `show`, `replay` and `drop`.
    pub id: String,
    pub reason: String,
    pub detail: String,
    pub message_id: Option<String>,
    pub routing_key: String,
    pub dead_at: Option<Timestamp>,
    pub body_bytes: u64,
    /// As its publisher set it, unless it is JSON's. This and the members below are only in `show`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_encoding: Option<String>,
    /// The body as text, invalid UTF-8 replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
}

/// Whether this executor can take work: `GET /readyz`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Health {
    pub role: Role,
    pub database: Part,
    pub broker: Part,
    /// Problems found at start-up, and those there are now, for people.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    Leader,
    Standby,
}

/// One thing an executor depends on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    pub ok: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}
