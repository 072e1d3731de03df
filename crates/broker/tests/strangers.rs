//! Any property and header beside a body is read, and can be passed on: none ends a session.
//!
//! The publisher writes AMQP byte by byte, since no library sends such things; what RabbitMQ itself refuses never comes
//! here. Not here: what the executor makes of it (`tests/system/strangers.rs`).

use std::time::Duration;

use anyhow::{Context, ensure};
use slotline_broker::topology::{dead_queue, executions_exchange, requests_queue};
use slotline_broker::{Broker, Consume, Consumer, Delivery, Publication, Session, Topology};
use slotline_tests::stranger::{Property, RawProperties, array, entry, nested, text, value};
use slotline_tests::{Rabbit, Stranger};

/// A quorum queue takes its time with what is deep, and the machine may be busy.
const DEADLINE: Duration = Duration::from_secs(120);
const PREFIX: &str = "strangers";
const KEY: &[u8] = b"execution.requested";
const CONSUME: Consume = Consume { prefetch: 100 };
/// Bytes that are no UTF-8, wherever it begins.
const RAW: &[u8] = b"a\xff\xc3";
const RAW_AS_TEXT: &str = r"a\xff\xc3";
/// As many tables in each other as a frame has room for, nearly. A quorum queue of RabbitMQ 3.10 takes time with the
/// square of it.
const DEEPEST: usize = 18_000;
/// As many as the stack of a thread has no room for.
const DEEP: usize = 2_000;

/// A session that consumes the requests, and a stranger that publishes them.
struct World {
    session: Session,
    requests: Consumer,
    stranger: Stranger,
    url: String,
}

impl World {
    async fn start() -> anyhow::Result<Self> {
        let url = Rabbit::shared().await?.fresh_vhost().await?;
        Self::on(url.clone(), url).await
    }

    async fn on(ours: String, url: String) -> anyhow::Result<Self> {
        let session = Broker::rabbit(&ours, PREFIX)?.open("strangers").await?;
        session.declare(&Topology::requests(PREFIX)).await?;
        let requests = session.consume(&requests_queue(PREFIX), CONSUME).await?;
        Ok(Self { session, requests, stranger: Stranger::connect(&url).await?, url })
    }

    /// What is delivered of a message with these properties.
    async fn deliver(&mut self, properties: &RawProperties) -> anyhow::Result<Delivery> {
        self.deliver_to(KEY, properties).await
    }

    async fn deliver_to(&mut self, key: &[u8], properties: &RawProperties) -> anyhow::Result<Delivery> {
        self.stranger.publish(&executions_exchange(PREFIX), key, properties, b"{}").await?;
        next(&mut self.requests).await
    }

    /// Passes a message on as a dead letter, and reads that letter.
    async fn put_aside(&mut self, delivery: &Delivery) -> anyhow::Result<Delivery> {
        let mut properties = delivery.properties.clone();
        properties.headers.insert("x-slotline-reason".to_owned(), "malformed".to_owned());
        let letter = Publication {
            routing_key: dead_queue(PREFIX),
            body: delivery.body.clone(),
            properties,
            mandatory: true,
            persistent: true,
            ..Publication::default()
        };
        tokio::time::timeout(DEADLINE, self.session.publish(letter)).await??;
        let mut letters = self.session.consume(&dead_queue(PREFIX), CONSUME).await?;
        let letter = next(&mut letters).await?;
        letters.acker().ack(letter.tag);
        ensure!(letter.properties.headers["x-slotline-reason"] == "malformed", "the reason is lost");
        Ok(letter)
    }
}

async fn next(consumer: &mut Consumer) -> anyhow::Result<Delivery> {
    tokio::time::timeout(DEADLINE, consumer.next()).await.context("nothing came")?.context("the session is over")
}

