//! The end of a term: what is under way lands, and leadership goes to the next in line.

use std::sync::Arc;
use std::time::Duration;

use slotline_protocol::chain;
use slotline_store::Leadership;

use super::{End, Term};
use crate::leader::Input;
use crate::shell::mark;

/// How long what left last may take to be confirmed when leadership is handed over.
const FAREWELL: Duration = Duration::from_secs(3);

impl Term {
    pub(super) async fn finish(&mut self, end: &End) {
        // Handed over while it could still be held.
        let mut lands = matches!(end, End::Shutdown | End::Settled | End::Brokerless);
        while let Some(flight) = self.flights.pop_front() {
            if let Ok(flight) = flight.await {
                // Behind one that failed, nothing is let out.
                lands = lands && self.land(flight).is_ok();
            }
        }
        let epoch = self.leader.epoch();
        let leadership = self.leadership.take().and_then(Arc::into_inner).map(tokio::sync::Mutex::into_inner);
        let leadership = self.take_leave(end, leadership).await;
        // At once, and not after a farewell that the broker may draw out: nothing more is committed under this epoch, and
        // what a deposed leader still has to say is dropped by workers that know the next.
        let without_broker = self.feedless_since.elapsed();
        let hand_over = async {
            if let Some(leadership) = leadership {
                leadership.release().await;
                match end {
                    End::Shutdown => tracing::info!(%epoch, "handed leadership over: this executor ends"),
                    End::Brokerless => {
                        tracing::warn!(%epoch, "handed leadership over: no broker for {without_broker:.1?}");
                    }
                    // Why has its own line.
                    End::Over | End::Doubted { .. } | End::Settled => {
                        tracing::debug!(%epoch, "handed leadership over");
                    }
                }
            }
        };
        tokio::join!(hand_over, self.say_farewell());
    }

    /// Records in the journal and publishes how this term ended. Gives back the leadership if it is to be handed over.
    async fn take_leave(&mut self, end: &End, leadership: Option<Leadership>) -> Option<Leadership> {
        let mut leadership = leadership?;
        let session = self.feed.as_ref().map(|feed| feed.session.clone());
        if let Some(witness) = self.leader.witness() {
            self.notice.bear_witness(witness);
        }
        if let (Some(session), End::Shutdown | End::Over) = (&session, end)
            && let Some(mark) = self.leader.last_mark()
        {
            // Goes out with the farewell.
            drop(session.publish(mark::publication(&self.postman.prefix, &mark)));
        }
        match end {
            End::Shutdown | End::Brokerless => Some(leadership),
            End::Over => None,
            End::Doubted { reason, above } => {
                if let Err(error) = leadership.doubt(reason, *above).await {
                    tracing::warn!(error = %chain(&error), "the journal's doubt can't be noted; it will be found again");
                }
                Some(leadership)
            }
            End::Settled => {
                if let Err(error) = self.settle(&mut leadership, session).await {
                    tracing::warn!(error = %chain(&*error), "what the journal lacks can't be noted; the next leader finds it out again");
                }
                Some(leadership)
            }
        }
    }

    /// What was taken is acked, what left last gets confirmed, and the rest goes back to its place.
    async fn say_farewell(&mut self) {
        self.handle(Input::Leaving);
        let session = self.feed.as_ref().map(|feed| feed.session.clone());
        if let Some(session) = session {
            self.requests_out = None;
            let acked = self.requests_acked.take();
            let farewell = async {
                if let Some(acked) = acked {
                    drop(acked.await);
                }
                session.close().await;
            };
            if tokio::time::timeout(FAREWELL, farewell).await.is_err() {
                tracing::warn!("the session did not close in time; what it did not ack comes again");
            }
            self.feed = None;
        }
    }
}
