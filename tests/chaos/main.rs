//! Real executors, workers, commands and servers under every kind of fault, checked by the simulation's own rules.
//!
//! `cargo chaos` does both parts in a few minutes: it cuts processes off at every named point, one after the other, and
//! lets a storm of faults go over a whole installation. `cargo chaos --minutes 60` is a longer storm, `--seed N` the
//! faults of that seed again, `points` or `storm` one part alone, `--point NAME` one point.
//!
//! What is checked is the history of the journal's tables, noted by triggers in the same transactions, with the stamps
//! that the commands wrote of their start and end. A failure keeps all of it and prints where. It has a `main` of its
//! own for its arguments, and because the two parts would starve each other.

#[path = "../simulation/chance.rs"]
#[allow(dead_code, reason = "the simulation asks it for more")]
mod chance;
#[path = "../simulation/checker/mod.rs"]
#[allow(dead_code, reason = "the simulation asks it for more")]
mod checker;
#[path = "../simulation/history.rs"]
#[allow(dead_code, reason = "not every fact can be seen from outside")]
mod history;

mod audit;
mod clock;
mod fault;
mod inject;
mod installation;
mod judge;
mod lies;
mod member;
mod points;
mod publisher;
mod storm;
mod submitter;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context;

/// How long the storm lasts by default: about three minutes with the calm before and after it.
const STORM_MINUTES: u64 = 2;

#[derive(Default)]
struct Arguments {
    minutes: Option<u64>,
    seed: Option<u64>,
    point: Option<String>,
    parts: Vec<String>,
}

fn main() -> ExitCode {
    let arguments = match Arguments::read(std::env::args().skip(1)) {
        Ok(Some(arguments)) => arguments,
        Ok(None) => return ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            return ExitCode::from(2);
        }
    };
    // Built first, if it has to be: a program that can't be had is one failure, not one for each case.
    if let Err(error) = slotline_tests::slotline_binary() {
        eprintln!("{error:#}");
        return ExitCode::FAILURE;
    }
    // The HTTP client asks for a provider even where no TLS is spoken.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Runtime::new().expect("the system has room for a few threads");
    let mut failed = false;
    let wants = |part: &str| arguments.parts.is_empty() || arguments.parts.iter().any(|wanted| part.contains(wanted));
    failed |= runtime.block_on(show("audit: what a batch undoes is no offence", async { audit::is_understood() }));
    if wants("points") {
        let only = arguments.point.clone();
        failed |= runtime.block_on(show("points: cut off at any point, it goes on whole", points::every(only)));
    }
    if wants("storm") && arguments.point.is_none() {
        let seed = arguments.seed.unwrap_or_else(seed_of_this_moment);
        let storm = storm::Storm { seed, minutes: arguments.minutes.unwrap_or(STORM_MINUTES) };
        failed |= runtime.block_on(show("storm: every rule holds", storm.pass()));
    }
    // Processes that a failed part left running are not waited for; they end with this process.
    runtime.shutdown_background();
    println!("verdict: {}", if failed { "something was lost, repeated or broken; see above" } else { "it holds" });
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Runs one part as a test harness would show it; whether it failed.
async fn show(name: &str, part: impl Future<Output = anyhow::Result<()>>) -> bool {
    let begun = Instant::now();
    let result = Box::pin(part).await;
    let outcome = if result.is_ok() { "ok" } else { "FAILED" };
    println!("test {name} ... {outcome} after {} s", begun.elapsed().as_secs());
    if let Err(error) = &result {
        println!("{error:#}");
    }
    result.is_err()
}

fn seed_of_this_moment() -> u64 {
    slotline_tests::now_ns() % 1_000_000
}

impl Arguments {
    /// `None`: there is nothing to run. Environment variables of the same names stand in for arguments.
    fn read(mut words: impl Iterator<Item = String>) -> anyhow::Result<Option<Self>> {
        let number = |name: &str, text: String| text.parse().with_context(|| format!("{name}: expected a number"));
        let from_environment = |name: &str| std::env::var(name).ok().map(|text| number(name, text)).transpose();
        let mut read =
            Self { minutes: from_environment("MINUTES")?, seed: from_environment("SEED")?, ..Self::default() };
        while let Some(word) = words.next() {
            let mut value = || words.next().with_context(|| format!("{word}: expected a value"));
            match word.as_str() {
                "--minutes" => read.minutes = Some(number(&word, value()?)?),
                "--seed" => read.seed = Some(number(&word, value()?)?),
                "--point" => read.point = Some(value()?),
                // cargo passes these to every test of a workspace.
                "--list" => return Ok(None),
                "--test-threads" | "--skip" | "--format" | "--color" => drop(value()?),
                other if other.starts_with('-') => {}
                part => read.parts.push(part.to_owned()),
            }
        }
        Ok(Some(read))
    }
}
