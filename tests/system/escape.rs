//! Commands that try to outlive their worker: no limit is passed, and they get no password. Needs root, as most of the
//! attempts do.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use nix::sys::signal::kill;
use nix::unistd::Pid;
use serde_json::json;
use slotline_tests::{Signal, Stamps, most_at_once};

use crate::actions::Action;
use crate::message::Message;
use crate::world::{LATER, SOON, World};

/// A program that becomes root and starts another, as `sudo` does.
const LIKESUDO: &str = "#include <unistd.h>\nint main(int c, char **v) { if (setgid(0) || setuid(0)) return 9; \
                        execvp(v[1], v + 1); return 8; }\n";

/// In a folder that every user may write to.
fn likesudo(folder: &Path) -> anyhow::Result<PathBuf> {
    std::fs::set_permissions(folder, PermissionsExt::from_mode(0o777))?;
    let (source, program) = (folder.join("likesudo.c"), folder.join("likesudo"));
    std::fs::write(&source, LIKESUDO)?;
    let built = std::process::Command::new("cc").arg("-o").arg(&program).arg(&source).status()?;
    ensure!(built.success(), "this test needs a C compiler");
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o4755))?;
    Ok(program)
}

fn request(tag: &str, sleep_ms: u64) -> Message {
    Message::request("line.one", json!({"tag": tag, "sleep_ms": sleep_ms, "beat_ms": 5}))
}

/// A line with one slot; its commands run as the user `nobody`, and try to become root.
async fn world(folder: &Path, allow_privileges: bool) -> anyhow::Result<World> {
    let (likesudo, stamps) = (likesudo(folder)?, folder.join("stamps"));
    let text = |path: &Path| path.to_str().map(str::to_owned).context("UTF-8");
    let command = [text(&likesudo)?, env!("CARGO_BIN_EXE_stamp").to_owned(), text(&stamps)?];
    let run = format!("user = \"nobody\"\nallow_privileges = {allow_privileges}\ncwd = {folder:?}");
    let action = Action::command("line.one", "limit = 1", &command.each_ref().map(String::as_str)).run(&run);
    let mut world = World::with([action]).workers(1, 2).short_lease().start().await?;
    world.stamps = Stamps::at(stamps);
    Ok(world)
}

#[tokio::test]
async fn a_command_that_became_another_user_is_gone_before_its_isolated_workers_lease_is() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let mut world = world(folder.path(), true).await?;
    world.publish(&[request("first", 20_000)]).await?;
    world.stamps.started(1, SOON).await?;
    world.start_worker("worker-1")?;
    world.workers_known(2).await?;
    world.workers[0].signal(Signal::SIGSTOP)?;
    let stamps = world.stamps.started(2, LATER).await?;
    assert_eq!([stamps[0].attempt, stamps[1].attempt], [1, 2]);
    // A process left of the first would have stamped by now.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(most_at_once(&world.stamps.read()?), 1);
    world.workers[0].signal(Signal::SIGCONT)
}

#[tokio::test]
async fn a_command_becomes_no_other_user_unless_its_action_allows_it() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let world = world(folder.path(), false).await?;
    world.publish(&[request("first", 0)]).await?;
    world.settled("line.one", 1, LATER).await?;
    let execution = &world.executions("line.one").await?[0];
    assert_eq!((&execution["status"], &execution["error"]["details"]["return_code"]), (&json!("failed"), &json!(9)));
    assert!(world.stamps.read()?.is_empty(), "nothing ran as root");
    Ok(())
}

#[tokio::test]
async fn a_command_outlives_neither_its_worker_nor_its_shim_when_both_are_killed_at_once() -> anyhow::Result<()> {
    let mut world = World::with([Action::stamp("line.one", "limit = 1")]).workers(1, 2).start().await?;
    world.publish(&[request("first", 20_000), request("second", 0)]).await?;
    world.stamps.started(1, SOON).await?;
    let worker = world.workers[0].pid();
    world.workers[0].signal(Signal::SIGSTOP)?;
    for shim in children(worker)? {
        kill(shim, Signal::SIGKILL)?;
    }
    world.workers[0].kill()?;
    world.workers.clear();
    world.start_worker("worker-0")?;
    world.stamps.started(2, LATER).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(most_at_once(&world.stamps.read()?), 1);
    Ok(())
}

#[tokio::test]
async fn no_password_is_on_the_command_line_of_a_daemon() -> anyhow::Result<()> {
    let world = World::with([Action::stamp("line.one", "limit = 1")]).start().await?;
    for daemon in world.workers.iter().chain(&world.executors) {
        let words = std::fs::read(format!("/proc/{}/cmdline", daemon.pid()))?;
        let words = String::from_utf8_lossy(&words);
        // The database of a test has no password, so its URL stays on the command line.
        ensure!(words.contains("slotline") && !words.contains("amqp://"), "{words}");
    }
    Ok(())
}

/// Found by the parent in `/proc/<pid>/stat`, the second field after the name in parentheses.
fn children(of: Pid) -> anyhow::Result<Vec<Pid>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // It may have ended meanwhile.
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse::<i32>().ok());
        if parent == Some(of.as_raw()) {
            found.push(Pid::from_raw(pid));
        }
    }
    ensure!(!found.is_empty(), "{of} has no child");
    Ok(found)
}
