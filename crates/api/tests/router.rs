//! The API over a real journal (SQLite) and an executor that only records its calls.

use crate::world::{TestRequest, World};
use axum::http::StatusCode;
use serde_json::{Value, json};
use slotline_api::{ControlError, RefusalKind};
use slotline_protocol::Timestamp;
use slotline_store::{DeadBounds, StoredLetter};

#[tokio::test]
async fn a_submission_is_answered_with_201_once_accepted_and_202_without_a_leader() -> anyhow::Result<()> {
    let world = World::new().await?;
    let body = json!({"action_ref": "demo.echo", "parameters": {"a": 1}});
    let request = || TestRequest::post("/api/v1/executions").json(&body).header("idempotency-key", "key-1");
    let answer = world.ask(request()).await?;
    assert_eq!(answer.status, StatusCode::CREATED);
    assert_eq!(answer.header("location"), Some("/api/v1/executions/7"));
    assert_eq!(
        answer.body,
        json!({"data": {"message_id": "key-1", "execution_id": 7, "status": "queued", "position": 1}})
    );

    world.control.lose_the_leader();
    let answer = world.ask(request()).await?;
    assert_eq!(answer.status, StatusCode::ACCEPTED);
    assert_eq!(answer.body, json!({"data": {"message_id": "key-1", "status": "requested"}}));
    assert_eq!(world.control.calls(), ["submit demo.echo key-1 {\"a\":1}", "submit demo.echo key-1 {\"a\":1}"]);
    Ok(())
}

#[tokio::test]
async fn an_idempotency_key_is_the_same_with_quotes_and_without() -> anyhow::Result<()> {
    let world = World::new().await?;
    for key in ["key-1", "\"key-1\""] {
        let request = TestRequest::post("/api/v1/executions").json(&json!({"action_ref": "demo.echo"}));
        assert_eq!(world.ask(request.header("idempotency-key", key)).await?.body["data"]["message_id"], "key-1");
    }
    Ok(())
}

#[tokio::test]
async fn a_member_that_is_misspelt_is_refused_by_name_and_one_of_the_clients_own_is_not() -> anyhow::Result<()> {
    let world = World::new().await?;
    let submit = |body| TestRequest::post("/api/v1/executions").json(&body);
    let answer = world.ask(submit(json!({"action_ref": "demo.echo", "params": {"app": "web"}}))).await?;
    assert_eq!((answer.status, answer.code()), (StatusCode::UNPROCESSABLE_ENTITY, "invalid_request"));
    assert_eq!(answer.body["error"]["field"], "params");
    let message = answer.body["error"]["message"].as_str().unwrap_or_default();
    assert!(message.starts_with("unknown member `params`: did you mean `parameters`?"), "{message}");
    let answer = world.ask(submit(json!(["demo.echo", {}, null, null, {}, "accepted"]))).await?;
    assert_eq!((answer.status, answer.code()), (StatusCode::UNPROCESSABLE_ENTITY, "invalid_request"));
    assert!(world.control.calls().is_empty());
    let answer = world.ask(submit(json!({"action_ref": "demo.echo", "x-team": "web"}))).await?;
    assert_eq!(answer.status, StatusCode::CREATED);
    Ok(())
}

#[tokio::test]
async fn an_execution_shows_why_it_waits_and_is_still_shown_without_a_leader() -> anyhow::Result<()> {
    let world = World::new().await?;
    let path = format!("/api/v1/executions/{}", world.waiting);
    let answer = world.ask(TestRequest::get(&path)).await?;
    assert_eq!(answer.status, StatusCode::OK);
    let data = &answer.body["data"];
    assert_eq!(data["status"], "queued");
    assert_eq!(data["position"], 3);
    assert_eq!(data["waiting"]["reason"], "limit");
    assert_eq!(data["waiting"]["held_by"], json!([1]));
    assert_eq!(data["parameters"], json!({"n": 1}));

    world.control.lose_the_leader();
    let answer = world.ask(TestRequest::get(&path)).await?;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.body["data"]["status"], "queued");
    assert!(answer.body["data"].get("position").is_none());
    assert!(answer.body["data"].get("waiting").is_none());
    let answer =
        world.ask(TestRequest::get("/api/v1/executions?status=queued,running&action=demo.echo&limit=10")).await?;
    assert_eq!(answer.body["data"].as_array().map(Vec::len), Some(1));
    Ok(())
}

