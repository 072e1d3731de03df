//! Rounds of executions that all wait in the journal before the first starts, so that what is measured is the line and
//! never a publisher.

use std::time::Instant;

use anyhow::Result;

use crate::figure::Figure;
use crate::installation::Installation;
use crate::publisher::{Form, Request, publish};
use crate::scale::Scale;
use crate::stamps::{self, Lines, Stamp};
use crate::workers::{Spent, Workers};

/// What is run in each round.
#[derive(Clone, Copy)]
pub(crate) struct Filling<'a> {
    pub(crate) action: &'a str,
    /// Lines with one slot each, as keys of the action; `None`: the action is the line.
    pub(crate) keys: Option<u64>,
    pub(crate) count: usize,
}

/// What the rounds of one case showed.
pub(crate) struct Rounds {
    count: usize,
    /// The handlers' stamps, round by round: between two rounds the lines are empty, and what passes there is no hand-off.
    stamps: Vec<Vec<Stamp>>,
    /// From resuming the action until the journal had the last end, of all rounds together.
    pub(crate) seconds: f64,
    spent: Spent,
}

/// Runs rounds until they have taken long enough, and ends the workers.
pub(crate) async fn run(
    installation: &Installation,
    workers: Workers,
    filling: Filling<'_>,
    scale: &Scale,
) -> Result<Rounds> {
    let Filling { action, keys, count } = filling;
    let (mut rounds, mut seconds, mut spent) = (0, 0.0, Spent::default());
    while seconds < scale.floor.as_secs_f64() {
        let before = installation.totals().await?;
        installation.pause(action).await?;
        let requests = Request::of(action, keys, rounds * count..(rounds + 1) * count);
        publish(&installation.session, Form::Arrays, requests).await?;
        installation.until_enqueued(before.enqueued + count as u64).await?;
        let (clocks, begun) = (workers.meter.read()?, Instant::now());
        installation.resume(action).await?;
        installation.until_settled_undisturbed(before.settled + count as u64).await?;
        seconds += begun.elapsed().as_secs_f64();
        spent.add(workers.meter.since(&clocks)?);
        rounds += 1;
    }
    let all = workers.end().await?;
    stamps::each_once(&all, rounds * count)?;
    let mut stamps = vec![Vec::with_capacity(count); rounds];
    for stamp in all {
        stamps[stamp.n as usize / count].push(stamp);
    }
    Ok(Rounds { count, stamps, seconds, spent })
}

impl Rounds {
    pub(crate) fn len(&self) -> usize {
        self.stamps.len()
    }

    /// From the first start to the last end, in seconds, of all rounds together.
    pub(crate) fn start_to_end(&self) -> f64 {
        let ends = |stamps: &Vec<Stamp>| {
            let first = stamps.iter().map(|stamp| stamp.start).min()?;
            Some(stamps.iter().map(|stamp| stamp.end).max()? - first)
        };
        self.stamps.iter().filter_map(ends).sum::<u64>() as f64 / 1e9
    }

    /// How long a handler took, in nanoseconds: the mean.
    pub(crate) fn handler_ns(&self) -> f64 {
        let took: u64 = self.stamps.iter().flatten().map(|stamp| stamp.end - stamp.start).sum();
        took as f64 / (self.len() * self.count) as f64
    }

    /// A figure of all rounds, which took so many seconds, with the hand-offs and what they show of order and limit.
    pub(crate) fn figure(self, system: &str, measure: &str, case: String, seconds: f64) -> Figure {
        let handler_us = (self.handler_ns() / 100.0).round() / 10.0;
        let (rounds, n) = (self.len(), self.len() * self.count);
        let mut figure = Figure::new(system, measure, case, n).rate(rounds, seconds).cpu(self.spent.0);
        let mut all = Lines::default();
        for Lines { order_violations, overlaps, pauses } in self.stamps.iter().map(|stamps| stamps::lines(stamps)) {
            all.order_violations += order_violations;
            all.overlaps += overlaps;
            all.pauses.extend(pauses);
        }
        (figure.order_violations, figure.overlaps) = (Some(all.order_violations), Some(all.overlaps));
        figure.percentiles(all.pauses).with("handler_us", handler_us)
    }
}
