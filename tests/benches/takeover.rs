//! How long there is no leader: from SIGKILL of the leader, and from SIGTERM, until the other executor's work has
//! begun.
//!
//! Run it with `cargo bench -p slotline-tests --bench takeover`. On private RabbitMQ and
//! PostgreSQL nodes, with two real executor processes that take turns at being ended, and this process as the worker; a
//! steady stream of short executions goes through it all. `-- --tries N` sets how often.
//!
//! Three times of each try are printed, all since the signal: when the journal had the new epoch, when the new leader
//! reported that it leads, and when the first handler began in a slot that it granted. The last one is what a user
//! sees.

#[allow(dead_code, reason = "others measure more with it")]
mod bench;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use bench::{Bench, PATIENCE, PREFIX, argument, machine, milliseconds, request};
use serde_json::Value;
use slotline_broker::{Broker, Session};
use slotline_tests::{Daemon, Postgres, Rabbit, Sandbox, Signal, eventually};
use slotline_worker::{Context, HandlerError, Shutdown, Worker};

const ACTION: &str = "takeover.stream";
const POLICY: &str = r#"{"limit": 4}"#;
/// Between two requests of the stream, and how long each runs: the slots are never all taken for long.
const REQUEST_EVERY: Duration = Duration::from_millis(10);
const RUN: Duration = Duration::from_millis(2);
/// Executions that end between two tries, so that each meets a steady stream.
const CALM: usize = 50;
/// How soon after the end of the leader the other's work must have begun, in 99 of 100 cases.
const TARGET: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(2);

fn main() -> Result<()> {
    // The HTTP client asks for a provider even where no TLS is spoken.
    rustls::crypto::ring::default_provider().install_default().ok().context("another TLS provider was installed")?;
    let tries = argument("--tries")?.unwrap_or(50);
    ensure!(tries > 0, "expected at least one try");
    println!("{}", machine());
    tokio::runtime::Runtime::new()?.block_on(Box::pin(run(tries)))
}

/// When each handler began, and under which fence.
#[derive(Clone, Default)]
struct Starts(Arc<Mutex<Vec<(u64, Instant)>>>);

