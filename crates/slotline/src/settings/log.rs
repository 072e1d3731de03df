//! Logging: to stderr, as text or JSON.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

use crate::settings::{Error, LogFormat};

/// Starts logging for the whole process. `level` is the setting, if there is one; then comes `RUST_LOG`, then `default`.
pub(crate) fn start(format: LogFormat, level: Option<&str>, default: &str) -> Result<(), Error> {
    let from_environment = std::env::var(EnvFilter::DEFAULT_ENV).ok().filter(|text| !text.is_empty());
    let text = level.map(str::to_owned).or(from_environment).unwrap_or_else(|| default.to_owned());
    let mut filter = EnvFilter::try_new(&text).map_err(|error| {
        Error::Invalid(format!(
            "log level {text:?}: {error}; expected for example info or warn,slotline_executor=debug"
        ))
    })?;
    for directive in slotline_broker::LOG_DIRECTIVES.into_iter().chain(["sqlx=error"]) {
        // A target that the filter names keeps the level given there.
        let target = directive.split('=').next().unwrap_or(directive);
        if !text.contains(target) {
            filter = filter.add_directive(directive.parse().expect("a directive of this program"));
        }
    }
    let is_colourful = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(is_colourful)
        // A line that can't be written is lost. Its own complaint about that would go to stderr as well, and panic.
        .log_internal_errors(false);
    match format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    Ok(())
}
