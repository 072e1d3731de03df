//! The user that a command runs as, looked up once when its worker is built.

use std::ffi::CString;

use nix::unistd::User;
use rustix::thread::CapabilitySet;

use super::confine::Ids;

/// A user of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OsUser {
    /// `None`: the worker's own user.
    pub(crate) ids: Option<Ids>,
    /// What a log-in would set.
    pub(crate) env: Vec<(String, String)>,
}

impl OsUser {
    /// Finds the user. An error names what is wrong and how to correct it.
    pub(crate) fn find(name: &str) -> Result<Self, String> {
        let wrong = |reason: String| format!("user {name:?}: {reason}");
        let found = User::from_name(name).map_err(|error| wrong(format!("can't look it up: {error}")))?;
        let user =
            found.ok_or_else(|| wrong("this host has no such user: create it, or correct the name".to_owned()))?;
        let own = rustix::process::geteuid().as_raw();
        let is_own = user.uid.as_raw() == own;
        if !is_own && !may_become_another() {
            return Err(wrong(format!(
                "this worker runs as user {own}, which may not become another: run the worker as root, or leave `user` out"
            )));
        }
        let text = CString::new(name).map_err(|error| wrong(error.to_string()))?;
        let groups = nix::unistd::getgrouplist(&text, user.gid)
            .map_err(|error| wrong(format!("can't read its groups: {error}")))?;
        let home = user.dir.to_string_lossy().into_owned();
        let shell = user.shell.to_string_lossy().into_owned();
        let env = [("HOME", home), ("USER", user.name.clone()), ("LOGNAME", user.name), ("SHELL", shell)];
        let groups = groups.into_iter().map(nix::unistd::Gid::as_raw).collect();
        let ids = Ids { uid: user.uid.as_raw(), gid: user.gid.as_raw(), groups };
        Ok(Self { ids: (!is_own).then_some(ids), env: env.map(|(name, value)| (name.to_owned(), value)).into() })
    }
}

/// Needed to become another user, to hand over folders to it and look after them, and to end what it started.
fn may_become_another() -> bool {
    let needed = CapabilitySet::SETUID
        | CapabilitySet::SETGID
        | CapabilitySet::KILL
        | CapabilitySet::CHOWN
        | CapabilitySet::DAC_OVERRIDE;
    rustix::thread::capabilities(None).is_ok_and(|own| own.effective.contains(needed))
}
