//! What a new leader reads.

use slotline_protocol::{ExecutionId, Incarnation, WorkerName};
use slotline_scheduler::Snapshot;
use slotline_store::{Accepted, Batch, Error, Store};
use uuid::Uuid;

use crate::world::{World, accepted, at, cases, queued};

cases! {
    live_executions_come_in_the_order_of_their_places,
    incarnations_that_ended_stay_ended,
    a_fresh_journal_is_empty,
}

async fn live_executions_come_in_the_order_of_their_places(world: World) -> anyhow::Result<()> {
    let mut writer = world.writer().await?;
    writer.accept([3, 1, 2, 4]).await?;
    // The first goes to the back of the line.
    writer.commit(Batch { live: vec![Snapshot { place: 5, ..queued(1) }], ..Batch::default() }).await?;
    writer.settle([3]).await?;
    drop(writer);
    let places: Vec<_> = world.recovered().await?.live.iter().map(|live| (live.place, live.id.0)).collect();
    assert_eq!(places, [(2, 2), (4, 4), (5, 1)]);
    Ok(())
}

async fn incarnations_that_ended_stay_ended(world: World) -> anyhow::Result<()> {
    let (first, second) = (Incarnation(Uuid::from_u128(1)), Incarnation(Uuid::from_u128(2)));
    let worker = WorkerName::new("worker-1")?;
    let mut writer = world.writer().await?;
    let ended = |ended_incarnations| Batch { ended_incarnations, ..Batch::default() };
    writer.commit(ended(vec![(first, worker.clone(), at(1)), (second, worker.clone(), at(2))])).await?;
    writer.commit(ended(vec![(first, worker, at(3))])).await?;
    drop(writer);
    assert_eq!(world.recovered().await?.ended, [first, second]);
    Ok(())
}

async fn a_fresh_journal_is_empty(world: World) -> anyhow::Result<()> {
    let recovered = world.recovered().await?;
    assert!(recovered.live.is_empty() && recovered.actions.is_empty() && recovered.ended.is_empty());
    Ok(())
}

/// Writes to the database behind the journal's back.
async fn tamper(world: &World, statement: &'static str) -> anyhow::Result<()> {
    use sqlx::Connection;
    if world.url.starts_with("postgres") {
        sqlx::query(statement).execute(&mut sqlx::PgConnection::connect(&world.url).await?).await?;
    } else {
        sqlx::query(statement).execute(&mut sqlx::SqliteConnection::connect(&world.url).await?).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_row_that_no_version_wrote_is_named_and_not_guessed_at() -> anyhow::Result<()> {
    for world in [World::postgres().await?, World::sqlite_file().await?] {
        let mut writer = world.writer().await?;
        let keyed = Accepted { snapshot: Snapshot { key: Some("k".into()), ..queued(2) }, ..accepted(2) };
        writer.commit(Batch { accepted: vec![accepted(1), keyed], ..Batch::default() }).await?;
        drop(writer);
        tamper(&world, "UPDATE live SET status = 'sleeping' WHERE id = 2").await?;
        let error = world.store.lead("test").await?.recover().await.expect_err("unknown status");
        assert!(
            matches!(&error, Error::UnknownStatus { id: ExecutionId(2), found } if found == "sleeping"),
            "{error:?}"
        );
        tamper(&world, "UPDATE live SET status = 'running', fence = 4 WHERE id = 2").await?;
        let error = world.store.execution(ExecutionId(2)).await.map(|_| ());
        assert!(error.is_ok(), "shown as it is: {error:?}");
        let error = world.store.lead("test").await?.recover().await.expect_err("half a lease");
        assert!(matches!(error, Error::Corrupt { column: "worker", id: 2, .. }), "{error:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_journal_in_a_file_outlives_its_store() -> anyhow::Result<()> {
    let world = World::sqlite_file().await?;
    world.writer().await?.accept([1, 2]).await?;
    world.store.close().await;
    let again = Store::open(&world.url).await?;
    again.migrate().await?;
    assert_eq!(again.lead("next").await?.recover().await?.live, [queued(1), queued(2)]);
    Ok(())
}
