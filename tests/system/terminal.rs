//! Following an execution on the command line, with an output that is no terminal.

use std::process::Output;

use anyhow::Context;
use serde_json::json;
use slotline_tests::{Daemon, eventually};

use crate::actions::Action;
use crate::world::{LATER, SOON, World};

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Waits until a command that goes on has printed `line`.
async fn prints(command: &Daemon, line: &str) -> anyhow::Result<()> {
    eventually(&format!("{} prints {line:?}", command.name()), SOON, async || {
        Ok(command.log().lines().any(|printed| printed.contains(line)).then_some(()))
    })
    .await
}

/// The lines of `log` with the numbered messages of a run.
fn talk(log: &str) -> Vec<&str> {
    let said = |line: &str| line.rsplit_once("n ").is_some_and(|(_, number)| number.parse::<u32>().is_ok());
    log.lines().filter(|line| said(line)).collect()
}

#[tokio::test]
async fn run_and_watch_prints_what_happens_as_lines_and_exits_as_the_execution_ended() -> anyhow::Result<()> {
    let world = World::with([Action::reports("talk.much", "timeout = \"5s\"")]).start().await?;
    let report = json!({"phase": "pull", "step": [1, 2], "message": "layer 3"});
    let begin = [
        json!({"report": report}),
        json!({"out": "a line"}),
        json!({"report": {"message": "slow", "level": "error"}}),
        json!({"sleep": 0.1}),
    ];
    for (last, code, ended) in [
        (json!({"sleep": 0}), 0, "execution 1 completed"),
        (json!({"exit": 3}), 1, "execution 2 failed"),
        (json!({"wait": "never"}), 124, "execution 3 timed out"),
    ] {
        let steps: Vec<_> = begin.iter().chain([&last]).collect();
        let parameters = json!({"steps": steps}).to_string();
        let done = world.slotline(&["run", "talk.much", "--params", &parameters, "--watch", "--logs"]).await?;
        assert_eq!(done.status.code(), Some(code), "{}", text(&done));
        let said = String::from_utf8(done.stderr)?;
        let lines: Vec<_> = said.lines().collect();
        let mut place = 0;
        for expected in ["is running on worker-0, attempt 1", "[pull] step 1/2: layer 3", "error: slow", ended] {
            let found = lines[place..].iter().position(|line| line.contains(expected));
            place += found.with_context(|| format!("{expected:?} after line {place} of\n{said}"))?;
        }
        assert!(lines.contains(&"stdout | a line"), "{said}");
        assert!(!said.contains('\u{1b}') && !said.contains('\r'), "{said:?}");
    }
    Ok(())
}

#[tokio::test]
async fn watch_goes_on_where_it_was_when_the_executor_is_restarted() -> anyhow::Result<()> {
    let mut world = World::with([Action::reports("talk.much", "")]).start().await?;
    let id = world.submit("talk.much", json!({"steps": [{"talk": {"until": "end", "every": 0.1}}]})).await?;
    let id = id.to_string();
    let mut watch = world.start_command("watch", &["watch", &id])?;
    let mut as_json = world.start_command("watch-json", &["watch", &id, "--output", "json"])?;
    prints(&watch, "n 15").await?;
    world.executors[0].kill()?;
    world.start_executor_again(0)?;
    let so_far = talk(&watch.log()).len();
    prints(&watch, &format!("n {}", so_far + 15)).await?;
    world.open("end")?;
    for command in [&mut watch, &mut as_json] {
        let status = command.wait(LATER).await?;
        assert_eq!(status.code(), Some(0), "{}", command.log());
    }
    let execution = world.execution(id.parse()?).await?;
    assert_eq!((&execution["status"], &execution["attempt"]), (&json!("completed"), &json!(1)), "{execution}");
    let said = execution["result"]["written"].as_u64().context("how many")?;
    let log = watch.log();
    let told: Vec<_> = talk(&log).iter().filter_map(|line| line.rsplit_once("n ")?.1.parse::<u64>().ok()).collect();
    assert_eq!(told, (1..=said).collect::<Vec<_>>(), "{log}");
    let log = as_json.log();
    let events: Vec<serde_json::Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    assert_eq!(events, world.whole_record(id.parse()?).await?);
    Ok(())
}

#[tokio::test]
async fn logs_are_printed_as_they_come_and_end_with_the_execution() -> anyhow::Result<()> {
    let world = World::with([Action::reports("print.some", "")]).start().await?;
    let steps = json!([{"out": "first"}, {"err": "wrong"}, {"wait": "end"}, {"out": "last"}]);
    let id = world.submit("print.some", json!({"steps": steps})).await?.to_string();
    let mut logs = world.start_command("logs", &["logs", "-f", &id])?;
    // Its gate is closed, so this is seen while it runs.
    prints(&logs, "first").await?;
    prints(&logs, "wrong").await?;
    assert!(logs.is_running()? && !logs.log().contains("last"), "{}", logs.log());
    world.open("end")?;
    let status = logs.wait(SOON).await?;
    assert_eq!(status.code(), Some(0), "{}", logs.log());
    assert_eq!(logs.log(), "first\nwrong\nlast\n");

    let all = world.slotline(&["logs", &id]).await?;
    assert_eq!(all.status.code(), Some(0), "{}", text(&all));
    assert_eq!(String::from_utf8_lossy(&all.stdout), "first\nlast\n");
    assert_eq!(String::from_utf8_lossy(&all.stderr), "wrong\n");
    Ok(())
}
