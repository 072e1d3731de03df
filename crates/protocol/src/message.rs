//! Every message on the broker: one struct per `message_type`, named as it is.
//!
//! A message from the executor to a worker carries a rising `(epoch, n)`; the worker drops one that is not above the
//! highest it has seen. A worker's message about an attempt carries its fence; a stale fence changes nothing. Unknown
//! members are ignored, so that shapes can grow, but not in a publisher's requests (`declared`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::declared::declared;
use crate::{
    ActionId, ActionRef, Detail, Epoch, ExecutionId, Fence, Incarnation, OutcomeKind, Status, Timestamp, WorkerName,
};

/// A payload with the `message_type` it travels under.
pub trait Message: Serialize + for<'de> Deserialize<'de> {
    const TYPE: &'static str;
}

macro_rules! messages {
    ($($name:ident = $type:literal),* $(,)?) => {
        $(impl Message for $name { const TYPE: &'static str = $type; })*

        /// Every `message_type` there is.
        pub const TYPES: &[&str] = &[$($type),*];
    };
}

messages! {
    Requested = "execution.requested",
    CancelRequested = "execution.cancel_requested",
    Accepted = "execution.accepted",
    Rejected = "execution.rejected",
    Settled = "execution.settled",
    Scheduled = "execution.scheduled",
    Cancel = "execution.cancel",
    Recall = "execution.recall",
    Recorded = "execution.recorded",
    Resend = "execution.resend",
    Hello = "executor.hello",
    Completed = "execution.completed",
    Returned = "execution.returned",
    StatusChanged = "execution.status_changed",
    Progress = "execution.progress",
    Heartbeat = "worker.heartbeat",
    Ended = "worker.ended",
    Probe = "probe",
}

/// A JSON value as it was written, never re-encoded.
pub type Json = Arc<RawValue>;

/// `(execution, number of the grant)`: the key of a worker's table. Messages that only executors and workers read call
/// that number `attempt`.
pub type AttemptKey = (ExecutionId, u32);

/// The member `grant` of a message: the number of the grant, if it differs from that of its attempt as people count
/// them.
pub fn grant(number: u32, counts_as: u32) -> Option<u32> {
    (number != counts_as).then_some(number)
}

// ---- publisher -> executor ----

/// Asks for one execution of an action.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct Requested {
    pub action_ref: ActionRef,
    /// Any JSON object; kept as the publisher wrote it.
    #[serde(default = "empty_object")]
    pub parameters: Json,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency_key: Option<String>,
    /// Overrides the action's `timeout`.
    #[serde(default, with = "crate::duration::seconds", skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<Duration>,
    #[serde(default)]
    pub progress: Detail,
    /// Which answer the request's `reply_to` receives.
    #[serde(default)]
    pub reply: Reply,
}

/// When the publisher is answered, if it named a `reply_to`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// [`Accepted`] or [`Rejected`], once the journal has decided.
    #[default]
    Accepted,
    /// [`Settled`] (or [`Rejected`]) only.
    Settled,
}

fn empty_object() -> Json {
    RawValue::from_string("{}".to_owned()).expect("valid JSON").into()
}

/// Asks to end an execution, named by the `message_id` of its request, which must be the publisher's own. A number is
/// easily guessed: cancelling by number needs the HTTP API.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct CancelRequested {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub execution_id: Option<ExecutionId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

declared!(Requested, CancelRequested);

// ---- executor -> publisher ----

/// The journal has the request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Accepted {
    pub message_id: String,
    pub execution_id: ExecutionId,
    /// 1-based place in the line at that moment.
    pub position: u64,
}

/// The request can't be taken; nothing of it remains.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Rejected {
    pub message_id: Option<String>,
    pub error: Failure,
}

/// The execution reached its terminal status.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Settled {
    pub message_id: Option<String>,
    pub execution_id: ExecutionId,
    pub action_ref: ActionRef,
    pub status: Status,
    pub attempt: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Json>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
    pub settled_at: Timestamp,
}

/// Why something did not succeed. `code` is one of DESIGN's error codes or a handler's own.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Failure {
    pub code: String,
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stack_trace: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<serde_json::Value>,
    /// The phase that the attempt was in, if it named one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Box<str>>,
}

impl Failure {
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        Self { code: code.to_owned(), message: message.into(), stack_trace: None, details: None, phase: None }
    }
}

// ---- executor -> worker ----

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

/// Takes back an attempt that has not started; answered by [`Returned`] or by its start.
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
/// [`Event::Gap`] for the others.
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
    /// That journal may be older than the attempts of its workers: each heartbeat is to bring an [`Account`] of them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub account: bool,
    /// Addressed to one incarnation: why its worker is refused. The worker takes nothing more, ends what it runs as in
    /// a drain, and exits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// A journal, and how often leaders went on with it after it had gone back in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Lineage {
    pub identity: Uuid,
    pub generation: u64,
}

