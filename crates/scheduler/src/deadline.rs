//! One table of timers. The module that set a timer clears it once it no longer applies, so that the table stays as
//! small as what it is about.

use std::collections::BTreeSet;

use slotline_protocol::{ExecutionId, Timestamp};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Timer {
    /// Publish the next probe.
    Probe,
    BackoffOver(ExecutionId),
    QueueTimeout(ExecutionId),
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Deadlines {
    timers: BTreeSet<(Timestamp, Timer)>,
}

impl Deadlines {
    pub(crate) fn set(&mut self, at: Timestamp, timer: Timer) {
        self.timers.insert((at, timer));
    }

    pub(crate) fn clear(&mut self, at: Timestamp, timer: Timer) {
        self.timers.remove(&(at, timer));
    }

    pub(crate) fn next(&self) -> Option<Timestamp> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Takes one timer that is due.
    pub(crate) fn pop(&mut self, now: Timestamp) -> Option<Timer> {
        match self.timers.first() {
            Some((at, _)) if *at <= now => self.timers.pop_first().map(|(_, timer)| timer),
            Some(_) | None => None,
        }
    }
}
