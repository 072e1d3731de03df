//! Progress that runs report, and how the record keeps it.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use serde_json::{Value, json};
use slotline_tests::{eventually, slotline_binary};

use crate::actions::Action;
use crate::follower::{check_whole, gaps, messages};
use crate::listener::{Ear, Subscriber, patient};
use crate::world::{SOON, World, list};

/// A shell script that reports through the program, and waits for a gate between two reports.
fn script(gate: &Path) -> anyhow::Result<String> {
    let (slotline, gate) = (slotline_binary()?, gate.display().to_string());
    Ok(format!(
        "set -e
        {slotline:?} progress --step 1/2 --phase pull --done 60 --total 1024 --unit Bytes --percent 40 'half way'
        while [ ! -e {gate:?} ]; do sleep 0.02; done
        {slotline:?} progress --step 2/2 --phase start --error 'at the end'"
    ))
}

/// The numbers of pages read one after the other, each as soon as there is something on it.
struct LongPoll<'w> {
    world: &'w World,
    id: i64,
    after: u64,
}

impl LongPoll<'_> {
    /// Waits for the event for which `is` holds.
    async fn until(&mut self, is: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        loop {
            let page = self.world.page(self.id, &format!("after={}&wait=30s", self.after)).await?;
            for event in list(&page["data"])? {
                self.after += 1;
                assert_eq!(event["number"], self.after, "{page}");
                if is(event) {
                    return Ok(event.clone());
                }
            }
            assert_eq!(page["is_over"], false, "{page}");
        }
    }
}

async fn heard(ear: &mut Ear, is: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
    loop {
        let heard = ear.next().await?.context("the stream ended")?;
        if is(&heard.data) {
            return Ok(heard.data);
        }
    }
}

async fn published(subscriber: &mut Subscriber, id: i64, is: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
    subscriber.until(|_, payload| payload["execution_id"] == id && is(payload)).await
}

#[tokio::test]
async fn reports_are_seen_by_stream_by_page_and_on_the_broker_while_the_run_goes_on() -> anyhow::Result<()> {
    let actions = [
        Action::reports("by.lines", ""),
        // Its gate is known only once the world is there.
        Action::command("by.command", "", &["/bin/sh", "-c", "eval \"$SLOTLINE_PARAM_SCRIPT\""]),
    ];
    let world = World::with(actions).start().await?;
    let mut subscriber = world.subscribe().await?;
    let half = json!({"step": [1, 2], "phase": "pull", "progress": [60, 1024], "unit": "Bytes", "percent": 40,
        "message": "half way"});
    let end = json!({"step": [2, 2], "phase": "start", "level": "error", "message": "at the end"});
    let lines = json!({"steps": [{"report": half}, {"wait": "by.lines"}, {"report": end}]});
    let command = json!({"script": script(&world.gate("by.command"))?});
    for (action, parameters) in [("by.lines", lines), ("by.command", command)] {
        let id = world.submit(action, parameters).await?;
        let url = format!("{}/api/v1/executions/{id}/events", world.executors[0].api_url());
        let mut ear = Ear::open(&patient()?, &url, None).await?.context("a stream")?;
        let mut poll = LongPoll { world: &world, id, after: 0 };

        // The run can't go on before all three have received it: its gate is closed.
        let is_half = |event: &Value| event["message"] == "half way";
        let (streamed, paged, told) =
            tokio::try_join!(heard(&mut ear, is_half), poll.until(is_half), published(&mut subscriber, id, is_half))?;
        for event in [&streamed, &paged, &told] {
            for (member, value) in half.as_object().context("an object")? {
                // A percentage is a floating-point number on its way back.
                let is_same =
                    event[member] == *value || event[member].as_f64().is_some_and(|n| Some(n) == value.as_f64());
                assert!(is_same, "{member}: {event}");
            }
            assert_eq!((&event["kind"], &event["level"]), (&json!("progress"), &json!("info")), "{event}");
        }
        let execution = world.execution(id).await?;
        assert_eq!(execution["status"], "running", "{execution}");
        assert!(execution["start_time"].is_string() && execution["end_time"].is_null(), "{execution}");
        let progress = &execution["progress"];
        assert_eq!((&progress["step"], &progress["phase"]), (&json!([1, 2]), &json!("pull")), "{execution}");
        assert_eq!((&progress["progress"], &progress["unit"]), (&json!([60, 1024]), &json!("Bytes")), "{execution}");
        assert_eq!(progress["percent"].as_f64(), Some(40.0), "{execution}");
        assert_eq!(execution["progress_events"], json!({"Info": "half way"}), "{execution}");

        world.open(action)?;
        let is_settled = |event: &Value| event["kind"] == "settled";
        let is_finished = |event: &Value| event["kind"] == "finished";
        let (settled, paged, _) = tokio::try_join!(
            heard(&mut ear, is_settled),
            poll.until(is_settled),
            published(&mut subscriber, id, is_finished)
        )?;
        published(&mut subscriber, id, |payload| payload["new_status"] == "completed").await?;
        assert_eq!(settled, paged);
        assert_eq!(settled["status"], "completed", "{settled}");
        assert_eq!(ear.next().await?, None);
        let record = world.whole_record(id).await?;
        check_whole(&record)?;
        let kinds: Vec<_> = record.iter().filter_map(|event| event["kind"].as_str()).collect();
        assert_eq!(
            kinds,
            ["status", "status", "status", "started", "progress", "progress", "finished", "settled"],
            "{record:?}"
        );
        let execution = world.execution(id).await?;
        assert_eq!(execution["progress_events"], json!({"Info": "half way", "Error": "at the end"}));
        assert_eq!(execution["progress"]["step"], json!([2, 2]));
    }
    Ok(())
}

