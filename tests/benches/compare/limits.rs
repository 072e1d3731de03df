//! The limits of the machine: what RabbitMQ, PostgreSQL and the disk give to a program that does nothing else.
//!
//! Directly on lapin and on a plain client of PostgreSQL, without code of Slotline, so that no change of it moves the
//! figures. Two hops with one commit between them are the floor of a hand-off through the executor.

mod amqp;
mod disk;
mod hops;
mod rates;
mod rounds;
mod rows;

use anyhow::{Context as _, Result};

use crate::figure::{Book, Floors};
use crate::scale::Scale;
use crate::servers::Servers;

pub(crate) use rounds::{HANDOFF, REQUEST, REQUEST_AT_REST, Round};

const MEASURE: &str = "limits";

pub(crate) async fn measure(servers: &Servers, scale: &Scale, book: &mut Book) -> Result<()> {
    let amqp = servers.rabbit.url();
    let database = servers.postgres.fresh_database("limits").await?;
    book.add(disk::flushed(scale)?);
    hops::measure(&amqp, scale, book).await.context("one hop")?;
    rounds::measure(&amqp, &database, scale, book).await.context("two hops")?;
    rates::measure(&amqp, scale, book).await.context("rates")?;
    rows::measure(&database, scale, book).await.context("rows")
}

/// The floors of a measure as of now, to be taken right before it and right after it: where a host has other guests,
/// the machine is another one some minutes later.
pub(crate) async fn floors(servers: &Servers, rounds: &[Round], scale: &Scale) -> Result<Floors> {
    let (amqp, database) = (servers.rabbit.url(), servers.postgres.fresh_database("floors").await?);
    let mut floors = Floors::new();
    for round in rounds {
        let figure = round.run(&amqp, &database, scale).await?;
        floors.insert(figure.case, figure.p50_us.context("a round takes less than the whole")?);
    }
    Ok(floors)
}
