//! The limits of the machine: what RabbitMQ, PostgreSQL and the disk give to a program that does nothing else.
//!
//! Straight on lapin and on a plain client of PostgreSQL, through none of our own code, so that no change of ours moves
//! them. The two hops with one commit between them are the floor of a hand-off that asks the centre.

mod amqp;
mod disk;
mod hops;
mod rates;
mod rounds;
mod rows;

use anyhow::{Context as _, Result};

use crate::figure::Book;
use crate::scale::Scale;
use crate::servers::Servers;

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
