//! Handlers: what they get, what they return, and every way they can end.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use slotline_protocol::OutcomeKind;
use slotline_worker::{Context, HandlerError, Report};
use tokio::sync::Semaphore;

use super::stage::Stage;

#[derive(Deserialize)]
struct Copy {
    files: Vec<File>,
}

#[derive(Deserialize)]
struct File {
    size: u64,
}

#[tokio::test]
async fn a_handler_gets_typed_parameters_and_gives_any_json() -> anyhow::Result<()> {
    let mut stage = Stage::handler(async |context: Context| {
        let copy: Copy = context.parameters()?;
        assert_eq!((context.execution_id().0, context.attempt(), context.fence().0), (1, 1, 1001));
        assert_eq!(context.correlation_id(), Some("correlation-1"));
        Ok(copy.files.iter().map(|file| file.size).sum::<u64>())
    })
    .await?;
    stage.dispatch(1, json!({"files": [{"size": 1}, {"size": 2}]})).await?;
    let completed = stage.executor.completed(1).await?;
    assert_eq!(completed.result.as_ref().map(|json| json.get()), Some("3"));
    assert_eq!(stage.executor.heard.completed[0].0.as_deref(), Some("correlation-1"));
    assert_eq!(completed.last_sequence, 3, "status, started, finished");
    stage.end().await
}

#[tokio::test]
async fn parameters_that_do_not_fit_are_named() -> anyhow::Result<()> {
    let mut stage = Stage::handler(async |context: Context| context.parameters::<Copy>().map(|_| ())).await?;
    let error = stage.fail(1, json!({"files": [{"size": 1}, {"size": "two"}]})).await?;
    assert_eq!(error.code, "invalid_parameters");
    assert!(error.message.starts_with("parameters.files[1].size: invalid type"), "{error:?}");
    let error = stage.fail(2, json!({})).await?;
    assert!(error.message.contains("files"), "{error:?}");
    stage.end().await
}

#[tokio::test]
async fn an_error_names_its_causes_and_a_handlers_own_code_is_kept() -> anyhow::Result<()> {
    let mut stage = Stage::handler(async |context: Context| {
        if context.execution_id().0 == 1 {
            let bad = "x".parse::<u32>();
            bad?;
        }
        Err::<(), _>(HandlerError::new("no space").code("disk_full").details(json!({"free": 0})).stack_trace("at 3"))
    })
    .await?;
    let error = stage.fail(1, json!({})).await?;
    assert_eq!((error.code.as_str(), error.message.as_str()), ("handler_error", "invalid digit found in string"));
    let error = stage.fail(2, json!({})).await?;
    assert_eq!((error.code.as_str(), error.details), ("disk_full", Some(json!({"free": 0}))));
    assert_eq!(error.stack_trace.as_deref(), Some("at 3"));
    stage.end().await
}

#[tokio::test]
async fn a_panic_is_a_failure_with_its_message_and_backtrace_and_the_worker_goes_on() -> anyhow::Result<()> {
    let mut stage = Stage::handler(async |context: Context| {
        tokio::task::yield_now().await;
        if context.execution_id().0 < 3 {
            panic!("all is lost in {}", context.execution_id());
        }
        Ok(())
    })
    .await?;
    let error = stage.fail(1, json!({})).await?;
    assert_eq!(error.code, "panic");
    assert!(error.message.starts_with("all is lost in 1 (at ") && error.message.contains("handler.rs"), "{error:?}");
    assert!(error.stack_trace.is_some_and(|trace| trace.contains("a_panic_is_a_failure")), "a backtrace");
    assert_eq!(stage.fail(2, json!({})).await?.code, "panic");
    stage.dispatch(3, json!({})).await?;
    assert_eq!(stage.executor.completed(3).await?.status, OutcomeKind::Completed);
    stage.end().await
}

