//! Checks of a request that types alone don't make. The executor checks every request; the API checks it earlier, to
//! answer at once.

use std::borrow::Cow;

use crate::message::Requested;
use crate::{Reason, parameters};

/// The most characters a concurrency key may have.
pub const CONCURRENCY_KEY_CHARS_MAX: usize = 256;

/// Which member of a request is refused, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct InvalidRequest {
    pub field: Cow<'static, str>,
    pub message: String,
}

impl InvalidRequest {
    /// The reason for which the request's message is put aside.
    pub fn reason(&self) -> Reason {
        match self.field.starts_with("parameters/") {
            true => Reason::InvalidParameters,
            false => Reason::InvalidPayload,
        }
    }
}

impl Requested {
    pub fn check(&self) -> Result<(), InvalidRequest> {
        let refuse = |field: &'static str, message: &str| {
            Err(InvalidRequest { field: field.into(), message: message.to_owned() })
        };
        if !self.parameters.get().trim_start().starts_with('{') {
            return refuse("parameters", "expected a JSON object");
        }
        parameters::check(self.parameters.get()).map_err(|invalid| InvalidRequest {
            field: format!("parameters{}", invalid.pointer).into(),
            message: invalid.message,
        })?;
        if let Some(key) = &self.concurrency_key {
            check_key(key).map_err(|message| InvalidRequest { field: "concurrency_key".into(), message })?;
        }
        if self.timeout_seconds.is_some_and(|timeout| timeout.is_zero()) {
            return refuse("timeout_seconds", "expected more than zero, or null for the action's own");
        }
        Ok(())
    }
}

/// Whether `key` can be a concurrency key, also where it was found in the parameters.
pub fn check_key(key: &str) -> Result<(), String> {
    if key.is_empty() || key.chars().count() > CONCURRENCY_KEY_CHARS_MAX || key.contains('\0') {
        return Err(format!("expected 1 to {CONCURRENCY_KEY_CHARS_MAX} characters and no NUL"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_not_be_meant_is_refused_by_name() {
        for (json, field) in [
            (r#"{"action_ref": "a.b", "parameters": [1]}"#, "parameters"),
            (r#"{"action_ref": "a.b", "parameters": null}"#, "parameters"),
            (r#"{"action_ref": "a.b", "parameters": {"note": ["cut \ud83d"]}}"#, "parameters/note/0"),
            (r#"{"action_ref": "a.b", "parameters": {"my_app": 1, "my~app": 2}}"#, "parameters/my~0app"),
            (r#"{"action_ref": "a.b", "concurrency_key": ""}"#, "concurrency_key"),
            (r#"{"action_ref": "a.b", "concurrency_key": "a\u0000b"}"#, "concurrency_key"),
            (r#"{"action_ref": "a.b", "timeout_seconds": 0}"#, "timeout_seconds"),
        ] {
            let request: Requested = serde_json::from_str(json).expect(json);
            assert_eq!(request.check().expect_err(json).field, field);
        }
        let request: Requested = serde_json::from_str(r#"{"action_ref": "a.b"}"#).expect("the least request");
        assert_eq!(request.check(), Ok(()));
    }
}
