//! A journal that went back: a dump restored, a snapshot rolled back, a copy led on beside the original, and a broker
//! that knows nothing of it. No number is given twice, no limit is passed, and what is lost is reported.

use std::collections::BTreeSet;

use anyhow::{Context, bail, ensure};
use serde_json::json;
use slotline_tests::{Stamp, eventually, most_at_once};

use crate::actions::Action;
use crate::message::Message;
use crate::world::builder::Builder;
use crate::world::{LATER, SOON, World};

const LINE: &str = "line.one";
/// Longer than everything that a test does while it runs: a whole lease passes, and processes start.
const LONG_MS: u64 = 45_000;

fn request(tag: &str, sleep_ms: u64) -> Message {
    Message::request(LINE, json!({"tag": tag, "sleep_ms": sleep_ms, "beat_ms": 20})).id(tag)
}

fn requests(name: &str, count: usize) -> Vec<Message> {
    (0..count).map(|number| request(&format!("{name}-{number}"), 0)).collect()
}

/// Five that end, before whatever the journal goes back to.
async fn begin(workers: usize) -> anyhow::Result<World> {
    begin_in(new(workers).short_lease()).await
}

fn new(workers: usize) -> Builder {
    World::with([Action::stamp(LINE, "limit = 1")]).own_postgres().own_rabbit().workers(workers, 4)
}

async fn begin_in(builder: Builder) -> anyhow::Result<World> {
    let world = builder.start().await?;
    world.publish(&requests("before", 5)).await?;
    world.settled(LINE, 5, LATER).await?;
    Ok(world)
}

/// What the journal forgets: three that end, one that runs long, and the one that waits behind it at its worker: behind a
/// long one no more are left there.
async fn go_on(world: &World) -> anyhow::Result<Stamp> {
    world.publish(&requests("after", 3)).await?;
    world.publish(&[request("long", LONG_MS)]).await?;
    world.publish(&requests("behind", 1)).await?;
    world.stamps.started(9, LATER).await?;
    let long = the(world, "long")?;
    // The mark follows the commit with which the one behind was sent; without the mark no process may know of it.
    world.marked(long.execution + 2).await?;
    Ok(long)
}

/// What was out when the journal was left: the one that runs long, and the one behind it.
fn out(long: &Stamp) -> Vec<i64> {
    (long.execution..long.execution + 2).collect()
}

fn the(world: &World, tag: &str) -> anyhow::Result<Stamp> {
    world.stamps.read()?.into_iter().find(|stamp| stamp.tag == tag).with_context(|| format!("{tag} has started"))
}

/// Waits until the executor reports that it grants nothing, and why.
async fn doubts(world: &World, executor: usize, why: &str) -> anyhow::Result<()> {
    eventually("the doubt is said", SOON, async || {
        let (status, health) = world.health_of(executor).await?;
        let is_said = status == 503 && health.contains("nothing is granted") && health.contains(why);
        if is_said { Ok(Some(())) } else { bail!("{status} {health}") }
    })
    .await
}

/// Nothing ran beside anything else, and nothing was given out twice.
fn judge(world: &World) -> anyhow::Result<()> {
    // Reading fails where an attempt number of an execution starts twice.
    let stamps = world.stamps.read()?;
    let most = most_at_once(&stamps);
    ensure!(most <= 1, "{most} ran at once");
    let fences: BTreeSet<u64> = stamps.iter().map(|stamp| stamp.fence).collect();
    ensure!(fences.len() == stamps.len(), "a fence was given twice: {stamps:?}");
    for stamp in &stamps {
        let twin = stamps.iter().find(|other| other.execution == stamp.execution && other.tag != stamp.tag);
        ensure!(twin.is_none(), "an id was given twice: {stamp:?} {twin:?}");
    }
    Ok(())
}

fn ran_once(stamps: &[Stamp]) -> anyhow::Result<()> {
    let tags: BTreeSet<&str> = stamps.iter().map(|stamp| stamp.tag.as_str()).collect();
    ensure!(tags.len() == stamps.len(), "something ran twice: {stamps:?}");
    Ok(())
}

/// After the journal went back with `long` running: it is shown, holds its slot, and ends under its own id.
async fn comes_through(world: &World, long: &Stamp) -> anyhow::Result<()> {
    let shown =
        eventually("what only a worker knew is shown", SOON, async || Ok(world.execution(long.execution).await.ok()))
            .await?;
    ensure!(shown["status"] == "running" && shown["parameters"]["tag"] == "long", "{shown}");
    world.publish(&requests("later", 2)).await?;
    eventually("an executor leads without doubt", LATER, async || world.leader().await).await?;
    let held = eventually("what comes later waits for it", SOON, async || {
        let waiting = world.executions(LINE).await?;
        let later = waiting.into_iter().find(|execution| execution["parameters"]["tag"] == "later-0");
        let Some(id) = later.and_then(|execution| execution["execution_id"].as_i64()) else { return Ok(None) };
        Ok(Some(world.execution(id).await?["waiting"]["held_by"].clone()).filter(|held| !held.is_null()))
    })
    .await?;
    // The one that waits at the worker starts after it.
    ensure!(held == json!(out(long)), "{held}");
    let stamps = world.stamps.ended(12, LATER).await?;
    ran_once(&stamps)?;
    let ended = world.reaches(long.execution, "completed").await?;
    ensure!(ended["result"]["tag"] == "long", "{ended}");
    judge(world)?;
    let verdict = world.verified().await?;
    let (first, last) = (long.execution - 3, long.execution + 1);
    let gone = format!("executions {first} to {last}; 2 of them were taken over from workers: {}", json!(out(long)));
    ensure!(verdict.contains("REWOUND") && verdict.contains(&gone), "{verdict}");
    ensure!(!verdict.contains("All of it holds."), "{verdict}");
    let (_, health) = world.health_of(0).await?;
    ensure!(health.contains("may be older than the world"), "{health}");
    ensure!(world.executors[0].log().contains("may be older"), "it is in the log");
    Ok(())
}

