//! The process's one session with the broker at a time, shared by all its parts.
//!
//! Every executor, leading or not, declares what is common to all and consumes its replies. Not here: what only a
//! leader consumes (`feed`).

use std::sync::Arc;

use slotline_broker::topology::replies_queue;
use slotline_broker::{Broker, Consume, Delivery, Session, Supervisor, Topology};
use slotline_protocol::chain;
use slotline_protocol::proof::Channel;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::echo::Echo;
use super::following;
use super::replies::Replies;
use crate::leader::ask::{NEWS, VIEW};
use crate::shell::context::Common;

/// Replies that may be on their way to this process at once.
const REPLIES_PREFETCH: u16 = 1000;

/// The identity of this process on the broker, and the receivers of its replies and news.
pub(crate) struct Link {
    pub(crate) broker: Broker,
    pub(crate) name: String,
    pub(crate) id: Uuid,
    pub(crate) replies: Arc<Replies>,
    pub(crate) common: Common,
}

impl Link {
    /// Keeps a session alive until `shutdown`, and publishes it in `current`. `denied` gets the reason if the broker
    /// refuses the first session, or a right that it needs.
    pub(crate) async fn keep(
        self,
        current: watch::Sender<Option<Session>>,
        denied: oneshot::Sender<slotline_broker::Error>,
        shutdown: CancellationToken,
    ) {
        let mut supervisor = Supervisor::new(self.broker.clone(), &self.name);
        while let Some(opened) = shutdown.run_until_cancelled(supervisor.next_unless_denied()).await {
            let session = match opened {
                Ok(session) => session,
                Err(error) => {
                    // The receiver is gone only with the executor.
                    let _ = denied.send(error);
                    return;
                }
            };
            match self.listen(&session, &current, &shutdown).await {
                Ok(()) => {}
                // A term that ends closes the session on purpose.
                Err(slotline_broker::Error::Closed) => tracing::debug!("closed the session with the broker"),
                Err(error) if supervisor.is_final(&error) && current.borrow().is_none() => {
                    session.close().await;
                    let _ = denied.send(error);
                    return;
                }
                // The supervisor logs this with the next session.
                Err(error) => tracing::debug!(error = %chain(&error), "left the session with the broker"),
            }
            current.send_replace(None);
            session.close().await;
        }
    }

    /// Passes on the news from a leader of this journal; a message without its proof is dropped.
    fn hear(&self, delivery: &Delivery) {
        let gate = self.common.gates.current();
        if gate.is_some_and(|gate| gate.is_executors(Channel::Answer, &delivery.properties, &delivery.body)) {
            match delivery.properties.message_type.as_deref() {
                Some(VIEW) => following::show(&self.common.hub, delivery),
                Some(_) | None => following::deliver(&self.common.hub, delivery),
            }
        } else {
            self.common.gates.refusals.add(NEWS, 1);
        }
    }

    async fn listen(
        &self,
        session: &Session,
        current: &watch::Sender<Option<Session>>,
        shutdown: &CancellationToken,
    ) -> Result<(), slotline_broker::Error> {
        let prefix = self.broker.prefix();
        session.declare(&Topology::requests(prefix)).await?;
        session.declare(&Topology::events(prefix)).await?;
        session.declare(&Topology::marks(prefix)).await?;
        session.declare(&Topology::replies(prefix, self.id, session.generation())).await?;
        let queue = replies_queue(prefix, self.id, session.generation());
        let mut consumer = session.consume(&queue, Consume { prefetch: REPLIES_PREFETCH }).await?;
        let acker = consumer.acker();
        current.send_replace(Some(session.clone()));
        let mut echo = Echo::start();
        loop {
            tokio::select! {
                // Deliveries first: an echo that has arrived must not count as missing.
                biased;
                delivery = consumer.next() => match delivery {
                    Some(delivery) => {
                        acker.ack(delivery.tag);
                        if echo.takes(&delivery) {
                            continue;
                        }
                        match delivery.properties.message_type.as_deref() {
                            Some(NEWS | VIEW) => self.hear(&delivery),
                            Some(_) | None => self.replies.deliver(delivery),
                        }
                    }
                    None => return Err(session.ended().await),
                },
                error = session.ended() => return Err(error),
                () = shutdown.cancelled() => return Ok(()),
                called = echo.call(session, &queue) => called?,
            }
        }
    }
}
