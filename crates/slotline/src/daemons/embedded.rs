//! Everything in one process: the journal in a file, the broker in memory, an executor, a worker, the API.
//!
//! The parts are the real ones and talk as they do on a network. What is lost with the process is what RabbitMQ would
//! keep: requests between the publisher's confirm and the journal, of which an embedded broker confirms none early.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow};
use slotline_api::Tokens;
use slotline_broker::Broker;
use slotline_executor::{Api, Config};
use slotline_store::Store;
use slotline_worker::{Shutdown, Worker};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::client::{self, Client};
use crate::commands::apply;
use crate::daemons::host;
use crate::journal::{self, Opening};
use crate::settings::actions::DeclaredAction;
use crate::settings::{self, DEFAULT_PREFIX};

/// How long the executor may take to lead.
const LEAD_WITHIN: Duration = Duration::from_secs(30);
/// Time between two tries to reach it until then.
const TRY_AGAIN: Duration = Duration::from_millis(20);
/// The reason in the audit for declaring the actions of the file.
const AT_START: &str = "declared at the start";
/// How long running attempts may take to end at shutdown.
const DRAIN_WITHIN: Duration = Duration::from_secs(5);

/// What to start.
pub(crate) struct EmbeddedPlan {
    /// Folder of the journal, made if missing.
    pub(crate) data: PathBuf,
    pub(crate) actions: Vec<DeclaredAction>,
    pub(crate) listen: SocketAddr,
    pub(crate) tokens: Tokens,
    pub(crate) capacity: u32,
    /// Where the files of the page are read from; `None`: they are part of the program.
    pub(crate) page: Option<PathBuf>,
}

/// A whole installation.
pub(crate) struct Embedded {
    pub(crate) client: Client,
    pub(crate) url: String,
    pub(crate) store: Store,
    executor: JoinHandle<anyhow::Result<()>>,
    worker: JoinHandle<anyhow::Result<()>>,
    stop_executor: CancellationToken,
    stop_worker: Shutdown,
    /// Held for as long as the journal is open.
    _lock: File,
}

impl Embedded {
    /// Returns once the actions can be used.
    pub(crate) async fn start(plan: EmbeddedPlan) -> anyhow::Result<Self> {
        let lock = lock(&plan.data)?;
        let listener = slotline_api::listen(plan.listen, &plan.tokens).await?;
        let url = format!("http://{}", reachable(listener.local_addr()?));
        let client = Client::new(&url, plan.tokens.first().cloned())?;
        let store = journal::open(&database_url(&plan.data.join("slotline.db"))?, Opening::MIGRATING).await?;
        let broker = Broker::memory(DEFAULT_PREFIX);

        let stop_executor = CancellationToken::new();
        let config = Config { name: host::name(), ..Config::default() };
        let api = Api { listener, tokens: plan.tokens, page: plan.page };
        let executing = slotline_executor::run(config, store.clone(), broker.clone(), Some(api), stop_executor.clone());
        let executor = tokio::spawn(async move { Ok(executing.await?) });

        let mut builder = Worker::builder(host::name()).capacity(plan.capacity).drain_timeout(DRAIN_WITHIN);
        for action in &plan.actions {
            if let Some(run) = &action.run {
                builder = run.clone().serve(builder, &action.action_ref);
            }
        }
        let built = builder.build()?;
        let stop_worker = Shutdown::new();
        let stop = stop_worker.clone();
        let worker = tokio::spawn(async move { Ok(built.run(broker, stop).await?) });

        let mut embedded = Self { client, url, store, executor, worker, stop_executor, stop_worker, _lock: lock };
        let registered = tokio::select! {
            registered = register(&embedded.client, &plan.actions) => registered,
            ended = ended(&mut embedded.executor, &mut embedded.worker) => Err(ended),
        };
        match registered {
            Ok(()) => Ok(embedded),
            Err(error) => Err(error.context("the embedded executor did not start")),
        }
    }

    /// Waits until the executor or the worker ends by itself, which is an error.
    pub(crate) async fn ended(&mut self) -> anyhow::Result<()> {
        Err(ended(&mut self.executor, &mut self.worker).await)
    }

    /// Ends the worker first, while the executor still records what it reports, then the executor.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        self.stop_worker.drain();
        self.worker.await.context("the worker panicked")??;
        self.stop_executor.cancel();
        self.executor.await.context("the executor panicked")??;
        self.store.close().await;
        Ok(())
    }
}

async fn ended(
    executor: &mut JoinHandle<anyhow::Result<()>>,
    worker: &mut JoinHandle<anyhow::Result<()>>,
) -> anyhow::Error {
    let (name, ended) = tokio::select! {
        ended = executor => ("executor", ended),
        ended = worker => ("worker", ended),
    };
    match ended {
        Ok(Ok(())) => anyhow!("the {name} ended unasked"),
        Ok(Err(error)) => error.context(format!("the {name} ended")),
        Err(panic) => anyhow!(panic).context(format!("the {name} panicked")),
    }
}

/// Declares the actions as soon as the executor leads.
async fn register(client: &Client, actions: &[DeclaredAction]) -> anyhow::Result<()> {
    let deadline = Instant::now() + LEAD_WITHIN;
    loop {
        match apply::send(client, actions, false, Some(AT_START.to_owned())).await {
            Ok(_) => return Ok(()),
            Err(error) if is_early(&error) && Instant::now() < deadline => tokio::time::sleep(TRY_AGAIN).await,
            Err(error) => return Err(error.into()),
        }
    }
}

fn is_early(error: &client::Error) -> bool {
    error.is_passing()
}

/// One process for each folder: the broker is in memory, so a second executor could not exchange messages with the first.
fn lock(data: &Path) -> anyhow::Result<File> {
    let unusable = |what: &str, path: &Path, error: std::io::Error| {
        settings::Error::Invalid(format!("can't {what} {}: {error}; name another folder with --data", path.display()))
    };
    let made = DirBuilder::new().recursive(true).mode(0o700).create(data);
    made.map_err(|error| unusable("make the folder", data, error))?;
    let path = data.join("lock");
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = file.map_err(|error| unusable("write", &path, error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            let data = data.display();
            let message = format!("another slotline works in {data}: stop it, or name another folder with --data");
            Err(settings::Error::Invalid(message).into())
        }
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("can't lock {}", path.display())),
    }
}

/// `sqlite:` URLs are percent-encoded.
fn database_url(path: &Path) -> anyhow::Result<String> {
    let path = std::path::absolute(path)?;
    let path = path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))?;
    Ok(format!("sqlite:{}", path.replace('%', "%25").replace('?', "%3F").replace('#', "%23")))
}

/// How this machine reaches a server that listens on `address`.
fn reachable(address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        let loopback = match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        };
        return SocketAddr::new(loopback, address.port());
    }
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_do_not_work_in_one_folder() {
        let folder = tempfile::tempdir().expect("a folder");
        let held = lock(folder.path()).expect("the first");
        let error = lock(folder.path()).expect_err("the second").to_string();
        assert!(error.contains("another slotline works in") && error.contains("--data"), "{error}");
        drop(held);
        lock(folder.path()).expect("the next");
    }

    #[test]
    fn any_folder_can_hold_the_journal() {
        let url = database_url(Path::new("/a b/100%/what?/#1/x.db")).expect("UTF-8");
        assert_eq!(url, "sqlite:/a b/100%25/what%3F/%231/x.db");
    }
}
