//! The actions file: one for `apply` (policies), `worker --actions` (what each name runs), `dev` and `demo` (both).
//!
//! Not here: what the keys of a policy or of `[action.run]` mean; those are `Policy` and `RunConfig`.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use slotline_protocol::{ActionRef, Policy, did_you_mean};
use slotline_worker::{Builder, HandlerConfig, HandlerRun, RunConfig};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::settings::toml_file::{Error, TomlFile, locate};

/// The actions that `dev` and `demo` bring along.
const EXAMPLES: &str = include_str!("../../examples/actions.toml");

/// The variable with the path of this program, so that a command can report with `"$SLOTLINE_BIN" progress`.
const PROGRAM: &str = "SLOTLINE_BIN";

/// One `[[action]]`.
#[derive(Clone, Debug)]
pub(crate) struct DeclaredAction {
    pub(crate) action_ref: ActionRef,
    pub(crate) policy: Policy,
    /// What a worker runs for it, if the file has an `[action.run]` table.
    pub(crate) run: Option<Run>,
}

/// `[action.run]`.
#[derive(Clone, Debug)]
pub(crate) enum Run {
    Command(RunConfig),
    Handler(HandlerConfig, HandlerRun),
}

impl Run {
    /// Has the worker serve the action.
    pub(crate) fn serve(self, builder: Builder, action_ref: &ActionRef) -> Builder {
        match self {
            Self::Command(config) => builder.command(action_ref.as_str(), config),
            Self::Handler(process, run) => builder.handled(action_ref.as_str(), process, run),
        }
    }
}

/// Reads the file at `path`. Relative paths in it start at its folder.
pub(crate) fn read(path: &Path) -> Result<Vec<DeclaredAction>, Error> {
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    parse(&TomlFile::read(path)?, &folder)
}

/// Warnings about what is allowed but probably not meant.
pub(crate) fn doubts(actions: &[DeclaredAction]) -> Vec<String> {
    let is_doubtful = |policy: &Policy| policy.key_limit.is_some() && policy.key.is_none() && !policy.key_required;
    let of = |DeclaredAction { action_ref, .. }: &DeclaredAction| {
        format!(
            "{action_ref}: `key_limit` holds for each concurrency key, and no `key` says where it is: requests must give \
             `concurrency_key`, and those without one share one line; set `key = \"/name\"`, or `key_required = true`"
        )
    };
    actions.iter().filter(|action| is_doubtful(&action.policy)).map(of).collect()
}

/// The example actions.
pub(crate) fn examples() -> Vec<DeclaredAction> {
    let toml = TomlFile::new(Path::new("examples/actions.toml"), EXAMPLES.to_owned());
    parse(&toml, Path::new("/")).expect("the examples that come with the program are sound")
}

/// The example actions and those of `path`; where both have a name, that of `path` counts.
pub(crate) fn with_examples(path: Option<&Path>) -> Result<Vec<DeclaredAction>, Error> {
    let mut actions = path.map(read).transpose()?.unwrap_or_default();
    let own: HashSet<ActionRef> = actions.iter().map(|action| action.action_ref.clone()).collect();
    actions.extend(examples().into_iter().filter(|example| !own.contains(&example.action_ref)));
    Ok(actions)
}

fn parse(toml: &TomlFile, folder: &Path) -> Result<Vec<DeclaredAction>, Error> {
    let mut table = toml.table()?.into_inner();
    let entries = table.remove("action");
    let handlers = handlers(toml, folder, table.remove("handler"))?;
    if let Some((key, _)) = table.iter().next() {
        let hint = did_you_mean(key.get_ref(), &["action", "handler"]);
        return Err(toml.wrong(Some(key.span()), format!("unknown key `{}`{hint}", key.get_ref())));
    }
    let Some(entries) = entries else {
        return Err(toml.wrong(None, "the file holds no action: expected tables, each headed [[action]]"));
    };
    let span = entries.span();
    let DeValue::Array(entries) = entries.into_inner() else {
        return Err(toml.wrong(Some(span), "action: expected tables, each headed [[action]]"));
    };
    let mut actions = Vec::new();
    let mut lines = HashMap::new();
    for (index, entry) in entries.into_iter().enumerate() {
        let span = entry.span();
        let line = toml.line(span.start);
        let DeValue::Table(entry) = entry.into_inner() else {
            return Err(toml.wrong(Some(span), format!("action[{index}]: expected a table, headed [[action]]")));
        };
        let action = action(toml, folder, &handlers, Spanned::new(span.clone(), entry), index)?;
        if let Some(earlier) = lines.insert(action.action_ref.clone(), line) {
            let message =
                format!("the action {} is declared twice, first at line {earlier}: leave one", action.action_ref);
            return Err(toml.wrong(Some(span), message));
        }
        actions.push(action);
    }
    Ok(actions)
}

