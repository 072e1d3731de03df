//! The worker's link to the broker: a session that consumes the queue of the current incarnation.
//!
//! An error anywhere drops the session and builds the next; attempts go on meanwhile, as only the fence ends them.

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

/// Sessions whose queues are not deleted yet; the queues of older sessions are left to expire.
const FORMERS_MAX: usize = 4;

pub(crate) struct BrokerLink {
    place: Place,
    /// Queues that earlier sessions read.
    formers: Vec<Former>,
    state: State,
}

/// The names and the owner of a worker's queues.
#[derive(Clone)]
struct Place {
    prefix: String,
    worker: WorkerName,
}

/// The queue that one incarnation read through one session.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Former {
    incarnation: Incarnation,
    session: u64,
}

enum State {
    Connecting(Pin<Box<dyn Future<Output = Connected> + Send>>),
    Open(Box<Open>),
}

struct Connected {
    supervisor: Supervisor,
    subscribed: Result<Subscribed, Error>,
    /// The broker refuses the first session or a right that it needs: another try is of no use.
    is_final: bool,
    /// The queues that are still to be deleted, also that of a session which failed.
    formers: Vec<Former>,
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

/// What happened to the link.
pub(crate) enum LinkEvent {
    /// The queue of that incarnation is consumed.
    Subscribed(Incarnation),
    /// These deliveries came through the queue of that incarnation.
    Delivered(Incarnation),
    /// The session is over; the next is being built.
    Lost,
    /// The broker refuses the first session, or a right that it needs: another try is of no use.
    Denied(Error),
}

impl Place {
    fn topology(&self, queue: Former) -> Topology {
        Topology::worker(&self.prefix, &self.worker, queue.incarnation, queue.session)
    }

    fn queue(&self, queue: Former) -> String {
        worker_queue(&self.prefix, &self.worker, queue.incarnation, queue.session)
    }
}

impl Subscribed {
    fn queue(&self) -> Former {
        Former { incarnation: self.incarnation, session: self.session.generation() }
    }
}

impl BrokerLink {
    pub(crate) fn new(broker: Broker, worker: WorkerName, incarnation: Incarnation) -> Self {
        let place = Place { prefix: broker.prefix().to_owned(), worker };
        let supervisor = Supervisor::new(broker, &format!("slotline worker {}", place.worker));
        let state = State::Connecting(Box::pin(connect(supervisor, place.clone(), incarnation, Vec::new())));
        Self { place, formers: Vec::new(), state }
    }

    /// Waits until something happens; a session that is built anew is for the queue of `incarnation`. Cancel-safe.
    pub(crate) async fn next(&mut self, incarnation: Incarnation, deliveries: &mut Vec<Delivery>) -> LinkEvent {
        loop {
            match &mut self.state {
                State::Connecting(connecting) => {
                    let Connected { supervisor, subscribed, is_final, formers } = connecting.await;
                    self.formers = formers;
                    match subscribed {
                        Ok(subscribed) => {
                            let (incarnation, acker) = (subscribed.incarnation, subscribed.consumer.acker());
                            self.state = State::Open(Box::new(Open { supervisor, subscribed, acker }));
                            return LinkEvent::Subscribed(incarnation);
                        }
                        Err(error) if is_final => {
                            self.state = State::Connecting(Box::pin(std::future::pending()));
                            return LinkEvent::Denied(error);
                        }
                        Err(error) => {
                            tracing::warn!(error = %chain(&error), "can't subscribe to the worker's queue");
                            self.reconnect(supervisor, incarnation);
                        }
                    }
                }
                State::Open(open) => {
                    if open.subscribed.consumer.next_batch(deliveries, BATCH_MAX).await {
                        return LinkEvent::Delivered(open.subscribed.incarnation);
                    }
                    self.lost(incarnation);
                    return LinkEvent::Lost;
                }
            }
        }
    }

    /// The session, if its queue is consumed.
    pub(crate) fn session(&self) -> Option<&Session> {
        match &self.state {
            State::Open(open) => Some(&open.subscribed.session),
            State::Connecting(_) => None,
        }
    }

    /// To be called when the duty book has all of these.
    pub(crate) fn ack(&self, deliveries: &[Delivery]) {
        if let (State::Open(open), Some(last)) = (&self.state, deliveries.last()) {
            open.acker.ack_up_to(last.tag);
        }
    }

