//! How many executions of a line wait at the worker of the one that runs: as many as cover the way there and back twice,
//! at the rate at which the line has gone lately.
//!
//! ```text
//!   window = 2 x completions in the last period x round trip / length of that period      1 to RUN_AHEAD_MAX
//!   half of it gone -> so many more are sent that it is whole again, in one message
//! ```
//!
//! A period lasts two round trips, by the leader's clock. The round trip is the time from a
//! dispatch to the report of its end, without the time that the worker has had the attempt, which only the worker's clock
//! shows. A worker that is wrong about it is believed up to [`ROUND_TRIP_MAX`]: whatever it reports, no more is sent than the
//! line did in twice that time, and a line of long executions has one ahead.
//! Not here: which executions may be sent at all (`ahead`).

use std::time::Duration;

use slotline_protocol::Timestamp;
use slotline_protocol::policy::RUN_AHEAD_MAX;

/// The window of a line whose speed is not known: one that has just begun, or whose chain was handed back.
const FIRST: u32 = 2;
/// How many round trips a period lasts.
const PERIOD: u64 = 2;
/// The longest round trip that is believed.
const ROUND_TRIP_MAX: Duration = Duration::from_millis(250);
/// An execution with more bytes of parameters than this is bulky.
pub const BULKY_BYTES: usize = 4 << 10;
/// The most bulky executions in a chain: with the others, which have [`BULKY_BYTES`] each at most, its parameters are
/// bounded.
pub(crate) const BULKY_MAX: usize = 4;
/// The most executions that wait ahead at one worker while its lines share that room.
pub(crate) const WORKER_AHEAD_MAX: usize = 2_048;

/// Whether an execution with so many bytes of parameters is bulky.
pub(crate) fn is_bulky(bytes: usize) -> bool {
    bytes > BULKY_BYTES
}

/// How fast a line goes, and the window that fits that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct LinePace {
    window: u32,
    /// In microseconds; 0 while it is not known.
    round_trip: u32,
    /// Completions of this period.
    completed: u32,
    /// When the period began, and when the newest completion came.
    since: Timestamp,
    newest: Timestamp,
}

impl Default for LinePace {
    fn default() -> Self {
        Self {
            window: FIRST,
            round_trip: 0,
            completed: 0,
            since: Timestamp::from_micros(0),
            newest: Timestamp::from_micros(0),
        }
    }
}

impl LinePace {
    /// A chain begins.
    pub(crate) fn begin(&mut self, now: Timestamp) {
        (self.completed, self.since, self.newest) = (0, now, now);
    }

    /// An attempt has completed and the next of its chain has the slot. `round_trip`: of that attempt, if it is known.
    pub(crate) fn completed(&mut self, round_trip: Option<Duration>, now: Timestamp) {
        if let Some(round_trip) = round_trip {
            self.note(round_trip);
        }
        // Completions that came together belong to one period, and only a whole one shows that the line has become slower.
        if now != self.newest
            && let Some(covers) = self.covers(self.newest, PERIOD)
        {
            self.window = covers;
            self.begin(self.newest);
        }
        self.newest = now;
        self.completed = self.completed.saturating_add(1);
        if let Some(covers) = self.covers(now, 1) {
            self.window = self.window.max(covers);
        }
    }

    /// How many cover the round trip twice at the rate of this period, if it has lasted so many round trips by `now`.
    fn covers(&self, now: Timestamp, round_trips: u64) -> Option<u32> {
        let round_trip = u64::from(self.round_trip);
        let elapsed = u64::try_from(now.since(self.since).as_micros()).unwrap_or(u64::MAX);
        let covers = || (2 * u64::from(self.completed) * round_trip).div_ceil(elapsed);
        let has_lasted = round_trip > 0 && elapsed >= round_trips * round_trip;
        has_lasted.then(|| u32::try_from(covers()).unwrap_or(u32::MAX).clamp(1, RUN_AHEAD_MAX))
    }

    /// Follows a slower way at once and a faster one by and by: a chain that is too short costs more than one too long.
    fn note(&mut self, round_trip: Duration) {
        let sample = u32::try_from(round_trip.min(ROUND_TRIP_MAX).as_micros()).unwrap_or(u32::MAX).max(1);
        self.round_trip = match self.round_trip {
            0 => sample,
            known if sample > known => known + (sample - known).div_ceil(4),
            known => known - (known - sample) / 16,
        };
    }

