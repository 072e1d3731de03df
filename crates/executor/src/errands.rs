//! What is owed after a publication: learning that an order came back, and acking requests once all of them is safe.

use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use slotline_broker::{Acker, Publication, PublishError, Receipt, Session, Tag, crash};
use slotline_protocol::Incarnation;
use tokio::sync::mpsc;

/// Wait before a refused dead letter is tried again.
const DEAD_RETRY: Duration = Duration::from_millis(500);

/// What became of an order, as far as the broker knows.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fate {
    /// It is on its way, or never will be.
    Settled,
    /// The queue of the incarnation is gone.
    Returned(Incarnation),
}

/// Tells the loop what became of its orders.
pub(crate) async fn watch_orders(
    mut receipts: mpsc::UnboundedReceiver<(Receipt, Incarnation)>,
    fates: mpsc::UnboundedSender<Fate>,
) {
    let mut waiting = FuturesUnordered::new();
    loop {
        tokio::select! {
            order = receipts.recv() => match order {
                Some((receipt, incarnation)) => waiting.push(async move { (receipt.await, incarnation) }),
                None => return,
            },
            Some((result, incarnation)) = waiting.next() => {
                crash::point("executor.publish.confirmed");
                let fate = match result {
                    Err(PublishError::Returned) => Fate::Returned(incarnation),
                    // Whatever was on its way is told again in the next session.
                    Ok(()) | Err(PublishError::SessionEnded) => Fate::Settled,
                    Err(error) => {
                        tracing::warn!(%error, worker.incarnation = %incarnation, "an order did not leave; \
                            it is sent again once the worker's heartbeat shows that it is missing");
                        Fate::Settled
                    }
                };
                if fates.send(fate).is_err() {
                    return;
                }
            }
        }
    }
}

/// Acks requests in order, each once its dead copies are confirmed. Without a tag there is more to come of that delivery.
pub(crate) async fn ack_requests(
    mut handled: mpsc::UnboundedReceiver<(Option<Tag>, Vec<Publication>)>,
    session: Session,
    acker: Acker,
) {
    while let Some((tag, dead)) = handled.recv().await {
        for publication in dead {
            while let Err(error) = session.publish(publication.clone()).await {
                if matches!(error, PublishError::SessionEnded | PublishError::Overdue) {
                    return;
                }
                debug_assert_ne!(error, PublishError::TooLarge, "dead letters are cut to what can be published");
                tracing::warn!(%error, "a dead letter can't be stored; its request stays unacked meanwhile");
                tokio::time::sleep(DEAD_RETRY).await;
            }
        }
        let Some(tag) = tag else { continue };
        crash::point("executor.requests.ack.before");
        acker.ack_up_to(tag);
        crash::point("executor.requests.ack.after");
    }
}
