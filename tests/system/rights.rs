//! What each user of the broker may publish; and that a message which the broker lets through all the same changes
//! nothing.

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use slotline_tests::eventually;
use slotline_tests::stranger::{Property, RawProperties, Stranger, array, entry, text};

use crate::actions::Action;
use crate::message::Message;
use crate::world::{LATER, SOON, World};

const EXECUTIONS: &str = "slotline.executions";
const WORK: &str = "slotline.work";

/// One message from one user; a connection of its own, since a refusal ends it.
async fn say(
    world: &World,
    role: &str,
    exchange: &str,
    key: &str,
    copies: &[&str],
    body: &Value,
) -> anyhow::Result<()> {
    let mut stranger = Stranger::connect(&world.login(role)).await?;
    let mut properties = RawProperties::default();
    if !copies.is_empty() {
        let keys: Vec<u8> = copies.iter().flat_map(text).collect();
        properties = properties.headers([entry("CC", array(&keys)), entry("BCC", array(&keys))].concat());
    }
    stranger.publish(exchange, key.as_bytes(), &properties, body.to_string().as_bytes()).await
}

/// Messages of an attacker about the one execution that runs, each by its key, with everything right but the proof.
fn lies(id: i64, incarnation: &str, fence: i64) -> Vec<(String, Value)> {
    let end = json!({
        "execution_id": id, "action_id": 1, "action_ref": "line.one", "attempt": 1, "fence": fence, "worker": "worker-0",
        "incarnation": incarnation, "last_sequence": 2, "status": "completed", "result": {"forged": true},
        "completed_at": "2026-01-01T00:00:00Z",
    });
    let hello = |lost: bool| json!({"epoch": 1_i64 << 62, "n": 1, "lease_seconds": 2, "fence_seconds": 1, "heartbeat_seconds": 0.1, "lost": lost});
    let order = |key: &str| format!("{key}.{incarnation}");
    vec![
        ("execution.completed".to_owned(), end.clone()),
        (
            "execution.returned".to_owned(),
            json!({"execution_id": id, "attempt": 1, "fence": fence, "worker": "worker-0", "incarnation": incarnation,
                "reason": "drain", "started": true}),
        ),
        (
            "worker.ended".to_owned(),
            json!({"worker": "worker-0", "incarnation": incarnation, "reason": "replaced", "outcomes": [end]}),
        ),
        (
            "worker.heartbeat".to_owned(),
            json!({"worker": "worker-0", "incarnation": incarnation, "capacity": 1000, "holding": [], "unrecorded": [],
                "seen": [i64::MAX, u64::MAX], "actions": [{"ref": "line.one"}], "draining": true,
                "sent_at": "2026-01-01T00:00:00Z"}),
        ),
        ("executor.hello".to_owned(), hello(true)),
        (order("executor.hello"), hello(true)),
        (order("executor.hello"), hello(false)),
        (
            order("execution.scheduled"),
            json!({"epoch": 1_i64 << 62, "n": 2, "execution_id": 999, "attempt": 1, "fence": 999, "action_id": 1,
                "action_ref": "line.one", "parameters": {"tag": "forged"}, "scheduled_at": "2026-01-01T00:00:00Z"}),
        ),
        (
            order("execution.cancel"),
            json!({"epoch": 1_i64 << 62, "n": 3, "execution_id": id, "attempt": 1, "fence": fence, "grace_seconds": 0}),
        ),
        ("executor.call".to_owned(), json!({"ask": "pause", "action_ref": "line.one", "paused": true})),
        ("executor.call".to_owned(), json!({"ask": "cancel", "id": id, "reason": null})),
        ("executor.call".to_owned(), json!({"ask": "put_action", "action_ref": "line.one", "policy": {"limit": 9}})),
        ("executor.call".to_owned(), json!({"ask": "put_action", "action_ref": "line.forged", "policy": {}})),
        ("executor.call".to_owned(), json!({"ask": "delete_action", "action_ref": "line.one"})),
        ("executor.call".to_owned(), json!({"ask": "follow", "all": true, "ids": []})),
    ]
}

