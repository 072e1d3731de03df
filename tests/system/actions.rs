//! The actions of a test, as a file that `apply` and workers read.

use std::fmt::Write;
use std::path::Path;

use crate::world::PYTHON;

const REPORTER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/system/report.py");

/// One `[[action]]`.
#[derive(Clone, Debug)]
pub(crate) struct Action {
    action_ref: String,
    policy: String,
    runs: Runs,
    /// Further lines of `[action.run]`.
    run: String,
}

#[derive(Clone, Debug)]
enum Runs {
    /// The program that stamps its start and end.
    Stamp,
    /// The program that reports as its parameters demand.
    Reports,
    Command(Vec<String>),
}

impl Action {
    /// An action that runs `stamp`. `policy` is TOML, such as `limit = 1`.
    pub(crate) fn stamp(action_ref: &str, policy: &str) -> Self {
        Self::new(action_ref, policy, Runs::Stamp)
    }

    /// An action that runs `report.py`, which documents its parameters.
    pub(crate) fn reports(action_ref: &str, policy: &str) -> Self {
        Self::new(action_ref, policy, Runs::Reports).run("progress = true")
    }

    pub(crate) fn command(action_ref: &str, policy: &str, command: &[&str]) -> Self {
        let command = command.iter().map(|&word| word.to_owned()).collect();
        Self::new(action_ref, policy, Runs::Command(command))
    }

    fn new(action_ref: &str, policy: &str, runs: Runs) -> Self {
        Self { action_ref: action_ref.to_owned(), policy: policy.to_owned(), runs, run: String::new() }
    }

    /// With this line of TOML in its `[action.run]`.
    pub(crate) fn run(mut self, line: &str) -> Self {
        self.run.push_str(line);
        self.run.push('\n');
        self
    }
}

/// The file's text. `grace` of every command is short, so that tests of it are.
pub(crate) fn file(actions: &[Action], stamps: &Path, gates: &Path) -> String {
    let mut text = String::new();
    for action in actions {
        let stamp = env!("CARGO_BIN_EXE_stamp").to_owned();
        let command = match &action.runs {
            Runs::Stamp => vec![stamp, stamps.display().to_string()],
            // Without the modules of its site: it starts in half the time.
            Runs::Reports => [PYTHON, "-IS", REPORTER, &gates.display().to_string()].map(str::to_owned).to_vec(),
            Runs::Command(command) => command.clone(),
        };
        write!(
            text,
            "[[action]]\nref = {:?}\n{}\n[action.run]\ncommand = {command:?}\ngrace = \"1s\"\n{}\n",
            action.action_ref, action.policy, action.run
        )
        .expect("a string takes all");
    }
    text
}
