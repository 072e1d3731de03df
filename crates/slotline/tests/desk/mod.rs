//! A folder and the program in it, for tests of its output without any server.
#![allow(dead_code, reason = "each test program uses some of it")]

use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

/// A folder to work in, and the program in it with only the environment that a test gives.
pub(crate) struct Desk(TempDir);

impl Desk {
    pub(crate) fn new() -> anyhow::Result<Self> {
        Ok(Self(tempfile::tempdir()?))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> anyhow::Result<()> {
        Ok(std::fs::write(self.path().join(name), text)?)
    }

    pub(crate) fn command(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_slotline"));
        command.current_dir(self.path()).env_clear().args(arguments).envs(environment.iter().copied());
        command
    }

    pub(crate) fn slotline(&self, arguments: &[&str], environment: &[(&str, &str)]) -> anyhow::Result<Output> {
        Ok(self.command(arguments, environment).output()?)
    }

    /// Changes a journal as another program might: whether that worked.
    pub(crate) fn sql(&self, file: &str, statement: &str) -> anyhow::Result<bool> {
        const RUN: &str = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute(sys.argv[2]); c.commit()";
        let mut python = Command::new("/usr/bin/python3");
        python.args(["-c", RUN]).arg(self.path().join(file)).arg(statement);
        Ok(python.status()?.success())
    }

    /// Its exit code and its stderr.
    pub(crate) fn fails(
        &self,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> anyhow::Result<(Option<i32>, String)> {
        let output = self.slotline(arguments, environment)?;
        anyhow::ensure!(!output.status.success(), "{arguments:?} did not fail");
        anyhow::ensure!(output.stdout.is_empty(), "{arguments:?} failed and still gave a result");
        Ok((output.status.code(), String::from_utf8(output.stderr)?))
    }
}
