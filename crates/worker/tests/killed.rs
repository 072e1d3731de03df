//! What becomes of commands when their worker is killed or stopped. The worker is this executable, run once more; and
//! as every program with commands it is its own shim, which is why it has a `main` of its own.
#![expect(clippy::disallowed_methods, reason = "nobody passes the time to a test of processes")]

mod executor;
mod processes;

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, SystemTime};

use executor::Executor;
use processes::{has_root, living_in, parent, runs, shim_of, ticks};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use slotline_broker::Broker;
use slotline_protocol::OutcomeKind;
use slotline_protocol::message::{EndReason, Event};
use slotline_worker::{RunConfig, Shutdown, Worker};

/// A process that left its group, its session and its environment and ignores SIGTERM, beside one that stays.
const SCRIPT: &str = "trap '' TERM; env -i setsid sh -c \"trap '' TERM; echo stray > stray; while :; do sleep 0.01; done\" & \
                      echo here > here; while :; do sleep 0.01; done";
/// `FENCE` is for a worker that the test stops, `LONG_FENCE` for others, which a slow machine may hold up for longer.
const FENCE: Duration = Duration::from_millis(600);
const LONG_FENCE: Duration = Duration::from_secs(60);
/// An ordinary user, without access to what belongs to root.
const NOBODY: u32 = 65_534;

fn main() -> anyhow::Result<()> {
    slotline_worker::shim::run_if_asked();
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some("worker") => {
            let folder = PathBuf::from(arguments.next().unwrap_or_default());
            let fence = Duration::from_millis(arguments.next().unwrap_or_default().parse()?);
            worker(&folder, fence, arguments.next().as_deref() == Some("reaches"))
        }
        Some("stubborn") => stubborn(&PathBuf::from(arguments.next().unwrap_or_default())),
        Some("attacked") => attacked(&PathBuf::from(arguments.next().unwrap_or_default())),
        // A test runner asks for names; they are always the same.
        Some("--list") => Ok(()),
        _ => {
            for (name, test) in [
                ("a_killed_worker_takes_its_commands_with_it", killed as fn() -> anyhow::Result<()>),
                ("a_successor_waits_until_nothing_is_left_and_says_so_at_once", succeeded),
                ("a_stopped_worker_leaves_no_command_running_past_its_fence", stopped),
                (
                    "what_a_worker_and_its_shim_leave_behind_that_are_killed_together_ends_before_a_successor_runs",
                    orphaned,
                ),
                ("a_sigkill_that_is_refused_is_said_at_once_and_the_slot_is_kept", refused),
                ("a_command_of_an_ordinary_user_that_attacks_its_shim_and_its_worker_frees_no_slot", attack),
            ] {
                test()?;
                println!("test {name} ... ok");
            }
            Ok(())
        }
    }
}

/// Runs one command without end.
fn worker(folder: &Path, fence: Duration, allow_processes: bool) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let broker = Broker::memory(executor::PREFIX);
        let mut executor = Executor::start(&broker, 1).await?;
        let config =
            RunConfig { cwd: Some(folder.to_owned()), allow_processes, ..RunConfig::new(["/bin/sh", "-c", SCRIPT]) };
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
    shim: i32,
}

impl Stage {
    fn start(fence: Duration) -> anyhow::Result<Self> {
        Self::with(fence, &[])
    }

    fn with(fence: Duration, options: &[&str]) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let worker = Command::new(std::env::current_exe()?)
            .arg("worker")
            .arg(folder.path())
            .arg(fence.as_millis().to_string())
            .args(options)
            .spawn()?;
        for name in ["here", "stray"] {
            wait_for(&format!("{name} to be written"), || {
                std::fs::read_to_string(folder.path().join(name)).ok().filter(|text| text.ends_with('\n'))
            })?;
        }
        let shim = wait_for("the shim to be found", || shim_of(folder.path()))?;
        Ok(Self { worker, folder, shim })
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        kill(i32::try_from(self.worker.id())?, signal)
    }

    /// Whether any process of the command runs.
    fn is_left(&self) -> bool {
        !living_in(self.folder.path()).is_empty()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = self.worker.kill();
        let _ = self.worker.wait();
        assert!(self.folder.path().exists());
    }
}

fn kill(pid: i32, signal: Signal) -> anyhow::Result<()> {
    Ok(kill_process(Pid::from_raw(pid).expect("a process has a number"), signal)?)
}

fn killed() -> anyhow::Result<()> {
    let mut stage = Stage::start(LONG_FENCE)?;
    assert!(stage.is_left() && runs(stage.shim));
    stage.signal(Signal::KILL)?;
    stage.worker.wait()?;
    wait_for("everything to be gone", || (!stage.is_left() && !runs(stage.shim)).then_some(()))
}

