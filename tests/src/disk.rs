//! A disk of a few megabytes that a test may fill: a file system in memory that only chosen processes see.
//!
//! It is mounted in a namespace of its own, which an ordinary user may make too, and goes with its last process.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use nix::unistd::geteuid;

use crate::{Guarded, Sandbox, eventually_blocking};

const MOUNTED_WITHIN: Duration = Duration::from_secs(30);
/// Mounts the disk, leaves a file as the sign of it, and keeps its namespace.
const KEEPER: &str =
    "mount -t tmpfs -o size=$2,mode=0777 slotline-test \"$1\" && touch \"$1/mounted\" && exec sleep infinity";
/// The file that takes all room there is.
const BALLAST: &str = "ballast";
/// So much of the ballast is written at once, at first; less and less until not a byte more fits.
const CHUNK: usize = 64 << 10;

#[derive(Debug)]
pub struct Disk {
    keeper: Guarded,
    path: PathBuf,
}

impl Disk {
    /// Mounts one of so many bytes in the sandbox.
    pub fn mount(sandbox: &Sandbox, bytes: u64) -> anyhow::Result<Self> {
        let path = sandbox.path().join("disk");
        std::fs::create_dir(&path)?;
        let mut command = Command::new("unshare");
        command.args(Self::namespaces()).args(["--", "/bin/sh", "-c", KEEPER, "keeper"]);
        let keeper = sandbox.spawn(command.arg(&path).arg(bytes.to_string()), "disk.log")?;
        let mut disk = Self { keeper, path };
        let mounted = eventually_blocking("the disk is mounted", MOUNTED_WITHIN, || {
            anyhow::ensure!(
                disk.keeper.try_wait()?.is_none(),
                "this user may make no namespaces: {}",
                disk.keeper.log()
            );
            Ok(disk.seen_from_here("mounted").exists().then_some(()))
        });
        mounted.with_context(|| disk.keeper.log())?;
        Ok(disk)
    }

    /// Where it is for processes that see it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What starts a program so that it sees the disk ([`crate::Launch::started_by`]).
    pub fn starter(&self) -> Vec<String> {
        let target = self.keeper.pid().to_string();
        let words = ["nsenter", "--target", &target, "--preserve-credentials"].into_iter();
        words
            .chain(Self::namespaces().iter().copied().filter(|word| *word != MAP_ROOT))
            .chain(["--"])
            .map(str::to_owned)
            .collect()
    }

    /// Takes all the room that there is, also what has become free since the last time.
    pub fn fill(&self) -> anyhow::Result<()> {
        let mut ballast = File::options().create(true).append(true).open(self.seen_from_here(BALLAST))?;
        let mut chunk = CHUNK;
        while chunk > 0 {
            match ballast.write(&vec![0; chunk]) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => chunk /= 2,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Gives the room back that [`Disk::fill`] took.
    pub fn make_room(&self) -> anyhow::Result<()> {
        Ok(std::fs::remove_file(self.seen_from_here(BALLAST))?)
    }

    /// A file of it by a path of this process, which does not see it where it is mounted.
    fn seen_from_here(&self, name: &str) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.keeper.pid()));
        root.join(self.path.strip_prefix("/").unwrap_or(&self.path)).join(name)
    }

    /// Mounting takes root, if only that of a namespace.
    fn namespaces() -> &'static [&'static str] {
        if geteuid().is_root() { &["--mount"] } else { &["--user", MAP_ROOT, "--mount"] }
    }
}

const MAP_ROOT: &str = "--map-root-user";
