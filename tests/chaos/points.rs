//! One executor and one worker, cut off at each named point in turn, first at work and then while they recover.
//!
//! The points are where the sources name them (`slotline_broker::crash`): one that no case passes is an error here.

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{bail, ensure};
use futures::StreamExt;
use nix::sys::signal::Signal;
use serde_json::json;
use slotline_broker::crash;
use slotline_tests::{Port, Postgres, Rabbit, eventually};

use crate::clock::{self, Clocks};
use crate::history::Entry;
use crate::installation::{Action, Api, Installation};
use crate::judge::{Tally, judge, judge_api};
use crate::lies;
use crate::member::Member;
use crate::publisher::{Message, Notebook, Publisher};

/// Cases under way at once: most of the time each waits.
const AT_ONCE: usize = 3;
/// Requests before the process is disturbed, and after it was cut off. More come in between, until it is cut off.
const BEFORE: usize = 12;
const AFTER: usize = 8;
const BETWEEN_MAX: usize = 200;
/// Lease, fence and heartbeat.
const TERMS: [&str; 3] = ["8s", "5s", "500ms"];
/// Generous: what is waited for takes moments, or once the lease.
const WITHIN: Duration = Duration::from_secs(90);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Between two requests while the point is awaited.
const PACE: Duration = Duration::from_millis(200);

const LINE: &str = "points.one";
const ACTIONS: [Action; 1] = [Action { name: LINE, policy: "limit = 1\nmax_lost_attempts = 20" }];

/// At which start the process gets the point to die at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    /// From its first start.
    Working,
    /// When it is started again after a SIGKILL at work.
    Recovering,
    /// From its first start, and SIGTERM in mid-work.
    Ending,
}

#[derive(Clone, Copy, Debug)]
struct Case {
    point: &'static str,
    passing: u32,
    when: When,
}

const fn case(point: &'static str, passing: u32, when: When) -> Case {
    Case { point, passing, when }
}

/// The first passing is mostly one of the greeting and of setting up, a later one of work.
const CASES: &[Case] = &[
    case("executor.recovery.epoch", 1, When::Working),
    case("executor.recovery.epoch", 1, When::Recovering),
    case("executor.recovery.terms", 1, When::Recovering),
    case("executor.recovery.claimed", 1, When::Recovering),
    case("executor.recovery.read", 1, When::Recovering),
    case("executor.recovery.queues", 1, When::Working),
    case("executor.recovery.queues", 1, When::Recovering),
    case("executor.commit.before", 1, When::Recovering),
    case("executor.commit.before", 12, When::Working),
    case("executor.commit.after", 1, When::Recovering),
    case("executor.commit.after", 12, When::Working),
    case("executor.commit.after", 17, When::Working),
    case("executor.publish.before", 1, When::Recovering),
    case("executor.publish.before", 14, When::Working),
    case("executor.publish.order", 1, When::Recovering),
    case("executor.publish.order", 6, When::Working),
    // The first thing that leaves is the greeting.
    case("executor.publish.after", 1, When::Working),
    case("executor.publish.after", 1, When::Recovering),
    case("executor.publish.after", 14, When::Working),
    case("executor.announce.before", 14, When::Working),
    case("executor.publish.confirmed", 1, When::Recovering),
    case("executor.publish.confirmed", 6, When::Working),
    case("executor.ack.before", 1, When::Recovering),
    case("executor.ack.before", 14, When::Working),
    case("executor.ack.after", 1, When::Recovering),
    case("executor.ack.after", 14, When::Working),
    case("executor.requests.ack.before", 1, When::Working),
    case("executor.requests.ack.before", 3, When::Working),
    case("executor.requests.ack.after", 1, When::Working),
    case("executor.requests.ack.after", 3, When::Working),
    case("executor.prune.before", 1, When::Recovering),
    case("executor.prune.after", 1, When::Recovering),
    case("worker.lock.taken", 1, When::Recovering),
    case("worker.lock.cleared", 1, When::Recovering),
    case("worker.lock.noted", 1, When::Recovering),
    case("worker.heartbeat.before", 1, When::Recovering),
    case("worker.heartbeat.before", 4, When::Working),
    case("worker.ack.before", 1, When::Recovering),
    case("worker.ack.before", 5, When::Working),
    case("worker.ack.after", 5, When::Working),
    case("worker.spawn.before", 1, When::Recovering),
    case("worker.spawn.before", 5, When::Working),
    case("worker.spawn.after", 5, When::Working),
    case("worker.started.before", 5, When::Working),
    case("worker.started.after", 5, When::Working),
    case("worker.reap.before", 5, When::Working),
    case("worker.reap.after", 5, When::Working),
    case("worker.completion.before", 1, When::Recovering),
    case("worker.completion.before", 5, When::Working),
    case("worker.completion.after", 5, When::Working),
    case("worker.farewell.before", 1, When::Ending),
    case("worker.farewell.after", 1, When::Ending),
];

