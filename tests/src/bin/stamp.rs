//! The command that test actions run: writes into a file when it really started and ended.
//!
//! `stamp FILE` appends `start` and `end` lines, each in one write, with times of the boot clock that all processes
//! share. Parameters of the execution set what else it does: `tag`, `sleep_ms`, `beat_ms` (write a sign of life this
//! often while it sleeps, so that the end of a killed one is known), `gate` (wait for this file), `exit`, `signal` (to
//! itself), and `ignore_term`.

use std::fmt::Display;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;
use slotline_tests::now_ns;

/// Between two looks whether the gate is open.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

fn main() -> anyhow::Result<()> {
    let path = std::env::args_os().nth(1).context("usage: stamp FILE")?;
    let mut file = std::fs::File::options().create(true).append(true).open(path)?;
    let (execution, attempt, fence) = (own("EXECUTION_ID")?, own("GRANT")?, own("FENCE")?);
    let tag = parameter("tag").unwrap_or_else(|| "-".to_owned());
    let mut say = |what: &str, extra: &dyn Display| {
        let line = format!("{what} {execution} {attempt} {fence} {} {tag} {extra}\n", now_ns());
        file.write_all(line.as_bytes())
    };
    say("start", &std::process::id())?;

    if parameter("ignore_term").is_some() {
        let mut term = SigSet::empty();
        term.add(Signal::SIGTERM);
        // Blocked stands for ignored, which nix can't do without `unsafe`.
        term.thread_block()?;
    }
    let mut rest = duration("sleep_ms")?.unwrap_or_default();
    let beat = duration("beat_ms")?.unwrap_or(rest);
    while !rest.is_zero() {
        let step = rest.min(beat);
        std::thread::sleep(step);
        rest -= step;
        if !rest.is_zero() {
            say("beat", &0)?;
        }
    }
    while parameter("gate").is_some_and(|gate| !Path::new(&gate).exists()) {
        std::thread::sleep(LOOK_AGAIN);
    }
    let status: i32 = parameter("exit").map_or(Ok(0), |code| code.parse())?;
    say("end", &status)?;
    if let Some(name) = parameter("signal") {
        kill(Pid::this(), name.parse::<Signal>()?)?;
        bail!("{name} did not end this process");
    }
    println!("{{\"tag\":\"{tag}\"}}");
    std::process::exit(status);
}

fn own(name: &str) -> anyhow::Result<String> {
    std::env::var(format!("SLOTLINE_{name}")).with_context(|| format!("SLOTLINE_{name} is not set"))
}

fn parameter(name: &str) -> Option<String> {
    std::env::var(format!("SLOTLINE_PARAM_{}", name.to_uppercase())).ok()
}

fn duration(name: &str) -> anyhow::Result<Option<Duration>> {
    let milliseconds =
        parameter(name).map(|text| text.parse().with_context(|| format!("{name}: {text}"))).transpose()?;
    Ok(milliseconds.map(Duration::from_millis))
}