    /// Consumes the queue of this incarnation through the same session, in place of the one it consumes now.
    pub(crate) fn subscribe(&mut self, incarnation: Incarnation) {
        let placeholder = State::Connecting(Box::pin(std::future::pending()));
        match std::mem::replace(&mut self.state, placeholder) {
            State::Open(open) => self.move_to(open.supervisor, open.subscribed, incarnation),
            // The loop subscribes again once the session is there.
            connecting @ State::Connecting(_) => self.state = connecting,
        }
    }

    /// Closes the session in order: what is published goes out first.
    pub(crate) async fn close(self) {
        if let State::Open(open) = self.state {
            let queue = self.place.queue(open.subscribed.queue());
            let Subscribed { session, consumer, .. } = open.subscribed;
            drop(consumer);
            // Otherwise the queue would expire by itself.
            let _ = session.delete_queue(&queue).await;
            session.close().await;
        }
    }

    fn lost(&mut self, incarnation: Incarnation) {
        let placeholder = State::Connecting(Box::pin(std::future::pending()));
        match std::mem::replace(&mut self.state, placeholder) {
            State::Open(open) => {
                self.formers.push(open.subscribed.queue());
                self.reconnect(open.supervisor, incarnation);
            }
            connecting @ State::Connecting(_) => self.state = connecting,
        }
    }

    fn reconnect(&mut self, supervisor: Supervisor, incarnation: Incarnation) {
        let formers = std::mem::take(&mut self.formers);
        self.state = State::Connecting(Box::pin(connect(supervisor, self.place.clone(), incarnation, formers)));
    }

    fn move_to(&mut self, supervisor: Supervisor, from: Subscribed, incarnation: Incarnation) {
        let (place, formers) = (self.place.clone(), std::mem::take(&mut self.formers));
        self.state = State::Connecting(Box::pin(async move {
            let former = from.queue();
            let Subscribed { session, consumer, .. } = from;
            drop(consumer);
            let subscribed = subscribe(session.clone(), &place, incarnation, &formers).await;
            // The queue is not read any more; otherwise it would expire. Deleted last, because a failure ends the
            // session.
            let unwanted = subscribed.is_ok().then(|| place.queue(former));
            OptionFuture::from(unwanted.as_deref().map(|queue| session.delete_queue(queue))).await;
            Connected { supervisor, subscribed, is_final: false, formers: Vec::new() }
        }));
    }
}

async fn connect(
    mut supervisor: Supervisor,
    place: Place,
    incarnation: Incarnation,
    mut formers: Vec<Former>,
) -> Connected {
    let session = match supervisor.next_unless_denied().await {
        Ok(session) => session,
        Err(error) => return Connected { supervisor, subscribed: Err(error), is_final: true, formers },
    };
    let own = Former { incarnation, session: session.generation() };
    let subscribed = subscribe(session, &place, incarnation, &formers).await;
    match &subscribed {
        Ok(_) => formers.clear(),
        Err(_) => formers.push(own),
    }
    formers.drain(..formers.len().saturating_sub(FORMERS_MAX));
    let is_final = subscribed.as_ref().is_err_and(|error| supervisor.is_final(error));
    Connected { supervisor, subscribed, is_final, formers }
}

/// Reads a queue of this session, and before it what waits in those of earlier sessions. Their node may be away, so
/// they are unbound first, which works without the node; a queue that stayed bound would refuse what is meant for this
/// incarnation.
async fn subscribe(
    session: Session,
    place: &Place,
    incarnation: Incarnation,
    formers: &[Former],
) -> Result<Subscribed, Error> {
    let own = Former { incarnation, session: session.generation() };
    session.declare(&place.topology(own)).await?;
    let consumer = session.consume(&place.queue(own), Consume { prefetch: PREFETCH }).await?;
    let mut before = Vec::new();
    for former in formers {
        session.unbind(&place.topology(*former).bindings).await?;
        let left = session.salvage(&place.queue(*former)).await;
        // Orders to another incarnation mean nothing to this one.
        before.extend(left.into_iter().filter(|_| former.incarnation == incarnation));
    }
    Ok(Subscribed { session, consumer: consumer.preceded_by(before), incarnation })
}
