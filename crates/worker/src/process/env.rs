//! Which variables of the worker's own environment a command gets: by name, and never one of Slotline's settings.
//!
//! A worker is configured by its environment, often with passwords, so a command gets the variables that are named here
//! or in `env_pass` and no others.

use std::ffi::OsString;

/// What every command gets, where the worker has it.
pub const ENV_PASSED: &[&str] =
    &["PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "LC_*", "TZ", "TMPDIR"];

/// The prefix of Slotline's own settings.
const OWN: &str = "SLOTLINE_";

/// Why a name can't be passed; `None` if it can.
pub(crate) fn refusal(pattern: &str) -> Option<String> {
    let name = pattern.strip_suffix('*').unwrap_or(pattern);
    let mut letters = name.chars();
    let is_name = letters.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
        && letters.all(|letter| letter.is_ascii_alphanumeric() || letter == '_');
    if !is_name {
        return Some(format!("{pattern:?} names no variable: expected a name, or the beginning of one and `*`"));
    }
    name.starts_with(OWN)
        .then(|| format!("{pattern:?} is a setting of the worker, which may be a secret: a command is never given one"))
}

/// Those of the variables that a pattern names.
pub(crate) fn passed<'a>(
    patterns: impl IntoIterator<Item = &'a str>,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Vec<(OsString, OsString)> {
    let patterns: Vec<&str> = patterns.into_iter().collect();
    let is_passed = |name: &str| {
        patterns.iter().any(|pattern| match pattern.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning),
            None => name == *pattern,
        })
    };
    let is_wanted = |name: &OsString| name.to_str().is_some_and(|name| !name.starts_with(OWN) && is_passed(name));
    variables.into_iter().filter(|(name, _)| is_wanted(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_named_is_passed_and_never_a_setting_of_the_worker() {
        let variables = [
            "PATH",
            "LC_TIME",
            "LC",
            "AWS_REGION",
            "AWS",
            "SLOTLINE_AMQP_URL",
            "SLOTLINE_API_TOKEN",
            "S",
            "PGPASSWORD",
        ];
        let variables = variables.map(|name| (OsString::from(name), OsString::from("x")));
        let names = |patterns: &[&str]| {
            let found = passed(patterns.iter().copied(), variables.clone());
            found.into_iter().map(|(name, _)| name.into_string().expect("UTF-8")).collect::<Vec<_>>()
        };
        assert_eq!(names(ENV_PASSED), ["PATH", "LC_TIME"]);
        assert_eq!(names(&["AWS_*", "S*"]), ["AWS_REGION", "S"]);
    }

    #[test]
    fn a_name_that_can_not_be_passed_is_refused_with_the_reason() {
        for sound in ["A", "_", "AWS_*", "S*"] {
            assert_eq!(refusal(sound), None);
        }
        for (wrong, reason) in [
            ("", "names no variable"),
            ("*", "names no variable"),
            ("A B", "names no variable"),
            ("A*B", "names no variable"),
            ("SLOTLINE_API_TOKEN", "a setting of the worker"),
            ("SLOTLINE_*", "a setting of the worker"),
        ] {
            assert!(refusal(wrong).is_some_and(|refusal| refusal.contains(reason)), "{wrong}");
        }
    }
}
