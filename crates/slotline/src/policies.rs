//! `slotline actions`: what can run, and by which policy.

use std::process::ExitCode;

use serde_json::Value;
use slotline_protocol::ActionRef;
use slotline_protocol::change::differences;
use slotline_protocol::http::{Action, ActionDetail};

use crate::apply::spelt;
use crate::config::Output;
use crate::limit::{number, told};
use crate::{Settings, output};

/// The most actions that are listed.
const ACTIONS_MAX: usize = 10_000;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// One action, with its whole policy
    action: Option<ActionRef>,
}

pub(crate) async fn actions(settings: &Settings, args: Args) -> anyhow::Result<ExitCode> {
    let client = settings.client()?;
    match args.action {
        Some(action) => {
            let detail: ActionDetail = client.get(&["actions", action.as_str()]).await?;
            match settings.output() {
                Output::Json => output::json(&detail),
                Output::Table => one(&detail),
            }
        }
        None => {
            let actions: Vec<Action> = client.list(&["actions"], &[], ACTIONS_MAX).await?;
            match settings.output() {
                Output::Json => output::json(&actions),
                Output::Table => all(&actions),
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn all(actions: &[Action]) {
    output::table(
        ["ACTION", "LIMIT", "PER KEY", "STATE", "CHANGED", "OVERRIDE"],
        actions.iter().map(|action| {
            [
                action.action_ref.to_string(),
                number(action.policy.limit),
                number(action.policy.key_limit),
                state(action).to_owned(),
                output::moment(action.updated_at),
                action.limit_override.as_ref().map(told).unwrap_or_default(),
            ]
        }),
    );
}

fn one(ActionDetail { action, capabilities }: &ActionDetail) {
    output::fields(&[
        ("action", action.action_ref.to_string()),
        ("state", state(action).to_owned()),
        ("limit", number(action.policy.limit)),
        ("override", action.limit_override.as_ref().map(told).unwrap_or_default()),
        ("created", output::moment(action.created_at)),
        ("changed", output::moment(action.updated_at)),
        ("workers can", capabilities.join(", ")),
    ]);
    // What is as by default is known.
    let own = differences(None, Some(&action.policy)).into_iter().filter(|own| own.member != "limit");
    let own: Vec<(String, Value)> = own.map(|own| (own.member, own.new)).collect();
    if !own.is_empty() {
        output::line("");
        output::table(["MEMBER", "VALUE"], own.into_iter().map(|(member, value)| [member, spelt(&value)]));
    }
}

fn state(action: &Action) -> &'static str {
    if action.paused { "paused" } else { "open" }
}
