//! A batch that the database refuses for its content, and the part of it that is at fault.
//!
//! Where the database is in memory, no other process can give it a rule to refuse by.

use slotline_protocol::message::Report;
use slotline_protocol::record::What;
use slotline_protocol::{ActionId, ExecutionId, Policy};
use slotline_scheduler::Settled;
use slotline_store::{AcceptedRequest, ActionChange, Batch, CommitError, Culprit, CulpritPart, Error, Store};
use slotline_tests::Postgres;
use sqlx::Connection;

use crate::world::{World, accepted, action, ends, event, log, raw, request, running, settled, story};

/// Makes each column with text from outside refuse one text.
async fn refuse_poison(world: &World) -> anyhow::Result<()> {
    let rules = if world.url.starts_with("postgres") {
        [
            "ALTER TABLE live ADD CONSTRAINT no_poison CHECK (parameters NOT LIKE '%poison%')",
            "ALTER TABLE history ADD CONSTRAINT no_poison CHECK (result NOT LIKE '%poison%')",
            "ALTER TABLE events ADD CONSTRAINT no_poison CHECK (body NOT LIKE '%poison%')",
            "ALTER TABLE actions ADD CONSTRAINT no_poison CHECK (policy NOT LIKE '%poison%')",
        ]
    } else {
        [
            "CREATE TRIGGER live_poison BEFORE INSERT ON live WHEN NEW.parameters LIKE '%poison%' \
             BEGIN SELECT RAISE(ABORT, 'no_poison'); END",
            "CREATE TRIGGER history_poison BEFORE INSERT ON history WHEN NEW.result LIKE '%poison%' \
             BEGIN SELECT RAISE(ABORT, 'no_poison'); END",
            "CREATE TRIGGER event_poison BEFORE INSERT ON events WHEN NEW.body LIKE '%poison%' \
             BEGIN SELECT RAISE(ABORT, 'no_poison'); END",
            "CREATE TRIGGER action_poison BEFORE INSERT ON actions WHEN NEW.policy LIKE '%poison%' \
             BEGIN SELECT RAISE(ABORT, 'no_poison'); END",
        ]
    };
    for rule in rules {
        world.tamper(rule).await?;
    }
    Ok(())
}

