//! `slotline apply`: the policies of a file, all of them or none, through the API.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::{Map, Value, json};
use slotline_protocol::Policy;
use slotline_protocol::change::{Applied, ChangeOutcome};

use crate::client::{Client, Error};
use crate::commands::limit;
use crate::settings::{Output, Settings, actions};
use crate::show::output;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Actions file (TOML); its [action.run] tables are for workers only
    file: PathBuf,
    /// Show what would change, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Why, for the audit
    #[arg(long)]
    reason: Option<String>,
}

pub(crate) async fn apply(settings: &Settings, args: Args) -> anyhow::Result<ExitCode> {
    let actions = actions::read(&args.file)?;
    actions::doubts(&actions).into_iter().for_each(output::note);
    let applied = send(&settings.client()?, &actions, args.dry_run, args.reason).await?;
    match settings.output() {
        Output::Table | Output::Wide => show(&applied, args.dry_run),
        Output::Json => output::json(&applied),
    }
    Ok(ExitCode::SUCCESS)
}

/// Declares the policies of these actions in one call: all of them, or none.
pub(crate) async fn send(
    client: &Client,
    actions: &[actions::DeclaredAction],
    dry_run: bool,
    reason: Option<String>,
) -> Result<Vec<Applied>, Error> {
    let declared: Vec<Value> = actions
        .iter()
        .map(|action| json!({"action_ref": action.action_ref, "policy": changed_members(&action.policy)}))
        .collect();
    client.post(&["actions", "apply"], &json!({"actions": declared, "dry_run": dry_run, "reason": reason})).await
}

/// The members of a policy that differ from the default, so that thousands fit into one call.
fn changed_members(policy: &Policy) -> Map<String, Value> {
    let members = |policy: &Policy| match serde_json::to_value(policy) {
        Ok(Value::Object(members)) => members,
        other => unreachable!("a policy is written as an object: {other:?}"),
    };
    let default = members(&Policy::default());
    members(policy).into_iter().filter(|(name, value)| default.get(name) != Some(value)).collect()
}

fn show(applied: &[Applied], dry_run: bool) {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for action in applied {
        *counts.entry(action.outcome.as_str()).or_default() += 1;
        let would = if dry_run && action.outcome != ChangeOutcome::Unchanged { "would be " } else { "" };
        output::line(format!("{} {would}{}", action.action_ref, action.outcome.as_str()));
        for difference in &action.changes {
            let (old, new) = (spelt(&difference.old), spelt(&difference.new));
            output::line(output::clean(&format!("    {}: {old} -> {new}", difference.member)));
        }
        if let Some(temporary) = &action.limit_override {
            output::line(output::clean(&format!("    the limit is {}", limit::describe(temporary))));
        }
    }
    if dry_run {
        let counts: Vec<String> = counts.into_iter().map(|(outcome, count)| format!("{count} {outcome}")).collect();
        output::note(format!("a dry run: nothing was changed ({})", counts.join(", ")));
    }
}

/// One value of a policy, for people.
pub(crate) fn spelt(value: &Value) -> String {
    match value {
        Value::Null => "none".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_of_a_policy_is_the_same_policy() {
        for action in actions::examples() {
            let sent = Value::Object(changed_members(&action.policy));
            assert_eq!(serde_json::from_value::<Policy>(sent.clone()).expect("a policy"), action.policy, "{sent}");
        }
        assert_eq!(changed_members(&Policy::default()), Map::new());
        assert_eq!(
            Value::Object(changed_members(&Policy { limit: Some(1), ..Policy::default() })),
            json!({"limit": 1})
        );
    }
}
