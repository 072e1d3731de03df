//! What is to be done after a publication: observing that an order was returned, and acking requests once all their
//! letters are safe.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use slotline_broker::{Acker, Publication, PublishError, Receipt, Session, Tag, crash};
use slotline_protocol::Incarnation;
use slotline_protocol::chain;
use slotline_scheduler::Counters;
use tokio::sync::{mpsc, watch};

use super::headers::DETAIL_HEADER;
use crate::leader::Handled;
use crate::leader::letters::Weighed;
use crate::leader::mark::Unmarked;

/// Wait before a refused dead letter is tried again.
const DEAD_RETRY: Duration = Duration::from_millis(500);
/// Dead letters under way at once: enough to keep the broker busy, and few beside what else waits for its confirms.
const DEAD_AT_ONCE: usize = 64;

/// What became of an order, as far as the broker knows.
#[derive(Debug)]
pub(crate) enum Fate {
    /// It is on its way, or never will be.
    Settled,
    /// The queue of the incarnation is gone.
    Returned(Incarnation),
    /// A dead letter is stored.
    Stored { weight: usize },
    /// There is room for more events that are to be published.
    Announced,
    /// The mark of the journal was left, or was not.
    Marked(Result<Counters, Unmarked>),
}

/// Reports to the loop the fate of its orders.
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
                    // What was on its way is sent again in the next session.
                    Ok(()) | Err(PublishError::SessionEnded) => Fate::Settled,
                    Err(error) => {
                        tracing::warn!(error = %chain(&error), worker.incarnation = %incarnation, "an order did not leave; \
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

/// Deliveries up to `tag` that may be acked once so many letters are stored.
struct Group {
    tag: Option<Tag>,
    unstored: usize,
    is_acked: bool,
}

/// Acks requests once their dead copies are confirmed. Many copies are under way at once, and a request without a copy
/// is acked past those with one, so that neither a flood of bad messages nor a letter that the broker refuses holds up
/// good ones.
pub(crate) async fn ack_requests(
    mut handled: mpsc::UnboundedReceiver<Handled<Publication>>,
    session: Session,
    acker: Acker,
    fates: mpsc::UnboundedSender<Fate>,
    acked: watch::Sender<Option<Tag>>,
) {
    let (mut groups, mut next) = (BTreeMap::<u64, Group>::new(), 0);
    let mut acked_up_to = None;
    let mut waiting = VecDeque::new();
    let mut storing = FuturesUnordered::new();
    let mut is_open = true;
    while is_open || !groups.is_empty() {
        while storing.len() < DEAD_AT_ONCE
            && let Some((group, letter)) = waiting.pop_front()
        {
            storing.push(store(&session, group, letter));
        }
        tokio::select! {
            batch = handled.recv(), if is_open => match batch {
                Some(Handled { tag, dead }) => {
                    let group = groups.entry(next).or_insert(Group { tag: None, unstored: 0, is_acked: false });
                    group.tag = tag;
                    group.unstored += dead.len();
                    waiting.extend(dead.into_iter().map(|letter| (next, letter)));
                    next += u64::from(tag.is_some());
                }
                None => {
                    is_open = false;
                    // The rest of the last delivery will never come.
                    groups.retain(|_, group| group.tag.is_some());
                }
            },
            Some(stored) = storing.next() => {
                let Some((number, weight)) = stored else { return };
                if let Some(group) = groups.get_mut(&number) {
                    group.unstored -= 1;
                }
                // The leader may be gone.
                let _ = fates.send(Fate::Stored { weight });
            }
        }
        ack_what_is_stored(&mut groups, &mut acked_up_to, &acker);
        acked.send_if_modified(|acked| {
            *acked != acked_up_to && {
                *acked = acked_up_to;
                true
            }
        });
    }
}

fn ack_what_is_stored(groups: &mut BTreeMap<u64, Group>, acked_up_to: &mut Option<Tag>, acker: &Acker) {
    while let Some(first) = groups.first_entry()
        && let Group { tag: Some(tag), unstored: 0, is_acked } = *first.get()
    {
        first.remove();
        if !is_acked {
            crash::point("executor.requests.ack.before");
            acker.ack_up_to(tag);
            crash::point("executor.requests.ack.after");
        }
        *acked_up_to = Some(tag);
    }
    let mut after = *acked_up_to;
    for group in groups.values_mut() {
        let Some(tag) = group.tag else { break };
        if group.unstored == 0 && !group.is_acked {
            acker.ack_between(after, tag);
            group.is_acked = true;
        }
        after = Some(tag);
    }
}

/// Publishes a letter until the broker has it; `None` once the session is over.
async fn store(session: &Session, group: u64, letter: Weighed) -> Option<(u64, usize)> {
    let Weighed { mut letter, weight } = letter;
    let mut is_said = false;
    while let Err(error) = session.publish(letter.clone()).await {
        if matches!(error, PublishError::SessionEnded | PublishError::Overdue) {
            return None;
        }
        if error == PublishError::TooLarge {
            cut(&mut letter, session.sizes().message());
            continue;
        }
        if !is_said {
            tracing::warn!(error = %chain(&error), "a dead letter can't be stored; its request stays unacked meanwhile");
            is_said = true;
        }
        tokio::time::sleep(DEAD_RETRY).await;
    }
    Some((group, weight))
}

/// Cuts a letter to the size that can be published: a broker may take less than it took when the message was put in.
fn cut(letter: &mut Publication, most: usize) {
    let bytes = letter.body.len();
    letter.body.truncate(most);
    let detail = letter.properties.headers.entry(DETAIL_HEADER.to_owned()).or_default();
    detail.push_str(&format!("; cut here, it had {bytes} bytes"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_body_that_no_message_can_hold_is_put_aside_cut() -> Result<(), slotline_broker::Error> {
        let broker = slotline_broker::Broker::memory("p");
        let session = broker.open("test").await?;
        let most = session.sizes().message();
        let letter = |bytes: usize| Publication { body: vec![b'x'; bytes].into(), ..Publication::default() };
        assert_eq!(store(&session, 7, letter(most + 1).into()).await.map(|(group, _)| group), Some(7));
        let mut large = letter(most + 1);
        cut(&mut large, most);
        assert_eq!(large.body.len(), most);
        assert!(large.properties.headers[DETAIL_HEADER].contains(&(most + 1).to_string()));
        Ok(())
    }
}
