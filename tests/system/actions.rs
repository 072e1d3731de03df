//! The actions of a test, as a file that `apply` and workers read.

use std::fmt::Write;
use std::path::Path;

use crate::world::PYTHON;

/// The folder of the library for handlers in Python.
pub(crate) const LIBRARY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../crates/worker/python");
const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/system");
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
    /// A function of `handlers.py`, several at once in one process.
    Python,
    /// A handler process that does what `strays.py` documents under that name.
    Stray(String),
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

    /// An action that `handlers.py` has a function for; `line.one` and `line.three` do there what `stamp` does.
    pub(crate) fn python(action_ref: &str, policy: &str) -> Self {
        Self::new(action_ref, policy, Runs::Python)
    }

    /// An action whose handler process breaks the rules in the way of that name.
    pub(crate) fn stray(action_ref: &str, policy: &str, way: &str) -> Self {
        Self::new(action_ref, policy, Runs::Stray(way.to_owned()))
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
    let mut text = handlers(actions, stamps);
    for action in actions {
        let stamp = env!("CARGO_BIN_EXE_stamp").to_owned();
        let command = match &action.runs {
            Runs::Stamp => vec![stamp, stamps.display().to_string()],
            // Without the modules of its site: it starts in half the time.
            Runs::Reports => [PYTHON, "-IS", REPORTER, &gates.display().to_string()].map(str::to_owned).to_vec(),
            Runs::Command(command) => command.clone(),
            Runs::Python | Runs::Stray(_) => Vec::new(),
        };
        let what = match &action.runs {
            Runs::Python => "handler = \"python\"".to_owned(),
            Runs::Stray(way) => format!("handler = {way:?}"),
            Runs::Stamp | Runs::Reports | Runs::Command(_) => format!("command = {command:?}"),
        };
        write!(
            text,
            "[[action]]\nref = {:?}\n{}\n[action.run]\n{what}\ngrace = \"1s\"\n{}\n",
            action.action_ref, action.policy, action.run
        )
        .expect("a string takes all");
    }
    text
}

/// The handler processes that the actions need.
fn handlers(actions: &[Action], stamps: &Path) -> String {
    let mut text = String::new();
    if actions.iter().any(|action| matches!(action.runs, Runs::Python)) {
        let env = format!("{{ PYTHONPATH = {LIBRARY:?}, PYTHONDONTWRITEBYTECODE = \"1\", STAMPS = {stamps:?} }}");
        let command = [PYTHON, "-m", "slotline", "handlers:app"];
        text += &handler(
            "python",
            &command,
            &format!("cwd = {FOLDER:?}\nenv = {env}\nconcurrency = 4\nstart_timeout = \"60s\""),
        );
    }
    for action in actions {
        if let Runs::Stray(way) = &action.runs {
            let start_timeout = if way == "mute" { "2s" } else { "60s" };
            let lines = format!("start_timeout = {start_timeout:?}");
            text += &handler(way, &[PYTHON, "-IS", &format!("{FOLDER}/strays.py"), way], &lines);
        }
    }
    text
}

fn handler(name: &str, command: &[&str], lines: &str) -> String {
    format!("[[handler]]\nname = {name:?}\ncommand = {command:?}\ngrace = \"1s\"\n{lines}\n")
}
