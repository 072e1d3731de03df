//! Consuming and browsing, each on a channel of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::{FutureExt, StreamExt};
use lapin::Channel;
use lapin::options::BasicAckOptions;
use lapin::protocol::constants::REPLY_SUCCESS;

use super::{RUNTIME, wire};
use crate::Error;
use crate::consumer::Delivery;
use crate::over::Over;

/// Numbers of channels are unique across all sessions: RabbitMQ reuses its own.
static NEXT_CHANNEL: AtomicU64 = AtomicU64::new(1);

pub(crate) struct Consumer {
    stream: lapin::Consumer,
    queue: String,
    acker: Acker,
}

impl Consumer {
    pub(super) fn new(stream: lapin::Consumer, channel: Channel, queue: &str, over: Arc<Over>) -> Self {
        Self { stream, queue: queue.to_owned(), acker: Acker::new(channel, over) }
    }

    pub(crate) async fn next_batch(&mut self, into: &mut Vec<Delivery>, max: usize) -> bool {
        let first = tokio::select! {
            biased;
            _ = self.acker.over.wait() => return false,
            first = self.stream.next() => first,
        };
        let mut taken = 0;
        let mut item = Some(first);
        while let Some(next) = item {
            match next {
                Some(Ok(delivery)) => into.push(wire::delivery(delivery, self.acker.id)),
                Some(Err(error)) => {
                    self.acker.over.end(wire::error(&error));
                    break;
                }
                None => {
                    self.acker.over.end(Error::ConsumerCancelled { queue: self.queue.clone() });
                    break;
                }
            }
            taken += 1;
            // Take what lapin has received already.
            item = if taken < max { self.stream.next().now_or_never() } else { None };
        }
        taken > 0
    }

    pub(crate) fn acker(&self) -> Acker {
        self.acker.clone()
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        close_later(self.acker.channel.clone());
    }
}

#[derive(Clone)]
pub(crate) struct Acker {
    channel: Channel,
    id: u64,
    over: Arc<Over>,
}

impl Acker {
    fn new(channel: Channel, over: Arc<Over>) -> Self {
        Self { channel, id: NEXT_CHANNEL.fetch_add(1, Ordering::Relaxed), over }
    }

    pub(crate) fn channel(&self) -> u64 {
        self.id
    }

    pub(crate) fn ack(&self, number: u64, multiple: bool) {
        if self.over.is_over() {
            return;
        }
        // One poll queues the frame; the rest would only wait until it is written. If the channel is gone, the consumer
        // gets the error.
        let _ = self.channel.basic_ack(number, BasicAckOptions { multiple }).now_or_never();
    }
}

pub(crate) struct Browser {
    acker: Acker,
}

impl Browser {
    pub(super) fn new(channel: Channel, over: Arc<Over>) -> Self {
        Self { acker: Acker::new(channel, over) }
    }

    pub(crate) fn acker(&self) -> &Acker {
        &self.acker
    }

    pub(crate) async fn close(self) -> Result<(), Error> {
        let close = self.acker.channel.close(REPLY_SUCCESS, "OK".into());
        super::ask(&self.acker.over, "channel.close", close).await
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        close_later(self.acker.channel.clone());
    }
}

/// Closes a channel, which gives back in place what was not acked.
fn close_later(channel: Channel) {
    if channel.status().connected() {
        RUNTIME.spawn(async move {
            // A channel that is already gone has given back everything.
            let _ = channel.close(REPLY_SUCCESS, "OK".into()).await;
        });
    }
}
