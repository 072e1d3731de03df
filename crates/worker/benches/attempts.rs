//! How fast a worker alone is: no-op handlers, a report, the hand-off along a chain, also beside a flood of reports,
//! and commands beside a bare fork/exec loop. Prints a table; `cargo bench -p slotline-worker`. The executor is this
//! program, the broker is in its process.

#![expect(clippy::disallowed_methods, reason = "measuring takes a clock")]

#[path = "../tests/executor/mod.rs"]
mod executor;

use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use executor::Executor;
use serde_json::json;
use slotline_broker::Broker;
use slotline_protocol::Incarnation;
use slotline_worker::{Builder, Context, HandlerError, Report, RunConfig, Shutdown, Worker};

const HANDLERS: i64 = 50_000;
const CHAIN: i64 = 20_000;
const REPORTS: u64 = 1_000_000;
/// Of the flood during which the hand-off is measured.
const REPORTS_PER_MILLISECOND: u64 = 100;
/// The id of the execution that makes the flood.
const FLOOD: i64 = 1_000_000;
const COMMANDS: i64 = 3_000;
/// Attempts granted and not ended, at most.
const WINDOW: i64 = 256;

fn main() -> anyhow::Result<()> {
    slotline_worker::shim::run_if_asked();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    println!("no-op handlers        {:>9.0} /s", runtime.block_on(handlers())?);
    for (name, report) in [("numbers", numbers as fn(u64) -> Report), ("messages", messages), ("nonsense", nonsense)] {
        println!("report {name:<14} {:>9.0} ns", runtime.block_on(reports(report))?);
    }
    let quiet = runtime.block_on(chain(false))?;
    let beside = runtime.block_on(chain(true))?;
    for (name, share) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)] {
        let at =
            |gaps: &[Duration]| gaps[((gaps.len() as f64 * share) as usize).min(gaps.len() - 1)].as_secs_f64() * 1e6;
        let (quiet, beside) = (at(&quiet), at(&beside));
        println!(
            "hand-over {name:<11} {quiet:>9.1} us   beside {} reports/s {beside:.1} us, {:.2} times",
            REPORTS_PER_MILLISECOND * 1_000,
            beside / quiet
        );
    }
    let bare = bare();
    let ours = runtime.block_on(commands())?;
    println!(
        "bare fork/exec loop   {bare:>9.0} /s\ncommands              {ours:>9.0} /s   {:.2} of the bare loop",
        ours / bare
    );
    Ok(())
}

async fn worker(build: impl FnOnce(Builder) -> Builder) -> anyhow::Result<(Executor, Incarnation, Shutdown)> {
    let broker = Broker::memory(executor::PREFIX);
    let mut executor = Executor::start(&broker, 1).await?;
    let shutdown = Shutdown::new();
    tokio::spawn(build(Worker::builder("w1")).build()?.run(broker, shutdown.clone()));
    let incarnation = executor.worker().await?;
    Ok((executor, incarnation, shutdown))
}

/// Grants them one by one, never more than `window` ahead, each after the one before if `chained`.
async fn grant(
    executor: &mut Executor,
    to: Incarnation,
    count: i64,
    window: i64,
    chained: bool,
) -> anyhow::Result<Duration> {
    let start = Instant::now();
    let (mut granted, mut ended) = (0, 0);
    while ended < count {
        while granted < count && granted - ended < window {
            granted += 1;
            let mut scheduled = executor.scheduled(granted, "test.run", &json!({}))?;
            scheduled.starts_after =
                (chained && granted > 1 && granted - ended > 1).then(|| executor::key(granted - 1));
            executor.send(to, &scheduled).await?;
        }
        executor.until("an end", |heard| (!heard.completed.is_empty()).then_some(())).await?;
        let recorded: Vec<i64> = executor.heard.completed.drain(..).map(|(_, one)| one.execution_id.0).collect();
        anyhow::ensure!(executor.heard.returned.is_empty(), "a link was handed back");
        executor.heard.status.clear();
        executor.heard.progress.clear();
        ended += i64::try_from(recorded.len())?;
        executor.record(to, &recorded).await?;
    }
    Ok(start.elapsed())
}

