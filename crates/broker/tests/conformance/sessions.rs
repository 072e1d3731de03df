//! Cases about what is declared, and about the life and end of a session.

use slotline_broker::topology::{
    Binding, LOGS_KEY, Overflow, Queue, events_exchange, requests_queue, to_worker, work_exchange, worker_queue,
};
use slotline_broker::{Error, Publication, PublishError, Topology};
use slotline_protocol::{Epoch, Incarnation, WorkerName};
use uuid::Uuid;

use super::world::{World, numbers, prefetch, publish, range, soon, take, to_queue, until_depth};

pub(crate) async fn declaring_twice_changes_nothing(world: World) -> anyhow::Result<()> {
    let topology = Topology::requests(world.broker.prefix());
    let session = world.session().await?;
    session.declare(&topology).await?;
    let requests = requests_queue(world.broker.prefix());
    publish(&session, &requests, 0..3).await?;
    session.declare(&topology).await?;
    world.session().await?.declare(&topology).await?;
    until_depth(&session, &requests, 3).await
}

pub(crate) async fn every_topology_is_accepted(world: World) -> anyhow::Result<()> {
    let (prefix, session) = (world.broker.prefix(), world.session().await?);
    let name = WorkerName::new("w-1")?;
    for topology in [
        Topology::requests(prefix),
        Topology::leader(prefix, Epoch(1), 1),
        Topology::worker(prefix, &name, Incarnation(Uuid::from_u128(1)), 1),
        Topology::replies(prefix, Uuid::from_u128(2), 1),
        Topology::events(prefix),
    ] {
        session.declare(&topology).await?;
        for queue in &topology.queues {
            assert_eq!(session.depth(&queue.name).await?, 0, "{}", queue.name);
        }
    }
    Ok(())
}

pub(crate) async fn what_an_earlier_session_left_comes_first_and_its_queue_is_gone(world: World) -> anyhow::Result<()> {
    let (old, new) = (world.name("old"), world.name("new"));
    let first = world.with_queue(Queue::classic(old.clone())).await?;
    publish(&first, &old, 0..5).await?;
    first.close().await;
    let second = world.with_queue(Queue::classic(new.clone())).await?;
    publish(&second, &new, 5..8).await?;
    let consumer = second.consume(&new, prefetch(10)).await?;
    let mut consumer = consumer.preceded_by(second.salvage(&old).await);
    let deliveries = take(&mut consumer, 8).await?;
    assert_eq!(numbers(&deliveries), range(0..8));
    // No ack is owed for what was salvaged, and none ends the session.
    for delivery in &deliveries {
        consumer.acker().ack_up_to(delivery.tag);
    }
    assert!(second.depth(&old).await.is_err());
    // A queue that is not there has nothing, and no harm is done.
    assert!(second.salvage(&old).await.is_empty());
    until_depth(&second, &new, 0).await
}

pub(crate) async fn unbinding_what_never_was_changes_nothing(world: World) -> anyhow::Result<()> {
    let session = world.session().await?;
    let binding = |exchange: &str, queue: &str| Binding {
        exchange: world.name(exchange),
        pattern: "a.key".to_owned(),
        queue: world.name(queue),
    };
    session.unbind(&[binding("no-exchange", "no-queue"), binding("no-exchange", "nor-this")]).await?;
    let mut topology = world.topology([Queue::classic(world.name("q"))]);
    topology.bindings.push(Binding { exchange: topology.exchanges[0].name.clone(), ..binding("", "q") });
    let bindings = topology.bindings.clone();
    session.declare(&topology).await?;
    for _ in 0..2 {
        session.unbind(&bindings).await?;
    }
    let unroutable = Publication {
        exchange: bindings[0].exchange.clone(),
        routing_key: "a.key".to_owned(),
        mandatory: true,
        ..Publication::default()
    };
    assert_eq!(soon(session.publish(unroutable)).await?, Err(PublishError::Returned));
    Ok(())
}

