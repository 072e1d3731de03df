//! Handler processes: the library for Python, and processes that break the rules.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use slotline_tests::{Signal, eventually};

use crate::actions::{Action, LIBRARY};
use crate::message::{Message, tags};
use crate::world::{LATER, PYTHON, SOON, World};
use crate::{cancel, crash};

fn one(policy: &str) -> Action {
    Action::python("line.one", policy)
}

#[tokio::test]
async fn a_worker_of_python_functions_killed_in_mid_run_and_started_again_is_known_lost_at_once() -> anyhow::Result<()>
{
    crash::killed_and_started_again(one("limit = 1")).await
}

#[tokio::test]
async fn a_worker_of_python_functions_killed_for_good_gives_its_slot_back() -> anyhow::Result<()> {
    crash::killed_for_good(one("limit = 1")).await
}

#[tokio::test]
async fn a_frozen_worker_leaves_no_python_function_running_past_its_fence() -> anyhow::Result<()> {
    crash::frozen(one("limit = 1")).await
}

#[tokio::test]
async fn a_python_function_that_is_cancelled_in_line_never_starts() -> anyhow::Result<()> {
    cancel::cancelled_in_line(one("limit = 1\nrun_ahead = 0"), &["cancelled"]).await?;
    cancel::cancelled_in_line(one("limit = 1\nrun_ahead = 4"), &["cancelling", "cancelled"]).await
}

#[tokio::test]
async fn a_python_function_that_is_cancelled_is_ended_and_the_next_starts() -> anyhow::Result<()> {
    cancel::cancelled_while_it_runs(one("limit = 1\nrun_ahead = 0")).await
}

