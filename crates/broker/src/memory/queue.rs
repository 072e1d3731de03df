//! One queue: its ready messages, its consumers, and the messages that these have not acked.
//!
//! Invariant: a message is either ready or unacked by exactly one consumer, and `ready` ascends by position, so that a
//! message that is given back comes again in its old place. Not here: routing (`route`), sessions and waking
//! (`memory`).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::consumer::{Delivery, Tag};
use crate::topology::{self, Overflow};
use crate::{Consume, Publication};

pub(super) struct MessageQueue {
    pub(super) settings: topology::Queue,
    ready: VecDeque<QueuedMessage>,
    next_position: u64,
    consumers: Vec<QueueConsumer>,
    /// The consumer that gets the next message, if it has room.
    turn: usize,
    /// The consumer that is served, if only one is.
    active: Option<u64>,
    /// Since when it has no consumer.
    unused_since: Instant,
}

/// A message and its place in the queue.
struct QueuedMessage {
    position: u64,
    redelivered: bool,
    message: Arc<Publication>,
}

struct QueueConsumer {
    id: u64,
    /// `None`: a browser, which gets nothing by itself.
    consume: Option<Consume>,
    /// By tag. Those past `handed` wait to be fetched.
    unacked: BTreeMap<u64, QueuedMessage>,
    next_tag: u64,
    /// The newest tag that was fetched.
    handed: u64,
    wake: Arc<Notify>,
}

impl QueueConsumer {
    fn has_room(&self) -> bool {
        self.consume.is_some_and(|consume| consume.prefetch == 0 || self.unacked.len() < usize::from(consume.prefetch))
    }

    fn take(&mut self, held: QueuedMessage) {
        self.unacked.insert(self.next_tag, held);
        self.next_tag += 1;
    }
}

/// The queue is full and refuses the message.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct QueueFull;

/// No delivery with this tag is unacked.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct UnknownTag;

impl MessageQueue {
    pub(super) fn new(settings: topology::Queue, now: Instant) -> Self {
        Self {
            settings,
            ready: VecDeque::new(),
            next_position: 0,
            consumers: Vec::new(),
            turn: 0,
            active: None,
            unused_since: now,
        }
    }

    pub(super) fn is_expired(&self, now: Instant) -> bool {
        self.consumers.is_empty() && self.settings.expires.is_some_and(|expires| now >= self.unused_since + expires)
    }

    /// A declare counts as use.
    pub(super) fn touch(&mut self, now: Instant) {
        self.unused_since = now;
    }

    pub(super) fn depth(&self) -> usize {
        self.ready.len()
    }

    /// Adds a message at the end.
    pub(super) fn push(&mut self, message: Arc<Publication>) -> Result<(), QueueFull> {
        let max = self.settings.max_length.map_or(usize::MAX, |max| max as usize);
        if self.settings.overflow == Overflow::RejectPublish && self.ready.len() >= max {
            return Err(QueueFull);
        }
        self.ready.push_back(QueuedMessage { position: self.next_position, redelivered: false, message });
        self.next_position += 1;
        self.deliver();
        while self.ready.len() > max || self.is_too_large() {
            self.ready.pop_front();
        }
        Ok(())
    }

    /// Counted anew each time, since few queues have such a limit and little waits in them.
    fn is_too_large(&self) -> bool {
        let Some(max) = self.settings.max_bytes else { return false };
        self.ready.iter().map(|held| held.message.body.len() as u64).sum::<u64>() > max
    }

    /// Adds a consumer; `wake` is notified when there is something to fetch for it.
    pub(super) fn subscribe(&mut self, id: u64, consume: Option<Consume>, wake: Arc<Notify>) {
        self.consumers.push(QueueConsumer { id, consume, unacked: BTreeMap::new(), next_tag: 1, handed: 0, wake });
        self.deliver();
    }

    /// Removes a consumer, and takes back in place what it had not acked.
    pub(super) fn unsubscribe(&mut self, id: u64, now: Instant) {
        let Some(at) = self.consumers.iter().position(|consumer| consumer.id == id) else { return };
        let consumer = self.consumers.remove(at);
        self.unused_since = now;
        // Backwards, so that each insertion is close to the front.
        for (_, held) in consumer.unacked.into_iter().rev() {
            let place = self.ready.partition_point(|ready| ready.position < held.position);
            self.ready.insert(place, QueuedMessage { redelivered: true, ..held });
        }
        consumer.wake.notify_one();
        self.deliver();
    }

    /// Gives the next `max` ready messages to a browser.
    pub(super) fn look(&mut self, id: u64, max: usize) {
        let Some(consumer) = self.consumers.iter_mut().find(|consumer| consumer.id == id) else { return };
        for held in self.ready.drain(..max.min(self.ready.len())) {
            consumer.take(held);
        }
    }

    /// Moves what waits for consumer `id` into `into`; `false` if there is no such consumer any more.
    pub(super) fn fetch(&mut self, id: u64, into: &mut Vec<Delivery>, max: usize) -> bool {
        let Some(consumer) = self.consumers.iter_mut().find(|consumer| consumer.id == id) else { return false };
        for (&number, held) in consumer.unacked.range(consumer.handed + 1..).take(max) {
            consumer.handed = number;
            into.push(Delivery {
                tag: Tag { channel: id, number },
                routing_key: held.message.routing_key.clone(),
                exchange: held.message.exchange.clone(),
                body: held.message.body.clone(),
                properties: held.message.properties.clone(),
                redelivered: held.redelivered,
            });
        }
        true
    }

