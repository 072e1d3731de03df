//! How a worker is built and run.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::DumpableBehavior;
use serde::Serialize;
use slotline_broker::Broker;
use slotline_protocol::message::Process;
use slotline_protocol::{ActionRef, WorkerName};
use tokio::runtime;
use tokio::sync::oneshot;

use crate::duty::{Config, OnDrain, Phase, ServedAction, Terms};
use crate::error::Error;
use crate::handler::context::Context;
use crate::handler::error::HandlerError;
use crate::handler::{self, Handler};
use crate::process::aside::{KEEP_ALIVE, STANDING_MAX};
use crate::process::command::{Command, GRACE, RunConfig};
use crate::process::confine::Layers;
use crate::process::env::{self, ENV_PASSED};
use crate::process::resident::{HandlerConfig, HandlerRun, Resident};
use crate::process::resources;
use crate::process::scratch::Scratch;
use crate::process::why::flaw;
use crate::shell::lock::Lock;
use crate::shell::run::{self, Setup};
use crate::shell::running::Work;
use crate::shell::watch::Gauge;
use crate::shutdown::Shutdown;

/// What every command can do, as a heartbeat lists it.
const COMMAND_CAPABILITIES: &[&str] = &["cancel", "logs"];
/// What every handler can do.
const HANDLER_CAPABILITIES: &[&str] = &["cancel"];
/// The capability of an action that is declared to report progress.
const REPORTS: &str = "report-progress";
/// How long running work may go on after a drain has begun, unless the builder sets another time.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
/// The most attempts a worker may offer to run at once: the duty book has room for so many, and for those that one
/// batch of the executor starts before it reports what it has recorded.
pub const CAPACITY_MAX: u32 = 8_000;

/// A worker, ready to run.
pub struct Worker {
    config: Config,
    work: BTreeMap<ActionRef, Work>,
    shim: PathBuf,
    env_pass: Vec<String>,
    state_dir: Option<PathBuf>,
}

/// What an action of that name runs.
enum Given {
    Handler(Handler),
    Command(RunConfig),
    Resident(String),
}

/// Builds a worker.
pub struct Builder {
    name: String,
    capacity: u32,
    actions: Vec<(String, ServedAction, Given)>,
    handler_processes: Vec<HandlerConfig>,
    env_pass: Vec<String>,
    phases: Vec<(String, Vec<Phase>)>,
    reports: Vec<String>,
    labels: BTreeMap<String, String>,
    terms: Terms,
    drain_timeout: Duration,
    shim: Option<PathBuf>,
    state_dir: Option<PathBuf>,
}

impl Worker {
    /// Starts with a name: what people call this worker, unique among those of an installation.
    pub fn builder(name: impl Into<String>) -> Builder {
        Builder {
            name: name.into(),
            capacity: 1,
            actions: Vec::new(),
            handler_processes: Vec::new(),
            env_pass: Vec::new(),
            phases: Vec::new(),
            reports: Vec::new(),
            labels: BTreeMap::new(),
            terms: Terms::default(),
            drain_timeout: DRAIN_TIMEOUT,
            shim: None,
            state_dir: None,
        }
    }

