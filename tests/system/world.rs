//! One installation of Slotline for one test: servers, executors, workers, actions, and ways to look at all of it.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use reqwest::header::{HeaderName, HeaderValue};
use serde_json::Value;
use slotline_broker::{Broker, crash, topology};
use slotline_tests::{
    Daemon, Launch, Postgres, Proxy, Rabbit, RabbitCluster, Sandbox, Stamps, eventually, fresh_vhost_name,
};

use crate::actions::{self, Action};
use crate::follower::Addresses;
use crate::listener::Subscriber;
use crate::message::Message;

/// The system's Python, for which the system's packages provide pika.
pub(crate) const PYTHON: &str = "/usr/bin/python3";
/// What all names on the broker start with.
const PREFIX: &str = "slotline";
const PUBLISHER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/system/publish.py");

/// Below the folder of the architecture.
const FAKETIME: &str = "faketime/libfaketimeMT.so.1";

/// For what takes moments on a quiet machine. Generous, since only a failing test waits that long.
pub(crate) const SOON: Duration = Duration::from_secs(60);
/// For a whole run of hundreds of processes on a small machine.
pub(crate) const LATER: Duration = Duration::from_secs(240);

/// The lease of a worker.
#[derive(Clone, Copy)]
enum Lease {
    /// Short enough to wait for its end.
    Short,
    /// For tests that wait for its end, and take a server away meanwhile for as long as that takes on a busy machine.
    Middle,
    /// As by default, for tests in which no worker is silent.
    Default,
    /// For tests that restart a server: nothing is lost, however long that takes.
    Long,
}

impl Lease {
    fn options(self) -> &'static [&'static str] {
        match self {
            Self::Short => &["--lease", "8s", "--fence", "5s", "--heartbeat", "500ms"],
            Self::Middle => &["--lease", "50s", "--fence", "45s", "--heartbeat", "500ms"],
            Self::Default => &[],
            Self::Long => &["--lease", "10m", "--fence", "8m"],
        }
    }
}

/// A server that tests share, or one of the test's own that it may hurt.
pub(crate) enum Node<T: 'static> {
    Shared(&'static T),
    Own(Box<T>),
}

impl<T> Deref for Node<T> {
    type Target = T;

    fn deref(&self) -> &T {
        match self {
            Self::Shared(node) => node,
            Self::Own(node) => node,
        }
    }
}

pub(crate) struct Builder {
    actions: Vec<Action>,
    own_rabbit: bool,
    /// What RabbitMQ takes in one message, where it is less than by default.
    message_bytes_max: Option<usize>,
    /// Nodes of RabbitMQ, where more than one.
    cluster: usize,
    own_postgres: bool,
    journal_link: bool,
    broker_links: bool,
    executor_clocks: Vec<&'static str>,
    worker_clock: Option<&'static str>,
    executors: usize,
    workers: usize,
    capacity: usize,
    lease: Lease,
}

/// Ends, daemons before servers, on drop.
pub(crate) struct World {
    pub(crate) workers: Vec<Daemon>,
    pub(crate) executors: Vec<Daemon>,
    pub(crate) rabbit: Node<Rabbit>,
    /// Further nodes of the same cluster.
    #[allow(dead_code, reason = "only the tests of a cluster, which share this file, have several")]
    others: Vec<Rabbit>,
    pub(crate) postgres: Node<Postgres>,
    pub(crate) stamps: Stamps,
    /// Between executors and database, where the test asked for it.
    pub(crate) journal_link: Option<Proxy>,
    /// Between each executor and the broker, in their order, where the test asked for them.
    pub(crate) broker_links: Vec<Proxy>,
    has_broker_links: bool,
    executor_clocks: Vec<&'static str>,
    worker_clock: Option<&'static str>,
    sandbox: Sandbox,
    /// Straight to the server.
    database: String,
    /// For the user that may do everything: used by the tests only, not by the installation.
    amqp: String,
    actions: PathBuf,
    gates: PathBuf,
    addresses: Addresses,
    capacity: usize,
    lease: Lease,
    http: reqwest::Client,
}

impl Builder {
    pub(crate) fn own_rabbit(mut self) -> Self {
        self.own_rabbit = true;
        self
    }

