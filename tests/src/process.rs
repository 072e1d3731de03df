//! Processes of this machine, as `/proc` shows them.

use std::path::PathBuf;

use nix::unistd::Pid;

/// A process as it was when it was read.
pub(crate) struct Process {
    pub(crate) pid: Pid,
    pub(crate) parent: Pid,
    pub(crate) group: Pid,
    state: char,
    folder: PathBuf,
}

impl Process {
    /// All processes. One that ends meanwhile is left out.
    pub(crate) fn all() -> std::io::Result<impl Iterator<Item = Self>> {
        Ok(std::fs::read_dir("/proc")?.flatten().filter_map(|entry| Self::read(entry.path())))
    }

    fn read(folder: PathBuf) -> Option<Self> {
        let pid = folder.file_name()?.to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(folder.join("stat")).ok()?;
        let mut fields = fields(&stat)?;
        let state = fields.next()?.chars().next()?;
        let mut id = || Some(Pid::from_raw(fields.next()?.parse().ok()?));
        Some(Self { parent: id()?, group: id()?, pid: Pid::from_raw(pid), state, folder })
    }

    /// Whether it still runs. One that merely waits for its parent does not, once its last thread ended.
    pub(crate) fn lives(&self) -> bool {
        self.state != 'Z' || self.threads().count() > 1
    }

    /// Whether all of its threads are stopped, or gone.
    pub(crate) fn stands_still(&self) -> bool {
        self.threads().all(|state| matches!(state, 'T' | 'Z'))
    }

    /// The state of each of its threads.
    fn threads(&self) -> impl Iterator<Item = char> {
        let entries = std::fs::read_dir(self.folder.join("task")).into_iter().flatten().flatten();
        entries.filter_map(|thread| {
            let stat = std::fs::read_to_string(thread.path().join("stat")).ok()?;
            fields(&stat)?.next()?.chars().next()
        })
    }
}

/// What follows the name, which may hold anything: `pid (name) state parent group ...`.
fn fields(stat: &str) -> Option<std::str::Split<'_, char>> {
    Some(stat.rsplit_once(") ")?.1.split(' '))
}
