//! `slotline demo`: a few dozen executions of three actions, shown as they line up, then checked in the journal.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};
use slotline_protocol::http::{Execution, Submitted};
use slotline_protocol::{ExecutionId, Policy, Status, Timestamp};
use tokio::time::Instant;
use uuid::Uuid;

use crate::client::Client;
use crate::daemons::embedded::{Embedded, EmbeddedPlan};
use crate::exit::Exit;
use crate::settings::{Settings, actions};
use crate::show::terminal::{Stdio, cut};
use crate::show::{describe, output};
use crate::signals::Signals;

/// Rounds of submissions; each is one deployment, two pictures and one tenant's turn.
const ROUNDS: usize = 12;
const TENANTS: [&str; 3] = ["ada", "bob", "cyd"];
const APPS: [&str; 4] = ["shop", "blog", "mail", "wiki"];
/// Room for all slots there are: one, three, and one for each tenant.
const CAPACITY: u32 = 8;
/// Time between two updates.
const LOOK: Duration = Duration::from_millis(100);
/// The demo has failed if it takes longer; it should take about five seconds.
const WITHIN: Duration = Duration::from_secs(60);
/// Ids that are shown of a line.
const SHOWN_MAX: usize = 8;
/// Columns of a terminal whose width is unknown.
const COLUMNS: usize = 80;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Folder for the journal [default: a new one, removed afterwards]
    #[arg(long, env = "SLOTLINE_DATA", value_name = "DIR")]
    data: Option<PathBuf>,
    /// File with further actions
    #[arg(long, env = "SLOTLINE_ACTIONS", value_name = "FILE")]
    actions: Option<PathBuf>,
}

pub(crate) async fn demo(settings: &Settings, args: Args) -> anyhow::Result<ExitCode> {
    // The demo runs only its own commands, so warnings about isolating commands are left out.
    settings.log("error")?;
    let folder = tempfile::tempdir().context("no temporary folder")?;
    let plan = EmbeddedPlan {
        data: args.data.or(settings.file.data.clone()).unwrap_or_else(|| folder.path().to_owned()),
        actions: actions::with_examples(args.actions.as_deref().or(settings.file.actions.as_deref()))?,
        listen: (std::net::Ipv4Addr::LOCALHOST, 0).into(),
        tokens: settings.tokens()?,
        capacity: CAPACITY,
        page: None,
    };
    let mut signals = Signals::catch()?;
    let embedded = Embedded::start(plan).await?;
    let shown = tokio::select! {
        shown = tokio::time::timeout(WITHIN, show(&embedded)) => {
            shown.context("the demo took too long").and_then(|shown| shown)
        }
        _ = signals.next() => Ok(Exit::Interrupted.into()),
    };
    embedded.stop().await?;
    shown
}

/// Goes on when nothing reads its output any more: all that it has started is ended, and its folder removed, in any case.
async fn show(embedded: &Embedded) -> anyhow::Result<ExitCode> {
    let client = &embedded.client;
    let begun = Instant::now();
    output::paragraph("Three actions: demo.deploy has one slot, demo.resize three, demo.sync one for each tenant.");
    let mut watched: BTreeMap<ExecutionId, Execution> = BTreeMap::new();
    let ids = submit(client).await?;
    output::paragraph(format!("Submitted {} executions; watch them line up:\n", ids.len()));
    output::announce("");
    let is_live = std::io::stdout().is_terminal();
    let mut drawn = 0;
    loop {
        let latest: Vec<Execution> = client.list(&["executions"], &[], ids.len()).await?;
        let mut news = Vec::new();
        for execution in latest.into_iter().filter(|execution| ids.contains(&execution.execution_id)) {
            let known = watched.get(&execution.execution_id);
            news.extend(moves(known, &execution));
            watched.insert(execution.execution_id, execution);
        }
        if !is_live {
            news.sort_unstable();
            news.into_iter().for_each(|(moment, text)| output::announce(stamped(&watched, moment, &text)));
        }
        if is_live {
            drawn = redraw(&frame(&watched), drawn);
        }
        if watched.values().filter(|execution| execution.status.is_terminal()).count() == ids.len() {
            break;
        }
        tokio::time::sleep(LOOK).await;
    }
    summary(embedded, &watched, begun.elapsed()).await
}

/// Submits everything, one after the other, so that the order of submission is known.
async fn submit(client: &Client) -> anyhow::Result<Vec<ExecutionId>> {
    let mut ids = Vec::new();
    for round in 0..ROUNDS {
        for (action_ref, parameters) in [
            ("demo.deploy", json!({"app": APPS[round % APPS.len()]})),
            ("demo.resize", json!({"picture": 2 * round})),
            ("demo.sync", json!({"tenant": TENANTS[round % TENANTS.len()]})),
            ("demo.resize", json!({"picture": 2 * round + 1})),
        ] {
            ids.push(one(client, action_ref, parameters).await?);
        }
    }
    Ok(ids)
}

async fn one(client: &Client, action_ref: &str, parameters: Value) -> anyhow::Result<ExecutionId> {
    let body = json!({"action_ref": action_ref, "parameters": parameters});
    let submitted: Submitted = client.post_once(&["executions"], &Uuid::new_v4().to_string(), &body).await?;
    submitted.execution_id.context("the executor did not take a submission in time")
}

