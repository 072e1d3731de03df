//! How much of an ending fits into an envelope that every reader takes: size and depth of results, errors and their
//! details.

use serde_json::Value;
use slotline_protocol::Sizes;
use slotline_protocol::envelope::DEPTH_MAX;
use slotline_protocol::message::Failure;

use super::{Ending, JsonText};
use crate::text::clip;

/// The largest result: what an envelope holds beside the other members of a completion.
pub const RESULT_BYTES_MAX: usize = Sizes::OUTCOME_FULL;
/// The deepest nesting of a result or of an error's details; the envelope around them has a few levels of its own.
pub const RESULT_DEPTH_MAX: usize = DEPTH_MAX - 10;
/// Before escaping, which makes six bytes of one at worst.
const ERROR_MESSAGE_BYTES_MAX: usize = 16 << 10;
const STACK_TRACE_BYTES_MAX: usize = 64 << 10;
const DETAILS_BYTES_MAX: usize = 256 << 10;

/// What of an ending the broker takes: a result that it does not take is a failure, and an error is clipped. Where the
/// broker has no limits, an ending that any reader takes loses nothing.
pub(crate) fn fit(mut ending: Ending, sizes: Sizes) -> Ending {
    let most = sizes.outcome();
    if most >= RESULT_BYTES_MAX {
        return ending;
    }
    if ending.result.as_ref().is_ok_and(|result| result.0.get().len() > most) {
        ending.result = Err(Failure::new(
            "result_too_large",
            format!("the result has more than the {most} bytes that the broker leaves for it (max_message_size)"),
        ));
    }
    if let Err(failure) = &mut ending.result {
        clip_to(failure, most);
        let failure_bytes = bytes(failure);
        ending.left = ending.left.filter(|left| left.0.get().len() + failure_bytes <= most);
    }
    ending
}

/// Drops the details of an error, and then the ends of its texts, where it has more than half of so many bytes: the
/// completion must have room for the last reports.
fn clip_to(failure: &mut Failure, most: usize) {
    if bytes(failure) > most / 2 {
        failure.details = None;
    }
    if bytes(failure) > most / 2 {
        // Escaping makes six bytes of one at worst.
        clip(&mut failure.message, most / 48);
        if let Some(stack_trace) = &mut failure.stack_trace {
            clip(stack_trace, most / 48);
        }
    }
}

fn bytes(failure: &Failure) -> usize {
    serde_json::to_vec(failure).map_or(0, |json| json.len())
}

/// Refuses a result that some reader would refuse.
pub(crate) fn result(result: JsonText) -> Result<JsonText, Failure> {
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
    use slotline_protocol::Timestamp;
    use slotline_protocol::envelope::ENVELOPE_BYTES_MAX;

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

    #[test]
    fn what_the_broker_does_not_take_of_a_result_is_a_failure_and_of_an_error_its_ends() {
        let small = Sizes::of(Sizes::MESSAGE_MIN).expect("enough");
        let json = |bytes: usize| {
            let text = format!("\"{}\"", "x".repeat(bytes - 2));
            JsonText(serde_json::value::RawValue::from_string(text).expect("JSON").into())
        };
        let ended = |result, left| Ending { result, left, return_code: None, ended_at: Timestamp::from_micros(0) };
        for (bytes, sizes, fits) in
            [(small.outcome(), small, true), (small.outcome() + 1, small, false), (RESULT_BYTES_MAX, Sizes::FULL, true)]
        {
            assert_eq!(fit(ended(Ok(json(bytes)), None), sizes).result.is_ok(), fits, "{bytes}");
        }
        let nasty = "\u{1}".repeat(1 << 20);
        let error = Failure { stack_trace: Some(nasty.clone()), ..Failure::new("exit_status", nasty.clone()) };
        let ending = fit(ended(Err(failure(error)), Some(json(small.outcome() - 100))), small);
        let error = ending.result.expect_err("it failed");
        assert!(bytes(&error) <= small.outcome() / 2, "{}", bytes(&error));
        assert!(error.message.len() > 1_000 && ending.left.is_none());
    }
}
