//! Publications in flight: sent, and waiting for their confirms.
//!
//! lapin does not match a returned message to its confirm: each confirm that it resolves takes the oldest return that
//! waits, and the confirms of one acknowledgement are resolved in no order. So a mandatory publication carries its
//! number in a header, which identifies its return wherever it turns up, and its receipt is settled as not returned
//! only when that is certain. A return precedes its own acknowledgement, hence:
//! - a confirm that took no return found none waiting: its own, if any, was taken by one resolved before;
//! - a confirm that took a return may have left its own to a later one. But once all publications up to this one are
//!   confirmed, as many confirms as returns have taken one, and none of theirs still waits.
//!
//! Wakers keep the order: each publication puts its number into a queue when it is woken, so that with the queue
//! drained, all that was resolved before any confirm seen so far has been seen too.

use std::collections::{BTreeMap, HashSet};
use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use lapin::message::BasicReturnMessage;
use lapin::options::BasicPublishOptions;
use lapin::{BasicProperties, Channel, Confirmation};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::publisher::{Buffer, Outgoing};
use super::refusals::{REFUSED_MAX, RefusedAddresses};
use super::wire;
use crate::{Error, Publication, PublishError};

type Confirming = Pin<Box<dyn Future<Output = lapin::Result<Confirmation>> + Send>>;

/// All publications of one channel that are in flight.
pub(super) struct Flights {
    channel: Arc<Channel>,
    buffer: Arc<Buffer>,
    header_bytes_max: usize,
    next: u64,
    flying: BTreeMap<u64, Flight>,
    /// Confirmed or refused, with the receipt not settled yet.
    landed: Vec<Landing>,
    returned: HashSet<u64>,
    refusals: RefusedAddresses,
    digests: RandomState,
    wake: mpsc::UnboundedSender<u64>,
    woken: mpsc::UnboundedReceiver<u64>,
    /// Woken already, to be polled first.
    pending: Option<u64>,
}

struct Flight {
    confirming: Confirming,
    waker: Waker,
    receipt: BufferedReceipt,
    sent: Instant,
    /// A digest of its exchange and routing key.
    address: u64,
}

struct Landing {
    number: u64,
    result: Result<(), PublishError>,
    /// Its confirm took a return, its own or another's, so that its own may still turn up.
    took_a_return: bool,
    receipt: BufferedReceipt,
}

/// Settles a receipt once, and frees its room in the buffer in any case.
struct BufferedReceipt {
    sender: Option<oneshot::Sender<Result<(), PublishError>>>,
    bytes: usize,
    buffer: Arc<Buffer>,
}

impl BufferedReceipt {
    fn settle(mut self, result: Result<(), PublishError>) {
        if let Some(sender) = self.sender.take() {
            // The receipt may have been dropped.
            let _ = sender.send(result);
        }
    }
}

impl Drop for BufferedReceipt {
    fn drop(&mut self) {
        self.buffer.release(self.bytes);
    }
}

struct NumberWaker {
    number: u64,
    queue: mpsc::UnboundedSender<u64>,
}

impl Wake for NumberWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // The queue is gone only when the flights are.
        let _ = self.queue.send(self.number);
    }
}

impl Flights {
    pub(super) fn new(channel: Channel, header_bytes_max: usize, buffer: Arc<Buffer>) -> Self {
        let (wake, woken) = mpsc::unbounded_channel();
        Self {
            channel: Arc::new(channel),
            buffer,
            header_bytes_max,
            next: 1,
            flying: BTreeMap::new(),
            landed: Vec::new(),
            returned: HashSet::new(),
            refusals: RefusedAddresses::default(),
            digests: RandomState::new(),
            wake,
            woken,
            pending: None,
        }
    }