fn headers(entries: impl AsRef<[u8]>) -> RawProperties {
    RawProperties::default().headers(entries)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_nested_as_deep_as_a_frame_allows_is_read_and_passed_on() -> anyhow::Result<()> {
    let mut world = World::start().await?;
    let deep = [
        (entry("deep", nested(b'F', DEEPEST)), "FieldTable(FieldTable({ShortString(\"n\"): FieldTable("),
        (entry("deep", nested(b'A', DEEP)), "FieldArray(FieldArray([FieldArray(FieldArray(["),
        (entry("deep", array(nested(b'F', DEEP))), "FieldArray(FieldArray([FieldTable(FieldTable({"),
    ];
    for (entries, expected) in deep {
        // What comes after the depth is not lost with it.
        let delivery = world.deliver(&headers([entries, entry("kept", text("as it was"))].concat())).await?;
        assert!(delivery.properties.headers["deep"].starts_with(expected), "{:?}", delivery.properties.headers);
        assert_eq!(delivery.properties.headers["kept"], "as it was");
        let letter = world.put_aside(&delivery).await?;
        assert_eq!(letter.properties.headers["kept"], "as it was");
    }
    assert!(!world.session.is_over());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_property_that_is_not_utf8_is_read_as_text_and_passed_on() -> anyhow::Result<()> {
    let mut world = World::start().await?;
    for property in Property::TEXTS {
        for bytes in [RAW, &[0xff; 255]] {
            let delivery = world.deliver(&RawProperties::default().text(property, bytes)).await?;
            let expected: String = bytes.escape_ascii().to_string().chars().take(255).collect();
            let read = &delivery.properties;
            let text_read = match property {
                Property::MessageId => &read.message_id,
                Property::CorrelationId => &read.correlation_id,
                Property::ReplyTo => &read.reply_to,
                Property::Type => &read.message_type,
                Property::AppId => &read.app_id,
                // Of no use to Slotline.
                Property::ContentType
                | Property::ContentEncoding
                | Property::UserId
                | Property::ClusterId
                | Property::Headers => &Some(expected.clone()),
            };
            assert_eq!(text_read.as_ref(), Some(&expected), "{property:?}");
            let letter = world.put_aside(&delivery).await?;
            assert_eq!(letter.properties.message_id, read.message_id, "{property:?}");
        }
    }
    assert!(!world.session.is_over());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn message_ids_that_differ_in_bytes_that_are_no_text_stay_different() -> anyhow::Result<()> {
    let mut world = World::start().await?;
    let mut ids = Vec::new();
    for bytes in [b"\xf0\x9f\x98\x80\xff", b"\xf0\x9f\x98\x80\xfe", b"\xf0\x9f\x98\x81\xff"] {
        ids.push(
            world.deliver(&RawProperties::default().text(Property::MessageId, bytes)).await?.properties.message_id,
        );
    }
    ids.dedup();
    assert_eq!(ids.len(), 3, "{ids:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_and_values_of_headers_and_routing_keys_may_be_any_bytes() -> anyhow::Result<()> {
    let mut world = World::start().await?;
    let entries = [entry(RAW, text(RAW)), entry("", text("")), entry([0xff; 255], b"V"), entry("\0", text("\0"))];
    let delivery = world.deliver(&headers(entries.concat())).await?;
    assert_eq!(delivery.properties.headers[RAW_AS_TEXT], "a\u{fffd}\u{fffd}");
    assert_eq!(delivery.properties.headers.len(), 4, "{:?}", delivery.properties.headers);
    let letter = world.put_aside(&delivery).await?;
    assert_eq!(letter.properties.headers[RAW_AS_TEXT], "a\u{fffd}\u{fffd}");

    let delivery = world.deliver_to(&[KEY, b".", RAW].concat(), &RawProperties::default()).await?;
    assert_eq!(delivery.routing_key, format!("execution.requested.{RAW_AS_TEXT}"));
    world.put_aside(&delivery).await?;
    assert!(!world.session.is_over());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_many_headers_as_a_frame_has_room_for_are_read_and_passed_on_as_far_as_they_fit() -> anyhow::Result<()> {
    let mut world = World::start().await?;
    // As text each of them needs more room than it came with.
    let voids: Vec<u8> = (0..25_000_u32).flat_map(|number| entry(&number.to_be_bytes()[1..], b"V")).collect();
    let wide = entry("wide", array(vec![b'V'; 120 << 10]));
    for entries in [voids, wide, entry("bytes", value(b'x', 120 << 10, &vec![0xff; 120 << 10]))] {
        let delivery = world.deliver(&headers(entries)).await?;
        world.put_aside(&delivery).await?;
    }
    assert!(!world.session.is_over());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_with_smaller_frames_is_sent_no_larger_ones() -> anyhow::Result<()> {
    let rabbit = Rabbit::start().await?;
    rabbit.ctl(&["eval", "application:set_env(rabbit, frame_max, 16384)."]).await?;
    // The URL does not set how large a frame may be.
    let mut world = World::on(format!("{}?frame_max=8192", rabbit.url()), rabbit.url()).await?;
    let voids: Vec<u8> = (0..3_000_u32).flat_map(|number| entry(&number.to_be_bytes()[1..], b"V")).collect();
    let delivery = world.deliver(&headers(voids)).await?;
    assert_eq!(delivery.properties.headers.len(), 3_000);
    let letter = world.put_aside(&delivery).await?;
    assert!(letter.properties.headers.len() < 1_000, "{}", letter.properties.headers.len());
    assert!(!world.session.is_over());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_that_rabbitmq_goes_by_are_passed_on_without_harm() -> anyhow::Result<()> {
    let mut world = World::start().await?;
    let list = || array(text("elsewhere"));
    for (name, value) in [
        ("CC", list()),
        ("BCC", list()),
        ("x-death", list()),
        ("x-death", text("of whom")),
        ("x-delay", text("a while")),
        ("x-slotline-reason", text("none")),
        ("x-slotline-publication", text("1")),
        ("x-slotline-publication", [&b"l"[..], &[0; 7], &[1]].concat()),
    ] {
        let delivery = world.deliver(&headers(entry(name, value))).await?;
        world.put_aside(&delivery).await.with_context(|| name.to_owned())?;
    }
    assert!(!world.session.is_over());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_length_that_lies_costs_only_its_publisher_the_connection() -> anyhow::Result<()> {
    let mut world = World::start().await?;
    let inner = |kind, length| headers(entry("k", value(kind, length, b"V")));
    let lies = [
        RawProperties::default().headers_said_to_have(1 << 20, entry("k", b"V")),
        RawProperties::default().headers_said_to_have(u32::MAX as usize, entry("k", b"V")),
        RawProperties::default().headers_said_to_have(2, entry("k", b"V")),
        inner(b'F', 1 << 20),
        inner(b'A', u32::MAX as usize),
        inner(b'S', 2),
        headers(entry("k", b"~")),
    ];
    for lie in lies {
        let mut liar = Stranger::connect(&world.url).await?;
        ensure!(liar.publish(&executions_exchange(PREFIX), KEY, &lie, b"{}").await.is_err(), "RabbitMQ took {lie:?}");
    }
    let delivery = world.deliver(&RawProperties::default().text(Property::MessageId, "after")).await?;
    assert_eq!(delivery.properties.message_id.as_deref(), Some("after"));
    assert!(!world.session.is_over());
    Ok(())
}