#[tokio::test]
async fn a_request_is_found_by_its_message_id_once_the_journal_has_it() -> anyhow::Result<()> {
    let world = World::new().await?;
    let answer = world.ask(TestRequest::get("/api/v1/requests/message%2F1")).await?;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.body["data"]["execution_id"], json!(world.waiting));
    let answer = world.ask(TestRequest::get("/api/v1/requests/other")).await?;
    assert_eq!((answer.status, answer.code()), (StatusCode::NOT_FOUND, "unknown_request"));
    Ok(())
}

#[tokio::test]
async fn an_action_is_made_changed_paused_and_deleted() -> anyhow::Result<()> {
    let world = World::new().await?;
    let policy = json!({"limit": 2, "retry": {"max_attempts": 3}});
    let answer = world.ask(TestRequest::put("/api/v1/actions/deploy.app").json(&policy)).await?;
    assert_eq!(answer.status, StatusCode::CREATED);
    assert_eq!(answer.body["data"]["policy"]["retry"]["max_attempts"], 3);
    let replace = TestRequest::put("/api/v1/actions/demo.echo").header("if-match", "*").json(&policy);
    let answer = world.ask(replace).await?;
    assert_eq!(answer.status, StatusCode::OK);
    let answer = world.ask(TestRequest::post("/api/v1/actions/demo.echo/pause")).await?;
    assert_eq!(answer.body["data"]["paused"], true);
    let answer = world.ask(TestRequest::post("/api/v1/actions/demo.echo/resume")).await?;
    assert_eq!(answer.body["data"]["paused"], false);
    let answer = world.ask(TestRequest::delete("/api/v1/actions/demo.echo")).await?;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(
        world.control.calls(),
        [
            "put deploy.app local",
            "put demo.echo local",
            "pause demo.echo true local",
            "pause demo.echo false local",
            "delete demo.echo local",
        ]
    );
    let answer = world.ask(TestRequest::get("/api/v1/actions?limit=1")).await?;
    assert_eq!(answer.body["data"][0]["action_ref"], "demo.echo");
    assert_eq!(answer.body["next_cursor"], "demo.echo");
    let answer = world.ask(TestRequest::get("/api/v1/actions?limit=1&cursor=demo.echo")).await?;
    assert_eq!(answer.body["data"][0]["action_ref"], "demo.other");
    assert_eq!(answer.body["next_cursor"], json!(null));
    Ok(())
}

#[tokio::test]
async fn queue_stats_are_zeros_for_an_unused_action_and_404_only_for_an_unknown_one() -> anyhow::Result<()> {
    let world = World::new().await?;
    let answer = world.ask(TestRequest::get("/api/v1/actions/demo.echo/queue-stats")).await?;
    assert_eq!(answer.status, StatusCode::OK);
    let data = answer.body["data"].as_object().expect("an object");
    for (key, value) in [
        ("action_ref", json!("demo.echo")),
        ("queue_length", json!(0)),
        ("active_count", json!(0)),
        ("max_concurrent", json!(null)),
        ("oldest_enqueued_at", json!(null)),
        ("total_enqueued", json!(0)),
        ("total_completed", json!(0)),
        ("paused", json!(false)),
        ("wait_seconds", json!(null)),
        ("run_seconds", json!(null)),
    ] {
        assert_eq!(data.get(key), Some(&value), "{key}");
    }
    assert!(data.contains_key("action_id") && data.contains_key("last_updated"));
    for unknown in ["demo.nothing", "noname"] {
        let answer = world.ask(TestRequest::get(&format!("/api/v1/actions/{unknown}/queue-stats"))).await?;
        assert_eq!((answer.status, answer.code()), (StatusCode::NOT_FOUND, "unknown_action"), "{unknown}");
    }
    let answer = world.ask(TestRequest::get("/api/v1/queues")).await?;
    assert_eq!(answer.body["data"].as_array().map(Vec::len), Some(2));
    Ok(())
}

