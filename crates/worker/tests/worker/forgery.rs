//! What a worker does with orders of a sender that is no executor of its journal: none of it.

use serde_json::json;
use slotline_protocol::message::{Cancel, Hello, Recall, Recorded, Resend, Scheduled};
use slotline_protocol::{ActionRef, Epoch, ExecutionId, Fence, OutcomeKind};
use slotline_worker::Context;

use super::stage::Stage;
use crate::executor;

/// Beyond the epoch of the true executor: a worker that believed one such order would drop the true ones after it.
const EPOCH: Epoch = Epoch(1 << 40);

/// A worker that runs execution 1 until it is cancelled; then it has failed.
async fn stage() -> anyhow::Result<Stage> {
    let mut stage = Stage::handler(async |context: Context| {
        if context.execution_id().0 == 1 {
            context.cancellation().cancelled().await;
        }
        Ok(())
    })
    .await?;
    stage.dispatch(1, json!({})).await?;
    stage.executor.running(1).await?;
    Ok(stage)
}

/// A true order that comes after the forged ones is obeyed, and nothing else has happened: execution 1 still runs; it
/// has not ended, was not handed back and was not started again, and neither was any other.
async fn only_the_truth_is_obeyed(mut stage: Stage) -> anyhow::Result<()> {
    stage.dispatch(2, json!({})).await?;
    stage.executor.completed(2).await?;
    let heard = &stage.executor.heard;
    assert!(heard.completed.iter().all(|(_, end)| end.execution_id == ExecutionId(2)), "{:?}", heard.completed);
    assert!(heard.returned.is_empty() && heard.ended.is_empty(), "{:?} {:?}", heard.returned, heard.ended);
    let started = |id| heard.status.iter().filter(|changed| changed.execution_id == ExecutionId(id)).count();
    assert_eq!([started(1), started(3)], [1, 0]);
    assert!(heard.heartbeats.iter().all(|beat| beat.incarnation == stage.worker), "it goes on under its name");
    stage.executor.cancel(stage.worker, 1, executor::PATIENCE).await?;
    assert_eq!(stage.executor.completed(1).await?.status, OutcomeKind::Cancelled);
    stage.executor.record(stage.worker, &[1, 2]).await?;
    stage.end().await
}

#[tokio::test]
async fn a_forged_order_starts_nothing() -> anyhow::Result<()> {
    let mut stage = stage().await?;
    let scheduled = stage.executor.scheduled(3, "test.run", &json!({}))?;
    let forged = Scheduled { epoch: EPOCH, ..scheduled };
    stage.executor.forge(stage.worker, &forged).await?;
    only_the_truth_is_obeyed(stage).await
}

#[tokio::test]
async fn a_forged_cancellation_ends_nothing() -> anyhow::Result<()> {
    let stage = stage().await?;
    let cancel = Cancel {
        epoch: EPOCH,
        n: 1,
        execution_id: ExecutionId(1),
        attempt: 1,
        fence: Fence(1001),
        if_not_started: false,
        grace_seconds: None,
        reason: None,
    };
    stage.executor.forge(stage.worker, &cancel).await?;
    only_the_truth_is_obeyed(stage).await
}

#[tokio::test]
async fn a_forged_recall_hands_nothing_back() -> anyhow::Result<()> {
    let mut stage = stage().await?;
    let mut waiting = stage.executor.scheduled(4, "test.run", &json!({}))?;
    waiting.starts_after = Some(executor::key(1));
    stage.executor.send(stage.worker, &waiting).await?;
    let (execution_id, fence) = (ExecutionId(4), waiting.fence);
    let recall = Recall { epoch: EPOCH, n: 1, execution_id, attempt: 1, fence, reason: "a lie".to_owned() };
    stage.executor.forge(stage.worker, &recall).await?;
    only_the_truth_is_obeyed(stage).await
}

#[tokio::test]
async fn a_forged_greeting_of_a_loss_ends_no_incarnation() -> anyhow::Result<()> {
    let stage = stage().await?;
    let hello = Hello {
        epoch: EPOCH,
        n: 1,
        lease_seconds: None,
        fence_seconds: None,
        heartbeat_seconds: None,
        lost: true,
        journal: None,
        account: false,
        refused: Some("a forged reason".to_owned()),
    };
    stage.executor.forge(stage.worker, &hello).await?;
    only_the_truth_is_obeyed(stage).await
}

#[tokio::test]
async fn a_forged_receipt_silences_no_completion() -> anyhow::Result<()> {
    let mut stage = stage().await?;
    stage.dispatch(2, json!({})).await?;
    stage.executor.completed(2).await?;
    stage.executor.forge(stage.worker, &Recorded { epoch: EPOCH, n: 1, attempts: vec![executor::key(2)] }).await?;
    let told = |heard: &executor::Heard| heard.completed.len();
    let before = told(&stage.executor.heard);
    stage.executor.until("the same again", |heard| (told(heard) > before + 1).then_some(())).await?;
    only_the_truth_is_obeyed(stage).await
}

#[tokio::test]
async fn a_forged_question_is_not_answered_with_what_a_run_has_told() -> anyhow::Result<()> {
    let stage = stage().await?;
    let (execution_id, attempt) = executor::key(1);
    let action_ref = ActionRef::new("test.run")?;
    let resend =
        Resend { epoch: EPOCH, n: 1, execution_id, action_ref, attempt, first_sequence: 1, last_sequence: None };
    stage.executor.forge(stage.worker, &resend).await?;
    only_the_truth_is_obeyed(stage).await
}
