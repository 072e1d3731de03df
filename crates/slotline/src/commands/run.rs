//! `slotline run`: submits an execution, and waits for it or watches it if asked to.

use std::collections::BTreeMap;
use std::io::Read;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::value::RawValue;
use slotline_protocol::http::{Execution, Submit, Submitted, WaitReason};
use slotline_protocol::message::Reply;
use slotline_protocol::{ActionRef, Detail, ExecutionId, Status};
use uuid::Uuid;

use crate::client::{Client, hint};
use crate::commands::watch::WatchedExecution;
use crate::commands::{follow, pause};
use crate::exit::Exit;
use crate::settings::{self, Error, Output, Settings};
use crate::show::{end, output};
use crate::signals::Signals;

#[derive(clap::Args)]
pub(crate) struct Args {
    action: ActionRef,
    /// A parameter; the value is taken as JSON if it is any, else as a string (repeat for more)
    #[arg(short, long = "param", value_name = "KEY=VALUE")]
    param: Vec<String>,
    /// All parameters as one JSON object; @FILE reads a file, - standard input. -p goes first
    #[arg(long, value_name = "JSON")]
    params: Option<String>,
    /// Concurrency key
    #[arg(long)]
    key: Option<String>,
    /// Longest run, instead of the action's own
    #[arg(long, value_name = "DURATION", value_parser = settings::duration)]
    timeout: Option<Duration>,
    /// Idempotency key: the same one runs once [default: a new one]
    #[arg(long, value_name = "ID")]
    message_id: Option<String>,
    /// Wait for the end, and exit as it did (0 completed, 1 failed, 124 time-out, 130 cancelled)
    #[arg(long)]
    wait: bool,
    /// Wait, and show what happens: the place in line, progress, the result
    #[arg(long)]
    watch: bool,
    /// With --watch: show the lines of its output too
    #[arg(long, requires = "watch")]
    logs: bool,
}

pub(crate) async fn run(settings: &Settings, args: Args) -> anyhow::Result<ExitCode> {
    let parameters = parameters(args.params.as_deref(), &args.param)?;
    let client = settings.client()?;
    let message_id = args.message_id.unwrap_or_else(|| Uuid::new_v4().to_string());
    let body = Submit {
        action_ref: args.action,
        parameters: parameters.into(),
        concurrency_key: args.key,
        timeout_seconds: args.timeout,
        progress: Detail::Default,
        reply: Reply::Accepted,
    };
    let submitted = client.post_once(&["executions"], &message_id, &body).await;
    let submitted: Submitted = hint::with_near_name(&client, &body.action_ref, submitted).await?;
    if let (Status::Queued, Some(id)) = (submitted.status, submitted.execution_id) {
        note_what_stands_in_its_way(settings, &client, id).await;
    }
    if args.wait || args.watch {
        return wait(&client, submitted, args.watch.then_some(args.logs), settings.output()).await;
    }
    match (settings.output(), submitted.execution_id) {
        (Output::Json, _) => output::json(&submitted),
        (Output::Table | Output::Wide, Some(id)) => {
            let place = submitted.position.map(|place| format!(", number {place} in line")).unwrap_or_default();
            output::line(format!("execution {id} of {} is {}{place}", body.action_ref, submitted.status));
        }
        (Output::Table | Output::Wide, None) => output::line(format!(
            "request {message_id} is on the broker and not taken yet: no executor leads, or the leader grants nothing now; \
             `/readyz?verbose` of an executor has the reason"
        )),
    }
    Ok(ExitCode::SUCCESS)
}

/// Says what a wait alone does not end: an action that is paused, or that no worker serves.
async fn note_what_stands_in_its_way(settings: &Settings, client: &Client, id: ExecutionId) {
    let Ok(execution) = client.get::<Execution>(&["executions", &id.to_string()]).await else { return };
    let action = &execution.action_ref;
    match execution.waiting.map(|waiting| waiting.reason) {
        Some(WaitReason::NoWorker) => {
            output::note(format!("no worker serves {action} now: it waits in line until one does"));
        }
        Some(WaitReason::Paused) => {
            let paused = pause::describe(client, action, settings.style()).await;
            output::note(output::clean(&format!(
                "{action} is {paused}; it waits in line until `slotline resume {action}`"
            )));
        }
        Some(WaitReason::Capacity | WaitReason::Limit | WaitReason::KeyLimit | WaitReason::Backoff) | None => {}
    }
}

