//! Publishers that know the format and others that do not, all at once; and the verdict on the result.
//!
//! The worker is this process, with handlers that only note the order: the tests are about intake.

mod installation;
mod messages;
mod raw;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use slotline_broker::{Properties, topology};
use slotline_tests::{Daemon, Launch, Rabbit, Stranger, eventually};
use slotline_worker::{Context, HandlerError, Shutdown, Worker};

use crate::world::LATER;
use installation::Installation;
use messages::{bad, forged, good, line_of, lines, publication, request};

const PREFIX: &str = "slotline";
/// Good ones, and as many bad ones among them.
const MESSAGES: usize = 10_000;
/// Lines of one slot each, so that the order of each is the order in which its handlers ran.
const LINES: usize = 8;
/// Publications that may be unconfirmed at once.
const WINDOW: usize = 1000;
/// One of so many bad messages is larger than a message may be.
const OVERSIZED_EVERY: usize = 1000;
/// After so many good ones comes one of every kind that no library sends.
const RAW_EVERY: usize = MESSAGES / 4;
/// The header with the number of a dead letter.
const NUMBER: &str = "number";

/// What the ids of good messages begin with.
const GOOD: &str = "good-";

/// The numbers that the handlers were given, in the order in which they ran; by line.
type Ran = Arc<Mutex<BTreeMap<String, Vec<usize>>>>;

fn worker(ran: &Ran) -> Result<Worker> {
    let mut builder = Worker::builder("strangers").capacity(64);
    for line in lines() {
        let ran = ran.clone();
        builder = builder.action(line, move |context: Context| {
            let ran = ran.clone();
            async move {
                let parameters: Value = context.parameters()?;
                let number = parameters["n"].as_u64().and_then(|number| usize::try_from(number).ok());
                let number = number.ok_or_else(|| HandlerError::new("expected a number"))?;
                let mut ran = ran.lock().expect("no handler panics");
                ran.entry(context.action_ref().to_string()).or_default().push(number);
                Ok::<_, HandlerError>(())
            }
        });
    }
    Ok(builder.build()?)
}

