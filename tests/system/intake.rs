//! Requests from outside: the smallest possible, repeats, and everything that is wrong.

use anyhow::{Context, bail};
use serde_json::{Value, json};
use slotline_tests::eventually;

use crate::actions::Action;
use crate::message::Message;
use crate::world::{LATER, SOON, World};

fn echo() -> Action {
    Action::command("demo.echo", "", &["/bin/echo", "\"hello\""])
}

/// The dead letters, once there are `count`, oldest first.
async fn dead(world: &World, count: usize) -> anyhow::Result<Vec<Value>> {
    eventually(&format!("{count} dead letters"), SOON, async || {
        let dead = world.dead().await?;
        if dead.len() == count { Ok(Some(dead)) } else { bail!("{dead:?}") }
    })
    .await
}

#[tokio::test]
async fn a_type_and_an_action_are_all_that_a_message_needs() -> anyhow::Result<()> {
    let world = World::with([echo()]).start().await?;
    let body = r#"{"message_type":"execution.requested","payload":{"action_ref":"demo.echo"}}"#;
    world.publish(&[Message::raw("execution.requested", body)]).await?;
    world.settled("demo.echo", 1, LATER).await?;
    let execution = &world.executions("demo.echo").await?[0];
    assert_eq!((&execution["status"], &execution["result"]), (&json!("completed"), &json!("hello")));
    // A routing key that also names the action reaches the same queue.
    world.publish(&[Message::raw("execution.requested.demo.echo", body)]).await?;
    world.settled("demo.echo", 2, LATER).await
}

#[tokio::test]
async fn the_same_message_id_twice_runs_once() -> anyhow::Result<()> {
    let world = World::with([Action::stamp("line.one", "limit = 1")]).start().await?;
    let request = |tag: &str| Message::request("line.one", json!({"tag": tag})).id("m-1");
    let replies = world.publish_for_replies(&[request("once"), request("once"), request("other")], 3).await?;
    let id = replies[0]["payload"]["execution_id"].as_i64().context("accepted")?;
    assert_eq!(replies[0]["message_type"], "execution.accepted");
    assert_eq!(replies[1]["payload"]["execution_id"], id, "the repeat is answered like the first");
    assert_eq!(replies[2]["message_type"], "execution.rejected");
    assert_eq!(replies[2]["payload"]["error"]["code"], "idempotency_conflict", "the same id with another body");
    world.reaches(id, "completed").await?;
    // Also long after it ended.
    let replies = world.publish_for_replies(&[request("once")], 1).await?;
    assert_eq!(replies[0]["payload"]["execution_id"], id);
    world.settled("line.one", 1, LATER).await?;
    assert_eq!(world.stamps.read()?.len(), 1);
    Ok(())
}