#[tokio::test]
async fn python_functions_start_in_order_and_never_more_than_the_limit() -> anyhow::Result<()> {
    for (action, limit) in [("line.one", 1), ("line.three", 3)] {
        let world = World::with([Action::python(action, &format!("limit = {limit}"))]).workers(2, 4).start().await?;
        let tags = tags(200);
        let request = |tag: &String| Message::request(action, json!({"tag": tag, "sleep_ms": 2})).id(tag);
        world.publish(&tags.iter().map(request).collect::<Vec<_>>()).await?;
        world.settled(action, tags.len(), LATER).await?;
        world.check_line(action, &tags, limit).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_drained_worker_lets_a_python_function_finish_and_ends() -> anyhow::Result<()> {
    let mut world = World::with([one("limit = 1")]).start().await?;
    let id = world.submit("line.one", json!({"tag": "last", "gate": world.gate("last")})).await?;
    world.stamps.started(1, SOON).await?;
    world.workers[0].signal(Signal::SIGTERM)?;
    eventually("it drains", SOON, async || Ok(world.workers[0].log().contains("drain").then_some(()))).await?;
    world.open("last")?;
    assert_eq!(world.reaches(id, "completed").await?["result"], json!({"tag": "last"}));
    let status = world.workers[0].wait(SOON).await?;
    ensure!(status.success(), "{status}: {}", world.workers[0].log());
    Ok(())
}

#[tokio::test]
async fn what_a_python_function_reports_prints_returns_and_raises_is_in_the_record() -> anyhow::Result<()> {
    let world = World::with([Action::python("py.reports", ""), Action::python("py.fails", "")]).start().await?;
    let pages = json!({"pages": [{"number": 1, "title": "one"}, {"number": 2}]});
    let id = world.submit("py.reports", pages).await?;
    let execution = world.reaches(id, "completed").await?;
    assert_eq!(execution["result"], json!({"titles": ["one", ""], "attempt": 1, "of": id}), "{execution}");
    assert_eq!(execution["progress"]["progress"], json!([2, 2]), "{execution}");
    let record = world.whole_record(id).await?;
    let printed = |stream: &str| -> Vec<&Value> {
        let of_stream = record.iter().filter(|event| event["kind"] == "log" && event["stream"] == stream);
        of_stream.flat_map(|event| event["lines"].as_array().into_iter().flatten()).collect()
    };
    let mut stdout = printed("stdout");
    stdout.sort_by_key(|line| line.to_string());
    assert_eq!(stdout, ["printed", "rendered page=1", "rendered page=2"]);
    let stderr = printed("stderr");
    ensure!(stderr.contains(&&json!("to stderr")) && stderr.contains(&&json!("almost")), "{stderr:?}");
    let phase = record.iter().find(|event| event["phase"] == "begin").context("a phase")?;
    assert_eq!(phase["message"], "half a ? name");

    for (how, code, message) in [
        ("by-code", "out_of_paper", "no more pages"),
        ("by-bug", "handler_error", "ZeroDivisionError: division by zero"),
        ("no-json", "handler_error", "the result is no JSON: set is no JSON"),
        ("huge", "result_too_large", "the result is too large"),
        ("inf", "handler_error", "the result is no JSON"),
    ] {
        let id = world.submit("py.fails", json!({"how": how})).await?;
        let error = world.reaches(id, "failed").await?["error"].clone();
        assert_eq!(error["code"], code, "{error}");
        ensure!(error["message"].as_str().is_some_and(|text| text.starts_with(message)), "{error}");
        let trace = error["stack_trace"].as_str().unwrap_or_default();
        assert_eq!(trace.contains("handlers.py") && !trace.contains("_app.py"), how == "by-bug", "{error}");
    }
    for (parameters, field) in [
        (json!({}), "parameters.how: is missing"),
        (json!({"how": 5}), "parameters.how: expected a text, found 5"),
        (json!({"how": "x", "extra": 1}), "parameters.extra: the action has no such parameter"),
    ] {
        let id = world.submit("py.fails", parameters).await?;
        let error = world.reaches(id, "failed").await?["error"].clone();
        assert_eq!(error, json!({"code": "invalid_parameters", "message": field}));
    }
    Ok(())
}

#[tokio::test]
async fn an_attempt_that_holds_its_interpreter_ends_with_its_process_and_the_next_gets_another() -> anyhow::Result<()> {
    let actions = ["line.one", "py.spins", "py.waits", "py.dies"].map(|name| Action::python(name, ""));
    let world = World::with(actions).workers(1, 8).start().await?;
    let spins = world.submit("py.spins", json!({})).await?;
    world.stamps.started(1, SOON).await?;
    world.ask("POST", &format!("/api/v1/executions/{spins}/cancel"), None).await?;
    world.reaches(spins, "cancelled").await?;
    let next = world.submit("line.one", json!({"tag": "next"})).await?;
    world.reaches(next, "completed").await?;

    // A task that is cancelled ends alone; a process that dies takes with it what runs in it.
    let ids = [world.submit("py.waits", json!({})).await?, world.submit("py.waits", json!({})).await?];
    for id in ids {
        world.reaches(id, "running").await?;
    }
    world.ask("POST", &format!("/api/v1/executions/{}/cancel", ids[0]), None).await?;
    world.reaches(ids[0], "cancelled").await?;
    let dies = world.submit("py.dies", json!({})).await?;
    for id in [dies, ids[1]] {
        let error = world.reaches(id, "failed").await?["error"].clone();
        assert_eq!(
            (&error["code"], &error["details"]["return_code"]),
            (&json!("handler_exited"), &json!(3)),
            "{error}"
        );
    }
    let next = world.submit("line.one", json!({"tag": "next"})).await?;
    world.reaches(next, "completed").await?;
    Ok(())
}

#[tokio::test]
async fn a_process_that_breaks_the_rules_harms_its_own_attempts_alone_and_is_named_in_the_log() -> anyhow::Result<()> {
    let broken: &[(&str, &str)] = &[
        ("garbage", "it broke the protocol: expected value"),
        ("half", "it broke the protocol"),
        ("broken", "it closed its socket within a line"),
        ("endless", "it broke the protocol: a line is too long"),
        ("forks", "exited with status 4"),
        ("closes", "it closed its socket"),
        ("mute", "it was not ready within 2s"),
        ("newer", "protocol 2, expected 1"),
        ("absent", "exited with status 1"),
    ];
    let kept: &[(&str, &str)] =
        &[("twice", "first"), ("another", "mine"), ("unknown", "known"), ("exits", "last words")];
    let ways = broken.iter().chain(kept).map(|(way, _)| Action::stray(&format!("stray.{way}"), "", way));
    let world = World::with(ways.chain([one("")])).workers(1, 20).start().await?;
    let good = world.submit("line.one", json!({"tag": "good", "gate": world.gate("good")})).await?;
    let mut ids = Vec::new();
    for (way, _) in broken.iter().chain(kept) {
        ids.push(world.submit(&format!("stray.{way}"), json!({})).await?);
    }
    for ((way, expected), id) in broken.iter().zip(&ids) {
        let error = world.reaches(*id, "failed").await?["error"].clone();
        assert_eq!(error["code"], "handler_exited", "{way}: {error}");
        let message = error["message"].as_str().context("a message")?;
        ensure!(message.contains(expected) && message.contains(way), "{way}: {error}");
    }
    for ((way, result), id) in kept.iter().zip(&ids[broken.len()..]) {
        // Each once more: the process is there, or there is another.
        let again = world.submit(&format!("stray.{way}"), json!({})).await?;
        for id in [*id, again] {
            assert_eq!(world.reaches(id, "completed").await?["result"], *result, "{way}");
        }
    }
    world.open("good")?;
    world.reaches(good, "completed").await?;
    let log = world.workers[0].log();
    ensure!(log.contains("reports on an attempt that it does not have"), "{log}");
    ensure!(log.contains("mute") && log.contains("ended before it was ready"), "{log}");
    Ok(())
}

#[tokio::test]
async fn the_library_for_python_passes_its_own_tests() -> anyhow::Result<()> {
    let ran = tokio::task::spawn_blocking(|| {
        let mut command = Command::new(PYTHON);
        command.args(["-m", "unittest", "discover", "-v", "-s", "tests"]);
        command.env("PYTHONDONTWRITEBYTECODE", "1").current_dir(Path::new(LIBRARY)).output()
    });
    let ran = ran.await??;
    let report = String::from_utf8_lossy(&ran.stderr);
    ensure!(ran.status.success() && report.contains("\nOK"), "{report}");
    Ok(())
}
