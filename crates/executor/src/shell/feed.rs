//! What a leader consumes, for one session: its own three queues, the questions of other executors, and the requests.
//!
//! Urgent and slow arrivals come through channels of their own, so that a flood of events or requests delays neither a
//! completion nor a heartbeat. Not here: what the arrivals mean (`inbox`, `intake`).

use std::sync::Arc;

use slotline_broker::topology::{self, Binding};
use slotline_broker::{Acker, Consume, Consumer, Delivery, Session, Tag, Topology};
use slotline_protocol::Epoch;
use slotline_protocol::chain;
use slotline_protocol::proof::Channel;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::clock::Clock;
use super::dead;
use super::gate::Gate;
use super::inbox::{self, ProbeMark};
use super::intake::Intake;
use crate::leader::ask::{Asker, CALL, Question};
use crate::leader::item::{Arrival, Source};
use crate::leader::request::Checked;

/// Unacked deliveries of one queue.
const PREFETCH: u16 = 1000;
/// Deliveries handed over at once.
const DELIVERIES_MAX: usize = 256;
/// Bytes after which no further delivery joins those handed over at once.
const ARRIVAL_BYTES_MAX: usize = 4 << 20;
/// How many leaders back queues are unbound. Each leader does it, so more than one are left only by leaders without a
/// session.
const FORMER_LEADERS: i64 = 4;
/// The prefix of executors' names as senders.
pub(crate) const EXECUTORS: &str = "executor/";
/// Groups of deliveries between a queue and the loop.
const CHANNEL: usize = 4;

/// One session's consumers. Ends with the session, or when dropped; unacked deliveries then go back in place.
pub(crate) struct Feed {
    pub(crate) session: Session,
    pub(crate) urgent: mpsc::Receiver<Arrival>,
    pub(crate) events: mpsc::Receiver<Arrival>,
    pub(crate) requests: mpsc::Receiver<Checked>,
    ackers: [(Source, Acker); 4],
    requests_acker: Acker,
    _readers: JoinSet<()>,
}

impl Feed {
    /// Declares and binds the queues of this epoch and session, and consumes them; the requests last, when all else is
    /// in place. What waits in those of `former`, an earlier session of this epoch, comes first.
    pub(crate) async fn open(
        session: Session,
        prefix: &str,
        epoch: Epoch,
        former: Option<u64>,
        reader: Reader,
        intake: Intake,
    ) -> Result<Self, slotline_broker::Error> {
        let generation = session.generation();
        let former = replace_former(&session, prefix, epoch, former).await?;
        let consume = async |queue: String| session.consume(&queue, Consume { prefetch: PREFETCH }).await;
        // Events that were on their way are requested again.
        let resume = async |name: fn(&str, Epoch, u64) -> String| {
            let before = async {
                match former {
                    Some(former) => session.salvage(&name(prefix, epoch, former)).await,
                    None => Vec::new(),
                }
            };
            let (before, consumer) = tokio::join!(before, consume(name(prefix, epoch, generation)));
            consumer.map(|consumer| consumer.preceded_by(before))
        };
        // Concurrently: a new leader should lead as soon as possible.
        let (completions, heartbeats, events, calls) = tokio::try_join!(
            resume(topology::completions_queue),
            resume(topology::heartbeats_queue),
            consume(topology::events_queue(prefix, epoch, generation)),
            resume(topology::calls_queue),
        )?;
        // With the same priority as all others, though a later leader outranks an earlier one: see `Consume`. The
        // broker serves this leader once the session of the one before is over.
        let requests = consume(topology::requests_queue(prefix)).await?;
        let ackers = [
            (Source::Completions, completions.acker()),
            (Source::Heartbeats, heartbeats.acker()),
            (Source::Events, events.acker()),
            (Source::Calls, calls.acker()),
        ];
        let requests_acker = requests.acker();
        let letters = session.consume(&topology::dead_queue(prefix), Consume { prefetch: dead::TAKEN_AT_ONCE }).await?;
        let mut readers = JoinSet::new();
        let (urgent_sender, urgent) = mpsc::channel(CHANNEL);
        let (events_sender, events_receiver) = mpsc::channel(CHANNEL);
        let (requests_sender, requests_receiver) = mpsc::channel(CHANNEL);
        readers.spawn(reader.clone().forward(completions, Source::Completions, urgent_sender.clone()));
        readers.spawn(reader.clone().forward(heartbeats, Source::Heartbeats, urgent_sender.clone()));
        readers.spawn(reader.clone().forward(calls, Source::Calls, urgent_sender));
        readers.spawn(dead::keep(letters, intake.store.clone(), reader.clock.clone()));
        readers.spawn(reader.forward(events, Source::Events, events_sender));
        readers.spawn(intake.run(requests, requests_sender));
        Ok(Self {
            session,
            urgent,
            events: events_receiver,
            requests: requests_receiver,
            ackers,
            requests_acker,
            _readers: readers,
        })
    }

    pub(crate) fn ack(&self, from: Source, tag: Tag) {
        for (source, acker) in &self.ackers {
            if *source == from {
                acker.ack_up_to(tag);
            }
        }
    }

    pub(crate) fn requests_acker(&self) -> Acker {
        self.requests_acker.clone()
    }
}

/// Declares the queues of this session and takes those of an earlier one out of use; gives back the earlier one if its
/// queues are others.
async fn replace_former(
    session: &Session,
    prefix: &str,
    epoch: Epoch,
    former: Option<u64>,
) -> Result<Option<u64>, slotline_broker::Error> {
    let generation = session.generation();
    session.declare(&topology_of(prefix, epoch, generation)).await?;
    let former = former.filter(|former| former % topology::LEADER_NAMES != generation % topology::LEADER_NAMES);
    if let Some(former) = former {
        session.unbind(&topology_of(prefix, epoch, former).bindings).await?;
    }
    Ok(former)
}