#[tokio::test]
async fn an_action_shows_what_every_worker_that_serves_it_can_do() -> anyhow::Result<()> {
    let world = World::new().await?;
    let capabilities = async |world: &World| -> anyhow::Result<Value> {
        let answer = world.ask(TestRequest::get("/api/v1/actions/demo.echo")).await?;
        assert_eq!((answer.status, &answer.body["data"]["action_ref"]), (StatusCode::OK, &json!("demo.echo")));
        Ok(answer.body["data"]["capabilities"].clone())
    };
    assert_eq!(capabilities(&world).await?, json!([]));
    let worker = |name: &str, capabilities: &[&str]| {
        let other = json!({"ref": "demo.other", "capabilities": ["cancel"]});
        let served = json!({"ref": "demo.echo", "capabilities": capabilities});
        serde_json::from_value(json!({
            "worker": name, "incarnation": "11111111-1111-1111-1111-111111111111", "capacity": 1, "active_count": 0,
            "holding": [], "draining": false, "actions": [other, served], "labels": {},
            "last_heartbeat_at": "2025-11-21T08:30:00Z",
        }))
    };
    let one = worker("one", &["report-progress", "logs", "cancel"])?;
    world.control.employ(vec![one]);
    assert_eq!(capabilities(&world).await?, json!(["cancel", "logs", "report-progress"]));
    let both =
        vec![worker("one", &["report-progress", "logs", "cancel"])?, worker("two", &["logs", "report-progress"])?];
    world.control.employ(both);
    assert_eq!(capabilities(&world).await?, json!(["logs", "report-progress"]));
    let workers = world.ask(TestRequest::get("/api/v1/workers")).await?.body;
    assert_eq!(workers["data"][1]["actions"][1]["capabilities"], json!(["logs", "report-progress"]));
    // The answer waits for the leader only a short time.
    world.control.stall();
    let begun = std::time::Instant::now();
    assert_eq!(capabilities(&world).await?, json!([]));
    assert!(begun.elapsed().as_secs() < 10, "{:?}", begun.elapsed());
    Ok(())
}

#[tokio::test]
async fn cancelling_needs_no_body_and_answers_with_the_status_there_is() -> anyhow::Result<()> {
    let world = World::new().await?;
    let answer = world.ask(TestRequest::post("/api/v1/executions/5/cancel")).await?;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.body, json!({"data": {"execution_id": 5, "status": "cancelled"}}));
    let reason = json!({"reason": "no longer needed"});
    world.ask(TestRequest::post("/api/v1/executions/5/cancel").json(&reason)).await?;
    assert_eq!(world.control.calls(), ["cancel 5 local", "cancel 5 local: no longer needed"]);
    Ok(())
}

