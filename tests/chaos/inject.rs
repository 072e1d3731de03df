//! Injects faults, and undoes each before it is over.
//!
//! Each target that can have only one fault at a time has a lock, which a fault holds until it is over.

use std::sync::{Mutex as Held, PoisonError};
use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::Signal;
use slotline_tests::{Conditions, Postgres, Proxy, Rabbit, eventually};
use tokio::sync::Mutex;

use crate::fault::{EXECUTORS, Fault, FaultKind, LINKS, Target, WORKERS};
use crate::installation::{Api, Installation};
use crate::member::Member;

/// How long a process may take to end after SIGTERM: a drain, the last confirms, and a database that does not answer.
const END_WITHIN: Duration = Duration::from_secs(45);
/// How long the commands of a killed worker may live on.
const LEFT_WITHIN: Duration = Duration::from_secs(10);
const FINE_WITHIN: Duration = Duration::from_secs(60);

/// All targets of faults.
pub(crate) struct Targets {
    pub(crate) rabbit: Rabbit,
    pub(crate) postgres: Postgres,
    pub(crate) installation: Installation,
    pub(crate) api: Api,
    pub(crate) executors: Vec<Mutex<Member>>,
    pub(crate) workers: Vec<Mutex<Member>>,
    pub(crate) links: Vec<(String, Mutex<Proxy>)>,
    pub(crate) broker: Mutex<()>,
    pub(crate) journal: Mutex<()>,
    /// What happened and must not happen whatever the faults.
    pub(crate) wrongs: Held<Vec<String>>,
}

impl Targets {
    /// Injects the fault, and returns when it is undone.
    pub(crate) async fn inject(&self, Fault { lasts, kind, .. }: Fault) -> anyhow::Result<()> {
        match kind {
            FaultKind::Kill(target) => self.kill(target, lasts).await,
            FaultKind::End(target) => {
                let mut member = self.member(target).lock().await;
                member.signal(Signal::SIGTERM)?;
                if let Err(error) = member.end(END_WITHIN).await {
                    self.wrong(format!("{} did not end when it was asked to: {error:#}", member.name));
                    member.kill().await?;
                }
                tokio::time::sleep(lasts).await;
                member.start_again(&[])
            }
            FaultKind::Freeze(target) => {
                let mut member = self.member(target).lock().await;
                member.signal(Signal::SIGSTOP)?;
                tokio::time::sleep(lasts).await;
                member.signal(Signal::SIGCONT)
            }
            FaultKind::Cut(link) => {
                self.links[link].1.lock().await.cut();
                Ok(())
            }
            FaultKind::Link(link, conditions) => {
                let proxy = self.links[link].1.lock().await;
                proxy.set(conditions);
                tokio::time::sleep(lasts).await;
                proxy.set(Conditions::Normal);
                Ok(())
            }
            FaultKind::BrokerStops
            | FaultKind::BrokerKilled
            | FaultKind::BrokerFreezes
            | FaultKind::BrokerAlarm
            | FaultKind::ConnectionsClosed
            | FaultKind::QueueDeleted(_) => self.inject_into_broker(kind, lasts).await,
            FaultKind::JournalRestarts
            | FaultKind::JournalKilled
            | FaultKind::SessionsEnded { .. }
            | FaultKind::JournalLocked
            | FaultKind::JournalFreezes => self.inject_into_journal(kind, lasts).await,
        }
    }

    async fn kill(&self, target: Target, lasts: Duration) -> anyhow::Result<()> {
        let mut member = self.member(target).lock().await;
        member.kill().await?;
        if let Target::Worker(_) = target
            && let Err(error) = self.installation.nothing_left_of(&member.name, LEFT_WITHIN).await
        {
            self.wrong(format!("{error:#}"));
        }
        tokio::time::sleep(lasts).await;
        member.start_again(&[])
    }

    async fn inject_into_broker(&self, kind: FaultKind, lasts: Duration) -> anyhow::Result<()> {
        let _turn = self.broker.lock().await;
        let rabbit = &self.rabbit;
        match kind {
            FaultKind::BrokerStops => {
                rabbit.stop_app().await?;
                tokio::time::sleep(lasts).await;
                rabbit.start_app().await
            }
            FaultKind::BrokerKilled => {
                rabbit.kill().await?;
                tokio::time::sleep(lasts).await;
                rabbit.start_again().await
            }
            FaultKind::BrokerFreezes => {
                rabbit.freeze().await?;
                tokio::time::sleep(lasts).await;
                rabbit.signal(Signal::SIGCONT)
            }
            FaultKind::BrokerAlarm => {
                rabbit.ctl(&["set_vm_memory_high_watermark", "absolute", "1MB"]).await?;
                tokio::time::sleep(lasts).await;
                rabbit.ctl(&["set_vm_memory_high_watermark", "absolute", "2GB"]).await.map(drop)
            }
            FaultKind::QueueDeleted(which) => {
                let listed = rabbit.ctl(&["list_queues", "--silent", "--no-table-headers", "name"]).await?.stdout;
                let spared =
                    [format!("{}.requests", self.installation.prefix), format!("{}.dead", self.installation.prefix)];
                let queues: Vec<&str> =
                    listed.lines().filter(|name| !spared.iter().any(|spare| spare == name)).collect();
                if queues.is_empty() {
                    return Ok(());
                }
                let doomed = queues[usize::try_from(which % queues.len() as u64)?];
                match rabbit.ctl(&["delete_queue", doomed]).await {
                    // The queue may be gone by itself.
                    Err(error) if format!("{error:#}").contains("not_found") => Ok(()),
                    done => done.map(|_| println!("    {doomed} is deleted")),
                }
            }
            _ => rabbit.close_connections(&["close_all_connections", "chaos"]).await,
        }
    }

