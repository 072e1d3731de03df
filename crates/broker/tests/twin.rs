//! What only the in-process broker can do for a test: faults on demand, and expiry on a clock of the test.

use std::time::Duration;

use slotline_broker::publisher::UNCONFIRMED_MAX;
use slotline_broker::topology::{EXPIRES, Queue};
use slotline_broker::{Broker, Consume, Error, Publication, PublishError, Receipt, Session, Topology};

const CONSUME: Consume = Consume { prefetch: 10 };

async fn with_queue(broker: &Broker, queue: Queue) -> anyhow::Result<Session> {
    let session = broker.open("twin").await?;
    session.declare(&Topology { queues: vec![queue], ..Topology::default() }).await?;
    Ok(session)
}

fn publish(session: &Session) -> Receipt {
    session.publish(Publication { routing_key: "q".to_owned(), mandatory: true, ..Publication::default() })
}

fn classic() -> Queue {
    Queue::classic("q".to_owned())
}

/// Whether the receipt is open, with everything that could settle it done.
async fn is_open(receipt: &mut Receipt) -> bool {
    tokio::time::timeout(Duration::from_secs(3600), receipt).await.is_err()
}

#[tokio::test(start_paused = true)]
async fn a_session_cut_off_before_the_confirm_has_stored_the_message_all_the_same() -> anyhow::Result<()> {
    let broker = Broker::memory("p");
    let faults = broker.memory_faults().expect("in process");
    let session = with_queue(&broker, classic()).await?;
    faults.withhold_confirms(true);
    let mut receipt = publish(&session);
    assert!(is_open(&mut receipt).await);
    assert!(faults.end_session(session.generation()));
    assert_eq!(receipt.await, Err(PublishError::SessionEnded));
    assert!(matches!(session.ended().await, Error::Lost(_)));
    assert_eq!(broker.open("twin").await?.depth("q").await?, 1);
    assert!(!faults.end_session(session.generation()));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn withheld_confirms_arrive_in_the_end() -> anyhow::Result<()> {
    let broker = Broker::memory("p");
    let faults = broker.memory_faults().expect("in process");
    let session = with_queue(&broker, classic()).await?;
    faults.withhold_confirms(true);
    let mut stored = publish(&session);
    let mut lost =
        session.publish(Publication { routing_key: "nowhere".into(), mandatory: true, ..Publication::default() });
    assert!(is_open(&mut stored).await && is_open(&mut lost).await);
    faults.withhold_confirms(false);
    assert_eq!((stored.await, lost.await), (Ok(()), Err(PublishError::Returned)));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_blocked_broker_takes_nothing_until_the_alarm_ends() -> anyhow::Result<()> {
    let broker = Broker::memory("p");
    let faults = broker.memory_faults().expect("in process");
    let (session, cut) = (with_queue(&broker, classic()).await?, broker.open("twin").await?);
    faults.block(true);
    assert!(session.is_blocked() && !session.findings().is_empty());
    let (mut waiting, lost) = (publish(&session), publish(&cut));
    assert!(is_open(&mut waiting).await);
    assert_eq!(session.depth("q").await?, 0);
    faults.end_session(cut.generation());
    assert_eq!(lost.await, Err(PublishError::SessionEnded));
    faults.block(false);
    waiting.await?;
    assert_eq!(session.depth("q").await?, 1);
    Ok(())
}

#[tokio::test]
async fn a_session_with_too_much_unconfirmed_is_full_and_recovers() -> anyhow::Result<()> {
    let broker = Broker::memory("p");
    let faults = broker.memory_faults().expect("in process");
    let session = with_queue(&broker, classic()).await?;
    faults.withhold_confirms(true);
    let receipts: Vec<_> = (0..UNCONFIRMED_MAX).map(|_| publish(&session)).collect();
    assert_eq!(publish(&session).await, Err(PublishError::Full));
    faults.withhold_confirms(false);
    for receipt in receipts {
        receipt.await?;
    }
    publish(&session).await?;
    assert_eq!(session.depth("q").await?, UNCONFIRMED_MAX as u64 + 1);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_queue_expires_after_long_enough_without_a_consumer() -> anyhow::Result<()> {
    let broker = Broker::memory("p");
    let session = with_queue(&broker, classic().expiring(EXPIRES)).await?;
    let consumer = session.consume("q", CONSUME).await?;
    tokio::time::advance(EXPIRES * 2).await;
    publish(&session).await?;
    drop(consumer);
    tokio::time::advance(EXPIRES - Duration::from_secs(1)).await;
    publish(&session).await?;
    assert_eq!(session.depth("q").await?, 2);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(publish(&session).await, Err(PublishError::Returned));
    assert!(matches!(session.depth("q").await, Err(Error::Missing(_))));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn all_sessions_end_when_the_broker_goes_and_the_messages_stay() -> anyhow::Result<()> {
    let broker = Broker::memory("p");
    let faults = broker.memory_faults().expect("in process");
    let session = with_queue(&broker, classic()).await?;
    publish(&session).await?;
    let mut consumer = broker.open("other").await?.consume("q", CONSUME).await?;
    assert!(consumer.next().await.is_some());
    faults.end_sessions();
    assert!(consumer.next().await.is_none());
    faults.refuse_sessions(true);
    assert!(matches!(broker.open("twin").await, Err(Error::Unreachable { .. })));
    faults.refuse_sessions(false);
    let mut consumer = broker.open("twin").await?.consume("q", CONSUME).await?;
    assert!(consumer.next().await.is_some_and(|delivery| delivery.redelivered));
    Ok(())
}