/// The tables headed `[[handler]]`, by their names.
fn handlers(
    toml: &TomlFile,
    folder: &Path,
    entries: Option<Spanned<DeValue<'_>>>,
) -> Result<HashMap<String, HandlerConfig>, Error> {
    let mut handlers = HashMap::new();
    let Some(entries) = entries else { return Ok(handlers) };
    let expected = "handler: expected tables, each headed [[handler]]";
    let span = entries.span();
    let DeValue::Array(entries) = entries.into_inner() else { return Err(toml.wrong(Some(span), expected)) };
    for (index, entry) in entries.into_iter().enumerate() {
        let span = entry.span();
        let DeValue::Table(entry) = entry.into_inner() else { return Err(toml.wrong(Some(span), expected)) };
        let config: HandlerConfig = toml.parse(Spanned::new(span.clone(), entry), &format!("handler[{index}]"))?;
        let name = config.name.clone();
        if config.command.first().is_none_or(String::is_empty) {
            let message = format!("handler {name}: command: expected a program and its arguments");
            return Err(toml.wrong(Some(span), message));
        }
        let mut config = config.resolved(folder);
        name_program(&mut config.env);
        if handlers.insert(name.clone(), config).is_some() {
            return Err(toml.wrong(Some(span), format!("the handler {name} is declared twice: leave one")));
        }
    }
    Ok(handlers)
}

/// Adds the variable with the path of this program.
fn name_program(env: &mut BTreeMap<String, String>) {
    if let (Entry::Vacant(unset), Ok(program)) = (env.entry(PROGRAM.to_owned()), std::env::current_exe()) {
        unset.insert(program.to_string_lossy().into_owned());
    }
}

fn action(
    toml: &TomlFile,
    folder: &Path,
    handlers: &HashMap<String, HandlerConfig>,
    entry: Spanned<DeTable<'_>>,
    index: usize,
) -> Result<DeclaredAction, Error> {
    let whole = entry.span();
    let mut entry = entry.into_inner();
    let Some(name) = entry.remove("ref") else {
        return Err(toml.wrong(Some(whole), format!("action[{index}]: the key `ref` is missing")));
    };
    let action_ref = match name.get_ref().as_str() {
        Some(text) => ActionRef::new(text).map_err(|error| error.to_string()),
        None => Err("expected a string".to_owned()),
    }
    .map_err(|message| toml.wrong(Some(name.span()), format!("action[{index}].ref: {message}")))?;
    let run = match entry.remove("run") {
        Some(run) => Some(self::run(toml, folder, handlers, run, &format!("{action_ref}: run"))?),
        None => None,
    };
    let policy: Policy = toml.parse(Spanned::new(whole.clone(), entry.clone()), action_ref.as_str())?;
    policy.check().map_err(|error| {
        let span = locate(&entry, error.field).unwrap_or(whole);
        // TOML has no null; in a file the key is left out.
        let message = error.message.replace(", or null for", ", or left out for");
        toml.wrong(Some(span), format!("{action_ref}.{}: {message}", error.field))
    })?;
    Ok(DeclaredAction { action_ref, policy, run })
}

