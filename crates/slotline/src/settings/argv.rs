//! Keeps passwords off the command line, where `ps` shows them to every user. A daemon that receives one there executes itself
//! again at once, as the same process, with the URL in its environment, which only root can read.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// The flags that take a URL with a password, each with the variable that can hold it instead.
const SECRETS: [(&str, &str); 2] = [("--amqp-url", "SLOTLINE_AMQP_URL"), ("--database-url", "SLOTLINE_DATABASE_URL")];
/// The commands that have these flags. The arguments of other commands may be any text.
const COMMANDS: [&str; 4] = ["executor", "worker", "migrate", "verify"];

/// A command line without passwords, and the variables that hold them instead.
#[derive(Debug, PartialEq, Eq)]
struct Cleaned {
    arguments: Vec<OsString>,
    environment: Vec<(&'static str, OsString)>,
}

/// Must be called before anything else in `main`. Returns if there is no password, or if the program can't be executed again.
pub(crate) fn hide_secrets() {
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_default();
    if let Some(Cleaned { arguments, environment }) = clean(arguments.collect()) {
        // The running program, even if its file was replaced. `exec` returns only with an error; then the program goes on with
        // the arguments it has.
        let _ = Command::new("/proc/self/exe").arg0(name).args(arguments).envs(environment).exec();
    }
}

/// `None` if there is no password.
fn clean(arguments: Vec<OsString>) -> Option<Cleaned> {
    if !arguments.iter().any(|argument| COMMANDS.iter().any(|command| argument == command)) {
        return None;
    }
    let mut cleaned = Cleaned { arguments: Vec::new(), environment: Vec::new() };
    let mut rest = arguments.into_iter();
    while let Some(argument) = rest.next() {
        let secret = SECRETS.iter().find_map(|(flag, variable)| {
            let after = argument.to_str()?.strip_prefix(flag)?;
            (after.is_empty() || after.starts_with('='))
                .then(|| (*variable, after.strip_prefix('=').map(OsString::from)))
        });
        match secret {
            None => cleaned.arguments.push(argument),
            Some((variable, value)) => {
                let Some(value) = value.or_else(|| rest.next()) else {
                    // The value is missing; the parser reports that.
                    cleaned.arguments.push(argument);
                    break;
                };
                if has_password(&value) && !cleaned.environment.iter().any(|(known, _)| *known == variable) {
                    cleaned.environment.push((variable, value));
                } else {
                    cleaned.arguments.extend([argument, value]);
                }
            }
        }
    }
    (!cleaned.environment.is_empty()).then_some(cleaned)
}

fn has_password(url: &OsStr) -> bool {
    let url = url.to_string_lossy();
    let place = url.split_once("://").map_or(&*url, |(_, place)| place);
    // A password that was not encoded may hold any character, also `/` and `@`.
    place.rsplit_once('@').is_some_and(|(user, _)| user.contains(':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn no_password_stays_on_a_command_line() {
        let line = "worker --amqp-url amqp://u:p@h/%2f --name a --database-url=postgres://u:p/@h/d --capacity 3";
        let cleaned = clean(words(line)).expect("two passwords");
        assert_eq!(cleaned.arguments, words("worker --name a --capacity 3"));
        let url = |text: &str| OsString::from(text);
        let expected =
            [("SLOTLINE_AMQP_URL", url("amqp://u:p@h/%2f")), ("SLOTLINE_DATABASE_URL", url("postgres://u:p/@h/d"))];
        assert_eq!(cleaned.environment, expected);
        assert_eq!(clean(cleaned.arguments), None, "it is started again once");
    }

    #[test]
    fn what_has_no_password_is_left_as_it_is() {
        for line in [
            "executor --amqp-url amqp://h/%2f --database-url postgres://u@h/d",
            "run a.b -p --amqp-url=amqp://u:p@h",
            "worker --amqp-url",
            "worker --amqp-urls amqp://u:p@h",
        ] {
            assert_eq!(clean(words(line)), None, "{line}");
        }
    }
}
