//! The actions of a test, as a file that `apply` and workers read.

use std::fmt::Write;
use std::path::Path;

/// One `[[action]]`.
#[derive(Clone, Debug)]
pub(crate) struct Action {
    action_ref: String,
    policy: String,
    runs: Runs,
}

#[derive(Clone, Debug)]
enum Runs {
    /// The program that says when it started and ended.
    Stamp,
    Command(Vec<String>),
}

impl Action {
    /// An action whose attempts write stamps. `policy` is TOML, such as `limit = 1`.
    pub(crate) fn stamp(action_ref: &str, policy: &str) -> Self {
        Self { action_ref: action_ref.to_owned(), policy: policy.to_owned(), runs: Runs::Stamp }
    }

    pub(crate) fn command(action_ref: &str, policy: &str, command: &[&str]) -> Self {
        let command = command.iter().map(|&word| word.to_owned()).collect();
        Self { action_ref: action_ref.to_owned(), policy: policy.to_owned(), runs: Runs::Command(command) }
    }
}

/// The file's text. `grace` of every command is short, so that tests of it are.
pub(crate) fn file(actions: &[Action], stamps: &Path) -> String {
    let mut text = String::new();
    for action in actions {
        let stamp = env!("CARGO_BIN_EXE_stamp").to_owned();
        let command = match &action.runs {
            Runs::Stamp => vec![stamp, stamps.display().to_string()],
            Runs::Command(command) => command.clone(),
        };
        write!(
            text,
            "[[action]]\nref = {:?}\n{}\n[action.run]\ncommand = {command:?}\ngrace = \"1s\"\n\n",
            action.action_ref, action.policy
        )
        .expect("a string takes all");
    }
    text
}
