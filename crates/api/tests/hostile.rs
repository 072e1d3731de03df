//! Requests that nobody should send, and what each is told. None reaches the executor.

mod world;

use axum::http::StatusCode;
use serde_json::json;
use world::{Asked, World};

#[tokio::test]
async fn hostile_requests_are_refused_in_one_shape_with_the_field_named() -> anyhow::Result<()> {
    let world = World::new().await?;
    let submit = |body: &str| Asked::post("/api/v1/executions").text("application/json", body);
    let put = |body: &str| Asked::put("/api/v1/actions/a.b").text("application/json", body);
    let list = |query: &str| Asked::get(&format!("/api/v1/executions?{query}"));
    let deep =
        format!(r#"{{"action_ref": "demo.echo", "parameters": {}1{}}}"#, r#"{"a":"#.repeat(5000), "}".repeat(5000));
    let large = format!(r#"{{"action_ref": "demo.echo", "parameters": {{"a": "{}"}}}}"#, "x".repeat(1 << 20));
    let long_key = "k".repeat(129);
    let cases = [
        (submit(""), 400, "invalid_request", "body"),
        (submit("{"), 400, "invalid_request", "body"),
        (submit("nonsense"), 400, "invalid_request", "body"),
        (submit(r#"{"action_ref": "demo.echo"} x"#), 400, "invalid_request", "body"),
        (submit("\u{0}"), 400, "invalid_request", "body"),
        (submit(&deep), 400, "invalid_request", "body"),
        (submit("[]"), 422, "invalid_request", "body"),
        (submit("{}"), 422, "invalid_request", "body"),
        (submit(r#"{"action_ref": 5}"#), 422, "invalid_request", "action_ref"),
        (submit(r#"{"action_ref": "noname"}"#), 422, "invalid_request", "action_ref"),
        (submit(r#"{"action_ref": "demo.echo", "parameters": [1]}"#), 422, "invalid_request", "parameters"),
        (submit(r#"{"action_ref": "demo.echo", "parameters": "x"}"#), 422, "invalid_request", "parameters"),
        (submit(r#"{"action_ref": "demo.echo", "concurrency_key": 1}"#), 422, "invalid_request", "concurrency_key"),
        (
            submit(r#"{"action_ref": "demo.echo", "concurrency_key": "\u0000"}"#),
            422,
            "invalid_request",
            "concurrency_key",
        ),
        (submit(r#"{"action_ref": "demo.echo", "timeout_seconds": -1}"#), 422, "invalid_request", "timeout_seconds"),
        (submit(r#"{"action_ref": "demo.echo", "timeout_seconds": 1e300}"#), 422, "invalid_request", "timeout_seconds"),
        (
            submit(r#"{"action_ref": "demo.echo", "progress": {"update_step": 0}}"#),
            422,
            "invalid_request",
            "progress.update_step",
        ),
        (submit(r#"{"action_ref": "demo.nothing"}"#), 404, "unknown_action", "action_ref"),
        (submit(&large), 413, "too_large", ""),
        (Asked::post("/api/v1/executions").text("text/plain", "{}"), 415, "unsupported_media_type", "content-type"),
        (
            Asked::post("/api/v1/executions").text("application/x-www-form-urlencoded", "a=b"),
            415,
            "unsupported_media_type",
            "content-type",
        ),
        (
            Asked::post("/api/v1/executions").bytes("application/json", b"{\"action_ref\": \"demo.echo\xff\"}"),
            400,
            "invalid_request",
            "body",
        ),
        (Asked::post("/api/v1/executions"), 415, "unsupported_media_type", "content-type"),
        (
            submit(r#"{"action_ref": "demo.echo"}"#).header("idempotency-key", &long_key),
            400,
            "invalid_request",
            "idempotency-key",
        ),
        (
            submit(r#"{"action_ref": "demo.echo"}"#).header("idempotency-key", ""),
            400,
            "invalid_request",
            "idempotency-key",
        ),
        (
            submit(r#"{"action_ref": "demo.echo"}"#).header("idempotency-key", "a").header("idempotency-key", "b"),
            400,
            "invalid_request",
            "idempotency-key",
        ),
        (put(r#"{"limit": 0}"#), 422, "invalid_request", "limit"),
        (put(r#"{"limit": -1}"#), 422, "invalid_request", "limit"),
        (put(r#"{"limit": 4294967296}"#), 422, "invalid_request", "limit"),
        (put(r#"{"limits": 1}"#), 422, "invalid_request", "limits"),
        (put(r#"{"retry": {"max_attempts": "x"}}"#), 422, "invalid_request", "retry.max_attempts"),
        (put(r#"{"retry": {"max_attempts": 0}}"#), 422, "invalid_request", "retry.max_attempts"),
        (put(r#"{"timeout": "soon"}"#), 422, "invalid_request", "timeout"),
        (put(r#"{"schema": 5}"#), 422, "invalid_request", "schema"),
        (put(r#"{"run": {"command": ["rm"]}}"#), 422, "invalid_request", "run"),
        (Asked::put("/api/v1/actions/noname").json(&json!({})), 422, "invalid_request", "action_ref"),
        (Asked::put("/api/v1/actions/a.b%00").json(&json!({})), 422, "invalid_request", "action_ref"),
        (Asked::get("/api/v1/actions/%ff"), 400, "invalid_request", ""),
        (Asked::get("/api/v1/actions/..%2f..%2fetc"), 404, "unknown_action", "action_ref"),
        (Asked::get("/api/v1/actions?cursor=x"), 400, "invalid_request", "cursor"),
        (list("limit=0"), 400, "invalid_request", "limit"),
        (list("limit=1001"), 400, "invalid_request", "limit"),
        (list("limit=x"), 400, "invalid_request", "limit"),
        (list("limit=1&limit=2"), 400, "invalid_request", "limit"),
        (list("cursor=x"), 400, "invalid_request", "cursor"),
        (list("status=done"), 400, "invalid_request", "status"),
        (list("action=noname"), 400, "invalid_request", "action"),
        (list("key=%00"), 400, "invalid_request", "key"),
        (list("sort=asc"), 400, "invalid_request", "sort"),
        (Asked::get("/api/v1/executions/x"), 400, "invalid_request", "execution_id"),
        (Asked::get("/api/v1/executions/99999999999999999999"), 400, "invalid_request", "execution_id"),
        (Asked::get("/api/v1/executions/-1"), 404, "unknown_execution", ""),
        (
            Asked::post("/api/v1/executions/1/cancel").text("application/json", r#"{"why": "x"}"#),
            422,
            "invalid_request",
            "why",
        ),
        (
            Asked::post("/api/v1/executions/1/cancel").text("text/plain", "x"),
            415,
            "unsupported_media_type",
            "content-type",
        ),
        (Asked::get("/api/v1/requests/%00"), 404, "unknown_request", ""),
        (Asked::get("/api/v1/executions/1/nothing"), 404, "no_such_route", ""),
        (Asked::get("/nothing"), 404, "no_such_route", ""),
        (Asked::delete("/api/v1/executions"), 405, "method_not_allowed", ""),
        (Asked::post("/livez"), 405, "method_not_allowed", ""),
        (Asked::get("/readyz?details"), 400, "invalid_request", "details"),
    ];
    for (asked, status, code, field) in cases {
        let name = format!("{asked:?}");
        let answer = world.ask(asked).await?;
        assert_eq!(answer.status, StatusCode::from_u16(status)?, "{name}: {}", answer.body);
        assert_eq!(answer.code(), code, "{name}: {}", answer.body);
        assert_eq!(answer.body["error"]["field"].as_str().unwrap_or(""), field, "{name}: {}", answer.body);
        assert!(answer.body["error"]["message"].as_str().is_some_and(|text| text.len() > 5), "{name}: {}", answer.body);
        if status == 405 {
            assert!(answer.header("allow").is_some(), "{name}");
        }
    }
    assert_eq!(world.control.calls(), [""; 0]);
    Ok(())
}
