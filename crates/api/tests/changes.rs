//! Changes to actions over HTTP: preconditions, one member of a policy, a whole file, a temporary limit; and the actor
//! of each.

use crate::world::{TestRequest, World};
use axum::http::StatusCode;
use serde_json::{Value, json};
use slotline_protocol::Policy;

const ECHO: &str = "/api/v1/actions/demo.echo";

#[tokio::test]
async fn a_policy_is_replaced_whole_only_with_its_etag() -> anyhow::Result<()> {
    let world = World::new().await?;
    let seen = world.ask(TestRequest::get(ECHO)).await?;
    let etag = seen.header("etag").expect("GET gives it").to_owned();
    assert_eq!(etag, Policy::default().etag());
    let put = || TestRequest::put(ECHO).json(&json!({"limit": 5}));
    let answer = world.ask(put()).await?;
    assert_eq!((answer.status, answer.code()), (StatusCode::PRECONDITION_REQUIRED, "precondition_required"));
    let words = answer.body["error"]["message"].as_str().unwrap_or_default();
    assert!(words.contains("If-Match") && words.contains("PATCH"), "{words}");
    assert_eq!(answer.body["error"]["field"], "if-match");

    let answer = world.ask(put().header("if-match", "\"0123456789abcdef\"")).await?;
    assert_eq!((answer.status, answer.code()), (StatusCode::PRECONDITION_FAILED, "precondition_failed"));
    assert_eq!(answer.body["error"]["details"], json!({"etag": etag}));
    let words = answer.body["error"]["message"].as_str().unwrap_or_default();
    assert!(words.contains("GET it again"), "{words}");
    let answer = world.ask(put().header("if-none-match", "*")).await?;
    assert_eq!(answer.status, StatusCode::PRECONDITION_FAILED);
    assert_eq!(world.control.calls(), [""; 0], "nothing was changed");

    let answer = world.ask(put().header("if-match", &etag)).await?;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.header("etag"), Some(&*Policy { limit: Some(5), ..Policy::default() }.etag()));
    let new = || TestRequest::put("/api/v1/actions/new.one").json(&json!({}));
    let answer = world.ask(new().header("if-none-match", "*")).await?;
    assert_eq!(answer.status, StatusCode::CREATED);
    assert_eq!(world.ask(new()).await?.status, StatusCode::CREATED);
    let answer = world.ask(new().header("if-match", &etag)).await?;
    assert_eq!(answer.status, StatusCode::PRECONDITION_FAILED);
    Ok(())
}

