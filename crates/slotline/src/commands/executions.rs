//! `slotline executions`: list, show, cancel.

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use slotline_protocol::http::{Attempt, CancelBody, Execution, Page, Submitted, TimeoutFrom};
use slotline_protocol::message::Failure;
use slotline_protocol::record::Latest;
use slotline_protocol::{ActionRef, ExecutionId, Status, Timestamp, chain};

use crate::client::Client;
use crate::settings::{self, Output, Settings};
use crate::show::style::Style;
use crate::show::{describe, format, output};

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// List the newest
    List {
        #[arg(long, value_name = "ACTION")]
        action: Option<ActionRef>,
        /// One of these, separated by commas
        #[arg(long, value_delimiter = ',')]
        status: Vec<Status>,
        /// Of this concurrency key
        #[arg(long)]
        key: Option<String>,
        /// Submitted within this time, such as 2h
        #[arg(long, value_name = "DURATION", value_parser = settings::duration)]
        since: Option<Duration>,
        /// Submitted longer ago than this
        #[arg(long, value_name = "DURATION", value_parser = settings::duration)]
        before: Option<Duration>,
        /// The execution of the request with this id
        #[arg(long, value_name = "ID", conflicts_with_all = ["action", "status", "key", "since", "before"])]
        message_id: Option<String>,
        /// The newest so many
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        limit: u32,
    },
    /// Show one: where it stands, why it waits, how it ended
    Show { id: ExecutionId },
    /// End some, waiting or running; what has ended stays as it is
    Cancel(CancelArgs),
}

#[derive(clap::Args)]
pub(crate) struct CancelArgs {
    #[arg(required = true)]
    id: Vec<ExecutionId>,
    /// Why, for the audit and the execution
    #[arg(long)]
    reason: Option<String>,
}

/// The answer to a cancellation.
#[derive(Deserialize, serde::Serialize)]
pub(crate) struct Cancelled {
    execution_id: ExecutionId,
    pub(crate) status: Status,
}

pub(crate) async fn executions(settings: &Settings, command: Command) -> anyhow::Result<ExitCode> {
    let client = settings.client()?;
    match command {
        Command::List { action, status, key, since, before, message_id, limit } => {
            let mut query = Vec::new();
            query.extend(action.map(|action| ("action", action.to_string())));
            query.extend(status.iter().map(|status| ("status", status.to_string())));
            query.extend(key.map(|key| ("key", key)));
            let most = usize::try_from(limit).expect("a small number fits");
            let executions = match message_id {
                Some(message_id) => of_message(&client, &message_id).await?,
                None => newest(&client, &query, Span { since, before }, most).await?,
            };
            match settings.output() {
                Output::Json => output::json(&executions),
                Output::Table | Output::Wide => list(settings.style(), &executions),
            }
        }
        Command::Show { id } => {
            let execution: Execution = client.get(&["executions", &id.to_string()]).await?;
            match settings.output() {
                Output::Json => output::json(&execution),
                Output::Table | Output::Wide => show(settings.style(), &execution),
            }
        }
        Command::Cancel(args) => return cancel(settings, args).await,
    }
    Ok(ExitCode::SUCCESS)
}

/// Cancels each, also after one was refused; the last refusal is the command's error.
pub(crate) async fn cancel(
    settings: &Settings,
    CancelArgs { id: ids, reason }: CancelArgs,
) -> anyhow::Result<ExitCode> {
    let client = settings.client()?;
    let (mut cancelled, mut failed) = (Vec::new(), None);
    let is_one = ids.len() == 1;
    for id in ids {
        let path = ["executions", &id.to_string(), "cancel"];
        match client.post::<Cancelled>(&path, &CancelBody { reason: reason.clone() }).await {
            Ok(answer) => {
                if settings.output() != Output::Json {
                    output::announce(format!("execution {id} is {}", answer.status));
                }
                cancelled.push(answer);
            }
            // The last error is returned and printed by `main`.
            Err(error) => {
                if let Some(earlier) = failed.replace(error) {
                    output::error(&chain(&earlier).to_string());
                }
            }
        }
    }
    match cancelled.first() {
        _ if settings.output() != Output::Json => {}
        Some(only) if is_one => output::json(only),
        _ => output::json(&cancelled),
    }
    failed.map_or(Ok(ExitCode::SUCCESS), |error| Err(error.into()))
}

/// How long ago executions were submitted.
#[derive(Clone, Copy)]
struct Span {
    since: Option<Duration>,
    before: Option<Duration>,
}

/// The newest executions of that time. Ids ascend with time, so reading ends at the first that is too old.
async fn newest(
    client: &Client,
    query: &[(&str, String)],
    Span { since, before }: Span,
    most: usize,
) -> anyhow::Result<Vec<Execution>> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let ago = |span: Duration| Timestamp::from_micros(0) + now.saturating_sub(span);
    let (since, before) = (since.map(ago), before.map(ago));
    if since.is_none() && before.is_none() {
        return Ok(client.list(&["executions"], query, most).await?);
    }
    let (mut found, mut cursor) = (Vec::new(), None::<String>);
    loop {
        let mut query = query.to_vec();
        query.push(("limit", slotline_api::LIMIT_MAX.to_string()));
        query.extend(cursor.take().map(|cursor| ("cursor", cursor)));
        let page: Page<Execution> = client.page(&["executions"], &query).await?;
        let is_past = page.data.last().is_some_and(|last| since.is_some_and(|since| last.enqueued_at < since));
        found.extend(page.data.into_iter().filter(|execution| {
            since.is_none_or(|since| execution.enqueued_at >= since)
                && before.is_none_or(|before| execution.enqueued_at < before)
        }));
        found.truncate(most);
        cursor = page.next_cursor;
        if is_past || cursor.is_none() || found.len() == most {
            return Ok(found);
        }
    }
}

