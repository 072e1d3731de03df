//! What a worker runs for an action: a command of its own configuration, never of the wire.
//!
//! Not here: how it is run (`process`), and reading files; the reader of a file resolves the relative paths in it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use slotline_protocol::parameters::{self, VARIABLE_PREFIX};
use slotline_protocol::{duration, message::AttemptKey};

use super::confine::{Confinement, Layers};
use super::env;
use super::os_user::OsUser;
use super::pool::Room;
use crate::duty::{OnDrain, Phase, Start};
use crate::report::progress;

/// The longest value of a parameter that is put into the environment.
pub const ENV_VALUE_BYTES_MAX: usize = 8 << 10;
/// The most bytes of parameters in the environment; the system allows some two megabytes in all.
pub(crate) const ENV_BYTES_MAX: usize = 512 << 10;
/// How much of a variable's name is shown.
const NAME_CHARS_SHOWN: usize = 100;
/// How much of a command's output is kept, unless its configuration sets another limit.
pub const OUTPUT_MAX: usize = 1 << 20;
/// Between SIGTERM and SIGKILL, unless the configuration sets another time.
pub const GRACE: Duration = Duration::from_secs(5);

/// How a command is run: `[action.run]` of an actions file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    /// Program and arguments; no shell unless it is named.
    pub command: Vec<String>,
    #[serde(default)]
    pub cwd: Option<PathBuf>,
    /// Set in addition to what the command gets of the worker's own environment: see [`crate::ENV_PASSED`].
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Further variables of the worker's own environment that the command gets: names, or beginnings of names and `*`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env_pass: Vec<String>,
    /// The user that the command runs as, with that user's groups. The worker must be allowed to become that user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// It may gain privileges by what it executes, as with `sudo`. A process that became another user in this way may
    /// be out of reach of its worker: then it keeps its slot for as long as it runs, and on a host that is cut off it
    /// may run on past its lease.
    #[serde(default, skip_serializing_if = "is_false")]
    pub allow_privileges: bool,
    /// It may see and signal processes that it did not start, as far as its user may: its worker, too.
    #[serde(default, skip_serializing_if = "is_false")]
    pub allow_processes: bool,
    /// Between SIGTERM and SIGKILL.
    #[serde(default = "grace", with = "duration")]
    pub grace: Duration,
    /// What happens to it when the worker is drained and the drain time-out has passed.
    #[serde(default)]
    pub on_drain: OnDrain,
    /// The most bytes of output that are kept and forwarded; what is cut is marked.
    #[serde(default = "output_max")]
    pub output_max: usize,
    /// It reports progress. A command with phases or tasks does so without this key.
    #[serde(default, skip_serializing_if = "is_false")]
    pub progress: bool,
    /// Its phases, in order: a report that names one has a percent by their weights.
    #[serde(default, deserialize_with = "Phase::read", skip_serializing_if = "Vec::is_empty")]
    pub phases: Vec<Phase>,
    /// It reports tasks within its run.
    #[serde(default, skip_serializing_if = "is_false")]
    pub tasks: bool,
}

fn is_false(value: &bool) -> bool {
    !value
}

fn grace() -> Duration {
    GRACE
}

fn output_max() -> usize {
    OUTPUT_MAX
}

impl RunConfig {
    /// A command with the default of every other setting.
    pub fn new<S: Into<String>>(command: impl IntoIterator<Item = S>) -> Self {
        Self {
            command: command.into_iter().map(Into::into).collect(),
            cwd: None,
            env: BTreeMap::new(),
            env_pass: Vec::new(),
            user: None,
            allow_privileges: false,
            allow_processes: false,
            grace: GRACE,
            on_drain: OnDrain::default(),
            output_max: OUTPUT_MAX,
            progress: false,
            phases: Vec::new(),
            tasks: false,
        }
    }

    /// Resolves a relative `cwd`, and a program given by a relative path, against the folder of the file that names
    /// them.
    #[must_use]
    pub fn resolved(mut self, folder: &Path) -> Self {
        if let Some(program) = self.command.first_mut()
            && program.contains('/')
            && Path::new(program.as_str()).is_relative()
        {
            let base = self.cwd.as_ref().map_or_else(|| folder.to_owned(), |cwd| folder.join(cwd));
            *program = base.join(&*program).to_string_lossy().into_owned();
        }
        self.cwd = Some(self.cwd.map_or_else(|| folder.to_owned(), |cwd| folder.join(cwd)));
        self
    }
}

/// A command as this host runs it.
#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) config: RunConfig,
    pub(crate) confinement: Confinement,
    pub(crate) room: Room,
    /// What it gets of the worker's environment, and of its user's, beside what all commands get.
    passed: Vec<(String, String)>,
}

