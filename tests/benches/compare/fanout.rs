//! F: many actions with one slot each, a few executions of each, over several workers.

use std::time::Instant;

use anyhow::Result;

use crate::figure::{Book, Figure};
use crate::installation::Site;
use crate::load::in_lines;
use crate::publisher::{Form, Request, publish};
use crate::scale::Scale;
use crate::stamps;
use crate::workers::{Served, Spent};

const ACTION: &str = "bench.fan";
const ACTIONS: usize = 10_000;
const EACH: usize = 10;
const WORKERS: usize = 4;
const CAPACITY: u32 = 250;

pub(crate) async fn measure(site: Site<'_>, scale: &Scale, book: &mut Book) -> Result<()> {
    let actions = scale.of(ACTIONS);
    let installation = site.install().await?;
    installation.put_many(ACTION, actions, r#"{"limit": 1}"#).await?;
    let served = Served { action: ACTION.to_owned(), many: Some(actions), ..Served::one(ACTION, 0) };
    let workers = installation.start_workers(WORKERS, CAPACITY, &[served]).await?;
    let (mut rounds, mut spent, mut published) = (Vec::new(), Spent::default(), 0);
    while rounds.iter().sum::<f64>() < scale.floor.as_secs_f64() {
        let (clocks, begun) = (workers.meter.read()?, Instant::now());
        let requests = (published..published + actions * EACH).map(|n| {
            let line = (n % actions) as u64;
            Request { action: format!("{ACTION}{line}"), line, keyed: false, n: n as u64 }
        });
        publish(&installation.session, Form::Arrays, requests).await?;
        published += actions * EACH;
        installation.until_settled(published as u64).await?;
        rounds.push(begun.elapsed().as_secs_f64());
        spent.add(workers.meter.since(&clocks)?);
    }
    let stamps = workers.end().await?;
    stamps::each_once(&stamps, published)?;
    let case = format!("{actions} actions of limit 1, {EACH} executions each, {WORKERS} workers");
    let figure = Figure::new(site.system(), "F", case, published).rate(rounds.len(), rounds.iter().sum()).cpu(spent.0);
    let mut figure = in_lines(figure, &stamps);
    figure.journal_violations = installation.verify().await?;
    installation.close(site).await?;
    book.add(figure);
    Ok(())
}
