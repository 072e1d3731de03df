//! A million executions in line over ten thousand actions, and an executor that is killed under them.
//!
//! Run it with `cargo bench -p slotline-tests --bench load`. On private RabbitMQ and PostgreSQL
//! nodes with a real executor process; there is no worker, so that everything waits. `-- --executions N --actions N`
//! set the sizes. Printed are how fast requests are taken, what one that waits costs in memory, and how long a new
//! executor needs until it leads. Then a worker comes for a few of the actions: they must run in order, and every count
//! must add up.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};
use slotline_broker::{Broker, Properties, Publication, Session, topology};
use slotline_tests::{Daemon, Postgres, Rabbit, Sandbox, eventually};
use slotline_worker::{Context, HandlerError, Shutdown, Worker};

const PREFIX: &str = "slotline";
/// How long any one measure may take.
const PATIENCE: Duration = Duration::from_secs(1800);
/// Requests in one body, and bodies that may be unconfirmed at once.
const BULK: usize = 500;
const WINDOW: usize = 20;
/// Actions that are put at once.
const PUTS: usize = 32;
/// Actions that a worker comes for in the end.
const SERVED: usize = 20;

struct Sizes {
    executions: usize,
    actions: usize,
}

fn main() -> Result<()> {
    // The HTTP client asks for a provider even where no TLS is spoken.
    rustls::crypto::ring::default_provider().install_default().ok().context("another TLS provider was installed")?;
    let sizes = Sizes {
        executions: argument("--executions")?.unwrap_or(1_000_000),
        actions: argument("--actions")?.unwrap_or(10_000),
    };
    ensure!(sizes.actions > 0 && sizes.executions >= sizes.actions, "expected an execution for each action at least");
    tokio::runtime::Runtime::new()?.block_on(Box::pin(run(&sizes)))
}

fn argument(name: &str) -> Result<Option<usize>> {
    let mut arguments = std::env::args().skip_while(|argument| argument != name).skip(1);
    arguments.next().map(|value| value.parse().with_context(|| format!("{name}: expected a number"))).transpose()
}

struct Load {
    executor: Daemon,
    http: reqwest::Client,
    postgres: Postgres,
    database: String,
}

async fn run(sizes: &Sizes) -> Result<()> {
    let (rabbit, postgres) = (Rabbit::start().await?, Postgres::start().await?);
    let database = postgres.fresh_database("load").await?;
    let sandbox = Sandbox::new("load")?;
    let executor = Daemon::executor(&sandbox, "load", &database, &rabbit.url(), &[])?;
    let http = reqwest::Client::builder().timeout(Duration::from_secs(60)).build()?;
    let mut load = Load { executor, http, postgres, database };
    let broker = Broker::rabbit(&rabbit.url(), PREFIX)?;
    let session = broker.open("load").await?;

    load.leads().await?;
    let begun = Instant::now();
    stream::iter(0..sizes.actions).map(|number| load.put(number)).buffer_unordered(PUTS).try_collect::<()>().await?;
    println!("{} actions put in {:.1} s", sizes.actions, begun.elapsed().as_secs_f64());
    let idle = load.resident()?;

    let begun = Instant::now();
    publish(&session, sizes).await?;
    let published = begun.elapsed();
    load.live(sizes.executions).await?;
    let taken = begun.elapsed();
    let rate = sizes.executions as f64 / taken.as_secs_f64();
    println!(
        "{} executions published in {:.1} s, in the journal after {:.1} s: {rate:.0} a second",
        sizes.executions,
        published.as_secs_f64(),
        taken.as_secs_f64()
    );
    load.tell_memory("before the kill", idle, sizes)?;

    load.executor.kill()?;
    let begun = Instant::now();
    load.executor.start_again(&sandbox)?;
    load.leads().await?;
    println!("killed; a new executor leads {:.2} s after its start", begun.elapsed().as_secs_f64());
    load.tell_memory("after recovery", idle, sizes)?;
    load.live(sizes.executions).await?;

    drain(&load, broker, sizes).await?;
    let begun = Instant::now();
    let store = slotline_store::Store::open(&load.database).await?;
    let verdict = store.verify(None).await?;
    ensure!(verdict.holds(), "{:?}", verdict.violations);
    ensure!(verdict.executions == sizes.executions as u64, "the journal has {} executions", verdict.executions);
    println!("all {} held against the promises in {:.1} s", verdict.executions, begun.elapsed().as_secs_f64());
    Ok(())
}

fn action(number: usize) -> String {
    format!("load.n{number}")
}

