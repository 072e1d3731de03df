//! What subscribers of the public exchange receive: one envelope a body, from the leader, once its journal has it.
//!
//! Every payload bears the `number` that the execution's record gave the event, so that a subscriber can put the events
//! of an execution in order, see that none is missing, and recognise a repeated one. An execution ends once, and only
//! that is [`Completed`]; the end of an attempt is an [`Event`] of kind `finished`, whatever follows it.
//!
//! Not here: what workers report to executors under the same names (`message`).

use serde::{Deserialize, Serialize};

use crate::message::{self, Failure, Json, Message};
use crate::record::Event;
use crate::{ActionId, ActionRef, ExecutionId, Fence, Incarnation, Status, Timestamp, WorkerName};

/// An execution moved from one status to the next. The first moves from `requested`, and each other from the status that
/// the one before it led to.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct StatusChanged {
    pub execution_id: ExecutionId,
    pub action_ref: ActionRef,
    /// The attempt it belongs to; 0 before the first.
    pub attempt: u32,
    pub number: u64,
    /// The worker that holds the attempt, if any does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<WorkerName>,
    pub previous_status: Status,
    pub new_status: Status,
    pub changed_at: Timestamp,
}

/// An execution reached its terminal status, once and for ever.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Completed {
    pub execution_id: ExecutionId,
    pub action_id: ActionId,
    pub action_ref: ActionRef,
    /// The last attempt; 0 if there was none.
    pub attempt: u32,
    /// The number of the [`StatusChanged`] to the same status.
    pub number: u64,
    /// The fence of the attempt that was out when the execution ended, if any; `worker` and `incarnation` are of it,
    /// too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fence: Option<Fence>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<WorkerName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incarnation: Option<Incarnation>,
    pub status: Status,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Json>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    pub completed_at: Timestamp,
}

impl Message for StatusChanged {
    const TYPE: &'static str = message::StatusChanged::TYPE;
}

impl Message for Completed {
    const TYPE: &'static str = message::Completed::TYPE;
}

/// Kinds `started`, `progress`, `log`, `gap` and `finished`; the other two travel as the messages above.
impl Message for Event {
    const TYPE: &'static str = message::Progress::TYPE;
}
