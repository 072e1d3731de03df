//! How an installation is set up.

use anyhow::{Context, ensure};
use serde_json::Value;
use slotline_tests::{Launch, Postgres, Proxy, Rabbit, RabbitCluster, Sandbox, Stamps, fresh_vhost_name};

use super::{Node, World, http};
use crate::actions::{self, Action};
use crate::follower::Addresses;

/// The lease of a worker.
#[derive(Clone, Copy)]
pub(super) enum Lease {
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
    pub(super) fn options(self) -> &'static [&'static str] {
        match self {
            Self::Short => &["--lease", "8s", "--fence", "5s", "--heartbeat", "500ms"],
            Self::Middle => &["--lease", "50s", "--fence", "45s", "--heartbeat", "500ms"],
            Self::Default => &[],
            Self::Long => &["--lease", "10m", "--fence", "8m"],
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
pub(super) async fn definitions(sandbox: &Sandbox, vhost: &str) -> anyhow::Result<Value> {
    let mut launch = Launch::new("definitions", &["rabbitmq", "definitions", "--vhost", vhost]);
    for role in ["EXECUTOR", "WORKER", "PUBLISHER", "READER"] {
        launch = launch.env(&format!("SLOTLINE_PASSWORD_{role}"), "secret");
    }
    let printed = launch.output(sandbox).await?;
    ensure!(printed.status.success(), "{printed:?}");
    Ok(serde_json::from_slice(&printed.stdout)?)
}

impl World {
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
}
