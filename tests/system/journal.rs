//! A journal that stands still, takes nothing, has no room, is slow, or is cut off in the middle of a commit.
//!
//! Each test checks the same: nothing more is accepted, and a submission over HTTP is refused; published requests wait
//! on the broker; running attempts go on; and once the journal is well again, everything continues by itself and in
//! order. A database that dies and comes back is in `crash`.

use std::cell::Cell;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};
use slotline_tests::{Conditions, Proxy, eventually};

use crate::actions::Action;
use crate::message::{Message, tags};
use crate::world::{LATER, SOON, World};

const LINE: &str = "line.three";
const SLOTS: usize = 3;
/// The first of a stream runs until after the trouble; the second ends while that can't be written to the journal.
const LONG_MS: u64 = 45_000;
const SHORTER_MS: u64 = 4000;

fn requests(tags: &[String]) -> Vec<Message> {
    let request = |tag: &String| {
        let sleep_ms = match tag.as_str() {
            "00000" => LONG_MS,
            "00001" => SHORTER_MS,
            _ => 20,
        };
        Message::request(LINE, json!({"tag": tag, "sleep_ms": sleep_ms, "beat_ms": 5})).id(tag)
    };
    tags.iter().map(request).collect()
}

/// A stream of requests with trouble in its middle, and what must come out of it.
struct Stream {
    /// What was taken so far, in the order of the line.
    tags: Vec<String>,
    /// What is yet to be published while there is trouble, and after it.
    during: Vec<String>,
    after: Vec<String>,
}

impl Stream {
    /// Publishes the first part, and returns while it runs.
    async fn begin(world: &World) -> anyhow::Result<Self> {
        let mut tags = tags(120);
        let after = tags.split_off(80);
        let during = tags.split_off(40);
        world.publish(&requests(&tags)).await?;
        world.stamps.started(10, LATER).await?;
        Ok(Self { tags, during, after })
    }

    /// Checks what must hold while there is trouble; `cause` is in the refusal.
    async fn suffer(&mut self, world: &World, cause: &str) -> anyhow::Result<()> {
        world.publish(&requests(&self.during)).await?;
        let published = self.during.len();
        self.tags.append(&mut self.during);
        let refusal = self.refusal(world).await?;
        ensure!(refusal.contains(cause), "{cause}: {refusal}");
        eventually("nothing is taken from the queue", SOON, async || {
            let held = world.requests_held().await?;
            if held >= published { Ok(Some(())) } else { bail!("{held} are held") }
        })
        .await?;
        // The journal counts as well for a moment each time that leadership was taken and lost.
        eventually("the trouble shows", SOON, async || {
            let (status, health) = world.call("GET", "/readyz?verbose", None).await?;
            let shows = status == 503 && health["error"]["details"]["database"]["ok"] == false;
            if shows { Ok(Some(())) } else { bail!("{status} {health}") }
        })
        .await?;
        let seen = last_seen(world)?;
        eventually("the long run goes on", SOON, async || Ok((last_seen(world)? > seen).then_some(()))).await
    }

    /// Submits over HTTP, and notes a tag that was taken: 202 is the answer if the request is on the broker and no
    /// executor leads.
    async fn submit(&mut self, world: &World, tag: String) -> anyhow::Result<(u16, Value)> {
        let body = json!({"action_ref": LINE, "parameters": {"tag": tag}});
        let (status, answer) = world.call("POST", "/api/v1/executions", Some(body)).await?;
        if matches!(status, 201 | 202) {
            self.tags.push(tag);
        }
        Ok((status, answer))
    }

    /// Submits until a submission is refused as it should be.
    async fn refusal(&mut self, world: &World) -> anyhow::Result<String> {
        let mut number = 0;
        let refusal = eventually("a submission is refused", SOON, async || {
            number += 1;
            let (status, answer) = self.submit(world, format!("http-{number}")).await?;
            match status {
                201 | 202 => {}
                503 if answer["error"]["code"] == "journal_unavailable" => return Ok(Some(answer)),
                503 => {}
                _ => bail!("{status} {answer}"),
            }
            Ok(None)
        })
        .await?;
        let message = refusal["error"]["message"].as_str().context("a message")?;
        ensure!(message.contains("not taken") && message.contains("submit it again"), "{message}");
        Ok(message.to_owned())
    }

    /// Checks what must hold after the trouble; the executors find out by themselves that it is over.
    async fn end(mut self, world: &World) -> anyhow::Result<()> {
        let mut number = 0;
        eventually("a submission is taken again", SOON, async || {
            number += 1;
            let (status, answer) = self.submit(world, format!("again-{number}")).await?;
            match status {
                201 => Ok(Some(())),
                202 | 503 => Ok(None),
                _ => bail!("{status} {answer}"),
            }
        })
        .await?;
        world.publish(&requests(&self.after)).await?;
        self.tags.append(&mut self.after);
        world.settled(LINE, self.tags.len(), LATER).await?;
        ensure!(world.dead().await?.is_empty(), "{:?}", world.dead().await?);
        world.check_line(LINE, &self.tags, SLOTS).await
    }
}

