//! What only PostgreSQL does: sessions that end, servers that stop, plans, and settings found unfit.

use std::time::{Duration, Instant};

use slotline_protocol::ExecutionId;
use slotline_store::{AcceptedRequest, Batch, CommitError, Error, Store};
use slotline_tests::{Bouncer, Postgres};
use sqlx::{Connection, PgConnection, Row};
use tokio::time::timeout;

use crate::world::{World, accepted, full_request, log, queued, running, story};

const SOON: Duration = Duration::from_secs(30);

async fn session(url: &str) -> anyhow::Result<PgConnection> {
    Ok(PgConnection::connect(url).await?)
}

/// Ends the session that holds the leader's lock in this database.
async fn end_the_leaders_session(world: &World) -> anyhow::Result<()> {
    let ended: i64 = sqlx::query_scalar(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_locks \
         WHERE locktype = 'advisory' AND granted \
         AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
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
    let mut second = timeout(SOON, second).await???;
    let error = first.accept([2]).await.expect_err("no session");
    assert!(matches!(error, CommitError::Unknown(_)), "{error:?}");
    assert_eq!(second.recover().await?.live, [queued(1)]);
    Ok(())
}

/// A snapshot held for longer keeps dead rows from being vacuumed, in every table.
const SNAPSHOT_MAX: Duration = Duration::from_secs(2);

#[tokio::test]
async fn who_waits_for_leadership_or_for_another_migration_holds_no_snapshot() -> anyhow::Result<()> {
    let world = World::postgres().await?;
    let mut leader = world.writer().await?;
    let mut migrates = session(&world.url).await?;
    sqlx::query("SELECT pg_advisory_lock(hashtextextended('slotline migration of ' || current_schema(), 0))")
        .execute(&mut migrates)
        .await?;
    let waiting =
        [world.store.clone(), world.store.clone()].map(|store| tokio::spawn(async move { store.lead("second").await }));
    let migrating = tokio::spawn({
        let store = world.store.clone();
        async move { store.migrate().await }
    });
    let held = "SELECT coalesce(max(extract(epoch FROM clock_timestamp() - xact_start)), 0)::float8, \
        count(*) FILTER (WHERE query LIKE 'SELECT pg_try_advisory_lock%') FROM pg_stat_activity \
        WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'";
    let mut looks = session(&world.url).await?;
    let since = Instant::now();
    let mut most_waiting = 0;
    while since.elapsed() < 2 * SNAPSHOT_MAX {
        let (oldest, waiting): (f64, i64) = sqlx::query_as(held).fetch_one(&mut looks).await?;
        anyhow::ensure!(oldest < SNAPSHOT_MAX.as_secs_f64(), "a session has had a transaction open for {oldest} s");
        most_waiting = most_waiting.max(waiting);
        leader.lead.ping().await?;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    anyhow::ensure!(most_waiting == 3, "{most_waiting} waited");
    migrates.close().await?;
    timeout(SOON, migrating).await???;
    for waits in waiting {
        anyhow::ensure!(!waits.is_finished());
        waits.abort();
    }
    Ok(())
}

/// A row that is updated with every commit keeps its table as small as its live rows, without any vacuum.
#[tokio::test]
async fn a_row_that_every_commit_updates_leaves_no_growing_table_behind() -> anyhow::Result<()> {
    let (_server, world) = left_alone().await?;
    let waiting = tokio::spawn({
        let store = world.store.clone();
        async move { store.lead("second").await }
    });
    let mut writer = world.writer().await?;
    for id in 1..=2_000 {
        writer.accept([id]).await?;
    }
    waiting.abort();
    let bytes = world.count("SELECT pg_relation_size('leadership')").await?.unwrap_or(i64::MAX);
    assert!(bytes <= 4 * 8192, "one row takes {bytes} bytes after 2,000 commits");
    Ok(())
}

#[tokio::test]
async fn who_may_read_but_not_write_leads_nothing_and_is_told_which_right_is_missing() -> anyhow::Result<()> {
    let world = World::postgres().await?;
    let name = format!("reader_{}", std::process::id());
    let mut grants = session(&world.url).await?;
    for grant in [
        format!("CREATE ROLE {name} LOGIN"),
        format!("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {name}"),
        format!("REVOKE INSERT ON history FROM {name}"),
    ] {
        sqlx::raw_sql(sqlx::AssertSqlSafe(grant)).execute(&mut grants).await?;
    }
    let reader = Store::open(&world.url.replace("postgres@", &format!("{name}@"))).await?;
    let error = reader.lead("reader").await.map(|lead| lead.epoch()).expect_err("it may not");
    assert!(matches!(&error, Error::Unfit(lacks) if lacks.contains("INSERT on history;")), "{error}");
    // No executor has to wait for it, and no epoch went by.
    let lead = timeout(SOON, world.store.lead("writer")).await??;
    assert_eq!(lead.epoch().0, 1);
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!("GRANT INSERT ON history TO {name}"))).execute(&mut grants).await?;
    lead.release().await;
    assert_eq!(reader.lead("reader").await?.epoch().0, 2);
    Ok(())
}