#[tokio::test]
async fn what_a_run_prints_is_numbered_in_order_and_cut_with_a_mark() -> anyhow::Result<()> {
    const LINES: usize = 50;
    let action = Action::reports("print.much", "").run("output_max = 1000");
    let world = World::with([action, Action::reports("print.some", "")]).start().await?;
    let steps: Vec<_> = (0..LINES)
        .flat_map(|n| {
            // A report between two lines, so that every line has an event of its own, and their order shows.
            let stream = if n % 3 == 0 { "err" } else { "out" };
            [json!({stream: format!("line {n:02}")}), json!({"sleep": 0.01})]
        })
        .collect();
    let id = world.submit("print.some", json!({"steps": steps})).await?;
    let record = world.whole_record(id).await?;
    check_whole(&record)?;
    let printed = |stream: &str| -> Vec<String> {
        let logs = record.iter().filter(|event| event["kind"] == "log" && event["stream"] == stream);
        logs.flat_map(|log| list(&log["lines"]).expect("lines"))
            .filter_map(|line| Some(line.as_str()?.to_owned()))
            .collect()
    };
    let expected = |is_error: bool| -> Vec<String> {
        (0..LINES).filter(|n| n.is_multiple_of(3) == is_error).map(|n| format!("line {n:02}")).collect()
    };
    assert_eq!(printed("stderr"), expected(true));
    assert_eq!(printed("stdout"), expected(false));

    let much: Vec<_> = (0..40).map(|n| json!({"out": format!("{n:02} {}", "x".repeat(96))})).collect();
    let id = world.submit("print.much", json!({"steps": much})).await?;
    let record = world.whole_record(id).await?;
    check_whole(&record)?;
    let logs = record.iter().filter(|event| event["kind"] == "log");
    let lines: Vec<_> = logs.flat_map(|log| list(&log["lines"]).expect("lines")).filter_map(Value::as_str).collect();
    assert_eq!(lines.len(), 11, "{lines:?}");
    assert!(lines[..10].iter().enumerate().all(|(n, line)| line.starts_with(&format!("{n:02} "))), "{lines:?}");
    assert_eq!(lines[10], "[output cut after 1000 bytes]");
    assert_eq!(world.execution(id).await?["status"], "completed");
    Ok(())
}

