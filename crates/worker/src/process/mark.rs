//! A mark that all processes of an attempt bear, whatever they do to their environment, session, group or parents.
//!
//! It is the hard limit of `RLIMIT_RTTIME`: inherited by every child and over every `exec`, without effect for a
//! process without a real-time priority, and readable by every user in `/proc/<pid>/limits`. So the processes that a
//! killed shim left behind are found, also those that have become another user. A process that lowers the limit on
//! purpose removes its mark: against malice there are namespaces and domains (`confine`). Reads `/proc`: not for the
//! loop's thread.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Resource, Rlimit, Signal};

/// Bits of the number of a shim within its worker.
const NUMBER_BITS: u32 = 24;
/// Bits of the number of a worker on its host.
const WORKER_BITS: u32 = 37;
/// No real limit is that long: it is 146,000 years.
const BASE: u64 = 1 << 62;
/// Looks in a row that must find nothing: a process that is being born or starts another program may be missed.
const QUIET_LOOKS: u32 = 3;
/// Between two looks at what bears a mark, at first and at most.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
const LOOK_AGAIN_MAX: Duration = Duration::from_millis(250);

/// What the processes of one shim bear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProcessMark(u64);

/// The marks of one worker.
#[derive(Debug)]
pub(crate) struct ProcessMarks {
    worker: u64,
    next: AtomicU64,
}

/// A process that SIGKILL does not end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stubborn {
    pub(crate) pid: i32,
    pub(crate) uid: u32,
    /// Why the signal was refused; `None`: it was sent, and the process lives on.
    pub(crate) errno: Option<Errno>,
}

impl ProcessMarks {
    /// `worker` is a number that no other worker of this host has.
    pub(crate) fn new(worker: u64) -> Self {
        Self { worker: worker & ((1 << WORKER_BITS) - 1), next: AtomicU64::new(0) }
    }

    pub(crate) fn next(&self) -> ProcessMark {
        let number = self.next.fetch_add(1, Ordering::Relaxed) & ((1 << NUMBER_BITS) - 1);
        ProcessMark(BASE | self.worker << NUMBER_BITS | number)
    }

    fn covers(&self, mark: ProcessMark) -> bool {
        mark.0 >> NUMBER_BITS == (BASE >> NUMBER_BITS | self.worker)
    }

    /// Kills every process with a mark of this worker, also those of a former process. Returns those that are left.
    pub(crate) fn sweep(&self) -> Vec<Stubborn> {
        kill(|mark| self.covers(mark))
    }
}

impl ProcessMark {
    /// As the argument of a shim.
    pub(crate) fn to_argument(self) -> String {
        self.0.to_string()
    }

    pub(crate) fn from_argument(text: &str) -> Option<Self> {
        text.parse().ok().map(Self)
    }

    /// Marks this process and all its future descendants.
    pub(crate) fn bear(self) -> rustix::io::Result<()> {
        rustix::process::setrlimit(Resource::Rttime, Rlimit { current: Some(self.0), maximum: Some(self.0) })
    }

    /// Kills all that bears it, and returns when nothing is left. Calls `say` once for each process that can't be
    /// ended.
    pub(crate) fn end_all(self, mut say: impl FnMut(Stubborn)) {
        let (mut quiet, mut pause, mut known) = (0, LOOK_AGAIN, BTreeSet::new());
        while quiet < QUIET_LOOKS {
            let left = kill(|mark| mark == self);
            if left.is_empty() {
                quiet += 1;
                pause = LOOK_AGAIN;
            } else {
                quiet = 0;
                for stubborn in left.into_iter().filter(|stubborn| stubborn.errno.is_some()) {
                    if known.insert(stubborn.pid) {
                        say(stubborn);
                    }
                }
                pause = (2 * pause).min(LOOK_AGAIN_MAX);
            }
            std::thread::sleep(pause);
        }
    }
}

/// Kills every process with such a mark, and returns those that still ran.
fn kill(is_wanted: impl Fn(ProcessMark) -> bool) -> Vec<Stubborn> {
    let mut left = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let Ok(limits) = std::fs::read_to_string(entry.path().join("limits")) else { continue };
        if borne(&limits).is_some_and(&is_wanted)
            && !is_zombie(pid)
            && let Some(target) = Pid::from_raw(pid)
        {
            match rustix::process::kill_process(target, Signal::KILL) {
                // It has ended just now.
                Err(Errno::SRCH) => {}
                killed => left.push(Stubborn { pid, uid: uid(pid), errno: killed.err() }),
            }
        }
    }
    left
}

/// The mark that these limits show.
fn borne(limits: &str) -> Option<ProcessMark> {
    let line = limits.lines().find(|line| line.starts_with("Max realtime timeout"))?;
    let hard: u64 = line.split_whitespace().nth(4)?.parse().ok()?;
    (hard & BASE != 0).then_some(ProcessMark(hard))
}

/// It has ended, and its parent has not reaped it yet: it runs no more.
fn is_zombie(pid: i32) -> bool {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| matches!(rest.trim_start().chars().next(), Some('Z' | 'X')))
}

/// The effective user of a process.
pub(crate) fn uid(pid: i32) -> u32 {
    let status = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status")).unwrap_or_default();
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    uids.and_then(|uids| uids.split_whitespace().nth(1)?.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: &str = "Limit                     Soft Limit           Hard Limit           Units     \n\
                          Max nice priority         0                    0                    \n\
                          Max realtime timeout      ";

    #[test]
    fn a_mark_is_read_where_the_system_shows_it_and_belongs_to_one_worker() {
        let (ours, theirs) = (ProcessMarks::new(7), ProcessMarks::new(8));
        let mark = ours.next();
        let shown = borne(&format!("{LIMITS}{0} {0} us", mark.to_argument()));
        assert_eq!(shown, Some(mark));
        assert_eq!(ProcessMark::from_argument(&mark.to_argument()), Some(mark));
        assert!(ours.covers(mark) && !theirs.covers(mark) && ours.next() != mark);
        assert_eq!(borne(&format!("{LIMITS}unlimited unlimited us")), None);
        assert_eq!(borne(&format!("{LIMITS}200000 200000 us")), None);
    }
}
