//! How long to wait for an API that does not answer, and how often to try again.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tokio::time::Instant;

use crate::client::Error;

/// How long the API may be away before the wait for it ends with an error. The execution goes on.
const AWAY_MAX: Duration = Duration::from_secs(300);
/// The first pause before the next try; each further one is longer, up to the last, and up to twice as long by chance.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LAST_PAUSE: Duration = Duration::from_secs(1);

/// The pauses between tries, random so that many clients don't all come at once.
pub(crate) struct Backoff(ExponentialBackoff);

impl Backoff {
    pub(crate) fn new() -> Self {
        let pauses = ExponentialBuilder::new().with_min_delay(FIRST_PAUSE).with_max_delay(LAST_PAUSE).with_factor(1.5);
        Self(pauses.with_jitter().without_max_times().build())
    }

    pub(crate) async fn pause(&mut self) {
        tokio::time::sleep(self.0.next().unwrap_or(LAST_PAUSE)).await;
    }
}

/// The time since when the API has not answered, if it does not.
#[derive(Default)]
pub(crate) struct Outage {
    since: Option<Instant>,
}

impl Outage {
    /// The API answered.
    pub(crate) fn end(&mut self) {
        self.since = None;
    }

    /// The API did not answer. Returns the error the first time, to be printed, and then `None`. Fails if another try is of no
    /// use, or after [`AWAY_MAX`].
    pub(crate) fn extend(&mut self, error: Error, now: Instant) -> Result<Option<Error>, Error> {
        if !error.is_passing() {
            return Err(error);
        }
        match self.since {
            None => {
                self.since = Some(now);
                Ok(Some(error))
            }
            Some(since) if now.duration_since(since) < AWAY_MAX => Ok(None),
            Some(_) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn away() -> Error {
        Error::Silent { base: "http://127.0.0.1:7070".parse().expect("a URL") }
    }

    #[test]
    fn an_outage_is_reported_once_and_ends_the_wait_after_its_time() {
        let begun = Instant::now();
        let mut outage = Outage::default();
        assert!(outage.extend(away(), begun).expect("the first").is_some());
        let almost = begun + AWAY_MAX - Duration::from_millis(1);
        assert!(outage.extend(away(), almost).expect("in time").is_none());
        outage.extend(away(), begun + AWAY_MAX).expect_err("too long");
        outage.end();
        assert!(outage.extend(away(), begun + AWAY_MAX).expect("the first again").is_some());
    }

    #[test]
    fn what_will_not_pass_is_not_waited_for() {
        Outage::default().extend(Error::InvalidUrl("x".to_owned()), Instant::now()).expect_err("in vain");
    }

    #[test]
    fn pauses_grow_to_their_bound_and_do_not_end() {
        let pauses: Vec<Duration> = Backoff::new().0.take(100).collect();
        assert_eq!(pauses.len(), 100);
        assert!(pauses[0] < 2 * FIRST_PAUSE + Duration::from_millis(1), "{pauses:?}");
        assert!(pauses.iter().all(|pause| (FIRST_PAUSE..=2 * LAST_PAUSE).contains(pause)), "{pauses:?}");
        assert!(pauses[99] >= LAST_PAUSE, "{pauses:?}");
    }
}
