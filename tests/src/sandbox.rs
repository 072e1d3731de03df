//! A directory and the processes that live in it, which end together whatever becomes of the test.
//!
//! A small shell, the guardian, reads a pipe that only this process holds. When the pipe closes, by drop, panic or
//! SIGKILL, it kills the processes it was given and removes the directory. The kernel's signal at the death of a parent
//! is of no use: it is tied to a thread, and a test's thread ends before a node that several tests share.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use crate::eventually_blocking;
use crate::process::Process;

/// How long a process that was sent SIGKILL, or one that was asked to end, may take.
const END_WITHIN: Duration = Duration::from_secs(30);

const GUARDIAN: &str = r#"
groups=
while read -r word group; do
  case $word in
    guard) groups="$groups $group" ;;
    forget) kept=; for g in $groups; do [ "$g" = "$group" ] || kept="$kept $g"; done; groups=$kept ;;
  esac
done
for g in $groups; do kill -KILL "-$g" 2>/dev/null; done
tries=0
while ! rm -rf -- "$1" 2>/dev/null && [ "$tries" -lt 50 ]; do tries=$((tries + 1)); sleep 0.1; done
"#;

/// A temporary directory with its guardian. Cheap to clone; the last one dropped ends everything in it.
#[derive(Clone, Debug)]
pub struct Sandbox(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    guardian: Mutex<Guardian>,
}

#[derive(Debug)]
struct Guardian {
    process: Child,
    pipe: Option<ChildStdin>,
}

impl Sandbox {
    /// Makes a directory with this prefix in its name, open for other users to pass through.
    pub fn new(name: &str) -> anyhow::Result<Self> {
        let path = tempfile::Builder::new().prefix(&format!("slotline-{name}-")).tempdir()?.keep();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o711))?;
        let mut process = Command::new("/bin/sh")
            .args(["-c", GUARDIAN, "guardian"])
            .arg(&path)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C ends the tests; the guardian must live on to clean up.
            .process_group(0)
            .spawn()
            .context("the guardian's shell")?;
        let pipe = process.stdin.take();
        Ok(Self(Arc::new(Inner { path, guardian: Mutex::new(Guardian { process, pipe }) })))
    }

    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Starts `command` as the head of its own process group, under the guardian's eye. Its output goes to `log`, a
    /// file in the sandbox, which later starts append to.
    pub fn spawn(&self, command: &mut Command, log: &str) -> anyhow::Result<Guarded> {
        let log = self.path().join(log);
        let file = std::fs::File::options().create(true).append(true).open(&log)?;
        let process = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .process_group(0)
            .spawn()
            .with_context(|| format!("can't start {:?}", command.get_program()))?;
        let pid = Pid::from_raw(i32::try_from(process.id()).context("a process id")?);
        self.0.tell("guard", pid)?;
        Ok(Guarded { process, pid, log, sandbox: self.clone(), ended: None })
    }

    /// Gives the guardian a process group that was started by a process of this sandbox.
    pub(crate) fn guard(&self, group: Pid) -> anyhow::Result<()> {
        self.0.tell("guard", group)
    }

    /// Ends what [`Sandbox::guard`] began, while the group still bears that number.
    pub(crate) fn forget(&self, group: Pid) -> anyhow::Result<()> {
        self.0.tell("forget", group)
    }
}

impl Inner {
    fn tell(&self, word: &str, group: Pid) -> anyhow::Result<()> {
        let mut guardian = self.guardian.lock().unwrap_or_else(PoisonError::into_inner);
        let pipe = guardian.pipe.as_mut().context("the guardian was dismissed")?;
        writeln!(pipe, "{word} {group}").context("the guardian is gone")
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let guardian = self.guardian.get_mut().unwrap_or_else(PoisonError::into_inner);
        drop(guardian.pipe.take());
        // Waited for, so that a test that ends leaves a quiet machine to the next.
        let _ = guardian.process.wait();
    }
}

/// A process in a [`Sandbox`], with everything it starts within its process group. Killed on drop.
#[derive(Debug)]
pub struct Guarded {
    process: Child,
    pid: Pid,
    log: PathBuf,
    sandbox: Sandbox,
    ended: Option<ExitStatus>,
}

impl Guarded {
    pub fn pid(&self) -> Pid {
        self.pid
    }

    pub fn sandbox(&self) -> &Sandbox {
        &self.sandbox
    }

    /// What the process wrote to stdout and stderr so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Signals the process alone. One that has ended is left in peace.
    pub fn signal(&mut self, signal: Signal) -> anyhow::Result<()> {
        match self.try_wait()? {
            Some(_) => Ok(()),
            None => Ok(kill(self.pid, signal)?),
        }
    }

    /// SIGKILL to the whole process group, and waits for all of it to be gone.
    pub fn kill_group(&mut self) -> anyhow::Result<()> {
        match killpg(self.pid, Signal::SIGKILL) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => return Err(error.into()),
        }
        self.wait(END_WITHIN)?;
        eventually_blocking("the process group is gone", END_WITHIN, || Ok((!group_lives(self.pid)?).then_some(())))
    }

    /// `None` while it runs.
    pub fn try_wait(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            self.ended = self.process.try_wait()?;
            if self.ended.is_some() {
                self.sandbox.0.tell("forget", self.pid)?;
            }
        }
        Ok(self.ended)
    }

    /// Waits for the process to end by itself.
    pub fn wait(&mut self, deadline: Duration) -> anyhow::Result<ExitStatus> {
        let what = format!("process {} ends", self.pid);
        eventually_blocking(&what, deadline, || self.try_wait())
    }
}

/// Whether a member of the group still runs.
fn group_lives(group: Pid) -> anyhow::Result<bool> {
    Ok(Process::all()?.any(|process| process.group == group && process.lives()))
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // Once the head of a group is reaped, another process may have the group's number.
        if self.ended.is_none() {
            let _ = killpg(self.pid, Signal::SIGKILL);
            let _ = self.process.wait();
            let _ = self.try_wait();
        }
    }
}
