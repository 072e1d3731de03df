//! Readings of the database's clock, the one time base that all executors share.
//!
//! Not here: the use of a reading; the executor carries it on by its own monotonic clock.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use slotline_protocol::Timestamp;

/// The time by the database's clock, and the moment of it by this process's monotonic clock.
#[derive(Clone, Copy, Debug)]
pub struct ClockReading {
    pub at: Timestamp,
    pub read: Instant,
    /// By how much the reading may be wrong: half of the time that the answer took.
    pub error: Duration,
}

impl ClockReading {
    /// The answer `at` came to a question that was sent at `asked`; the clock was read somewhere in between.
    pub(crate) fn between(asked: Instant, answered: Instant, at: Timestamp) -> Self {
        let error = answered.duration_since(asked) / 2;
        Self { at, read: asked + error, error }
    }

    /// SQLite's clock is the host's own.
    pub(crate) fn of_this_host() -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { at: Timestamp::from_micros(0) + wall, read: Instant::now(), error: Duration::ZERO }
    }

    /// The time by the database's clock at `moment`, unless it has been set since.
    pub fn carried_to(&self, moment: Instant) -> Timestamp {
        match moment.checked_duration_since(self.read) {
            Some(later) => self.at + later,
            None => self.at - self.read.duration_since(moment),
        }
    }
}