#[tokio::test]
async fn without_a_token_no_form_of_a_page_changes_anything() -> anyhow::Result<()> {
    let world = World::new().await?;
    let form = "application/x-www-form-urlencoded";
    for request in [
        TestRequest::post("/api/v1/actions/demo.echo/pause"),
        TestRequest::post("/api/v1/actions/demo.echo/pause")
            .header("content-type", form)
            .header("origin", "http://localhost:3000"),
        TestRequest::post("/api/v1/actions/demo.echo/pause").header("content-type", "text/plain"),
        TestRequest::post("/api/v1/executions/5/cancel").header("content-type", form),
        TestRequest::post("/api/v1/dead/d-1/replay"),
        TestRequest::delete("/api/v1/dead/d-1"),
    ] {
        let name = format!("{request:?}");
        let answer = world.ask(request.unmeant()).await?;
        assert_eq!((answer.status, answer.code()), (StatusCode::FORBIDDEN, "intent_needed"), "{name}");
    }
    assert_eq!(world.control.calls(), [] as [&str; 0]);
    let json = TestRequest::post("/api/v1/executions/5/cancel").json(&json!({})).unmeant();
    assert_eq!(world.ask(json).await?.status, StatusCode::OK);
    assert_eq!(world.ask(TestRequest::post("/api/v1/executions/5/cancel")).await?.status, StatusCode::OK);
    assert_eq!(world.ask(TestRequest::get("/api/v1/actions").unmeant()).await?.status, StatusCode::OK);
    Ok(())
}

#[tokio::test]
async fn dead_letters_and_workers_are_passed_through() -> anyhow::Result<()> {
    let world = World::new().await?;
    let letter = |id: &str| StoredLetter {
        id: id.to_owned(),
        dead_at: Timestamp::from_micros(5),
        reason: "malformed".to_owned(),
        detail: "no JSON".to_owned(),
        message_id: None,
        routing_key: "execution.requested".to_owned(),
        properties: "{}".to_owned(),
        body: b"rubb\xffish".as_slice().into(),
    };
    let bounds = DeadBounds { letters: 10, bytes: 1000 };
    world.store.put_dead(&[letter("d-1"), letter("d-2")], bounds).await?;
    let answer = world.ask(TestRequest::get("/api/v1/dead?limit=1")).await?;
    assert_eq!((&answer.body["data"][0]["id"], &answer.body["data"][0]["body"]), (&json!("d-1"), &Value::Null));
    let cursor = answer.body["next_cursor"].as_str().expect("there is more").to_owned();
    let answer = world.ask(TestRequest::get(&format!("/api/v1/dead?limit=1&cursor={cursor}"))).await?;
    assert_eq!((&answer.body["data"][0]["id"], &answer.body["next_cursor"]), (&json!("d-2"), &Value::Null));
    assert_eq!(world.ask(TestRequest::get("/api/v1/dead?cursor=x")).await?.status, StatusCode::BAD_REQUEST);
    assert_eq!(world.ask(TestRequest::get("/api/v1/dead/d-1")).await?.body["data"]["body"], "rubb\u{fffd}ish");
    assert_eq!(world.ask(TestRequest::get("/api/v1/dead/d-3")).await?.status, StatusCode::NOT_FOUND);
    assert_eq!(world.ask(TestRequest::post("/api/v1/dead/d-1/replay")).await?.status, StatusCode::OK);
    assert_eq!(world.ask(TestRequest::delete("/api/v1/dead/d-1")).await?.status, StatusCode::OK);
    let answer = world.ask(TestRequest::delete("/api/v1/dead/other")).await?;
    assert_eq!((answer.status, answer.code()), (StatusCode::NOT_FOUND, "unknown_dead_letter"));
    assert_eq!(world.ask(TestRequest::get("/api/v1/workers")).await?.body["data"], json!([]));
    assert_eq!(world.control.calls(), ["replay d-1 local", "drop d-1 local", "drop other local"]);
    Ok(())
}

