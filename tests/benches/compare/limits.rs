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

use anyhow::Result;

use crate::figure::Figure;
use crate::scale::Scale;
use crate::servers::Servers;

const MEASURE: &str = "limits";

pub(crate) async fn measure(servers: &Servers, scale: &Scale) -> Result<Vec<Figure>> {
    let amqp = servers.rabbit.url();
    let database = servers.postgres.fresh_database("limits").await?;
    let mut figures = vec![disk::flushed(scale)?];
    figures.extend(hops::measure(&amqp, scale).await?);
    figures.extend(rounds::measure(&amqp, &database, scale).await?);
    figures.extend(rates::measure(&amqp, scale).await?);
    figures.extend(rows::measure(&database, scale).await?);
    Ok(figures)
}
