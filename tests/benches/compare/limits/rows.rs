//! How many rows a second PostgreSQL inserts and updates, five hundred in each commit, and how long a commit of one
//! takes.

use std::time::Instant;

use anyhow::Result;
use tokio_postgres::Client;

use super::MEASURE;
use crate::figure::{Book, Figure, MACHINE};
use crate::scale::Scale;
use crate::servers;

const TABLE: &str = "DROP TABLE IF EXISTS limits; \
    CREATE TABLE limits (id bigint PRIMARY KEY, action text NOT NULL, status smallint NOT NULL, payload text NOT NULL, \
    created timestamptz NOT NULL DEFAULT now(), updated timestamptz NOT NULL DEFAULT now()); \
    CREATE INDEX ON limits (action, id) WHERE status = 0";
const INSERT: &str = "INSERT INTO limits (id, action, status, payload) \
    SELECT id, 'bench.limits', 0, payload FROM unnest($1::bigint[], $2::text[]) AS new (id, payload)";
pub(super) const UPDATE: &str = "UPDATE limits SET status = new.status, updated = now() \
    FROM unnest($1::bigint[], $2::smallint[]) AS new (id, status) WHERE limits.id = new.id";
const BATCH: usize = 500;
const ROWS: usize = 50_000;
const PAYLOAD_BYTES: usize = 256;

pub(super) async fn measure(database: &str, scale: &Scale, book: &mut Book) -> Result<()> {
    let client = servers::connect(database).await?;
    let rows = scale.of(ROWS);
    let (mut inserting, mut updating, mut rounds) = (0.0_f64, 0.0_f64, 0);
    while inserting.min(updating) < scale.floor.as_secs_f64() {
        let begun = Instant::now();
        fill(&client, rows).await?;
        inserting += begun.elapsed().as_secs_f64();
        client.batch_execute("VACUUM ANALYZE limits").await?;
        let begun = Instant::now();
        let update = client.prepare(UPDATE).await?;
        for ids in batches(rows) {
            client.execute(&update, &[&ids, &vec![1_i16; ids.len()]]).await?;
        }
        updating += begun.elapsed().as_secs_f64();
        rounds += 1;
    }
    let figure = |case, seconds| Figure::new(MACHINE, MEASURE, case, rounds * rows).rate(rounds, seconds);
    book.add(single(&client, scale).await?);
    book.add(figure("journal: rows inserted, 500 a commit", inserting));
    book.add(figure("journal: rows updated by key, 500 a commit", updating));
    Ok(())
}

/// A fresh table of so many rows.
pub(super) async fn fill(client: &Client, rows: usize) -> Result<()> {
    client.batch_execute(TABLE).await?;
    let insert = client.prepare(INSERT).await?;
    for ids in batches(rows) {
        client.execute(&insert, &[&ids, &vec!["x".repeat(PAYLOAD_BYTES); ids.len()]]).await?;
    }
    Ok(())
}

fn batches(rows: usize) -> impl Iterator<Item = Vec<i64>> {
    (0..rows).step_by(BATCH).map(move |first| (first..(first + BATCH).min(rows)).map(|id| id as i64).collect())
}

/// One client, one row in each commit.
async fn single(client: &Client, scale: &Scale) -> Result<Figure> {
    fill(client, BATCH).await?;
    let update = client.prepare(UPDATE).await?;
    let (begun, mut took) = (Instant::now(), Vec::new());
    while begun.elapsed() < scale.floor {
        let commit = Instant::now();
        client.execute(&update, &[&vec![(took.len() % BATCH) as i64], &vec![1_i16]]).await?;
        took.push(u64::try_from(commit.elapsed().as_nanos())?);
    }
    let figure = Figure::new(MACHINE, MEASURE, "journal: commit of one updated row", took.len());
    Ok(figure.rate(1, begun.elapsed().as_secs_f64()).percentiles(took))
}