/// What the leader of `epoch` reads through session `generation`.
fn topology_of(prefix: &str, epoch: Epoch, generation: u64) -> Topology {
    let mut topology = Topology::leader(prefix, epoch, generation);
    topology.bindings.push(Binding {
        queue: topology::calls_queue(prefix, epoch, generation),
        exchange: topology::work_exchange(prefix),
        pattern: CALL.to_owned(),
    });
    topology
}

/// Unbinds the queues of leaders before `epoch`. A queue whose node is away would refuse every heartbeat until it
/// returns, and a worker could not tell the refusal from one of the leader's queue.
pub(crate) async fn unbind_former_leaders(session: Session, prefix: String, epoch: Epoch) {
    let former = (epoch.0.saturating_sub(FORMER_LEADERS).max(0)..epoch.0).rev();
    for former in former.map(Epoch) {
        let names = 0..topology::LEADER_NAMES;
        let bindings: Vec<_> = names.flat_map(|name| topology_of(&prefix, former, name).bindings).collect();
        if let Err(error) = session.unbind(&bindings).await {
            tracing::warn!(error = %chain(&error), epoch = %former, "the queues of a former leader can't be unbound");
            return;
        }
    }
}

/// Turns deliveries into arrivals, beside the loop.
#[derive(Clone, Debug)]
pub(crate) struct Reader {
    pub(crate) mark: ProbeMark,
    pub(crate) clock: Clock,
    pub(crate) gate: Arc<Gate>,
}

impl Reader {
    async fn forward(self, mut consumer: Consumer, from: Source, arrivals: mpsc::Sender<Arrival>) {
        let mut deliveries = Vec::new();
        while consumer.next_batch(&mut deliveries, DELIVERIES_MAX).await {
            let mut rest = deliveries.drain(..);
            while let Some(arrival) = self.gather(from, &mut rest) {
                if arrivals.send(arrival).await.is_err() {
                    return;
                }
            }
        }
    }

    /// The next of `deliveries`, as many as may go together; `None` if there are no more.
    fn gather(&self, from: Source, deliveries: &mut impl Iterator<Item = Delivery>) -> Option<Arrival> {
        let first = deliveries.next()?;
        let mut arrival = Arrival::new(from, first.tag);
        self.read(first, &mut arrival);
        while arrival.bytes < ARRIVAL_BYTES_MAX
            && let Some(delivery) = deliveries.next()
        {
            self.read(delivery, &mut arrival);
        }
        Some(arrival)
    }

    fn read(&self, delivery: Delivery, arrival: &mut Arrival) {
        arrival.tag = delivery.tag;
        arrival.bytes += delivery.body.len();
        match arrival.from {
            Source::Calls if !self.gate.is_executors(Channel::Call, &delivery.properties, &delivery.body) => {
                self.gate.refuse(CALL);
            }
            Source::Calls => match serde_json::from_slice(&delivery.body) {
                Ok(ask) => arrival.questions.push(Question { ask, asker: Asker::Elsewhere(delivery.properties) }),
                Err(error) => tracing::warn!(error = %chain(&error), "dropped a question that can't be read"),
            },
            // Announcements of executors are for the public; the leader gets them, too, and drops them.
            Source::Events if delivery.properties.app_id.as_ref().is_some_and(|id| id.starts_with(EXECUTORS)) => {}
            Source::Events | Source::Completions | Source::Heartbeats => {
                let (probed, now) = (arrival.from.probed(), self.clock.now());
                arrival.items.extend(inbox::read(&delivery, probed, self.mark, &self.gate, now));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use anyhow::Context;
    use slotline_broker::topology::Queue;
    use slotline_broker::{Broker, Publication};
    use slotline_protocol::proof::{SECRET_BYTES, Secret};
    use slotline_store::ClockReading;
    use uuid::Uuid;

    use super::*;
    use crate::leader::request::BYTES_PER_WEIGHT;
    use crate::shell::clock;

    #[tokio::test]
    async fn large_deliveries_are_handed_over_few_at_once() -> anyhow::Result<()> {
        let broker = Broker::memory("p");
        let session = broker.open("test").await?;
        session.declare(&Topology { queues: vec![Queue::classic("q".to_owned())], ..Topology::default() }).await?;
        for _ in 0..10 {
            let (routing_key, body) = ("q".to_owned(), vec![b'x'; 1 << 20].into());
            session.publish(Publication { routing_key, body, ..Publication::default() }).await?;
        }
        let consumer = session.consume("q", Consume { prefetch: PREFETCH }).await?;
        let mark = ProbeMark { generation: session.generation(), nonce: Uuid::nil() };
        let reading = ClockReading { at: clock::wall(), read: Instant::now(), error: Duration::ZERO };
        let secret = Secret::new(&[0; SECRET_BYTES]).context("long enough")?;
        let gate = Arc::new(Gate::new(secret, Arc::default()));
        let reader = Reader { mark, clock: Clock::of(&reading, 0), gate };
        let (sender, mut arrivals) = mpsc::channel(CHANNEL);
        tokio::spawn(reader.forward(consumer, Source::Completions, sender));
        let mut weights = Vec::new();
        while weights.iter().sum::<usize>() < (10 << 20) / BYTES_PER_WEIGHT {
            let arrival = arrivals.recv().await.context("the reader is over")?;
            weights.push(arrival.weight());
        }
        assert_eq!(weights, [256, 256, 128]);
        Ok(())
    }
}
