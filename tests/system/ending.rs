//! Every way an attempt can end is recorded once and frees its slot exactly once.

use serde_json::{Value, json};
use slotline_tests::{eventually, most_at_once};

use crate::actions::Action;
use crate::message::Message;
use crate::world::{LATER, SOON, World, list};

#[tokio::test]
async fn every_way_an_attempt_ends_frees_its_slot_exactly_once() -> anyhow::Result<()> {
    let actions = [
        Action::stamp("line.one", "limit = 1\ntimeout = \"2s\""),
        Action::command("line.absent", "limit = 1", &["/does/not/exist"]),
    ];
    let world = World::with(actions).workers(1, 4).start().await?;
    // The tag is the way it ends; each is followed by an execution that can only run in a freed slot.
    let ways = [
        (json!({"tag": "well"}), "completed", None),
        (json!({"tag": "badly", "exit": 3}), "failed", Some("exit_status")),
        (json!({"tag": "killed", "signal": "SIGKILL"}), "failed", Some("signal")),
        (json!({"tag": "crashed", "signal": "SIGABRT"}), "failed", Some("signal")),
        (json!({"tag": "overdue", "sleep_ms": 60_000}), "timeout", Some("timeout")),
        (json!({"tag": "stubborn", "sleep_ms": 60_000, "beat_ms": 50, "ignore_term": 1}), "timeout", Some("timeout")),
        (json!({"tag": "last"}), "completed", None),
    ];
    let messages: Vec<_> = ways.iter().map(|(way, ..)| Message::request("line.one", way.clone())).collect();
    world.publish(&messages).await?;
    let absent = [world.submit("line.absent", json!({})).await?, world.submit("line.absent", json!({})).await?];

    world.settled("line.one", ways.len(), LATER).await?;
    world.settled("line.absent", absent.len(), LATER).await?;
    let recorded = world.executions("line.one").await?;
    assert_eq!(recorded.len(), ways.len());
    for (execution, (parameters, status, code)) in recorded.iter().zip(&ways) {
        assert_eq!(&execution["parameters"], parameters);
        assert_eq!(&execution["status"], status, "{execution}");
        assert_eq!(execution["error"]["code"].as_str(), *code, "{execution}");
        assert!(execution["earlier_attempts"].as_array().is_none_or(Vec::is_empty), "{execution}");
        assert!(execution["start_time"].is_string() && execution["end_time"].is_string(), "{execution}");
    }
    let overdue = &recorded[4]["error"]["message"];
    let expected = "(line.one) has timed out because it was processing longer than 2 s";
    assert!(overdue.as_str().is_some_and(|message| message.contains(expected)), "{overdue}");
    for id in absent {
        let execution = world.execution(id).await?;
        assert_eq!((&execution["status"], &execution["error"]["code"]), (&json!("failed"), &json!("spawn_failed")));
        assert!(execution["error"]["message"].as_str().is_some_and(|message| message.contains("/does/not/exist")));
        assert!(execution["start_time"].is_null() && execution["end_time"].is_string(), "{execution}");
        let record = world.whole_record(id).await?;
        assert!(record.iter().all(|event| event["new_status"] != "running"), "it never ran: {record:?}");
    }
    let stamps = world.stamps.read()?;
    let order: Vec<_> = stamps.iter().map(|stamp| stamp.tag.as_str()).collect();
    assert_eq!(order, ["well", "badly", "killed", "crashed", "overdue", "stubborn", "last"]);
    assert_eq!(most_at_once(&stamps), 1);
    let workers = world.get("/api/v1/workers").await?;
    assert_eq!(list(&workers)?[0]["active_count"], 0, "{workers}");
    Ok(())
}