// ---- worker -> executor ----

/// How an attempt ended. Repeated until [`Recorded`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Completed {
    pub execution_id: ExecutionId,
    pub action_id: ActionId,
    pub action_ref: ActionRef,
    /// As people count attempts: one that was handed back or lost before it began does not count.
    #[serde(rename = "attempt")]
    pub counts_as: u32,
    /// The number of the grant, where it is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<u32>,
    pub fence: Fence,
    pub worker: WorkerName,
    pub incarnation: Incarnation,
    /// The number of the attempt's last event.
    pub last_sequence: u64,
    /// Never `lost`: only the executor concludes that.
    pub status: OutcomeKind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Json>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
    /// When the process or handler really started; `None` if it never did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    pub completed_at: Timestamp,
    /// Exit status of the command; `None` for a handler, or where a signal ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub return_code: Option<i32>,
}

/// Hands an attempt back. Repeated until [`Recorded`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Returned {
    pub execution_id: ExecutionId,
    pub attempt: u32,
    pub fence: Fence,
    pub worker: WorkerName,
    pub incarnation: Incarnation,
    /// For people: `drain`, `recall`, `unknown_action`, `predecessor`.
    pub reason: String,
    /// It had started and was ended. Otherwise it never began, and never will. Either way its number is used up.
    #[serde(default)]
    pub started: bool,
    /// The number of the attempt's last event; 0 if it had none.
    #[serde(default)]
    pub last_sequence: u64,
}

/// An execution moved from one status to the next.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StatusChanged {
    pub execution_id: ExecutionId,
    pub action_ref: ActionRef,
    /// As people count attempts: one that was handed back or lost before it began does not count.
    #[serde(rename = "attempt")]
    pub counts_as: u32,
    /// The number of the grant, where it is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<u32>,
    /// Number within the attempt, from 1. Absent on the executor's own announcements, which the worker did not number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<u64>,
    /// The worker that holds the attempt, if any does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<WorkerName>,
    /// On a worker's report: the fence of the attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fence: Option<Fence>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incarnation: Option<Incarnation>,
    pub previous_status: Status,
    pub new_status: Status,
    pub changed_at: Timestamp,
}

/// One event of an attempt, numbered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    pub execution_id: ExecutionId,
    pub action_ref: ActionRef,
    /// As people count attempts: one that was handed back or lost before it began does not count.
    #[serde(rename = "attempt")]
    pub counts_as: u32,
    /// The number of the grant, where it is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<u32>,
    pub sequence: u64,
    pub timestamp: Timestamp,
    #[serde(flatten)]
    pub event: Event,
}

macro_rules! keyed {
    ($($message:ty),*) => {$(
        impl $message {
            pub fn key(&self) -> AttemptKey {
                (self.execution_id, self.grant.unwrap_or(self.counts_as))
            }
        }
    )*};
}

keyed!(Completed, StatusChanged, Progress);

/// What happened, by `kind`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Event {
    Started {},
    Progress(Report),
    Log {
        stream: Stream,
        lines: Vec<String>,
    },
    Finished {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        return_code: Option<i32>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        message: Option<String>,
    },
    /// Something is left out: `count` reports, or with [`GapReason::Lost`] the events with this number and the
    /// `count - 1` that follow it.
    Gap {
        count: u64,
        reason: GapReason,
    },
}

/// Why something is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GapReason {
    /// More was reported in a second than is sent; the newest report stands for the others.
    Merged,
    /// The events can't be had any more.
    Lost,
    /// The record keeps only the newest.
    Pruned,
    /// The journal's database refuses what the events hold.
    Refused,
}

/// How far an attempt has come.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// `[done, total]` steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<(u64, u64)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// `[done, total]` units; the total may be unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<(u64, Option<u64>)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// 0 to 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percent: Option<f64>,
    pub level: Level,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<serde_json::Value>,
    /// The task within the run that the report is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<Box<Task>>,
    /// Other tasks, of reports that this one stands for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tasks: Vec<Task>,
}

/// A report's part on a task within the run: a step with a name, an end and an error of its own.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Task {
    /// Unique within the attempt.
    pub name: String,
    /// The name of the task that it is a part of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<TaskStatus>,
    /// `[done, total]` steps of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<(u64, u64)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskStatus {
    Started,
    Completed,
    Failed,
    Skipped,
}

impl TaskStatus {
    pub const ALL: [Self; 4] = [Self::Started, Self::Completed, Self::Failed, Self::Skipped];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }

    pub fn has_ended(self) -> bool {
        self != Self::Started
    }
}

