//! A test that acts as the executor: it grants, cancels and records, and keeps everything that a worker sends.
#![allow(dead_code, reason = "each test file takes what it needs")]

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::Value;
use serde_json::value::RawValue;
use slotline_broker::topology::{
    Topology, completions_queue, events_queue, heartbeats_queue, to_worker, work_exchange,
};
use slotline_broker::{Broker, Consume, Consumer, Delivery, Properties, Publication, Session};
use slotline_protocol::message::{
    AttemptKey, Cancel, Completed, Ended, Event, Heartbeat, Hello, Message, Progress, Recall, Recorded, Resend,
    Returned, Scheduled, StatusChanged,
};
use slotline_protocol::proof::{self, Channel, Key, NONCE_HEADER, PROOF_HEADER, SECRET_BYTES, Secret, TOKEN_HEADER};
use slotline_protocol::{
    ActionId, ActionRef, Detail, Envelope, Epoch, ExecutionId, Fence, Incarnation, Timestamp, envelope,
};

/// Nothing in these tests takes longer, unless it hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
pub(crate) const PREFIX: &str = "slotline";

pub(crate) fn key(id: i64) -> AttemptKey {
    (ExecutionId(id), 1)
}

pub(crate) struct Executor {
    pub(crate) session: Session,
    completions: Consumer,
    events: Consumer,
    heartbeats: Consumer,
    epoch: Epoch,
    n: u64,
    secret: Secret,
    pub(crate) heard: Heard,
}

/// Everything received so far.
#[derive(Default)]
pub(crate) struct Heard {
    /// Each with the correlation id of its envelope.
    pub(crate) completed: Vec<(Option<String>, Completed)>,
    pub(crate) returned: Vec<Returned>,
    pub(crate) status: Vec<StatusChanged>,
    pub(crate) progress: Vec<Progress>,
    pub(crate) heartbeats: Vec<Heartbeat>,
    pub(crate) ended: Vec<Ended>,
}

impl Executor {
    pub(crate) async fn start(broker: &Broker, epoch: i64) -> anyhow::Result<Self> {
        let session = broker.open("the test").await?;
        let epoch = Epoch(epoch);
        session.declare(&Topology::leader(PREFIX, epoch, 1)).await?;
        let options = Consume { prefetch: 10_000 };
        Ok(Self {
            completions: session.consume(&completions_queue(PREFIX, epoch, 1), options).await?,
            events: session.consume(&events_queue(PREFIX, epoch, 1), options).await?,
            heartbeats: session.consume(&heartbeats_queue(PREFIX, epoch, 1), options).await?,
            session,
            epoch,
            n: 0,
            secret: Secret::new(&[7; SECRET_BYTES]).context("long enough")?,
            heard: Heard::default(),
        })
    }