    /// RabbitMQ takes no more bytes in one message.
    pub(crate) fn messages_up_to(mut self, bytes: usize) -> Self {
        (self.own_rabbit, self.message_bytes_max) = (true, Some(bytes));
        self
    }

    /// RabbitMQ as so many nodes of the test's own.
    #[allow(dead_code, reason = "only the tests of a cluster, which share this file, have several")]
    pub(crate) fn cluster(mut self, nodes: usize) -> Self {
        self.cluster = nodes;
        self
    }

    pub(crate) fn own_postgres(mut self) -> Self {
        self.own_postgres = true;
        self
    }

    /// Executors reach the database by way of a proxy.
    pub(crate) fn journal_link(mut self) -> Self {
        self.journal_link = true;
        self
    }

    /// Each executor reaches the broker by way of a proxy of its own.
    pub(crate) fn broker_links(mut self) -> Self {
        self.broker_links = true;
        self
    }

    /// How far off the wall clocks of the executors' hosts are, in their order, such as `-2h`; those beyond are right.
    pub(crate) fn executor_clocks(mut self, offsets: &[&'static str]) -> Self {
        self.executor_clocks = offsets.to_vec();
        self
    }

    /// How far off the wall clock of the workers' host is.
    pub(crate) fn worker_clock(mut self, offset: &'static str) -> Self {
        self.worker_clock = Some(offset);
        self
    }

    /// 1 by default.
    pub(crate) fn executors(mut self, count: usize) -> Self {
        self.executors = count;
        self
    }

    /// 1 by default, each of `capacity`.
    pub(crate) fn workers(mut self, count: usize, capacity: usize) -> Self {
        (self.workers, self.capacity) = (count, capacity);
        self
    }

    pub(crate) fn short_lease(mut self) -> Self {
        self.lease = Lease::Short;
        self
    }

    pub(crate) fn middle_lease(mut self) -> Self {
        self.lease = Lease::Middle;
        self
    }

    pub(crate) fn long_lease(mut self) -> Self {
        self.lease = Lease::Long;
        self
    }

    /// Starts everything; the actions are applied and the workers known when this returns.
    pub(crate) async fn start(self) -> anyhow::Result<World> {
        let sandbox = Sandbox::new("world")?;
        let (rabbit, others, amqp) = self.rabbit(&sandbox).await?;
        let postgres = match self.own_postgres {
            true => Node::Own(Box::new(Postgres::start().await?)),
            false => Node::Shared(Postgres::shared().await?),
        };
        let stamps = Stamps::at(sandbox.path().join("stamps"));
        let actions = sandbox.path().join("actions.toml");
        let gates = sandbox.path().join("gates");
        std::fs::create_dir(&gates)?;
        std::fs::write(&actions, actions::file(&self.actions, stamps.path(), &gates))?;
        let journal_link = self.journal_link.then(|| Proxy::start(postgres.port())).transpose()?;
        let mut world = World {
            journal_link,
            broker_links: Vec::new(),
            has_broker_links: self.broker_links,
            executor_clocks: self.executor_clocks,
            worker_clock: self.worker_clock,
            workers: Vec::new(),
            executors: Vec::new(),
            database: postgres.fresh_database("slotline").await?,
            amqp,
            rabbit,
            others,
            postgres,
            stamps,
            sandbox,
            actions,
            gates,
            addresses: Addresses::default(),
            capacity: self.capacity,
            lease: self.lease,
            http: http()?,
        };
        for _ in 0..self.executors {
            world.start_executor()?;
        }
        world.ready().await?;
        if !self.actions.is_empty() {
            let applied = world.slotline(&["apply", world.actions.to_str().context("UTF-8")?]).await?;
            ensure!(applied.status.success(), "apply: {applied:?}");
        }
        for number in 0..self.workers {
            world.start_worker(&format!("worker-{number}"))?;
        }
        world.workers_known(self.workers).await?;
        Ok(world)
    }
}

impl Builder {
    /// The node, further ones, and where to connect.
    async fn rabbit(&self, sandbox: &Sandbox) -> anyhow::Result<(Node<Rabbit>, Vec<Rabbit>, String)> {
        let vhost = fresh_vhost_name();
        let definitions = definitions(sandbox, &vhost).await?;
        if self.cluster > 1 {
            let mut nodes = RabbitCluster::start(self.cluster).await?.nodes;
            nodes[0].import(&vhost, definitions).await?;
            let amqp: Vec<String> = nodes.iter().map(|node| node.vhost_url(&vhost)).collect();
            let others = nodes.split_off(1);
            let first = nodes.pop().context("a cluster has nodes")?;
            return Ok((Node::Own(Box::new(first)), others, amqp.join(",")));
        }
        let rabbit = match self.own_rabbit {
            true => Node::Own(Box::new(Rabbit::start().await?)),
            false => Node::Shared(Rabbit::shared().await?),
        };
        if let Some(bytes) = self.message_bytes_max {
            let set = format!("application:set_env(rabbit, max_message_size, {bytes}).");
            rabbit.ctl(&["eval", &set]).await?;
        }
        let amqp = rabbit.import(&vhost, definitions).await?;
        Ok((rabbit, Vec::new(), amqp))
    }
}

/// What `slotline rabbitmq definitions` prints: each role a user of its own, with least rights and a password.
async fn definitions(sandbox: &Sandbox, vhost: &str) -> anyhow::Result<Value> {
    let mut launch = Launch::new("definitions", &["rabbitmq", "definitions", "--vhost", vhost]);
    for role in ["EXECUTOR", "WORKER", "PUBLISHER", "READER"] {
        launch = launch.env(&format!("SLOTLINE_PASSWORD_{role}"), "secret");
    }
    let printed = launch.output(sandbox).await?;
    ensure!(printed.status.success(), "{printed:?}");
    Ok(serde_json::from_slice(&printed.stdout)?)
}

impl World {
    /// One of the nodes of RabbitMQ.
    #[allow(dead_code, reason = "only the tests of a cluster, which share this file, have several")]
    pub(crate) fn node(&self, index: usize) -> &Rabbit {
        match index.checked_sub(1) {
            None => &self.rabbit,
            Some(other) => &self.others[other],
        }
    }

