//! Two executors, four workers, a broker and a database, proxies between all of them, and a storm of faults over it.

use std::cell::RefCell;
use std::sync::{Mutex as Held, PoisonError};
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::json;
use slotline_tests::{Port, Postgres, Rabbit, eventually};
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::chance::Chance;
use crate::clock::{self, Clocks};
use crate::fault::{self, EXECUTORS, Fault, FaultKind, WORKERS};
use crate::inject::{Targets, links};
use crate::installation::{Action, Api, Installation};
use crate::judge::{self, Tally};
use crate::member::Member;
use crate::publisher::{Message, Notebook, Publisher};
use crate::submitter::submit;

/// Lease, fence and heartbeat: short enough that storms lose workers.
const TERMS: [&str; 3] = ["12s", "8s", "1s"];
const CAPACITY: u32 = 4;
const READY_WITHIN: Duration = Duration::from_secs(90);
/// Within which everything is terminal once faults have stopped: sessions are built again, leases end, lines run out.
const QUIET_WITHIN: Duration = Duration::from_secs(150);
/// The least faults of a storm of this length.
const FAULTS_MIN: usize = 50;
const FAULTS_MIN_OF: u64 = 2;
const LOOK_EVERY: Duration = Duration::from_millis(250);

const ACTIONS: [Action; 7] = [
    Action { name: "chaos.one", policy: "limit = 1\nmax_lost_attempts = 50" },
    Action { name: "chaos.three", policy: "limit = 3" },
    Action { name: "chaos.keyed", policy: "limit = 4\nkey_limit = 1\nkey = \"/tenant\"\nmax_lost_attempts = 50" },
    Action {
        name: "chaos.stays",
        policy: "limit = 2\n\
            retry = { max_attempts = 2, backoff = \"200ms\", backoff_max = \"1s\", keep_place = true }",
    },
    Action {
        name: "chaos.goes",
        policy: "limit = 2\nretry = { max_attempts = 3, backoff = \"200ms\", backoff_max = \"1s\" }",
    },
    Action { name: "chaos.late", policy: "limit = 1\ntimeout = \"700ms\"" },
    Action { name: SUBMITTED, policy: "limit = 2" },
];
/// The action of the requests over HTTP.
const SUBMITTED: &str = "chaos.submitted";

pub(crate) struct Storm {
    pub(crate) seed: u64,
    pub(crate) minutes: u64,
}

impl Storm {
    /// Runs the storm over an installation, and checks the history.
    pub(crate) async fn pass(&self) -> anyhow::Result<()> {
        let lasts = Duration::from_secs(60 * self.minutes);
        let faults = fault::plan(self.seed, lasts);
        println!("storm of seed {}: {} faults in {} minutes", self.seed, faults.len(), self.minutes);
        ensure!(
            faults.len() * usize::try_from(FAULTS_MIN_OF)? >= FAULTS_MIN * usize::try_from(self.minutes)?,
            "too mild"
        );
        let count = faults.len();
        let targets = Box::pin(build()).await.context("before the storm")?;
        let result = Box::pin(self.over(&targets, faults)).await;
        let wrongs = std::mem::take(&mut *targets.wrongs.lock().unwrap_or_else(PoisonError::into_inner));
        let result = result.and_then(|tally| {
            ensure!(wrongs.is_empty(), "{wrongs:#?}");
            Ok(tally)
        });
        match result {
            Ok(tally) => {
                println!("    {count} faults, {tally}; no rule was broken");
                Ok(())
            }
            Err(error) => {
                let kept = targets.installation.keep(&format!("slotline-chaos-{}", self.seed))?;
                Err(error.context(format!("seed {}; what is left is in {}", self.seed, kept.display())))
            }
        }
    }

