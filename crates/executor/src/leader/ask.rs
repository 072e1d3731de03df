//! Questions that only the leader can answer, from its own HTTP server or from another executor's.
//!
//! A follower sends them through the broker to `executor.call`; the answer comes back to its reply queue.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use slotline_api::Condition;
use slotline_api::board::Round;
use slotline_api::control::{ControlError, LineQuery};
use slotline_broker::Properties;
use slotline_protocol::change::{Applied, Declared};
use slotline_protocol::http::{Action, QueueStats, Waiting, Worker};
use slotline_protocol::lines::{Holder, InLine, LinePage};
use slotline_protocol::{ActionRef, By, ExecutionId, Policy, Status, duration};

/// Routing key of a question to the leader.
pub(crate) const CALL: &str = "executor.call";
/// The `type` of a message that brings events to a follower.
pub(crate) const NEWS: &str = "executor.news";
/// The `type` of a message that brings a part of a view of the lines.
pub(crate) const VIEW: &str = "executor.view";

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum Ask {
    PutAction {
        action_ref: ActionRef,
        policy: Box<Policy>,
        #[serde(default)]
        condition: Condition,
        #[serde(default)]
        by: By,
    },
    PatchAction {
        action_ref: ActionRef,
        patch: serde_json::Value,
        #[serde(default)]
        condition: Condition,
        #[serde(default)]
        by: By,
    },
    Apply {
        actions: Vec<Declared>,
        dry_run: bool,
        #[serde(default)]
        by: By,
    },
    DeleteAction {
        action_ref: ActionRef,
        #[serde(default)]
        by: By,
    },
    Pause {
        action_ref: ActionRef,
        paused: bool,
        #[serde(default)]
        by: By,
    },
    OverrideLimit {
        action_ref: ActionRef,
        limit: Option<u32>,
        #[serde(with = "duration")]
        duration: Duration,
        #[serde(default)]
        by: By,
    },
    ClearOverride {
        action_ref: ActionRef,
        #[serde(default)]
        by: By,
    },
    Cancel {
        id: ExecutionId,
        #[serde(default)]
        by: By,
    },
    /// Of one action, or of as many as `limit` behind `after`, by name.
    QueueStats {
        action_ref: Option<ActionRef>,
        #[serde(default)]
        after: Option<ActionRef>,
        #[serde(default)]
        limit: Option<usize>,
    },
    Waiting(LineQuery),
    Holders(LineQuery),
    Explain {
        ids: Vec<ExecutionId>,
    },
    Workers,
    /// Another executor's clients watch these executions, or all of them.
    Follow {
        all: bool,
        ids: Vec<ExecutionId>,
        /// Its clients look at lines; with the round of looking that they have.
        #[serde(default)]
        view: Option<Round>,
    },
}

impl Ask {
    /// Whether it may be asked twice.
    pub(crate) fn only_reads(&self) -> bool {
        matches!(
            self,
            Self::QueueStats { .. } | Self::Waiting(_) | Self::Holders(_) | Self::Explain { .. } | Self::Workers
        )
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "answer", content = "data", rename_all = "snake_case")]
pub enum LeaderAnswer {
    Action {
        action: Box<Action>,
        created: bool,
    },
    Applied(Vec<Applied>),
    Deleted,
    /// `None`: the execution is not live; the journal has its end, if it ever existed.
    Cancelled(Option<Status>),
    QueueStats(Vec<QueueStats>),
    Waiting(LinePage<InLine>),
    Holders(LinePage<Holder>),
    Explained(Vec<(ExecutionId, Waiting)>),
    Workers(Vec<Worker>),
    /// `is_new`: events before this answer may have been missed.
    Following {
        is_new: bool,
    },
}

pub type Answered = Result<LeaderAnswer, ControlError>;

/// A question and where its answer goes.
#[derive(Clone, Debug)]
pub struct Question {
    pub ask: Ask,
    pub asker: Asker,
}

#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "few questions wait at a time")]
pub enum Asker {
    /// A call of this process, by its number.
    Here(u64),
    /// Another executor: the properties of its question name its reply queue.
    Elsewhere(Properties),
}
