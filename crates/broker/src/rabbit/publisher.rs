//! The one task that publishes: order of calls is order on the wire, and every confirm has a deadline.
//!
//! Nothing waits confirm by confirm: the task sends whatever has piled up, and settles receipts as confirms come.
//! What it has taken and not settled is bounded in number and bytes (`Buffer`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use lapin::{Channel, Connection};
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior};

use super::flight::Flights;
use super::size_limit::SizeLimit;
use super::wire;
use crate::over::Over;
use crate::publisher::{CONFIRM_DEADLINE, UNCONFIRMED_BYTES_MAX, UNCONFIRMED_MAX};
use crate::{Error, Publication, PublishError, Receipt};

/// How many publications are sent before confirms are looked at again.
const BATCH_MAX: usize = 256;
/// How often deadlines are checked.
const TICK: Duration = Duration::from_millis(500);

/// A publication and the sender that settles its receipt.
pub(super) struct Outgoing {
    pub(super) publication: Publication,
    pub(super) receipt: oneshot::Sender<Result<(), PublishError>>,
}

/// The handle to the publishing task.
pub(super) struct Publisher {
    outgoing: mpsc::UnboundedSender<Outgoing>,
    message_bytes_max: usize,
    buffer: Arc<Buffer>,
}

/// How much is unconfirmed.
#[derive(Default)]
pub(super) struct Buffer {
    publications: AtomicUsize,
    bytes: AtomicUsize,
    is_closing: AtomicBool,
    emptied: Notify,
}

impl Buffer {
    fn reserve(&self, bytes: usize) -> bool {
        let publications = self.publications.fetch_add(1, Ordering::AcqRel);
        let before = self.bytes.fetch_add(bytes, Ordering::AcqRel);
        let fits = publications < UNCONFIRMED_MAX && before + bytes <= UNCONFIRMED_BYTES_MAX;
        if !fits {
            self.release(bytes);
        }
        fits
    }

    pub(super) fn release(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::AcqRel);
        if self.publications.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.emptied.notify_waiters();
        }
    }

    fn is_empty(&self) -> bool {
        self.publications.load(Ordering::Acquire) == 0
    }
}

impl Publisher {
    /// Starts the task on `channel`, which must be in confirm mode and is used for nothing else. It runs where the
    /// session is used: one thread less to wake for every publication. `limit` is the most bytes of a message, and
    /// where to record a bound that turns out to be lower.
    pub(super) fn start(
        channel: Channel,
        connection: Arc<Connection>,
        over: Arc<Over>,
        limit: (usize, Arc<SizeLimit>),
        callers: &Handle,
    ) -> Self {
        let (outgoing, taken) = mpsc::unbounded_channel();
        let buffer = Arc::new(Buffer::default());
        let (message_bytes_max, limit) = limit;
        callers.spawn(run(channel, connection, taken, Arc::clone(&buffer), over, limit));
        Self { outgoing, message_bytes_max, buffer }
    }

    pub(super) fn message_bytes_max(&self) -> usize {
        self.message_bytes_max
    }

    pub(super) fn publish(&self, publication: Publication, over: &Over) -> Receipt {
        if over.is_over() || self.buffer.is_closing.load(Ordering::Acquire) {
            return Receipt::settled(Err(PublishError::SessionEnded));
        }
        if !publication.is_sendable(self.message_bytes_max) {
            return Receipt::settled(Err(PublishError::TooLarge));
        }
        let bytes = publication.body.len();
        if !self.buffer.reserve(bytes) {
            return Receipt::settled(Err(PublishError::Full));
        }
        let (sender, receipt) = Receipt::waiting();
        if self.outgoing.send(Outgoing { publication, receipt: sender }).is_err() {
            self.buffer.release(bytes);
        }
        receipt
    }

    /// Takes no more, and waits until all is confirmed; not longer than `deadline`.
    pub(super) async fn flush(&self, deadline: Duration, over: &Over) {
        self.buffer.is_closing.store(true, Ordering::Release);
        let emptied = async {
            loop {
                let emptied = self.buffer.emptied.notified();
                if self.buffer.is_empty() {
                    return;
                }
                emptied.await;
            }
        };
        tokio::select! {
            () = emptied => {}
            _ = over.wait() => {}
            () = tokio::time::sleep(deadline) => {}
        }
    }
}

async fn run(
    channel: Channel,
    connection: Arc<Connection>,
    mut outgoing: mpsc::UnboundedReceiver<Outgoing>,
    buffer: Arc<Buffer>,
    over: Arc<Over>,
    limit: Arc<SizeLimit>,
) {
    let header_bytes_max = wire::header_bytes_max(connection.configuration().frame_max());
    let mut flights = Flights::new(channel, header_bytes_max, buffer);
    let mut batch = Vec::with_capacity(BATCH_MAX);
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The time from which confirms are awaited: a blocked broker is not a slow one.
    let mut unblocked = Instant::now();
    let mut ended = std::pin::pin!(over.wait());
    loop {
        tokio::select! {
            biased;
            _ = &mut ended => break,
            count = outgoing.recv_many(&mut batch, BATCH_MAX) => {
                if count == 0 {
                    break;
                }
            }
            () = flights.woken() => {}
            _ = tick.tick() => {
                if connection.status().blocked() {
                    unblocked = Instant::now();
                }
                if flights.oldest().is_some_and(|sent| sent.max(unblocked).elapsed() >= CONFIRM_DEADLINE) {
                    over.end(Error::Overdue { after: CONFIRM_DEADLINE });
                    flights.fail(PublishError::Overdue);
                    break;
                }
            }
        }
        let sent = batch.drain(..).try_for_each(|outgoing| flights.send(outgoing));
        if let Err(error) = sent.and_then(|()| flights.settle()) {
            limit.learn(&error);
            over.end(error);
            break;
        }
    }
    // The senders of unsettled receipts are dropped here, which settles them as `SessionEnded`.
}