impl Command {
    /// Looks up what the configuration names. An error names the key, what is wrong with it, and how to correct it.
    pub(crate) fn prepare(config: RunConfig, layers: Layers) -> Result<Self, String> {
        if config.command.first().is_none_or(String::is_empty) {
            return Err("its command is empty".to_owned());
        }
        if let Some(refusal) = config.env_pass.iter().find_map(|pattern| env::refusal(pattern)) {
            return Err(format!("env_pass: {refusal}"));
        }
        let account = config.user.as_deref().map(OsUser::find).transpose()?;
        let own = env::passed(config.env_pass.iter().map(String::as_str), std::env::vars_os());
        let own = own.into_iter().filter_map(|(name, value)| name.into_string().ok().zip(value.into_string().ok()));
        let (ids, home) = account.map_or((None, Vec::new()), |account| (account.ids, account.env));
        let (allow_privileges, allow_processes) = (config.allow_privileges, config.allow_processes);
        let confinement = Confinement { allow_privileges, allow_processes, account: ids };
        let room = if layers.namespace && !allow_processes { Room::Own } else { Room::Shared };
        Ok(Self { config, confinement, room, passed: home.into_iter().chain(own).collect() })
    }

    /// What the heartbeat lists for it beside what all commands can do: what holds it, and what it is allowed.
    pub(crate) fn capabilities(&self, layers: Layers) -> Vec<&'static str> {
        let Confinement { allow_privileges, allow_processes, .. } = self.confinement;
        let mut said = vec![layers.capability(&self.confinement)];
        said.extend(allow_privileges.then_some("allow-privileges"));
        said.extend(allow_processes.then_some("allow-processes"));
        said
    }
}

/// What every attempt of a command finds in its environment.
pub(crate) fn lasting(Command { config, passed, .. }: &Command) -> Vec<(String, String)> {
    let own = config.env.iter().map(|(name, value)| (name.clone(), value.clone()));
    passed.iter().cloned().chain(own).collect()
}

/// What one attempt adds to a command's environment.
pub(crate) fn environment(
    command: &Command,
    start: &Start,
    result_file: &Path,
    socket: Option<&Path>,
    parameters: &Variables,
) -> Vec<(String, String)> {
    let (id, grant): AttemptKey = start.key;
    let mut env = lasting(command);
    let mut set = |name: &str, value: String| env.push((name.to_owned(), value));
    set("SLOTLINE_EXECUTION_ID", id.to_string());
    set("SLOTLINE_ATTEMPT", start.counts_as.to_string());
    set("SLOTLINE_GRANT", grant.to_string());
    set("SLOTLINE_FENCE", start.fence.to_string());
    set("SLOTLINE_ACTION_REF", start.action_ref.to_string());
    set("SLOTLINE_RESULT_FILE", result_file.to_string_lossy().into_owned());
    if let Some(socket) = socket {
        set(progress::SOCKET, socket.to_string_lossy().into_owned());
    }
    env.extend(parameters.set.iter().cloned());
    env
}

/// The parameters of an attempt, as its command finds them in the environment.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Variables {
    set: Vec<(String, String)>,
    /// Parameters that are too long for the environment; stdin has them.
    left_out: Vec<String>,
}

impl Variables {
    /// `SLOTLINE_PARAM_<NAME>` of each top-level parameter: strings as they are, everything else as the JSON that was
    /// published. An error names why a command could not rely on them.
    pub(crate) fn read(json: &str) -> Result<Self, String> {
        // An executor refuses such requests, but a request may have been accepted by another version.
        parameters::check(json).map_err(|invalid| invalid.to_string())?;
        let members: BTreeMap<String, &RawValue> =
            serde_json::from_str(json).map_err(|error| format!("parameters: {error}"))?;
        let (mut variables, mut bytes) = (Self::default(), 0);
        for (member, value) in members {
            let name = format!("{VARIABLE_PREFIX}{}", parameters::variable(&member));
            let value = match value.get() {
                text if text.starts_with('"') => {
                    serde_json::from_str(text).map_err(|error| format!("parameters/{member}: {error}"))?
                }
                other => other.to_owned(),
            };
            if value.contains('\0') {
                return Err(format!("parameters/{member}: expected no U+0000, which no environment variable can hold"));
            }
            // The system counts a pointer for each.
            let cost = name.len() + value.len() + 10;
            if value.len() > ENV_VALUE_BYTES_MAX || name.len() > ENV_VALUE_BYTES_MAX || bytes + cost > ENV_BYTES_MAX {
                variables.left_out.push(name);
            } else {
                bytes += cost;
                variables.set.push((name, value));
            }
        }
        Ok(variables)
    }

