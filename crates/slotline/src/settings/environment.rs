//! Warns of `SLOTLINE_*` variables that nothing reads: a misspelt name is a setting without effect.
//!
//! It is never an error, since orchestrators set variables of that name.

use slotline_protocol::perhaps_meant;

const PREFIX: &str = "SLOTLINE_";
/// Variables that a worker sets for its commands, and those that are read elsewhere; without the prefix.
const OTHERS: [&str; 13] = [
    "ACTION_REF",
    "AMQP_URL_FILE",
    "API_TOKEN",
    "ATTEMPT",
    "BIN",
    "CRASH_AT",
    "CRASH_ON",
    "DATABASE_URL_FILE",
    "EXECUTION_ID",
    "FENCE",
    "GRANT",
    "PROGRESS_SOCKET",
    "RESULT_FILE",
];
/// Prefixes of names that are not listed one by one.
const FAMILIES: [&str; 3] = ["PARAM_", "PASSWORD_", "TEST_"];
/// Endings of the variables that Kubernetes sets for a service called `slotline` or `slotline-...`.
const OF_SERVICES: [&str; 3] = ["_SERVICE_HOST", "_SERVICE_PORT", "_PORT"];

/// One line for each variable among `names` that nothing reads, neither `command` nor one below it.
pub(crate) fn unread(command: &clap::Command, names: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut known: Vec<String> = OTHERS.iter().map(|name| format!("{PREFIX}{name}")).collect();
    of_flags(command, &mut known);
    let mut unread: Vec<String> = names
        .into_iter()
        .filter(|name| name.starts_with(PREFIX) && !known.contains(name) && !is_of_others(name))
        .map(|name| format!("the variable {name} is set, and nothing reads it{}", meant(&name, &known)))
        .collect();
    unread.sort_unstable();
    unread
}

/// Compares names without the prefix, which all of them share.
fn meant(name: &str, known: &[String]) -> String {
    let own = |name: &str| name.trim_start_matches(PREFIX).to_lowercase();
    let known: Vec<String> = known.iter().map(|known| own(known)).collect();
    let meant = perhaps_meant(&own(name), known.iter().map(String::as_str));
    match meant.split('`').nth(1) {
        Some(known) => format!(": did you mean {PREFIX}{}?", known.to_uppercase()),
        None => String::new(),
    }
}

fn of_flags(command: &clap::Command, known: &mut Vec<String>) {
    let own = command.get_arguments().filter_map(|argument| argument.get_env()?.to_str());
    known.extend(own.map(str::to_owned));
    command.get_subcommands().for_each(|command| of_flags(command, known));
}

fn is_of_others(name: &str) -> bool {
    let own = name.trim_start_matches(PREFIX);
    let family = FAMILIES.iter().any(|family| own.starts_with(family));
    let service = OF_SERVICES.iter().any(|ending| name.ends_with(ending)) || name.contains("_PORT_");
    family || service
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::Cli;

    fn of(names: &[&str]) -> Vec<String> {
        unread(&Cli::command(), names.iter().map(|name| format!("{PREFIX}{name}")))
    }

    #[test]
    fn a_misspelt_variable_is_named_with_the_one_that_was_meant() {
        for (name, meant) in [
            ("DATABSE_URL", "DATABASE_URL"),
            ("AMQP", "AMQP_URL"),
            ("API_TOKENFILE", "API_TOKEN_FILE"),
            ("CAPACITIES", "CAPACITY"),
        ] {
            let expected =
                format!("the variable {PREFIX}{name} is set, and nothing reads it: did you mean {PREFIX}{meant}?");
            assert_eq!(of(&[name]), [expected]);
        }
        assert_eq!(of(&["XYZZY"]), [format!("the variable {PREFIX}XYZZY is set, and nothing reads it")]);
    }

    #[test]
    fn what_is_read_and_what_others_set_is_no_mistake() {
        assert!(of(&["CONFIG", "LEASE", "DATA", "API_TOKEN", "PARAM_APP"]).is_empty());
        let kubernetes = ["SERVICE_HOST", "PORT", "PORT_7070_TCP_ADDR"];
        assert!(of(&kubernetes).is_empty());
        assert!(unread(&Cli::command(), ["PATH".to_owned()]).is_empty());
    }
}