fn run(
    toml: &TomlFile,
    folder: &Path,
    handlers: &HashMap<String, HandlerConfig>,
    run: Spanned<DeValue<'_>>,
    name: &str,
) -> Result<Run, Error> {
    let span = run.span();
    let DeValue::Table(table) = run.into_inner() else {
        return Err(toml.wrong(Some(span), format!("{name}: expected a table, headed [action.run]")));
    };
    if table.contains_key("handler") {
        let run: HandlerRun = toml.parse(Spanned::new(span.clone(), table), name)?;
        let Some(process) = handlers.get(&run.handler) else {
            let known: Vec<&str> = handlers.keys().map(String::as_str).collect();
            let hint = did_you_mean(&run.handler, &known);
            return Err(
                toml.wrong(Some(span), format!("{name}.handler: no [[handler]] is named {:?}{hint}", run.handler))
            );
        };
        return Ok(Run::Handler(process.clone(), run));
    }
    let run: RunConfig = toml.parse(Spanned::new(span.clone(), table), name)?;
    if run.command.first().is_none_or(String::is_empty) {
        return Err(toml.wrong(Some(span), format!("{name}.command: expected a program and its arguments")));
    }
    let mut run = run.resolved(folder);
    name_program(&mut run.env);
    Ok(Run::Command(run))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<DeclaredAction>, String> {
        let toml = TomlFile::new(Path::new("actions.toml"), text.to_owned());
        parse(&toml, Path::new("/srv")).map_err(|error| error.to_string())
    }

    #[test]
    fn one_action_has_a_policy_and_what_to_run() {
        let actions = read(
            r#"
            [[action]]
            ref = "deploy.app"
            limit = 1
            key = "/tenant"
            timeout = "60s"
            retry = { max_attempts = 3, backoff = "1s" }
            schema = { type = "object", required = ["app"] }
            [action.run]
            command = ["./deploy.sh", "./untouched"]
            cwd = "work"
            env = { STAGE = "prod" }
            [[action]]
            ref = "demo.echo"
            "#,
        )
        .expect("a sound file");
        assert_eq!(actions.len(), 2);
        assert_eq!(actions[0].policy.limit, Some(1));
        assert_eq!(actions[0].policy.retry.max_attempts, 3);
        let Some(Run::Command(run)) = &actions[0].run else { panic!("it runs a command") };
        assert_eq!(run.command, ["/srv/work/./deploy.sh", "./untouched"]);
        assert_eq!(run.cwd.as_deref(), Some(Path::new("/srv/work")));
        let program = std::env::current_exe().expect("a test has a program");
        assert_eq!(run.env[PROGRAM], program.to_string_lossy());
        assert_eq!(run.env["STAGE"], "prod");
        assert!(actions[1].run.is_none());
    }

    #[test]
    fn actions_of_one_handler_run_in_the_same_processes() {
        let actions = read(
            r#"
            [[handler]]
            name = "reports"
            command = ["python3", "reports.py"]
            concurrency = 4
            start_timeout = "3s"
            [[action]]
            ref = "report.render"
            run = { handler = "reports", grace = "2s" }
            "#,
        )
        .expect("a sound file");
        let Some(Run::Handler(process, run)) = &actions[0].run else { panic!("a handler runs it") };
        assert_eq!((process.concurrency, process.processes, run.grace.as_secs()), (4, 1, 2));
        assert_eq!(process.cwd.as_deref(), Some(Path::new("/srv")));
        assert!(process.env.contains_key(PROGRAM));
    }

    #[test]
    fn every_error_names_its_line_and_key() {
        for (text, expected) in [
            ("[[actions]]\nref = 'a.b'", "actions.toml:1: unknown key `actions`: did you mean `action`?"),
            (
                "[[action]]\nref = 'a.b'\nlimits = 1",
                "actions.toml:3: a.b.limits: unknown key `limits`: did you mean `limit`?",
            ),
            (
                "[[action]]\nref = 'a.b'\n\nretry = { max_attempt = 1 }",
                "actions.toml:4: a.b.retry.max_attempt: unknown key `max_attempt`: did you mean `max_attempts`?",
            ),
            (
                "[[action]]\nref = 'a.b'\n[action.run]\ncomand = ['x']",
                "actions.toml:4: a.b: run.comand: unknown key `comand`: did you mean `command`?",
            ),
            (
                "[[action]]\nref = 'a.b'\nlimit = 'one'",
                "actions.toml:3: a.b.limit: found the text \"one\", expected a whole number, not below zero",
            ),
            (
                "[[action]]\nref = 'a.b'\nlimit = -1",
                "actions.toml:3: a.b.limit: found the number -1, expected a whole number, not below zero",
            ),
            ("# nothing\n", "actions.toml:1: the file holds no action: expected tables, each headed [[action]]"),
            (
                "[[action]]\nref = 'a.b'\n[action.run]\ncommand = 'echo hello'",
                "actions.toml:4: a.b: run.command: found the text \"echo hello\", expected a list, such as \
                 [\"echo\", \"hello\"]",
            ),
            ("[[action]]\nref = 'a.b'\ntimeout = 'soon'", "actions.toml:3: a.b.timeout: \"soon\" is no duration"),
            (
                "[[action]]\nref = 'a.b'\nlimit = 0",
                "actions.toml:3: a.b.limit: expected at least 1, or left out for no limit; to run nothing, pause the action",
            ),
            (
                "[[action]]\nref = 'a.b'\n[action.retry]\nmax_attempts = 0",
                "actions.toml:4: a.b.retry.max_attempts: expected at least 1",
            ),
            ("[[action]]\nlimit = 1", "actions.toml:1: action[0]: the key `ref` is missing"),
            ("[[action]]\nref = 'nodot'", "actions.toml:2: action[0].ref: \"nodot\" is no valid action_ref"),
            (
                "[[action]]\nref = 'a.b'\n[[action]]\nref = 'a.b'",
                "actions.toml:3: the action a.b is declared twice, first at line 1: leave one",
            ),
            (
                "[[action]]\nref = 'a.b'\n[action.run]\ncommand = []",
                "actions.toml:3: a.b: run.command: expected a program",
            ),
            (
                "[[action]]\nref = 'a.b'\n[action.run]\ncommand = ['x']\nphases = [{ name = 'a', wait = 2 }]",
                "actions.toml:5: a.b: run.phases[0].wait: unknown key `wait`: did you mean `weight`?",
            ),
            (
                "[[action]]\nref = 'a.b'\n[action.run]\ncommand = ['x']\nphases = [{ name = 'a', weight = 0 }]",
                "actions.toml:5: a.b: run.phases: phases[0].weight is 0: expected an integer of at least 1",
            ),
            ("action = 5", "actions.toml:1: action: expected tables"),
            ("[[action]]\nref = ", "actions.toml:2: "),
        ] {
            let error = read(text).expect_err(text);
            assert!(error.starts_with(expected), "{text}\n  expected {expected}\n  found    {error}");
        }
    }

    #[test]
    fn every_error_of_a_handler_names_its_line_and_key() {
        for (text, expected) in [
            (
                "[[handler]]\nname = 'py'\ncommand = ['x']\n[[action]]\nref = 'a.b'\nrun = { handler = 'pi' }",
                "actions.toml:6: a.b: run.handler: no [[handler]] is named \"pi\": did you mean `py`?",
            ),
            ("[[handler]]\nname = 'py'\ncommand = []\n", "actions.toml:1: handler py: command: expected a program"),
            (
                "[[handler]]\nname = 'py'\ncommand = ['x']\nproceses = 2\n",
                "actions.toml:4: handler[0].proceses: unknown key `proceses`: did you mean `processes`?",
            ),
        ] {
            let error = read(text).expect_err(text);
            assert!(error.starts_with(expected), "{text}\n  expected {expected}\n  found    {error}");
        }
    }

    #[test]
    fn the_examples_all_run_something_that_every_machine_has() {
        let examples = examples();
        assert!(examples.iter().any(|action| action.action_ref.as_str() == "demo.echo"));
        for action in examples {
            let Some(Run::Command(run)) = action.run else { panic!("every example runs a command") };
            assert_eq!(run.command[0], "/bin/sh", "{}", action.action_ref);
        }
    }
}
