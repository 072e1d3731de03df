//! The clock of one leadership: the database's at the beginning of the term, carried on by this host's boot clock.
//!
//! One leader writes what is due and the next one judges it, and the wall clocks of their hosts may be hours apart and
//! may be set at any time; so no decision uses them. Not here: keeping in step with the database's clock
//! (`timekeeping`).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};
use slotline_protocol::Timestamp;
use slotline_store::ClockReading;

use crate::leader::skew::{later, micros};

/// The most that the clock is made faster or slower, in millionths: far less than the margin of a lease over a fence.
pub(crate) const SLEW_PPM: i64 = 500;

/// Cheap to clone; all clones show the same.
#[derive(Clone, Debug)]
pub(crate) struct Clock(Arc<Mutex<Hand>>);

/// What the clock showed at a moment since boot, and how much faster than the boot clock it goes from there, in
/// millionths.
#[derive(Clone, Copy, Debug)]
struct Hand {
    at: Timestamp,
    since: Duration,
    ppm: i64,
}

impl Hand {
    fn now(&self, boot: Duration) -> Timestamp {
        let elapsed = micros(boot.saturating_sub(self.since));
        Timestamp::from_micros(self.at.as_micros() + elapsed + elapsed / 1000 * self.ppm / 1000)
    }
}

impl Clock {
    /// A clock that is `ahead_us` ahead of the database's.
    pub(crate) fn of(reading: &ClockReading, ahead_us: i64) -> Self {
        let at = later(reading.carried_to(Instant::now()), ahead_us);
        Self(Arc::new(Mutex::new(Hand { at, since: boot(), ppm: 0 })))
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.hand().now(boot())
    }

    /// The moment at which [`Self::now`] will show `at`, on the clock that timers go by.
    pub(crate) fn instant(&self, at: Timestamp) -> tokio::time::Instant {
        tokio::time::Instant::now() + at.since(self.now())
    }

    /// From now on goes a little slower, or faster if `off_us` is negative: the clock is `off_us` ahead of where it
    /// should be, and makes that good when `within` has passed, or as much of it as possible.
    pub(crate) fn approach(&self, off_us: i64, within: Duration) {
        let mut hand = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let boot = boot();
        let ppm = (-off_us).saturating_mul(1_000_000) / micros(within).max(1);
        *hand = Hand { at: hand.now(boot), since: boot, ppm: ppm.clamp(-SLEW_PPM, SLEW_PPM) };
    }

    fn hand(&self) -> Hand {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// This host's wall clock: for people, and for the comparison with the database's.
pub(crate) fn wall() -> Timestamp {
    Timestamp::from_micros(0) + SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Since boot, suspended time included: the database's clock goes on meanwhile, too.
fn boot() -> Duration {
    let boot = clock_gettime(ClockId::Boottime);
    Duration::new(boot.tv_sec.unsigned_abs(), u32::try_from(boot.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::leader::skew::ahead_us;

    const SECOND: i64 = 1_000_000;

    #[test]
    fn a_clock_is_brought_in_step_slowly_and_never_goes_back() {
        let start = Timestamp::from_micros(1_000 * SECOND);
        let hand = |ppm| Hand { at: start, since: Duration::from_secs(50), ppm };
        let after = |ppm, seconds: u64| ahead_us(hand(ppm).now(Duration::from_secs(50 + seconds)), start);
        assert_eq!(after(0, 10), 10 * SECOND);
        assert_eq!(after(SLEW_PPM, 10), 10 * SECOND + 5_000);
        assert_eq!(after(-SLEW_PPM, 10), 10 * SECOND - 5_000);
        assert_eq!(after(0, 0), 0);
    }

    #[test]
    fn a_clock_shows_the_databases_time_and_how_far_it_is_ahead() {
        let reading =
            ClockReading { at: wall() - Duration::from_secs(7200), read: Instant::now(), error: Duration::ZERO };
        for ahead in [0, 3 * SECOND, -3 * SECOND] {
            let clock = Clock::of(&reading, ahead);
            let off = ahead_us(clock.now(), reading.carried_to(Instant::now())) - ahead;
            assert!(off.abs() < SECOND, "{off}");
        }
    }
}
