//! From the line to the worker and back, and the reports of it.

use anyhow::{Context, Result};
use slotline_broker::Properties;
use slotline_executor::Config;
use slotline_protocol::message::{Accepted, Cancel, Hello, Recorded, Scheduled, Settled, StatusChanged};
use slotline_protocol::{Fence, OutcomeKind, Status, Timestamp, record};

use super::PATIENCE;
use super::installation::Installation;
use super::played::PlayedWorker;
#[tokio::test]
async fn a_completion_starts_the_next_in_line_and_each_leaves_after_its_commit() -> Result<()> {
    let mut slotline = Installation::start(&[("demo.echo", r#"{"limit": 1, "run_ahead": 0}"#)]).await?;
    let mut worker = PlayedWorker::start(&slotline.broker, &["demo.echo"]).await?;
    for n in 1..=3 {
        slotline.request("demo.echo", &format!("m{n}")).await?;
    }
    for n in 1..=3 {
        let accepted: Accepted = slotline.replied().await?;
        assert_eq!((accepted.execution_id.0, accepted.message_id), (n, format!("m{n}")));
    }
    let mut fences = Vec::new();
    let mut scheduled: Scheduled = worker.order().await?;
    for n in 1..=3 {
        assert_eq!((scheduled.execution_id.0, scheduled.attempt), (n, 1));
        assert_eq!(slotline.status(n).await?, Status::Scheduled, "a dispatch leaves after its commit");
        fences.push(scheduled.fence);
        let ended = (scheduled.execution_id, 1);
        worker.complete(&scheduled, OutcomeKind::Completed).await?;
        if n < 3 {
            // The next dispatch comes before the record of an outcome, for which nothing waits.
            scheduled = worker.order().await?;
        }
        let recorded: Recorded = worker.order().await?;
        assert_eq!(recorded.attempts, [ended]);
        assert_eq!(slotline.status(n).await?, Status::Completed, "`recorded` leaves after its commit");
    }
    assert!(fences.is_sorted_by(|one, other| one < other), "{fences:?}");
    slotline.stop_executor().await
}

#[tokio::test]
async fn the_next_ones_wait_at_the_worker_and_show_as_queued_until_their_turn() -> Result<()> {
    let mut slotline = Installation::start(&[("demo.echo", r#"{"limit": 1, "run_ahead": 2}"#)]).await?;
    let mut worker = PlayedWorker::start(&slotline.broker, &["demo.echo"]).await?;
    for n in 1..=3 {
        slotline.request("demo.echo", &format!("m{n}")).await?;
        let _: Accepted = slotline.replied().await?;
    }
    let (first, second, third): (Scheduled, Scheduled, Scheduled) =
        (worker.order().await?, worker.order().await?, worker.order().await?);
    assert_eq!(first.starts_after, None);
    assert_eq!(second.starts_after, Some((first.execution_id, 1)));
    assert_eq!(third.starts_after, Some((second.execution_id, 1)));
    let shown = slotline.store.execution(second.execution_id).await?.expect("it lives");
    assert_eq!((shown.status, shown.scheduled_at, shown.fence), (Status::Queued, None, None));
    worker.complete(&first, OutcomeKind::Completed).await?;
    let _: Recorded = worker.order().await?;
    assert_eq!(slotline.status(second.execution_id.0).await?, Status::Scheduled, "the slot is its own");
    let shown = slotline.store.execution(second.execution_id).await?.expect("it lives");
    assert_eq!(shown.scheduled_at, Some(second.scheduled_at), "when it was sent, as its worker has it");
    assert_eq!(slotline.status(third.execution_id.0).await?, Status::Queued);
    for scheduled in [&second, &third] {
        worker.complete(scheduled, OutcomeKind::Completed).await?;
        let _: Recorded = worker.order().await?;
        assert_eq!(slotline.status(scheduled.execution_id.0).await?, Status::Completed);
    }
    slotline.stop_executor().await
}

#[tokio::test]
async fn a_restarted_executor_goes_on_where_the_line_stood() -> Result<()> {
    let mut slotline = Installation::start(&[("demo.echo", r#"{"limit": 1}"#)]).await?;
    let mut worker = PlayedWorker::start(&slotline.broker, &["demo.echo"]).await?;
    for n in 1..=3 {
        slotline.request("demo.echo", &format!("m{n}")).await?;
        let _: Accepted = slotline.replied().await?;
    }
    let first: Scheduled = worker.order().await?;
    slotline.stop_executor().await?;
    slotline.request("demo.echo", "m4").await?;
    slotline.start_executor();
    let hello: Hello = worker.order().await?;
    assert!(hello.epoch > first.epoch);
    worker.complete(&first, OutcomeKind::Completed).await?;
    for n in 2..=4 {
        let mut next: Scheduled = worker.order().await?;
        while next.execution_id == first.execution_id {
            // Its heartbeat showed that it holds nothing, so the dispatch came again, with the same fence.
            assert_eq!(next.fence, first.fence);
            next = worker.order().await?;
        }
        assert_eq!(next.execution_id.0, n);
        worker.complete(&next, OutcomeKind::Completed).await?;
    }
    slotline.stop_executor().await
}

#[tokio::test]
async fn a_running_execution_is_cancelled_by_a_message() -> Result<()> {
    let mut slotline = Installation::start(&[("demo.echo", "{}")]).await?;
    let mut worker = PlayedWorker::start(&slotline.broker, &["demo.echo"]).await?;
    slotline.request("demo.echo", "m1").await?;
    let _: Accepted = slotline.replied().await?;
    let scheduled: Scheduled = worker.order().await?;
    worker
        .say(&StatusChanged {
            execution_id: scheduled.execution_id,
            action_ref: scheduled.action_ref.clone(),
            counts_as: 1,
            grant: None,
            sequence: None,
            worker: Some(worker.name.clone()),
            fence: Some(scheduled.fence),
            incarnation: Some(worker.incarnation),
            previous_status: Status::Scheduled,
            new_status: Status::Running,
            changed_at: Timestamp::from_micros(7),
        })
        .await?;
    slotline.reaches(1, Status::Running).await?;
    let body = r#"{"message_type":"execution.cancel_requested","payload":{"message_id":"m1","reason":"enough"}}"#;
    slotline.publish(body, Properties::default()).await?;
    let cancel: Cancel = worker.order().await?;
    assert_eq!(
        (cancel.execution_id, cancel.fence, cancel.reason.as_deref()),
        (scheduled.execution_id, scheduled.fence, Some("enough"))
    );
    slotline.reaches(1, Status::Cancelling).await?;
    worker.complete(&scheduled, OutcomeKind::Failed).await?;
    slotline.reaches(1, Status::Cancelled).await?;
    slotline.stop_executor().await
}

#[tokio::test]
async fn a_publisher_that_wants_the_end_is_told_it_even_by_the_next_leader() -> Result<()> {
    let mut slotline = Installation::start(&[("demo.echo", "{}")]).await?;
    let body = r#"{"message_type":"execution.requested","payload":{"action_ref":"demo.echo","reply":"settled"}}"#;
    slotline.publish(body, slotline.properties(Some("m1"))).await?;
    slotline.request("demo.echo", "m2").await?;
    let _: Accepted = slotline.replied().await?;
    slotline.stop_executor().await?;
    slotline.start_executor();
    let mut worker = PlayedWorker::start(&slotline.broker, &["demo.echo"]).await?;
    let scheduled: Scheduled = worker.order().await?;
    worker.complete(&scheduled, OutcomeKind::Completed).await?;
    let settled: Settled = slotline.replied().await?;
    assert_eq!((settled.message_id.as_deref(), settled.status), (Some("m1"), Status::Completed));
    assert_eq!(settled.result.context("a result")?.get(), "42");
    // A publisher that missed the answer asks again.
    slotline.publish(body, slotline.properties(Some("m1"))).await?;
    let again: Settled = slotline.replied().await?;
    assert_eq!((again.execution_id, again.status), (settled.execution_id, Status::Completed));
    assert_eq!(again.result.context("a result")?.get(), "42");
    slotline.stop_executor().await
}

#[tokio::test]
async fn a_worker_that_comes_later_is_told_the_terms_before_it_gets_work() -> Result<()> {
    let mut slotline = Installation::start(&[("demo.echo", "{}")]).await?;
    slotline.request("demo.echo", "m1").await?;
    let _: Accepted = slotline.replied().await?;
    let mut worker = PlayedWorker::start(&slotline.broker, &["demo.echo"]).await?;
    let hello: Hello = worker.order().await?;
    let config = Config::default();
    assert_eq!((hello.lease_seconds, hello.fence_seconds), (Some(config.lease), Some(config.fence)));
    let scheduled: Scheduled = worker.order().await?;
    assert!(scheduled.n > hello.n && !hello.lost);
    slotline.stop_executor().await
}

#[tokio::test]
async fn a_backlog_larger_than_memory_keeps_delays_no_dispatch_of_another_action() -> Result<()> {
    let mut slotline = Installation::start(&[("demo.big", r#"{"limit": 1}"#), ("demo.echo", "{}")]).await?;
    let filler = "x".repeat(1_000_000);
    for _ in 0..70 {
        let payload = format!(r#"{{"action_ref":"demo.big","parameters":{{"filler":"{filler}"}}}}"#);
        let body = format!(r#"{{"message_type":"execution.requested","payload":{payload}}}"#);
        slotline.publish(body, Properties::default()).await?;
    }
    let mut worker = PlayedWorker::start(&slotline.broker, &["demo.echo"]).await?;
    let _: Hello = worker.order().await?;
    slotline.request("demo.echo", "m1").await?;
    // This worker sends no further heartbeat, so nothing could mend a dispatch that was left out.
    let scheduled: Scheduled = worker.order().await?;
    assert_eq!(scheduled.action_ref.as_str(), "demo.echo");
    slotline.stop_executor().await
}

#[tokio::test]
async fn a_stale_fence_changes_nothing() -> Result<()> {
    let mut slotline = Installation::start(&[("demo.echo", "{}")]).await?;
    let mut worker = PlayedWorker::start(&slotline.broker, &["demo.echo"]).await?;
    slotline.request("demo.echo", "m1").await?;
    let scheduled: Scheduled = worker.order().await?;
    let stale = Scheduled { fence: Fence(scheduled.fence.0 - 1), ..scheduled.clone() };
    worker.complete(&stale, OutcomeKind::Failed).await?;
    // The queue is first in, first out: if the stale report had counted, the true one would come too late.
    worker.complete(&scheduled, OutcomeKind::Completed).await?;
    slotline.reaches(1, Status::Completed).await?;
    slotline.stop_executor().await
}

#[tokio::test]
async fn what_is_shown_live_is_what_the_journal_tells_afterwards() -> Result<()> {
    let policy = r#"{"retry": {"max_attempts": 2, "backoff": "1ms"}}"#;
    let mut slotline = Installation::start(&[("demo.echo", policy)]).await?;
    let mut news = slotline.follow().await?;
    let mut worker = PlayedWorker::start(&slotline.broker, &["demo.echo"]).await?;
    for outcomes in [&[OutcomeKind::Completed][..], &[OutcomeKind::Failed, OutcomeKind::Completed]] {
        slotline.request("demo.echo", &format!("m{}", outcomes.len())).await?;
        let accepted: Accepted = slotline.replied().await?;
        for outcome in outcomes {
            let scheduled: Scheduled = worker.order().await?;
            worker.complete(&scheduled, *outcome).await?;
        }
        let mut shown: Vec<record::Event> = Vec::new();
        while !matches!(shown.last().map(|event| &event.what), Some(record::What::Settled { .. })) {
            let delivery = tokio::time::timeout(PATIENCE, news.next()).await.context("no news")?;
            shown.extend(serde_json::from_slice::<Vec<record::Event>>(&delivery.context("the session is over")?.body)?);
        }
        let kinds: Vec<&str> = shown.iter().map(|event| event.what.kind().as_str()).collect();
        let attempt = ["status", "status", "started", "finished"];
        let attempts = vec![attempt; outcomes.len()].join(&"status");
        assert_eq!(kinds, [&["status"][..], &attempts, &["settled"]].concat());
        let numbers: Vec<u64> = shown.iter().map(|event| event.number).collect();
        assert_eq!(numbers, (1..).take(shown.len()).collect::<Vec<u64>>(), "without a gap, across attempts");
        let journaled = slotline.store.events(accepted.execution_id, 0, 100).await?.context("it is known")?;
        assert!(journaled.is_over);
        assert_eq!(serde_json::to_value(&journaled.events)?, serde_json::to_value(&shown)?);
    }
    slotline.stop_executor().await
}
