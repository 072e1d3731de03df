//! An executor in this process, with everything it stands on.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use slotline_broker::{Broker, Consume, Consumer, Delivery, Properties, Publication, Session, Topology, topology};
use slotline_executor::{Config, run};
use slotline_protocol::Status;
use slotline_protocol::envelope;
use slotline_protocol::message::{Message, Requested};
use slotline_protocol::proof::{Channel, Key, PROOF_HEADER};
use slotline_store::{PageRequest, Store};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::PATIENCE;

/// A dead letter as it was published.
pub(crate) struct Dead {
    pub(crate) properties: Properties,
    pub(crate) body: bytes::Bytes,
    /// Its content type and encoding.
    pub(crate) content: (String, String),
}

/// An executor in this process, with everything it stands on.
pub(crate) struct Installation {
    pub(crate) broker: Broker,
    pub(crate) store: Store,
    pub(crate) session: Session,
    pub(crate) shutdown: CancellationToken,
    pub(crate) executor: JoinHandle<Result<(), slotline_executor::Error>>,
    pub(crate) replies: Consumer,
}

impl Installation {
    pub(crate) async fn start(policies: &[(&str, &str)]) -> Result<Self> {
        let store = Store::open("sqlite::memory:").await?;
        store.migrate().await?;
        let broker = Broker::memory("slotline");
        let session = broker.open("test").await?;
        session.declare(&Topology::requests("slotline")).await?;
        session.declare(&Topology::events("slotline")).await?;
        let replies_to = Uuid::nil();
        session.declare(&Topology::replies("slotline", replies_to, 1)).await?;
        let queue = topology::replies_queue("slotline", replies_to, 1);
        let replies = session.consume(&queue, Consume { prefetch: 1000 }).await?;
        let mut installation = Self {
            executor: tokio::spawn(async { Ok(()) }),
            shutdown: CancellationToken::new(),
            broker,
            store,
            session,
            replies,
        };
        installation.start_executor();
        for (action_ref, policy) in policies {
            installation.put(action_ref, policy).await?;
        }
        Ok(installation)
    }

    pub(crate) fn start_executor(&mut self) {
        self.shutdown = CancellationToken::new();
        let config = Config { name: "test".to_owned(), ..Config::default() };
        self.executor = tokio::spawn(run(config, self.store.clone(), self.broker.clone(), None, self.shutdown.clone()));
    }

    pub(crate) async fn stop_executor(&mut self) -> Result<()> {
        self.shutdown.cancel();
        tokio::time::timeout(PATIENCE, &mut self.executor).await.context("the executor did not stop")???;
        Ok(())
    }

    /// The headers by which the leader recognizes another executor.
    pub(crate) async fn signed(&self, ask: &str) -> Result<BTreeMap<String, String>> {
        let key = Key::new(&self.store.secret().await?.of_executors());
        Ok([(PROOF_HEADER.to_owned(), key.sign(Channel::Call, ask.as_bytes()))].into())
    }

