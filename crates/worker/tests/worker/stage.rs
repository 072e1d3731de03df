//! A whole worker on the in-process broker, with its executor.

use std::time::Duration;

use serde_json::Value;
use slotline_broker::Broker;
use slotline_protocol::message::Failure;
use slotline_protocol::{Incarnation, OutcomeKind};
use slotline_worker::{Builder, Context, Error, HandlerError, Shutdown, Worker};
use tokio::task::JoinHandle;

use crate::executor::{self, Executor};

/// A worker and its executor.
pub(crate) struct Stage {
    pub(crate) broker: Broker,
    pub(crate) executor: Executor,
    pub(crate) worker: Incarnation,
    pub(crate) shutdown: Shutdown,
    pub(crate) running: JoinHandle<Result<(), Error>>,
}

impl Stage {
    pub(crate) async fn with(build: impl FnOnce(Builder) -> Builder) -> anyhow::Result<Self> {
        let broker = Broker::memory(executor::PREFIX);
        let mut executor = Executor::start(&broker, 1).await?;
        let shutdown = Shutdown::new();
        let worker = build(Worker::builder("w1").capacity(4).drain_timeout(Duration::from_millis(100))).build()?;
        let running = tokio::spawn(worker.run(broker.clone(), shutdown.clone()));
        let worker = executor.worker().await?;
        Ok(Self { broker, executor, worker, shutdown, running })
    }

    pub(crate) async fn handler<F, R>(handler: impl Fn(Context) -> F + Send + Sync + 'static) -> anyhow::Result<Self>
    where
        F: Future<Output = Result<R, HandlerError>> + Send + 'static,
        R: serde::Serialize,
    {
        Self::with(|builder| builder.action("test.run", handler)).await
    }

    pub(crate) async fn dispatch(&mut self, id: i64, parameters: Value) -> anyhow::Result<()> {
        self.executor.dispatch(self.worker, id, "test.run", parameters).await
    }

    pub(crate) async fn fail(&mut self, id: i64, parameters: Value) -> anyhow::Result<Failure> {
        self.dispatch(id, parameters).await?;
        let completed = self.executor.completed(id).await?;
        assert_eq!(completed.status, OutcomeKind::Failed, "{completed:?}");
        Ok(completed.error.expect("a failure has an error"))
    }

    pub(crate) async fn end(self) -> anyhow::Result<()> {
        self.shutdown.stop();
        Ok(tokio::time::timeout(executor::PATIENCE, self.running).await???)
    }
}
