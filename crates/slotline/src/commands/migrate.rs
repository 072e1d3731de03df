//! `slotline migrate`: brings the schema up to date, where the executor is not to do it.

use std::process::ExitCode;

use crate::journal::{self, Opening};
use crate::settings::{SecretSetting, Settings};
use crate::show::output;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// postgres://user:password@host/database
    #[arg(long, env = "SLOTLINE_DATABASE_URL", hide_env_values = true, value_name = "URL")]
    database_url: Option<SecretSetting>,
}

pub(crate) async fn migrate(settings: &Settings, args: Args) -> anyhow::Result<ExitCode> {
    settings.log("warn")?;
    let url = journal::url(args.database_url, &settings.file)?;
    journal::open(url.expose(), Opening::MIGRATING).await?.close().await;
    output::note("the schema is up to date");
    Ok(ExitCode::SUCCESS)
}
