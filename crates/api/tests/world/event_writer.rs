//! What a leader does for the record of one execution: it writes each event, and then publishes it.

use std::sync::Arc;

use slotline_api::Hub;
use slotline_api::hub::LiveEvent;
use slotline_protocol::message::{Failure, Report};
use slotline_protocol::record::{Event, Newest, What};
use slotline_protocol::{ActionId, ActionRef, ExecutionId, Status, Timestamp};
use slotline_scheduler::{Counters, Settled};
use slotline_store::{Batch, Leadership, Store, Story};

pub(crate) struct EventWriter {
    leadership: Leadership,
    counters: Counters,
    hub: Arc<Hub>,
    id: ExecutionId,
    batch: i64,
    last: u64,
}

impl EventWriter {
    pub(crate) async fn new(store: &Store, hub: Arc<Hub>, id: ExecutionId) -> anyhow::Result<Self> {
        let mut leadership = store.lead("writer").await?;
        let counters = leadership.recover().await?.counters;
        Ok(Self { leadership, counters, hub, id, batch: 0, last: 0 })
    }

    /// Writes and publishes a report.
    pub(crate) async fn report(&mut self, message: &str) -> anyhow::Result<()> {
        let report = Report { message: Some(message.to_owned()), ..Report::default() };
        self.publish(What::Progress(report)).await
    }

    pub(crate) async fn reports(&mut self, count: u64) -> anyhow::Result<()> {
        for _ in 0..count {
            self.report("on it").await?;
        }
        Ok(())
    }

    pub(crate) async fn publish(&mut self, what: What) -> anyhow::Result<()> {
        let event = self.write(what).await?;
        self.hub.publish(&[Arc::new(LiveEvent::new(event.into()))]);
        Ok(())
    }

    /// Writes an event without publishing it.
    pub(crate) async fn write(&mut self, what: What) -> anyhow::Result<Event> {
        self.last += 1;
        let event = event(self.id, self.last, what);
        let batch = Batch { events: vec![Arc::new(event.clone())], stories: vec![self.story()], ..self.batch() };
        self.leadership.commit(&batch).await?;
        Ok(event)
    }

    pub(crate) async fn settle(&mut self, status: Status, error: Option<Failure>) -> anyhow::Result<()> {
        self.last += 1;
        let ended_at = Timestamp::from_micros(1_763_713_900_000_000);
        let settled = Settled {
            id: self.id,
            action: ActionId(1),
            action_ref: ActionRef::new("demo.echo").expect("a name"),
            status,
            attempt: 1,
            queued_at: ended_at,
            counts_as: 1,
            failures: 0,
            losses: 0,
            lease: None,
            result: None,
            error: error.clone(),
            ended_at,
        };
        let batch = Batch { settled: vec![Arc::new(settled)], stories: vec![self.story()], ..self.batch() };
        self.leadership.commit(&batch).await?;
        let event = event(self.id, self.last, What::Settled { previous: Status::Running, status, result: None, error });
        self.hub.publish(&[Arc::new(LiveEvent::new(event.into()))]);
        Ok(())
    }

    fn batch(&mut self) -> Batch {
        self.batch += 1;
        Batch { number: self.batch, counters: self.counters, ..Batch::default() }
    }

    fn story(&self) -> Story {
        Story {
            id: self.id,
            first: 1,
            last: self.last,
            attempt: 1,
            sequence: self.last,
            newest: Newest::default(),
            status: Status::Running,
            latest: None,
            awaits: None,
        }
    }
}

pub(crate) fn event(id: ExecutionId, number: u64, what: What) -> Event {
    let (action_ref, timestamp) = (ActionRef::new("demo.echo").expect("a name"), Timestamp::from_micros(0));
    Event { execution_id: id, action_ref, number, attempt: 1, timestamp, what }
}