/// Runs every case, or those of one point.
pub(crate) async fn every(only: Option<String>) -> anyhow::Result<()> {
    ensure!(cfg!(debug_assertions), "a release has no points; build the tests without --release");
    let named = named_points()?;
    let passed: BTreeSet<String> = CASES.iter().map(|case| case.point.to_owned()).collect();
    ensure!(named == passed, "no case, or no point: {:?}", named.symmetric_difference(&passed));
    let (rabbit, postgres) = tokio::try_join!(Rabbit::shared(), Postgres::shared())?;
    let wanted = |case: &&Case| only.as_ref().is_none_or(|only| case.point.contains(only.as_str()));
    let cases = CASES.iter().enumerate().filter(|(_, case)| wanted(case));
    let runs = cases.map(|(number, case)| Box::pin(run(rabbit, postgres, number, *case)));
    let results: Vec<anyhow::Result<()>> = futures::stream::iter(runs).buffer_unordered(AT_ONCE).collect().await;
    let count = results.len();
    let failures: Vec<_> = results.into_iter().filter_map(Result::err).collect();
    for failure in &failures {
        println!("{failure:#}\n");
    }
    println!("    {count} times cut off, at {} points; {} broke a rule", passed.len(), failures.len());
    ensure!(failures.is_empty(), "{} cases of {count} failed", failures.len());
    Ok(())
}

/// What the sources name.
fn named_points() -> anyhow::Result<BTreeSet<String>> {
    let mut named = BTreeSet::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)?.flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path)?;
                let names = text.split("crash::point(\"").skip(1).filter_map(|rest| rest.split('"').next());
                named.extend(names.map(str::to_owned));
            }
        }
    }
    Ok(named)
}

async fn run(rabbit: &Rabbit, postgres: &Postgres, number: usize, case: Case) -> anyhow::Result<()> {
    let begun = std::time::Instant::now();
    let installation = Installation::build(postgres, rabbit.url(), &format!("points{number}"), &ACTIONS, TERMS).await?;
    let result = Box::pin(cut_off(&installation, postgres, case)).await;
    println!("    {case:?} ... {} ms", begun.elapsed().as_millis());
    // The history that was checked must also show each false entry.
    if let Err(error) = result.and_then(|history| lies::are_found(&history)) {
        let kept = installation.keep(&format!("slotline-chaos-{}-{number}", case.point))?;
        return Err(error.context(format!("{case:?}; what is left is in {}", kept.display())));
    }
    Ok(())
}

/// Returns the history, which keeps every rule.
async fn cut_off(installation: &Installation, postgres: &Postgres, case: Case) -> anyhow::Result<Vec<Entry>> {
    let (clocks, notes) = (Clocks::watch(), Notebook::default());
    let mut pair = Pair::start(installation, case)?;
    let api = pair.api.clone();
    pair.watching(installation.apply(&api, WITHIN)).await?;
    let mut publisher = Publisher::new(&installation.amqp, &installation.prefix, notes.clone())?;
    let mut published = 0;
    while published < BEFORE {
        pair.watching(publish(&mut publisher, &mut published)).await?;
    }
    if case.when != When::Working {
        let some = eventually("some have ended", WITHIN, async || {
            let ended = settled(installation, postgres).await?;
            ensure!(ended >= 3, "{ended} have ended");
            Ok(Some(()))
        });
        pair.watching(some).await?;
        pair.disturb(case).await?;
    }
    while pair.crashes == 0 {
        ensure!(published < BETWEEN_MAX, "the point is not passed");
        pair.watching(publish(&mut publisher, &mut published)).await?;
        pair.watching(async {
            tokio::time::sleep(PACE).await;
            Ok(())
        })
        .await?;
    }
    let calm_since = clock::now();
    let wanted = published + AFTER;
    while published < wanted {
        pair.watching(publish(&mut publisher, &mut published)).await?;
    }
    let all = eventually("everything is terminal", WITHIN, async || {
        let ended = settled(installation, postgres).await?;
        ensure!(ended == published, "{ended} have ended");
        Ok(Some(clock::now()))
    });
    let quiet_since = pair.watching(all).await;
    if quiet_since.is_ok() && !is_about_pruning(case) {
        // The last ends may still be on their way to the API's totals.
        let agrees =
            eventually("the API agrees", WITHIN, async || judge_api(&pair.api, &[LINE], published).await.map(Some));
        agrees.await?;
    }
    let crashes = pair.end().await?;
    installation.is_deserted(WITHIN).await?;
    let bound = u64::try_from(WITHIN.as_micros())?;
    let closed = quiet_since.as_ref().map_or_else(|_| clock::now(), |at| *at);
    let Tally { history, .. } = judge(installation, postgres, &notes, &clocks, (calm_since, bound, closed)).await?;
    quiet_since?;
    ensure!(crashes == 1, "it was cut off {crashes} times");
    Ok(history)
}

