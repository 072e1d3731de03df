//! The watch over the worker's loop: a turn that takes too long is logged, and a loop that stands past its fence is
//! given up.
//!
//! By its fence the shims have ended the running attempts, and at the end of its lease the executor gives the work to
//! others. A process whose loop still stands then can't go on under a new name, and takes no signal either: only its
//! end helps, and its successor under the same name reports at once that nothing of it is left.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use slotline_broker::pulse::{Pulse, SLOW, WatchGuard};
use tokio::sync::oneshot;

use crate::{Error, Shutdown, clock};

/// What the loop can be doing; the discriminant is the index of its name.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Doing {
    Waiting,
    Reports,
    Errands,
    Session,
    Orders,
    Time,
    Confirms,
    Publishing,
    Command,
}

const NAMES: &[&str] = &[
    "waiting, or working for its connection",
    "taking up what attempts report",
    "carrying out what the duty book asked for",
    "taking up a new session",
    "taking orders",
    "looking at what time asks for",
    "taking confirms",
    "publishing",
    "starting, watching or ending a command",
];

/// What the loop writes for the watch.
#[derive(Debug)]
pub(crate) struct Gauge {
    pulse: Arc<Pulse>,
    /// In microseconds since boot; 0 while nothing may run.
    fence_at: AtomicU64,
    /// In microseconds.
    fence: AtomicU64,
}

impl Gauge {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { pulse: Pulse::new(NAMES), fence_at: AtomicU64::new(0), fence: AtomicU64::new(u64::MAX) })
    }

    pub(crate) fn pulse(&self) -> &Arc<Pulse> {
        &self.pulse
    }

    pub(crate) fn turn(&self, doing: Doing) {
        self.pulse.turn(doing as usize);
    }

    /// Notes until when attempts may run, and how long after a confirmed heartbeat that is.
    pub(crate) fn note(&self, fence_at: Option<Duration>, fence: Duration) {
        self.fence_at.store(fence_at.map_or(0, micros), Ordering::Relaxed);
        self.fence.store(micros(fence), Ordering::Relaxed);
    }

    /// Watches the loop until the guard is dropped; gives it up through `gives_up`.
    pub(crate) fn watch(
        self: &Arc<Self>,
        shutdown: Shutdown,
        gives_up: oneshot::Sender<Error>,
    ) -> std::io::Result<WatchGuard> {
        let gauge = self.clone();
        let mut gives_up = Some(gives_up);
        self.pulse.watch("worker", move |stood, doing| {
            if gauge.is_hopeless(stood, clock::boot(), shutdown.is_stop_asked())
                && let Some(gives_up) = gives_up.take()
            {
                // The receiver is gone if the future was dropped.
                let _ = gives_up.send(Error::Stands { doing, stood });
            }
        })
    }

    /// Whether a loop that has stood for so long, as the watch has counted it, is of no use any more. The fence alone
    /// does not decide this: a process that was frozen past it goes on by itself once it thaws.
    fn is_hopeless(&self, stood: Duration, now: Duration, is_stop_asked: bool) -> bool {
        let fence = Duration::from_micros(self.fence.load(Ordering::Relaxed));
        match self.fence_at.load(Ordering::Relaxed) {
            _ if is_stop_asked => stood > SLOW,
            0 => stood >= fence,
            at => now >= Duration::from_micros(at) && stood >= fence / 2,
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn every_name_has_its_place() {
        assert_eq!(NAMES.len(), Doing::Command as usize + 1);
        assert!(NAMES[Doing::Orders as usize].contains("orders") && NAMES[Doing::Command as usize].contains("command"));
    }

    #[test]
    fn a_loop_that_stands_is_given_up_at_its_fence_and_one_that_was_frozen_is_not() {
        let gauge = Gauge::new();
        gauge.note(Some(s(100)), s(45));
        assert!(!gauge.is_hopeless(s(44), s(99), false), "the fence has not fallen");
        assert!(gauge.is_hopeless(s(44), s(100), false));
        assert!(!gauge.is_hopeless(s(1), s(500), false), "it has only just thawed");
        gauge.note(None, s(45));
        assert!(!gauge.is_hopeless(s(44), s(500), false) && gauge.is_hopeless(s(45), s(500), false));
        assert!(gauge.is_hopeless(s(2), s(50), true), "asked twice to end, it does");
    }

    #[test]
    fn a_worker_whose_loop_stands_past_its_fence_is_given_up_by_what_it_was_doing() {
        let gauge = Gauge::new();
        gauge.note(Some(clock::boot()), s(1));
        let (sender, mut receiver) = oneshot::channel();
        let watch = gauge.watch(Shutdown::new(), sender).expect("a thread");
        let runtime = gauge.pulse().runtime().expect("a runtime");
        let given_up = runtime.block_on(async {
            gauge.turn(Doing::Command);
            let until = clock::boot() + s(20);
            loop {
                match receiver.try_recv() {
                    Ok(error) => return error.to_string(),
                    Err(_) if clock::boot() < until => std::thread::sleep(Duration::from_millis(5)),
                    Err(error) => return error.to_string(),
                }
            }
        });
        drop(watch);
        assert!(given_up.contains("a command"), "{given_up}");
    }
}
