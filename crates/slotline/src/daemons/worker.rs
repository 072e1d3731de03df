//! `slotline worker`: one worker, from its settings to its end.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use slotline_worker::{Shutdown, Worker};

use crate::daemons::executor::broker;
use crate::daemons::host;
use crate::settings::{self, SecretSetting, Settings, actions, require};
use crate::signals;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// amqp://user:password@host:5672/vhost [default: RabbitMQ on this machine]
    #[arg(long, env = "SLOTLINE_AMQP_URL", hide_env_values = true, value_name = "URL")]
    amqp_url: Option<SecretSetting>,
    /// First part of the names of all exchanges and queues [default: slotline]
    #[arg(long, env = "SLOTLINE_PREFIX")]
    prefix: Option<String>,
    /// The name of this worker; only one at a time may have it [default: the host's name]
    #[arg(long, env = "SLOTLINE_NAME")]
    name: Option<String>,
    /// Attempts that may run at once [default: twice the cores]
    #[arg(long, env = "SLOTLINE_CAPACITY", value_parser = clap::value_parser!(u32).range(1..))]
    capacity: Option<u32>,
    /// File with what each action runs
    #[arg(long, env = "SLOTLINE_ACTIONS", value_name = "FILE")]
    actions: Option<PathBuf>,
    /// Folder for scratch and the lock; kept over restarts, so that a successor knows at once that nothing is left
    #[arg(long, env = "SLOTLINE_STATE_DIR", value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Variable of this process's environment that commands are given beside PATH and the like; NAME or BEGINNING*
    #[arg(long, env = "SLOTLINE_ENV_PASS", value_name = "NAME", value_delimiter = ',')]
    env_pass: Vec<String>,
    /// How long running work may take to end after SIGTERM [default: 30s]
    #[arg(long, env = "SLOTLINE_DRAIN_TIMEOUT", value_name = "DURATION", value_parser = settings::duration)]
    drain_timeout: Option<Duration>,
    /// Silence after which it is given up, until an executor sets another [default: 60s]
    #[arg(long, env = "SLOTLINE_LEASE", value_name = "DURATION", value_parser = settings::duration)]
    lease: Option<Duration>,
    /// Silence after which it ends its own attempts, until an executor sets another; less than the lease [default: 45s]
    #[arg(long, env = "SLOTLINE_FENCE", value_name = "DURATION", value_parser = settings::duration)]
    fence: Option<Duration>,
    /// Time between two heartbeats, until an executor sets another [default: 5s]
    #[arg(long, env = "SLOTLINE_HEARTBEAT", value_name = "DURATION", value_parser = settings::duration)]
    heartbeat: Option<Duration>,
}

pub(crate) async fn worker(settings: &Settings, args: Args) -> anyhow::Result<ExitCode> {
    settings.log("info")?;
    let file = &settings.file;
    let path = args.actions.or(file.actions.clone());
    let path = require(path, "the actions file", "actions", "ACTIONS", "actions")?;
    let broker = broker(args.amqp_url.as_ref(), args.prefix.as_deref(), file)?;
    let name = args.name.or(file.name.clone()).unwrap_or_else(host::name);
    let mut builder = Worker::builder(&name).capacity(args.capacity.or(file.capacity).unwrap_or(2 * host::cores()));
    if let Some(folder) = args.state_dir.or(file.state_dir.clone()) {
        builder = builder.state_dir(folder);
    }
    let env_pass = if args.env_pass.is_empty() { file.env_pass.clone() } else { args.env_pass };
    builder = builder.env_pass(env_pass);
    if let Some(drain_timeout) = args.drain_timeout.or(file.drain_timeout) {
        builder = builder.drain_timeout(drain_timeout);
    }
    if let Some(lease) = args.lease.or(file.lease) {
        builder = builder.lease(lease);
    }
    if let Some(fence) = args.fence.or(file.fence) {
        builder = builder.fence(fence);
    }
    if let Some(heartbeat) = args.heartbeat.or(file.heartbeat) {
        builder = builder.heartbeat(heartbeat);
    }
    let mut served = 0;
    for action in actions::read(&path)? {
        if let Some(run) = action.run {
            builder = run.serve(builder, &action.action_ref);
            served += 1;
        }
    }
    if served == 0 {
        let message = format!("{}: no action has an [action.run] table, so there is nothing to run", path.display());
        return Err(settings::Error::Invalid(message).into());
    }
    for warning in host::user_warnings(true, &settings.file) {
        tracing::warn!("{warning}");
    }
    let shutdown = drain_on_signals()?;
    tracing::info!(worker.name = name, actions = served, "worker starts");
    builder.build()?.run(broker, shutdown).await?;
    tracing::info!(worker.name = name, "worker ended");
    Ok(ExitCode::SUCCESS)
}

/// The first signal drains, the second ends at once.
fn drain_on_signals() -> std::io::Result<Shutdown> {
    let shutdown = Shutdown::new();
    let (first, second) = (shutdown.clone(), shutdown.clone());
    signals::on_stop("drains", move || first.drain(), move || second.stop())?;
    Ok(shutdown)
}
