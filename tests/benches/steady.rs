//! Whether an hour at constant load, beside a standby, leaves everything as it was: commits, tables, memory.
//!
//! Run it with `cargo bench -p slotline-tests --bench steady`; `-- --seconds N` for less than an
//! hour. On private RabbitMQ and PostgreSQL nodes, with two real executor processes, one of which waits for leadership
//! all the time, and this process as the worker. The first and the last tenth are printed beside each other. History
//! grows with the load until its retention ends; all else should stay within 5 %.

#[allow(dead_code, reason = "others measure more with it")]
mod bench;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bench::{Bench, PATIENCE, PREFIX, argument, machine, request};
use slotline_broker::{Broker, Session};
use slotline_tests::{Daemon, Postgres, Rabbit, Sandbox, eventually};
use slotline_worker::{Context, HandlerError, Shutdown, Worker};

const ACTION: &str = "steady.stream";
const POLICY: &str = r#"{"limit": 4}"#;
/// Between two requests, and how long each runs.
const REQUEST_EVERY: Duration = Duration::from_millis(20);
const RUN: Duration = Duration::from_millis(2);
/// One sample: the mean of the commits within it.
const WINDOW: Duration = Duration::from_secs(5);
/// What should hold the same at the end as at the beginning.
const TABLES: [&str; 5] = ["leadership", "live", "action_totals", "stories", "actions"];

fn main() -> Result<()> {
    rustls::crypto::ring::default_provider().install_default().ok().context("another TLS provider was installed")?;
    let lasts = Duration::from_secs(argument("--seconds")?.unwrap_or(3600) as u64);
    ensure!(lasts >= WINDOW * 20, "expected at least {} s", (WINDOW * 20).as_secs());
    println!("{}, {} s", machine(), lasts.as_secs());
    tokio::runtime::Runtime::new()?.block_on(Box::pin(run(lasts)))
}

/// What one window showed.
#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    commit_ms: f64,
    bytes: f64,
    dead: f64,
    live: f64,
    resident_kib: f64,
}

struct Site {
    executors: Vec<Daemon>,
    postgres: Postgres,
    database: String,
}

async fn run(lasts: Duration) -> Result<()> {
    let (rabbit, postgres) = (Rabbit::start().await?, Postgres::start().await?);
    postgres.psql("alter system set track_functions = 'pl'").await?;
    postgres.psql("select pg_reload_conf()").await?;
    let database = postgres.fresh_database("steady").await?;
    let sandbox = Sandbox::new("steady")?;
    let executors = bench::pair(&sandbox, &database, &rabbit.url())?;
    let site = Site { executors, postgres, database };
    let broker = Broker::rabbit(&rabbit.url(), PREFIX)?;
    let handle = async |_: Context| {
        tokio::time::sleep(RUN).await;
        Ok::<(), HandlerError>(())
    };
    let worker = Worker::builder("steady").capacity(16).action(ACTION, handle);
    let shutdown = Shutdown::new();
    let worker = tokio::spawn(worker.build()?.run(broker.clone(), shutdown.clone()));
    let session = broker.open("steady publisher").await?;
    site.waits().await?;
    let api = site.executors[0].api_url();
    Bench { session: &session, api: &api }.put(ACTION, POLICY).await?;
    let stream = tokio::spawn(stream(session));

    let begun = Instant::now();
    let mut samples = Vec::new();
    let mut last = site.commits().await?;
    while begun.elapsed() < lasts {
        tokio::time::sleep(WINDOW).await;
        let (calls, total_ms) = site.commits().await?;
        let commit_ms = (total_ms - last.1) / (calls - last.0).max(1.0);
        last = (calls, total_ms);
        samples.push(Sample { commit_ms, ..site.look().await? });
    }
    ensure!(!stream.is_finished(), "the stream has ended: {:?}", stream.await);
    let tenth = (samples.len() / 10).max(1);
    tell(&samples[..tenth], &samples[samples.len() - tenth..]);
    println!("\ntable, bytes, dead rows, live rows at the end:\n{}", site.tables().await?);
    stream.abort();
    shutdown.drain();
    worker.await??;
    Ok(())
}

