//! The real `slotline` program, as executor or worker, to watch and to kill.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, ensure};
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::{Guarded, Port, Sandbox};

/// How much of a daemon's log a failing test shows.
const LOG_LINES_SHOWN: usize = 200;

/// What is to be started, and how.
#[derive(Clone, Debug)]
pub struct Launch {
    name: String,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    folder: Option<PathBuf>,
    /// What starts it, where it is not started directly.
    starter: Vec<String>,
}

/// A running `slotline`. Killed on drop; its log is printed then, which a test shows only if it fails.
#[derive(Debug)]
pub struct Daemon {
    launch: Launch,
    process: Guarded,
    /// The port of the API, if it listens.
    api: Option<Port>,
}

/// How a daemon ended.
pub type Exit = ExitStatus;

impl Launch {
    /// `slotline <arguments>`; `name` is for people and for the log's file name.
    pub fn new(name: &str, arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        Self { name: name.to_owned(), arguments, environment: Vec::new(), folder: None, starter: Vec::new() }
    }

    pub fn arg(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    pub fn args<T: Into<String>>(mut self, arguments: impl IntoIterator<Item = T>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    /// The working directory; the sandbox by default.
    pub fn folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = Some(folder.into());
        self
    }

    /// Starts it through a program that executes its last arguments in its own place.
    pub fn started_by(mut self, starter: &[String]) -> Self {
        self.starter = starter.to_vec();
        self
    }

    /// Starts it with `--listen` on a port of its own.
    pub fn start_listening(self, sandbox: &Sandbox) -> anyhow::Result<Daemon> {
        let port = Port::claim()?;
        let launch = self.args(["--listen".to_owned(), format!("127.0.0.1:{}", port.number())]);
        let mut daemon = launch.start(sandbox)?;
        daemon.api = Some(port);
        Ok(daemon)
    }

    pub fn start(self, sandbox: &Sandbox) -> anyhow::Result<Daemon> {
        let mut command = self.command(sandbox.path())?;
        let process = sandbox.spawn(&mut command, &format!("{}.log", self.name))?;
        Ok(Daemon { launch: self, process, api: None })
    }

    /// Runs it to its end, for commands that answer and exit.
    pub async fn output(self, sandbox: &Sandbox) -> anyhow::Result<std::process::Output> {
        let mut command = self.command(sandbox.path())?;
        tokio::task::spawn_blocking(move || Ok(command.output()?)).await?
    }

    fn command(&self, home: &Path) -> anyhow::Result<Command> {
        let binary = slotline_binary()?;
        let mut command = match self.starter.split_first() {
            None => Command::new(binary),
            Some((starter, arguments)) => {
                let mut command = Command::new(starter);
                command.args(arguments).arg(binary);
                command
            }
        };
        // The `SLOTLINE_` variables of the developer's shell must not leak in.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("SLOTLINE_") {
                command.env_remove(name);
            }
        }
        command
            .current_dir(self.folder.as_deref().unwrap_or(home))
            .env("HOME", home)
            .env("NO_COLOR", "1")
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        Ok(command)
    }
}

impl Daemon {
    /// An executor on `database` and `amqp`, listening on a port of its own. `options` are further arguments.
    pub fn executor(
        sandbox: &Sandbox,
        name: &str,
        database: &str,
        amqp: &str,
        options: &[&str],
    ) -> anyhow::Result<Self> {
        let launch = Launch::new(name, &["executor", "--database-url", database, "--amqp-url", amqp]);
        launch.args(options.iter().copied()).start_listening(sandbox)
    }

    /// A worker `name` with the file `actions`. `options` are further arguments.
    pub fn worker(sandbox: &Sandbox, name: &str, amqp: &str, actions: &Path, options: &[&str]) -> anyhow::Result<Self> {
        let actions = actions.to_str().context("the path of the actions file is not UTF-8")?;
        let launch = Launch::new(name, &["worker", "--name", name, "--amqp-url", amqp, "--actions", actions]);
        launch.args(options.iter().copied()).start(sandbox)
    }

