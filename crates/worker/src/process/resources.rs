//! What the system allows this process: its limits, compared with the capacity at the start, and which refusals of the
//! system mean that the worker itself is short of something.
//!
//! Not here: what follows from a shortage (`duty`).

use slotline_protocol::chain;
use std::io;

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::duty::Shortage;

/// Open files of the worker itself: three runtimes, its connections, log, lock and idle shims.
const FILES_OWN: u64 = 64;
/// Open files of one attempt: two for its shim, two pipes, the socket for its reports and a caller; four more while it
/// starts.
const FILES_PER_ATTEMPT: u64 = 10;
/// Threads and processes of the worker itself.
const PROCESSES_OWN: u64 = 32;
/// A shim and a command without children.
const PROCESSES_PER_ATTEMPT: u64 = 2;

/// What the limits allow of a capacity.
#[derive(Debug)]
pub(crate) struct Fit {
    pub(crate) capacity: u32,
    /// How many files a command may have open: the limit that this process started with, not the one it has raised that
    /// to.
    pub(crate) files_of_commands: Option<u64>,
}

/// Raises the soft limits to the hard ones, and logs by how much a capacity of commands is too large for those.
pub(crate) fn fit(capacity: u32) -> Fit {
    let files_of_commands = getrlimit(Resource::Nofile).current;
    let files = Need { name: "open files", limit: "RLIMIT_NOFILE", own: FILES_OWN, each: FILES_PER_ATTEMPT };
    let processes = Need { name: "processes", limit: "RLIMIT_NPROC", own: PROCESSES_OWN, each: PROCESSES_PER_ATTEMPT };
    let mut fit = Fit { capacity, files_of_commands };
    let is_limited_in_processes = !rustix::process::geteuid().is_root();
    for (need, resource, counts) in
        [(files, Resource::Nofile, true), (processes, Resource::Nproc, is_limited_in_processes)]
    {
        if counts && let Err(fits) = need.check(capacity, raised(resource)) {
            fit.capacity = fit.capacity.min(fits);
        }
    }
    fit
}

/// The limit that holds from now on; `None` if there is none.
fn raised(resource: Resource) -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(resource);
    if current == maximum {
        return current;
    }
    match setrlimit(resource, Rlimit { current: maximum, maximum }) {
        Ok(()) => maximum,
        Err(error) => {
            tracing::warn!(error = %chain(&error), ?current, ?maximum, "can't raise a soft limit of the system to the hard one");
            current
        }
    }
}

/// How much of something a worker needs.
struct Need {
    name: &'static str,
    limit: &'static str,
    own: u64,
    each: u64,
}

impl Need {
    /// `Err`: the capacity that fits, at least one; the difference is logged with the figures.
    fn check(&self, capacity: u32, limit: Option<u64>) -> Result<(), u32> {
        let Self { name, limit: variable, own, each } = self;
        let needed = own + each * u64::from(capacity);
        let Some(limit) = limit.filter(|limit| *limit < needed) else { return Ok(()) };
        let fits = u32::try_from(limit.saturating_sub(*own) / each).unwrap_or(u32::MAX).max(1);
        tracing::warn!(
            capacity,
            needed,
            limit,
            takes = fits,
            "a capacity of {capacity} needs {needed} {name} ({own}, and {each} for each command), and the hard limit of \
             {variable} is {limit}: the worker takes {fits} at once; raise the limit or lower the capacity"
        );
        Err(fits)
    }
}

/// What the worker was short of when the system refused something that it needs for every attempt; `None` if the
/// refusal is about this attempt.
pub(crate) fn shortage(error: &io::Error) -> Option<Shortage> {
    if error.kind() == io::ErrorKind::TimedOut && error.raw_os_error().is_none() {
        return Some(Shortage::Disk);
    }
    match Errno::from_io_error(error)? {
        // The last is the system's error when too many files are on their way to shims.
        Errno::MFILE | Errno::TOOMANYREFS => Some(Shortage::Files),
        Errno::NFILE => Some(Shortage::SystemFiles),
        Errno::AGAIN => Some(Shortage::Processes),
        Errno::NOMEM | Errno::NOBUFS => Some(Shortage::Memory),
        Errno::NOSPC => Some(Shortage::Space),
        Errno::DQUOT => Some(Shortage::Quota),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capacity_that_a_limit_does_not_hold_is_lowered_to_what_fits_and_never_to_none() {
        let need = Need { name: "open files", limit: "RLIMIT_NOFILE", own: 64, each: 8 };
        assert_eq!(need.check(120, Some(1024)), Ok(()), "at the limit");
        assert_eq!(need.check(121, Some(1024)), Err(120));
        assert_eq!(need.check(300, Some(1024)), Err(120));
        assert_eq!(need.check(300, Some(10)), Err(1));
        assert_eq!(need.check(8_000, None), Ok(()));
    }

    #[test]
    fn a_refusal_is_the_workers_own_shortage_or_the_attempts() {
        let of = |errno: Errno| shortage(&errno.into());
        assert_eq!(of(Errno::MFILE), Some(Shortage::Files));
        assert_eq!(of(Errno::NFILE), Some(Shortage::SystemFiles));
        assert_eq!(of(Errno::AGAIN), Some(Shortage::Processes));
        assert_eq!(of(Errno::NOMEM), Some(Shortage::Memory));
        assert_eq!(of(Errno::NOSPC), Some(Shortage::Space));
        assert_eq!(of(Errno::DQUOT), Some(Shortage::Quota));
        assert_eq!(shortage(&io::ErrorKind::TimedOut.into()), Some(Shortage::Disk));
        for errno in [Errno::NOENT, Errno::ACCESS, Errno::TOOBIG, Errno::TIME, Errno::TXTBSY] {
            assert_eq!(of(errno), None, "{errno}");
        }
    }
}
