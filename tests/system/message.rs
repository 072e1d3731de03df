//! Messages as a foreign publisher writes them: by hand, without Slotline's own types.

use serde_json::{Value, json};

/// One message for `publish.py`.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    routing_key: String,
    body: String,
    properties: serde_json::Map<String, Value>,
}

impl Message {
    pub(crate) fn raw(routing_key: &str, body: impl Into<String>) -> Self {
        Self { routing_key: routing_key.to_owned(), body: body.into(), properties: serde_json::Map::new() }
    }

    /// A request for one execution.
    pub(crate) fn request(action_ref: &str, parameters: Value) -> Self {
        Self::payload("execution.requested", json!({"action_ref": action_ref, "parameters": parameters}))
    }

    /// A request that names its concurrency key.
    pub(crate) fn keyed(action_ref: &str, key: &str, parameters: Value) -> Self {
        let payload = json!({"action_ref": action_ref, "concurrency_key": key, "parameters": parameters});
        Self::payload("execution.requested", payload)
    }

    /// An envelope with nothing but its type and payload.
    pub(crate) fn payload(message_type: &str, payload: Value) -> Self {
        Self::raw(message_type, json!({"message_type": message_type, "payload": payload}).to_string())
    }

    /// Many requests in one body.
    pub(crate) fn bulk(action_ref: &str, parameters: impl IntoIterator<Item = Value>) -> Self {
        let payloads =
            parameters.into_iter().map(|parameters| json!({"action_ref": action_ref, "parameters": parameters}));
        Self::payloads("execution.requested", payloads)
    }

    /// Many envelopes of one type in one body.
    pub(crate) fn payloads(message_type: &str, payloads: impl IntoIterator<Item = Value>) -> Self {
        let members: Vec<Value> =
            payloads.into_iter().map(|payload| json!({"message_type": message_type, "payload": payload})).collect();
        Self::raw(message_type, Value::from(members).to_string())
    }

    /// With the AMQP property `message_id`.
    pub(crate) fn id(mut self, id: &str) -> Self {
        self.properties.insert("message_id".to_owned(), id.into());
        self
    }

    /// With the AMQP property `user_id`.
    pub(crate) fn user(mut self, user: &str) -> Self {
        self.properties.insert("user_id".to_owned(), user.into());
        self
    }

    /// With the AMQP property `priority`.
    pub(crate) fn priority(mut self, priority: u8) -> Self {
        self.properties.insert("priority".to_owned(), priority.into());
        self
    }

    pub(crate) fn line(&self) -> String {
        let line = json!({"routing_key": self.routing_key, "body": self.body, "properties": self.properties});
        format!("{line}\n")
    }
}

/// `0000`, `0001`, ...: tags that sort as their numbers do.
pub(crate) fn tags(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{n:05}")).collect()
}
