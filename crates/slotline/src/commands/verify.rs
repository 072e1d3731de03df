//! `slotline verify`: holds a live installation's journal against the promises.
//!
//! Exit codes: 0 every promise holds, 1 one does not (the first counter-example is shown), another if the journal could not be
//! read.
//! It only reads, in one snapshot. On a large journal use `--since`, since all executions that are checked are in memory.

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use serde_json::json;
use slotline_protocol::Timestamp;
use slotline_store::{CLOCK_TOLERANCE, JournalVerdict, PastRewind};

use crate::exit::Exit;
use crate::journal;
use crate::settings::{self, Output, SecretSetting, Settings};
use crate::show::output;
use crate::show::style::Style;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only executions enqueued in this time before now, such as 24h [default: all that are kept]
    #[arg(long, value_name = "DURATION", value_parser = settings::duration)]
    since: Option<Duration>,
    /// postgres://user:password@host/database
    #[arg(long, env = "SLOTLINE_DATABASE_URL", hide_env_values = true, value_name = "URL")]
    database_url: Option<SecretSetting>,
}

pub(crate) async fn verify(settings: &Settings, args: Args) -> anyhow::Result<ExitCode> {
    settings.log("warn")?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let since = args.since.map(|since| Timestamp::from_micros(0) + now.saturating_sub(since));
    let verdict = look(settings, args.database_url, since).await.context("the journal could not be verified")?;
    let exit = if verdict.holds() { Exit::Done } else { Exit::Failed };
    output::ends_as(exit);
    match settings.output() {
        Output::Table | Output::Wide => show(settings.style(), &verdict, since),
        Output::Json => output::json(&document(&verdict, since)),
    }
    Ok(exit.into())
}

async fn look(
    settings: &Settings,
    url: Option<SecretSetting>,
    since: Option<Timestamp>,
) -> anyhow::Result<JournalVerdict> {
    let url = journal::url(url, &settings.file)?;
    let store = journal::open_to_read(url.expose()).await?;
    let verdict = store.verify(since).await?;
    store.close().await;
    Ok(verdict)
}

fn show(style: Style, verdict: &JournalVerdict, since: Option<Timestamp>) {
    let window =
        since.map_or_else(|| "all that is kept".to_owned(), |since| format!("since {}", output::moment(since)));
    output::line(format!("{} executions, {} attempts ({window})\n", verdict.executions, verdict.attempts));
    let rows = verdict.checks.iter().map(|checked| {
        let violations = checked.violations.to_string();
        [checked.check.to_string(), checked.examined.to_string(), violations, checked.check.claim().to_owned()]
    });
    style.table(["CHECK", "EXAMINED", "VIOLATED", "WHAT MUST HOLD"], rows);
    output::line(format!("\n{}", reservations(since)));
    for unjudged in &verdict.unjudged {
        output::line(format!("NOT JUDGED: {}", output::clean(unjudged)));
    }
    for rewind in &verdict.rewinds {
        let at = output::moment(rewind.settled_at);
        output::line(format!("REWOUND at {at}: {}", output::clean(&rewind.sentence())));
    }
    match verdict.violations.first() {
        None if verdict.rewinds.is_empty() && verdict.unjudged.is_empty() => output::line("All of it holds."),
        None if verdict.rewinds.is_empty() => output::line("All of it holds that could be judged."),
        None => output::line(
            "All of it holds for what is in the journal; it can tell nothing of what was lost with each rewind.",
        ),
        Some(first) => {
            let all: u64 = verdict.checks.iter().map(|checked| checked.violations).sum();
            let more = if all > 1 { format!(" ({} more; --output json lists them)", all - 1) } else { String::new() };
            output::line(format!("VIOLATED: {}{more}", output::clean(first)));
        }
    }
}

/// What the verdict does not cover.
fn reservations(since: Option<Timestamp>) -> String {
    let earlier = match since {
        Some(_) => " What was enqueued earlier is not counted beside it.",
        None => "",
    };
    format!(
        "Limits and order are judged by the policy that held as each slot was granted.{earlier} Starts and ends are by the \
         workers' clocks, so attempts of different workers count as side by side from {} ms on.",
        CLOCK_TOLERANCE.as_millis()
    )
}

fn document(verdict: &JournalVerdict, since: Option<Timestamp>) -> serde_json::Value {
    let checks: Vec<_> = verdict
        .checks
        .iter()
        .map(|checked| {
            json!({
                "check": checked.check.as_str(),
                "claim": checked.check.claim(),
                "examined": checked.examined,
                "violated": checked.violations,
            })
        })
        .collect();
    json!({
        "holds": verdict.holds(),
        "since": since,
        "executions": verdict.executions,
        "attempts": verdict.attempts,
        "checks": checks,
        "violations": verdict.violations,
        "unjudged": verdict.unjudged,
        "rewinds": verdict.rewinds.iter().map(rewound).collect::<Vec<_>>(),
        "clock_tolerance_ms": u64::try_from(CLOCK_TOLERANCE.as_millis()).unwrap_or(u64::MAX),
        "reservations": reservations(since),
    })
}

fn rewound(rewind: &PastRewind) -> serde_json::Value {
    json!({
        "generation": rewind.generation,
        "settled_at": rewind.settled_at,
        "reason": rewind.reason,
        "first_missing": rewind.from,
        "known_until": rewind.shown,
        "resumed_at": rewind.resumed,
        "recovered": rewind.recovered,
        "sentence": rewind.sentence(),
    })
}
