//! Requests that no client should send, and the answer to each. None reaches the executor.

mod wire;

use crate::world::{TestRequest, World};
use axum::http::StatusCode;
use serde_json::json;
use slotline_tests::Fuzz;
use slotline_tests::fuzz::way;

/// A request; the status, the code and the field of its refusal.
type Case = (TestRequest, u16, &'static str, &'static str);

fn submit(body: &str) -> TestRequest {
    TestRequest::post("/api/v1/executions").text("application/json", body)
}

/// Bodies that are no execution.
fn bodies() -> Vec<Case> {
    let deep =
        format!(r#"{{"action_ref": "demo.echo", "parameters": {}1{}}}"#, r#"{"a":"#.repeat(5000), "}".repeat(5000));
    vec![
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
    ]
}

/// Executions that are sent otherwise than they may be.
fn submissions() -> Vec<Case> {
    let large = format!(r#"{{"action_ref": "demo.echo", "parameters": {{"a": "{}"}}}}"#, "x".repeat(1 << 20));
    let long_key = "k".repeat(129);
    vec![
        (submit(r#"{"action_ref": "demo.nothing"}"#), 404, "unknown_action", "action_ref"),
        (submit(&large), 413, "too_large", ""),
        (
            TestRequest::post("/api/v1/executions").text("text/plain", "{}"),
            415,
            "unsupported_media_type",
            "content-type",
        ),
        (
            TestRequest::post("/api/v1/executions").text("application/x-www-form-urlencoded", "a=b"),
            415,
            "unsupported_media_type",
            "content-type",
        ),
        (
            TestRequest::post("/api/v1/executions").bytes("application/json", b"{\"action_ref\": \"demo.echo\xff\"}"),
            400,
            "invalid_request",
            "body",
        ),
        (TestRequest::post("/api/v1/executions"), 415, "unsupported_media_type", "content-type"),
        (
            submit(r#"{"action_ref": "demo.echo"}"#).header("content-encoding", "gzip"),
            415,
            "unsupported_encoding",
            "content-encoding",
        ),
        (
            TestRequest::post("/api/v1/executions").bytes("application/json", b"\x1f\x8b\x08\x00\x00"),
            415,
            "unsupported_encoding",
            "content-encoding",
        ),
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
    ]
}

/// Policies that no action can have.
fn policies() -> Vec<Case> {
    let put = |body: &str| TestRequest::put("/api/v1/actions/a.b").text("application/json", body);
    vec![
        (put(r#"{"limit": 0}"#), 422, "invalid_request", "limit"),
        (put(r#"{"limit": -1}"#), 422, "invalid_request", "limit"),
        (put(r#"{"limit": 4294967296}"#), 422, "invalid_request", "limit"),
        (put(r#"{"limits": 1}"#), 422, "invalid_request", "limits"),
        (put(r#"{"retry": {"max_attempts": "x"}}"#), 422, "invalid_request", "retry.max_attempts"),
        (put(r#"{"retry": {"max_attempts": 0}}"#), 422, "invalid_request", "retry.max_attempts"),
        (put(r#"{"timeout": "soon"}"#), 422, "invalid_request", "timeout"),
        (put(r#"{"schema": 5}"#), 422, "invalid_request", "schema"),
        (put(r#"{"run": {"command": ["rm"]}}"#), 422, "invalid_request", "run"),
        (TestRequest::put("/api/v1/actions/noname").json(&json!({})), 422, "invalid_request", "action_ref"),
        (TestRequest::put("/api/v1/actions/a.b%00").json(&json!({})), 422, "invalid_request", "action_ref"),
    ]
}

/// Queries that no list takes.
fn queries() -> Vec<Case> {
    let list = |query: &str| TestRequest::get(&format!("/api/v1/executions?{query}"));
    vec![
        (list("limit=0"), 400, "invalid_request", "limit"),
        (list("limit=1001"), 400, "invalid_request", "limit"),
        (list("limit=x"), 400, "invalid_request", "limit"),
        (list("limit=1&limit=2"), 400, "invalid_request", "limit"),
        (list("cursor=x"), 400, "invalid_request", "cursor"),
        (list("status=done"), 400, "invalid_request", "status"),
        (list("action=noname"), 400, "invalid_request", "action"),
        (list("key=%00"), 400, "invalid_request", "key"),
        (list("sort=asc"), 400, "invalid_request", "sort"),
    ]
}

/// Paths and methods that are not served.
fn paths() -> Vec<Case> {
    vec![
        (TestRequest::get("/api/v1/actions/%ff"), 400, "invalid_request", ""),
        (TestRequest::get("/api/v1/actions/..%2f..%2fetc"), 404, "unknown_action", "action_ref"),
        (TestRequest::get("/api/v1/actions?cursor=x"), 400, "invalid_request", "cursor"),
        (TestRequest::get("/api/v1/executions/x"), 400, "invalid_request", "execution_id"),
        (TestRequest::get("/api/v1/executions/99999999999999999999"), 400, "invalid_request", "execution_id"),
        (TestRequest::get("/api/v1/executions/-1"), 404, "unknown_execution", ""),
        (
            TestRequest::post("/api/v1/executions/1/cancel").text("application/json", r#"{"why": "x"}"#),
            422,
            "invalid_request",
            "why",
        ),
        (
            TestRequest::post("/api/v1/executions/1/cancel").text("text/plain", "x"),
            415,
            "unsupported_media_type",
            "content-type",
        ),
        (TestRequest::get("/api/v1/requests/%00"), 404, "unknown_request", ""),
        (TestRequest::get("/api/v1/executions/1/nothing"), 404, "no_such_route", ""),
        (TestRequest::get("/nothing"), 404, "no_such_route", ""),
        (TestRequest::delete("/api/v1/executions"), 405, "method_not_allowed", ""),
        (TestRequest::post("/livez"), 405, "method_not_allowed", ""),
        (TestRequest::get("/readyz?details"), 400, "invalid_request", "details"),
    ]
}

#[tokio::test]
async fn hostile_requests_are_refused_in_one_shape_with_the_field_named() -> anyhow::Result<()> {
    let world = World::new().await?;
    let cases = [bodies(), submissions(), policies(), queries(), paths()].into_iter().flatten();
    for (request, status, code, field) in cases {
        let name = format!("{request:?}");
        let answer = world.ask(request).await?;
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

#[tokio::test]
async fn only_the_token_opens_anything() -> anyhow::Result<()> {
    let world = World::guarded("s3cret").await?;
    let list = || TestRequest::get("/api/v1/actions");
    let long = format!("Bearer {}", "s3cret".repeat(10_000));
    let wrong = ["", "s3cret", "Bearer", "Bearer ", "Bearer s3cre", "Bearer s3cret2", "Bearer S3CRET", "Basic s3cret"];
    let wrong = wrong.into_iter().chain(["Bearer s3cret s3cret", "Bearer\ts3cret", "Bearer \u{e4}", &long]);
    let tokens = wrong.map(|token| list().header("authorization", token));
    let twice = list().header("authorization", "Bearer x").header("authorization", "Bearer s3cret");
    let elsewhere =
        [list(), list().header("cookie", "token=s3cret"), TestRequest::get("/api/v1/actions?token=s3cret"), twice];
    let hidden = ["/api/v1//actions", "/api/v1/../v1/actions", "/API/V1/actions", "/livez/../api/v1/actions"];
    for request in tokens.chain(elsewhere).chain(hidden.into_iter().map(TestRequest::get)) {
        let name = format!("{request:?}");
        let answer = world.ask(request).await?;
        assert_eq!((answer.status, answer.code()), (StatusCode::UNAUTHORIZED, "unauthorized"), "{name}");
    }
    let answer = world.ask(list().header("authorization", "bearer s3cret")).await?;
    assert_eq!(answer.status, StatusCode::OK);
    Ok(())
}

/// Reads a request: one line with the method and the path, one for each header, and the body after an empty line.
fn parse(input: &[u8]) -> Option<TestRequest> {
    let (head, body) = match input.windows(2).position(|pair| pair == b"\n\n") {
        Some(at) => (&input[..at], &input[at + 2..]),
        None => (input, &[][..]),
    };
    let head = String::from_utf8_lossy(head);
    let mut lines = head.lines();
    let (method, path) = lines.next()?.split_once(' ')?;
    let method = ["GET", "PUT", "PATCH", "POST", "DELETE"].into_iter().find(|known| *known == method)?;
    let uri: axum::http::Uri = path.parse().ok()?;
    let mut request = TestRequest::new(method, &uri.to_string());
    for line in lines {
        let (name, value) = line.split_once(": ")?;
        let name = axum::http::HeaderName::try_from(name).ok()?;
        axum::http::HeaderValue::try_from(value).ok()?;
        request = request.header(name.as_str(), value);
    }
    Some(request.body(body))
}

/// `FUZZ_SECONDS=60 FUZZ_SEED=$RANDOM cargo test -p slotline-api --test hostile strange` for the long run.
#[test]
fn no_request_is_too_strange() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let world = runtime.block_on(World::new())?;
    let answer = |input: &[u8]| {
        let Some(request) = parse(input) else { return Ok("no request".to_owned()) };
        let method = request.method();
        runtime.block_on(async {
            let response = world.response(request).await.map_err(|error| error.to_string())?;
            let (status, is_stream) = (response.status(), response.headers().get("content-type").cloned());
            if is_stream.is_some_and(|kind| kind == "text/event-stream") {
                return Ok("a stream".to_owned());
            }
            let bytes = axum::body::to_bytes(response.into_body(), 1 << 24).await.map_err(|error| error.to_string())?;
            if status == StatusCode::NO_CONTENT && bytes.is_empty() {
                return Ok("nothing more".to_owned());
            }
            let body: serde_json::Value =
                serde_json::from_slice(&bytes).map_err(|error| format!("{status}: {error}: {bytes:?}"))?;
            if status.is_success() {
                return Ok(format!("{method} {status}"));
            }
            let (code, message) = (body["error"]["code"].as_str(), body["error"]["message"].as_str());
            match (code, message) {
                (Some(code), Some(message)) if status.is_client_error() && !message.is_empty() => {
                    let field = body["error"]["field"].as_str().unwrap_or_default();
                    Ok(format!("{method} {status} {code} {}: {}", way(field), way(message)))
                }
                _ => Err(format!("{status} {body}")),
            }
        })
    };
    let id = world.waiting;
    let submit = r#"{"action_ref":"demo.echo","parameters":{"a":1},"concurrency_key":"k","timeout_seconds":5,"progress":{"update_step":5}}"#;
    let policy = r#"{"limit":1,"retry":{"max_attempts":3},"timeout":"60s","schema":{"type":"object"}}"#;
    Fuzz::new(env!("CARGO_MANIFEST_DIR"), "request")
        .seeds([
            format!("POST /api/v1/executions\ncontent-type: application/json\nidempotency-key: k-1\n\n{submit}"),
            format!("PUT /api/v1/actions/demo.echo\ncontent-type: application/json; charset=utf-8\n\n{policy}"),
            format!("POST /api/v1/executions/{id}/cancel\ncontent-type: application/json\n\n{{\"reason\":\"x\"}}"),
            format!("GET /api/v1/executions/{id}/events?after=1&limit=10\naccept: application/json\n"),
            format!("GET /api/v1/executions/{id}/events\naccept: text/event-stream;q=1\nlast-event-id: 1\n"),
            "GET /api/v1/executions?action=demo.echo&status=queued,running&key=k&limit=10&cursor=b1-2a\n".to_owned(),
            "GET /api/v1/actions?limit=1&cursor=demo.echo\n".to_owned(),
            "GET /api/v1/actions/demo.echo/queue-stats\n".to_owned(),
            "GET /api/v1/events?action=demo.echo&status=running\naccept: text/event-stream\n".to_owned(),
            "GET /api/v1/requests/message%2F1\nhost: localhost\norigin: http://127.0.0.1:7070\n".to_owned(),
            "GET /api/v1/dead?limit=3\n".to_owned(),
            "POST /api/v1/dead/d-1/replay\n".to_owned(),
            "DELETE /api/v1/actions/demo.other?reason=why%20not\n".to_owned(),
            format!("PUT /api/v1/actions/new.one\ncontent-type: application/json\nif-none-match: *\n\n{policy}"),
            format!("PATCH /api/v1/actions/demo.echo\ncontent-type: application/merge-patch+json\nif-match: \"0\"\n\n{policy}"),
            format!("POST /api/v1/actions/apply\ncontent-type: application/json\n\n{{\"actions\":[{{\"action_ref\":\"a.b\",\"policy\":{policy}}}],\"dry_run\":true}}"),
            "PUT /api/v1/actions/demo.echo/limit\ncontent-type: application/json\n\n{\"limit\":4,\"for\":\"2h\",\"reason\":\"x\"}".to_owned(),
            "DELETE /api/v1/actions/demo.echo/limit\n".to_owned(),
            "GET /api/v1/audit?action=demo.echo&execution=3&actor=alice&limit=2&cursor=a1-2\n".to_owned(),
            "GET /readyz?verbose\n".to_owned(),
        ])
        .run(answer);
    Ok(())
}
