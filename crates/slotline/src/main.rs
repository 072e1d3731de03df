//! The one binary: the daemons, the embedded set-ups, and the commands that ask the API.
//!
//! Every error is printed in one place, with its causes, and decides the exit code (`exit`). Not here: what a command
//! does; each has its file.

mod client;
mod commands;
mod daemons;
mod exit;
mod journal;
mod settings;
mod show;
mod signals;

use std::process::ExitCode;

use anyhow::Context as _;
use clap::{CommandFactory as _, Parser, Subcommand};

use commands::{
    apply, audit, dead, executions, limit, logs, migrate, open, pause, policies, progress, queue, rabbitmq, run,
    schema, verify, watch, workers,
};
use daemons::{demo, dev, executor, worker};
use exit::Exit;
use settings::{Global, Settings, argv, environment};
use show::output;

/// Batches are thousands of small texts, made on one thread and dropped on another. The system's allocator spends a fifth of
/// an executor's time under load on them that this one does not.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
#[command(name = "slotline", version, about = "First-in-first-out executions over RabbitMQ", max_term_width = 110, after_help = exit::help())]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run everything in one process, with example actions, and stay
    Dev(dev::Args),
    /// Show executions lining up and handing over, then check order and limits in the journal
    Demo(demo::Args),
    /// Run an executor
    Executor(Box<executor::Args>),
    /// Run a worker
    Worker(Box<worker::Args>),
    /// Bring the database's schema up to date
    Migrate(migrate::Args),
    /// Hold the journal of a live installation against the promises
    Verify(verify::Args),
    /// Create or change the actions of a file, all of them or none, and show what differs
    Apply(apply::Args),
    /// Show actions and their policies
    Actions(policies::Args),
    /// Let another limit than the declared one hold for a while
    Limit(limit::Args),
    /// Let nothing of an action start; what runs goes on
    Pause(pause::Args),
    /// Let it start again
    Resume(pause::Args),
    /// Show what was changed, by which person or program, and why
    Audit(audit::Args),
    /// Submit an execution
    Run(run::Args),
    /// Watch an execution to its end
    Watch(watch::Args),
    /// Print what an execution wrote
    Logs(logs::Args),
    /// Report how far the command that calls this has come
    ///
    /// For scripts that a worker runs. Without a worker that listens it does nothing and exits 0.
    Progress(progress::Args),
    /// Show how lines stand
    Queue(queue::Args),
    /// Open the page that shows all lines, or an execution, in the browser
    Open(open::Args),
    /// Show an execution: the same as `executions show`
    Show { id: slotline_protocol::ExecutionId },
    /// End executions: the same as `executions cancel`
    Cancel(executions::CancelArgs),
    /// List, show and cancel executions
    #[command(subcommand)]
    Executions(executions::Command),
    /// List, show, replay and drop messages that were put aside
    #[command(subcommand)]
    Dead(dead::Command),
    /// List workers
    Workers,
    /// Prepare RabbitMQ
    #[command(subcommand)]
    Rabbitmq(rabbitmq::Command),
    /// Print a document of the contract: JSON Schema, or AsyncAPI
    Schema(schema::Args),
    /// Print the version
    Version,
}

fn main() -> ExitCode {
    // A worker starts this same program again, as the shim of its commands.
    slotline_worker::shim::run_if_asked();
    // An executor starts it again as the examiner of messages that may have killed an executor.
    slotline_executor::examiner::run_if_asked();
    argv::hide_secrets();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return refuse(&error),
    };
    // A script may call it in a loop; settings, logging and a runtime are not needed.
    if let Command::Progress(args) = cli.command {
        return progress::progress(args);
    }
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    environment::unread(&Cli::command(), names).into_iter().for_each(|line| output::error(&line));
    // A daemon's memory holds passwords, and its commands may run as its user: they must not read it.
    if let Command::Executor(_) | Command::Worker(_) | Command::Dev(_) | Command::Demo(_) = cli.command {
        let _ = nix::sys::prctl::set_dumpable(false);
    }
    // The kernel clears a huge page whole, and a batch's buffers live for some milliseconds: under load that took a
    // fifth of an executor's time. A kernel without this switch changes nothing; the shim of a command turns it back on.
    let _ = nix::sys::prctl::set_thp_disable(true);
    match start(cli) {
        Ok(code) => code,
        Err(error) => {
            output::error(&slotline_protocol::chain(error.as_ref()).to_string());
            Exit::of(&error).into()
        }
    }
}

/// Prints what is wrong with the command line, or the help that it asks for.
fn refuse(error: &clap::Error) -> ExitCode {
    // Without a terminal there is no reader to miss it.
    let _ = error.print();
    // A command must not fail because of what it reports of itself.
    let is_report = std::env::args_os().nth(1).is_some_and(|argument| argument == "progress");
    if is_report && std::env::var_os(slotline_worker::progress::SOCKET).is_some_and(|path| !path.is_empty()) {
        return ExitCode::SUCCESS;
    }
    if error.use_stderr() { Exit::Refused.into() } else { ExitCode::SUCCESS }
}

#[tokio::main]
async fn start(cli: Cli) -> anyhow::Result<ExitCode> {
    rustls::crypto::ring::default_provider().install_default().ok().context("another TLS provider was installed")?;
    let settings = Settings::read(cli.global)?;
    match cli.command {
        Command::Dev(args) => dev::dev(&settings, args).await,
        Command::Demo(args) => demo::demo(&settings, args).await,
        Command::Executor(args) => executor::executor(&settings, *args).await,
        Command::Worker(args) => worker::worker(&settings, *args).await,
        Command::Migrate(args) => migrate::migrate(&settings, args).await,
        Command::Verify(args) => verify::verify(&settings, args).await,
        Command::Apply(args) => apply::apply(&settings, args).await,
        Command::Actions(args) => policies::actions(&settings, args).await,
        Command::Limit(args) => limit::limit(&settings, args).await,
        Command::Pause(args) => pause::pause(&settings, args).await,
        Command::Resume(args) => pause::resume(&settings, args).await,
        Command::Audit(args) => audit::audit(&settings, args).await,
        Command::Run(args) => run::run(&settings, args).await,
        Command::Watch(args) => watch::command(&settings, args).await,
        Command::Logs(args) => logs::logs(&settings, args).await,
        Command::Progress(_) => unreachable!("it was answered without a runtime"),
        Command::Open(args) => open::open(&settings, &args),
        Command::Queue(args) => queue::queue(&settings, args).await,
        Command::Show { id } => executions::executions(&settings, executions::Command::Show { id }).await,
        Command::Cancel(args) => executions::cancel(&settings, args).await,
        Command::Executions(command) => executions::executions(&settings, command).await,
        Command::Dead(command) => dead::dead(&settings, command).await,
        Command::Workers => workers::workers(&settings).await,
        Command::Rabbitmq(command) => Ok(rabbitmq::rabbitmq(&settings, &command)),
        Command::Schema(args) => Ok(schema::schema(&args)),
        Command::Version => {
            output::line(concat!("slotline ", env!("CARGO_PKG_VERSION")));
            Ok(ExitCode::SUCCESS)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
