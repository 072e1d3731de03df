//! Processes and servers that die in mid-stream: nothing is lost, repeated or reordered, and no limit is passed.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::json;
use slotline_tests::{Signal, eventually, most_at_once};

use crate::actions::Action;
use crate::follower::{Follower, check_whole, gaps, messages};
use crate::message::{Message, tags};
use crate::world::{LATER, SOON, World};

/// Requests that may go out twice, so each bears its id.
fn stream(action: &str, tags: &[String], sleep_ms: u64) -> Vec<Message> {
    let request = |tag: &String| Message::request(action, json!({"tag": tag, "sleep_ms": sleep_ms})).id(tag);
    tags.iter().map(request).collect()
}

#[tokio::test]
async fn an_executor_killed_in_mid_stream_and_restarted_loses_repeats_and_reorders_nothing() -> anyhow::Result<()> {
    let mut world = World::with([Action::stamp("line.one", "limit = 1")]).workers(2, 2).start().await?;
    let tags = tags(300);
    let publisher = world.publisher(&stream("line.one", &tags, 0), 0)?;
    let publisher = tokio::spawn(publisher);
    for killed_after in [30, 100, 200] {
        world.stamps.started(killed_after, LATER).await?;
        world.executors[0].kill()?;
        world.executors.clear();
        world.start_executor()?;
    }
    publisher.await??;
    world.ready().await?;
    world.settled("line.one", tags.len(), LATER).await?;
    world.check_line("line.one", &tags, 1).await
}

#[tokio::test]
async fn a_second_executor_takes_over_from_one_that_is_killed_and_from_one_that_stops() -> anyhow::Result<()> {
    let mut world = World::with([Action::stamp("line.three", "limit = 3")]).executors(2).workers(2, 3).start().await?;
    let tags = tags(200);
    let publisher = tokio::spawn(world.publisher(&stream("line.three", &tags, 20), 0)?);
    for (started, how) in [(20, Signal::SIGKILL), (100, Signal::SIGTERM)] {
        world.stamps.started(started, LATER).await?;
        let leader = eventually("an executor leads", SOON, async || world.leader().await).await?;
        let mut old = world.executors.remove(leader);
        old.signal(how)?;
        let status = old.wait(SOON).await?;
        ensure!(how == Signal::SIGKILL || status.success(), "after {how}: {status}");
        world.start_executor()?;
    }
    publisher.await??;
    world.settled("line.three", tags.len(), LATER).await?;
    world.check_line("line.three", &tags, 3).await
}

#[tokio::test]
async fn an_executor_frozen_while_another_takes_over_changes_nothing_when_it_thaws() -> anyhow::Result<()> {
    let mut world =
        World::with([Action::stamp("line.one", "limit = 1")]).executors(2).workers(2, 2).short_lease().start().await?;
    let tags = tags(200);
    let publisher = tokio::spawn(world.publisher(&stream("line.one", &tags, 20), 0)?);
    world.stamps.started(20, LATER).await?;
    let leader = eventually("an executor leads", SOON, async || world.leader().await).await?;
    let mut frozen = world.executors.remove(leader);
    frozen.signal(Signal::SIGSTOP)?;
    // Only the other executor answers; it leads once the frozen one's session at the database is over.
    eventually("the other leads", SOON, async || world.leader().await).await?;
    let meanwhile = world.stamps.read()?.len();
    world.stamps.started(meanwhile + 20, LATER).await?;
    frozen.signal(Signal::SIGCONT)?;
    publisher.await??;
    world.settled("line.one", tags.len(), LATER).await?;
    ensure!(frozen.is_running()?, "it stands by again:\n{}", frozen.log());
    world.check_line("line.one", &tags, 1).await
}

#[tokio::test]
async fn a_broker_restarted_in_mid_stream_loses_repeats_and_reorders_nothing() -> anyhow::Result<()> {
    let world = World::with([Action::stamp("line.one", "limit = 1")])
        .own_rabbit()
        .executors(2)
        .workers(2, 2)
        .long_lease()
        .start()
        .await?;
    let tags = tags(300);
    let publisher = tokio::spawn(world.publisher(&stream("line.one", &tags, 10), 0)?);
    world.stamps.started(50, LATER).await?;
    world.rabbit.restart().await?;
    let so_far = world.stamps.read()?.len();
    world.stamps.started((so_far + 50).min(250), LATER).await?;
    world.rabbit.kill().await?;
    world.rabbit.start_again().await?;
    publisher.await??;
    world.settled("line.one", tags.len(), LATER).await?;
    for daemon in world.executors.iter().chain(&world.workers) {
        ensure!(!daemon.log().contains("lapin::"), "{} says it in another's words:\n{}", daemon.name(), daemon.log());
    }
    world.check_line("line.one", &tags, 1).await
}

