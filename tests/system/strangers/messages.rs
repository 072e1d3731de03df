//! Messages that are good, that are bad, and that only Slotline's own processes may publish.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use slotline_broker::{Properties, Publication, topology};

use super::{GOOD, LINES, NUMBER, OVERSIZED_EVERY, PREFIX, raw};

pub(super) fn publication(body: impl Into<Vec<u8>>, properties: Properties) -> Publication {
    Publication {
        exchange: topology::executions_exchange(PREFIX),
        routing_key: "execution.requested".to_owned(),
        body: body.into().into(),
        properties,
        mandatory: true,
        persistent: true,
    }
}

pub(super) fn line_of(number: usize) -> String {
    format!("line.n{}", number % LINES)
}

pub(super) fn lines() -> impl Iterator<Item = String> {
    (0..LINES).map(line_of).chain([raw::LINE.to_owned()])
}

pub(super) fn good_id(number: usize) -> String {
    format!("{GOOD}{number}")
}

pub(super) fn request(payload: &Value) -> String {
    json!({"message_type": "execution.requested", "payload": payload}).to_string()
}

pub(super) fn good(number: usize) -> Publication {
    let body = request(&json!({"action_ref": line_of(number), "parameters": {"n": number}}));
    publication(body, Properties { message_id: Some(good_id(number)), ..Properties::default() })
}

/// A bad message, and why it will be put aside.
pub(super) fn bad(number: usize) -> (Publication, &'static str) {
    let line = line_of(number);
    let sound = || json!({"action_ref": line, "parameters": {"n": number}});
    let with = |name: &str, value: Value| {
        let mut payload = sound();
        payload[name] = value;
        request(&payload).into_bytes()
    };
    let envelope = |name: &str, value: Value| {
        let mut envelope = json!({"message_type": "execution.requested", "payload": sound()});
        envelope[name] = value;
        envelope.to_string().into_bytes()
    };
    let mut message_id = format!("bad-{number}");
    let (body, reason): (Vec<u8>, _) = if number.is_multiple_of(OVERSIZED_EVERY) {
        (with("parameters", json!({"n": number, "rest": "x".repeat(1 << 20)})), "oversized")
    } else {
        match number % 24 {
            0 => (Vec::new(), "malformed"),
            1 => (b"execution.requested".to_vec(), "malformed"),
            2 => (b"\xff\xfe\x00{}".to_vec(), "malformed"),
            3 => (request(&sound()).into_bytes()[..40].to_vec(), "malformed"),
            4 => ([request(&sound()).as_bytes(), b"}"].concat(), "malformed"),
            5 => (with("parameters", json!(nested(200))), "malformed"),
            6 => (json!({"payload": sound()}).to_string().into_bytes(), "malformed"),
            7 => (json!({"message_type": "execution.requested"}).to_string().into_bytes(), "malformed"),
            8 => (envelope("message_id", json!("m".repeat(129))), "malformed"),
            9 => (envelope("message_id", json!("\u{1F600}".repeat(129))), "malformed"),
            10 => (envelope("source", json!("a\0b")), "malformed"),
            11 => (envelope("correlation_id", json!(7)), "malformed"),
            12 => (b"[7]".to_vec(), "malformed"),
            13 => (envelope("message_type", json!("execution.wished_for")), "unknown_type"),
            14 => (envelope("message_type", json!("execution.scheduled")), "unknown_type"),
            15 => (with("action_ref", json!(7)), "invalid_payload"),
            16 => (with("parameters", json!([number])), "invalid_payload"),
            17 => (with("timeout_seconds", json!(-1)), "invalid_payload"),
            18 => (with("progress", json!({"update_step": 0})), "invalid_payload"),
            19 => (with("concurrency_key", json!("k".repeat(257))), "invalid_payload"),
            20 => (envelope("message_type", json!("execution.cancel_requested")), "invalid_payload"),
            21 => (with("action_ref", json!("line.unheard_of")), "unknown_action"),
            22 => (with("parameters", json!({"n": "a word"})), "invalid_parameters"),
            _ => {
                message_id = good_id(number);
                (with("parameters", json!({"n": number + 1})), "idempotency_conflict")
            }
        }
    };
    let headers = BTreeMap::from([(NUMBER.to_owned(), number.to_string())]);
    (publication(body, Properties { message_id: Some(message_id), headers, ..Properties::default() }), reason)
}

pub(super) fn nested(depth: usize) -> Value {
    (0..depth).fold(json!(1), |inner, _| json!([inner]))
}

/// Messages that only Slotline's own processes may publish.
pub(super) fn forged() -> impl Iterator<Item = Publication> {
    let keys = ["execution.completed", "execution.returned", "execution.status_changed", "execution.progress"];
    let keys = keys.into_iter().chain(["worker.heartbeat", "worker.ended", "executor.hello"]);
    keys.flat_map(|key| {
        let empty = json!({"message_type": key, "payload": {}}).to_string();
        let bodies = [b"\xff".to_vec(), Vec::new(), b"[[]]".to_vec(), b"[1,{}]".to_vec(), empty.into_bytes()];
        bodies.into_iter().map(move |body| Publication {
            routing_key: key.to_owned(),
            mandatory: false,
            ..publication(body, Properties::default())
        })
    })
}