    pub fn name(&self) -> &str {
        &self.launch.name
    }

    /// `http://127.0.0.1:<port>`; only of a daemon that listens.
    pub fn api_url(&self) -> String {
        let port = self.api.as_ref().expect("the daemon was started to listen");
        format!("http://127.0.0.1:{}", port.number())
    }

    pub fn pid(&self) -> Pid {
        self.process.pid()
    }

    pub fn log(&self) -> String {
        self.process.log()
    }

    pub fn is_running(&mut self) -> anyhow::Result<bool> {
        Ok(self.process.try_wait()?.is_none())
    }

    /// To the process alone, not to what it started.
    pub fn signal(&mut self, signal: Signal) -> anyhow::Result<()> {
        self.process.signal(signal)
    }

    /// SIGKILL to the process alone, as the kernel does it when memory runs out. Gone when this returns.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.process.signal(Signal::SIGKILL)?;
        self.process.wait(Duration::from_secs(10)).map(drop)
    }

    /// Starts it again after its end, as it was started before: with the same arguments, port and log.
    pub fn start_again(&mut self, sandbox: &Sandbox) -> anyhow::Result<()> {
        ensure!(!self.is_running()?, "{} runs", self.launch.name);
        let mut command = self.launch.command(sandbox.path())?;
        self.process = sandbox.spawn(&mut command, &format!("{}.log", self.launch.name))?;
        Ok(())
    }

    /// Waits for the end without holding up other tasks of the test.
    pub async fn wait(&mut self, deadline: Duration) -> anyhow::Result<Exit> {
        let what = format!("{} ends", self.launch.name);
        crate::eventually(&what, deadline, async || self.process.try_wait()).await
    }

    /// SIGTERM, and the end within `deadline`.
    pub async fn stop(&mut self, deadline: Duration) -> anyhow::Result<Exit> {
        self.signal(Signal::SIGTERM)?;
        self.wait(deadline).await
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let log = self.process.log();
        let lines: Vec<&str> = log.lines().collect();
        println!("---- the end of {}'s log", self.launch.name);
        for line in &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..] {
            println!("{line}");
        }
    }
}

/// The program under test: `SLOTLINE_BIN`, or what cargo builds beside this test.
pub fn slotline_binary() -> anyhow::Result<PathBuf> {
    match std::env::var_os("SLOTLINE_BIN") {
        Some(path) => Ok(path.into()),
        None => built("slotline"),
    }
}

/// The command that test actions run.
pub fn stamp_binary() -> anyhow::Result<PathBuf> {
    built("stamp")
}

/// A program of this workspace, made up to date once per test process: cargo itself does not know that a test of one
/// package runs the program of another.
fn built(name: &str) -> anyhow::Result<PathBuf> {
    static FOLDER: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| build().map_err(|error| format!("{error:#}")));
    let path = folder.as_ref().map_err(|error| anyhow::anyhow!("{error}"))?.join(name);
    ensure!(path.exists(), "{} is missing", path.display());
    Ok(path)
}

fn build() -> anyhow::Result<PathBuf> {
    let test = std::env::current_exe()?;
    let deps = test.parent().context("a test lies in a folder")?;
    let folder = if deps.ends_with("deps") { deps.parent().context("deps lies in a folder")? } else { deps };
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--locked", "--workspace", "--bins"]);
    let folder = if folder.ends_with("release") {
        // What is measured is what is handed out.
        cargo.args(["--profile", "dist"]);
        folder.with_file_name("dist")
    } else {
        // With the tests, since they add features to what is shared: this is what `cargo test --workspace` builds
        // anyway.
        cargo.arg("--tests");
        folder.to_owned()
    };
    let done = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).output().context("cargo")?;
    ensure!(done.status.success(), "cargo build: {}\n{}", done.status, String::from_utf8_lossy(&done.stderr));
    Ok(folder)
}
