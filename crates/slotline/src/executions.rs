//! `slotline executions`: list, show, cancel.

use std::process::ExitCode;

use serde::Deserialize;
use slotline_protocol::http::{Attempt, CancelBody, Execution, TimeoutFrom};
use slotline_protocol::message::Failure;
use slotline_protocol::record::Latest;
use slotline_protocol::{ActionRef, ExecutionId, Status};

use crate::config::Output;
use crate::{Settings, amount, output, telling};

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
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        limit: u32,
    },
    /// Show one: where it stands, why it waits, how it ended
    Show { id: ExecutionId },
    /// End one, waiting or running; what has ended stays as it is
    Cancel {
        id: ExecutionId,
        #[arg(long)]
        reason: Option<String>,
    },
}

/// What a cancellation is answered with.
#[derive(Deserialize, serde::Serialize)]
pub(crate) struct Cancelled {
    execution_id: ExecutionId,
    pub(crate) status: Status,
}

pub(crate) async fn executions(settings: &Settings, command: Command) -> anyhow::Result<ExitCode> {
    let client = settings.client()?;
    match command {
        Command::List { action, status, key, limit } => {
            let mut query = Vec::new();
            query.extend(action.map(|action| ("action", action.to_string())));
            query.extend(status.iter().map(|status| ("status", status.to_string())));
            query.extend(key.map(|key| ("key", key)));
            let most = usize::try_from(limit).expect("a small number fits");
            let executions: Vec<Execution> = client.list(&["executions"], &query, most).await?;
            match settings.output() {
                Output::Json => output::json(&executions),
                Output::Table => list(&executions),
            }
        }
        Command::Show { id } => {
            let execution: Execution = client.get(&["executions", &id.to_string()]).await?;
            match settings.output() {
                Output::Json => output::json(&execution),
                Output::Table => show(&execution),
            }
        }
        Command::Cancel { id, reason } => {
            let path = ["executions", &id.to_string(), "cancel"];
            let cancelled: Cancelled = client.post(&path, &CancelBody { reason }).await?;
            match settings.output() {
                Output::Json => output::json(&cancelled),
                Output::Table => output::line(format!("execution {id} is {}", cancelled.status)),
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn list(executions: &[Execution]) {
    output::table(
        ["ID", "ACTION", "STATUS", "PLACE", "KEY", "ENQUEUED", "WORKER", "NOTE"],
        executions.iter().map(|execution| {
            let waiting = execution.waiting.as_ref().map(|waiting| waiting.message.clone());
            let error = execution.error.as_ref().map(|error| error.code.clone());
            [
                execution.execution_id.to_string(),
                execution.action_ref.to_string(),
                execution.status.to_string(),
                output::optional(execution.position),
                execution.concurrency_key.clone().unwrap_or_default(),
                output::moment(execution.enqueued_at),
                output::optional(execution.worker.as_ref()),
                waiting.or(error).unwrap_or_default(),
            ]
        }),
    );
}

pub(crate) fn show(execution: &Execution) {
    let waiting = execution.waiting.as_ref();
    let error = execution.error.as_ref();
    let data = execution.progress.as_ref().and_then(|latest| latest.data.as_ref());
    let held_by = waiting.map(|waiting| waiting.held_by.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "));
    let optional_moment = |moment: Option<_>| moment.map(output::moment).unwrap_or_default();
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
        ("enqueued", output::moment(execution.enqueued_at)),
        ("started", optional_moment(execution.start_time)),
        ("ended", optional_moment(execution.end_time)),
        ("timeout", timeout(execution)),
        ("parameters", execution.parameters.get().to_owned()),
        ("result", execution.result.as_ref().map(|result| result.get().to_owned()).unwrap_or_default()),
        ("progress", execution.progress.as_ref().map(progress).unwrap_or_default()),
        ("data", data.map(ToString::to_string).unwrap_or_default()),
        (
            "tasks",
            execution.progress.as_ref().map(|latest| telling::tree(&latest.tasks).join("\n")).unwrap_or_default(),
        ),
        ("newest", execution.progress_events.lines().join("\n")),
        ("error", error.map(failure).unwrap_or_default()),
        ("stderr", error.and_then(stderr).unwrap_or_default().to_owned()),
        ("stack trace", error.and_then(|error| error.stack_trace.clone()).unwrap_or_default()),
    ]);
    for attempt in &execution.earlier_attempts {
        output::fields(&earlier(attempt));
    }
}

/// One attempt that did not settle its execution: how it ended, where and when.
fn earlier(attempt: &Attempt) -> [(&'static str, String); 4] {
    let worker = attempt.worker.as_ref().map(|worker| format!(" on {worker}")).unwrap_or_default();
    let ran = match attempt.start_time {
        Some(start) => format!("after {:.3} s", attempt.end_time.since(start).as_secs_f64()),
        None => "before it began".to_owned(),
    };
    let ended = output::moment(attempt.end_time);
    let error = attempt.error.as_ref();
    [
        ("earlier", format!("attempt {} {}{worker} {ran}, {ended}", attempt.attempt, attempt.outcome)),
        ("result", attempt.result.as_ref().map(|result| result.get().to_owned()).unwrap_or_default()),
        ("error", error.map(failure).unwrap_or_default()),
        ("stderr", error.and_then(stderr).unwrap_or_default().to_owned()),
    ]
}

/// `1 (grant 3)`, where the two are not the same.
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

/// The end of what a command printed to stderr, if its error tells it.
fn stderr(error: &Failure) -> Option<&str> {
    error.details.as_ref()?.get("stderr")?.as_str()
}

/// `[pull] 42 %, step 2/7`.
fn progress(latest: &Latest) -> String {
    let phase = latest.phase.as_ref().map(|phase| format!("[{phase}] ")).unwrap_or_default();
    format!("{phase}{}", amount::words(latest).join(", ")).trim_end().to_owned()
}

/// `code in phase pull: message`.
pub(crate) fn failure(failure: &Failure) -> String {
    let phase = failure.phase.as_ref().map(|phase| format!(" in phase {phase}")).unwrap_or_default();
    format!("{}{phase}: {}", failure.code, failure.message)
}
