//! Messages in envelopes, with the proofs in their headers: as they travel between a worker and the executors.
//!
//! What is believed is decided in [`slotline_protocol::proof::Trust`].

use bytes::Bytes;
use slotline_protocol::envelope::{self, Envelope};
use slotline_protocol::message::{Cancel, Heartbeat, Hello, Message, Recall, Recorded, Resend, Scheduled};
use slotline_protocol::proof::{Letter, Trust, Worth};
use slotline_protocol::{Incarnation, Timestamp, Unreadable, WorkerName};
use uuid::Uuid;

use super::wire::{Trace, Wire, WorkerMessage};
use super::{LogLine, OutgoingMessage, ReceivedMessage};
use crate::duty::Order;

#[derive(Clone, Debug)]
pub struct Envelopes {
    source: String,
    /// What message ids begin with: one of them for each envelope would cost more than all else about it.
    id: Uuid,
    written: u64,
    incarnation: Incarnation,
    trust: Trust,
    /// Messages that were worth nothing.
    refused: u64,
}

impl Envelopes {
    /// `id` is of this process alone, and `nonce` can't be guessed.
    pub fn new(worker: &WorkerName, id: Uuid, incarnation: Incarnation, nonce: String) -> Self {
        let trust = Trust::new(incarnation, nonce);
        Self { source: format!("worker/{worker}"), id, written: 0, incarnation, trust, refused: 0 }
    }

    fn envelope<M: Message>(&self, message: &M, trace: Trace<'_>, now: Timestamp) -> Bytes {
        envelope::write(&Envelope {
            message_id: Some(format!("{}-{}", self.id.simple(), self.written)),
            correlation_id: trace.correlation_id.map(str::to_owned),
            trace_id: trace.trace_id.map(str::to_owned),
            ..Envelope::new(message, &self.source, now)
        })
    }
}

impl Wire for Envelopes {
    fn judge(&mut self, delivery: &ReceivedMessage) -> Worth {
        let worth = self.trust.judge(Letter {
            is_to_all: delivery.is_to_all,
            proof: delivery.proof.as_deref(),
            nonce: delivery.nonce.as_deref(),
            token: delivery.token.as_deref(),
            body: &delivery.body,
        });
        self.refused += u64::from(worth == Worth::Nothing);
        worth
    }

    fn read(&mut self, delivery: &ReceivedMessage, mut take: impl FnMut(Result<Order, Unreadable>)) {
        match envelope::read_own(&delivery.body, delivery.defaults.clone()) {
            Ok(members) => members.iter().for_each(|member| take(member.and_then(|envelope| order(&envelope)))),
            Err(error) => take(Err(error)),
        }
    }

    fn write(&mut self, message: WorkerMessage<'_>, trace: Trace<'_>, now: Timestamp) -> Bytes {
        self.written += 1;
        match message {
            WorkerMessage::Completed(message) => self.envelope(message, trace, now),
            WorkerMessage::Returned(message) => self.envelope(message, trace, now),
            WorkerMessage::StatusChanged(message) => self.envelope(message, trace, now),
            WorkerMessage::Progress(message) => self.envelope(message, trace, now),
            WorkerMessage::Heartbeat(message) => self.envelope(message, trace, now),
            WorkerMessage::Ended(message) => self.envelope(message, trace, now),
        }
    }

    fn prove(&self, publication: &mut OutgoingMessage) {
        publication.nonce = (publication.message_type == Heartbeat::TYPE).then(|| self.trust.nonce().to_owned());
        publication.proof = self.trust.proof(&publication.body);
    }

    fn is_known(&self) -> bool {
        self.trust.is_known()
    }

    fn unproven(&self) -> Option<LogLine> {
        let (incarnation, count) = (self.incarnation, self.refused);
        count.is_power_of_two().then_some(LogLine::Unproven { incarnation, count })
    }

    fn rename(&mut self, incarnation: Incarnation, nonce: String) {
        self.trust = Trust::new(incarnation, nonce);
        (self.incarnation, self.refused) = (incarnation, 0);
    }
}

/// Reads what an executor wrote.
fn order(envelope: &Envelope<'_>) -> Result<Order, Unreadable> {
    Ok(match &*envelope.message_type {
        Scheduled::TYPE => {
            let mut order: Scheduled = envelope.open()?;
            order.correlation_id = order.correlation_id.or_else(|| envelope.correlation_id.clone());
            order.trace_id = order.trace_id.or_else(|| envelope.trace_id.clone());
            Order::Scheduled(order)
        }
        Cancel::TYPE => Order::Cancel(envelope.open()?),
        Recall::TYPE => Order::Recall(envelope.open()?),
        Recorded::TYPE => Order::Recorded(envelope.open()?),
        Resend::TYPE => Order::Resend(envelope.open()?),
        Hello::TYPE => Order::Hello(envelope.open()?),
        other => {
            return Err(Unreadable {
                reason: envelope::Reason::UnknownType,
                detail: format!("{other:?} is nothing that a worker is told"),
                message_id: envelope.message_id.clone(),
            });
        }
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use slotline_protocol::envelope::Defaults;
    use slotline_protocol::proof::{Channel, NONCE_HEADER, PROOF_HEADER, Ring, SECRET_BYTES, Secret, Speaker};

    use super::*;

    fn incarnation() -> Incarnation {
        Incarnation(Uuid::from_u128(1))
    }

    #[test]
    fn a_report_bears_the_proof_and_only_a_heartbeat_the_nonce() {
        let name = WorkerName::new("w1").expect("a name");
        let mut wire = Envelopes::new(&name, Uuid::from_u128(2), incarnation(), "the nonce".to_owned());
        let report = |wire: &Envelopes, message_type: &'static str| {
            let body = Bytes::new();
            let mut publication =
                OutgoingMessage { id: 1, routing_key: message_type, message_type, body, nonce: None, proof: None };
            wire.prove(&mut publication);
            let headers = [(NONCE_HEADER, publication.nonce), (PROOF_HEADER, publication.proof)];
            headers.into_iter().filter_map(|(name, value)| Some((name, value?))).collect::<BTreeMap<_, _>>()
        };
        assert!(report(&wire, "execution.completed").is_empty());
        assert_eq!(report(&wire, Heartbeat::TYPE).into_keys().collect::<Vec<_>>(), [NONCE_HEADER]);
        let ring = Ring::new(Secret::new(&[1; SECRET_BYTES]).expect("long enough"));
        let (proof, nonce) = (ring.order(incarnation(), b""), wire.trust.nonce().to_owned());
        let delivery = ReceivedMessage {
            is_to_all: false,
            proof: Some(proof),
            nonce: Some(nonce.clone()),
            token: Some(ring.token(incarnation()).to_string()),
            defaults: Defaults::default(),
            body: Bytes::new(),
        };
        assert_eq!(wire.judge(&delivery), Worth::Introduction);
        assert_eq!(report(&wire, "execution.completed").into_keys().collect::<Vec<_>>(), [PROOF_HEADER]);
        let beat = report(&wire, Heartbeat::TYPE);
        assert_eq!(beat[NONCE_HEADER], nonce);
        let speaker = ring.speaker(Some(&beat[PROOF_HEADER]), Some(&nonce), b"");
        assert_eq!(speaker, Speaker::Worker(incarnation()));
        assert!(!ring.is_executors(Channel::Call, Some(&beat[PROOF_HEADER]), b""));
    }
}