#[tokio::test]
async fn what_is_wrong_is_put_aside_with_its_reason_and_stops_no_other() -> anyhow::Result<()> {
    let schema = "limit = 1\nschema = { type = \"object\", required = [\"tag\"] }";
    let world = World::with([Action::stamp("line.one", schema)]).start().await?;
    let good = |tag: &str| Message::request("line.one", json!({"tag": tag}));
    let no_object = Message::payload("execution.requested", json!({"action_ref": "line.one", "parameters": 7}));
    let cases = [
        ("malformed", Message::raw("execution.requested", "{\"message_type\":")),
        ("oversized", good(&"x".repeat(1024 * 1024))),
        (
            "unknown_type",
            Message::raw("execution.requested", r#"{"message_type":"execution.wished_for","payload":{}}"#),
        ),
        ("unknown_action", Message::request("line.unheard_of", json!({}))),
        ("invalid_payload", Message::payload("execution.requested", json!({"action_ref": 7}))),
        ("invalid_payload", no_object),
        ("invalid_parameters", Message::request("line.one", json!({}))),
    ];
    let mut messages = vec![good("before")];
    messages.extend(cases.iter().map(|(_, message)| message.clone()));
    messages.push(good("after"));
    let replies = world.publish_for_replies(&messages, messages.len()).await?;

    let refused: Vec<&Value> = replies.iter().filter(|reply| reply["message_type"] == "execution.rejected").collect();
    assert_eq!(refused.len(), cases.len(), "{replies:#?}");
    for reply in refused {
        assert!(reply["payload"]["error"]["message"].as_str().is_some_and(|message| !message.is_empty()), "{reply}");
    }
    world.settled("line.one", 2, LATER).await?;
    let ran: Vec<_> = world.stamps.read()?.into_iter().map(|stamp| stamp.tag).collect();
    assert_eq!(ran, ["before", "after"]);
    let dead = dead(&world, cases.len()).await?;
    let mut reasons: Vec<_> = dead.iter().filter_map(|letter| letter["reason"].as_str()).collect();
    let mut expected: Vec<_> = cases.iter().map(|(reason, _)| *reason).collect();
    reasons.sort_unstable();
    expected.sort_unstable();
    assert_eq!(reasons, expected, "{dead:#?}");
    Ok(())
}

#[tokio::test]
async fn of_a_bulk_only_the_bad_members_are_put_aside() -> anyhow::Result<()> {
    let world = World::with([Action::stamp("line.one", "limit = 1")]).start().await?;
    let member = |action: &str, tag: &str| {
        let payload = json!({"action_ref": action, "parameters": {"tag": tag}});
        json!({"message_type": "execution.requested", "payload": payload})
    };
    let bulk = json!([member("line.one", "a"), member("no.such", "b"), 7, member("line.one", "c")]);
    world.publish(&[Message::raw("execution.requested", bulk.to_string()).id("bulk-1")]).await?;
    world.settled("line.one", 2, LATER).await?;
    let ran: Vec<_> = world.stamps.read()?.into_iter().map(|stamp| stamp.tag).collect();
    assert_eq!(ran, ["a", "c"]);
    dead(&world, 2).await.map(drop)
}

#[tokio::test]
async fn a_dead_letter_can_be_replayed_in_its_publishers_name_once_its_cause_is_mended_or_dropped() -> anyhow::Result<()>
{
    let world = World::with([Action::stamp("line.one", "limit = 1")]).start().await?;
    let unknown = |tag: &str| Message::request("line.later", json!({"tag": tag})).id(tag).user("slotline-publisher");
    world.publish(&[unknown("replayed"), unknown("dropped")]).await?;
    let letters = dead(&world, 2).await?;
    let id_of = |message_id: &str| {
        let letter = letters.iter().find(|letter| letter["message_id"] == message_id);
        letter.and_then(|letter| letter["id"].as_str()).with_context(|| format!("{message_id} in {letters:?}"))
    };
    let (replayed, dropped) = (id_of("replayed")?, id_of("dropped")?);
    let shown = world.get(&format!("/api/v1/dead/{replayed}")).await?;
    assert!(shown["body"].as_str().is_some_and(|body| body.contains("line.later")), "{shown}");

    world.ask("PUT", "/api/v1/actions/line.later", Some(json!({"limit": 1}))).await?;
    world.ask("POST", &format!("/api/v1/dead/{replayed}/replay"), None).await?;
    world.ask("DELETE", &format!("/api/v1/dead/{dropped}"), None).await?;
    dead(&world, 0).await?;
    eventually("the replayed request is in line", SOON, async || {
        let stats = world.stats("line.later").await?;
        if (&stats["queue_length"], &stats["total_enqueued"]) == (&json!(1), &json!(1)) {
            Ok(Some(()))
        } else {
            bail!("{stats}")
        }
    })
    .await?;
    // It is the request that it would have been, so that its publisher may send it again and cancel it.
    world.get("/api/v1/requests/replayed?user_id=slotline-publisher").await.map(drop)
}

#[tokio::test]
async fn a_full_line_refuses_clearly_and_takes_more_once_there_is_room() -> anyhow::Result<()> {
    let world = World::with([Action::stamp("line.one", "limit = 1\nmax_queue_length = 2")]).start().await?;
    let request = |tag: &str, sleep: u64| Message::request("line.one", json!({"tag": tag, "sleep_ms": sleep}));
    world.publish(&[request("runs", 120_000)]).await?;
    world.stamps.started(1, SOON).await?;
    let replies =
        world.publish_for_replies(&[request("first", 0), request("second", 0), request("third", 0)], 3).await?;
    let types: Vec<_> = replies.iter().filter_map(|reply| reply["message_type"].as_str()).collect();
    assert_eq!(types, ["execution.accepted", "execution.accepted", "execution.rejected"]);
    assert_eq!(replies[2]["payload"]["error"]["code"], "line_full", "{}", replies[2]);
    let body = json!({"action_ref": "line.one", "parameters": {"tag": "over-http"}});
    let (status, refusal) = world.call("POST", "/api/v1/executions", Some(body)).await?;
    assert_eq!((status, &refusal["error"]["code"]), (429, &json!("line_full")), "{refusal}");
    let runs = &world.executions("line.one").await?[0]["execution_id"];
    world.ask("POST", &format!("/api/v1/executions/{runs}/cancel"), None).await?;
    world.settled("line.one", 3, LATER).await?;
    world.submit("line.one", json!({"tag": "fourth"})).await?;
    world.settled("line.one", 4, LATER).await
}

#[tokio::test]
async fn a_publisher_that_asks_receives_the_end() -> anyhow::Result<()> {
    let world = World::with([echo()]).start().await?;
    let payload = json!({"action_ref": "demo.echo", "reply": "settled"});
    let replies = world.publish_for_replies(&[Message::payload("execution.requested", payload).id("m")], 1).await?;
    assert_eq!(replies[0]["message_type"], "execution.settled", "{}", replies[0]);
    let told = &replies[0]["payload"];
    assert_eq!(
        (&told["status"], &told["result"], &told["message_id"]),
        (&json!("completed"), &json!("hello"), &json!("m"))
    );
    Ok(())
}
