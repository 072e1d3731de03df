//! Mistakes that people make with servers, and the exact error for each.
//!
//! What only a person can correct ends a daemon at its start, with code 2; a server that does not answer is waited for,
//! and logged. `crates/slotline/tests/mistakes.rs` has the mistakes that need no server.

use std::time::Duration;

use serde_json::json;
use slotline_tests::{Daemon, Launch, Port, Postgres, Rabbit, Sandbox, eventually};

use crate::actions::Action;
use crate::message::Message;
use crate::world::{SOON, World};

const DATABASE_SETTING: &str = "(--database-url, SLOTLINE_DATABASE_URL or `database_url`)";
const BROKER_SETTING: &str = "(--amqp-url, SLOTLINE_AMQP_URL or `amqp_url`)";

/// The last line of a command that ends at once, and its code.
async fn ends(sandbox: &Sandbox, arguments: &[&str]) -> anyhow::Result<(String, Option<i32>)> {
    let output = tokio::time::timeout(SOON, Launch::new("ends", arguments).output(sandbox)).await??;
    let words = String::from_utf8(output.stderr)?;
    Ok((words.lines().last().unwrap_or_default().to_owned(), output.status.code()))
}

/// Waits until a daemon that goes on has logged `words`.
async fn says(daemon: &mut Daemon, words: &str) -> anyhow::Result<()> {
    eventually(&format!("{} says {words:?}", daemon.name()), SOON, async || {
        anyhow::ensure!(daemon.is_running()?, "it has ended: {}", daemon.log());
        Ok(daemon.log().contains(words).then_some(()))
    })
    .await
}

fn executor<'a>(database: &'a str, amqp: &'a str) -> [&'a str; 7] {
    ["executor", "--database-url", database, "--amqp-url", amqp, "--listen", "127.0.0.1:0"]
}

#[tokio::test]
async fn a_database_that_refuses_ends_an_executor_with_where_why_and_what_to_correct() -> anyhow::Result<()> {
    let (rabbit, postgres) = (Rabbit::shared().await?, Postgres::shared().await?);
    let (amqp, sandbox) = (rabbit.fresh_vhost().await?, Sandbox::new("refused")?);
    let database = postgres.fresh_database("refused").await?;
    let name = database.rsplit('/').next().unwrap_or_default();
    postgres.psql("create role secured login password 'right'").await?;
    postgres.psql("create role bare login").await?;
    // Others are trusted, as all are by the harness.
    let rules = "('host all secured all scram-sha-256'), ('host all all all trust'), ('local all all trust')";
    let file = postgres.psql("show hba_file").await?;
    postgres.psql(&format!("copy (values {rules}) to '{}'", file.trim())).await?;
    postgres.psql("select pg_reload_conf()").await?;
    let place = |user: &str, name: &str| format!("postgres://{user}@127.0.0.1:{}/{name}", postgres.port());
    let wrong = place("secured:wrong", name);
    for (url, endpoint, reason) in [
        (
            &wrong,
            place("secured", name),
            "password authentication failed for user \"secured\" (28P01): correct the URL",
        ),
        (&place("nobody", name), place("nobody", name), "role \"nobody\" does not exist (28000): correct the URL"),
        (
            &place("postgres", "nowhere"),
            place("postgres", "nowhere"),
            "database \"nowhere\" does not exist (3D000): correct the URL",
        ),
        (
            &place("bare", name),
            place("bare", name),
            "permission denied for schema public (42501): give its user the right, or name another user",
        ),
    ] {
        let expected = format!("slotline: the database at {endpoint} refuses: {reason} {DATABASE_SETTING}");
        assert_eq!(ends(&sandbox, &executor(url, &amqp)).await?, (expected.clone(), Some(2)), "{url}");
        assert_eq!(ends(&sandbox, &["migrate", "--database-url", url]).await?, (expected, Some(2)), "{url}");
    }
    let expected = format!(
        "slotline: the database at {database} can't be used: it holds no schema of Slotline: run `slotline migrate`, or start \
         without --no-migrate"
    );
    let unmigrated = [&executor(&database, &amqp)[..], &["--no-migrate"]].concat();
    assert_eq!(ends(&sandbox, &unmigrated).await?, (expected, Some(2)));
    Ok(())
}

