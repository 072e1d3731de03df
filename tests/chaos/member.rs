//! One process of the installation: started, ended by faults, and started again as before.

use std::path::Path;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::ensure;
use nix::sys::signal::Signal;
use slotline_tests::{Guarded, Sandbox, eventually, slotline_binary};

/// How long a killed process may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(20);

/// An executor or a worker.
pub(crate) struct Member {
    pub(crate) name: String,
    arguments: Vec<String>,
    sandbox: Sandbox,
    process: Guarded,
}

impl Member {
    /// Starts `slotline <arguments>`; `variables` hold for this start alone.
    pub(crate) fn start(
        sandbox: &Sandbox,
        name: &str,
        arguments: Vec<String>,
        variables: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        let process = spawn(sandbox, name, &arguments, variables)?;
        Ok(Self { name: name.to_owned(), arguments, sandbox: sandbox.clone(), process })
    }

    /// Starts it again after its end.
    pub(crate) fn start_again(&mut self, variables: &[(&str, &str)]) -> anyhow::Result<()> {
        ensure!(self.ended()?.is_some(), "{} runs", self.name);
        self.process = spawn(&self.sandbox, &self.name, &self.arguments, variables)?;
        Ok(())
    }

    /// How it ended; `None` while it runs.
    pub(crate) fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        self.process.try_wait()
    }

    /// To the process alone, not to what it started.
    pub(crate) fn signal(&mut self, signal: Signal) -> anyhow::Result<()> {
        self.process.signal(signal)
    }

    /// SIGKILL to the process alone. Gone when this returns.
    pub(crate) async fn kill(&mut self) -> anyhow::Result<()> {
        self.signal(Signal::SIGKILL)?;
        self.end(GONE_WITHIN).await.map(drop)
    }

    /// Waits for its end.
    pub(crate) async fn end(&mut self, within: Duration) -> anyhow::Result<ExitStatus> {
        eventually(&format!("{} ends", self.name), within, async || self.process.try_wait()).await
    }

    pub(crate) fn log(&self) -> String {
        self.process.log()
    }
}

fn spawn(sandbox: &Sandbox, name: &str, arguments: &[String], variables: &[(&str, &str)]) -> anyhow::Result<Guarded> {
    let mut command = slotline(sandbox.path())?;
    command.args(arguments).envs(variables.iter().copied());
    sandbox.spawn(&mut command, &format!("{name}.log"))
}

/// The program, without the `SLOTLINE_` variables of the developer's shell.
pub(crate) fn slotline(home: &Path) -> anyhow::Result<Command> {
    let mut command = Command::new(slotline_binary()?);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("SLOTLINE_") {
            command.env_remove(name);
        }
    }
    command.current_dir(home).env("HOME", home).env("NO_COLOR", "1");
    Ok(command)
}
