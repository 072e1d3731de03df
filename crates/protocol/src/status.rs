//! The status of an execution, flat: for people, for the wire and for the journal.
//!
//! Not here: which moves are legal (`slotline-scheduler`, `execution.rs`).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The status of an execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Confirmed by the broker, not yet in the journal.
    Requested,
    /// In the journal and in its line.
    Queued,
    /// Holds a slot; sent to a worker that has not started it yet.
    Scheduled,
    /// An attempt runs.
    Running,
    /// Being ended; its slot stays taken until it has.
    Cancelling,
    Completed,
    Failed,
    Timeout,
    Cancelled,
}

impl Status {
    pub const ALL: [Self; 9] = [
        Self::Requested,
        Self::Queued,
        Self::Scheduled,
        Self::Running,
        Self::Cancelling,
        Self::Completed,
        Self::Failed,
        Self::Timeout,
        Self::Cancelled,
    ];

    pub fn is_terminal(self) -> bool {
        self.outcome().is_some()
    }

    /// The outcome of the attempt with which an execution ended that has this status; `None` if it has not ended.
    pub fn outcome(self) -> Option<OutcomeKind> {
        match self {
            Self::Completed => Some(OutcomeKind::Completed),
            Self::Failed => Some(OutcomeKind::Failed),
            Self::Timeout => Some(OutcomeKind::Timeout),
            Self::Cancelled => Some(OutcomeKind::Cancelled),
            Self::Requested | Self::Queued | Self::Scheduled | Self::Running | Self::Cancelling => None,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Queued => "queued",
            Self::Scheduled => "scheduled",
            Self::Running => "running",
            Self::Cancelling => "cancelling",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Timeout => "timeout",
            Self::Cancelled => "cancelled",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// No status bears this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown status {0:?}: expected one of requested, queued, scheduled, running, cancelling, completed, failed, timeout, cancelled"
)]
pub struct UnknownStatus(pub String);

impl FromStr for Status {
    type Err = UnknownStatus;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|status| status.as_str() == text).ok_or_else(|| UnknownStatus(text.to_owned()))
    }
}

/// How one attempt ended. Unlike a terminal [`Status`], an attempt may also be lost with its worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum OutcomeKind {
    Completed,
    Failed,
    Timeout,
    Cancelled,
    Lost,
}

impl OutcomeKind {
    pub const ALL: [Self; 5] = [Self::Completed, Self::Failed, Self::Timeout, Self::Cancelled, Self::Lost];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Timeout => "timeout",
            Self::Cancelled => "cancelled",
            Self::Lost => "lost",
        }
    }
}

impl fmt::Display for OutcomeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for OutcomeKind {
    type Err = UnknownStatus;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or_else(|| UnknownStatus(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_reads_back_as_itself() {
        for status in Status::ALL {
            assert_eq!(status.as_str().parse(), Ok(status));
        }
        assert!("done".parse::<Status>().is_err());
    }
}
