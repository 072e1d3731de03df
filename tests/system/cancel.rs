//! Cancelling, from any state and from either side.

use anyhow::Context;
use serde_json::json;
use slotline_tests::most_at_once;

use crate::actions::Action;
use crate::message::Message;
use crate::world::{LATER, SOON, World};

#[tokio::test]
async fn what_is_cancelled_in_line_never_starts_and_holds_up_no_other() -> anyhow::Result<()> {
    cancelled_in_line(Action::stamp("line.one", "limit = 1\nrun_ahead = 0"), &["cancelled"]).await
}

/// Only its worker knows whether it has begun, so the worker is asked first.
#[tokio::test]
async fn what_is_cancelled_at_the_worker_of_the_one_before_never_starts_either() -> anyhow::Result<()> {
    cancelled_in_line(Action::stamp("line.one", "limit = 1\nrun_ahead = 4"), &["cancelling", "cancelled"]).await
}

pub(crate) async fn cancelled_in_line(action: Action, answers: &[&str]) -> anyhow::Result<()> {
    let world = World::with([action]).start().await?;
    let first = world.submit("line.one", json!({"tag": "first", "gate": world.gate("first")})).await?;
    let by_http = world.submit("line.one", json!({"tag": "by-http"})).await?;
    let to_publish = |tag: &str| Message::request("line.one", json!({"tag": tag})).id(tag);
    world.publish(&["by-message", "the-one"].map(to_publish)).await?;
    let last = world.submit("line.one", json!({"tag": "last"})).await?;
    world.stamps.started(1, SOON).await?;

    let cancelled = world.ask("POST", &format!("/api/v1/executions/{by_http}/cancel"), None).await?;
    assert!(answers.iter().any(|answer| cancelled["status"] == *answer), "{cancelled}");
    let messages =
        [json!({"message_id": "by-message", "reason": "no longer wanted"}), json!({"message_id": "the-one"})];
    world.publish(&messages.map(|payload| Message::payload("execution.cancel_requested", payload))).await?;
    let published = world.executions("line.one").await?;
    let id_of = |place: usize| published[place]["execution_id"].as_i64().context("an id");
    for id in [by_http, id_of(2)?, id_of(3)?] {
        world.reaches(id, "cancelled").await?;
    }
    world.open("first")?;

    world.settled("line.one", 5, LATER).await?;
    let order: Vec<_> = world.stamps.read()?.into_iter().map(|stamp| stamp.tag).collect();
    assert_eq!(order, ["first", "last"]);
    let statuses: Vec<_> = world.executions("line.one").await?.iter().map(|e| e["status"].clone()).collect();
    assert_eq!(statuses, ["completed", "cancelled", "cancelled", "cancelled", "completed"]);
    // What has ended stays as it ended.
    for (id, status) in [(first, "completed"), (by_http, "cancelled"), (last, "completed")] {
        let again = world.ask("POST", &format!("/api/v1/executions/{id}/cancel"), None).await?;
        assert_eq!(again["status"], status);
    }
    Ok(())
}

#[tokio::test]
async fn what_is_cancelled_while_it_runs_is_ended_and_the_next_starts() -> anyhow::Result<()> {
    cancelled_while_it_runs(Action::stamp("line.one", "limit = 1\nrun_ahead = 0")).await
}

pub(crate) async fn cancelled_while_it_runs(action: Action) -> anyhow::Result<()> {
    let world = World::with([action]).start().await?;
    let long = |tag: &str| json!({"tag": tag, "sleep_ms": 120_000, "beat_ms": 20});
    let polite = world.submit("line.one", long("polite")).await?;
    let mut stubborn = long("stubborn");
    stubborn["ignore_term"] = 1.into();
    world.publish(&[Message::request("line.one", stubborn).id("stubborn")]).await?;
    let next = world.submit("line.one", json!({"tag": "next"})).await?;

    world.stamps.started(1, SOON).await?;
    let answer = world.ask("POST", &format!("/api/v1/executions/{polite}/cancel"), None).await?;
    assert!(answer["status"] == "cancelling" || answer["status"] == "cancelled", "{answer}");
    // The second ignores SIGTERM, is cancelled by message, twice, and is killed once its grace is over.
    world.stamps.started(2, SOON).await?;
    let cancel = Message::payload("execution.cancel_requested", json!({"message_id": "stubborn"}));
    world.publish(&[cancel.clone(), cancel]).await?;
    world.settled("line.one", 3, LATER).await?;
    let stubborn = world.executions("line.one").await?[1]["execution_id"].as_i64().context("an id")?;

    for id in [polite, stubborn] {
        let execution = world.execution(id).await?;
        assert_eq!((&execution["status"], &execution["error"]["code"]), (&json!("cancelled"), &json!("cancelled")));
        assert_eq!(execution["attempt"], 1);
    }
    assert_eq!(world.execution(next).await?["status"], "completed");
    let stamps = world.stamps.read()?;
    assert_eq!(stamps.iter().map(|stamp| stamp.tag.as_str()).collect::<Vec<_>>(), ["polite", "stubborn", "next"]);
    assert_eq!(most_at_once(&stamps), 1);
    Ok(())
}
