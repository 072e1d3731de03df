//! What an actions file declares of a handler process, and of the actions that it runs.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use slotline_protocol::duration;

use crate::duty::{OnDrain, Phase};
use crate::process::command::{Command, GRACE, OUTPUT_MAX, RunConfig};
use crate::process::confine::Layers;

/// How long a process may take to be ready, unless its configuration sets another time.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// A program that stays: `[[handler]]` of an actions file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HandlerConfig {
    pub name: String,
    /// Program and arguments; no shell unless it is named.
    pub command: Vec<String>,
    #[serde(default)]
    pub cwd: Option<PathBuf>,
    /// Set in addition to what commands get of the worker's own environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    #[serde(default)]
    pub env_pass: Vec<String>,
    /// The user that it runs as.
    #[serde(default)]
    pub user: Option<String>,
    /// The most processes; each is started when there is work for it.
    #[serde(default = "one")]
    pub processes: u32,
    /// The most attempts in one process. Those beside an attempt that has to be ended by force end with it.
    #[serde(default = "one")]
    pub concurrency: u32,
    /// How long a process may take from its start to its first line.
    #[serde(default = "start_timeout", with = "duration")]
    pub start_timeout: Duration,
    /// Between SIGTERM and SIGKILL, where a process is ended that breaks the protocol.
    #[serde(default = "grace", with = "duration")]
    pub grace: Duration,
    /// The most bytes of an attempt's output that are kept and forwarded; what is cut is marked.
    #[serde(default = "output_max")]
    pub output_max: usize,
}

/// How an action is run by a handler process: `[action.run]` with the key `handler`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HandlerRun {
    /// The name of a `[[handler]]`.
    pub handler: String,
    /// How long an attempt has to end after its cancellation; then its process is ended.
    #[serde(default = "grace", with = "duration")]
    pub grace: Duration,
    /// What happens to it when the worker is drained and the drain time-out has passed.
    #[serde(default)]
    pub on_drain: OnDrain,
    /// It reports progress. An action with phases or tasks does so without this key.
    #[serde(default)]
    pub progress: bool,
    /// Its phases, in order: a report that names one has a percent by their weights.
    #[serde(default, deserialize_with = "Phase::read")]
    pub phases: Vec<Phase>,
    /// It reports tasks within its run.
    #[serde(default)]
    pub tasks: bool,
}

fn one() -> u32 {
    1
}

fn start_timeout() -> Duration {
    START_TIMEOUT
}

fn grace() -> Duration {
    GRACE
}

fn output_max() -> usize {
    OUTPUT_MAX
}

impl HandlerConfig {
    /// A process with the default of every other setting.
    pub fn new<S: Into<String>>(name: impl Into<String>, command: impl IntoIterator<Item = S>) -> Self {
        Self {
            name: name.into(),
            command: command.into_iter().map(Into::into).collect(),
            cwd: None,
            env: BTreeMap::new(),
            env_pass: Vec::new(),
            user: None,
            processes: 1,
            concurrency: 1,
            start_timeout: START_TIMEOUT,
            grace: GRACE,
            output_max: OUTPUT_MAX,
        }
    }

    /// Resolves relative paths as those of a command.
    #[must_use]
    pub fn resolved(mut self, folder: &Path) -> Self {
        let RunConfig { command, cwd, .. } = self.run().resolved(folder);
        (self.command, self.cwd) = (command, cwd);
        self
    }

    /// What starts one process of it.
    fn run(&self) -> RunConfig {
        RunConfig {
            cwd: self.cwd.clone(),
            env: self.env.clone(),
            env_pass: self.env_pass.clone(),
            user: self.user.clone(),
            grace: self.grace,
            output_max: self.output_max,
            ..RunConfig::new(self.command.clone())
        }
    }
}

impl HandlerRun {
    /// By the handler of that name, with the default of every other setting.
    pub fn by(handler: impl Into<String>) -> Self {
        Self {
            handler: handler.into(),
            grace: GRACE,
            on_drain: OnDrain::default(),
            progress: false,
            phases: Vec::new(),
            tasks: false,
        }
    }
}

/// A declared handler as this host runs it.
#[derive(Debug)]
pub(crate) struct Resident {
    pub(crate) config: HandlerConfig,
    pub(crate) command: Arc<Command>,
}

impl Resident {
    /// An error names the key and how to correct it.
    fn prepare(config: HandlerConfig, layers: Layers) -> Result<Self, String> {
        for (key, value) in [("processes", config.processes), ("concurrency", config.concurrency)] {
            if value == 0 {
                return Err(format!("{key} is 0: expected at least 1"));
            }
        }
        let command = Arc::new(Command::prepare(config.run(), layers)?);
        Ok(Self { config, command })
    }

    /// Those of all actions, by their names.
    pub(crate) fn by_name(configs: Vec<HandlerConfig>) -> Result<BTreeMap<String, Arc<Self>>, String> {
        let mut residents: BTreeMap<String, Arc<Self>> = BTreeMap::new();
        for config in configs {
            let name = config.name.clone();
            let wrong = |wrong: String| format!("handler {name:?}: {wrong}");
            match residents.entry(name.clone()) {
                Entry::Occupied(known) if known.get().config == config => {}
                Entry::Occupied(_) => return Err(wrong("it is declared in two ways".to_owned())),
                Entry::Vacant(unknown) => {
                    unknown.insert(Arc::new(Self::prepare(config, Layers::probe()).map_err(wrong)?));
                }
            }
        }
        Ok(residents)
    }
}
