//! One session on a broker: declare, publish, consume, until anything fails.

use std::fmt;
use std::sync::Arc;

use slotline_protocol::Sizes;

use crate::consumer::{BrowserChannel, ConsumerChannel};
use crate::over::Over;
use crate::topology::Binding;
use crate::{Browser, Consume, Consumer, Delivery, Error, Publication, Receipt, Topology, memory, rabbit};

/// RabbitMQ versions in which the single active consumer of a quorum queue can stall for ever after a consumer
/// time-out.
const STALLING_VERSIONS: std::ops::RangeInclusive<(u32, u32, u32)> = (4, 3, 0)..=(4, 3, 5);
/// The oldest RabbitMQ that supports the arguments of the declares.
const OLDEST_VERSION: (u32, u32, u32) = (3, 10, 0);

/// A handle to one session. It ends when it is closed, when all handles and consumers are dropped, or with the first
/// error; it is never repaired.
#[derive(Clone)]
pub struct Session {
    generation: u64,
    over: Arc<Over>,
    backend: SessionBackend,
}

#[derive(Clone)]
pub(crate) enum SessionBackend {
    Rabbit(Arc<rabbit::Session>),
    Memory(Arc<memory::Session>),
}

impl Session {
    pub(crate) fn new(generation: u64, over: Arc<Over>, backend: SessionBackend) -> Self {
        Self { generation, over, backend }
    }

    /// Unique in this process and rising.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Makes sure that all of `topology` exists. Idempotent. An error ends the session.
    pub async fn declare(&self, topology: &Topology) -> Result<(), Error> {
        match &self.backend {
            SessionBackend::Rabbit(session) => session.declare(topology).await,
            SessionBackend::Memory(session) => session.declare(topology),
        }
    }

    /// Makes sure that none of `bindings` exists. It needs no queue to answer, so it works while the node of one is
    /// away. A refusal does not end the session.
    pub async fn unbind(&self, bindings: &[Binding]) -> Result<(), Error> {
        match &self.backend {
            SessionBackend::Rabbit(session) => session.unbind(bindings).await,
            SessionBackend::Memory(session) => session.unbind(bindings),
        }
    }

    /// Takes the messages in the queue of an earlier session, which no session will read any more, and deletes the
    /// queue. Returns none if the queue does not exist or its node is away. Takes a short while at most.
    pub async fn salvage(&self, queue: &str) -> Vec<Delivery> {
        match &self.backend {
            SessionBackend::Rabbit(session) => session.salvage(queue).await,
            SessionBackend::Memory(session) => session.salvage(queue).unwrap_or_default(),
        }
    }

    /// Consumes `queue` on a channel of its own. An error ends the session.
    pub async fn consume(&self, queue: &str, options: Consume) -> Result<Consumer, Error> {
        let channel = match &self.backend {
            SessionBackend::Rabbit(session) => ConsumerChannel::Rabbit(session.consume(queue, options).await?),
            SessionBackend::Memory(session) => ConsumerChannel::Memory(session.consume(queue, options)?),
        };
        Ok(Consumer::new(channel, self.clone()))
    }

    /// Sends a message. Never waits; messages go out in the order of the calls.
    pub fn publish(&self, publication: Publication) -> Receipt {
        match &self.backend {
            SessionBackend::Rabbit(session) => session.publish(publication),
            SessionBackend::Memory(session) => session.publish(publication),
        }
    }

    /// Takes up to `max` ready messages of `queue` to look at.
    pub async fn browse(&self, queue: &str, max: usize) -> Result<Browser, Error> {
        Ok(match &self.backend {
            SessionBackend::Rabbit(session) => {
                let (deliveries, browser) = session.browse(queue, max).await?;
                Browser::new(deliveries, BrowserChannel::Rabbit(browser), self.clone())
            }
            SessionBackend::Memory(session) => {
                let (deliveries, browser) = session.browse(queue, max)?;
                Browser::new(deliveries, BrowserChannel::Memory(browser), self.clone())
            }
        })
    }

    /// How many messages of `queue` are ready, that is, not delivered to a consumer yet.
    pub async fn depth(&self, queue: &str) -> Result<u64, Error> {
        match &self.backend {
            SessionBackend::Rabbit(session) => session.depth(queue).await,
            SessionBackend::Memory(session) => session.depth(queue),
        }
    }

