//! What only a real broker can suffer: restarts, a freeze, an alarm, and refusals. Each on a node of its own.

use std::time::{Duration, Instant};

use anyhow::Context;
use slotline_broker::publisher::{CONFIRM_DEADLINE, UNCONFIRMED_MAX};
use slotline_broker::topology::{Queue, dead_queue, requests_queue};
use slotline_broker::{
    Broker, Consume, Consumer, Error, Properties, Publication, PublishError, Session, Supervisor, Topology,
};
use slotline_tests::{Rabbit, Signal, eventually};

/// A broker that starts again takes its time on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);
const CONSUME: Consume = Consume { prefetch: 100 };

fn to_queue(queue: &str, number: u32) -> Publication {
    Publication {
        routing_key: queue.to_owned(),
        body: number.to_string().into(),
        mandatory: true,
        persistent: true,
        ..Publication::default()
    }
}

async fn soon<T>(future: impl Future<Output = T>) -> anyhow::Result<T> {
    tokio::time::timeout(DEADLINE, future).await.context("waited in vain")
}

/// The numbers of the next `count` deliveries, none of them acked.
async fn take(consumer: &mut Consumer, count: usize) -> anyhow::Result<Vec<u32>> {
    let mut deliveries = Vec::new();
    while deliveries.len() < count {
        let missing = count - deliveries.len();
        anyhow::ensure!(soon(consumer.next_batch(&mut deliveries, missing)).await?, "the session is over");
    }
    deliveries.iter().map(|delivery| Ok(std::str::from_utf8(&delivery.body)?.parse()?)).collect()
}

