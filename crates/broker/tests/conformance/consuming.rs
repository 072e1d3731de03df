//! Cases about messages on their way out of a queue.

use std::time::Duration;

use slotline_broker::topology::Queue;

use super::world::{World, numbers, prefetch, publish, range, soon, take, until_depth};

fn kinds(world: &World) -> [Queue; 2] {
    [Queue::classic(world.name("classic")), Queue::quorum(world.name("quorum"))]
}

pub(crate) async fn what_is_not_acked_comes_again_in_place_after_the_session(world: World) -> anyhow::Result<()> {
    for queue in kinds(&world) {
        let name = queue.name.clone();
        let first = world.with_queue(queue).await?;
        publish(&first, &name, 0..20).await?;
        let mut consumer = first.consume(&name, prefetch(10)).await?;
        let deliveries = take(&mut consumer, 10).await?;
        consumer.acker().ack(deliveries[4].tag);
        first.close().await;
        assert!(!consumer.next_batch(&mut Vec::new(), 1).await);

        let second = world.session().await?;
        let mut consumer = second.consume(&name, prefetch(100)).await?;
        let deliveries = take(&mut consumer, 19).await?;
        let expected: Vec<u32> = (0..20).filter(|number| *number != 4).collect();
        assert_eq!(numbers(&deliveries), expected, "{name}");
        // The ack made room for one more, which may have been on its way.
        let again: Vec<bool> = deliveries.iter().map(|delivery| delivery.redelivered).collect();
        assert_eq!((&again[..9], &again[10..]), (&[true; 9][..], &[false; 9][..]), "{name}");
    }
    Ok(())
}

pub(crate) async fn what_is_not_acked_comes_again_in_place_after_the_consumer(world: World) -> anyhow::Result<()> {
    let queue = world.name("q");
    let session = world.with_queue(Queue::quorum(queue.clone())).await?;
    publish(&session, &queue, 0..10).await?;
    let mut first = session.consume(&queue, prefetch(5)).await?;
    take(&mut first, 3).await?;
    // An acker that outlives its consumer keeps nothing.
    let acker = first.acker();
    drop(first);
    until_depth(&session, &queue, 10).await?;
    let mut second = session.consume(&queue, prefetch(100)).await?;
    assert_eq!(numbers(&take(&mut second, 10).await?), range(0..10));
    drop(acker);
    assert!(!session.is_over());
    Ok(())
}

pub(crate) async fn ack_up_to_takes_all_before_and_leaves_the_rest(world: World) -> anyhow::Result<()> {
    for queue in kinds(&world) {
        let name = queue.name.clone();
        let session = world.with_queue(queue).await?;
        publish(&session, &name, 0..10).await?;
        let mut consumer = session.consume(&name, prefetch(100)).await?;
        let deliveries = take(&mut consumer, 10).await?;
        consumer.acker().ack_up_to(deliveries[6].tag);
        session.close().await;
        let session = world.session().await?;
        let mut consumer = session.consume(&name, prefetch(100)).await?;
        assert_eq!(numbers(&take(&mut consumer, 3).await?), [7, 8, 9], "{name}");
    }
    Ok(())
}

pub(crate) async fn prefetch_bounds_what_is_unacked(world: World) -> anyhow::Result<()> {
    for queue in kinds(&world) {
        let name = queue.name.clone();
        let session = world.with_queue(queue).await?;
        publish(&session, &name, 0..10).await?;
        let mut consumer = session.consume(&name, prefetch(3)).await?;
        let deliveries = take(&mut consumer, 3).await?;
        until_depth(&session, &name, 7).await?;
        assert!(tokio::time::timeout(Duration::from_millis(100), consumer.next()).await.is_err());
        consumer.acker().ack_up_to(deliveries[1].tag);
        assert_eq!(numbers(&take(&mut consumer, 2).await?), [3, 4], "{name}");
        until_depth(&session, &name, 5).await?;
    }
    Ok(())
}

