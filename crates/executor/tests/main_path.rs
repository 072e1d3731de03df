//! The whole executor on the in-process broker and an in-memory journal, with a worker played by the test.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use slotline_broker::{Broker, Consume, Consumer, Delivery, Properties, Publication, Session, Topology, topology};
use slotline_executor::{Config, run};
use slotline_protocol::envelope::{self, ENVELOPE_BYTES_MAX, Envelope, LABEL_CHARS_MAX, MEMBERS_MAX};
use slotline_protocol::message::{
    Accepted, Cancel, Completed, EndReason, Ended, Heartbeat, Hello, Message, Recorded, Rejected, Requested, Returned,
    Scheduled, Served, Settled, StatusChanged,
};
use slotline_protocol::proof::{self, Channel, Key, NONCE_HEADER, PROOF_HEADER, TOKEN_HEADER};
use slotline_protocol::{ActionRef, Epoch, Fence, Incarnation, OutcomeKind, Status, Timestamp, WorkerName, record};
use slotline_store::{Filter, PageRequest, Store};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const PATIENCE: Duration = Duration::from_secs(30);

/// A dead letter as it was published.
struct Dead {
    properties: Properties,
    body: bytes::Bytes,
}

/// An executor in this process, with everything it stands on.
struct Installation {
    broker: Broker,
    store: Store,
    session: Session,
    shutdown: CancellationToken,
    executor: JoinHandle<Result<(), slotline_executor::Error>>,
    replies: Consumer,
}

