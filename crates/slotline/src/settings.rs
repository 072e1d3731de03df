//! What the program is given: flags, `SLOTLINE_*` variables, the file of `--config` and the actions file.
//!
//! Every command receives `Settings`; where each value comes from is `file`. Not here: the flags of one command, which are
//! its own `Args`.

pub(crate) mod actions;
pub(crate) mod argv;
mod duration;
pub(crate) mod environment;
mod file;
mod log;
pub(crate) mod toml_file;

use std::path::PathBuf;

use clap::Args;
use slotline_api::{ApiToken, Tokens};

use crate::client::Client;
use crate::show::style::Style;

pub(crate) use duration::duration;
pub(crate) use file::{
    DEFAULT_AMQP_URL, DEFAULT_API_URL, DEFAULT_LISTEN, DEFAULT_PREFIX, Error, File, LogFormat, Output, ReadError,
    SecretSetting, TOKEN_VARIABLE, address, require,
};

#[derive(Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// File with settings (TOML); flags and SLOTLINE_* variables go first
    #[arg(long, global = true, env = "SLOTLINE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// The API to ask; of several, separated by commas, the first that can be reached [default: http://127.0.0.1:7070]
    #[arg(long, global = true, env = "SLOTLINE_API_URL", value_name = "URL")]
    api_url: Option<String>,
    /// File with the API token; or set SLOTLINE_API_TOKEN
    #[arg(long, global = true, env = "SLOTLINE_API_TOKEN_FILE", value_name = "FILE")]
    api_token_file: Option<PathBuf>,
    /// How results are printed [default: table]
    #[arg(long, global = true, env = "SLOTLINE_OUTPUT", value_enum)]
    output: Option<Output>,
    /// How logs are written, to stderr [default: text]
    #[arg(long, global = true, env = "SLOTLINE_LOG_FORMAT", value_enum)]
    log_format: Option<LogFormat>,
    /// error, warn, info, debug, trace, or a filter as RUST_LOG takes it
    #[arg(long, global = true, env = "SLOTLINE_LOG_LEVEL", value_name = "LEVEL")]
    log_level: Option<String>,
}

/// The settings that every command receives.
pub(crate) struct Settings {
    pub(crate) file: File,
    global: Global,
}

impl Settings {
    pub(crate) fn read(global: Global) -> Result<Self, ReadError> {
        Ok(Self { file: File::read(global.config.as_deref())?, global })
    }

    /// The tokens that open the API of this process.
    pub(crate) fn tokens(&self) -> Result<Tokens, Error> {
        file::tokens(std::env::var(TOKEN_VARIABLE).ok(), self.global.api_token_file.as_deref(), &self.file)
    }

    /// The token that a client sends.
    fn token(&self) -> Result<Option<ApiToken>, Error> {
        file::only(&self.tokens()?)
    }

    pub(crate) fn client(&self) -> anyhow::Result<Client> {
        Ok(Client::new(self.api_url(), self.token()?)?)
    }

    /// Where the API is.
    pub(crate) fn api_url(&self) -> &str {
        self.global.api_url.as_deref().or(self.file.api_url.as_deref()).unwrap_or(DEFAULT_API_URL)
    }

    /// The style of tables and times.
    pub(crate) fn style(&self) -> Style {
        Style::now(self.output() == Output::Wide)
    }

    pub(crate) fn output(&self) -> Output {
        self.global.output.or(self.file.output).unwrap_or_default()
    }

    /// Starts logging; `level` is the default.
    pub(crate) fn log(&self, level: &str) -> Result<(), Error> {
        let format = self.global.log_format.or(self.file.log_format).unwrap_or(LogFormat::Text);
        log::start(format, self.global.log_level.as_deref().or(self.file.log_level.as_deref()), level)
    }
}

#[cfg(test)]
mod fuzz;
