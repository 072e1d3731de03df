//! H: from the end of a handler to the start of the next one of its line, which has one slot.
//!
//! All requests wait in the journal before the first starts, so that every pause is a hand-off and none a wait for a
//! publisher. Times are the handlers' own stamps.

use anyhow::Result;

use crate::figure::{Book, Figure};
use crate::installation::{Installation, Site};
use crate::limits::{self, Round};
use crate::publisher::{Form, Request, publish};
use crate::scale::Scale;
use crate::stamps;
use crate::workers::{Served, Spent};

const ACTION: &str = "bench.handoff";
const COUNT: usize = 5_000;
/// Of each worker. More than one line needs, so that only the limit holds it back.
const CAPACITY: u32 = 10;

/// One case.
#[derive(Clone, Copy)]
pub(crate) struct Line {
    pub(crate) workers: usize,
    /// How long each handler takes; 0 for none at all.
    pub(crate) run_ms: u64,
    pub(crate) runs_ahead: bool,
}

pub(crate) async fn measure(site: Site<'_>, scale: &Scale, book: &mut Book) -> Result<()> {
    for runs_ahead in [false, true] {
        for workers in [1, 4] {
            for run_ms in [1, 0] {
                // With run-ahead a hand-off needs no round through the executor, so no floor is measured.
                let floors: &[Round] = if runs_ahead { &[] } else { &[limits::HANDOFF] };
                let before = site.floors(floors, scale).await?;
                let installation = site.install().await?;
                let line = Line { workers, run_ms, runs_ahead };
                let figure = run(&installation, "H", line, scale).await?;
                let journal_violations = installation.verify().await?;
                installation.close(site).await?;
                match figure {
                    Some(figure) => {
                        let figure = figure.between(before, &site.floors(floors, scale).await?);
                        book.add(Figure { journal_violations, ..figure });
                    }
                    None => eprintln!("H: this build does not run ahead"),
                }
            }
        }
    }
    Ok(())
}

/// The policy of a line with one slot. The only place that knows the member for running ahead.
fn policy(runs_ahead: bool, scale: &Scale) -> String {
    let chain = if runs_ahead { scale.run_ahead } else { 0 };
    format!(r#"{{"limit": 1, "run_ahead": {chain}}}"#)
}

/// Declares the line; `false` if this build can't. A build without run-ahead takes a policy without its member.
pub(crate) async fn put(installation: &Installation, action: &str, runs_ahead: bool, scale: &Scale) -> Result<bool> {
    Ok(installation.put(action, &policy(runs_ahead, scale)).await?
        || (!runs_ahead && installation.put(action, r#"{"limit": 1}"#).await?))
}

/// `None` if this build can't run ahead.
pub(crate) async fn run(
    installation: &Installation,
    measure: &str,
    line: Line,
    scale: &Scale,
) -> Result<Option<Figure>> {
    if !put(installation, ACTION, line.runs_ahead, scale).await? {
        return Ok(None);
    }
    let count = scale.of(COUNT);
    let workers = installation.start_workers(line.workers, CAPACITY, &[Served::one(ACTION, line.run_ms)]).await?;
    let (mut rounds, mut seconds, mut spent) = (0, 0.0, Spent::default());
    while seconds < scale.floor.as_secs_f64() {
        let before = installation.totals().await?;
        installation.pause(ACTION).await?;
        let requests = Request::of(ACTION, None, rounds * count..(rounds + 1) * count);
        publish(&installation.session, Form::Arrays, requests).await?;
        installation.until_enqueued(before.enqueued + count as u64).await?;
        let (clocks, begun) = (workers.meter.read()?, std::time::Instant::now());
        installation.resume(ACTION).await?;
        installation.until_settled_undisturbed(before.settled + count as u64).await?;
        seconds += begun.elapsed().as_secs_f64();
        spent.add(workers.meter.since(&clocks)?);
        rounds += 1;
    }
    let stamps = workers.end().await?;
    stamps::each_once(&stamps, rounds * count)?;

    let Line { workers, run_ms, runs_ahead } = line;
    let (work, ahead) = (
        if run_ms == 0 { "no-op".to_owned() } else { format!("{run_ms} ms") },
        if runs_ahead { format!("run-ahead {}", scale.run_ahead) } else { "no run-ahead".to_owned() },
    );
    let case = format!("{count} handlers, {work}, {workers} worker{}, {ahead}", if workers == 1 { "" } else { "s" });
    // Between two rounds the line is empty, and what passes there is no hand-off.
    let by_round = (0..rounds as u64).map(|round| {
        stamps::lines(&stamps.iter().copied().filter(|stamp| stamp.n / count as u64 == round).collect::<Vec<_>>())
    });
    let mut figure = Figure::new(installation.system, measure, case, rounds * count).rate(rounds, seconds).cpu(spent.0);
    let (mut pauses, mut order_violations, mut overlaps) = (Vec::new(), 0, 0);
    for lines in by_round {
        pauses.extend(lines.pauses);
        order_violations += lines.order_violations;
        overlaps += lines.overlaps;
    }
    (figure.order_violations, figure.overlaps) = (Some(order_violations), Some(overlaps));
    Ok(Some(figure.percentiles(pauses)))
}