async fn session_with_requests(supervisor: &mut Supervisor) -> anyhow::Result<Session> {
    let session = soon(supervisor.next()).await?;
    session.declare(&Topology::requests(supervisor.broker().prefix())).await?;
    Ok(session)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_supervisor_comes_back_after_every_outage_and_finds_the_messages_in_order() -> anyhow::Result<()> {
    let rabbit = Rabbit::start().await?;
    let mut supervisor = Supervisor::new(Broker::rabbit(&rabbit.url(), "out")?, "outage");
    let requests = requests_queue("out");
    let mut stored = 0;
    for outage in ["stop_app", "restart", "kill", "close_all_connections"] {
        let session = session_with_requests(&mut supervisor).await.context(outage)?;
        let mut consumer = session.consume(&requests, CONSUME).await?;
        for _ in 0..5 {
            soon(session.publish(to_queue(&requests, stored))).await??;
            stored += 1;
        }
        assert_eq!(take(&mut consumer, stored as usize).await?, (0..stored).collect::<Vec<_>>());
        match outage {
            "stop_app" => {
                rabbit.stop_app().await?;
                rabbit.start_app().await?;
            }
            "restart" => rabbit.restart().await?,
            "kill" => {
                rabbit.kill().await?;
                rabbit.start_again().await?;
            }
            _ => rabbit.close_connections(&["close_all_connections", "test"]).await?,
        }
        let cause = soon(session.ended()).await?;
        assert!(matches!(cause, Error::Lost(_)), "{outage}: {cause:?}");
        assert!(soon(consumer.next()).await?.is_none());
        assert_eq!(session.publish(to_queue(&requests, 0)).await, Err(PublishError::SessionEnded));
    }
    let session = session_with_requests(&mut supervisor).await?;
    let mut consumer = session.consume(&requests, CONSUME).await?;
    assert_eq!(take(&mut consumer, stored as usize).await?, (0..stored).collect::<Vec<_>>());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_broker_ends_the_session_when_a_confirm_is_overdue() -> anyhow::Result<()> {
    let rabbit = Rabbit::start().await?;
    let mut supervisor = Supervisor::new(Broker::rabbit(&rabbit.url(), "out")?, "frozen");
    let session = session_with_requests(&mut supervisor).await?;
    soon(session.publish(to_queue(&dead_queue("out"), 1))).await??;
    rabbit.freeze().await?;
    let begun = Instant::now();
    let receipt = session.publish(to_queue(&dead_queue("out"), 2));
    let result = soon(receipt).await;
    let cause = soon(session.ended()).await;
    let took = begun.elapsed();
    rabbit.signal(Signal::SIGCONT)?;
    assert_eq!((result?, cause?), (Err(PublishError::Overdue), Error::Overdue { after: CONFIRM_DEADLINE }));
    assert!(took >= CONFIRM_DEADLINE, "{took:?}");
    let next = session_with_requests(&mut supervisor).await?;
    soon(next.publish(to_queue(&dead_queue("out"), 3))).await??;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_alarm_holds_publications_back_while_consuming_goes_on() -> anyhow::Result<()> {
    let rabbit = Rabbit::start().await?;
    let broker = Broker::rabbit(&rabbit.url(), "out")?;
    let session = broker.open("alarm").await?;
    let queue = Queue::classic("out.q".into());
    session.declare(&Topology { queues: vec![queue.clone()], ..Topology::default() }).await?;
    for number in 0..3 {
        soon(session.publish(to_queue(&queue.name, number))).await??;
    }
    assert!(session.findings().is_empty(), "{:?}", session.findings());

    rabbit.ctl(&["set_vm_memory_high_watermark", "0"]).await?;
    let waiting = session.publish(to_queue(&queue.name, 3));
    eventually("the alarm blocks publishers", DEADLINE, async || Ok(session.is_blocked().then_some(()))).await?;
    assert!(session.findings()[0].contains("blocks publishers"));
    let mut consumer = session.consume(&queue.name, CONSUME).await?;
    let mut deliveries = Vec::new();
    while deliveries.len() < 3 {
        assert!(soon(consumer.next_batch(&mut deliveries, 10)).await?);
    }
    consumer.acker().ack_up_to(deliveries[2].tag);
    // The buffer is bounded, and a full one refuses at once.
    let held: Vec<_> = (0..UNCONFIRMED_MAX).map(|_| session.publish(to_queue("nowhere", 0))).collect();
    assert_eq!(soon(session.publish(to_queue(&queue.name, 9))).await?, Err(PublishError::Full));
    // An alarm may last longer than a confirm.
    let over = tokio::time::timeout(CONFIRM_DEADLINE + Duration::from_secs(2), session.ended()).await;
    assert!(over.is_err(), "{over:?}");
    rabbit.ctl(&["set_vm_memory_high_watermark", "absolute", "2GB"]).await?;
    soon(waiting).await??;
    let mut refused = 0;
    for receipt in held {
        match soon(receipt).await? {
            Err(PublishError::Returned) => {}
            Err(PublishError::Full) => refused += 1,
            other => panic!("{other:?}"),
        }
    }
    // One place was taken by the publication before them.
    assert_eq!(refused, 1);
    assert_eq!(take(&mut consumer, 1).await?, [3]);
    assert!(!session.is_blocked());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_of_the_broker_is_readable_and_without_the_password() -> anyhow::Result<()> {
    let rabbit = Rabbit::shared().await?;
    let port = rabbit.port();
    for (url, expected) in [
        (format!("amqp://guest:s3cret@127.0.0.1:{port}"), "ACCESS_REFUSED"),
        (format!("amqp://guest:guest@127.0.0.1:{port}/s3cret-host"), "vhost"),
        ("amqp://guest:s3cret@127.0.0.1:1".to_owned(), "can't reach the broker at amqp://127.0.0.1:1/"),
        ("amqp://guest:s3cret@[::1]:1".to_owned(), "can't reach the broker at amqp://::1:1/"),
        (format!("amqps://guest:s3cret@127.0.0.1:{port}"), "can't reach the broker at amqps://"),
    ] {
        let text = match soon(Broker::rabbit(&url, "out")?.open("refused")).await? {
            Ok(session) => panic!("{url} was opened: {session:?}"),
            Err(error) => error.to_string(),
        };
        assert!(text.contains(expected) && !text.contains("guest:s3cret"), "{url}: {text}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_message_is_sent_that_the_broker_does_not_take_and_one_that_takes_too_little_is_refused()
-> anyhow::Result<()> {
    let rabbit = Rabbit::start().await?;
    let takes = async |bytes: usize| {
        let set = format!("application:set_env(rabbit, max_message_size, {bytes}).");
        rabbit.ctl(&["eval", &set]).await
    };
    let broker = Broker::rabbit(&rabbit.url(), "small")?;
    takes((256 << 10) - 1).await?;
    let text = match soon(broker.open("small")).await? {
        Ok(session) => panic!("it was opened: {session:?}"),
        Err(error) => error.to_string(),
    };
    assert!(text.contains("262143") && text.contains("set max_message_size in rabbitmq.conf"), "{text}");

    let body = |bytes: usize| Publication {
        routing_key: "nowhere".to_owned(),
        body: vec![0; bytes].into(),
        ..Publication::default()
    };
    takes(1 << 20).await?;
    let session = soon(broker.open("small")).await??;
    assert_eq!(session.sizes().message(), 1 << 20);
    assert!(session.findings().iter().any(|finding| finding.contains("max_message_size")), "{:?}", session.findings());
    soon(session.publish(body(1 << 20))).await??;
    assert_eq!(session.publish(body((1 << 20) + 1)).await, Err(PublishError::TooLarge));
    assert!(!session.is_over());
    session.close().await;

    // The next session notices a bound that was raised. A bound above the probe is learnt from the first refusal.
    takes(5 << 20).await?;
    let session = soon(broker.open("small")).await??;
    assert!(session.sizes().message() > 5 << 20 && session.findings().is_empty(), "{:?}", session.findings());
    assert_eq!(soon(session.publish(body(6 << 20))).await?, Err(PublishError::SessionEnded));
    let session = soon(broker.open("small")).await??;
    assert_eq!(session.sizes().message(), 5 << 20);
    assert_eq!(session.publish(body(6 << 20)).await, Err(PublishError::TooLarge));
    session.close().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_version_and_the_connection_names_are_known() -> anyhow::Result<()> {
    let rabbit = Rabbit::shared().await?;
    let session = Broker::rabbit(&rabbit.url(), "out")?.open("named-session").await?;
    let version = session.server_version().context("RabbitMQ names its version")?;
    let status = rabbit.ctl(&["version"]).await?.stdout;
    assert_eq!(version, status.trim());
    let listed = rabbit.ctl(&["list_connections", "client_properties"]).await?.stdout;
    assert!(listed.contains("named-session publishes") && listed.contains("named-session consumes"), "{listed}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_property_longer_than_amqp_takes_is_left_out_and_the_message_goes() -> anyhow::Result<()> {
    let rabbit = Rabbit::shared().await?;
    let session = Broker::rabbit(&rabbit.url(), "foreign")?.open("foreign").await?;
    session.declare(&Topology::requests("foreign")).await?;
    let long = Properties { message_id: Some("ä".repeat(200)), ..Properties::default() };
    let publication = Publication { properties: long, ..to_queue(&requests_queue("foreign"), 1) };
    soon(session.publish(publication)).await??;
    let mut consumer = session.consume(&requests_queue("foreign"), CONSUME).await?;
    let delivery = soon(consumer.next()).await?.context("a delivery")?;
    assert_eq!(delivery.properties, Properties::default());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_a_queue_refuses_though_it_has_room_again_ends_and_the_next_is_accepted() -> anyhow::Result<()> {
    const FULL: &str = r#"{"max-length": 1, "overflow": "reject-publish"}"#;
    let rabbit = Rabbit::start().await?;
    let broker = Broker::rabbit(&rabbit.url(), "forgets")?;
    let queue = dead_queue("forgets");
    let session = broker.open("refused").await?;
    session.declare(&Topology::requests("forgets")).await?;
    rabbit.ctl(&["set_policy", "--apply-to", "queues", "full", r"^forgets\.dead$", FULL]).await?;
    eventually("the queue is full", DEADLINE, async || {
        let refused = soon(session.publish(to_queue(&queue, 1))).await? == Err(PublishError::Nacked);
        Ok(refused.then_some(()))
    })
    .await?;
    rabbit.ctl(&["clear_policy", "full"]).await?;
    // As callers do, until the session is over.
    let since = Instant::now();
    while soon(session.publish(to_queue(&queue, 2))).await? == Err(PublishError::Nacked) {
        anyhow::ensure!(since.elapsed() < 3 * DEADLINE, "it is refused for ever");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(matches!(soon(session.ended()).await?, Error::RefusedForGood { .. }));
    let next = broker.open("accepted").await?;
    soon(next.publish(to_queue(&queue, 3))).await??;
    Ok(())
}
