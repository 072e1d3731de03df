//! A running `slotline dev`, and the program as its client.
#![allow(dead_code, reason = "each test program uses some of it")]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// The longest wait for anything.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// A running `slotline dev`; killed when dropped.
pub(crate) struct Dev {
    pub(crate) folder: TempDir,
    pub(crate) process: Child,
    pub(crate) url: String,
}

pub(crate) fn program(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_slotline"));
    command.current_dir(folder).env_clear().env("PATH", "/usr/bin:/bin").args(arguments);
    command
}

impl Dev {
    /// Serves the actions of the text of an actions file, and the examples.
    pub(crate) fn start(actions: &str) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        std::fs::write(folder.path().join("actions.toml"), actions)?;
        Self::start_in(folder)
    }

    pub(crate) fn start_in(folder: TempDir) -> anyhow::Result<Self> {
        Self::start_with(folder, &[])
    }

    pub(crate) fn start_with(folder: TempDir, environment: &[(&str, &str)]) -> anyhow::Result<Self> {
        let arguments = ["dev", "--data", "data", "--actions", "actions.toml", "--listen", "127.0.0.1:0"];
        let log = std::fs::File::options().append(true).create(true).open(folder.path().join("log"))?;
        let mut command = program(folder.path(), &arguments);
        command.env("SLOTLINE_LOG_LEVEL", "info").envs(environment.iter().copied());
        let mut process = command.stdout(Stdio::piped()).stderr(log).spawn()?;
        let mut line = String::new();
        BufReader::new(process.stdout.take().context("a pipe")?).read_line(&mut line)?;
        let url = line.split([' ', ',']).find(|word| word.starts_with("http://")).context(line.clone())?.to_owned();
        Ok(Self { folder, process, url })
    }

    pub(crate) fn log(&self) -> anyhow::Result<String> {
        Ok(std::fs::read_to_string(self.folder.path().join("log"))?)
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = program(self.folder.path(), arguments);
        command.env("SLOTLINE_API_URL", &self.url);
        command
    }

    pub(crate) fn slotline(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        Ok(self.command(arguments).output()?)
    }

    pub(crate) fn json(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        let output = self.command(arguments).args(["--output", "json"]).output()?;
        ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// Waits until execution `id` has `status`.
    pub(crate) fn reaches(&self, id: &str, status: &str) -> anyhow::Result<Value> {
        let begun = Instant::now();
        loop {
            let execution = self.json(&["executions", "show", id])?;
            if execution["status"] == status {
                return Ok(execution);
            }
            ensure!(begun.elapsed() < SOON, "execution {id} does not become {status}: {execution}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Asks it to end, waits until it has, and gives back its folder.
    pub(crate) fn stop(self) -> anyhow::Result<TempDir> {
        self.stop_by(Signal::TERM)
    }

    pub(crate) fn stop_by(mut self, signal: Signal) -> anyhow::Result<TempDir> {
        interrupt(&self.process, signal)?;
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = self.process.try_wait()? {
                break status;
            }
            ensure!(begun.elapsed() < SOON, "it did not end by {signal:?}");
            std::thread::sleep(Duration::from_millis(20));
        };
        ensure!(status.success(), "{status}");
        Ok(std::mem::replace(&mut self.folder, tempfile::tempdir()?))
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // It has ended already where all went well.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub(crate) fn interrupt(process: &Child, signal: Signal) -> anyhow::Result<()> {
    let pid = Pid::from_raw(i32::try_from(process.id())?).context("a process id")?;
    Ok(kill_process(pid, signal)?)
}

pub(crate) fn printed(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