pub(crate) async fn of_single_active_consumers_the_next_takes_over_in_order(world: World) -> anyhow::Result<()> {
    let queue = world.name("q");
    let settings = Queue { single_active_consumer: true, ..Queue::quorum(queue.clone()) };
    let first = world.with_queue(settings).await?;
    let second = world.session().await?;
    let mut active = first.consume(&queue, prefetch(4)).await?;
    let mut waiting = second.consume(&queue, prefetch(4)).await?;
    publish(&second, &queue, 0..10).await?;
    let deliveries = take(&mut active, 4).await?;
    assert_eq!(numbers(&deliveries), [0, 1, 2, 3]);
    assert!(tokio::time::timeout(Duration::from_millis(100), waiting.next()).await.is_err());
    active.acker().ack(deliveries[0].tag);
    first.close().await;
    let acker = waiting.acker();
    let mut seen = Vec::new();
    while seen.last() != Some(&9) {
        let delivery = take(&mut waiting, 1).await?;
        acker.ack(delivery[0].tag);
        seen.extend(numbers(&delivery));
    }
    assert_eq!(seen, range(1..10));
    Ok(())
}

pub(crate) async fn an_ack_of_an_old_session_changes_nothing(world: World) -> anyhow::Result<()> {
    let queue = world.name("q");
    let first = world.with_queue(Queue::quorum(queue.clone())).await?;
    publish(&first, &queue, 0..3).await?;
    let mut consumer = first.consume(&queue, prefetch(10)).await?;
    let old = take(&mut consumer, 3).await?;
    let old_acker = consumer.acker();
    first.close().await;

    let second = world.session().await?;
    let mut consumer = second.consume(&queue, prefetch(10)).await?;
    let new = take(&mut consumer, 3).await?;
    // Neither the old acker nor an old tag reaches the new deliveries, though they count alike.
    old_acker.ack_up_to(old[2].tag);
    consumer.acker().ack_up_to(old[2].tag);
    old_acker.ack(new[0].tag);
    second.close().await;
    until_depth(&world.session().await?, &queue, 3).await
}

pub(crate) async fn acking_twice_ends_the_session(world: World) -> anyhow::Result<()> {
    let queue = world.name("q");
    let session = world.with_queue(Queue::classic(queue.clone())).await?;
    publish(&session, &queue, 0..1).await?;
    let mut consumer = session.consume(&queue, prefetch(10)).await?;
    let delivery = take(&mut consumer, 1).await?.remove(0);
    let acker = consumer.acker();
    acker.ack(delivery.tag);
    acker.ack(delivery.tag);
    assert!(soon(consumer.next()).await?.is_none());
    let cause = soon(session.ended()).await?.to_string();
    assert!(cause.contains("unknown delivery tag"), "{cause}");
    Ok(())
}

pub(crate) async fn browsing_gives_back_in_place_what_was_not_acked(world: World) -> anyhow::Result<()> {
    let queue = world.name("q");
    let session = world.with_queue(Queue::quorum(queue.clone())).await?;
    publish(&session, &queue, 0..10).await?;
    let browser = session.browse(&queue, 5).await?;
    assert_eq!(numbers(&browser.deliveries), range(0..5));
    browser.ack(browser.deliveries[2].tag);
    browser.close().await?;
    until_depth(&session, &queue, 9).await?;
    // Dropped without being closed, it gives back everything.
    let browser = session.browse(&queue, 100).await?;
    assert_eq!(numbers(&browser.deliveries), [0, 1, 3, 4, 5, 6, 7, 8, 9]);
    drop(browser);
    until_depth(&session, &queue, 9).await?;
    let mut consumer = session.consume(&queue, prefetch(100)).await?;
    assert_eq!(numbers(&take(&mut consumer, 9).await?), [0, 1, 3, 4, 5, 6, 7, 8, 9]);
    Ok(())
}

pub(crate) async fn waiting_for_a_batch_can_be_given_up_without_loss(world: World) -> anyhow::Result<()> {
    let queue = world.name("q");
    let session = world.with_queue(Queue::classic(queue.clone())).await?;
    let mut consumer = session.consume(&queue, prefetch(1000)).await?;
    let publishing = session.clone();
    let target = queue.clone();
    let published = tokio::spawn(async move { publish(&publishing, &target, 0..300).await });
    let mut deliveries = Vec::new();
    while deliveries.len() < 300 {
        // Given up over and over, mostly before anything came.
        let waited = tokio::time::timeout(Duration::from_micros(50), consumer.next_batch(&mut deliveries, 7)).await;
        assert!(waited.unwrap_or(true), "the session is over");
    }
    assert_eq!(numbers(&deliveries), range(0..300));
    published.await??;
    Ok(())
}
