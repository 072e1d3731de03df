//! Where the programs of the servers are: installed on this machine, or in a folder that `tests/newest.sh` has made.
//!
//! A program of a folder runs in a mount namespace of its own with that folder as its root: it sees its own libraries,
//! this machine's devices, network and temporary directory, and nothing of it is left mounted when it ends.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Names the folder. Needs root, as `chroot` does.
pub const SERVERS_VARIABLE: &str = "SLOTLINE_TEST_SERVERS";

/// Mounts what a server needs of this machine, then becomes the server. `exec` throughout, so that the process that was
/// started is the server and its group is the server's.
const ENTER: &str = r#"
root=$1 shared=$2 user=$3; shift 3
mkdir -p "$root$shared" &&
mount -t proc proc "$root/proc" && mount --rbind /dev "$root/dev" && mount --bind "$shared" "$root$shared" &&
exec chroot --userspec="$user" "$root" "$@"
"#;

#[derive(Clone, Debug)]
pub(crate) struct Servers {
    root: Option<PathBuf>,
}

impl Servers {
    /// Those that the environment names, or else the installed ones.
    pub(crate) fn chosen() -> Self {
        Self { root: std::env::var_os(SERVERS_VARIABLE).filter(|root| !root.is_empty()).map(PathBuf::from) }
    }

    /// Where a path of the servers' own file system is on this machine.
    pub(crate) fn path(&self, own: &Path) -> PathBuf {
        match &self.root {
            Some(root) => root.join(own.strip_prefix("/").unwrap_or(own)),
            None => own.to_owned(),
        }
    }

    /// Runs `program`, a path or a name of the servers' own file system, as `user` (and group) if it is given.
    pub(crate) fn command(&self, program: &Path, user: Option<(u32, u32)>) -> Command {
        let Some(root) = &self.root else {
            let mut command = Command::new(program);
            if let Some((user, group)) = user {
                use std::os::unix::process::CommandExt;
                command.uid(user).gid(group);
            }
            return command;
        };
        let (user, group) = user.unwrap_or((0, 0));
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--propagation", "private", "/bin/sh", "-c", ENTER, "enter"])
            .arg(root)
            .arg(std::env::temp_dir())
            .arg(format!("{user}:{group}"))
            .arg(program);
        command
    }
}
