//! Its executors and workers.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use serde_json::Value;
use slotline_broker::crash;
use slotline_tests::{Daemon, Launch, Proxy, eventually};

use super::builder::definitions;
use super::{FAKETIME, Node, SOON, World, list};

impl World {
    /// The URL with which a process of this role logs in.
    pub(crate) fn login(&self, role: &str) -> String {
        self.amqp.replace("guest:guest", &format!("slotline-{role}:secret"))
    }

    pub(crate) fn start_executor(&mut self) -> anyhow::Result<()> {
        let name = format!("executor-{}", self.executors.len());
        let database = match &self.journal_link {
            Some(link) => link.url(&self.database, self.postgres.port()),
            None => self.database.clone(),
        };
        let mut amqp = self.login("executor");
        if self.has_broker_links {
            let link = Proxy::start(self.rabbit.port())?;
            amqp = link.url(&amqp, self.rabbit.port());
            self.broker_links.push(link);
        }
        let clock = self.executor_clocks.get(self.executors.len()).copied();
        let launch = self.executor(&name, &database, &amqp);
        self.executors.push(with_clock(launch, clock)?.start_listening(&self.sandbox)?);
        Ok(())
    }

    /// Starts an executor that dies when it passes this point.
    pub(crate) fn start_executor_that_dies_at(&mut self, point: &str) -> anyhow::Result<()> {
        let name = format!("executor-{}", self.executors.len());
        let launch = self.executor(&name, &self.database, &self.login("executor"));
        self.executors.push(launch.env(crash::VARIABLE, point).start_listening(&self.sandbox)?);
        Ok(())
    }

    /// Starts an executor that is given another user of the database or the broker than all others.
    pub(crate) fn start_executor_as(
        &mut self,
        database_user: Option<&str>,
        broker_user: Option<&str>,
    ) -> anyhow::Result<()> {
        let name = format!("executor-{}", self.executors.len());
        let user = |url: &str, user: Option<&str>| match (user, url.split_once("://"), url.split_once('@')) {
            (Some(user), Some((scheme, _)), Some((_, rest))) => format!("{scheme}://{user}@{rest}"),
            _ => url.to_owned(),
        };
        let (database, amqp) = (user(&self.database, database_user), user(&self.login("executor"), broker_user));
        self.executors.push(self.executor(&name, &database, &amqp).start_listening(&self.sandbox)?);
        Ok(())
    }

    fn executor(&self, name: &str, database: &str, amqp: &str) -> Launch {
        let launch = Launch::new(name, &["executor", "--database-url", database, "--amqp-url", amqp]);
        launch.args(self.lease.options().iter().copied())
    }

    /// Starts an executor again that was killed or has ended, at the same address.
    pub(crate) fn start_executor_again(&mut self, index: usize) -> anyhow::Result<()> {
        self.executors[index].start_again(&self.sandbox)
    }

    /// Starts a worker; one of the same name finds the state that its predecessor left.
    pub(crate) fn start_worker(&mut self, name: &str) -> anyhow::Result<()> {
        self.start_worker_with(name, &self.actions.clone())
    }

    /// Starts a worker that serves another file than the test's own.
    pub(crate) fn start_worker_with(&mut self, name: &str, actions: &Path) -> anyhow::Result<()> {
        self.start_worker_in(name, name, actions)
    }

    /// Starts a worker with a state folder of this name.
    pub(crate) fn start_worker_in(&mut self, name: &str, folder: &str, actions: &Path) -> anyhow::Result<()> {
        let state = self.sandbox.path().join(format!("state-{folder}"));
        let (state, capacity) = (state.to_str().context("UTF-8")?.to_owned(), self.capacity.to_string());
        let mut options = vec!["--capacity", &capacity, "--state-dir", &state, "--drain-timeout", "20s"];
        options.extend(self.lease.options());
        let actions = actions.to_str().context("UTF-8")?;
        let launch =
            Launch::new(folder, &["worker", "--name", name, "--amqp-url", &self.login("worker"), "--actions", actions]);
        let launch = launch.args(options.iter().copied());
        self.workers.push(with_clock(launch, self.worker_clock)?.start(&self.sandbox)?);
        Ok(())
    }

