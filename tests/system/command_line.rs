//! The command line, on real servers.

use std::process::Output;

use anyhow::{Context, bail};
use serde_json::{Value, json};
use slotline_tests::{Launch, Postgres, Rabbit, Sandbox, eventually};

use crate::actions::Action;
use crate::world::{LATER, SOON, World, http};

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[tokio::test]
async fn run_and_wait_exits_as_the_execution_ended() -> anyhow::Result<()> {
    let world = World::with([
        Action::command("demo.echo", "", &["/bin/echo", "\"hello\""]),
        Action::command("demo.fail", "", &["/bin/false"]),
        Action::stamp("demo.slow", "timeout = \"1s\""),
        Action::stamp("demo.long", ""),
    ])
    .start()
    .await?;
    let done = world.slotline(&["run", "demo.echo", "-p", "who=you", "--wait", "--output", "json"]).await?;
    assert_eq!(done.status.code(), Some(0), "{}", text(&done));
    assert!(String::from_utf8_lossy(&done.stdout).contains("hello"), "{}", text(&done));
    let recorded = &world.executions("demo.echo").await?[0];
    assert_eq!(recorded["parameters"], json!({"who": "you"}));

    for (arguments, code) in [
        (&["run", "demo.fail", "--wait"][..], 1),
        (&["run", "no.such", "--wait"], 3),
        (&["run", "demo.slow", "--params", "{\"sleep_ms\": 60000}", "--wait"], 124),
    ] {
        let done = world.slotline(arguments).await?;
        assert_eq!(done.status.code(), Some(code), "{arguments:?}: {}", text(&done));
    }
    world.ask("PUT", "/api/v1/actions/demo.unserved", Some(json!({}))).await?;
    let queued = world.slotline(&["run", "demo.unserved"]).await?;
    assert!(text(&queued).contains("no worker serves demo.unserved now"), "{}", text(&queued));
    let waiting = world.slotline(&["run", "demo.long", "-p", "sleep_ms=120000", "--wait"]);
    let cancelling = async {
        let id = eventually("the long one runs", SOON, async || {
            let executions = world.executions("demo.long").await?;
            let running = executions.iter().find(|execution| execution["status"] == "running");
            Ok(running.map(|execution| execution["execution_id"].to_string()))
        })
        .await?;
        world.slotline(&["executions", "cancel", &id]).await
    };
    let (waited, cancelled) = tokio::join!(waiting, cancelling);
    let (waited, cancelled) = (waited?, cancelled?);
    assert_eq!(cancelled.status.code(), Some(0), "{}", text(&cancelled));
    assert_eq!(waited.status.code(), Some(130), "{}", text(&waited));
    Ok(())
}