/// The start and the end of `execution` since it was `known`, by its worker's timestamps.
fn moves(known: Option<&Execution>, execution: &Execution) -> Vec<(Timestamp, String)> {
    let key = execution.concurrency_key.as_ref().map(|key| format!(" ({key})")).unwrap_or_default();
    let name = format!("{:11}  #{}{key}", execution.action_ref, execution.execution_id);
    let mut news = Vec::new();
    if let Some(start) = execution.start_time
        && known.is_none_or(|known| known.start_time.is_none())
    {
        news.push((start, format!("{name} starts")));
    }
    if let Some(end) = execution.end_time {
        let has_ended = known.is_some_and(|known| known.end_time.is_some());
        news.extend((!has_ended).then(|| (end, format!("{name} is {}", execution.status))));
    }
    news
}

/// Seconds since the first submission, and what happened then.
fn stamped(watched: &BTreeMap<ExecutionId, Execution>, moment: Timestamp, text: &str) -> String {
    let first = watched.values().map(|execution| execution.enqueued_at).min().unwrap_or(moment);
    format!("{:6.3} s  {text}", moment.since(first).as_secs_f64())
}

/// One line for each action: how many are done, which executions run, which are next.
fn frame(watched: &BTreeMap<ExecutionId, Execution>) -> Vec<String> {
    let mut lines = vec![format!("{:11}  {:5}  {:8}  {:7}  {}", "ACTION", "DONE", "RUNNING", "SLOTS", "NEXT IN LINE")];
    let policies: BTreeMap<String, Policy> =
        actions::examples().into_iter().map(|action| (action.action_ref.to_string(), action.policy)).collect();
    for (name, policy) in policies {
        let of_it: Vec<&Execution> =
            watched.values().filter(|execution| execution.action_ref.as_str() == name).collect();
        if of_it.is_empty() {
            continue;
        }
        let ids = |statuses: &[Status]| {
            let ids: Vec<String> =
                of_it.iter().filter(|it| statuses.contains(&it.status)).map(|it| it.execution_id.to_string()).collect();
            let more = if ids.len() > SHOWN_MAX { " ..." } else { "" };
            format!("{}{more}", ids[..ids.len().min(SHOWN_MAX)].join(" "))
        };
        let slots = match (policy.limit, policy.key_limit) {
            (Some(limit), _) => limit.to_string(),
            (None, Some(limit)) => format!("{limit} a key"),
            (None, None) => "any".to_owned(),
        };
        let running = ids(&[Status::Scheduled, Status::Running, Status::Cancelling]);
        let done = of_it.iter().filter(|execution| execution.status.is_terminal()).count();
        let done = format!("{done}/{}", of_it.len());
        let next = ids(&[Status::Queued]);
        lines.push(format!("{name:11}  {done:5}  {running:8}  {slots:7}  {next}").trim_end().to_owned());
    }
    lines
}

/// Draws `lines` over the `drawn` lines of the last time. A line that wrapped could not be drawn over, so each is cut at the
/// width of the terminal.
fn redraw(lines: &[String], drawn: usize) -> usize {
    let columns = Stdio::Out.columns().unwrap_or(COLUMNS).saturating_sub(1);
    let mut out = std::io::stdout().lock();
    let up = if drawn > 0 { format!("\x1b[{drawn}A") } else { String::new() };
    let text: String = lines.iter().map(|line| format!("\r\x1b[2K{}\n", cut(line, columns))).collect();
    // If the terminal is gone, SIGHUP ends the process.
    let _ = out.write_all(format!("{up}{text}").as_bytes()).and_then(|()| out.flush());
    lines.len()
}

async fn summary(
    embedded: &Embedded,
    watched: &BTreeMap<ExecutionId, Execution>,
    took: Duration,
) -> anyhow::Result<ExitCode> {
    let since: Option<Timestamp> = watched.values().map(|execution| execution.enqueued_at).min();
    let verdict = embedded.store.verify(since).await?;
    let completed = watched.values().filter(|execution| execution.status == Status::Completed).count();
    output::announce("");
    output::paragraph(format!(
        "{} executions, {completed} completed, {} attempts, in {:.1} s.",
        verdict.executions,
        verdict.attempts,
        took.as_secs_f64()
    ));
    for execution in watched.values().filter(|execution| execution.status != Status::Completed) {
        let why = execution.error.as_ref().map(describe::failure).unwrap_or_default();
        output::announce(output::clean(&format!("#{} is {}: {why}", execution.execution_id, execution.status)));
    }
    if verdict.violations.is_empty() {
        output::paragraph(
            "Checked from the journal: every line first in, first out; no limit ever exceeded; one end each.",
        );
    }
    for violation in &verdict.violations {
        output::announce(format!("VIOLATED: {}", output::clean(violation)));
    }
    let program = crate::daemons::dev::program();
    output::paragraph(format!("Next:  {program} dev    the same actions and yours, until Ctrl-C"));
    let is_sound = verdict.violations.is_empty() && completed == watched.len() && verdict.executions > 0;
    Ok(if is_sound { Exit::Done } else { Exit::Failed }.into())
}