/// Every dead letter, once there are so many: the number it was published with, and its reason.
async fn dead_letters(installation: &Installation, count: usize) -> Result<BTreeMap<usize, String>> {
    const ALL: &str = "SELECT coalesce(json_agg(json_build_object('properties', properties, \
        'message_id', message_id, 'reason', reason, 'detail', detail)), '[]') FROM dead_letters";
    let (postgres, database) = (installation.postgres, &installation.database);
    eventually(&format!("{count} dead letters"), LATER, async || {
        let kept = postgres.psql_in(database, "SELECT count(*) FROM dead_letters").await?;
        Ok((kept.trim().parse::<usize>()? >= count).then_some(()))
    })
    .await?;
    let mut letters = BTreeMap::new();
    let all: Vec<Value> = serde_json::from_str(postgres.psql_in(database, ALL).await?.trim())?;
    for letter in all {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        // A member that was refused because of an earlier one is put aside without its headers.
        let id = letter["message_id"].as_str();
        let named = || id.and_then(|id| id.strip_prefix(GOOD).or(id.strip_prefix(raw::RAW))).map(str::to_owned);
        let properties: Value = serde_json::from_str(&text(&letter["properties"]).context("properties")?)?;
        let number = text(&properties["headers"][NUMBER]).or_else(named).context("a number")?.parse()?;
        ensure!(text(&letter["detail"]).is_some_and(|detail| !detail.is_empty()), "{number}: no detail");
        let reason = text(&letter["reason"]).context("a reason")?;
        ensure!(letters.insert(number, reason).is_none(), "{number} was put aside twice");
    }
    Ok(letters)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn among_as_many_bad_ones_every_good_message_runs_once_in_order_and_every_bad_one_is_put_aside() -> Result<()> {
    let mut installation = Installation::start().await?;
    let schema = json!({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]});
    for line in lines() {
        installation.put(&line, json!({"limit": 1, "schema": schema})).await?;
    }
    let ran = Ran::default();
    let shutdown = Shutdown::new();
    let working = tokio::spawn(worker(&ran)?.run(installation.broker.clone(), shutdown.clone()));

    let mut stranger = Stranger::connect(&installation.amqp).await?;
    let (mut put_aside, mut run) = (BTreeMap::new(), BTreeMap::<String, Vec<usize>>::new());
    let mut next_raw = MESSAGES;
    for numbers in (0..MESSAGES).collect::<Vec<_>>().chunks(RAW_EVERY) {
        let mut messages = Vec::with_capacity(2 * RAW_EVERY);
        for &number in numbers {
            // Each after the good one of its number, so that a second use of an id comes second.
            let (message, reason) = bad(number);
            run.entry(line_of(number)).or_default().push(number);
            put_aside.insert(number, reason.to_owned());
            messages.extend([good(number), message]);
        }
        installation.publish(messages.into_iter()).await?;
        for message in raw::all(next_raw) {
            let raw::Raw { number, routing_key, properties, body, reason } = message;
            stranger.publish(&topology::executions_exchange(PREFIX), &routing_key, &properties, &body).await?;
            match reason {
                None => run.entry(raw::LINE.to_owned()).or_default().push(number),
                Some(reason) => drop(put_aside.insert(number, reason.to_owned())),
            }
            next_raw += 1;
        }
    }
    installation.publish(forged()).await?;

    let letters = dead_letters(&installation, put_aside.len()).await?;
    let wrong = letters.iter().zip(&put_aside).find(|(letter, expected)| letter != expected);
    ensure!(wrong.is_none(), "put aside for another reason: {wrong:?}");
    let good: usize = run.values().map(Vec::len).sum();
    eventually("every good one has ended", LATER, async || {
        let mut ended = 0;
        for line in lines() {
            ended += installation.completed(&line).await?;
        }
        Ok((ended == good as u64).then_some(()))
    })
    .await?;
    {
        let ran = ran.lock().expect("no handler panics");
        let wrong = lines().find(|line| ran.get(line) != run.get(line));
        ensure!(wrong.is_none(), "{wrong:?} ran out of order, or not once each");
    }
    ensure!(installation.session.depth(&topology::dead_queue(PREFIX)).await? == 0, "more was put aside");
    ensure!(installation.executor.is_running()?, "the executor ended");
    let epoch = installation.postgres.psql_in(&installation.database, "SELECT epoch FROM leadership").await?;
    ensure!(epoch.trim() == "1", "leadership was taken {epoch} times");

    let (code, said) = installation.verify(&["--since", "1h", "--output", "json"]).await?;
    ensure!(code == Some(0), "{code:?} {said}");
    let verdict: Value = serde_json::from_str(&said)?;
    ensure!(verdict["holds"] == true && verdict["executions"] == good, "{verdict}");
    shutdown.drain();
    Ok(working.await??)
}

#[tokio::test]
async fn a_verdict_names_what_is_wrong_or_that_the_journal_could_not_be_read() -> Result<()> {
    let installation = Installation::start().await?;
    installation.put("line.n0", json!({"limit": 1})).await?;
    installation.publish([good(0)].into_iter()).await?;
    let ran = Ran::default();
    let shutdown = Shutdown::new();
    let working = tokio::spawn(worker(&ran)?.run(installation.broker.clone(), shutdown.clone()));
    eventually("it has run", LATER, async || Ok((installation.completed("line.n0").await? == 1).then_some(()))).await?;
    shutdown.drain();
    working.await??;
    let (code, said) = installation.verify(&[]).await?;
    ensure!(
        code == Some(0) && said.contains("All of it holds.") && said.contains("1 executions, 1 attempts"),
        "{said}"
    );

    let tampered = "UPDATE history SET status = 'running'";
    installation.postgres.psql_in(&installation.database, tampered).await?;
    let (code, said) = installation.verify(&[]).await?;
    ensure!(code == Some(1) && said.contains("VIOLATED: execution 1 has settled without a terminal status"), "{said}");

    let nowhere = ["verify", "--database-url", "postgres://nobody@127.0.0.1:1/nothing"];
    let output = Launch::new("verify", &nowhere).output(&installation.sandbox).await?;
    ensure!(output.status.code() == Some(69), "{output:?}");
    Ok(())
}