    /// Removes a delivery, or with `multiple` all up to it.
    pub(super) fn ack(&mut self, id: u64, number: u64, multiple: bool) -> Result<(), UnknownTag> {
        // A consumer that is gone has given back its deliveries; its acks come too late, which is no error.
        let Some(consumer) = self.consumers.iter_mut().find(|consumer| consumer.id == id) else { return Ok(()) };
        if number > consumer.handed || consumer.unacked.remove(&number).is_none() {
            return Err(UnknownTag);
        }
        if multiple {
            consumer.unacked = consumer.unacked.split_off(&number);
        }
        self.deliver();
        Ok(())
    }

    /// The consumers that lose their queue when it is deleted.
    pub(super) fn consumers(&self) -> impl Iterator<Item = u64> {
        self.consumers.iter().map(|consumer| consumer.id)
    }

    /// Gives ready messages to consumers with room.
    fn deliver(&mut self) {
        while !self.ready.is_empty()
            && let Some(at) = self.next_consumer()
        {
            let consumer = &mut self.consumers[at];
            consumer.take(self.ready.pop_front().expect("checked by the loop"));
            consumer.wake.notify_one();
        }
    }

    fn next_consumer(&mut self) -> Option<usize> {
        if self.settings.single_active_consumer {
            let at = self.active_consumer()?;
            return self.consumers[at].has_room().then_some(at);
        }
        let count = self.consumers.len();
        let at = (self.turn..self.turn + count).map(|turn| turn % count).find(|&at| self.consumers[at].has_room())?;
        self.turn = at + 1;
        Some(at)
    }

    /// The consumer that is served: the first that came, for as long as it is there.
    fn active_consumer(&mut self) -> Option<usize> {
        let active = self.consumers.iter().position(|consumer| Some(consumer.id) == self.active);
        let first = || self.consumers.iter().position(|consumer| consumer.consume.is_some());
        let at = active.or_else(first)?;
        self.active = Some(self.consumers[at].id);
        Some(at)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn queue(settings: topology::Queue) -> MessageQueue {
        MessageQueue::new(settings, Instant::now())
    }

    fn push(queue: &mut MessageQueue, bodies: &[&'static str]) {
        for body in bodies {
            let message = Publication { body: (*body).into(), ..Publication::default() };
            queue.push(Arc::new(message)).expect("the queue has room");
        }
    }

    fn subscribe(queue: &mut MessageQueue, id: u64, prefetch: u16) {
        queue.subscribe(id, Some(Consume { prefetch }), Arc::new(Notify::new()));
    }

    fn fetch(queue: &mut MessageQueue, id: u64) -> Vec<(String, bool)> {
        let mut deliveries = Vec::new();
        queue.fetch(id, &mut deliveries, usize::MAX);
        deliveries
            .into_iter()
            .map(|delivery| (String::from_utf8_lossy(&delivery.body).into_owned(), delivery.redelivered))
            .collect()
    }

    fn bodies(queue: &mut MessageQueue, id: u64) -> Vec<String> {
        fetch(queue, id).into_iter().map(|(body, _)| body).collect()
    }

    #[test]
    fn consumers_take_turns() {
        let mut queue = queue(topology::Queue::classic("q".into()));
        subscribe(&mut queue, 1, 10);
        subscribe(&mut queue, 2, 10);
        push(&mut queue, &["a", "b", "c", "d"]);
        assert_eq!(bodies(&mut queue, 1), ["a", "c"]);
        assert_eq!(bodies(&mut queue, 2), ["b", "d"]);
    }

    #[test]
    fn what_two_consumers_give_back_is_in_its_old_order() {
        let mut queue = queue(topology::Queue::classic("q".into()));
        subscribe(&mut queue, 1, 2);
        subscribe(&mut queue, 2, 2);
        push(&mut queue, &["a", "b", "c", "d", "e"]);
        queue.unsubscribe(2, Instant::now());
        queue.unsubscribe(1, Instant::now());
        subscribe(&mut queue, 3, 10);
        let again = fetch(&mut queue, 3);
        let (bodies, redelivered): (Vec<_>, Vec<_>) = again.into_iter().unzip();
        assert_eq!(bodies, ["a", "b", "c", "d", "e"]);
        assert_eq!(redelivered, [true, true, true, true, false]);
    }

    #[test]
    fn a_queue_expires_only_without_a_consumer() {
        let mut queue = queue(topology::Queue::classic("q".into()).expiring(Duration::from_secs(60)));
        let start = Instant::now();
        subscribe(&mut queue, 1, 1);
        assert!(!queue.is_expired(start + Duration::from_secs(3600)));
        queue.unsubscribe(1, start + Duration::from_secs(3600));
        assert!(!queue.is_expired(start + Duration::from_secs(3659)));
        assert!(queue.is_expired(start + Duration::from_secs(3660)));
    }

    #[test]
    fn only_what_was_handed_out_and_not_acked_can_be_acked() {
        let mut queue = queue(topology::Queue::classic("q".into()));
        subscribe(&mut queue, 1, 10);
        push(&mut queue, &["a", "b", "c"]);
        assert_eq!(queue.ack(1, 1, false), Err(UnknownTag));
        assert_eq!(bodies(&mut queue, 1).len(), 3);
        assert_eq!(queue.ack(1, 2, true), Ok(()));
        assert_eq!(queue.ack(1, 1, false), Err(UnknownTag));
        assert_eq!(queue.ack(1, 3, false), Ok(()));
        assert_eq!(queue.ack(7, 3, false), Ok(()));
    }
}
