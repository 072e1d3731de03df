//! The effects of an operator's policies on the broker's queues, found by what becomes of messages of the leader's own.
//!
//! RabbitMQ shows no client which policy a queue has, and a policy beats the queue's own arguments: a policy on `.*`
//! may let confirmed requests expire, drop or dead-letter them. So a leader keeps canary queues beside the real ones,
//! of their kind and prefix, and looks for losses there. It finds a time to live of up to [`WINDOW`] checks, within
//! that time; a policy on the name of a single queue shows in no other. Not here: the policy that cures it (`slotline
//! rabbitmq definitions`).

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use slotline_broker::topology::{Overflow, Queue};
use slotline_broker::{Broker, Error, Publication, PublishError, Session, Topology};
use slotline_protocol::chain;

/// How often the canaries are looked at.
const CHECK_EVERY: Duration = Duration::from_secs(60);
/// How long after the beginning of a leadership the first look comes: a take-over comes first.
const START_AFTER: Duration = Duration::from_secs(5);
/// How long after the first look the second comes: what expires within seconds is found at the start.
const CHECK_FIRST: Duration = Duration::from_secs(3);
/// Messages that grow old together: one for each check, so that the oldest is two hours old.
const WINDOW: u64 = 120;
/// How often a message comes back in a try of the delivery limit: more than the 20 that RabbitMQ 4 has by default.
const RETURNS: usize = 25;
/// A quorum queue refuses some publications after it is full, not the first one past it.
const OVERFLOWS: usize = 20;
/// The cure, part of every finding.
const CURE: &str = "give the queues a policy of their own that ranks above it, as `slotline rabbitmq definitions` does";

/// The last findings, for `/readyz?verbose`.
#[derive(Debug, Default)]
pub(crate) struct Findings(Mutex<Vec<String>>);

impl Findings {
    pub(crate) fn get(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, found: Vec<String>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for finding in found.iter().filter(|finding| !known.contains(finding)) {
            tracing::warn!("{finding}; {CURE}");
        }
        if found.is_empty() && !known.is_empty() {
            tracing::info!("the policies on the broker are harmless again");
        }
        *known = found;
    }
}

/// Watches for as long as the task lives, through sessions of its own: what goes wrong with a canary harms no leader.
pub(crate) async fn watch(broker: Broker, name: String, findings: Arc<Findings>) {
    if !broker.has_policies() {
        return;
    }
    loop {
        tokio::time::sleep(START_AFTER).await;
        match broker.open(&format!("{name} policies")).await {
            Ok(session) => {
                let error = Canaries::new(session.clone(), broker.prefix()).watch(&findings).await;
                tracing::debug!(?error, "the policies on the broker can't be looked at");
                session.close().await;
            }
            Err(error) => tracing::debug!(error = %chain(&error), "the policies on the broker can't be looked at"),
        }
        tokio::time::sleep(CHECK_EVERY).await;
    }
}

struct Canaries {
    session: Session,
    /// Where messages grow old.
    aging: Queue,
    /// Full with one message, and refuses further ones.
    full: Queue,
    /// No process reads it.
    unused: Queue,
}

impl Canaries {
    fn new(session: Session, prefix: &str) -> Self {
        let quorum = |what: &str| Queue::quorum(format!("{prefix}.canary.{what}"));
        Self {
            session,
            aging: quorum("aging"),
            full: quorum("full").bounded(1, Overflow::RejectPublish),
            unused: quorum("unused").bounded(1, Overflow::DropHead),
        }
    }

    async fn watch(&self, findings: &Findings) -> Result<Infallible, Error> {
        for queue in [&self.aging, &self.full] {
            // The messages of an earlier leader do not show when they came.
            self.session.delete_queue(&queue.name).await?;
        }
        self.declare([&self.aging, &self.full, &self.unused]).await?;
        let mut published = 0;
        self.age(&mut published).await;
        let limits = self.limits().await?;
        findings.set(limits.clone());
        tokio::time::sleep(CHECK_FIRST).await;
        loop {
            let mut found = limits.clone();
            found.extend(self.expired_messages(&mut published).await?);
            found.extend(self.expired_queue().await?);
            findings.set(found);
            self.age(&mut published).await;
            tokio::time::sleep(CHECK_EVERY).await;
        }
    }

    async fn declare(&self, queues: impl IntoIterator<Item = &Queue>) -> Result<(), Error> {
        let topology = Topology { queues: queues.into_iter().cloned().collect(), ..Topology::default() };
        self.session.declare(&topology).await
    }

