//! What the API needs of the executor it runs in: the one trait between HTTP and the leader.
//!
//! An implementation answers for the leader, in any executor: a follower passes the request on. The journal is not read
//! through it; the API uses the store itself, so that reading works without a leader.

use std::time::Duration;

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use slotline_protocol::change::{Applied, Declared};
use slotline_protocol::http::{Action, Health, QueueStats, Submit, Submitted, Waiting, Worker};
use slotline_protocol::lines::{Holder, InLine, LinePage};
use slotline_protocol::{ActionRef, By, ExecutionId, Policy, Status};

use crate::condition::Condition;

pub use crate::refusal::{ControlError, RefusalKind};

/// One submission over HTTP, checked for shape, not yet for sense.
#[derive(Clone, Debug)]
pub struct Submission {
    /// The `Idempotency-Key`; if there is none, a new one is made.
    pub message_id: Option<String>,
    pub body: Submit,
    pub correlation_id: Option<String>,
    /// 32 hexadecimal digits, from the header `traceparent`.
    pub trace_id: Option<String>,
}

/// A page of a line.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LineQuery {
    pub action_ref: ActionRef,
    /// `None`: the only line of the action, or all of them.
    pub line: Option<LineOf>,
    pub cursor: Option<String>,
    pub limit: usize,
}

/// One of the lines of an action whose keys matter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LineOf {
    /// That of the executions without a key.
    Keyless,
    Key(String),
}

/// The executor, as the API sees it.
pub trait Control: Send + Sync + 'static {
    /// Whether requests are taken at all, as far as this process knows; if not, the reason.
    fn takes_requests(&self) -> Result<(), ControlError> {
        Ok(())
    }

    /// Sends the request through the same queue as every other. With an `execution_id` the journal has it; without one
    /// no leader answered in time, and the request waits on the broker.
    fn submit(&self, submission: Submission) -> BoxFuture<'_, Result<Submitted, ControlError>>;

    /// Requests the end of an execution. Returns its status once the journal has the request; if the execution has
    /// ended, its terminal status, unchanged.
    fn cancel(&self, id: ExecutionId, by: By) -> BoxFuture<'_, Result<Status, ControlError>>;

    /// Creates an action, or replaces its whole policy; `true` if it is new.
    fn put_action(
        &self,
        action_ref: ActionRef,
        policy: Policy,
        condition: Condition,
        by: By,
    ) -> BoxFuture<'_, Result<(Action, bool), ControlError>>;

    /// Changes the members of a policy that a merge patch names.
    fn patch_action(
        &self,
        action_ref: ActionRef,
        patch: Value,
        condition: Condition,
        by: By,
    ) -> BoxFuture<'_, Result<Action, ControlError>>;

    /// Declares all of these policies in one commit, or none, and returns the differences of each. With `dry_run` it
    /// only returns them.
    fn apply(&self, actions: Vec<Declared>, dry_run: bool, by: By)
    -> BoxFuture<'_, Result<Vec<Applied>, ControlError>>;

    /// A conflict while it has executions that have not ended.
    fn delete_action(&self, action_ref: ActionRef, by: By) -> BoxFuture<'_, Result<(), ControlError>>;

    /// Pauses or resumes an action; running executions go on.
    fn pause(&self, action_ref: ActionRef, paused: bool, by: By) -> BoxFuture<'_, Result<Action, ControlError>>;

    /// Overrides the declared limit, from now on for so long.
    fn override_limit(
        &self,
        action_ref: ActionRef,
        limit: Option<u32>,
        duration: Duration,
        by: By,
    ) -> BoxFuture<'_, Result<Action, ControlError>>;

    /// Ends the override of the limit; changes nothing if there is none.
    fn clear_override(&self, action_ref: ActionRef, by: By) -> BoxFuture<'_, Result<Action, ControlError>>;

    /// The state of an action's lines. The percentiles are left `None`: the API takes them from the store.
    fn queue_stats(&self, action_ref: ActionRef) -> BoxFuture<'_, Result<Option<QueueStats>, ControlError>>;

    /// The same of up to `limit` actions behind this name, by name; without keys.
    fn queues(&self, after: Option<ActionRef>, limit: usize) -> BoxFuture<'_, Result<Vec<QueueStats>, ControlError>>;

    /// A page of a line in its order.
    fn waiting(&self, query: LineQuery) -> BoxFuture<'_, Result<LinePage<InLine>, ControlError>>;

    /// A page of the executions that hold slots, by id.
    fn holders(&self, query: LineQuery) -> BoxFuture<'_, Result<LinePage<Holder>, ControlError>>;

    /// Why executions wait; those that do not are left out.
    fn explain(&self, ids: Vec<ExecutionId>) -> BoxFuture<'_, Result<Vec<(ExecutionId, Waiting)>, ControlError>>;

    fn workers(&self) -> BoxFuture<'_, Result<Vec<Worker>, ControlError>>;

    /// Puts a dead letter back where it came from, then removes it.
    fn replay_dead(&self, id: String, by: By) -> BoxFuture<'_, Result<(), ControlError>>;

    fn drop_dead(&self, id: String, by: By) -> BoxFuture<'_, Result<(), ControlError>>;

    fn health(&self) -> BoxFuture<'_, Health>;

    /// Everything that is counted and measured, as text in the format of OpenMetrics.
    fn metrics(&self, open_streams: usize) -> BoxFuture<'_, Result<String, ControlError>>;

    /// A request was answered. `route`: as the router has it.
    fn answered(&self, route: &str, status: u16, took: Duration);
}
