//! C: commands per second through Slotline, beside a loop that does nothing but start them and wait for them.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::figure::{Book, Figure, MACHINE};
use crate::installation::{END_WITHIN, Site};
use crate::program;
use crate::publisher::{Form, Request, publish};
use crate::scale::Scale;
use crate::workers::Spent;

const ACTION: &str = "bench.true";
const PROGRAM: &str = "/bin/true";
const COUNT: usize = 2_000;
/// Commands at once: what a worker takes by default on two cores, and what fills it.
const CAPACITIES: [u32; 2] = [4, 32];

pub(crate) async fn measure(site: Site<'_>, scale: &Scale, book: &mut Book) -> Result<()> {
    let threads = std::thread::available_parallelism()?.get();
    let floor = scale.floor;
    for threads in [1, threads] {
        book.add(tokio::task::spawn_blocking(move || bare(threads, floor)).await??);
    }
    for capacity in CAPACITIES {
        book.add(through_slotline(site, capacity, scale).await?);
    }
    Ok(())
}

/// Starts the program and waits for it, again and again, on so many threads.
fn bare(threads: usize, lasting: Duration) -> Result<Figure> {
    let begun = Instant::now();
    let turn = || -> Result<usize> {
        let mut started = 0;
        while begun.elapsed() < lasting {
            let mut command = Command::new(PROGRAM);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            ensure!(command.status()?.success(), "{PROGRAM} failed");
            started += 1;
        }
        Ok(started)
    };
    let started: usize = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(turn)).collect();
        running.into_iter().map(|thread| thread.join().expect("a turn does not panic")).sum::<Result<usize>>()
    })?;
    let case = format!("{PROGRAM}, bare loop on {threads} thread{}", if threads == 1 { "" } else { "s" });
    Ok(Figure::new(MACHINE, "C", case, started).rate(1, begun.elapsed().as_secs_f64()))
}

/// A real worker with a real command.
async fn through_slotline(site: Site<'_>, capacity: u32, scale: &Scale) -> Result<Figure> {
    let installation = site.install().await?;
    installation.put(ACTION, "{}").await?;
    let actions = installation.sandbox().path().join("actions.toml");
    std::fs::write(&actions, format!("[[action]]\nref = \"{ACTION}\"\n[action.run]\ncommand = [\"{PROGRAM}\"]\n"))?;
    let name = installation.fresh_name();
    let (actions, capacity_told) = (actions.display().to_string(), capacity.to_string());
    let arguments = ["worker", "--name", &name, "--amqp-url", installation.amqp(), "--actions", &actions];
    let arguments = [&arguments[..], &["--capacity", &capacity_told]].concat();
    let mut worker = program::start(installation.sandbox(), &name, &arguments)?;
    installation.until_known(std::slice::from_ref(&name)).await?;
    let meter = installation.meter().family("worker", worker.pid().as_raw());

    let count = scale.of(COUNT);
    let (mut rounds, mut spent, mut published) = (Vec::new(), Spent::default(), 0);
    while rounds.iter().sum::<f64>() < scale.floor.as_secs_f64() {
        let (clocks, begun) = (meter.read()?, Instant::now());
        let requests = Request::of(ACTION, None, published..published + count);
        publish(&installation.session, Form::Arrays, requests).await?;
        published += count;
        installation.until_settled(published as u64).await?;
        rounds.push(begun.elapsed().as_secs_f64());
        spent.add(meter.since(&clocks)?);
    }
    worker.signal(slotline_tests::Signal::SIGTERM)?;
    tokio::task::spawn_blocking(move || worker.wait(END_WITHIN)).await??;
    let case = format!("{PROGRAM}, {capacity} at once, each with its shim");
    let mut figure =
        Figure::new(site.system(), "C", case, published).rate(rounds.len(), rounds.iter().sum()).cpu(spent.0);
    figure.journal_violations = installation.verify().await?;
    installation.close(site).await?;
    Ok(figure)
}
