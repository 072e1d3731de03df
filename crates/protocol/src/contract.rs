//! The contract as documents that a machine reads, made from the types: JSON Schemas, and AsyncAPI.
//!
//! `slotline schema NAME` prints them; `contract/` has them as files, which a test holds against this module. Not here:
//! what executors and workers send each other, which is no contract with anyone else.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};

use crate::handler::{FromHandler, ToHandler};
use crate::message::{Accepted, CancelRequested, Message, Rejected, Requested, Settled};
use crate::{public, record};

const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";

/// One document of the contract.
#[derive(Clone, Copy, Debug)]
pub struct Document {
    /// As `slotline schema` takes it.
    pub name: &'static str,
    pub file: &'static str,
    /// What it describes, for people.
    pub about: &'static str,
    make: fn() -> Value,
}

/// All of them.
pub const DOCUMENTS: &[Document] = &[
    Document {
        name: "messages",
        file: "messages.schema.json",
        about: "what publishers send and receive, and what subscribers receive",
        make: messages,
    },
    Document {
        name: "handler",
        file: "handler.schema.json",
        about: "what a worker and its handler processes send each other",
        make: handler,
    },
    Document {
        name: "asyncapi",
        file: "asyncapi.json",
        about: "exchanges, keys and messages, as AsyncAPI",
        make: asyncapi,
    },
];

impl Document {
    pub fn named(name: &str) -> Option<&'static Self> {
        DOCUMENTS.iter().find(|document| document.name == name)
    }

    pub fn value(&self) -> Value {
        (self.make)()
    }

    /// As it is printed and kept.
    pub fn text(&self) -> String {
        format!("{:#}\n", self.value())
    }
}

/// A message of publishers or subscribers.
struct Described {
    /// Its name among the definitions: those of subscribers differ from what workers report under the same type.
    name: &'static str,
    message_type: &'static str,
    exchange: &'static str,
    routing_key: &'static str,
    about: &'static str,
}

const DESCRIBED: &[Described] = &[
    Described {
        name: "Requested",
        message_type: Requested::TYPE,
        exchange: "slotline.executions",
        routing_key: "execution.requested",
        about: "Asks for one execution of an action.",
    },
    Described {
        name: "CancelRequested",
        message_type: CancelRequested::TYPE,
        exchange: "slotline.executions",
        routing_key: "execution.cancel_requested",
        about: "Asks to end an execution, by the message_id of its request.",
    },
    Described {
        name: "Accepted",
        message_type: Accepted::TYPE,
        exchange: "",
        routing_key: "{reply_to}",
        about: "Answers a request that the journal has.",
    },
    Described {
        name: "Rejected",
        message_type: Rejected::TYPE,
        exchange: "",
        routing_key: "{reply_to}",
        about: "Answers a request that can't be taken.",
    },
    Described {
        name: "Settled",
        message_type: Settled::TYPE,
        exchange: "",
        routing_key: "{reply_to}",
        about: "Answers a request with the end of its execution.",
    },
    Described {
        name: "StatusChanged",
        message_type: public::StatusChanged::TYPE,
        exchange: "slotline.events",
        routing_key: "execution.status_changed",
        about: "An execution moved from one status to the next.",
    },
    Described {
        name: "Completed",
        message_type: public::Completed::TYPE,
        exchange: "slotline.events",
        routing_key: "execution.completed",
        about: "An execution reached its terminal status.",
    },
    Described {
        name: "Event",
        message_type: record::Event::TYPE,
        exchange: "slotline.events",
        routing_key: "execution.progress",
        about: "A start, a report, a gap or the end of an attempt; with lines of output under execution.progress.log.",
    },
];

fn generator() -> SchemaGenerator {
    SchemaSettings::draft2020_12().into_generator()
}

/// The definitions of all payloads. Each message is `#/$defs/<name>`.
fn definitions() -> Map<String, Value> {
    let mut generator = generator();
    fn add<T: JsonSchema>(generator: &mut SchemaGenerator) {
        generator.subschema_for::<T>();
    }
    add::<Requested>(&mut generator);
    add::<CancelRequested>(&mut generator);
    add::<Accepted>(&mut generator);
    add::<Rejected>(&mut generator);
    add::<Settled>(&mut generator);
    add::<public::StatusChanged>(&mut generator);
    add::<public::Completed>(&mut generator);
    add::<record::Event>(&mut generator);
    generator.take_definitions(true)
}

