//! The folder of one process below the state directory: result files and sockets of commands live here while they run.
//!
//! A process locks its folder, so that a later one knows which it may remove. A command that runs as another user has a
//! folder of that user's for its result, and its socket where only that user can use it.

use std::fs::{DirBuilder, File, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{FlockOperation, Mode, OFlags};
use slotline_protocol::Fence;
use slotline_protocol::chain;
use slotline_protocol::message::AttemptKey;

use super::confine::Ids;
use super::places::Places;
use crate::draw;

/// The longest path that a socket can have; the system keeps a byte for its end.
const SOCKET_PATH_BYTES_MAX: usize = 107;
/// `/progress-` and the longest number.
const SOCKET_NAME_BYTES: usize = 10 + 20;
/// How often a new folder may be taken for an old one before it is locked.
const TRIES: u32 = 8;

/// Removed with all that is in it when it is dropped.
#[derive(Debug)]
pub(crate) struct Scratch {
    own: Folder,
    /// Where sockets are made if their paths would be too long in the main folder.
    short: Option<Folder>,
    /// For commands that run as other users, which can't enter the worker's own folders.
    others: Option<Folder>,
    made: AtomicU64,
}

/// Locked as long as it exists.
#[derive(Debug)]
struct Folder {
    path: PathBuf,
    _lock: File,
}

impl Scratch {
    /// Makes the folder, for this user only, and removes those of processes that are no more. `accounts` are the other
    /// users that commands run as.
    pub(crate) fn create(state_dir: Option<&Path>, accounts: &[&Ids]) -> io::Result<Self> {
        let temporary = std::env::temp_dir();
        let own = match state_dir {
            None => {
                sweep(&temporary, "slotline-worker-run-");
                Folder::create(&temporary, "slotline-worker-run-", PRIVATE)?
            }
            Some(state_dir) => {
                private_folder(state_dir)?;
                sweep(state_dir, "run-");
                // Commands run elsewhere, and need to find it.
                Folder::create(&std::path::absolute(state_dir)?, "run-", PRIVATE)?
            }
        };
        sweep(&temporary, SHORT);
        let short = if fits(&own.path) { None } else { Folder::create(&temporary, SHORT, PRIVATE).ok() };
        let others = if accounts.is_empty() { None } else { Some(Folder::create(&temporary, SHORT, PASSABLE)?) };
        for ids in accounts {
            if let Some(others) = &others {
                others.open_to(ids)?;
            }
        }
        let scratch = Self { own, short, others, made: AtomicU64::new(0) };
        if scratch.socket(None).is_none() {
            tracing::warn!(folder = %scratch.own.path.display(), "commands can't report: every path for a socket is too long");
        }
        Ok(scratch)
    }

    /// Where the files of an attempt are; for an attempt that runs as another user, where that user may enter.
    pub(crate) fn places(&self, (id, attempt): AttemptKey, fence: Fence, user: Option<&Ids>) -> Places {
        let result = format!("result-{id}-{attempt}-{fence}.json");
        Places { folder: self.results(user), result, socket: self.socket(user) }
    }

    fn results(&self, user: Option<&Ids>) -> PathBuf {
        match (user, &self.others) {
            (Some(ids), Some(others)) => others.path.join(results_of(ids)),
            (Some(_) | None, _) => self.own.path.clone(),
        }
    }

    /// A new path for a socket; `None` where every path would be too long.
    fn socket(&self, user: Option<&Ids>) -> Option<PathBuf> {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let folder = match (user, &self.others) {
            (Some(ids), Some(others)) => others.path.join(sockets_of(ids)),
            (Some(_) | None, _) => self.short.as_ref().unwrap_or(&self.own).path.clone(),
        };
        fits(&folder).then(|| folder.join(format!("progress-{number}")))
    }
}

fn results_of(ids: &Ids) -> String {
    format!("results-{}", ids.uid)
}

fn sockets_of(ids: &Ids) -> String {
    format!("sockets-{}", ids.uid)
}

/// For the worker's user alone.
const PRIVATE: u32 = 0o700;
/// Others may pass through to their own folders.
const PASSABLE: u32 = 0o711;
/// Others of its group may pass through to sockets, and make or remove none.
const GROUP_PASSABLE: u32 = 0o710;
/// The prefix of a folder whose path has to be short.
const SHORT: &str = "slotline-run-";

impl Folder {
    fn create(parent: &Path, prefix: &str, mode: u32) -> io::Result<Self> {
        for _ in 0..TRIES {
            let random = draw::nonce();
            let path = parent.join(format!("{prefix}{}", random.get(..12).unwrap_or(&random)));
            DirBuilder::new().mode(mode).create(&path)?;
            // The umask of the process may have kept it from setting the mode at once.
            std::fs::set_permissions(&path, Permissions::from_mode(mode))?;
            // Another process that sweeps right now may have taken the folder for one that is left over.
            if let Some(lock) = lock(&path)
                && path.symlink_metadata().is_ok_and(|found| lock.metadata().is_ok_and(|own| own.ino() == found.ino()))
            {
                return Ok(Self { path, _lock: lock });
            }
        }
        Err(io::Error::other("each new folder was taken for one that is left over"))
    }

    /// Makes folders for a user's results and sockets.
    fn open_to(&self, ids: &Ids) -> io::Result<()> {
        let (results, sockets) = (self.path.join(results_of(ids)), self.path.join(sockets_of(ids)));
        for (path, uid, mode) in [(results, Some(ids.uid), PRIVATE), (sockets, None, GROUP_PASSABLE)] {
            match DirBuilder::new().mode(PRIVATE).create(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                made => made?,
            }
            std::fs::set_permissions(&path, Permissions::from_mode(mode))?;
            std::os::unix::fs::lchown(&path, uid, Some(ids.gid))?;
        }
        Ok(())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            tracing::warn!(folder = %self.path.display(), error = %chain(&error), "can't remove the worker's scratch folder");
        }
    }
}

