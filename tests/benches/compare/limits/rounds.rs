//! The shape of a hand-off: a worker says "completed", an executor commits that and the next start, and sends the
//! next dispatch. Measured at the worker, from its publication to the arrival of the next.

use std::time::Instant;

use anyhow::Result;
use lapin::{Channel, Consumer};
use tokio_postgres::{Client, Statement};

use super::MEASURE;
use super::amqp::{Kind, channel, connect, consume, declare, delete, publish, take};
use super::rows;
use crate::figure::{Book, Figure, MACHINE};
use crate::scale::Scale;
use crate::servers;

const TO_EXECUTOR: &str = "limits.completed";
const TO_WORKER: &str = "limits.scheduled";
const PREFETCH: u16 = 256;
/// Rows that the commits go over.
const ROWS: usize = 3_000;

struct Executor {
    channel: Channel,
    consumer: Consumer,
    kind: Kind,
    /// `None` commits nothing.
    journal: Option<(Client, Statement)>,
}

pub(super) async fn measure(amqp: &str, database: &str, scale: &Scale, book: &mut Book) -> Result<()> {
    let connections = (connect(amqp).await?, connect(amqp).await?);
    for (kind, commits) in
        [(Kind::Transient, false), (Kind::Classic, false), (Kind::Classic, true), (Kind::Quorum, true)]
    {
        let (worker, executor) = (channel(&connections.0).await?, channel(&connections.1).await?);
        for queue in [TO_EXECUTOR, TO_WORKER] {
            declare(&worker, queue, kind).await?;
        }
        let journal = if commits {
            let client = servers::connect(database).await?;
            rows::fill(&client, ROWS).await?;
            let update = client.prepare(rows::UPDATE).await?;
            Some((client, update))
        } else {
            None
        };
        let consumer = consume(&executor, TO_EXECUTOR, PREFETCH).await?;
        let executor = tokio::spawn(Executor { channel: executor, consumer, kind, journal }.run());
        let figure = rounds(&worker, kind, scale).await?;
        executor.abort();
        for queue in [TO_EXECUTOR, TO_WORKER] {
            delete(&worker, queue).await?;
        }
        book.add(Figure { case: told(kind, commits), ..figure });
    }
    Ok(())
}

fn told(kind: Kind, commits: bool) -> String {
    let commit = if commits { " and one commit" } else { "" };
    format!("broker: two hops{commit}, {}", kind.told())
}

async fn rounds(worker: &Channel, kind: Kind, scale: &Scale) -> Result<Figure> {
    let mut consumer = consume(worker, TO_WORKER, PREFETCH).await?;
    let (begun, mut took) = (Instant::now(), Vec::new());
    while begun.elapsed() < scale.floor {
        let round = Instant::now();
        // As a worker does, it goes on without the confirm.
        drop(publish(worker, TO_EXECUTOR, kind).await?);
        take(&mut consumer).await?;
        took.push(u64::try_from(round.elapsed().as_nanos())?);
    }
    let figure = Figure::new(MACHINE, MEASURE, "", took.len());
    Ok(figure.rate(1, begun.elapsed().as_secs_f64()).percentiles(took))
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