#[tokio::test]
async fn with_least_rights_all_runs_and_no_forgery_of_any_user_changes_anything() -> anyhow::Result<()> {
    let actions = [Action::stamp("line.one", "limit = 1\nrun_ahead = 0")];
    let mut world = World::with(actions).executors(2).start().await?;
    let mut heard = world.subscribe().await?;

    // Everything works: requests, an answer to a subscriber, a take-over, a cancellation.
    let request = |tag: &str| Message::request("line.one", json!({"tag": tag})).id(tag);
    world.publish(&["a", "b", "c"].map(request)).await?;
    world.settled("line.one", 3, LATER).await?;
    heard.until(|kind, payload| kind == "execution.status_changed" && payload["new_status"] == "completed").await?;
    let leader = world.leader().await?.context("one leads")?;
    world.executors[leader].kill()?;
    world.publish(&["d", "e"].map(request)).await?;
    world.settled("line.one", 5, LATER).await?;

    let running =
        Message::request("line.one", json!({"tag": "running", "sleep_ms": 120_000, "beat_ms": 20})).id("running");
    world.publish(&[running, request("next")]).await?;
    world.stamps.started(6, SOON).await?;
    let found = world.sql("SELECT id || ' ' || incarnation || ' ' || fence FROM live WHERE fence IS NOT NULL").await?;
    let mut found = found.split_whitespace();
    let mut next = || found.next().context("the one that runs");
    let (id, incarnation, fence) = (next()?.parse::<i64>()?, next()?.to_owned(), next()?.parse::<i64>()?);

    for (key, payload) in lies(id, &incarnation, fence) {
        let message_type = key.strip_suffix(&format!(".{incarnation}")).unwrap_or(&key);
        let body = match message_type {
            "executor.call" => payload,
            message_type => json!({"message_type": message_type, "payload": payload}),
        };
        for (role, exchange) in [("publisher", EXECUTIONS), ("publisher", WORK), ("reader", "slotline.events")] {
            let said = say(&world, role, exchange, &key, &[], &body).await;
            ensure!(said.is_err(), "the broker let a {role} say {key} to {exchange}");
        }
        // Older brokers pass copies (`CC`) on whatever the rights; the exchange leads only to the requests queue.
        let _ = say(&world, "publisher", EXECUTIONS, "execution.requested", &[&key], &json!({})).await;
        // A worker's user may publish more, and with copies on older brokers all of it; without a proof it is not
        // believed.
        let _ = say(&world, "worker", WORK, &key, &[], &body).await;
        let _ = say(&world, "worker", WORK, "execution.progress", &[&key], &body).await;
        // Nor from a user that may publish everything.
        say(&world, "executor", WORK, &key, &[], &body).await?;
    }
    world.publish(&[request("last")]).await?;
    let execution = world.execution(id).await?;
    ensure!(execution["status"] == "running" && execution["attempt"] == 1, "{execution}");
    let action = world.get("/api/v1/actions/line.one").await?;
    ensure!(action["paused"] == false && action["policy"]["limit"] == 1, "{action}");
    let (status, forged) = world.call("GET", "/api/v1/actions/line.forged", None).await?;
    ensure!(status == 404, "{forged}");
    let (_, health) = world.health_of(world.leader().await?.context("one leads")?).await?;
    ensure!(health.contains("messages were refused"), "{health}");
    ensure!(world.stamps.read()?.iter().all(|stamp| stamp.tag != "forged"), "a forged order ran");

    // Its own publisher may cancel it.
    world.publish(&[Message::payload("execution.cancel_requested", json!({"message_id": "running"}))]).await?;
    world.settled("line.one", 8, LATER).await?;
    ensure!(world.execution(id).await?["status"] == "cancelled");
    let left = world.sql("SELECT count(DISTINCT incarnation) FROM ended_incarnations").await?;
    ensure!(left.trim() == "0", "{left} incarnations ended");
    Ok(())
}

#[tokio::test]
async fn a_publisher_that_sends_its_user_id_keeps_its_message_ids_to_itself() -> anyhow::Result<()> {
    let world = World::with([Action::stamp("line.one", "limit = 1\nrun_ahead = 0")]).start().await?;
    let request =
        |tag: &str| Message::request("line.one", json!({"tag": tag, "gate": world.gate("all")})).id("the-one");
    // The first is without a user and takes the name; the second is of a user that the broker knows.
    world
        .publish(&[
            request("squatter"),
            request("own").user("slotline-publisher"),
            request("own").user("slotline-publisher"),
        ])
        .await?;
    eventually("both are taken", LATER, async || {
        let count = world.executions("line.one").await?.len();
        Ok((count == 2).then_some(()))
    })
    .await?;
    let own = world.get("/api/v1/requests/the-one?user_id=slotline-publisher").await?;
    let squatters = world.get("/api/v1/requests/the-one").await?;
    ensure!(own["execution_id"] != squatters["execution_id"], "{own} {squatters}");
    ensure!(own["message_id"] == "the-one", "{own}");

    // Nor can another publisher cancel it, or a message with its number.
    let id = own["execution_id"].as_i64().context("an id")?;
    let cancel = |payload: Value| Message::payload("execution.cancel_requested", payload);
    world.publish(&[cancel(json!({"execution_id": id})), cancel(json!({"message_id": "the-one"}))]).await?;
    world.reaches(squatters["execution_id"].as_i64().context("an id")?, "cancelled").await?;
    let execution = world.execution(id).await?;
    ensure!(execution["status"] != "cancelled" && execution["status"] != "cancelling", "{execution}");
    let letters = world.dead().await?;
    ensure!(letters.len() == 1 && letters[0]["reason"] == "invalid_payload", "{letters:?}");
    world.publish(&[cancel(json!({"message_id": "the-one"})).user("slotline-publisher")]).await?;
    world.reaches(id, "cancelled").await?;

    // The broker refuses a `user_id` that is not the connection's user.
    let mut stranger = Stranger::connect(&world.login("publisher")).await?;
    let forged = RawProperties::default().text(Property::UserId, "slotline-executor");
    let body = json!({"message_type": "execution.requested", "payload": {"action_ref": "line.one"}}).to_string();
    ensure!(stranger.publish(EXECUTIONS, b"execution.requested", &forged, body.as_bytes()).await.is_err());
    Ok(())
}
