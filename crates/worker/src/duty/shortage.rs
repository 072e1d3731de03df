//! What the worker itself is short of, and how much it takes on until that has passed.
//!
//! An attempt that could not be started for it is no failure of the execution: it is handed back unstarted, and the
//! worker offers no more than what runs. After a while it tries more, twice as much each time, until a further shortage
//! or all of its capacity. Not here: which refusal of the system is a shortage (`resources`).

use std::fmt;
use std::time::Duration;

use slotline_protocol::message::{AttemptKey, Failure};

use super::entry::Word;
use super::{Duty, Effect, Ending, Life, Now};

/// A worker's reason for handing an attempt back: it is short of something, and takes no more until a heartbeat
/// reports its room.
pub(super) const SHORTAGE: &str = "shortage";
/// How long the worker takes no more than what runs before it tries more...
pub const RAISE_AFTER: Duration = Duration::from_secs(2);
/// ... and how long at most, where what it tried was too much again; doubles in between.
pub const RAISE_AFTER_MAX: Duration = Duration::from_secs(60);

/// What an attempt could not be started for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Shortage {
    /// This process has as many open files as it may have.
    Files,
    /// The whole system has.
    SystemFiles,
    Processes,
    Memory,
    /// No room in the scratch folder.
    Space,
    /// The quota of the worker's user is used up there.
    Quota,
    /// Nothing answers where the scratch folder is.
    Disk,
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Files => "file descriptors of this process (RLIMIT_NOFILE)",
            Self::SystemFiles => "open files of the whole system (fs.file-max)",
            Self::Processes => "processes (RLIMIT_NPROC, or the control group's pids.max)",
            Self::Memory => "memory",
            Self::Space => "space in its scratch folder",
            Self::Quota => "disk quota in its scratch folder",
            Self::Disk => "a thread for files, or a disk that answers there",
        })
    }
}

/// The most attempts at once while something is short.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Ceiling {
    pub(super) most: u32,
    pub(super) raise_at: Duration,
    wait: Duration,
    /// More was tried since it was lowered.
    is_raised: bool,
}

impl Duty {
    /// An attempt could not be started, because the worker is short of something.
    pub(super) fn unstarted(&mut self, now: Now, key: AttemptKey, shortage: Shortage, fx: &mut Vec<Effect>) {
        let Some(run) = self.entry_mut(key).and_then(|entry| entry.run_mut()) else { return };
        if run.cause.is_some() || run.started.is_some() {
            // Asked to end meanwhile, it is judged by what was asked.
            let error = Failure::new("spawn_failed", format!("the worker is short of {shortage}"));
            return self.ended(now, key, Ending::failed(error, now.wall), fx);
        }
        self.running.remove(&key);
        self.lower(now, shortage, fx);
        self.conclude(now, key, Word::Returned { reason: SHORTAGE, started: false }, fx);
    }

    /// How many attempts the worker takes at once, as things are.
    pub(super) fn room(&self) -> u32 {
        self.ceiling.map_or(self.config.capacity, |ceiling| ceiling.most.min(self.config.capacity))
    }

    /// Whether one more attempt would exceed the ceiling.
    pub(super) fn is_short(&self) -> bool {
        self.ceiling.is_some_and(|ceiling| self.in_use() >= ceiling.most)
    }

    fn in_use(&self) -> u32 {
        u32::try_from(self.running.len()).unwrap_or(u32::MAX)
    }

    fn lower(&mut self, now: Now, shortage: Shortage, fx: &mut Vec<Effect>) {
        let most = self.in_use();
        let (is_news, most, wait) = match self.ceiling {
            None => (true, most, RAISE_AFTER),
            Some(before) if before.is_raised => (true, most, (before.wait * 2).min(RAISE_AFTER_MAX)),
            // Attempts that were started together fail together; that is one shortage.
            Some(before) => (false, most.min(before.most), before.wait),
        };
        self.ceiling = Some(Ceiling { most, raise_at: now.boot + wait, wait, is_raised: false });
        if is_news {
            fx.push(Effect::TakeLess { shortage, most });
            if matches!(self.life, Life::Alive { .. }) {
                self.beat(now, fx);
            }
        }
    }

    /// Tries more, when it is time.
    pub(super) fn raise(&mut self, now: Now, fx: &mut Vec<Effect>) {
        let Some(ceiling) = self.ceiling.filter(|ceiling| ceiling.raise_at <= now.boot) else { return };
        let most = ceiling.most.saturating_mul(2).max(1);
        if most >= self.config.capacity {
            self.ceiling = None;
            fx.push(Effect::TakeAll);
        } else {
            self.ceiling = Some(Ceiling { most, raise_at: now.boot + ceiling.wait, is_raised: true, ..ceiling });
        }
        self.beat(now, fx);
    }
}