/// Executions take turns over the actions: those of action `a` have the numbers `a`, `a + actions`, ...
async fn publish(session: &Session, sizes: &Sizes) -> Result<()> {
    let mut receipts = VecDeque::with_capacity(WINDOW);
    for from in (0..sizes.executions).step_by(BULK) {
        let members: Vec<Value> = (from..(from + BULK).min(sizes.executions))
            .map(|number| {
                let payload = json!({"action_ref": action(number % sizes.actions), "parameters": {"n": number}});
                json!({"message_type": "execution.requested", "payload": payload})
            })
            .collect();
        if receipts.len() == WINDOW {
            receipts.pop_front().context("the window is full")?.await?;
        }
        receipts.push_back(session.publish(Publication {
            exchange: topology::executions_exchange(PREFIX),
            routing_key: "execution.requested".to_owned(),
            body: Value::from(members).to_string().into(),
            properties: Properties { message_id: Some(format!("bulk-{from}")), ..Properties::default() },
            mandatory: true,
            persistent: true,
        }));
    }
    for receipt in receipts {
        receipt.await?;
    }
    Ok(())
}

/// Starts a worker for the first few actions; all their executions must run, in order.
async fn drain(load: &Load, broker: Broker, sizes: &Sizes) -> Result<()> {
    let served = SERVED.min(sizes.actions);
    let ran: Arc<Mutex<BTreeMap<usize, Vec<usize>>>> = Arc::default();
    let mut builder = Worker::builder("load").capacity(2 * SERVED as u32);
    for number in 0..served {
        let ran = ran.clone();
        builder = builder.action(action(number), move |context: Context| {
            let ran = ran.clone();
            async move {
                let parameters: Value = context.parameters()?;
                let told = parameters["n"].as_u64().and_then(|told| usize::try_from(told).ok());
                let told = told.ok_or_else(|| HandlerError::new("expected a number"))?;
                ran.lock().expect("no handler panics").entry(number).or_default().push(told);
                Ok::<_, HandlerError>(())
            }
        });
    }
    let shutdown = Shutdown::new();
    let working = tokio::spawn(builder.build()?.run(broker, shutdown.clone()));
    let theirs = |number: usize| (number..sizes.executions).step_by(sizes.actions);
    let due: usize = (0..served).map(|number| theirs(number).count()).sum();
    let begun = Instant::now();
    load.live(sizes.executions - due).await?;
    println!("{due} of {served} actions drained in {:.1} s", begun.elapsed().as_secs_f64());
    shutdown.drain();
    working.await??;
    let ran = ran.lock().expect("no handler panics");
    for number in 0..served {
        let order: Vec<usize> = theirs(number).collect();
        ensure!(ran.get(&number) == Some(&order), "{} ran out of order, or not once each", action(number));
    }
    Ok(())
}

impl Load {
    async fn put(&self, number: usize) -> Result<()> {
        let url = format!("{}/api/v1/actions/{}", self.executor.api_url(), action(number));
        let request = self.http.put(url).header("content-type", "application/json").body(r#"{"limit": 1}"#);
        request.send().await?.error_for_status()?;
        Ok(())
    }

    /// Waits until the executor leads.
    async fn leads(&self) -> Result<()> {
        eventually("the executor leads", PATIENCE, async || {
            let url = format!("{}/readyz?verbose", self.executor.api_url());
            let answer = self.http.get(url).send().await?.error_for_status()?.text().await?;
            let answer: Value = serde_json::from_str(&answer)?;
            Ok((answer["data"]["role"] == "leader").then_some(()))
        })
        .await
    }

    /// Waits until exactly so many are alive, by the totals: counting a million rows again and again would be a load of
    /// its own.
    async fn live(&self, count: usize) -> Result<()> {
        eventually(&format!("{count} executions live"), PATIENCE, async || {
            let live = "SELECT coalesce(sum(enqueued) - sum(completed), 0) FROM action_totals";
            let live = self.postgres.psql_in(&self.database, live).await?;
            ensure!(live.trim() == count.to_string(), "{live}");
            Ok(Some(()))
        })
        .await
    }

    /// The executor's resident memory, in bytes.
    fn resident(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.executor.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
    }

    fn tell_memory(&self, when: &str, idle: u64, sizes: &Sizes) -> Result<()> {
        let resident = self.resident()?;
        let each = resident.saturating_sub(idle) / sizes.executions as u64;
        println!("resident {when}: {} MiB ({} MiB idle), {each} bytes for each that waits", resident >> 20, idle >> 20);
        Ok(())
    }
}
