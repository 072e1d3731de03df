//! `slotline migrate`: brings the schema up to date, for those who do not let the executor do it.

use std::process::ExitCode;

use slotline_store::Store;

use crate::config::{Secret, require};
use crate::{Settings, output};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// postgres://user:password@host/database
    #[arg(long, env = "SLOTLINE_DATABASE_URL", hide_env_values = true, value_name = "URL")]
    database_url: Option<Secret>,
}

pub(crate) async fn migrate(settings: &Settings, args: Args) -> anyhow::Result<ExitCode> {
    settings.log("warn")?;
    let url = args.database_url.or(settings.file.database_url.clone());
    let url = require(url, "the database", "database-url", "DATABASE_URL", "database_url")?;
    let store = Store::open(url.expose()).await?;
    store.migrate().await?;
    store.close().await;
    output::note("the schema is up to date");
    Ok(ExitCode::SUCCESS)
}
