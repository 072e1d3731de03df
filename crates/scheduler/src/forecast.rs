//! How long the newest executions of an action ran, and when those in line will start if the next ones run as long.
//!
//! Means fade: of [`WINDOW`] runs the newest counts for one, and older ones for less and less. Nothing is decided by
//! these numbers.

use std::fmt;
use std::time::Duration;

use slotline_protocol::Timestamp;

/// Without so many runs there is no estimate.
const RUNS_MIN: u32 = 5;
/// The newest run counts for one of so many.
const WINDOW: u32 = 50;
/// Nine starts of ten are within so many deviations of what was expected.
const DEVIATIONS: f64 = 1.645;
/// With more holders of slots there is no estimate: each of them is looked at.
pub(crate) const HOLDERS_MAX: usize = 1_000;

/// What happened in an action since this leader leads.
#[derive(Clone, Default)]
pub(crate) struct RecentRuns {
    pub(crate) started: u64,
    pub(crate) failed: u64,
    runs: u32,
    /// In seconds.
    mean: f64,
    variance: f64,
}

impl RecentRuns {
    /// Takes the length of a run that has ended.
    pub(crate) fn ran(&mut self, length: Duration) {
        self.runs = (self.runs + 1).min(WINDOW);
        let weight = 1.0 / f64::from(self.runs);
        let off = length.as_secs_f64() - self.mean;
        self.mean += off * weight;
        self.variance = (1.0 - weight) * (self.variance + off * off * weight);
    }

    /// The mean of the newest runs, if there were enough.
    pub(crate) fn mean_seconds(&self) -> Option<f64> {
        (self.runs >= RUNS_MIN).then_some(self.mean)
    }

    /// When executions of a line start whose slots are held by executions that began at `since`; `None` without an
    /// estimate.
    pub(crate) fn forecast(&self, since: impl Iterator<Item = Timestamp>, now: Timestamp) -> Option<Forecast> {
        let mean = self.mean_seconds()?;
        let mut remaining: Vec<f64> =
            since.take(HOLDERS_MAX + 1).map(|at| (mean - now.since(at).as_secs_f64()).max(0.0)).collect();
        if remaining.is_empty() || remaining.len() > HOLDERS_MAX {
            return None;
        }
        remaining.sort_unstable_by(f64::total_cmp);
        Some(Forecast { now, mean, variance: self.variance, runs: f64::from(self.runs), remaining })
    }
}

/// Shows nothing: two states that differ in this alone decide alike, and searches take them for one.
impl fmt::Debug for RecentRuns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecentRuns")
    }
}

/// The future of one line.
pub(crate) struct Forecast {
    now: Timestamp,
    mean: f64,
    variance: f64,
    runs: f64,
    /// The seconds until each slot is expected to be free, ascending.
    remaining: Vec<f64>,
}

