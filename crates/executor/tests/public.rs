//! What subscribers of the public exchange receive, from a whole executor on the in-process broker.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use slotline_broker::topology::{self, Binding, Queue};
use slotline_broker::{Broker, Consume, Consumer, Properties, Publication, Session, Topology};
use slotline_executor::{Config, Public, run};
use slotline_protocol::message::{CancelRequested, Message, Requested};
use slotline_protocol::{ActionId, ActionRef, Epoch, ExecutionId, Policy, Timestamp, http};
use slotline_scheduler::Counters;
use slotline_store::{ActionChange, Batch, EventRange, Leadership, Store};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(30);

struct Installation {
    broker: Broker,
    store: Store,
    session: Session,
    config: Config,
    shutdown: CancellationToken,
    executor: JoinHandle<Result<(), slotline_executor::Error>>,
}

impl Installation {
    /// With one action, which no worker serves.
    async fn start(public: Public, policy: Policy) -> Result<Self> {
        let store = Store::open("sqlite::memory:").await?;
        store.migrate().await?;
        let action = http::Action {
            action_id: ActionId(1),
            action_ref: ActionRef::new("demo.echo")?,
            paused: false,
            policy,
            limit_override: None,
            created_at: Timestamp::from_micros(0),
            updated_at: Timestamp::from_micros(0),
        };
        let mut leadership = store.lead("the test").await?;
        let counters = Counters { next_action: 2, ..Counters::default() };
        let batch = Batch { number: 1, counters, actions: vec![ActionChange::Put(action)], ..Batch::default() };
        leadership.commit(&batch).await?;
        leadership.release().await;
        let broker = Broker::memory("slotline");
        let session = broker.open("the test").await?;
        session.declare(&Topology::requests("slotline")).await?;
        session.declare(&Topology::events("slotline")).await?;
        let config = Config { name: "test".to_owned(), public, ..Config::default() };
        let executor = tokio::spawn(async { Ok(()) });
        let mut installation = Self { broker, store, session, config, shutdown: CancellationToken::new(), executor };
        installation.start_executor();
        Ok(installation)
    }

    fn start_executor(&mut self) {
        self.shutdown = CancellationToken::new();
        let (config, store, broker) = (self.config.clone(), self.store.clone(), self.broker.clone());
        self.executor = tokio::spawn(run(config, store, broker, None, self.shutdown.clone()));
    }

    async fn stop_executor(&mut self) -> Result<()> {
        self.shutdown.cancel();
        tokio::time::timeout(PATIENCE, &mut self.executor).await.context("the executor did not stop")???;
        Ok(())
    }

    /// Leads in the executor's place, which must be stopped.
    async fn lead(&self) -> Result<(Leadership, Counters)> {
        let mut leadership = self.store.lead("the test").await?;
        let counters = leadership.recover().await?.counters;
        Ok((leadership, counters))
    }

    async fn say(&self, message_type: &str, payload: Value, message_id: &str) -> Result<()> {
        let properties = Properties { message_id: Some(message_id.to_owned()), ..Properties::default() };
        let publication = Publication {
            exchange: topology::executions_exchange("slotline"),
            routing_key: message_type.to_owned(),
            body: json!({"message_type": message_type, "payload": payload}).to_string().into(),
            properties,
            mandatory: true,
            persistent: true,
        };
        Ok(self.session.publish(publication).await?)
    }

    async fn request(&self, message_id: &str) -> Result<()> {
        self.say(Requested::TYPE, json!({"action_ref": "demo.echo"}), message_id).await
    }

    async fn cancel(&self, message_id: &str) -> Result<()> {
        self.say(CancelRequested::TYPE, json!({"message_id": message_id}), "").await
    }

    async fn settles(&self, id: i64) -> Result<()> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !self.store.execution(ExecutionId(id)).await?.is_some_and(|execution| execution.status.is_terminal()) {
            ensure!(tokio::time::Instant::now() < deadline, "execution {id} has not ended");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    async fn subscribe(&self, patterns: &[&str]) -> Result<Subscriber> {
        let queue = format!("subscriber of {}", patterns.join(" "));
        let binding = |pattern: &&str| Binding {
            exchange: topology::events_exchange("slotline"),
            pattern: (*pattern).to_owned(),
            queue: queue.clone(),
        };
        let topology = Topology {
            queues: vec![Queue::classic(queue.clone())],
            bindings: patterns.iter().map(binding).collect(),
            ..Topology::default()
        };
        self.session.declare(&topology).await?;
        Ok(Subscriber(self.session.consume(&queue, Consume { prefetch: 1000 }).await?))
    }
}

struct Subscriber(Consumer);

impl Subscriber {
    /// The next envelope.
    async fn next(&mut self) -> Result<Value> {
        let delivery = tokio::time::timeout(PATIENCE, self.0.next()).await.context("nothing is published")?;
        let delivery = delivery.context("the session is over")?;
        let envelope: Value = serde_json::from_slice(&delivery.body)?;
        ensure!(delivery.properties.headers.contains_key("traceparent"), "{:?}", delivery.properties);
        ensure!(envelope["message_id"].as_str() == delivery.properties.message_id.as_deref(), "{envelope}");
        ensure!(envelope["correlation_id"].is_string() && envelope["payload"]["number"].is_u64(), "{envelope}");
        Ok(envelope)
    }