#[tokio::test]
async fn every_kind_of_refusal_has_its_status_and_the_time_to_come_back() -> anyhow::Result<()> {
    let world = World::new().await?;
    for (kind, status, retry_after) in [
        (RefusalKind::Invalid, StatusCode::UNPROCESSABLE_ENTITY, None),
        (RefusalKind::NotFound, StatusCode::NOT_FOUND, None),
        (RefusalKind::Conflict, StatusCode::CONFLICT, None),
        (RefusalKind::PreconditionRequired, StatusCode::PRECONDITION_REQUIRED, None),
        (RefusalKind::PreconditionFailed, StatusCode::PRECONDITION_FAILED, None),
        (RefusalKind::TooLarge, StatusCode::PAYLOAD_TOO_LARGE, None),
        (RefusalKind::Full, StatusCode::TOO_MANY_REQUESTS, Some("5")),
        (RefusalKind::Unavailable, StatusCode::SERVICE_UNAVAILABLE, Some("2")),
    ] {
        world.control.refuse(ControlError::new(kind, "the_code", "the message").at("the_field"));
        let body = json!({"action_ref": "demo.echo"});
        let answer = world.ask(TestRequest::post("/api/v1/executions").json(&body)).await?;
        assert_eq!(answer.status, status);
        assert_eq!(answer.header("retry-after"), retry_after);
        let expected = json!({"error": {"code": "the_code", "message": "the message", "field": "the_field"}});
        assert_eq!(answer.body, expected);
    }
    Ok(())
}

#[tokio::test]
async fn health_is_open_its_details_are_not() -> anyhow::Result<()> {
    let world = World::guarded("s3cret").await?;
    assert_eq!(world.ask(TestRequest::get("/livez")).await?.status, StatusCode::OK);
    let answer = world.ask(TestRequest::get("/readyz")).await?;
    assert_eq!(answer.body, json!({"data": {"ready": true, "role": "leader"}}));
    assert_eq!(world.ask(TestRequest::get("/readyz?verbose")).await?.status, StatusCode::UNAUTHORIZED);
    let answer = world.ask(TestRequest::get("/readyz?verbose").header("authorization", "Bearer s3cret")).await?;
    assert_eq!(answer.body["data"]["database"]["ok"], true);

    world.control.lose_the_broker();
    assert_eq!(world.ask(TestRequest::get("/livez")).await?.status, StatusCode::OK);
    let answer = world.ask(TestRequest::get("/readyz")).await?;
    assert_eq!((answer.status, answer.code()), (StatusCode::SERVICE_UNAVAILABLE, "not_ready"));
    assert!(!answer.body.to_string().contains("amqp.internal"), "{}", answer.body);
    let answer = world.ask(TestRequest::get("/readyz?verbose").header("authorization", "Bearer s3cret")).await?;
    assert!(answer.body.to_string().contains("amqp.internal"), "{}", answer.body);
    Ok(())
}

#[tokio::test]
async fn with_a_token_nothing_else_is_open() -> anyhow::Result<()> {
    let world = World::guarded("s3cret").await?;
    let routes = [
        TestRequest::get("/api/v1/actions"),
        TestRequest::get("/api/v1/actions/demo.echo"),
        TestRequest::get("/api/v1/actions/demo.echo/queue-stats"),
        TestRequest::put("/api/v1/actions/demo.echo").json(&json!({})),
        TestRequest::patch("/api/v1/actions/demo.echo").json(&json!({})),
        TestRequest::delete("/api/v1/actions/demo.echo"),
        TestRequest::post("/api/v1/actions/apply").json(&json!({"actions": []})),
        TestRequest::put("/api/v1/actions/demo.echo/limit").json(&json!({"limit": 1, "for": "1h"})),
        TestRequest::delete("/api/v1/actions/demo.echo/limit"),
        TestRequest::get("/api/v1/audit"),
        TestRequest::post("/api/v1/actions/demo.echo/pause"),
        TestRequest::post("/api/v1/actions/demo.echo/resume"),
        TestRequest::get("/api/v1/queues"),
        TestRequest::get("/api/v1/executions"),
        TestRequest::post("/api/v1/executions").json(&json!({"action_ref": "demo.echo"})),
        TestRequest::get("/api/v1/executions/1"),
        TestRequest::get("/api/v1/executions/1/events"),
        TestRequest::get("/api/v1/events").header("accept", "text/event-stream"),
        TestRequest::post("/api/v1/executions/1/cancel"),
        TestRequest::get("/api/v1/requests/x"),
        TestRequest::get("/api/v1/workers"),
        TestRequest::get("/api/v1/dead"),
        TestRequest::get("/api/v1/dead/x"),
        TestRequest::delete("/api/v1/dead/x"),
        TestRequest::post("/api/v1/dead/x/replay"),
        TestRequest::get("/api/v1/no-such-route"),
        TestRequest::get("/"),
        TestRequest::get("//livez"),
        TestRequest::get("/livez/"),
    ];
    for route in routes {
        for wrong in [None, Some("Bearer wrong"), Some("Bearer s3cre"), Some("Basic s3cret"), Some("s3cret"), Some("")]
        {
            let request = match wrong {
                Some(wrong) => route.clone().header("authorization", wrong),
                None => route.clone(),
            };
            let answer = world.ask(request).await?;
            assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{route:?} {wrong:?}");
            assert_eq!(answer.header("www-authenticate"), Some("Bearer realm=\"slotline\""));
            assert_eq!(answer.code(), "unauthorized");
        }
    }
    assert_eq!(world.control.calls(), [""; 0]);
    let answer = world.ask(TestRequest::get("/api/v1/actions").header("authorization", "bearer s3cret")).await?;
    assert_eq!(answer.status, StatusCode::OK);
    Ok(())
}

