//! `slotline queue`: how the lines stand.

use std::process::ExitCode;

use slotline_protocol::ActionRef;
use slotline_protocol::http::{Percentiles, QueueStats};

use crate::client::hint;
use crate::commands::limit::{describe, number as limit};
use crate::commands::pause;
use crate::commands::workers::Serving;
use crate::settings::{Output, Settings};
use crate::show::output;
use crate::show::style::Style;

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
            let found = client.get(&["actions", action.as_str(), "queue-stats"]).await;
            let stats: QueueStats = hint::with_near_name(&client, &action, found).await?;
            match settings.output() {
                Output::Json => output::json(&stats),
                Output::Table | Output::Wide => {
                    let style = settings.style();
                    let state = match stats.paused {
                        true => pause::describe(&client, &stats.action_ref, style).await,
                        false => "open".to_owned(),
                    };
                    one(style, &stats, state, Serving::ask(&client).await.as_ref());
                }
            }
        }
        None => {
            let stats: Vec<QueueStats> = client.list(&["queues"], &[], ACTIONS_MAX).await?;
            match settings.output() {
                Output::Json => output::json(&stats),
                Output::Table | Output::Wide => all(settings.style(), &stats, Serving::ask(&client).await.as_ref()),
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The last three columns are for `--output wide`.
const HEADER: [&str; 11] = [
    "ACTION",
    "STATE",
    "RUNNING",
    "LIMIT",
    "KEY LIMIT",
    "WAITING",
    "OLDEST",
    "OVERRIDE",
    "AHEAD",
    "SUBMITTED",
    "FINISHED",
];
const NARROW: usize = HEADER.len() - 3;

fn all(style: Style, stats: &[QueueStats], serving: Option<&Serving>) {
    let rows = stats.iter().map(|stats| {
        [
            stats.action_ref.to_string(),
            state(stats, serving),
            stats.active_count.to_string(),
            holding(stats),
            limit(stats.key_limit),
            stats.queue_length.to_string(),
            style.optional(stats.oldest_enqueued_at),
            stats.limit_override.as_ref().map(describe).unwrap_or_default(),
            stats.ahead_count.to_string(),
            stats.total_enqueued.to_string(),
            stats.total_completed.to_string(),
        ]
    });
    if style.is_wide() {
        style.table(HEADER, rows);
    } else {
        let header: [&str; NARROW] = first(HEADER);
        style.table(header, rows.map(|row| -> [String; NARROW] { first(row) }));
    }
}

fn first<T: Default, const N: usize, const OF: usize>(all: [T; OF]) -> [T; N] {
    let mut all = all.into_iter();
    std::array::from_fn(|_| all.next().unwrap_or_default())
}

fn one(style: Style, stats: &QueueStats, state: String, serving: Option<&Serving>) {
    output::fields(&[
        ("action", stats.action_ref.to_string()),
        ("state", state),
        ("workers", serving.map(|serving| served(serving.count(&stats.action_ref))).unwrap_or_default()),
        ("running", stats.active_count.to_string()),
        ("limit", holding(stats)),
        ("override", stats.limit_override.as_ref().map(describe).unwrap_or_default()),
        ("limit per key", limit(stats.key_limit)),
        ("waiting", stats.queue_length.to_string()),
        ("sent ahead", stats.ahead_count.to_string()),
        ("first waits since", style.optional(stats.oldest_enqueued_at)),
        ("submitted", stats.total_enqueued.to_string()),
        ("finished", stats.total_completed.to_string()),
        ("wait", percentiles(stats.wait_seconds)),
        ("run", percentiles(stats.run_seconds)),
    ]);
    if !stats.keys.is_empty() {
        output::line("");
        let keys = stats.keys.iter();
        style.table(
            ["KEY", "RUNNING", "WAITING", "AHEAD"],
            keys.map(|line| {
                let key = line.key.clone().unwrap_or_else(|| NO_KEY.to_owned());
                [key, line.active_count.to_string(), line.queue_length.to_string(), line.ahead_count.to_string()]
            }),
        );
    }
}

fn served(workers: usize) -> String {
    match workers {
        0 => "none serves it: what is submitted waits until one does".to_owned(),
        1 => "1 serves it".to_owned(),
        several => format!("{several} serve it"),
    }
}

/// The limit in force, with the declared one if it differs.
fn holding(stats: &QueueStats) -> String {
    match &stats.limit_override {
        Some(_) => format!("{} (declared {})", limit(stats.max_concurrent), limit(stats.declared_limit)),
        None => limit(stats.max_concurrent),
    }
}

/// Whether the action is open, paused, or without a worker.
fn state(stats: &QueueStats, serving: Option<&Serving>) -> String {
    let is_served = serving.is_none_or(|serving| serving.count(&stats.action_ref) > 0);
    match (stats.paused, is_served) {
        (true, _) => "paused",
        (false, false) => "no worker",
        (false, true) => "open",
    }
    .to_owned()
}

fn percentiles(percentiles: Option<Percentiles>) -> String {
    match percentiles {
        None => String::new(),
        Some(Percentiles { count, p50, p90, p99 }) => {
            format!("p50 {p50:.3} s, p90 {p90:.3} s, p99 {p99:.3} s, over the newest {count}")
        }
    }
}