#[tokio::test]
async fn a_dump_restored_while_workers_live_gives_nothing_out_twice_and_reports_what_is_lost() -> anyhow::Result<()> {
    let mut world = begin(2).await?;
    let dump = world.dump().await?;
    let long = go_on(&world).await?;
    world.executors[0].kill()?;
    world.restore(&dump).await?;
    world.start_executor_again(0)?;
    doubts(&world, 0, "older").await?;
    comes_through(&world, &long).await
}

#[tokio::test]
async fn a_snapshot_of_the_database_rolled_back_while_workers_live_gives_nothing_out_twice() -> anyhow::Result<()> {
    let mut world = begin(2).await?;
    let snapshot = world.postgres.snapshot().await?;
    eventually("an executor leads again", SOON, async || world.leader().await).await?;
    let long = go_on(&world).await?;
    world.executors[0].kill()?;
    world.postgres.roll_back(&snapshot).await?;
    world.start_executor_again(0)?;
    doubts(&world, 0, "older").await?;
    comes_through(&world, &long).await
}

#[tokio::test]
async fn a_dump_restored_without_any_worker_gives_no_number_out_twice() -> anyhow::Result<()> {
    let mut world = begin(1).await?;
    let dump = world.dump().await?;
    world.publish(&requests("after", 3)).await?;
    let stamps = world.stamps.ended(8, LATER).await?;
    let next = stamps.iter().map(|stamp| stamp.execution).max().context("some ended")? + 1;
    // With no worker left, only the marks show these executions.
    world.marked(next).await?;
    world.executors[0].kill()?;
    world.workers[0].kill()?;
    world.restore(&dump).await?;
    world.start_executor_again(0)?;
    doubts(&world, 0, "older").await?;
    world.publish(&requests("later", 2)).await?;
    world.start_worker("another")?;
    world.stamps.ended(10, LATER).await?;
    judge(&world)?;
    let verdict = world.verified().await?;
    ensure!(verdict.contains("REWOUND") && verdict.contains("no worker held any of them"), "{verdict}");
    Ok(())
}

#[tokio::test]
async fn of_two_copies_of_the_journal_that_are_led_on_at_once_only_the_newer_goes_on() -> anyhow::Result<()> {
    let mut world = begin(2).await?;
    let dump = world.dump().await?;
    let long = go_on(&world).await?;
    world.start_executor_on_copy(&dump).await?;
    eventually("the leader on the old one stands down, and says so", SOON, async || {
        let (status, health) = world.health_of(0).await?;
        if status == 503 && health.contains("another copy") { Ok(Some(())) } else { bail!("{status} {health}") }
    })
    .await?;
    eventually("the other leads without doubt", LATER, async || {
        let (status, health) = world.health_of(1).await?;
        if status == 200 && health.contains("leader") { Ok(Some(())) } else { bail!("{status} {health}") }
    })
    .await?;
    let (_, health) = world.health_of(0).await?;
    ensure!(health.contains("another copy") && health.contains("purge the queue slotline.marks"), "{health}");
    let epoch_of_the_old = async || world.sql("select epoch from leadership").await;
    let stood_down = epoch_of_the_old().await?;
    world.publish(&requests("later", 2)).await?;
    let stamps = world.stamps.ended(12, LATER).await?;
    ensure!(epoch_of_the_old().await? == stood_down, "the executor of the old copy goes on raising its epoch");
    ran_once(&stamps)?;
    ensure!(the(&world, "long")?.execution == long.execution, "under its number");
    judge(&world)
}

#[tokio::test]
async fn a_move_to_another_broker_is_reported_and_what_runs_meanwhile_is_not_run_again() -> anyhow::Result<()> {
    let mut world = begin_in(new(1).middle_lease()).await?;
    world.publish(&[request("long", 2 * LONG_MS)]).await?;
    world.publish(&requests("behind", 2)).await?;
    world.stamps.started(6, LATER).await?;
    world.executors[0].kill()?;
    // As good as another one: nothing is there, and the worker comes back to it by itself.
    world.empty_the_broker().await?;
    world.start_executor_again(0)?;
    doubts(&world, 0, "another broker").await?;
    let stamps = world.stamps.ended(8, LATER).await?;
    ran_once(&stamps)?;
    judge(&world)?;
    let verdict = world.verified().await?;
    ensure!(verdict.contains("requests may have been left"), "{verdict}");
    Ok(())
}
