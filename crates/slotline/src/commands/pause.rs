//! `slotline pause` and `slotline resume`: a line stands still for a while; what runs goes on.

use std::process::ExitCode;

use slotline_protocol::ActionRef;
use slotline_protocol::change::ReasonBody;
use slotline_protocol::http::Action;

use crate::client::hint;
use crate::settings::{Output, Settings};
use crate::show::output;

#[derive(clap::Args)]
pub(crate) struct Args {
    action: ActionRef,
    /// Why, for the audit
    #[arg(long)]
    reason: Option<String>,
}

pub(crate) async fn pause(settings: &Settings, args: Args) -> anyhow::Result<ExitCode> {
    set(settings, args, "pause").await
}

pub(crate) async fn resume(settings: &Settings, args: Args) -> anyhow::Result<ExitCode> {
    set(settings, args, "resume").await
}

async fn set(settings: &Settings, args: Args, what: &str) -> anyhow::Result<ExitCode> {
    let body = ReasonBody { reason: args.reason };
    let client = settings.client()?;
    let answer = client.post(&["actions", args.action.as_str(), what], &body).await;
    let action: Action = hint::with_near_name(&client, &args.action, answer).await?;
    match settings.output() {
        Output::Json => output::json(&action),
        Output::Table | Output::Wide => {
            output::line(format!("{} is {}", action.action_ref, if action.paused { "paused" } else { "open" }));
        }
    }
    Ok(ExitCode::SUCCESS)
}
