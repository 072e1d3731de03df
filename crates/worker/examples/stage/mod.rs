//! Where an example plays: as a worker of the installation at `SLOTLINE_AMQP_URL`, or else alone in this process, with
//! a played executor that grants it some executions and prints what it reports.

#[path = "../../tests/executor/mod.rs"]
mod executor;

use std::time::Duration;

use executor::Executor;
use serde_json::Value;
use slotline_broker::Broker;
use slotline_protocol::Detail;
use slotline_protocol::message::{Event, Progress};
use slotline_worker::{Builder, Shutdown};

pub(crate) async fn play(
    builder: Builder,
    action_ref: &str,
    parameters: impl IntoIterator<Item = Value>,
    timeout: Duration,
) -> anyhow::Result<()> {
    let worker = builder.build()?;
    if let Ok(url) = std::env::var("SLOTLINE_AMQP_URL") {
        return Ok(worker.run(Broker::rabbit(&url, executor::PREFIX)?, Shutdown::new()).await?);
    }
    let broker = Broker::memory(executor::PREFIX);
    let mut executor = Executor::start(&broker, 1).await?;
    let shutdown = Shutdown::new();
    let running = tokio::spawn(worker.run(broker, shutdown.clone()));
    let worker = executor.worker().await?;
    for (id, parameters) in (1..).zip(parameters) {
        println!("\nExecution {id} ({action_ref}) {parameters}");
        let mut scheduled = executor.scheduled(id, action_ref, &parameters)?;
        scheduled.timeout_seconds = Some(timeout);
        scheduled.progress = Detail::Negotiated { interval: Some(Duration::from_millis(200)), step: None };
        executor.send(worker, &scheduled).await?;
        let mut printed = 0;
        let completed = executor.until("its end", |heard| {
            for progress in &heard.progress[printed..] {
                print(progress);
            }
            printed = heard.progress.len();
            // Events have a queue of their own, and may come after the end.
            let (_, completed) = heard.completed.first()?;
            let events = heard.progress.len() + heard.status.len();
            (u64::try_from(events) == Ok(completed.last_sequence)).then(|| completed.clone())
        });
        let completed = completed.await?;
        println!("{:?}: {}", completed.status, completed.result.as_ref().map_or("", |result| result.get()));
        if let Some(error) = completed.error {
            println!("{}", error.message);
        }
        executor.heard = executor::Heard::default();
    }
    shutdown.stop();
    Ok(running.await??)
}

fn print(progress: &Progress) {
    let Event::Progress(report) = &progress.event else { return };
    let percent = report.percent.map(|percent| format!("{percent:5.1} %")).unwrap_or_default();
    let done = match (report.progress, report.step) {
        (Some((done, total)), _) => {
            let unit = report.unit.as_deref().unwrap_or_default();
            format!("{done} of {} {unit}", total.map_or("?".to_owned(), |total| total.to_string()))
        }
        (None, Some((done, total))) => format!("step {done} of {total}"),
        (None, None) => String::new(),
    };
    let phase = report.phase.as_deref().unwrap_or_default();
    println!("{percent:7} {phase:8} {done:36} {}", report.message.as_deref().unwrap_or_default());
}