    pub(crate) fn with(actions: impl IntoIterator<Item = Action>) -> Builder {
        Builder {
            actions: actions.into_iter().collect(),
            own_rabbit: false,
            message_bytes_max: None,
            cluster: 1,
            own_postgres: false,
            journal_link: false,
            broker_links: false,
            executor_clocks: Vec::new(),
            worker_clock: None,
            executors: 1,
            workers: 1,
            capacity: 4,
            lease: Lease::Default,
        }
    }

    // ---- users of the broker ----

    /// The URL with which a process of this role logs in.
    pub(crate) fn login(&self, role: &str) -> String {
        self.amqp.replace("guest:guest", &format!("slotline-{role}:secret"))
    }

    // ---- daemons ----

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

    // ---- runs that report ----

    /// Lets runs go on that wait for the gate of this name.
    pub(crate) fn open(&self, gate: &str) -> anyhow::Result<()> {
        Ok(std::fs::write(self.gates.join(gate), "")?)
    }

    /// Where the gate of this name is, for commands that wait for it by themselves.
    pub(crate) fn gate(&self, gate: &str) -> PathBuf {
        self.gates.join(gate)
    }

    /// Where the executors of this world listen.
    pub(crate) fn addresses(&self) -> Addresses {
        self.addresses.set(self.executors.iter().map(Daemon::api_url).collect());
        self.addresses.clone()
    }

    /// Receives all progress and statuses that are published from now on.
    pub(crate) async fn subscribe(&self) -> anyhow::Result<Subscriber> {
        Subscriber::start(&self.login("reader"), &["execution.progress.#", "execution.status_changed.#"]).await
    }

    /// A page of an execution's events, as `query` asks for it: the whole answer.
    pub(crate) async fn page(&self, id: i64, query: &str) -> anyhow::Result<Value> {
        let (status, page) = self.call("GET", &format!("/api/v1/executions/{id}/events?{query}"), None).await?;
        ensure!(status == 200, "{query}: {status} {page}");
        Ok(page)
    }

    /// The events of an execution so far.
    pub(crate) async fn events(&self, id: i64) -> anyhow::Result<Vec<Value>> {
        let (mut all, mut after) = (Vec::new(), Value::from(0));
        loop {
            let mut page = self.page(id, &format!("limit=1000&after={after}")).await?;
            let events = list(&page["data"])?;
            if events.is_empty() {
                return Ok(all);
            }
            all.extend_from_slice(events);
            after = page["next_after"].take();
        }
    }

