//! RabbitMQ through lapin, with its recovery off: a connection that breaks ends the session.
//!
//! A session has two connections, since RabbitMQ blocks a publishing one on an alarm and lapin then writes nothing at
//! all on it, acks and heartbeats included. Connections run on a small runtime of their own, so that heartbeats go out
//! however busy the rest of the process is; only the publishing task runs where the session is used.
//! Not here: back-off (`supervisor`), and what is declared (`topology`).

mod connection;
mod consumer;
mod flight;
mod publisher;
mod refusals;
mod size_limit;
mod version;
mod wire;

use std::future::Future;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use lapin::options::{
    BasicConsumeOptions, BasicGetOptions, BasicQosOptions, ExchangeDeclareOptions, QueueBindOptions,
    QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, ExchangeKind};
use slotline_protocol::chain;
use tokio::sync::watch;

pub(crate) use connection::Server;
pub(crate) use consumer::{Acker, Browser, Consumer};

use crate::consumer::{Delivery, SETTLED};
use crate::over::Over;
use crate::topology::{Argument, Binding};
use crate::{Consume, Error, Publication, Receipt, Topology};
use publisher::Publisher;

/// How long any answer of the broker may take. Past it the session is over.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);
/// How long the queue of an earlier session is read; messages that are not read by then are requested again or
/// repeated.
const SALVAGE_WITHIN: Duration = Duration::from_secs(1);
/// How long an orderly close waits for outstanding confirms, and then for the broker to close.
const CLOSE_DEADLINE: Duration = Duration::from_secs(5);

/// The runtime of all AMQP connections of the process. One thread is enough: lapin reads and writes each connection on a
/// thread of its own, and this one wakes them, keeps heartbeats, and opens sessions.
static RUNTIME: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("amqp")
        .enable_all()
        .build()
        .expect("a process that can't start a thread can't do anything else either")
});

/// One session on RabbitMQ.
pub(crate) struct Session {
    over: Arc<Over>,
    publisher: Publisher,
    publishing: Arc<Connection>,
    consuming: Arc<Connection>,
    /// Turns true when both connections are closed.
    closed: watch::Receiver<bool>,
    server_version: Option<String>,
}

impl Session {
    pub(crate) fn over(&self) -> Arc<Over> {
        Arc::clone(&self.over)
    }

    pub(crate) async fn declare(&self, topology: &Topology) -> Result<(), Error> {
        self.declare_all(topology).await.inspect_err(|error| {
            self.over.end(error.clone());
        })
    }

    async fn declare_all(&self, topology: &Topology) -> Result<(), Error> {
        let channel = self.channel().await?;
        let mismatch = |name: &str, error| match error {
            Error::Lost(detail) if detail.contains("PRECONDITION_FAILED") => {
                Error::Mismatch { name: name.to_owned(), detail }
            }
            other => other,
        };
        for exchange in &topology.exchanges {
            let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
            let name = wire::short(&exchange.name)?;
            let declare = channel.exchange_declare(name, ExchangeKind::Topic, options, FieldTable::default());
            self.ask("exchange.declare", declare).await.map_err(|error| mismatch(&exchange.name, error))?;
        }
        for queue in &topology.queues {
            let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
            let mut arguments = FieldTable::default();
            for (name, value) in queue.arguments() {
                let value = match value {
                    Argument::Flag(flag) => AMQPValue::Boolean(flag),
                    Argument::Number(number) => AMQPValue::LongLongInt(number),
                    Argument::Text(text) => AMQPValue::LongString(text.into()),
                };
                arguments.insert(name.into(), value);
            }
            let declare = channel.queue_declare(wire::short(&queue.name)?, options, arguments);
            self.ask("queue.declare", declare).await.map_err(|error| mismatch(&queue.name, error))?;
        }
        for binding in &topology.bindings {
            let (queue, exchange) = (wire::short(&binding.queue)?, wire::short(&binding.exchange)?);
            let pattern = wire::short(&binding.pattern)?;
            let bind = channel.queue_bind(queue, exchange, pattern, QueueBindOptions::default(), FieldTable::default());
            self.ask("queue.bind", bind).await?;
        }
        self.discard(channel).await
    }

    pub(crate) async fn unbind(&self, bindings: &[Binding]) -> Result<(), Error> {
        let channel = self.channel().await?;
        for binding in bindings {
            let (queue, exchange) = (wire::short(&binding.queue)?, wire::short(&binding.exchange)?);
            let unbind = channel.queue_unbind(queue, exchange, wire::short(&binding.pattern)?, FieldTable::default());
            self.ask("queue.unbind", unbind).await?;
        }
        self.discard(channel).await
    }