#[tokio::test]
async fn without_a_token_no_web_page_of_another_site_is_answered() -> anyhow::Result<()> {
    let world = World::new().await?;
    let request = || TestRequest::post("/api/v1/executions/1/cancel");
    for (name, value) in [
        ("host", "evil.example"),
        ("host", "127.0.0.1.evil.example:7070"),
        ("origin", "https://evil.example"),
        ("origin", "null"),
    ] {
        let answer = world.ask(request().header(name, value)).await?;
        assert_eq!((answer.status, answer.code()), (StatusCode::FORBIDDEN, "foreign_origin"), "{name}: {value}");
    }
    assert_eq!(world.control.calls(), [""; 0]);
    for (name, value) in [("host", "localhost:7070"), ("host", "[::1]:7070"), ("origin", "http://127.0.0.1:7070")] {
        assert_eq!(world.ask(request().header(name, value)).await?.status, StatusCode::OK, "{name}: {value}");
    }
    Ok(())
}

/// As in `limits`.
const REQUESTS_MAX: usize = 256;

#[tokio::test]
async fn beyond_so_many_requests_at_once_the_next_is_refused_and_health_still_answers() -> anyhow::Result<()> {
    let world = World::new().await?;
    world.control.stall();
    let request = TestRequest::get("/api/v1/workers");
    world.ask_and_leave(&request, REQUESTS_MAX);
    let begun = std::time::Instant::now();
    while world.control.calls().len() < REQUESTS_MAX {
        anyhow::ensure!(begun.elapsed().as_secs() < 30, "{} of {REQUESTS_MAX} came in", world.control.calls().len());
        tokio::task::yield_now().await;
    }
    let answer = world.ask(request).await?;
    assert_eq!((answer.status, answer.code()), (StatusCode::SERVICE_UNAVAILABLE, "busy"));
    assert_eq!(answer.header("retry-after"), Some("2"));
    assert_eq!(world.ask(TestRequest::get("/livez")).await?.status, StatusCode::OK);
    assert_eq!(world.ask(TestRequest::get("/readyz")).await?.status, StatusCode::OK);
    Ok(())
}

#[tokio::test]
async fn a_request_without_an_answer_of_the_leader_ends_with_503() -> anyhow::Result<()> {
    let world = World::new().await?;
    world.control.stall();
    tokio::time::pause();
    let answer = world.ask(TestRequest::get("/api/v1/workers")).await?;
    assert_eq!((answer.status, answer.code()), (StatusCode::SERVICE_UNAVAILABLE, "overdue"));
    Ok(())
}
