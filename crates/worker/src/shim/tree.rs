//! Who descends from this process, by `/proc`.

use std::collections::{BTreeMap, BTreeSet};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions};

/// The children of this process, adopted ones included.
pub(super) fn children() -> Vec<Pid> {
    let parents = parents();
    parents.get(&own()).into_iter().flatten().filter_map(|pid| Pid::from_raw(*pid)).collect()
}

/// Signals every descendant of this process. One that is born meanwhile is missed: call it until none is left.
pub(super) fn signal_descendants(signal: Signal) {
    let parents = parents();
    let mut left = vec![own()];
    let mut seen = BTreeSet::new();
    while let Some(parent) = left.pop() {
        for child in parents.get(&parent).into_iter().flatten().copied() {
            if seen.insert(child) {
                left.push(child);
                if let Some(pid) = Pid::from_raw(child) {
                    // It may have ended just now.
                    let _ = rustix::process::kill_process(pid, signal);
                }
            }
        }
    }
}

/// Kills every descendant, and comes back when none is left.
pub(super) fn end_all() {
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) => {
                signal_descendants(Signal::KILL);
                std::thread::sleep(super::KILL_AGAIN);
            }
            Err(_) => return,
        }
    }
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

/// The fourth field. The second is the program's name, in parentheses, and may hold anything.
fn parent(stat: &str) -> Option<i32> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(1)?.parse().ok()
}

fn own() -> i32 {
    rustix::process::getpid().as_raw_nonzero().get()
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