/// As a queue does while its node is away.
pub(crate) async fn a_queue_that_refuses_nacks_for_all_until_it_is_unbound(world: World) -> anyhow::Result<()> {
    let session = world.session().await?;
    let (dead, live) = (world.name("dead"), world.name("live"));
    let queues = [Queue::classic(dead.clone()).bounded(0, Overflow::RejectPublish), Queue::classic(live.clone())];
    let mut topology = world.topology(queues);
    let exchange = topology.exchanges[0].name.clone();
    let bind =
        |queue: &str| Binding { exchange: exchange.clone(), pattern: "beat".to_owned(), queue: queue.to_owned() };
    topology.bindings = vec![bind(&dead), bind(&live)];
    session.declare(&topology).await?;
    let beat = || Publication { exchange: exchange.clone(), routing_key: "beat".to_owned(), ..to_queue("", 1) };
    assert_eq!(soon(session.publish(beat())).await?, Err(PublishError::Nacked));
    until_depth(&session, &live, 1).await?;
    session.unbind(&[bind(&dead)]).await?;
    soon(session.publish(beat())).await??;
    until_depth(&session, &live, 2).await
}

pub(crate) async fn a_declare_with_other_settings_is_a_mismatch(world: World) -> anyhow::Result<()> {
    let queue = Queue::classic(world.name("q"));
    world.with_queue(queue.clone()).await?;
    let session = world.session().await?;
    let other = world.topology([queue.clone().bounded(5, Overflow::DropHead)]);
    let error = session.declare(&other).await.expect_err("other settings");
    assert!(matches!(&error, Error::Mismatch { name, .. } if *name == queue.name), "{error:?}");
    assert_eq!(soon(session.ended()).await?, error);
    Ok(())
}

pub(crate) async fn a_worker_gets_its_own_messages_and_the_broadcasts(world: World) -> anyhow::Result<()> {
    let (prefix, session) = (world.broker.prefix(), world.session().await?);
    let name = WorkerName::new("w-1")?;
    let (ours, theirs) = (Incarnation(Uuid::from_u128(1)), Incarnation(Uuid::from_u128(2)));
    session.declare(&Topology::worker(prefix, &name, ours, 1)).await?;
    session.declare(&Topology::worker(prefix, &name, theirs, 1)).await?;
    let keys = [
        to_worker("execution.scheduled", ours),
        to_worker("execution.scheduled", theirs),
        "executor.hello".to_owned(),
        to_worker("execution.recorded", ours),
        to_worker("executor.hello", ours),
    ];
    for (number, key) in (0..).zip(&keys) {
        let publication =
            Publication { exchange: work_exchange(prefix), routing_key: key.clone(), ..to_queue("", number as u32) };
        soon(session.publish(publication)).await??;
    }
    let stray = Publication { exchange: work_exchange(prefix), ..to_queue("execution.scheduled", 9) };
    assert_eq!(soon(session.publish(stray)).await?, Err(PublishError::Returned));
    let mut consumer = session.consume(&worker_queue(prefix, &name, ours, 1), prefetch(10)).await?;
    let deliveries = take(&mut consumer, 4).await?;
    assert_eq!(numbers(&deliveries), [0, 2, 3, 4]);
    assert_eq!(deliveries[0].routing_key, keys[0]);
    assert_eq!(deliveries[0].exchange, work_exchange(prefix));
    until_depth(&session, &worker_queue(prefix, &name, theirs, 1), 2).await
}

pub(crate) async fn the_public_receives_nothing_of_what_executors_and_workers_send_each_other(
    world: World,
) -> anyhow::Result<()> {
    let (prefix, session) = (world.broker.prefix(), world.session().await?);
    let (listener, name) = (world.name("listener"), WorkerName::new("w-1")?);
    let everything = Topology {
        queues: vec![Queue::classic(listener.clone())],
        bindings: vec![Binding { exchange: events_exchange(prefix), pattern: "#".to_owned(), queue: listener.clone() }],
        ..Topology::events(prefix)
    };
    session.declare(&Topology::leader(prefix, Epoch(1), 1)).await?;
    session.declare(&Topology::worker(prefix, &name, Incarnation(Uuid::nil()), 1)).await?;
    session.declare(&everything).await?;
    let mut consumer = session.consume(&listener, prefetch(100)).await?;
    let keys = ["execution.status_changed", "execution.progress", LOGS_KEY, "execution.completed", "worker.heartbeat"];
    for (number, key) in (0..).zip(keys) {
        let work = Publication { exchange: work_exchange(prefix), mandatory: false, ..to_queue(key, number as u32) };
        soon(session.publish(work)).await??;
        // Mandatory, so that a key without a subscriber would be noticed.
        let event = Publication { exchange: events_exchange(prefix), ..to_queue(key, 10 + number as u32) };
        soon(session.publish(event)).await??;
    }
    assert_eq!(numbers(&take(&mut consumer, keys.len()).await?), range(10..15));
    Ok(())
}

