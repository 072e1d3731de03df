//! Hosts whose wall clocks are hours apart. What is due is due by the database's clock, whichever executor leads.

use anyhow::{Context, bail, ensure};
use serde_json::json;
use slotline_tests::eventually;

use crate::actions::Action;
use crate::message::Message;
use crate::world::{SOON, World};

const QUEUE: &str = "clock.queue";
const RETRY: &str = "clock.retry";

/// One of a line runs, another waits; one has failed and waits for its next try.
async fn waiting(offset: &'static str) -> anyhow::Result<World> {
    let retry = "retry = { max_attempts = 3, backoff = \"3s\", backoff_max = \"3s\" }";
    World::with([
        Action::stamp(QUEUE, "limit = 1\nqueue_timeout = \"10m\""),
        Action::command(RETRY, retry, &["/bin/sh", "-c", "exit 3"]),
    ])
    .executors(2)
    .executor_clocks(&[offset])
    .workers(1, 4)
    .start()
    .await
}

async fn what_is_due_stays_due(offset: &'static str, named: &str) -> anyhow::Result<()> {
    let mut world = waiting(offset).await?;
    // The executor with the wrong clock leads.
    if world.leader().await? != Some(0) {
        world.executors[1].kill()?;
        eventually("the other leads", SOON, async || Ok((world.leader().await? == Some(0)).then_some(()))).await?;
        world.start_executor_again(1)?;
        world.ready().await?;
    }
    let gate = world.gate("go");
    let request = |tag: &str| Message::request(QUEUE, json!({"tag": tag, "gate": gate})).id(tag);
    world.publish(&[request("first"), request("second")]).await?;
    world.stamps.started(1, SOON).await?;
    let failing = world.submit(RETRY, json!({})).await?;
    eventually("it has failed once", SOON, async || {
        let execution = world.execution(failing).await?;
        Ok((execution["attempt"].as_i64() >= Some(1) && execution["status"] == "queued").then_some(()))
    })
    .await?;
    let said = reqwest::get(format!("{}/readyz?verbose", world.executors[0].api_url())).await?.text().await?;
    ensure!(said.contains(named), "{named}: {said}");

    world.executors[0].kill()?;
    eventually("the other leads", SOON, async || Ok((world.leader().await? == Some(1)).then_some(()))).await?;
    let failed = world.reaches(failing, "failed").await?;
    ensure!(failed["attempt"] == 3, "{failed}");
    let queued = world.executions(QUEUE).await?;
    ensure!(queued.len() == 2 && queued[1]["status"] == "queued", "{queued:?}");
    world.open("go")?;
    world.settled(QUEUE, 2, SOON).await?;
    // Every time is by the database's clock.
    let off = "select coalesce(max(greatest(abs(extract(epoch from enqueued_at - now())), \
        abs(extract(epoch from started_at - now())), abs(extract(epoch from ended_at - now())))), 0) from history";
    let off: f64 = world.sql(off).await?.parse()?;
    ensure!(off < 1800.0, "a stamp is {off} s away");
    Ok(())
}

#[tokio::test]
async fn after_a_leader_whose_clock_was_two_hours_behind_what_waits_is_due_when_it_was() -> anyhow::Result<()> {
    what_is_due_stays_due("-2h", "7200.0 s behind the database's").await
}

#[tokio::test]
async fn after_a_leader_whose_clock_was_two_hours_ahead_what_waits_is_due_when_it_was() -> anyhow::Result<()> {
    what_is_due_stays_due("+2h", "7200.0 s ahead of the database's").await
}

#[tokio::test]
async fn a_worker_whose_clock_is_off_is_named_and_its_stamps_are_in_the_leaders_time() -> anyhow::Result<()> {
    let world = World::with([Action::stamp(QUEUE, "limit = 1")]).workers(1, 4).worker_clock("-2h").start().await?;
    eventually("its clock is named", SOON, async || {
        let workers = world.get("/api/v1/workers").await?;
        let off = workers[0]["clock_ahead_seconds"].as_f64().unwrap_or_default();
        if (off + 7200.0).abs() < 60.0 { Ok(Some(())) } else { bail!("{workers}") }
    })
    .await?;
    let shown = world.slotline(&["workers"]).await?;
    let shown = String::from_utf8(shown.stdout)?;
    ensure!(shown.contains("s behind"), "{shown}");
    let id = world.submit(QUEUE, json!({"tag": "one", "sleep_ms": 1500})).await?;
    world.reaches(id, "completed").await?;
    let stamps = "select extract(epoch from started_at - scheduled_at), extract(epoch from ended_at - started_at), \
        extract(epoch from now() - ended_at) from history";
    let told = world.sql(stamps).await?;
    let told: Vec<f64> = told.split('|').map(str::parse).collect::<Result<_, _>>().context(told.clone())?;
    let [waited, ran, since] = told[..] else { bail!("{told:?}") };
    ensure!(
        (-1.1..600.0).contains(&waited) && (1.4..600.0).contains(&ran) && (-1.1..600.0).contains(&since),
        "{told:?}"
    );
    Ok(())
}