    /// A line for the execution's log about the parameters that are left out.
    pub(crate) fn notice(&self) -> Option<String> {
        let first = self.left_out.first()?;
        let name: String = first.chars().take(NAME_CHARS_SHOWN).collect();
        let more = match self.left_out.len() - 1 {
            0 => String::new(),
            others => format!(" and {others} more"),
        };
        Some(format!("too long for the environment and left out of it: {name}{more}; stdin has all parameters"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_upper_case_and_strings_are_bare() {
        let env = Variables::read(
            r#"{"app": "web \u0041", "max-size": 3, "on": true, "list": [1, "a"], "none": null, "n": 12345678901234567890.10}"#,
        )
        .expect("they are taken");
        let find = |name: &str| env.set.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str());
        assert_eq!(find("SLOTLINE_PARAM_APP"), Some("web A"));
        assert_eq!(find("SLOTLINE_PARAM_MAX_SIZE"), Some("3"));
        assert_eq!(find("SLOTLINE_PARAM_ON"), Some("true"));
        assert_eq!(find("SLOTLINE_PARAM_LIST"), Some("[1, \"a\"]"));
        assert_eq!(find("SLOTLINE_PARAM_NONE"), Some("null"));
        assert_eq!(find("SLOTLINE_PARAM_N"), Some("12345678901234567890.10"), "digit by digit");
        assert_eq!(env.notice(), None);
    }

    #[test]
    fn parameters_that_a_command_could_not_rely_on_are_an_error_by_name_and_never_just_missing() {
        for (json, pointer) in [
            (r#"{"app": "web", "note": "cut \ud83d"}"#, "parameters/note"),
            (r#"{"app": "web", "n": 1e400}"#, "parameters/n"),
            (r#"{"my_app": "good", "my~app": "EVIL"}"#, "parameters/my~0app"),
            (r#"{"a": "x\u0000y"}"#, "parameters/a"),
            ("[1]", "parameters"),
        ] {
            let error = Variables::read(json).expect_err(json);
            assert!(error.starts_with(pointer), "{json}: {error}");
        }
    }

    #[test]
    fn a_parameter_at_the_limit_is_passed_and_one_past_it_is_left_out_and_named() {
        let json = |length: usize| format!("{{\"a\":\"{}\"}}", "x".repeat(length));
        let passed = Variables::read(&json(ENV_VALUE_BYTES_MAX)).expect("short enough");
        assert_eq!((passed.set.len(), passed.notice()), (1, None));
        let left_out = Variables::read(&json(ENV_VALUE_BYTES_MAX + 1)).expect("stdin has it");
        assert_eq!(left_out.set, []);
        assert!(left_out.notice().is_some_and(|notice| notice.contains("SLOTLINE_PARAM_A")), "{left_out:?}");
    }

    #[test]
    fn many_parameters_never_exceed_what_the_system_takes() {
        let many: Vec<String> = (0..40_000).map(|i| format!("\"p{i}\": {i}")).collect();
        let env = Variables::read(&format!("{{{}}}", many.join(","))).expect("stdin has all");
        let bytes = env.set.iter().map(|(n, v)| n.len() + v.len()).sum::<usize>();
        assert!(!env.set.is_empty() && bytes <= ENV_BYTES_MAX);
        assert!(env.notice().is_some_and(|notice| notice.contains("more")), "the rest is named");
    }

    #[test]
    fn unknown_keys_are_refused() {
        let error = serde_json::from_str::<RunConfig>(r#"{"command": ["a"], "comand": 1}"#).expect_err("unknown key");
        assert!(error.to_string().contains("comand"), "{error}");
    }

    #[test]
    fn phases_are_read_with_their_weights_and_refused_by_the_field() {
        let read = |phases: &str| {
            serde_json::from_str::<RunConfig>(&format!("{{\"command\": [\"a\"], \"phases\": {phases}}}"))
                .map(|config| config.phases)
                .map_err(|error| error.to_string())
        };
        let phases = read(r#"[{"name": "pull", "weight": 2}, {"name": "start"}]"#);
        assert_eq!(phases, Ok(vec![Phase::new("pull", 2), Phase::new("start", 1)]));
        for (phases, field) in [
            (r#"[{"name": "pull", "weight": 0}]"#, "phases[0].weight"),
            (r#"[{"name": "pull"}, {"name": "pull"}]"#, "phases[1].name"),
            (r#"[{"name": "pull", "wait": 1}]"#, "wait"),
            (r#"[{"name": "pull", "weight": -1}]"#, "-1"),
        ] {
            let error = read(phases).expect_err(phases);
            assert!(error.contains(field), "{error}");
        }
    }

    #[test]
    fn relative_paths_are_taken_from_the_folder_of_the_file() {
        let config = RunConfig::new(["./deploy.sh", "./x"]).resolved(Path::new("/etc/slotline"));
        assert_eq!(config.command, ["/etc/slotline/./deploy.sh", "./x"]);
        assert_eq!(config.cwd.as_deref(), Some(Path::new("/etc/slotline")));
        let config = RunConfig { cwd: Some("jobs".into()), ..RunConfig::new(["sh"]) }.resolved(Path::new("/etc"));
        assert_eq!((config.command[0].as_str(), config.cwd.as_deref()), ("sh", Some(Path::new("/etc/jobs"))));
    }
}
