//! Whether the journal takes what is submitted, as far as this executor has seen. While it does not, no more requests
//! are taken over HTTP: the client gets an error at once instead of a request that waits for an unknown time.
//!
//! A journal that answers does not yet take anything: a full disk shows only when something is written. So once commits
//! have failed twice in a row, reaching it again is not believed for [`DOUBT`], and the first request that gets through
//! then is the proof. What waits on the broker meanwhile is tried again by every new term, and renews the doubt as long
//! as it fails.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How long a journal is doubted that was reached after it failed repeatedly.
const DOUBT: Duration = Duration::from_secs(3);
/// Failures without a success between them after which it is doubted.
const FAILURES_BELIEVED: u32 = 2;

#[derive(Debug, Default)]
pub(crate) struct JournalHealth(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    /// Commits that failed since the last one that took requests.
    failures: u32,
    trouble: Option<Trouble>,
}

#[derive(Debug)]
struct Trouble {
    cause: String,
    /// `None` until the journal is reached again.
    until: Option<Instant>,
}

impl JournalHealth {
    /// It could not be reached, or this executor could not lead on it. Whether that is news: until it is well again the
    /// same cause is not.
    pub(crate) fn missed(&self, cause: String) -> bool {
        let mut is_news = true;
        self.change(|seen| {
            is_news = seen.trouble.as_ref().is_none_or(|trouble| trouble.cause != cause);
            seen.trouble = Some(Trouble { cause, until: None });
        });
        is_news
    }

    /// A commit failed.
    pub(crate) fn failed(&self, cause: String) {
        self.change(|seen| {
            seen.failures += 1;
            seen.trouble = Some(Trouble { cause, until: None });
        });
    }

    /// It answers, and an executor can lead on it.
    pub(crate) fn reached(&self, now: Instant) {
        self.change(|seen| {
            let doubted = seen.failures >= FAILURES_BELIEVED;
            seen.trouble = seen.trouble.take().filter(|_| doubted).map(|it| Trouble { until: Some(now + DOUBT), ..it });
        });
    }

    /// It took requests.
    pub(crate) fn proved(&self) {
        self.change(|seen| *seen = Seen::default());
    }

    /// Commits that failed since the last one that took requests.
    pub(crate) fn failures(&self) -> u32 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).failures
    }

    /// Why it should not be relied on, if so.
    pub(crate) fn trouble(&self, now: Instant) -> Option<String> {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let trouble = seen.trouble.as_ref().filter(|trouble| trouble.until.is_none_or(|until| now < until));
        trouble.map(|trouble| trouble.cause.clone())
    }

    fn change(&self, change: impl FnOnce(&mut Seen)) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let was_well = seen.trouble.is_none();
        change(&mut seen);
        let is_well = seen.trouble.is_none();
        drop(seen);
        if is_well && !was_well {
            tracing::info!("the journal is well again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_that_was_away_is_believed_as_soon_as_it_is_reached() {
        let (condition, now) = (JournalHealth::default(), Instant::now());
        assert_eq!(condition.trouble(now), None);
        assert!(condition.missed("away".to_owned()));
        assert!(!condition.missed("away".to_owned()), "said once");
        assert!(condition.missed("read-only".to_owned()), "that is another trouble");
        assert!(condition.missed("away".to_owned()));
        assert_eq!(condition.trouble(now + 10 * DOUBT), Some("away".to_owned()));
        condition.reached(now);
        assert_eq!(condition.trouble(now), None);
        condition.failed("cut".to_owned());
        assert_eq!(condition.trouble(now), Some("cut".to_owned()));
        condition.reached(now);
        assert_eq!(condition.trouble(now), None, "one connection that breaks is no habit");
    }

    #[test]
    fn a_journal_that_fails_whenever_it_is_reached_is_doubted_until_it_takes_something() {
        let (condition, now) = (JournalHealth::default(), Instant::now());
        for _ in 0..FAILURES_BELIEVED {
            condition.reached(now);
            condition.failed("full".to_owned());
        }
        condition.reached(now);
        assert_eq!(condition.trouble(now), Some("full".to_owned()));
        assert_eq!(condition.trouble(now + DOUBT), None, "somebody has to try it");
        condition.failed("full".to_owned());
        condition.reached(now);
        assert!(condition.trouble(now).is_some());
        condition.proved();
        assert_eq!(condition.trouble(now), None);
        condition.failed("full".to_owned());
        condition.reached(now);
        assert_eq!(condition.trouble(now), None, "the count began anew");
    }
}