    /// Puts a publication on the wire, after all that were sent before.
    pub(super) fn send(&mut self, outgoing: Outgoing) -> Result<(), Error> {
        let number = self.next;
        self.next += 1;
        let receipt = BufferedReceipt {
            sender: Some(outgoing.receipt),
            bytes: outgoing.publication.body.len(),
            buffer: Arc::clone(&self.buffer),
        };
        let properties = wire::properties_to_amqp(&outgoing.publication, number, self.header_bytes_max);
        let address = self.digests.hash_one((&outgoing.publication.exchange, &outgoing.publication.routing_key));
        let confirming = Box::pin(carry(Arc::clone(&self.channel), outgoing.publication, properties));
        let waker = Arc::new(NumberWaker { number, queue: self.wake.clone() }).into();
        self.flying.insert(number, Flight { confirming, waker, receipt, sent: Instant::now(), address });
        // The first poll numbers the publication and queues its frames, so it is done at once and in order.
        self.poll_flight(number)
    }

    /// Resolves when there is something to settle. Cancel-safe.
    pub(super) async fn woken(&mut self) {
        if self.pending.is_none() {
            self.pending = self.woken.recv().await;
        }
    }

    /// Polls all that were woken, and settles the receipts that are certain. An error means that the channel is gone.
    pub(super) fn settle(&mut self) -> Result<(), Error> {
        if let Some(number) = self.pending.take() {
            self.poll_flight(number)?;
        }
        while let Ok(number) = self.woken.try_recv() {
            self.poll_flight(number)?;
        }
        let oldest = self.flying.first_key_value().map_or(u64::MAX, |(number, _)| *number);
        let returned = &mut self.returned;
        let is_certain =
            |landed: &mut Landing| !landed.took_a_return || landed.number < oldest || returned.contains(&landed.number);
        for landed in self.landed.extract_if(.., is_certain).collect::<Vec<_>>() {
            let result = if self.returned.remove(&landed.number) { Err(PublishError::Returned) } else { landed.result };
            landed.receipt.settle(result);
        }
        Ok(())
    }

    /// When the oldest publication in flight was sent.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.flying.first_key_value().map(|(_, flight)| flight.sent)
    }

    /// Fails all that are in flight.
    pub(super) fn fail(&mut self, error: PublishError) {
        for flight in std::mem::take(&mut self.flying).into_values() {
            flight.receipt.settle(Err(error));
        }
    }

    fn poll_flight(&mut self, number: u64) -> Result<(), Error> {
        // Woken more than once, it may be confirmed already.
        let Some(flight) = self.flying.get_mut(&number) else { return Ok(()) };
        let confirmation = match flight.confirming.as_mut().poll(&mut Context::from_waker(&flight.waker)) {
            Poll::Pending => return Ok(()),
            Poll::Ready(Ok(confirmation)) => confirmation,
            Poll::Ready(Err(error)) => return Err(wire::error(&error)),
        };
        let (result, returned) = match confirmation {
            Confirmation::Ack(returned) => (Ok(()), returned),
            Confirmation::Nack(returned) => (Err(PublishError::Nacked), returned),
            Confirmation::NotRequested => {
                return Err(Error::Lost("the publishing channel is not in confirm mode".to_owned()));
            }
        };
        self.returned.extend(returned.as_ref().and_then(number_of));
        if let Some(flight) = self.flying.remove(&number) {
            let took_a_return = returned.is_some();
            match result {
                Err(PublishError::Nacked) if self.refusals.refused(flight.address, Instant::now()) => {
                    return Err(Error::RefusedForGood { after: REFUSED_MAX });
                }
                Err(_) => {}
                Ok(()) => self.refusals.taken(flight.address),
            }
            self.landed.push(Landing { number, result, took_a_return, receipt: flight.receipt });
        }
        Ok(())
    }
}

/// Sends one publication and waits for its confirm.
async fn carry(
    channel: Arc<Channel>,
    publication: Publication,
    properties: BasicProperties,
) -> lapin::Result<Confirmation> {
    let options = BasicPublishOptions { mandatory: publication.mandatory, immediate: false };
    let Publication { exchange, routing_key, body, .. } = publication;
    let confirm = channel.basic_publish(exchange.into(), routing_key.into(), options, &body, properties).await?;
    drop(body);
    confirm.await
}

fn number_of(returned: &BasicReturnMessage) -> Option<u64> {
    wire::mark_of(&returned.properties)
}