    /// The events of an execution once it has settled.
    pub(crate) async fn whole_record(&self, id: i64) -> anyhow::Result<Vec<Value>> {
        eventually(&format!("the record of execution {id} has its end"), LATER, async || {
            let events = self.events(id).await?;
            let is_over = events.last().is_some_and(|event| event["kind"] == "settled");
            if is_over { Ok(Some(events)) } else { bail!("{} events, the last {:?}", events.len(), events.last()) }
        })
        .await
    }

    // ---- the servers ----

    /// Runs SQL in this installation's database.
    pub(crate) async fn sql(&self, sql: &str) -> anyhow::Result<String> {
        self.postgres.psql_in(&self.database, sql).await
    }

    /// What the journal holds, for [`World::restore`].
    pub(crate) async fn dump(&self) -> anyhow::Result<String> {
        self.postgres.dump(&self.database).await
    }

    /// Puts the journal back to what it was.
    pub(crate) async fn restore(&self, dump: &str) -> anyhow::Result<()> {
        self.postgres.restore(&self.database, dump).await
    }

    /// Starts an executor on a copy of the journal as it was, beside the others.
    pub(crate) async fn start_executor_on_copy(&mut self, dump: &str) -> anyhow::Result<()> {
        let copy = self.postgres.fresh_database("copy").await?;
        self.postgres.restore(&copy, dump).await?;
        let name = format!("executor-{}", self.executors.len());
        self.executors.push(Daemon::executor(
            &self.sandbox,
            &name,
            &copy,
            &self.login("executor"),
            self.lease.options(),
        )?);
        Ok(())
    }

    /// The verdict of `slotline verify`.
    pub(crate) async fn verified(&self) -> anyhow::Result<String> {
        let output = Launch::new("verify", &["verify", "--database-url", &self.database]).output(&self.sandbox).await?;
        ensure!(output.status.success(), "verify: {output:?}");
        Ok(String::from_utf8(output.stdout)?)
    }

    /// The same for programs, whatever the verdict is.
    pub(crate) async fn verified_json(&self) -> anyhow::Result<Value> {
        let arguments = ["verify", "--database-url", &self.database, "--output", "json"];
        let output = Launch::new("verify", &arguments).output(&self.sandbox).await?;
        serde_json::from_slice(&output.stdout).with_context(|| format!("verify: {output:?}"))
    }

    /// Waits for a mark on the broker by which the next execution of the journal is this one, or a later one.
    pub(crate) async fn marked(&self, next: i64) -> anyhow::Result<()> {
        let session = Broker::rabbit(&self.amqp, PREFIX)?.open("the test").await?;
        let marked = eventually(&format!("a mark tells of what is before execution {next}"), SOON, async || {
            let browser = session.browse(&topology::marks_queue(PREFIX), topology::MARKS_MAX as usize).await?;
            let mut newest = 0;
            for delivery in &browser.deliveries {
                let mark: Value = serde_json::from_slice(&delivery.body)?;
                newest = newest.max(mark["next"]["execution"].as_i64().unwrap_or_default());
            }
            browser.close().await?;
            if newest >= next { Ok(Some(())) } else { bail!("the next is {newest}") }
        })
        .await;
        session.close().await;
        marked
    }

    /// The answer of one executor alone.
    pub(crate) async fn health_of(&self, index: usize) -> anyhow::Result<(u16, String)> {
        let url = format!("{}/readyz?verbose", self.executors[index].api_url());
        let answer = self.http.get(url).send().await?;
        Ok((answer.status().as_u16(), answer.text().await?))
    }

    /// How many requests the broker still holds, taken by an executor or not.
    pub(crate) async fn requests_held(&self) -> anyhow::Result<usize> {
        let vhost = self.vhost()?;
        let list = ["list_queues", "--silent", "--no-table-headers", "--vhost", vhost, "name", "messages"];
        let listed = self.rabbit.ctl(&list).await?.stdout;
        let line = listed.lines().find_map(|line| line.strip_prefix("slotline.requests")).context("no such queue")?;
        Ok(line.trim().parse()?)
    }

    /// The virtual host on RabbitMQ.
    pub(crate) fn vhost(&self) -> anyhow::Result<&str> {
        self.amqp.rsplit('/').next().context("the URL names a virtual host")
    }