fn succeeded() -> anyhow::Result<()> {
    let stage = Stage::start(LONG_FENCE)?;
    let former: uuid::Uuid = std::fs::read_to_string(stage.folder.path().join("incarnation"))?.parse()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (mut executor, shutdown, running) = successor(&stage).await?;
        // It runs nothing while anything of the first one lives, be it only a stray descendant.
        let early = tokio::time::timeout(Duration::from_millis(300), executor.worker()).await;
        anyhow::ensure!(early.is_err(), "two of one name");
        stage.signal(Signal::KILL)?;
        let ended = executor.until("the last word", |heard| heard.ended.first().cloned()).await?;
        anyhow::ensure!(ended.reason == EndReason::Replaced && ended.incarnation.0 == former, "{ended:?}");
        anyhow::ensure!(!stage.is_left() && !runs(stage.shim), "something of it lives");
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

type Running = tokio::task::JoinHandle<Result<(), slotline_worker::Error>>;

/// A worker of the same name with the same state, in this process.
async fn successor(stage: &Stage) -> anyhow::Result<(Executor, Shutdown, Running)> {
    let broker = Broker::memory(executor::PREFIX);
    let executor = Executor::start(&broker, 1).await?;
    let successor = Worker::builder("w1")
        .command("test.run", RunConfig::new(["true"]))
        .state_dir(stage.folder.path().join("state"))
        .build()?;
    let shutdown = Shutdown::new();
    let running = tokio::spawn(successor.run(broker, shutdown.clone()));
    Ok((executor, shutdown, running))
}

fn stopped() -> anyhow::Result<()> {
    let stage = Stage::start(FENCE)?;
    stage.signal(Signal::STOP)?;
    let stopped_at = SystemTime::now();
    wait_for("the command to be gone", || (!stage.is_left()).then_some(()))?;
    let lived = stopped_at.elapsed()?;
    anyhow::ensure!(lived < FENCE + Duration::from_millis(1_500), "it lived for {lived:?}, and the fence is {FENCE:?}");
    anyhow::ensure!(runs(stage.shim), "its shim is idle, not gone");
    Ok(())
}

/// In a namespace the system ends it; elsewhere the next worker finds it by its mark.
fn orphaned() -> anyhow::Result<()> {
    for options in [&[][..], &["reaches"]] {
        let mut stage = Stage::with(LONG_FENCE, options)?;
        // Stopped first, so that it can't distinguish its shim's end from its own.
        stage.signal(Signal::STOP)?;
        kill(stage.shim, Signal::KILL)?;
        stage.signal(Signal::KILL)?;
        stage.worker.wait()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let (mut executor, shutdown, running) = successor(&stage).await?;
            executor.worker().await?;
            anyhow::ensure!(!stage.is_left(), "something of it lives beside its successor");
            shutdown.stop();
            running.await??;
            anyhow::Ok(())
        })?;
    }
    Ok(())
}

/// A worker of an ordinary user whose command becomes root, as its action allows.
fn refused() -> anyhow::Result<()> {
    if !has_root("a SIGKILL that is refused")? {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o777))?;
    let source = "#include <unistd.h>\nint main(int c, char **v) { if (setgid(0) || setuid(0)) return 9; \
                  execvp(v[1], v + 1); return 8; }\n";
    std::fs::write(folder.path().join("likesudo.c"), source)?;
    let likesudo = folder.path().join("likesudo");
    let built = Command::new("cc").arg("-o").arg(&likesudo).arg(folder.path().join("likesudo.c")).status()?;
    anyhow::ensure!(built.success(), "this test needs a C compiler");
    std::fs::set_permissions(&likesudo, PermissionsExt::from_mode(0o4755))?;
    let mut worker = ordinary(folder.path(), "stubborn")?;
    let judged = (|| {
        let written =
            |name: &str| std::fs::read_to_string(folder.path().join(name)).ok().filter(|text| text.ends_with('\n'));
        let said = wait_for("the refusal to be said", || written("said"))?;
        let left = living_in(folder.path());
        let &[stubborn] = &*left else { anyhow::bail!("expected one process, found {left:?}") };
        anyhow::ensure!(said.contains(&format!("process {stubborn} of user 0")), "{said}");
        wait_for("the worker to say that it holds it", || written("held"))?;
        let shim = parent(stubborn).expect("a shim");
        let (before, looked_at) = (ticks(shim).expect("it lives"), SystemTime::now());
        std::thread::sleep(Duration::from_secs(1));
        let (after, passed) = (ticks(shim).expect("it lives"), looked_at.elapsed()?);
        anyhow::ensure!(
            u128::from(after - before) * 100 < passed.as_millis(),
            "{} ticks in {passed:?}",
            after - before
        );
        anyhow::ensure!(written("ended").is_none(), "it was told as ended while it ran");
        kill(stubborn, Signal::KILL)?;
        wait_for("the end to be told", || written("ended")).map(drop)
    })();
    let _ = worker.kill();
    worker.wait()?;
    for stubborn in living_in(folder.path()) {
        kill(stubborn, Signal::KILL)?;
    }
    judged
}