    pub(crate) async fn put(&mut self, action_ref: &str, policy: &str) -> Result<()> {
        self.ask(&format!(r#"{{"ask":"put_action","action_ref":"{action_ref}","policy":{policy}}}"#)).await
    }

    /// Asks the leader as another executor would.
    pub(crate) async fn ask(&mut self, ask: &str) -> Result<()> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let publication = Publication {
                exchange: topology::work_exchange("slotline"),
                routing_key: "executor.call".to_owned(),
                body: ask.to_owned().into(),
                properties: Properties { headers: self.signed(ask).await?, ..self.properties(None) },
                mandatory: true,
                persistent: false,
            };
            if self.session.publish(publication).await.is_ok() {
                break;
            }
            ensure!(tokio::time::Instant::now() < deadline, "nobody leads");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let reply = self.reply().await?;
        ensure!(reply.body.starts_with(b"{\"Ok\""), "{}", String::from_utf8_lossy(&reply.body));
        Ok(())
    }

    /// Gets all events from the leader, as another executor does whose clients watch.
    pub(crate) async fn follow(&mut self) -> Result<Consumer> {
        let id = Uuid::from_u128(1);
        self.session.declare(&Topology::replies("slotline", id, 1)).await?;
        let queue = topology::replies_queue("slotline", id, 1);
        let mut news = self.session.consume(&queue, Consume { prefetch: 1000 }).await?;
        let ask = r#"{"ask":"follow","all":true,"ids":[]}"#;
        let publication = Publication {
            exchange: topology::work_exchange("slotline"),
            routing_key: "executor.call".to_owned(),
            body: ask.into(),
            properties: Properties { reply_to: Some(queue), headers: self.signed(ask).await?, ..Properties::default() },
            mandatory: true,
            persistent: false,
        };
        self.session.publish(publication).await?;
        let answer = tokio::time::timeout(PATIENCE, news.next()).await.context("no answer")?;
        let answer = answer.context("the session is over")?;
        ensure!(answer.body.starts_with(b"{\"Ok\""), "{}", String::from_utf8_lossy(&answer.body));
        Ok(news)
    }

    pub(crate) fn properties(&self, message_id: Option<&str>) -> Properties {
        Properties {
            message_id: message_id.map(str::to_owned),
            correlation_id: message_id.map(str::to_owned),
            reply_to: Some(topology::replies_queue("slotline", Uuid::nil(), 1)),
            ..Properties::default()
        }
    }

    pub(crate) async fn reply(&mut self) -> Result<Delivery> {
        let delivery = tokio::time::timeout(PATIENCE, self.replies.next()).await.context("no reply")?;
        let delivery = delivery.context("the session is over")?;
        self.replies.acker().ack(delivery.tag);
        Ok(delivery)
    }

    pub(crate) async fn replied<M: Message>(&mut self) -> Result<M> {
        let delivery = self.reply().await?;
        let defaults = delivery.properties.defaults();
        let members = envelope::read(&delivery.body, defaults)?;
        let envelope = members.get(0)?;
        ensure!(envelope.message_type == M::TYPE, "expected {}: {}", M::TYPE, String::from_utf8_lossy(&delivery.body));
        Ok(envelope.open::<M>()?)
    }

    /// Publishes a body as a foreign client would, and waits for the broker's confirm.
    pub(crate) async fn publish(&self, body: impl Into<bytes::Bytes>, properties: Properties) -> Result<()> {
        let publication = Publication {
            exchange: topology::executions_exchange("slotline"),
            routing_key: Requested::TYPE.to_owned(),
            body: body.into(),
            properties,
            mandatory: true,
            persistent: true,
        };
        Ok(self.session.publish(publication).await?)
    }

    pub(crate) async fn request(&mut self, action_ref: &str, message_id: &str) -> Result<()> {
        let body = format!(r#"{{"message_type":"execution.requested","payload":{{"action_ref":"{action_ref}"}}}}"#);
        self.publish(body, self.properties(Some(message_id))).await
    }

    /// The oldest dead letters, once there are so many.
    pub(crate) async fn dead(&self, count: usize) -> Result<Vec<Dead>> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let page = PageRequest { cursor: None, limit: count as u32 };
        let listed = loop {
            let listed = self.store.dead_letters(&page).await?.data;
            if listed.len() >= count {
                break listed;
            }
            ensure!(tokio::time::Instant::now() < deadline, "dead letters are missing");
            tokio::time::sleep(Duration::from_millis(2)).await;
        };
        let mut letters = Vec::new();
        for letter in listed {
            let whole = self.store.dead_letter(&letter.id).await?.context("it was listed")?;
            let carried: serde_json::Value = serde_json::from_str(&whole.properties)?;
            let headers = serde_json::from_value(carried["headers"].clone())?;
            let text = |name: &str| carried[name].as_str().unwrap_or_default().to_owned();
            let content = (text("content_type"), text("content_encoding"));
            let properties = Properties { headers, ..Properties::default() };
            letters.push(Dead { properties, body: whole.body, content });
        }
        Ok(letters)
    }

    pub(crate) async fn status(&self, id: i64) -> Result<Status> {
        let execution = self.store.execution(slotline_protocol::ExecutionId(id)).await?;
        Ok(execution.context("no such execution")?.status)
    }

    pub(crate) async fn reaches(&self, id: i64, status: Status) -> Result<()> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while self.status(id).await? != status {
            ensure!(tokio::time::Instant::now() < deadline, "execution {id} is {}", self.status(id).await?);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }
}
