//! `slotline-handler/1`: what a worker and the handler processes that it starts send each other.
//!
//! One JSON object a line, in UTF-8, over a socket that the process inherits. Members that are not known are ignored,
//! and so is a type that begins with `x-`; any other line that can't be read ends the process. Not here: when what is
//! sent (`crates/worker/HANDLERS.md`).

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::message::{AttemptKey, Failure};
use crate::{ActionRef, ExecutionId, Fence};

/// The version of the protocol that this program speaks.
pub const VERSION: u32 = 1;
/// The variable with the number of the descriptor that the socket is.
pub const DESCRIPTOR: &str = "SLOTLINE_HANDLER_FD";
/// The longest line, without its newline.
pub const LINE_BYTES_MAX: usize = 8 << 20;

/// From the worker to a handler process.
#[derive(Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToHandler<'a> {
    /// Answers `hello`; `concurrency` is the most attempts that the process will have at once.
    Welcome {
        protocol: u32,
        handler: &'a str,
        concurrency: u32,
    },
    /// Run an attempt.
    Start {
        id: &'a AttemptId,
        execution_id: ExecutionId,
        /// As people count attempts.
        attempt: u32,
        fence: Fence,
        action_ref: &'a ActionRef,
        parameters: &'a RawValue,
        #[serde(skip_serializing_if = "Option::is_none")]
        correlation_id: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        trace_id: Option<&'a str>,
    },
    /// End that attempt within the grace; past it the process is ended.
    Cancel {
        id: &'a AttemptId,
        grace_ms: u64,
    },
    /// Finish what is open, then exit with status 0.
    Drain,
    Pong {
        n: u64,
    },
}

/// From a handler process to the worker.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(tag = "type", rename_all = "snake_case"))]
pub enum FromHandler {
    Hello(HandlerHello),
    Started {
        id: AttemptId,
    },
    /// The report is checked where those of commands are.
    Progress {
        id: AttemptId,
        #[cfg_attr(feature = "schema", schemars(with = "crate::message::Report"))]
        report: Arc<RawValue>,
    },
    Log(LogEntry),
    Completed {
        id: AttemptId,
        #[cfg_attr(feature = "schema", schemars(default = "null"))]
        result: Arc<RawValue>,
    },
    Failed {
        id: AttemptId,
        error: Failure,
    },
    Cancelled {
        id: AttemptId,
    },
    Ping {
        n: u64,
    },
    /// Of a type that begins with `x-`.
    #[cfg_attr(feature = "schema", schemars(skip))]
    Unknown,
}

/// The first line of a handler process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct HandlerHello {
    pub protocol: u32,
    /// The library and its version, for people.
    #[serde(default)]
    pub sdk: Option<String>,
    /// What it has functions for.
    pub actions: Vec<ActionRef>,
    /// The most attempts at once; the worker's configuration may allow fewer.
    #[serde(default)]
    pub concurrency: Option<u32>,
}

/// A line for the log of an attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LogEntry {
    pub id: AttemptId,
    /// `error` and `warning` are kept with what commands print to stderr, everything else with stdout.
    #[serde(default)]
    pub level: String,
    pub message: String,
}

/// The name of an attempt between a worker and its handler processes: `execution:grant`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(extend("pattern" = "^[0-9]+:[0-9]+$")))]
pub struct AttemptId(#[cfg_attr(feature = "schema", schemars(with = "String"))] pub AttemptKey);

impl From<AttemptId> for String {
    fn from(AttemptId((execution, grant)): AttemptId) -> Self {
        format!("{execution}:{grant}")
    }
}

impl TryFrom<String> for AttemptId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let read = |text: &str| {
            let (execution, grant) = text.split_once(':')?;
            Some(Self((ExecutionId(execution.parse().ok()?), grant.parse().ok()?)))
        };
        read(&text).ok_or_else(|| format!("{text:?} names no attempt"))
    }
}

#[derive(Deserialize)]
struct Kind {
    r#type: String,
}

#[derive(Deserialize)]
struct OfAttempt {
    id: AttemptId,
}

#[derive(Deserialize)]
struct OfReport {
    id: AttemptId,
    report: Arc<RawValue>,
}

#[derive(Deserialize)]
struct OfResult {
    id: AttemptId,
    #[serde(default = "null")]
    result: Arc<RawValue>,
}

#[derive(Deserialize)]
struct OfFailure {
    id: AttemptId,
    error: Failure,
}

#[derive(Deserialize)]
struct Numbered {
    n: u64,
}

fn null() -> Arc<RawValue> {
    RawValue::NULL.to_owned().into()
}

impl ToHandler<'_> {
    /// With the newline.
    pub fn line(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        Ok(line)
    }
}

impl FromHandler {
    /// Reads one line, without its newline.
    pub fn read(line: &[u8]) -> Result<Self, serde_json::Error> {
        let Kind { r#type } = serde_json::from_slice(line)?;
        let of_attempt = || serde_json::from_slice::<OfAttempt>(line).map(|it| it.id);
        Ok(match r#type.as_str() {
            "hello" => Self::Hello(serde_json::from_slice(line)?),
            "started" => Self::Started { id: of_attempt()? },
            "progress" => {
                let OfReport { id, report } = serde_json::from_slice(line)?;
                Self::Progress { id, report }
            }
            "log" => Self::Log(serde_json::from_slice(line)?),
            "completed" => {
                let OfResult { id, result } = serde_json::from_slice(line)?;
                Self::Completed { id, result }
            }
            "failed" => {
                let OfFailure { id, error } = serde_json::from_slice(line)?;
                Self::Failed { id, error }
            }
            "cancelled" => Self::Cancelled { id: of_attempt()? },
            "ping" => Self::Ping { n: serde_json::from_slice::<Numbered>(line)?.n },
            own if own.starts_with("x-") => Self::Unknown,
            other => return Err(serde::de::Error::custom(format!("unknown type {other:?}"))),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_with_further_members_is_read_and_a_type_of_its_own_is_ignored() {
        let read = |line: &str| FromHandler::read(line.as_bytes()).expect(line);
        let FromHandler::Completed { id, result } =
            read(r#"{"result":{"n":1.10},"id":"42:7","x":[],"type":"completed"}"#)
        else {
            panic!("it is completed")
        };
        assert_eq!((id, result.get()), (AttemptId((ExecutionId(42), 7)), r#"{"n":1.10}"#));
        let FromHandler::Completed { result, .. } = read(r#"{"type":"completed","id":"42:7"}"#) else {
            panic!("it is completed")
        };
        assert_eq!(result.get(), "null", "a function without a result");
        assert!(matches!(read(r#"{"type":"x-mine","id":5}"#), FromHandler::Unknown));
    }

    #[test]
    fn what_is_no_line_of_the_protocol_is_an_error() {
        for line in [
            &b"hello"[..],
            b"",
            b"[]",
            b"{\"type\":\"done\"}",
            b"{\"type\":\"started\"}",
            b"{\"type\":\"started\",\"id\":\"42\"}",
            b"{\"type\":\"started\",\"id\":\"42:x\"}",
            b"{\"type\":\"log\",\"id\":\"1:1\",\"message\":\"\xff\"}",
        ] {
            FromHandler::read(line).expect_err(&String::from_utf8_lossy(line));
        }
    }

    #[test]
    fn an_attempt_is_named_by_its_execution_and_grant() {
        let id = AttemptId((ExecutionId(42), 7));
        let line = ToHandler::Cancel { id: &id, grace_ms: 500 }.line().expect("JSON");
        assert_eq!(line, b"{\"type\":\"cancel\",\"id\":\"42:7\",\"grace_ms\":500}\n");
    }
}
