//! Answers that come back through the broker, each to its waiter.

use dashmap::DashMap;
use slotline_broker::Delivery;
use tokio::sync::oneshot;

/// The waiters, by correlation id. Many requests are served at once, so many tasks read and write this.
#[derive(Debug, Default)]
pub(crate) struct Replies {
    waiting: DashMap<String, oneshot::Sender<Delivery>>,
}

/// A place among the waiting; given up when dropped.
pub(crate) struct Waiter<'a> {
    replies: &'a Replies,
    correlation_id: String,
    receiver: oneshot::Receiver<Delivery>,
}

impl Replies {
    pub(crate) fn wait_for(&self, correlation_id: String) -> Waiter<'_> {
        let (sender, receiver) = oneshot::channel();
        self.waiting.insert(correlation_id.clone(), sender);
        Waiter { replies: self, correlation_id, receiver }
    }

    /// Gives a reply to its waiter; a reply without a waiter is dropped.
    pub(crate) fn deliver(&self, delivery: Delivery) {
        let Some(correlation_id) = &delivery.properties.correlation_id else { return };
        if let Some((_, waiter)) = self.waiting.remove(correlation_id) {
            drop(waiter.send(delivery));
        }
    }
}

impl Waiter<'_> {
    /// The reply, or `None` if it can never come.
    pub(crate) async fn reply(&mut self) -> Option<Delivery> {
        (&mut self.receiver).await.ok()
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.replies.waiting.remove(&self.correlation_id);
    }
}