    /// How many messages grow old in the leader's canary queue.
    pub(crate) async fn canaries(&self) -> anyhow::Result<u64> {
        let session = Broker::rabbit(&self.amqp, PREFIX)?.open("the test").await?;
        let aged = session.depth(&format!("{PREFIX}.canary.aging")).await;
        session.close().await;
        Ok(aged?)
    }

    /// How many requests wait for an executor to take them. Asked over AMQP: the command line takes seconds, and shows
    /// what was seconds ago.
    pub(crate) async fn requests_waiting(&self) -> anyhow::Result<u64> {
        let session = Broker::rabbit(&self.amqp, PREFIX)?.open("the test").await?;
        let waiting = session.depth(&topology::requests_queue(PREFIX)).await;
        session.close().await;
        Ok(waiting?)
    }

    // ---- what publishers do ----

    /// Publishes in order through a foreign client; all are confirmed when this returns.
    pub(crate) async fn publish(&self, messages: &[Message]) -> anyhow::Result<()> {
        self.publisher(messages, 0)?.await.map(drop)
    }

    /// Publishes with a `reply_to`, and gives the `count` answers that come.
    pub(crate) async fn publish_for_replies(&self, messages: &[Message], count: usize) -> anyhow::Result<Vec<Value>> {
        let said = self.publisher(messages, count)?.await?;
        said.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    }

    /// The running publisher, to be awaited while other things happen.
    pub(crate) fn publisher(
        &self,
        messages: &[Message],
        replies: usize,
    ) -> anyhow::Result<impl Future<Output = anyhow::Result<String>> + use<>> {
        let mut lines = tempfile::tempfile()?;
        for message in messages {
            std::io::Write::write_all(&mut lines, message.line().as_bytes())?;
        }
        std::io::Seek::rewind(&mut lines)?;
        let mut command = Command::new(PYTHON);
        command.args([PUBLISHER, &self.login("publisher")]).stdin(lines).stdout(Stdio::piped()).stderr(Stdio::piped());
        if replies > 0 {
            command.args(["--replies", &replies.to_string()]);
        }
        let task = tokio::task::spawn_blocking(move || command.output());
        Ok(async move {
            let output = task.await?.with_context(|| format!("{PYTHON}, with Debian's python3-pika"))?;
            let (said, wrong) = (String::from_utf8(output.stdout)?, String::from_utf8_lossy(&output.stderr));
            ensure!(output.status.success(), "the publisher: {}\n{said}{wrong}", output.status);
            Ok(said)
        })
    }

    // ---- HTTP ----

    /// The status and body of the first executor that answers.
    pub(crate) async fn call(&self, method: &str, path: &str, body: Option<Value>) -> anyhow::Result<(u16, Value)> {
        let mut failure = None;
        for executor in &self.executors {
            let mut request = self.http.request(method.parse()?, format!("{}{path}", executor.api_url()));
            if let Some(body) = &body {
                request = request.json(body);
            }
            match request.send().await {
                Ok(answer) => {
                    let status = answer.status().as_u16();
                    let text = answer.text().await?;
                    let body = if text.is_empty() { Value::Null } else { serde_json::from_str(&text).context(text)? };
                    return Ok((status, body));
                }
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.map_or_else(|| anyhow::anyhow!("no executor"), Into::into)).context(format!("{method} {path}"))
    }

    /// The `data` of an answer that must be a success.
    pub(crate) async fn ask(&self, method: &str, path: &str, body: Option<Value>) -> anyhow::Result<Value> {
        let (status, mut answer) = self.call(method, path, body).await?;
        ensure!((200..300).contains(&status), "{method} {path}: {status} {answer}");
        Ok(answer["data"].take())
    }

    pub(crate) async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.ask("GET", path, None).await
    }

    /// Submits over HTTP; the id of the accepted execution.
    pub(crate) async fn submit(&self, action_ref: &str, parameters: Value) -> anyhow::Result<i64> {
        self.submit_body(serde_json::json!({"action_ref": action_ref, "parameters": parameters})).await
    }

    /// Submits a run of steps that reports each unit it has done.
    pub(crate) async fn submit_detailed(&self, action_ref: &str, parameters: Value) -> anyhow::Result<i64> {
        let detail = serde_json::json!({"update_step": 1});
        let body = serde_json::json!({"action_ref": action_ref, "parameters": parameters, "progress": detail});
        self.submit_body(body).await
    }

