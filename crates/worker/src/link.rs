//! The worker's hold on the broker: a session, and the queue of the current incarnation consumed through it.
//!
//! An error anywhere drops the session and builds the next; attempts go on meanwhile, for only the fence ends them.

use std::future::Future;
use std::pin::Pin;

use futures::future::OptionFuture;
use slotline_broker::topology::{Topology, worker_queue};
use slotline_broker::{Acker, Broker, Consume, Consumer, Delivery, Error, Session, Supervisor};
use slotline_protocol::{Incarnation, WorkerName, chain};

/// Deliveries on their way to the worker; each is acked as soon as the duty book has it.
const PREFETCH: u16 = 1_000;
/// Deliveries taken at once.
const BATCH_MAX: usize = 256;

pub(crate) struct Link {
    prefix: String,
    worker: WorkerName,
    state: State,
}

enum State {
    Connecting(Pin<Box<dyn Future<Output = Connected> + Send>>),
    Open(Box<Open>),
}

struct Connected {
    supervisor: Supervisor,
    subscribed: Result<Subscribed, Error>,
}

struct Subscribed {
    session: Session,
    consumer: Consumer,
    incarnation: Incarnation,
}

struct Open {
    supervisor: Supervisor,
    subscribed: Subscribed,
    acker: Acker,
}

/// What the link has to say.
pub(crate) enum News {
    /// The queue of that incarnation is consumed.
    Opened(Incarnation),
    /// These came through the queue of that incarnation.
    Delivered(Incarnation),
    /// The session is over; the next is being built.
    Lost,
}

impl Link {
    pub(crate) fn new(broker: Broker, worker: WorkerName, incarnation: Incarnation) -> Self {
        let prefix = broker.prefix().to_owned();
        let supervisor = Supervisor::new(broker, &format!("slotline worker {worker}"));
        let state = State::Connecting(Box::pin(connect(supervisor, prefix.clone(), worker.clone(), incarnation)));
        Self { prefix, worker, state }
    }

    /// Waits for news. Cancel-safe.
    pub(crate) async fn next(&mut self, incarnation: Incarnation, deliveries: &mut Vec<Delivery>) -> News {
        loop {
            match &mut self.state {
                State::Connecting(connecting) => {
                    let Connected { supervisor, subscribed } = connecting.await;
                    match subscribed {
                        Ok(subscribed) if subscribed.incarnation == incarnation => {
                            let acker = subscribed.consumer.acker();
                            self.state = State::Open(Box::new(Open { supervisor, subscribed, acker }));
                            return News::Opened(incarnation);
                        }
                        // The incarnation ended meanwhile.
                        Ok(subscribed) => self.move_to(supervisor, subscribed, incarnation),
                        Err(error) => {
                            tracing::warn!(error = %chain(&error), "can't subscribe to the worker's queue");
                            self.reconnect(supervisor, incarnation);
                        }
                    }
                }
                State::Open(open) => {
                    if open.subscribed.consumer.next_batch(deliveries, BATCH_MAX).await {
                        return News::Delivered(open.subscribed.incarnation);
                    }
                    self.lost(incarnation);
                    return News::Lost;
                }
            }
        }
    }

    /// The session, if there is one whose queue is consumed.
    pub(crate) fn session(&self) -> Option<&Session> {
        match &self.state {
            State::Open(open) => Some(&open.subscribed.session),
            State::Connecting(_) => None,
        }
    }

    /// The duty book has all of these.
    pub(crate) fn ack(&self, deliveries: &[Delivery]) {
        if let (State::Open(open), Some(last)) = (&self.state, deliveries.last()) {
            open.acker.ack_up_to(last.tag);
        }
    }

    /// Goes on under a new name, through the same session.
    pub(crate) fn rename(&mut self, incarnation: Incarnation) {
        let placeholder = State::Connecting(Box::pin(std::future::pending()));
        match std::mem::replace(&mut self.state, placeholder) {
            State::Open(open) => self.move_to(open.supervisor, open.subscribed, incarnation),
            // Noticed once it is there.
            connecting @ State::Connecting(_) => self.state = connecting,
        }
    }

    /// Ends the session in order: what is published goes out first.
    pub(crate) async fn close(self) {
        if let State::Open(open) = self.state {
            let Subscribed { session, consumer, incarnation } = open.subscribed;
            drop(consumer);
            // It would expire by itself.
            let _ = session.delete_queue(&worker_queue(&self.prefix, &self.worker, incarnation)).await;
            session.close().await;
        }
    }

    fn lost(&mut self, incarnation: Incarnation) {
        let placeholder = State::Connecting(Box::pin(std::future::pending()));
        match std::mem::replace(&mut self.state, placeholder) {
            State::Open(open) => self.reconnect(open.supervisor, incarnation),
            connecting @ State::Connecting(_) => self.state = connecting,
        }
    }

    fn reconnect(&mut self, supervisor: Supervisor, incarnation: Incarnation) {
        let (prefix, worker) = (self.prefix.clone(), self.worker.clone());
        self.state = State::Connecting(Box::pin(connect(supervisor, prefix, worker, incarnation)));
    }

    fn move_to(&mut self, supervisor: Supervisor, from: Subscribed, incarnation: Incarnation) {
        let (prefix, worker) = (self.prefix.clone(), self.worker.clone());
        self.state = State::Connecting(Box::pin(async move {
            let Subscribed { session, consumer, incarnation: former } = from;
            drop(consumer);
            let subscribed = subscribe(session.clone(), &prefix, &worker, incarnation).await;
            // Nobody reads it any more; left alone it would expire. Last, because a failure ends the session.
            let unwanted = subscribed.is_ok().then(|| worker_queue(&prefix, &worker, former));
            OptionFuture::from(unwanted.as_deref().map(|queue| session.delete_queue(queue))).await;
            Connected { supervisor, subscribed }
        }));
    }
}

async fn connect(
    mut supervisor: Supervisor,
    prefix: String,
    worker: WorkerName,
    incarnation: Incarnation,
) -> Connected {
    let session = supervisor.next().await;
    for finding in session.findings() {
        tracing::warn!("{finding}");
    }
    let subscribed = subscribe(session, &prefix, &worker, incarnation).await;
    Connected { supervisor, subscribed }
}

async fn subscribe(
    session: Session,
    prefix: &str,
    worker: &WorkerName,
    incarnation: Incarnation,
) -> Result<Subscribed, Error> {
    session.declare(&Topology::worker(prefix, worker, incarnation)).await?;
    let queue = worker_queue(prefix, worker, incarnation);
    let consumer = session.consume(&queue, Consume { prefetch: PREFETCH }).await?;
    Ok(Subscribed { session, consumer, incarnation })
}