    /// Of the chain some were handed back. What led to that may come again, and each time all behind it travel in vain: the
    /// window grows anew.
    pub(crate) fn restart(&mut self) {
        (self.window, self.completed) = (FIRST, 0);
    }

    /// How many more are to be sent now where so many are ahead and the window must not exceed `most`.
    pub(crate) fn refill(&self, ahead: usize, most: usize) -> usize {
        let window = (self.window as usize).min(most);
        if ahead <= window / 2 { window - ahead } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// The window of a line after so many periods, of which each lasts so long and has so many completions.
    fn window(periods: u32, lasts: Duration, completions: u32, round_trip: Duration) -> u32 {
        let mut pace = LinePace::default();
        let mut now = Timestamp::from_micros(1_000_000);
        pace.begin(now);
        for _ in 0..periods {
            now = now + lasts;
            (0..completions).for_each(|_| pace.completed(Some(round_trip), now));
        }
        pace.window
    }

    #[test]
    fn the_window_covers_the_way_there_and_back_twice() {
        assert_eq!(window(50, MS, 1, 4 * MS), 8, "handlers of 1 ms");
        assert_eq!(window(50, 10 * MS, 1, 4 * MS), 1, "of 10 ms: the next one is there before this one ends");
        assert_eq!(window(5, 600_000 * MS, 1, 4 * MS), 1, "of ten minutes");
        assert_eq!(window(50, 4 * MS, 40, 4 * MS), 80, "of a tenth of a millisecond");
        assert_eq!(window(50, 4 * MS, 4_000, 4 * MS), RUN_AHEAD_MAX);
    }

    #[test]
    fn a_line_that_has_what_it_gets_in_each_round_trip_gets_twice_as_much_in_the_next() {
        let mut pace = LinePace::default();
        let mut now = Timestamp::from_micros(1_000_000);
        pace.begin(now);
        let mut windows = Vec::new();
        for _ in 0..10 {
            now = now + 4 * MS;
            (0..pace.window).for_each(|_| pace.completed(Some(4 * MS), now));
            windows.push(pace.window);
        }
        assert!(windows.is_sorted() && windows.contains(&RUN_AHEAD_MAX), "{windows:?}");
    }

    #[test]
    fn a_worker_that_is_wrong_about_its_time_is_believed_within_bounds() {
        let hour = Duration::from_secs(3_600);
        assert_eq!(window(50, 1_000 * MS, 1, hour), 1, "no more than the line does in twice the longest round trip");
        assert_eq!(window(50, 100 * MS, 1, hour), 5);
        assert_eq!(window(50, 100 * MS, 1, Duration::ZERO), 1);
    }

    #[test]
    fn a_chain_is_refilled_when_half_of_it_is_gone() {
        let pace = LinePace { window: 8, ..LinePace::default() };
        let refills: Vec<_> = (0..=9).map(|ahead| pace.refill(ahead, usize::MAX)).collect();
        assert_eq!(refills, [8, 7, 6, 5, 4, 0, 0, 0, 0, 0]);
        assert_eq!([pace.refill(0, 3), pace.refill(1, 3), pace.refill(2, 3), pace.refill(0, 0)], [3, 2, 0, 0]);
        let one = LinePace { window: 1, ..LinePace::default() };
        assert_eq!([one.refill(0, 9), one.refill(1, 9)], [1, 0]);
    }

    #[test]
    fn what_is_handed_back_lets_the_window_grow_anew() {
        let mut pace = LinePace { window: 200, ..LinePace::default() };
        pace.restart();
        assert_eq!(pace.window, FIRST);
    }

    #[test]
    fn a_slower_way_is_followed_at_once_and_a_faster_one_by_and_by() {
        let mut pace = LinePace::default();
        pace.note(4 * MS);
        pace.note(40 * MS);
        assert_eq!(pace.round_trip, 13_000);
        pace.note(4 * MS);
        assert_eq!(pace.round_trip, 12_438);
        (0..500).for_each(|_| pace.note(4 * MS));
        assert!(pace.round_trip < 4_020, "{}", pace.round_trip);
    }
}
