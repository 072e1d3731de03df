//! How many executions a second, and how long from the end of one to the start of the next.
//!
//! Run it with `cargo build --release && cargo bench -p slotline-tests --bench throughput`. On private RabbitMQ and
//! PostgreSQL nodes with a real executor process, then embedded in this process. The worker is this process, with
//! handlers: what is measured is Slotline, not the start of commands. `-- --executions N --handovers N` set the sizes.
//!
//! Executions are published one message each, with confirms, up to a window of unconfirmed ones; the clock runs from
//! the first publication until the journal holds the last terminal status.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use slotline_broker::{Broker, Properties, Publication, Session, topology};
use slotline_executor::{Api, Config};
use slotline_tests::{Daemon, Postgres, Rabbit, Sandbox, eventually};
use slotline_worker::{Context, HandlerError, Shutdown, Worker};
use tokio_util::sync::CancellationToken;

/// Publications that may be unconfirmed at once.
const WINDOW: usize = 2000;
/// How long any one measure may take.
const PATIENCE: Duration = Duration::from_secs(300);
const PREFIX: &str = "slotline";

/// The start and end of every handler, in order of their ends.
type Spans = Arc<Mutex<Vec<(Instant, Instant)>>>;

struct Sizes {
    executions: usize,
    handovers: usize,
}

fn main() -> Result<()> {
    // The HTTP client asks for a provider even where no TLS is spoken.
    rustls::crypto::ring::default_provider().install_default().ok().context("another TLS provider was installed")?;
    let sizes = Sizes {
        executions: argument("--executions")?.unwrap_or(50_000),
        handovers: argument("--handovers")?.unwrap_or(3000),
    };
    let runtime = tokio::runtime::Runtime::new()?;
    println!("{}", machine());
    runtime.block_on(async {
        println!("\nRabbitMQ + PostgreSQL, executor in a process of its own");
        Box::pin(on_servers(&sizes)).await?;
        println!("\nembedded: SQLite and the in-process broker, one process");
        Box::pin(embedded(&sizes)).await
    })
}

fn argument(name: &str) -> Result<Option<usize>> {
    let mut arguments = std::env::args().skip_while(|argument| argument != name).skip(1);
    arguments.next().map(|value| value.parse().with_context(|| format!("{name}: expected a number"))).transpose()
}

fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown");
    format!("{cores} cores, {}", model.trim_start_matches([' ', '\t', ':']))
}

async fn on_servers(sizes: &Sizes) -> Result<()> {
    let (rabbit, postgres) = (Rabbit::start().await?, Postgres::start().await?);
    let database = postgres.fresh_database("bench").await?;
    let sandbox = Sandbox::new("bench")?;
    let executor = Daemon::executor(&sandbox, "bench", &database, &rabbit.url(), &[])?;
    let store = slotline_store::Store::open(&database).await?;
    let broker = Broker::rabbit(&rabbit.url(), PREFIX)?;
    measure(&broker, &store, &executor.api_url(), sizes).await
}

async fn embedded(sizes: &Sizes) -> Result<()> {
    let sandbox = Sandbox::new("bench")?;
    let store = slotline_store::Store::open(&format!("sqlite:{}", sandbox.path().join("journal.db").display())).await?;
    store.migrate().await?;
    let broker = Broker::memory(PREFIX);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let shutdown = CancellationToken::new();
    let api = Some(Api { listener, token: None });
    let executor =
        tokio::spawn(slotline_executor::run(Config::default(), store.clone(), broker.clone(), api, shutdown.clone()));
    measure(&broker, &store, &url, sizes).await?;
    shutdown.cancel();
    Ok(executor.await??)
}

