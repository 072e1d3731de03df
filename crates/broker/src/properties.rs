//! The properties that travel beside a body.

use std::collections::BTreeMap;

use slotline_protocol::Timestamp;
use slotline_protocol::envelope::{Defaults, trace_id};

/// The properties of a message, as far as Slotline reads or writes them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Properties {
    pub message_id: Option<String>,
    /// The AMQP property `type`.
    pub message_type: Option<String>,
    pub app_id: Option<String>,
    /// `None`: JSON, as everything that Slotline publishes.
    pub content_type: Option<String>,
    pub content_encoding: Option<String>,
    pub correlation_id: Option<String>,
    pub reply_to: Option<String>,
    /// To the second, as AMQP carries no more.
    pub timestamp: Option<Timestamp>,
    /// As its publisher set it. Read only: nothing that Slotline publishes has one.
    pub priority: Option<u8>,
    /// The user that published it, which RabbitMQ has checked against the connection. Read only, as the priority is:
    /// RabbitMQ refuses a user other than the connection's.
    pub user_id: Option<String>,
    /// String headers; others are read as text.
    pub headers: BTreeMap<String, String>,
}

/// The priority that a message without one has on RabbitMQ.
pub const PRIORITY_NORMAL: u8 = 4;

impl Properties {
    /// The priority, if it differs from that of messages without one: quorum queues of RabbitMQ 4 deliver such a
    /// message out of turn.
    pub fn unequal_priority(&self) -> Option<u8> {
        self.priority.filter(|priority| *priority != PRIORITY_NORMAL)
    }

    /// The values for members that an envelope leaves out.
    pub fn defaults(&self) -> Defaults {
        Defaults {
            message_id: self.message_id.clone(),
            message_type: self.message_type.clone(),
            source: self.app_id.clone(),
            timestamp: self.timestamp,
            correlation_id: self.correlation_id.clone(),
            trace_id: self.headers.get("traceparent").and_then(|header| trace_id(header)),
            content_encoding: self.content_encoding.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trace_id_comes_from_the_traceparent_header() {
        let mut properties = Properties { app_id: Some("billing".into()), ..Properties::default() };
        properties
            .headers
            .insert("traceparent".into(), "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into());
        let defaults = properties.defaults();
        assert_eq!(defaults.trace_id.as_deref(), Some("0af7651916cd43dd8448eb211c80319c"));
        assert_eq!(defaults.source.as_deref(), Some("billing"));
    }
}
