//! `slotline run`: submits an execution, and waits for it or watches it if asked to.

use std::collections::BTreeMap;
use std::io::Read;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::value::RawValue;
use slotline_protocol::http::{Execution, Submit, Submitted};
use slotline_protocol::message::Reply;
use slotline_protocol::{ActionRef, Detail, ExecutionId, Status, duration};
use uuid::Uuid;

use crate::client::Client;
use crate::config::{Error, Output};
use crate::signals::Signals;
use crate::{Settings, executions, follow, output};

/// Exit codes of an execution that ended so.
const FAILED: u8 = 1;
const TIMED_OUT: u8 = 124;
const CANCELLED: u8 = 130;

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
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    timeout: Option<Duration>,
    /// Idempotency key: the same one runs once [default: a new one]
    #[arg(long, value_name = "ID")]
    message_id: Option<String>,
    /// Wait for the end, and exit as it did (0 completed, 1 failed, 124 time-out, 130 cancelled)
    #[arg(long)]
    wait: bool,
    /// Wait, and tell what happens
    #[arg(long)]
    watch: bool,
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
    let submitted: Submitted = client.post_once(&["executions"], &message_id, &body).await?;
    if args.wait || args.watch {
        return wait(settings, &client, submitted, args.watch).await;
    }
    match (settings.output(), submitted.execution_id) {
        (Output::Json, _) => output::json(&submitted),
        (Output::Table, Some(id)) => {
            let place = submitted.position.map(|place| format!(", number {place} in line")).unwrap_or_default();
            output::line(format!("execution {id} of {} is {}{place}", body.action_ref, submitted.status));
        }
        (Output::Table, None) => output::line(format!(
            "request {message_id} is on the broker; no executor leads now, and the next one will take it"
        )),
    }
    Ok(ExitCode::SUCCESS)
}

async fn wait(
    settings: &Settings,
    client: &Client,
    submitted: Submitted,
    is_watched: bool,
) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::catch()?;
    let mut known = submitted.execution_id;
    let ending = async {
        let id = match known {
            Some(id) => id,
            None => *known.insert(follow::accepted(client, &submitted.message_id).await?),
        };
        follow::end(client, id, is_watched).await
    };
    let execution = tokio::select! {
        execution = ending => Some(execution?),
        () = signals.next() => None,
    };
    match execution {
        Some(execution) => Ok(told(settings.output(), &execution)),
        None => {
            output::note(left(known, &submitted.message_id));
            Ok(ExitCode::from(CANCELLED))
        }
    }
}

/// What to say when the one who waits goes away.
fn left(id: Option<ExecutionId>, message_id: &str) -> String {
    match id {
        Some(id) => format!("execution {id} goes on; end it with `slotline executions cancel {id}`"),
        None => format!("request {message_id} stays on the broker, and will run"),
    }
}

fn told(output: Output, execution: &Execution) -> ExitCode {
    let id = execution.execution_id;
    match output {
        Output::Json => output::json(execution),
        Output::Table => {
            let run = match (execution.start_time, execution.end_time) {
                (Some(start), Some(end)) => format!(" after {:.3} s", end.since(start).as_secs_f64()),
                _ => String::new(),
            };
            let why = execution.error.as_ref().map(|error| format!(": {}", executions::failure(error)));
            output::note(format!("execution {id} is {}{run}{}", execution.status, why.unwrap_or_default()));
            if let Some(result) = execution.result.as_ref().filter(|result| result.get() != "null") {
                output::line(result.get());
            }
        }
    }
    match execution.status {
        Status::Completed => ExitCode::SUCCESS,
        Status::Timeout => ExitCode::from(TIMED_OUT),
        Status::Cancelled => ExitCode::from(CANCELLED),
        Status::Failed
        | Status::Requested
        | Status::Queued
        | Status::Scheduled
        | Status::Running
        | Status::Cancelling => ExitCode::from(FAILED),
    }
}

/// The object of `--params`, its members replaced by those of `-p`. Values stay as they are written: `1.10` is no `1.1`.
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
        // One byte more than is ever taken, so that too much is refused and not cut.
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
        let single = ["n=1.10", "s=hello world", "b=true", "o={\"a\": 1}", "q=\"5\"", "e=", "eq=a=b"];
        let expected = r#"{"b":true,"e":"","eq":"a=b","n":1.10,"o":{"a": 1},"q":"5","s":"hello world"}"#;
        assert_eq!(read(None, &single).expect("sound"), expected);
        assert_eq!(read(Some(r#"{"a": 1, "b": 2}"#), &["b=3"]).expect("sound"), r#"{"a":1,"b":3}"#);
    }

    #[test]
    fn what_can_not_be_meant_is_said_by_its_flag() {
        assert!(read(Some("[1]"), &[]).expect_err("no object").starts_with("--params: expected a JSON object"));
        assert!(read(Some("@/nowhere"), &[]).expect_err("no file").starts_with("--params @/nowhere: "));
        assert_eq!(read(None, &["novalue"]).expect_err("no value"), "-p novalue: expected KEY=VALUE");
        assert_eq!(read(None, &["=x"]).expect_err("no key"), "-p =x: expected KEY=VALUE");
    }
}
