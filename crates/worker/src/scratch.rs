//! The folder of one process below the state directory: result files and sockets of commands live here while they run.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use slotline_protocol::Fence;
use slotline_protocol::message::AttemptKey;
use uuid::Uuid;

use crate::process::places::Places;

/// The longest path that a socket can have; the system keeps a byte for its end.
const SOCKET_PATH_BYTES_MAX: usize = 107;
/// `/progress-` and the longest number.
const SOCKET_NAME_BYTES: usize = 10 + 20;

/// Removed with all that is in it when it is dropped.
#[derive(Debug)]
pub(crate) struct Scratch {
    folder: PathBuf,
    /// Where sockets are made: the folder itself, or a shorter one.
    sockets: Option<PathBuf>,
    made: AtomicU64,
}

impl Scratch {
    /// Makes the folder, for this user only, and removes those of processes that are no more.
    pub(crate) fn create(state_dir: Option<&Path>) -> io::Result<Self> {
        let name = format!("run-{}-{}", std::process::id(), Uuid::new_v4().simple());
        let folder = match state_dir {
            None => {
                sweep(&std::env::temp_dir(), "slotline-worker-run-");
                std::env::temp_dir().join(format!("slotline-worker-{name}"))
            }
            Some(state_dir) => {
                DirBuilder::new().recursive(true).mode(0o700).create(state_dir)?;
                sweep(state_dir, "run-");
                // Commands run elsewhere, and need to find it.
                std::path::absolute(state_dir)?.join(name)
            }
        };
        DirBuilder::new().mode(0o700).create(&folder)?;
        let sockets = if fits(&folder) { Some(folder.clone()) } else { short_folder() };
        if sockets.is_none() {
            tracing::warn!(folder = %folder.display(), "commands can't report: every path for a socket is too long");
        }
        Ok(Self { folder, sockets, made: AtomicU64::new(0) })
    }

    /// Where the files of an attempt are to be.
    pub(crate) fn places(&self, (id, attempt): AttemptKey, fence: Fence) -> Places {
        let result = format!("result-{id}-{attempt}-{fence}.json");
        Places { folder: self.folder.clone(), result, socket: self.socket() }
    }

    /// A path for a socket, each time another; `None` where all would be too long.
    fn socket(&self) -> Option<PathBuf> {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        Some(self.sockets.as_ref()?.join(format!("progress-{number}")))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let elsewhere = self.sockets.as_ref().filter(|sockets| **sockets != self.folder);
        for folder in [&self.folder].into_iter().chain(elsewhere) {
            if let Err(error) = std::fs::remove_dir_all(folder) {
                tracing::warn!(folder = %folder.display(), %error, "can't remove the worker's scratch folder");
            }
        }
    }
}

fn fits(folder: &Path) -> bool {
    folder.as_os_str().as_bytes().len() + SOCKET_NAME_BYTES <= SOCKET_PATH_BYTES_MAX
}

/// A folder like the other, for sockets alone, below the system's own for what is temporary.
fn short_folder() -> Option<PathBuf> {
    let temporary = std::env::temp_dir();
    sweep(&temporary, "slotline-run-");
    let random = Uuid::new_v4().simple().to_string();
    let folder = temporary.join(format!("slotline-run-{}-{}", std::process::id(), random.get(..8)?));
    let made = fits(&folder) && DirBuilder::new().mode(0o700).create(&folder).is_ok();
    made.then_some(folder)
}

/// What can't be removed now is swept the next time.
fn sweep(folder: &Path, prefix: &str) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(prefix)?.split('-').next()?.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_processes_that_are_no_more_are_swept_and_ones_own_is_removed() {
        let state_dir = tempfile::tempdir().expect("a folder");
        // No process has this number: the system's own limit is far below.
        let stale = state_dir.path().join("run-4294967295-x");
        let other = state_dir.path().join("kept");
        std::fs::create_dir(&stale).expect("a folder");
        std::fs::create_dir(&other).expect("a folder");
        let scratch = Scratch::create(Some(state_dir.path())).expect("a folder");
        assert!(!stale.exists() && other.exists() && scratch.folder.exists());
        drop(scratch);
        let left: Vec<_> = std::fs::read_dir(state_dir.path()).expect("readable").flatten().collect();
        assert_eq!(left.len(), 1);
    }

    #[test]
    fn sockets_of_a_folder_with_a_long_name_are_in_a_short_one_that_is_removed_too() {
        let parent = tempfile::tempdir().expect("a folder");
        let scratch = Scratch::create(Some(&parent.path().join("x".repeat(100)))).expect("a folder");
        let socket = scratch.socket().expect("a path");
        assert!(socket.as_os_str().len() <= SOCKET_PATH_BYTES_MAX, "{socket:?}");
        std::os::unix::net::UnixListener::bind(&socket).expect("a path for a socket");
        assert_ne!(scratch.socket(), Some(socket.clone()));
        drop(scratch);
        assert!(!socket.parent().expect("a folder").exists());
    }
}