impl Installation {
    async fn start(policies: &[(&str, &str)]) -> Result<Self> {
        let store = Store::open("sqlite::memory:").await?;
        store.migrate().await?;
        let broker = Broker::memory("slotline");
        let session = broker.open("test").await?;
        session.declare(&Topology::requests("slotline")).await?;
        session.declare(&Topology::events("slotline", topology::Public::default())).await?;
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

    fn start_executor(&mut self) {
        self.shutdown = CancellationToken::new();
        let config = Config { name: "test".to_owned(), ..Config::default() };
        self.executor = tokio::spawn(run(config, self.store.clone(), self.broker.clone(), None, self.shutdown.clone()));
    }

    async fn stop_executor(&mut self) -> Result<()> {
        self.shutdown.cancel();
        tokio::time::timeout(PATIENCE, &mut self.executor).await.context("the executor did not stop")???;
        Ok(())
    }

    /// The headers by which the leader knows another executor.
    async fn signed(&self, ask: &str) -> Result<BTreeMap<String, String>> {
        let key = Key::new(&self.store.secret().await?.of_executors());
        Ok([(PROOF_HEADER.to_owned(), key.sign(Channel::Call, ask.as_bytes()))].into())
    }

    /// Asks the leader as another executor would.
    async fn put(&mut self, action_ref: &str, policy: &str) -> Result<()> {
        let ask = format!(r#"{{"ask":"put_action","action_ref":"{action_ref}","policy":{policy}}}"#);
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let publication = Publication {
                exchange: topology::work_exchange("slotline"),
                routing_key: "executor.call".to_owned(),
                body: ask.clone().into(),
                properties: Properties { headers: self.signed(&ask).await?, ..self.properties(None) },
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

    /// Hears all events from the leader, as another executor does whose clients watch.
    async fn follow(&mut self) -> Result<Consumer> {
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

    fn properties(&self, message_id: Option<&str>) -> Properties {
        Properties {
            message_id: message_id.map(str::to_owned),
            correlation_id: message_id.map(str::to_owned),
            reply_to: Some(topology::replies_queue("slotline", Uuid::nil(), 1)),
            ..Properties::default()
        }
    }

    async fn reply(&mut self) -> Result<Delivery> {
        let delivery = tokio::time::timeout(PATIENCE, self.replies.next()).await.context("no reply")?;
        let delivery = delivery.context("the session is over")?;
        self.replies.acker().ack(delivery.tag);
        Ok(delivery)
    }

    async fn replied<M: Message>(&mut self) -> Result<M> {
        let delivery = self.reply().await?;
        let defaults = delivery.properties.defaults();
        let members = envelope::read(&delivery.body, defaults)?;
        let envelope = members.get(0)?;
        ensure!(envelope.message_type == M::TYPE, "expected {}: {}", M::TYPE, String::from_utf8_lossy(&delivery.body));
        Ok(envelope.open::<M>()?)
    }

    /// Publishes a body as a foreign client would, and waits for the broker's confirm.
    async fn publish(&self, body: impl Into<bytes::Bytes>, properties: Properties) -> Result<()> {
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

    async fn request(&mut self, action_ref: &str, message_id: &str) -> Result<()> {
        let body = format!(r#"{{"message_type":"execution.requested","payload":{{"action_ref":"{action_ref}"}}}}"#);
        self.publish(body, self.properties(Some(message_id))).await
    }

    /// The dead letters, once there are `count`.
    /// The oldest dead letters, once there are so many.
    async fn dead(&self, count: usize) -> Result<Vec<Dead>> {
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
            letters.push(Dead { properties: Properties { headers, ..Properties::default() }, body: whole.body });
        }
        Ok(letters)
    }

    async fn status(&self, id: i64) -> Result<Status> {
        let execution = self.store.execution(slotline_protocol::ExecutionId(id)).await?;
        Ok(execution.context("no such execution")?.status)
    }

    async fn reaches(&self, id: i64, status: Status) -> Result<()> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while self.status(id).await? != status {
            ensure!(tokio::time::Instant::now() < deadline, "execution {id} is {}", self.status(id).await?);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }
}

/// What the played worker knows the leader's answer by.
const NONCE: &str = "a-nonce";

/// Publishes as a worker would, or a liar.
async fn publish_report(
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
struct PlayedWorker {
    name: WorkerName,
    incarnation: Incarnation,
    session: Session,
    orders: Consumer,
    seen: (Epoch, u64),
    actions: Vec<Served>,
    /// What the leader has made it known by.
    key: Option<Key>,
    /// Type and payload of each order.
    inbox: std::collections::VecDeque<(String, Box<RawValue>)>,
}

impl PlayedWorker {
    async fn start(broker: &Broker, actions: &[&str]) -> Result<Self> {
        Self::start_as("played", broker, actions).await
    }

    async fn start_as(name: &str, broker: &Broker, actions: &[&str]) -> Result<Self> {
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
            // A leader that comes later says so, and then gets to know this one.
            worker.receive().await?;
            worker.heartbeat(10).await?;
        }
        Ok(worker)
    }

    async fn receive(&mut self) -> Result<()> {
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

    /// What a liar may say in this worker's name, with all numbers right, or with none a machine could bear.
    fn lies(&self, scheduled: &Scheduled) -> Vec<Result<(&'static str, bytes::Bytes)>> {
        fn lie<M: Message>(payload: &M) -> Result<(&'static str, bytes::Bytes)> {
            let envelope = Envelope::new(payload, "worker/played", Timestamp::from_micros(0));
            Ok((M::TYPE, envelope::write(&envelope)))
        }
        let Scheduled { execution_id, attempt, fence, .. } = *scheduled;
        let completed = self.completed(scheduled, OutcomeKind::Completed);
        let far = Completed { fence: Fence(i64::MAX), attempt: u32::MAX, last_sequence: u64::MAX, ..completed.clone() };
        let (worker, incarnation) = (self.name.clone(), self.incarnation);
        let returned = Returned {
            execution_id,
            attempt,
            fence,
            worker,
            incarnation,
            reason: "drain".into(),
            started: true,
            last_sequence: 0,
        };
        let ended = Ended {
            worker: self.name.clone(),
            incarnation,
            reason: EndReason::Drain,
            outcomes: vec![completed.clone()],
            returned: vec![returned.clone()],
            told_by: None,
            has_more: false,
        };
        let wild = Heartbeat {
            seen: (Epoch(i64::MAX), u64::MAX),
            capacity: u32::MAX,
            sent_at: Timestamp::MAX,
            ..self.account()
        };
        vec![lie(&completed), lie(&far), lie(&returned), lie(&ended), lie(&wild)]
    }

    fn account(&self) -> Heartbeat {
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
        }
    }

    async fn heartbeat(&mut self, capacity: u32) -> Result<()> {
        let heartbeat = Heartbeat { capacity, ..self.account() };
        self.say(&heartbeat).await
    }

    async fn say<M: Message>(&self, payload: &M) -> Result<()> {
        let body = envelope::write(&Envelope::new(payload, "worker/played", Timestamp::from_micros(0)));
        let mut headers = BTreeMap::from([(NONCE_HEADER.to_owned(), NONCE.to_owned())]);
        if let Some(key) = &self.key {
            headers.insert(PROOF_HEADER.to_owned(), proof::of_worker(self.incarnation, key, &body));
        }
        publish_report(&self.session, M::TYPE, body, headers).await
    }

    /// The next order of this type; checks that `(epoch, n)` rises over all orders.
    async fn order<M: Message>(&mut self) -> Result<M> {
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

    async fn complete(&self, scheduled: &Scheduled, status: OutcomeKind) -> Result<()> {
        self.say(&self.completed(scheduled, status)).await
    }

    fn completed(&self, scheduled: &Scheduled, status: OutcomeKind) -> Completed {
        Completed {
            execution_id: scheduled.execution_id,
            action_id: scheduled.action_id,
            action_ref: scheduled.action_ref.clone(),
            attempt: scheduled.attempt,
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
        }
    }
}

#[tokio::test]
async fn a_completion_starts_the_next_in_line_and_each_leaves_after_its_commit() -> Result<()> {
    let mut slotline = Installation::start(&[("demo.echo", r#"{"limit": 1, "run_ahead": 0}"#)]).await?;
    let mut worker = PlayedWorker::start(&slotline.broker, &["demo.echo"]).await?;
    for n in 1..=3 {
        slotline.request("demo.echo", &format!("m{n}")).await?;
    }
    for n in 1..=3 {
        let accepted: Accepted = slotline.replied().await?;
        assert_eq!((accepted.execution_id.0, accepted.message_id), (n, format!("m{n}")));
    }
    let mut fences = Vec::new();
    let mut scheduled: Scheduled = worker.order().await?;
    for n in 1..=3 {
        assert_eq!((scheduled.execution_id.0, scheduled.attempt), (n, 1));
        assert_eq!(slotline.status(n).await?, Status::Scheduled, "a dispatch leaves after its commit");
        fences.push(scheduled.fence);
        let ended = (scheduled.execution_id, 1);
        worker.complete(&scheduled, OutcomeKind::Completed).await?;
        if n < 3 {
            // What is to start comes before what nobody waits for.
            scheduled = worker.order().await?;
        }
        let recorded: Recorded = worker.order().await?;
        assert_eq!(recorded.attempts, [ended]);
        assert_eq!(slotline.status(n).await?, Status::Completed, "`recorded` leaves after its commit");
    }
    assert!(fences.is_sorted_by(|one, other| one < other), "{fences:?}");
    slotline.stop_executor().await
}

#[tokio::test]
async fn the_largest_request_can_be_dispatched() -> Result<()> {
    let mut slotline = Installation::start(&[("demo.echo", r#"{"limit": 1}"#)]).await?;
    let mut worker = PlayedWorker::start(&slotline.broker, &["demo.echo"]).await?;
    // As long as they may be, and of characters that take six bytes each.
    let label = "\u{1}".repeat(LABEL_CHARS_MAX);
    let envelope = |parameters_bytes: usize| {
        let parameters = serde_json::json!({"text": "x".repeat(parameters_bytes)});
        serde_json::json!({
            "message_type": Requested::TYPE, "correlation_id": label, "trace_id": label, "source": label,
            "payload": {"action_ref": "demo.echo", "parameters": parameters},
        })
        .to_string()
    };
    let parameters_bytes = ENVELOPE_BYTES_MAX - envelope(0).len();
    slotline.publish(envelope(parameters_bytes), slotline.properties(None)).await?;
    let scheduled: Scheduled = worker.order().await?;
    assert!(scheduled.parameters.get().len() > parameters_bytes);
    assert_eq!(scheduled.correlation_id, Some(label.clone()));
    worker.complete(&scheduled, OutcomeKind::Completed).await?;
    slotline.reaches(scheduled.execution_id.0, Status::Completed).await?;
    slotline.stop_executor().await
}

#[tokio::test]
async fn a_label_longer_than_any_message_can_repeat_is_refused_by_name() -> Result<()> {
    let slotline = Installation::start(&[("demo.echo", "{}")]).await?;
    for field in ["correlation_id", "trace_id", "source"] {
        let mut envelope = serde_json::json!({"message_type": Requested::TYPE, "payload": {"action_ref": "demo.echo"}});
        envelope[field] = "x".repeat(LABEL_CHARS_MAX + 1).into();
        slotline.publish(envelope.to_string(), Properties::default()).await?;
    }
    let dead = slotline.dead(3).await?;
    for (dead, field) in dead.iter().zip(["correlation_id", "trace_id", "source"]) {
        let detail = &dead.properties.headers["x-slotline-detail"];
        assert!(detail.contains(&format!("{field}: expected at most 255 characters")), "{detail}");
    }
    Ok(())
}

#[tokio::test]
async fn a_body_of_more_than_one_batch_is_taken_in_pieces_and_acked_as_a_whole() -> Result<()> {
    const REQUESTS: i64 = 1_800;
    let mut slotline = Installation::start(&[("demo.echo", r#"{"limit": 1}"#)]).await?;
    let requests: Vec<_> = (1..=REQUESTS)
        .map(|n| {
            // Every sixth goes to the dead letters.
            let action_ref = if n % 6 == 0 { "no.such" } else { "demo.echo" };
            serde_json::json!({"message_type": Requested::TYPE, "payload": {"action_ref": action_ref}})
        })
        .collect();
    let properties = Properties { message_id: Some("many".to_owned()), ..Properties::default() };
    for _ in 0..2 {
        // The second time each is known by the id that follows from its place.
        slotline.publish(serde_json::Value::from(requests.clone()).to_string(), properties.clone()).await?;
    }
    let letters = slotline.dead(2).await?;
    for letter in &letters {
        let detail = &letter.properties.headers["x-slotline-detail"];
        assert!(detail.starts_with("300 of 1800 members can't be taken; the first, at index 5: "), "{detail}");
        let refused = envelope::read(&letter.body, letter.properties.defaults())?;
        assert_eq!(refused.len(), 300, "one letter has all of them");
        assert!(refused.iter().all(|member| member.is_ok_and(|member| member.payload.get().contains("no.such"))));
    }
    let last = REQUESTS - REQUESTS / 6;
    slotline.reaches(last, Status::Queued).await?;
    assert!(slotline.store.execution(slotline_protocol::ExecutionId(last + 1)).await?.is_none(), "each is taken once");
    slotline.stop_executor().await?;
    let held = slotline.session.depth(&topology::requests_queue("slotline")).await?;
    assert_eq!(held, 0, "all is acked, so that nothing goes back to the queue");
    Ok(())
}

#[tokio::test]
async fn a_body_that_is_bad_as_a_whole_is_one_letter_and_keeps_its_bytes() -> Result<()> {
    let slotline = Installation::start(&[("demo.echo", "{}")]).await?;
    let array = |member: &str, count| format!("[{}]", vec![member; count].join(","));
    let empty = r#"{"message_type":"execution.requested"}"#;
    let cases = [
        (array("1", 100_000), "oversized", "more than 10000 envelopes"),
        (array("1", 2), "malformed", "an array of 2 values"),
        (array("{}", MEMBERS_MAX + 1), "oversized", "more than 10000 envelopes"),
        (array(empty, 17), "malformed", "17 of 17 members can't be taken; the first, at index 0"),
        (array(empty, MEMBERS_MAX), "malformed", "10000 of 10000 members can't be taken"),
    ];
    for (index, (body, reason, detail)) in cases.iter().enumerate() {
        let headers = [("label".to_owned(), "x".repeat(60_000))].into();
        slotline.publish(body.clone(), Properties { headers, ..Properties::default() }).await?;
        let letter = slotline.dead(index + 1).await?.remove(index);
        assert_eq!(letter.properties.headers["x-slotline-reason"], *reason);
        assert!(letter.properties.headers["x-slotline-detail"].contains(detail), "{detail}");
        assert_eq!(letter.body, *body);
    }
    Ok(())
}

/// Publishes a large request, and lets a consumer take it and go without an ack, as a process that dies does.
async fn come_again(slotline: &Installation) -> Result<(String, [u8; 32])> {
    let parameters = serde_json::json!({"text": "x".repeat(20_000)});
    let payload = serde_json::json!({"action_ref": "demo.echo", "parameters": parameters});
    let body = serde_json::json!({"message_type": Requested::TYPE, "payload": payload}).to_string();
    slotline.publish(body.clone(), Properties::default()).await?;
    let consume = Consume { prefetch: 1 };
    let mut consumer = slotline.session.consume(&topology::requests_queue("slotline"), consume).await?;
    consumer.next().await.context("it is delivered")?;
    let digest = Sha256::digest(&body).into();
    Ok((body, digest))
}

#[tokio::test]
async fn a_message_in_whose_midst_two_processes_have_ended_is_put_aside_unread_by_the_third() -> Result<()> {
    let mut slotline = Installation::start(&[("demo.echo", "{}")]).await?;
    slotline.stop_executor().await?;
    let (body, digest) = come_again(&slotline).await?;
    for process in [1, 2] {
        slotline.store.suspect(digest, Uuid::from_u128(process)).await?;
    }
    slotline.start_executor();
    let letter = slotline.dead(1).await?.remove(0);
    assert_eq!(letter.body, body);
    assert_eq!(letter.properties.headers["x-slotline-reason"], "poisoned");
    assert!(letter.properties.headers["x-slotline-detail"].starts_with("2 processes in a row"));
    slotline.stop_executor().await
}

#[tokio::test]
async fn an_innocent_message_that_comes_again_is_run_whatever_has_happened_around_it() -> Result<()> {
    let mut slotline = Installation::start(&[("demo.echo", "{}")]).await?;
    for round in 1..=4 {
        slotline.stop_executor().await?;
        let (_, digest) = come_again(&slotline).await?;
        // One process has ended in its midst, which was chance; each time it is forgotten.
        slotline.store.suspect(digest, Uuid::from_u128(round)).await?;
        slotline.start_executor();
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let id = slotline_protocol::ExecutionId(round as i64);
        while slotline.store.execution(id).await?.is_none() {
            ensure!(tokio::time::Instant::now() < deadline, "it was not taken, in round {round}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    slotline.stop_executor().await
}

#[tokio::test]
async fn the_letters_of_members_share_no_more_than_a_kibibyte_of_their_bodys_headers() -> Result<()> {
    let slotline = Installation::start(&[("demo.echo", "{}")]).await?;
    let headers = [
        ("a".to_owned(), "kept".to_owned()),
        ("label".to_owned(), "x".repeat(60_000)),
        ("traceparent".to_owned(), "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned()),
    ];
    let body = r#"[{"payload":{"action_ref":"demo.echo"}}, 1, {}]"#;
    let properties =
        Properties { message_type: Some(Requested::TYPE.to_owned()), headers: headers.into(), ..Properties::default() };
    slotline.publish(body, properties).await?;
    let letters = slotline.dead(2).await?;
    assert_eq!((&letters[0].body[..], &letters[1].body[..]), (&b"1"[..], &b"{}"[..]));
    for letter in letters {
        let theirs: Vec<_> =
            letter.properties.headers.into_keys().filter(|name| !name.starts_with("x-slotline-")).collect();
        assert_eq!(theirs, ["a", "traceparent"]);
    }
    Ok(())
}

#[tokio::test]
async fn the_next_ones_wait_at_the_worker_and_show_as_queued_until_their_turn() -> Result<()> {
    let mut slotline = Installation::start(&[("demo.echo", r#"{"limit": 1, "run_ahead": 2}"#)]).await?;
    let mut worker = PlayedWorker::start(&slotline.broker, &["demo.echo"]).await?;
    for n in 1..=3 {
        slotline.request("demo.echo", &format!("m{n}")).await?;
        let _: Accepted = slotline.replied().await?;
    }
    let (first, second, third): (Scheduled, Scheduled, Scheduled) =
        (worker.order().await?, worker.order().await?, worker.order().await?);
    assert_eq!(first.starts_after, None);
    assert_eq!(second.starts_after, Some((first.execution_id, 1)));
    assert_eq!(third.starts_after, Some((second.execution_id, 1)));
    let shown = slotline.store.execution(second.execution_id).await?.expect("it lives");
    assert_eq!((shown.status, shown.scheduled_at, shown.fence), (Status::Queued, None, None));
    worker.complete(&first, OutcomeKind::Completed).await?;
    let _: Recorded = worker.order().await?;
    assert_eq!(slotline.status(second.execution_id.0).await?, Status::Scheduled, "the slot is its own");
    assert_eq!(slotline.status(third.execution_id.0).await?, Status::Queued);
    for scheduled in [&second, &third] {
        worker.complete(scheduled, OutcomeKind::Completed).await?;
        let _: Recorded = worker.order().await?;
        assert_eq!(slotline.status(scheduled.execution_id.0).await?, Status::Completed);
    }
    slotline.stop_executor().await
}

#[tokio::test]
async fn the_same_request_is_the_same_request_however_it_is_spelt() -> Result<()> {
    let mut slotline = Installation::start(&[("demo.echo", r#"{"key": "/tenant"}"#)]).await?;
    for payload in [
        r#"{"action_ref":"demo.echo","parameters":{"tenant":7,"app":"web"},"progress":{"update_interval":"1s"}}"#,
        r#"{ "parameters": {"app": "\u0077eb", "tenant": 7.0}, "action_ref": "demo.echo",
             "progress": {"updateInterval": 1}, "x-note": "again", "timeout_seconds": null }"#,
    ] {
        let body = format!(r#"{{"message_type":"execution.requested","payload":{payload}}}"#);
        slotline.publish(body, slotline.properties(Some("once"))).await?;
    }
    let first: Accepted = slotline.replied().await?;
    let second: Accepted = slotline.replied().await?;
    assert_eq!(first.execution_id, second.execution_id);
    slotline.stop_executor().await
}

#[tokio::test]
async fn the_same_message_id_runs_once_and_another_body_under_it_is_refused() -> Result<()> {
    let mut slotline = Installation::start(&[("demo.echo", "{}")]).await?;
    for _ in 0..2 {
        slotline.request("demo.echo", "once").await?;
    }
    let first: Accepted = slotline.replied().await?;
    let second: Accepted = slotline.replied().await?;
    assert_eq!(first.execution_id, second.execution_id);
    let body =
        r#"{"message_type":"execution.requested","payload":{"action_ref":"demo.echo","parameters":{"other":1}}}"#;
    slotline.publish(body, slotline.properties(Some("once"))).await?;
    let rejected: Rejected = slotline.replied().await?;
    assert_eq!(rejected.error.code, "idempotency_conflict");
    let page = PageRequest { cursor: None, limit: 10 };
    assert_eq!(slotline.store.executions(&Filter::default(), page).await?.data.len(), 1);
    // Who left no address finds it among the dead, as it came.
    let mut silent = Properties { reply_to: None, ..slotline.properties(Some("once")) };
    silent.headers.insert("tenant".to_owned(), "seven".to_owned());
    slotline.publish(body, silent).await?;
    let letters = slotline.dead(1).await?;
    let headers = &letters[0].properties.headers;
    assert_eq!(headers["x-slotline-reason"], "idempotency_conflict");
    assert_eq!(headers["tenant"], "seven");
    slotline.stop_executor().await
}

#[tokio::test]
async fn bad_messages_are_put_aside_with_their_reason_and_the_good_ones_beside_them_run() -> Result<()> {
    let mut slotline =
        Installation::start(&[("demo.echo", r#"{"schema": {"type": "object", "required": ["app"]}}"#)]).await?;
    let cases = [
        ("no json", "malformed"),
        (r#"{"message_type":"execution.bogus","payload":{}}"#, "unknown_type"),
        (r#"{"message_type":"execution.requested","payload":{"action_ref":"no.such"}}"#, "unknown_action"),
        (r#"{"message_type":"execution.requested","payload":{"action_ref":5}}"#, "invalid_payload"),
        (r#"{"message_type":"execution.requested","payload":{"action_ref":"demo.echo"}}"#, "invalid_parameters"),
        (r#"{"message_type":"execution.cancel_requested","payload":{}}"#, "invalid_payload"),
        // A number may be another publisher's.
        (r#"{"message_type":"execution.cancel_requested","payload":{"execution_id":1}}"#, "invalid_payload"),
        (
            r#"{"message_type":"execution.cancel_requested","payload":{"execution_id":1,"message_id":"bad"}}"#,
            "invalid_payload",
        ),
    ];
    for (body, reason) in cases {
        slotline.publish(body, slotline.properties(Some("bad"))).await?;
        let rejected: Rejected = slotline.replied().await?;
        assert_eq!(rejected.error.code, reason, "{body}");
    }
    let array = r#"[{"message_type":"execution.requested","payload":{"action_ref":"no.such"}},
                    {"message_type":"execution.requested","payload":{"action_ref":"demo.echo","parameters":{"app":1}}}]"#;
    slotline.publish(array, slotline.properties(Some("mixed"))).await?;
    let (mut accepted, mut rejected) = (0, 0);
    for _ in 0..2 {
        match slotline.reply().await?.properties.message_type.as_deref() {
            Some(Accepted::TYPE) => accepted += 1,
            Some(Rejected::TYPE) => rejected += 1,
            other => anyhow::bail!("{other:?}"),
        }
    }
    assert_eq!((accepted, rejected), (1, 1));
    let letters = slotline.dead(cases.len() + 1).await?;
    let reasons: Vec<_> =
        letters.iter().map(|letter| letter.properties.headers["x-slotline-reason"].as_str()).collect();
    let expected: Vec<_> = cases.iter().map(|(_, reason)| *reason).chain(["unknown_action"]).collect();
    assert_eq!(reasons, expected);
    slotline.stop_executor().await
}

#[tokio::test]
async fn a_restarted_executor_goes_on_where_the_line_stood() -> Result<()> {
    let mut slotline = Installation::start(&[("demo.echo", r#"{"limit": 1}"#)]).await?;
    let mut worker = PlayedWorker::start(&slotline.broker, &["demo.echo"]).await?;
    for n in 1..=3 {
        slotline.request("demo.echo", &format!("m{n}")).await?;
        let _: Accepted = slotline.replied().await?;
    }
    let first: Scheduled = worker.order().await?;
    slotline.stop_executor().await?;
    slotline.request("demo.echo", "m4").await?;
    slotline.start_executor();
    let hello: Hello = worker.order().await?;
    assert!(hello.epoch > first.epoch);
    worker.complete(&first, OutcomeKind::Completed).await?;
    for n in 2..=4 {
        let mut next: Scheduled = worker.order().await?;
        while next.execution_id == first.execution_id {
            // Its heartbeat said that it holds nothing, so the dispatch came again, with the same fence.
            assert_eq!(next.fence, first.fence);
            next = worker.order().await?;
        }
        assert_eq!(next.execution_id.0, n);
        worker.complete(&next, OutcomeKind::Completed).await?;
    }
    slotline.stop_executor().await
}

#[tokio::test]
async fn a_running_execution_is_cancelled_by_a_message() -> Result<()> {
    let mut slotline = Installation::start(&[("demo.echo", "{}")]).await?;
    let mut worker = PlayedWorker::start(&slotline.broker, &["demo.echo"]).await?;
    slotline.request("demo.echo", "m1").await?;
    let _: Accepted = slotline.replied().await?;
    let scheduled: Scheduled = worker.order().await?;
    worker
        .say(&StatusChanged {
            execution_id: scheduled.execution_id,
            action_ref: scheduled.action_ref.clone(),
            attempt: 1,
            sequence: None,
            worker: Some(worker.name.clone()),
            fence: Some(scheduled.fence),
            incarnation: Some(worker.incarnation),
            previous_status: Status::Scheduled,
            new_status: Status::Running,
            changed_at: Timestamp::from_micros(7),
        })
        .await?;
    slotline.reaches(1, Status::Running).await?;
    let body = r#"{"message_type":"execution.cancel_requested","payload":{"message_id":"m1","reason":"enough"}}"#;
    slotline.publish(body, Properties::default()).await?;
    let cancel: Cancel = worker.order().await?;
    assert_eq!(
        (cancel.execution_id, cancel.fence, cancel.reason.as_deref()),
        (scheduled.execution_id, scheduled.fence, Some("enough"))
    );
    slotline.reaches(1, Status::Cancelling).await?;
    worker.complete(&scheduled, OutcomeKind::Failed).await?;
    slotline.reaches(1, Status::Cancelled).await?;
    slotline.stop_executor().await
}

#[tokio::test]
async fn a_publisher_that_wants_the_end_is_told_it_even_by_the_next_leader() -> Result<()> {
    let mut slotline = Installation::start(&[("demo.echo", "{}")]).await?;
    let body = r#"{"message_type":"execution.requested","payload":{"action_ref":"demo.echo","reply":"settled"}}"#;
    slotline.publish(body, slotline.properties(Some("m1"))).await?;
    slotline.request("demo.echo", "m2").await?;
    let _: Accepted = slotline.replied().await?;
    slotline.stop_executor().await?;
    slotline.start_executor();
    let mut worker = PlayedWorker::start(&slotline.broker, &["demo.echo"]).await?;
    let scheduled: Scheduled = worker.order().await?;
    worker.complete(&scheduled, OutcomeKind::Completed).await?;
    let settled: Settled = slotline.replied().await?;
    assert_eq!((settled.message_id.as_deref(), settled.status), (Some("m1"), Status::Completed));
    assert_eq!(settled.result.context("a result")?.get(), "42");
    // Whoever did not hear it asks again.
    slotline.publish(body, slotline.properties(Some("m1"))).await?;
    let again: Settled = slotline.replied().await?;
    assert_eq!((again.execution_id, again.status), (settled.execution_id, Status::Completed));
    assert_eq!(again.result.context("a result")?.get(), "42");
    slotline.stop_executor().await
}

#[tokio::test]
async fn a_worker_that_comes_later_is_told_the_terms_before_it_gets_work() -> Result<()> {
    let mut slotline = Installation::start(&[("demo.echo", "{}")]).await?;
    slotline.request("demo.echo", "m1").await?;
    let _: Accepted = slotline.replied().await?;
    let mut worker = PlayedWorker::start(&slotline.broker, &["demo.echo"]).await?;
    let hello: Hello = worker.order().await?;
    let config = Config::default();
    assert_eq!((hello.lease_seconds, hello.fence_seconds), (Some(config.lease), Some(config.fence)));
    let scheduled: Scheduled = worker.order().await?;
    assert!(scheduled.n > hello.n && !hello.lost);
    slotline.stop_executor().await
}

#[tokio::test]
async fn a_backlog_larger_than_memory_keeps_delays_no_dispatch_of_another_action() -> Result<()> {
    let mut slotline = Installation::start(&[("demo.big", r#"{"limit": 1}"#), ("demo.echo", "{}")]).await?;
    let filler = "x".repeat(1_000_000);
    for _ in 0..70 {
        let payload = format!(r#"{{"action_ref":"demo.big","parameters":{{"filler":"{filler}"}}}}"#);
        let body = format!(r#"{{"message_type":"execution.requested","payload":{payload}}}"#);
        slotline.publish(body, Properties::default()).await?;
    }
    let mut worker = PlayedWorker::start(&slotline.broker, &["demo.echo"]).await?;
    let _: Hello = worker.order().await?;
    slotline.request("demo.echo", "m1").await?;
    // This worker sends no further heartbeat, so nothing could mend a dispatch that was left out.
    let scheduled: Scheduled = worker.order().await?;
    assert_eq!(scheduled.action_ref.as_str(), "demo.echo");
    slotline.stop_executor().await
}

#[tokio::test]
async fn requests_beyond_what_is_checked_together_are_all_taken_in_order() -> Result<()> {
    let mut slotline = Installation::start(&[("demo.echo", "{}")]).await?;
    let request = |n: usize| {
        format!(
            r#"{{"message_type":"execution.requested","payload":{{"action_ref":"demo.echo","parameters":{{"n":{n}}}}}}}"#
        )
    };
    // Two bodies reach the bound of 2000 members, one passes it alone, and the last is far below.
    let bodies = [0..1999, 1999..2001, 2001..4100, 4100..4101];
    let count = bodies.iter().map(ExactSizeIterator::len).sum::<usize>();
    for body in bodies {
        let members: Vec<String> = body.map(request).collect();
        slotline.publish(format!("[{}]", members.join(",")), Properties::default()).await?;
    }
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let last = slotline_protocol::ExecutionId(i64::try_from(count)?);
    while slotline.store.execution(last).await?.is_none() {
        ensure!(tokio::time::Instant::now() < deadline, "not all were taken");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    for n in [0_i64, 1998, 1999, 2000, 2001, 4099, 4100] {
        let id = slotline_protocol::ExecutionId(n + 1);
        let execution = slotline.store.execution(id).await?.context("an execution for each")?;
        assert_eq!(execution.parameters.get(), format!(r#"{{"n":{n}}}"#), "{id}");
    }
    slotline.stop_executor().await
}

#[tokio::test]
async fn a_stale_fence_changes_nothing() -> Result<()> {
    let mut slotline = Installation::start(&[("demo.echo", "{}")]).await?;
    let mut worker = PlayedWorker::start(&slotline.broker, &["demo.echo"]).await?;
    slotline.request("demo.echo", "m1").await?;
    let scheduled: Scheduled = worker.order().await?;
    let stale = Scheduled { fence: Fence(scheduled.fence.0 - 1), ..scheduled.clone() };
    worker.complete(&stale, OutcomeKind::Failed).await?;
    // The queue is first in, first out: had the stale word counted, the true one would come too late.
    worker.complete(&scheduled, OutcomeKind::Completed).await?;
    slotline.reaches(1, Status::Completed).await?;
    slotline.stop_executor().await
}

#[tokio::test]
async fn what_is_shown_live_is_what_the_journal_tells_afterwards() -> Result<()> {
    let policy = r#"{"retry": {"max_attempts": 2, "backoff": "1ms"}}"#;
    let mut slotline = Installation::start(&[("demo.echo", policy)]).await?;
    let mut news = slotline.follow().await?;
    let mut worker = PlayedWorker::start(&slotline.broker, &["demo.echo"]).await?;
    for outcomes in [&[OutcomeKind::Completed][..], &[OutcomeKind::Failed, OutcomeKind::Completed]] {
        slotline.request("demo.echo", &format!("m{}", outcomes.len())).await?;
        let accepted: Accepted = slotline.replied().await?;
        for outcome in outcomes {
            let scheduled: Scheduled = worker.order().await?;
            worker.complete(&scheduled, *outcome).await?;
        }
        let mut shown: Vec<record::Event> = Vec::new();
        while !matches!(shown.last().map(|event| &event.what), Some(record::What::Settled { .. })) {
            let delivery = tokio::time::timeout(PATIENCE, news.next()).await.context("no news")?;
            shown.extend(serde_json::from_slice::<Vec<record::Event>>(&delivery.context("the session is over")?.body)?);
        }
        let kinds: Vec<&str> = shown.iter().map(|event| event.what.kind().as_str()).collect();
        let attempt = ["status", "status", "started", "finished"];
        let attempts = vec![attempt; outcomes.len()].join(&"status");
        assert_eq!(kinds, [&["status"][..], &attempts, &["settled"]].concat());
        let numbers: Vec<u64> = shown.iter().map(|event| event.number).collect();
        assert_eq!(numbers, (1..).take(shown.len()).collect::<Vec<u64>>(), "without a gap, across attempts");
        let journaled = slotline.store.events(accepted.execution_id, 0, 100).await?.context("it is known")?;
        assert!(journaled.is_over);
        assert_eq!(serde_json::to_value(&journaled.events)?, serde_json::to_value(&shown)?);
    }
    slotline.stop_executor().await
}

#[tokio::test]
async fn what_no_worker_has_proved_to_have_said_changes_nothing() -> Result<()> {
    let mut slotline = Installation::start(&[("demo.echo", r#"{"limit": 1, "run_ahead": 0}"#)]).await?;
    let mut worker = PlayedWorker::start(&slotline.broker, &["demo.echo"]).await?;
    slotline.request("demo.echo", "m1").await?;
    slotline.request("demo.echo", "m2").await?;
    let _: [Accepted; 2] = [slotline.replied().await?, slotline.replied().await?];
    let scheduled: Scheduled = worker.order().await?;
    // A liar that has read all there is to read in public: who runs what, under which fence. Once with no proof, once with
    // the proof of another body, once with that of a worker it is itself.
    let liar = PlayedWorker::start_as("liar", &slotline.broker, &["demo.other"]).await?;
    let truth = envelope::write(&Envelope::new(&worker.account(), "worker/played", Timestamp::from_micros(0)));
    let key = worker.key.clone().context("it is known")?;
    let liars_key = liar.key.clone().context("it is known")?;
    for body in worker.lies(&scheduled) {
        let (message_type, body) = body?;
        for headers in [
            vec![],
            vec![(PROOF_HEADER, proof::of_worker(worker.incarnation, &key, &truth))],
            vec![(PROOF_HEADER, proof::of_worker(worker.incarnation, &liars_key, &body))],
            vec![(PROOF_HEADER, proof::of_worker(liar.incarnation, &liars_key, &body))],
        ] {
            let headers = headers.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
            publish_report(&liar.session, message_type, body.clone(), headers).await?;
        }
    }
    // The leader's session is one of the first of this broker.
    let mut queued = None;
    for session in 1..9 {
        let queue = topology::completions_queue("slotline", scheduled.epoch, session);
        queued = queued.or(worker.session.depth(&queue).await.ok());
    }
    ensure!(queued == Some(0), "all was taken out of the queue: {queued:?}");
    // A question through the leader's loop, by which time all before it was dealt with.
    slotline.put("demo.echo", r#"{"limit": 1, "run_ahead": 0}"#).await?;
    assert_eq!(slotline.status(1).await?, Status::Scheduled);
    assert_eq!(slotline.status(2).await?, Status::Queued);
    worker.complete(&scheduled, OutcomeKind::Completed).await?;
    let next: Scheduled = worker.order().await?;
    assert_eq!((next.execution_id.0, slotline.status(1).await?), (2, Status::Completed));
    slotline.stop_executor().await
}

#[tokio::test]
async fn a_question_that_no_executor_has_signed_is_not_answered() -> Result<()> {
    let mut slotline = Installation::start(&[("demo.echo", r#"{"limit": 1}"#)]).await?;
    // Neither an answer nor, later, what others' executions tell.
    let id = Uuid::new_v4();
    slotline.session.declare(&Topology::replies("slotline", id, 1)).await?;
    let queue = topology::replies_queue("slotline", id, 1);
    let follow = Publication {
        exchange: topology::work_exchange("slotline"),
        routing_key: "executor.call".to_owned(),
        body: r#"{"ask":"follow","all":true,"ids":[]}"#.into(),
        properties: Properties { reply_to: Some(queue.clone()), ..Properties::default() },
        mandatory: true,
        persistent: false,
    };
    slotline.session.publish(follow).await?;
    let wrong = Key::new(&proof::Secret::new(&[0; 32]).context("long enough")?.of_executors());
    for ask in [
        r#"{"ask":"put_action","action_ref":"demo.echo","policy":{"limit":9}}"#,
        r#"{"ask":"delete_action","action_ref":"demo.echo"}"#,
        r#"{"ask":"pause","action_ref":"demo.echo","paused":true}"#,
    ] {
        for headers in [vec![], vec![(PROOF_HEADER.to_owned(), wrong.sign(Channel::Call, ask.as_bytes()))]] {
            publish_report(&slotline.session, "executor.call", ask.into(), headers.into_iter().collect()).await?;
        }
    }
    slotline.put("demo.other", "{}").await?;
    slotline.request("demo.other", "watched").await?;
    let _: Accepted = slotline.replied().await?;
    assert_eq!(slotline.session.depth(&queue).await?, 0, "it is told nothing");
    let action = slotline.store.action(&ActionRef::new("demo.echo")?).await?.context("it is there")?;
    assert_eq!((action.policy.limit, action.paused), (Some(1), false));
    slotline.stop_executor().await
}
