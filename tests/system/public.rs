//! What subscribers receive: a foreign one keeps its own books from the public exchange alone, and they are right.

use std::collections::BTreeMap;
use std::process::Stdio;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use slotline_tests::eventually;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::actions::Action;
use crate::message::Message;
use crate::world::{LATER, PYTHON, SOON, World};

const BOOKKEEPER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/system/books.py");

/// A subscriber that keeps books; ends when it is dropped.
struct Bookkeeper {
    asks: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    _process: Child,
}

impl Bookkeeper {
    async fn start(amqp: &str) -> Result<Self> {
        let mut command = Command::new(PYTHON);
        command.args([BOOKKEEPER, amqp]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.kill_on_drop(true).spawn()?;
        let asks = process.stdin.take().context("its input")?;
        let mut lines = BufReader::new(process.stdout.take().context("its output")?).lines();
        let first = tokio::time::timeout(SOON, lines.next_line()).await??;
        ensure!(first.as_deref() == Some("listening"), "{first:?}");
        Ok(Self { asks, lines, _process: process })
    }

    async fn books(&mut self) -> Result<Value> {
        self.asks.write_all(b"books\n").await?;
        let line = tokio::time::timeout(SOON, self.lines.next_line()).await.context("no books")??;
        Ok(serde_json::from_str(&line.context("the bookkeeper ended")?)?)
    }

    /// Waits until the books have an end for each execution of the journal, and compares them with it.
    async fn agrees(&mut self, world: &World) -> Result<Value> {
        let journal = ends(world).await?;
        let mut books = Value::Null;
        let all = eventually("the books have every end", LATER, async || {
            books = self.books().await?;
            let known = books["ends"].as_object().context("ends")?.len();
            let open = &books["now"];
            if known >= journal.len() && open.as_object().is_some_and(serde_json::Map::is_empty) {
                return Ok(Some(()));
            }
            bail!("{known} of {} ends, {open} open, {}", journal.len(), books["wrong"]);
        });
        all.await?;
        let told: BTreeMap<String, String> = serde_json::from_value(books["ends"].clone())?;
        let differ = journal.iter().filter(|(id, end)| told.get(*id) != Some(*end));
        let differ: Vec<_> = differ.map(|(id, end)| (id, end, told.get(id))).take(10).collect();
        ensure!(differ.is_empty() && told.len() == journal.len(), "{} ends, and others: {differ:?}", told.len());
        for problem in ["wrong", "holes"] {
            ensure!(books[problem] == json!([]), "{problem}: {}", books[problem]);
        }
        ensure!(books["arrays"] == 0, "{} bodies were arrays", books["arrays"]);
        Ok(books)
    }
}

/// How each execution ended by the journal: its status, and the code of its error if it has one.
async fn ends(world: &World) -> Result<BTreeMap<String, String>> {
    let rows = world
        .sql("SELECT coalesce(json_object_agg(id, concat_ws(':', status, error::json->>'code')), '{}') FROM history")
        .await?;
    Ok(serde_json::from_str(rows.trim())?)
}

/// Requests for one action, each with an id by which it can be cancelled.
fn requests(action: &str, count: usize) -> Vec<Message> {
    (0..count).map(|n| Message::request(action, json!({})).id(&format!("{action}-{n}"))).collect()
}

fn cancellations(action: &str, count: usize) -> Vec<Message> {
    let cancel = |n| Message::payload("execution.cancel_requested", json!({"message_id": format!("{action}-{n}")}));
    (0..count).map(cancel).collect()
}

async fn counted(world: &World, what: &str, action: &str, count: usize, condition: &str) -> Result<()> {
    let sql = format!(
        "SELECT count(*) FROM (SELECT action_id, status, not_before FROM live UNION ALL SELECT action_id, status, NULL \
         FROM history) AS x JOIN actions a ON a.id = x.action_id WHERE a.ref = '{action}' AND {condition}"
    );
    eventually(what, LATER, async || {
        let found: usize = world.sql(&sql).await?.trim().parse()?;
        if found >= count { Ok(Some(())) } else { bail!("{found} of {count}") }
    })
    .await
}

/// The ways in which executions of the storm end, and how many of each.
const WELL: usize = 2_500;
const BADLY: usize = 900;
const AGAIN: usize = 200;
const OVERDUE: usize = 150;
const IMPATIENT: usize = 600;
const IN_LINE: usize = 400;
const IN_BACK_OFF: usize = 100;
const RUNNING: usize = 100;
const LOST: usize = 50;

#[tokio::test]
async fn a_subscribers_own_books_agree_with_the_journal_after_a_storm_in_which_the_leader_is_killed() -> Result<()> {
    let occupied = "limit = 1\nrun_ahead = 0";
    let actions = [
        Action::command("ends.well", "limit = 20", &["/bin/true"]),
        Action::command("ends.badly", "limit = 20", &["/bin/false"]),
        Action::command("ends.again", "retry = { max_attempts = 2, backoff = \"50ms\" }", &["/bin/false"]),
        Action::command("ends.overdue", "limit = 10\ntimeout = \"300ms\"", &["/bin/sleep", "600"]),
        Action::command("ends.impatient", &format!("{occupied}\nqueue_timeout = \"2s\""), &["/bin/sleep", "600"]),
        Action::command("ends.in_line", occupied, &["/bin/sleep", "600"]),
        Action::command(
            "ends.backs_off",
            "retry = { max_attempts = 9, backoff = \"10m\", backoff_max = \"10m\" }",
            &["/bin/false"],
        ),
        Action::command("ends.running", "limit = 100", &["/bin/sleep", "600"]),
        Action::command("ends.lost", "limit = 50\nmax_lost_attempts = 0", &["/bin/sleep", "600"]),
    ];
    let mut world = World::with(actions).executors(2).workers(2, 120).start().await?;
    let mut bookkeeper = Bookkeeper::start(&world.login("reader")).await?;
    // What stays there until the end: the lines behind these move by time-outs and cancellations alone.
    world.publish(&[requests("ends.impatient", 1), requests("ends.in_line", 1)].concat()).await?;
    let storm = [
        requests("ends.running", RUNNING),
        requests("ends.backs_off", IN_BACK_OFF),
        requests("ends.in_line", IN_LINE),
        requests("ends.impatient", IMPATIENT),
        requests("ends.overdue", OVERDUE),
        requests("ends.again", AGAIN),
        requests("ends.badly", BADLY),
        requests("ends.well", WELL),
    ];
    let publisher = tokio::spawn(world.publisher(&storm.concat(), 0)?);
    counted(&world, "a part of the storm is over", "ends.well", WELL / 5, "status = 'completed'").await?;
    let leader = eventually("an executor leads", SOON, async || world.leader().await).await?;
    world.executors[leader].kill()?;
    world.executors.remove(leader);
    counted(&world, "all of one kind run", "ends.running", RUNNING, "status = 'running'").await?;
    counted(&world, "all of one kind back off", "ends.backs_off", IN_BACK_OFF, "not_before IS NOT NULL").await?;
    publisher.await??;
    // The first of each line runs, and is cancelled like those behind it.
    let cancelled =
        [("ends.running", RUNNING), ("ends.backs_off", IN_BACK_OFF), ("ends.in_line", IN_LINE), ("ends.impatient", 1)];
    for (action, count) in cancelled {
        world.publish(&cancellations(action, count)).await?;
    }
    for (action, count) in
        [("ends.well", WELL), ("ends.badly", BADLY), ("ends.again", AGAIN), ("ends.overdue", OVERDUE)]
    {
        world.settled(action, count, LATER).await?;
    }
    for (action, count) in cancelled {
        counted(&world, "what was cancelled has ended", action, count, "status = 'cancelled'").await?;
    }
    world.publish(&requests("ends.lost", LOST)).await?;
    counted(&world, "those to be lost run", "ends.lost", LOST, "status = 'running'").await?;
    for worker in &mut world.workers {
        worker.kill()?;
    }
    world.workers.clear();
    for number in 0..2 {
        world.start_worker(&format!("worker-{number}"))?;
    }
    world.settled("ends.lost", LOST, LATER).await?;
    world.settled("ends.impatient", IMPATIENT, LATER).await?;

    let books = bookkeeper.agrees(&world).await?;
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    for end in books["ends"].as_object().context("ends")?.values() {
        *kinds.entry(end.as_str().context("text")?).or_default() += 1;
    }
    let cancelled = RUNNING + IN_BACK_OFF + IN_LINE + 1;
    let expected = [
        ("cancelled:cancelled", cancelled),
        ("completed", WELL),
        ("failed:exit_status", BADLY + AGAIN),
        ("failed:worker_lost", LOST),
        ("timeout:queue_timeout", IMPATIENT - 1),
        ("timeout:timeout", OVERDUE),
    ];
    ensure!(kinds.iter().map(|(kind, count)| (*kind, *count)).eq(expected), "{kinds:?}");
    ensure!(kinds.values().sum::<usize>() == 5_000, "{kinds:?}");
    Ok(())
}
