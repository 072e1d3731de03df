//! The owner of a process's session, which opens the next one when it ends.

use std::time::Duration;

use tokio::time::Instant;

use crate::{Broker, Error, Session};

/// The first pause after a failure; doubled with each further one.
const PAUSE: Duration = Duration::from_millis(100);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// A session that lasted so long, or was closed on purpose, was a good one: the next failure counts as the first.
const STEADY: Duration = Duration::from_secs(5);

/// Opens session after session, for ever.
#[derive(Debug)]
pub struct Supervisor {
    broker: Broker,
    name: String,
    /// Failures in a row: sessions that could not be opened or did not last.
    failures: u32,
    not_before: Option<Instant>,
    /// Sessions that the broker has accepted of this process.
    opened: u64,
    current: Option<(Session, Instant)>,
}

impl Supervisor {
    /// `name` shows in RabbitMQ's list of connections.
    pub fn new(broker: Broker, name: &str) -> Self {
        Self { broker, name: name.to_owned(), failures: 0, not_before: None, opened: 0, current: None }
    }

    pub fn broker(&self) -> &Broker {
        &self.broker
    }

    /// The next session. The one before is closed if it is not over. Waits until the broker can be reached, with growing,
    /// jittered pauses. Cancel-safe.
    pub async fn next(&mut self) -> Session {
        self.end_current().await;
        loop {
            match self.try_open().await {
                Ok(session) => return session,
                Err(error) => self.put_off(&error),
            }
        }
    }

    /// As [`Supervisor::next`], but fails if the broker denies the first session: nothing runs yet that could be lost,
    /// and only a person can fix it. A process that was accepted before keeps trying, also while its user is denied.
    pub async fn next_unless_denied(&mut self) -> Result<Session, Error> {
        self.end_current().await;
        loop {
            match self.try_open().await {
                Ok(session) => return Ok(session),
                Err(error @ Error::Denied { .. }) if self.opened == 0 => return Err(error),
                Err(error) => self.put_off(&error),
            }
        }
    }

    /// Whether `error`, with which a session of this process failed before it could be used, ends the process: what a
    /// first session may not do only a person can mend; a later one may meet a broker whose rights are being restored.
    pub fn is_final(&self, error: &Error) -> bool {
        self.opened == 1 && matches!(error, Error::NoRight(_))
    }

    async fn end_current(&mut self) {
        if let Some((previous, opened)) = &self.current {
            previous.close().await;
            let cause = previous.ended().await;
            let lasted = opened.elapsed();
            if cause == Error::Closed {
                tracing::debug!(session.generation = previous.generation(), "the broker session was closed");
            } else {
                tracing::warn!(session.generation = previous.generation(), "the broker session is over: {cause}");
            }
            if lasted >= STEADY || cause == Error::Closed {
                self.failures = 0;
            }
            self.pause();
            self.current = None;
        }
    }

    /// Tries once, after the pause.
    async fn try_open(&mut self) -> Result<Session, Error> {
        if let Some(at) = self.not_before {
            tokio::time::sleep_until(at).await;
        }
        let session = self.broker.open(&self.name).await?;
        let endpoint = self.broker.endpoint();
        tracing::info!(
            session.generation = session.generation(),
            broker.endpoint = endpoint,
            "connected to the broker"
        );
        for finding in session.findings() {
            tracing::warn!(broker.endpoint = endpoint, "{finding}");
        }
        self.opened += 1;
        self.current = Some((session.clone(), Instant::now()));
        Ok(session)
    }

    /// Logs the error and the pause before the next try.
    fn put_off(&mut self, error: &Error) {
        let pause = self.pause();
        tracing::warn!("{error}; trying again in {} ms", pause.as_millis());
    }

    /// Counts a failure, and sets when to try again.
    fn pause(&mut self) -> Duration {
        let longest = PAUSE_MAX.min(PAUSE.saturating_mul(1 << self.failures.min(16)));
        self.failures = self.failures.saturating_add(1);
        let pause = longest.mul_f64(rand::random_range(0.5..=1.0));
        self.not_before = Some(Instant::now() + pause);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_new_session_has_a_higher_generation_and_the_old_one_is_over() {
        let mut supervisor = Supervisor::new(Broker::memory("p"), "test");
        let first = supervisor.next().await;
        let second = supervisor.next().await;
        assert!(second.generation() > first.generation());
        assert_eq!(first.ended().await, Error::Closed);
        assert!(!second.is_over());
    }

    #[tokio::test(start_paused = true)]
    async fn the_broker_is_tried_for_ever_and_found_within_the_longest_pause() {
        let broker = Broker::memory("p");
        let faults = broker.memory_faults().expect("in process");
        faults.refuse_sessions(true);
        let mut supervisor = Supervisor::new(broker, "test");
        // An hour without a broker; the dropped future loses nothing.
        for _ in 0..60 {
            let waiting = tokio::time::timeout(Duration::from_secs(60), supervisor.next()).await;
            assert!(waiting.is_err());
        }
        faults.refuse_sessions(false);
        let session = tokio::time::timeout(PAUSE_MAX, supervisor.next()).await.expect("found");
        assert!(!session.is_over());
    }

    #[tokio::test(start_paused = true)]
    async fn sessions_that_do_not_last_come_slower_and_slower() {
        let broker = Broker::memory("p");
        let faults = broker.memory_faults().expect("in process");
        let mut supervisor = Supervisor::new(broker, "test");
        let mut pauses = Vec::new();
        for _ in 0..10 {
            let start = Instant::now();
            supervisor.next().await;
            pauses.push(start.elapsed());
            faults.end_sessions();
        }
        assert!(pauses[1] <= PAUSE * 2, "{pauses:?}");
        assert!(pauses[9] >= PAUSE_MAX / 2, "{pauses:?}");
    }
}
