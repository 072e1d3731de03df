//! A node dies in mid-stream, and comes back: each in its turn, whoever is connected to it and whatever it holds.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::json;
use slotline_tests::{Stamp, eventually, now_ns};

use crate::actions::Action;
use crate::message::{Message, tags};
use crate::world::{LATER, SOON, World};

/// The longest time without a start, however a node dies.
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// How long a run goes on that must not notice.
const LONG_RUN_MS: u64 = 25_000;

/// Waits for a start of the line after `since`, and gives when it was.
async fn started_after(world: &World, since: u64) -> anyhow::Result<u64> {
    eventually("the line goes on", LATER, async || {
        let stamps = world.stamps.read()?;
        Ok(stamps.iter().filter(|stamp| stamp.tag.starts_with('0')).map(|s| s.started).find(|at| *at > since))
    })
    .await
}

/// The longest time between two starts of the line, in milliseconds.
fn longest_pause(stamps: &[Stamp]) -> u64 {
    let starts: Vec<u64> = stamps.iter().filter(|s| s.tag.starts_with('0')).map(|s| s.started).collect();
    starts.windows(2).map(|pair| (pair[1] - pair[0]) / 1_000_000).max().unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn any_one_of_three_nodes_may_die_and_nothing_is_lost_repeated_reordered_or_run_again() -> anyhow::Result<()> {
    const COUNT: usize = 1_500;
    let actions = [Action::stamp("line.one", "limit = 1\nrun_ahead = 0"), Action::stamp("long.run", "limit = 1")];
    let world = World::with(actions).cluster(3).executors(2).workers(2, 4).start().await?;
    let tags = tags(COUNT);
    let request = |tag: &String| Message::request("line.one", json!({"tag": tag, "sleep_ms": 100})).id(tag);
    let messages: Vec<_> = tags.iter().map(request).collect();
    // A foreign publisher, which goes from node to node as well, and repeats what was not confirmed.
    let publisher = tokio::spawn(world.publisher(&messages, 0)?);
    started_after(&world, 0).await?;
    let long: Vec<String> = (0..3).map(|victim| format!("long-{victim}")).collect();
    for (victim, tag) in long.iter().enumerate() {
        let run = Message::request("long.run", json!({"tag": tag, "sleep_ms": LONG_RUN_MS})).id(tag);
        world.publish(&[run]).await?;
        eventually("the long run has begun", SOON, async || {
            Ok(world.stamps.read()?.iter().any(|stamp| stamp.tag == *tag).then_some(()))
        })
        .await?;
        world.node(victim).kill().await?;
        let killed = now_ns();
        let pause = Duration::from_nanos(started_after(&world, killed).await? - killed);
        println!("node {victim} killed: the next start after {pause:?}");
        eventually("an executor leads", SOON, async || Ok(world.leader().await?.map(drop))).await?;
        world.node(victim).start_again().await?;
        world.node(victim).ctl(&["await_online_nodes", "3"]).await?;
        // What it missed is caught up before the next one dies: no node is the one that a majority hangs on.
        for node in 0..3 {
            eventually("every queue has a majority without this node", LATER, async || {
                Ok(world.node(node).queues_can_do_without().await?.then_some(()))
            })
            .await?;
        }
    }
    publisher.await.context("the publisher")??;
    world.settled("line.one", COUNT, LATER).await?;
    world.settled("long.run", long.len(), LATER).await?;
    let stamps = world.stamps.read()?;
    let (lines, longs): (Vec<_>, Vec<_>) = stamps.iter().cloned().partition(|stamp| stamp.tag.starts_with('0'));
    slotline_tests::check_line(&lines, &tags, 1)?;
    slotline_tests::check_line(&longs, &long, 1)?;
    for action in ["line.one", "long.run"] {
        for execution in world.executions(action).await? {
            let is_told = execution["earlier_attempts"].as_array().is_none_or(Vec::is_empty);
            ensure!(execution["status"] == "completed" && is_told, "{execution}");
        }
    }
    let pause = Duration::from_millis(longest_pause(&stamps));
    println!("the longest pause: {pause:?}");
    ensure!(pause <= PAUSE_MAX, "the line stood still for {pause:?}");
    Ok(())
}