#[tokio::test]
async fn a_schema_that_a_newer_program_made_is_not_led_on_unless_it_is_allowed() -> anyhow::Result<()> {
    let (rabbit, postgres) = (Rabbit::shared().await?, Postgres::shared().await?);
    let (amqp, sandbox) = (rabbit.fresh_vhost().await?, Sandbox::new("newer")?);
    let database = postgres.fresh_database("newer").await?;
    assert_eq!(ends(&sandbox, &["migrate", "--database-url", &database]).await?.1, Some(0));
    let newer = "insert into _sqlx_migrations (version, description, success, checksum, execution_time) \
                 values (7, 'from the future', true, '', 0)";
    postgres.psql_in(&database, newer).await?;
    let (words, code) = ends(&sandbox, &executor(&database, &amqp)).await?;
    let expected = format!(
        "slotline: the database at {database} can't be used: its schema is 7, made by a newer program; this one (slotline \
         {}) knows those up to 1: start the newer one, or, to go back by one version, this one with --allow-newer-schema",
        env!("CARGO_PKG_VERSION")
    );
    assert_eq!((words, code), (expected, Some(2)));
    let mut back = Daemon::executor(&sandbox, "back", &database, &amqp, &["--allow-newer-schema"])?;
    says(&mut back, "leading epoch=1").await
}

#[tokio::test]
async fn a_broker_that_refuses_ends_executors_and_workers_with_its_address_and_the_user() -> anyhow::Result<()> {
    let (rabbit, postgres) = (Rabbit::shared().await?, Postgres::shared().await?);
    let (sandbox, database) = (Sandbox::new("denied")?, postgres.fresh_database("denied").await?);
    std::fs::write(sandbox.path().join("a.toml"), "[[action]]\nref = 'a.b'\n[action.run]\ncommand = ['/bin/true']\n")?;
    let place = |user: &str, vhost: &str| format!("amqp://{user}127.0.0.1:{}/{vhost}", rabbit.port());
    for (url, endpoint, reason) in [
        (
            place("guest:wrong@", "%2f"),
            place("", ""),
            "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN. For details see the broker logfile.",
        ),
        (place("guest:guest@", "nowhere"), place("", "nowhere"), "NOT_ALLOWED - vhost nowhere not found"),
    ] {
        let expected = format!(
            "slotline: the broker at {endpoint} refuses the user \"guest\": {reason}: correct the user, the password or the \
             virtual host {BROKER_SETTING}"
        );
        assert_eq!(ends(&sandbox, &executor(&database, &url)).await?, (expected.clone(), Some(2)), "{url}");
        let worker = ["worker", "--name", "w", "--actions", "a.toml", "--state-dir", "state", "--amqp-url", &url];
        assert_eq!(ends(&sandbox, &worker).await?, (expected, Some(2)), "{url}");
    }
    Ok(())
}

#[tokio::test]
async fn a_user_without_the_rights_ends_executors_and_workers_with_what_it_may_not_do() -> anyhow::Result<()> {
    let (rabbit, postgres) = (Rabbit::shared().await?, Postgres::shared().await?);
    let (sandbox, database) = (Sandbox::new("rights")?, postgres.fresh_database("rights").await?);
    std::fs::write(sandbox.path().join("a.toml"), "[[action]]\nref = 'a.b'\n[action.run]\ncommand = ['/bin/true']\n")?;
    let vhost = rabbit.fresh_vhost().await?.rsplit('/').next().unwrap_or_default().to_owned();
    let user = format!("bare-{vhost}");
    rabbit.ctl(&["add_user", &user, "secret"]).await?;
    rabbit.ctl(&["set_permissions", "--vhost", &vhost, &user, "^$", "^$", "^$"]).await?;
    let amqp = format!("amqp://{user}:secret@127.0.0.1:{}/{vhost}", rabbit.port());
    let worker = ["worker", "--name", "w", "--actions", "a.toml", "--state-dir", "state", "--amqp-url", &amqp];
    for daemon in [&executor(&database, &amqp)[..], &worker] {
        let (words, code) = ends(&sandbox, daemon).await?;
        let (begin, end) = (
            "slotline: the broker refuses: ACCESS_REFUSED - ",
            format!(" refused for user '{user}': give the user the rights that `slotline rabbitmq definitions` prints"),
        );
        anyhow::ensure!(words.starts_with(begin) && words.ends_with(&end) && code == Some(2), "{code:?} {words}");
    }
    Ok(())
}

