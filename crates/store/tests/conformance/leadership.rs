//! One leader at a time, and nothing written by any other.

use std::time::Duration;

use slotline_protocol::{Epoch, ExecutionId};
use slotline_scheduler::Counters;
use slotline_store::{Batch, CommitError, Error, Rewind, Store};
use sqlx::Connection;
use tokio::time::timeout;

use crate::world::{World, accepted, cases, queued};

/// Long enough for anything that happens at once.
const SOON: Duration = Duration::from_secs(20);
/// How long the test waits for something that must not happen.
const A_WHILE: Duration = Duration::from_millis(300);

cases!(
    every_leader_has_a_higher_epoch,
    a_second_leader_waits_until_the_first_lets_go,
    a_leader_that_is_dropped_lets_go,
    one_who_gave_up_waiting_leads_nothing,
    batches_are_chained,
    a_leader_that_pings_goes_on,
    the_longest_lease_is_remembered_until_nobody_goes_by_it,
    a_leader_learns_how_far_the_last_one_without_doubt_had_come,
    a_doubt_lasts_from_leader_to_leader_until_it_is_settled,
    what_a_rewind_lost_is_told_by_verify,
);

async fn every_leader_has_a_higher_epoch(world: World) -> anyhow::Result<()> {
    let mut last = None;
    for _ in 0..3 {
        let lead = world.store.lead("test").await?;
        assert!(last < Some(lead.epoch()));
        last = Some(lead.epoch());
    }
    Ok(())
}

async fn a_second_leader_waits_until_the_first_lets_go(world: World) -> anyhow::Result<()> {
    let mut first = world.writer().await?;
    let store = world.store.clone();
    let mut second = tokio::spawn(async move { store.lead("second").await });
    assert!(timeout(A_WHILE, &mut second).await.is_err());
    first.accept([1]).await?;
    first.lead.release().await;
    let mut second = timeout(SOON, second).await???;
    assert_eq!(second.recover().await?.live, [queued(1)]);
    Ok(())
}

async fn a_leader_that_is_dropped_lets_go(world: World) -> anyhow::Result<()> {
    let first = world.writer().await?;
    let store = world.store.clone();
    let second = tokio::spawn(async move { store.lead("second").await });
    drop(first);
    timeout(SOON, second).await???;
    Ok(())
}

async fn one_who_gave_up_waiting_leads_nothing(world: World) -> anyhow::Result<()> {
    let mut first = world.writer().await?;
    assert!(timeout(A_WHILE, world.store.lead("impatient")).await.is_err());
    first.accept([1]).await?;
    let epoch = first.lead.epoch();
    first.lead.release().await;
    let third = timeout(SOON, world.store.lead("third")).await??;
    assert_eq!(third.epoch().0, epoch.0 + 1, "the impatient one took an epoch");
    Ok(())
}

async fn batches_are_chained(world: World) -> anyhow::Result<()> {
    for numbers in [&[2][..], &[1, 1], &[1, 3], &[0]] {
        let mut writer = world.lead().await?;
        let (last, before) = numbers.split_last().expect("not empty");
        for &number in before {
            writer.lead.commit(&Batch { number, ..Batch::default() }).await?;
        }
        let batch = Batch { number: *last, accepted: vec![accepted(1)], ..Batch::default() };
        let error = writer.lead.commit(&batch).await.expect_err("out of turn");
        assert!(matches!(error, CommitError::Unknown(_)), "{numbers:?}: {error:?}");
    }
    assert!(world.recovered().await?.live.is_empty());
    Ok(())
}

async fn a_leader_that_pings_goes_on(world: World) -> anyhow::Result<()> {
    let mut writer = world.writer().await?;
    writer.lead.ping().await?;
    writer.accept([1]).await?;
    world.store.ping().await?;
    Ok(())
}

#[tokio::test]
async fn a_deposed_leader_commits_nothing() -> anyhow::Result<()> {
    for world in [World::postgres().await?, World::sqlite_file().await?] {
        let mut old = world.writer().await?;
        // The next one leads although the old one never gave up: it need not notice that its lock is lost.
        if world.url.starts_with("postgres") {
            let mut connection = sqlx::PgConnection::connect(&world.url).await?;
            sqlx::query("UPDATE leadership SET epoch = epoch + 1, batch = 0").execute(&mut connection).await?;
        } else {
            Store::open(&world.url).await?.lead("new").await?;
        }
        let ours = old.lead.epoch();
        let error = old.accept([1]).await.expect_err("deposed");
        let CommitError::Deposed { ours: named, theirs } = error else {
            anyhow::bail!("not deposed: {error:?}");
        };
        assert_eq!((named, theirs.0), (ours, ours.0 + 1));
        let error = old.accept([1]).await.expect_err("over");
        assert!(matches!(error, CommitError::Unknown(Error::LeadershipOver)), "{error:?}");
        assert!(matches!(old.lead.ping().await, Err(Error::LeadershipOver)));
        drop(old);
        assert!(world.recovered().await?.live.is_empty());
    }
    Ok(())
}