    async fn publish(&self, queue: &Queue) -> Result<(), PublishError> {
        let (routing_key, body) = (queue.name.clone(), "canary".into());
        let publication =
            Publication { routing_key, body, mandatory: true, persistent: true, ..Publication::default() };
        self.session.publish(publication).await
    }

    /// Adds a message to those that grow old; beyond the window the oldest goes.
    async fn age(&self, published: &mut u64) {
        if self.publish(&self.aging).await.is_ok() {
            *published += 1;
        }
        if *published > WINDOW
            && let Ok(oldest) = self.session.browse(&self.aging.name, 1).await
            && let Some(delivery) = oldest.deliveries.first()
        {
            oldest.ack(delivery.tag);
            if oldest.close().await.is_ok() {
                *published -= 1;
            }
        }
    }

    async fn expired_messages(&self, published: &mut u64) -> Result<Option<String>, Error> {
        let left = match self.session.depth(&self.aging.name).await {
            Ok(left) => left,
            Err(Error::Missing(_)) => {
                self.declare([&self.aging]).await?;
                0
            }
            Err(error) => return Err(error),
        };
        let lost = published.saturating_sub(left);
        *published = left;
        Ok((lost > 0).then(|| {
            format!(
                "requests are lost while they wait: {lost} message(s) are gone from {}, none of which was read (a policy with \
                 message-ttl, expires, or max-length that drops the oldest)",
                self.aging.name
            )
        }))
    }

    async fn expired_queue(&self) -> Result<Option<String>, Error> {
        if self.publish(&self.unused).await != Err(PublishError::Returned) {
            return Ok(None);
        }
        self.declare([&self.unused]).await?;
        Ok(Some(format!(
            "queues are deleted while no process reads them, with all that waits: {} is gone (a policy with expires)",
            self.unused.name
        )))
    }

    /// What can be found out at once.
    async fn limits(&self) -> Result<Vec<String>, Error> {
        let mut found = Vec::new();
        let mut refused = false;
        for _ in 0..OVERFLOWS {
            refused |= self.publish(&self.full).await == Err(PublishError::Nacked);
            if refused {
                break;
            }
        }
        if !refused {
            found.push(format!(
                "full queues drop what they have confirmed: {} took {OVERFLOWS} messages where it has room for 1 (a policy \
                 with overflow: drop-head)",
                self.full.name
            ));
        }
        for _ in 0..RETURNS {
            let looked_at = self.session.browse(&self.full.name, 1).await?;
            if looked_at.deliveries.is_empty() {
                found.push(format!(
                    "requests are put aside after a few fail-overs: a message of {} did not come back {RETURNS} times (a \
                     policy with delivery-limit)",
                    self.full.name
                ));
                break;
            }
            looked_at.close().await?;
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spawn(session: &Session, findings: &Arc<Findings>) -> tokio::task::JoinHandle<()> {
        let (session, findings) = (session.clone(), findings.clone());
        tokio::spawn(async move {
            let _ = Canaries::new(session, "p").watch(&findings).await;
        })
    }

    #[tokio::test(start_paused = true)]
    async fn a_broker_without_policies_gives_no_finding_for_hours() -> anyhow::Result<()> {
        let broker = Broker::memory("p");
        let session = broker.open("test").await?;
        let findings = Arc::new(Findings::default());
        let watching = spawn(&session, &findings);
        tokio::time::sleep(CHECK_EVERY * 300).await;
        assert_eq!(findings.get(), [] as [String; 0]);
        assert!(session.depth("p.canary.aging").await? <= WINDOW + 1);
        assert!(!watching.is_finished());
        Ok(())
    }

    #[tokio::test(start_paused = true)]
    async fn what_vanishes_is_found_and_said_until_it_stays() -> anyhow::Result<()> {
        let broker = Broker::memory("p");
        let session = broker.open("test").await?;
        let findings = Arc::new(Findings::default());
        let _watching = spawn(&session, &findings);
        tokio::time::sleep(CHECK_EVERY * 3).await;
        // The effect of a time to live.
        let taken = session.browse("p.canary.aging", 2).await?;
        taken.deliveries.iter().for_each(|delivery| taken.ack(delivery.tag));
        taken.close().await?;
        session.delete_queue("p.canary.unused").await?;
        tokio::time::sleep(CHECK_EVERY).await;
        let found = findings.get();
        assert!(found.len() == 2 && found[0].contains("2 message(s)") && found[1].contains("expires"), "{found:?}");
        tokio::time::sleep(CHECK_EVERY).await;
        assert_eq!(findings.get(), [] as [String; 0]);
        Ok(())
    }
}