    /// Receives until `done` gives a value.
    pub(crate) async fn until<T>(
        &mut self,
        what: &str,
        mut done: impl FnMut(&Heard) -> Option<T>,
    ) -> anyhow::Result<T> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            if let Some(found) = done(&self.heard) {
                return Ok(found);
            }
            let delivery = tokio::select! {
                delivery = self.completions.next() => delivery,
                delivery = self.events.next() => delivery,
                delivery = self.heartbeats.next() => delivery,
                () = tokio::time::sleep_until(deadline) => bail!("waited in vain for {what}"),
            };
            let delivery = delivery.context("the session is over")?;
            if !self.believes(&delivery).await? {
                continue;
            }
            let defaults = delivery.properties.defaults();
            for member in envelope::read(&delivery.body, defaults)?.iter() {
                self.hear(member?)?;
            }
        }
    }

    /// As a leader does: takes nothing without proof, and introduces itself to a worker that asks.
    async fn believes(&mut self, delivery: &Delivery) -> anyhow::Result<bool> {
        let headers = &delivery.properties.headers;
        if let Some((who, code)) = headers.get(PROOF_HEADER).and_then(|proof| proof::speaker(proof)) {
            let key = Key::new(&self.secret.of_worker(who));
            anyhow::ensure!(key.proves(Channel::Report, &delivery.body, code), "a proof of something else");
            return Ok(true);
        }
        let nonce = headers.get(NONCE_HEADER).context("a report without proof")?.clone();
        for member in envelope::read(&delivery.body, delivery.properties.defaults())?.iter() {
            let Heartbeat { incarnation, .. } = member?.open()?;
            let hello = self.hello_message(false);
            let token = self.secret.of_worker(incarnation);
            let mut publication = self.signed(incarnation, &hello);
            let headers = [(TOKEN_HEADER.to_owned(), token.to_string()), (NONCE_HEADER.to_owned(), nonce.clone())];
            publication.properties.headers.extend(headers);
            // The worker may have gone on under another name meanwhile.
            let _ = self.session.publish(publication).await;
        }
        Ok(false)
    }

    fn signed<M: Message>(&self, to: Incarnation, message: &M) -> Publication {
        let body = envelope::write(&Envelope::new(message, "executor/test", Timestamp::from_micros(0)));
        let code = Key::new(&self.secret.of_worker(to)).sign(Channel::Order, &body);
        Publication {
            exchange: work_exchange(PREFIX),
            routing_key: to_worker(M::TYPE, to),
            body,
            properties: Properties { headers: [(PROOF_HEADER.to_owned(), code)].into(), ..Properties::default() },
            mandatory: true,
            persistent: false,
        }
    }

    fn hear(&mut self, envelope: Envelope<'_>) -> anyhow::Result<()> {
        anyhow::ensure!(envelope.source.as_deref().is_some_and(|source| source.starts_with("worker/")), "no source");
        anyhow::ensure!(envelope.message_id.is_some(), "no message id");
        match &*envelope.message_type {
            Completed::TYPE => {
                let completed = envelope.open()?;
                self.heard.completed.push((envelope.correlation_id, completed));
            }
            Returned::TYPE => self.heard.returned.push(envelope.open()?),
            StatusChanged::TYPE => self.heard.status.push(envelope.open()?),
            Progress::TYPE => self.heard.progress.push(envelope.open()?),
            Heartbeat::TYPE => self.heard.heartbeats.push(envelope.open()?),
            Ended::TYPE => self.heard.ended.push(envelope.open()?),
            other => bail!("a worker does not say {other}"),
        }
        Ok(())
    }

    pub(crate) async fn worker(&mut self) -> anyhow::Result<Incarnation> {
        self.until("a heartbeat", |heard| heard.heartbeats.last().map(|beat| beat.incarnation)).await
    }

    /// A worker that was not there before.
    pub(crate) async fn next_worker(&mut self, former: Incarnation) -> anyhow::Result<Incarnation> {
        self.until("a new incarnation", |heard| {
            heard.heartbeats.iter().map(|beat| beat.incarnation).find(|incarnation| *incarnation != former)
        })
        .await
    }

    pub(crate) async fn completed(&mut self, id: i64) -> anyhow::Result<Completed> {
        self.until(&format!("the end of {id}"), |heard| {
            let found = heard.completed.iter().find(|(_, completed)| completed.execution_id == ExecutionId(id));
            found.map(|(_, completed)| completed.clone())
        })
        .await
    }

    pub(crate) async fn returned(&mut self, id: i64) -> anyhow::Result<Returned> {
        self.until(&format!("the return of {id}"), |heard| {
            heard.returned.iter().find(|returned| returned.execution_id == ExecutionId(id)).cloned()
        })
        .await
    }

    /// Receives until the attempt runs.
    pub(crate) async fn running(&mut self, id: i64) -> anyhow::Result<()> {
        self.until(&format!("the start of {id}"), |heard| {
            heard.status.iter().any(|changed| changed.execution_id == ExecutionId(id)).then_some(())
        })
        .await
    }

    /// All events of an execution, once the one numbered `last` is there; in order of their numbers.
    pub(crate) async fn events(&mut self, id: i64, last: u64) -> anyhow::Result<BTreeMap<u64, String>> {
        self.until(&format!("{last} events of {id}"), |heard| {
            let of = |execution: &ExecutionId| *execution == ExecutionId(id);
            let statuses = heard.status.iter().filter(|changed| of(&changed.execution_id));
            let mut events: BTreeMap<u64, String> = statuses
                .filter_map(|changed| Some((changed.sequence?, format!("status {}", changed.new_status))))
                .collect();
            events.extend(heard.progress.iter().filter(|progress| of(&progress.execution_id)).map(|progress| {
                let text = match &progress.event {
                    Event::Started {} => "started".to_owned(),
                    Event::Progress(report) => {
                        format!("{:?} {}", report.level, report.message.as_deref().unwrap_or_default())
                    }
                    Event::Log { stream, lines } => format!("{stream:?} {}", lines.join("|")),
                    Event::Finished { return_code, .. } => format!("finished {return_code:?}"),
                    Event::Gap { count, reason } => format!("gap {count} {reason:?}"),
                };
                (progress.sequence, text)
            }));
            (u64::try_from(events.len()) == Ok(last)).then_some(events)
        })
        .await
    }

    fn next(&mut self) -> (Epoch, u64) {
        self.n += 1;
        (self.epoch, self.n)
    }

    pub(crate) fn scheduled(&mut self, id: i64, action_ref: &str, parameters: &Value) -> anyhow::Result<Scheduled> {
        let (epoch, n) = self.next();
        Ok(Scheduled {
            epoch,
            n,
            execution_id: ExecutionId(id),
            attempt: 1,
            counts_as: None,
            fence: Fence(1000 + id),
            action_id: ActionId(1),
            action_ref: ActionRef::new(action_ref)?,
            parameters: RawValue::from_string(parameters.to_string())?.into(),
            timeout_seconds: None,
            start_timeout_seconds: None,
            stall_timeout_seconds: None,
            progress: Detail::Default,
            starts_after: None,
            scheduled_at: Timestamp::from_micros(0),
            concurrency_key: None,
            message_id: None,
            continue_when_isolated: false,
            correlation_id: Some(format!("correlation-{id}")),
            trace_id: None,
        })
    }

    /// Grants an attempt to a worker.
    pub(crate) async fn dispatch(
        &mut self,
        to: Incarnation,
        id: i64,
        action_ref: &str,
        parameters: Value,
    ) -> anyhow::Result<()> {
        let scheduled = self.scheduled(id, action_ref, &parameters)?;
        self.send(to, &scheduled).await
    }

    pub(crate) async fn cancel(&mut self, to: Incarnation, id: i64, grace: Duration) -> anyhow::Result<()> {
        let (epoch, n) = self.next();
        let cancel = Cancel {
            epoch,
            n,
            execution_id: ExecutionId(id),
            attempt: 1,
            fence: Fence(1000 + id),
            if_not_started: false,
            grace_seconds: Some(grace),
            reason: Some("the test says so".to_owned()),
        };
        self.send(to, &cancel).await
    }

    pub(crate) async fn recall(&mut self, to: Incarnation, id: i64) -> anyhow::Result<()> {
        let (epoch, n) = self.next();
        let (execution_id, fence) = (ExecutionId(id), Fence(1000 + id));
        self.send(to, &Recall { epoch, n, execution_id, attempt: 1, fence, reason: "the test says so".to_owned() })
            .await
    }

    pub(crate) async fn record(&mut self, to: Incarnation, ids: &[i64]) -> anyhow::Result<()> {
        let (epoch, n) = self.next();
        self.send(to, &Recorded { epoch, n, attempts: ids.iter().map(|id| key(*id)).collect() }).await
    }

    /// Asks for events again.
    pub(crate) async fn resend(
        &mut self,
        to: Incarnation,
        id: i64,
        first_sequence: u64,
        last_sequence: Option<u64>,
    ) -> anyhow::Result<()> {
        let (epoch, n) = self.next();
        let (execution_id, attempt) = key(id);
        let action_ref = ActionRef::new("demo.echo")?;
        let resend = Resend { epoch, n, execution_id, action_ref, attempt, first_sequence, last_sequence };
        self.send(to, &resend).await
    }

    /// To one incarnation.
    pub(crate) async fn lost(&mut self, to: Incarnation) -> anyhow::Result<()> {
        let hello = self.hello_message(true);
        self.send(to, &hello).await
    }

    /// To all.
    pub(crate) async fn hello(&mut self) -> anyhow::Result<()> {
        let hello = self.hello_message(false);
        self.publish(Hello::TYPE.to_owned(), &hello, false).await
    }

    fn hello_message(&mut self, lost: bool) -> Hello {
        let (epoch, n) = self.next();
        Hello {
            epoch,
            n,
            lease_seconds: None,
            fence_seconds: None,
            heartbeat_seconds: None,
            lost,
            journal: None,
            account: false,
            refused: None,
        }
    }

    pub(crate) async fn send<M: Message>(&self, to: Incarnation, message: &M) -> anyhow::Result<()> {
        Ok(self.session.publish(self.signed(to, message)).await?)
    }

    /// Orders of a sender that is no executor: without a proof, with the proof of another order, with that of another
    /// journal. Their numbers are above all that the worker has seen.
    pub(crate) async fn forge<M: Message>(&self, to: Incarnation, message: &M) -> anyhow::Result<()> {
        let forged = self.signed(to, message);
        let other = Secret::new(&[8; SECRET_BYTES]).context("long enough")?.of_worker(to);
        let codes = [
            None,
            Some(Key::new(&self.secret.of_worker(to)).sign(Channel::Order, b"{}")),
            Some(Key::new(&other).sign(Channel::Order, &forged.body)),
        ];
        for code in codes {
            let headers = code.map(|code| (PROOF_HEADER.to_owned(), code)).into_iter().collect();
            let properties = Properties { headers, ..Properties::default() };
            self.session.publish(Publication { properties, ..forged.clone() }).await?;
        }
        Ok(())
    }

    async fn publish<M: Message>(&self, routing_key: String, message: &M, mandatory: bool) -> anyhow::Result<()> {
        let envelope = Envelope::new(message, "executor/test", Timestamp::from_micros(0));
        let publication = Publication {
            exchange: work_exchange(PREFIX),
            routing_key,
            body: envelope::write(&envelope),
            mandatory,
            ..Publication::default()
        };
        Ok(self.session.publish(publication).await?)
    }
}
