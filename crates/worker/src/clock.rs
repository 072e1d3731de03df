//! The only place where this crate reads a clock.
//!
//! Deadlines are on `CLOCK_BOOTTIME`, which counts while the machine sleeps; the wall clock is for people.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fd::{AsFd, OwnedFd};
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime, timerfd_create,
    timerfd_settime,
};
use slotline_protocol::Timestamp;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::duty::Now;

/// This moment, on both clocks. The wall clock is read through the C library, as other programs of the host read it.
#[expect(clippy::disallowed_methods, reason = "this is the edge where clocks are read")]
pub(crate) fn now() -> Now {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Now { boot: boot(), wall: Timestamp::from_micros(0) + wall }
}

/// The time of day at `boot`, by the wall clock as this process sees it now.
pub(crate) fn moment(boot: Duration) -> Now {
    let now = now();
    Now { boot, wall: now.wall - now.boot.saturating_sub(boot) }
}

/// Since boot, suspended time included.
pub(crate) fn boot() -> Duration {
    let boot = clock_gettime(ClockId::Boottime);
    Duration::new(boot.tv_sec.unsigned_abs(), u32::try_from(boot.tv_nsec).unwrap_or(0))
}

/// A timer on the same clock that becomes readable when it is due.
pub(crate) fn timer() -> rustix::io::Result<OwnedFd> {
    timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)
}

/// Sets the timer to `at`; `None` disarms it.
pub(crate) fn arm(timer: impl AsFd, at: Option<Duration>) -> rustix::io::Result<()> {
    let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
    let it_value = match at {
        None => zero,
        // Zero would disarm it.
        Some(at) => Timespec {
            tv_sec: i64::try_from(at.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(at.subsec_nanos()).max(1),
        },
    };
    timerfd_settime(timer, TimerfdTimerFlags::ABSTIME, &Itimerspec { it_interval: zero, it_value }).map(drop)
}

/// Has the runtime watch a file for being readable.
#[expect(deprecated, reason = "what it warns of can't be: an `OwnedFd` keeps its file open, and nobody swaps it")]
pub(crate) fn watched(file: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(file, Interest::READABLE)
}
