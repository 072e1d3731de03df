//! The policy of an action: what `PUT /api/v1/actions/{ref}` takes as JSON and an actions file holds as TOML.
//!
//! Not here: what a name runs. That is the worker's own configuration and never crosses the wire.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::duration;

/// The longest chain that may wait at one worker.
pub const RUN_AHEAD_MAX: u32 = 256;

/// How executions of one action are scheduled. Every key may be left out; unknown keys are errors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// Slots of the action; `None` is unlimited.
    pub limit: Option<u32>,
    /// Slots of each concurrency key, and of all executions without one together; `None` is unlimited, and keys then do
    /// not matter.
    pub key_limit: Option<u32>,
    /// JSON pointer into the parameters that gives the concurrency key where the request names none.
    pub key: Option<String>,
    /// Refuses requests without a concurrency key.
    pub key_required: bool,
    /// Longest run of one attempt.
    #[serde(with = "duration::optional")]
    pub timeout: Option<Duration>,
    /// Longest wait in the line.
    #[serde(with = "duration::optional")]
    pub queue_timeout: Option<Duration>,
    /// Longest time from dispatch to start.
    #[serde(with = "duration::optional")]
    pub start_timeout: Option<Duration>,
    /// Longest silence of a running attempt between two reports.
    #[serde(with = "duration::optional")]
    pub stall_timeout: Option<Duration>,
    /// Executions that may wait; a request beyond is rejected.
    pub max_queue_length: Option<u64>,
    /// Attempts that may be lost with their workers before the execution fails with `worker_lost`.
    pub max_lost_attempts: u32,
    /// The most executions of a line with one slot that wait at the worker of the one before them, each to start the
    /// moment that one has completed; 0 for none. `None`: as many as the line's speed takes.
    pub run_ahead: Option<u32>,
    pub retry: Retry,
    pub on_isolation: OnIsolation,
    /// JSON Schema of the parameters.
    pub schema: Option<serde_json::Value>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            limit: None,
            key_limit: None,
            key: None,
            key_required: false,
            timeout: None,
            queue_timeout: None,
            start_timeout: None,
            stall_timeout: None,
            max_queue_length: None,
            max_lost_attempts: 3,
            run_ahead: None,
            retry: Retry::default(),
            on_isolation: OnIsolation::Stop,
            schema: None,
        }
    }
}

/// What happens after an attempt that failed or timed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retry {
    /// Attempts in all, lost ones not counted.
    pub max_attempts: u32,
    /// Wait before the second attempt; doubles with each further one.
    #[serde(with = "duration")]
    pub backoff: Duration,
    #[serde(with = "duration")]
    pub backoff_max: Duration,
    /// Hold slot and place until settled (strict order) instead of going to the back of the line.
    pub keep_place: bool,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            max_attempts: 1,
            backoff: Duration::from_secs(1),
            backoff_max: Duration::from_secs(60),
            keep_place: false,
        }
    }
}

/// What a worker does with an attempt of the action once it can't confirm heartbeats any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnIsolation {
    /// End it at the fence, so that the limit holds.
    Stop,
    /// Let it run, and knowingly give up the limit for this action.
    Continue,
}

/// Which member of a policy is refused, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct InvalidPolicy {
    pub field: &'static str,
    pub message: String,
}

impl Policy {
    /// Checks what the types don't. The schema itself is compiled by the executor.
    pub fn check(&self) -> Result<(), InvalidPolicy> {
        let refuse = |field, message: &str| Err(InvalidPolicy { field, message: message.to_owned() });
        if self.limit == Some(0) {
            return refuse("limit", "expected at least 1, or null for no limit; to run nothing, pause the action");
        }
        if self.key_limit == Some(0) {
            return refuse("key_limit", "expected at least 1, or null for no limit");
        }
        if let Some(pointer) = &self.key
            && !pointer.starts_with('/')
        {
            return refuse("key", "expected a JSON pointer into the parameters such as \"/tenant\"");
        }
        for (field, value) in [
            ("timeout", self.timeout),
            ("queue_timeout", self.queue_timeout),
            ("start_timeout", self.start_timeout),
            ("stall_timeout", self.stall_timeout),
        ] {
            if value == Some(Duration::ZERO) {
                return refuse(field, "expected more than zero, or null for none");
            }
        }
        if self.max_queue_length == Some(0) {
            return refuse("max_queue_length", "expected at least 1, or null for no bound");
        }
        if self.run_ahead.is_some_and(|most| most > RUN_AHEAD_MAX) {
            return refuse(
                "run_ahead",
                "expected at most 256, 0 for none, or null for as many as the line's speed takes",
            );
        }
        if self.retry.max_attempts == 0 {
            return refuse("retry.max_attempts", "expected at least 1");
        }
        if self.retry.backoff_max < self.retry.backoff {
            return refuse("retry.backoff_max", "expected no less than retry.backoff");
        }
        if !matches!(self.schema, None | Some(serde_json::Value::Object(_) | serde_json::Value::Bool(_))) {
            return refuse("schema", "expected a JSON Schema: an object or a boolean");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_policy_is_unlimited_and_tries_once() {
        let policy: Policy = serde_json::from_str("{}").expect("every key may be left out");
        assert_eq!(policy, Policy::default());
        assert_eq!(policy.check(), Ok(()));
    }

    #[test]
    fn what_can_not_be_meant_is_refused_by_name() {
        for (json, field) in [
            (r#"{"limit": 0}"#, "limit"),
            (r#"{"key_limit": 0}"#, "key_limit"),
            (r#"{"key": "tenant"}"#, "key"),
            (r#"{"timeout": 0}"#, "timeout"),
            (r#"{"run_ahead": 257}"#, "run_ahead"),
            (r#"{"retry": {"max_attempts": 0}}"#, "retry.max_attempts"),
            (r#"{"retry": {"backoff": "2m"}}"#, "retry.backoff_max"),
            (r#"{"schema": 5}"#, "schema"),
        ] {
            let policy: Policy = serde_json::from_str(json).expect(json);
            assert_eq!(policy.check().expect_err(json).field, field);
        }
        let error = serde_json::from_str::<Policy>(r#"{"limits": 1}"#).expect_err("unknown key").to_string();
        assert!(error.contains("limits") && error.contains("limit"), "{error}");
    }
}
