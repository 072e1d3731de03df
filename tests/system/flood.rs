//! One run that reports as fast as it can, and its effect on all others.

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};
use slotline_tests::eventually;

use crate::actions::Action;
use crate::follower::{Follower, messages};
use crate::message::{Message, tags};
use crate::world::{LATER, SOON, World, list};

/// Reports of the flood, at least.
const FLOOD: u64 = 100_000;
/// Events of the flood in a second: the recorded messages, each with the gap before it, and some more at both ends.
const TOLD_IN_A_SECOND: f64 = 45.0;
/// Of one execution's events at least the newest 1000 are kept, and an eighth more before the oldest are forgotten.
const KEPT_MOST: usize = 1000 + 1000 / 8 + 2;

#[tokio::test]
async fn a_run_that_floods_costs_the_others_on_its_worker_no_completion_and_no_heartbeat() -> anyhow::Result<()> {
    let actions = [Action::reports("talk.flood", ""), Action::stamp("line.one", "limit = 1")];
    let world = World::with(actions).workers(1, 4).short_lease().start().await?;
    let before = world.get("/api/v1/workers").await?[0]["incarnation"].clone();
    let flood = world.submit("talk.flood", json!({"steps": [{"flood": {"until": "end", "rate": 100_000}}]})).await?;
    let follower = Follower::new(&world.addresses(), flood)?;
    let mut count = follower.count();
    let client = tokio::spawn(follower.until_settled(|| (usize::MAX, 0)));
    count.reaches(10).await?;

    let tags = tags(200);
    let messages_of_line: Vec<_> = tags.iter().map(|tag| Message::request("line.one", json!({"tag": tag}))).collect();
    world.publish(&messages_of_line).await?;
    world.settled("line.one", tags.len(), LATER).await?;
    world.check_line("line.one", &tags, 1).await?;
    let workers = world.get("/api/v1/workers").await?;
    assert_eq!(list(&workers)?.len(), 1, "{workers}");
    assert_eq!(workers[0]["incarnation"], before, "its heartbeats came in time, though its lease is short");
    assert_eq!(world.execution(flood).await?["status"], "running");
    // However slow the machine is, the run goes on until it has reported this often.
    eventually("the run has flooded", LATER, async || {
        let events = world.events(flood).await?;
        let newest = messages(&events).last().and_then(|message| message.strip_prefix("n ")?.parse().ok());
        if newest.is_some_and(|written: u64| written >= FLOOD) { Ok(Some(())) } else { bail!("{newest:?} reports") }
    })
    .await?;
    world.open("end")?;

    let (heard, _) = client.await??;
    let events: Vec<&Value> = heard.iter().map(|heard| &heard.data).collect();
    let execution = world.execution(flood).await?;
    assert_eq!((&execution["status"], &execution["attempt"]), (&json!("completed"), &json!(1)), "{execution}");
    let written = execution["result"]["written"].as_u64().context("how many")?;
    println!("{written} reports, {} events", events.len());
    ensure!(written >= FLOOD, "{written} are no flood");
    // Every message is recorded or counted in a gap.
    let told = messages(events.iter().copied());
    let gaps = events.iter().filter(|event| event["kind"] == "gap" && event["reason"] == "merged");
    let merged: u64 = gaps.filter_map(|gap| gap["count"].as_u64()).sum();
    assert_eq!(told.len() as u64 + merged, written);
    assert_eq!(told.last(), Some(&format!("n {written}").as_str()));

    let run_seconds = eventually("the run's time is known", SOON, async || {
        let stats = world.stats("talk.flood").await?;
        Ok(stats["run_seconds"]["p50"].as_f64())
    })
    .await?;
    let most = TOLD_IN_A_SECOND * (run_seconds + 2.0);
    ensure!((events.len() as f64) < most, "{} events in {run_seconds} s", events.len());
    let record = world.whole_record(flood).await?;
    ensure!(record.len() <= KEPT_MOST, "{} are kept", record.len());
    Ok(())
}
