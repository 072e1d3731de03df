//! T and M: executions per second from end to end, from the first publication until the journal has the last end.
//!
//! Live: the workers are ready when the first request is published, and publishing counts. Prefilled: all requests wait
//! in the journal, and the clock starts when their action is resumed, as for rivals without their enqueueing.

use std::time::Instant;

use anyhow::Result;
use serde_json::json;

use crate::figure::{Book, Figure};
use crate::installation::{Installation, Site};
use crate::publisher::{Form, Request, publish};
use crate::scale::Scale;
use crate::stamps::{self, Stamp};
use crate::workers::{Served, Spent};

const ACTION: &str = "bench.noop";
/// Executions before the first round: they pay for what is set up once.
const WARM_UP: usize = 1000;
/// The worker's, as rivals fetch ahead and run side by side.
const CAPACITY: u32 = 4000;

/// One case.
#[derive(Clone, Copy)]
pub(crate) struct Load {
    pub(crate) count: usize,
    pub(crate) form: Form,
    /// Keys with one slot each; `None` is one unlimited line.
    pub(crate) keys: Option<u64>,
    pub(crate) prefilled: bool,
}

/// T at its sizes.
pub(crate) async fn throughput(site: Site<'_>, scale: &Scale, book: &mut Book) -> Result<()> {
    for count in [50_000, 250_000].map(|count| scale.of(count)) {
        for form in [Form::Each, Form::Arrays] {
            let load = Load { count, form, keys: None, prefilled: false };
            book.add(alone(site, "T", load, scale).await?);
        }
    }
    let prefilled = Load { count: scale.of(50_000), form: Form::Arrays, keys: None, prefilled: true };
    book.add(alone(site, "T", prefilled, scale).await?);
    Ok(())
}

/// M at its sizes.
pub(crate) async fn keys(site: Site<'_>, scale: &Scale, book: &mut Book) -> Result<()> {
    let live = |count, form| Load { count: scale.of(count), form, keys: Some(100), prefilled: false };
    let prefilled = Load { prefilled: true, ..live(50_000, Form::Arrays) };
    for load in [
        live(50_000, Form::Each),
        live(5_000, Form::Arrays),
        live(50_000, Form::Arrays),
        live(250_000, Form::Arrays),
        prefilled,
    ] {
        book.add(alone(site, "M", load, scale).await?);
    }
    Ok(())
}

/// One case on an installation of its own.
async fn alone(site: Site<'_>, measure: &str, load: Load, scale: &Scale) -> Result<Figure> {
    let installation = site.install().await?;
    let mut figure = run(&installation, measure, load, scale).await?;
    figure.journal_violations = installation.verify().await?;
    installation.close(site).await?;
    Ok(figure)
}

/// Rounds of one case, until they have taken long enough.
pub(crate) async fn run(installation: &Installation, measure: &str, load: Load, scale: &Scale) -> Result<Figure> {
    // Handlers that take no time outrun a short chain.
    let policy = if load.keys.is_some() { r#"{"key_limit": 1, "run_ahead": 40}"# } else { "{}" };
    installation.put(ACTION, policy).await?;
    let workers = installation.start_workers(1, CAPACITY, &[Served::one(ACTION, 0)]).await?;
    let mut published = WARM_UP;
    round(installation, load, 0..WARM_UP).await?;

    let (mut rounds, mut spent) = (Vec::new(), Spent::default());
    while rounds.iter().sum::<f64>() < scale.floor.as_secs_f64() {
        let before = workers.meter.read()?;
        rounds.push(round(installation, load, published..published + load.count).await?);
        spent.add(workers.meter.since(&before)?);
        published += load.count;
    }
    let stamps = workers.end().await?;
    stamps::each_once(&stamps, published)?;

    let when = if load.prefilled { "prefilled" } else { "live" };
    let keys = load.keys.map(|keys| format!(", {keys} keys")).unwrap_or_default();
    let case = format!("{}{keys}, {}, {when}", load.count, load.form.told());
    let figure = Figure::new(installation.system, measure, case, published - WARM_UP)
        .rate(rounds.len(), rounds.iter().sum())
        .cpu(spent.0)
        .with(
            "rounds_per_second",
            json!(rounds.iter().map(|took| (load.count as f64 / took).round()).collect::<Vec<_>>()),
        );
    Ok(if load.keys.is_some() { in_lines(figure, &stamps) } else { figure })
}

/// Seconds.
async fn round(installation: &Installation, load: Load, numbers: std::ops::Range<usize>) -> Result<f64> {
    let before = installation.totals().await?;
    let requests = Request::of(ACTION, load.keys, numbers.clone());
    let mut begun = Instant::now();
    if load.prefilled {
        installation.pause(ACTION).await?;
        publish(&installation.session, load.form, requests).await?;
        installation.until_enqueued(before.enqueued + numbers.len() as u64).await?;
        begun = Instant::now();
        installation.resume(ACTION).await?;
    } else {
        publish(&installation.session, load.form, requests).await?;
    }
    installation.until_settled(before.settled + numbers.len() as u64).await?;
    Ok(begun.elapsed().as_secs_f64())
}

/// What lines with one slot each show of order and limit.
pub(crate) fn in_lines(mut figure: Figure, stamps: &[Stamp]) -> Figure {
    let lines = stamps::lines(stamps);
    (figure.order_violations, figure.overlaps) = (Some(lines.order_violations), Some(lines.overlaps));
    figure
}
