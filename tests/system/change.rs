//! Limits, pauses and workers that change under a backlog.

use std::time::{Duration, Instant};

use anyhow::bail;
use serde_json::json;
use slotline_tests::{eventually, most_at_once, now_ns};

use crate::actions::Action;
use crate::message::{Message, tags};
use crate::world::{LATER, SOON, World};

/// How long nothing must happen for "nothing happens" to be believed.
const WATCHED: Duration = Duration::from_secs(2);

impl World {
    async fn active(&self, action: &str, count: u64) -> anyhow::Result<()> {
        eventually(&format!("{count} run"), SOON, async || {
            let stats = self.stats(action).await?;
            if stats["active_count"] == count { Ok(Some(())) } else { bail!("{stats}") }
        })
        .await
    }

    fn running(&self) -> anyhow::Result<usize> {
        Ok(self.stamps.read()?.iter().filter(|stamp| stamp.ended.is_none()).count())
    }
}

#[tokio::test]
async fn limits_and_pauses_change_at_once_under_a_backlog_of_ten_thousand() -> anyhow::Result<()> {
    const BACKLOG: usize = 10_000;
    let world = World::with([Action::stamp("line.one", "limit = 1")]).workers(2, 8).start().await?;
    let tags = tags(BACKLOG);
    let bulks: Vec<_> = tags
        .chunks(1000)
        .map(|tags| Message::bulk("line.one", tags.iter().map(|tag| json!({"tag": tag, "sleep_ms": 600}))))
        .collect();
    world.publish(&bulks).await?;
    eventually("all are in line", SOON, async || {
        let stats = world.stats("line.one").await?;
        if stats["total_enqueued"] == BACKLOG { Ok(Some(())) } else { bail!("{stats}") }
    })
    .await?;
    world.stamps.ended(3, LATER).await?;

    let limit = async |limit: u32| world.ask("PATCH", "/api/v1/actions/line.one", Some(json!({"limit": limit}))).await;
    let raised = now_ns();
    limit(8).await?;
    eventually("eight run", SOON, async || Ok((world.running()? == 8).then_some(()))).await?;
    let lowered = now_ns();
    limit(2).await?;
    world.active("line.one", 2).await?;
    let settled = now_ns();
    world.stamps.ended(world.stamps.read()?.len() + 6, LATER).await?;

    world.ask("POST", "/api/v1/actions/line.one/pause", None).await?;
    world.active("line.one", 0).await?;
    let before = world.stamps.read()?;
    let watched = Instant::now();
    while watched.elapsed() < WATCHED {
        assert_eq!(world.stamps.read()?.len(), before.len(), "an execution of a paused action started");
        assert_eq!(world.stats("line.one").await?["paused"], true);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    world.ask("POST", "/api/v1/actions/line.one/resume", None).await?;
    world.stamps.ended(before.len() + 6, LATER).await?;
    // Once more, so that of two granted together the later is not read without the earlier.
    world.ask("POST", "/api/v1/actions/line.one/pause", None).await?;
    world.active("line.one", 0).await?;
    let stamps = world.stamps.read()?;

    // In each phase the limit of that phase held, judged by what had started in it; and the order held throughout.
    let within = |from: u64, until: u64| {
        most_at_once(stamps.iter().filter(|stamp| stamp.started < until && stamp.last_seen > from))
    };
    assert_eq!(within(0, raised), 1);
    assert_eq!(within(raised, lowered), 8);
    assert_eq!(within(settled, u64::MAX), 2);
    let mut granted: Vec<_> = stamps.iter().collect();
    granted.sort_by_key(|stamp| stamp.fence);
    let order: Vec<_> = granted.iter().map(|stamp| stamp.tag.clone()).collect();
    assert_eq!(order, tags[..order.len()]);
    let stats = world.stats("line.one").await?;
    assert!(stats["queue_length"].as_u64() > Some(9_000), "{stats}");
    Ok(())
}

#[tokio::test]
async fn an_execution_without_a_worker_shows_that_and_starts_when_one_comes() -> anyhow::Result<()> {
    let mut world = World::with([Action::stamp("line.one", "limit = 1")]).workers(0, 2).start().await?;
    let id = world.submit("line.one", json!({"tag": "patient"})).await?;
    let execution = world.execution(id).await?;
    assert_eq!(execution["status"], "queued", "{execution}");
    assert_eq!(execution["waiting"]["reason"], "no_worker", "{execution}");
    world.start_worker("late")?;
    world.reaches(id, "completed").await?;
    Ok(())
}

#[tokio::test]
async fn a_worker_asked_to_end_finishes_what_runs_and_leaves_the_rest_to_others() -> anyhow::Result<()> {
    let mut world = World::with([Action::stamp("line.two", "limit = 2")]).workers(2, 1).start().await?;
    let tags = tags(12);
    let request = |tag: &String| Message::request("line.two", json!({"tag": tag, "sleep_ms": 300}));
    world.publish(&tags.iter().map(request).collect::<Vec<_>>()).await?;
    world.stamps.started(2, SOON).await?;
    let status = world.workers[0].stop(SOON).await?;
    assert!(status.success(), "{status}");
    world.settled("line.two", tags.len(), LATER).await?;
    world.check_line("line.two", &tags, 2).await?;
    world.workers_known(1).await
}

#[tokio::test]
async fn what_ended_while_no_executor_was_there_is_reported_by_the_next_process_of_its_worker() -> anyhow::Result<()> {
    let mut world = World::with([Action::stamp("line.five", "limit = 5")]).workers(1, 5).long_lease().start().await?;
    let tags = tags(5);
    let request = |tag: &String| Message::request("line.five", json!({"tag": tag, "sleep_ms": 3000}));
    world.publish(&tags.iter().map(request).collect::<Vec<_>>()).await?;
    world.stamps.started(tags.len(), SOON).await?;
    world.executors[0].kill()?;
    world.stamps.ended(tags.len(), SOON).await?;

    let status = world.workers[0].stop(SOON).await?;
    let log = world.workers[0].log();
    assert!(status.success() && log.contains("kept for the next worker of this name"), "{status}:\n{log}");
    let legacy = world.legacy_of("worker-0");
    assert!(legacy.exists(), "nothing at {}", legacy.display());
    world.workers.clear();
    world.start_worker("worker-0")?;
    world.start_executor_again(0)?;
    world.ready().await?;
    world.settled("line.five", tags.len(), LATER).await?;
    world.check_line("line.five", &tags, 5).await?;
    assert_eq!(world.stamps.read()?.len(), tags.len(), "none ran again");
    eventually("nothing is kept any more", SOON, async || Ok((!legacy.exists()).then_some(()))).await
}