#[tokio::test]
async fn nonsense_is_noted_in_the_log_and_the_run_goes_on() -> anyhow::Result<()> {
    let world = World::with([Action::reports("talk.nonsense", "")]).start().await?;
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let nonsense = [
        (json!({"report": {"progress": [1, -2], "message": "kept 1"}}), "progress"),
        (json!({"report": {"step": [9, 7], "message": "kept 2"}}), "step 9 is beyond the total of 7"),
        (json!({"huge": 10 << 20}), "a report has more than 65536 bytes"),
        (json!({"huge": 20_000}), "message has 20000 bytes"),
        (json!({"hex": hex(b"{\"message\": \"kept 3 \xff\xfe\"}\n")}), "not UTF-8"),
        (json!({"hex": hex(b"\xff\xfe\n")}), "not UTF-8"),
        (json!({"report": {"percent": 1e300, "message": "kept 4"}}), "percent"),
        (json!({"report": {"level": "loud", "message": "kept 5"}}), "level is \"loud\""),
        (json!({"report": {"colour": "red", "message": "kept 6"}}), "no member colour"),
        (json!({"hex": hex(b"hello\n")}), "no JSON object"),
    ];
    let mut steps: Vec<_> = nonsense.iter().map(|(step, _)| step.clone()).collect();
    steps.push(json!({"report": {"message": "and went on"}}));
    let id = world.submit("talk.nonsense", json!({"steps": steps})).await?;
    let execution = world.reaches(id, "completed").await?;
    assert_eq!(execution["attempt"], 1, "{execution}");
    assert_eq!(execution["result"]["written"], steps.len(), "{execution}");
    let record = world.whole_record(id).await?;
    check_whole(&record)?;
    let notices: Vec<_> = record.iter().filter(|event| event["stream"] == "notice").collect();
    for (step, expected) in &nonsense {
        assert!(
            notices.iter().any(|log| log["lines"].to_string().replace("\\\"", "\"").contains(expected)),
            "{step}: {notices:?}"
        );
    }
    assert!(notices.len() <= 20, "{notices:?}");
    let told = messages(&record);
    for n in 1..=6 {
        assert!(told.iter().any(|message| message.starts_with(&format!("kept {n}"))), "{n}: {told:?}");
    }
    assert!(told.iter().all(|message| message.len() < 9000), "clipped");
    assert_eq!(told.last(), Some(&"and went on"));
    let steps: Vec<_> = record.iter().filter(|event| event["step"].is_array()).map(|event| &event["step"]).collect();
    assert_eq!(steps, [&json!([7, 7])]);
    Ok(())
}

#[tokio::test]
async fn a_flood_of_bad_lines_is_noted_twenty_times_and_no_more() -> anyhow::Result<()> {
    let world = World::with([Action::reports("talk.nonsense", "")]).start().await?;
    let bad = "{\"colour\": 1, \"message\": 3}\n".repeat(500);
    let hex: String = bad.bytes().map(|byte| format!("{byte:02x}")).collect();
    let id = world.submit("talk.nonsense", json!({"steps": [{"hex": hex}]})).await?;
    world.reaches(id, "completed").await?;
    let record = world.whole_record(id).await?;
    check_whole(&record)?;
    let notices: Vec<_> = record.iter().filter(|event| event["stream"] == "notice").collect();
    assert_eq!(notices.len(), 20, "{notices:?}");
    assert!(notices[19]["lines"].to_string().contains("left out"), "{}", notices[19]);
    Ok(())
}

#[tokio::test]
async fn numbers_go_on_without_a_gap_across_attempts() -> anyhow::Result<()> {
    let policy = "retry = { max_attempts = 3, backoff = \"100ms\", backoff_max = \"200ms\" }";
    let world = World::with([Action::reports("try.again", policy)]).start().await?;
    let mut subscriber = world.subscribe().await?;
    let attempt = |n: usize, last: Value| {
        json!([{"report": {"message": format!("first of {n}")}}, {"out": format!("line of {n}")},
            {"report": {"message": format!("second of {n}")}}, last])
    };
    let attempts = [attempt(1, json!({"exit": 3})), attempt(2, json!({"exit": 4})), attempt(3, json!({"sleep": 0}))];
    let id = world.submit("try.again", json!({"attempts": attempts})).await?;
    let execution = world.reaches(id, "completed").await?;
    assert_eq!(execution["attempt"], 3, "{execution}");
    let record = world.whole_record(id).await?;
    check_whole(&record)?;
    assert!(gaps(&record).is_empty(), "{record:?}");
    let told = messages(&record);
    assert_eq!(told, ["first of 1", "second of 1", "first of 2", "second of 2", "first of 3", "second of 3"]);
    let attempts: Vec<_> = record.iter().filter_map(|event| event["attempt"].as_u64()).collect();
    assert!(attempts.is_sorted(), "{attempts:?}");
    let of = |kind: &str| record.iter().filter(|event| event["kind"] == kind).collect::<Vec<_>>();
    let codes: Vec<_> = of("finished").iter().map(|event| event["return_code"].clone()).collect();
    assert_eq!(codes, [3, 4, 0]);
    assert_eq!((of("started").len(), of("log").len(), of("settled").len()), (3, 3, 1), "{record:?}");

    // On the broker they bear the same numbers, and each comes once.
    let mut received = BTreeMap::new();
    while received.len() < record.len() {
        let payload = published(&mut subscriber, id, |payload| payload["number"].is_u64()).await?;
        let number = payload["number"].as_u64().context("a number")?;
        assert!(received.insert(number, payload).is_none(), "{number} came twice");
    }
    for (event, (number, payload)) in record.iter().zip(&received) {
        assert_eq!(event["number"], *number, "{payload}");
        let kind = event["kind"].as_str().context("a kind")?;
        match kind {
            "status" => assert_eq!(payload["new_status"], event["new_status"], "{payload}"),
            "settled" => assert_eq!(
                (&payload["previous_status"], &payload["new_status"]),
                (&json!("running"), &json!("completed"))
            ),
            _ => assert_eq!(payload, event),
        }
    }
    Ok(())
}

