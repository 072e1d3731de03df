//! Processes as this host's `/proc` shows them.
#![allow(dead_code, reason = "each test file takes what it needs")]

use std::path::{Path, PathBuf};

/// Every process that runs in that folder. A process that has ended and was not reaped has no folder.
pub(crate) fn living_in(folder: &Path) -> Vec<i32> {
    let folder = folder.canonicalize().expect("a folder");
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter(|entry| std::fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd == folder))
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// Runs, and is no zombie.
pub(crate) fn runs(pid: i32) -> bool {
    stat(pid).is_some_and(|stat| stat.first().is_some_and(|state| state != "Z" && state != "X"))
}

pub(crate) fn parent(pid: i32) -> Option<i32> {
    stat(pid)?.get(1)?.parse().ok()
}

/// The processor time of a process, in hundredths of a second.
pub(crate) fn ticks(pid: i32) -> Option<u64> {
    let stat = stat(pid)?;
    Some(stat.get(11)?.parse::<u64>().ok()? + stat.get(12)?.parse::<u64>().ok()?)
}

/// The shim of a command: the parent of the one process in that folder whose parent is not in it.
pub(crate) fn shim_of(folder: &Path) -> Option<i32> {
    let living = living_in(folder);
    let parents = living.iter().filter_map(|pid| parent(*pid));
    parents.filter(|parent| !living.contains(parent)).find(|parent| command_line(*parent).contains("slotline-shim"))
}

fn command_line(pid: i32) -> String {
    let words = std::fs::read(PathBuf::from(format!("/proc/{pid}/cmdline"))).unwrap_or_default();
    String::from_utf8_lossy(&words).into_owned()
}

/// What follows the name in `/proc/<pid>/stat`: the state, the parent, ...
fn stat(pid: i32) -> Option<Vec<String>> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    Some(rest.split_whitespace().map(str::to_owned).collect())
}

/// Set to 1 for a run that leaves out what only root can try.
const WITHOUT_ROOT: &str = "SLOTLINE_TEST_WITHOUT_ROOT";

/// Whether this process can become another user. Without root that is an error, unless the run states that it leaves
/// such tests out: a test that passes because it tried nothing can't fail.
pub(crate) fn has_root(test: &str) -> anyhow::Result<bool> {
    if rustix::process::geteuid().is_root() {
        return Ok(true);
    }
    anyhow::ensure!(
        std::env::var(WITHOUT_ROOT).is_ok_and(|value| value == "1"),
        "{test} needs root, since nothing else can become another user: run it as root, or leave it out with {WITHOUT_ROOT}=1"
    );
    eprintln!("LEFT OUT: {test} needs root ({WITHOUT_ROOT}=1)");
    Ok(false)
}