#[tokio::test]
async fn no_table_of_the_journal_is_left_out_when_the_rights_of_a_leader_are_checked() -> anyhow::Result<()> {
    let world = World::postgres().await?;
    let name = format!("partial_{}", std::process::id());
    let mut grants = session(&world.url).await?;
    let mut say =
        async |statement: String| sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&mut grants).await.map(drop);
    say(format!("CREATE ROLE {name} LOGIN")).await?;
    say(format!("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {name}")).await?;
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT tablename::text FROM pg_tables WHERE schemaname = 'public' AND tablename NOT LIKE '%migrations'",
    )
    .fetch_all(&mut session(&world.url).await?)
    .await?;
    assert!(tables.len() >= 13, "{tables:?}");
    let partial = Store::open(&world.url.replace("postgres@", &format!("{name}@"))).await?;
    for table in tables {
        say(format!("REVOKE ALL ON {table} FROM {name}")).await?;
        let error = partial.lead("partial").await.map(|lead| lead.epoch()).expect_err(&table);
        assert!(matches!(&error, Error::Unfit(lacks) if lacks.contains(&format!("SELECT on {table}"))), "{error}");
        say(format!("GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO {name}")).await?;
    }
    assert_eq!(partial.lead("partial").await?.epoch().0, 1);
    Ok(())
}