/// The most memory that the executor has ever had, in bytes.
fn peak_memory(executor: &Daemon) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", executor.pid()))?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    Ok(peak.trim().trim_end_matches("kB").trim().parse::<u64>()? << 10)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_body_costs_more_than_a_small_multiple_of_its_bytes_and_good_ones_behind_it_are_taken() -> Result<()> {
    const BODIES: usize = 20;
    let installation = Installation::start().await?;
    installation.put(&line_of(0), json!({"limit": 1})).await?;
    let before = peak_memory(&installation.executor)?;
    let array = |member: &str, count: usize| format!("[{}]", vec![member; count].join(","));
    let unknown = request(&json!({"action_ref": "no.such"}));
    let headers = BTreeMap::from([("label".to_owned(), "x".repeat(60_000))]);
    let properties = || Properties { headers: headers.clone(), ..Properties::default() };
    let kinds = [array("1", 100_000), array("{}", 10_000), array(&unknown, 10_000)];
    for body in kinds.iter().cycle().take(3 * BODIES) {
        installation.publish([publication(body.as_bytes(), properties())].into_iter()).await?;
    }
    installation.publish([good(0)].into_iter()).await?;
    eventually("the good one behind them is in line", LATER, async || {
        let url = format!("{}/api/v1/actions/{}/queue-stats", installation.executor.api_url(), line_of(0));
        let stats: Value = installation.http.get(url).send().await?.error_for_status()?.json().await?;
        Ok((stats["data"]["queue_length"] == 1).then_some(()))
    })
    .await?;
    let count = "SELECT count(*) FROM dead_letters";
    eventually("each bad body is one letter", LATER, async || {
        let kept = installation.postgres.psql_in(&installation.database, count).await?;
        Ok((kept.trim() == (3 * BODIES).to_string()).then_some(()))
    })
    .await?;
    let bytes: usize = kinds.iter().map(|body| (body.len() + 60_000) * BODIES).sum();
    let grown = peak_memory(&installation.executor)? - before;
    ensure!(grown < 3 * bytes as u64 + (32 << 20), "{grown} bytes for messages of {bytes} in all");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn good_ones_among_a_flood_of_bad_members_are_taken_before_any_of_these_is_put_aside() -> Result<()> {
    const BODIES: usize = 60;
    const MEMBERS: usize = 10_000;
    /// The journal can't keep a letter, and the broker confirms only the first few.
    const CLOSED: &str = "BEGIN; LOCK TABLE dead_letters IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(3600)";
    const FULL: &str = r#"{"max-length": 10, "overflow": "reject-publish"}"#;
    let installation = Installation::start().await?;
    installation.put(&line_of(0), json!({"limit": 1})).await?;
    let (postgres, database) = (installation.postgres, installation.database.clone());
    let rabbit = Rabbit::shared().await?;
    let vhost = installation.amqp.rsplit('/').next().context("a virtual host")?;
    rabbit.ctl(&["set_policy", "-p", vhost, "--apply-to", "queues", "full", r"^slotline\.dead$", FULL]).await?;
    let closing = tokio::spawn({
        let database = database.clone();
        async move { postgres.psql_in(&database, CLOSED).await }
    });
    let holders = "SELECT count(*) FROM pg_locks WHERE granted AND mode = 'AccessExclusiveLock' \
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
        AND relation = (SELECT oid FROM pg_class WHERE relname = 'dead_letters')";
    eventually("the table of letters is closed", LATER, async || {
        Ok((postgres.psql_in(&database, holders).await?.trim() == "1").then_some(()))
    })
    .await?;

    // Bad as a whole, and bad one by one.
    let bad = ["1", "{}"].map(|member| format!("[{}]", vec![member; MEMBERS].join(",")));
    let begun = std::time::Instant::now();
    let flood = (0..BODIES).flat_map(|number| {
        let properties = Properties { message_id: Some(format!("bad-{number}")), ..Properties::default() };
        [publication(bad[number % 2].as_str(), properties), good(number * LINES)]
    });
    installation.publish(flood).await?;
    let published = begun.elapsed();
    eventually("every good one is taken", LATER, async || {
        let taken = postgres.psql_in(&database, "SELECT count(*) FROM live").await?;
        Ok((taken.trim() == BODIES.to_string()).then_some(()))
    })
    .await?;
    println!(
        "{} bad members published in {published:?}, the last good one taken after {:?}",
        BODIES * MEMBERS,
        begun.elapsed()
    );

    let reopen = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(3600)' \
        AND datname = current_database() AND pid <> pg_backend_pid()";
    postgres.psql_in(&database, reopen).await?;
    // Its session was ended.
    drop(closing.await?);
    eventually("every bad one is put aside", LATER, async || {
        let kept = postgres.psql_in(&database, "SELECT count(*) FROM dead_letters").await?;
        Ok((kept.trim() == BODIES.to_string()).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_kills_its_reader_is_put_aside_by_the_next_process_and_those_beside_it_run() -> Result<()> {
    kills_in("read", json!({"limit": 1})).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_kills_the_process_which_holds_it_against_a_schema_is_put_aside_by_the_next() -> Result<()> {
    let schema = json!({"properties": {"text": {"type": "string", "pattern": "."}}});
    kills_in("admit", json!({"limit": 1, "schema": schema})).await
}

/// A message that kills every process in this step.
async fn kills_in(step: &str, policy: Value) -> Result<()> {
    const POISON: &str = "what no process survives";
    let mut installation = Installation::start_with(&[("SLOTLINE_CRASH_ON", &format!("{step}:{POISON}"))]).await?;
    installation.put(&line_of(0), policy).await?;
    let body = request(&json!({"action_ref": line_of(0), "parameters": {"text": POISON}}));
    let poison = publication(body, Properties { message_id: Some("poison".to_owned()), ..Properties::default() });
    installation.publish([good(0), poison, good(LINES)].into_iter()).await?;
    eventually(
        "the first process dies of it",
        LATER,
        async || Ok((!installation.executor.is_running()?).then_some(())),
    )
    .await?;
    installation.executor.start_again(&installation.sandbox)?;
    let (postgres, database) = (installation.postgres, installation.database.clone());
    let letter = eventually("the next one puts it aside", LATER, async || {
        let row = postgres.psql_in(&database, "SELECT reason || ': ' || detail FROM dead_letters").await?;
        Ok((!row.trim().is_empty()).then_some(row))
    })
    .await?;
    ensure!(letter.starts_with("poisoned: ") && letter.contains("signal: 6"), "{letter}");
    eventually("those beside it are taken", LATER, async || {
        let taken = postgres.psql_in(&database, "SELECT count(*) FROM live").await?;
        Ok((taken.trim() == "2").then_some(()))
    })
    .await?;
    ensure!(installation.executor.is_running()?, "it died as well");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_of_half_a_gigabyte_are_looked_through_in_little_memory_and_replayed_one_by_one() -> Result<()> {
    const LETTERS: usize = 60;
    const BODY: usize = 8 << 20;
    /// What the executor may take for all of it: a few copies of a body, never all bodies at once.
    const MEMORY_MAX: u64 = 20 * BODY as u64;
    let installation = Installation::start().await?;
    // The broker ends the session of a publisher to an exchange that no executor has declared yet.
    installation.put(&line_of(0), json!({"limit": 1})).await?;
    let before = peak_memory(&installation.executor)?;
    let list = async || -> Result<Vec<Value>> {
        let url = format!("{}/api/v1/dead?limit=100", installation.executor.api_url());
        let mut page: Value = installation.http.get(url).send().await?.error_for_status()?.json().await?;
        Ok(serde_json::from_value(page["data"].take())?)
    };
    // One by one: how many the broker has sent before the first is put aside is the broker's affair.
    for number in 0..LETTERS {
        let properties = Properties { message_id: Some(format!("large-{number}")), ..Properties::default() };
        installation.publish([publication(vec![b'x'; BODY], properties)].into_iter()).await?;
        let are_there = async || Ok((list().await?.len() == number + 1).then_some(()));
        eventually("all so far are put aside", LATER, are_there).await?;
    }
    let letters = list().await?;
    ensure!(letters == list().await?, "they are listed in another order");
    let url_of = |letter: &Value| -> Result<String> {
        Ok(format!("{}/api/v1/dead/{}", installation.executor.api_url(), letter["id"].as_str().context("an id")?))
    };
    let (replayed, dropped) = (&letters[LETTERS / 2], url_of(&letters[0])?);
    let url = url_of(replayed)?;
    installation.http.post(format!("{url}/replay")).send().await?.error_for_status()?;
    ensure!(installation.http.get(url).send().await?.status() == 404, "a replayed letter is still there");
    installation.http.delete(&dropped).send().await?.error_for_status()?;
    ensure!(installation.http.get(dropped).send().await?.status() == 404, "a dropped letter is still there");
    eventually("it is refused again, as the last", LATER, async || {
        let again = list().await?;
        let last = again.last().context("letters")?;
        Ok((again.len() == LETTERS - 1 && last["message_id"] == replayed["message_id"]).then_some(()))
    })
    .await?;
    let grown = peak_memory(&installation.executor)? - before;
    println!("letters of {} bytes in all took {grown}", LETTERS * BODY);
    ensure!(grown < MEMORY_MAX, "{grown} bytes were taken for letters of {} in all", LETTERS * BODY);
    Ok(())
}
