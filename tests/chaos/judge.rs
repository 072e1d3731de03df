//! Puts all records of one installation into one history and checks it against the rules.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use serde_json::Value;
use slotline_protocol::{ExecutionId, Fence};
use slotline_tests::{Postgres, Stamp};

use crate::audit;
use crate::checker::Checker;
use crate::clock::{self, Clocks};
use crate::history::{Entry, Fact};
use crate::installation::{Api, Installation};
use crate::publisher::Notebook;

/// Facts about an execution that a verdict shows.
const SHOWN_MAX: usize = 60;
/// Records read at once.
const PAGE: u64 = 1000;

/// A history that keeps the rules, and its size.
pub(crate) struct Tally {
    pub(crate) history: Vec<Entry>,
    executions: usize,
    attempts: usize,
    lost: usize,
    epochs: usize,
    commits: usize,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { executions, attempts, lost, epochs, commits, history: _ } = self;
        write!(f, "{executions} executions, {attempts} attempts ({lost} cut off), {epochs} epochs, {commits} commits")
    }
}

/// Checks an installation against the rules, after all its processes have ended. `calm_since`: when faults stopped, and
/// within how many microseconds from then everything had to be terminal.
pub(crate) async fn judge(
    installation: &Installation,
    postgres: &Postgres,
    notes: &Notebook,
    clocks: &Clocks,
    (calm_since, bound, quiet_since): (u64, u64, u64),
) -> anyhow::Result<Tally> {
    let mut history = audit::read(postgres, &installation.database, clocks).await.context("the journal's own notes")?;
    let stamps = installation.stamps.read().context("what commands wrote of themselves")?;
    history.extend(notes.read());
    history.extend(stamps.iter().flat_map(lived));
    history.push(Entry { at: calm_since, fact: Fact::FaultsStopped { bound } });
    // The entries of each recorder are in order already; a stable sort keeps that where times are equal.
    history.sort_by_key(|entry| entry.at);
    history.push(Entry { at: quiet_since.max(calm_since), fact: Fact::Closed });
    write(&history, &installation.sandbox.path().join("history.jsonl"))?;
    if let Err(violation) = Checker::check(&history) {
        let about = violation.execution.map(|id| told_of(&history, id)).unwrap_or_default();
        bail!("{:?} at {} us: {}\n{about}", violation.rule, violation.at, violation.detail);
    }
    let count = |wanted: fn(&Fact) -> bool| history.iter().filter(|entry| wanted(&entry.fact)).count();
    Ok(Tally {
        executions: count(|fact| matches!(fact, Fact::Settled { .. })),
        attempts: stamps.len(),
        lost: stamps.iter().filter(|stamp| stamp.ended.is_none()).count(),
        epochs: count(|fact| matches!(fact, Fact::Led { .. })),
        commits: count(|fact| matches!(fact, Fact::Committed { .. })),
        history,
    })
}

/// The life of a process by its own stamps. Without a stamp of its end it was alive at least until its last sign of
/// life.
fn lived(stamp: &Stamp) -> Vec<Entry> {
    let (execution, attempt) = (ExecutionId(stamp.execution), stamp.attempt);
    let fence = Fence(i64::try_from(stamp.fence).unwrap_or(i64::MAX));
    let began = Entry { at: stamp.started / 1000, fact: Fact::Began { execution, attempt, fence } };
    let is_alive = stamp.ended.is_none() && is_running(stamp);
    let ended = Entry { at: stamp.last_seen / 1000, fact: Fact::Ended { execution, attempt, fence } };
    if is_alive { vec![began] } else { vec![began, ended] }
}

