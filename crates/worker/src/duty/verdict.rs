//! How an ending is judged: what the process or handler did, and why it was asked to end.
//!
//! Whoever was asked to end is judged by what was asked, whatever its exit says: a command that answers SIGTERM with
//! exit status 0 has not done its work.

use std::time::Duration;

use serde_json::json;

use slotline_protocol::message::{AttemptKey, Failure};
use slotline_protocol::{ActionRef, OutcomeKind, Timestamp};

use super::entry::{Cause, Entry, Word};
use super::input::{Ending, Json};

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Outcome {
    pub(super) status: OutcomeKind,
    pub(super) result: Option<Json>,
    pub(super) error: Option<Failure>,
    pub(super) started_at: Option<Timestamp>,
    pub(super) completed_at: Timestamp,
    pub(super) return_code: Option<i32>,
}

/// What the executor is to be told of an attempt that ran. `None`: nothing is known that could be told; it is lost.
pub(super) fn judge(entry: &Entry, ending: Ending) -> Option<Word> {
    let run = entry.run();
    let Ending { result, return_code, ended_at } = ending;
    let outcome = |status, result, error| {
        let started_at = run.and_then(|run| run.started).map(|started| started.wall);
        Some(Word::Completed(Outcome { status, result, error, started_at, completed_at: ended_at, return_code }))
    };
    match run.and_then(|run| run.cause.as_ref()) {
        None => match result {
            Ok(result) => outcome(OutcomeKind::Completed, Some(result), None),
            Err(error) => outcome(OutcomeKind::Failed, None, Some(error)),
        },
        Some(Cause::Cancelled { reason }) => {
            outcome(OutcomeKind::Cancelled, None, Some(cancelled(entry, reason.as_deref())))
        }
        Some(Cause::TimedOut { after }) => outcome(OutcomeKind::Timeout, None, Some(timed_out(entry, *after))),
        Some(Cause::Stalled { after }) => outcome(OutcomeKind::Timeout, None, Some(stalled(entry, *after))),
        Some(Cause::Drained) => Some(Word::Returned { reason: "drain", started: true }),
        // It had succeeded before the kill arrived, and that is worth telling.
        Some(Cause::Fenced) => match result {
            Ok(result) => outcome(OutcomeKind::Completed, Some(result), None),
            Err(_) => None,
        },
    }
}

/// The end of an attempt that never started.
pub(super) fn unstarted(status: OutcomeKind, error: Failure, at: Timestamp) -> Word {
    let error = Some(error);
    Word::Completed(Outcome { status, result: None, error, started_at: None, completed_at: at, return_code: None })
}

pub(super) fn cancelled(entry: &Entry, reason: Option<&str>) -> Failure {
    let name = name(entry.task.key, &entry.task.action_ref);
    let why = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
    tell("cancelled", format!("{name} was cancelled{why}."), entry)
}

pub(super) fn start_timed_out(entry: &Entry, after: Duration) -> Failure {
    let name = name(entry.task.key, &entry.task.action_ref);
    let message = format!("{name} has timed out because it was not started within {}.", seconds(after));
    Failure::new("start_timeout", message)
}

fn timed_out(entry: &Entry, after: Duration) -> Failure {
    let name = name(entry.task.key, &entry.task.action_ref);
    let message = format!("{name} has timed out because it was processing longer than {}.", seconds(after));
    tell("timeout", message, entry)
}

fn stalled(entry: &Entry, after: Duration) -> Failure {
    let name = name(entry.task.key, &entry.task.action_ref);
    let message = format!("{name} has timed out because it reported no progress for {}.", seconds(after));
    tell("stall_timeout", message, entry)
}

/// Adds what was known when it ended.
fn tell(code: &str, message: String, entry: &Entry) -> Failure {
    let lines = entry.recent.lines();
    let message = match lines.as_slice() {
        [] => message,
        lines => format!("{message} Progress events:\n{}", lines.join("\n")),
    };
    let details = entry.recent.progress_events().map(|events| json!({ "progress_events": events }));
    Failure { details, ..Failure::new(code, message) }
}

fn name((id, _): AttemptKey, action_ref: &ActionRef) -> String {
    format!("Execution {id} ({action_ref})")
}

fn seconds(duration: Duration) -> String {
    format!("{} s", duration.as_secs_f64())
}