async fn measure(broker: &Broker, store: &slotline_store::Store, api: &str, sizes: &Sizes) -> Result<()> {
    put(api, "bench.noop", "{}").await?;
    put(api, "bench.handover", r#"{"limit": 1}"#).await?;
    let spans = Spans::default();
    let worker = Worker::builder("bench")
        .capacity(1000)
        .action("bench.noop", |_: Context| async { Ok::<_, HandlerError>(()) })
        .action("bench.handover", {
            let spans = spans.clone();
            move |_: Context| {
                let spans = spans.clone();
                async move {
                    let start = Instant::now();
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    spans.lock().expect("no handler panics").push((start, Instant::now()));
                    Ok::<_, HandlerError>(())
                }
            }
        })
        .build()?;
    let shutdown = Shutdown::new();
    let worker = tokio::spawn(worker.run(broker.clone(), shutdown.clone()));
    let session = broker.open("bench publisher").await?;

    // The first executions pay for what is set up once.
    run(&session, api, "bench.noop", sizes.executions / 50).await?;
    let took = run(&session, api, "bench.noop", sizes.executions).await?;
    let rate = sizes.executions as f64 / took.as_secs_f64();
    println!("  {} executions in {:.2} s: {rate:.0} a second", sizes.executions, took.as_secs_f64());

    run(&session, api, "bench.handover", 50).await?;
    spans.lock().expect("no handler panics").clear();
    run(&session, api, "bench.handover", sizes.handovers).await?;
    let spans = std::mem::take(&mut *spans.lock().expect("no handler panics"));
    ensure!(spans.len() == sizes.handovers, "{} handlers ran", spans.len());
    ensure!(spans.is_sorted_by(|one, other| one.1 <= other.0), "two handlers of one slot overlapped");
    let mut gaps: Vec<_> = spans.windows(2).map(|pair| pair[1].0.duration_since(pair[0].1)).collect();
    gaps.sort_unstable();
    let at = |share: f64| gaps[((gaps.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    println!(
        "  hand-over, limit 1, {} handlers of 1 ms: p50 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms",
        sizes.handovers,
        at(0.5),
        at(0.99),
        at(0.999)
    );
    let verdict = store.verify(None).await?;
    ensure!(verdict.violations.is_empty(), "{:?}", verdict.violations);
    println!("  order and limits in the journal: {} executions checked, no violation", verdict.executions);
    shutdown.drain();
    Ok(worker.await??)
}

/// Publishes `count` executions and waits until the journal holds all their ends.
async fn run(session: &Session, api: &str, action: &str, count: usize) -> Result<Duration> {
    let before = settled(api, action).await?;
    let begun = Instant::now();
    let mut receipts = std::collections::VecDeque::with_capacity(WINDOW);
    for _ in 0..count {
        if receipts.len() == WINDOW {
            receipts.pop_front().context("the window is full")?.await?;
        }
        receipts.push_back(session.publish(request(action)));
    }
    for receipt in receipts {
        receipt.await?;
    }
    let all = before + count as u64;
    eventually("every execution has ended", PATIENCE, async || {
        Ok((settled(api, action).await? >= all).then(|| begun.elapsed()))
    })
    .await
}

/// How many executions of the action have ended. The leader answers with what is committed.
async fn settled(api: &str, action: &str) -> Result<u64> {
    let stats =
        reqwest::get(format!("{api}/api/v1/actions/{action}/queue-stats")).await?.error_for_status()?.text().await?;
    let stats: serde_json::Value = serde_json::from_str(&stats)?;
    stats["data"]["total_completed"].as_u64().context("queue-stats name total_completed")
}

fn request(action: &str) -> Publication {
    Publication {
        exchange: topology::exchange(PREFIX),
        routing_key: "execution.requested".to_owned(),
        body: format!(
            r#"{{"message_type":"execution.requested","payload":{{"action_ref":"{action}","parameters":{{}}}}}}"#
        )
        .into(),
        properties: Properties { message_id: Some(uuid::Uuid::new_v4().to_string()), ..Properties::default() },
        mandatory: true,
        persistent: true,
    }
}

async fn put(api: &str, action: &str, policy: &str) -> Result<()> {
    let client = reqwest::Client::new();
    eventually("the executor takes the action", PATIENCE, async || {
        let request = client.put(format!("{api}/api/v1/actions/{action}"));
        let sent = request.header("content-type", "application/json").body(policy.to_owned()).send().await;
        Ok(sent.is_ok_and(|response| response.status().is_success()).then_some(()))
    })
    .await
}