    /// Runs until `shutdown` is called and everything is reported. Dropping the future ends everything at once.
    ///
    /// An error of the kind [`Error::Unstoppable`] or [`Error::Stands`] means that the process must end.
    pub async fn run(self, broker: Broker, shutdown: Shutdown) -> Result<(), Error> {
        let commands: Vec<_> = self.work.values().filter_map(Work::command).collect();
        let fit = (!commands.is_empty()).then(|| resources::fit(self.config.capacity));
        let scratch = if !commands.is_empty() {
            tracing::info!("commands are held by {}", Layers::probe().describe());
            self.say_what_is_wrong();
            // Commands that run as the same user must not read its memory and its environment.
            rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
                .map_err(|error| Error::Thread(error.into()))?;
            let accounts: Vec<_> = commands.iter().filter_map(|command| command.confinement.account.as_ref()).collect();
            let created = Scratch::create(self.state_dir.as_deref(), &accounts);
            let path = || self.state_dir.clone().unwrap_or_else(std::env::temp_dir);
            Some(created.map_err(|source| Error::StateDir { path: path(), source })?)
        } else {
            None
        };
        let lock = match &self.state_dir {
            None => None,
            Some(state_dir) => Some(Lock::take(state_dir, &self.config.worker).await?),
        };
        handler::panic::install();
        let (finished, result) = oneshot::channel();
        let (gives_up, given_up) = oneshot::channel();
        let setup = Setup {
            config: Config { capacity: fit.as_ref().map_or(self.config.capacity, |fit| fit.capacity), ..self.config },
            files_of_commands: fit.and_then(|fit| fit.files_of_commands),
            work: self.work,
            shim: self.shim,
            env: env::passed(
                ENV_PASSED.iter().copied().chain(self.env_pass.iter().map(String::as_str)),
                std::env::vars_os(),
            ),
            scratch,
            lock,
            state_dir: self.state_dir,
            broker,
            shutdown: shutdown.clone(),
        };
        let _stop_if_dropped = StopOnDrop(shutdown);
        std::thread::Builder::new()
            .name("slotline-worker".to_owned())
            .spawn(move || {
                // The receiver is gone if the future was dropped.
                let _ = finished.send(on_this_thread(setup, gives_up));
            })
            .map_err(Error::Thread)?;
        tokio::select! {
            result = result => result.unwrap_or(Err(Error::Died)),
            Ok(error) = given_up => Err(error),
        }
    }
}

impl Worker {
    /// Logs at once which commands can't be started as they stand, before the first execution fails. They may be
    /// corrected while the worker runs. Nothing waits for the check: they may lie on a disk that does not answer.
    fn say_what_is_wrong(&self) {
        let commands: Vec<(String, Arc<Command>)> =
            self.work.iter().filter_map(|(name, work)| Some((name.to_string(), work.command()?.clone()))).collect();
        drop(tokio::task::spawn_blocking(move || {
            for (action, command) in commands {
                let program = command.config.command.first().map_or("", String::as_str);
                if let Some(flaw) = flaw(program, command.config.cwd.as_deref()) {
                    tracing::warn!(action, "can't start {program:?}: {flaw}");
                }
            }
        }));
    }
}

/// Handlers have a runtime of their own, so that none of them can delay a heartbeat.
fn on_this_thread(setup: Setup, gives_up: oneshot::Sender<Error>) -> Result<(), Error> {
    let handlers = runtime::Builder::new_multi_thread()
        .thread_name("slotline-handler")
        .enable_all()
        .build()
        .map_err(Error::Thread)?;
    // A worker without commands has nothing to read.
    let channels = match &setup.scratch {
        None => None,
        Some(_) => Some(
            runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .max_blocking_threads(STANDING_MAX)
                .thread_keep_alive(KEEP_ALIVE)
                .thread_name("slotline-reports")
                .enable_all()
                .build()
                .map_err(Error::Thread)?,
        ),
    };
    if let Some(channels) = &channels {
        // Starts one thread for good, in case the system gives none later.
        channels.spawn_blocking(|| ());
    }
    let reports = channels.as_ref().unwrap_or(&handlers).handle().clone();
    let gauge = Gauge::new();
    let own = gauge.pulse().runtime().map_err(Error::Thread)?;
    let watch = gauge.watch(setup.shutdown.clone(), gives_up).map_err(Error::Thread)?;
    let result = own.block_on(run::run(setup, gauge, handlers.handle().clone(), reports));
    drop(watch);
    handlers.shutdown_background();
    if let Some(channels) = channels {
        channels.shutdown_background();
    }
    own.shutdown_background();
    result
}

struct StopOnDrop(Shutdown);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stop();
    }
}

impl Builder {
    /// How many attempts may run at once.
    #[must_use]
    pub fn capacity(mut self, capacity: u32) -> Self {
        self.capacity = capacity;
        self
    }

    /// Serves an action with an async function of this process.
    #[must_use]
    pub fn action<H, F, R>(mut self, action_ref: impl Into<String>, handler: H) -> Self
    where
        H: Fn(Context) -> F + Send + Sync + 'static,
        F: Future<Output = Result<R, HandlerError>> + Send + 'static,
        R: Serialize,
    {
        let capabilities = owned(HANDLER_CAPABILITIES);
        let action = ServedAction { capabilities, grace: GRACE, on_drain: OnDrain::default(), phases: Vec::new() };
        self.actions.push((action_ref.into(), action, Given::Handler(handler::boxed(handler))));
        self
    }

