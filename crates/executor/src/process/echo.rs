//! Whether the broker answers: a message that a process sends to itself through it, again and again.
//!
//! A connection may seem well long after the broker has fallen silent. A standby must notice before it leads, and a
//! leader before its workers do.

use std::time::Duration;

use slotline_broker::{Delivery, Error, Properties, Publication, Session};
use tokio::time::{Instant, Interval, MissedTickBehavior};

/// Between two messages.
const EVERY: Duration = Duration::from_secs(2);
/// How long a message may be on its way before the session is given up.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// Its type.
const TYPE: &str = "executor.echo";

pub(crate) struct Echo {
    every: Interval,
    silence_max: Duration,
    unanswered_since: Option<Instant>,
}

impl Echo {
    pub(crate) fn start() -> Self {
        Self::with(EVERY, SILENCE_MAX)
    }

    fn with(every: Duration, silence_max: Duration) -> Self {
        let mut every = tokio::time::interval(every);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { every, silence_max, unanswered_since: None }
    }

    /// Waits until the next is due, and sends it into `queue` unless one is on its way; fails once that has been on its
    /// way for too long. Cancel-safe. Look for arrivals first: a busy process may be late to take them.
    pub(crate) async fn call(&mut self, session: &Session, queue: &str) -> Result<(), Error> {
        self.every.tick().await;
        match self.unanswered_since {
            // Nothing may be published now; the connection's own heartbeats show that the broker lives.
            _ if session.is_blocked() => self.unanswered_since = None,
            Some(since) if since.elapsed() >= self.silence_max => {
                return Err(Error::TimedOut { operation: "echo", after: self.silence_max });
            }
            Some(_) => {}
            None => {
                self.unanswered_since = Some(Instant::now());
                drop(session.publish(itself(queue)));
            }
        }
        Ok(())
    }

    /// Whether this delivery was an echo; if so, the broker answers.
    pub(crate) fn takes(&mut self, delivery: &Delivery) -> bool {
        let is_one = delivery.properties.message_type.as_deref() == Some(TYPE);
        if is_one {
            self.unanswered_since = None;
        }
        is_one
    }
}

fn itself(queue: &str) -> Publication {
    Publication {
        exchange: String::new(),
        routing_key: queue.to_owned(),
        body: bytes::Bytes::new(),
        properties: Properties { message_type: Some(TYPE.to_owned()), ..Properties::default() },
        mandatory: false,
        persistent: false,
    }
}

#[cfg(test)]
mod tests {
    use slotline_broker::topology::Queue;
    use slotline_broker::{Broker, Consume, Topology};

    use super::*;

    #[tokio::test]
    async fn a_broker_that_brings_nothing_back_is_given_up_and_one_that_does_is_not() -> anyhow::Result<()> {
        let session = Broker::memory("p").open("test").await?;
        session.declare(&Topology { queues: vec![Queue::classic("q".to_owned())], ..Topology::default() }).await?;
        let mut consumer = session.consume("q", Consume { prefetch: 100 }).await?;
        let mut echo = Echo::with(Duration::from_millis(1), Duration::from_millis(50));
        for _ in 0..20 {
            echo.call(&session, "q").await?;
            let delivery = consumer.next().await.expect("it came back");
            assert!(echo.takes(&delivery));
        }
        let error = loop {
            if let Err(error) = echo.call(&session, "nowhere").await {
                break error;
            }
        };
        assert!(matches!(error, Error::TimedOut { .. }), "{error}");
        Ok(())
    }
}
