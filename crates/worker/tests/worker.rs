//! A whole worker with handlers, on the in-process broker; the test is the executor.

mod executor;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use executor::Executor;
use serde::Deserialize;
use serde_json::{Value, json};
use slotline_broker::Broker;
use slotline_broker::topology::{exchange, to_worker};
use slotline_protocol::message::{EndReason, Failure, Holding};
use slotline_protocol::{Incarnation, OutcomeKind};
use slotline_worker::{Builder, Context, Error, HandlerError, Report, Shutdown, Worker};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

struct Stage {
    broker: Broker,
    executor: Executor,
    worker: Incarnation,
    shutdown: Shutdown,
    running: JoinHandle<Result<(), Error>>,
}

impl Stage {
    async fn with(build: impl FnOnce(Builder) -> Builder) -> anyhow::Result<Self> {
        let broker = Broker::memory(executor::PREFIX);
        let mut executor = Executor::start(&broker, 1).await?;
        let shutdown = Shutdown::new();
        let worker = build(Worker::builder("w1").capacity(4).drain_timeout(Duration::from_millis(100))).build()?;
        let running = tokio::spawn(worker.run(broker.clone(), shutdown.clone()));
        let worker = executor.worker().await?;
        Ok(Self { broker, executor, worker, shutdown, running })
    }

    async fn handler<F, R>(handler: impl Fn(Context) -> F + Send + Sync + 'static) -> anyhow::Result<Self>
    where
        F: Future<Output = Result<R, HandlerError>> + Send + 'static,
        R: serde::Serialize,
    {
        Self::with(|builder| builder.action("test.run", handler)).await
    }

    async fn dispatch(&mut self, id: i64, parameters: Value) -> anyhow::Result<()> {
        self.executor.dispatch(self.worker, id, "test.run", parameters).await
    }

    async fn fail(&mut self, id: i64, parameters: Value) -> anyhow::Result<Failure> {
        self.dispatch(id, parameters).await?;
        let completed = self.executor.completed(id).await?;
        assert_eq!(completed.status, OutcomeKind::Failed, "{completed:?}");
        Ok(completed.error.expect("a failure has an error"))
    }

    async fn end(self) -> anyhow::Result<()> {
        self.shutdown.stop();
        Ok(tokio::time::timeout(executor::PATIENCE, self.running).await???)
    }
}

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
    assert_eq!(stage.executor.heard.completed[0].0.correlation_id.as_deref(), Some("correlation-1"));
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
        Err::<(), _>(HandlerError::new("no space").code("disk_full").details(json!({"free": 0})))
    })
    .await?;
    let error = stage.fail(1, json!({})).await?;
    assert_eq!((error.code.as_str(), error.message.as_str()), ("handler_error", "invalid digit found in string"));
    let error = stage.fail(2, json!({})).await?;
    assert_eq!((error.code.as_str(), error.details), ("disk_full", Some(json!({"free": 0}))));
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
    assert!(error.message.starts_with("all is lost in 1 (at ") && error.message.contains("worker.rs"), "{error:?}");
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

#[tokio::test]
async fn a_chain_of_handlers_runs_in_order_and_a_failure_hands_the_rest_back() -> anyhow::Result<()> {
    let running = Arc::new(AtomicU32::new(0));
    let inner = running.clone();
    let mut stage = Stage::handler(move |context: Context| {
        let running = inner.clone();
        async move {
            assert_eq!(running.fetch_add(1, Ordering::SeqCst), 0, "one at a time");
            tokio::time::sleep(Duration::from_millis(2)).await;
            running.fetch_sub(1, Ordering::SeqCst);
            if context.execution_id().0 == 3 { Err(HandlerError::new("three fails")) } else { Ok(()) }
        }
    })
    .await?;
    for id in 1..=5 {
        let mut scheduled = stage.executor.scheduled(id, "test.run", &json!({}))?;
        scheduled.starts_after = (id > 1).then(|| executor::key(id - 1));
        stage.executor.send(stage.worker, &scheduled).await?;
    }
    for (id, status) in [(1, OutcomeKind::Completed), (2, OutcomeKind::Completed), (3, OutcomeKind::Failed)] {
        assert_eq!(stage.executor.completed(id).await?.status, status);
    }
    for id in [4, 5] {
        let returned = stage.executor.returned(id).await?;
        assert_eq!((returned.reason.as_str(), returned.started), ("predecessor", false));
    }
    stage.end().await
}

