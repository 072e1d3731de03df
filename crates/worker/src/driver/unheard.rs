//! Notices that no executor answers a worker's heartbeats.

use std::time::Duration;

/// How long executors may take to answer.
const SAID_AFTER: Duration = Duration::from_secs(10);
const SAID_AGAIN: Duration = Duration::from_secs(60);

/// Since when a worker has asked in vain to be known.
#[derive(Clone, Debug, Default, Hash)]
pub(super) struct Unheard {
    since: Option<Duration>,
    said_at: Option<Duration>,
}

impl Unheard {
    /// To be asked with every heartbeat that goes out: for how long no executor has answered, if that is to be said now.
    pub(super) fn beats(&mut self, is_known: bool, now: Duration) -> Option<Duration> {
        if is_known {
            *self = Self::default();
            return None;
        }
        let unheard_for = now.saturating_sub(*self.since.get_or_insert(now));
        let is_due = match self.said_at {
            None => unheard_for >= SAID_AFTER,
            Some(said_at) => now >= said_at + SAID_AGAIN,
        };
        if is_due {
            self.said_at = Some(now);
        }
        is_due.then_some(unheard_for)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_after_ten_seconds_and_once_a_minute_until_an_executor_answers() {
        let mut unheard = Unheard::default();
        let mut said = |is_known, seconds| unheard.beats(is_known, Duration::from_secs(seconds)).map(|it| it.as_secs());
        assert_eq!([0, 9, 10, 11, 69, 70].map(|at| said(false, at)), [None, None, Some(10), None, None, Some(70)]);
        assert_eq!(said(true, 71), None);
        assert_eq!([72, 81, 82].map(|at| said(false, at)), [None, None, Some(10)]);
    }
}
