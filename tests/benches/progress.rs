//! What reporting costs other executions, clients that watch, the journal, and the handler itself.
//!
//! Run it with `cargo bench -p slotline-tests --bench progress`. On private RabbitMQ and
//! PostgreSQL nodes with a real executor process; the worker is this process, with handlers, and so is the client that
//! watches, so that both read one clock. `-- --handovers N --reports N --executions N --calls N` set the sizes.
//!
//! The flood has a hundred thousand reports a second, each with a message of its own, on the very worker that runs the
//! line. What is stored is counted as rows of the journal.

#[allow(dead_code, reason = "others measure more with it")]
mod bench;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bench::{Bench, PATIENCE, PREFIX, Spans, argument, machine, milliseconds};
use eventsource_stream::{Event, Eventsource};
use futures::{Stream, StreamExt, stream};
use slotline_broker::Broker;
use slotline_tests::{Daemon, Postgres, Rabbit, Sandbox, eventually};
use slotline_worker::{Context, HandlerError, Report, Shutdown, Worker};
use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::CancellationToken;

/// Reports of the flood in each of its steps, a millisecond apart.
const FLOOD: u64 = 100;
/// Messages of each execution whose events are counted: as many as are recorded in a second.
const MESSAGES: usize = 20;

#[derive(Clone, Copy)]
struct Sizes {
    handovers: usize,
    reports: usize,
    executions: usize,
    calls: usize,
}

/// What the handlers and the measures share.
struct Played {
    /// Ends the flood.
    stop: CancellationToken,
    flooded: AtomicU64,
    asked: Mutex<mpsc::Receiver<()>>,
    reported: mpsc::Sender<Instant>,
    calls: usize,
    called: mpsc::Sender<[Duration; 2]>,
}

fn main() -> Result<()> {
    // The HTTP client asks for a provider even where no TLS is spoken.
    rustls::crypto::ring::default_provider().install_default().ok().context("another TLS provider was installed")?;
    let sizes = Sizes {
        handovers: argument("--handovers")?.unwrap_or(3000),
        reports: argument("--reports")?.unwrap_or(1000),
        executions: argument("--executions")?.unwrap_or(5000),
        calls: argument("--calls")?.unwrap_or(1_000_000),
    };
    println!("{}\n\nRabbitMQ + PostgreSQL, executor in a process of its own", machine());
    tokio::runtime::Runtime::new()?.block_on(async { Box::pin(measure(sizes)).await })
}

async fn measure(sizes: Sizes) -> Result<()> {
    let (rabbit, postgres) = (Rabbit::start().await?, Postgres::start().await?);
    let database = postgres.fresh_database("bench").await?;
    let sandbox = Sandbox::new("bench")?;
    let executor = Daemon::executor(&sandbox, "bench", &database, &rabbit.url(), &[])?;
    let api = executor.api_url();
    let broker = Broker::rabbit(&rabbit.url(), PREFIX)?;

    let (ask, asked) = mpsc::channel(1);
    let (reported, reports) = mpsc::channel(1);
    let (called, mut costs) = mpsc::channel(1);
    let (stop, flooded, asked) = (CancellationToken::new(), AtomicU64::new(0), Mutex::new(asked));
    let played = Arc::new(Played { stop, flooded, asked, reported, calls: sizes.calls, called });
    let spans = Spans::default();
    let handler = spans.clone();
    let worker = Worker::builder("bench")
        .capacity(1000)
        .action("bench.handover", move |context| handler.clone().handle(context))
        .action("bench.flood", with(&played, flood))
        .action("bench.tell", with(&played, tell))
        .action("bench.messages", messages)
        .action("bench.calls", with(&played, calls))
        .build()?;
    let shutdown = Shutdown::new();
    let worker = tokio::spawn(worker.run(broker.clone(), shutdown.clone()));
    let session = broker.open("bench publisher").await?;
    let bench = Bench { session: &session, api: &api };
    for action in ["bench.flood", "bench.tell", "bench.messages", "bench.calls"] {
        bench.put(action, "{}").await?;
    }
    bench.put("bench.handover", r#"{"limit": 1}"#).await?;

    bench.run("bench.calls", 1).await?;
    let [numbers, message] = costs.recv().await.context("the handler says")?;
    let each = |whole: Duration| whole.as_nanos() as f64 / sizes.calls as f64;
    println!(
        "  one call of `context.progress`, of {}: {:.0} ns with numbers, {:.0} ns with a new message",
        sizes.calls,
        each(numbers),
        each(message)
    );
    watched(&api, sizes.reports, ask, reports).await?;
    beside_a_flood(&bench, &spans, &played, sizes.handovers).await?;
    stored(&bench, &postgres, &database, sizes.executions).await?;
    shutdown.drain();
    Ok(worker.await??)
}

fn with<F>(
    played: &Arc<Played>,
    handle: impl Fn(Arc<Played>, Context) -> F + Send + Sync + 'static,
) -> impl Fn(Context) -> F + Send + Sync + 'static {
    let played = played.clone();
    move |context| handle(played.clone(), context)
}

// ---- handlers ----

async fn flood(played: Arc<Played>, context: Context) -> Result<(), HandlerError> {
    let mut steps = tokio::time::interval(Duration::from_millis(1));
    let mut n = 0;
    while !played.stop.is_cancelled() {
        steps.tick().await;
        for _ in 0..FLOOD {
            n += 1;
            context.info(format!("report {n}"));
        }
        played.flooded.store(n, Ordering::Relaxed);
    }
    Ok(())
}

