//! The API's answers about lines and executions.

use serde_json::json;

use crate::actions::Action;
use crate::world::{LATER, SOON, World, http, list};

#[tokio::test]
async fn the_stats_of_an_unused_action_are_zeros_and_of_an_unknown_one_not_found() -> anyhow::Result<()> {
    let world = World::with([Action::stamp("line.one", "limit = 2")]).start().await?;
    let stats = world.stats("line.one").await?;
    assert_eq!(stats["action_ref"], "line.one");
    assert!(stats["action_id"].is_i64(), "{stats}");
    for zero in ["queue_length", "active_count", "total_enqueued", "total_completed"] {
        assert_eq!(stats[zero], 0, "{zero}: {stats}");
    }
    assert_eq!(stats["max_concurrent"], 2);
    assert!(stats["oldest_enqueued_at"].is_null() && stats["last_updated"].is_string(), "{stats}");
    let (status, refusal) = world.call("GET", "/api/v1/actions/line.two/queue-stats", None).await?;
    assert_eq!(status, 404);
    assert!(refusal["error"]["message"].as_str().is_some_and(|message| message.contains("line.two")), "{refusal}");
    Ok(())
}

#[tokio::test]
async fn every_executor_shows_where_an_execution_waits_and_for_which_others() -> anyhow::Result<()> {
    let world = World::with([
        Action::stamp("line.one", "limit = 1"),
        Action::stamp("tenant.job", "key_limit = 1\nkey = \"/tenant\""),
    ])
    .executors(2)
    .start()
    .await?;
    let holder = world.submit("line.one", json!({"tag": "holder", "sleep_ms": 120_000})).await?;
    let waits = world.submit("line.one", json!({"tag": "waits"})).await?;
    let last = world.submit("line.one", json!({"tag": "last"})).await?;
    let keyed = world.submit("tenant.job", json!({"tag": "keyed", "tenant": "a", "sleep_ms": 120_000})).await?;
    let behind = world.submit("tenant.job", json!({"tag": "behind", "tenant": "a"})).await?;
    world.reaches(holder, "running").await?;
    world.reaches(keyed, "running").await?;

    for turn in 0..world.executors.len() {
        for (id, position, reason, held_by) in
            [(waits, 1, "limit", holder), (last, 2, "limit", holder), (behind, 1, "key_limit", keyed)]
        {
            let url = format!("{}/api/v1/executions/{id}", world.executors[turn].api_url());
            let body: serde_json::Value = http()?.get(url).send().await?.json().await?;
            let execution = &body["data"];
            assert_eq!((&execution["status"], &execution["position"]), (&json!("queued"), &json!(position)), "{body}");
            let waiting = &execution["waiting"];
            assert_eq!((&waiting["reason"], &waiting["held_by"]), (&json!(reason), &json!([held_by])), "{body}");
        }
    }
    let stats = world.stats("line.one").await?;
    assert_eq!((&stats["queue_length"], &stats["active_count"]), (&json!(2), &json!(1)), "{stats}");
    let keys = list(&world.stats("tenant.job").await?["keys"])?.clone();
    assert_eq!(keys, [json!({"key": "a", "queue_length": 1, "active_count": 1, "ahead_count": 1})]);

    world.ask("POST", "/api/v1/actions/line.one/pause", None).await?;
    assert_eq!(world.execution(waits).await?["waiting"]["reason"], "paused");
    let (status, _) = world.call("DELETE", "/api/v1/actions/line.one", None).await?;
    assert_eq!(status, 409, "an action with live executions stays");
    for id in [holder, keyed] {
        world.ask("POST", &format!("/api/v1/executions/{id}/cancel"), None).await?;
    }
    world.ask("POST", "/api/v1/actions/line.one/resume", None).await?;
    world.settled("line.one", 3, LATER).await?;
    world.settled("tenant.job", 2, LATER).await?;
    world.ask("DELETE", "/api/v1/actions/line.one", None).await?;
    let (status, _) = world.call("GET", "/api/v1/actions/line.one", None).await?;
    assert_eq!(status, 404);
    Ok(())
}

#[tokio::test]
async fn an_idempotency_key_over_http_runs_once_whichever_executor_takes_it() -> anyhow::Result<()> {
    let world = World::with([Action::stamp("line.one", "limit = 1")]).executors(2).start().await?;
    let client = http()?;
    let mut answers = Vec::new();
    for turn in 0..4 {
        let url = format!("{}/api/v1/executions", world.executors[turn % 2].api_url());
        let body = json!({"action_ref": "line.one", "parameters": {"tag": "once"}});
        let answer = client.post(url).header("Idempotency-Key", "key-1").json(&body).timeout(SOON).send().await?;
        assert!(answer.status().is_success(), "{}", answer.status());
        let body: serde_json::Value = answer.json().await?;
        answers.push(body["data"]["execution_id"].as_i64());
    }
    assert!(answers[0].is_some() && answers.iter().all(|id| *id == answers[0]), "{answers:?}");
    world.settled("line.one", 1, LATER).await?;
    assert_eq!(world.stamps.read()?.len(), 1);
    Ok(())
}

#[tokio::test]
async fn a_submission_for_an_unknown_action_is_refused_over_http() -> anyhow::Result<()> {
    let world = World::with([]).workers(0, 1).start().await?;
    for (body, status, code) in [
        (json!({"action_ref": "no.such"}), 404, "unknown_action"),
        (json!({"action_ref": "not a name"}), 400, ""),
        (json!({"parameters": {}}), 400, ""),
    ] {
        let (found, refusal) = world.call("POST", "/api/v1/executions", Some(body.clone())).await?;
        assert!(found == status || (status == 400 && found == 422), "{body}: {found} {refusal}");
        assert!(code.is_empty() || refusal["error"]["code"] == code, "{body}: {refusal}");
        assert!(refusal["error"]["message"].is_string(), "{body}: {refusal}");
    }
    let (status, _) = world.call("GET", "/api/v1/executions/999999", None).await?;
    assert_eq!(status, 404);
    Ok(())
}
