//! Workers with handlers of this program: each a process of its own, or, embedded, a task of this one.
//!
//! A worker's process is this same program with the argument [`ROLE`]. Its stamps stay in memory while it works and are
//! written when it ends.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use slotline_broker::Broker;
use slotline_tests::{Guarded, Sandbox, Signal, now_ns};
use slotline_worker::{Context, HandlerError, Shutdown, Worker};
use tokio::task::JoinHandle;

use crate::PREFIX;
use crate::cpu::Meter;
use crate::stamps::{self, Stamp};

/// The argument that makes this program a worker.
pub(crate) const ROLE: &str = "be-a-worker";
/// How long a worker may take to end once nothing runs any more.
const END_WITHIN: Duration = Duration::from_secs(60);
/// Stamps that a worker has room for without asking for memory again.
const STAMPS_EXPECTED: usize = 300_000;

/// Running workers, and the meter of their processor time and that of the executor.
pub(crate) struct Workers {
    pub(crate) workers: Vec<BenchWorker>,
    pub(crate) meter: Meter,
}

impl Workers {
    /// Ends all workers; returns the stamps of their handlers.
    pub(crate) async fn end(self) -> Result<Vec<Stamp>> {
        let mut stamps = Vec::new();
        for worker in self.workers {
            stamps.extend(worker.end().await?);
        }
        Ok(stamps)
    }
}

/// Seconds of processor time by process, over several rounds.
#[derive(Default)]
pub(crate) struct Spent(pub(crate) BTreeMap<String, f64>);

impl Spent {
    pub(crate) fn add(&mut self, seconds: BTreeMap<String, f64>) {
        for (name, more) in seconds {
            *self.0.entry(name).or_default() += more;
        }
    }
}

/// What a worker serves.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Served {
    /// With `many`, `name0`, `name1`, and so on.
    pub(crate) action: String,
    pub(crate) many: Option<usize>,
    /// How long each handler sleeps; 0 returns at once.
    pub(crate) run_ms: u64,
    /// How long each handler then spins, since it began; see `speed`.
    pub(crate) spin_us: u64,
}

impl Served {
    pub(crate) fn one(action: &str, run_ms: u64) -> Self {
        Self { action: action.to_owned(), many: None, run_ms, spin_us: 0 }
    }

    fn names(&self) -> Vec<String> {
        match self.many {
            None => vec![self.action.clone()],
            Some(many) => (0..many).map(|number| format!("{}{number}", self.action)).collect(),
        }
    }
}

/// What one worker is started with.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Role {
    pub(crate) name: String,
    pub(crate) capacity: u32,
    pub(crate) served: Vec<Served>,
}

#[derive(Serialize, Deserialize)]
struct Orders {
    role: Role,
    amqp: String,
    stamps: PathBuf,
}

/// The parameters of an execution; see [`Stamp`].
#[derive(Deserialize)]
struct Parameters {
    line: u64,
    n: u64,
}

/// A running worker.
pub(crate) enum BenchWorker {
    Process { process: Box<Guarded>, stamps: PathBuf },
    Task { running: JoinHandle<Result<(), slotline_worker::Error>>, shutdown: Shutdown, stamps: Stamps },
}

#[derive(Clone)]
pub(crate) struct Stamps(Arc<Mutex<Vec<Stamp>>>);

impl BenchWorker {
    pub(crate) fn process(sandbox: &Sandbox, amqp: &str, role: &Role) -> Result<Self> {
        let stamps = sandbox.path().join(format!("{}.stamps", role.name));
        let orders = Orders { role: role.clone(), amqp: amqp.to_owned(), stamps: stamps.clone() };
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(ROLE).arg(serde_json::to_string(&orders)?);
        let process = Box::new(sandbox.spawn(&mut command, &format!("{}.log", role.name))?);
        Ok(Self::Process { process, stamps })
    }

    pub(crate) fn task(broker: &Broker, role: &Role) -> Result<Self> {
        let stamps = Stamps::new();
        let shutdown = Shutdown::new();
        let running = tokio::spawn(worker(role, &stamps)?.run(broker.clone(), shutdown.clone()));
        Ok(Self::Task { running, shutdown, stamps })
    }

    pub(crate) fn meter(&self, meter: Meter) -> Meter {
        match self {
            Self::Process { process, .. } => meter.alone("worker", process.pid().as_raw()),
            Self::Task { .. } => meter,
        }
    }

    /// Ends it in order, and returns the stamps of its handlers.
    pub(crate) async fn end(self) -> Result<Vec<Stamp>> {
        match self {
            Self::Process { mut process, stamps } => {
                process.signal(Signal::SIGTERM)?;
                let (status, log) =
                    tokio::task::spawn_blocking(move || process.wait(END_WITHIN).map(|status| (status, process.log())))
                        .await??;
                ensure!(status.success(), "a worker ended with {status}:\n{log}");
                stamps::read(&stamps)
            }
            Self::Task { running, shutdown, stamps } => {
                shutdown.drain();
                running.await??;
                Ok(std::mem::take(&mut *stamps.lock()))
            }
        }
    }
}

/// Runs this program as a worker.
pub(crate) fn run(orders: &str) -> Result<()> {
    let orders: Orders = serde_json::from_str(orders)?;
    tokio::runtime::Runtime::new()?.block_on(async {
        let stamps = Stamps::new();
        let shutdown = Shutdown::new();
        let mut terminated = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        let drain = shutdown.clone();
        tokio::spawn(async move {
            terminated.recv().await;
            drain.drain();
        });
        worker(&orders.role, &stamps)?.run(Broker::rabbit(&orders.amqp, PREFIX)?, shutdown).await?;
        stamps::write(&orders.stamps, &stamps.lock())
    })
}

fn worker(role: &Role, stamps: &Stamps) -> Result<Worker> {
    let mut builder = Worker::builder(&role.name).capacity(role.capacity);
    for served in &role.served {
        let (run, spin) = (Duration::from_millis(served.run_ms), Duration::from_micros(served.spin_us));
        for name in served.names() {
            let stamps = stamps.clone();
            builder = builder.action(name, move |context: Context| {
                let stamps = stamps.clone();
                async move { handle(&context, run, spin, &stamps).await }
            });
        }
    }
    builder.build().context("a worker")
}

async fn handle(context: &Context, run: Duration, spin: Duration, stamps: &Stamps) -> Result<(), HandlerError> {
    let start = now_ns();
    let Parameters { line, n } = context.parameters()?;
    if !run.is_zero() {
        tokio::time::sleep(run).await;
    }
    let until = start + spin.as_nanos() as u64;
    while now_ns() < until {
        tokio::task::yield_now().await;
    }
    let end = now_ns();
    stamps.lock().push(Stamp { line, n, start, end });
    Ok(())
}

impl Stamps {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(Vec::with_capacity(STAMPS_EXPECTED))))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Stamp>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