    pub(crate) async fn salvage(&self, queue: &str) -> Vec<Delivery> {
        let mut deliveries = Vec::new();
        match tokio::time::timeout(SALVAGE_WITHIN, self.take_all(queue, &mut deliveries)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::debug!(error = %chain(&error), queue, "the queue of an earlier session can't be read")
            }
            Err(_) => tracing::debug!(queue, "the queue of an earlier session does not answer"),
        }
        deliveries
    }

    /// Takes all ready messages, and deletes the queue.
    async fn take_all(&self, queue: &str, into: &mut Vec<Delivery>) -> Result<(), Error> {
        let name = wire::short(queue)?;
        let channel = self.channel().await?;
        let options = BasicGetOptions { no_ack: true };
        while let Some(message) = channel.basic_get(name.clone(), options).await.map_err(|error| wire::error(&error))? {
            into.push(wire::delivery(message.delivery, SETTLED));
        }
        let delete = channel.queue_delete(name, QueueDeleteOptions::default());
        delete.await.map_err(|error| wire::error(&error))?;
        self.discard(channel).await
    }

    pub(crate) async fn consume(&self, queue: &str, options: Consume) -> Result<Consumer, Error> {
        self.subscribe(queue, options).await.inspect_err(|error| {
            self.over.end(error.clone());
        })
    }

    async fn subscribe(&self, queue: &str, options: Consume) -> Result<Consumer, Error> {
        let name = wire::short(queue)?;
        let channel = self.channel().await?;
        // Per consumer, never global: a global limit is refused since 4.3.
        self.ask("basic.qos", channel.basic_qos(options.prefetch, BasicQosOptions { global: false })).await?;
        let consume = channel.basic_consume(name, "".into(), BasicConsumeOptions::default(), FieldTable::default());
        let stream = self.ask("basic.consume", consume).await?;
        Ok(Consumer::new(stream, channel, queue, Arc::clone(&self.over)))
    }

    pub(crate) fn publish(&self, publication: Publication) -> Receipt {
        self.publisher.publish(publication, &self.over)
    }

    pub(crate) async fn browse(&self, queue: &str, max: usize) -> Result<(Vec<Delivery>, Browser), Error> {
        let name = wire::short(queue)?;
        let channel = self.channel().await?;
        let browser = Browser::new(channel.clone(), Arc::clone(&self.over));
        let mut deliveries = Vec::new();
        while deliveries.len() < max {
            let get = channel.basic_get(name.clone(), BasicGetOptions { no_ack: false });
            match self.ask("basic.get", get).await? {
                Some(message) => deliveries.push(wire::delivery(message.delivery, browser.acker().channel())),
                None => break,
            }
        }
        Ok((deliveries, browser))
    }

    pub(crate) async fn depth(&self, queue: &str) -> Result<u64, Error> {
        let channel = self.channel().await?;
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let declare = channel.queue_declare(wire::short(queue)?, options, FieldTable::default());
        let depth = self.ask("queue.declare", declare).await?.message_count();
        self.discard(channel).await?;
        Ok(depth.into())
    }

    pub(crate) async fn delete_queue(&self, queue: &str) -> Result<(), Error> {
        let channel = self.channel().await?;
        let delete = channel.queue_delete(wire::short(queue)?, QueueDeleteOptions::default());
        self.ask("queue.delete", delete).await?;
        self.discard(channel).await
    }

    pub(crate) fn message_bytes_max(&self) -> usize {
        self.publisher.message_bytes_max()
    }

    pub(crate) fn is_blocked(&self) -> bool {
        self.publishing.status().blocked()
    }

    pub(crate) fn server_version(&self) -> Option<String> {
        self.server_version.clone()
    }

    pub(crate) async fn close(&self) {
        if self.over.is_over() {
            return;
        }
        self.publisher.flush(CLOSE_DEADLINE, &self.over).await;
        self.over.end(Error::Closed);
        let mut closed = self.closed.clone();
        // The sender is dropped before it sends only if its task was killed with the runtime.
        let _ = closed.wait_for(|closed| *closed).await;
    }

    /// A new channel, for one purpose: a channel dies with the first operation that is refused.
    async fn channel(&self) -> Result<Channel, Error> {
        self.ask("channel.open", self.consuming.create_channel()).await
    }

    async fn discard(&self, channel: Channel) -> Result<(), Error> {
        self.ask("channel.close", channel.close(lapin::protocol::constants::REPLY_SUCCESS, "OK".into())).await
    }

    async fn ask<T>(
        &self,
        operation: &'static str,
        answer: impl Future<Output = lapin::Result<T>>,
    ) -> Result<T, Error> {
        ask(&self.over, operation, answer).await
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.over.end(Error::Closed);
    }
}

/// Waits for an answer of the broker, at most [`ANSWER_DEADLINE`].
async fn ask<T>(
    over: &Over,
    operation: &'static str,
    answer: impl Future<Output = lapin::Result<T>>,
) -> Result<T, Error> {
    tokio::select! {
        biased;
        answer = answer => answer.map_err(|error| wire::error(&error)),
        cause = over.wait() => Err(cause),
        () = tokio::time::sleep(ANSWER_DEADLINE) => {
            let error = Error::TimedOut { operation, after: ANSWER_DEADLINE };
            over.end(error.clone());
            Err(error)
        }
    }
}
