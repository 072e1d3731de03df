//! How a worker is shut down: in order, or at once.

use tokio_util::sync::CancellationToken;

/// Shuts a worker down from outside. Cheap to clone; a call through any clone counts.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    drain: CancellationToken,
    stop: CancellationToken,
}

impl Shutdown {
    pub fn new() -> Self {
        Self::default()
    }

    /// No new work; what runs may finish within the drain time-out. For the first SIGTERM.
    pub fn drain(&self) {
        self.drain.cancel();
    }

    /// Ends everything now; running attempts are handed back. For the second SIGTERM.
    pub fn stop(&self) {
        self.drain.cancel();
        self.stop.cancel();
    }

    pub(crate) async fn drain_asked(&self) {
        self.drain.cancelled().await;
    }

    pub(crate) fn is_stop_asked(&self) -> bool {
        self.stop.is_cancelled()
    }

    pub(crate) async fn stop_asked(&self) {
        self.stop.cancelled().await;
    }
}
