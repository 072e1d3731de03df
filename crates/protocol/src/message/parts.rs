//! What several messages have in common.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::ExecutionId;

/// A JSON value as it was written, never re-encoded.
pub type Json = Arc<RawValue>;

/// `(execution, number of the grant)`: the key of a worker's table. Messages that only executors and workers read call
/// that number `attempt`.
pub type AttemptKey = (ExecutionId, u32);

/// The member `grant` of a message: the number of the grant, if it differs from that of its attempt as people count
/// them.
pub fn grant(number: u32, counts_as: u32) -> Option<u32> {
    (number != counts_as).then_some(number)
}

/// Why something did not succeed. `code` is one of DESIGN's error codes or a handler's own.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Failure {
    pub code: String,
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stack_trace: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<serde_json::Value>,
    /// The phase that the attempt was in, if it named one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Box<str>>,
}

impl Failure {
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        Self { code: code.to_owned(), message: message.into(), stack_trace: None, details: None, phase: None }
    }
}

/// A journal, and how often leaders went on with it after it had gone back in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Lineage {
    pub identity: Uuid,
    pub generation: u64,
}
