//! The graphile_worker crate on PostgreSQL: with its local queue and batched completions, and idle.
//!
//! Job by job it waits for its poll of a second, and is not measured. Prints one JSON line a figure, with the fields of
//! `../compare/figure.rs`.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use graphile_worker::{
    IntoTaskHandlerResult, JobSpec, LocalQueueConfig, RawJobSpec, RefetchDelayConfig, TaskHandler, WorkerContext,
    WorkerOptions,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

const SYSTEM: &str = "graphile_worker (crate)";
const POSTGRES: &str = "postgres://postgres@127.0.0.1:25432/";
const BATCH: usize = 500;
const PATIENCE: Duration = Duration::from_secs(240);

/// When each job began.
static STARTS: Mutex<Vec<Instant>> = Mutex::new(Vec::new());

#[derive(Clone, Deserialize, Serialize)]
struct Job {
    n: usize,
}

impl TaskHandler for Job {
    const IDENTIFIER: &'static str = "job";

    async fn run(self, _: WorkerContext) -> impl IntoTaskHandlerResult {
        starts().push(Instant::now());
        Ok::<(), String>(())
    }
}

#[tokio::main]
async fn main() -> Outcome<()> {
    if wants("T") {
        for count in [50_000, 250_000].map(sized) {
            for live in [false, true] {
                throughput(count, live).await?;
            }
        }
    }
    if wants("L") {
        latency().await?;
    }
    Ok(())
}

async fn throughput(count: usize, live: bool) -> Outcome<()> {
    let (mut seconds, mut rounds) = (0.0, 0);
    while seconds < 3.0 / divisor() as f64 {
        let url = fresh().await?;
        let queue = LocalQueueConfig::default().with_size(500);
        let queue = queue.with_refetch_delay(RefetchDelayConfig::default().with_duration(Duration::from_millis(10)));
        let worker = options(&url).local_queue(queue).complete_job_batch_delay(Duration::from_millis(1)).init().await?;
        let utils = worker.create_utils();
        let fill = async || -> Outcome<()> {
            for first in (0..count).step_by(BATCH) {
                let jobs: Vec<_> = (first..(first + BATCH).min(count)).map(raw).collect();
                utils.add_raw_jobs(&jobs).await?;
            }
            Ok(())
        };
        let (begun, running);
        if live {
            running = tokio::spawn(async move { worker.run().await.map_err(|error| error.to_string()) });
            tokio::time::sleep(Duration::from_millis(500)).await;
            begun = Instant::now();
            fill().await?;
        } else {
            fill().await?;
            begun = Instant::now();
            running = tokio::spawn(async move { worker.run().await.map_err(|error| error.to_string()) });
        }
        until(count).await?;
        let last = starts().iter().max().copied().ok_or("nothing ran")?;
        seconds += last.duration_since(begun).as_secs_f64();
        rounds += 1;
        tokio::time::sleep(Duration::from_millis(300)).await;
        running.abort();
    }
    let when = if live { "live" } else { "prefilled" };
    let n = count * rounds;
    println!(
        "{}",
        json!({"system": SYSTEM, "measure": "T", "case": format!("{count}, local queue and batched completion, {when}"),
            "n": n, "rounds": rounds, "seconds": (seconds * 100.0).round() / 100.0,
            "per_second": (n as f64 / seconds).round()})
    );
    Ok(())
}

async fn latency() -> Outcome<()> {
    let url = fresh().await?;
    let worker = options(&url).init().await?;
    let utils = worker.create_utils();
    let running = tokio::spawn(async move { worker.run().await.map_err(|error| error.to_string()) });
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut took = Vec::new();
    for n in 0..sized(400) {
        let sent = Instant::now();
        utils.add_job(Job { n }, JobSpec::default()).await?;
        until(n + 1).await?;
        let start = starts().last().copied().ok_or("nothing ran")?;
        took.push(start.saturating_duration_since(sent).as_micros());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    running.abort();
    took.sort_unstable();
    let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize] as f64;
    println!(
        "{}",
        json!({"system": SYSTEM, "measure": "L", "case": "concurrency 24", "n": took.len(),
            "p50_us": at(0.5), "p99_us": at(0.99), "p999_us": at(0.999), "max_us": at(1.0)})
    );
    Ok(())
}

fn options(url: &str) -> WorkerOptions {
    let options = WorkerOptions::default().concurrency(24).define_job::<Job>().database_url(url);
    options.max_pg_conn(28).listen_os_shutdown_signals(false)
}

fn raw(n: usize) -> RawJobSpec {
    RawJobSpec { identifier: "job".into(), payload: json!({"n": n}), spec: JobSpec::default() }
}

/// A new database, and no record of earlier jobs.
async fn fresh() -> Outcome<String> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    starts().clear();
    let name = format!("graphile_crate{}_{}", NEXT.fetch_add(1, Ordering::Relaxed), std::process::id());
    let (client, connection) = tokio_postgres::connect(&format!("{POSTGRES}postgres"), tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    client.batch_execute(&format!("CREATE DATABASE {name}")).await?;
    Ok(format!("{POSTGRES}{name}"))
}

async fn until(count: usize) -> Outcome<()> {
    let begun = Instant::now();
    while starts().len() < count {
        if begun.elapsed() > PATIENCE {
            return Err(format!("{} of {count} ran", starts().len()).into());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}

fn starts() -> std::sync::MutexGuard<'static, Vec<Instant>> {
    STARTS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The divisor of a trial, whose figures mean nothing.
fn divisor() -> usize {
    std::env::var("RIVALS_DIVISOR").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

fn sized(count: usize) -> usize {
    (count / divisor()).max(1)
}

/// Whether the command line wants a measure; all, where it names none.
fn wants(measure: &str) -> bool {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    wanted.is_empty() || wanted.iter().any(|name| name == measure)
}