/// The execution of a request, as a list of one; empty while it has none.
async fn of_message(client: &Client, message_id: &str) -> anyhow::Result<Vec<Execution>> {
    let submitted: Submitted = client.get(&["requests", message_id]).await?;
    match submitted.execution_id {
        Some(id) => Ok(vec![client.get(&["executions", &id.to_string()]).await?]),
        None => Ok(Vec::new()),
    }
}

fn list(style: Style, executions: &[Execution]) {
    style.table(
        ["ID", "ACTION", "STATUS", "PLACE", "KEY", "SUBMITTED", "WORKER", "NOTE"],
        executions.iter().map(|execution| {
            let waiting = execution.waiting.as_ref().map(|waiting| waiting.message.clone());
            let error = execution.error.as_ref().map(|error| error.code.clone());
            [
                execution.execution_id.to_string(),
                execution.action_ref.to_string(),
                execution.status.to_string(),
                output::optional(execution.position),
                execution.concurrency_key.clone().unwrap_or_default(),
                style.moment(execution.enqueued_at),
                output::optional(execution.worker.as_ref()),
                waiting.or(error).unwrap_or_default(),
            ]
        }),
    );
}

pub(crate) fn show(style: Style, execution: &Execution) {
    let waiting = execution.waiting.as_ref();
    let error = execution.error.as_ref();
    let data = execution.progress.as_ref().and_then(|latest| latest.data.as_ref());
    let held_by = waiting.map(|waiting| waiting.held_by.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "));
    output::fields(&[
        ("execution", execution.execution_id.to_string()),
        ("action", execution.action_ref.to_string()),
        ("status", execution.status.to_string()),
        ("place", output::optional(execution.position)),
        ("waits", waiting.map(|waiting| waiting.message.clone()).unwrap_or_default()),
        ("held by", held_by.unwrap_or_default()),
        ("key", execution.concurrency_key.clone().unwrap_or_default()),
        ("message id", execution.message_id.clone().unwrap_or_default()),
        ("attempt", numbered(execution.attempt, execution.grant)),
        ("worker", output::optional(execution.worker.as_ref())),
        ("submitted", style.moment(execution.enqueued_at)),
        ("started", style.optional(execution.start_time)),
        ("ended", style.optional(execution.end_time)),
        ("timeout", timeout(execution)),
        ("parameters", execution.parameters.get().to_owned()),
        ("result", execution.result.as_ref().map(|result| result.get().to_owned()).unwrap_or_default()),
        ("progress", execution.progress.as_ref().map(progress).unwrap_or_default()),
        ("data", data.map(ToString::to_string).unwrap_or_default()),
        (
            "tasks",
            execution.progress.as_ref().map(|latest| describe::tree(&latest.tasks).join("\n")).unwrap_or_default(),
        ),
        ("newest", execution.progress_events.lines().join("\n")),
        ("error", error.map(describe::failure).unwrap_or_default()),
        ("stderr", error.and_then(stderr).unwrap_or_default().to_owned()),
        ("stack trace", error.and_then(|error| error.stack_trace.clone()).unwrap_or_default()),
    ]);
    for attempt in &execution.earlier_attempts {
        output::fields(&earlier(style, attempt));
    }
}

/// An attempt that did not settle its execution: how, where and when it ended.
fn earlier(style: Style, attempt: &Attempt) -> [(&'static str, String); 4] {
    let worker = attempt.worker.as_ref().map(|worker| format!(" on {worker}")).unwrap_or_default();
    let ran = match attempt.start_time {
        Some(start) => format!("after {:.3} s", attempt.end_time.since(start).as_secs_f64()),
        None => "before it began".to_owned(),
    };
    let ended = style.moment(attempt.end_time);
    let error = attempt.error.as_ref();
    [
        ("earlier", format!("attempt {} {}{worker} {ran}, {ended}", attempt.attempt, attempt.outcome)),
        ("result", attempt.result.as_ref().map(|result| result.get().to_owned()).unwrap_or_default()),
        ("error", error.map(describe::failure).unwrap_or_default()),
        ("stderr", error.and_then(stderr).unwrap_or_default().to_owned()),
    ]
}

/// `1 (grant 3)`, if the two differ.
fn numbered(attempt: u32, grant: u32) -> String {
    if attempt == grant { attempt.to_string() } else { format!("{attempt} (grant {grant})") }
}

/// `60 s, by its action`.
fn timeout(execution: &Execution) -> String {
    let Some(seconds) = execution.timeout_seconds else { return String::new() };
    let whose = match execution.timeout_from {
        TimeoutFrom::Request => ", by its request",
        TimeoutFrom::Action => ", by its action",
        TimeoutFrom::Default => "",
    };
    format!("{seconds} s{whose}")
}

/// The last lines that a command printed to stderr, if its error has them.
fn stderr(error: &Failure) -> Option<&str> {
    error.details.as_ref()?.get("stderr")?.as_str()
}

/// `[pull] 42 %, step 2/7`.
fn progress(latest: &Latest) -> String {
    let phase = latest.phase.as_ref().map(|phase| format!("[{phase}] ")).unwrap_or_default();
    format!("{phase}{}", format::amounts(latest).join(", ")).trim_end().to_owned()
}
