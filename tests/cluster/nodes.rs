//! Each node in turn dies in mid-stream and comes back, whichever process is connected to it and whatever it holds.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::json;
use slotline_tests::{Stamp, eventually, now_ns};

use crate::actions::Action;
use crate::message::{Message, tags};
use crate::world::{LATER, SOON, World};

/// The longest time without a start, however a node dies.
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// How long a run lasts that must not be disturbed.
const LONG_RUN_MS: u64 = 25_000;

/// Waits for a start in the line after `since`, and returns its time.
async fn started_after(world: &World, since: u64) -> anyhow::Result<u64> {
    eventually("the line goes on", LATER, async || Ok(starts(&world.stamps.read()?).into_iter().find(|at| *at > since)))
        .await
}

/// When the executions of the line started; their tags are numbers.
fn starts(stamps: &[Stamp]) -> Vec<u64> {
    stamps.iter().filter(|stamp| is_of_line(stamp)).map(|stamp| stamp.started).collect()
}

fn is_of_line(stamp: &Stamp) -> bool {
    stamp.tag.starts_with('0')
}

fn longest_pause(starts: &[u64]) -> Duration {
    starts.windows(2).map(|pair| Duration::from_nanos(pair[1] - pair[0])).max().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn any_one_of_three_nodes_may_die_and_nothing_is_lost_repeated_reordered_or_run_again() -> anyhow::Result<()> {
    const NODES: usize = 3;
    const EACH: usize = 300;
    let actions = [Action::stamp("line.one", "limit = 1\nrun_ahead = 0"), Action::stamp("long.run", "limit = 1")];
    let world = World::with(actions).cluster(NODES).executors(2).workers(2, 4).start().await?;
    let tags = tags(NODES * EACH);
    let request = |tag: &String| Message::request("line.one", json!({"tag": tag, "sleep_ms": 100})).id(tag);
    let long: Vec<String> = (0..NODES).map(|victim| format!("long-{victim}")).collect();
    for (victim, (stream, long)) in tags.chunks(EACH).zip(&long).enumerate() {
        let begun = now_ns();
        let run = Message::request("long.run", json!({"tag": long, "sleep_ms": LONG_RUN_MS})).id(long);
        world.publish(&[run]).await?;
        // A foreign publisher, which goes from node to node as well, and repeats what was not confirmed.
        let publisher = tokio::spawn(world.publisher(&stream.iter().map(request).collect::<Vec<_>>(), 0)?);
        started_after(&world, begun).await?;
        eventually("the long run has begun", SOON, async || {
            Ok(world.stamps.read()?.iter().any(|stamp| stamp.tag == *long).then_some(()))
        })
        .await?;
        world.node(victim).kill().await?;
        publisher.await.context("the publisher")??;
        world.settled("line.one", (victim + 1) * EACH, LATER).await?;
        world.settled("long.run", victim + 1, LATER).await?;
        let pause = longest_pause(&starts(&world.stamps.read()?)[victim * EACH..]);
        println!("node {victim} killed: the longest pause was {pause:?}");
        ensure!(pause <= PAUSE_MAX, "the line stood still for {pause:?} when node {victim} was killed");
        world.node(victim).start_again().await?;
        // What it missed is caught up before the next one dies: no node is the one that a majority hangs on.
        for node in 0..NODES {
            eventually("every queue has a majority without this node", LATER, async || {
                Ok(world.node(node).queues_can_do_without().await?.then_some(()))
            })
            .await?;
        }
    }
    let (line, long_runs): (Vec<_>, Vec<_>) = world.stamps.read()?.into_iter().partition(is_of_line);
    slotline_tests::check_line(&line, &tags, 1)?;
    slotline_tests::check_line(&long_runs, &long, 1)?;
    for action in ["line.one", "long.run"] {
        for execution in world.executions(action).await? {
            let is_told = execution["earlier_attempts"].as_array().is_none_or(Vec::is_empty);
            ensure!(execution["status"] == "completed" && is_told, "{execution}");
        }
    }
    Ok(())
}