    async fn inject_into_journal(&self, kind: FaultKind, lasts: Duration) -> anyhow::Result<()> {
        let _turn = self.journal.lock().await;
        let sql = |text: String| async move { self.postgres.psql_in(&self.installation.database, &text).await };
        match kind {
            FaultKind::JournalRestarts => self.postgres.restart().await,
            FaultKind::JournalKilled => {
                self.postgres.kill().await?;
                tokio::time::sleep(lasts).await;
                self.postgres.start_again().await
            }
            FaultKind::JournalFreezes => {
                let _frozen = self.postgres.freeze()?;
                tokio::time::sleep(lasts).await;
                Ok(())
            }
            FaultKind::SessionsEnded { all } => {
                let limit = if all { "" } else { "limit 1" };
                let end = "select pg_terminate_backend(pid) from pg_stat_activity \
                    where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend'";
                sql(format!("{end} order by pid {limit}")).await.map(drop)
            }
            _ => {
                let seconds = lasts.as_secs_f64();
                sql(format!("lock table leadership in access exclusive mode; select pg_sleep({seconds})"))
                    .await
                    .map(drop)
            }
        }
    }

    pub(crate) fn member(&self, target: Target) -> &Mutex<Member> {
        match target {
            Target::Executor(index) => &self.executors[index],
            Target::Worker(index) => &self.workers[index],
        }
    }

    pub(crate) fn everyone(&self) -> impl Iterator<Item = &Mutex<Member>> {
        self.executors.iter().chain(&self.workers)
    }

    /// Notes something that must not happen.
    pub(crate) fn wrong(&self, what: String) {
        println!("    WRONG: {what}");
        self.wrongs.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }

    /// Notes each process that has ended by itself, which must not happen whatever the faults. A process with a fault
    /// is skipped.
    pub(crate) fn look_for_ended(&self) {
        for member in self.everyone() {
            let Ok(mut member) = member.try_lock() else { continue };
            match member.ended() {
                Ok(None) => {}
                Ok(Some(status)) => {
                    self.wrong(format!("{} ended by itself: {status}", member.name));
                    if let Err(error) = member.start_again(&[]) {
                        self.wrong(format!("{error:#}"));
                    }
                }
                Err(error) => self.wrong(format!("{}: {error:#}", member.name)),
            }
        }
    }

    /// Waits until both servers answer.
    pub(crate) async fn is_fine(&self) -> anyhow::Result<()> {
        eventually("the journal answers", FINE_WITHIN, async || {
            self.postgres.psql_in(&self.installation.database, "select 1").await.map(Some)
        })
        .await?;
        eventually("the broker answers", FINE_WITHIN, async || self.rabbit.ctl(&["await_startup"]).await.map(Some))
            .await
            .map(drop)
    }

    /// SIGTERM to every process, workers first; waits for their ends.
    pub(crate) async fn close(&self) -> anyhow::Result<()> {
        for members in [&self.workers, &self.executors] {
            for member in members {
                member.lock().await.signal(Signal::SIGTERM)?;
            }
            for member in members {
                let mut member = member.lock().await;
                let status = member.end(END_WITHIN).await?;
                anyhow::ensure!(status.success(), "{} ended: {status}", member.name);
            }
        }
        Ok(())
    }
}

/// One proxy for each link.
pub(crate) fn links(rabbit: u16, postgres: u16) -> anyhow::Result<Vec<(String, Mutex<Proxy>)>> {
    let link = |name: String, server: u16| anyhow::Ok((name, Mutex::new(Proxy::start(server)?)));
    let mut links = Vec::with_capacity(LINKS);
    for executor in 0..EXECUTORS {
        links.push(link(format!("executor-{executor} to broker"), rabbit)?);
        links.push(link(format!("executor-{executor} to journal"), postgres)?);
    }
    for worker in 0..WORKERS {
        links.push(link(format!("worker-{worker} to broker"), rabbit)?);
    }
    links.push(link("publisher to broker".to_owned(), rabbit)?);
    links.len().eq(&LINKS).then_some(links).context("a link for each")
}
