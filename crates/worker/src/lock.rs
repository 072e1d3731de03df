//! Proof that nothing of a former process lives: a lock file that shims and commands inherit.
//!
//! The lock is on the open file, and whoever holds a copy of it, be it a stray descendant of a command, keeps it. A process
//! that gets the lock therefore knows that everything of the one before is gone, and which incarnations that one had.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::FlockOperation;
use rustix::io::{Errno, FdFlags};
use slotline_broker::crash;
use slotline_protocol::{Incarnation, WorkerName};

use crate::Error;

/// How long what a former process started may take to go; its shims kill it the moment that process ends.
const WAIT: Duration = Duration::from_secs(10);
const TRY_EVERY: Duration = Duration::from_millis(20);
/// The most incarnations of a former process that are told of, the newest first.
const FORMERS_MAX: usize = 16;

#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
    path: PathBuf,
    formers: Vec<Incarnation>,
}

impl Lock {
    /// Waits until nothing of a former process under this name is left.
    pub(crate) async fn take(state_dir: &Path, name: &WorkerName) -> Result<Self, Error> {
        let path = state_dir.join(format!("{name}.lock"));
        let unusable = |source: std::io::Error| Error::StateDir { path: state_dir.to_owned(), source };
        std::fs::create_dir_all(state_dir).map_err(unusable)?;
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(unusable)?;
        let deadline = tokio::time::sleep(WAIT);
        tokio::pin!(deadline);
        loop {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(Errno::WOULDBLOCK | Errno::INTR) => {}
                Err(error) => return Err(unusable(error.into())),
            }
            tokio::select! {
                () = tokio::time::sleep(TRY_EVERY) => {}
                () = &mut deadline => return Err(Error::NameTaken { name: name.clone(), path: state_dir.to_owned() }),
            }
        }
        crash::point("worker.lock.taken");
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(unusable)?;
        let mut formers: Vec<_> = text.lines().filter_map(|line| line.parse().ok().map(Incarnation)).collect();
        formers.drain(..formers.len().saturating_sub(FORMERS_MAX));
        // Inherited from here on: whatever this process starts holds the lock as well.
        rustix::io::fcntl_setfd(&file, FdFlags::empty()).map_err(|error| unusable(error.into()))?;
        let lock = Self { file, path, formers };
        lock.clear();
        crash::point("worker.lock.cleared");
        for former in &lock.formers {
            lock.note(*former);
        }
        crash::point("worker.lock.noted");
        Ok(lock)
    }

    /// The incarnations of the process before, none of which lives.
    pub(crate) fn formers(&self) -> &[Incarnation] {
        &self.formers
    }

    /// Leaves an incarnation of this process for its successor to read.
    pub(crate) fn note(&self, incarnation: Incarnation) {
        let written = (&self.file).seek(SeekFrom::End(0)).and_then(|_| writeln!(&self.file, "{incarnation}"));
        self.warn(written);
    }

    /// All is said: there is nothing that a successor could add.
    pub(crate) fn clear(&self) {
        self.warn(self.file.set_len(0));
    }

    fn warn(&self, written: std::io::Result<()>) {
        if let Err(error) = written {
            // It only costs time: what is lost is then known after the lease.
            tracing::warn!(path = %self.path.display(), %error, "can't write the worker's lock file");
        }
    }
}
