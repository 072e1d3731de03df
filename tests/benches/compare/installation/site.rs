//! Where to install, and how that is done.

use anyhow::{Context as _, Result};
use slotline_broker::Broker;
use slotline_executor::{Api, Config};
use slotline_store::Store;
use slotline_tests::{Guarded, Port, Sandbox, eventually};
use tokio_util::sync::CancellationToken;

use super::{Executor, Installation, PATIENCE, http};
use crate::PREFIX;
use crate::cpu::Meter;
use crate::figure::{EMBEDDED, Floors, OURS};
use crate::limits::{self, Round};
use crate::program;
use crate::scale::Scale;
use crate::servers::{self, Servers, connect};

/// Where to install.
#[derive(Clone, Copy)]
pub(crate) enum Site<'s> {
    Servers(&'s Servers),
    Embedded,
}

impl Site<'_> {
    pub(crate) fn system(self) -> &'static str {
        match self {
            Self::Servers(_) => OURS,
            Self::Embedded => EMBEDDED,
        }
    }

    /// The floors of these rounds as of now; none without servers.
    pub(crate) async fn floors(self, rounds: &[Round], scale: &Scale) -> Result<Floors> {
        match self {
            Self::Servers(servers) => limits::floors(servers, rounds, scale).await,
            Self::Embedded => Ok(Floors::new()),
        }
    }

    /// Returns once it leads.
    pub(crate) async fn install(self) -> Result<Installation> {
        let installation = match self {
            Self::Servers(servers) => Box::pin(on_servers(servers)).await?,
            Self::Embedded => Box::pin(embedded()).await?,
        };
        installation.leads().await?;
        Ok(installation)
    }
}

async fn on_servers(servers: &Servers) -> Result<Installation> {
    let (amqp, database) = tokio::try_join!(servers.rabbit.fresh_vhost(), servers.postgres.fresh_database("compare"))?;
    let sandbox = Sandbox::new("compare")?;
    let port = Port::claim()?;
    let process = Box::new(start_executor(&sandbox, &database, &amqp, &port)?);
    let meter = servers.meter.clone().alone("executor", process.pid().as_raw());
    let meter = meter.alone("publisher", std::process::id().cast_signed());
    let broker = Broker::rabbit(&amqp, PREFIX)?;
    let api = url(&port);
    let http = http()?;
    // It makes the schema at its start.
    eventually("the executor answers", PATIENCE, async || {
        Ok(http.get(format!("{api}/readyz")).send().await?.status().is_success().then_some(()))
    })
    .await
    .with_context(|| process.log())?;
    if servers.has_subscriber {
        servers::subscribe(&amqp).await?;
    }
    Ok(Installation {
        system: OURS,
        session: broker.open("compare").await?,
        broker,
        amqp,
        http,
        api,
        store: Store::open(&database).await?,
        executor: Executor::Process { process, port },
        meter,
        sandbox,
        journal: Some(connect(&database).await?),
        database,
    })
}

async fn embedded() -> Result<Installation> {
    let sandbox = Sandbox::new("compare")?;
    let database = format!("sqlite:{}", sandbox.path().join("journal.db").display());
    let store = Store::open(&database).await?;
    store.migrate().await?;
    let broker = Broker::memory(PREFIX);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let api = format!("http://{}", listener.local_addr()?);
    let shutdown = CancellationToken::new();
    let served = Some(Api { listener, tokens: Default::default(), page: None });
    let running = slotline_executor::run(Config::default(), store.clone(), broker.clone(), served, shutdown.clone());
    Ok(Installation {
        system: EMBEDDED,
        session: broker.open("compare").await?,
        broker,
        amqp: String::new(),
        http: http()?,
        api,
        store,
        executor: Executor::Task { running: tokio::spawn(running), shutdown },
        meter: Meter::default().alone("all of it", std::process::id().cast_signed()),
        sandbox,
        journal: None,
        database,
    })
}

pub(super) fn start_executor(sandbox: &Sandbox, database: &str, amqp: &str, port: &Port) -> Result<Guarded> {
    let listen = format!("127.0.0.1:{}", port.number());
    let arguments = ["executor", "--database-url", database, "--amqp-url", amqp, "--listen", &listen];
    program::start(sandbox, "executor", &arguments)
}

fn url(port: &Port) -> String {
    format!("http://127.0.0.1:{}", port.number())
}
