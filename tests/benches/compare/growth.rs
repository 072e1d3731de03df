//! G: whether T and H depend on what else there is: executions that wait in other lines, and actions that are not used.

use anyhow::Result;

use crate::figure::{Book, Figure};
use crate::handoff::{self, Line};
use crate::installation::{Installation, Site};
use crate::load::{self, Load};
use crate::publisher::{Form, Request, publish};
use crate::scale::Scale;

/// Lines in which the executions wait; no worker serves them.
const IDLE: &str = "bench.waits";
const IDLE_LINES: usize = 100;
/// How many wait at each step.
const WAITING: [usize; 3] = [0, 10_000, 1_000_000];
/// How many actions there are at each step.
const UNUSED: &str = "bench.unused";
const ACTIONS: [usize; 3] = [1, 1_000, 100_000];
const THROUGHPUT: usize = 50_000;

pub(crate) async fn measure(site: Site<'_>, scale: &Scale, book: &mut Book) -> Result<()> {
    waiting(site, scale, book).await?;
    actions(site, scale, book).await
}

async fn waiting(site: Site<'_>, scale: &Scale, book: &mut Book) -> Result<()> {
    let mut installation = site.install().await?;
    installation.put_many(IDLE, IDLE_LINES, r#"{"limit": 1}"#).await?;
    let (at_rest, mut waiting) = (installation.resident()?, 0);
    for more in WAITING.map(|count| if count == 0 { 0 } else { scale.of(count) }) {
        let idle = installation.resident()?;
        let filled = fill(&installation, waiting, more).await?;
        if more > waiting {
            let each = installation.resident()?.saturating_sub(idle) / (more - waiting) as u64;
            let rate = Figure::new(site.system(), "G", format!("{more} waiting: taken"), more - waiting);
            book.add(rate.rate(1, filled).with("bytes_each", each));
        }
        waiting = more;
        at(&installation, &format!("{waiting} waiting"), scale, book).await?;
    }
    let took = installation.restart_executor().await?;
    let mut figure = Figure::new(site.system(), "G", format!("{waiting} waiting: start-up until it leads"), 1);
    figure.seconds = Some((took.as_secs_f64() * 100.0).round() / 100.0);
    // Compared with an executor that has just started with an empty journal.
    let each = installation.resident()?.saturating_sub(at_rest) / waiting as u64;
    book.add(figure.with("bytes_each", each));
    installation.close(site).await?;
    Ok(())
}

async fn actions(site: Site<'_>, scale: &Scale, book: &mut Book) -> Result<()> {
    for count in ACTIONS.map(|count| scale.of(count)) {
        let installation = site.install().await?;
        // The one that is used counts, too.
        installation.put_many(UNUSED, count - 1, r#"{"limit": 1}"#).await?;
        at(&installation, &format!("{count} actions"), scale, book).await?;
        installation.close(site).await?;
    }
    Ok(())
}

/// Fills the idle lines up; gives the seconds until the journal has them.
async fn fill(installation: &Installation, from: usize, to: usize) -> Result<f64> {
    let begun = std::time::Instant::now();
    let before = installation.totals().await?.enqueued;
    let requests = (from..to).map(|n| {
        let line = (n % IDLE_LINES) as u64;
        Request { action: format!("{IDLE}{line}"), line, keyed: false, n: n as u64 }
    });
    publish(&installation.session, Form::Arrays, requests).await?;
    installation.until_enqueued(before + (to - from) as u64).await?;
    Ok(begun.elapsed().as_secs_f64())
}

/// T and H in the present state.
async fn at(installation: &Installation, what: &str, scale: &Scale, book: &mut Book) -> Result<()> {
    let named = |figure: Figure| Figure { case: format!("{what}: {}", figure.case), ..figure };
    for form in [Form::Each, Form::Arrays] {
        let load = Load { count: scale.of(THROUGHPUT), form, keys: None, prefilled: false };
        book.add(named(load::run(installation, "G", load, scale).await?));
    }
    for runs_ahead in [false, true] {
        let line = Line { workers: 1, run_ms: 1, runs_ahead };
        if let Some(figure) = handoff::run(installation, "G", line, scale).await? {
            book.add(named(figure));
        }
    }
    Ok(())
}
