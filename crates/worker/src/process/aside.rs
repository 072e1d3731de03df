//! Work on files, done aside of the loop: a disk may answer late or never, and the loop must turn meanwhile.

use std::time::Duration;

use tokio::runtime;

/// How long a disk may take to answer. A fence is longer by default, and the shim ends what runs by then in any case.
pub(crate) const WAIT: Duration = Duration::from_secs(10);
/// Threads that may block on a disk at once. Past it whatever else needs a file waits in vain, which is a shortage.
pub(crate) const STANDING_MAX: usize = 64;
/// How long an idle thread is kept: the system may refuse a new one later.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(24 * 3600);

/// Does `work` on a thread that may block. `None`: the disk did not answer within [`WAIT`]; the thread is left to it.
pub(crate) async fn aside<T: Send + 'static>(
    blocking: &runtime::Handle,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    tokio::time::timeout(WAIT, blocking.spawn_blocking(work)).await.ok()?.ok()
}
