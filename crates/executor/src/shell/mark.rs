//! The marks of the journal on the broker: left, renewed and read.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use slotline_broker::{Error, Properties, Publication, PublishError, Receipt, Session, topology};
use slotline_protocol::chain;
use slotline_scheduler::Counters;

use crate::leader::mark::{Mark, Marks, Unmarked, Witness};

/// How often a leader looks for its own mark before it gives up, and the wait in between: another process reads them all in a
/// few milliseconds.
const LOOKS_MAX: u32 = 50;
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// The `type` of a mark, for people who look at the queue.
const TYPE: &str = "journal.mark";
/// The most marks that are looked at: as many as the queue keeps.
const MARKS_MAX: usize = topology::MARKS_MAX as usize;

/// A mark as it is left in its queue.
pub(crate) fn publication(prefix: &str, mark: &Mark) -> Publication {
    Publication {
        exchange: String::new(),
        routing_key: topology::marks_queue(prefix),
        body: serde_json::to_vec(mark).expect("a mark is plain data").into(),
        properties: Properties { message_type: Some(TYPE.to_owned()), ..Properties::default() },
        mandatory: true,
        persistent: true,
    }
}

/// Reads all marks that are on the broker.
pub(crate) async fn read(session: &Session, prefix: &str) -> Result<Marks, Error> {
    let browser = session.browse(&topology::marks_queue(prefix), MARKS_MAX).await?;
    let read = |body: &[u8]| match serde_json::from_slice(body) {
        Ok(mark) => Some(mark),
        Err(error) => {
            tracing::warn!(error = %chain(&error), "a mark of the journal on the broker can't be read");
            None
        }
    };
    let marks = browser.deliveries.iter().filter_map(|delivery| read(&delivery.body)).collect();
    browser.close().await?;
    Ok(Marks::of(marks))
}

/// Leaves the first mark of a leader, or of a session, and looks then whether another leader has left one: of two that
/// begin at once at least one sees the other's. Returns what may be given then.
pub(crate) fn claim(
    session: &Session,
    prefix: &str,
    mark: Mark,
) -> impl Future<Output = Result<Counters, Unmarked>> + use<> {
    let receipt = session.publish(publication(prefix, &mark));
    let (session, prefix) = (session.clone(), prefix.to_owned());
    async move {
        receipt.await?;
        alone(&session, &prefix, &mark).await?;
        Ok(mark.reserved())
    }
}

/// Leaves `mark`, unless another leader has left one since. Returns what may be given then.
pub(crate) async fn renew(session: Session, prefix: String, mark: Mark) -> Result<Counters, Unmarked> {
    alone(&session, &prefix, &mark).await?;
    session.publish(publication(&prefix, &mark)).await?;
    Ok(mark.reserved())
}

/// Fails if another leader that counts beside the one of `own` has left a mark. While another process reads the marks they are
/// not there for this one, so that a reading tells something only if a mark of this leader is among them.
async fn alone(session: &Session, prefix: &str, own: &Mark) -> Result<(), Unmarked> {
    for _ in 0..LOOKS_MAX {
        match read(session, prefix).await?.beside(own) {
            Err(Unmarked::Gone) => tokio::time::sleep(LOOK_AGAIN).await,
            looked => return looked,
        }
    }
    Err(Unmarked::Gone)
}

/// Whether the broker has a publication of this module.
pub(crate) async fn is_left(receipt: Receipt) -> Result<(), PublishError> {
    receipt.await
}

/// What this process and its readers know of the doubt that its leader has.
#[derive(Debug, Default)]
pub(crate) struct Notice(Mutex<Told>);

#[derive(Debug, Default)]
struct Told {
    doubt: Option<String>,
    witness: Option<Witness>,
}

impl Notice {
    /// Why nothing is granted now, and what is waited for.
    pub(crate) fn doubt(&self) -> Option<String> {
        self.told().doubt.clone()
    }

    pub(crate) fn set_doubt(&self, doubt: Option<String>) {
        self.told().doubt = doubt;
    }

    pub(crate) fn witness(&self) -> Option<Witness> {
        self.told().witness
    }

    pub(crate) fn bear_witness(&self, witness: Witness) {
        self.told().witness = Some(witness);
    }

    fn told(&self) -> std::sync::MutexGuard<'_, Told> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use slotline_broker::topology::{Overflow, Queue};
    use slotline_broker::{Broker, Topology};
    use slotline_protocol::Epoch;
    use slotline_store::Standing;

    use super::*;
    use crate::leader::mark::tests::{hand, mark, standing};

    #[tokio::test]
    async fn of_two_leaders_that_begin_at_once_on_two_copies_at_least_one_stands_down() -> anyhow::Result<()> {
        let session = Broker::memory("p").open("test").await?;
        session
            .declare(&Topology { queues: vec![Queue::quorum(topology::marks_queue("p"))], ..Topology::default() })
            .await?;
        // Both have read the same marks, and both have the same epoch.
        let read = Marks::of(vec![mark()]);
        let hand_of = |site: &str| hand(&Standing { site: site.to_owned(), ..standing() }, Epoch(6), &read);
        let (mut sound, doubted) = (hand_of("one"), hand_of("other"));
        let next = Counters { next_id: 100, next_fence: 100, next_action: 3 };
        let renewal = sound.first(next);
        let (sound, doubted) =
            tokio::join!(claim(&session, "p", renewal.clone()), claim(&session, "p", doubted.claim()));
        let stands_down = |claimed: &Result<Counters, Unmarked>| matches!(claimed, Err(Unmarked::Foreign(_)));
        assert!(stands_down(&sound) || stands_down(&doubted), "{sound:?} {doubted:?}");
        // The one whose place the other took stands down in any case, also on its next session.
        let again = claim(&session, "p", renewal).await;
        assert!(stands_down(&again), "{again:?}");
        Ok(())
    }

    #[tokio::test]
    async fn the_claim_to_another_copy_is_found_however_many_marks_the_leader_of_this_one_leaves() -> anyhow::Result<()>
    {
        let session = Broker::memory("p").open("test").await?;
        let marks = Queue::quorum(topology::marks_queue("p")).bounded(topology::MARKS_MAX, Overflow::DropHead);
        session.declare(&Topology { queues: vec![marks], ..Topology::default() }).await?;
        let next = Counters { next_id: 100, next_fence: 100, next_action: 3 };
        let mut leader = hand(&standing(), Epoch(6), &Marks::of(vec![mark()]));
        let first = leader.first(next);
        leader.renewed(Some(claim(&session, "p", first.clone()).await?));
        // The other one may have a higher or the same epoch, and is silent while it waits for accounts.
        let other = Standing { site: "other".to_owned(), ..standing() };
        let other = hand(&other, Epoch(7), &Marks::of(vec![first])).claim();
        session.publish(publication("p", &other)).await?;
        for _ in 0..2 * topology::MARKS_MAX {
            if leader.may_leave() {
                session.publish(publication("p", &leader.progress(false))).await?;
            }
            if let Some(mark) = leader.renewal(next) {
                let renewed = renew(session.clone(), "p".to_owned(), mark).await;
                assert!(matches!(renewed, Err(Unmarked::Foreign(_))), "{renewed:?}");
                return Ok(());
            }
        }
        panic!("it never looked");
    }
}