#[tokio::test]
async fn a_broker_emptied_of_everything_loses_no_accepted_execution() -> anyhow::Result<()> {
    let world =
        World::with([Action::stamp("line.one", "limit = 1")]).own_rabbit().workers(2, 2).long_lease().start().await?;
    let tags = tags(150);
    world.publish(&stream("line.one", &tags, 20)).await?;
    eventually("all are in the journal", SOON, async || {
        Ok((world.stats("line.one").await?["total_enqueued"] == tags.len()).then_some(()))
    })
    .await?;
    ensure!(world.stamps.read()?.len() < tags.len(), "the test needs a backlog");
    world.empty_the_broker().await?;
    world.settled("line.one", tags.len(), LATER).await?;
    world.check_line("line.one", &tags, 1).await
}

#[tokio::test]
async fn a_database_restarted_in_mid_stream_loses_repeats_and_reorders_nothing() -> anyhow::Result<()> {
    let world = World::with([Action::stamp("line.three", "limit = 3")])
        .own_postgres()
        .executors(2)
        .workers(2, 3)
        .long_lease()
        .start()
        .await?;
    let tags = tags(300);
    let publisher = tokio::spawn(world.publisher(&stream("line.three", &tags, 20), 0)?);
    world.stamps.started(50, LATER).await?;
    world.postgres.restart().await?;
    let so_far = world.stamps.read()?.len();
    world.stamps.started((so_far + 50).min(250), LATER).await?;
    world.postgres.kill().await?;
    world.postgres.start_again().await?;
    publisher.await??;
    world.settled("line.three", tags.len(), LATER).await?;
    world.check_line("line.three", &tags, 3).await
}

#[tokio::test]
async fn a_worker_killed_in_mid_run_and_started_again_is_known_lost_at_once() -> anyhow::Result<()> {
    killed_and_started_again(Action::stamp("line.one", "limit = 1")).await
}

pub(crate) async fn killed_and_started_again(action: Action) -> anyhow::Result<()> {
    // With the default lease of a minute: the new process has proof that nothing of the old one lives.
    let mut world = World::with([action]).workers(1, 2).start().await?;
    let request =
        |tag: &str, sleep: u64| Message::request("line.one", json!({"tag": tag, "sleep_ms": sleep, "beat_ms": 5}));
    world.publish(&[request("first", 5000), request("second", 0), request("third", 0)]).await?;
    world.stamps.started(1, SOON).await?;
    world.workers[0].kill()?;
    world.workers.clear();
    world.start_worker("worker-0")?;
    world.stamps.started(2, Duration::from_secs(25)).await.context("long before the lease is over")?;
    world.settled("line.one", 3, LATER).await?;
    check_lost_once(&world).await
}

#[tokio::test]
async fn a_worker_killed_in_mid_run_for_good_gives_its_slot_back_when_its_lease_is_over() -> anyhow::Result<()> {
    killed_for_good(Action::stamp("line.one", "limit = 1")).await
}

pub(crate) async fn killed_for_good(action: Action) -> anyhow::Result<()> {
    let mut world = World::with([action]).workers(2, 2).short_lease().start().await?;
    let request =
        |tag: &str, sleep: u64| Message::request("line.one", json!({"tag": tag, "sleep_ms": sleep, "beat_ms": 5}));
    world.publish(&[request("first", 5000), request("second", 0), request("third", 0)]).await?;
    world.stamps.started(1, SOON).await?;
    let first = &world.executions("line.one").await?[0];
    let id = first["execution_id"].as_i64().context("an id")?;
    let worker = world.reaches(id, "running").await?["worker"].as_str().context("the worker")?.to_owned();
    let index = world.workers.iter().position(|daemon| daemon.name() == worker).context("one of ours")?;
    world.workers.remove(index).kill()?;
    world.settled("line.one", 3, LATER).await?;
    check_lost_once(&world).await
}