/// When the long run was seen last.
fn last_seen(world: &World) -> anyhow::Result<u64> {
    let stamps = world.stamps.read()?;
    let long = stamps.iter().find(|stamp| stamp.tag == "00000").context("it has started")?;
    ensure!(long.ended.is_none(), "it has ended; the test needs one that runs");
    Ok(long.last_seen)
}

async fn world() -> anyhow::Result<World> {
    World::with([Action::stamp(LINE, "limit = 3")])
        .own_postgres()
        .journal_link()
        .executors(2)
        .workers(2, SLOTS)
        .long_lease()
        .start()
        .await
}

#[tokio::test]
async fn a_database_that_stands_still_for_longer_than_the_leaders_patience_and_goes_on() -> anyhow::Result<()> {
    let world = world().await?;
    let mut stream = Stream::begin(&world).await?;
    let frozen = world.postgres.freeze()?;
    stream.suffer(&world, "(database ").await?;
    let ran = world.stamps.read()?.len();
    drop(frozen);
    stream.end(&world).await?;
    ensure!(ran < 40, "{ran} had started: with nothing written, nothing may");
    Ok(())
}

#[tokio::test]
async fn a_database_that_is_made_read_only_and_writable_again() -> anyhow::Result<()> {
    let world = world().await?;
    let mut stream = Stream::begin(&world).await?;
    // It holds for sessions that are open, too, except for the one that sets it.
    let excepted = format!("{}?options=-c%20default_transaction_read_only%3Doff", world.postgres.url());
    let read_only = async |value: &str| {
        let postgres = &world.postgres;
        postgres.psql_in(&excepted, &format!("alter system set default_transaction_read_only = {value}")).await?;
        postgres.psql_in(&excepted, "select pg_reload_conf()").await.map(drop)
    };
    read_only("on").await?;
    stream.suffer(&world, "read-only").await?;
    read_only("off").await?;
    stream.end(&world).await
}

/// The error is PostgreSQL's own for a disk without room, raised where a request would need some; a disk that is really
/// full needs rights to make one.
#[tokio::test]
async fn a_database_whose_disk_is_full_until_there_is_room_again() -> anyhow::Result<()> {
    let world = world().await?;
    let mut stream = Stream::begin(&world).await?;
    world
        .sql(
            "create function no_room() returns trigger language plpgsql as $$ begin \
             raise exception 'could not extend file \"base/1/1\": No space left on device' using errcode = 'disk_full'; \
             end $$; \
             create trigger no_room before insert on live for each statement execute function no_room()",
        )
        .await?;
    stream.suffer(&world, "disk is full").await?;
    world.sql("drop trigger no_room on live").await?;
    stream.end(&world).await
}

/// The database has a constraint that some values break, like an encoding without ideograms.
#[tokio::test]
async fn what_the_database_refuses_is_put_aside_with_its_words_and_the_rest_goes_on() -> anyhow::Result<()> {
    let said = "echo \"{\\\"said\\\": \\\"ve$SLOTLINE_PARAM_SAY\\\"}\"";
    let world = World::with([Action::command("demo.say", "limit = 2", &["/bin/sh", "-c", said])]).start().await?;
    world
        .sql(
            "alter table live add constraint no_poison check (parameters not like '%poison%'); \
             alter table history add constraint no_venom check (result not like '%venom%'); \
             alter table events add constraint no_vetoxin check (body not like '%vetoxin%'); \
             alter table actions add constraint no_policy check (policy not like '%poison%')",
        )
        .await?;
    let epoch: i64 = world.sql("select epoch from leadership").await?.trim().parse()?;
    let say = |word: &str| Message::request("demo.say", json!({"say": word})).id(word);
    let words = ["gan", "poison", "nom", "toxin", "ry"];
    let replies = world.publish_for_replies(&words.map(say), words.len()).await?;
    let refused: Vec<&Value> = replies.iter().filter(|reply| reply["message_type"] == "execution.rejected").collect();
    ensure!(refused.len() == 1, "{replies:#?}");
    let error = &refused[0]["payload"]["error"];
    ensure!(error["code"] == "journal_refused", "{error}");
    ensure!(error["message"].as_str().is_some_and(|message| message.contains("no_poison")), "{error}");
    eventually("the refused request is among the dead letters", SOON, async || {
        let dead = world.dead().await?;
        let is_there = dead.len() == 1 && dead[0]["reason"] == "journal_refused";
        if is_there { Ok(Some(())) } else { bail!("{dead:#?}") }
    })
    .await?;

    world.settled("demo.say", words.len() - 1, LATER).await?;
    let executions = world.executions("demo.say").await?;
    let of = |word: &str| {
        let it = executions.iter().find(|execution| execution["parameters"]["say"] == word);
        it.with_context(|| format!("{word} is among {executions:#?}"))
    };
    for word in ["gan", "toxin", "ry"] {
        ensure!(of(word)?["status"] == "completed", "{word}: {}", of(word)?);
    }
    let failed = of("nom")?;
    ensure!(failed["status"] == "failed" && failed["error"]["code"] == "journal_refused", "{failed}");
    ensure!(failed["error"]["message"].as_str().is_some_and(|message| message.contains("no_venom")), "{failed}");
    let events = world.whole_record(of("toxin")?["execution_id"].as_i64().context("an id")?).await?;
    ensure!(events.iter().any(|event| event["kind"] == "gap" && event["reason"] == "refused"), "{events:#?}");

    let (status, answer) =
        world.call("PUT", "/api/v1/actions/demo.bad", Some(json!({"schema": {"const": "poison"}}))).await?;
    ensure!(status == 422 && answer["error"]["code"] == "journal_refused", "{status} {answer}");
    let now: i64 = world.sql("select epoch from leadership").await?.trim().parse()?;
    ensure!(now - epoch <= 8, "each culprit costs an epoch at most, and some retries: {epoch} to {now}");
    Ok(())
}

