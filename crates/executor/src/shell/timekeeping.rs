//! Compares clocks with the database's: this host's, which is only reported when it is wrong, and the leader's own,
//! which decides what is due and must therefore move by no more than a moment, whichever executor leads and whichever
//! clock is set.
//!
//! A leader's clock that runs a little too fast or slow is brought in step slowly. A difference beyond [`NAMED`] means
//! that the database's clock was set: then what is due stays due when it was, and how far the journal's time is ahead
//! of the database's clock is noted in the journal for the next leader. It shrinks slowly, and is forgotten once
//! nothing lives at a change of leadership.

use std::sync::Arc;
use std::time::{Duration, Instant};

use slotline_protocol::{Epoch, chain};
use slotline_store::{ClockReading, Store};
use tokio::task::AbortHandle;

use super::clock::{self, Clock, SLEW_PPM};
use super::remarks::{Remarks, Topic};
use crate::leader::skew::{NAMED, ahead_us, later, micros};

/// Between two looks at the database's clock.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// A reading that may be wrong by more shows nothing: its answer was slow.
const ERROR_MAX: Duration = Duration::from_millis(250);
/// By how much the noted difference may be out of date.
const NOTED_WITHIN_US: i64 = 100_000;

/// Compares this host's clock with the database's, for ever.
pub(crate) async fn watch_host(store: Store, remarks: Arc<Remarks>) {
    loop {
        if let Ok(reading) = store.reading().await
            && reading.error <= ERROR_MAX
        {
            let off = ahead_us(clock::wall(), reading.carried_to(Instant::now()));
            remarks.set(Topic::HostClock, named(off).then(|| host_differs(off)));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn host_differs(off: i64) -> String {
    format!(
        "the clock of this host is {} the database's: only timestamps for people go by it, but it should be set right",
        side(off)
    )
}

/// `7200.0 s ahead of`, or behind.
fn side(off: i64) -> String {
    let seconds = Duration::from_micros(off.unsigned_abs()).as_secs_f64();
    format!("{seconds:.1} s {}", if off < 0 { "behind" } else { "ahead of" })
}

fn named(off: i64) -> bool {
    off.abs() > micros(NAMED)
}

/// Keeps the clock of a term, until it is aborted. `noted_us` is what the journal has, `ahead_us` what the clock began
/// with.
pub(crate) fn keep(
    store: Store,
    epoch: Epoch,
    clock: Clock,
    remarks: Arc<Remarks>,
    noted_us: i64,
    ahead_us: i64,
) -> AbortHandle {
    let keeping = async move {
        let mut course = Course { ahead: ahead_us, set: None };
        let mut noted = noted_us;
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let Ok(reading) = store.reading().await else { continue };
            if reading.error > ERROR_MAX {
                continue;
            }
            course.look(&clock, &reading);
            if course.ahead != noted && (course.ahead == 0 || (course.ahead - noted).abs() >= NOTED_WITHIN_US) {
                match store.note_clock(epoch, course.ahead).await {
                    Ok(()) => noted = course.ahead,
                    Err(error) => {
                        tracing::warn!(error = %chain(&error), "how far the journal's time is ahead can't be noted now")
                    }
                }
            }
            remarks.set(Topic::JournalClock, named(course.ahead).then(|| journal_differs(course.ahead)));
        }
    };
    tokio::spawn(keeping).abort_handle()
}

fn journal_differs(ahead: i64) -> String {
    format!(
        "the database's clock was set while Slotline led: the journal's time is {} it, so that everything is due when it \
         was; the difference shrinks by half a thousandth, and goes with the first change of leadership at which nothing \
         waits or runs",
        side(ahead)
    )
}

/// Where a term's clock ought to be.
struct Course {
    /// Of the database's clock, by so many microseconds.
    ahead: i64,
    /// How far it was off at the last look, if that was too much for a difference of rates: it is believed when the
    /// next look shows it, too. A leader that stood still, and only finds out now that it leads no more, is gone by
    /// then.
    set: Option<i64>,
}

impl Course {
    fn look(&mut self, clock: &Clock, reading: &ClockReading) {
        let right = later(reading.carried_to(Instant::now()), self.ahead);
        let off = ahead_us(clock.now(), right);
        if !named(off) {
            self.set = None;
            let step = micros(LOOK_EVERY) * SLEW_PPM / 1_000_000;
            self.ahead -= self.ahead.clamp(-step, step);
            clock.approach(off, LOOK_EVERY);
        } else if self.set.is_some_and(|before| !named(off - before)) {
            self.set = None;
            self.ahead += off;
        } else {
            self.set = Some(off);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;

    fn reading(off: i64) -> ClockReading {
        ClockReading { at: later(clock::wall(), off), read: Instant::now(), error: Duration::ZERO }
    }

    #[test]
    fn a_database_whose_clock_is_set_moves_nothing_that_is_due() {
        let (first, set) = (reading(0), reading(-7200 * SECOND));
        let clock = Clock::of(&first, 0);
        let mut course = Course { ahead: 0, set: None };
        course.look(&clock, &first);
        assert_eq!(course.ahead, 0);
        course.look(&clock, &set);
        assert_eq!(course.ahead, 0, "one look proves nothing");
        course.look(&clock, &set);
        assert!(!named(course.ahead - 7200 * SECOND), "{}", course.ahead);
        assert!(!named(ahead_us(clock.now(), first.carried_to(Instant::now()))));
        // The clock of the next leader, by the noted difference.
        let next = Clock::of(&set, course.ahead);
        assert!(!named(ahead_us(next.now(), clock.now())));
        // From there it goes back to the database's time, slowly.
        let before = course.ahead;
        course.look(&clock, &set);
        assert_eq!(before - course.ahead, 2_500);
    }

    #[test]
    fn a_leader_that_stood_still_once_is_not_taken_for_a_clock_that_was_set() {
        let clock = Clock::of(&reading(0), 0);
        let mut course = Course { ahead: 0, set: None };
        course.look(&clock, &reading(30 * SECOND));
        course.look(&clock, &reading(0));
        course.look(&clock, &reading(40 * SECOND));
        assert_eq!(course.ahead, 0);
    }

    #[test]
    fn a_difference_is_said_with_its_side() {
        assert_eq!(side(-7_200_000_000), "7200.0 s behind");
        assert!(host_differs(1_500_000).contains("1.5 s ahead of the database's"), "{}", host_differs(1_500_000));
    }
}
