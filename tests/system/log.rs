//! The log as operators read it: one line for each thing that they should know, and no second one.

use anyhow::{Context, ensure};
use serde_json::json;
use slotline_tests::{Daemon, Signal, eventually};

use crate::actions::Action;
use crate::message::Message;
use crate::world::{LATER, SOON, World};

/// The lines of a daemon's log that hold all of these words.
fn lines(daemon: &Daemon, words: &[&str]) -> Vec<String> {
    let log = daemon.log();
    log.lines().filter(|line| words.iter().all(|word| line.contains(word))).map(str::to_owned).collect()
}

/// Waits for a line with these words, and returns it.
async fn says(daemon: &Daemon, words: &[&str]) -> anyhow::Result<String> {
    let what = format!("{} says {words:?}", daemon.name());
    eventually(&what, LATER, async || Ok(lines(daemon, words).into_iter().next())).await
}

/// The table of workers, and whether the API shows the one worker as silent.
async fn shown(world: &World) -> anyhow::Result<(String, bool)> {
    let workers = world.get("/api/v1/workers").await?;
    let table = world.slotline(&["workers"]).await?;
    let is_silent = workers[0]["silent"].as_bool().context("silent")?;
    Ok((String::from_utf8(table.stdout)?, is_silent))
}

#[tokio::test]
async fn a_worker_that_joins_falls_silent_is_back_and_drains_is_one_line_each() -> anyhow::Result<()> {
    let left = Action::command("left.behind", "", &["/bin/sh", "-c", "sleep 600 & sleep 600 & exit 0"]);
    let mut world = World::with([left]).workers(1, 2).start().await?;
    let of = "worker.name=worker-0";
    says(&world.executors[0], &["a worker has joined", of]).await?;
    let (table, is_silent) = shown(&world).await?;
    ensure!(!is_silent && table.contains("ready"), "{table}");

    let id = world.submit("left.behind", json!({})).await?;
    world.reaches(id, "completed").await?;
    let what = "had left running in the background";
    let line = says(&world.workers[0], &[what]).await?;
    ensure!(line.contains(&format!("execution.id={id} attempt=1")) && line.contains("processes=2"), "{line}");

    world.workers[0].signal(Signal::SIGSTOP)?;
    says(&world.executors[0], &["a worker is silent", of, "attempts=0"]).await?;
    let (table, is_silent) = shown(&world).await?;
    ensure!(is_silent && table.contains("silent"), "{table}");
    world.workers[0].signal(Signal::SIGCONT)?;
    says(&world.executors[0], &["a worker that was silent is back", of]).await?;
    world.publish(&[Message::request("no.such", json!({}))]).await?;
    says(&world.executors[0], &["put a message aside", "unknown_action"]).await?;
    world.workers[0].stop(SOON).await?;
    says(&world.executors[0], &["a worker has drained and is gone", of]).await?;
    world.executors[0].stop(SOON).await?;

    let log = world.executors[0].log();
    for once in [
        "leading",
        "a worker has joined",
        "a worker is silent",
        "a worker that was silent is back",
        "a worker drains",
        "a worker has drained and is gone",
        "put a message aside",
        "handed leadership over: this executor ends",
    ] {
        assert_eq!(lines(&world.executors[0], &[once]).len(), 1, "{once:?} in\n{log}");
    }
    assert_eq!(lines(&world.executors[0], &["a worker is lost"]).len(), 0, "{log}");
    assert_eq!(lines(&world.workers[0], &[what]).len(), 1, "{}", world.workers[0].log());
    Ok(())
}

#[tokio::test]
async fn of_two_live_workers_of_one_name_the_later_ends_with_the_reason_and_one_that_was_killed_is_followed_at_once()
-> anyhow::Result<()> {
    let mut world = World::with([Action::stamp("line.two", "limit = 2")]).workers(1, 2).start().await?;
    let running = world.submit("line.two", json!({"tag": "first", "sleep_ms": 5000})).await?;
    world.reaches(running, "running").await?;
    let actions = world.actions();
    world.start_worker_in("worker-0", "elsewhere", &actions)?;
    let status = world.workers[1].wait(LATER).await?;
    ensure!(!status.success(), "{status}");
    let pid = world.workers[0].pid();
    let log = world.workers[1].log();
    ensure!(log.contains("a worker named worker-0 runs already, on host"), "{log}");
    ensure!(log.contains(&format!("as process {pid}")) && log.contains("(--name)"), "{log}");
    world.workers.remove(1);
    ensure!(world.workers[0].is_running()?, "the first goes on");
    assert_eq!(world.reaches(running, "completed").await?["attempt"], 1);
    assert_eq!(lines(&world.executors[0], &["a second worker of one name is refused"]).len(), 1);

    // No lock shows that the one before is gone: its lease is not over, and its name is free all the same.
    world.workers[0].kill()?;
    world.workers.clear();
    world.start_worker_in("worker-0", "a-third-place", &actions)?;
    world.submit("line.two", json!({"tag": "second"})).await?;
    // It may be granted to the dead worker first; then its lease has to end.
    world.settled("line.two", 2, LATER).await?;
    ensure!(world.workers[0].is_running()?, "{}", world.workers[0].log());
    assert_eq!(lines(&world.executors[0], &["is refused"]).len(), 1, "{}", world.executors[0].log());
    Ok(())
}

#[tokio::test]
async fn a_worker_that_is_lost_is_one_line_with_its_executions_and_so_is_that_they_have_none_to_run_on()
-> anyhow::Result<()> {
    let mut world = World::with([Action::stamp("line.one", "limit = 1")]).workers(1, 2).short_lease().start().await?;
    let id = world.submit("line.one", json!({"tag": "first", "sleep_ms": 30_000, "beat_ms": 5})).await?;
    world.stamps.started(1, SOON).await?;
    world.reaches(id, "running").await?;
    world.workers[0].kill()?;
    says(&world.executors[0], &["a worker is silent", "worker.name=worker-0", "attempts=1"]).await?;
    let line = says(&world.executors[0], &["a worker is lost", "worker.name=worker-0"]).await?;
    ensure!(line.contains(&format!("attempts=1 executions=\"{id}\"")), "{line}");
    says(&world.executors[0], &["no live worker serves their action", "action.ref=line.one", "waiting=1"]).await?;
    world.start_worker("worker-1")?;
    says(&world.executors[0], &["a worker serves the action again", "action.ref=line.one"]).await?;
    let log = world.executors[0].log();
    for once in ["a worker is lost", "no live worker serves", "serves the action again"] {
        assert_eq!(lines(&world.executors[0], &[once]).len(), 1, "{once:?} in\n{log}");
    }
    Ok(())
}
