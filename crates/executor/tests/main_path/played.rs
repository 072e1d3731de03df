//! A worker played by the test.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde_json::value::RawValue;
use slotline_broker::{Broker, Consume, Consumer, Properties, Publication, Session, Topology, topology};
use slotline_protocol::envelope::{self, Envelope};
use slotline_protocol::message::{Completed, Heartbeat, Hello, Message, Scheduled, Served};
use slotline_protocol::proof::{self, Channel, Key, NONCE_HEADER, PROOF_HEADER, TOKEN_HEADER};
use slotline_protocol::{ActionRef, Epoch, Incarnation, OutcomeKind, Timestamp, WorkerName};
use uuid::Uuid;

use super::PATIENCE;

/// The nonce by which the played worker recognizes the leader's answer.
pub(crate) const NONCE: &str = "a-nonce";

/// Publishes as a worker would, or a liar.
pub(crate) async fn publish_report(
    session: &Session,
    message_type: &str,
    body: bytes::Bytes,
    headers: BTreeMap<String, String>,
) -> Result<()> {
    let publication = Publication {
        exchange: topology::work_exchange("slotline"),
        routing_key: message_type.to_owned(),
        body,
        properties: Properties { headers, ..Properties::default() },
        mandatory: false,
        persistent: false,
    };
    Ok(session.publish(publication).await?)
}

/// A worker that does as the test says.
pub(crate) struct PlayedWorker {
    pub(crate) name: WorkerName,
    pub(crate) incarnation: Incarnation,
    pub(crate) session: Session,
    pub(crate) orders: Consumer,
    pub(crate) seen: (Epoch, u64),
    pub(crate) actions: Vec<Served>,
    /// The key that the leader has given it.
    pub(crate) key: Option<Key>,
    /// Type and payload of each order.
    pub(crate) inbox: std::collections::VecDeque<(String, Box<RawValue>)>,
}

impl PlayedWorker {
    pub(crate) async fn start(broker: &Broker, actions: &[&str]) -> Result<Self> {
        Self::start_as("played", broker, actions).await
    }

    pub(crate) async fn start_as(name: &str, broker: &Broker, actions: &[&str]) -> Result<Self> {
        let session = broker.open("worker").await?;
        let (name, incarnation) = (WorkerName::new(name)?, Incarnation(Uuid::new_v4()));
        session.declare(&Topology::worker("slotline", &name, incarnation, 1)).await?;
        let queue = topology::worker_queue("slotline", &name, incarnation, 1);
        let orders = session.consume(&queue, Consume { prefetch: 1000 }).await?;
        let served = |action: &&str| Ok(Served { action_ref: ActionRef::new(action)?, capabilities: Vec::new() });
        let actions = actions.iter().map(served).collect::<Result<_>>()?;
        let seen = (Epoch(0), 0);
        let inbox = std::collections::VecDeque::new();
        let mut worker = Self { name, incarnation, session, orders, seen, actions, key: None, inbox };
        worker.heartbeat(10).await?;
        while worker.key.is_none() {
            // A leader that comes later greets first, and then learns of this worker.
            worker.receive().await?;
            worker.heartbeat(10).await?;
        }
        Ok(worker)
    }

    pub(crate) async fn receive(&mut self) -> Result<()> {
        let delivery = tokio::time::timeout(PATIENCE, self.orders.next()).await.context("no order")?;
        let delivery = delivery.context("the session is over")?;
        self.orders.acker().ack(delivery.tag);
        let Properties { headers, .. } = &delivery.properties;
        if let Some(token) = headers.get(TOKEN_HEADER) {
            ensure!(headers.get(NONCE_HEADER).is_some_and(|nonce| nonce == NONCE), "the nonce comes back");
            self.key = Some(Key::new(&token.parse()?));
        }
        if let (Some(key), true) = (&self.key, delivery.routing_key != Hello::TYPE) {
            let is_proved =
                headers.get(PROOF_HEADER).is_some_and(|code| key.proves(Channel::Order, &delivery.body, code));
            ensure!(is_proved, "an order without proof");
        }
        for envelope in envelope::read_own(&delivery.body, delivery.properties.defaults())?.iter() {
            let envelope = envelope?;
            self.inbox.push_back((envelope.message_type.into_owned(), envelope.payload.to_owned()));
        }
        Ok(())
    }

    pub(crate) fn account(&self) -> Heartbeat {
        Heartbeat {
            worker: self.name.clone(),
            incarnation: self.incarnation,
            capacity: 10,
            holding: Vec::new(),
            unrecorded: Vec::new(),
            seen: self.seen,
            actions: self.actions.clone(),
            labels: BTreeMap::new(),
            draining: false,
            sent_at: Timestamp::from_micros(0),
            journal: None,
            highest: Default::default(),
            account: None,
            process: None,
        }
    }

    pub(crate) async fn heartbeat(&mut self, capacity: u32) -> Result<()> {
        let heartbeat = Heartbeat { capacity, ..self.account() };
        self.say(&heartbeat).await
    }

    pub(crate) async fn say<M: Message>(&self, payload: &M) -> Result<()> {
        let body = envelope::write(&Envelope::new(payload, "worker/played", Timestamp::from_micros(0)));
        let mut headers = BTreeMap::from([(NONCE_HEADER.to_owned(), NONCE.to_owned())]);
        if let Some(key) = &self.key {
            headers.insert(PROOF_HEADER.to_owned(), proof::of_worker(self.incarnation, key, &body));
        }
        publish_report(&self.session, M::TYPE, body, headers).await
    }

    /// The next order of this type; checks that `(epoch, n)` rises over all orders.
    pub(crate) async fn order<M: Message>(&mut self) -> Result<M> {
        #[derive(serde::Deserialize)]
        struct Numbered {
            epoch: Epoch,
            n: u64,
        }
        loop {
            while let Some((message_type, payload)) = self.inbox.pop_front() {
                let Numbered { epoch, n } = serde_json::from_str(payload.get())?;
                ensure!((epoch, n) > self.seen, "{:?} does not rise above {:?}", (epoch, n), self.seen);
                self.seen = (epoch, n);
                if message_type == Hello::TYPE {
                    self.heartbeat(10).await?;
                }
                if message_type == M::TYPE {
                    return Ok(serde_json::from_str(payload.get())?);
                }
            }
            self.receive().await.with_context(|| format!("no {}", M::TYPE))?;
        }
    }

    pub(crate) async fn complete(&self, scheduled: &Scheduled, status: OutcomeKind) -> Result<()> {
        self.say(&self.completed(scheduled, status)).await
    }

    pub(crate) fn completed(&self, scheduled: &Scheduled, status: OutcomeKind) -> Completed {
        Completed {
            execution_id: scheduled.execution_id,
            action_id: scheduled.action_id,
            action_ref: scheduled.action_ref.clone(),
            counts_as: scheduled.counts_as.unwrap_or(scheduled.attempt),
            grant: Some(scheduled.attempt),
            fence: scheduled.fence,
            worker: self.name.clone(),
            incarnation: self.incarnation,
            last_sequence: 0,
            status,
            result: Some(RawValue::from_string("42".to_owned()).expect("a number").into()),
            error: None,
            started_at: Some(Timestamp::from_micros(1)),
            completed_at: Timestamp::from_micros(2),
            return_code: None,
            held_micros: None,
        }
    }
}
