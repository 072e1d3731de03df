//! H: from the end of a handler to the start of the next one of its line, which has one slot.
//!
//! All requests wait in the journal before the first starts, so that every pause is a hand-off and none a wait for a
//! publisher. Times are the handlers' own stamps. A handler of 1 ms sleeps by a timer, which takes about twice that: `S`
//! has handlers of one length.

use anyhow::Result;

use crate::figure::{Book, Figure};
use crate::installation::{Installation, Site};
use crate::limits::{self, Round};
use crate::prefilled::{self, Filling};
use crate::scale::Scale;
use crate::workers::Served;

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
    match if runs_ahead { scale.run_ahead } else { Some(0) } {
        None => r#"{"limit": 1}"#.to_owned(),
        Some(most) => format!(r#"{{"limit": 1, "run_ahead": {most}}}"#),
    }
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
    let filling = Filling { action: ACTION, keys: None, count: scale.of(COUNT) };
    let workers = installation.start_workers(line.workers, CAPACITY, &[Served::one(ACTION, line.run_ms)]).await?;
    let rounds = prefilled::run(installation, workers, filling, scale).await?;

    let Line { workers, run_ms, runs_ahead } = line;
    let (work, ahead) = (
        if run_ms == 0 { "no-op".to_owned() } else { format!("{run_ms} ms") },
        match (runs_ahead, scale.run_ahead) {
            (true, None) => "run-ahead".to_owned(),
            (true, Some(most)) => format!("run-ahead {most}"),
            (false, _) => "no run-ahead".to_owned(),
        },
    );
    let plural = if workers == 1 { "" } else { "s" };
    let case = format!("{} handlers, {work}, {workers} worker{plural}, {ahead}", filling.count);
    let seconds = rounds.seconds;
    Ok(Some(rounds.figure(installation.system, measure, case, seconds)))
}