    /// The next envelopes, in short.
    async fn take(&mut self, count: usize) -> Result<Vec<String>> {
        let mut all = Vec::new();
        for _ in 0..count {
            let envelope = self.next().await?;
            let payload = &envelope["payload"];
            let what = match &payload["previous_status"] {
                Value::Null => format!("{} {}", payload["status"], payload["error"]["code"]),
                previous => format!("{previous} to {}", payload["new_status"]),
            };
            all.push(format!("{}.{} {what}", payload["execution_id"], payload["number"]).replace('"', ""));
        }
        Ok(all)
    }
}

#[tokio::test]
async fn an_end_that_no_worker_reports_is_published_with_its_error_like_every_other() -> Result<()> {
    let policy = Policy { queue_timeout: Some(Duration::from_millis(300)), ..Policy::default() };
    let installation = Installation::start(Public::default(), policy).await?;
    let mut subscriber = installation.subscribe(&["#"]).await?;
    installation.request("overdue").await?;
    let mut told = subscriber.take(3).await?;
    installation.request("unwanted").await?;
    installation.cancel("unwanted").await?;
    told.extend(subscriber.take(3).await?);
    let expected = [
        "1.1 requested to queued",
        "1.2 queued to timeout",
        "1.2 timeout queue_timeout",
        "2.1 requested to queued",
        "2.2 queued to cancelled",
        "2.2 cancelled cancelled",
    ];
    assert_eq!(told, expected);
    Ok(())
}

#[tokio::test]
async fn a_subscriber_that_comes_when_nobody_listened_misses_nothing_of_what_happens_from_then_on() -> Result<()> {
    let mut installation = Installation::start(Public::default(), Policy::default()).await?;
    installation.request("1").await?;
    installation.cancel("1").await?;
    installation.settles(1).await?;
    for id in 2..20 {
        let queue = format!("execution.{}", if id % 2 == 0 { "completed" } else { "*" });
        let mut subscriber = installation.subscribe(&[&queue]).await?;
        installation.request(&id.to_string()).await?;
        installation.cancel(&id.to_string()).await?;
        let end = loop {
            let envelope = subscriber.next().await?;
            // Events that were noted before the subscriber came may be published again.
            if envelope["payload"]["execution_id"] == id && envelope["message_type"] == "execution.completed" {
                break envelope;
            }
        };
        assert_eq!(end["payload"]["status"], "cancelled", "{end}");
        drop(subscriber);
        installation.session.delete_queue(&format!("subscriber of {queue}")).await?;
        // A deleted queue ends the session that consumed it.
        installation.session = installation.broker.open("the test").await?;
        installation.settles(id).await?;
    }
    Ok(())
}

#[tokio::test]
async fn what_a_leader_may_not_have_published_the_next_one_publishes_under_the_same_ids() -> Result<()> {
    let mut installation = Installation::start(Public::default(), Policy::default()).await?;
    let mut subscriber = installation.subscribe(&["#"]).await?;
    installation.request("1").await?;
    installation.cancel("1").await?;
    let first = [subscriber.next().await?, subscriber.next().await?, subscriber.next().await?];
    installation.stop_executor().await?;

    let (mut leadership, counters) = installation.lead().await?;
    let announced = vec![EventRange { id: ExecutionId(1), first: 1, last: 2 }];
    leadership.commit(&Batch { number: 1, counters, announced, ..Batch::default() }).await?;
    leadership.release().await;
    installation.start_executor();
    let again = [subscriber.next().await?, subscriber.next().await?, subscriber.next().await?];
    let ids = |envelopes: &[Value; 3]| envelopes.each_ref().map(|envelope| envelope["message_id"].clone());
    assert_eq!(ids(&first), ids(&again));
    assert_eq!(first.map(|envelope| envelope["payload"].clone()), again.map(|envelope| envelope["payload"].clone()));

    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !installation.store.announcements_before(Epoch(i64::MAX)).await?.is_empty() {
        ensure!(tokio::time::Instant::now() < deadline, "what is published is forgotten");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

#[tokio::test]
async fn the_operator_says_what_is_published() -> Result<()> {
    let public = Public { statuses: false, ..Public::default() };
    let installation = Installation::start(public, Policy::default()).await?;
    let mut subscriber = installation.subscribe(&["#"]).await?;
    for id in ["1", "2"] {
        installation.request(id).await?;
        installation.cancel(id).await?;
    }
    assert_eq!(subscriber.take(2).await?, ["1.2 cancelled cancelled", "2.2 cancelled cancelled"]);
    Ok(())
}
