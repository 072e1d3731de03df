//! What becomes of commands when their worker is killed or stopped. The worker is this executable, run once more; and as
//! every program with commands it is its own shim, which is why it has a `main` of its own.
#![expect(clippy::disallowed_methods, reason = "nobody passes the time to a test of processes")]

mod executor;

use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, SystemTime};

use executor::Executor;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use slotline_broker::Broker;
use slotline_protocol::message::EndReason;
use slotline_worker::{RunConfig, Shutdown, Worker};

/// One that left its group and ignores SIGTERM beside one that stays.
const SCRIPT: &str = "trap '' TERM; setsid sh -c \"trap '' TERM; echo \\$\\$ > stray; while :; do sleep 0.01; done\" & \
                      echo $$ > pid; echo $PPID > shim; while :; do sleep 0.01; done";
/// Of a worker that is stopped, and of others, which may be held up for longer without being meant.
const FENCE: Duration = Duration::from_millis(600);
const LONG_FENCE: Duration = Duration::from_secs(60);

fn main() -> anyhow::Result<()> {
    slotline_worker::shim::run_if_asked();
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some("worker") => {
            let folder = arguments.next().unwrap_or_default();
            worker(Path::new(&folder), Duration::from_millis(arguments.next().unwrap_or_default().parse()?))
        }
        // A test runner asks for names; there are always the same.
        Some("--list") => Ok(()),
        _ => {
            for (name, test) in [
                ("a_killed_worker_takes_its_commands_with_it", killed as fn() -> anyhow::Result<()>),
                ("a_successor_waits_until_nothing_is_left_and_says_so_at_once", succeeded),
                ("a_stopped_worker_leaves_no_command_running_past_its_fence", stopped),
            ] {
                test()?;
                println!("test {name} ... ok");
            }
            Ok(())
        }
    }
}

/// Runs one command without end.
fn worker(folder: &Path, fence: Duration) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let broker = Broker::memory(executor::PREFIX);
        let mut executor = Executor::start(&broker, 1).await?;
        let config = RunConfig { cwd: Some(folder.to_owned()), ..RunConfig::new(["/bin/sh", "-c", SCRIPT]) };
        let worker = Worker::builder("w1")
            .command("test.run", config)
            .heartbeat(Duration::from_millis(50))
            .fence(fence)
            .lease(fence + Duration::from_secs(2))
            .state_dir(folder.join("state"))
            .build()?;
        let running = tokio::spawn(worker.run(broker, Shutdown::new()));
        let incarnation = executor.worker().await?;
        std::fs::write(folder.join("incarnation"), incarnation.to_string())?;
        executor.dispatch(incarnation, 1, "test.run", json!({})).await?;
        Ok(running.await??)
    })
}

struct Stage {
    worker: Child,
    folder: tempfile::TempDir,
    command: u32,
    stray: u32,
    shim: u32,
}

impl Stage {
    fn start(fence: Duration) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let worker = Command::new(std::env::current_exe()?)
            .arg("worker")
            .arg(folder.path())
            .arg(fence.as_millis().to_string())
            .spawn()?;
        let read = |name: &str| {
            let text = wait_for(&format!("{name} to be written"), || {
                std::fs::read_to_string(folder.path().join(name)).ok().filter(|text| text.ends_with('\n'))
            })?;
            anyhow::Ok(text.trim().parse::<u32>()?)
        };
        let (command, stray, shim) = (read("pid")?, read("stray")?, read("shim")?);
        Ok(Self { worker, command, stray, shim, folder })
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.worker.id())?).expect("a process has a number");
        Ok(kill_process(pid, signal)?)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = self.worker.kill();
        let _ = self.worker.wait();
        assert!(self.folder.path().exists());
    }
}

fn killed() -> anyhow::Result<()> {
    let mut stage = Stage::start(LONG_FENCE)?;
    assert!(runs(stage.command) && runs(stage.stray) && runs(stage.shim));
    stage.signal(Signal::KILL)?;
    stage.worker.wait()?;
    wait_for("everything to be gone", || {
        (!runs(stage.command) && !runs(stage.stray) && !runs(stage.shim)).then_some(())
    })
}

fn succeeded() -> anyhow::Result<()> {
    let stage = Stage::start(LONG_FENCE)?;
    let former: uuid::Uuid = std::fs::read_to_string(stage.folder.path().join("incarnation"))?.parse()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let broker = Broker::memory(executor::PREFIX);
        let mut executor = Executor::start(&broker, 1).await?;
        let successor = Worker::builder("w1")
            .command("test.run", RunConfig::new(["true"]))
            .state_dir(stage.folder.path().join("state"))
            .build()?;
        let shutdown = Shutdown::new();
        let running = tokio::spawn(successor.run(broker, shutdown.clone()));
        // It runs nothing while anything of the first one lives, be it only a stray descendant.
        let early = tokio::time::timeout(Duration::from_millis(300), executor.worker()).await;
        anyhow::ensure!(early.is_err(), "two of one name");
        stage.signal(Signal::KILL)?;
        let ended = executor.until("the last word", |heard| heard.ended.first().cloned()).await?;
        anyhow::ensure!(ended.reason == EndReason::Replaced && ended.incarnation.0 == former, "{ended:?}");
        anyhow::ensure!(!runs(stage.command) && !runs(stage.stray) && !runs(stage.shim), "something of it lives");
        let incarnation = executor.worker().await?;
        executor.dispatch(incarnation, 2, "test.run", json!({})).await?;
        executor.completed(2).await?;
        shutdown.stop();
        running.await??;
        let left = std::fs::read_to_string(stage.folder.path().join("state/w1.lock"))?;
        anyhow::ensure!(left.is_empty(), "one that ends in order leaves nothing to say: {left:?}");
        Ok(())
    })
}

fn stopped() -> anyhow::Result<()> {
    let stage = Stage::start(FENCE)?;
    stage.signal(Signal::STOP)?;
    let stopped_at = SystemTime::now();
    wait_for("the command to be gone", || (!runs(stage.command) && !runs(stage.stray)).then_some(()))?;
    let lived = stopped_at.elapsed()?;
    anyhow::ensure!(lived < FENCE + Duration::from_millis(1_500), "it lived for {lived:?}, and the fence is {FENCE:?}");
    anyhow::ensure!(runs(stage.shim), "its shim is idle, not gone");
    Ok(())
}

/// Runs, and is no zombie.
fn runs(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

fn wait_for<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> anyhow::Result<T> {
    let start = SystemTime::now();
    loop {
        if let Some(found) = done() {
            return Ok(found);
        }
        anyhow::ensure!(start.elapsed()? < executor::PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
