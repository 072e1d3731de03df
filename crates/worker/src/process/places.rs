//! The files of one attempt: made ready before it starts, read after it has ended. Nothing here is for the loop's
//! thread.
//!
//! The command may do what it likes with its own files, so each is opened as if it could be anything.

use std::fs::{DirBuilder, File, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::duty::limit::RESULT_BYTES_MAX;

/// The least room in the scratch folder to start with: what one result may take.
const ROOM_BYTES_MIN: u64 = RESULT_BYTES_MAX as u64;

/// Where the files of an attempt are.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    pub(crate) folder: PathBuf,
    /// Within the folder.
    pub(crate) result: String,
    /// The path of the socket for its reports, if there is a place for one.
    pub(crate) socket: Option<PathBuf>,
}

/// Why a file has no readable result.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreadable {
    #[error("its folder {0:?} is gone")]
    FolderGone(PathBuf),
    #[error("it is {0}, expected a regular file")]
    NoFile(&'static str),
    #[error(transparent)]
    Failed(#[from] io::Error),
}

impl Places {
    pub(crate) fn result_file(&self) -> PathBuf {
        self.folder.join(&self.result)
    }

    /// Makes sure that there is a folder with room, also after the old one was removed.
    pub(super) fn prepare(&self) -> io::Result<()> {
        for folder in [Some(self.folder.as_path()), self.socket.as_deref().and_then(Path::parent)].into_iter().flatten()
        {
            DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        let system = rustix::fs::statvfs(&self.folder)?;
        // A file system that counts no blocks, as some network file systems do, can't be short of room.
        if system.f_blocks > 0 && system.f_bavail.saturating_mul(system.f_frsize) < ROOM_BYTES_MIN {
            return Err(Errno::NOSPC.into());
        }
        Ok(())
    }

    /// Binds the socket for reports; to be called after [`Self::prepare`].
    pub(super) fn listen(&self) -> io::Result<Option<UnixListener>> {
        let Some(socket) = &self.socket else { return Ok(None) };
        let listener = UnixListener::bind(socket)?;
        // The mode of its folder decides which users reach it, and this may be another user than that of this process.
        std::fs::set_permissions(socket, Permissions::from_mode(0o666))?;
        listener.set_nonblocking(true)?;
        Ok(Some(listener))
    }

    /// What the command left as its result, up to one byte past the cap; `None` if it left nothing.
    pub(super) fn read(&self) -> Result<Option<Vec<u8>>, Unreadable> {
        let Some(file) = self.open()? else { return Ok(None) };
        let file_type = FileType::from_raw_mode(rustix::fs::fstat(&file).map_err(io::Error::from)?.st_mode);
        if file_type != FileType::RegularFile {
            return Err(Unreadable::NoFile(name_of(file_type)));
        }
        let mut text = Vec::new();
        // The limit holds even if the file grows meanwhile.
        let most = u64::try_from(RESULT_BYTES_MAX).unwrap_or(u64::MAX) + 1;
        File::from(file).take(most).read_to_end(&mut text)?;
        Ok(Some(text))
    }

    /// Opened so that neither a FIFO, nor a device, nor a lease on the file can keep the caller waiting.
    fn open(&self) -> Result<Option<OwnedFd>, Unreadable> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::CLOEXEC;
        let folder = self.open_folder().map_err(|error| match error {
            Errno::NOENT => Unreadable::FolderGone(self.folder.clone()),
            error => Unreadable::Failed(error.into()),
        })?;
        match rustix::fs::openat(&folder, &self.result, flags, Mode::empty()) {
            Ok(file) => Ok(Some(file)),
            Err(Errno::NOENT) => Ok(None),
            Err(Errno::LOOP) => Err(Unreadable::NoFile("a symbolic link")),
            Err(Errno::NXIO) => Err(Unreadable::NoFile("a socket")),
            Err(error) => Err(Unreadable::Failed(error.into())),
        }
    }

    fn open_folder(&self) -> rustix::io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::open(&self.folder, flags, Mode::empty())
    }

    /// Removes what the command left; what can't be removed goes with the folder in the end.
    pub(super) fn clear(&self) {
        if let Some(socket) = &self.socket {
            let _ = std::fs::remove_file(socket);
        }
        // Most commands leave no result file.
        if let Ok(folder) = self.open_folder()
            && let Err(Errno::ISDIR) = rustix::fs::unlinkat(&folder, &self.result, AtFlags::empty())
        {
            let _ = std::fs::remove_dir_all(Path::new(&self.result_file()));
        }
    }
}

