//! What the worker itself may be short of. Not here: what it does then (`room`), and which refusal of the system is a
//! shortage (`resources`).

use std::fmt;
use std::time::Duration;

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
    pub(super) wait: Duration,
    /// More was tried since it was lowered.
    pub(super) is_raised: bool,
}