impl Starts {
    async fn handle(self, context: Context) -> Result<(), HandlerError> {
        self.seen().push((context.fence().0.unsigned_abs(), Instant::now()));
        tokio::time::sleep(RUN).await;
        Ok(())
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Vec<(u64, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first that began with this fence or a later one.
    fn first_from(&self, fence: u64) -> Option<Instant> {
        self.seen().iter().filter(|(of, _)| *of >= fence).map(|(_, at)| *at).min()
    }
}

/// Since the signal.
#[derive(Clone, Copy, Debug)]
struct Took {
    epoch: Duration,
    ready: Duration,
    work: Duration,
}

/// Ends, executors before their servers, on drop.
struct Installation {
    executors: Vec<Daemon>,
    postgres: Postgres,
    database: String,
    sandbox: Sandbox,
    starts: Starts,
    http: reqwest::Client,
}

async fn run(tries: usize) -> Result<()> {
    let (rabbit, postgres) = (Rabbit::start().await?, Postgres::start().await?);
    let database = postgres.fresh_database("takeover").await?;
    let sandbox = Sandbox::new("takeover")?;
    let executors = bench::pair(&sandbox, &database, &rabbit.url())?;
    let http = reqwest::Client::builder().timeout(Duration::from_secs(10)).build()?;
    let starts = Starts::default();
    let mut installation = Installation { executors, postgres, database, sandbox, starts, http };
    let broker = Broker::rabbit(&rabbit.url(), PREFIX)?;
    let handler = installation.starts.clone();
    let worker =
        Worker::builder("takeover").capacity(16).action(ACTION, move |context| handler.clone().handle(context));
    let shutdown = Shutdown::new();
    let worker = tokio::spawn(worker.build()?.run(broker.clone(), shutdown.clone()));
    let session = broker.open("takeover publisher").await?;
    let leader = installation.leader().await?;
    let api = installation.executors[leader].api_url();
    Bench { session: &session, api: &api }.put(ACTION, POLICY).await?;
    let stream = tokio::spawn(stream(session));

    for (how, name) in [(Signal::SIGKILL, "SIGKILL"), (Signal::SIGTERM, "SIGTERM")] {
        let mut took = Vec::with_capacity(tries);
        for _ in 0..tries {
            took.push(installation.end_leader(how).await?);
        }
        println!("\n{name} of the leader, {tries} times; since the signal, in milliseconds: p50, p99, most");
        tell("the journal has the new epoch", took.iter().map(|took| took.epoch));
        tell("the new leader says so", took.iter().map(|took| took.ready));
        let most = tell("the first handler it let begin has begun", took.iter().map(|took| took.work));
        println!("  99 of 100 within {} s: {}", TARGET.as_secs(), if most <= TARGET { "yes" } else { "NO" });
    }
    ensure!(!stream.is_finished(), "the stream has ended: {:?}", stream.await);
    stream.abort();
    shutdown.drain();
    worker.await??;
    Ok(())
}

/// Publishes for ever.
async fn stream(session: Session) -> Result<()> {
    let mut every = tokio::time::interval(REQUEST_EVERY);
    loop {
        every.tick().await;
        session.publish(request(ACTION)).await?;
    }
}

/// Prints three of them; gives the 99th of a hundred.
fn tell(what: &str, took: impl Iterator<Item = Duration>) -> Duration {
    let mut sorted: Vec<Duration> = took.collect();
    sorted.sort_unstable();
    let [p50, p99, most] = [0.5, 0.99, 1.0].map(|share| milliseconds(&sorted, share));
    println!("  {what:<42} {p50:>8.0} {p99:>8.0} {most:>8.0}");
    Duration::from_secs_f64(p99 / 1e3)
}

impl Installation {
    /// Which executor leads, once the other waits to lead.
    async fn leader(&self) -> Result<usize> {
        eventually("one leads and the other is next", PATIENCE, async || {
            let waiting = "select count(*) from pg_stat_activity where datname = current_database() \
                and query like 'SELECT pg_try_advisory_lock(hashtextextended(''slotline leader%'";
            if self.postgres.psql_in(&self.database, waiting).await? != "1" {
                return Ok(None);
            }
            for (index, executor) in self.executors.iter().enumerate() {
                if self.leads(executor).await {
                    return Ok(Some(index));
                }
            }
            Ok(None)
        })
        .await
    }

    async fn leads(&self, executor: &Daemon) -> bool {
        let role = async {
            let url = format!("{}/readyz?verbose", executor.api_url());
            let answer = self.http.get(url).send().await?.error_for_status()?.text().await?;
            let answer: Value = serde_json::from_str(&answer)?;
            anyhow::Ok(answer["data"]["role"] == "leader")
        };
        role.await.unwrap_or(false)
    }

    async fn steady(&self) -> Result<()> {
        let before = self.starts.seen().len();
        eventually("the stream is steady", PATIENCE, async || {
            Ok((self.starts.seen().len() >= before + CALM).then_some(()))
        })
        .await
    }

    /// Ends the leader and starts it again once the other leads.
    async fn end_leader(&mut self, how: Signal) -> Result<Took> {
        let old = self.leader().await?;
        self.steady().await?;
        self.starts.seen().clear();
        let new = 1 - old;
        let (begun, begun_at) = (Instant::now(), SystemTime::now().duration_since(UNIX_EPOCH)?);
        self.executors[old].signal(how)?;
        while !self.leads(&self.executors[new]).await {
            ensure!(begun.elapsed() < PATIENCE, "nobody leads");
            tokio::time::sleep(POLL).await;
        }
        let ready = begun.elapsed();
        let (work, led_since) = eventually("the new leader's work begins", PATIENCE, async || {
            let granted = "select coalesce(min(fence), 0), extract(epoch from led_since) from leadership left join \
                (select fence, scheduled_at from live union all select fence, scheduled_at from history) as all_of_them \
                on scheduled_at >= led_since group by led_since";
            let granted = self.postgres.psql_in(&self.database, granted).await?;
            let (fence, led_since) = granted.split_once('|').context("two columns")?;
            let (fence, led_since) = (fence.parse::<u64>()?, led_since.parse::<f64>()?);
            let first = if fence > 0 { self.starts.first_from(fence) } else { None };
            Ok(first.map(|at| (at.duration_since(begun), led_since)))
        })
        .await?;
        let status = self.executors[old].wait(PATIENCE).await?;
        ensure!(how == Signal::SIGKILL || status.success(), "it ended: {status}");
        self.executors[old].start_again(&self.sandbox)?;
        let epoch = Duration::from_secs_f64((led_since - begun_at.as_secs_f64()).max(0.0));
        Ok(Took { epoch, ready, work })
    }
}