#[tokio::test]
async fn lists_and_lines_are_shown_as_tables_and_as_json() -> anyhow::Result<()> {
    let world = World::with([Action::stamp("line.one", "limit = 1")]).start().await?;
    let id = world.submit("line.one", json!({"tag": "a"})).await?;
    world.settled("line.one", 1, LATER).await?;
    let id = id.to_string();
    for (arguments, needle) in [
        (vec!["queue"], "line.one"),
        (vec!["queue", "line.one"], "line.one"),
        (vec!["executions", "list"], "completed"),
        (vec!["executions", "show", &id], "completed"),
        (vec!["workers"], "worker-0"),
        (vec!["dead", "list"], ""),
        (vec!["version"], env!("CARGO_PKG_VERSION")),
    ] {
        let table = world.slotline(&arguments).await?;
        assert!(table.status.success(), "{arguments:?}: {}", text(&table));
        assert!(String::from_utf8_lossy(&table.stdout).contains(needle), "{arguments:?}: {}", text(&table));
        if arguments != ["version"] {
            let mut as_json = arguments.clone();
            as_json.extend(["--output", "json"]);
            let answer = world.slotline(&as_json).await?;
            let parsed: Value = serde_json::from_slice(&answer.stdout).with_context(|| text(&answer))?;
            assert!(parsed.to_string().contains(needle), "{arguments:?}: {parsed}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn the_files_of_the_deployment_are_taken_as_they_are() -> anyhow::Result<()> {
    let file = |name: &str| format!("{}/../deploy/{name}", env!("CARGO_MANIFEST_DIR"));
    let mut world = World::with([]).workers(0, 2).start().await?;
    let applied = world.slotline(&["apply", &file("actions.toml")]).await?;
    assert!(applied.status.success(), "{}", text(&applied));
    world.start_worker_with("example", file("actions.toml").as_ref())?;
    let ran = world
        .slotline(&["run", "demo.echo", "-p", "text=hello", "--wait", "--config", &file("config.example.toml")])
        .await?;
    assert_eq!(ran.status.code(), Some(0), "{}", text(&ran));
    assert_eq!(world.executions("demo.echo").await?[0]["result"], json!({"text": "hello"}));
    let ran = world.slotline(&["run", "deploy.app", "-p", "app=web", "--wait"]).await?;
    assert_eq!(ran.status.code(), Some(0), "{}", text(&ran));
    assert_eq!(world.executions("deploy.app").await?[0]["result"], json!({"deployed": "web"}));
    Ok(())
}

#[tokio::test]
async fn the_demo_ends_by_itself_and_found_order_and_limits_in_the_journal() -> anyhow::Result<()> {
    let sandbox = Sandbox::new("demo")?;
    let begun = std::time::Instant::now();
    let demo = Launch::new("demo", &["demo"]).output(&sandbox).await?;
    assert!(demo.status.success(), "{}", text(&demo));
    assert!(!demo.stdout.is_empty());
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    Ok(())
}

#[tokio::test]
async fn daemons_that_take_their_urls_and_the_token_from_files_show_none_of_them() -> anyhow::Result<()> {
    const TOKEN: &str = "a-token-of-more-than-twenty-characters";
    let (rabbit, postgres) = (Rabbit::shared().await?, Postgres::shared().await?);
    let sandbox = Sandbox::new("files")?;
    let file = |name: &str, text: &str| -> anyhow::Result<String> {
        let path = sandbox.path().join(name);
        std::fs::write(&path, format!("{text}\n"))?;
        Ok(path.display().to_string())
    };
    let amqp = file("amqp", &rabbit.fresh_vhost().await?)?;
    let database = file("database", &postgres.fresh_database("files").await?)?;
    let token = file("token", TOKEN)?;
    let actions = file("actions", "[[action]]\nref = 'demo.echo'\n[action.run]\ncommand = ['/bin/echo', '7']")?;
    let with_files = |launch: Launch| {
        launch.env("SLOTLINE_AMQP_URL_FILE", amqp.as_str()).env("SLOTLINE_API_TOKEN_FILE", token.as_str())
    };
    let executor = with_files(Launch::new("executor", &["executor"])).env("SLOTLINE_DATABASE_URL_FILE", database);
    let mut executor = executor.start_listening(&sandbox)?;
    let worker = ["worker", "--name", "w", "--state-dir", "state", "--actions", &actions];
    let mut worker = with_files(Launch::new("worker", &worker)).start(&sandbox)?;
    let ask = async |arguments: &[&str]| {
        with_files(Launch::new("ask", arguments)).env("SLOTLINE_API_URL", executor.api_url()).output(&sandbox).await
    };
    eventually("the action is taken", SOON, async || {
        let applied = ask(&["apply", &actions]).await?;
        if applied.status.success() { Ok(Some(())) } else { bail!("{}", text(&applied)) }
    })
    .await?;
    let ran = ask(&["run", "demo.echo", "--wait"]).await?;
    assert_eq!(ran.status.code(), Some(0), "{}", text(&ran));
    for daemon in [&mut executor, &mut worker] {
        assert!(daemon.is_running()?);
        let proc = format!("/proc/{}", daemon.pid());
        let line = std::fs::read_to_string(format!("{proc}/cmdline"))?;
        // Only root may read it of a process that can't be dumped.
        let environment = std::fs::read_to_string(format!("{proc}/environ")).unwrap_or_default();
        for secret in ["://", TOKEN] {
            assert!(!line.contains(secret) && !environment.contains(secret), "{line} {environment}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn dev_serves_until_it_is_asked_to_end_and_keeps_its_journal() -> anyhow::Result<()> {
    let sandbox = Sandbox::new("dev")?;
    let data = sandbox.path().join("data").display().to_string();
    for turn in 1..=2 {
        let mut dev = Launch::new("dev", &["dev", "--data", &data]).start_listening(&sandbox)?;
        let url = dev.api_url();
        eventually("dev has its actions", SOON, async || {
            let action = http()?.get(format!("{url}/api/v1/actions/demo.echo")).send().await?;
            Ok(action.status().is_success().then_some(()))
        })
        .await?;
        let second =
            Launch::new("second", &["dev", "--data", &data, "--listen", "127.0.0.1:0"]).output(&sandbox).await?;
        assert!(!second.status.success(), "two in one directory: {}", text(&second));
        let run = Launch::new("run", &["run", "demo.echo", "--wait"]).env("SLOTLINE_API_URL", url.clone());
        let done = run.output(&sandbox).await?;
        assert_eq!(done.status.code(), Some(0), "{}", text(&done));
        let answer: Value =
            http()?.get(format!("{url}/api/v1/executions?action=demo.echo")).send().await?.json().await?;
        assert_eq!(answer["data"].as_array().map(Vec::len), Some(turn), "{answer}");
        let status = dev.stop(SOON).await?;
        assert!(status.success(), "{status}");
    }
    Ok(())
}