impl Task {
    /// Merges a newer report of the task; members that it leaves out stay.
    pub fn take(&mut self, newer: Self) {
        let Self { name: _, parent, status, step, error } = newer;
        self.parent = parent.or(self.parent.take());
        self.step = step.or(self.step);
        if status.is_some() {
            // It may have been started anew.
            (self.status, self.error) = (status, None);
        }
        self.error = error.or(self.error.take());
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    #[default]
    Info,
    Error,
}

/// Where lines of a log come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    Stdout,
    Stderr,
    /// The worker's own remarks about the attempt, such as on a report that made no sense.
    Notice,
}

/// Everything a worker holds, sent every few seconds. It shows what was lost on the way.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Heartbeat {
    pub worker: WorkerName,
    pub incarnation: Incarnation,
    pub capacity: u32,
    /// Attempts started or waiting to start.
    pub holding: Vec<(ExecutionId, u32, Holding)>,
    /// Attempts that ended, not yet [`Recorded`].
    pub unrecorded: Vec<AttemptKey>,
    /// The highest `(epoch, n)` received.
    pub seen: (Epoch, u64),
    pub actions: Vec<Served>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    #[serde(default)]
    pub draining: bool,
    pub sent_at: Timestamp,
    /// The journal of the newest hello.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub journal: Option<Lineage>,
    /// The highest numbers that this process was ever given.
    #[serde(default)]
    pub highest: Highest,
    /// If the newest hello asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<Account>,
    /// Where the worker runs, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<Process>,
}

/// A process, as people find it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Process {
    pub host: String,
    pub pid: u32,
}

/// The highest numbers that a worker was ever given: a journal that has not given them is older than the worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Highest {
    pub execution_id: ExecutionId,
    pub fence: Fence,
}

/// A part of the full list of what an incarnation holds, or has not seen recorded. The parts follow each other.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Account {
    /// 0-based.
    pub part: u32,
    pub parts: u32,
    pub attempts: Vec<Shown>,
}

impl Account {
    /// The most attempts that a worker holds, so that a heartbeat fits its envelope.
    pub const ENTRIES_MAX: usize = 10_000;
    /// The most attempts of one part, and the bytes of their parameters after which it takes no further one: so that
    /// the heartbeat fits its envelope, even if the last of them has parameters of the largest size.
    pub const ATTEMPTS_MAX: usize = 500;
    pub const PARAMETER_BYTES_MAX: usize = 256 << 10;

    pub fn is_last(&self) -> bool {
        self.part + 1 >= self.parts
    }
}

/// One attempt, for a leader that may not have it in its journal: with all that is needed to try it again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Shown {
    pub execution_id: ExecutionId,
    pub attempt: u32,
    /// The attempt as people count them, where that is not the number of its grant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counts_as: Option<u32>,
    pub fence: Fence,
    pub action_ref: ActionRef,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency_key: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_id: Option<Arc<str>>,
    pub parameters: Json,
    #[serde(default, with = "crate::duration::seconds", skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<Duration>,
    #[serde(default)]
    pub progress: Detail,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<Arc<str>>,
    /// `None`: it has ended, and is not yet [`Recorded`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<Holding>,
}

impl Shown {
    pub fn key(&self) -> AttemptKey {
        (self.execution_id, self.attempt)
    }
}

/// What a worker does with an attempt it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Holding {
    /// Waits for its predecessor.
    Pending,
    /// Being started, which may still fail.
    Starting,
    Running,
    Cancelling,
}

/// An action a worker serves.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Served {
    #[serde(rename = "ref")]
    pub action_ref: ActionRef,
    #[serde(default)]
    pub capabilities: Vec<String>,
}

/// An incarnation's last message: nothing of it runs any more.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ended {
    pub worker: WorkerName,
    pub incarnation: Incarnation,
    pub reason: EndReason,
    /// The outcomes not yet [`Recorded`]; every other lease of the incarnation is lost.
    pub outcomes: Vec<Completed>,
    /// Attempts handed back, not yet [`Recorded`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub returned: Vec<Returned>,
    /// The incarnation that sends this, which may be a later one of the process, or another process's: [`Recorded`] is
    /// sent to it. `None`: to the incarnation that ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub told_by: Option<Incarnation>,
    /// Further outcomes follow once these are recorded: until then no other lease of the incarnation is lost.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_more: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    Drain,
    Fence,
    Replaced,
}

/// The executor's message to itself: what is delivered after it was published after it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Probe {
    pub generation: u64,
    pub nonce: Uuid,
    /// Stamped before it was published.
    pub published_at: Timestamp,
}
