//! A publisher as careful as any should be: one request after the other, each repeated until it is confirmed.
//!
//! So the order in which the broker took them is known, and every one has its `message_id`.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use slotline_broker::{Broker, Properties, Publication, Session, Supervisor, topology};
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::history::{Entry, Fact};

/// Wait before a message that was not taken goes out again.
const AGAIN: Duration = Duration::from_millis(200);

/// What publishers sent and which confirms they received.
#[derive(Clone, Default)]
pub(crate) struct Notebook(Arc<Mutex<Vec<Entry>>>);

impl Notebook {
    pub(crate) fn note(&self, fact: Fact) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Entry { at: clock::now(), fact });
    }

    pub(crate) fn read(&self) -> Vec<Entry> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many requests have been confirmed.
    pub(crate) fn confirmed(&self) -> usize {
        let notes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        notes.iter().filter(|note| matches!(note.fact, Fact::Confirmed { .. })).count()
    }
}

/// One message: a request or several, or a cancellation.
pub(crate) struct Message {
    message_type: &'static str,
    /// Ids and payloads.
    members: Vec<(Option<String>, Value)>,
}

impl Message {
    pub(crate) fn requests(members: impl IntoIterator<Item = (String, Value)>) -> Self {
        let members = members.into_iter().map(|(id, payload)| (Some(id), payload)).collect();
        Self { message_type: "execution.requested", members }
    }

    pub(crate) fn cancel(id: &str) -> Self {
        let payload = json!({"message_id": id, "reason": "chaos"});
        Self { message_type: "execution.cancel_requested", members: vec![(None, payload)] }
    }

    fn publication(&self, prefix: &str) -> Publication {
        let envelope = |(id, payload): &(Option<String>, Value)| match id {
            Some(id) => json!({"message_type": self.message_type, "message_id": id, "payload": payload}),
            None => json!({"message_type": self.message_type, "payload": payload}),
        };
        let body = match self.members.as_slice() {
            [one] => envelope(one),
            several => several.iter().map(envelope).collect(),
        };
        Publication {
            exchange: topology::executions_exchange(prefix),
            routing_key: self.message_type.to_owned(),
            body: body.to_string().into(),
            properties: Properties::default(),
            mandatory: true,
            persistent: true,
        }
    }
}

pub(crate) struct Publisher {
    prefix: String,
    supervisor: Supervisor,
    session: Option<Session>,
    notes: Notebook,
}

impl Publisher {
    pub(crate) fn new(url: &str, prefix: &str, notes: Notebook) -> anyhow::Result<Self> {
        let supervisor = Supervisor::new(Broker::rabbit(url, prefix)?, "chaos publisher");
        Ok(Self { prefix: prefix.to_owned(), supervisor, session: None, notes })
    }

    /// Returns when it is confirmed.
    pub(crate) async fn publish(&mut self, message: &Message) {
        let ids = || message.members.iter().filter_map(|(id, _)| id.as_deref().map(Arc::from));
        for request in ids() {
            self.notes.note(Fact::Enqueued { request });
        }
        loop {
            let session = match self.session.take().filter(|session| !session.is_over()) {
                Some(session) => session,
                None => self.supervisor.next().await,
            };
            let taken = session.publish(message.publication(&self.prefix)).await;
            self.session = Some(session);
            if taken.is_ok() {
                break;
            }
            tokio::time::sleep(AGAIN).await;
        }
        for request in ids() {
            self.notes.note(Fact::Confirmed { request });
        }
    }

    /// Publishes what `next` returns, at its pace, until `stop`; messages that are under way are still confirmed.
    pub(crate) async fn stream(
        mut self,
        mut next: impl FnMut(u64) -> (Vec<Message>, Duration),
        stop: CancellationToken,
    ) {
        for turn in 0.. {
            let (messages, pause) = next(turn);
            for message in messages {
                self.publish(&message).await;
            }
            if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                return;
            }
        }
    }
}
