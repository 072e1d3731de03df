//! A duration as a person gives it, by a flag or a variable: always with its unit.
//!
//! Not here: files and messages, where a number counts seconds (`slotline_protocol::duration`).

use std::time::Duration;

pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    match text.parse::<f64>() {
        Ok(number) if number >= 0.0 && number.is_finite() => {
            Err(format!("{text} has no unit: expected for example {text}s, {text}m or {text}h"))
        }
        Ok(_) | Err(_) => slotline_protocol::duration::parse(text),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;
    use clap::error::{ContextKind, ErrorKind};

    use super::*;
    use crate::Cli;

    #[test]
    fn a_duration_has_a_unit() {
        assert_eq!(duration("300ms"), Ok(Duration::from_millis(300)));
        assert_eq!(duration(" 1h 30m "), Ok(Duration::from_secs(5400)));
        assert_eq!(duration("2"), Err("2 has no unit: expected for example 2s, 2m or 2h".to_owned()));
        assert!(duration("1.5").is_err_and(|error| error.contains("1.5m")));
        for bad in ["", "soon", "-1", "NaN", "inf", "1h 30"] {
            assert!(duration(bad).is_err_and(|error| error.contains("is no duration") || error.contains("no unit")));
        }
    }

    /// The words up to each command, with those of its flags that take a duration.
    fn flags(command: &clap::Command, path: &[String], found: &mut Vec<Vec<String>>) {
        for flag in command.get_arguments() {
            let names = flag.get_value_names().unwrap_or_default();
            if names.iter().any(|name| name.as_str() == "DURATION")
                && let Some(flag) = flag.get_long()
            {
                found.push([path, &[format!("--{flag}")]].concat());
            }
        }
        for command in command.get_subcommands() {
            flags(command, &[path, &[command.get_name().to_owned()]].concat(), found);
        }
    }

    #[test]
    fn every_flag_refuses_a_duration_without_a_unit_by_name() {
        let mut found = Vec::new();
        flags(&Cli::command(), &["slotline".to_owned()], &mut found);
        assert!(found.len() >= 12, "{found:?}");
        for words in found {
            let error = Cli::command().try_get_matches_from([&words[..], &["2".to_owned()]].concat());
            let error = error.expect_err("no unit");
            assert_eq!(error.kind(), ErrorKind::ValueValidation, "{words:?}: {error}");
            let named = error.get(ContextKind::InvalidArg).map(ToString::to_string).unwrap_or_default();
            assert!(words.last().is_some_and(|flag| named.starts_with(flag)), "{words:?}: {named}");
            assert!(error.to_string().contains("expected for example 2s, 2m or 2h"), "{words:?}: {error}");
        }
    }
}
