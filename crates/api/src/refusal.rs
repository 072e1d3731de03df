//! Why the executor refused a request.

use serde::{Deserialize, Serialize};
use slotline_protocol::http::Refusal;
use slotline_protocol::{ActionRef, ExecutionId};

/// Why the executor refused a request. Serializable: a follower passes on the leader's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{refusal}")]
pub struct ControlError {
    pub kind: RefusalKind,
    pub refusal: Refusal,
}

/// What the client can do about a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalKind {
    /// Correct the request: something in it is wrong.
    Invalid,
    /// There is no such thing.
    NotFound,
    /// It conflicts with something that exists already.
    Conflict,
    /// Send the precondition of the change.
    PreconditionRequired,
    /// The precondition does not hold: read the current state again.
    PreconditionFailed,
    /// Send less.
    TooLarge,
    /// Wait for the line to shorten, then try again.
    Full,
    /// No leader can answer now; try again.
    Unavailable,
}

impl ControlError {
    pub fn new(kind: RefusalKind, code: &str, message: impl Into<String>) -> Self {
        Self { kind, refusal: Refusal::new(code, message) }
    }

    /// No leader answered, or the database or broker is away.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(RefusalKind::Unavailable, "unavailable", message)
    }

    pub fn not_found(code: &str, message: impl Into<String>) -> Self {
        Self::new(RefusalKind::NotFound, code, message)
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