    /// Serves an action with a command. The executable of this process is run again as the command's shim, so its
    /// `main` must call [`crate::process::shim::run_if_asked`] first; see also [`Builder::shim_executable`].
    ///
    /// A process that runs commands can't be traced or dumped by others of its user any more.
    #[must_use]
    pub fn command(mut self, action_ref: impl Into<String>, config: RunConfig) -> Self {
        let action_ref = action_ref.into();
        let RunConfig { grace, on_drain, progress, tasks, .. } = config;
        let action =
            ServedAction { capabilities: owned(COMMAND_CAPABILITIES), grace, on_drain, phases: config.phases.clone() };
        self.reports.extend((progress || tasks).then(|| action_ref.clone()));
        self.actions.push((action_ref, action, Given::Command(config)));
        self
    }

    /// Serves an action with a program that stays, and may run other actions as well. See [`Builder::command`] for what
    /// that asks of this program.
    #[must_use]
    pub fn handled(mut self, action_ref: impl Into<String>, process: HandlerConfig, run: HandlerRun) -> Self {
        let action_ref = action_ref.into();
        let HandlerRun { handler: _, grace, on_drain, progress, phases, tasks } = run;
        let action = ServedAction { capabilities: owned(COMMAND_CAPABILITIES), grace, on_drain, phases };
        self.reports.extend((progress || tasks).then(|| action_ref.clone()));
        self.actions.push((action_ref, action, Given::Resident(process.name.clone())));
        self.handler_processes.push(process);
        self
    }

    /// Declares the phases of an action that this builder has, too: a report that names one has a percent by their
    /// weights. Those of a command may as well be in its [`RunConfig`].
    #[must_use]
    pub fn phases(mut self, action_ref: impl Into<String>, phases: impl IntoIterator<Item = Phase>) -> Self {
        self.phases.push((action_ref.into(), phases.into_iter().collect()));
        self
    }

    /// Declares that an action of this builder reports progress: `report-progress` is then among its capabilities. An
    /// action with phases has it without this call.
    #[must_use]
    pub fn reports(mut self, action_ref: impl Into<String>) -> Self {
        self.reports.push(action_ref.into());
        self
    }

    /// Further variables of this process's environment that all commands get: names, or beginnings of names and `*`.
    #[must_use]
    pub fn env_pass(mut self, names: impl IntoIterator<Item = String>) -> Self {
        self.env_pass.extend(names);
        self
    }

    /// Labels of the worker, for its readers.
    #[must_use]
    pub fn labels(mut self, labels: BTreeMap<String, String>) -> Self {
        self.labels = labels;
        self
    }

    /// The silence after which a leader counts the worker as lost, until a leader sends another.
    #[must_use]
    pub fn lease(mut self, lease: Duration) -> Self {
        self.terms.lease = lease;
        self
    }

    /// Attempts run only while the last confirmed heartbeat was sent less than this ago, until a leader sends another
    /// time.
    #[must_use]
    pub fn fence(mut self, fence: Duration) -> Self {
        self.terms.fence = fence;
        self
    }

    #[must_use]
    pub fn heartbeat(mut self, heartbeat: Duration) -> Self {
        self.terms.heartbeat = heartbeat;
        self
    }

    /// How long running work may go on after a drain has begun.
    #[must_use]
    pub fn drain_timeout(mut self, drain_timeout: Duration) -> Self {
        self.drain_timeout = drain_timeout;
        self
    }

    /// Where the result files of commands live, and the lock by which a successor of this process knows at once that
    /// nothing of it is left; without it a private temporary folder and no lock.
    #[must_use]
    pub fn state_dir(mut self, state_dir: impl Into<PathBuf>) -> Self {
        self.state_dir = Some(state_dir.into());
        self
    }

    /// The executable of a command's shim, if it is not this process's own.
    #[must_use]
    pub fn shim_executable(mut self, shim: impl Into<PathBuf>) -> Self {
        self.shim = Some(shim.into());
        self
    }