async fn handlers() -> anyhow::Result<f64> {
    let noop = async |_: Context| Ok::<_, HandlerError>(());
    let (mut executor, worker, shutdown) = worker(|builder| builder.capacity(64).action("test.run", noop)).await?;
    let took = grant(&mut executor, worker, HANDLERS, WINDOW, false).await?;
    shutdown.stop();
    Ok(HANDLERS as f64 / took.as_secs_f64())
}

fn numbers(i: u64) -> Report {
    Report { progress: Some((i, Some(REPORTS))), ..Report::default() }
}

fn messages(i: u64) -> Report {
    Report { message: Some(format!("message {i}")), ..Report::default() }
}

fn nonsense(i: u64) -> Report {
    Report { step: Some((i + 2, 1)), ..Report::default() }
}

/// Nanoseconds of one call in a flood of calls.
async fn reports(report: fn(u64) -> Report) -> anyhow::Result<f64> {
    let flood = move |context: Context| async move {
        let start = Instant::now();
        for i in 0..REPORTS {
            context.progress(report(i));
        }
        Ok::<_, HandlerError>(start.elapsed().as_nanos() as f64 / REPORTS as f64)
    };
    let (mut executor, worker, shutdown) = worker(|builder| builder.action("test.run", flood)).await?;
    executor.dispatch(worker, 1, "test.run", json!({})).await?;
    let completed = executor.completed(1).await?;
    shutdown.stop();
    Ok(completed.result.context("it completed")?.get().parse()?)
}

/// Reports until it is cancelled.
async fn flood(context: Context) -> Result<(), HandlerError> {
    let mut tick = tokio::time::interval(Duration::from_millis(1));
    let mut told = 0;
    while !context.is_cancelled() {
        tick.tick().await;
        for _ in 0..REPORTS_PER_MILLISECOND {
            told += 1;
            context.progress(messages(told));
        }
    }
    Ok(())
}

/// The times between the end of one and the start of the next, shortest first.
async fn chain(beside_a_flood: bool) -> anyhow::Result<Vec<Duration>> {
    let stamps: Arc<Mutex<Vec<(Instant, Instant)>>> = Arc::default();
    let inner = stamps.clone();
    let stamp = move |_: Context| {
        let stamps = inner.clone();
        async move {
            let start = Instant::now();
            tokio::time::sleep(Duration::from_millis(1)).await;
            stamps.lock().unwrap_or_else(PoisonError::into_inner).push((start, Instant::now()));
            Ok::<_, HandlerError>(())
        }
    };
    let build = |builder: Builder| builder.capacity(8).action("test.run", stamp).action("test.flood", flood);
    let (mut executor, worker, shutdown) = worker(build).await?;
    if beside_a_flood {
        executor.dispatch(worker, FLOOD, "test.flood", json!({})).await?;
    }
    grant(&mut executor, worker, CHAIN / 5, 4, true).await?;
    shutdown.stop();
    let stamps = stamps.lock().unwrap_or_else(PoisonError::into_inner);
    let mut gaps: Vec<_> = stamps.windows(2).map(|pair| pair[1].0.duration_since(pair[0].1)).collect();
    gaps.sort_unstable();
    Ok(gaps)
}

async fn commands() -> anyhow::Result<f64> {
    let (mut executor, worker, shutdown) =
        worker(|builder| builder.capacity(4).command("test.run", RunConfig::new(["/bin/true"]))).await?;
    let took = grant(&mut executor, worker, COMMANDS, 4, false).await?;
    shutdown.stop();
    Ok(COMMANDS as f64 / took.as_secs_f64())
}

/// From one thread, one after the other, with the same pipes and nothing else.
fn bare() -> f64 {
    let start = Instant::now();
    for _ in 0..COMMANDS {
        let output = Command::new("/bin/true").stdin(Stdio::null()).output();
        assert!(output.is_ok_and(|output| output.status.success()));
    }
    COMMANDS as f64 / start.elapsed().as_secs_f64()
}
