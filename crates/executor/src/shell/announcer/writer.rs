//! An event of the record, written out for subscribers: one envelope a message.
//!
//! The content depends on the journal alone: published again by a later leader, an event has the same `message_id`.

use bytes::Bytes;
use slotline_broker::topology::events_exchange;
use slotline_broker::{Properties, Publication};
use slotline_protocol::envelope::{self, Envelope};
use slotline_protocol::message::{Failure, Json, Lineage, Message};
use slotline_protocol::record::{Event, What};
use slotline_protocol::{ExecutionId, Status, WorkerName, public};
use slotline_store::Facts;
use uuid::Uuid;

use crate::leader::heard::EventKey;

/// Writes for one term.
pub(super) struct Writer {
    pub(super) prefix: String,
    pub(super) source: String,
    pub(super) journal: Lineage,
}

impl Writer {
    /// The message of `event` under `key`, which must be one of the event's keys.
    pub(super) fn write(&self, key: EventKey, event: &Event, facts: &Facts) -> Publication {
        let message_id = self.message_id(key, event);
        let correlation_id = facts.correlation_id.clone().or_else(|| facts.message_id.clone());
        let correlation_id = correlation_id.unwrap_or_else(|| facts.id.to_string());
        let trace = self.trace(facts);
        let body = match (key, &event.what) {
            (EventKey::StatusChanged, What::Status { previous, new, worker }) => {
                let payload = status_changed(event, worker.clone(), *previous, *new);
                self.envelope(&payload, event, &message_id, &correlation_id, &trace)
            }
            (EventKey::StatusChanged, What::Settled { previous, status, .. }) => {
                let worker = facts.lease.as_ref().map(|(_, worker, _)| worker.clone());
                let payload = status_changed(event, worker, *previous, *status);
                self.envelope(&payload, event, &message_id, &correlation_id, &trace)
            }
            (_, What::Settled { status, result, error, .. }) => {
                let payload = completed(event, facts, *status, result.clone(), error.clone());
                self.envelope(&payload, event, &message_id, &correlation_id, &trace)
            }
            (
                _,
                What::Status { .. }
                | What::Started
                | What::Progress(_)
                | What::Log { .. }
                | What::Gap { .. }
                | What::Finished { .. },
            ) => self.envelope(event, event, &message_id, &correlation_id, &trace),
        };
        let is_progress = matches!(key, EventKey::Progress | EventKey::Log);
        let properties = Properties {
            message_id: Some(message_id),
            message_type: Some(if is_progress { Event::TYPE } else { key.as_str() }.to_owned()),
            app_id: Some(self.source.clone()),
            correlation_id: Some(correlation_id),
            timestamp: Some(event.timestamp),
            headers: [("traceparent".to_owned(), trace.parent)].into(),
            ..Properties::default()
        };
        Publication {
            exchange: events_exchange(&self.prefix),
            routing_key: key.as_str().to_owned(),
            body,
            properties,
            mandatory: false,
            // A durable queue of a subscriber loses no end when the broker restarts.
            persistent: !is_progress,
        }
    }

    fn envelope<M: Message>(
        &self,
        payload: &M,
        event: &Event,
        message_id: &str,
        correlation_id: &str,
        trace: &Trace,
    ) -> Bytes {
        envelope::write(&Envelope {
            message_id: Some(message_id.to_owned()),
            correlation_id: Some(correlation_id.to_owned()),
            trace_id: Some(trace.id.clone()),
            ..Envelope::new(payload, &self.source, event.timestamp)
        })
    }

    /// Of this event of this journal, the same from every leader. The end of an execution is one event and two
    /// messages.
    fn message_id(&self, key: EventKey, event: &Event) -> String {
        let (identity, generation) = (self.journal.identity.as_fields().0, self.journal.generation);
        let end = if key == EventKey::Completed { "-end" } else { "" };
        format!("{identity:08x}-{generation}-{}-{}{end}", event.execution_id, event.number)
    }

    fn trace(&self, facts: &Facts) -> Trace {
        let is_w3c = |id: &String| id.len() == 32 && id.bytes().all(|digit| digit.is_ascii_hexdigit());
        // An execution without its publisher's trace has a trace of its own.
        let own = || Uuid::new_v5(&self.journal.identity, facts.id.to_string().as_bytes()).simple().to_string();
        let id = facts.trace_id.clone().unwrap_or_else(own);
        let (trace_id, flags) =
            if is_w3c(&id) && facts.trace_id.is_some() { (id.clone(), "01") } else { (own(), "00") };
        Trace { parent: format!("00-{}-{}-{flags}", trace_id.to_ascii_lowercase(), span(facts.id)), id }
    }
}