    async fn over(&self, targets: &Targets, faults: Vec<Fault>) -> anyhow::Result<Tally> {
        let (clocks, notes, stop) = (Clocks::watch(), Notebook::default(), CancellationToken::new());
        let installation = &targets.installation;
        let api = targets.api.clone();
        let url = targets.links[fault::LINKS - 1].1.lock().await.url(&installation.amqp, targets.rabbit.port());
        let publisher = Publisher::new(&url, &installation.prefix, notes.clone())?;
        let mut sources = JoinSet::new();
        let load = load(self.seed);
        sources.spawn({
            let stop = stop.clone();
            async move {
                publisher.stream(load, stop).await;
                anyhow::Ok(())
            }
        });
        sources.spawn({
            let (api, notes, stop, name) = (api.clone(), notes.clone(), stop.clone(), format!("h{}", self.seed));
            async move { submit(api, SUBMITTED, &name, notes, stop).await }
        });
        let injected = watched(targets, inject_all(targets, faults)).await;
        let calm_since = clock::now();
        println!("    calm; {} requests are confirmed", notes.confirmed());
        stop.cancel();
        targets.is_fine().await?;
        injected?;
        let all = eventually("everything is terminal", QUIET_WITHIN, async || {
            let count = "select (select count(*) from live) || ' ' || (select count(*) from history)";
            let count = targets.postgres.psql_in(&installation.database, count).await?;
            while let Some(done) = sources.try_join_next() {
                if let Err(error) = done? {
                    targets.wrong(format!("{error:#}"));
                }
            }
            ensure!(sources.is_empty(), "a publisher still waits; live and settled: {count}");
            ensure!(count == format!("0 {}", notes.confirmed()), "live and settled: {count}");
            Ok(Some(clock::now()))
        });
        let quiet = watched(targets, all).await;
        let quiet_since = quiet.as_ref().map_or_else(|_| clock::now(), |at| *at);
        let told = match &quiet {
            Ok(_) => {
                api.ready(WORKERS, READY_WITHIN).await?;
                let names: Vec<&str> = ACTIONS.iter().map(|action| action.name).collect();
                judge::judge_api(&api, &names, notes.confirmed()).await
            }
            Err(_) => Ok(()),
        };
        let closed = targets.close().await;
        let deserted = installation.is_deserted(READY_WITHIN).await;
        let bound = u64::try_from(QUIET_WITHIN.as_micros())?;
        // Checked in any case: a broken rule may be why it is not quiet.
        let judged =
            judge::judge(installation, &targets.postgres, &notes, &clocks, (calm_since, bound, quiet_since)).await?;
        quiet?;
        told?;
        closed?;
        deserted?;
        for member in targets.everyone() {
            let member = member.lock().await;
            ensure!(!member.log().contains("panicked at"), "{} has panicked:\n{}", member.name, member.log());
        }
        Ok(judged)
    }
}

/// Waits for something, and meanwhile checks that no process ends by itself.
async fn watched<T>(targets: &Targets, what: impl Future<Output = T>) -> T {
    let mut what = std::pin::pin!(what);
    loop {
        tokio::select! {
            done = &mut what => return done,
            () = tokio::time::sleep(LOOK_EVERY) => targets.look_for_ended(),
        }
    }
}

/// Injects all faults, each at its time, and waits until the last is over.
async fn inject_all(targets: &Targets, faults: Vec<Fault>) -> anyhow::Result<()> {
    let log = FaultLog::default();
    let faults = faults.into_iter().map(async |fault| {
        tokio::time::sleep(fault.at).await;
        log.note(targets, "begins", fault);
        let done = targets.inject(fault).await;
        log.note(targets, "ends", fault);
        done.with_context(|| format!("{fault:?} can't be done"))
    });
    futures::future::join_all(faults).await.into_iter().collect()
}

/// What was done when, on the clock of the history.
#[derive(Default)]
struct FaultLog(RefCell<String>);