pub(crate) async fn deleting_a_queue_ends_the_sessions_that_consume_it(world: World) -> anyhow::Result<()> {
    let queue = world.name("q");
    let session = world.with_queue(Queue::classic(queue.clone())).await?;
    let mut consumer = session.consume(&queue, prefetch(10)).await?;
    let other = world.session().await?;
    other.delete_queue(&queue).await?;
    assert!(soon(consumer.next()).await?.is_none());
    assert_eq!(soon(session.ended()).await?, Error::ConsumerCancelled { queue: queue.clone() });
    assert!(!other.is_over());
    other.delete_queue(&queue).await?;
    Ok(())
}

pub(crate) async fn a_missing_queue_is_an_error_that_leaves_the_session_alone(world: World) -> anyhow::Result<()> {
    let (queue, missing) = (world.name("q"), world.name("missing"));
    let session = world.with_queue(Queue::classic(queue.clone())).await?;
    let error = session.depth(&missing).await.expect_err("missing");
    assert!(matches!(error, Error::Missing(_)), "{error:?}");
    let error = session.browse(&missing, 10).await.map(drop).expect_err("missing");
    assert!(matches!(error, Error::Missing(_)), "{error:?}");
    publish(&session, &queue, 0..3).await?;
    assert!(!session.is_over());
    Ok(())
}

pub(crate) async fn consuming_a_missing_queue_ends_the_session(world: World) -> anyhow::Result<()> {
    let session = world.session().await?;
    let error = session.consume(&world.name("missing"), prefetch(1)).await.map(drop).expect_err("missing");
    assert!(matches!(error, Error::Missing(_)), "{error:?}");
    assert_eq!(soon(session.ended()).await?, error);
    Ok(())
}

pub(crate) async fn a_deleted_queue_is_declared_again_empty(world: World) -> anyhow::Result<()> {
    let queue = world.name("q");
    let session = world.with_queue(Queue::classic(queue.clone())).await?;
    publish(&session, &queue, 0..3).await?;
    session.delete_queue(&queue).await?;
    assert_eq!(soon(session.publish(to_queue(&queue, 3))).await?, Err(PublishError::Returned));
    session.declare(&world.topology([Queue::classic(queue.clone())])).await?;
    publish(&session, &queue, 4..6).await?;
    let mut consumer = session.consume(&queue, prefetch(10)).await?;
    assert_eq!(numbers(&take(&mut consumer, 2).await?), range(4..6));
    Ok(())
}

pub(crate) async fn after_the_end_everything_fails(world: World) -> anyhow::Result<()> {
    let queue = world.name("q");
    let session = world.with_queue(Queue::classic(queue.clone())).await?;
    publish(&session, &queue, 0..3).await?;
    let mut consumer = session.consume(&queue, prefetch(10)).await?;
    take(&mut consumer, 1).await?;
    session.close().await;
    session.close().await;
    assert!(session.is_over());
    assert_eq!(session.publish(to_queue(&queue, 1)).await, Err(PublishError::SessionEnded));
    assert!(consumer.next().await.is_none());
    assert!(session.depth(&queue).await.is_err());
    assert!(session.declare(&world.topology([])).await.is_err());
    assert_eq!(session.ended().await, Error::Closed);
    Ok(())
}

pub(crate) async fn a_session_ends_with_its_last_handle_and_consumer(world: World) -> anyhow::Result<()> {
    let queue = world.name("q");
    let session = world.with_queue(Queue::classic(queue.clone())).await?;
    publish(&session, &queue, 0..3).await?;
    let mut consumer = session.consume(&queue, prefetch(10)).await?;
    drop(session);
    // A consumer keeps its session.
    assert_eq!(numbers(&take(&mut consumer, 3).await?), range(0..3));
    drop(consumer);
    let next = world.session().await?;
    until_depth(&next, &queue, 3).await
}