fn poisoned(id: i64) -> AcceptedRequest {
    let request = slotline_store::Request { parameters: raw(r#"{"is": "poison"}"#), ..request() };
    AcceptedRequest { request: request.into(), ..accepted(id) }
}

fn culprits(error: CommitError) -> Vec<CulpritPart> {
    let CommitError::Refused { words, culprits } = error else { panic!("{error:?}") };
    assert!(words.contains("no_poison"), "{words}");
    let part = |culprit: Culprit| {
        assert!(culprit.words.contains("no_poison"), "{}", culprit.words);
        culprit.part
    };
    let mut parts: Vec<CulpritPart> = culprits.into_iter().map(part).collect();
    parts.sort_unstable();
    parts
}

async fn culprits_are_found_by_kind_and_nothing_is_written(world: World) -> anyhow::Result<()> {
    let mut writer = world.writer().await?;
    refuse_poison(&world).await?;
    let bad = [7, 300];
    let all = |id| if bad.contains(&id) { poisoned(id) } else { accepted(id) };
    let batch = Batch { accepted: (1..=400).map(all).collect(), ..Batch::default() };
    let error = writer.commit(batch).await.expect_err("two are refused");
    assert_eq!(culprits(error), bad.map(|id| CulpritPart::Request(ExecutionId(id))));
    assert!(writer.accept([500]).await.is_err(), "the leadership is over");
    drop(writer);
    assert_eq!(world.recovered().await?.live, []);

    let mut writer = world.writer().await?;
    writer.accept(1..=5).await?;
    writer.commit(Batch { live: (1..=5).map(running).collect(), ..Batch::default() }).await?;
    let policy = Policy { schema: Some(serde_json::json!({"const": "poison"})), ..Policy::default() };
    let report = |words: &str| What::Progress(Report { message: Some(words.to_owned()), ..Report::default() });
    let batch = |is_bad: bool| {
        let word = if is_bad { "poison" } else { "honey" };
        let result = Some(raw(&format!("[\"{word}\"]")));
        let policy = if is_bad { policy.clone() } else { Policy::default() };
        Batch {
            actions: vec![ActionChange::Put(slotline_protocol::http::Action { policy, ..action(2, "demo.other") })],
            settled: ends([settled(1), Settled { result, ..settled(2) }, settled(3)]),
            events: vec![log(4, 1), event(4, 2, report(word)), log(4, 3), log(5, 1)],
            stories: vec![story(4, 1, 3), story(5, 1, 1)],
            ..Batch::default()
        }
    };
    let error = writer.commit(batch(true)).await.expect_err("three are refused");
    let four = ExecutionId(4);
    assert_eq!(
        culprits(error),
        [CulpritPart::Action(ActionId(2)), CulpritPart::Ending(ExecutionId(2), 1), CulpritPart::Event(four, 2)]
    );
    drop(writer);

    let mut writer = world.lead().await?;
    writer.commit(batch(false)).await?;
    drop(writer);
    let live: Vec<i64> = world.recovered().await?.live.iter().map(|snapshot| snapshot.id.0).collect();
    assert_eq!(live, [4, 5]);
    Ok(())
}

#[tokio::test]
async fn culprits_are_found_by_kind_and_nothing_is_written_on_postgres() -> anyhow::Result<()> {
    culprits_are_found_by_kind_and_nothing_is_written(World::postgres().await?).await
}

#[tokio::test]
async fn culprits_are_found_by_kind_and_nothing_is_written_on_sqlite() -> anyhow::Result<()> {
    culprits_are_found_by_kind_and_nothing_is_written(World::sqlite_file().await?).await
}

#[tokio::test]
async fn a_database_that_can_not_hold_every_text_is_refused_at_the_start_with_the_next_step() -> anyhow::Result<()> {
    let url = Postgres::shared().await?.fresh_database("encoded").await?;
    for encoding in ["LATIN1", "SQL_ASCII"] {
        let name = format!("in_{}_{}", encoding.to_lowercase(), std::process::id());
        let create =
            format!("CREATE DATABASE {name} ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0");
        let mut session = sqlx::PgConnection::connect(&url).await?;
        sqlx::query(sqlx::AssertSqlSafe(create)).execute(&mut session).await?;
        let (server, _) = url.rsplit_once('/').expect("a URL with a database");
        let error = Store::open(&format!("{server}/{name}")).await.expect_err("it can't hold an ideogram");
        let Error::Unfit(words) = &error else { panic!("{error:?}") };
        for expected in [encoding, "UTF8", "createdb"] {
            assert!(words.contains(expected), "{words}");
        }
    }
    Ok(())
}

/// As on a full disk: SQLite rolls the transaction back by itself, and the driver does not notice.
#[tokio::test]
async fn after_a_rollback_of_sqlites_own_the_same_store_goes_on() -> anyhow::Result<()> {
    let world = World::sqlite_file().await?;
    let mut writer = world.writer().await?;
    world.tamper("CREATE TRIGGER full BEFORE INSERT ON live BEGIN SELECT RAISE(ROLLBACK, 'no room'); END").await?;
    for _ in 0..3 {
        assert!(writer.accept([1]).await.is_err());
        writer = world.lead().await?;
    }
    world.tamper("DROP TRIGGER full").await?;
    writer.accept([1]).await?;
    drop(writer);
    assert_eq!(world.recovered().await?.live.len(), 1);
    Ok(())
}

#[cfg(unix)]
#[tokio::test]
async fn only_their_owner_may_read_the_files_of_a_journal() -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("journal.db");
    for _ in 0..2 {
        let store = Store::open(&format!("sqlite:{}", path.display())).await?;
        store.migrate().await?;
        for file in std::fs::read_dir(folder.path())? {
            let file = file?;
            let mode = file.metadata()?.permissions().mode() & 0o777;
            assert_eq!(mode, 0o600, "{}", file.path().display());
        }
        store.close().await;
        // An earlier version, or a restore, may have left the file open to other users.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644))?;
    }
    Ok(())
}

/// As on a disk that has room for what a statement writes and none for its commit.
#[tokio::test]
async fn a_leadership_that_sqlite_could_not_commit_is_not_believed() -> anyhow::Result<()> {
    let world = World::sqlite_file().await?;
    for rule in [
        "CREATE TABLE paid (n integer PRIMARY KEY)",
        "CREATE TABLE owed (n integer REFERENCES paid (n) DEFERRABLE INITIALLY DEFERRED)",
        "CREATE TRIGGER owes AFTER UPDATE ON leadership BEGIN INSERT INTO owed VALUES (1); END",
    ] {
        world.tamper(rule).await?;
    }
    assert!(world.store.lead("test").await.is_err());
    world.tamper("DROP TRIGGER owes").await?;
    assert_eq!(world.store.lead("test").await?.epoch(), slotline_protocol::Epoch(1));
    Ok(())
}