async fn tell(played: Arc<Played>, context: Context) -> Result<(), HandlerError> {
    let mut done = 0;
    while played.asked.lock().await.recv().await.is_some() {
        done += 1;
        let at = Instant::now();
        context.progress(Report { progress: Some((done, None)), ..Report::default() });
        // The measure that requested the report waits for it.
        let _ = played.reported.send(at).await;
    }
    Ok(())
}

async fn messages(context: Context) -> Result<(), HandlerError> {
    (0..MESSAGES).for_each(|n| context.info(format!("message {n} of {MESSAGES}")));
    Ok(())
}

async fn calls(played: Arc<Played>, context: Context) -> Result<(), HandlerError> {
    let total = played.calls as u64;
    let numbers = Instant::now();
    for done in 0..total {
        context.progress(Report { progress: Some((done, Some(total))), ..Report::default() });
    }
    let numbers = numbers.elapsed();
    let message = Instant::now();
    for n in 0..total {
        context.info(format!("message {n}"));
    }
    // The measure waits for it.
    let _ = played.called.send([numbers, message.elapsed()]).await;
    Ok(())
}

// ---- measures ----

/// From the report of a number to its arrival at a client, one at a time.
async fn watched(api: &str, count: usize, ask: mpsc::Sender<()>, mut reports: mpsc::Receiver<Instant>) -> Result<()> {
    let client = reqwest::Client::new();
    let body = r#"{"action_ref": "bench.tell", "progress": {"update_step": 1}}"#;
    let submission = client.post(format!("{api}/api/v1/executions")).header("content-type", "application/json");
    let answer = submission.body(body).send().await?.error_for_status()?.text().await?;
    let answer: serde_json::Value = serde_json::from_str(&answer)?;
    let id = answer["data"]["execution_id"].as_i64().context("an id")?;
    let url = format!("{api}/api/v1/executions/{id}/events");
    let mut events = std::pin::pin!(events(client.get(url).header("accept", "text/event-stream").send().await?));
    let mut ages = Vec::with_capacity(count);
    for _ in 0..count {
        ask.send(()).await?;
        let reported = reports.recv().await.context("the handler reports")?;
        loop {
            let event = tokio::time::timeout(PATIENCE, events.next()).await?.context("the stream goes on")??;
            if event.event == "progress" {
                break;
            }
        }
        ages.push(reported.elapsed());
    }
    ages.sort_unstable();
    let [p50, p99] = [0.5, 0.99].map(|share| milliseconds(&ages, share));
    println!("  from a report to the client that watches, {count} one at a time: p50 {p50:.2} ms, p99 {p99:.2} ms");
    Ok(())
}

fn events(answer: reqwest::Response) -> impl Stream<Item = Result<Event>> {
    let chunks = stream::try_unfold(answer, async |mut answer| {
        Ok::<_, reqwest::Error>(answer.chunk().await?.map(|chunk| (chunk, answer)))
    });
    chunks.eventsource().map(|event| event.map_err(|error| anyhow::anyhow!("{error}")))
}

/// The hand-off of a line alone, and beside a run that floods.
async fn beside_a_flood(bench: &Bench<'_>, spans: &Spans, played: &Played, count: usize) -> Result<()> {
    let alone = bench.handovers("bench.handover", spans, count).await?;
    let flooding = bench.run("bench.flood", 1);
    let measuring = async {
        eventually("the flood has begun", PATIENCE, async || {
            Ok((played.flooded.load(Ordering::Relaxed) > 0).then_some(()))
        })
        .await?;
        let (before, begun) = (played.flooded.load(Ordering::Relaxed), Instant::now());
        let beside = bench.handovers("bench.handover", spans, count).await;
        let rate = (played.flooded.load(Ordering::Relaxed) - before) as f64 / begun.elapsed().as_secs_f64();
        played.stop.cancel();
        beside.map(|beside| (beside, rate))
    };
    let (flooded, measured) = tokio::join!(flooding, measuring);
    flooded?;
    let (beside, rate) = measured?;
    for (what, pauses) in [("alone".to_owned(), &alone), (format!("beside {rate:.0} reports a second"), &beside)] {
        let [p50, p99] = [0.5, 0.99].map(|share| milliseconds(pauses, share));
        println!("  hand-off, limit 1, {count} handlers of 1 ms, {what}: p50 {p50:.2} ms, p99 {p99:.2} ms");
    }
    println!("  ratio of the medians: {:.2}", milliseconds(&beside, 0.5) / milliseconds(&alone, 0.5));
    Ok(())
}

/// Events that the journal takes in a second, of many executions at once.
async fn stored(bench: &Bench<'_>, postgres: &Postgres, database: &str, executions: usize) -> Result<()> {
    let rows = async || -> Result<u64> {
        Ok(postgres.psql_in(database, "SELECT count(*) FROM events").await?.trim().parse()?)
    };
    bench.run("bench.messages", executions / 50).await?;
    let before = rows().await?;
    let begun = Instant::now();
    bench.run("bench.messages", executions).await?;
    // The moves to queued, scheduled and running, the start, the end, and the messages.
    let all = before + (executions * (5 + MESSAGES)) as u64;
    let mut stored = 0;
    let took = eventually("all events are stored", PATIENCE, async || {
        stored = rows().await?;
        Ok((stored >= all).then(|| begun.elapsed()))
    })
    .await?;
    ensure!(stored == all, "{stored} rows, expected {all}");
    let (events, seconds) = (stored - before, took.as_secs_f64());
    println!(
        "  {events} events of {executions} executions stored in {seconds:.2} s: {:.0} a second",
        events as f64 / seconds
    );
    Ok(())
}
