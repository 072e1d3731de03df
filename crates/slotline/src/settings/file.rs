//! Where a setting comes from: flag, else `SLOTLINE_*` environment, else the file of `--config`, else a default.
//!
//! clap reads the first two together; here are the file and the order. A key of the file is a long flag with `_` for `-`.
//! Relative paths in it start at its folder. No flag takes a token, since `ps` shows flags to every user.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;
use serde::{Deserialize, Deserializer};
use slotline_api::{ApiToken, InvalidTokens, Tokens};
use slotline_protocol::duration;

use crate::settings::toml_file::{self, TomlFile};

pub(crate) const DEFAULT_LISTEN: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 7070);
pub(crate) const DEFAULT_API_URL: &str = "http://127.0.0.1:7070";
/// Address and user of a RabbitMQ that was just installed.
pub(crate) const DEFAULT_AMQP_URL: &str = "amqp://guest:guest@127.0.0.1:5672/%2f";
pub(crate) const DEFAULT_PREFIX: &str = "slotline";

/// The environment variables that name a file with a URL.
const DATABASE_URL_FILE: &str = "SLOTLINE_DATABASE_URL_FILE";
const AMQP_URL_FILE: &str = "SLOTLINE_AMQP_URL_FILE";
/// The environment variable of the API token.
pub(crate) const TOKEN_VARIABLE: &str = "SLOTLINE_API_TOKEN";

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Output {
    #[default]
    Table,
    // Tables with exact times and nothing cut.
    Wide,
    Json,
}

/// How logs are written, to stderr.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    Text,
    Json,
}

/// A value that is never printed.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub(crate) struct SecretSetting(String);

impl SecretSetting {
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl SecretSetting {
    /// The one line of a file.
    fn read(key: &'static str, path: &Path) -> Result<Self, Error> {
        let text =
            std::fs::read_to_string(path).map_err(|source| Error::SecretFile { key, path: path.to_owned(), source })?;
        match text.trim() {
            "" => Err(Error::SecretLines { key, path: path.to_owned(), found: "nothing" }),
            secret if secret.contains('\n') => {
                Err(Error::SecretLines { key, path: path.to_owned(), found: "several lines" })
            }
            secret => Ok(Self(secret.to_owned())),
        }
    }
}

impl FromStr for SecretSetting {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for SecretSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Parses the address to listen on, from a flag or the file.
pub(crate) fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        let port = text.rsplit(':').next().and_then(|port| port.parse::<u16>().ok()).unwrap_or(DEFAULT_LISTEN.port());
        format!("expected an address in numbers and a port: 127.0.0.1:{port} for this machine, 0.0.0.0:{port} for all")
    })
}

/// A number alone is probably meant as a port, so it gets the same error as a wrong text.
fn listen<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SocketAddr>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Found {
        Text(String),
        Number(i64),
    }
    let text = match Found::deserialize(deserializer) {
        Ok(Found::Text(text)) => text,
        Ok(Found::Number(number)) => number.to_string(),
        Err(_) => String::new(),
    };
    address(&text).map(Some).map_err(serde::de::Error::custom)
}

/// The keys of the settings file; each may be left out.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct File {
    pub(crate) database_url: Option<SecretSetting>,
    /// A file that holds only the URL, as mounted secrets do.
    pub(crate) database_url_file: Option<PathBuf>,
    pub(crate) amqp_url: Option<SecretSetting>,
    pub(crate) amqp_url_file: Option<PathBuf>,
    pub(crate) prefix: Option<String>,
    #[serde(deserialize_with = "listen")]
    pub(crate) listen: Option<SocketAddr>,
    pub(crate) api_url: Option<String>,
    pub(crate) api_token: Option<SecretSetting>,
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
    pub(crate) allow_newer_schema: bool,
    pub(crate) no_public_statuses: bool,
    pub(crate) no_public_progress: bool,
    pub(crate) no_public_logs: bool,
    pub(crate) no_public_results: bool,
}

impl File {
    /// Reads the file of `--config`, and the URLs that are in files of their own.
    pub(crate) fn read(path: Option<&Path>) -> Result<Self, ReadError> {
        let mut file = Self::read_toml(path)?;
        for (variable, key, url, url_file) in [
            (DATABASE_URL_FILE, "database_url", &mut file.database_url, &file.database_url_file),
            (AMQP_URL_FILE, "amqp_url", &mut file.amqp_url, &file.amqp_url_file),
        ] {
            let named = std::env::var_os(variable).filter(|path| !path.is_empty()).map(PathBuf::from);
            match (named, url_file) {
                (Some(path), _) => *url = Some(SecretSetting::read(key, &path)?),
                (None, Some(_)) if url.is_some() => {
                    let message = format!("both `{key}` and `{key}_file` are set: leave one");
                    return Err(Error::Invalid(message).into());
                }
                (None, Some(path)) => *url = Some(SecretSetting::read(key, path)?),
                (None, None) => {}
            }
        }
        Ok(file)
    }

