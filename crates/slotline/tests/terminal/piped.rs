//! The program without a terminal: what is printed is plain, and a reader that goes is no error.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use anyhow::{Context, ensure};
use rustix::process::Signal;

use super::dev::{Dev, SOON, interrupt, printed, program};
use super::{ACTIONS, running};

/// As after `slotline dev 2>&1 | tee log` of which `tee` was ended, or after its terminal was closed.
#[test]
fn dev_without_a_reader_of_its_log_works_on_and_ends_in_order() -> anyhow::Result<()> {
    for signal in [Signal::TERM, Signal::HUP] {
        let dev = start_without_a_reader("--default-signal=HUP")?;
        echo(&dev)?;
        dev.stop_by(signal)?;
    }
    Ok(())
}

#[test]
fn dev_that_was_started_with_nohup_outlives_its_terminal() -> anyhow::Result<()> {
    let dev = start_without_a_reader("--ignore-signal=HUP")?;
    interrupt(&dev.process, Signal::HUP)?;
    echo(&dev)?;
    dev.stop().map(drop)
}

/// `hang_up`: what SIGHUP does at its start, in the words of `env`. Whatever runs the tests may ignore it.
fn start_without_a_reader(hang_up: &str) -> anyhow::Result<Dev> {
    let folder = tempfile::tempdir()?;
    let mut command = Command::new("/usr/bin/env");
    command.current_dir(folder.path()).env_clear().env("PATH", "/usr/bin:/bin");
    command.args([hang_up, env!("CARGO_BIN_EXE_slotline")]);
    command.args(["dev", "--data", "data", "--listen", "127.0.0.1:0", "--log-level", "debug"]);
    let mut process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut line = String::new();
    BufReader::new(process.stdout.take().context("a pipe")?).read_line(&mut line)?;
    // Of both pipes no end is open any more but its own.
    drop(process.stderr.take());
    let url = line.split([' ', ',']).find(|word| word.starts_with("http://")).context(line.clone())?.to_owned();
    Ok(Dev { folder, process, url })
}

fn echo(dev: &Dev) -> anyhow::Result<()> {
    for _ in 0..3 {
        let done = dev.slotline(&["run", "demo.echo", "-p", "message=on", "--wait"])?;
        ensure!(done.status.success(), "{}", printed(&done));
    }
    Ok(())
}

const FAILS: &str = "[[action]]\nref = 'test.fail'\n[action.run]\ncommand = ['/bin/false']\n";

/// The writing end of a pipe that nothing reads from any more.
fn unread() -> anyhow::Result<Stdio> {
    let (reader, writer) = std::io::pipe()?;
    drop(reader);
    Ok(writer.into())
}

/// No part of it steers a terminal, and it has an end.
fn is_plain(text: &[u8]) -> bool {
    let steers = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    String::from_utf8(text.to_vec()).is_ok_and(|text| !text.contains(steers) && text.ends_with('\n'))
}

#[test]
fn each_command_prints_plain_text_into_a_pipe_and_ends_well_if_nothing_reads_it() -> anyhow::Result<()> {
    let dev = Dev::start(ACTIONS)?;
    ensure!(dev.slotline(&["run", "demo.echo", "-p", "message=\u{1b}[2J", "--wait"])?.status.success());
    running(&dev)?;
    let commands: [&[&str]; 14] = [
        &["queue"],
        &["queue", "demo.echo"],
        &["actions"],
        &["actions", "show", "demo.sync"],
        &["executions", "list"],
        &["executions", "list", "--output", "wide"],
        &["executions", "list", "--output", "json"],
        &["executions", "show", "1"],
        &["workers"],
        &["audit"],
        &["watch", "1"],
        &["watch", "1", "--output", "json"],
        &["run", "demo.echo", "--watch", "--logs"],
        &["run", "demo.echo", "--wait"],
    ];
    for command in commands {
        let done = dev.slotline(command)?;
        ensure!(done.status.success() && is_plain(&done.stdout), "{command:?}: {}", printed(&done));
        let Output { status, stderr, .. } = dev.command(command).stdout(unread()?).output()?;
        let stderr = String::from_utf8(stderr)?;
        ensure!(status.code() == Some(0) && !stderr.contains("panicked"), "{command:?}: {status} {stderr}");
        ensure!(!stderr.contains("slotline: "), "{command:?}: a reader that goes is no error: {stderr}");
        let Output { status, .. } = dev.command(command).stderr(unread()?).output()?;
        ensure!(status.code() == Some(0), "{command:?}: its notes are unread, and it ended with {status}");
    }
    Ok(())
}

#[test]
fn a_reader_that_goes_changes_neither_what_is_done_nor_how_it_ended() -> anyhow::Result<()> {
    let dev = Dev::start(FAILS)?;
    let code = |arguments: &[&str]| -> anyhow::Result<Option<i32>> {
        Ok(dev.command(arguments).stdout(unread()?).output()?.status.code())
    };
    assert_eq!(code(&["run", "test.fail", "--wait", "--output", "json"])?, Some(1));
    dev.json(&["pause", "test.fail"])?;
    let ids = [(); 3].map(|()| dev.json(&["run", "test.fail"]).map(|run| run["execution_id"].to_string()));
    let ids = ids.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    assert_eq!(code(&["cancel", &ids[0], &ids[1], &ids[2]])?, Some(0));
    for id in &ids {
        assert_eq!(dev.json(&["executions", "show", id])?["status"], "cancelled");
    }
    Ok(())
}

fn names(folder: &Path) -> anyhow::Result<BTreeSet<std::ffi::OsString>> {
    std::fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name())).collect()
}

#[test]
fn the_demo_shows_lines_checks_them_and_ends_well() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let begun = Instant::now();
    let done = program(folder.path(), &["demo"]).output()?;
    assert!(done.status.success(), "{}", printed(&done));
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    let text = String::from_utf8(done.stdout.clone())?;
    for expected in
        ["demo.deploy", "demo.resize", "demo.sync", "48 executions, 48 completed", "Checked from the journal"]
    {
        assert!(text.contains(expected), "{}", printed(&done));
    }
    assert!(is_plain(&done.stdout), "no terminal, no escapes: {text}");
    let last = text.lines().last().unwrap_or_default();
    assert!(last.starts_with("Next:") && last.contains("dev"), "{text}");
    Ok(())
}

#[test]
fn the_demo_that_nothing_reads_leaves_nothing_behind() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let mut demo = program(folder.path(), &["demo"]);
    let Output { status, stderr, .. } = demo.env("TMPDIR", folder.path()).stdout(unread()?).output()?;
    assert_eq!((status.code(), String::from_utf8(stderr)?.as_str()), (Some(0), ""));
    assert_eq!(names(folder.path())?, BTreeSet::new(), "its journal was for this run alone");
    Ok(())
}
