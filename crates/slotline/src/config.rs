//! Where a setting comes from: flag, else `SLOTLINE_*` environment, else the file of `--config`, else a default.
//!
//! clap reads the first two together; this is the file, and how they meet. A key of the file is a long flag with `_` for
//! `-`. Relative paths in it are meant from its folder. Secrets never come by flag, where everybody's `ps` shows them.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;
use serde::Deserialize;
use slotline_api::Token;
use slotline_protocol::duration;

use crate::document::{self, Document};

pub(crate) const DEFAULT_LISTEN: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 7070);
pub(crate) const DEFAULT_API_URL: &str = "http://127.0.0.1:7070";
/// Where RabbitMQ listens, and whom it knows, as it is installed.
pub(crate) const DEFAULT_AMQP_URL: &str = "amqp://guest:guest@127.0.0.1:5672/%2f";
pub(crate) const DEFAULT_PREFIX: &str = "slotline";

/// The environment variable of the API token.
pub(crate) const TOKEN_VARIABLE: &str = "SLOTLINE_API_TOKEN";

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Output {
    #[default]
    Table,
    Json,
}

/// How logs are written, to stderr.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    Text,
    Json,
}

/// A value that is never shown whole.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub(crate) struct Secret(String);

impl Secret {
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl FromStr for Secret {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// What a file may say; every key may be left out.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct File {
    pub(crate) database_url: Option<Secret>,
    pub(crate) amqp_url: Option<Secret>,
    pub(crate) prefix: Option<String>,
    pub(crate) listen: Option<SocketAddr>,
    pub(crate) api_url: Option<String>,
    pub(crate) api_token: Option<Secret>,
    pub(crate) api_token_file: Option<PathBuf>,
    pub(crate) output: Option<Output>,
    pub(crate) log_format: Option<LogFormat>,
    pub(crate) log_level: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) capacity: Option<u32>,
    pub(crate) actions: Option<PathBuf>,
    pub(crate) state_dir: Option<PathBuf>,
    pub(crate) env_pass: Vec<String>,
    pub(crate) data: Option<PathBuf>,
    #[serde(with = "duration::optional")]
    pub(crate) lease: Option<Duration>,
    #[serde(with = "duration::optional")]
    pub(crate) fence: Option<Duration>,
    #[serde(with = "duration::optional")]
    pub(crate) heartbeat: Option<Duration>,
    #[serde(with = "duration::optional")]
    pub(crate) drain_timeout: Option<Duration>,
    #[serde(with = "duration::optional")]
    pub(crate) retention: Option<Duration>,
    pub(crate) events_kept: Option<u64>,
    pub(crate) no_migrate: bool,
    pub(crate) no_public_logs: bool,
    pub(crate) no_public_results: bool,
}

impl File {
    /// The file of `--config`; without one there is nothing to read.
    pub(crate) fn read(path: Option<&Path>) -> Result<Self, document::Error> {
        let Some(path) = path else { return Ok(Self::default()) };
        let document = Document::read(path)?;
        let mut file: Self = document.parse(document.table()?, "")?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let paths = [&mut file.api_token_file, &mut file.actions, &mut file.state_dir, &mut file.data];
        for path in paths.into_iter().flatten() {
            *path = folder.join(&*path);
        }
        Ok(file)
    }
}

/// Why a setting can't be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{what} is not set: give --{flag}, SLOTLINE_{variable} or `{key}` in the file of --config")]
    Missing { what: &'static str, flag: &'static str, variable: &'static str, key: &'static str },
    #[error("can't read the API token from {}", path.display())]
    TokenFile { path: PathBuf, source: std::io::Error },
    #[error("{0}: {1}")]
    Token(String, slotline_api::InvalidToken),
    #[error("{0}")]
    Invalid(String),
}

/// A setting without which there is nothing to do.
pub(crate) fn require<T>(
    value: Option<T>,
    what: &'static str,
    flag: &'static str,
    variable: &'static str,
    key: &'static str,
) -> Result<T, Error> {
    value.ok_or(Error::Missing { what, flag, variable, key })
}

