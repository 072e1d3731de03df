//! `slotline queue`: how the lines stand.

use std::process::ExitCode;

use slotline_protocol::ActionRef;
use slotline_protocol::http::{Percentiles, QueueStats};

use crate::config::Output;
use crate::limit::{number as limit, told};
use crate::{Settings, output};

/// The most actions that are listed.
const ACTIONS_MAX: usize = 10_000;

/// How the line of executions without a key is shown.
const NO_KEY: &str = "(no key)";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// One action, in detail
    action: Option<ActionRef>,
}

pub(crate) async fn queue(settings: &Settings, args: Args) -> anyhow::Result<ExitCode> {
    let client = settings.client()?;
    match args.action {
        Some(action) => {
            let stats: QueueStats = client.get(&["actions", action.as_str(), "queue-stats"]).await?;
            match settings.output() {
                Output::Json => output::json(&stats),
                Output::Table => one(&stats),
            }
        }
        None => {
            let stats: Vec<QueueStats> = client.list(&["queues"], &[], ACTIONS_MAX).await?;
            match settings.output() {
                Output::Json => output::json(&stats),
                Output::Table => all(&stats),
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn all(stats: &[QueueStats]) {
    output::table(
        ["ACTION", "RUNNING", "LIMIT", "PER KEY", "WAITING", "OLDEST", "TAKEN", "ENDED", "STATE", "OVERRIDE"],
        stats.iter().map(|stats| {
            [
                stats.action_ref.to_string(),
                stats.active_count.to_string(),
                holding(stats),
                limit(stats.key_limit),
                stats.queue_length.to_string(),
                stats.oldest_enqueued_at.map(output::moment).unwrap_or_default(),
                stats.total_enqueued.to_string(),
                stats.total_completed.to_string(),
                state(stats),
                stats.limit_override.as_ref().map(told).unwrap_or_default(),
            ]
        }),
    );
}

fn one(stats: &QueueStats) {
    output::fields(&[
        ("action", stats.action_ref.to_string()),
        ("state", state(stats)),
        ("running", stats.active_count.to_string()),
        ("limit", holding(stats)),
        ("override", stats.limit_override.as_ref().map(told).unwrap_or_default()),
        ("limit per key", limit(stats.key_limit)),
        ("waiting", stats.queue_length.to_string()),
        ("oldest", stats.oldest_enqueued_at.map(output::moment).unwrap_or_default()),
        ("taken", stats.total_enqueued.to_string()),
        ("ended", stats.total_completed.to_string()),
        ("wait", percentiles(stats.wait_seconds)),
        ("run", percentiles(stats.run_seconds)),
    ]);
    if !stats.keys.is_empty() {
        output::line("");
        let keys = stats.keys.iter();
        output::table(
            ["KEY", "RUNNING", "WAITING"],
            keys.map(|line| {
                let key = line.key.clone().unwrap_or_else(|| NO_KEY.to_owned());
                [key, line.active_count.to_string(), line.queue_length.to_string()]
            }),
        );
    }
}

/// The limit that holds, beside the declared one if that is another.
fn holding(stats: &QueueStats) -> String {
    match &stats.limit_override {
        Some(_) => format!("{} (declared {})", limit(stats.max_concurrent), limit(stats.declared_limit)),
        None => limit(stats.max_concurrent),
    }
}

fn state(stats: &QueueStats) -> String {
    if stats.paused { "paused" } else { "open" }.to_owned()
}

fn percentiles(percentiles: Option<Percentiles>) -> String {
    match percentiles {
        None => String::new(),
        Some(Percentiles { count, p50, p90, p99 }) => {
            format!("p50 {p50:.3} s, p90 {p90:.3} s, p99 {p99:.3} s, over the newest {count}")
        }
    }
}