    async fn submit_body(&self, body: Value) -> anyhow::Result<i64> {
        let (status, answer) = self.call("POST", "/api/v1/executions", Some(body)).await?;
        ensure!(status == 201, "{status} {answer}");
        answer["data"]["execution_id"].as_i64().with_context(|| format!("an id: {answer}"))
    }

    pub(crate) async fn execution(&self, id: i64) -> anyhow::Result<Value> {
        self.get(&format!("/api/v1/executions/{id}")).await
    }

    /// Waits until an execution has the status, which it must not pass by.
    pub(crate) async fn reaches(&self, id: i64, status: &str) -> anyhow::Result<Value> {
        eventually(&format!("execution {id} is {status}"), SOON, async || {
            let execution = self.execution(id).await?;
            if execution["status"] == status { Ok(Some(execution)) } else { bail!("{execution}") }
        })
        .await
    }

    pub(crate) async fn stats(&self, action_ref: &str) -> anyhow::Result<Value> {
        self.get(&format!("/api/v1/actions/{action_ref}/queue-stats")).await
    }

    /// Waits until `count` executions of the action have ended and none waits or runs.
    pub(crate) async fn settled(&self, action_ref: &str, count: usize, deadline: Duration) -> anyhow::Result<()> {
        eventually(&format!("{count} executions of {action_ref} settle"), deadline, async || {
            let stats = self.stats(action_ref).await?;
            let idle = stats["queue_length"] == 0 && stats["active_count"] == 0;
            if idle && stats["total_completed"] == count { Ok(Some(())) } else { bail!("{stats}") }
        })
        .await
    }

    /// Every execution of the action, in order of ids.
    pub(crate) async fn executions(&self, action_ref: &str) -> anyhow::Result<Vec<Value>> {
        let (mut all, mut cursor) = (Vec::new(), String::new());
        loop {
            let path = format!("/api/v1/executions?action={action_ref}&limit=500{cursor}");
            let (status, page) = self.call("GET", &path, None).await?;
            ensure!(status == 200, "{path}: {status} {page}");
            all.extend_from_slice(list(&page["data"])?);
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        all.sort_by_key(|execution| execution["execution_id"].as_i64());
        Ok(all)
    }

    /// The dead letters, with their bodies left out.
    pub(crate) async fn dead(&self) -> anyhow::Result<Vec<Value>> {
        Ok(list(&self.get("/api/v1/dead").await?)?.clone())
    }

    // ---- judgement ----

    /// Checks a finished run of a line against the contract: every tag ran to its end, once, in order, never more than
    /// `limit` at once, and so it is in the journal.
    pub(crate) async fn check_line(&self, action_ref: &str, tags: &[String], limit: usize) -> anyhow::Result<()> {
        let stamps = self.stamps.read()?;
        slotline_tests::check_line(&stamps, tags, limit)?;
        let journal = self.executions(action_ref).await?;
        let recorded: Vec<&str> = journal.iter().filter_map(|e| e["parameters"]["tag"].as_str()).collect();
        ensure!(recorded == tags, "the journal has {recorded:?}");
        for execution in &journal {
            // A grant that was handed back before it began leaves nothing but its number.
            let is_told = execution["earlier_attempts"].as_array().is_none_or(Vec::is_empty);
            ensure!(execution["status"] == "completed" && is_told, "{execution}");
            ensure!(execution["result"]["tag"] == execution["parameters"]["tag"], "{execution}");
        }
        let stats = self.stats(action_ref).await?;
        let idle = stats["queue_length"] == 0 && stats["active_count"] == 0;
        ensure!(idle && stats["total_completed"] == tags.len(), "{stats}");
        Ok(())
    }
}

pub(crate) fn list(value: &Value) -> anyhow::Result<&Vec<Value>> {
    value.as_array().with_context(|| format!("a list: {value}"))
}

/// A client with a deadline. It needs a TLS provider to start, though it uses no TLS here.
pub(crate) fn http() -> reqwest::Result<reqwest::Client> {
    // Only the first call of a process installs it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    // A change without a body needs the header.
    let headers = [(HeaderName::from_static("x-slotline"), HeaderValue::from_static("test"))];
    reqwest::Client::builder().timeout(SOON).default_headers(headers.into_iter().collect()).build()
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