/// One more request.
async fn publish(publisher: &mut Publisher, published: &mut usize) -> anyhow::Result<()> {
    let id = format!("{published:03}");
    let payload = json!({"action_ref": LINE, "parameters": {"tag": id, "sleep_ms": 15, "beat_ms": 3}});
    publisher.publish(&Message::requests([(id, payload)])).await;
    *published += 1;
    Ok(())
}

/// By the triggers' notes, since history may be pruned meanwhile.
async fn settled(installation: &Installation, postgres: &Postgres) -> anyhow::Result<usize> {
    let count =
        postgres.psql_in(&installation.database, "select count(*) from chaos.notes where what = 'history'").await?;
    Ok(count.parse()?)
}

fn is_about_pruning(case: Case) -> bool {
    case.point.starts_with("executor.prune.")
}

/// An executor and a worker, each started again whenever it ends.
struct Pair {
    executor: Member,
    worker: Member,
    api: Api,
    victim: Victim,
    crashes: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Victim {
    Executor,
    Worker,
}

impl Pair {
    fn start(installation: &Installation, case: Case) -> anyhow::Result<Self> {
        // Leaked with the process: an executor that is started again listens where it did.
        let port = Box::leak(Box::new(Port::claim()?)).number();
        let victim = if case.point.starts_with("executor.") { Victim::Executor } else { Victim::Worker };
        let target = format!("{}:{}", case.point, case.passing);
        let variables = |of: Victim| {
            let told = of == victim && case.when != When::Recovering;
            if told { vec![(crash::VARIABLE, target.as_str())] } else { Vec::new() }
        };
        let mut arguments = installation.executor("executor", &installation.database, &installation.amqp, port);
        if is_about_pruning(case) {
            arguments.extend(["--retention", "1ms"].map(str::to_owned));
        }
        let executor = Member::start(&installation.sandbox, "executor", arguments, &variables(Victim::Executor))?;
        let arguments = installation.worker("worker", &installation.amqp, 2);
        let worker = Member::start(&installation.sandbox, "worker", arguments, &variables(Victim::Worker))?;
        Ok(Self { executor, worker, api: Api::at([port])?, victim, crashes: 0 })
    }

    fn victim(&mut self) -> &mut Member {
        match self.victim {
            Victim::Executor => &mut self.executor,
            Victim::Worker => &mut self.worker,
        }
    }

    /// Starts each process again that has ended. A process that was not cut off and got no SIGTERM must not have ended.
    fn look(&mut self) -> anyhow::Result<()> {
        for member in [&mut self.executor, &mut self.worker] {
            if let Some(status) = member.ended()? {
                let was_cut_off = status.signal() == Some(Signal::SIGABRT as i32);
                ensure!(was_cut_off, "{} ended by itself: {status}\n{}", member.name, member.log());
                self.crashes += 1;
                member.start_again(&[])?;
            }
        }
        Ok(())
    }

    /// Waits for something, and starts each process again that ends meanwhile.
    async fn watching<T>(&mut self, what: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
        let mut what = std::pin::pin!(what);
        loop {
            tokio::select! {
                result = &mut what => return result,
                () = tokio::time::sleep(LOOK_EVERY) => self.look()?,
            }
        }
    }

    /// Brings the victim to where it passes its point.
    async fn disturb(&mut self, case: Case) -> anyhow::Result<()> {
        let target = format!("{}:{}", case.point, case.passing);
        let victim = self.victim();
        match case.when {
            When::Working => bail!("nothing needs to be done"),
            When::Recovering => {
                victim.kill().await?;
                victim.start_again(&[(crash::VARIABLE, &target)])
            }
            When::Ending => victim.signal(Signal::SIGTERM),
        }
    }

    /// SIGTERM to both; returns how often one was cut off.
    async fn end(mut self) -> anyhow::Result<usize> {
        self.look()?;
        for member in [&mut self.worker, &mut self.executor] {
            member.signal(Signal::SIGTERM)?;
            let status = member.end(WITHIN).await?;
            ensure!(status.success(), "{} ended: {status}\n{}", member.name, member.log());
        }
        Ok(self.crashes)
    }
}