/// Found by its fence, since its process id may be that of a namespace.
fn is_running(stamp: &Stamp) -> bool {
    let mark = format!("SLOTLINE_FENCE={}", stamp.fence);
    let (mark, execution) = (mark.into_bytes(), format!("SLOTLINE_EXECUTION_ID={}", stamp.execution).into_bytes());
    std::fs::read_dir("/proc").into_iter().flatten().flatten().any(|entry| {
        let environ = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        let has = |variable: &[u8]| environ.split(|byte| *byte == 0).any(|found| found == variable);
        let words = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        has(&mark) && has(&execution) && words.starts_with(env!("CARGO_BIN_EXE_stamp").as_bytes())
    })
}

/// Checks the answers of the API once all is quiet: no lease is left, totals are right, and every record is whole, from
/// its first number to its one end.
pub(crate) async fn judge_api(api: &Api, actions: &[&str], requests: usize) -> anyhow::Result<()> {
    let mut completed = 0;
    for action in actions {
        let stats = api.get(&format!("/api/v1/actions/{action}/queue-stats")).await?["data"].take();
        ensure!(stats["active_count"] == 0 && stats["queue_length"] == 0, "{action} is not quiet: {stats}");
        completed += stats["total_completed"].as_u64().context("a number")?;
    }
    ensure!(completed == requests as u64, "{completed} of {requests} requests are counted as completed");
    let workers = api.get("/api/v1/workers").await?;
    for worker in list(&workers["data"])? {
        ensure!(worker["active_count"] == 0, "a lease is left: {worker}");
    }
    let dead = api.get("/api/v1/dead").await?;
    ensure!(list(&dead["data"])?.is_empty(), "requests were put aside: {dead}");
    let (mut seen, mut cursor) = (BTreeSet::new(), String::new());
    loop {
        let page = api.get(&format!("/api/v1/executions?limit=500{cursor}")).await?;
        for execution in list(&page["data"])? {
            let id = execution["execution_id"].as_i64().context("an id")?;
            ensure!(seen.insert(id), "execution {id} is listed twice");
            judge_record(api, id).await.with_context(|| format!("the record of execution {id}"))?;
        }
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    ensure!(seen.len() == requests, "{} executions are listed of {requests} requests", seen.len());
    Ok(())
}

async fn judge_record(api: &Api, id: i64) -> anyhow::Result<()> {
    let page = api.get(&format!("/api/v1/executions/{id}/events?limit={PAGE}")).await?;
    let events = list(&page["data"])?;
    for (event, number) in events.iter().zip(1_u64..) {
        ensure!(event["number"] == number, "event {number} is missing: {events:#?}");
        let is_last = number == events.len() as u64;
        ensure!((event["kind"] == "settled") == is_last, "its end is not its one last event: {events:#?}");
    }
    ensure!(!events.is_empty(), "it is empty");
    let started: BTreeMap<u64, usize> =
        events.iter().filter(|event| event["kind"] == "started").fold(BTreeMap::new(), |mut started, event| {
            *started.entry(event["attempt"].as_u64().unwrap_or(0)).or_default() += 1;
            started
        });
    ensure!(started.values().all(|times| *times == 1), "an attempt started twice: {events:#?}");
    Ok(())
}

fn list(value: &Value) -> anyhow::Result<&Vec<Value>> {
    value.as_array().with_context(|| format!("a list: {value}"))
}

fn write(history: &[Entry], path: &Path) -> anyhow::Result<()> {
    let lines: Result<Vec<String>, _> = history.iter().map(serde_json::to_string).collect();
    Ok(std::fs::write(path, lines?.join("\n"))?)
}

/// The entries of one execution in the history, the newest last.
fn told_of(history: &[Entry], id: ExecutionId) -> String {
    let lines: Vec<String> = history.iter().filter_map(|entry| serde_json::to_string(entry).ok()).collect();
    let mark = format!("\"execution\":{id}");
    let is_about = |line: &&String| line.contains(&format!("{mark},")) || line.contains(&format!("{mark}}}"));
    let about: Vec<&str> = lines.iter().filter(is_about).map(String::as_str).collect();
    let began = clock::now();
    format!("(now {began})\n{}", about[about.len().saturating_sub(SHOWN_MAX)..].join("\n"))
}
