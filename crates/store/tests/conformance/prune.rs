//! History is kept for a while and then forgotten, the oldest first.

use std::sync::Arc;

use slotline_protocol::{ActionId, ExecutionId, Incarnation, WorkerName};
use slotline_scheduler::Lease;
use slotline_store::{ActionChange, Batch, Error, Story};
use uuid::Uuid;

use crate::world::{World, accepted, at, cases, ended, ends, lease, log, running, settled, story};

cases!(
    what_ended_before_is_forgotten_with_its_attempts,
    no_more_is_forgotten_than_was_asked_for,
    a_deleted_action_goes_with_its_last_execution,
    a_record_goes_with_its_execution_unless_more_of_it_is_awaited,
    who_leads_no_more_is_told_so,
);

async fn what_ended_before_is_forgotten_with_its_attempts(world: World) -> anyhow::Result<()> {
    let mut writer = world.writer().await?;
    let attempt = |id| ended(id, 1, Lease { scheduled_at: at(1), started_at: None, ..lease(id) }, at(2));
    let over = |n, second| (Incarnation(Uuid::from_u128(n)), WorkerName::new("w").expect("valid"), at(second));
    let batch = Batch {
        accepted: (1..=4).map(accepted).collect(),
        live: vec![running(4)],
        attempts: (1..=4).map(attempt).collect(),
        settled: (1..=3).map(settled).map(Arc::new).collect(),
        ended_incarnations: vec![over(1, 3_000), over(2, 3_009)],
        ..Batch::default()
    };
    writer.commit(batch).await?;
    assert_eq!(world.store.prune(writer.lead.epoch(), at(3_003), 100).await?, 2);
    assert_eq!(world.store.prune(writer.lead.epoch(), at(3_003), 100).await?, 0);
    for gone in [1, 2] {
        assert!(world.store.execution(ExecutionId(gone)).await?.is_none());
    }
    for kept in [3, 4] {
        assert_eq!(world.execution(kept).await?.earlier_attempts.len(), 1, "of {kept}");
    }
    // The leader goes on.
    writer.accept([5]).await?;
    drop(writer);
    let recovered = world.recovered().await?;
    assert_eq!(recovered.ended, [Incarnation(Uuid::from_u128(2))]);
    assert_eq!(recovered.live.len(), 2);
    Ok(())
}

async fn no_more_is_forgotten_than_was_asked_for(world: World) -> anyhow::Result<()> {
    let mut writer = world.writer().await?;
    const MANY: i64 = 2_500;
    writer.accept(1..=MANY).await?;
    writer.settle(1..=MANY).await?;
    assert_eq!(world.store.prune(writer.lead.epoch(), at(100_000), 2_300).await?, 2_300);
    assert!(world.store.execution(ExecutionId(2_300)).await?.is_none());
    assert!(world.store.execution(ExecutionId(2_301)).await?.is_some());
    assert_eq!(world.store.prune(writer.lead.epoch(), at(100_000), 2_300).await?, 200);
    Ok(())
}

async fn a_deleted_action_goes_with_its_last_execution(world: World) -> anyhow::Result<()> {
    let mut writer = world.writer().await?;
    let batch = Batch {
        accepted: vec![accepted(1)],
        settled: ends([settled(1)]),
        totals: vec![(ActionId(1), 1, 1)],
        ..Batch::default()
    };
    writer.commit(batch).await?;
    let delete = ActionChange::Delete { id: ActionId(1), at: at(10) };
    writer.commit(Batch { actions: vec![delete], ..Batch::default() }).await?;
    assert_eq!(world.store.prune(writer.lead.epoch(), at(20), 10).await?, 0);
    assert_eq!(world.execution(1).await?.action_ref.as_str(), "demo.echo");
    assert_eq!(world.store.prune(writer.lead.epoch(), at(9_000), 10).await?, 1);
    // Its id may not be taken again by chance: nothing of it is left, not even its totals.
    writer
        .commit(Batch { actions: vec![ActionChange::Put(crate::world::action(1, "demo.echo"))], ..Batch::default() })
        .await?;
    drop(writer);
    assert_eq!(world.recovered().await?.actions[0].total_enqueued, 0);
    Ok(())
}

async fn a_record_goes_with_its_execution_unless_more_of_it_is_awaited(world: World) -> anyhow::Result<()> {
    let mut writer = world.writer().await?;
    let awaiting = Story { awaits: Some(7), ..story(2, 1, 3) };
    let batch = Batch {
        accepted: (1..=4).map(accepted).collect(),
        settled: (1..=3).map(settled).map(Arc::new).collect(),
        events: (1..=4).flat_map(|id| (1..=3).map(move |number| log(id, number))).collect(),
        stories: vec![story(1, 1, 4), awaiting, story(3, 1, 4), story(4, 1, 3)],
        ..Batch::default()
    };
    writer.commit(batch).await?;
    // By the end of the second, the third is kept for its age and the second for its awaited events.
    assert_eq!(world.store.prune(writer.lead.epoch(), at(3_003), 100).await?, 1);
    for (table, kept) in [("SELECT count(*) FROM events", 9), ("SELECT count(*) FROM stories", 3)] {
        assert_eq!(world.count(table).await?.unwrap_or(kept), kept, "{table}");
    }
    assert!(world.store.events(ExecutionId(1), 0, 10).await?.is_none());
    let rest = Batch { events: vec![log(2, 4)], stories: vec![story(2, 1, 5)], ..Batch::default() };
    writer.commit(rest).await?;
    assert_eq!(world.store.prune(writer.lead.epoch(), at(9_000), 100).await?, 2);
    for (table, kept) in [("SELECT count(*) FROM events", 3), ("SELECT count(*) FROM stories", 1)] {
        assert_eq!(world.count(table).await?.unwrap_or(kept), kept, "{table}");
    }
    let living = world.store.events(ExecutionId(4), 0, 10).await?;
    assert_eq!(living.map(|page| page.events.len()), Some(3));
    Ok(())
}

async fn who_leads_no_more_is_told_so(world: World) -> anyhow::Result<()> {
    let mut writer = world.writer().await?;
    writer.accept([1]).await?;
    writer.settle([1]).await?;
    let old = writer.lead.epoch();
    drop(writer);
    let leader = world.lead().await?;
    let error = world.store.prune(old, at(9_000), 10).await.expect_err("another leads");
    assert!(matches!(error, Error::LeadershipOver), "{error:?}");
    assert_eq!(world.execution(1).await?.execution_id, ExecutionId(1));
    assert_eq!(world.store.prune(leader.lead.epoch(), at(9_000), 10).await?, 1);
    Ok(())
}
