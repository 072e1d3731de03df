//! How a command's end is read: its exit status, its result file, and its output (`printed`). A command that fails may
//! leave a result all the same, with the reason of its failure.

use std::path::Path;

use rustix::io::Errno;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use slotline_protocol::message::Failure;

use super::output::Tail;
use super::places::Places;
use super::{printed, why};
use crate::duty::JsonText;
use crate::duty::limit::{self, RESULT_BYTES_MAX, result_too_large};

/// How the command itself ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Exit {
    pub(super) code: Option<i32>,
    pub(super) signal: Option<i32>,
}

/// What a completion holds beside a failure and the result that is left with it, for instance the last reports.
const BESIDE_BYTES: usize = 128 << 10;

/// The failure of a command that ended badly, and the result that it left: in its own words if that result has them,
/// `{"error": {"message", "code"?, "details"?, "stack_trace"?}}`, else by its exit status and the end of its stderr.
pub(super) fn failure(exit: Exit, stderr: &Tail, left: Option<JsonText>) -> (Failure, Option<JsonText>) {
    let by_exit = by_exit(exit, stderr);
    let failure = match left.as_ref().and_then(own_words) {
        None => by_exit,
        Some(Words { code, message, details, stack_trace }) => limit::failure(Failure {
            stack_trace,
            details: details.or(by_exit.details),
            ..Failure::new(&code.unwrap_or(by_exit.code), message)
        }),
    };
    let room =
        RESULT_BYTES_MAX.saturating_sub(BESIDE_BYTES + serde_json::to_vec(&failure).map_or(0, |json| json.len()));
    let left = left.filter(|left| left.0.get().len() <= room);
    (failure, left)
}

fn by_exit(exit: Exit, stderr: &Tail) -> Failure {
    let stderr = stderr.text();
    let last = stderr.lines().last().map(|line| format!(": {line}")).unwrap_or_default();
    let (code, message, mut details) = match (exit.code, exit.signal) {
        (Some(status), _) => {
            ("exit_status", format!("the command exited with status {status}{last}"), json!({ "return_code": status }))
        }
        (None, Some(signal)) => {
            let name = nix::sys::signal::Signal::try_from(signal).map_or("unknown", |signal| signal.as_str());
            let message = format!("the command was ended by signal {signal} ({name})");
            ("signal", message, json!({ "signal": signal }))
        }
        (None, None) => ("signal", "the command was ended together with its shim".to_owned(), json!({})),
    };
    if !stderr.is_empty() {
        details["stderr"] = stderr.into();
    }
    Failure { details: Some(details), ..Failure::new(code, message) }
}

/// The member of a result with the reason why its command failed.
#[derive(Deserialize)]
struct Words {
    code: Option<String>,
    message: String,
    details: Option<Value>,
    stack_trace: Option<String>,
}

fn own_words(JsonText(result): &JsonText) -> Option<Words> {
    #[derive(Deserialize)]
    struct Result {
        error: Words,
    }
    let Result { error } = serde_json::from_str(result.get()).ok()?;
    Some(Words { code: error.code.filter(|code| !code.is_empty()), ..error })
}

/// What a command left as its result although it failed; `None` where that can't be read. Reads files: not for the
/// loop's thread.
pub(super) fn left(places: &Places, stdout: &Tail) -> Option<JsonText> {
    result(places, stdout).ok().filter(|JsonText(result)| result.get() != "null")
}

/// The failure of a command that could not be started. Looks at its folder: not for the loop's thread.
pub(super) fn spawn_failure(program: &str, cwd: Option<&Path>, errno: i32) -> Failure {
    if Errno::from_raw_os_error(errno) == Errno::TIME {
        return Failure::new("spawn_failed", format!("{program:?} was not started: the worker is isolated"));
    }
    let reason = why::flaw(program, cwd).unwrap_or_else(|| std::io::Error::from_raw_os_error(errno).to_string());
    Failure::new("spawn_failed", format!("can't start {program:?}: {reason}"))
}

/// The result of a command that ended well: the file's JSON if it wrote one, else the last JSON value on stdout, else
/// `null`. Reads files: not for the loop's thread.
pub(super) fn result(places: &Places, stdout: &Tail) -> Result<JsonText, Failure> {
    match places.read() {
        Ok(Some(text)) if !text.is_empty() => from_file(text),
        Ok(_) => printed::last_value(stdout.bytes(), stdout.is_cut()),
        Err(error) => Err(unreadable(error)),
    }
}

/// The failure of a command whose result can't be read.
pub(super) fn unreadable(why: impl std::fmt::Display) -> Failure {
    Failure::new("handler_error", format!("the result file can't be read: {why}"))
}

fn from_file(text: Vec<u8>) -> Result<JsonText, Failure> {
    if text.len() > RESULT_BYTES_MAX {
        return Err(result_too_large());
    }
    let refused = |reason: String| Failure::new("handler_error", format!("the result file holds no JSON: {reason}"));
    let text = String::from_utf8(text).map_err(|error| refused(error.to_string()))?;
    let value = RawValue::from_string(text.trim().to_owned()).map_err(|error| refused(error.to_string()))?;
    limit::result(JsonText(value.into()))
}