#[tokio::test]
async fn a_database_whose_every_commit_takes_a_second_is_only_slow() -> anyhow::Result<()> {
    let world = world().await?;
    world
        .sql(
            "create function slow() returns trigger language plpgsql as $$ begin perform pg_sleep(1); return null; end $$; \
             create constraint trigger slow after update on leadership deferrable initially deferred \
             for each row execute function slow()",
        )
        .await?;
    let epoch = world.sql("select epoch from leadership").await?;
    let tags: Vec<String> = tags(32).split_off(2);
    world.publish(&requests(&tags)).await?;
    world.settled(LINE, tags.len(), LATER).await?;
    world.check_line(LINE, &tags, SLOTS).await?;
    ensure!(world.sql("select epoch from leadership").await? == epoch, "slow is not gone: nobody else need lead");
    Ok(())
}

#[tokio::test]
async fn a_commit_that_is_cut_off_with_its_outcome_unknown_loses_and_repeats_nothing() -> anyhow::Result<()> {
    let world = world().await?;
    let link = world.journal_link.as_ref().context("the proxy")?;
    let trouble = async {
        world.stamps.started(10, LATER).await?;
        for _ in 0..3 {
            // It is committed, and the executor never receives the answer.
            hold_back_an_answer(&world, link).await?;
            let started = over(&world, link).await?;
            // It never gets there: what has ended waits to be written.
            link.set(Conditions::StalledUp);
            eventually("all that run have ended", SOON, async || {
                Ok(world.stamps.read()?.iter().all(|stamp| stamp.ended.is_some()).then_some(()))
            })
            .await?;
            let started = started.max(over(&world, link).await?);
            world.stamps.started(started + 5, LATER).await?;
        }
        for bytes in [300, 1500, 5000, 11_000] {
            link.set(Conditions::ResetAfter(bytes));
            eventually("nobody leads", SOON, async || Ok(world.leader().await?.is_none().then_some(()))).await?;
            over(&world, link).await?;
        }
        Ok(())
    };
    let tags = with_work(&world, trouble).await?;
    world.settled(LINE, tags.len(), LATER).await?;
    world.check_line(LINE, &tags, SLOTS).await
}

