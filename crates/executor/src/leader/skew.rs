//! The difference between workers' clocks and the leader's: each worker stamps by its own host's wall clock, and what
//! is compared in the journal (durations, retention, what ran beside what) must be of one clock, the leader's.
//!
//! Heartbeats show how far a worker's clock is off. Below [`NAMED`] its stamps are taken as they are, so that the
//! stamps of one worker stay exact among themselves. No stamp lies before the grant or after its arrival by more than
//! that.

use std::collections::BTreeMap;
use std::time::Duration;

use slotline_protocol::message::AttemptKey;
use slotline_protocol::{Incarnation, Timestamp};
use slotline_scheduler::{Input, Scheduler};

use super::item::Item;

/// A difference between two clocks that is reported, and no longer taken for one of their rates.
pub(crate) const NAMED: Duration = Duration::from_secs(1);
/// Incarnations that are remembered before the departed ones are looked for.
const FORGOTTEN_FROM: usize = 100;

/// The clocks of all workers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Skews {
    by_incarnation: BTreeMap<Incarnation, Skew>,
    /// How many were kept when the departed ones were removed last.
    kept: usize,
}

/// One worker's clock.
#[derive(Clone, Copy, Debug, Default)]
struct Skew {
    /// The estimate: so many microseconds ahead of the leader's clock.
    ahead: i64,
    last: Option<i64>,
}

impl Skew {
    /// A heartbeat that was on its way for long makes the clock seem behind, never ahead. So the later of two counts.
    fn heard(&mut self, sent_at: Timestamp, now: Timestamp) {
        let seen = ahead_us(sent_at, now);
        let least = self.last.replace(seen).unwrap_or(0).max(seen);
        if least.saturating_sub(self.ahead).saturating_abs() > micros(NAMED) {
            self.ahead = if is_named(least) { least } else { 0 };
        }
    }
}

fn is_named(off: i64) -> bool {
    off.saturating_abs() > micros(NAMED)
}

impl Skews {
    /// By how many microseconds the worker's clock is ahead, if that is more than [`NAMED`].
    pub(crate) fn of(&self, incarnation: Incarnation) -> Option<i64> {
        self.by_incarnation.get(&incarnation).map(|skew| skew.ahead).filter(|ahead| is_named(*ahead))
    }

    /// What arrived at `now`, with all its stamps in the leader's time.
    pub(crate) fn dated(&mut self, mut item: Item, scheduler: &Scheduler, now: Timestamp) -> Item {
        match &mut item {
            Item::Input(Input::Heartbeat(heartbeat)) => {
                self.by_incarnation.entry(heartbeat.incarnation).or_default().heard(heartbeat.sent_at, now);
                if self.by_incarnation.len() > FORGOTTEN_FROM.max(2 * self.kept) {
                    self.by_incarnation.retain(|incarnation, _| scheduler.knows(*incarnation));
                    self.kept = self.by_incarnation.len();
                }
            }
            Item::Parting { items, .. } => {
                let dated: Vec<_> = items.drain(..).map(|item| self.dated(item, scheduler, now)).collect();
                *items = dated;
            }
            Item::Input(_) | Item::Stranger { .. } => {}
            Item::Event(word) => word.at = self.in_our_time(word.key, word.at, scheduler, now),
            Item::Ended(end, input) => {
                let ours = |at| self.in_our_time(end.key, at, scheduler, now);
                if let Input::Completed { outcome, .. } = input {
                    outcome.started_at = outcome.started_at.map(ours);
                    outcome.ended_at = ours(outcome.ended_at);
                }
                end.started_at = end.started_at.map(ours);
                end.at = ours(end.at);
            }
        }
        item
    }

    fn in_our_time(&self, key: AttemptKey, at: Timestamp, scheduler: &Scheduler, now: Timestamp) -> Timestamp {
        // Nearly always it is of this very moment.
        if !is_named(ahead_us(at, now)) {
            return at;
        }
        let Some((incarnation, granted_at)) = scheduler.grant_of(key) else { return at.min(now) };
        let at = later(at, -self.of(incarnation).unwrap_or(0));
        at.max(granted_at - NAMED).min(now + NAMED)
    }
}

/// `at`, some microseconds later, or earlier if they are negative.
pub(crate) fn later(at: Timestamp, us: i64) -> Timestamp {
    let moved = Duration::from_micros(us.unsigned_abs());
    if us < 0 { at - moved } else { at + moved }
}

/// How much later `one` is than `other`, in microseconds.
pub(crate) fn ahead_us(one: Timestamp, other: Timestamp) -> i64 {
    one.as_micros().saturating_sub(other.as_micros())
}

pub(crate) fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const HOUR: i64 = 3_600_000_000;

    fn moment(us: i64) -> Timestamp {
        Timestamp::from_micros(1_700_000_000_000_000 + us)
    }

    #[test]
    fn a_clock_that_is_ahead_shows_at_once_and_one_that_is_behind_at_the_second_heartbeat() {
        let mut ahead = Skew::default();
        ahead.heard(moment(HOUR), moment(0));
        assert_eq!(ahead.ahead, HOUR);
        let mut behind = Skew::default();
        behind.heard(moment(-HOUR), moment(0));
        assert_eq!(behind.ahead, 0, "it may have been on its way for that long");
        behind.heard(moment(-HOUR + 5_000_000), moment(5_000_000));
        assert_eq!(behind.ahead, -HOUR);
        behind.heard(moment(9_900_000), moment(10_000_000));
        assert_eq!(behind.ahead, 0, "it was set right");
    }

    #[test]
    fn a_heartbeat_that_was_held_up_moves_nothing() {
        let mut skew = Skew::default();
        for (sent, received) in [(0, 3_000), (5_000_000, 45_000_000), (45_100_000, 45_103_000)] {
            skew.heard(moment(sent), moment(received));
            assert_eq!(skew.ahead, 0);
        }
    }

    #[test]
    fn wild_stamps_change_nothing() {
        let mut skew = Skew::default();
        for wild in [Timestamp::MIN, Timestamp::MAX] {
            skew.heard(wild, moment(0));
            let back = later(wild, -skew.ahead);
            assert!(back.since(moment(0)) < Duration::from_secs(2) || wild == Timestamp::MIN);
        }
    }
}