/// This program once more as an ordinary user, if this one may become another, in a folder that every user may enter.
fn ordinary(folder: &Path, part: &str) -> anyhow::Result<Child> {
    // Other users may not enter the folder that it was built in.
    let program = folder.join("worker");
    std::fs::copy(std::env::current_exe()?, &program)?;
    let mut command = Command::new(&program);
    command.arg(part).arg(folder).current_dir("/");
    if rustix::process::geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    Ok(command.spawn()?)
}

fn attack() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o777))?;
    let mut worker = ordinary(folder.path(), "attacked")?;
    let ended = wait_for("the worker to end", || worker.try_wait().transpose());
    let _ = worker.kill();
    worker.wait()?;
    let left = living_in(folder.path());
    for pid in &left {
        kill(*pid, Signal::KILL)?;
    }
    anyhow::ensure!(ended??.success() && left.is_empty(), "the worker was ended, or {left:?} live");
    Ok(())
}

/// A worker whose command does to it what its user may, and its executor.
fn attacked(folder: &Path) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let broker = Broker::memory(executor::PREFIX);
        let mut executor = Executor::start(&broker, 1).await?;
        let script = "(env -i setsid /bin/sh -c 'while :; do /bin/sleep 0.01; done' &) ; kill -9 $PPID; \
                      [ -z \"$SLOTLINE_PARAM_WORKER\" ] || kill -9 $SLOTLINE_PARAM_WORKER; echo done > done; exec sleep 1000";
        let config = RunConfig { cwd: Some(folder.to_owned()), ..RunConfig::new(["/bin/sh", "-c", script]) };
        let worker =
            Worker::builder("w1").command("test.run", config).heartbeat(Duration::from_millis(50)).build()?;
        let shutdown = Shutdown::new();
        let running = tokio::spawn(worker.run(broker, shutdown.clone()));
        let incarnation = executor.worker().await?;
        let beat = executor.heard.heartbeats.last().expect("it beats");
        // Before Linux 6.12 the worker of an ordinary user is confined no more than its commands, and announces that.
        let is_held = !beat.actions[0].capabilities.iter().any(|capability| capability == "held-by-sweep");
        let parameters = if is_held { json!({"worker": std::process::id()}) } else { json!({}) };
        executor.dispatch(incarnation, 1, "test.run", parameters).await?;
        let done = folder.join("done");
        let mut is_over = false;
        while !is_over {
            // If the shim could be killed, the attempt is over before the command can write that it is done.
            let ended = tokio::time::timeout(Duration::from_millis(10), executor.completed(1)).await;
            is_over = done.exists() || ended.is_ok();
        }
        executor.cancel(incarnation, 1, Duration::ZERO).await?;
        executor.completed(1).await?;
        let left = living_in(folder);
        anyhow::ensure!(left.is_empty(), "{left:?} live, and the slot is free");
        shutdown.stop();
        Ok(running.await??)
    })
}

/// A worker whose command runs out of time as root, and what its executor receives, as files.
fn stubborn(folder: &Path) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let broker = Broker::memory(executor::PREFIX);
        let mut executor = Executor::start(&broker, 1).await?;
        let config = RunConfig {
            cwd: Some(folder.to_owned()),
            allow_privileges: true,
            grace: Duration::ZERO,
            ..RunConfig::new(["./likesudo", "/bin/sleep", "1000"])
        };
        let worker = Worker::builder("w1")
            .command("test.run", config)
            .heartbeat(Duration::from_millis(50))
            .state_dir(folder.join("state"))
            .build()?;
        let running = tokio::spawn(worker.run(broker, Shutdown::new()));
        let incarnation = executor.worker().await?;
        let mut scheduled = executor.scheduled(1, "test.run", &json!({}))?;
        // Long enough for the command to become root.
        scheduled.timeout_seconds = Some(Duration::from_secs(2));
        executor.send(incarnation, &scheduled).await?;
        let said = executor.until("the refusal", |heard| {
            heard.progress.iter().find_map(|progress| match &progress.event {
                Event::Progress(report) => report.message.clone().filter(|message| message.contains("can't be ended")),
                _ => None,
            })
        });
        std::fs::write(folder.join("said"), said.await? + "\n")?;
        executor.heard.heartbeats.clear();
        executor
            .until("what is held", |heard| heard.heartbeats.iter().find(|beat| !beat.holding.is_empty()).map(drop))
            .await?;
        std::fs::write(folder.join("held"), "held\n")?;
        let completed = executor.completed(1).await?;
        anyhow::ensure!(completed.status == OutcomeKind::Timeout, "{completed:?}");
        std::fs::write(folder.join("ended"), "ended\n")?;
        Ok(running.await??)
    })
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
