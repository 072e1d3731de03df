//! Fuzz tests of the settings file and the actions file: nothing panics, every error names its line, and a policy that was read
//! arrives at the API unchanged.
//!
//! `FUZZ_SECONDS=60 FUZZ_SEED=$RANDOM cargo test -p slotline fuzz` for the long run.

use std::path::Path;

use slotline_protocol::Policy;
use slotline_tests::Fuzz;
use slotline_tests::fuzz::way;

use crate::settings::toml_file::{Error, TomlFile};
use crate::settings::{File, actions};

const PACKAGE: &str = env!("CARGO_MANIFEST_DIR");
const SETTINGS: &str = include_str!("../../../../deploy/config.example.toml");
const ACTIONS: &str = include_str!("../../../../deploy/actions.toml");
const EXAMPLES: &str = include_str!("../../examples/actions.toml");

fn refusal(error: &Error, text: &str) -> Result<String, String> {
    match error {
        Error::Wrong { message, .. } if message.trim().is_empty() => Err("a refusal without a word".to_owned()),
        Error::Wrong { message, .. } if message.contains('\n') => Err(format!("more than a line: {message:?}")),
        Error::Wrong { line, .. } if *line == 0 || *line > text.lines().count().max(1) + 1 => {
            Err(format!("there is no line {line}"))
        }
        Error::Wrong { message, .. } => Ok(way(message)),
        Error::Read { source, .. } => Ok(way(source)),
    }
}

#[test]
fn no_settings_file_is_too_strange() {
    let read = |input: &[u8]| {
        let text = String::from_utf8_lossy(input).into_owned();
        let toml = TomlFile::new(Path::new("slotline.toml"), text.clone());
        match toml.table().and_then(|table| toml.parse::<File>(table, "")) {
            Ok(file) => Ok(format!("sound: {}", file.listen.is_some())),
            Err(error) => refusal(&error, &text),
        }
    };
    let every = "database_url = 'postgres://u:p@h/d'\nlisten = '127.0.0.1:1'\nlease = '60s'\nfence = 45\ncapacity = 4\n\
        output = 'json'\nlog_format = 'text'\nno_migrate = true\nevents_kept = 1000\nactions = 'a.toml'\n";
    Fuzz::new(PACKAGE, "settings").seeds([SETTINGS, every]).run(read);
}

#[test]
fn no_actions_file_is_too_strange() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("actions.toml");
    let read = |input: &[u8]| {
        std::fs::write(&path, input).map_err(|error| error.to_string())?;
        let actions = match actions::read(&path) {
            Ok(actions) => actions,
            Err(error) => return refusal(&error, &String::from_utf8_lossy(input)),
        };
        for action in &actions {
            let sent = serde_json::to_string(&action.policy).map_err(|error| error.to_string())?;
            let arrived: Policy = serde_json::from_str(&sent).map_err(|error| format!("{sent}: {error}"))?;
            if arrived != action.policy {
                return Err(format!("{:?} arrives as {arrived:?}", action.policy));
            }
            arrived.check().map_err(|error| format!("what was read is refused: {error}"))?;
        }
        Ok(format!(
            "{} sound, {} run",
            actions.len().min(3),
            actions.iter().filter(|it| it.run.is_some()).count().min(3)
        ))
    };
    let whole = "[[action]]\nref = 'a.b'\nlimit = 1\nkey_limit = 2\nkey = '/tenant'\ntimeout = '60s'\n\
        queue_timeout = 5\nmax_queue_length = 7\non_isolation = 'continue'\n\
        retry = { max_attempts = 3, backoff = '1s', keep_place = true }\nschema = { type = 'object' }\n\
        [action.run]\ncommand = ['./x', 'y']\ncwd = 'work'\nenv = { A = 'b' }\n\
        phases = [{ name = 'pull', weight = 2 }, { name = 'start' }]\n";
    Fuzz::new(PACKAGE, "actions").seeds([ACTIONS, EXAMPLES, whole]).run(read);
}
