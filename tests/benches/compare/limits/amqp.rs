//! A broker as its plain client sees it: three kinds of queues, and one message of 256 bytes.

use anyhow::{Context as _, Result};
use futures::StreamExt as _;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
    QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, Consumer, PublisherConfirm};

const BODY_BYTES: usize = 256;
const TRANSIENT: u8 = 1;
const PERSISTENT: u8 = 2;

/// A queue and how messages go into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Durable, persistent messages.
    Classic,
    Quorum,
    /// Gone with the broker.
    Transient,
}

impl Kind {
    pub(super) const ALL: [Self; 3] = [Self::Classic, Self::Quorum, Self::Transient];

    pub(super) fn told(self) -> &'static str {
        match self {
            Self::Classic => "classic",
            Self::Quorum => "quorum",
            Self::Transient => "transient",
        }
    }

    fn properties(self) -> BasicProperties {
        BasicProperties::default().with_delivery_mode(if self == Self::Transient { TRANSIENT } else { PERSISTENT })
    }
}

pub(super) async fn connect(url: &str) -> Result<Connection> {
    let runtime = async_rs::Runtime::tokio_current();
    Ok(Connection::connect_with_runtime(url, ConnectionProperties::default(), runtime).await?)
}

/// With confirms.
pub(super) async fn channel(connection: &Connection) -> Result<Channel> {
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    Ok(channel)
}

/// Declares the queue; one of another kind under this name is deleted first.
pub(super) async fn declare(channel: &Channel, queue: &str, kind: Kind) -> Result<()> {
    delete(channel, queue).await?;
    let mut arguments = FieldTable::default();
    let is_quorum = kind == Kind::Quorum;
    let told = if is_quorum { "quorum" } else { "classic" };
    arguments.insert("x-queue-type".into(), AMQPValue::LongString(told.into()));
    let options = QueueDeclareOptions { durable: kind != Kind::Transient, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.into(), options, arguments).await?;
    Ok(())
}

pub(super) async fn delete(channel: &Channel, queue: &str) -> Result<()> {
    channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await?;
    Ok(())
}

pub(super) async fn publish(channel: &Channel, queue: &str, kind: Kind) -> Result<PublisherConfirm> {
    let options = BasicPublishOptions::default();
    Ok(channel.basic_publish("".into(), queue.into(), options, &[b'x'; BODY_BYTES], kind.properties()).await?)
}

pub(super) async fn consume(channel: &Channel, queue: &str, prefetch: u16) -> Result<Consumer> {
    channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
    Ok(channel.basic_consume(queue.into(), "".into(), BasicConsumeOptions::default(), FieldTable::default()).await?)
}

/// The next message, acked.
pub(super) async fn take(consumer: &mut Consumer) -> Result<()> {
    let delivery = consumer.next().await.context("the consumer goes on")??;
    delivery.acker.ack(BasicAckOptions::default()).await?;
    Ok(())
}
