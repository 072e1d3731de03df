//! A worker whose process may have few open files, and then has none left. The limit is this whole process's, which is
//! why there is one test here and no other.

mod executor;

use std::fs::File;
use std::time::Duration;

use executor::{Executor, PATIENCE};
use rustix::process::{Resource, Rlimit, setrlimit};
use serde_json::json;
use slotline_broker::Broker;
use slotline_protocol::ExecutionId;
use slotline_worker::{RunConfig, Shutdown, Worker};

/// Fits thirteen commands beside the worker itself.
const FILES: u64 = 200;

#[tokio::test]
async fn a_worker_without_open_files_hands_back_what_it_can_not_start_and_takes_less_until_it_can() -> anyhow::Result<()>
{
    setrlimit(Resource::Nofile, Rlimit { current: Some(FILES / 2), maximum: Some(FILES) })?;
    let broker = Broker::memory(executor::PREFIX);
    let mut executor = Executor::start(&broker, 1).await?;
    let folder = tempfile::tempdir()?;
    let shutdown = Shutdown::new();
    let worker = Worker::builder("w1")
        .capacity(300)
        .heartbeat(Duration::from_millis(200))
        .command("test.run", RunConfig::new(["/bin/sh", "-c", "ulimit -n"]))
        .state_dir(folder.path().join("state"))
        .shim_executable(env!("CARGO_BIN_EXE_slotline-shim"))
        .build()?;
    let running = tokio::spawn(worker.run(broker, shutdown.clone()));
    let incarnation = executor.worker().await?;
    let offered = |heard: &executor::Heard| heard.heartbeats.last().map(|beat| beat.capacity);
    assert_eq!(offered(&executor.heard), Some(13), "what the hard limit holds is offered");

    // Everything that this process may still have is taken.
    let mut taken = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        taken.push(file);
    }
    for id in 1..=3 {
        executor.dispatch(incarnation, id, "test.run", json!({})).await?;
    }
    for id in 1..=3 {
        let returned = executor.returned(id).await?;
        assert_eq!((returned.reason.as_str(), returned.started), ("shortage", false));
    }
    executor.until("no capacity", |heard| offered(heard).filter(|capacity| *capacity == 0)).await?;
    assert!(executor.heard.completed.is_empty(), "nothing failed: {:?}", executor.heard.completed);

    // The shortage has passed, and the worker finds out by itself.
    drop(taken);
    executor.heard.heartbeats.clear();
    executor.record(incarnation, &[1, 2, 3]).await?;
    executor.until("room again", |heard| offered(heard).filter(|capacity| *capacity > 0)).await?;
    executor.dispatch(incarnation, 4, "test.run", json!({})).await?;
    let completed = executor.completed(4).await?;
    assert_eq!(completed.execution_id, ExecutionId(4));
    let files = completed.result.as_ref().map(|json| json.get().to_owned());
    assert_eq!(files, Some((FILES / 2).to_string()), "a command has the limit that the worker was given");

    shutdown.stop();
    tokio::time::timeout(PATIENCE, running).await???;
    Ok(())
}