#[tokio::test]
async fn less_detail_is_reported_on_request_and_nonsense_is_refused_by_name() -> anyhow::Result<()> {
    const ALL: u64 = 200;
    let world = World::with([Action::reports("talk.much", "")]).start().await?;
    let steps = json!({"steps": [{"count": {"to": ALL, "every": 0.002}}, {"report": {"message": "last"}}]});
    let body = |detail: Value| json!({"action_ref": "talk.much", "parameters": steps, "progress": detail});
    // (detail, the least units between two events, the most events with numbers)
    for (detail, least, most) in [
        (Value::Null, ALL, 1),
        (json!({"updateStep": 50}), 50, 6),
        (json!({"update-interval": "1h", "update_step": 40}), 40, 7),
    ] {
        let submitted = world.ask("POST", "/api/v1/executions", Some(body(detail.clone()))).await?;
        let record = world.whole_record(submitted["execution_id"].as_i64().context("an id")?).await?;
        check_whole(&record)?;
        let done: Vec<_> = record.iter().filter_map(|event| event["progress"][0].as_u64()).collect();
        assert!(done.len() <= most, "{detail}: {done:?}");
        // Numbers that were held back at the end go with the last message.
        let but_last = &done[..done.len().saturating_sub(1)];
        assert!(but_last.windows(2).all(|pair| pair[1] - pair[0] >= least), "{detail}: {done:?}");
        assert_eq!(messages(&record), ["last"], "{detail}: {record:?}");
    }
    for (detail, name) in [
        (json!({"update_step": 0}), "update_step"),
        (json!({"update_interval": "soon"}), "update_interval"),
        (json!({"update_interval": -1}), "update_interval"),
    ] {
        let (status, refusal) = world.call("POST", "/api/v1/executions", Some(body(detail.clone()))).await?;
        assert!(status == 400 || status == 422, "{detail}: {status} {refusal}");
        assert!(refusal["error"].to_string().contains(name), "{detail}: {refusal}");
    }
    Ok(())
}

#[tokio::test]
async fn an_ended_execution_shows_how_far_it_came_and_where_it_failed_whatever_detail_was_asked_for()
-> anyhow::Result<()> {
    const BYTES: u64 = 10 << 20;
    let phases = r#"phases = [{ name = "pull", weight = 5 }, { name = "start" }]"#;
    let world = World::with([Action::reports("deploy.app", "").run(phases)]).start().await?;
    let report = |report: Value| json!({"report": report});
    let steps = |last: Value| {
        json!({"steps": [
            report(json!({"phase": "pull", "progress": [0, BYTES], "unit": "Bytes", "data": {"image": "web", "layer": 1}})),
            report(json!({"progress": [BYTES / 2, BYTES], "data": {"layer": 2}})),
            report(json!({"progress": [BYTES, BYTES]})),
            report(json!({"phase": "start", "data": {"layer": 3}})),
            report(json!({"progress": [BYTES - 1, BYTES], "data": {"port": 80}})),
            last,
        ]})
    };
    for detail in [Value::Null, json!({})] {
        let submit = async |last: Value| -> anyhow::Result<i64> {
            let body = json!({"action_ref": "deploy.app", "parameters": steps(last), "progress": detail});
            world.ask("POST", "/api/v1/executions", Some(body)).await?["execution_id"].as_i64().context("an id")
        };
        let execution = world.reaches(submit(json!({"sleep": 0})).await?, "completed").await?;
        let progress = &execution["progress"];
        assert_eq!(progress["percent"].as_f64(), Some(100.0), "{detail}: {execution}");
        assert_eq!((&progress["progress"], &progress["phase"]), (&json!([BYTES - 1, BYTES]), &json!("start")));
        assert_eq!(progress["data"], json!({"image": "web", "layer": 3, "port": 80}), "{detail}: {execution}");

        let execution = world.reaches(submit(json!({"exit": 3})).await?, "failed").await?;
        assert_eq!(execution["error"]["phase"], "start", "{detail}: {execution}");
        assert!(execution["progress"]["percent"].as_f64().is_some_and(|percent| percent < 100.0), "{execution}");
        assert!(execution["error"]["details"]["progress_events"].is_array(), "{execution}");
    }
    Ok(())
}

