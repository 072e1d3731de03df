//! How an ending is judged: what the process or handler did, and why it was asked to end.
//!
//! An attempt that was asked to end is judged by the cause of that, whatever its exit status: a command that answers
//! SIGTERM with exit status 0 has not done its work.

use std::time::Duration;

use serde_json::{Value, json};
use slotline_protocol::message::{AttemptKey, Failure};
use slotline_protocol::{ActionRef, OutcomeKind, Timestamp};

use super::entry::{Cause, Entry, FinalReport, Outcome};
use super::input::Ending;

/// Codes of endings whose message is the worker's: the attempt's own last messages are added to it.
const WORDLESS: [&str; 2] = ["exit_status", "signal"];

/// Whether the attempt has done its work, as [`judge`] sees it.
pub(super) fn has_completed(entry: &Entry, ending: &Ending) -> bool {
    let cause = entry.run().and_then(|run| run.cause.as_ref());
    ending.result.is_ok() && matches!(cause, None | Some(Cause::Fenced))
}

/// What is to be reported of an attempt that ran. `None`: no outcome is known; the attempt is lost.
pub(super) fn judge(entry: &Entry, ending: Ending) -> Option<FinalReport> {
    let run = entry.run();
    let Ending { result, left, return_code, ended_at } = ending;
    let outcome = |status, result, error| {
        let started_at = run.and_then(|run| run.started).map(|started| started.wall);
        Some(FinalReport::Completed(Outcome { status, result, error, started_at, completed_at: ended_at, return_code }))
    };
    match run.and_then(|run| run.cause.as_ref()) {
        None => match result {
            Ok(result) => outcome(OutcomeKind::Completed, Some(result), None),
            Err(error) => outcome(OutcomeKind::Failed, left, Some(failed(entry, error))),
        },
        Some(Cause::Cancelled { reason }) => {
            outcome(OutcomeKind::Cancelled, None, Some(cancelled(entry, reason.as_deref())))
        }
        Some(Cause::TimedOut { after }) => outcome(OutcomeKind::Timeout, None, Some(timed_out(entry, *after))),
        Some(Cause::Stalled { after }) => outcome(OutcomeKind::Timeout, None, Some(stalled(entry, *after))),
        Some(Cause::Drained) => Some(FinalReport::Returned { reason: "drain", started: true }),
        // It had succeeded before the kill arrived, and that is worth reporting.
        Some(Cause::Fenced) => match result {
            Ok(result) => outcome(OutcomeKind::Completed, Some(result), None),
            Err(_) => None,
        },
    }
}

/// The end of an attempt that never started.
pub(super) fn unstarted(status: OutcomeKind, error: Failure, at: Timestamp) -> FinalReport {
    let error = Some(error);
    FinalReport::Completed(Outcome {
        status,
        result: None,
        error,
        started_at: None,
        completed_at: at,
        return_code: None,
    })
}

pub(super) fn cancelled(entry: &Entry, reason: Option<&str>) -> Failure {
    let name = name(entry.task.key, &entry.task.action_ref);
    let why = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
    sudden("cancelled", format!("{name} was cancelled{why}."), entry)
}

/// The attempt's own failure, with the progress that was known when it came.
fn failed(entry: &Entry, error: Failure) -> Failure {
    let is_wordless = WORDLESS.contains(&error.code.as_str());
    let error = if is_wordless { with_lines(error, &entry.recent.lines()) } else { error };
    with_events(error, entry)
}

pub(super) fn start_timed_out(entry: &Entry, after: Duration) -> Failure {
    let name = name(entry.task.key, &entry.task.action_ref);
    let message = format!("{name} has timed out because it was not started within {}.", seconds(after));
    Failure::new("start_timeout", message)
}

fn timed_out(entry: &Entry, after: Duration) -> Failure {
    let name = name(entry.task.key, &entry.task.action_ref);
    let message = format!("{name} has timed out because it was processing longer than {}.", seconds(after));
    sudden("timeout", message, entry)
}

fn stalled(entry: &Entry, after: Duration) -> Failure {
    let name = name(entry.task.key, &entry.task.action_ref);
    let message = format!("{name} has timed out because it reported no progress for {}.", seconds(after));
    sudden("stall_timeout", message, entry)
}

/// An end about which the attempt sent no message: its last messages are added.
fn sudden(code: &str, message: String, entry: &Entry) -> Failure {
    with_events(with_lines(Failure::new(code, message), &entry.recent.lines()), entry)
}

fn with_lines(mut error: Failure, lines: &[String]) -> Failure {
    if !lines.is_empty() {
        let stop = if error.message.ends_with('.') { "" } else { "." };
        error.message = format!("{}{stop} Progress events:\n{}", error.message, lines.join("\n"));
    }
    error
}

/// Adds the phase, and the last reports, unless the attempt's own details have no room for them.
fn with_events(mut error: Failure, entry: &Entry) -> Failure {
    error.phase = entry.recent.phase().or(error.phase);
    if let Some(events) = entry.recent.progress_events()
        && let Value::Object(details) = error.details.get_or_insert_with(|| json!({}))
    {
        details.entry("progress_events").or_insert(events);
    }
    error
}

fn name((id, _): AttemptKey, action_ref: &ActionRef) -> String {
    format!("Execution {id} ({action_ref})")
}

fn seconds(duration: Duration) -> String {
    format!("{} s", duration.as_secs_f64())
}