/// Makes a folder that does not exist yet, for this user only.
pub(crate) fn private_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(PRIVATE).create(path)
}

fn fits(folder: &Path) -> bool {
    folder.as_os_str().as_bytes().len() + SOCKET_NAME_BYTES <= SOCKET_PATH_BYTES_MAX
}

/// The lock of a folder, unless another process holds it or the folder is not this user's.
fn lock(folder: &Path) -> Option<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let lock = File::from(rustix::fs::open(folder, flags, Mode::empty()).ok()?);
    let is_own = lock.metadata().is_ok_and(|found| found.uid() == rustix::process::geteuid().as_raw());
    (is_own && rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok()).then_some(lock)
}

/// Removes the folders of processes that are no more. What can't be removed now is swept the next time.
fn sweep(folder: &Path, prefix: &str) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let is_one = entry.file_name().to_str().is_some_and(|name| name.starts_with(prefix));
        if is_one && let Some(_lock) = lock(&entry.path()) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_that_no_process_has_locked_are_swept_and_ones_own_is_removed() {
        let state_dir = tempfile::tempdir().expect("a folder");
        // Named after a process that surely lives, perhaps in another namespace: only the lock shows whether it is in
        // use.
        let stale = state_dir.path().join("run-1-x");
        let other = state_dir.path().join("kept");
        std::fs::create_dir(&stale).expect("a folder");
        std::fs::create_dir(&other).expect("a folder");
        let first = Scratch::create(Some(state_dir.path()), &[]).expect("a folder");
        assert!(!stale.exists() && other.exists() && first.own.path.exists());
        let second = Scratch::create(Some(state_dir.path()), &[]).expect("a folder");
        assert!(first.own.path.exists(), "its process lives");
        drop((first, second));
        let left: Vec<_> = std::fs::read_dir(state_dir.path()).expect("readable").flatten().collect();
        assert_eq!(left.len(), 1);
    }

    #[test]
    fn a_link_with_the_name_of_a_scratch_folder_is_not_followed() {
        let state_dir = tempfile::tempdir().expect("a folder");
        let precious = tempfile::tempdir().expect("a folder");
        std::fs::write(precious.path().join("x"), "x").expect("a file");
        std::os::unix::fs::symlink(precious.path(), state_dir.path().join("run-1")).expect("a link");
        drop(Scratch::create(Some(state_dir.path()), &[]).expect("a folder"));
        assert!(precious.path().join("x").exists());
    }

    #[test]
    fn the_state_folder_is_made_for_its_user_alone() {
        let parent = tempfile::tempdir().expect("a folder");
        let state_dir = parent.path().join("a/b");
        let scratch = Scratch::create(Some(&state_dir), &[]).expect("a folder");
        for folder in [&state_dir, &scratch.own.path] {
            let mode = std::fs::metadata(folder).expect("a folder").permissions().mode();
            assert_eq!(mode & 0o777, PRIVATE, "{folder:?}");
        }
    }

    #[test]
    fn sockets_of_a_folder_with_a_long_name_are_in_a_short_one_that_is_removed_too() {
        let parent = tempfile::tempdir().expect("a folder");
        let scratch = Scratch::create(Some(&parent.path().join("x".repeat(100))), &[]).expect("a folder");
        let socket = scratch.socket(None).expect("a path");
        assert!(socket.as_os_str().len() <= SOCKET_PATH_BYTES_MAX, "{socket:?}");
        std::os::unix::net::UnixListener::bind(&socket).expect("a path for a socket");
        assert_ne!(scratch.socket(None), Some(socket.clone()));
        drop(scratch);
        assert!(!socket.parent().expect("a folder").exists());
    }
}
