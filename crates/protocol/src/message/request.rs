//! Between publishers and executors: requests, and the answers to them.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::parts::{Failure, Json};
use crate::declared::declared;
use crate::{ActionRef, Detail, ExecutionId, Status, Timestamp};

/// Asks for one execution of an action.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(extend("additionalProperties" = false, "patternProperties" = {"^x-": true})))]
#[serde(remote = "Self")]
pub struct Requested {
    pub action_ref: ActionRef,
    /// Any JSON object; kept as the publisher wrote it.
    #[serde(default = "empty_object")]
    #[cfg_attr(feature = "schema", schemars(with = "serde_json::Map<String, serde_json::Value>"))]
    pub parameters: Json,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency_key: Option<String>,
    /// Overrides the action's `timeout`.
    #[serde(default, with = "crate::duration::seconds", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<f64>"))]
    pub timeout_seconds: Option<Duration>,
    #[serde(default)]
    pub progress: Detail,
    /// Which answer the request's `reply_to` receives.
    #[serde(default)]
    pub reply: Reply,
}

/// When the publisher is answered, if it named a `reply_to`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// [`Accepted`] or [`Rejected`], once the journal has decided.
    #[default]
    Accepted,
    /// [`Settled`] (or [`Rejected`]) only.
    Settled,
}

fn empty_object() -> Json {
    RawValue::from_string("{}".to_owned()).expect("valid JSON").into()
}

/// Asks to end an execution, named by the `message_id` of its request, which must be the publisher's own. A number is
/// easily guessed: cancelling by number needs the HTTP API.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(extend("additionalProperties" = false, "patternProperties" = {"^x-": true})))]
#[serde(remote = "Self")]
pub struct CancelRequested {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub execution_id: Option<ExecutionId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

declared!(Requested, CancelRequested);

/// The journal has the request.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Accepted {
    pub message_id: String,
    pub execution_id: ExecutionId,
    /// 1-based place in the line at that moment.
    pub position: u64,
}

/// The request can't be taken; nothing of it remains.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Rejected {
    pub message_id: Option<String>,
    pub error: Failure,
}

/// The execution reached its terminal status.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Settled {
    pub message_id: Option<String>,
    pub execution_id: ExecutionId,
    pub action_ref: ActionRef,
    pub status: Status,
    pub attempt: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Json>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
    pub settled_at: Timestamp,
}
