//! `slotline audit`: what was changed, by which actor, and why.

use std::process::ExitCode;

use slotline_protocol::audit::Entry;
use slotline_protocol::{ActionRef, ExecutionId};

use crate::commands::apply::spelt;
use crate::settings::{Output, Settings};
use crate::show::output;
use crate::show::style::Style;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Of this action
    #[arg(long, value_name = "ACTION")]
    action: Option<ActionRef>,
    /// Of this execution
    #[arg(long, value_name = "ID")]
    execution: Option<ExecutionId>,
    /// By this actor: the name of a token, `local`, or a user of the broker
    #[arg(long, value_name = "NAME")]
    actor: Option<String>,
    /// The newest so many
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
}

pub(crate) async fn audit(settings: &Settings, args: Args) -> anyhow::Result<ExitCode> {
    let mut query = Vec::new();
    query.extend(args.action.map(|action| ("action", action.to_string())));
    query.extend(args.execution.map(|id| ("execution", id.to_string())));
    query.extend(args.actor.map(|actor| ("actor", actor)));
    let most = usize::try_from(args.limit).expect("a small number fits");
    let entries: Vec<Entry> = settings.client()?.list(&["audit"], &query, most).await?;
    match settings.output() {
        Output::Json => output::json(&entries),
        Output::Table | Output::Wide => list(settings.style(), &entries),
    }
    Ok(ExitCode::SUCCESS)
}

fn list(style: Style, entries: &[Entry]) {
    style.table(
        ["AT", "ACTOR", "CHANGED", "OF", "WHAT", "REASON"],
        entries.iter().map(|entry| {
            [
                style.moment(entry.at),
                entry.by.actor.clone(),
                entry.changed.to_string(),
                subject(entry),
                changes(entry),
                entry.by.reason.clone().unwrap_or_default(),
            ]
        }),
    );
}

fn subject(entry: &Entry) -> String {
    let action = entry.action_ref.as_ref().map(ToString::to_string);
    let execution = entry.execution_id.map(|id| format!("#{id}"));
    [action, execution, entry.dead_letter.clone()].into_iter().flatten().collect::<Vec<_>>().join(" ")
}

fn changes(entry: &Entry) -> String {
    let changes = entry.changes.iter().map(|change| match change.member.as_str() {
        // The actor and reason of an override are those of its entry.
        "limit_override" => format!("limit {} -> {}", overridden(&change.old), overridden(&change.new)),
        // The column CHANGED has it already.
        "paused" => String::new(),
        member => format!("{member} {} -> {}", spelt(&change.old), spelt(&change.new)),
    });
    changes.filter(|text| !text.is_empty()).collect::<Vec<_>>().join(", ")
}

fn overridden(value: &serde_json::Value) -> String {
    if value.is_null() { "declared".to_owned() } else { spelt(&value["limit"]) }
}
