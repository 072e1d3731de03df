//! `slotline dev` and a shell, to run the commands in a document.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use slotline_tests::{Daemon, Launch, Sandbox, eventually_blocking, slotline_binary};

use crate::page::root;

const SOON: Duration = Duration::from_secs(60);
/// An example ends within this time, or is one that goes on for ever.
const EXAMPLE_WITHIN: &str = "20";

/// The API as documents name it.
const DOCUMENTED_URL: &str = "http://127.0.0.1:7070";

/// `slotline dev` with a journal of its own.
pub(crate) struct World {
    dev: Daemon,
    sandbox: Sandbox,
}

/// The result of a line in a shell.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    #[expect(dead_code, reason = "shown by a test that fails")]
    pub(crate) stderr: String,
}

impl World {
    /// Returns once its own examples, and the actions of `file`, can be used.
    pub(crate) fn start(file: Option<&str>) -> Result<Self> {
        let sandbox = Sandbox::new("documents")?;
        let path = |name| sandbox.path().join(name).to_str().map(str::to_owned).context("UTF-8");
        let (data, actions) = (path("data")?, path("actions.toml")?);
        let mut arguments = vec!["dev", "--data", &data];
        if let Some(file) = file {
            std::fs::write(&actions, file)?;
            arguments.extend(["--actions", &actions]);
        }
        let mut dev = Launch::new("dev", &arguments).start_listening(&sandbox)?;
        eventually_blocking("dev says what to type", SOON, || {
            ensure!(dev.is_running()?, "dev ended:\n{}", dev.log());
            Ok(dev.log().contains("Try:").then_some(()))
        })?;
        Ok(Self { dev, sandbox })
    }

    /// Runs lines of a document in a shell, from the root of the tree, with the program on the PATH and the API where
    /// it is here.
    pub(crate) fn shell(&self, lines: &str) -> Result<Done> {
        self.run(&["sh", "-euc", &lines.replace(DOCUMENTED_URL, &self.dev.api_url())], EXAMPLE_WITHIN)
    }

    /// The same for what goes on until it is stopped: for two seconds.
    pub(crate) fn shell_for_a_while(&self, lines: &str) -> Result<Done> {
        self.run(&["sh", "-euc", &lines.replace(DOCUMENTED_URL, &self.dev.api_url())], "2")
    }

    pub(crate) fn python(&self, lines: &str) -> Result<Done> {
        self.run(&["/usr/bin/python3", "-c", &lines.replace(DOCUMENTED_URL, &self.dev.api_url())], EXAMPLE_WITHIN)
    }

    fn run(&self, command: &[&str], seconds: &str) -> Result<Done> {
        let program = slotline_binary()?;
        let folder = program.parent().context("a program is in a folder")?;
        let path = format!("{}:{}", folder.display(), std::env::var("PATH")?);
        let mut run = Command::new("timeout");
        run.arg(seconds).args(command).current_dir(root()).env("PATH", path).env("HOME", self.sandbox.path());
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SLOTLINE_")) {
            run.env_remove(name);
        }
        let done = run.env("SLOTLINE_API_URL", self.dev.api_url()).output()?;
        Ok(Done {
            code: done.status.code(),
            stdout: String::from_utf8_lossy(&done.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&done.stderr).into_owned(),
        })
    }
}
