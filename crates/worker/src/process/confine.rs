//! What holds a command: what it may not do to the rest of its host, and what ends it when its shim ends.
//!
//! Three layers, each where the host has it. In a PID namespace the shim is the first process: nothing inside can end
//! it, and the system ends everything inside with it. In a Landlock domain a command can signal nothing but what it
//! started itself. And everywhere the shim is the subreaper of a command's descendants, and all bear a `mark`.

use landlock::{CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, Scope};
use nix::mount::MsFlags;
use nix::sched::CloneFlags;
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use rustix::process::{Gid, Uid};
use serde::{Deserialize, Serialize};

/// What the configuration allows a command, and the user that it runs as.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Confinement {
    /// It may gain privileges by what it executes.
    pub(crate) allow_privileges: bool,
    /// It may reach processes that it did not start.
    pub(crate) allow_processes: bool,
    /// The user that it is run as, if it is another.
    pub(crate) account: Option<Ids>,
}

/// A user, as the system knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ids {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
}

impl Confinement {
    /// Confines the calling thread alone, and with it what it starts. There is no way back: to be called on a thread
    /// that ends right after.
    pub(crate) fn apply(&self) -> std::io::Result<()> {
        if !self.allow_privileges {
            rustix::thread::set_no_new_privs(true)?;
            // The worker's capabilities beyond those of its user are not for its commands. Ancient systems have no such
            // set.
            let _ = rustix::thread::clear_ambient_capability_set();
        }
        if !self.allow_processes
            && let Some(domain) = domain()
        {
            // Refused where a command may gain privileges and its worker has none; `allow_privileges` declares that
            // exception.
            let _ = domain.no_new_privs(false).restrict_self();
        }
        if let Some(Ids { uid, gid, groups }) = &self.account {
            let groups: Vec<Gid> = groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
            rustix::thread::set_thread_groups(&groups)?;
            let (uid, gid) = (Uid::from_raw(*uid), Gid::from_raw(*gid));
            rustix::thread::set_thread_res_gid(gid, gid, gid)?;
            rustix::thread::set_thread_res_uid(uid, uid, uid)?;
        }
        Ok(())
    }
}

/// A Landlock domain out of which no signal goes; `None`: this system has no such thing.
fn domain() -> Option<RulesetCreated> {
    Ruleset::default().set_compatibility(CompatLevel::HardRequirement).scope(Scope::Signal).ok()?.create().ok()
}

/// The layers that this host has, for this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layers {
    pub(crate) namespace: bool,
    pub(crate) landlock: bool,
}

impl Layers {
    /// Tries each layer, without a trace.
    pub(crate) fn probe() -> Self {
        // On a thread of its own, which takes its namespace along when it ends.
        let namespace = std::thread::spawn(|| nix::sched::unshare(CloneFlags::CLONE_NEWPID).is_ok()).join();
        Self { namespace: namespace.unwrap_or(false), landlock: domain().is_some() }
    }

    /// The layers in words, for the worker's log.
    pub(crate) fn describe(self) -> &'static str {
        match (self.namespace, self.landlock) {
            (true, true) => "PID namespaces and Landlock",
            (true, false) => "PID namespaces",
            (false, true) => "Landlock and a sweep by marks",
            (false, false) => {
                "a sweep by marks alone: a command can kill its worker, and then runs on until the next one starts"
            }
        }
    }

    /// The strongest layer that holds a command of that kind, as a capability of its action.
    pub(crate) fn capability(self, confinement: &Confinement) -> &'static str {
        let is_root = rustix::process::geteuid().is_root();
        if confinement.allow_processes {
            "held-by-sweep"
        } else if self.namespace {
            "held-by-namespace"
        } else if self.landlock && (is_root || !confinement.allow_privileges) {
            "held-by-landlock"
        } else {
            "held-by-sweep"
        }
    }
}

/// Lets one thread start processes each of which is the first of a new PID namespace.
pub(crate) struct Doorway {
    own: OwnedFd,
}

impl Doorway {
    pub(crate) fn open() -> std::io::Result<Self> {
        Ok(Self { own: rustix::fs::open("/proc/self/ns/pid", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())? })
    }

    /// Runs `start` so that the one process that it starts is the first of a new namespace.
    pub(crate) fn first<T>(&self, start: impl FnOnce() -> std::io::Result<T>) -> std::io::Result<T> {
        nix::sched::unshare(CloneFlags::CLONE_NEWPID)?;
        let started = start();
        nix::sched::setns(&self.own, CloneFlags::CLONE_NEWPID)?;
        started
    }
}

/// Whether this process is the first of a PID namespace.
pub(crate) fn is_first() -> bool {
    rustix::process::getpid().is_init()
}

/// Shows this process and its descendants a `/proc` of their own namespace. Without it they see their host's, with
/// other numbers than their own; nothing else changes.
pub(crate) fn own_proc() {
    let mount = || {
        nix::sched::unshare(CloneFlags::CLONE_NEWNS)?;
        // Otherwise the mount would appear on the host as well.
        nix::mount::mount(None::<&str>, "/proc", None::<&str>, MsFlags::MS_PRIVATE, None::<&str>)?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        nix::mount::mount(Some("proc"), "/proc", Some("proc"), flags, None::<&str>)
    };
    let _ = mount();
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    /// What a shell prints that is started by a thread with this confinement.
    fn told(confinement: Confinement, script: &str) -> String {
        let script = format!("worker={}; {script}", std::process::id());
        let started = std::thread::spawn(move || {
            confinement.apply().expect("any process may confine itself");
            Command::new("/bin/sh").args(["-c", &script]).stderr(Stdio::null()).output().expect("a shell")
        });
        String::from_utf8_lossy(&started.join().expect("it ends").stdout).trim().to_owned()
    }

    /// By Landlock alone, without a namespace; a system before Linux 6.12 has no such domains.
    #[test]
    fn a_confined_command_can_signal_what_it_started_and_nothing_else() {
        let attack = "kill -0 $worker && echo signals; sleep 100 & kill $! && echo own";
        if domain().is_some() {
            assert_eq!(told(Confinement::default(), attack), "own");
        }
        let allowed = Confinement { allow_processes: true, ..Confinement::default() };
        assert_eq!(told(allowed, attack), "signals\nown");
    }

    #[test]
    fn a_thread_that_confines_itself_leaves_the_others_of_its_process_alone() {
        told(Confinement::default(), "true");
        assert!(!rustix::thread::no_new_privs().expect("every system has it"));
    }
}
