//! Proof that nothing of a former process lives: a lock file that shims inherit, and a mark that commands can't remove.
//!
//! The lock is on the open file, and the worker and each of its shims hold a copy of it. A process that gets the lock
//! therefore knows that those are gone; it then looks for processes that they left behind, which bear the marks of this
//! very file. After that everything of the process before is gone, and the file lists the incarnations of that process.
//! Commands inherit nothing of it, and the lock is held through a copy that can't be written through.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fd::OwnedFd;
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use slotline_broker::crash;
use slotline_protocol::{Incarnation, WorkerName, chain};

use crate::process::mark::ProcessMarks;
use crate::{Error, driver};

/// How long what a former process started may take to go; its shims kill it the moment that process ends.
const WAIT: Duration = Duration::from_secs(10);
const TRY_EVERY: Duration = Duration::from_millis(20);

#[derive(Debug)]
pub(crate) struct Lock {
    /// For reading and writing; only this process has it.
    file: File,
    /// The file that is locked: open for reading alone, and shared with the shims.
    held: File,
    path: PathBuf,
    formers: Vec<Incarnation>,
    marks: Arc<ProcessMarks>,
}

impl Lock {
    /// Waits until nothing of a former process under this name is left.
    pub(crate) async fn take(state_dir: &Path, name: &WorkerName) -> Result<Self, Error> {
        let path = state_dir.join(format!("{name}.lock"));
        let unusable = |source: std::io::Error| Error::StateDir { path: state_dir.to_owned(), source };
        crate::process::scratch::private_folder(state_dir).map_err(unusable)?;
        let mut file = open(&path, OFlags::RDWR | OFlags::CREATE).map_err(unusable)?;
        let held = open(&path, OFlags::RDONLY).map_err(unusable)?;
        let own = file.metadata().map_err(unusable)?;
        if held.metadata().map_err(unusable)?.ino() != own.ino() {
            return Err(unusable(std::io::Error::other("the lock file is being replaced")));
        }
        let marks = Arc::new(ProcessMarks::new(own.dev().wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ own.ino()));
        let taken = async {
            let mut is_said = false;
            loop {
                match rustix::fs::flock(&held, FlockOperation::NonBlockingLockExclusive) {
                    Ok(()) => break,
                    Err(Errno::WOULDBLOCK | Errno::INTR) => {}
                    Err(error) => return Err(unusable(error.into())),
                }
                if !std::mem::replace(&mut is_said, true) {
                    tracing::warn!(
                        folder = %state_dir.display(),
                        "another process of the name {name}, or what it started, has this state folder: waiting up to {WAIT:?} for its end"
                    );
                }
                tokio::time::sleep(TRY_EVERY).await;
            }
            loop {
                let marks = marks.clone();
                let swept = tokio::task::spawn_blocking(move || marks.sweep()).await;
                let left = swept.map_err(|error| unusable(std::io::Error::other(error)))?;
                let Some(first) = left.first() else { return Ok(()) };
                tracing::warn!(pid = first.pid, uid = first.uid, "a command of the process before still runs");
                tokio::time::sleep(TRY_EVERY).await;
            }
        };
        match tokio::time::timeout(WAIT, taken).await {
            Ok(taken) => taken?,
            Err(_) => return Err(Error::NameTaken { name: name.clone(), path: state_dir.to_owned() }),
        }
        crash::point("worker.lock.taken");
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(unusable)?;
        let formers = driver::newest(text.lines().filter_map(|line| line.parse().ok().map(Incarnation)).collect());
        let lock = Self { file, held, path, formers, marks };
        lock.clear();
        crash::point("worker.lock.cleared");
        for former in &lock.formers {
            lock.note(*former);
        }
        crash::point("worker.lock.noted");
        Ok(lock)
    }

    /// The marks of this worker's commands.
    pub(crate) fn marks(&self) -> Arc<ProcessMarks> {
        self.marks.clone()
    }

    /// A copy for a shim to hold: the lock is free once the last copy is closed.
    pub(crate) fn share(&self) -> std::io::Result<OwnedFd> {
        Ok(self.held.try_clone()?.into())
    }

    /// The incarnations of the process before, none of which lives.
    pub(crate) fn formers(&self) -> &[Incarnation] {
        &self.formers
    }

    /// Writes down an incarnation of this process for its successor to read.
    pub(crate) fn note(&self, incarnation: Incarnation) {
        let written = (&self.file).seek(SeekFrom::End(0)).and_then(|_| writeln!(&self.file, "{incarnation}"));
        self.warn(written);
    }

    /// Everything is reported: a successor has nothing to add.
    pub(crate) fn clear(&self) {
        self.warn(self.file.set_len(0));
    }

    fn warn(&self, written: std::io::Result<()>) {
        if let Err(error) = written {
            // It only costs time: what is lost is then known after the lease.
            tracing::warn!(path = %self.path.display(), error = %chain(&error), "can't write the worker's lock file");
        }
    }
}

/// Opens a regular file of this user's, and follows no link to it.
fn open(path: &Path, flags: OFlags) -> std::io::Result<File> {
    // A queue or a terminal of that name must not hold up the worker.
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = File::from(rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?);
    let found = file.metadata()?;
    if !found.is_file() || found.nlink() != 1 || found.uid() != rustix::process::geteuid().as_raw() {
        let message = format!("{} is not a plain file of this user's alone: remove it", path.display());
        return Err(std::io::Error::other(message));
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> WorkerName {
        WorkerName::new("w1").expect("a name")
    }

    #[tokio::test]
    async fn a_lock_file_is_opened_without_following_links() {
        let folder = tempfile::tempdir().expect("a folder");
        let state_dir = folder.path().join("state");
        std::fs::create_dir(&state_dir).expect("a folder");
        let other = folder.path().join("other");
        std::fs::write(&other, "precious").expect("a file");
        std::os::unix::fs::symlink(&other, state_dir.join("w1.lock")).expect("a link");
        Lock::take(&state_dir, &name()).await.expect_err("a link");
        assert_eq!(std::fs::read_to_string(&other).expect("readable"), "precious");
        std::fs::remove_file(state_dir.join("w1.lock")).expect("a link");
        std::fs::hard_link(&other, state_dir.join("w1.lock")).expect("a link");
        Lock::take(&state_dir, &name()).await.expect_err("another name of a file");
        assert_eq!(std::fs::read_to_string(&other).expect("readable"), "precious");
    }

    #[tokio::test]
    async fn nothing_can_be_written_through_what_a_shim_holds_of_the_lock() {
        let folder = tempfile::tempdir().expect("a folder");
        let lock = Lock::take(folder.path(), &name()).await.expect("free");
        let shared = lock.share().expect("a copy");
        assert_eq!(rustix::io::write(&shared, b"x"), Err(Errno::BADF));
        drop(lock);
        let held = open(&folder.path().join("w1.lock"), OFlags::RDONLY).expect("a file");
        let locked = rustix::fs::flock(&held, FlockOperation::NonBlockingLockExclusive);
        assert_eq!(locked, Err(Errno::WOULDBLOCK), "the copy holds it");
        drop(shared);
        rustix::fs::flock(&held, FlockOperation::NonBlockingLockExclusive).expect("free");
    }
}
