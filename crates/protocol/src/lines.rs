//! Lines as people look at them: rows of a table, the order of one line, and what holds its slots.

use serde::{Deserialize, Serialize};

use crate::{ActionRef, Epoch, ExecutionId, LimitOverride, Status, Timestamp, WorkerName};

/// How the line of an action stands, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LineState {
    /// Nothing waits, nothing runs.
    Idle,
    /// Some run, and none waits.
    Running,
    /// Some wait, for slots or for room on a worker.
    Waiting,
    Paused,
    /// Some wait although slots are free, and no live worker serves the action.
    Stuck,
}

impl LineState {
    pub const ALL: [Self; 5] = [Self::Idle, Self::Running, Self::Waiting, Self::Paused, Self::Stuck];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::Paused => "paused",
            Self::Stuck => "stuck",
        }
    }
}

/// How the line of one action stands: a row of `GET /api/v1/lines`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LineRow {
    pub action_ref: ActionRef,
    pub state: LineState,
    /// Executions in line, those that back off included.
    pub waiting: u64,
    /// Of these, those that back off.
    pub backing_off: u64,
    /// Slots in use.
    pub running: u64,
    /// The limit in force; null where there is none.
    pub limit: Option<u32>,
    pub declared_limit: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_override: Option<LimitOverride>,
    pub key_limit: Option<u32>,
    /// Keys that have a line now; 0 where keys do not matter.
    pub keys: u64,
    pub oldest_enqueued_at: Option<Timestamp>,
    pub total_enqueued: u64,
    pub total_completed: u64,
    /// Since the leader leads.
    pub started: u64,
    /// Executions that failed or timed out since the leader leads.
    pub failed: u64,
    /// The mean of the newest runs, once there are five.
    pub run_mean_seconds: Option<f64>,
    /// What changed over the last minutes; null until it was looked at for long enough.
    #[serde(default)]
    pub rates: Option<Rates>,
    /// How many waited, every ten seconds while lines were looked at; the newest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<u64>,
}

/// What has changed in a line over the last minutes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    pub over_seconds: f64,
    pub enqueued_per_minute: f64,
    pub started_per_minute: f64,
    pub completed_per_minute: f64,
    pub failed_per_minute: f64,
    /// When the line is empty if it goes on like this; null if nothing waits, or if it grows.
    pub drain_seconds: Option<f64>,
    pub is_growing: bool,
}

/// All lines at once.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Totals {
    /// When the leader saw this.
    pub at: Option<Timestamp>,
    pub epoch: Option<Epoch>,
    pub lines: u64,
    pub waiting: u64,
    pub running: u64,
    /// The sum of the limits; null if an action has none.
    pub slots: Option<u64>,
    pub oldest_enqueued_at: Option<Timestamp>,
    pub paused: u64,
    pub stuck: u64,
    pub workers: WorkerCounts,
    #[serde(default)]
    pub rates: Option<Rates>,
}

/// How many workers there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerCounts {
    pub ready: u32,
    pub silent: u32,
    pub draining: u32,
    /// Attempts that they run at once, all together.
    pub capacity: u64,
}

/// An execution in its line: an item of `GET /api/v1/lines/{action_ref}/waiting`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InLine {
    pub position: u64,
    pub execution_id: ExecutionId,
    pub concurrency_key: Option<String>,
    /// Attempts that were made already.
    pub attempt: u32,
    pub enqueued_at: Timestamp,
    /// Since when it stands in this line.
    pub queued_at: Timestamp,
    /// It was sent to a worker already, to start after the one before it.
    pub is_sent_ahead: bool,
    /// When it starts, nine times of ten: between these two. Null without an estimate.
    pub eta_low: Option<Timestamp>,
    pub eta_high: Option<Timestamp>,
}

/// An execution that holds a slot: an item of `GET /api/v1/lines/{action_ref}/holders`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    pub execution_id: ExecutionId,
    pub concurrency_key: Option<String>,
    pub status: Status,
    pub attempt: u32,
    /// Null while it keeps its slot between two attempts.
    pub worker: Option<WorkerName>,
    pub scheduled_at: Option<Timestamp>,
    pub start_time: Option<Timestamp>,
    /// Its worker is silent: it may be lost.
    pub is_uncertain: bool,
}

/// A page of a line, as the leader sends it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinePage<T> {
    pub data: Vec<T>,
    /// Where the next page begins; `None` on the last.
    pub next_cursor: Option<String>,
}

/// What a leader sends to those that look at its lines: changes since the update before, or everything.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ViewPart {
    pub epoch: Epoch,
    /// The number of this round of looking; all parts of one have the same.
    pub round: u64,
    /// The first part of a round that repeats every row.
    pub is_fresh: bool,
    /// The last part of its round.
    pub is_last: bool,
    pub at: Timestamp,
    pub rows: Vec<LineRow>,
    /// Actions that were deleted.
    pub gone: Vec<ActionRef>,
    pub workers: WorkerCounts,
}
