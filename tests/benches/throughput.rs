//! How many executions a second, and how long from the end of one to the start of the next.
//!
//! Run it with `cargo build --release && cargo bench -p slotline-tests --bench throughput`. On private RabbitMQ and
//! PostgreSQL nodes with a real executor process, then embedded in this process. The worker is this process, with
//! handlers: what is measured is Slotline, not the start of commands. `-- --executions N --handovers N` set the sizes.
//!
//! Executions are published one message each, with confirms, up to a window of unconfirmed ones; the clock runs from
//! the first publication until the journal holds the last terminal status.

mod stage;

use anyhow::{Context as _, Result, ensure};
use slotline_broker::Broker;
use slotline_executor::{Api, Config};
use slotline_tests::{Daemon, Postgres, Rabbit, Sandbox};
use slotline_worker::{Context, HandlerError, Shutdown, Worker};
use stage::{PREFIX, Spans, Stage, argument, machine, milliseconds};
use tokio_util::sync::CancellationToken;

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
    let spans = Spans::default();
    let handler = spans.clone();
    let worker = Worker::builder("bench")
        .capacity(1000)
        .action("bench.noop", |_: Context| async { Ok::<_, HandlerError>(()) })
        .action("bench.handover", move |context: Context| handler.clone().handle(context))
        .build()?;
    let shutdown = Shutdown::new();
    let worker = tokio::spawn(worker.run(broker.clone(), shutdown.clone()));
    let session = broker.open("bench publisher").await?;
    let stage = Stage { session: &session, api };
    stage.put("bench.noop", "{}").await?;
    stage.put("bench.handover", r#"{"limit": 1}"#).await?;

    // The first executions pay for what is set up once.
    stage.run("bench.noop", sizes.executions / 50).await?;
    let took = stage.run("bench.noop", sizes.executions).await?;
    let rate = sizes.executions as f64 / took.as_secs_f64();
    println!("  {} executions in {:.2} s: {rate:.0} a second", sizes.executions, took.as_secs_f64());

    let pauses = stage.handovers("bench.handover", &spans, sizes.handovers).await?;
    let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|share| milliseconds(&pauses, share));
    println!(
        "  hand-over, limit 1, {} handlers of 1 ms: p50 {p50:.2} ms, p99 {p99:.2} ms, p99.9 {p999:.2} ms",
        sizes.handovers
    );
    let verdict = store.verify(None).await?;
    ensure!(verdict.violations.is_empty(), "{:?}", verdict.violations);
    println!("  order and limits in the journal: {} executions checked, no violation", verdict.executions);
    shutdown.drain();
    Ok(worker.await??)
}
