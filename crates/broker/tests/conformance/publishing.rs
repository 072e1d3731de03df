//! Cases about messages on their way to a queue.

use slotline_broker::publisher::BODY_BYTES_MAX;
use slotline_broker::topology::{Overflow, Queue, executions_exchange};
use slotline_broker::{Error, Properties, Publication, PublishError};
use slotline_protocol::Timestamp;

use super::world::{World, numbers, prefetch, publish, range, soon, take, to_queue, until_depth};

pub(crate) async fn a_confirm_means_that_the_message_is_stored(world: World) -> anyhow::Result<()> {
    for queue in [Queue::classic(world.name("classic")), Queue::quorum(world.name("quorum"))] {
        let name = queue.name.clone();
        let session = world.with_queue(queue).await?;
        publish(&session, &name, 0..100).await?;
        session.close().await;
        until_depth(&world.session().await?, &name, 100).await?;
    }
    Ok(())
}

pub(crate) async fn messages_arrive_in_the_order_of_the_calls(world: World) -> anyhow::Result<()> {
    let queue = world.name("q");
    let session = world.with_queue(Queue::quorum(queue.clone())).await?;
    let mut consumer = session.consume(&queue, prefetch(100)).await?;
    let receipts: Vec<_> = (0..5000).map(|number| session.publish(to_queue(&queue, number))).collect();
    let acker = consumer.acker();
    let mut seen = Vec::new();
    while seen.len() < 5000 {
        let deliveries = take(&mut consumer, 1).await?;
        acker.ack(deliveries[0].tag);
        seen.extend(numbers(&deliveries));
    }
    assert_eq!(seen, range(0..5000));
    for receipt in receipts {
        receipt.await?;
    }
    Ok(())
}

pub(crate) async fn of_mandatory_messages_exactly_the_unroutable_ones_are_returned(world: World) -> anyhow::Result<()> {
    let (queue, nowhere) = (world.name("q"), world.name("nowhere"));
    let session = world.with_queue(Queue::classic(queue.clone())).await?;
    let goes_nowhere = |number: u32| number.is_multiple_of(3) || number % 7 == 1;
    // Many at once, so that the broker acknowledges several with one frame; `returns.rs` makes that certain.
    for round in 0..3 {
        let receipts: Vec<_> = (0..3000)
            .map(|number| session.publish(to_queue(if goes_nowhere(number) { &nowhere } else { &queue }, number)))
            .collect();
        for (number, receipt) in (0..).zip(receipts) {
            let expected = if goes_nowhere(number) { Err(PublishError::Returned) } else { Ok(()) };
            assert_eq!(soon(receipt).await?, expected, "message {number} of round {round}");
        }
    }
    Ok(())
}

pub(crate) async fn an_unroutable_message_that_is_not_mandatory_is_confirmed(world: World) -> anyhow::Result<()> {
    let session = world.with_queue(Queue::classic(world.name("q"))).await?;
    for target in [String::new(), executions_exchange(world.broker.prefix())] {
        let lost = Publication { mandatory: false, exchange: target, ..to_queue("nobody.listens", 1) };
        soon(session.publish(lost)).await??;
    }
    Ok(())
}

pub(crate) async fn a_full_queue_that_rejects_nacks(world: World) -> anyhow::Result<()> {
    let queue = world.name("q");
    let session = world.with_queue(Queue::classic(queue.clone()).bounded(3, Overflow::RejectPublish)).await?;
    publish(&session, &queue, 0..3).await?;
    assert_eq!(soon(session.publish(to_queue(&queue, 3))).await?, Err(PublishError::Nacked));
    let mut consumer = session.consume(&queue, prefetch(10)).await?;
    assert_eq!(numbers(&take(&mut consumer, 3).await?), [0, 1, 2]);
    publish(&session, &queue, 4..5).await?;
    assert_eq!(numbers(&take(&mut consumer, 1).await?), [4]);
    Ok(())
}

pub(crate) async fn a_full_queue_that_drops_keeps_the_newest(world: World) -> anyhow::Result<()> {
    let queue = world.name("q");
    let session = world.with_queue(Queue::classic(queue.clone()).bounded(3, Overflow::DropHead)).await?;
    publish(&session, &queue, 0..10).await?;
    until_depth(&session, &queue, 3).await?;
    let mut consumer = session.consume(&queue, prefetch(10)).await?;
    assert_eq!(numbers(&take(&mut consumer, 3).await?), [7, 8, 9]);
    Ok(())
}