/// Checks the end of an execution with an info and an error as its last messages.
fn check_last_messages(execution: &Value, status: &str, code: &str, message: &str) {
    let lines =
        "Progress events:\nInfo - Container web is running but not ready\nError - Readiness probe failed: refused";
    assert_eq!((&execution["status"], &execution["error"]["code"]), (&json!(status), &json!(code)), "{execution}");
    assert_eq!(execution["error"]["message"], format!("{message} {lines}"), "{execution}");
    assert!(execution["start_time"].is_string() && execution["end_time"].is_string(), "{execution}");
    let told = execution["error"]["details"]["progress_events"].as_array().expect("the last events");
    assert!(told.len() >= 2 && told.len() <= 10, "{execution}");
    let last = told[told.len() - 2..].iter().map(|event| (event["level"].clone(), event["message"].clone()));
    let expected = [("info", "Container web is running but not ready"), ("error", "Readiness probe failed: refused")];
    assert!(last.eq(expected.map(|(level, message)| (json!(level), json!(message)))), "{execution}");
    assert!(told.iter().all(|event| event["timestamp"].is_string()), "{execution}");
    let newest = json!({"Info": expected[0].1, "Error": expected[1].1});
    assert_eq!(execution["progress_events"], newest, "{execution}");
}

#[tokio::test]
async fn every_sudden_end_shows_how_far_it_had_come() -> anyhow::Result<()> {
    let actions = [
        Action::reports("deploy.app", "timeout = \"2s\""),
        Action::reports("deploy.stalls", "stall_timeout = \"1500ms\""),
        Action::reports("deploy.cancelled", "limit = 1\nqueue_timeout = \"1s\""),
        Action::reports("deploy.lost", "max_lost_attempts = 0"),
    ];
    let mut world = World::with(actions).workers(1, 8).start().await?;
    let last_words = [
        json!({"report": {"message": "Container web is running but not ready"}}),
        json!({"report": {"message": "Readiness probe failed: refused", "level": "error"}}),
        json!({"wait": "never"}),
    ];
    let plain = json!({"steps": last_words});
    // It reports for twice as long as it may be silent.
    let slow = (1..=12).flat_map(|n| [json!({"report": {"progress": [n, 12]}}), json!({"sleep": 0.25})]);
    let slow = json!({"steps": slow.chain(last_words).collect::<Vec<_>>()});
    let overdue = world.submit("deploy.app", plain.clone()).await?;
    let stalls = world.submit("deploy.stalls", slow).await?;
    let cancelled = world.submit("deploy.cancelled", plain.clone()).await?;
    let waits = world.submit("deploy.cancelled", plain.clone()).await?;
    let lost = world.submit("deploy.lost", plain).await?;

    let execution = world.reaches(overdue, "timeout").await?;
    let name = |id: i64, action: &str| format!("Execution {id} ({action})");
    let message = format!("{} has timed out because it was processing longer than 2 s.", name(overdue, "deploy.app"));
    check_last_messages(&execution, "timeout", "timeout", &message);

    let execution = world.reaches(waits, "timeout").await?;
    assert_eq!(execution["error"]["code"], "queue_timeout", "{execution}");
    assert!(execution["start_time"].is_null() && execution["end_time"].is_string(), "{execution}");

    let has_spoken = async |id: i64| {
        eventually("the last words are recorded", SOON, async || {
            Ok(world.execution(id).await?["progress_events"]["Error"].is_string().then_some(()))
        })
        .await
    };
    has_spoken(cancelled).await?;
    has_spoken(lost).await?;
    let reason = json!({"reason": "no longer wanted"});
    world.ask("POST", &format!("/api/v1/executions/{cancelled}/cancel"), Some(reason)).await?;
    let execution = world.reaches(cancelled, "cancelled").await?;
    let message = format!("{} was cancelled: no longer wanted.", name(cancelled, "deploy.cancelled"));
    check_last_messages(&execution, "cancelled", "cancelled", &message);

    let execution = world.reaches(stalls, "timeout").await?;
    let message = format!("{} has timed out because it reported no progress for 1.5 s.", name(stalls, "deploy.stalls"));
    check_last_messages(&execution, "timeout", "stall_timeout", &message);
    let record = world.whole_record(stalls).await?;
    let counted = record.iter().filter_map(|event| event["progress"][0].as_u64()).max();
    assert_eq!(counted, Some(12), "each report kept it alive: {record:?}");

    world.workers[0].kill()?;
    world.workers.clear();
    world.start_worker("worker-0")?;
    let execution = world.reaches(lost, "failed").await?;
    let message = execution["error"]["message"].as_str().and_then(|text| text.split(" Progress events:").next());
    let message = message.unwrap_or_default().to_owned();
    assert!(message.contains("worker-0"), "{execution}");
    check_last_messages(&execution, "failed", "worker_lost", &message);
    assert_eq!(execution["attempt"], 1, "{execution}");
    Ok(())
}