#[tokio::test]
async fn tasks_within_a_run_are_a_tree_in_the_api_in_the_record_and_for_watchers() -> anyhow::Result<()> {
    let world = World::with([Action::reports("deploy.app", "")]).start().await?;
    let task = |task: Value| json!({"report": {"task": task}});
    let error = json!({"code": "no_disk", "message": "it is full", "stack_trace": "at main"});
    let steps = json!({"steps": [
        task(json!({"name": "build", "status": "started"})),
        task(json!({"name": "compile", "parent": "build", "status": "started", "step": [1, 3]})),
        task(json!({"name": "compile", "status": "failed", "error": error})),
        task(json!({"name": "deploy", "status": "skipped"})),
    ]});
    let id = world.submit("deploy.app", steps).await?;
    let execution = world.reaches(id, "completed").await?;
    let tasks = list(&execution["progress"]["tasks"])?;
    let named: Vec<_> = tasks.iter().map(|task| (&task["name"], &task["status"])).collect();
    assert_eq!(named, [(&json!("build"), &json!("started")), (&json!("deploy"), &json!("skipped"))], "{execution}");
    let compile = &tasks[0]["tasks"][0];
    assert_eq!(
        (&compile["name"], &compile["status"], &compile["step"]),
        (&json!("compile"), &json!("failed"), &json!([1, 3]))
    );
    assert_eq!(compile["error"], error, "{execution}");
    assert!(compile["start_time"].is_string() && compile["end_time"].is_string(), "{execution}");

    let record = world.whole_record(id).await?;
    check_whole(&record)?;
    let told = record.iter().filter(|event| event["task"].is_object()).map(|event| event["task"]["status"].clone());
    assert_eq!(told.collect::<Vec<_>>(), ["started", "started", "failed", "skipped"], "{record:?}");
    let watched = world.slotline(&["watch", &id.to_string()]).await?;
    let lines = String::from_utf8(watched.stderr)?;
    for line in
        ["task compile of build started", "task compile failed: no_disk: it is full", "  x compile 1/3: no_disk: "]
    {
        assert!(lines.contains(line), "{line}: {lines}");
    }
    Ok(())
}

#[tokio::test]
async fn what_workers_can_do_is_shown_for_each_action() -> anyhow::Result<()> {
    let silent = Action::command("echo.text", "", &["/bin/cat"]);
    let world = World::with([Action::reports("talk.much", ""), silent]).start().await?;
    let all = json!(["report-progress", "cancel", "logs"]);
    // How commands are held depends on the host, and is one more capability.
    let is_of_the_action = |word: &&Value| !word.as_str().is_some_and(|word| word.starts_with("held-by-"));
    let sorted = |value: &Value| {
        let words = value.as_array().expect("a list");
        let mut words: Vec<_> = words.iter().filter(is_of_the_action).map(ToString::to_string).collect();
        words.sort_unstable();
        words
    };
    let workers = world.get("/api/v1/workers").await?;
    let of = |name: &str| list(&workers[0]["actions"])?.iter().find(|served| served["ref"] == name).context("served");
    assert_eq!(sorted(&of("echo.text")?["capabilities"]), sorted(&json!(["cancel", "logs"])), "{workers}");
    let served = of("talk.much")?;
    assert_eq!(sorted(&served["capabilities"]), sorted(&all), "{workers}");
    eventually("the action tells it too", SOON, async || {
        let action = world.get("/api/v1/actions/talk.much").await?;
        Ok((sorted(&action["capabilities"]) == sorted(&all)).then_some(()))
    })
    .await
}
