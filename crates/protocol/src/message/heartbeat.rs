//! From workers to the leader: what a worker holds, and its end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::parts::{AttemptKey, Json, Lineage};
use super::report::{Completed, Returned};
use crate::{ActionRef, Detail, Epoch, ExecutionId, Fence, Incarnation, Timestamp, WorkerName};

/// Everything a worker holds, sent every few seconds. It shows what was lost on the way.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Heartbeat {
    pub worker: WorkerName,
    pub incarnation: Incarnation,
    pub capacity: u32,
    /// Attempts started or waiting to start.
    pub holding: Vec<(ExecutionId, u32, Holding)>,
    /// Attempts that ended, not yet [`Recorded`](super::Recorded).
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
    /// `None`: it has ended, and is not yet [`Recorded`](super::Recorded).
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
    /// The outcomes not yet [`Recorded`](super::Recorded); every other lease of the incarnation is lost.
    pub outcomes: Vec<Completed>,
    /// Attempts handed back, not yet [`Recorded`](super::Recorded).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub returned: Vec<Returned>,
    /// The incarnation that sends this, which may be a later one of the process, or another process's: [`Recorded`](super::Recorded) is
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