/// The API token: from the variable or the file that `flag_file` names, else from what the configuration names.
pub(crate) fn token(variable: Option<String>, flag_file: Option<&Path>, file: &File) -> Result<Option<Token>, Error> {
    let check = |from: &str, text: &str| Token::new(text).map_err(|error| Error::Token(from.to_owned(), error));
    let read = |path: &Path| {
        let text =
            std::fs::read_to_string(path).map_err(|source| Error::TokenFile { path: path.to_owned(), source })?;
        check(&path.display().to_string(), &text)
    };
    if let Some(path) = flag_file {
        return read(path).map(Some);
    }
    // An empty variable is how compose files and units spell "none".
    if let Some(text) = variable.filter(|text| !text.is_empty()) {
        return check(TOKEN_VARIABLE, &text).map(Some);
    }
    match (&file.api_token, &file.api_token_file) {
        (Some(_), Some(_)) => {
            Err(Error::Invalid("both `api_token` and `api_token_file` are set: leave one".to_owned()))
        }
        (Some(token), None) => check("api_token", token.expose()).map(Some),
        (None, Some(path)) => read(path).map(Some),
        (None, None) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> Result<File, String> {
        let document = Document::new(Path::new("slotline.toml"), text.to_owned());
        let table = document.table().map_err(|error| error.to_string())?;
        document.parse(table, "").map_err(|error| error.to_string())
    }

    #[test]
    fn an_unknown_key_is_an_error_with_its_line_and_the_name_that_was_meant() {
        for (text, expected) in [
            (
                "listen = '127.0.0.1:1'\ndatabse_url = 'x'",
                "slotline.toml:2: databse_url: unknown key `databse_url`: did you mean `database_url`?",
            ),
            ("zzz = 1", "slotline.toml:1: zzz: unknown key `zzz`: expected one of database_url, "),
            ("[worker]\nname = 'x'", "slotline.toml:1: worker: unknown key `worker`"),
            ("\nlease = 'soon'", "slotline.toml:2: lease: \"soon\" is no duration"),
            ("output = 'yaml'", "slotline.toml:1: output: unknown variant `yaml`, expected `table` or `json`"),
            ("listen = 7070", "slotline.toml:1: listen: "),
            ("capacity = -1", "slotline.toml:1: capacity: "),
            ("a = ", "slotline.toml:1: "),
        ] {
            let error = file(text).expect_err(text);
            assert!(error.starts_with(expected), "{text}\n  expected {expected}\n  found    {error}");
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let file =
            file("database_url = 'postgres://u:geheim@h/d'\namqp_url = 'amqp://u:geheim@h'\napi_token = 'geheim'")
                .expect("a sound file");
        assert!(!format!("{file:?}").contains("geheim"));
        assert_eq!(file.database_url.expect("set").expose(), "postgres://u:geheim@h/d");
    }

    #[test]
    fn a_token_comes_from_the_flag_then_the_environment_then_the_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("token");
        std::fs::write(&path, "from-flag\n").expect("written");
        let config = file("api_token = 'from-file'").expect("a sound file");
        let variable = || Some("from-variable".to_owned());
        let taken = |token: Option<Token>| token.map(|token| token.expose().to_owned());
        assert_eq!(taken(token(variable(), Some(&path), &config).expect("a token")).as_deref(), Some("from-flag"));
        assert_eq!(taken(token(variable(), None, &config).expect("a token")).as_deref(), Some("from-variable"));
        assert_eq!(taken(token(None, None, &config).expect("a token")).as_deref(), Some("from-file"));
        assert_eq!(taken(token(Some(String::new()), None, &File::default()).expect("none")), None);
        let error = token(None, Some(Path::new("/nowhere/token")), &config).expect_err("no such file").to_string();
        assert!(error.contains("/nowhere/token"), "{error}");
    }
}