#[tokio::test]
async fn how_far_the_journals_time_is_ahead_is_noted_by_the_leader_alone() -> anyhow::Result<()> {
    for world in [World::postgres().await?, World::sqlite_file().await?, World::sqlite_memory().await?] {
        let lead = world.store.lead("first").await?;
        assert_eq!(lead.clock_ahead_us(), 0);
        let off = lead.reading().carried_to(Instant::now()).as_micros() - world.store.reading().await?.at.as_micros();
        assert!(off.abs() < 1_000_000, "{off}");
        world.store.note_clock(lead.epoch(), -7_200_000_000).await?;
        let old = lead.epoch();
        lead.release().await;
        let lead = world.store.lead("second").await?;
        assert_eq!(lead.clock_ahead_us(), -7_200_000_000);
        assert!(matches!(world.store.note_clock(old, 0).await, Err(Error::LeadershipOver)));
    }
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
    let World { store, .. } = World::on(&server).await?;
    let mut lead = store.lead("first").await?;
    lead.commit(&Batch { number: 1, accepted: vec![accepted(1)], ..Batch::default() }).await?;
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
    let name: String =
        sqlx::query_scalar("SELECT current_database()").fetch_one(&mut session(&world.url).await?).await?;
    let server = Postgres::shared().await?;
    server.psql(&format!("alter database \"{name}\" set default_transaction_read_only = on")).await?;
    assert!(matches!(world.store.lead("test").await, Err(Error::ReadOnly)));
    let findings = Store::open(&world.url).await?.check().await?;
    assert!(findings.iter().any(|finding| finding.contains("read-only")), "{findings:?}");
    // A leader from before would notice with its next commit if its session became read-only.
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

/// Every look-up must be by key however little the planner knows, or the first long line is slow. The tables are empty
/// when the statements are first run, and grow while their plans may be kept.
#[tokio::test]
async fn updates_stay_within_their_page_and_lookups_use_indexes() -> anyhow::Result<()> {
    let (_server, world) = left_alone().await?;
    let scans =
        "SELECT sum(seq_scan)::bigint FROM pg_stat_user_tables WHERE relname IN ('live', 'history', 'messages')";
    let mut writer = world.writer().await?;
    let named = |id| AcceptedRequest { request: full_request(id).into(), ..accepted(id) };
    for round in 0..20 {
        let ids = (round * 100 + 1)..=(round * 100 + 100);
        writer.commit(Batch { accepted: ids.clone().map(named).collect(), ..Batch::default() }).await?;
        writer.commit(Batch { live: ids.clone().map(running).collect(), ..Batch::default() }).await?;
        writer.settle(ids.filter(|id| id % 2 == 0)).await?;
    }
    drop(writer);
    let query = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'live'";
    // The statistics arrive when the leader's session has ended.
    let row = eventually(async || {
        let row = sqlx::query(query).fetch_one(&mut session(&world.url).await?).await?;
        Ok((row.try_get::<i64, _>("n_tup_upd")? >= 2_000).then_some(row))
    })
    .await?;
    let (updates, within_page): (i64, i64) = (row.try_get("n_tup_upd")?, row.try_get("n_tup_hot_upd")?);
    // Rows this small grow by a third when they get a lease, so that not quite all fit.
    assert!(within_page * 4 >= updates * 3, "{within_page} of {updates} updates stayed within their page");
    // One row to recover when the leader came, and those of the migration.
    let scanned: i64 = sqlx::query_scalar(scans).fetch_one(&mut session(&world.url).await?).await?;
    assert!(scanned <= 10, "commits scanned tables {scanned} times");
    Ok(())
}

/// The same of the records: a story is updated all the time, and each batch forgets some of the oldest events.
#[tokio::test]
async fn a_story_is_updated_within_its_page_and_its_oldest_events_are_found_by_key() -> anyhow::Result<()> {
    const KEPT: u64 = 20;
    let (_server, world) = left_alone().await?;
    let mut writer = world.writer().await?;
    writer.accept(1..=50).await?;
    for round in 1..=100u64 {
        let numbers = (round - 1) * 10 + 1..=round * 10;
        let first = (round * 10 + 1).saturating_sub(KEPT).max(1);
        let batch = Batch {
            events: (1..=50).flat_map(|id| numbers.clone().map(move |number| log(id, number))).collect(),
            stories: (1..=50).map(|id| story(id, first, round * 10)).collect(),
            ..Batch::default()
        };
        writer.commit(batch).await?;
    }
    drop(writer);
    assert_eq!(world.count("SELECT count(*) FROM events").await?, Some(1_000));
    let query = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'stories'";
    let row = eventually(async || {
        let row = sqlx::query(query).fetch_one(&mut session(&world.url).await?).await?;
        Ok((row.try_get::<i64, _>("n_tup_upd")? >= 4_950).then_some(row))
    })
    .await?;
    let (updates, within_page): (i64, i64) = (row.try_get("n_tup_upd")?, row.try_get("n_tup_hot_upd")?);
    assert!(within_page * 10 >= updates * 9, "{within_page} of {updates} updates stayed within their page");
    let scans = "SELECT sum(seq_scan)::bigint FROM pg_stat_user_tables WHERE relname IN ('events', 'stories')";
    let scanned = world.count(scans).await?.unwrap_or(i64::MAX);
    assert!(scanned <= 10, "commits scanned tables {scanned} times");
    // Each deletion begins where the one before ended; otherwise it would walk through all dead rows.
    let walked = "SELECT idx_tup_read FROM pg_stat_user_indexes WHERE indexrelname = 'events_pkey'";
    let walked = world.count(walked).await?.unwrap_or(i64::MAX);
    assert!(walked <= 60_000, "{walked} entries were read to delete 49,000");
    Ok(())
}

/// A journal on a server of its own, without autovacuum. A dead row stays in its page for as long as anything older
/// writes in any database of the server, or is read in this one; updates meanwhile find the page full.
async fn left_alone() -> anyhow::Result<(Postgres, World)> {
    let server = Postgres::start().await?;
    server.psql("alter system set autovacuum = off").await?;
    server.psql("select pg_reload_conf()").await?;
    let world = World::on(&server).await?;
    Ok((server, world))
}

async fn eventually<T>(ask: impl AsyncFn() -> anyhow::Result<Option<T>>) -> anyhow::Result<T> {
    let deadline = Instant::now() + SOON;
    loop {
        if let Some(answer) = ask().await? {
            return Ok(answer);
        }
        anyhow::ensure!(Instant::now() < deadline, "it never came true");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn reads_are_planned_for_the_tables_as_they_are() -> anyhow::Result<()> {
    let world = World::postgres().await?;
    let mut writer = world.writer().await?;
    let ids: Vec<slotline_protocol::RequestName> = (1..=3).map(|id| format!("message-{id}").into()).collect();
    // Often enough for a plan to be kept, while the tables are empty.
    for _ in 0..20 {
        world.store.find_messages(&ids).await?;
        world.store.requests(&[ExecutionId(1)]).await?;
    }
    let named = |id| AcceptedRequest { request: full_request(id).into(), ..accepted(id) };
    writer.commit(Batch { accepted: (1..=20_000).map(named).collect(), ..Batch::default() }).await?;
    writer.settle(1..=10_000).await?;
    let before = scanned_rows(&world).await?;
    for _ in 0..20 {
        assert_eq!(world.store.find_messages(&ids).await?.len(), 3);
        assert_eq!(world.store.requests(&[ExecutionId(10_001)]).await?.len(), 1);
    }
    // Sessions report their statistics when they end.
    world.store.close().await;
    eventually(async || {
        let query =
            "SELECT sum(idx_scan)::bigint FROM pg_stat_user_tables WHERE relname IN ('live', 'history', 'messages')";
        let lookups: i64 = sqlx::query_scalar(query).fetch_one(&mut session(&world.url).await?).await?;
        Ok((lookups >= 40).then_some(()))
    })
    .await?;
    let after = scanned_rows(&world).await?;
    assert!(after - before < 20_000, "reads scanned {} rows", after - before);
    Ok(())
}

/// Rows read by scans of whole tables so far, as far as ended sessions have reported.
async fn scanned_rows(world: &World) -> anyhow::Result<i64> {
    let query =
        "SELECT sum(seq_tup_read)::bigint FROM pg_stat_user_tables WHERE relname IN ('live', 'history', 'messages')";
    Ok(sqlx::query_scalar(query).fetch_one(&mut session(&world.url).await?).await?)
}

#[tokio::test]
async fn viewers_that_wait_hold_up_no_read_of_scheduling() -> anyhow::Result<()> {
    let world = World::postgres().await?;
    let mut writer = world.writer().await?;
    writer.accept([1]).await?;
    let mut holder = session(&world.url).await?;
    let mut held = holder.begin().await?;
    sqlx::query("LOCK TABLE actions IN ACCESS EXCLUSIVE MODE").execute(&mut *held).await?;
    let viewed = world.store.for_viewers();
    let views: Vec<_> = (0..16)
        .map(|_| {
            let viewed = viewed.clone();
            tokio::spawn(async move { viewed.actions().await })
        })
        .collect();
    // As many calls as there are connections wait for the table, the others for a connection.
    let waiting =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    eventually(async || {
        let waiting: i64 = sqlx::query_scalar(waiting).fetch_one(&mut session(&world.url).await?).await?;
        Ok((waiting == 4).then_some(()))
    })
    .await?;
    assert_eq!(world.store.requests(&[ExecutionId(1)]).await?.len(), 1);
    held.commit().await?;
    for view in views {
        view.await??;
    }
    Ok(())
}

#[tokio::test]
async fn a_pooler_that_gives_no_session_of_ones_own_is_refused_in_words() -> anyhow::Result<()> {
    let postgres = Postgres::shared().await?;
    let database = postgres.fresh_database("pooled").await?;
    for (ignored, told) in
        [("", "unsupported startup parameter"), ("options,extra_float_digits", "did not take the settings")]
    {
        let bouncer = Bouncer::start(postgres, ignored).await?;
        // Each time: a session that another client left behind must not be taken for a session of this client.
        for _ in 0..3 {
            let error = Store::open(&bouncer.url(&database, postgres)).await.expect_err("a pooler");
            let said = error.to_string();
            anyhow::ensure!(
                matches!(error, Error::Unfit(_)) && said.contains(told) && said.contains("PgBouncer"),
                "{said}"
            );
        }
    }
    Ok(())
}