#[tokio::test]
async fn a_recall_brings_back_what_waits() -> anyhow::Result<()> {
    let mut stage = Stage::handler(async |context: Context| {
        context.cancellation().cancelled().await;
        Ok(())
    })
    .await?;
    stage.dispatch(1, json!({})).await?;
    let mut scheduled = stage.executor.scheduled(2, "test.run", &json!({}))?;
    scheduled.starts_after = Some(executor::key(1));
    stage.executor.send(stage.worker, &scheduled).await?;
    stage.executor.recall(stage.worker, 2).await?;
    assert_eq!(stage.executor.returned(2).await?.reason, "recall");
    stage.end().await
}

#[tokio::test]
async fn a_completion_is_told_until_recorded_and_again_to_a_new_session() -> anyhow::Result<()> {
    let mut stage = Stage::handler(async |_: Context| Ok(())).await?;
    stage.dispatch(1, json!({})).await?;
    stage.executor.completed(1).await?;
    let times = |heard: &executor::Heard, times: usize| (heard.completed.len() >= times).then_some(());
    stage.executor.until("the same again", |heard| times(heard, 2)).await?;
    stage.executor.hello().await?;
    stage.executor.until("the same for a leader", |heard| times(heard, 3)).await?;
    let beat = stage.executor.until("a heartbeat", |heard| heard.heartbeats.get(1).cloned()).await?;
    assert_eq!(beat.unrecorded, [executor::key(1)]);
    stage.executor.record(stage.worker, &[1]).await?;
    let seen = stage.executor.heard.heartbeats.len();
    stage.executor.hello().await?;
    let beat = stage.executor.until("a heartbeat", |heard| heard.heartbeats.get(seen).cloned()).await?;
    assert_eq!(beat.unrecorded, []);
    stage.end().await
}

#[tokio::test]
async fn a_lost_session_ends_no_attempt() -> anyhow::Result<()> {
    let gate = Arc::new(Semaphore::new(0));
    let inner = gate.clone();
    let mut stage = Stage::handler(move |_: Context| {
        let gate = inner.clone();
        async move {
            gate.acquire().await?.forget();
            Ok("through")
        }
    })
    .await?;
    stage.dispatch(1, json!({})).await?;
    stage.executor.running(1).await?;
    let faults = stage.broker.memory_faults().expect("an in-process broker has faults");
    let own = stage.executor.session.generation();
    let others = (0..own + 1_000).filter(|generation| *generation != own);
    assert!(others.filter(|generation| faults.end_session(*generation)).count() == 1, "the worker has one session");
    gate.add_permits(1);
    let completed = stage.executor.completed(1).await?;
    assert_eq!(completed.result.as_ref().map(|json| json.get()), Some("\"through\""));
    assert_eq!(completed.incarnation, stage.worker, "nor does it make a new incarnation");
    stage.dispatch(2, json!({})).await?;
    gate.add_permits(1);
    stage.executor.completed(2).await?;
    stage.end().await
}

#[tokio::test]
async fn told_that_it_is_lost_a_worker_goes_on_under_a_new_name() -> anyhow::Result<()> {
    let mut stage = Stage::handler(async |context: Context| {
        if context.execution_id().0 == 1 {
            std::future::pending::<()>().await;
        }
        Ok(())
    })
    .await?;
    stage.dispatch(1, json!({})).await?;
    stage.executor.running(1).await?;
    stage.dispatch(2, json!({})).await?;
    stage.executor.completed(2).await?;
    let former = stage.worker;
    stage.executor.lost(former).await?;
    let ended = stage.executor.until("the last word", |heard| heard.ended.first().cloned()).await?;
    assert_eq!((ended.incarnation, ended.reason), (former, EndReason::Fence));
    assert_eq!(ended.outcomes.iter().map(|o| o.execution_id.0).collect::<Vec<_>>(), [2], "1 is lost, 2 is known");
    stage.worker = stage.executor.next_worker(former).await?;
    stage.dispatch(3, json!({})).await?;
    assert_eq!(stage.executor.completed(3).await?.incarnation, stage.worker);
    stage.end().await
}