async fn wait(client: &Client, submitted: Submitted, watch: Option<bool>, output: Output) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::catch()?;
    let id = match submitted.execution_id {
        Some(id) => id,
        None => tokio::select! {
            id = follow::accepted(client, &submitted.message_id) => id?,
            _ = signals.next() => {
                output::note(format!("request {} stays on the broker, and will run", submitted.message_id));
                return Ok(Exit::Interrupted.into());
            }
        },
    };
    if let Some(with_logs) = watch {
        return WatchedExecution { id, after: 0, with_logs, output }.run(client, &mut signals).await;
    }
    tokio::select! {
        execution = follow::end(client, id) => Ok(end::show(output, &execution?)),
        _ = signals.next() => {
            output::note(end::detached(id));
            Ok(Exit::Interrupted.into())
        }
    }
}

/// The object of `--params` with the members of `-p` in place of its own. Values stay as written: `1.10` does not become `1.1`.
fn parameters(whole: Option<&str>, single: &[String]) -> Result<Box<RawValue>, Error> {
    let invalid = |message: String| Error::Invalid(message);
    let mut members: BTreeMap<String, Box<RawValue>> = match whole {
        None => BTreeMap::new(),
        Some(whole) => {
            let text = read(whole)?;
            serde_json::from_str(&text)
                .map_err(|error| invalid(format!("--params: expected a JSON object: {error}")))?
        }
    };
    for text in single {
        let (key, value) = text
            .split_once('=')
            .filter(|(key, _)| !key.is_empty())
            .ok_or_else(|| invalid(format!("-p {text}: expected KEY=VALUE")))?;
        let value = match serde_json::from_str::<Box<RawValue>>(value) {
            Ok(value) => value,
            // `[info] text` is text. A value that begins like an object, or breaks off within a list or string, is a mistake.
            Err(error) if value.starts_with('{') || (value.starts_with(['[', '"']) && error.is_eof()) => {
                return Err(invalid(format!(
                    "-p {text}: the value begins like JSON and is none ({error}); for the text itself, write it as a \
                     JSON string"
                )));
            }
            Err(_) => serde_json::value::to_raw_value(value).expect("a string is JSON"),
        };
        members.insert(key.to_owned(), value);
    }
    Ok(serde_json::value::to_raw_value(&members).expect("members are JSON already"))
}

fn read(whole: &str) -> Result<String, Error> {
    let failed = |error: std::io::Error| Error::Invalid(format!("--params {whole}: {error}"));
    if whole == "-" {
        let mut text = String::new();
        // One byte more than the API takes, so that a larger input is refused and not cut.
        let most = u64::try_from(slotline_api::BODY_BYTES_MAX).unwrap_or(u64::MAX) + 1;
        std::io::stdin().lock().take(most).read_to_string(&mut text).map_err(failed)?;
        return Ok(text);
    }
    match whole.strip_prefix('@') {
        Some(path) => std::fs::read_to_string(path).map_err(failed),
        None => Ok(whole.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(whole: Option<&str>, single: &[&str]) -> Result<String, String> {
        let single: Vec<String> = single.iter().map(|text| (*text).to_owned()).collect();
        parameters(whole, &single).map(|value| value.get().to_owned()).map_err(|error| error.to_string())
    }

    #[test]
    fn values_are_json_where_they_can_be_and_stay_as_written() {
        assert_eq!(read(None, &[]).expect("nothing"), "{}");
        let single = ["n=1.10", "s=hello world", "t=[info] x", "b=true", "o={\"a\": 1}", "q=\"5\"", "e=", "eq=a=b"];
        let expected = r#"{"b":true,"e":"","eq":"a=b","n":1.10,"o":{"a": 1},"q":"5","s":"hello world","t":"[info] x"}"#;
        assert_eq!(read(None, &single).expect("sound"), expected);
        assert_eq!(read(Some(r#"{"a": 1, "b": 2}"#), &["b=3"]).expect("sound"), r#"{"a":1,"b":3}"#);
    }

    #[test]
    fn what_can_not_be_meant_is_refused_by_the_name_of_its_flag() {
        assert!(read(Some("[1]"), &[]).expect_err("no object").starts_with("--params: expected a JSON object"));
        assert!(read(Some("@/nowhere"), &[]).expect_err("no file").starts_with("--params @/nowhere: "));
        assert_eq!(read(None, &["novalue"]).expect_err("no value"), "-p novalue: expected KEY=VALUE");
        let error = read(None, &[r#"a={"x":"#]).expect_err("half of an object");
        assert!(error.starts_with(r#"-p a={"x":: the value begins like JSON and is none (EOF"#), "{error}");
        assert_eq!(read(None, &["=x"]).expect_err("no key"), "-p =x: expected KEY=VALUE");
    }
}
