//! One installation under measurement: an executor process on servers, or everything embedded in this process.
//!
//! Each measure has an installation and a journal of its own, so that it does not pay for the history of another and is
//! checked alone.

mod site;

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use reqwest::StatusCode;
use serde_json::Value;
use slotline_broker::{Broker, Session};
use slotline_store::Store;
use slotline_tests::{Guarded, Port, Sandbox, Signal, eventually, eventually_every};
use tokio::task::JoinHandle;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use crate::cpu::Meter;
use crate::workers::{BenchWorker, Role, Served, Workers};

pub(crate) use site::Site;
use site::start_executor;

/// Longest time that any one round may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(900);
/// Between two looks at how much has settled, each of which costs the journal a query: less than a hundredth of a
/// round.
const LOOK_EVERY: Duration = Duration::from_millis(50);
const LOOK_SELDOM: Duration = Duration::from_millis(500);
/// How long a daemon may take to end.
pub(crate) const END_WITHIN: Duration = Duration::from_secs(60);
/// Actions that are put at once.
const PUTS: usize = 32;
/// A journal of more executions is not verified: that takes longer than the measure.
const VERIFIED_MAX: u64 = 400_000;

pub(crate) struct Installation {
    pub(crate) system: &'static str,
    pub(crate) session: Session,
    broker: Broker,
    amqp: String,
    http: reqwest::Client,
    api: String,
    store: Store,
    executor: Executor,
    meter: Meter,
    sandbox: Sandbox,
    /// A client of the journal, to count what has ended, if the journal is on a server.
    journal: Option<Client>,
    database: String,
}

enum Executor {
    Process { process: Box<Guarded>, port: Port },
    Task { running: JoinHandle<Result<(), slotline_executor::Error>>, shutdown: CancellationToken },
}

/// Over all actions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Totals {
    pub(crate) enqueued: u64,
    pub(crate) settled: u64,
}

fn http() -> Result<reqwest::Client> {
    Ok(reqwest::Client::builder().timeout(Duration::from_secs(60)).build()?)
}

impl Installation {
    /// `false` if this build does not know the policy.
    pub(crate) async fn put(&self, action: &str, policy: &str) -> Result<bool> {
        let put = || {
            let request = self.http.put(format!("{}/api/v1/actions/{action}", self.api));
            request.header("content-type", "application/json").body(policy.to_owned())
        };
        let mut answer = put().send().await?;
        if answer.status() == StatusCode::PRECONDITION_REQUIRED {
            // It is there from an earlier run, with another policy.
            answer = put().header("if-match", "*").send().await?;
        }
        let status = answer.status();
        if status.is_success() || status.is_client_error() {
            return Ok(status.is_success());
        }
        bail!("PUT {action}: {status}: {}", answer.text().await?)
    }

    /// `name0`, `name1`, and so on.
    pub(crate) async fn put_many(&self, name: &str, count: usize, policy: &str) -> Result<()> {
        let puts = stream::iter(0..count).map(|number| self.put_numbered(name, number, policy));
        puts.buffer_unordered(PUTS).try_collect().await
    }

    async fn put_numbered(&self, name: &str, number: usize, policy: &str) -> Result<()> {
        let action = format!("{name}{number}");
        ensure!(self.put(&action, policy).await?, "{action} was refused");
        Ok(())
    }

    pub(crate) async fn pause(&self, action: &str) -> Result<()> {
        self.post(&format!("actions/{action}/pause")).await
    }

    pub(crate) async fn resume(&self, action: &str) -> Result<()> {
        self.post(&format!("actions/{action}/resume")).await
    }

    async fn post(&self, path: &str) -> Result<()> {
        self.http
            .post(format!("{}/api/v1/{path}", self.api))
            .header("x-slotline", "bench")
            .send()
            .await?
            .error_for_status()?;
        Ok(())
    }

    async fn get(&self, path: &str) -> Result<Value> {
        let answer = self.http.get(format!("{}/{path}", self.api)).send().await?.error_for_status()?.text().await?;
        Ok(serde_json::from_str::<Value>(&answer)?["data"].take())
    }

    pub(crate) async fn leads(&self) -> Result<()> {
        eventually("the executor leads", PATIENCE, async || {
            Ok((self.get("readyz?verbose").await?["role"] == "leader").then_some(()))
        })
        .await
    }

    /// The totals in the journal, so of what is committed.
    pub(crate) async fn totals(&self) -> Result<Totals> {
        let sum = "SELECT coalesce(sum(enqueued), 0)::bigint, coalesce(sum(completed), 0)::bigint FROM action_totals";
        if let Some(journal) = &self.journal {
            let row = journal.query_one(sum, &[]).await?;
            let count = |column| row.get::<_, i64>(column).unsigned_abs();
            return Ok(Totals { enqueued: count(0), settled: count(1) });
        }
        let queues = self.get("api/v1/queues").await?;
        let queues = queues.as_array().context("a list of queues")?;
        let sum = |name: &str| queues.iter().filter_map(|queue| queue[name].as_u64()).sum();
        Ok(Totals { enqueued: sum("total_enqueued"), settled: sum("total_completed") })
    }