    /// Deletes `queue` with all that is in it, whether it exists or not. Sessions that consume it end.
    pub async fn delete_queue(&self, queue: &str) -> Result<(), Error> {
        match &self.backend {
            SessionBackend::Rabbit(session) => session.delete_queue(queue).await,
            SessionBackend::Memory(session) => session.delete_queue(queue),
        }
    }

    /// Resolves when the session is over, with the cause. If RabbitMQ cancels a consumer, that shows only to a task
    /// that waits for its next delivery. Cancel-safe.
    pub async fn ended(&self) -> Error {
        self.over.wait().await
    }

    pub fn is_over(&self) -> bool {
        self.over.is_over()
    }

    /// Ends the session in order: waits a little for outstanding confirms, lets acks arrive, and gives the unacked
    /// back in place. Publications from now on get `SessionEnded`.
    pub async fn close(&self) {
        match &self.backend {
            SessionBackend::Rabbit(session) => session.close().await,
            SessionBackend::Memory(session) => session.end(Error::Closed),
        }
    }

    /// The most bytes that the broker takes in one message. A larger one gets [`PublishError::TooLarge`](crate::PublishError)
    /// and is not sent, since RabbitMQ would end the session for it.
    pub fn sizes(&self) -> Sizes {
        let most = match &self.backend {
            SessionBackend::Rabbit(session) => session.message_bytes_max(),
            SessionBackend::Memory(session) => session.message_bytes_max(),
        };
        // No session is opened on a broker that takes too little.
        Sizes::of(most).unwrap_or(Sizes::FULL)
    }

    /// Whether the broker makes publishers wait, because it is short of memory or disk.
    pub fn is_blocked(&self) -> bool {
        match &self.backend {
            SessionBackend::Rabbit(session) => session.is_blocked(),
            SessionBackend::Memory(session) => session.is_blocked(),
        }
    }

    /// The version of RabbitMQ, if it could be read.
    pub fn server_version(&self) -> Option<String> {
        match &self.backend {
            SessionBackend::Rabbit(session) => session.server_version(),
            SessionBackend::Memory(_) => None,
        }
    }

    /// Whether the broker is inside this process: no message in it, and no process that uses it, is older than this
    /// one.
    pub fn is_private(&self) -> bool {
        matches!(self.backend, SessionBackend::Memory(_))
    }

    /// Problems of this broker, in sentences for an operator; empty if there are none.
    pub fn findings(&self) -> Vec<String> {
        let mut findings: Vec<String> = self.server_version().as_deref().and_then(unfit).into_iter().collect();
        if self.is_blocked() {
            findings.push("the broker blocks publishers: an alarm for memory or disk is on".to_owned());
        }
        findings.extend(limits(self.sizes()));
        findings
    }
}

fn limits(sizes: Sizes) -> Option<String> {
    (sizes.message() < Sizes::MESSAGE_FULL).then(|| {
        format!(
            "the broker takes messages of {} bytes at most: requests may have {}, and results {} (max_message_size in \
             rabbitmq.conf; from {} on it limits nothing)",
            sizes.message(),
            sizes.request(),
            sizes.outcome(),
            Sizes::MESSAGE_FULL
        )
    })
}

fn unfit(version: &str) -> Option<String> {
    let mut parts = version.split(['.', '-', '+']).map(|part| part.parse::<u32>().ok());
    let numbers = (parts.next()??, parts.next()??, parts.next()??);
    if STALLING_VERSIONS.contains(&numbers) {
        return Some(format!(
            "RabbitMQ {version} can stall the requests queue for ever (rabbitmq-server#17317): upgrade past 4.3.5"
        ));
    }
    (numbers < OLDEST_VERSION).then(|| format!("RabbitMQ {version} is too old: 3.10 or newer is needed"))
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("generation", &self.generation)
            .field("over", &self.over.cause())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_that_stall_or_are_too_old_are_named() {
        for version in ["4.3.0", "4.3.5", "3.9.29", "3.8.0-rc.1"] {
            assert!(unfit(version).expect(version).contains(version));
        }
        for version in ["3.10.8", "3.13.7", "4.2.1", "4.3.6", "4.4.0", "5.0.0-beta.1", "unknown"] {
            assert_eq!(unfit(version), None, "{version}");
        }
    }
}
