//! `slotline apply`: the policies of a file, through the API.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;

use crate::client::Client;
use crate::config::Output;
use crate::{Settings, actions, output};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Actions file (TOML); what its [action.run] tables say is for workers only
    file: PathBuf,
}

pub(crate) async fn apply(settings: &Settings, args: Args) -> anyhow::Result<ExitCode> {
    // The whole file is read before the first action changes.
    let actions = actions::read(&args.file)?;
    let client = settings.client()?;
    let mut done = Vec::new();
    for action in &actions {
        let is_new = put(&client, action).await.with_context(|| {
            format!("{}: {} of {} actions were applied before it", action.action_ref, done.len(), actions.len())
        })?;
        done.push((action.action_ref.to_string(), if is_new { "created" } else { "set" }));
    }
    match settings.output() {
        Output::Table => {
            for (name, what) in done {
                output::line(format!("{name} {what}"));
            }
        }
        Output::Json => output::json(
            &done
                .into_iter()
                .map(|(name, what)| serde_json::json!({"action_ref": name, "created": what == "created"}))
                .collect::<Vec<_>>(),
        ),
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether it is new.
pub(crate) async fn put(client: &Client, action: &actions::Action) -> Result<bool, crate::client::Error> {
    client.put(&["actions", action.action_ref.as_str()], &action.policy).await
}