    pub(crate) async fn until_enqueued(&self, count: u64) -> Result<()> {
        eventually(&format!("{count} executions in the journal"), PATIENCE, async || {
            Ok((self.totals().await?.enqueued >= count).then_some(()))
        })
        .await
    }

    pub(crate) async fn until_settled(&self, count: u64) -> Result<()> {
        self.until_settled_by(LOOK_EVERY, count).await
    }

    /// Waits with queries so rare that they do not disturb a measure by stamps.
    pub(crate) async fn until_settled_undisturbed(&self, count: u64) -> Result<()> {
        self.until_settled_by(LOOK_SELDOM, count).await
    }

    async fn until_settled_by(&self, pause: Duration, count: u64) -> Result<()> {
        eventually_every(pause, &format!("{count} executions settled"), PATIENCE, async || {
            Ok((self.totals().await?.settled >= count).then_some(()))
        })
        .await
    }

    /// Starts so many workers, each of this capacity; the leader knows them when this returns.
    pub(crate) async fn start_workers(&self, count: usize, capacity: u32, served: &[Served]) -> Result<Workers> {
        let names: Vec<String> = (0..count).map(|_| self.fresh_name()).collect();
        let roles = names.iter().map(|name| Role { name: name.clone(), capacity, served: served.to_vec() });
        let workers = roles.map(|role| match self.executor {
            Executor::Process { .. } => BenchWorker::process(&self.sandbox, &self.amqp, &role),
            Executor::Task { .. } => BenchWorker::task(&self.broker, &role),
        });
        let workers = workers.collect::<Result<Vec<_>>>()?;
        self.until_known(&names).await?;
        let meter = workers.iter().fold(self.meter.clone(), |meter, worker| worker.meter(meter));
        Ok(Workers { workers, meter })
    }

    /// A name that no worker had before.
    pub(crate) fn fresh_name(&self) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        format!("worker-{}", NEXT.fetch_add(1, Ordering::Relaxed))
    }

    pub(crate) async fn until_known(&self, names: &[String]) -> Result<()> {
        eventually(&format!("the workers {names:?} are known"), PATIENCE, async || {
            let workers = self.get("api/v1/workers").await?;
            let known: Vec<&str> =
                workers.as_array().into_iter().flatten().filter_map(|worker| worker["worker"].as_str()).collect();
            Ok(names.iter().all(|name| known.contains(&name.as_str())).then_some(()))
        })
        .await
    }

    /// Broken promises by `slotline verify`; `None` if the journal is too large.
    pub(crate) async fn verify(&self) -> Result<Option<u64>> {
        if self.totals().await?.enqueued > VERIFIED_MAX {
            return Ok(None);
        }
        let verdict = self.store.verify(None).await?;
        for violation in &verdict.violations {
            eprintln!("the journal of {}: {violation}", self.system);
        }
        Ok(Some(verdict.checks.iter().map(|checked| checked.violations).sum()))
    }

    /// The executor's resident memory, in bytes.
    pub(crate) fn resident(&self) -> Result<u64> {
        let Executor::Process { process, .. } = &self.executor else { bail!("the executor has no process of its own") };
        let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
    }

    /// Kills the executor and starts another; returns the time from its start until it led.
    pub(crate) async fn restart_executor(&mut self) -> Result<Duration> {
        let Executor::Process { process, port } = &mut self.executor else {
            bail!("the executor has no process of its own")
        };
        process.signal(Signal::SIGKILL)?;
        process.wait(END_WITHIN)?;
        let begun = Instant::now();
        **process = start_executor(&self.sandbox, &self.database, &self.amqp, port)?;
        self.leads().await?;
        Ok(begun.elapsed())
    }

    pub(crate) fn amqp(&self) -> &str {
        &self.amqp
    }

    pub(crate) fn sandbox(&self) -> &Sandbox {
        &self.sandbox
    }

    pub(crate) fn meter(&self) -> Meter {
        self.meter.clone()
    }

    /// Ends it and gives its disk space back.
    pub(crate) async fn close(self, site: Site<'_>) -> Result<()> {
        self.session.close().await;
        match self.executor {
            Executor::Process { mut process, .. } => {
                process.signal(Signal::SIGTERM)?;
                tokio::task::spawn_blocking(move || process.wait(END_WITHIN)).await??;
            }
            Executor::Task { running, shutdown } => {
                shutdown.cancel();
                running.await??;
            }
        }
        self.store.close().await;
        drop(self.journal);
        if let Site::Servers(servers) = site {
            let name = self.database.rsplit('/').next().context("the URL ends in a name")?;
            servers.postgres.psql(&format!("DROP DATABASE \"{name}\" WITH (FORCE)")).await?;
        }
        Ok(())
    }
}
