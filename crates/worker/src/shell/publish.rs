//! The driver's messages as the broker takes and delivers them, and the points at which tests cut a worker off.

use futures::FutureExt;
use futures::future::BoxFuture;
use slotline_broker::{Delivery, Properties, PublishError, Receipt, Session, crash, topology};
use slotline_protocol::message::{Completed, Ended, Hello, Message, Returned};
use slotline_protocol::proof::{NONCE_HEADER, PROOF_HEADER, TOKEN_HEADER};

use crate::driver::{self, Confirm, OutgoingMessage};
use crate::duty::Effect;

/// Resolves to the number of a publication and its confirm.
pub(crate) type Confirming = BoxFuture<'static, (u64, Confirm)>;

pub(crate) struct Publisher {
    exchange: String,
}

impl Publisher {
    /// `prefix`: of the exchanges and queues on the broker.
    pub(crate) fn new(prefix: &str) -> Self {
        Self { exchange: topology::work_exchange(prefix) }
    }

    /// Publishes through the current session. Without a session the publication is lost.
    pub(crate) fn publish(&self, session: Option<&Session>, publication: OutgoingMessage) -> Confirming {
        let OutgoingMessage { id, routing_key, message_type, body, nonce, proof } = publication;
        let Some(session) = session else { return Box::pin(std::future::ready((id, Confirm::Lost))) };
        let mut properties = Properties { message_type: Some(message_type.to_owned()), ..Properties::default() };
        let headers = [(NONCE_HEADER, nonce), (PROOF_HEADER, proof)];
        properties.headers.extend(headers.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
        let receipt = session.publish(slotline_broker::Publication {
            exchange: self.exchange.clone(),
            routing_key: routing_key.to_owned(),
            body,
            properties,
            mandatory: false,
            // The journal is the truth: what a broker loses is reported again.
            persistent: false,
        });
        match message_type {
            Completed::TYPE | Returned::TYPE => crash::point("worker.completion.after"),
            Ended::TYPE => crash::point("worker.farewell.after"),
            _ => {}
        }
        confirming(id, receipt)
    }
}

fn confirming(id: u64, receipt: Receipt) -> Confirming {
    let confirm = |receipt| match receipt {
        Ok(()) => Confirm::Stored,
        Err(PublishError::Nacked | PublishError::Full) => Confirm::Refused,
        Err(PublishError::Returned | PublishError::TooLarge) => Confirm::Dropped,
        Err(PublishError::Overdue | PublishError::SessionEnded) => Confirm::Lost,
    };
    receipt.map(move |receipt| (id, confirm(receipt))).boxed()
}

/// A delivery as the driver takes it.
pub(crate) fn delivery(delivery: &Delivery) -> driver::ReceivedMessage {
    let header = |name| delivery.properties.headers.get(name).cloned();
    driver::ReceivedMessage {
        is_to_all: delivery.routing_key == Hello::TYPE,
        proof: header(PROOF_HEADER),
        nonce: header(NONCE_HEADER),
        token: header(TOKEN_HEADER),
        defaults: delivery.properties.defaults(),
        body: delivery.body.clone(),
    }
}

/// Passes the crash points of these effects before they are carried out.
pub(crate) fn pass_points(effects: &[Effect]) {
    for effect in effects {
        match effect {
            Effect::Complete(_) => crash::point("worker.completion.before"),
            Effect::ChangeStatus(_) => crash::point("worker.started.after"),
            Effect::Beat { .. } => crash::point("worker.heartbeat.before"),
            Effect::Farewell(_) => crash::point("worker.farewell.before"),
            _ => {}
        }
    }
}
