//! What the API asks of the executor it is mounted on: the one trait between HTTP and the leader.
//!
//! Whoever implements it answers for the leader, from any executor: a follower passes the question on. Reads of the
//! journal do not come through here; the API asks the store itself, so that they work while nobody leads.

use std::time::Duration;

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use slotline_protocol::change::{Applied, Declared};
use slotline_protocol::http::{Action, Health, QueueStats, Refusal, Submit, Submitted, Waiting, Worker};
use slotline_protocol::{ActionRef, By, ExecutionId, Policy, Status};

use crate::Condition;

/// One submission over HTTP, checked for shape, not yet for sense.
#[derive(Clone, Debug)]
pub struct Submission {
    /// The `Idempotency-Key`; a fresh one is made where there is none.
    pub message_id: Option<String>,
    pub body: Submit,
    pub correlation_id: Option<String>,
    /// 32 hexadecimal digits, from the header `traceparent`.
    pub trace_id: Option<String>,
}

/// The executor, as the API sees it.
pub trait Control: Send + Sync + 'static {
    /// Whether anything is taken in at all, as far as is known without asking anybody; if not, why not.
    fn takes_requests(&self) -> Result<(), Refused> {
        Ok(())
    }

    /// Sends the request down the same queue as every other. With an `execution_id` the journal has it; without one no
    /// leader answered in time, and the request waits on the broker.
    fn submit(&self, submission: Submission) -> BoxFuture<'_, Result<Submitted, Refused>>;

    /// Asks for the end of an execution. Answers with its status after the journal took the wish; with its terminal
    /// status, unchanged, if it has ended.
    fn cancel(&self, id: ExecutionId, by: By) -> BoxFuture<'_, Result<Status, Refused>>;

    /// Creates an action, or replaces its whole policy; `true` if it is new.
    fn put_action(
        &self,
        action_ref: ActionRef,
        policy: Policy,
        condition: Condition,
        by: By,
    ) -> BoxFuture<'_, Result<(Action, bool), Refused>>;

    /// Changes the members of a policy that a merge patch names.
    fn patch_action(
        &self,
        action_ref: ActionRef,
        patch: Value,
        condition: Condition,
        by: By,
    ) -> BoxFuture<'_, Result<Action, Refused>>;

    /// Declares all of these policies in one commit, or none; says of each what differs. `dry_run` only says it.
    fn apply(&self, actions: Vec<Declared>, dry_run: bool, by: By) -> BoxFuture<'_, Result<Vec<Applied>, Refused>>;

    /// A conflict while executions of it live.
    fn delete_action(&self, action_ref: ActionRef, by: By) -> BoxFuture<'_, Result<(), Refused>>;

    /// Pauses or resumes an action; what runs runs on.
    fn pause(&self, action_ref: ActionRef, paused: bool, by: By) -> BoxFuture<'_, Result<Action, Refused>>;

    /// Lets another limit hold than the declared one, from now on for so long.
    fn override_limit(
        &self,
        action_ref: ActionRef,
        limit: Option<u32>,
        duration: Duration,
        by: By,
    ) -> BoxFuture<'_, Result<Action, Refused>>;

    /// Lets the declared limit hold again; changes nothing if it does.
    fn clear_override(&self, action_ref: ActionRef, by: By) -> BoxFuture<'_, Result<Action, Refused>>;

    /// How the lines stand; `None` is all actions. The percentiles are left `None`: the API takes them from the store.
    fn queue_stats(&self, action_ref: Option<ActionRef>) -> BoxFuture<'_, Result<Vec<QueueStats>, Refused>>;

    /// Why executions wait; those that do not are left out.
    fn explain(&self, ids: Vec<ExecutionId>) -> BoxFuture<'_, Result<Vec<(ExecutionId, Waiting)>, Refused>>;

    fn workers(&self) -> BoxFuture<'_, Result<Vec<Worker>, Refused>>;

    /// Puts a dead letter back where it came from, then removes it.
    fn replay_dead(&self, id: String, by: By) -> BoxFuture<'_, Result<(), Refused>>;

    fn drop_dead(&self, id: String, by: By) -> BoxFuture<'_, Result<(), Refused>>;

    fn health(&self) -> BoxFuture<'_, Health>;
}

/// Why the executor did not do as asked. Serializable: a follower passes on what the leader answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{refusal}")]
pub struct Refused {
    pub kind: Kind,
    pub refusal: Refusal,
}

/// What the asker can do about a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Ask differently: something in the question is wrong.
    Invalid,
    /// There is no such thing.
    NotFound,
    /// It stands against something that is already so.
    Conflict,
    /// Say what the change rests on.
    PreconditionRequired,
    /// What the change rests on is not so: look again.
    PreconditionFailed,
    /// Send less.
    TooLarge,
    /// Wait for the line to shorten, then ask again.
    Full,
    /// Nobody can answer now; ask again.
    Unavailable,
}

impl Refused {
    pub fn new(kind: Kind, code: &str, message: impl Into<String>) -> Self {
        Self { kind, refusal: Refusal::new(code, message) }
    }

    /// No leader answered, or the database or broker is away.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(Kind::Unavailable, "unavailable", message)
    }

    pub fn not_found(code: &str, message: impl Into<String>) -> Self {
        Self::new(Kind::NotFound, code, message)
    }

    pub fn unknown_action(action_ref: &ActionRef) -> Self {
        Self::not_found("unknown_action", format!("no action is called {action_ref}")).at("action_ref")
    }

    pub fn unknown_execution(id: ExecutionId) -> Self {
        Self::not_found("unknown_execution", format!("there is no execution {id}"))
    }

    pub fn unknown_dead_letter(id: &str) -> Self {
        Self::not_found("unknown_dead_letter", format!("there is no dead letter {id:?}"))
    }

    /// Names the offending field.
    #[must_use]
    pub fn at(self, field: &str) -> Self {
        Self { refusal: self.refusal.at(field), ..self }
    }
}
