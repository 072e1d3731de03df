//! Changes by people while work goes on: on any executor, in the audit with actor and reason, and verified by the
//! policy in force.

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};
use slotline_tests::{Launch, Postgres, Rabbit, Sandbox, eventually, most_at_once};

use crate::actions::Action;
use crate::message::{Message, tags};
use crate::world::{LATER, SOON, World, http, list};

/// The user that publishers log in as.
const USER: &str = "slotline-publisher";

/// The answer of one executor: status, ETag, and the whole body.
async fn ask(
    world: &World,
    executor: usize,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<Value>,
) -> anyhow::Result<(u16, String, Value)> {
    let url = format!("{}/api/v1/{path}", world.executors[executor].api_url());
    let mut request = http()?.request(method.parse()?, url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    if let Some(body) = body {
        request = request.json(&body);
    }
    let answer = request.send().await?;
    let etag = answer.headers().get("etag").and_then(|etag| etag.to_str().ok()).unwrap_or_default().to_owned();
    Ok((answer.status().as_u16(), etag, answer.json().await?))
}

async fn changed(world: &World, query: &str) -> anyhow::Result<Vec<String>> {
    let entries = world.get(&format!("/api/v1/audit?limit=1000&{query}")).await?;
    let spelt = |entry: &Value| {
        let text = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
        format!("{} {} {}", text("changed"), text("actor"), text("reason")).trim_end().to_owned()
    };
    Ok(list(&entries)?.iter().map(spelt).collect())
}

#[tokio::test]
async fn every_change_works_on_a_follower_as_on_the_leader_and_is_in_the_audit() -> anyhow::Result<()> {
    let actions = [Action::stamp("line.one", "limit = 1\nkey = \"/tenant\"\ntimeout = \"1h\"\nrun_ahead = 0")];
    let world = World::with(actions).executors(2).start().await?;
    let leader = world.leader().await?.context("one leads")?;
    for (turn, executor) in [leader, 1 - leader].into_iter().enumerate() {
        let call = async |method: &str, path: &str, headers: &[(&str, &str)], body: Option<Value>| {
            ask(&world, executor, method, path, headers, body).await
        };
        let before = changed(&world, "action=line.one").await?.len();
        let (_, etag, seen) = call("GET", "actions/line.one", &[], None).await?;
        // A whole policy with one member would reset all others.
        let limit = || Some(json!({"limit": 5}));
        let (status, _, refused) = call("PUT", "actions/line.one", &[], limit()).await?;
        ensure!(status == 428 && refused["error"]["message"].to_string().contains("PATCH"), "{refused}");
        let (status, _, refused) = call("PUT", "actions/line.one", &[("if-match", "\"stale\"")], limit()).await?;
        ensure!(status == 412 && refused["error"]["details"]["etag"] == etag, "{refused}");
        let (status, _, refused) = call("PUT", "actions/line.one", &[("if-none-match", "*")], limit()).await?;
        ensure!(status == 412, "{refused}");
        let (_, _, still) = call("GET", "actions/line.one", &[], None).await?;
        ensure!(still["data"]["policy"] == seen["data"]["policy"], "{still}");

        let (status, patched, answer) = call("PATCH", "actions/line.one?reason=more", &[], limit()).await?;
        let policy = &answer["data"]["policy"];
        ensure!(
            status == 200 && policy["limit"] == 5 && policy["key"] == "/tenant" && policy["timeout"] == "1h",
            "{answer}"
        );
        let (status, _, refused) = call("PATCH", "actions/line.one", &[], Some(json!({"limits": 1}))).await?;
        ensure!(status == 422 && refused["error"]["field"] == "limits", "{refused}");
        let whole = seen["data"]["policy"].clone();
        let (status, again, answer) = call("PUT", "actions/line.one", &[("if-match", &patched)], Some(whole)).await?;
        ensure!(status == 200 && again == etag, "{status} {again} {etag} {answer}");

        let body = json!({"limit": 2, "for": "1h", "reason": "a backlog"});
        let (status, _, answer) = call("PUT", "actions/line.one/limit", &[], Some(body)).await?;
        ensure!(status == 200 && answer["data"]["limit_override"]["limit"] == 2, "{answer}");
        let stats = world.stats("line.one").await?;
        ensure!(stats["max_concurrent"] == 2 && stats["declared_limit"] == 1, "{stats}");
        let (status, _, answer) = call("DELETE", "actions/line.one/limit?reason=over", &[], None).await?;
        ensure!(status == 200 && answer["data"]["limit_override"].is_null(), "{answer}");
        for (what, paused) in [("pause", true), ("resume", false)] {
            let path = format!("actions/line.one/{what}");
            let (status, _, answer) = call("POST", &path, &[], Some(json!({"reason": "a look"}))).await?;
            ensure!(status == 200 && answer["data"]["paused"] == paused, "{answer}");
        }
        let file = json!({"actions": [
            {"action_ref": format!("new.one{turn}"), "policy": {"limit": 1}},
            {"action_ref": "line.one", "policy": seen["data"]["policy"]},
        ]});
        let (status, _, answer) = call("POST", "actions/apply", &[], Some(file)).await?;
        let outcomes: Vec<&Value> = list(&answer["data"])?.iter().map(|applied| &applied["outcome"]).collect();
        ensure!(status == 200 && outcomes == ["created", "unchanged"], "{answer}");

        let name = format!("hold-{turn}");
        let id = world.submit("line.one", json!({"tag": name, "sleep_ms": 120_000})).await?;
        world.reaches(id, "running").await?;
        let (status, _, answer) =
            call("POST", &format!("executions/{id}/cancel"), &[], Some(json!({"reason": "enough"}))).await?;
        ensure!(status == 200, "{answer}");
        world.reaches(id, "cancelled").await?;
        let expected = [
            "cancel_requested local enough",
            "resumed local a look",
            "paused local a look",
            "override_cleared local over",
            "limit_overridden local a backlog",
            "policy_changed local",
            "policy_changed local more",
        ];
        let told = changed(&world, "action=line.one").await?;
        ensure!(told[..told.len() - before] == expected, "{told:?}");
        ensure!(changed(&world, &format!("execution={id}")).await? == expected[..1]);
        let (_, _, from_here) = call("GET", "audit?limit=1000", &[], None).await?;
        ensure!(from_here["data"] == world.get("/api/v1/audit?limit=1000").await?);
    }
    let log: String = world.executors.iter().map(|executor| executor.log()).collect();
    let told = |what: &str| log.lines().filter(|line| line.contains(what)).count();
    ensure!(
        told("the limit of an action was overridden") == 2 && told("an execution is to be cancelled") == 2,
        "{log}"
    );
    Ok(())
}

#[tokio::test]
async fn a_publisher_that_cancels_is_known_by_its_user_and_only_once() -> anyhow::Result<()> {
    let world = World::with([Action::stamp("line.one", "limit = 1\nrun_ahead = 0")]).start().await?;
    let request = |tag: &str| Message::request("line.one", json!({"tag": tag, "gate": world.gate("all")})).id(tag);
    world.publish(&[request("own").user(USER), request("nobodys")]).await?;
    let cancel =
        |id: &str| Message::payload("execution.cancel_requested", json!({"message_id": id, "reason": "too late"}));
    world.publish(&[cancel("own").user(USER), cancel("own").user(USER), cancel("nobodys")]).await?;
    world.settled("line.one", 2, LATER).await?;
    let mut told = changed(&world, "action=line.one").await?;
    told.retain(|entry| entry.starts_with("cancel_requested"));
    ensure!(
        told == ["cancel_requested publisher too late", "cancel_requested slotline-publisher too late"],
        "{told:?}"
    );
    ensure!(changed(&world, "actor=slotline-publisher").await?.len() == 1);
    Ok(())
}

#[tokio::test]
async fn an_override_holds_over_a_change_of_leaders_and_ends_by_itself_and_all_of_it_is_judged() -> anyhow::Result<()> {
    const EACH: usize = 30;
    let world = World::with([Action::stamp("line.one", "limit = 1\nrun_ahead = 2")]).workers(2, 4);
    let mut world = world.executors(2).start().await?;
    let tags = tags(3 * EACH);
    let request = |tag: &String| Message::request("line.one", json!({"tag": tag, "sleep_ms": 300})).id(tag);
    world.publish(&tags.iter().map(request).collect::<Vec<_>>()).await?;
    world.stamps.ended(3, LATER).await?;

    let stated = world.slotline(&["limit", "line.one", "4", "--for", "20s", "--reason", "a backlog"]).await?;
    ensure!(stated.status.success(), "{stated:?}");
    let running = async |count: u64| {
        eventually(&format!("{count} run"), LATER, async || {
            let stats = world.stats("line.one").await?;
            if stats["active_count"] == count { Ok(Some(())) } else { bail!("{stats}") }
        })
        .await
    };
    running(4).await?;
    let leader = world.leader().await?.context("one leads")?;
    world.executors[leader].kill()?;
    let world = &world;
    eventually("the next leader has it", LATER, async || {
        let Ok(stats) = world.stats("line.one").await else { return Ok(None) };
        ensure!(stats["limit_override"]["reason"] == "a backlog", "{stats}");
        Ok((stats["max_concurrent"] == 4).then_some(()))
    })
    .await?;
    world.ask("POST", "/api/v1/actions/line.one/pause", Some(json!({"reason": "a look"}))).await?;
    world.ask("POST", "/api/v1/actions/line.one/resume", None).await?;
    eventually("it ends by itself", LATER, async || {
        let stats = world.stats("line.one").await?;
        Ok((stats["max_concurrent"] == 1 && stats["limit_override"].is_null()).then_some(()))
    })
    .await?;
    ensure!(changed(world, "actor=executor").await? == ["override_ended executor its time is over"]);
    world.settled("line.one", 3 * EACH, LATER).await?;
    ensure!(most_at_once(&world.stamps.read()?) <= 4);

    let verdict = world.verified_json().await?;
    let of = |check: &str| list(&verdict["checks"])?.iter().find(|it| it["check"] == check).cloned().context("a check");
    let attempts = &verdict["attempts"];
    ensure!(verdict["holds"] == true && verdict["unjudged"] == json!([]), "{verdict}");
    ensure!(of("limits")?["examined"] == *attempts && attempts.as_u64() >= Some(3 * EACH as u64), "{verdict}");
    Ok(())
}

#[tokio::test]
async fn each_of_several_tokens_is_a_name_in_the_audit() -> anyhow::Result<()> {
    const ALICE: &str = "a-token-of-more-than-twenty-characters";
    const BUILD: &str = "another-token-of-more-than-twenty-characters";
    let (rabbit, postgres) = (Rabbit::shared().await?, Postgres::shared().await?);
    let sandbox = Sandbox::new("tokens")?;
    let file = |name: &str, text: &str| -> anyhow::Result<String> {
        let path = sandbox.path().join(name);
        std::fs::write(&path, text)?;
        Ok(path.display().to_string())
    };
    let tokens = file("tokens", &format!("# who may ask\nalice {ALICE}\nbuild {BUILD}\n"))?;
    let (database, amqp) = (postgres.fresh_database("tokens").await?, rabbit.fresh_vhost().await?);
    let executor = Launch::new("executor", &["executor", "--database-url", &database, "--amqp-url", &amqp]);
    let executor = executor.env("SLOTLINE_API_TOKEN_FILE", tokens.as_str()).start_listening(&sandbox)?;
    let ask = async |token_file: &str, arguments: &[&str]| {
        let launch = Launch::new("ask", arguments).env("SLOTLINE_API_TOKEN_FILE", token_file);
        launch.env("SLOTLINE_API_URL", executor.api_url()).output(&sandbox).await
    };
    let (one, named) = (file("one", BUILD)?, file("named", &format!("alice {ALICE}\n"))?);
    let actions = file("actions.toml", "[[action]]\nref = 'demo.echo'\n")?;
    eventually("the action is taken", SOON, async || {
        let applied = ask(&one, &["apply", &actions, "--reason", "a release"]).await?;
        Ok(applied.status.success().then_some(()))
    })
    .await?;
    let paused = ask(&named, &["pause", "demo.echo"]).await?;
    ensure!(paused.status.success(), "{paused:?}");
    let refused = ask(&tokens, &["audit"]).await?;
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(refused.status.code() == Some(2) && words.contains("holds 2") && !words.contains(ALICE), "{refused:?}");
    let audit = ask(&one, &["audit", "--output", "json"]).await?;
    let entries: Value = serde_json::from_slice(&audit.stdout)?;
    let told: Vec<_> = list(&entries)?.iter().map(|it| (it["actor"].as_str(), it["changed"].as_str())).collect();
    ensure!(told == [(Some("alice"), Some("paused")), (Some("build"), Some("action_created"))], "{entries}");
    let log = executor.log();
    ensure!(!log.contains(ALICE) && !log.contains(BUILD), "a token is in the log");
    Ok(())
}