/// `first` was lost once, kept its place, and nothing ever ran beside it.
async fn check_lost_once(world: &World) -> anyhow::Result<()> {
    let stamps = world.stamps.read()?;
    let order: Vec<_> = stamps.iter().map(|stamp| stamp.tag.as_str()).collect();
    assert_eq!(order, ["first", "first", "second", "third"]);
    assert_eq!([stamps[0].attempt, stamps[1].attempt], [1, 2]);
    assert_eq!(stamps[0].ended, None, "the first attempt was killed");
    assert!(stamps[1].fence > stamps[0].fence);
    assert_eq!(most_at_once(&stamps), 1);
    let first = &world.executions("line.one").await?[0];
    assert_eq!((&first["status"], &first["attempt"]), (&json!("completed"), &json!(2)), "{first}");
    assert_eq!(first["earlier_attempts"][0]["outcome"], "lost", "{first}");
    Ok(())
}

#[tokio::test]
async fn a_frozen_worker_leaves_no_process_running_past_its_fence() -> anyhow::Result<()> {
    frozen(Action::stamp("line.one", "limit = 1")).await
}

pub(crate) async fn frozen(action: Action) -> anyhow::Result<()> {
    let mut world = World::with([action]).workers(1, 2).short_lease().start().await?;
    let request =
        |tag: &str, sleep: u64| Message::request("line.one", json!({"tag": tag, "sleep_ms": sleep, "beat_ms": 5}));
    world.publish(&[request("first", 20_000), request("second", 0), request("third", 0)]).await?;
    world.stamps.started(1, SOON).await?;
    world.start_worker("worker-1")?;
    world.workers_known(2).await?;
    world.workers[0].signal(Signal::SIGSTOP)?;
    world.stamps.started(2, SOON).await?;
    world.workers[0].signal(Signal::SIGCONT)?;
    world.settled("line.one", 3, LATER).await?;
    check_lost_once(&world).await?;
    ensure!(world.workers[0].is_running()?, "it goes on as a new incarnation:\n{}", world.workers[0].log());
    world.workers_known(2).await
}

#[tokio::test]
async fn a_run_that_reports_while_the_broker_goes_down_never_notices_and_nothing_is_missing() -> anyhow::Result<()> {
    let world = World::with([Action::reports("talk.much", "")]).own_rabbit().long_lease().start().await?;
    // So far apart that no message is merged with the next, and that all are kept however long a restart takes.
    let steps = json!([{"talk": {"until": "end", "every": 0.25}}]);
    let id = world.submit("talk.much", json!({"steps": steps})).await?;
    let follower = Follower::new(&world.addresses(), id)?;
    let mut count = follower.count();
    let client = tokio::spawn(follower.until_settled(|| (usize::MAX, 0)));
    let heard = count.reaches(20).await?;
    world.rabbit.restart().await?;
    let heard = count.reaches(heard + 20).await?;
    world.rabbit.kill().await?;
    world.rabbit.start_again().await?;
    count.reaches(heard + 20).await?;
    world.open("end")?;
    let (heard, _) = client.await??;

    let record = world.whole_record(id).await?;
    check_whole(&record)?;
    ensure!(heard.iter().map(|heard| &heard.data).eq(&record), "the stream and the record tell the same");
    ensure!(gaps(&record).is_empty(), "{:?}", gaps(&record));
    let execution = world.execution(id).await?;
    assert_eq!((&execution["status"], &execution["attempt"]), (&json!("completed"), &json!(1)), "{execution}");
    let said = execution["result"]["written"].as_u64().context("how many")?;
    assert_eq!(messages(&record), (1..=said).map(|n| format!("n {n}")).collect::<Vec<_>>());
    let reports = record.iter().filter(|event| event["kind"] == "progress");
    for (report, n) in reports.zip(1..) {
        let level = if n % 10 == 0 { "error" } else { "info" };
        assert_eq!(report["level"], level, "{report}");
        ensure!(n % 7 != 0 || report["phase"] == format!("phase {n}"), "{report}");
    }
    // Each report of the run was written at once, and the run has no log line about reporting.
    ensure!(execution["result"]["longest"].as_f64().is_some_and(|seconds| seconds < 1.0), "{execution}");
    ensure!(record.iter().all(|event| event["kind"] != "log"), "{record:?}");
    Ok(())
}