struct Trace {
    id: String,
    /// As the header `traceparent` has it (W3C Trace Context).
    parent: String,
}

/// An execution is one span. Its id is never 0, which would be none.
fn span(id: ExecutionId) -> String {
    format!("{:016x}", id.0)
}

fn status_changed(event: &Event, worker: Option<WorkerName>, previous: Status, new: Status) -> public::StatusChanged {
    public::StatusChanged {
        execution_id: event.execution_id,
        action_ref: event.action_ref.clone(),
        attempt: event.attempt,
        number: event.number,
        worker,
        previous_status: previous,
        new_status: new,
        changed_at: event.timestamp,
    }
}

fn completed(
    event: &Event,
    facts: &Facts,
    status: Status,
    result: Option<Json>,
    error: Option<Failure>,
) -> public::Completed {
    let (fence, worker, incarnation) = match &facts.lease {
        Some((fence, worker, incarnation)) => (Some(*fence), Some(worker.clone()), Some(*incarnation)),
        None => (None, None, None),
    };
    public::Completed {
        execution_id: event.execution_id,
        action_id: facts.action_id,
        action_ref: event.action_ref.clone(),
        attempt: event.attempt,
        number: event.number,
        fence,
        worker,
        incarnation,
        status,
        result,
        error,
        started_at: facts.started_at,
        completed_at: event.timestamp,
    }
}

#[cfg(test)]
mod tests {
    use slotline_protocol::message::Failure;
    use slotline_protocol::{ActionId, ActionRef, Status, Timestamp};

    use super::*;

    fn writer() -> Writer {
        let journal = Lineage { identity: Uuid::from_u128(7 << 96), generation: 1 };
        Writer { prefix: "slotline".to_owned(), source: "executor/one".to_owned(), journal }
    }

    fn event(what: What) -> Event {
        let (execution_id, action_ref) = (ExecutionId(42), ActionRef::new("deploy.app").expect("a name"));
        Event { execution_id, action_ref, number: 2, attempt: 0, timestamp: Timestamp::from_micros(0), what }
    }

    fn facts() -> Facts {
        Facts {
            id: ExecutionId(42),
            action_id: ActionId(3),
            message_id: None,
            correlation_id: None,
            trace_id: None,
            lease: None,
            started_at: None,
        }
    }

    fn json(publication: &Publication) -> serde_json::Value {
        serde_json::from_slice(&publication.body).expect("JSON")
    }

    #[test]
    fn an_end_is_two_messages_with_one_number_and_ids_of_their_own() {
        let error = Some(Failure::new("queue_timeout", "waited too long"));
        let end = event(What::Settled { previous: Status::Queued, status: Status::Timeout, result: None, error });
        let [moved, ended] = [0, 1].map(|index| writer().write(EventKey::of(&end)[index], &end, &facts()));
        assert_eq!(
            (moved.routing_key.as_str(), ended.routing_key.as_str()),
            ("execution.status_changed", "execution.completed")
        );
        let (moved, ended) = (json(&moved), json(&ended));
        assert_eq!(
            (&moved["message_id"], &ended["message_id"]),
            (&"00000007-1-42-2".into(), &"00000007-1-42-2-end".into())
        );
        assert_eq!((&moved["payload"]["number"], &ended["payload"]["number"]), (&2.into(), &2.into()));
        assert_eq!(moved["payload"]["previous_status"], "queued");
        assert_eq!(ended["payload"]["error"]["code"], "queue_timeout");
        assert!(ended["payload"].get("worker").is_none(), "no worker had it");
    }

    #[test]
    fn every_message_can_be_correlated_and_traced() {
        let started = event(What::Started);
        let of = |facts: &Facts| writer().write(EventKey::Progress, &started, facts).properties;
        let bare = of(&facts());
        assert_eq!(bare.correlation_id.as_deref(), Some("42"));
        assert!(bare.headers["traceparent"].ends_with("-000000000000002a-00"), "{:?}", bare.headers);
        let named = Facts { message_id: Some("m-1".to_owned()), ..facts() };
        assert_eq!(of(&named).correlation_id.as_deref(), Some("m-1"));
        let trace_id = Some("0af7651916cd43dd8448eb211c80319c".to_owned());
        let traced = Facts { trace_id, correlation_id: Some("c-1".to_owned()), ..named };
        assert_eq!(of(&traced).correlation_id.as_deref(), Some("c-1"));
        assert_eq!(of(&traced).headers["traceparent"], "00-0af7651916cd43dd8448eb211c80319c-000000000000002a-01");
    }
}
