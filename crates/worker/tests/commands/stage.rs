//! A whole worker with one command, on the in-process broker; the test is the executor.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use slotline_broker::Broker;
use slotline_protocol::Incarnation;
use slotline_protocol::message::Completed;
use slotline_worker::{Error, RunConfig, Shutdown, Worker};
use tokio::task::JoinHandle;

use crate::executor::{self, Executor};
use crate::processes::living_in;

const SHIM: &str = env!("CARGO_BIN_EXE_slotline-shim");

/// A worker with one action, `test.run`, that is a shell script.
pub(crate) struct Stage {
    pub(crate) executor: Executor,
    pub(crate) worker: Incarnation,
    pub(crate) shutdown: Shutdown,
    running: JoinHandle<Result<(), Error>>,
    pub(crate) folder: tempfile::TempDir,
}

impl Stage {
    pub(crate) async fn with(config: impl FnOnce(&Path) -> RunConfig) -> anyhow::Result<Self> {
        let broker = Broker::memory(executor::PREFIX);
        let mut executor = Executor::start(&broker, 1).await?;
        let folder = tempfile::tempdir()?;
        let shutdown = Shutdown::new();
        let worker = Worker::builder("w1")
            .capacity(8)
            .command("test.run", config(folder.path()))
            .drain_timeout(Duration::from_millis(200))
            .state_dir(folder.path().join("state"))
            .shim_executable(SHIM)
            .build()?;
        let running = tokio::spawn(worker.run(broker, shutdown.clone()));
        let worker = executor.worker().await?;
        Ok(Self { executor, worker, shutdown, running, folder })
    }

    pub(crate) async fn script(script: &str) -> anyhow::Result<Self> {
        Self::with(|folder| RunConfig { cwd: Some(folder.to_owned()), ..RunConfig::new(["/bin/sh", "-c", script]) })
            .await
    }

    pub(crate) async fn dispatch(&mut self, id: i64, parameters: Value) -> anyhow::Result<()> {
        self.executor.dispatch(self.worker, id, "test.run", parameters).await
    }

    pub(crate) async fn run(&mut self, id: i64, parameters: Value) -> anyhow::Result<Completed> {
        self.dispatch(id, parameters).await?;
        self.executor.completed(id).await
    }

    /// What a script wrote into a file of the stage's folder, once the file exists.
    pub(crate) async fn written(&self, name: &str) -> anyhow::Result<String> {
        let deadline = tokio::time::Instant::now() + executor::PATIENCE;
        loop {
            match std::fs::read_to_string(self.folder.path().join(name)) {
                Ok(text) if text.ends_with('\n') => return Ok(text.trim().to_owned()),
                Ok(_) | Err(_) => tokio::time::sleep(Duration::from_millis(2)).await,
            }
            anyhow::ensure!(tokio::time::Instant::now() < deadline, "{name} was not written");
        }
    }

    /// No process of a script lives. They are recognized by their folder, which is the stage's: a script may be in a
    /// namespace of its own, with other process numbers than this host's.
    pub(crate) fn assert_nothing_is_left(&self) {
        let living = living_in(self.folder.path());
        assert!(living.is_empty(), "{living:?} live");
    }

    /// Every outcome is recorded, as by any executor: the worker would keep an unrecorded one for its next process.
    pub(crate) async fn end(mut self) -> anyhow::Result<()> {
        let told = |completed: &[Completed]| completed.iter().map(|it| it.execution_id.0).collect::<Vec<_>>();
        let heard: Vec<_> = self.executor.heard.completed.iter().map(|(_, completed)| completed.clone()).collect();
        // The worker may have ended by itself, or have got `execution.recorded`, and be gone: then its queue is gone,
        // too.
        drop(self.executor.record(self.worker, &told(&heard)).await);
        self.shutdown.stop();
        let last_word = self.executor.until("its last word", |heard| heard.ended.last().cloned()).await?;
        if !last_word.outcomes.is_empty() {
            // The worker may have got the first `execution.recorded`, and be gone.
            drop(self.executor.record(self.worker, &told(&last_word.outcomes)).await);
        }
        tokio::time::timeout(executor::PATIENCE, self.running).await???;
        let state = self.folder.path().join("state");
        let left: Vec<_> = std::fs::read_dir(state)?.flatten().map(|entry| entry.file_name()).collect();
        anyhow::ensure!(left == ["w1.lock"], "the worker left {left:?} behind");
        Ok(())
    }
}