/// One envelope with any of the messages.
fn messages() -> Value {
    let payloads = DESCRIBED.iter().map(|Described { name, message_type, about, .. }| {
        json!({
            "description": about,
            "properties": {
                "message_type": { "const": message_type },
                "payload": { "$ref": format!("#/$defs/{name}") },
            },
        })
    });
    json!({
        "$schema": DIALECT,
        "title": "Messages of Slotline for publishers and subscribers",
        "description": "One envelope. A body is one, or from publishers an array of them.",
        "type": "object",
        "required": ["message_type", "payload"],
        "properties": envelope(),
        "anyOf": payloads.collect::<Vec<_>>(),
        "$defs": definitions(),
    })
}

fn envelope() -> Value {
    json!({
        "message_id": { "type": "string", "minLength": 1, "maxLength": 128, "description": "The idempotency key." },
        "message_type": { "enum": message_types() },
        "source": { "type": "string", "maxLength": 255 },
        "timestamp": { "type": "string", "format": "date-time" },
        "correlation_id": { "type": "string", "maxLength": 255 },
        "trace_id": { "type": "string", "pattern": "^[0-9a-f]{32}$" },
        "payload": { "type": "object" },
    })
}

fn message_types() -> Vec<&'static str> {
    DESCRIBED.iter().map(|described| described.message_type).collect()
}

/// Lines in both directions.
fn handler() -> Value {
    let mut generator = generator();
    let from = generator.subschema_for::<FromHandler>();
    let to = generator.subschema_for::<ToHandler<'static>>();
    json!({
        "$schema": DIALECT,
        "title": "slotline-handler/1",
        "description": "One line between a worker and a handler process.",
        "anyOf": [from, to],
        "$defs": generator.take_definitions(true),
    })
}

fn asyncapi() -> Value {
    let (mut channels, mut operations, mut messages) = (Map::new(), Map::new(), Map::new());
    for Described { name, message_type, exchange, routing_key, about } in DESCRIBED {
        let is_sent = *exchange == "slotline.executions";
        let mut channel = json!({
            "address": routing_key,
            "messages": { *name: { "$ref": format!("#/components/messages/{name}") } },
            "bindings": { "amqp": {
                "is": "routingKey",
                "exchange": { "name": exchange, "type": if exchange.is_empty() { "default" } else { "topic" }, "durable": true },
            } },
        });
        if exchange.is_empty() {
            channel["parameters"] = json!({ "reply_to": { "description": "The queue that the request names." } });
        }
        channels.insert((*name).to_owned(), channel);
        let operation = json!({
            "action": if is_sent { "send" } else { "receive" },
            "channel": { "$ref": format!("#/channels/{name}") },
            "summary": about,
            "bindings": { "amqp": { "deliveryMode": 2, "mandatory": is_sent } },
        });
        operations.insert((*name).to_owned(), operation);
        let message = json!({
            "name": message_type,
            "summary": about,
            "contentType": "application/json",
            "payload": {
                "type": "object",
                "required": ["message_type", "payload"],
                "properties": merged(envelope(), json!({
                    "message_type": { "const": message_type },
                    "payload": { "$ref": format!("#/components/schemas/{name}") },
                })),
            },
        });
        messages.insert((*name).to_owned(), message);
    }
    let schemas = moved(Value::Object(definitions()));
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "Slotline",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "For publishers of requests and subscribers to events, on RabbitMQ. `slotline` is the prefix of all names.",
        },
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
        "components": { "messages": messages, "schemas": schemas },
    })
}

fn merged(mut members: Value, further: Value) -> Value {
    if let (Value::Object(members), Value::Object(further)) = (&mut members, further) {
        members.extend(further);
    }
    members
}

/// Definitions with references to where AsyncAPI has them.
fn moved(schema: Value) -> Value {
    match schema {
        Value::Object(members) => {
            let moved_member = |(name, value): (String, Value)| match value {
                Value::String(text) if name == "$ref" => {
                    (name, text.replace("#/$defs/", "#/components/schemas/").into())
                }
                value => (name, moved(value)),
            };
            Value::Object(members.into_iter().map(moved_member).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(moved).collect()),
        other @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_)) => other,
    }
}
