//! What only PostgreSQL does: sessions that end, servers that stop, plans, and settings found unfit.

use std::time::{Duration, Instant};

use slotline_store::{Batch, CommitError, Error, Store};
use slotline_tests::Postgres;
use sqlx::{Connection, PgConnection, Row};
use tokio::time::timeout;

use crate::world::{World, queued};

const SOON: Duration = Duration::from_secs(30);

async fn session(url: &str) -> anyhow::Result<PgConnection> {
    Ok(PgConnection::connect(url).await?)
}

/// Ends the session that holds the leader's lock in this database.
async fn end_the_leaders_session(world: &World) -> anyhow::Result<()> {
    let ended: i64 = sqlx::query_scalar(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_locks \
         WHERE locktype = 'advisory' AND granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
    )
    .fetch_one(&mut session(&world.url).await?)
    .await?;
    anyhow::ensure!(ended == 1, "{ended} leaders");
    Ok(())
}

#[tokio::test]
async fn a_leader_whose_session_dies_is_followed_at_once() -> anyhow::Result<()> {
    let world = World::postgres().await?;
    let mut first = world.writer().await?;
    first.accept([1]).await?;
    let store = world.store.clone();
    let second = tokio::spawn(async move { store.lead("second").await });
    end_the_leaders_session(&world).await?;
    let died = Instant::now();
    let mut second = timeout(SOON, second).await???;
    assert!(died.elapsed() < Duration::from_secs(1), "took {:?}", died.elapsed());
    let error = first.accept([2]).await.expect_err("no session");
    assert!(matches!(error, CommitError::Unknown(_)), "{error:?}");
    assert_eq!(second.recover().await?.live, [queued(1)]);
    Ok(())
}

#[tokio::test]
async fn a_silent_leader_loses_the_lock() -> anyhow::Result<()> {
    let world = World::postgres().await?;
    let mut frozen = world.writer().await?;
    let since = Instant::now();
    let _second = timeout(SOON, world.store.lead("second")).await??;
    assert!(since.elapsed() >= slotline_store::Leadership::SILENCE_MAX - Duration::from_secs(2));
    assert!(frozen.accept([1]).await.is_err());
    Ok(())
}

#[tokio::test]
async fn a_server_that_stops_ends_leadership_and_the_journal_outlives_it() -> anyhow::Result<()> {
    let server = Postgres::start().await?;
    let store = Store::open(&server.fresh_database("store").await?).await?;
    store.migrate().await?;
    let mut lead = store.lead("first").await?;
    lead.commit(&Batch { number: 1, accepted: vec![crate::world::accepted(1)], ..Batch::default() }).await?;
    let waiting = tokio::spawn({
        let store = store.clone();
        async move { store.lead("waiting").await }
    });
    server.restart().await?;
    assert!(lead.ping().await.is_err());
    let error = lead.commit(&Batch { number: 2, ..Batch::default() }).await.expect_err("no session");
    assert!(matches!(error, CommitError::Unknown(_)), "{error:?}");
    assert!(timeout(SOON, waiting).await??.is_err(), "who waited must hear of it");
    // The pool comes back by itself.
    store.ping().await?;
    let mut lead = store.lead("second").await?;
    assert_eq!(lead.recover().await?.live, [queued(1)]);
    Ok(())
}

#[tokio::test]
async fn a_read_only_database_is_not_led_on() -> anyhow::Result<()> {
    let world = World::postgres().await?;
    let mut lead = world.writer().await?;
    let name: String = sqlx::query_scalar("SELECT current_database()").fetch_one(&mut session(&world.url).await?).await?;
    let server = Postgres::shared().await?;
    server.psql(&format!("alter database \"{name}\" set default_transaction_read_only = on")).await?;
    assert!(matches!(world.store.lead("test").await, Err(Error::ReadOnly)));
    let findings = Store::open(&world.url).await?.check().await?;
    assert!(findings.iter().any(|finding| finding.contains("read-only")), "{findings:?}");
    // A leader of before notices with its next commit, were its session to become read-only.
    lead.accept([1]).await?;
    Ok(())
}

#[tokio::test]
async fn findings_name_the_settings_that_lose_data() -> anyhow::Result<()> {
    let world = World::postgres().await?;
    assert_eq!(world.store.check().await?, Vec::<String>::new());
    let url = format!("{}?options=-c%20synchronous_commit%3Doff", world.url);
    let findings = Store::open(&url).await?.check().await?;
    assert!(findings.iter().any(|finding| finding.contains("synchronous_commit off")), "{findings:?}");
    Ok(())
}

/// Every look-up of a commit must be by key however little the planner knows, or the first large line is slow.
#[tokio::test]
async fn updates_stay_within_their_page_and_lookups_use_indexes() -> anyhow::Result<()> {
    let world = World::postgres().await?;
    let mut writer = world.writer().await?;
    for round in 0..20 {
        let ids = (round * 100 + 1)..=(round * 100 + 100);
        writer.accept(ids.clone()).await?;
        writer.commit(Batch { live: ids.map(crate::world::running).collect(), ..Batch::default() }).await?;
    }
    writer.settle(1..=2_000).await?;
    drop(writer);
    let query = "SELECT n_tup_upd, n_tup_hot_upd, seq_scan FROM pg_stat_user_tables WHERE relname = 'live'";
    let deadline = Instant::now() + SOON;
    // The statistics arrive when the leader's session has ended.
    let row = loop {
        let row = sqlx::query(query).fetch_one(&mut session(&world.url).await?).await?;
        if row.try_get::<i64, _>("n_tup_upd")? >= 2_000 {
            break row;
        }
        anyhow::ensure!(Instant::now() < deadline, "no statistics came");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let (updates, within_page): (i64, i64) = (row.try_get("n_tup_upd")?, row.try_get("n_tup_hot_upd")?);
    assert!(within_page * 10 >= updates * 9, "{within_page} of {updates} updates stayed within their page");
    // One scan to recover at the beginning, one when the index was made.
    assert!(row.try_get::<i64, _>("seq_scan")? <= 3, "a commit scanned the table");
    Ok(())
}