fn name_of(file_type: FileType) -> &'static str {
    match file_type {
        FileType::Directory => "a directory",
        FileType::Fifo => "a FIFO",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        FileType::Symlink => "a symbolic link",
        FileType::Socket => "a socket",
        FileType::RegularFile | FileType::Unknown => "something else",
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    fn places() -> (tempfile::TempDir, Places) {
        let parent = tempfile::tempdir().expect("a folder");
        let places = Places { folder: parent.path().join("run"), result: "result.json".to_owned(), socket: None };
        places.prepare().expect("a folder with room");
        (parent, places)
    }

    fn refused(places: &Places) -> String {
        places.read().expect_err("no regular file").to_string()
    }

    #[test]
    fn what_is_no_regular_file_is_refused_by_what_it_is_and_never_waited_for() {
        let (_parent, places) = places();
        let file = places.result_file();
        assert!(places.read().expect("nothing to refuse").is_none(), "most commands leave none");

        nix::unistd::mkfifo(&file, nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
        assert_eq!(refused(&places), "it is a FIFO, expected a regular file");
        places.clear();

        std::fs::create_dir_all(file.join("deep")).expect("a folder");
        assert_eq!(refused(&places), "it is a directory, expected a regular file");
        places.clear();

        std::os::unix::fs::symlink("/dev/zero", &file).expect("a link");
        assert_eq!(refused(&places), "it is a symbolic link, expected a regular file");
        places.clear();

        std::os::unix::fs::symlink(&file, &file).expect("a link");
        assert_eq!(refused(&places), "it is a symbolic link, expected a regular file");
        places.clear();

        let _listener = UnixListener::bind(&file).expect("a socket");
        assert_eq!(refused(&places), "it is a socket, expected a regular file");
        places.clear();
        assert!(!file.exists(), "what it left is removed, whatever it is");

        // A device by its own name, if this user may open it.
        let zero = Places { folder: "/dev".into(), result: "zero".to_owned(), socket: None };
        assert_eq!(refused(&zero), "it is a device, expected a regular file");
    }

    #[test]
    fn a_file_that_grows_while_it_is_read_is_read_up_to_the_cap() {
        let (_parent, places) = places();
        let path = places.result_file();
        std::fs::write(&path, vec![b' '; RESULT_BYTES_MAX]).expect("writable");
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut file = std::fs::OpenOptions::new().append(true).open(&path).expect("writable");
                while !is_over.load(Ordering::Relaxed) {
                    file.write_all(&[b' '; 4096]).expect("room");
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
            });
            for _ in 0..20 {
                let text = places.read().expect("a regular file").expect("there");
                assert!((RESULT_BYTES_MAX..=RESULT_BYTES_MAX + 1).contains(&text.len()), "{}", text.len());
            }
            is_over.store(true, Ordering::Relaxed);
        });
    }

    #[test]
    fn a_folder_that_is_gone_is_named_and_made_again_for_the_next() {
        let (_parent, places) = places();
        std::fs::remove_dir_all(&places.folder).expect("removable");
        assert!(refused(&places).contains("is gone"), "{}", refused(&places));
        places.prepare().expect("it is made again");
        assert!(places.read().expect("a folder").is_none());
    }
}