impl Forecast {
    /// When the execution at this 1-based position starts: not before the first and not after the second, nine times of
    /// ten.
    pub(crate) fn start_of(&self, position: usize) -> (Timestamp, Timestamp) {
        let (index, slots) = (position.saturating_sub(1), self.remaining.len());
        let rounds = (index / slots) as f64;
        let expected = self.remaining[index % slots] + rounds * self.mean;
        let turns = rounds + 1.0;
        // Each turn varies by itself; the error of the mean is the same in all of them.
        let spread = DEVIATIONS * (self.variance * (turns + turns * turns / self.runs)).sqrt();
        let after =
            |seconds: f64| self.now + Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX / 2);
        (after(expected - spread), after(expected + spread))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_micros(seconds * 1_000_000)
    }

    fn after(lengths: &[u64]) -> RecentRuns {
        let mut activity = RecentRuns::default();
        lengths.iter().for_each(|seconds| activity.ran(Duration::from_secs(*seconds)));
        activity
    }

    #[test]
    fn there_is_no_estimate_before_five_runs_and_none_while_nothing_runs() {
        assert!(after(&[10; 4]).forecast([at(0)].into_iter(), at(0)).is_none());
        assert!(after(&[10; 5]).forecast([].into_iter(), at(0)).is_none());
        let crowd = (0..=HOLDERS_MAX as i64).map(at);
        assert!(after(&[10; 5]).forecast(crowd, at(0)).is_none(), "each holder is looked at");
    }

    #[test]
    fn runs_of_one_length_are_foreseen_to_the_second() {
        let activity = after(&[10; 7]);
        let one = activity.forecast([at(94)].into_iter(), at(100)).expect("an estimate");
        assert_eq!(
            [1, 2, 3].map(|position| one.start_of(position)),
            [104, 114, 124].map(|second| (at(second), at(second)))
        );
        let two = activity.forecast([at(98), at(93)].into_iter(), at(100)).expect("an estimate");
        let starts = [1, 2, 3, 4].map(|position| two.start_of(position).0);
        assert_eq!(starts, [103, 108, 113, 118].map(at), "slots become free in their order");
    }

    #[test]
    fn a_run_that_takes_longer_than_any_before_may_end_at_any_moment() {
        let late = after(&[8, 9, 10, 11, 12]).forecast([at(0)].into_iter(), at(100)).expect("an estimate");
        let (low, high) = late.start_of(1);
        assert_eq!(low, at(100));
        assert!(high > low && high < at(105), "{high}");
    }

    #[test]
    fn old_runs_fade() {
        let mut activity = after(&[1_000; 60]);
        (0..400).for_each(|_| activity.ran(Duration::from_secs(1)));
        let mean = activity.mean_seconds().expect("enough runs");
        assert!((1.0..2.0).contains(&mean), "{mean}");
    }

    /// Chance by a seed (Marsaglia's xorshift), from 0 to 1.
    struct Chance(u64);

    impl Chance {
        fn next(&mut self) -> f64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 >> 11) as f64 / (1_u64 << 53) as f64
        }
    }

    /// The share of a thousand forecasts that came true, in a long line whose runs have lengths by `length`.
    fn share_within(slots: usize, seed: u64, length: impl Fn(&mut Chance) -> f64) -> f64 {
        let mut chance = Chance(seed);
        let moment = |seconds: f64| Timestamp::from_micros((seconds * 1e6) as i64);
        let mut activity = RecentRuns::default();
        // When each holder ends and began, in seconds.
        let mut holders: Vec<(f64, f64)> = (0..slots).map(|_| (length(&mut chance), 0.0)).collect();
        let (mut started, mut open, mut judged, mut within) = (0, Vec::new(), 0, 0);
        while judged < 1_000 {
            holders.sort_by(|one, other| other.0.total_cmp(&one.0));
            let (end, begun) = holders.pop().expect("slots are held");
            activity.ran(Duration::from_secs_f64(end - begun));
            started += 1;
            open.retain(|(number, (low, high)): &(usize, (Timestamp, Timestamp))| {
                if *number == started {
                    judged += 1;
                    within += usize::from(*low <= moment(end) && moment(end) <= *high);
                }
                *number > started
            });
            holders.push((end + length(&mut chance), end));
            if let Some(forecast) = activity.forecast(holders.iter().map(|(_, begun)| moment(*begun)), moment(end)) {
                let position = 1 + (chance.next() * 30.0) as usize;
                open.push((started + position, forecast.start_of(position)));
            }
        }
        within as f64 / f64::from(judged)
    }

    #[test]
    fn nine_forecasts_of_ten_come_true() {
        for (slots, seed) in [(1, 1), (1, 2), (3, 3), (8, 4)] {
            let even = share_within(slots, seed, |chance| 5.0 + 10.0 * chance.next());
            let two = share_within(slots, seed, |chance| if chance.next() < 0.7 { 2.0 } else { 30.0 });
            let fading = share_within(slots, seed, |chance| -10.0 * (1.0 - chance.next()).ln());
            assert!(even > 0.88 && two > 0.88 && fading > 0.88, "{slots} slots: {even} {two} {fading}");
        }
    }
}