/// A batch that is packed while a commit is under way depends on that commit: it must not be committed without it.
#[tokio::test]
async fn what_is_packed_behind_a_commit_that_is_cut_off_is_done_by_the_next_leader() -> anyhow::Result<()> {
    // Enough to be packed behind another.
    const CANCELLED: usize = 900;
    let world = World::with([Action::stamp(LINE, "limit = 1")])
        .own_postgres()
        .journal_link()
        .executors(2)
        .workers(2, SLOTS)
        .long_lease()
        .start()
        .await?;
    let link = world.journal_link.as_ref().context("the proxy")?;
    // Committed without an answer to the executor; or never committed.
    for (round, conditions) in [(1, Conditions::StalledDown), (2, Conditions::StalledUp)] {
        let (first, last) = (format!("first-{round}"), format!("last-{round}"));
        let waiting = (0..CANCELLED).map(|n| format!("cancelled-{round}-{n}"));
        let requests: Vec<Message> = std::iter::once(json!({"tag": first, "gate": world.gate(&first)}))
            .chain(waiting.map(|tag| json!({"tag": tag})))
            .chain([json!({"tag": last})])
            .map(|parameters| Message::request(LINE, parameters.clone()).id(&parameters["tag"].to_string()))
            .collect();
        world.publish(&requests).await?;
        world.stamps.started(2 * round - 1, LATER).await?;
        let accepted = format!("select count(*) from live where message_id = '\"{last}\"'");
        eventually("all are accepted", LATER, async || Ok((world.sql(&accepted).await? == "1").then_some(()))).await?;
        let live = world.sql("select string_agg(id::text, ' ' order by place) from live").await?;
        let ids: Vec<i64> = live.split(' ').map(str::parse).collect::<Result<_, _>>()?;
        ensure!(ids.len() == CANCELLED + 2, "{live}");
        // All but the first in one body: the leader takes them within the ten seconds that the first one's commit has.
        let names = (0..CANCELLED).map(|n| json!(format!("cancelled-{round}-{n}")).to_string());
        let mut payloads = names.map(|name| json!({"message_id": name}));
        let one = Message::payloads("execution.cancel_requested", payloads.by_ref().take(1));
        let others = Message::payloads("execution.cancel_requested", payloads);

        pinged(&world).await?;
        link.set(conditions);
        world.publish(&[one]).await?;
        let all_taken = async || {
            eventually("all are taken", SOON, async || {
                let waiting = world.requests_waiting().await?;
                if waiting == 0 { Ok(Some(())) } else { bail!("{waiting} wait") }
            })
            .await
        };
        all_taken().await?;
        world.publish(&[others]).await?;
        all_taken().await?;
        over(&world, link).await?;
        eventually("all are cancelled", LATER, async || {
            let ended = world.sql("select count(*) from history where status = 'cancelled'").await?;
            if ended == (CANCELLED * round).to_string() { Ok(Some(())) } else { bail!("{ended}") }
        })
        .await?;
        world.open(&first)?;
        world.settled(LINE, (CANCELLED + 2) * round, LATER).await?;
    }
    let order: Vec<_> = world.stamps.read()?.into_iter().map(|stamp| stamp.tag).collect();
    ensure!(order == ["first-1", "last-1", "first-2", "last-2"], "{order:?}");
    ensure!(world.dead().await?.is_empty(), "{:?}", world.dead().await?);
    Ok(())
}

/// Publishes until the trouble is over, so that there is always something to commit; returns all tags that were
/// published.
async fn with_work(world: &World, trouble: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<Vec<String>> {
    const AHEAD: usize = 200;
    let over = Cell::new(false);
    let trouble = async {
        let ended = trouble.await;
        over.set(true);
        ended
    };
    let work = async {
        let mut published = Vec::new();
        while !over.get() {
            let first = 2 + published.len();
            let more = tags(first + AHEAD).split_off(first);
            world.publish(&requests(&more)).await?;
            world.stamps.started(published.len(), LATER).await?;
            published.extend(more);
        }
        Ok(published)
    };
    let ((), published) = tokio::try_join!(trouble, work)?;
    Ok(published)
}

/// Leaves the link stalled after a commit, with the answer to it held back. If the answer was on its way already when
/// the link stalled, nothing more is committed: then the link is opened, and the next commit is tried.
async fn hold_back_an_answer(world: &World, link: &Proxy) -> anyhow::Result<()> {
    eventually("a commit is made whose answer is held back", SOON, async || {
        let before = led(world).await?;
        link.set(Conditions::StalledDown);
        let held = eventually("a commit that shows", Duration::from_secs(2), async || {
            Ok((led(world).await? != before).then_some(()))
        })
        .await;
        if held.is_err() {
            link.set(Conditions::Normal);
        }
        Ok(held.ok())
    })
    .await
}

/// Cuts all connections, lets new ones pass, and waits until an executor leads; returns how many attempts had started
/// by then.
async fn over(world: &World, link: &Proxy) -> anyhow::Result<usize> {
    link.cut();
    link.set(Conditions::Normal);
    eventually("somebody leads", SOON, async || world.leader().await).await?;
    Ok(world.stamps.read()?.len())
}

/// Waits until an idle leader has just pinged the journal, so that its next ping is some time away: while it waits for
/// a ping it takes nothing.
async fn pinged(world: &World) -> anyhow::Result<()> {
    let heard = async || {
        let leader = "select state_change from pg_stat_activity where pid = \
            (select pid from pg_locks where locktype = 'advisory' and granted)";
        world.sql(leader).await
    };
    let before = heard().await?;
    eventually("the leader asks for the journal", SOON, async || Ok((heard().await? != before).then_some(()))).await
}

/// The epoch, and its last batch.
async fn led(world: &World) -> anyhow::Result<String> {
    world.sql("select epoch, batch from leadership").await
}
