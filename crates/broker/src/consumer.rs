//! Messages coming in: a consumer on a channel of its own, and the acker for those that have been handled.
//!
//! A delivery that is not acked when its consumer ends goes back to its place in the queue; none is ever rejected or
//! requeued by hand. An acker acks on its own channel only, so that no delivery is acked across sessions.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::{Error, Properties, Session, memory, rabbit};

/// How to consume.
///
/// There is no priority (`x-priority`): on RabbitMQ 4.3, a consumer with a higher priority than one that was lost with
/// its node and unacked messages makes the queue forget that it waits for that node, and nothing is delivered ever
/// again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Consume {
    /// How many deliveries may be unacked; the only back-pressure there is.
    pub prefetch: u16,
}

/// Identifies a delivery to its acker. Rises with every delivery of a consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag {
    pub(crate) channel: u64,
    pub(crate) number: u64,
}

impl Tag {
    /// Of a delivery that comes from elsewhere than a [`Consumer`].
    pub fn new(channel: u64, number: u64) -> Self {
        Self { channel, number }
    }

    /// Counts the deliveries of one channel.
    pub fn number(self) -> u64 {
        self.number
    }
}

/// The channel of deliveries that the broker has removed already: they need no ack.
pub(crate) const SETTLED: u64 = 0;

/// A message that came in, to be acked when it has been handled.
#[derive(Clone, Debug)]
pub struct Delivery {
    pub tag: Tag,
    pub routing_key: String,
    pub exchange: String,
    pub body: Bytes,
    pub properties: Properties,
    /// It was delivered before, to this or another consumer, and not acked.
    pub redelivered: bool,
}

/// Receives the messages of one queue. Dropping it gives back what is not acked.
pub struct Consumer {
    /// Deliveries that come first, from the queue of an earlier session.
    ahead: VecDeque<Delivery>,
    channel: ConsumerChannel,
    /// A consumer keeps its session.
    session: Session,
}

#[expect(clippy::large_enum_variant, reason = "consumers are few")]
pub(crate) enum ConsumerChannel {
    Rabbit(rabbit::Consumer),
    Memory(memory::Consumer),
}

impl Consumer {
    pub(crate) fn new(channel: ConsumerChannel, session: Session) -> Self {
        Self { ahead: VecDeque::new(), channel, session }
    }

    /// Gives `deliveries` (see [`Session::salvage`]) before those of its own queue.
    pub fn preceded_by(mut self, deliveries: Vec<Delivery>) -> Self {
        self.ahead = deliveries.into();
        self
    }

    /// The next message; `None` once the session is over. Cancel-safe.
    pub async fn next(&mut self) -> Option<Delivery> {
        let mut one = Vec::with_capacity(1);
        self.next_batch(&mut one, 1).await;
        one.pop()
    }

    /// Waits for a message, then adds what is already there to `into`, at most `max` in all; `false` once the session
    /// is over. Cancel-safe.
    pub async fn next_batch(&mut self, into: &mut Vec<Delivery>, max: usize) -> bool {
        // A queue that is never empty must not keep the other tasks of this thread from running.
        tokio::task::coop::consume_budget().await;
        if !self.ahead.is_empty() {
            let count = self.ahead.len().min(max.max(1));
            into.extend(self.ahead.drain(..count));
            return true;
        }
        match &mut self.channel {
            ConsumerChannel::Rabbit(consumer) => consumer.next_batch(into, max.max(1)).await,
            ConsumerChannel::Memory(consumer) => consumer.next_batch(into, max.max(1)).await,
        }
    }

    pub fn acker(&self) -> Acker {
        Acker(match &self.channel {
            ConsumerChannel::Rabbit(consumer) => AckerOf::Rabbit(consumer.acker()),
            ConsumerChannel::Memory(consumer) => AckerOf::Memory(consumer.acker()),
        })
    }

    /// The session this consumer belongs to.
    pub fn session(&self) -> &Session {
        &self.session
    }
}

impl std::fmt::Debug for Consumer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Consumer").field("session", &self.session).finish_non_exhaustive()
    }
}

/// Acks deliveries of one consumer. To ack twice is a bug and ends the session, as it does on RabbitMQ.
#[derive(Clone)]
pub struct Acker(AckerOf);

#[derive(Clone)]
enum AckerOf {
    Rabbit(rabbit::Acker),
    Memory(memory::Acker),
}

impl Acker {
    /// Lets the broker remove this delivery. If the ack gets lost, the message comes again.
    pub fn ack(&self, tag: Tag) {
        self.settle(tag, false);
    }

    /// The same for this delivery and all before it.
    pub fn ack_up_to(&self, tag: Tag) {
        self.settle(tag, true);
    }

    /// The same for all deliveries after `after`, up to `tag`, and for none before: those may still be in work.
    pub fn ack_between(&self, after: Option<Tag>, tag: Tag) {
        let after = after.map_or(0, |after| after.number);
        for number in after + 1..=tag.number {
            self.settle(Tag { number, ..tag }, false);
        }
    }

    fn settle(&self, tag: Tag, multiple: bool) {
        let channel = match &self.0 {
            AckerOf::Rabbit(acker) => acker.channel(),
            AckerOf::Memory(acker) => acker.channel(),
        };
        if tag.channel == SETTLED {
            return;
        }
        if tag.channel != channel {
            tracing::warn!(?tag, channel, "ignored an ack that belongs to another consumer");
            return;
        }
        match &self.0 {
            AckerOf::Rabbit(acker) => acker.ack(tag.number, multiple),
            AckerOf::Memory(acker) => acker.ack(tag.number, multiple),
        }
    }
}

impl std::fmt::Debug for Acker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Acker")
    }
}

/// Messages read without consuming the queue. What is not acked goes back in place when the browser is closed or
/// dropped.
pub struct Browser {
    pub deliveries: Vec<Delivery>,
    channel: BrowserChannel,
    _session: Session,
}

pub(crate) enum BrowserChannel {
    Rabbit(rabbit::Browser),
    Memory(memory::Browser),
}

impl Browser {
    pub(crate) fn new(deliveries: Vec<Delivery>, channel: BrowserChannel, session: Session) -> Self {
        Self { deliveries, channel, _session: session }
    }

    /// Removes this message from the queue.
    pub fn ack(&self, tag: Tag) {
        match &self.channel {
            BrowserChannel::Rabbit(browser) => browser.acker().ack(tag.number, false),
            BrowserChannel::Memory(browser) => browser.acker().ack(tag.number, false),
        }
    }

    /// Gives the rest back in place. After `Ok` the acks have arrived.
    pub async fn close(self) -> Result<(), Error> {
        match self.channel {
            BrowserChannel::Rabbit(browser) => browser.close().await,
            BrowserChannel::Memory(browser) => browser.close(),
        }
    }
}
