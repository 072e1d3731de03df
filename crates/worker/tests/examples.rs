//! The examples, played: what they report is seen while they run, and their errors have what was known at the time-out.

#![expect(clippy::duplicate_mod, reason = "each example is a program of its own, with its stage")]

#[expect(dead_code, reason = "its `main` and stage are for people")]
#[path = "../examples/deployment.rs"]
mod deployment;
#[expect(dead_code, reason = "its `main` and stage are for people")]
#[path = "../examples/transfer.rs"]
mod transfer;

use std::time::Duration;

use crate::executor::{self, Executor, Heard};
use serde_json::{Value, json};
use slotline_broker::Broker;
use slotline_protocol::message::{Completed, Event, Level, Report};
use slotline_protocol::{Detail, Incarnation, OutcomeKind};
use slotline_worker::{Builder, Shutdown, Worker};

/// An example and its executor.
struct Stage {
    executor: Executor,
    worker: Incarnation,
    shutdown: Shutdown,
}

/// What the executor received of an execution.
struct Played {
    completed: Completed,
    /// All reports, in order, with how many completions had arrived by then.
    reports: Vec<(Report, usize)>,
}

impl Stage {
    async fn of(serve: fn(Builder) -> Builder) -> anyhow::Result<Self> {
        let broker = Broker::memory(executor::PREFIX);
        let mut executor = Executor::start(&broker, 1).await?;
        let shutdown = Shutdown::new();
        tokio::spawn(serve(Worker::builder("w1")).build()?.run(broker, shutdown.clone()));
        let worker = executor.worker().await?;
        Ok(Self { executor, worker, shutdown })
    }

    async fn play(&mut self, action_ref: &str, parameters: Value, timeout: Duration) -> anyhow::Result<Played> {
        let mut scheduled = self.executor.scheduled(42, action_ref, &parameters)?;
        scheduled.timeout_seconds = Some(timeout);
        scheduled.progress = Detail::Negotiated { interval: Some(Duration::from_millis(10)), step: None };
        self.executor.send(self.worker, &scheduled).await?;
        let mut reports = Vec::new();
        let mut seen = 0;
        let listen = |heard: &Heard| {
            reports.extend(heard.progress[seen..].iter().filter_map(|progress| match &progress.event {
                Event::Progress(report) => Some((report.clone(), heard.completed.len())),
                _ => None,
            }));
            seen = heard.progress.len();
            let ends = heard.completed.first().map(|(_, completed)| completed.clone())?;
            let events = heard.progress.len() + heard.status.len();
            (u64::try_from(events) == Ok(ends.last_sequence)).then_some(ends)
        };
        let completed = self.executor.until("the end and all before it", listen).await?;
        Ok(Played { completed, reports })
    }
}

impl Played {
    fn of<T>(&self, pick: impl Fn(&Report) -> Option<T>) -> Vec<T> {
        self.reports.iter().filter_map(|(report, _)| pick(report)).collect()
    }

    fn messages(&self, level: Level) -> Vec<String> {
        self.of(|report| report.message.clone().filter(|_| report.level == level))
    }

    fn seen_before_the_end(&self) -> usize {
        self.reports.iter().filter(|(_, completions)| *completions == 0).count()
    }
}

#[tokio::test]
async fn a_deployment_rises_through_its_eight_phases_while_it_runs() -> anyhow::Result<()> {
    let mut stage = Stage::of(deployment::serve).await?;
    let parameters = json!({"app": "web", "layers": 5, "ready_after": 3, "tempo_milliseconds": 20});
    let played = stage.play("deploy.app", parameters, Duration::from_secs(60)).await?;
    assert_eq!(played.completed.status, OutcomeKind::Completed, "{:?}", played.completed.error);
    assert_eq!(played.completed.result.as_ref().map(|json| json.get()), Some(r#"{"app":"web","probes":3}"#));
    assert!(played.seen_before_the_end() >= 10, "{}", played.seen_before_the_end());
    let mut phases = played.of(|report| report.phase.clone());
    phases.dedup();
    assert_eq!(phases, ["validate", "pull", "migrate", "create", "start", "probe", "route", "clean up"]);
    let percents = played.of(|report| report.percent);
    assert!(percents.is_sorted(), "{percents:?}");
    assert_eq!((percents.first(), percents.last()), (Some(&0.0), Some(&100.0)));
    let largest = percents.windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f64::max);
    assert!(largest < 34.0, "never one jump: {percents:?}");
    stage.shutdown.stop();
    Ok(())
}

#[tokio::test]
async fn a_deployment_that_never_gets_ready_times_out_and_tells_what_was_known() -> anyhow::Result<()> {
    let mut stage = Stage::of(deployment::serve).await?;
    let parameters = json!({"app": "web", "layers": 2, "ready_after": null, "tempo_milliseconds": 20});
    let played = stage.play("deploy.app", parameters, Duration::from_millis(1_500)).await?;
    assert_eq!(played.completed.status, OutcomeKind::Timeout);
    let probes = played.messages(Level::Error);
    assert!(probes.len() > 3, "{probes:?}");
    let error = played.completed.error.expect("a time-out has an error");
    assert_eq!(error.code, "timeout");
    let lines: Vec<&str> = error.message.lines().collect();
    let why = "Execution 42 (deploy.app) has timed out because it was processing longer than 1.5 s. Progress events:";
    assert_eq!(lines[..2], [why, "Info - Container web is running but not ready"]);
    assert!(lines[2].starts_with("Error - Readiness probe failed: GET /healthz answered 503"), "{}", lines[2]);
    let details = error.details.expect("details");
    let events = details["progress_events"].as_array().expect("an array");
    assert_eq!(events.len(), 10);
    let failed = |event: &&Value| {
        event["level"] == "error"
            && event["message"].as_str().is_some_and(|message| message.starts_with("Readiness probe"))
    };
    assert!(events.iter().any(|event| failed(&event)), "{events:?}");
    assert!(events.iter().all(|event| event["timestamp"].is_string()), "{events:?}");
    // A report that was held back while newer numbers were sent has no percent of its own.
    assert!(events.iter().any(|event| event["percent"].is_number()), "{events:?}");
    stage.shutdown.stop();
    Ok(())
}

#[tokio::test]
async fn a_transfer_tells_its_bytes_and_that_it_tries_again() -> anyhow::Result<()> {
    let mut stage = Stage::of(transfer::serve).await?;
    let bytes = 20_000_000_u64;
    let parameters = json!({"name": "backup.tar", "bytes": bytes, "breaks_at": bytes / 2, "back_off_milliseconds": 20});
    let played = stage.play("file.transfer", parameters, Duration::from_secs(60)).await?;
    assert_eq!(played.completed.status, OutcomeKind::Completed, "{:?}", played.completed.error);
    assert!(played.seen_before_the_end() >= 10, "{}", played.seen_before_the_end());
    let progress = played.of(|report| report.progress);
    assert!(progress.is_sorted() && progress.iter().all(|(_, total)| *total == Some(bytes)), "{progress:?}");
    assert_eq!(progress.last(), Some(&(bytes, Some(bytes))));
    assert!(played.of(|report| report.unit.clone()).iter().all(|unit| unit == "Bytes"));
    let errors = played.messages(Level::Error);
    assert!(errors.len() == 1 && errors[0].starts_with("connection reset after 10"), "{errors:?}");
    let messages = played.messages(Level::Info);
    assert_eq!(messages, ["Copying backup.tar", "Trying again in 20ms (try 2 of 5)", "backup.tar is there"]);
    stage.shutdown.stop();
    Ok(())
}
