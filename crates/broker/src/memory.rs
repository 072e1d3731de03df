//! The in-process twin of RabbitMQ, with the same semantics: at least once, prefetch, returns in place, confirms that
//! mean stored, refusals, and sessions that end.
//!
//! Queues live as long as the broker value. A publication is routed within the call, so its receipt is settled at
//! once. Deliberately absent: dead-lettering (nothing is ever rejected, and the delivery limits are out of reach) and
//! durability beyond the process.

mod faults;
mod queue;
mod route;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

pub use faults::Faults;

use crate::consumer::{Delivery, SETTLED, Tag};
use crate::over::Over;
use crate::publisher::{BODY_BYTES_MAX, UNCONFIRMED_BYTES_MAX, UNCONFIRMED_MAX};
use crate::topology::Binding;
use crate::{Consume, Error, Publication, PublishError, Receipt, Topology};
use queue::{MessageQueue, QueueFull, UnknownTag};
use route::Routes;

/// The numbers of consumers and browsers are unique across all brokers of the process.
static NEXT_CHANNEL: AtomicU64 = AtomicU64::new(1);

/// The state that all sessions share.
#[derive(Clone, Default)]
pub(crate) struct Server(Arc<Mutex<BrokerState>>);

#[derive(Default)]
struct BrokerState {
    exchanges: BTreeMap<String, Routes>,
    queues: HashMap<String, MessageQueue>,
    sessions: BTreeMap<u64, SessionState>,
    refuses_sessions: bool,
    withholds_confirms: bool,
    is_blocked: bool,
    /// `None`: the default of RabbitMQ.
    message_bytes_max: Option<usize>,
}

/// One session, seen from the broker.
struct SessionState {
    over: Arc<Over>,
    /// The queue of each consumer and browser.
    channels: BTreeMap<u64, String>,
    /// Publications that came while publishers were blocked.
    held: Vec<Publication>,
    held_bytes: usize,
    open_receipts: Vec<OpenReceipt>,
}

/// A receipt that is still open.
struct OpenReceipt {
    receipt: oneshot::Sender<Result<(), PublishError>>,
    /// The result of a withheld confirm; `None` while the publication itself is held back.
    result: Option<Result<(), PublishError>>,
}

impl Server {
    /// Opens a session.
    pub(crate) fn open(&self, generation: u64, over: Arc<Over>) -> Result<Session, Error> {
        let mut state = self.lock();
        if state.refuses_sessions {
            return Err(Error::Unreachable { endpoint: "memory".to_owned(), detail: "connection refused".to_owned() });
        }
        state.drop_expired();
        let attached = SessionState {
            over: Arc::clone(&over),
            channels: BTreeMap::new(),
            held: Vec::new(),
            held_bytes: 0,
            open_receipts: Vec::new(),
        };
        state.sessions.insert(generation, attached);
        Ok(Session { server: self.clone(), generation, over })
    }

    fn lock(&self) -> MutexGuard<'_, BrokerState> {
        // Every change is complete before anything that could panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BrokerState {
    /// Routes a message into its queues.
    fn route(&mut self, publication: Publication) -> Result<Result<(), PublishError>, Error> {
        let now = Instant::now();
        let names = if publication.exchange.is_empty() {
            vec![Arc::from(publication.routing_key.as_str())]
        } else {
            self.resolve(&publication.exchange, &publication.routing_key)?
        };
        let mandatory = publication.mandatory;
        let message = Arc::new(publication);
        let (mut routed, mut refused) = (false, false);
        for name in names {
            if let Some(queue) = self.queue(&name, now) {
                routed = true;
                refused |= queue.push(Arc::clone(&message)) == Err(QueueFull);
            }
        }
        Ok(match (routed, refused) {
            (false, _) if mandatory => Err(PublishError::Returned),
            (true, true) => Err(PublishError::Nacked),
            (false, _) | (true, false) => Ok(()),
        })
    }

    /// The queues a message leads to, each once.
    fn resolve(&self, exchange: &str, key: &str) -> Result<Vec<Arc<str>>, Error> {
        let routes = self.exchanges.get(exchange).ok_or_else(|| Error::Missing(format!("no exchange '{exchange}'")))?;
        Ok(routes.resolve(key))
    }

    /// The queue, unless it does not exist or has expired.
    fn queue(&mut self, name: &str, now: Instant) -> Option<&mut MessageQueue> {
        if self.queues.get(name)?.is_expired(now) {
            self.delete(name);
        }
        self.queues.get_mut(name)
    }

    fn drop_expired(&mut self) {
        let now = Instant::now();
        let expired: Vec<String> =
            self.queues.iter().filter(|(_, queue)| queue.is_expired(now)).map(|(name, _)| name.clone()).collect();
        for name in expired {
            self.delete(&name);
        }
    }

