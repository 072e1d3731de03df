//! The folder of one process below the state directory: result files of commands live here while they run.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use slotline_protocol::Fence;
use slotline_protocol::message::AttemptKey;
use uuid::Uuid;

/// Removed with all that is in it when it is dropped.
#[derive(Debug)]
pub(crate) struct Scratch(PathBuf);

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
        Ok(Self(folder))
    }

    /// Where an attempt may leave its result.
    pub(crate) fn result_file(&self, (id, attempt): AttemptKey, fence: Fence) -> PathBuf {
        self.0.join(format!("result-{id}-{attempt}-{fence}.json"))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(folder = %self.0.display(), %error, "can't remove the worker's scratch folder");
        }
    }
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
        assert!(!stale.exists() && other.exists() && scratch.0.exists());
        drop(scratch);
        let left: Vec<_> = std::fs::read_dir(state_dir.path()).expect("readable").flatten().collect();
        assert_eq!(left.len(), 1);
    }
}
