//! `slotline actions`: what can run, and by which policy.

use std::process::ExitCode;

use serde_json::Value;
use slotline_protocol::ActionRef;
use slotline_protocol::change::differences;
use slotline_protocol::http::{Action, ActionDetail};

use crate::client::{Client, hint};
use crate::commands::apply::spelt;
use crate::commands::limit::{describe, number, reason};
use crate::settings::{Output, Settings};
use crate::show::output;
use crate::show::style::Style;

/// The most actions that are listed.
const ACTIONS_MAX: usize = 10_000;

#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    /// One action, with its whole policy
    action: Option<ActionRef>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(clap::Subcommand)]
enum Command {
    /// List them all
    List,
    /// Show one, with its whole policy
    Show { action: ActionRef },
    /// Delete one; refused while executions of it live
    Delete {
        action: ActionRef,
        /// Why, for the audit
        #[arg(long)]
        reason: Option<String>,
    },
}

pub(crate) async fn actions(settings: &Settings, args: Args) -> anyhow::Result<ExitCode> {
    let client = settings.client()?;
    match (args.command, args.action) {
        (Some(Command::List), _) | (None, None) => list(settings, &client).await?,
        (Some(Command::Show { action }), _) | (None, Some(action)) => show(settings, &client, &action).await?,
        (Some(Command::Delete { action, reason }), _) => delete(settings, &client, &action, reason).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(settings: &Settings, client: &Client) -> anyhow::Result<()> {
    let actions: Vec<Action> = client.list(&["actions"], &[], ACTIONS_MAX).await?;
    match settings.output() {
        Output::Json => output::json(&actions),
        Output::Table | Output::Wide => all(settings.style(), &actions),
    }
    Ok(())
}

async fn show(settings: &Settings, client: &Client, action: &ActionRef) -> anyhow::Result<()> {
    let found = client.get(&["actions", action.as_str()]).await;
    let detail: ActionDetail = hint::with_near_name(client, action, found).await?;
    match settings.output() {
        Output::Json => output::json(&detail),
        Output::Table | Output::Wide => one(settings.style(), &detail),
    }
    Ok(())
}

async fn delete(settings: &Settings, client: &Client, action: &ActionRef, why: Option<String>) -> anyhow::Result<()> {
    let gone = client.delete::<Value>(&["actions", action.as_str()], &reason(why)).await;
    let gone = hint::with_near_name(client, action, gone).await?;
    match settings.output() {
        Output::Json => output::json(&gone),
        Output::Table | Output::Wide => output::line(format!("{action} is deleted")),
    }
    Ok(())
}

fn all(style: Style, actions: &[Action]) {
    style.table(
        ["ACTION", "LIMIT", "KEY LIMIT", "STATE", "CHANGED", "OVERRIDE"],
        actions.iter().map(|action| {
            [
                action.action_ref.to_string(),
                number(action.policy.limit),
                number(action.policy.key_limit),
                state(action).to_owned(),
                style.moment(action.updated_at),
                action.limit_override.as_ref().map(describe).unwrap_or_default(),
            ]
        }),
    );
}

fn one(style: Style, ActionDetail { action, capabilities }: &ActionDetail) {
    output::fields(&[
        ("action", action.action_ref.to_string()),
        ("state", state(action).to_owned()),
        ("limit", number(action.policy.limit)),
        ("override", action.limit_override.as_ref().map(describe).unwrap_or_default()),
        ("created", style.moment(action.created_at)),
        ("changed", style.moment(action.updated_at)),
        ("workers can", capabilities.join(", ")),
    ]);
    // Only members that differ from the default.
    let own = differences(None, Some(&action.policy)).into_iter().filter(|own| own.member != "limit");
    let own: Vec<(String, Value)> = own.map(|own| (own.member, own.new)).collect();
    if !own.is_empty() {
        output::line("");
        style.table(["MEMBER", "VALUE"], own.into_iter().map(|(member, value)| [member, spelt(&value)]));
    }
}

fn state(action: &Action) -> &'static str {
    if action.paused { "paused" } else { "open" }
}
