//! From workers to the leader: what happens to attempts.

use serde::{Deserialize, Serialize};

use super::parts::{AttemptKey, Failure, Json};
use crate::{ActionId, ActionRef, ExecutionId, Fence, Incarnation, OutcomeKind, Status, Timestamp, WorkerName};

/// How an attempt ended. Repeated until [`Recorded`](super::Recorded).
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
    /// How long the worker has had an attempt that was sent ahead of its slot, in microseconds by its own clock: from the
    /// order to this report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_micros: Option<u64>,
}

/// Hands an attempt back. Repeated until [`Recorded`](super::Recorded).
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
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Level {
    #[default]
    Info,
    Error,
}

/// Where lines of a log come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    Stdout,
    Stderr,
    /// The worker's own remarks about the attempt, such as on a report that made no sense.
    Notice,
}
