//! What holds a command: what it can't reach, what it does not get, and that nothing of it outlives its end.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use slotline_worker::{Error, RunConfig, Worker};

use super::stage::Stage;
use crate::processes::{has_root, shim_of};

fn script(folder: &Path, script: &str) -> RunConfig {
    RunConfig { cwd: Some(folder.to_owned()), ..RunConfig::new(["/bin/sh", "-c", script]) }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The whole environment of a command.
async fn environment(config: impl FnOnce(RunConfig) -> RunConfig) -> anyhow::Result<Vec<String>> {
    let mut stage = Stage::with(|folder| config(script(folder, "env > env; echo >> env"))).await?;
    stage.run(1, json!({"app": "web"})).await?;
    let names = stage.written("env").await?;
    stage.end().await?;
    Ok(names.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name.to_owned()).collect())
}

#[tokio::test]
async fn a_command_gains_no_privileges_unless_its_action_allows_it_and_the_worker_says_so() -> anyhow::Result<()> {
    for (allow_privileges, expected) in [(false, "1"), (true, "0")] {
        let look = "grep NoNewPrivs /proc/self/status | tr -dc 01";
        let mut stage = Stage::with(|folder| RunConfig { allow_privileges, ..script(folder, look) }).await?;
        let completed = stage.run(1, json!({})).await?;
        let result: Value = serde_json::from_str(completed.result.as_ref().expect("a result").get())?;
        assert_eq!(result.to_string(), expected);
        let beat = stage.executor.heard.heartbeats.last().expect("it beats");
        let said = beat.actions[0].capabilities.iter().any(|capability| capability == "allow-privileges");
        assert_eq!(said, allow_privileges, "{beat:?}");
        stage.end().await?;
    }
    Ok(())
}

/// As root a set-user-ID program shows the effect as users see it; without root only the flag above shows it.
#[tokio::test]
async fn a_command_that_is_another_user_can_not_become_root_by_a_program_that_would_make_it_root() -> anyhow::Result<()>
{
    if !has_root("a program that would make its caller root")? {
        return Ok(());
    }
    for (allow_privileges, expected) in [(false, 65_534), (true, 0)] {
        let mut stage = Stage::with(|folder| {
            likesudo(folder);
            let user = Some("nobody".to_owned());
            RunConfig { allow_privileges, user, ..script(folder, "./likesudo /usr/bin/id -u || id -u") }
        })
        .await?;
        let completed = stage.run(1, json!({})).await?;
        assert_eq!(completed.result.as_ref().map(|json| json.get()), Some(&*expected.to_string()), "{completed:?}");
        stage.end().await?;
    }
    Ok(())
}

/// A program that becomes root and starts another, as `sudo` does.
fn likesudo(folder: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let source = "#include <unistd.h>\nint main(int c, char **v) { if (setgid(0) || setuid(0)) return 9; execvp(v[1], v + 1); return 8; }\n";
    std::fs::write(folder.join("likesudo.c"), source).expect("a file");
    let program = folder.join("likesudo");
    let built = std::process::Command::new("cc").arg("-o").arg(&program).arg(folder.join("likesudo.c")).status();
    assert!(built.is_ok_and(|status| status.success()), "these tests need a C compiler");
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o4755)).expect("a file of root's");
    std::fs::set_permissions(folder, PermissionsExt::from_mode(0o777)).expect("a folder of root's");
}

