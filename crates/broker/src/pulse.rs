//! A watchdog for an event loop: a thread of its own logs a turn of the loop that takes too long.
//!
//! A loop that is blocked by a file, a child or a lock answers no message, and can't log that either. So the loop
//! counts its turns, and the watchdog counts its checks that found no new turn. It reads no clock: in a process that
//! was stopped and goes on, the watchdog has not checked meanwhile, and so has counted nothing.
//!
//! Here because executor and worker both use this crate, as with [`crate::crash`]. Not here: what to do about a blocked
//! loop, which its owner decides in the closure that it gives to [`Pulse::watch`].

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use tokio::runtime;

/// The time between two checks of a loop.
const CHECK_EVERY: Duration = Duration::from_millis(250);
/// A turn that takes longer is logged. A worker's longest normal turn takes a few milliseconds.
pub const SLOW: Duration = Duration::from_secs(1);

/// What a loop writes at each turn, and its watchdog reads.
#[derive(Debug)]
pub struct Pulse {
    /// What the loop can be doing; the first is for a turn that names nothing.
    names: &'static [&'static str],
    turns: AtomicU64,
    doing: AtomicUsize,
    is_resting: AtomicBool,
}

impl Pulse {
    pub fn new(names: &'static [&'static str]) -> Arc<Self> {
        Arc::new(Self {
            names,
            turns: AtomicU64::new(0),
            doing: AtomicUsize::new(0),
            // Until its runtime starts.
            is_resting: AtomicBool::new(true),
        })
    }

    /// Begins a turn of the loop, which does this.
    pub fn turn(&self, doing: usize) {
        self.doing.store(doing, Ordering::Relaxed);
        self.is_resting.store(false, Ordering::Relaxed);
        // Only the loop's own thread writes.
        self.turns.store(self.turns.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// Runs a task on the loop's thread, and counts each poll as a turn that does this.
    pub async fn during<F: Future>(self: Arc<Self>, doing: usize, task: F) -> F::Output {
        let mut task = pin!(task);
        poll_fn(|context| {
            self.turn(doing);
            task.as_mut().poll(context)
        })
        .await
    }

    /// The runtime of the loop: while its thread is parked, the loop is idle and not blocked.
    pub fn runtime(self: &Arc<Self>) -> std::io::Result<runtime::Runtime> {
        let (parked, woken) = (self.clone(), self.clone());
        runtime::Builder::new_current_thread()
            .enable_all()
            .on_thread_park(move || parked.is_resting.store(true, Ordering::Relaxed))
            .on_thread_unpark(move || woken.turn(0))
            .build()
    }

    /// Watches the loop until the guard is dropped. `blocked` is called at each check that finds no new turn, with how
    /// long that has lasted and what the loop was doing, and before anything is logged.
    pub fn watch(
        self: &Arc<Self>,
        owner: &'static str,
        blocked: impl FnMut(Duration, &'static str) + Send + 'static,
    ) -> std::io::Result<WatchGuard> {
        let (guard, dropped) = channel::<()>();
        let pulse = self.clone();
        thread::Builder::new().name("slotline-watch".to_owned()).spawn(move || {
            let mut watchdog = Watchdog { turn: 0, checks: 0 };
            let mut blocked = blocked;
            while let Err(RecvTimeoutError::Timeout) = dropped.recv_timeout(CHECK_EVERY) {
                watchdog.check(&pulse, owner, &mut blocked);
            }
        })?;
        Ok(WatchGuard { _guard: guard })
    }

    fn doing(&self) -> &'static str {
        self.names.get(self.doing.load(Ordering::Relaxed)).copied().unwrap_or("something without a name")
    }
}

/// Stops the watchdog when it is dropped.
#[derive(Debug)]
pub struct WatchGuard {
    _guard: Sender<()>,
}

/// The thread beside a loop: the newest turn it saw, and how often it saw that one again.
struct Watchdog {
    turn: u64,
    /// Checks in a row that found no new turn.
    checks: u32,
}

impl Watchdog {
    fn check(&mut self, pulse: &Pulse, owner: &'static str, blocked: &mut impl FnMut(Duration, &'static str)) {
        let turn = pulse.turns.load(Ordering::Relaxed);
        let blocked_for = CHECK_EVERY * self.checks;
        if pulse.is_resting.load(Ordering::Relaxed) || turn != self.turn {
            if blocked_for > SLOW {
                log(move || tracing::warn!(?blocked_for, "the {owner}'s loop turns again"));
            }
            *self = Self { turn, checks: 0 };
            return;
        }
        self.checks += 1;
        let (before, blocked_for) = (blocked_for, CHECK_EVERY * self.checks);
        let doing = pulse.doing();
        blocked(blocked_for, doing);
        if blocked_for > SLOW && before <= SLOW {
            log(move || tracing::error!(doing, "the {owner}'s loop is blocked for over {SLOW:?}: nothing is answered"));
        }
    }
}

/// On a thread of its own: the loop may be waiting for the reader of the log, and the watchdog must not.
fn log(line: impl FnOnce() + Send + 'static) {
    // If the system has no room for a thread, the line is left out.
    let _ = thread::Builder::new().name("slotline-watch-log".to_owned()).spawn(line);
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    const NAMES: &[&str] = &["nothing", "reading a file"];

    fn checks(pulse: &Pulse, watchdog: &mut Watchdog, count: u32) -> Vec<(Duration, &'static str)> {
        let mut found = Vec::new();
        for _ in 0..count {
            watchdog.check(pulse, "test", &mut |blocked, doing| found.push((blocked, doing)));
        }
        found
    }

    #[test]
    fn a_loop_that_stands_is_counted_by_looks_and_named_by_what_it_did_last() {
        let (pulse, mut watchdog) = (Pulse::new(NAMES), Watchdog { turn: 0, checks: 0 });
        pulse.turn(0);
        pulse.turn(1);
        let found = checks(&pulse, &mut watchdog, 3);
        assert_eq!(
            found,
            [(CHECK_EVERY, "reading a file"), (CHECK_EVERY * 2, "reading a file")],
            "the first check finds a new turn"
        );
        pulse.turn(1);
        assert!(checks(&pulse, &mut watchdog, 1).is_empty(), "it has turned");
    }

    #[test]
    fn a_loop_that_rests_or_turns_never_stands() {
        let (pulse, mut watchdog) = (Pulse::new(NAMES), Watchdog { turn: 0, checks: 0 });
        assert!(checks(&pulse, &mut watchdog, 9).is_empty(), "it has not begun");
        pulse.turn(0);
        for _ in 0..9 {
            pulse.turn(0);
            assert!(checks(&pulse, &mut watchdog, 1).is_empty());
        }
    }

    #[test]
    fn a_task_that_blocks_the_thread_of_a_loop_is_seen_and_one_that_waits_is_not() {
        let pulse = Pulse::new(NAMES);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let recorded = seen.clone();
        let watch =
            pulse.watch("test", move |blocked_for, doing| recorded.lock().expect("free").push((blocked_for, doing)));
        let runtime = pulse.runtime().expect("a runtime");
        runtime.block_on(async {
            tokio::time::sleep(CHECK_EVERY * 3).await;
        });
        runtime.block_on(async {
            pulse.turn(1);
            let until = std::time::Instant::now() + Duration::from_secs(20);
            while seen.lock().expect("free").is_empty() && std::time::Instant::now() < until {
                thread::sleep(Duration::from_millis(5));
            }
        });
        drop(watch);
        let seen = seen.lock().expect("free");
        assert!(!seen.is_empty() && seen.iter().all(|(_, doing)| *doing == "reading a file"), "{seen:?}");
    }
}
