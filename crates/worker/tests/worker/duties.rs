//! What a worker owes its executor: order, repetition, the fence, the drain.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::json;
use slotline_broker::topology::{to_worker, work_exchange};
use slotline_protocol::OutcomeKind;
use slotline_protocol::message::{EndReason, Holding};
use slotline_worker::{Builder, Context, HandlerError, Worker};
use tokio::sync::Semaphore;

use super::stage::Stage;
use crate::executor;

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
            exchange: work_exchange(executor::PREFIX),
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