#[tokio::test]
async fn what_does_not_answer_is_waited_for_and_named_at_once() -> anyhow::Result<()> {
    let (rabbit, postgres) = (Rabbit::shared().await?, Postgres::shared().await?);
    let (amqp, sandbox) = (rabbit.fresh_vhost().await?, Sandbox::new("away")?);
    let database = postgres.fresh_database("away").await?;
    let free = Port::claim()?;
    let nowhere = format!("postgres://u:geheim@127.0.0.1:{}/d", free.number());
    let mut lost = Daemon::executor(&sandbox, "no-database", &nowhere, &amqp, &[])?;
    let words = format!(
        "can't reach the database at postgres://u@127.0.0.1:{}/d: Connection refused (os error 111); trying again in 250 ms",
        free.number()
    );
    says(&mut lost, &words).await?;
    let nowhere = format!("amqp://u:geheim@127.0.0.1:{}/%2f", free.number());
    let mut silent = Daemon::executor(&sandbox, "no-broker", &database, &nowhere, &[])?;
    says(&mut silent, &format!("can't reach the broker at amqp://127.0.0.1:{}/: ", free.number())).await?;
    says(&mut silent, "; trying again in ").await?;
    for daemon in [&mut lost, &mut silent] {
        anyhow::ensure!(!daemon.log().contains("geheim"), "{}", daemon.log());
        anyhow::ensure!(daemon.stop(Duration::from_secs(20)).await?.success(), "{}", daemon.log());
    }
    let (words, code) =
        ends(&sandbox, &["migrate", "--database-url", &format!("postgres://u@127.0.0.1:{}/d", free.number())]).await?;
    let expected = format!(
        "slotline: can't reach the database at postgres://u@127.0.0.1:{}/d: Connection refused (os error 111)",
        free.number()
    );
    assert_eq!((words, code), (expected, Some(69)));
    Ok(())
}

#[tokio::test]
async fn a_message_that_is_not_read_is_put_aside_with_the_name_that_was_meant() -> anyhow::Result<()> {
    let world = World::with([Action::stamp("job.slow", "limit = 1")]).start().await?;
    let typed = |message_type: &str| {
        let body = json!({"message_type": message_type, "payload": {"action_ref": "job.slow"}});
        Message::raw("execution.requested", body.to_string())
    };
    world
        .publish(&[
            typed("execution.request").id("m-1"),
            typed("job.slo").id("m-2"),
            Message::request("job.slo", json!({})).id("m-3"),
            Message::payload("execution.requested", json!({"action_ref": "job.slow", "progress": 5})).id("m-4"),
        ])
        .await?;
    let expected = [
        "message_type: \"execution.request\" is not read here: did you mean `execution.requested`?",
        "message_type: \"job.slo\" is not read here: expected one of execution.requested, execution.cancel_requested",
        "payload.action_ref: no action is called job.slo: did you mean `job.slow`?",
        "payload.progress: invalid type: integer `5`, expected an object with update_interval, update_step at line 1 \
         column 37",
    ];
    let details = eventually("all four are put aside", SOON, async || {
        let dead = world.get("/api/v1/dead").await?;
        let details: Vec<String> = dead
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|letter| letter["detail"].as_str().map(str::to_owned))
            .collect();
        Ok((details.len() == expected.len()).then_some(details))
    })
    .await?;
    assert_eq!(details, expected);
    Ok(())
}
