//! The descendants of this process, by `/proc`, and how all of them are signalled.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use nix::unistd::Pid as Target;
use rustix::io::Errno;
use rustix::process::{Signal, WaitOptions};

use crate::process::confine;
use crate::process::mark::{self, Stubborn};

/// Between two looks at what survived a kill, at first and at most: most of it is gone at once, and each look reads all
/// of `/proc`.
pub(super) const KILL_AGAIN: Duration = Duration::from_millis(5);
const KILL_AGAIN_MAX: Duration = Duration::from_millis(250);

/// The next pause between two kills.
pub(super) fn longer(pause: Duration) -> Duration {
    (2 * pause).min(KILL_AGAIN_MAX)
}

/// Signals every descendant of this process, and returns those for which the system refused it. A process that is born
/// meanwhile is missed: call it until none is left.
pub(super) fn signal_descendants(signal: Signal) -> Vec<Stubborn> {
    if confine::is_first() {
        // Everything in the namespace descends from its first process.
        return match nix::sys::signal::kill(Target::from_raw(-1), named(signal)) {
            Ok(()) | Err(nix::errno::Errno::ESRCH) => Vec::new(),
            Err(_) => descendants().into_iter().map(|pid| stubborn(pid, Some(Errno::PERM))).collect(),
        };
    }
    let mut refused = Vec::new();
    for pid in descendants() {
        match nix::sys::signal::kill(Target::from_raw(pid), named(signal)) {
            // The process may have ended just now.
            Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
            Err(error) => refused.push(stubborn(pid, Some(Errno::from_raw_os_error(error as i32)))),
        }
    }
    refused
}

/// The number of descendants of this process.
pub(super) fn count() -> u32 {
    u32::try_from(descendants().len()).unwrap_or(u32::MAX)
}

/// Every descendant of this process, with a reason why none of them ends.
pub(super) fn left() -> Vec<Stubborn> {
    descendants().into_iter().map(|pid| stubborn(pid, None)).collect()
}

/// Kills every descendant, and returns when none is left.
pub(super) fn end_all() {
    let mut pause = KILL_AGAIN;
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) => {
                signal_descendants(Signal::KILL);
                std::thread::sleep(pause);
                pause = longer(pause);
            }
            Err(_) => return,
        }
    }
}

fn stubborn(pid: i32, errno: Option<Errno>) -> Stubborn {
    Stubborn { pid, uid: mark::uid(pid), errno }
}

fn named(signal: Signal) -> nix::sys::signal::Signal {
    if signal == Signal::TERM { nix::sys::signal::Signal::SIGTERM } else { nix::sys::signal::Signal::SIGKILL }
}

/// The descendants of this process, with the numbers that `/proc` knows them by.
fn descendants() -> Vec<i32> {
    let parents = parents();
    let mut left: Vec<i32> = own().into_iter().collect();
    let mut seen = BTreeSet::new();
    while let Some(parent) = left.pop() {
        left.extend(parents.get(&parent).into_iter().flatten().filter(|child| seen.insert(**child)));
    }
    seen.into_iter().collect()
}

/// Every process by its parent.
fn parents() -> BTreeMap<i32, Vec<i32>> {
    let mut parents: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        if let Some(parent) = parent(&stat) {
            parents.entry(parent).or_default().push(pid);
        }
    }
    parents
}

/// The fourth field. The second is the program's name, in parentheses, and may contain anything.
fn parent(stat: &str) -> Option<i32> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(1)?.parse().ok()
}

/// The number of this process in this `/proc`: in a namespace that may still be its host's.
fn own() -> Option<i32> {
    std::fs::read_link("/proc/self").ok()?.to_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::parent;

    #[test]
    fn a_program_whose_name_holds_parentheses_still_has_its_parent() {
        assert_eq!(parent("42 (sh) S 7 42 42 0"), Some(7));
        assert_eq!(parent("42 (a) R 1) S 7 42 42 0"), Some(7));
        assert_eq!(parent("nonsense"), None);
    }
}