    /// Deletes a queue with all that is in it, and ends the sessions that consume it.
    fn delete(&mut self, name: &str) {
        let Some(queue) = self.queues.remove(name) else { return };
        self.exchanges.values_mut().for_each(|routes| routes.unbind(name));
        let consumers: HashSet<u64> = queue.consumers().collect();
        let ended: Vec<u64> = self
            .sessions
            .iter()
            .filter(|(_, attached)| attached.channels.keys().any(|channel| consumers.contains(channel)))
            .map(|(generation, _)| *generation)
            .collect();
        for generation in ended {
            self.end(generation, Error::ConsumerCancelled { queue: name.to_owned() });
        }
    }

    /// Ends a session: deliveries that it had not acked go back in place, publications that were not confirmed never
    /// will be.
    fn end(&mut self, generation: u64, cause: Error) {
        let Some(attached) = self.sessions.remove(&generation) else { return };
        attached.over.end(cause);
        let now = Instant::now();
        for (channel, queue) in attached.channels {
            if let Some(queue) = self.queues.get_mut(&queue) {
                queue.unsubscribe(channel, now);
            }
        }
    }

    fn unsubscribe(&mut self, generation: u64, channel: u64) {
        if let Some(attached) = self.sessions.get_mut(&generation)
            && let Some(name) = attached.channels.remove(&channel)
            && let Some(queue) = self.queues.get_mut(&name)
        {
            queue.unsubscribe(channel, Instant::now());
        }
    }
}

/// One session on the twin.
pub(crate) struct Session {
    server: Server,
    generation: u64,
    over: Arc<Over>,
}

impl Session {
    pub(crate) fn declare(&self, topology: &Topology) -> Result<(), Error> {
        let mut state = self.lock()?;
        state.drop_expired();
        let now = Instant::now();
        for exchange in &topology.exchanges {
            state.exchanges.entry(exchange.name.clone()).or_default();
        }
        for settings in &topology.queues {
            let queue =
                state.queues.entry(settings.name.clone()).or_insert_with(|| MessageQueue::new(settings.clone(), now));
            if queue.settings != *settings {
                let detail = format!("declared as {settings:?}, it is {:?}", queue.settings);
                let error = Error::Mismatch { name: settings.name.clone(), detail };
                state.end(self.generation, error.clone());
                return Err(error);
            }
            queue.touch(now);
        }
        for binding in &topology.bindings {
            if !state.queues.contains_key(&binding.queue) || !state.exchanges.contains_key(&binding.exchange) {
                let error = Error::Missing(format!("no queue '{}' or exchange '{}'", binding.queue, binding.exchange));
                state.end(self.generation, error.clone());
                return Err(error);
            }
            if let Some(routes) = state.exchanges.get_mut(&binding.exchange) {
                routes.bind(&binding.pattern, &binding.queue);
            }
        }
        Ok(())
    }

    pub(crate) fn unbind(&self, bindings: &[Binding]) -> Result<(), Error> {
        let mut state = self.lock()?;
        for binding in bindings {
            if let Some(routes) = state.exchanges.get_mut(&binding.exchange) {
                routes.unbind_pattern(&binding.pattern, &binding.queue);
            }
        }
        Ok(())
    }

    pub(crate) fn salvage(self: &Arc<Self>, queue: &str) -> Result<Vec<Delivery>, Error> {
        let (mut deliveries, browser) = self.browse(queue, usize::MAX)?;
        for delivery in &mut deliveries {
            delivery.tag = Tag { channel: SETTLED, number: 0 };
        }
        drop(browser);
        self.delete_queue(queue)?;
        Ok(deliveries)
    }

    pub(crate) fn consume(self: &Arc<Self>, queue: &str, consume: Consume) -> Result<Consumer, Error> {
        self.attach(queue, Some(consume)).inspect_err(|error| self.end(error.clone()))
    }

    pub(crate) fn browse(self: &Arc<Self>, queue: &str, max: usize) -> Result<(Vec<Delivery>, Browser), Error> {
        let consumer = self.attach(queue, None)?;
        let mut deliveries = Vec::new();
        if let Some(queue) = self.lock()?.queues.get_mut(queue) {
            queue.look(consumer.acker.channel, max);
            queue.fetch(consumer.acker.channel, &mut deliveries, max);
        }
        Ok((deliveries, Browser(consumer)))
    }

    fn attach(self: &Arc<Self>, queue: &str, consume: Option<Consume>) -> Result<Consumer, Error> {
        let mut state = self.lock()?;
        let channel = NEXT_CHANNEL.fetch_add(1, Ordering::Relaxed);
        let wake = Arc::new(Notify::new());
        state.queue(queue, Instant::now()).ok_or_else(|| Error::Missing(format!("no queue '{queue}'")))?.subscribe(
            channel,
            consume,
            Arc::clone(&wake),
        );
        if let Some(attached) = state.sessions.get_mut(&self.generation) {
            attached.channels.insert(channel, queue.to_owned());
        }
        Ok(Consumer { acker: Acker { session: Arc::clone(self), channel, queue: queue.into() }, wake })
    }