#[tokio::test]
async fn a_fence_that_falls_ends_what_runs_though_nobody_says_so() -> anyhow::Result<()> {
    let dropped = Arc::new(Semaphore::new(0));
    struct Guard(Arc<Semaphore>);
    impl Drop for Guard {
        fn drop(&mut self) {
            self.0.add_permits(1);
        }
    }
    let inner = dropped.clone();
    let mut stage = Stage::with(|builder| {
        builder
            .heartbeat(Duration::from_millis(50))
            .fence(Duration::from_millis(500))
            .lease(Duration::from_secs(1))
            .action("test.run", move |_: Context| {
                let guard = Guard(inner.clone());
                async move {
                    let _guard = guard;
                    std::future::pending::<()>().await;
                    Ok(())
                }
            })
    })
    .await?;
    stage.dispatch(1, json!({})).await?;
    stage.executor.running(1).await?;
    let faults = stage.broker.memory_faults().expect("an in-process broker has faults");
    faults.withhold_confirms(true);
    tokio::time::timeout(executor::PATIENCE, dropped.acquire()).await??.forget();
    faults.withhold_confirms(false);
    let former = stage.worker;
    stage.worker = stage.executor.next_worker(former).await?;
    stage.executor.until("the last word", |heard| heard.ended.first().map(|ended| ended.reason)).await?;
    stage.end().await
}

#[tokio::test]
async fn a_drain_lets_running_work_finish_and_says_good_bye() -> anyhow::Result<()> {
    let gate = Arc::new(Semaphore::new(0));
    let inner = gate.clone();
    let mut stage = Stage::with(|builder| {
        builder.drain_timeout(Duration::from_secs(60)).action("test.run", move |_: Context| {
            let gate = inner.clone();
            async move {
                gate.acquire().await?.forget();
                Ok(())
            }
        })
    })
    .await?;
    stage.dispatch(1, json!({})).await?;
    stage.executor.running(1).await?;
    stage.shutdown.drain();
    let beat =
        stage.executor.until("a draining heartbeat", |heard| heard.heartbeats.iter().find(|b| b.draining).cloned());
    assert_eq!(beat.await?.holding, [(executor::key(1).0, 1, Holding::Running)]);
    stage.dispatch(2, json!({})).await?;
    assert_eq!(stage.executor.returned(2).await?.reason, "drain");
    gate.add_permits(1);
    stage.executor.completed(1).await?;
    stage.executor.record(stage.worker, &[1, 2]).await?;
    let ended = stage.executor.until("the last word", |heard| heard.ended.first().cloned()).await?;
    assert_eq!((ended.reason, ended.outcomes.len(), ended.returned.len()), (EndReason::Drain, 0, 0));
    tokio::time::timeout(executor::PATIENCE, stage.running).await???;
    Ok(())
}

#[tokio::test]
async fn what_can_not_be_read_is_passed_over() -> anyhow::Result<()> {
    let mut stage = Stage::handler(async |_: Context| Ok(())).await?;
    for body in [
        "nonsense",
        "{}",
        r#"{"message_type":"execution.scheduled","payload":{}}"#,
        r#"{"message_type":"x.y","payload":1}"#,
    ] {
        let publication = slotline_broker::Publication {
            exchange: exchange(executor::PREFIX),
            routing_key: to_worker("execution.scheduled", stage.worker),
            body: body.into(),
            mandatory: true,
            ..slotline_broker::Publication::default()
        };
        stage.executor.session.publish(publication).await?;
    }
    stage.dispatch(1, json!({})).await?;
    stage.executor.completed(1).await?;
    stage.end().await
}

#[test]
fn what_can_not_work_is_refused_before_it_runs() {
    let echo = async |_: Context| Ok::<_, HandlerError>(());
    let refused = |builder: Builder| builder.build().err().expect("it can't work").to_string();
    let good = || Worker::builder("w1").action("demo.echo", echo);
    assert!(refused(Worker::builder("w 1").action("demo.echo", echo)).contains("worker name"));
    assert!(refused(Worker::builder("w1")).contains("at least one action"));
    assert!(refused(good().action("demo", echo)).contains("action_ref"));
    assert!(refused(good().action("demo.echo", echo)).contains("demo.echo is given twice"));
    assert!(refused(good().capacity(0)).contains("capacity"));
    assert!(refused(good().fence(Duration::from_secs(90))).contains("fence"));
    let empty: [&str; 0] = [];
    assert!(refused(good().command("a.b", slotline_worker::RunConfig::new(empty))).contains("a.b"));
}