#[tokio::test]
async fn a_commit_that_is_given_up_ends_the_leadership() -> anyhow::Result<()> {
    for world in [World::postgres().await?, World::sqlite_file().await?, World::sqlite_memory().await?] {
        let mut writer = world.writer().await?;
        // Polled once, so that it has begun, and dropped.
        let begun = timeout(Duration::ZERO, writer.accept(1..=5_000)).await;
        if begun.is_err() {
            let error = writer.accept([9_000]).await.expect_err("over");
            assert!(matches!(error, CommitError::Unknown(Error::LeadershipOver)), "{error:?}");
        }
        drop(writer);
        // Whole or not at all.
        let live = timeout(SOON, world.recovered()).await??.live.len();
        assert!(live == 0 || live == 5_000, "{live}");
    }
    Ok(())
}

async fn the_longest_lease_is_remembered_until_nobody_goes_by_it(world: World) -> anyhow::Result<()> {
    let (short, long) = (Duration::from_secs(20), Duration::from_secs(60));
    for (own, longest) in [(short, short), (long, long), (short, long)] {
        let mut lead = world.store.lead("test").await?;
        assert_eq!(lead.take_terms(own, None).await?, longest);
    }
    let mut lead = world.store.lead("test").await?;
    lead.take_terms(short, None).await?;
    lead.forget_terms(short).await?;
    lead.commit(&Batch { number: 1, ..Batch::default() }).await?;
    drop(lead);
    assert_eq!(world.store.lead("test").await?.take_terms(short, None).await?, short);
    Ok(())
}

async fn a_leader_learns_how_far_the_last_one_without_doubt_had_come(world: World) -> anyhow::Result<()> {
    let mut first = world.writer().await?;
    let epoch = first.lead.epoch();
    let identity = first.lead.standing().await?.lineage.identity;
    first.lead.take_terms(Duration::ZERO, None).await?;
    first.accept([1]).await?;
    first.lead.release().await;
    // A leader that dies before it has judged does not count as the former one.
    for _ in 0..2 {
        let mut lead = world.store.lead("test").await?;
        let standing = lead.standing().await?;
        assert_eq!((standing.former.0, standing.doubt.as_deref()), (epoch, Some("")));
        assert!(standing.former.1 > 0, "the batch that was committed last");
        assert_eq!((standing.lineage.identity, standing.lineage.generation), (identity, 1));
        lead.release().await;
    }
    Ok(())
}

async fn a_doubt_lasts_from_leader_to_leader_until_it_is_settled(world: World) -> anyhow::Result<()> {
    let mut first = world.writer().await?;
    first.lead.take_terms(Duration::ZERO, None).await?;
    first.accept([1]).await?;
    let (epoch, next_id) = (first.lead.epoch(), first.lead.standing().await?.counters.next_id);
    let above = Epoch(epoch.0 + 100);
    first.lead.doubt("a worker shows more", above).await?;
    assert!(first.accept([2]).await.is_err(), "it has stood down");
    first.lead.release().await;
    let mut second = world.store.lead("test").await?;
    assert!(second.epoch() > above);
    let standing = second.standing().await?;
    assert_eq!(standing.doubt.as_deref(), Some("a worker shows more"));
    assert_eq!(standing.floor.next_id, next_id);
    second.take_terms(Duration::ZERO, standing.doubt.as_deref()).await?;
    let counters = Counters { next_id: 500, next_fence: 600, next_action: 70 };
    let rewind = Rewind {
        generation: 4,
        reason: "a worker shows more".to_owned(),
        floor: standing.floor,
        next: counters,
        shown_id: ExecutionId(9),
        recovered: vec![ExecutionId(5), ExecutionId(7)],
    };
    second.settle(&rewind).await?;
    second.release().await;
    let mut third = world.store.lead("test").await?;
    let standing = third.standing().await?;
    assert_eq!((standing.doubt.as_deref(), standing.lineage.generation), (Some(""), 4));
    assert_eq!((standing.counters, standing.floor), (counters, counters));
    assert_eq!(third.recover().await?.rewound_below, ExecutionId(500));
    Ok(())
}

async fn what_a_rewind_lost_is_told_by_verify(world: World) -> anyhow::Result<()> {
    let mut lead = world.store.lead("test").await?;
    let counters = Counters { next_id: 500, next_fence: 600, next_action: 70 };
    let floor = Counters { next_id: 3, next_fence: 3, next_action: 3 };
    let recovered = vec![ExecutionId(5)];
    let reason = "a worker shows more".to_owned();
    lead.settle(&Rewind { generation: 2, reason, floor, next: counters, shown_id: ExecutionId(9), recovered }).await?;
    let verdict = world.store.verify(None).await?;
    let [rewind] = &verdict.rewinds[..] else { anyhow::bail!("one rewind is told: {:?}", verdict.rewinds) };
    let sentence = rewind.sentence();
    for part in ["at most 6 executions", "executions 3 to 8", "1 of them", "[5]", "go on at 500", "a worker shows more"]
    {
        anyhow::ensure!(sentence.contains(part), "{part:?} is told: {sentence}");
    }
    Ok(())
}
