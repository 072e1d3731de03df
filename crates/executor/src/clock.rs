//! The clock of one process: the wall clock at start, carried on by the monotonic one, so that it never jumps.

use std::time::Instant;

use slotline_protocol::Timestamp;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    started: Timestamp,
    since: Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        let wall = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Self { started: Timestamp::from_micros(0) + wall, since: Instant::now() }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.started + self.since.elapsed()
    }

    /// The monotonic moment at which [`Self::now`] will say `at`.
    pub(crate) fn instant(&self, at: Timestamp) -> tokio::time::Instant {
        tokio::time::Instant::from_std(self.since + at.since(self.started))
    }
}