pub(crate) async fn a_body_of_8_mib_passes_and_one_too_large_is_refused_without_harm(
    world: World,
) -> anyhow::Result<()> {
    let queue = world.name("q");
    let session = world.with_queue(Queue::classic(queue.clone())).await?;
    let body: Vec<u8> = (0..8 << 20).map(|byte: u32| byte.to_le_bytes()[1]).collect();
    let large = Publication { body: body.clone().into(), ..to_queue(&queue, "") };
    soon(session.publish(large)).await??;
    let too_large = Publication { body: vec![0; BODY_BYTES_MAX + 1].into(), ..to_queue(&queue, "") };
    assert_eq!(session.publish(too_large).await, Err(PublishError::TooLarge));
    assert_eq!(session.publish(to_queue(&"x".repeat(256), "")).await, Err(PublishError::TooLarge));
    let empty = Publication { body: Vec::new().into(), ..to_queue(&queue, "") };
    soon(session.publish(empty)).await??;
    let mut consumer = session.consume(&queue, prefetch(10)).await?;
    let deliveries = take(&mut consumer, 2).await?;
    assert!(deliveries[0].body == body && deliveries[1].body.is_empty());
    Ok(())
}

pub(crate) async fn properties_travel_with_the_message(world: World) -> anyhow::Result<()> {
    let queue = world.name("q");
    let session = world.with_queue(Queue::classic(queue.clone())).await?;
    let properties = Properties {
        message_id: Some("m-1".into()),
        message_type: Some("execution.requested".into()),
        app_id: Some("billing".into()),
        content_type: Some("text/json".into()),
        content_encoding: Some("utf-8".into()),
        correlation_id: Some("c-1".into()),
        reply_to: Some("answers".into()),
        timestamp: Some(Timestamp::from_micros(1_763_713_800_000_000)),
        priority: Some(9),
        user_id: Some("another".into()),
        headers: [("x-slotline-reason".to_owned(), "malformed".to_owned())].into(),
    };
    let publication = Publication { properties: properties.clone(), ..to_queue(&queue, 1) };
    soon(session.publish(publication)).await??;
    let mut consumer = session.consume(&queue, prefetch(10)).await?;
    let delivery = take(&mut consumer, 1).await?.remove(0);
    // All but the priority, which would change the order, and the user, which the connection sets.
    assert_eq!(delivery.properties, Properties { priority: None, user_id: None, ..properties });
    assert_eq!((delivery.exchange.as_str(), delivery.routing_key), ("", queue));
    assert!(!delivery.redelivered);
    Ok(())
}

pub(crate) async fn publishing_to_a_missing_exchange_ends_the_session(world: World) -> anyhow::Result<()> {
    let session = world.session().await?;
    let lost = Publication { exchange: world.name("missing"), ..to_queue("key", 1) };
    assert_eq!(soon(session.publish(lost)).await?, Err(PublishError::SessionEnded));
    let cause = soon(session.ended()).await?;
    assert!(matches!(cause, Error::Missing(_)), "{cause:?}");
    Ok(())
}

pub(crate) async fn closing_a_session_sends_out_what_was_published(world: World) -> anyhow::Result<()> {
    let queue = world.name("q");
    let session = world.with_queue(Queue::classic(queue.clone())).await?;
    let receipts: Vec<_> = (0..1000).map(|number| session.publish(to_queue(&queue, number))).collect();
    session.close().await;
    for receipt in receipts {
        receipt.await?;
    }
    assert_eq!(session.ended().await, Error::Closed);
    until_depth(&world.session().await?, &queue, 1000).await
}

pub(crate) async fn dropping_a_receipt_does_not_unsend(world: World) -> anyhow::Result<()> {
    let queue = world.name("q");
    let session = world.with_queue(Queue::classic(queue.clone())).await?;
    for number in 0..100 {
        drop(session.publish(to_queue(&queue, number)));
    }
    until_depth(&session, &queue, 100).await
}