    /// The secrets of an executor that the file holds; a worker's file should hold none.
    pub(crate) fn executor_secrets(&self) -> Vec<&'static str> {
        let secrets = [
            ("database_url", self.database_url.is_some()),
            ("api_token", self.api_token.is_some() || self.api_token_file.is_some()),
        ];
        secrets.into_iter().filter(|(_, is_set)| *is_set).map(|(key, _)| key).collect()
    }

    fn read_toml(path: Option<&Path>) -> Result<Self, toml_file::Error> {
        let Some(path) = path else { return Ok(Self::default()) };
        let toml = TomlFile::read(path)?;
        let mut file: Self = toml.parse(toml.table()?, "")?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let paths = [
            &mut file.database_url_file,
            &mut file.amqp_url_file,
            &mut file.api_token_file,
            &mut file.actions,
            &mut file.state_dir,
            &mut file.data,
        ];
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
    #[error("can't read {key} from {}", path.display())]
    SecretFile { key: &'static str, path: PathBuf, source: std::io::Error },
    #[error("{key}: {} holds {found}: expected one line with the URL", path.display())]
    SecretLines { key: &'static str, path: PathBuf, found: &'static str },
    #[error("{0}: {1}")]
    Token(String, InvalidTokens),
    #[error("{0}")]
    Invalid(String),
}

/// Why the settings can't be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error(transparent)]
    Toml(#[from] toml_file::Error),
    #[error(transparent)]
    Setting(#[from] Error),
}

/// A setting that the command can't run without.
pub(crate) fn require<T>(
    value: Option<T>,
    what: &'static str,
    flag: &'static str,
    variable: &'static str,
    key: &'static str,
) -> Result<T, Error> {
    value.ok_or(Error::Missing { what, flag, variable, key })
}

/// The API tokens: from the file that `flag_file` names, else from the variable, else from the settings file. A file of tokens
/// holds one token alone, or several with their names.
pub(crate) fn tokens(variable: Option<String>, flag_file: Option<&Path>, file: &File) -> Result<Tokens, Error> {
    let one = |from: &str, text: &str| match ApiToken::new(text) {
        Ok(token) => Ok(Tokens::from(token)),
        Err(error) => Err(Error::Token(from.to_owned(), error.into())),
    };
    let read = |path: &Path| {
        let text =
            std::fs::read_to_string(path).map_err(|source| Error::TokenFile { path: path.to_owned(), source })?;
        Tokens::parse(&text).map_err(|error| Error::Token(path.display().to_string(), error))
    };
    if let Some(path) = flag_file {
        return read(path);
    }
    // In compose files and units an empty variable means none.
    if let Some(text) = variable.filter(|text| !text.is_empty()) {
        return one(TOKEN_VARIABLE, &text);
    }
    match (&file.api_token, &file.api_token_file) {
        (Some(_), Some(_)) => {
            Err(Error::Invalid("both `api_token` and `api_token_file` are set: leave one".to_owned()))
        }
        (Some(token), None) => one("api_token", token.expose()),
        (None, Some(path)) => read(path),
        (None, None) => Ok(Tokens::default()),
    }
}

/// The one token that a client sends; it can't choose between several, since each names another person.
pub(crate) fn only(tokens: &Tokens) -> Result<Option<ApiToken>, Error> {
    match tokens.len() {
        0 | 1 => Ok(tokens.first().cloned()),
        several => Err(Error::Invalid(format!(
            "the file of API tokens holds {several}: to ask, give a file with one of them (--api-token-file)"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> Result<File, String> {
        let toml = TomlFile::new(Path::new("slotline.toml"), text.to_owned());
        let table = toml.table().map_err(|error| error.to_string())?;
        toml.parse(table, "").map_err(|error| error.to_string())
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
            (
                "output = 'yaml'",
                "slotline.toml:1: output: unknown variant `yaml`, expected one of `table`, `wide`, `json`",
            ),
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
        let taken = |tokens: &Tokens| only(tokens).expect("one at most").map(|token| token.expose().to_owned());
        assert_eq!(taken(&tokens(variable(), Some(&path), &config).expect("a token")).as_deref(), Some("from-flag"));
        assert_eq!(taken(&tokens(variable(), None, &config).expect("a token")).as_deref(), Some("from-variable"));
        assert_eq!(taken(&tokens(None, None, &config).expect("a token")).as_deref(), Some("from-file"));
        assert_eq!(taken(&tokens(Some(String::new()), None, &File::default()).expect("none")), None);
        let error = tokens(None, Some(Path::new("/nowhere/token")), &config).expect_err("no such file").to_string();
        assert!(error.contains("/nowhere/token"), "{error}");
        // A server takes several tokens; a client can't choose between them.
        std::fs::write(&path, "alice 3f9c\nbob 77ab\n").expect("written");
        let several = tokens(None, Some(&path), &config).expect("two tokens");
        assert_eq!(several.len(), 2);
        let error = only(&several).expect_err("two").to_string();
        assert!(error.contains("holds 2") && error.contains("--api-token-file") && !error.contains("3f9c"), "{error}");
    }
}