impl FaultLog {
    fn note(&self, targets: &Targets, what: &str, Fault { lasts, kind, .. }: Fault) {
        let link = match kind {
            FaultKind::Cut(link) | FaultKind::Link(link, _) => format!(" ({})", targets.links[link].0),
            _ => String::new(),
        };
        let line = format!("{:>12} {what:6} {kind:?}{link} for {lasts:?}", clock::now());
        println!("    {line}");
        let mut text = self.0.borrow_mut();
        *text += &(line + "\n");
        // Only for people, should it fail.
        let _ = std::fs::write(targets.installation.sandbox.path().join("faults"), &*text);
    }
}

/// What the publisher publishes: a few times a second, mostly one request, sometimes several, seldom a cancellation.
fn load(seed: u64) -> impl FnMut(u64) -> (Vec<Message>, Duration) + Send {
    let mut chance = Chance::of(seed, 2);
    move |turn| {
        let action = ACTIONS[chance.index(ACTIONS.len() - 1)].name;
        let count = if chance.percent(10) { 5 } else { 1 };
        let ids: Vec<String> = (0..count).map(|member| format!("p{seed}-{turn}-{member}")).collect();
        let requests: Vec<_> = ids
            .iter()
            .map(|id| {
                let mut parameters = json!({"tag": id, "beat_ms": 5, "sleep_ms": chance.between(0, 200)});
                match action {
                    "chaos.one" | "chaos.three" if chance.percent(8) => {
                        parameters["sleep_ms"] = chance.between(1000, 3000).into();
                    }
                    "chaos.keyed" => parameters["tenant"] = format!("tenant-{}", chance.below(5)).into(),
                    "chaos.stays" | "chaos.goes" if chance.percent(30) => parameters["exit"] = 3.into(),
                    "chaos.late" if chance.percent(20) => parameters["sleep_ms"] = 30_000.into(),
                    _ => {}
                }
                (id.clone(), json!({"action_ref": action, "parameters": parameters}))
            })
            .collect();
        let mut messages = vec![Message::requests(requests)];
        if chance.percent(5) {
            messages.push(Message::cancel(&ids[0]));
        }
        (messages, Duration::from_millis(chance.between(40, 200)))
    }
}

async fn build() -> anyhow::Result<Targets> {
    let (rabbit, postgres) = tokio::try_join!(Rabbit::start(), Postgres::start())?;
    let installation = Installation::build(&postgres, rabbit.url(), "slotline", &ACTIONS, TERMS).await?;
    let links = links(rabbit.port(), postgres.port())?;
    let by = async |link: usize, url: &str, server: u16| links[link].1.lock().await.url(url, server);
    let (mut executors, mut workers, mut addresses) = (Vec::new(), Vec::new(), Vec::new());
    for index in 0..EXECUTORS {
        let amqp = by(2 * index, &installation.amqp, rabbit.port()).await;
        let database = by(2 * index + 1, &installation.database, postgres.port()).await;
        // Leaked with the process: an executor that is started again listens where it did.
        let port = Box::leak(Box::new(Port::claim()?)).number();
        let name = format!("executor-{index}");
        executors.push(Mutex::new(Member::start(
            &installation.sandbox,
            &name,
            installation.executor(&name, &database, &amqp, port),
            &[],
        )?));
        addresses.push(port);
    }
    let api = Api::at(addresses)?;
    installation.apply(&api, READY_WITHIN).await?;
    for index in 0..WORKERS {
        let (name, amqp) =
            (format!("worker-{index}"), by(2 * EXECUTORS + index, &installation.amqp, rabbit.port()).await);
        workers.push(Mutex::new(Member::start(
            &installation.sandbox,
            &name,
            installation.worker(&name, &amqp, CAPACITY),
            &[],
        )?));
    }
    api.ready(WORKERS, READY_WITHIN).await?;
    let (broker, journal, wrongs) = (Mutex::new(()), Mutex::new(()), Held::default());
    Ok(Targets { rabbit, postgres, installation, api, executors, workers, links, broker, journal, wrongs })
}
