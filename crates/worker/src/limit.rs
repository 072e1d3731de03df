//! What of an ending fits into an envelope that every reader takes: size and depth of results, errors and their details.

use serde_json::Value;
use slotline_protocol::envelope::{DEPTH_MAX, ENVELOPE_BYTES_MAX};
use slotline_protocol::message::Failure;

use crate::check::clip;
use crate::duty::Json;

/// The largest result: what an envelope holds beside everything else that a completion says.
pub const RESULT_BYTES_MAX: usize = ENVELOPE_BYTES_MAX - (16 << 10);
/// The deepest nesting of a result or of an error's details; the envelope around them has a few levels of its own.
pub const RESULT_DEPTH_MAX: usize = DEPTH_MAX - 10;
/// Before escaping, which makes six bytes of one at worst.
const ERROR_MESSAGE_BYTES_MAX: usize = 16 << 10;
const STACK_TRACE_BYTES_MAX: usize = 64 << 10;
const DETAILS_BYTES_MAX: usize = 256 << 10;

/// Refuses a result that no reader would take.
pub(crate) fn result(result: Json) -> Result<Json, Failure> {
    let text = result.0.get();
    if text.len() > RESULT_BYTES_MAX {
        return Err(result_too_large());
    }
    if depth(text) > RESULT_DEPTH_MAX {
        let message = format!("the result is nested deeper than {RESULT_DEPTH_MAX}");
        return Err(Failure::new("result_too_large", message));
    }
    Ok(result)
}

pub(crate) fn result_too_large() -> Failure {
    Failure::new("result_too_large", format!("the result has more than {RESULT_BYTES_MAX} bytes"))
}

/// Clips an error to what a completion can carry.
pub(crate) fn failure(mut failure: Failure) -> Failure {
    clip(&mut failure.code, 128);
    clip(&mut failure.message, ERROR_MESSAGE_BYTES_MAX);
    if let Some(stack_trace) = &mut failure.stack_trace {
        clip(stack_trace, STACK_TRACE_BYTES_MAX);
    }
    failure.details = failure.details.filter(is_sendable);
    failure
}

fn is_sendable(details: &Value) -> bool {
    let text = details.to_string();
    text.len() <= DETAILS_BYTES_MAX && depth(&text) <= RESULT_DEPTH_MAX
}

/// The nesting of arrays and objects in JSON.
pub(crate) fn depth(json: &str) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for byte in json.bytes() {
        match (in_string, byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (true, b'"') => in_string = false,
            (true, _) => {}
            (false, b'"') => in_string = true,
            (false, b'[' | b'{') => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            (false, b']' | b'}') => depth = depth.saturating_sub(1),
            (false, _) => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_counts_brackets_outside_of_strings() {
        assert_eq!(depth("1"), 0);
        assert_eq!(depth(r#"{"a": ["[[[\"[["]}"#), 2);
    }

    #[test]
    fn a_worst_case_error_still_fits_an_envelope() {
        let nasty = "\u{1}".repeat(1 << 20);
        let error = Failure {
            stack_trace: Some(nasty.clone()),
            details: Some(Value::String(nasty.clone())),
            ..Failure::new(&nasty, nasty.clone())
        };
        let error = failure(error);
        assert_eq!(error.details, None);
        assert!(serde_json::to_string(&error).expect("plain data").len() < ENVELOPE_BYTES_MAX);
    }
}