    pub(crate) fn message_bytes_max(&self) -> usize {
        self.server.lock().message_bytes_max.unwrap_or(BODY_BYTES_MAX)
    }

    pub(crate) fn publish(&self, mut publication: Publication) -> Receipt {
        (publication.properties.priority, publication.properties.user_id) = (None, None);
        let mut state = self.server.lock();
        let state = &mut *state;
        let Some(attached) = state.sessions.get_mut(&self.generation) else {
            return Receipt::settled(Err(PublishError::SessionEnded));
        };
        if !publication.is_sendable(state.message_bytes_max.unwrap_or(BODY_BYTES_MAX)) {
            return Receipt::settled(Err(PublishError::TooLarge));
        }
        if attached.open_receipts.len() >= UNCONFIRMED_MAX
            || attached.held_bytes + publication.body.len() > UNCONFIRMED_BYTES_MAX
        {
            return Receipt::settled(Err(PublishError::Full));
        }
        if state.is_blocked {
            let (sender, receipt) = Receipt::waiting();
            attached.held_bytes += publication.body.len();
            attached.held.push(publication);
            attached.open_receipts.push(OpenReceipt { receipt: sender, result: None });
            return receipt;
        }
        let result = match state.route(publication) {
            Ok(result) => result,
            Err(error) => {
                state.end(self.generation, error);
                return Receipt::settled(Err(PublishError::SessionEnded));
            }
        };
        if state.withholds_confirms
            && let Some(attached) = state.sessions.get_mut(&self.generation)
        {
            let (sender, receipt) = Receipt::waiting();
            attached.open_receipts.push(OpenReceipt { receipt: sender, result: Some(result) });
            return receipt;
        }
        Receipt::settled(result)
    }

    pub(crate) fn depth(&self, queue: &str) -> Result<u64, Error> {
        let mut state = self.lock()?;
        let queue = state.queue(queue, Instant::now()).ok_or_else(|| Error::Missing(format!("no queue '{queue}'")))?;
        Ok(queue.depth() as u64)
    }

    pub(crate) fn delete_queue(&self, queue: &str) -> Result<(), Error> {
        self.lock()?.delete(queue);
        Ok(())
    }

    pub(crate) fn is_blocked(&self) -> bool {
        self.server.lock().is_blocked
    }

    pub(crate) fn end(&self, cause: Error) {
        self.server.lock().end(self.generation, cause);
    }

    /// The broker's state, unless this session is over.
    fn lock(&self) -> Result<MutexGuard<'_, BrokerState>, Error> {
        let state = self.server.lock();
        match self.over.cause() {
            None => Ok(state),
            Some(cause) => Err(cause),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.end(Error::Closed);
    }
}

pub(crate) struct Consumer {
    acker: Acker,
    wake: Arc<Notify>,
}

impl Consumer {
    pub(crate) async fn next_batch(&mut self, into: &mut Vec<Delivery>, max: usize) -> bool {
        let before = into.len();
        loop {
            {
                let mut state = self.acker.session.server.lock();
                let Some(queue) = state.queues.get_mut(&*self.acker.queue) else { return false };
                if !queue.fetch(self.acker.channel, into, max) {
                    return false;
                }
            }
            if into.len() > before {
                return true;
            }
            self.wake.notified().await;
        }
    }

    pub(crate) fn acker(&self) -> Acker {
        self.acker.clone()
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        let session = &self.acker.session;
        session.server.lock().unsubscribe(session.generation, self.acker.channel);
    }
}

#[derive(Clone)]
pub(crate) struct Acker {
    session: Arc<Session>,
    channel: u64,
    queue: Arc<str>,
}

impl Acker {
    pub(crate) fn channel(&self) -> u64 {
        self.channel
    }

    pub(crate) fn ack(&self, number: u64, multiple: bool) {
        let mut state = self.session.server.lock();
        if let Some(queue) = state.queues.get_mut(&*self.queue)
            && queue.ack(self.channel, number, multiple) == Err(UnknownTag)
        {
            let cause = Error::Lost(format!("unknown delivery tag {number}"));
            state.end(self.session.generation, cause);
        }
    }
}

/// Gives back its messages when it is dropped.
pub(crate) struct Browser(Consumer);

impl Browser {
    pub(crate) fn acker(&self) -> &Acker {
        &self.0.acker
    }

    pub(crate) fn close(self) -> Result<(), Error> {
        self.0.acker.session.over.cause().map_or(Ok(()), Err)
    }
}
