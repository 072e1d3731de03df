//! The one binary: the daemons, the embedded set-ups, and the commands that ask the API.
//!
//! Whatever goes wrong is said in one place, with its causes, and ends with the code of its cause (`exit`). Not here: what any
//! command does; each has its file.

mod actions;
mod amount;
mod apply;
mod argv;
mod ask;
mod audit;
mod client;
mod config;
mod dead;
mod demo;
mod dev;
mod document;
mod embedded;
mod ending;
mod environment;
mod executions;
mod executor;
mod exit;
mod follow;
mod happenings;
mod hint;
mod host;
mod journal;
mod limit;
mod log;
mod logs;
mod migrate;
mod output;
mod patience;
mod pause;
mod place;
mod policies;
mod progress;
mod queue;
mod rabbitmq;
mod run;
mod screen;
mod signals;
#[cfg(test)]
mod strangers;
mod stream;
mod style;
mod table;
mod telling;
mod terminal;
mod verify;
mod view;
mod watch;
mod worker;
mod workers;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};

use slotline_api::{Token, Tokens};

use client::Client;
use config::{File, LogFormat, Output};
use exit::Exit;
use style::Style;

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

#[derive(Args)]
#[command(next_help_heading = "Global options")]
struct Global {
    /// File with settings (TOML); flags and SLOTLINE_* variables go first
    #[arg(long, global = true, env = "SLOTLINE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// The API to ask; of several, separated by commas, the first that can be reached [default: http://127.0.0.1:7070]
    #[arg(long, global = true, env = "SLOTLINE_API_URL", value_name = "URL")]
    api_url: Option<String>,
    /// File with the API token; or set SLOTLINE_API_TOKEN
    #[arg(long, global = true, env = "SLOTLINE_API_TOKEN_FILE", value_name = "FILE")]
    api_token_file: Option<PathBuf>,
    /// How results are printed [default: table]
    #[arg(long, global = true, env = "SLOTLINE_OUTPUT", value_enum)]
    output: Option<Output>,
    /// How logs are written, to stderr [default: text]
    #[arg(long, global = true, env = "SLOTLINE_LOG_FORMAT", value_enum)]
    log_format: Option<LogFormat>,
    /// error, warn, info, debug, trace, or a filter as RUST_LOG takes it
    #[arg(long, global = true, env = "SLOTLINE_LOG_LEVEL", value_name = "LEVEL")]
    log_level: Option<String>,
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
    /// Show who changed what, and why
    Audit(audit::Args),
    /// Submit an execution
    Run(run::Args),
    /// Watch an execution to its end
    Watch(watch::Args),
    /// Print what an execution wrote
    Logs(logs::Args),
    /// Report how far the command that calls this has come
    ///
    /// For scripts that a worker runs. Where nobody listens nothing happens, and it exits 0 all the same.
    Progress(progress::Args),
    /// Show how lines stand
    Queue(queue::Args),
    /// Show an execution: the same as `executions show`
    Show { id: slotline_protocol::ExecutionId },
    /// End executions: the same as `executions cancel`
    Cancel(executions::Cancel),
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
    /// Print the version
    Version,
}

/// What every command is given.
struct Settings {
    file: File,
    global: Global,
}

impl Settings {
    /// The tokens that open the API of this process.
    fn tokens(&self) -> Result<Tokens, config::Error> {
        config::tokens(std::env::var(config::TOKEN_VARIABLE).ok(), self.global.api_token_file.as_deref(), &self.file)
    }

    /// The token that a client sends.
    fn token(&self) -> Result<Option<Token>, config::Error> {
        config::only(&self.tokens()?)
    }

    fn client(&self) -> anyhow::Result<Client> {
        let url = self.global.api_url.as_deref().or(self.file.api_url.as_deref()).unwrap_or(config::DEFAULT_API_URL);
        Ok(Client::new(url, self.token()?)?)
    }

    /// How people want it.
    fn style(&self) -> Style {
        Style::now(self.output() == Output::Wide)
    }

    fn output(&self) -> Output {
        self.global.output.or(self.file.output).unwrap_or_default()
    }

    /// Starts logging; `level` where nobody says otherwise.
    fn log(&self, level: &str) -> Result<(), config::Error> {
        let format = self.global.log_format.or(self.file.log_format).unwrap_or(LogFormat::Text);
        log::start(format, self.global.log_level.as_deref().or(self.file.log_level.as_deref()), level)
    }
}

fn main() -> ExitCode {
    // A worker starts this very program again, as the keeper of one command.
    slotline_worker::shim::run_if_asked();
    // And an executor, as a reader of messages that may have killed it.
    slotline_executor::examiner::run_if_asked();
    argv::hide_secrets();
    let cli = Cli::parse();
    // A script may call it in a loop: it needs none of what follows.
    if let Command::Progress(args) = cli.command {
        return progress::progress(args);
    }
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    environment::unread(names).into_iter().for_each(|line| output::error(&line));
    // Settings and memory of a daemon hold passwords, and commands may run as its user: none of them is to look into it.
    if let Command::Executor(_) | Command::Worker(_) | Command::Dev(_) | Command::Demo(_) = cli.command {
        let _ = nix::sys::prctl::set_dumpable(false);
    }
    // The kernel clears a huge page whole, and a batch's buffers live for some milliseconds: under load that took a
    // fifth of an executor's time. One that knows no such switch goes on as before; a command's shim turns it back.
    let _ = nix::sys::prctl::set_thp_disable(true);
    match start(cli) {
        Ok(code) => code,
        Err(error) => {
            output::error(&slotline_protocol::chain(error.as_ref()).to_string());
            Exit::of(&error).into()
        }
    }
}

#[tokio::main]
async fn start(cli: Cli) -> anyhow::Result<ExitCode> {
    rustls::crypto::ring::default_provider().install_default().ok().context("another TLS provider was installed")?;
    let file = File::read(cli.global.config.as_deref())?;
    let settings = Settings { file, global: cli.global };
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
        Command::Queue(args) => queue::queue(&settings, args).await,
        Command::Show { id } => executions::executions(&settings, executions::Command::Show { id }).await,
        Command::Cancel(args) => executions::cancel(&settings, args).await,
        Command::Executions(command) => executions::executions(&settings, command).await,
        Command::Dead(command) => dead::dead(&settings, command).await,
        Command::Workers => workers::workers(&settings).await,
        Command::Rabbitmq(command) => Ok(rabbitmq::rabbitmq(&settings, &command)),
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
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
