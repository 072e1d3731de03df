//! What handlers report: kept while there is no broker, sent again on request, and harmless whatever it is.

use std::sync::Arc;

use serde_json::json;
use slotline_protocol::message::{Event, GapReason, Progress, Stream};
use slotline_protocol::{ExecutionId, OutcomeKind};
use slotline_worker::{Builder, Context, Error, HandlerError, Phase, Report, Worker};
use tokio::sync::Semaphore;

use super::stage::Stage;
use crate::executor::Heard;

fn numbered(heard: &Heard, id: i64, sequence: u64) -> Vec<Progress> {
    let is_it = |progress: &&Progress| progress.execution_id == ExecutionId(id) && progress.sequence == sequence;
    heard.progress.iter().filter(is_it).cloned().collect()
}

#[tokio::test]
async fn what_is_reported_without_a_broker_arrives_once_it_is_back() -> anyhow::Result<()> {
    let (gate, reported) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let inner = (gate.clone(), reported.clone());
    let mut stage = Stage::handler(move |context: Context| {
        let (gate, reported) = inner.clone();
        async move {
            gate.acquire().await?.forget();
            for i in 0..10 {
                context.error(format!("error {i}"));
            }
            reported.add_permits(1);
            gate.acquire().await?.forget();
            Ok(())
        }
    })
    .await?;
    stage.dispatch(1, json!({})).await?;
    stage.executor.running(1).await?;
    let faults = stage.broker.memory_faults().expect("an in-process broker has faults");
    faults.refuse_sessions(true);
    let own = stage.executor.session.generation();
    for generation in (0..own + 1_000).filter(|generation| *generation != own) {
        faults.end_session(generation);
    }
    gate.add_permits(1);
    reported.acquire().await?.forget();
    faults.refuse_sessions(false);
    gate.add_permits(1);
    let completed = stage.executor.completed(1).await?;
    let events = stage.executor.events(1, completed.last_sequence).await?;
    let errors = events.into_values().filter(|event| event.starts_with("Error error"));
    assert_eq!(errors.collect::<Vec<_>>(), (0..10).map(|i| format!("Error error {i}")).collect::<Vec<_>>());
    stage.end().await
}

#[tokio::test]
async fn what_is_asked_for_again_is_said_again_under_its_number_and_what_nobody_has_is_one_gap() -> anyhow::Result<()> {
    let mut stage = Stage::handler(async |context: Context| {
        context.info("the first");
        context.info("the second");
        Ok(())
    })
    .await?;
    stage.dispatch(1, json!({})).await?;
    let completed = stage.executor.completed(1).await?;
    assert_eq!(completed.last_sequence, 5, "status, started, two messages, finished");
    stage.executor.events(1, 5).await?;
    stage.executor.record(stage.worker, &[1]).await?;
    stage.executor.resend(stage.worker, 1, 1, Some(7)).await?;
    let twice = |heard: &Heard| (numbered(heard, 1, 5).len() == 2 && !numbered(heard, 1, 6).is_empty()).then_some(());
    stage.executor.until("all of it again", twice).await?;
    let heard = &stage.executor.heard;
    assert_eq!(heard.status.iter().filter(|status| status.sequence == Some(1)).count(), 2);
    for sequence in 2..=5 {
        let said = numbered(heard, 1, sequence);
        assert!(said.len() == 2 && said[0] == said[1], "{said:?}");
    }
    let lost = |count| Event::Gap { count, reason: GapReason::Lost };
    assert_eq!(numbered(heard, 1, 6)[0].event, lost(2), "it has ended, so these are not to come");
    stage.executor.resend(stage.worker, 99, 3, Some(8)).await?;
    let gap = stage.executor.until("a gap", |heard| numbered(heard, 99, 3).pop()).await?;
    assert_eq!(gap.event, lost(6));
    stage.end().await
}

#[tokio::test]
async fn nonsense_is_clipped_with_a_warning_in_the_log_and_the_handler_never_knows() -> anyhow::Result<()> {
    let mut stage = Stage::handler(async |context: Context| {
        context.progress(Report { step: Some((8, 7)), ..Report::default() });
        context.progress(Report { percent: Some(f64::NAN), message: Some("x".repeat(10 << 20)), ..Report::default() });
        for _ in 0..1_000 {
            context.progress(Report { percent: Some(-1.0), ..Report::default() });
        }
        Ok(())
    })
    .await?;
    stage.dispatch(1, json!({})).await?;
    let completed = stage.executor.completed(1).await?;
    assert_eq!(completed.status, OutcomeKind::Completed);
    stage.executor.events(1, completed.last_sequence).await?;
    let notices = stage.executor.heard.progress.iter().filter_map(|progress| match &progress.event {
        Event::Log { stream: Stream::Notice, lines } => Some(lines.join("|")),
        _ => None,
    });
    let notices: Vec<_> = notices.collect();
    assert_eq!(notices.len(), 20);
    assert_eq!(notices[0], "step 8 is beyond the total of 7: clipped");
    assert!(notices[19].contains("further warnings"), "{notices:?}");
    stage.end().await
}

#[tokio::test]
async fn a_handlers_capabilities_are_what_it_can_do() -> anyhow::Result<()> {
    let plain: fn(Builder) -> Builder = |builder| builder;
    let says_so: fn(Builder) -> Builder = |builder| builder.reports("test.run");
    let has_phases: fn(Builder) -> Builder = |builder| builder.phases("test.run", [Phase::new("pull", 1)]);
    let with_report = &["report-progress", "cancel"][..];
    for (declare, expected) in [(plain, &["cancel"][..]), (says_so, with_report), (has_phases, with_report)] {
        let handler = async |_: Context| Ok::<_, HandlerError>(());
        let mut stage = Stage::with(|builder| declare(builder.action("test.run", handler))).await?;
        let beat = stage.executor.until("a heartbeat", |heard| heard.heartbeats.last().cloned()).await?;
        assert_eq!(beat.actions[0].capabilities, expected);
        stage.end().await?;
    }
    Ok(())
}

#[test]
fn phases_that_can_not_be_are_refused_by_name() {
    let build = |action_ref: &str, phases: Vec<Phase>| {
        let worker = Worker::builder("w1").action("test.run", async |_: Context| Ok::<_, HandlerError>(()));
        match worker.phases(action_ref, phases).build() {
            Err(Error::Misconfigured(message)) => Some(message),
            Ok(_) | Err(_) => None,
        }
    };
    assert_eq!(build("test.run", vec![Phase::new("pull", 1)]), None);
    let message = build("test.run", vec![Phase::new("pull", 0)]).expect("refused");
    assert!(message.starts_with("test.run: phases[0].weight is 0"), "{message}");
    let message = build("test.walk", vec![Phase::new("pull", 1)]).expect("refused");
    assert!(message.starts_with("test.walk: phases are declared for it"), "{message}");
}
