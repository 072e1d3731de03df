//! The shape of a hand-off: a worker publishes a completion, an executor commits that and the next start, and publishes
//! the next dispatch. Measured at the worker, from its publication to the arrival of the next.
//!
//! A request goes the same way, but for its first hop, which is through a quorum queue.

use std::time::{Duration, Instant};

use anyhow::Result;
use lapin::{Channel, Consumer};
use tokio_postgres::{Client, Statement};

use super::MEASURE;
use super::amqp::{Kind, channel, connect, consume, declare, delete, publish, take};
use super::rows;
use crate::figure::{Book, Figure, MACHINE};
use crate::latency;
use crate::scale::Scale;
use crate::servers;

const TO_EXECUTOR: &str = "limits.completed";
const TO_WORKER: &str = "limits.scheduled";
const PREFETCH: u16 = 256;
/// Rows that the commits go over.
const ROWS: usize = 3_000;

/// One way to go round.
#[derive(Clone, Copy)]
pub(crate) struct Round {
    case: &'static str,
    to_executor: Kind,
    to_worker: Kind,
    commits: bool,
    /// From the end of one to the start of the next.
    rest: Duration,
}

/// The floor of a hand-off.
pub(crate) const HANDOFF: Round = Round { case: "classic", ..Round::hot(Kind::Classic, Kind::Classic, true) };
/// The floor of a request that comes right after another, and of one that comes as seldom as `latency` sends them.
pub(crate) const REQUEST: Round = Round { case: "the first quorum", ..Round::hot(Kind::Quorum, Kind::Classic, true) };
pub(crate) const REQUEST_AT_REST: Round = Round { case: "the first quorum, at rest", rest: latency::EVERY, ..REQUEST };

const ROUNDS: [Round; 5] = [
    Round { case: "transient", ..Round::hot(Kind::Transient, Kind::Transient, false) },
    Round { case: "classic", ..Round::hot(Kind::Classic, Kind::Classic, false) },
    HANDOFF,
    REQUEST,
    REQUEST_AT_REST,
];

struct Executor {
    channel: Channel,
    consumer: Consumer,
    kind: Kind,
    /// `None` commits nothing.
    journal: Option<(Client, Statement)>,
}

pub(super) async fn measure(amqp: &str, database: &str, scale: &Scale, book: &mut Book) -> Result<()> {
    for round in &ROUNDS {
        book.add(round.run(amqp, database, scale).await?);
    }
    Ok(())
}

impl Round {
    const fn hot(to_executor: Kind, to_worker: Kind, commits: bool) -> Self {
        Self { case: "", to_executor, to_worker, commits, rest: Duration::ZERO }
    }

    pub(super) async fn run(&self, amqp: &str, database: &str, scale: &Scale) -> Result<Figure> {
        let connections = (connect(amqp).await?, connect(amqp).await?);
        let (worker, executor) = (channel(&connections.0).await?, channel(&connections.1).await?);
        declare(&worker, TO_EXECUTOR, self.to_executor).await?;
        declare(&worker, TO_WORKER, self.to_worker).await?;
        let journal = if self.commits {
            let client = servers::connect(database).await?;
            rows::fill(&client, ROWS).await?;
            let update = client.prepare(rows::UPDATE).await?;
            Some((client, update))
        } else {
            None
        };
        let consumer = consume(&executor, TO_EXECUTOR, PREFETCH).await?;
        let running = Executor { channel: executor.clone(), consumer, kind: self.to_worker, journal };
        let running = tokio::spawn(running.run());
        let figure = self.measure(&worker, scale).await?;
        running.abort();
        // The channel is closed before its queues are deleted: a message of the broker on a dropped channel would end
        // the connection.
        let _ = running.await;
        executor.close(200, "".into()).await?;
        for queue in [TO_EXECUTOR, TO_WORKER] {
            delete(&worker, queue).await?;
        }
        worker.close(200, "".into()).await?;
        Ok(figure)
    }

    async fn measure(&self, worker: &Channel, scale: &Scale) -> Result<Figure> {
        let mut consumer = consume(worker, TO_WORKER, PREFETCH).await?;
        let (begun, mut took) = (Instant::now(), Vec::new());
        while begun.elapsed() < scale.floor {
            let round = Instant::now();
            // As a worker does, it goes on without the confirm.
            drop(publish(worker, TO_EXECUTOR, self.to_executor).await?);
            take(&mut consumer).await?;
            took.push(u64::try_from(round.elapsed().as_nanos())?);
            if !self.rest.is_zero() {
                tokio::time::sleep(self.rest).await;
            }
        }
        let commit = if self.commits { " and one commit" } else { "" };
        let case = format!("broker: two hops{commit}, {}", self.case);
        Ok(Figure::new(MACHINE, MEASURE, case, took.len()).percentiles(took))
    }
}

impl Executor {
    async fn run(mut self) -> Result<()> {
        for turn in 0_i64.. {
            take(&mut self.consumer).await?;
            if let Some((client, update)) = &self.journal {
                let rows = i64::try_from(ROWS)?;
                let (ended, next) = (turn % rows, (turn + 1) % rows);
                client.execute(update, &[&vec![ended, next], &vec![2_i16, 1]]).await?;
            }
            drop(publish(&self.channel, TO_WORKER, self.kind).await?);
        }
        Ok(())
    }
}
