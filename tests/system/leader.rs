//! Leadership: only an executor that can do the whole job leads; and what waiting to lead costs the database.

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde_json::json;
use slotline_tests::{Conditions, eventually};

use crate::actions::Action;
use crate::message::{Message, tags};
use crate::world::{LATER, SOON, World};

const LINE: &str = "line.one";

fn requests(tags: &[String], sleep_ms: u64) -> Vec<Message> {
    let request = |tag: &String| Message::request(LINE, json!({"tag": tag, "sleep_ms": sleep_ms})).id(tag);
    tags.iter().map(request).collect()
}

/// Two executors, each with a way of its own to the broker.
async fn two_executors() -> anyhow::Result<World> {
    let line = World::with([Action::stamp(LINE, "limit = 1")]);
    line.broker_links().executors(2).workers(1, 4).long_lease().start().await
}

/// Waits until so many executions have ended, by the journal: over HTTP an executor without a broker might be the first
/// to answer.
async fn have_ended(world: &World, count: usize, within: Duration) -> anyhow::Result<()> {
    eventually(&format!("{count} have ended"), within, async || {
        let ended = world.sql("select count(*) from history").await?;
        if ended == count.to_string() { Ok(Some(())) } else { bail!("{ended}") }
    })
    .await
}

/// Waits until another than `old` leads.
async fn another_leads(world: &World, old: usize) -> anyhow::Result<usize> {
    eventually("another leads", SOON, async || Ok(world.leader().await?.filter(|leader| *leader != old))).await
}

async fn epoch(world: &World) -> anyhow::Result<i64> {
    Ok(world.sql("select epoch from leadership").await?.parse()?)
}

/// The answer of `/readyz?verbose` of one executor.
async fn readiness(world: &World, index: usize) -> anyhow::Result<String> {
    let url = format!("{}/readyz?verbose", world.executors[index].api_url());
    Ok(reqwest::get(url).await?.text().await?)
}

#[tokio::test]
async fn a_leader_that_dies_once_it_has_claimed_the_journal_leaves_the_next_one_no_doubt_of_it() -> anyhow::Result<()> {
    // A doubt would last one lease, and that is longer than all that is waited for here.
    let mut world = World::with([Action::stamp(LINE, "limit = 1")]).workers(1, 4).long_lease().start().await?;
    let all = tags(6);
    world.publish(&requests(&all[..3], 0)).await?;
    have_ended(&world, 3, LATER).await?;
    for point in ["executor.recovery.terms", "executor.recovery.claimed"] {
        let before = epoch(&world).await?;
        world.executors[0].kill()?;
        world.start_executor_that_dies_at(point)?;
        let dying = world.executors.last_mut().context("it was just started")?;
        eventually("it dies", SOON, async || Ok((!dying.is_running()?).then_some(()))).await?;
        ensure!(epoch(&world).await? > before, "it has not led");
        world.executors.pop();
        world.start_executor_again(0)?;
        eventually("the next one leads", SOON, async || world.leader().await).await?;
        let log = world.executors[0].log();
        ensure!(!log.contains("nothing is granted"), "{point}: {log}");
    }
    world.publish(&requests(&all[3..], 0)).await?;
    have_ended(&world, all.len(), LATER).await?;
    ensure!(!world.verified().await?.contains("REWOUND"), "a doubt was settled");
    world.check_line(LINE, &all, 1).await
}

#[tokio::test]
async fn a_leader_whose_own_broker_is_cut_or_silent_hands_over_and_leads_again_only_with_one() -> anyhow::Result<()> {
    let world = two_executors().await?;
    let mut all = Vec::new();
    for (round, conditions) in [Conditions::Down, Conditions::HalfOpen].into_iter().enumerate() {
        let old = eventually("one leads", SOON, async || world.leader().await).await?;
        world.broker_links[old].set(conditions);
        let new = another_leads(&world, old).await?;
        let more: Vec<String> = (0..20).map(|n| format!("{round}-{n:02}")).collect();
        world.publish(&requests(&more, 5)).await?;
        all.extend(more);
        have_ended(&world, all.len(), LATER).await?;
        eventually("the one without a broker says so", SOON, async || {
            let said = readiness(&world, old).await?;
            if said.contains("does not seek leadership") { Ok(Some(())) } else { bail!("{said}") }
        })
        .await?;
        let led = epoch(&world).await?;
        world.broker_links[old].set(Conditions::Normal);
        eventually("it has a broker again", SOON, async || {
            let said = readiness(&world, old).await?;
            if said.contains("does not seek") { bail!("{said}") } else { Ok(Some(())) }
        })
        .await?;
        ensure!(world.leader().await? == Some(new) && epoch(&world).await? == led, "the new leader goes on");
    }
    world.check_line(LINE, &all, 1).await
}

#[tokio::test]
async fn a_question_put_to_the_other_executor_as_the_leader_dies_is_answered() -> anyhow::Result<()> {
    let mut world = two_executors().await?;
    let leader = world.leader().await?.context("one leads")?;
    let other = world.executors[1 - leader].api_url().to_owned();
    world.executors[leader].kill()?;
    // The question goes to the queue of the dead leader, and must not wait there until its client is refused.
    for path in ["queues", "workers"] {
        let answer = reqwest::get(format!("{other}/api/v1/{path}")).await?;
        ensure!(answer.status().is_success(), "{path}: {} {}", answer.status(), answer.text().await?);
    }
    Ok(())
}

