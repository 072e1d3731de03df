//! `slotline pause` and `slotline resume`: a line stands still for a while; what runs goes on.

use std::process::ExitCode;

use slotline_protocol::ActionRef;
use slotline_protocol::audit::{Changed, Entry};
use slotline_protocol::change::ReasonBody;
use slotline_protocol::http::Action;

use crate::client::{Client, hint};
use crate::settings::{Output, Settings};
use crate::show::output;
use crate::show::style::Style;

/// Among how many of the newest changes of an action its pause is looked for.
const CHANGES_MAX: usize = 50;

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

/// `paused by ann 5 min ago: new disk`; without what the audit does not have any more.
pub(crate) async fn describe(client: &Client, action: &ActionRef, style: Style) -> String {
    let query = [("action", action.to_string())];
    let newest: Vec<Entry> = client.list(&["audit"], &query, CHANGES_MAX).await.unwrap_or_default();
    match newest.into_iter().find(|entry| entry.changed == Changed::Paused) {
        None => "paused".to_owned(),
        Some(Entry { at, by, .. }) => {
            let reason = by.reason.map(|reason| format!(": {reason}")).unwrap_or_default();
            format!("paused by {} {}{reason}", by.actor, style.moment(at))
        }
    }
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