    /// The file with what this world's actions run.
    pub(crate) fn actions(&self) -> PathBuf {
        self.actions.clone()
    }

    /// Where a worker of that name leaves what is not recorded.
    pub(crate) fn legacy_of(&self, name: &str) -> PathBuf {
        self.sandbox.path().join(format!("state-{name}")).join(format!("{name}.unrecorded"))
    }

    /// Waits until an executor leads and every one passes on to it what only the leader knows.
    pub(crate) async fn ready(&mut self) -> anyhow::Result<()> {
        eventually("an executor leads", SOON, async || {
            for executor in &mut self.executors {
                ensure!(executor.is_running()?, "{} ended:\n{}", executor.name(), executor.log());
            }
            for executor in &self.executors {
                let workers = self.http.get(format!("{}/api/v1/workers", executor.api_url())).send().await?;
                ensure!(workers.status().is_success(), "{}: {}", executor.name(), workers.text().await?);
            }
            Ok(self.leader().await?.map(drop))
        })
        .await
    }

    /// Which of the executors leads.
    pub(crate) async fn leader(&self) -> anyhow::Result<Option<usize>> {
        for (index, executor) in self.executors.iter().enumerate() {
            let url = format!("{}/readyz?verbose", executor.api_url());
            let Ok(answer) = self.http.get(url).send().await else { continue };
            let ready = answer.status().is_success();
            let body: Value = answer.json().await?;
            if ready && body["data"]["role"] == "leader" {
                return Ok(Some(index));
            }
        }
        Ok(None)
    }

    /// Waits until the leader knows exactly `count` workers that are not draining.
    pub(crate) async fn workers_known(&self, count: usize) -> anyhow::Result<()> {
        eventually(&format!("{count} workers are known"), SOON, async || {
            let workers = self.get("/api/v1/workers").await?;
            let live = list(&workers)?.iter().filter(|worker| worker["draining"] == false).count();
            if live == count { Ok(Some(())) } else { bail!("{workers}") }
        })
        .await
    }

    /// Takes everything from the broker that it holds for this installation: queues, exchanges, messages. Only on a
    /// node of the test's own.
    pub(crate) async fn empty_the_broker(&self) -> anyhow::Result<()> {
        let Node::Own(rabbit) = &self.rabbit else { bail!("others use this node") };
        // In one call, each of which takes seconds on a busy machine: workers must not be isolated meanwhile.
        let vhost = self.vhost()?;
        rabbit.import(vhost, definitions(&self.sandbox, vhost).await?).await.map(drop)
    }

    /// Runs the command line with this installation's API.
    pub(crate) async fn slotline(&self, arguments: &[&str]) -> anyhow::Result<std::process::Output> {
        let url = self.executors.first().context("no executor")?.api_url();
        Launch::new("cli", arguments).env("SLOTLINE_API_URL", url).output(&self.sandbox).await
    }

    /// Starts a command that goes on by itself; its log is all that it prints.
    pub(crate) fn start_command(&self, name: &str, arguments: &[&str]) -> anyhow::Result<Daemon> {
        let url = self.executors.first().context("no executor")?.api_url();
        Launch::new(name, arguments).env("SLOTLINE_API_URL", url).start(&self.sandbox)
    }
}

/// Starts the program with a wall clock that is off by `offset`; its other clocks are right.
fn with_clock(launch: Launch, offset: Option<&'static str>) -> anyhow::Result<Launch> {
    let Some(offset) = offset else { return Ok(launch) };
    let libraries = std::fs::read_dir("/usr/lib")?.flatten().map(|folder| folder.path().join(FAKETIME));
    let library =
        libraries.filter(|path| path.exists()).max().context("Debian's libfaketime: `tests/run.sh` has it")?;
    let library = library.to_str().context("UTF-8")?;
    Ok(launch.env("LD_PRELOAD", library).env("FAKETIME", offset).env("FAKETIME_DONT_FAKE_MONOTONIC", "1"))
}
