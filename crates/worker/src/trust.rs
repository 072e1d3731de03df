//! What proofs are at this worker's door: the judge of what arrives, and the headers of what leaves.
//!
//! What is believed is decided in [`slotline_protocol::proof::Trust`].

use slotline_broker::{Delivery, Publication};
use slotline_protocol::Incarnation;
use slotline_protocol::message::{Heartbeat, Hello, Message};
use slotline_protocol::proof::{self, Letter, NONCE_HEADER, PROOF_HEADER, TOKEN_HEADER, Worth};
use uuid::Uuid;

/// One incarnation's standing with the executors of a journal.
#[derive(Debug)]
pub(crate) struct Trust {
    incarnation: Incarnation,
    standing: proof::Trust,
    refused: u64,
}

impl Trust {
    pub(crate) fn new(incarnation: Incarnation) -> Self {
        let nonce = Uuid::new_v4().simple().to_string();
        Self { incarnation, standing: proof::Trust::new(incarnation, nonce), refused: 0 }
    }

    /// Judges what came through the incarnation's queue, and takes the token that it may bring.
    pub(crate) fn judge(&mut self, delivery: &Delivery) -> Worth {
        let header = |name| delivery.properties.headers.get(name).map(String::as_str);
        let worth = self.standing.judge(Letter {
            is_to_all: delivery.routing_key == Hello::TYPE,
            proof: header(PROOF_HEADER),
            nonce: header(NONCE_HEADER),
            token: header(TOKEN_HEADER),
            body: &delivery.body,
        });
        if worth == Worth::Nothing {
            self.refused += 1;
            if self.refused.is_power_of_two() {
                let (incarnation, count) = (self.incarnation, self.refused);
                tracing::warn!(worker.incarnation = %incarnation, count, "dropped orders that no executor has proved to have written");
            }
        }
        worth
    }

    /// Whether executors know this incarnation, as far as it knows.
    pub(crate) fn is_known(&self) -> bool {
        self.standing.is_known()
    }

    /// Adds the proof to a report that is about to leave.
    pub(crate) fn prove(&self, publication: &mut Publication) {
        let headers = &mut publication.properties.headers;
        if publication.routing_key == Heartbeat::TYPE {
            headers.insert(NONCE_HEADER.to_owned(), self.standing.nonce().to_owned());
        }
        if let Some(proof) = self.standing.proof(&publication.body) {
            headers.insert(PROOF_HEADER.to_owned(), proof);
        }
    }
}

#[cfg(test)]
mod tests;
