//! Every way an attempt can end is recorded once and frees its slot exactly once.

use serde_json::json;
use slotline_tests::most_at_once;

use crate::actions::Action;
use crate::message::Message;
use crate::world::{LATER, World, list};

#[tokio::test]
async fn every_way_an_attempt_ends_frees_its_slot_exactly_once() -> anyhow::Result<()> {
    let actions = [
        Action::stamp("line.one", "limit = 1\ntimeout = \"2s\""),
        Action::command("line.absent", "limit = 1", &["/does/not/exist"]),
    ];
    let world = World::with(actions).workers(1, 4).start().await?;
    // The tag says how it ends; each is followed by one that can only run in a freed slot.
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
        assert_eq!(execution["attempt"], 1, "{execution}");
        assert!(execution["end_time"].is_string(), "{execution}");
    }
    let overdue = &recorded[4]["error"]["message"];
    let expected = "(line.one) has timed out because it was processing longer than 2 s";
    assert!(overdue.as_str().is_some_and(|message| message.contains(expected)), "{overdue}");
    for id in absent {
        let execution = world.execution(id).await?;
        assert_eq!((&execution["status"], &execution["error"]["code"]), (&json!("failed"), &json!("spawn_failed")));
        assert!(execution["error"]["message"].as_str().is_some_and(|message| message.contains("/does/not/exist")));
    }
    let stamps = world.stamps.read()?;
    let order: Vec<_> = stamps.iter().map(|stamp| stamp.tag.as_str()).collect();
    assert_eq!(order, ["well", "badly", "killed", "crashed", "overdue", "stubborn", "last"]);
    assert_eq!(most_at_once(&stamps), 1);
    let workers = world.get("/api/v1/workers").await?;
    assert_eq!(list(&workers)?[0]["active_count"], 0, "{workers}");
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
        let request =
            |tag: &str, exit: i32| Message::request(action, json!({"tag": format!("{action}/{tag}"), "exit": exit}));
        world.publish(&[request("fails", 1), request("next", 0)]).await?;
        world.settled(action, 2, LATER).await?;
        let recorded = world.executions(action).await?;
        assert_eq!((&recorded[0]["status"], &recorded[0]["attempt"]), (&json!("failed"), &json!(2)), "{recorded:?}");
        assert_eq!(list(&recorded[0]["earlier_attempts"])?.len(), 1, "{recorded:?}");
    }
    let stamps = world.stamps.read()?;
    let order = |action: &str| {
        let mine = stamps.iter().filter_map(|stamp| Some((stamp.tag.strip_prefix(action)?, stamp.attempt)));
        mine.collect::<Vec<_>>()
    };
    assert_eq!(order("keeps.place/"), [("fails", 1), ("fails", 2), ("next", 1)]);
    assert_eq!(order("goes.back/"), [("fails", 1), ("next", 1), ("fails", 2)]);
    Ok(())
}

#[tokio::test]
async fn a_command_gets_its_parameters_and_gives_its_result() -> anyhow::Result<()> {
    // The result file says what came in by the environment and on stdin.
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