#[tokio::test]
async fn a_result_too_large_or_too_deep_is_a_failure() -> anyhow::Result<()> {
    let mut stage = Stage::handler(async |context: Context| {
        Ok(match context.execution_id().0 {
            1 => Value::String("x".repeat(slotline_worker::RESULT_BYTES_MAX - 2)),
            2 => Value::String("x".repeat(slotline_worker::RESULT_BYTES_MAX - 1)),
            _ => (0..=slotline_worker::RESULT_DEPTH_MAX).fold(Value::Null, |inner, _| json!([inner])),
        })
    })
    .await?;
    stage.dispatch(1, json!({})).await?;
    assert_eq!(stage.executor.completed(1).await?.status, OutcomeKind::Completed);
    assert_eq!(stage.fail(2, json!({})).await?.code, "result_too_large");
    assert!(stage.fail(3, json!({})).await?.message.contains("nested"));
    stage.end().await
}

#[tokio::test]
async fn progress_is_heard_while_the_handler_runs() -> anyhow::Result<()> {
    let gate = Arc::new(Semaphore::new(0));
    let inner = gate.clone();
    let mut stage = Stage::handler(move |context: Context| {
        let gate = inner.clone();
        async move {
            context.info("half way");
            context.progress(Report { progress: Some((5, Some(10))), ..Report::default() });
            context.error("one retry");
            gate.acquire().await?.forget();
            Ok(())
        }
    })
    .await?;
    stage.dispatch(1, json!({})).await?;
    // Numbers alone are held back for their interval; messages are not.
    let events = stage.executor.events(1, 4).await?;
    assert_eq!(events.into_values().skip(2).collect::<Vec<_>>(), ["Info half way", "Error one retry"]);
    assert!(stage.executor.heard.completed.is_empty());
    gate.add_permits(1);
    let completed = stage.executor.completed(1).await?;
    stage.executor.events(1, completed.last_sequence).await?;
    stage.end().await
}

#[tokio::test]
async fn a_flood_of_reports_costs_one_event_an_interval_and_no_completion() -> anyhow::Result<()> {
    let mut stage = Stage::handler(async |context: Context| {
        for done in 0..1_000_000 {
            context.progress(Report { progress: Some((done, Some(1_000_000))), ..Report::default() });
        }
        Ok(())
    })
    .await?;
    stage.dispatch(1, json!({})).await?;
    let completed = stage.executor.completed(1).await?;
    assert!(completed.last_sequence < 40, "{}", completed.last_sequence);
    stage.executor.events(1, completed.last_sequence).await?;
    let newest = stage.executor.until("the newest number", |heard| {
        heard.progress.iter().find_map(|progress| match &progress.event {
            slotline_protocol::message::Event::Progress(report) if report.progress?.0 == 999_999 => Some(()),
            _ => None,
        })
    });
    newest.await?;
    stage.end().await
}

#[tokio::test]
async fn handlers_that_block_every_thread_hold_up_no_heartbeat() -> anyhow::Result<()> {
    let mut stage = Stage::with(|builder| {
        builder
            .heartbeat(Duration::from_millis(20))
            .fence(Duration::from_millis(800))
            .lease(Duration::from_secs(2))
            .capacity(64)
            .action("test.run", async |_: Context| {
                std::thread::sleep(Duration::from_millis(1_500));
                Ok(())
            })
    })
    .await?;
    for id in 0..8 {
        stage.dispatch(id, json!({})).await?;
    }
    for id in 0..2 {
        assert_eq!(stage.executor.completed(id).await?.status, OutcomeKind::Completed, "longer than the fence");
    }
    assert!(stage.executor.heard.heartbeats.len() >= 20);
    assert!(stage.executor.heard.heartbeats.iter().all(|beat| beat.incarnation == stage.worker));
    stage.end().await
}

#[tokio::test]
async fn a_cancelled_handler_hears_of_it_and_is_dropped_when_its_grace_is_over() -> anyhow::Result<()> {
    let mut stage = Stage::handler(async |context: Context| {
        if context.execution_id().0 == 1 {
            context.cancellation().cancelled().await;
            return Ok("tidied up");
        }
        std::future::pending::<()>().await;
        Ok("never")
    })
    .await?;
    for id in [1, 2] {
        stage.dispatch(id, json!({})).await?;
        stage.executor.running(id).await?;
        stage.executor.cancel(stage.worker, id, Duration::from_millis(50)).await?;
        let completed = stage.executor.completed(id).await?;
        assert_eq!(completed.status, OutcomeKind::Cancelled);
        assert_eq!(completed.error.map(|error| error.code).as_deref(), Some("cancelled"));
        assert!(completed.result.is_none());
    }
    stage.end().await
}