async fn stream(session: Session) -> Result<()> {
    let mut every = tokio::time::interval(REQUEST_EVERY);
    loop {
        every.tick().await;
        session.publish(request(ACTION)).await?;
    }
}

/// The first tenth beside the last, and their ratio.
fn tell(first: &[Sample], last: &[Sample]) {
    println!("{:<42} {:>12} {:>12} {:>7}", "", "first tenth", "last tenth", "ratio");
    let row = |what: &str, of: &dyn Fn(&[Sample]) -> f64| {
        let (first, last) = (of(first), of(last));
        println!("{what:<42} {first:>12.3} {last:>12.3} {:>7.3}", last / first);
    };
    let share = |samples: &[Sample], share: f64| {
        let mut sorted: Vec<f64> = samples.iter().map(|sample| sample.commit_ms).collect();
        sorted.sort_unstable_by(f64::total_cmp);
        sorted[((sorted.len() - 1) as f64 * share) as usize]
    };
    let mean = |samples: &[Sample], of: fn(&Sample) -> f64| samples.iter().map(of).sum::<f64>() / samples.len() as f64;
    row("slotline_commit, ms, p50 of windows", &|samples| share(samples, 0.5));
    row("slotline_commit, ms, p90 of windows", &|samples| share(samples, 0.9));
    row("tables that don't keep history, KiB", &|samples| mean(samples, |sample| sample.bytes / 1024.0));
    row("their dead rows", &|samples| mean(samples, |sample| sample.dead));
    row("their live rows", &|samples| mean(samples, |sample| sample.live));
    row("memory of both executors, KiB", &|samples| mean(samples, |sample| sample.resident_kib));
}

impl Site {
    /// Returns once one executor leads and the other waits for it.
    async fn waits(&self) -> Result<()> {
        eventually("one leads and the other waits", PATIENCE, async || {
            let waiting = "select count(*) from pg_stat_activity where datname = current_database() \
                and query like 'SELECT pg_try_advisory_lock(hashtextextended(''slotline leader%'";
            Ok((self.sql(waiting).await? == "1").then_some(()))
        })
        .await
    }

    /// Calls so far, and the milliseconds they took.
    async fn commits(&self) -> Result<(f64, f64)> {
        let asked = "select coalesce(sum(calls), 0), coalesce(sum(total_time), 0) from pg_stat_user_functions \
            where funcname = 'slotline_commit'";
        let told = self.sql(asked).await?;
        let (calls, total) = told.split_once('|').context("two columns")?;
        Ok((calls.parse()?, total.parse()?))
    }

    async fn look(&self) -> Result<Sample> {
        let names = TABLES.map(|name| format!("'{name}'")).join(", ");
        let asked = format!(
            "select sum(pg_total_relation_size(relid)), sum(n_dead_tup), sum(n_live_tup) from pg_stat_user_tables \
             where relname in ({names})"
        );
        let told = self.sql(&asked).await?;
        let columns: Vec<f64> = told.split('|').map(str::parse).collect::<Result<_, _>>()?;
        let [bytes, dead, live] = columns[..] else { anyhow::bail!("{told}") };
        let resident_kib = self.executors.iter().map(resident).sum::<Result<f64>>()?;
        Ok(Sample { commit_ms: 0.0, bytes, dead, live, resident_kib })
    }

    async fn tables(&self) -> Result<String> {
        let asked = "select relname, pg_total_relation_size(relid), n_dead_tup, n_live_tup from pg_stat_user_tables \
            order by 2 desc";
        self.sql(asked).await
    }

    async fn sql(&self, sql: &str) -> Result<String> {
        self.postgres.psql_in(&self.database, sql).await
    }
}

fn resident(executor: &Daemon) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", executor.pid()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