#[tokio::test]
async fn an_executor_that_the_broker_refuses_does_not_lead_though_it_came_first() -> anyhow::Result<()> {
    let mut world = World::with([Action::stamp(LINE, "limit = 1")]).workers(1, 4).start().await?;
    let vhost = world.vhost()?.to_owned();
    let user = format!("late-{vhost}");
    world.rabbit.ctl(&["add_user", &user, "secret"]).await?;
    world.rabbit.ctl(&["set_permissions", "--vhost", &vhost, &user, ".*", ".*", ".*"]).await?;
    world.start_executor_as(None, Some(&format!("{user}:secret")))?;
    eventually("it is let in", SOON, async || {
        Ok(world.executors[1].log().contains("connected to the broker").then_some(()))
    })
    .await?;
    world.start_executor()?;
    // A process that was let in once waits out any change of its user.
    world.rabbit.ctl(&["change_password", &user, "another"]).await?;
    world.rabbit.close_connections(&["close_all_user_connections", &user, "the password is another"]).await?;
    // The leader ends.
    eventually("the refused one says so", SOON, async || {
        let said = readiness(&world, 1).await.unwrap_or_default();
        Ok(said.contains("does not seek leadership").then_some(()))
    })
    .await?;
    world.executors[0].kill()?;
    let leader = another_leads(&world, 0).await?;
    ensure!(leader == 2, "{leader}");
    let all = tags(10);
    world.publish(&requests(&all, 5)).await?;
    have_ended(&world, 10, SOON).await
}

#[tokio::test]
async fn where_no_executor_has_a_broker_no_epoch_follows_another_and_no_run_is_lost() -> anyhow::Result<()> {
    let world = two_executors().await?;
    let all = tags(20);
    world.publish(&requests(&all[..10], 20)).await?;
    world.publish(&requests(&all[10..11], 20_000)).await?;
    world.stamps.started(11, LATER).await?;
    let before = epoch(&world).await?;
    for link in &world.broker_links {
        link.set(Conditions::Down);
    }
    eventually("no executor leads", SOON, async || Ok(world.leader().await?.is_none().then_some(()))).await?;
    for index in 0..2 {
        eventually("each says so", SOON, async || {
            Ok(readiness(&world, index).await?.contains("does not seek leadership").then_some(()))
        })
        .await?;
    }
    world.publish(&requests(&all[11..], 20)).await?;
    world.stamps.ended(11, LATER).await?;
    ensure!(epoch(&world).await? == before, "no executor could have led");
    for link in &world.broker_links {
        link.set(Conditions::Normal);
    }
    world.settled(LINE, all.len(), LATER).await?;
    ensure!(epoch(&world).await? == before + 1, "{} after {before}", epoch(&world).await?);
    world.check_line(LINE, &all, 1).await
}

#[tokio::test]
async fn a_leader_that_may_no_longer_write_leaves_it_to_one_that_may() -> anyhow::Result<()> {
    let mut world = World::with([Action::stamp(LINE, "limit = 1")]).workers(1, 4).start().await?;
    let name = format!("writer_{}", std::process::id());
    world.sql(&format!("create role {name} login; grant all on all tables in schema public to {name}; grant all on schema public to {name}")).await?;
    world.start_executor_as(Some(&name), None)?;
    eventually("the other waits", SOON, async || {
        let waits =
            format!("select count(*) from pg_stat_activity where usename = '{name}' and query like '%try_advisory%'");
        Ok((world.sql(&waits).await? == "1").then_some(()))
    })
    .await?;
    world.executors[0].kill()?;
    another_leads(&world, 0).await?;
    world.start_executor()?;
    let all = tags(20);
    world.publish(&requests(&all[..10], 5)).await?;
    have_ended(&world, 10, SOON).await?;
    world.sql(&format!("revoke insert, update, delete on all tables in schema public from {name}")).await?;
    world.publish(&requests(&all[10..], 5)).await?;
    have_ended(&world, 20, SOON).await?;
    ensure!(world.leader().await? == Some(2), "{:?}", world.leader().await?);
    let settled = epoch(&world).await?;
    eventually("the one that may not write says so", SOON, async || {
        let said = readiness(&world, 1).await?;
        if said.contains("lacks rights") { Ok(Some(())) } else { bail!("{said}") }
    })
    .await?;
    ensure!(epoch(&world).await? == settled, "the healthy leader goes on");
    Ok(())
}

/// A snapshot or a transaction that is open for longer keeps dead rows from being vacuumed.
const OPEN_MAX: Duration = Duration::from_secs(3);

#[tokio::test]
async fn no_session_of_an_executor_holds_a_snapshot_at_rest_or_under_load() -> anyhow::Result<()> {
    let world = World::with([Action::stamp(LINE, "limit = 2")]).executors(3).workers(1, 4).start().await?;
    let open = "select coalesce(max(extract(epoch from clock_timestamp() - xact_start)), 0), \
        count(*) filter (where backend_xmin is not null and clock_timestamp() - query_start > interval '3 s'), \
        count(*) from pg_stat_activity where datname = current_database() and application_name = 'slotline'";
    let watch = async |until: Duration| {
        let since = Instant::now();
        while since.elapsed() < until {
            let told = world.sql(open).await?;
            let columns: Vec<&str> = told.split('|').collect();
            let [oldest, held, sessions] = columns[..] else { bail!("{told}") };
            ensure!(sessions.parse::<u32>()? >= 3, "their sessions are seen: {told}");
            ensure!(oldest.parse::<f64>()? < OPEN_MAX.as_secs_f64() && held == "0", "{told}");
        }
        Ok(())
    };
    watch(2 * OPEN_MAX).await.context("at rest")?;
    let all = tags(300);
    world.publish(&requests(&all, 20)).await?;
    watch(2 * OPEN_MAX).await.context("under load")?;
    world.settled(LINE, all.len(), LATER).await
}