#[tokio::test]
async fn a_failed_attempt_is_tried_again_and_may_keep_its_place_in_the_line() -> anyhow::Result<()> {
    let retry = |keep: bool| {
        format!(
            "limit = 1\nretry = {{ max_attempts = 2, backoff = \"300ms\", backoff_max = \"1s\", keep_place = {keep} }}"
        )
    };
    let actions = [Action::stamp("keeps.place", &retry(true)), Action::stamp("goes.back", &retry(false))];
    let world = World::with(actions).workers(1, 4).start().await?;
    for action in ["keeps.place", "goes.back"] {
        let parameters = |tag: &str, exit: i32| json!({"tag": format!("{action}/{tag}"), "exit": exit});
        world.publish(&[Message::bulk(action, [parameters("fails", 1), parameters("next", 0)])]).await?;
        world.settled(action, 2, LATER).await?;
        let recorded = world.executions(action).await?;
        assert_eq!((&recorded[0]["status"], &recorded[0]["attempt"]), (&json!("failed"), &json!(2)), "{recorded:?}");
        assert_eq!(list(&recorded[0]["earlier_attempts"])?.len(), 1, "{recorded:?}");
    }
    let stamps = world.stamps.read()?;
    let order = |action: &str| stamps.iter().filter_map(|stamp| stamp.tag.strip_prefix(action)).collect::<Vec<_>>();
    assert_eq!(order("keeps.place/"), ["fails", "fails", "next"]);
    assert_eq!(order("goes.back/"), ["fails", "next", "fails"]);
    Ok(())
}

#[tokio::test]
async fn a_command_gets_its_parameters_and_gives_its_result() -> anyhow::Result<()> {
    // The result file has what came by the environment and on stdin.
    let script = r#"import json, os, sys
given = json.load(sys.stdin)
keys = ("SLOTLINE_EXECUTION_ID", "SLOTLINE_ATTEMPT", "SLOTLINE_FENCE", "SLOTLINE_ACTION_REF", "SLOTLINE_PARAM_APP")
json.dump({"stdin": given, "env": {key: os.environ[key] for key in keys}, "big": "SLOTLINE_PARAM_BIG" in os.environ},
    open(os.environ["SLOTLINE_RESULT_FILE"], "w"))"#;
    let world = World::with([Action::command("show.all", "", &["/usr/bin/python3", "-c", script])]).start().await?;
    let parameters = json!({"app": "über $HOME \"quoted\"", "big": "x".repeat(9000), "nested": {"a": [1, null]}});
    let id = world.submit("show.all", parameters.clone()).await?;
    let execution = world.reaches(id, "completed").await?;
    let result = &execution["result"];
    assert_eq!(result["stdin"], parameters);
    assert_eq!(result["env"]["SLOTLINE_PARAM_APP"], parameters["app"]);
    assert_eq!(result["env"]["SLOTLINE_EXECUTION_ID"], id.to_string());
    assert_eq!(result["env"]["SLOTLINE_ACTION_REF"], "show.all");
    assert_eq!(result["env"]["SLOTLINE_ATTEMPT"], "1");
    assert_eq!(result["env"]["SLOTLINE_FENCE"], execution["fence"].to_string());
    assert_eq!(result["big"], false, "what is over 8 KiB comes on stdin only");
    Ok(())
}
