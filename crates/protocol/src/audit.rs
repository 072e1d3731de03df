//! The entries of the audit: each change with its actor, time and reason, kept in the journal beside what it changed.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::change::Difference;
use crate::{ActionRef, ExecutionId, Timestamp};

/// The most characters of a reason.
pub const REASON_CHARS_MAX: usize = 1000;
/// The actor of requests to an API without tokens: any user of this machine.
pub const LOCAL: &str = "local";
/// The actor of a message without the user of the broker that published it (the AMQP property `user_id`).
pub const PUBLISHER: &str = "publisher";
/// The actor of what the leader does by itself, such as ending an override when its time is over.
pub const EXECUTOR: &str = "executor";

/// The actor that requested a change, the way the request came, and its reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct By {
    /// The name of an API token, the `user_id` of a publisher, or one of [`LOCAL`], [`PUBLISHER`] and [`EXECUTOR`].
    pub actor: String,
    pub via: Via,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// How a change was requested.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Via {
    Http,
    Amqp,
    /// By no request: the leader does it by itself.
    Executor,
}

/// The leader, without a stated reason.
impl Default for By {
    fn default() -> Self {
        Self { actor: EXECUTOR.to_owned(), via: Via::Executor, reason: None }
    }
}

impl By {
    pub fn http(actor: impl Into<String>, reason: Option<String>) -> Self {
        Self { actor: actor.into(), via: Via::Http, reason }
    }

    /// A publisher, by the user that the broker vouches for, if there is one.
    pub fn publisher(user_id: Option<&str>, reason: Option<String>) -> Self {
        Self { actor: user_id.unwrap_or(PUBLISHER).to_owned(), via: Via::Amqp, reason }
    }

    /// The leader by itself.
    pub fn executor(reason: impl Into<String>) -> Self {
        Self { reason: Some(reason.into()), ..Self::default() }
    }
}

/// What was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Changed {
    ActionCreated,
    PolicyChanged,
    ActionDeleted,
    Paused,
    Resumed,
    LimitOverridden,
    /// By a person, before its time was over.
    OverrideCleared,
    /// By the leader, when its time was over.
    OverrideEnded,
    CancelRequested,
    DeadLetterReplayed,
    DeadLetterDropped,
}

impl Changed {
    pub const ALL: [Self; 11] = [
        Self::ActionCreated,
        Self::PolicyChanged,
        Self::ActionDeleted,
        Self::Paused,
        Self::Resumed,
        Self::LimitOverridden,
        Self::OverrideCleared,
        Self::OverrideEnded,
        Self::CancelRequested,
        Self::DeadLetterReplayed,
        Self::DeadLetterDropped,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::ActionCreated => "action_created",
            Self::PolicyChanged => "policy_changed",
            Self::ActionDeleted => "action_deleted",
            Self::Paused => "paused",
            Self::Resumed => "resumed",
            Self::LimitOverridden => "limit_overridden",
            Self::OverrideCleared => "override_cleared",
            Self::OverrideEnded => "override_ended",
            Self::CancelRequested => "cancel_requested",
            Self::DeadLetterReplayed => "dead_letter_replayed",
            Self::DeadLetterDropped => "dead_letter_dropped",
        }
    }

    /// What `text` spells, if any.
    pub fn from_text(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|changed| changed.as_str() == text)
    }
}

impl fmt::Display for Changed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One entry of the audit: `GET /api/v1/audit`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Entries are numbered as they were journaled.
    pub id: i64,
    pub at: Timestamp,
    pub changed: Changed,
    #[serde(flatten)]
    pub by: By,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action_ref: Option<ActionRef>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub execution_id: Option<ExecutionId>,
    /// The id of a dead letter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_letter: Option<String>,
    /// The members of the action that changed; of a new or deleted action, those that differ from the default.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<Difference>,
}

/// Checks a reason.
pub fn check_reason(reason: Option<&str>) -> Result<(), String> {
    match reason.map(|reason| reason.chars().count()) {
        Some(chars) if chars > REASON_CHARS_MAX => {
            Err(format!("it has {chars} characters: expected at most {REASON_CHARS_MAX}"))
        }
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_changed_is_spelt_one_way_on_the_wire_and_in_the_journal() {
        for changed in Changed::ALL {
            assert_eq!(serde_json::to_value(changed).expect("a name"), changed.as_str());
            assert_eq!(Changed::from_text(changed.as_str()), Some(changed));
        }
        assert_eq!(Changed::from_text("sacked"), None);
    }
}