    /// Checks everything.
    pub fn build(self) -> Result<Worker, Error> {
        self.check()?;
        let misconfigured = |message: String| Err(Error::Misconfigured(message));
        let worker = WorkerName::new(&self.name)?;
        let (mut actions, mut work) = (BTreeMap::new(), BTreeMap::new());
        let mut layers = None;
        let residents = Resident::by_name(self.handler_processes).map_err(Error::Misconfigured)?;
        for (name, mut action, given) in self.actions {
            let action_ref = ActionRef::new(&name)?;
            let runs = match given {
                Given::Handler(handler) => Work::Handler(handler),
                Given::Command(config) => {
                    let layers = *layers.get_or_insert_with(Layers::probe);
                    let command = Command::prepare(config, layers)
                        .map_err(|wrong| Error::Misconfigured(format!("{action_ref}: {wrong}")))?;
                    action.capabilities.extend(command.capabilities(layers).into_iter().map(str::to_owned));
                    Work::Command(Arc::new(command))
                }
                Given::Resident(handler) => {
                    let resident = &residents[&handler];
                    let layers = *layers.get_or_insert_with(Layers::probe);
                    action.capabilities.extend(resident.command.capabilities(layers).into_iter().map(str::to_owned));
                    Work::Resident(resident.clone())
                }
            };
            if work.insert(action_ref.clone(), runs).is_some() {
                return misconfigured(format!("{action_ref} is given twice"));
            }
            actions.insert(action_ref, action);
        }
        declare(&mut actions, self.phases, self.reports)?;
        let shim = match self.shim {
            Some(shim) => shim,
            // The file that runs now, even if an upgrade replaces the one of its name.
            None => PathBuf::from("/proc/self/exe"),
        };
        let config = Config {
            worker,
            capacity: self.capacity,
            actions,
            labels: self.labels,
            terms: self.terms,
            drain_timeout: self.drain_timeout,
            process: Some(this_process()),
        };
        Ok(Worker { config, work, shim, env_pass: self.env_pass, state_dir: self.state_dir })
    }

    /// What is wrong with the worker, whatever its actions are.
    fn check(&self) -> Result<(), Error> {
        let misconfigured = |message: String| Err(Error::Misconfigured(message));
        if self.capacity == 0 || self.capacity > CAPACITY_MAX {
            return misconfigured(format!("capacity is {}: expected 1 to {CAPACITY_MAX}", self.capacity));
        }
        if !self.terms.are_sound() {
            let Terms { lease, fence, heartbeat } = self.terms;
            return misconfigured(format!(
                "a lease of {lease:?}, a fence of {fence:?} and a heartbeat of {heartbeat:?} do not fit: expected the fence \
                 to be shorter than the lease, and the heartbeat at most half the fence (--lease, --fence, --heartbeat)"
            ));
        }
        if self.actions.is_empty() {
            return misconfigured("a worker needs at least one action to serve".to_owned());
        }
        match self.env_pass.iter().find_map(|pattern| env::refusal(pattern)) {
            Some(refusal) => misconfigured(format!("env_pass: {refusal}")),
            None => Ok(()),
        }
    }
}

/// The host and the process id, by which people find this process.
fn this_process() -> Process {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    Process { host: host.trim().to_owned(), pid: std::process::id() }
}

fn owned(capabilities: &[&str]) -> Vec<String> {
    capabilities.iter().map(|capability| (*capability).to_owned()).collect()
}

/// Adds to the actions what is declared of them: their phases, and that they report.
fn declare(
    actions: &mut BTreeMap<ActionRef, ServedAction>,
    phases: Vec<(String, Vec<Phase>)>,
    mut reports: Vec<String>,
) -> Result<(), Error> {
    let wrong = |message: String| Err(Error::Misconfigured(message));
    for (name, phases) in phases {
        let Some(action) = actions.get_mut(&ActionRef::new(&name)?) else {
            return wrong(format!("{name}: phases are declared for it, and nothing runs it"));
        };
        action.phases = phases;
    }
    reports.extend(actions.iter().filter(|(_, it)| !it.phases.is_empty()).map(|(name, _)| name.to_string()));
    for name in reports {
        let Some(action) = actions.get_mut(&ActionRef::new(&name)?) else {
            return wrong(format!("{name}: it is declared to report, and nothing runs it"));
        };
        if !action.capabilities.iter().any(|capability| capability == REPORTS) {
            action.capabilities.insert(0, REPORTS.to_owned());
        }
    }
    for (action_ref, action) in actions {
        Phase::check(&action.phases).map_err(|wrong| Error::Misconfigured(format!("{action_ref}: {wrong}")))?;
    }
    Ok(())
}