#[tokio::test]
async fn a_merge_patch_is_passed_on_as_it_is_and_refused_by_its_path() -> anyhow::Result<()> {
    let world = World::new().await?;
    for kind in ["application/merge-patch+json", "application/json"] {
        let answer = world.ask(TestRequest::patch(ECHO).text(kind, r#"{"limit": 5}"#).unmeant()).await?;
        assert_eq!((answer.status, &answer.body["data"]["policy"]["limit"]), (StatusCode::OK, &json!(5)), "{kind}");
        assert_eq!(answer.header("etag"), Some(&*Policy { limit: Some(5), ..Policy::default() }.etag()));
    }
    assert_eq!(world.control.calls(), [r#"patch demo.echo {"limit":5} local"#; 2]);
    for (patch, field) in [
        (r#"{"limits": 5}"#, "limits"),
        (r#"{"limit": 1, "limit": 2}"#, "limit"),
        (r#"{"retry": {"backoff": "soon"}}"#, "retry.backoff"),
        ("[]", "body"),
    ] {
        let answer = world.ask(TestRequest::patch(ECHO).text("application/json", patch)).await?;
        let found = (answer.status, answer.body["error"]["field"].as_str().unwrap_or_default());
        assert_eq!(found, (StatusCode::UNPROCESSABLE_ENTITY, field), "{patch}: {}", answer.body);
    }
    let stale = TestRequest::patch(ECHO).json(&json!({"limit": 5})).header("if-match", "\"x\"");
    assert_eq!(world.ask(stale).await?.status, StatusCode::PRECONDITION_FAILED);
    Ok(())
}

#[tokio::test]
async fn a_file_is_one_call_and_every_fault_of_it_is_named_by_its_place() -> anyhow::Result<()> {
    let world = World::new().await?;
    let apply = |body: &Value| TestRequest::post("/api/v1/actions/apply").json(body);
    let one = |name: &str, policy: Value| json!({"action_ref": name, "policy": policy});
    let good = json!({"actions": [one("a.b", json!({"limit": 2})), one("a.c", json!({}))], "dry_run": true});
    let answer = world.ask(apply(&good)).await?;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    assert_eq!(answer.body["data"][0]["changes"], json!([{"member": "limit", "old": null, "new": 2}]));
    for (actions, field) in [
        (json!([one("a.b", json!({})), one("a.b", json!({}))]), "actions[1].action_ref"),
        (json!([one("a.b", json!({})), one("a.c", json!({"limit": 0}))]), "actions[1].policy.limit"),
        (json!([one("a.b", json!({"limits": 0}))]), "actions[0].policy.limits"),
        (json!([one("ab", json!({}))]), "actions[0].action_ref"),
    ] {
        let answer = world.ask(apply(&json!({"actions": actions}))).await?;
        assert_eq!(answer.body["error"]["field"], field, "{}", answer.body);
    }
    let many: Vec<Value> = (0..10_001).map(|number| one(&format!("a.b{number}"), json!({}))).collect();
    let answer = world.ask(apply(&json!({"actions": many}))).await?;
    assert_eq!(answer.body["error"]["field"], "actions", "{}", answer.body);
    assert_eq!(world.control.calls(), ["apply a.b,a.c true local"]);
    Ok(())
}

#[tokio::test]
async fn a_limit_is_overridden_for_a_time_and_with_a_reason() -> anyhow::Result<()> {
    let world = World::new().await?;
    let path = "/api/v1/actions/demo.echo/limit";
    let body = json!({"limit": 4, "for": "2h", "reason": "a backlog"});
    let answer = world.ask(TestRequest::put(path).json(&body)).await?;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    let shown = &answer.body["data"]["limit_override"];
    assert_eq!((&shown["limit"], &shown["reason"]), (&json!(4), &json!("a backlog")));
    let answer = world.ask(TestRequest::delete(&format!("{path}?reason=all%20done"))).await?;
    assert_eq!(answer.body["data"].get("limit_override"), None);
    assert_eq!(
        world.control.calls(),
        ["override demo.echo Some(4) 7200s local: a backlog", "clear demo.echo local: all done"]
    );
    for (body, field) in [
        (json!({"limit": 0, "for": "2h"}), "limit"),
        (json!({"for": "2h"}), "body"),
        (json!({"limit": 4, "for": 0}), "for"),
        (json!({"limit": 4, "for": "2h", "reason": "x".repeat(1001)}), "reason"),
    ] {
        let answer = world.ask(TestRequest::put(path).json(&body)).await?;
        assert_eq!(answer.body["error"]["field"], field, "{body}: {}", answer.body);
    }
    Ok(())
}

#[tokio::test]
async fn the_actor_of_a_change_is_the_name_of_its_token() -> anyhow::Result<()> {
    let world = World::guarded("alice s3cret-a\nbob s3cret-b").await?;
    let as_one = |request: TestRequest, token: &str| request.header("authorization", &format!("Bearer {token}"));
    let reason = json!({"reason": "why not"});
    for (request, token) in [
        (TestRequest::post("/api/v1/actions/demo.echo/pause").json(&reason), "s3cret-a"),
        (TestRequest::post("/api/v1/executions/3/cancel"), "s3cret-b"),
        (TestRequest::delete("/api/v1/dead/d-1?reason=rubbish"), "s3cret-a"),
        (TestRequest::post("/api/v1/dead/d-1/replay").json(&reason), "s3cret-b"),
        (TestRequest::put("/api/v1/actions/new.one?reason=first").json(&json!({})), "s3cret-a"),
    ] {
        let answer = world.ask(as_one(request, token)).await?;
        assert!(answer.status.is_success(), "{}", answer.body);
    }
    assert_eq!(
        world.control.calls(),
        [
            "pause demo.echo true alice: why not",
            "cancel 3 bob",
            "drop d-1 alice: rubbish",
            "replay d-1 bob: why not",
            "put new.one alice: first",
        ]
    );
    assert_eq!(world.ask(as_one(TestRequest::get(ECHO), "alice")).await?.status, StatusCode::UNAUTHORIZED);
    Ok(())
}

#[tokio::test]
async fn the_audit_is_read_by_pages_and_filtered_by_action_execution_and_actor() -> anyhow::Result<()> {
    let world = World::new().await?;
    let ids = async |query: &str| -> anyhow::Result<Vec<i64>> {
        let answer = world.ask(TestRequest::get(&format!("/api/v1/audit{query}"))).await?;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
        Ok(answer.body["data"].as_array().into_iter().flatten().filter_map(|entry| entry["id"].as_i64()).collect())
    };
    assert_eq!(ids("").await?, [3, 2, 1], "the newest first");
    assert_eq!(ids("?action=demo.echo").await?, [3, 2, 1]);
    assert_eq!(ids("?action=demo.other").await?, [0; 0]);
    assert_eq!(ids("?execution=3").await?, [3]);
    assert_eq!(ids("?actor=alice").await?, [1]);
    assert_eq!(ids("?actor=bob&action=demo.echo").await?, [2]);
    let page = world.ask(TestRequest::get("/api/v1/audit?limit=2")).await?.body;
    let cursor = page["next_cursor"].as_str().expect("there is more").to_owned();
    assert_eq!(ids(&format!("?limit=2&cursor={cursor}")).await?, [1]);
    let first = &world.ask(TestRequest::get("/api/v1/audit?actor=alice")).await?.body["data"][0];
    let expected = json!({
        "id": 1, "at": first["at"], "changed": "paused", "actor": "alice", "via": "http", "reason": "a flood",
        "action_ref": "demo.echo", "changes": [{"member": "paused", "old": false, "new": true}],
    });
    assert_eq!(*first, expected);
    for bad in ["?cursor=x", "?execution=x", "?action=x", "?who=x", "?limit=0"] {
        let answer = world.ask(TestRequest::get(&format!("/api/v1/audit{bad}"))).await?;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{bad}");
    }
    Ok(())
}

#[tokio::test]
async fn every_change_takes_its_reason_in_the_query_and_in_a_body_that_has_room_for_it() -> anyhow::Result<()> {
    let world = World::new().await?;
    let etag = Policy::default().etag();
    let at = |path: &str, reason: &str| format!("/api/v1{path}{reason}");
    let body = |whole: Value, reason: bool| {
        let mut whole = whole;
        if reason {
            whole["reason"] = json!("in the body");
        }
        whole
    };
    type Change = (&'static str, fn(&str) -> TestRequest, Option<Value>);
    let with_room: [Change; 6] = [
        ("/actions/apply", TestRequest::post, Some(json!({"actions": []}))),
        ("/actions/demo.echo/pause", TestRequest::post, Some(json!({}))),
        ("/actions/demo.echo/resume", TestRequest::post, Some(json!({}))),
        ("/actions/demo.echo/limit", TestRequest::put, Some(json!({"limit": 4, "for": "2h"}))),
        ("/executions/5/cancel", TestRequest::post, Some(json!({}))),
        ("/dead/d-1/replay", TestRequest::post, Some(json!({}))),
    ];
    let without: [Change; 5] = [
        ("/actions/demo.echo", TestRequest::put, Some(json!({"limit": 5}))),
        ("/actions/demo.echo", TestRequest::patch, Some(json!({"limit": 6}))),
        ("/actions/demo.echo/limit", TestRequest::delete, None),
        ("/dead/d-1", TestRequest::delete, None),
        ("/actions/demo.echo", TestRequest::delete, None),
    ];
    let changes = with_room.iter().map(|change| (change, true)).chain(without.iter().map(|change| (change, false)));
    for ((path, method, whole), has_room) in changes {
        let ask = async |query: &str, in_body: bool| {
            let mut request = method(&at(path, query));
            if let Some(whole) = whole {
                request = request.json(&body(whole.clone(), in_body));
            }
            if *path == "/actions/demo.echo" && whole == &Some(json!({"limit": 5})) {
                request = request.header("if-match", &etag);
            }
            world.ask(request).await
        };
        let answer = ask("?reason=in%20the%20query", false).await?;
        assert!(answer.status.is_success(), "{path}: {}", answer.body);
        let last = || world.control.calls().last().cloned().unwrap_or_default();
        assert!(last().contains("in the query"), "{path}: {}", last());
        assert_eq!(ask("?because=x", false).await?.body["error"]["field"], "because", "{path}");
        if has_room {
            let answer = ask("", true).await?;
            assert!(answer.status.is_success(), "{path}: {}", answer.body);
            assert!(last().contains("in the body"), "{path}: {}", last());
            let answer = ask("?reason=x", true).await?;
            let found = (answer.status, answer.body["error"]["field"].as_str().unwrap_or_default());
            assert_eq!(found, (StatusCode::UNPROCESSABLE_ENTITY, "reason"), "{path}");
        }
    }
    Ok(())
}