/// For each layer: when the end is reported, nothing is left.
#[tokio::test]
async fn a_command_that_kills_its_shim_frees_no_slot_while_anything_of_it_runs_on() -> anyhow::Result<()> {
    // Descendants without a trace of what they descend from: no environment, no session, no parent, no file.
    let attack = "(env -i setsid /bin/sh -c 'exec 0<&- 1>&- 2>&-; while :; do /bin/sleep 0.01; done' & ) ; \
                  kill -9 $PPID; echo done > done; exec sleep 1000";
    for allow_processes in [false, true] {
        let mut stage = Stage::with(|folder| RunConfig { allow_processes, ..script(folder, attack) }).await?;
        stage.dispatch(1, json!({})).await?;
        stage.written("done").await?;
        stage.executor.cancel(stage.worker, 1, Duration::ZERO).await?;
        stage.executor.completed(1).await?;
        stage.assert_nothing_is_left();
        stage.end().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_command_can_signal_neither_its_shim_nor_its_worker_unless_its_action_allows_it() -> anyhow::Result<()> {
    let look = "kill -0 $SLOTLINE_PARAM_WORKER 2>&1 && echo '\"worker\"'; kill -0 $PPID 2>&1 && echo '\"shim\"'; true";
    for allow_processes in [false, true] {
        let mut stage = Stage::with(|folder| RunConfig { allow_processes, ..script(folder, look) }).await?;
        let completed = stage.run(1, json!({"worker": std::process::id()})).await?;
        let result = completed.result.as_ref().map(|json| json.get());
        assert_eq!(result, allow_processes.then_some("\"shim\""), "{completed:?}");
        let beat = stage.executor.heard.heartbeats.last().expect("it beats");
        let held = beat.actions[0].capabilities.iter().find(|capability| capability.starts_with("held-by-"));
        assert_eq!(held.is_some_and(|held| held == "held-by-sweep"), allow_processes, "{beat:?}");
        stage.end().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_command_is_given_what_is_named_of_the_workers_environment_and_nothing_else() -> anyhow::Result<()> {
    let shells_own = ["PWD", "OLDPWD", "SHLVL", "_"];
    let unexpected = |names: &[String], passed: &[&str]| {
        let is_known = |name: &str| {
            slotline_worker::ENV_PASSED.iter().chain(passed).chain(&shells_own).any(|known| {
                match known.strip_suffix('*') {
                    Some(beginning) => name.starts_with(beginning),
                    None => name == *known,
                }
            })
        };
        names.iter().filter(|name| !is_known(name)).cloned().collect::<Vec<_>>()
    };
    let names = environment(|config| config).await?;
    assert_eq!(unexpected(&names, &["SLOTLINE_*"]), [""; 0]);
    assert!(
        names.iter().any(|name| name == "PATH") && names.iter().any(|name| name == "SLOTLINE_PARAM_APP"),
        "{names:?}"
    );
    // A variable that cargo sets for every test stands for a variable of a worker's environment.
    let names = environment(|config| RunConfig { env_pass: vec!["CARGO_MAN*".to_owned()], ..config }).await?;
    assert!(names.iter().any(|name| name == "CARGO_MANIFEST_DIR"), "{names:?}");
    assert_eq!(unexpected(&names, &["SLOTLINE_*", "CARGO_MAN*"]), [""; 0]);
    Ok(())
}

#[tokio::test]
async fn a_command_inherits_no_file_but_its_own_three() -> anyhow::Result<()> {
    let mut stage = Stage::script("for fd in /proc/$$/fd/*; do readlink $fd; done > open; echo >> open").await?;
    stage.run(1, json!({})).await?;
    let open = stage.written("open").await?;
    assert!(!open.contains("w1.lock"), "{open}");
    stage.end().await
}

#[tokio::test]
async fn a_worker_with_commands_and_its_shims_can_not_be_dumped_or_looked_into_by_their_user() -> anyhow::Result<()> {
    let mut stage = Stage::script("echo $$ > pid; exec sleep 1000").await?;
    stage.dispatch(1, json!({})).await?;
    stage.written("pid").await?;
    let worker = rustix::process::dumpable_behavior()?;
    assert_eq!(worker, rustix::process::DumpableBehavior::NotDumpable);
    // `/proc` gives what can't be dumped to root, whatever its user is.
    let shim = shim_of(stage.folder.path()).expect("a shim");
    let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(format!("/proc/{shim}/environ"))?);
    assert_eq!(owner, 0);
    stage.end().await
}

/// Needs root, as the key itself does; without it the test below holds.
#[tokio::test]
async fn a_command_with_a_user_runs_as_that_user_with_its_groups_and_its_own_scratch() -> anyhow::Result<()> {
    if !has_root("the user of a command")? {
        return Ok(());
    }
    let report = "id -u > id; id -g >> id; echo $HOME $USER >> id; ls -ld $(dirname $SLOTLINE_RESULT_FILE) >> id; \
                  [ -w $SLOTLINE_PROGRESS_SOCKET ] && echo reports >> id; \
                  cat /proc/$SLOTLINE_PARAM_WORKER/environ > secrets 2>&1; echo '{\"from\": \"file\"}' > $SLOTLINE_RESULT_FILE";
    let mut stage = Stage::with(|folder| {
        std::os::unix::fs::chown(folder, Some(65_534), None).expect("root may");
        RunConfig { user: Some("nobody".to_owned()), ..script(folder, report) }
    })
    .await?;
    let completed = stage.run(1, json!({"worker": std::process::id()})).await?;
    assert_eq!(completed.result.as_ref().map(|json| json.get()), Some("{\"from\": \"file\"}"), "{completed:?}");
    let id = stage.written("id").await?;
    let lines: Vec<&str> = id.lines().collect();
    assert_eq!(lines[0], "65534");
    assert!(lines[2].ends_with(" nobody"), "{id}");
    assert!(lines[3].starts_with("drwx------ ") && lines[3].contains(" nobody "), "{id}");
    assert_eq!(lines.get(4), Some(&"reports"));
    assert!(!std::fs::read_to_string(stage.folder.path().join("secrets"))?.contains("CARGO"));
    stage.end().await
}

#[tokio::test]
async fn a_user_that_is_not_there_and_a_name_that_may_not_be_passed_are_refused_at_the_start() -> anyhow::Result<()> {
    let user = |name: &str| RunConfig { user: Some(name.to_owned()), ..RunConfig::new(["true"]) };
    let own = RunConfig { env_pass: vec!["SLOTLINE_AMQP_URL".to_owned()], ..RunConfig::new(["true"]) };
    let mut refused = vec![
        (user("no-such-user"), "user \"no-such-user\"", "this host has no such user"),
        (own, "env_pass", "a setting of the worker"),
    ];
    if !is_root() {
        refused.push((user("root"), "user \"root\"", "may not become another"));
    }
    for (config, key, reason) in refused {
        let error = Worker::builder("w1").command("test.run", config).build().err().expect("refused").to_string();
        assert!(error.starts_with("test.run: ") && error.contains(key) && error.contains(reason), "{error}");
    }
    let error = Worker::builder("w1").command("a.b", RunConfig::new(["true"])).env_pass(["*".to_owned()]).build();
    assert!(matches!(error, Err(Error::Misconfigured(message)) if message.starts_with("env_pass: ")));
    Ok(())
}
