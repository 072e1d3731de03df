//! `slotline limit`: another limit for a while, beside the declared one.

use std::process::ExitCode;
use std::time::Duration;

use slotline_protocol::ActionRef;
use slotline_protocol::change::{LimitOverride, OverrideBody};
use slotline_protocol::http::Action;

use crate::client::hint;
use crate::settings::{self, Output, Settings};
use crate::show::output;

#[derive(clap::Args)]
pub(crate) struct Args {
    action: ActionRef,
    /// Slots while the override holds; `none` for no limit
    #[arg(value_parser = slots, required_unless_present = "clear", conflicts_with = "clear")]
    limit: Option<Slots>,
    /// How long it holds, such as 2h; afterwards the declared limit holds again by itself
    #[arg(long = "for", value_name = "DURATION", value_parser = settings::duration, required_unless_present = "clear", conflicts_with = "clear")]
    duration: Option<Duration>,
    /// Let the declared limit hold again now
    #[arg(long)]
    clear: bool,
    /// Why; shown beside the limit and in the audit
    #[arg(long)]
    reason: Option<String>,
}

/// A number of slots, or no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slots(Option<u32>);

fn slots(text: &str) -> Result<Slots, String> {
    match text {
        "none" => Ok(Slots(None)),
        text => match text.parse() {
            Ok(slots) if slots > 0 => Ok(Slots(Some(slots))),
            _ => Err("expected at least 1, or none for no limit; to run nothing, pause the action".to_owned()),
        },
    }
}

pub(crate) async fn limit(settings: &Settings, args: Args) -> anyhow::Result<ExitCode> {
    let client = settings.client()?;
    let path = ["actions", args.action.as_str(), "limit"];
    let answer = match (args.limit, args.duration) {
        (Some(Slots(limit)), Some(duration)) => {
            client.put(&path, &OverrideBody { limit, duration, reason: args.reason }).await
        }
        _ => client.delete(&path, &reason(args.reason)).await,
    };
    let action: Action = hint::with_near_name(&client, &args.action, answer).await?;
    match settings.output() {
        Output::Json => output::json(&action),
        Output::Table | Output::Wide => output::line(output::clean(&match &action.limit_override {
            Some(temporary) => format!("the limit of {} is {}", action.action_ref, describe(temporary)),
            None => format!("the limit of {} is {}, as declared", action.action_ref, number(action.policy.limit)),
        })),
    }
    Ok(ExitCode::SUCCESS)
}

/// The reason as a query, for requests without a body.
pub(crate) fn reason(reason: Option<String>) -> Vec<(&'static str, String)> {
    reason.into_iter().map(|reason| ("reason", reason)).collect()
}

/// `4 until 2026-11-30T12:00:00Z (alice: a backlog)`, with the exact time of the end.
pub(crate) fn describe(temporary: &LimitOverride) -> String {
    let why = temporary.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    let until = output::moment(temporary.until);
    format!("{} until {until} ({}{why})", number(temporary.limit), temporary.actor)
}

pub(crate) fn number(limit: Option<u32>) -> String {
    limit.map_or_else(|| "none".to_owned(), |limit| limit.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_a_number_or_none_at_all() {
        assert_eq!(slots("4"), Ok(Slots(Some(4))));
        assert_eq!(slots("none"), Ok(Slots(None)));
        for bad in ["0", "-1", "many", ""] {
            assert!(slots(bad).expect_err(bad).contains("pause the action"));
        }
    }
}
