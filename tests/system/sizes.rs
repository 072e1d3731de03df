//! A broker that takes smaller messages than Slotline's become.

use serde_json::{Value, json};

use crate::actions::Action;
use crate::message::Message;
use crate::world::{LATER, World};

/// What the broker takes, and what that leaves for a request: half of it.
const MESSAGE: usize = 1 << 20;
const REQUEST: usize = MESSAGE / 2;
/// What is around parameters in the envelope of a request, at most.
const AROUND: usize = 1 << 10;

#[tokio::test]
async fn a_broker_that_takes_a_mebibyte_carries_what_fits_and_the_rest_is_refused_by_the_name_of_its_setting()
-> anyhow::Result<()> {
    let length = Action::command("demo.length", "", &["/usr/bin/wc", "-c"]);
    let print = r#"printf '"'; head -c "$(tr -dc 0-9)" /dev/zero | tr '\0' x; printf '"'"#;
    let print = Action::command("demo.print", "", &["/bin/sh", "-c", print]);
    let world = World::with([length, print]).messages_up_to(MESSAGE).start().await?;
    let filled = |bytes: usize| json!({"text": "x".repeat(bytes)});

    // Four together are more than one message holds, and are dispatched at once.
    world.ask("POST", "/api/v1/actions/demo.length/pause", None).await?;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(world.submit("demo.length", filled(REQUEST - AROUND)).await?);
    }
    world.publish(&[Message::request("demo.length", filled(REQUEST - AROUND))]).await?;
    world.ask("POST", "/api/v1/actions/demo.length/resume", None).await?;
    world.settled("demo.length", 4, LATER).await?;
    for execution in world.executions("demo.length").await? {
        assert_eq!(execution["status"], "completed", "{execution}");
        assert!(execution["result"].as_u64().is_some_and(|bytes| bytes >= (REQUEST - AROUND) as u64), "{execution}");
    }

    let body = json!({"action_ref": "demo.length", "parameters": filled(REQUEST)});
    let (status, answer) = world.call("POST", "/api/v1/executions", Some(body)).await?;
    assert_eq!((status, &answer["error"]["code"]), (413, &json!("oversized")), "{answer}");
    let names_the_setting = |words: &Value| words.as_str().is_some_and(|words| words.contains("max_message_size"));
    assert!(names_the_setting(&answer["error"]["message"]), "{answer}");

    let replies = world.publish_for_replies(&[Message::request("demo.length", filled(REQUEST))], 1).await?;
    assert_eq!(replies[0]["payload"]["error"]["code"], "oversized");
    assert!(names_the_setting(&replies[0]["payload"]["error"]["message"]), "{}", replies[0]["payload"]["error"]);

    let fits = world.submit("demo.print", json!({"bytes": MESSAGE - (17 << 10)})).await?;
    let too_large = world.submit("demo.print", json!({"bytes": MESSAGE})).await?;
    let fits = world.reaches(fits, "completed").await?;
    assert_eq!(fits["result"].as_str().map(str::len), Some(MESSAGE - (17 << 10)));
    let too_large = world.reaches(too_large, "failed").await?;
    assert_eq!(too_large["error"]["code"], "result_too_large", "{too_large}");

    // No message was larger than the broker takes, except for the probe of that size.
    let log = world.rabbit.log();
    let refused = log.lines().filter(|line| line.contains("larger than configured max size"));
    let probe = format!("message size {} ", 4 << 20);
    assert!(refused.clone().count() > 0 && refused.clone().all(|line| line.contains(&probe)), "{log}");
    Ok(())
}
