//! A broker of one kind under a prefix of its own, and short words for what every case does.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use slotline_broker::topology::{self, Queue};
use slotline_broker::{Broker, Consume, Consumer, Delivery, Publication, Session, Topology};
use slotline_tests::{Rabbit, eventually};

pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

static NEXT_PREFIX: AtomicU32 = AtomicU32::new(1);

pub(crate) struct World {
    pub(crate) broker: Broker,
}

impl World {
    pub(crate) fn memory() -> Self {
        Self { broker: Broker::memory(&prefix()) }
    }

    pub(crate) async fn rabbit() -> anyhow::Result<Self> {
        Ok(Self { broker: Broker::rabbit(&Rabbit::shared().await?.url(), &prefix())? })
    }

    pub(crate) async fn session(&self) -> anyhow::Result<Session> {
        Ok(self.broker.open("conformance").await?)
    }

    /// The name of a queue of this test.
    pub(crate) fn name(&self, name: &str) -> String {
        format!("{}.{name}", self.broker.prefix())
    }

    /// The exchange, and queues without bindings.
    pub(crate) fn topology(&self, queues: impl IntoIterator<Item = Queue>) -> Topology {
        Topology {
            exchanges: vec![topology::Exchange { name: topology::executions_exchange(self.broker.prefix()) }],
            queues: queues.into_iter().collect(),
            ..Topology::default()
        }
    }

    /// A session and one queue of either kind.
    pub(crate) async fn with_queue(&self, queue: Queue) -> anyhow::Result<Session> {
        let session = self.session().await?;
        session.declare(&self.topology([queue])).await?;
        Ok(session)
    }
}

fn prefix() -> String {
    format!("c{}", NEXT_PREFIX.fetch_add(1, Ordering::Relaxed))
}

pub(crate) const fn prefetch(prefetch: u16) -> Consume {
    Consume { prefetch }
}

/// A message straight to a queue.
pub(crate) fn to_queue(queue: &str, body: impl ToString) -> Publication {
    Publication {
        routing_key: queue.to_owned(),
        body: body.to_string().into(),
        persistent: true,
        mandatory: true,
        ..Publication::default()
    }
}

/// Publishes the numbers of `range` and waits until all are confirmed.
pub(crate) async fn publish(session: &Session, queue: &str, range: std::ops::Range<u32>) -> anyhow::Result<()> {
    let receipts: Vec<_> = range.map(|number| session.publish(to_queue(queue, number))).collect();
    for receipt in receipts {
        receipt.await?;
    }
    Ok(())
}

/// Waits for the next `count` deliveries.
pub(crate) async fn take(consumer: &mut Consumer, count: usize) -> anyhow::Result<Vec<Delivery>> {
    let mut deliveries = Vec::new();
    let taking = async {
        while deliveries.len() < count {
            let missing = count - deliveries.len();
            ensure!(consumer.next_batch(&mut deliveries, missing).await, "the session is over");
        }
        Ok(())
    };
    let taken = tokio::time::timeout(DEADLINE, taking).await;
    let got = deliveries.len();
    taken.with_context(|| format!("{got} of {count} deliveries came"))??;
    Ok(deliveries)
}

pub(crate) fn numbers(deliveries: &[Delivery]) -> Vec<u32> {
    let number = |delivery: &Delivery| String::from_utf8_lossy(&delivery.body).parse().expect("bodies are numbers");
    deliveries.iter().map(number).collect()
}

pub(crate) fn range(range: std::ops::Range<u32>) -> Vec<u32> {
    range.collect()
}

/// Waits until so many messages of the queue are ready.
pub(crate) async fn until_depth(session: &Session, queue: &str, expected: u64) -> anyhow::Result<()> {
    let mut seen = None;
    let reached = eventually("the depth of the queue", DEADLINE, async || {
        seen = Some(session.depth(queue).await?);
        Ok((seen == Some(expected)).then_some(()))
    })
    .await;
    reached.with_context(|| format!("{queue} has {seen:?} ready, expected {expected}"))
}

/// Waits for something that must not take for ever.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> anyhow::Result<T> {
    tokio::time::timeout(DEADLINE, future).await.context("waited in vain")
}
