//! The README as its reader runs it: every block of it, on real servers, one after the other.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use slotline_tests::{Launch, Port, Postgres, Rabbit, Sandbox, eventually, slotline_binary};

use crate::page::{Block, Page, root};
use crate::world::{LATER, PYTHON, http, list};

/// The servers and addresses that documents name.
const DATABASE: &str = "postgres://slotline:secret@127.0.0.1/slotline";
const AMQP: &str = "amqp://slotline:secret@127.0.0.1/%2f";
const LEADER: &str = "127.0.0.1:7070";
const STANDBY: &str = "127.0.0.1:7071";

/// Builds, which take too long to run here: their names are compared with the files.
const BUILDS: [&str; 4] = [
    "cargo run --release -- demo",
    "cargo run --release -- dev",
    "cargo install --path crates/slotline --locked",
    "cargo bench -p slotline-tests --bench compare",
];

/// The executions of `deploy.app`: one of the command line, two of Python, one of `curl`, one whose end is awaited.
const DEPLOYED: usize = 5;

fn blocks(path: &'static str) -> Vec<Block> {
    Page::read(path).sections.iter().flat_map(crate::page::Section::blocks).collect()
}

/// The blocks of the document, with the servers and ports of this test.
struct Site {
    database: String,
    amqp: String,
    leader: String,
    standby: String,
}

impl Site {
    fn lines(&self, block: &Block) -> Result<String> {
        let lines = block.text.replace(DATABASE, &self.database).replace(AMQP, &self.amqp);
        let lines = lines.replace(LEADER, &self.leader).replace(STANDBY, &self.standby);
        match block.language.as_str() {
            "sh" => Ok(lines),
            "python" => Ok(format!("{PYTHON} - <<'END'\n{lines}END\n")),
            other => anyhow::bail!("a block of {other:?} can't be run"),
        }
    }
}

#[tokio::test]
async fn every_block_of_the_readme_works_on_real_servers() -> Result<()> {
    let readme = blocks("README.md");
    let runs = readme.iter().filter(|block| matches!(block.language.as_str(), "sh" | "python"));
    let examples: Vec<Block> =
        blocks("crates/protocol/README.md").into_iter().filter(|block| block.language == "python").collect();
    let [waiter, subscriber] = &*examples else { anyhow::bail!("{} examples in Python", examples.len()) };

    let (sandbox, ports) = (Sandbox::new("readme")?, [Port::claim()?, Port::claim()?]);
    let address = |port: &Port| format!("127.0.0.1:{}", port.number());
    let site = Site {
        database: Postgres::shared().await?.fresh_database("slotline").await?,
        amqp: Rabbit::shared().await?.fresh_vhost().await?,
        leader: address(&ports[0]),
        standby: address(&ports[1]),
    };
    // Deploys; then a subscriber that finds nothing yet, and leaves its queue; then publishing; then the subscriber
    // again.
    let mut script = "set -eu\n".to_owned();
    for (index, block) in runs.enumerate() {
        script.push_str(&site.lines(block)?);
        if index == 0 {
            script.push_str(&site.lines(subscriber)?);
        }
    }
    script.push_str(&site.lines(waiter)?);
    // The shell stays with the daemons that it has started, and they end with it.
    let through = sandbox.path().join("through");
    script.push_str(&format!("touch {}\nwait\n", through.display()));
    let script_path = sandbox.path().join("readme.sh");
    std::fs::write(&script_path, script)?;

    let program = slotline_binary()?;
    let folder = program.parent().context("a program is in a folder")?;
    let path = format!("{}:{}", folder.display(), std::env::var("PATH")?);
    let mut shell = Command::new("sh");
    shell.arg(&script_path).current_dir(root()).env("PATH", &path).env("HOME", sandbox.path());
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SLOTLINE_")) {
        shell.env_remove(name);
    }
    shell.env("SLOTLINE_LISTEN", &site.leader).env("SLOTLINE_API_URL", format!("http://{}", site.leader));
    let mut reader = sandbox.spawn(&mut shell, "readme.log")?;
    let ended = eventually("the blocks are through", LATER, async || {
        let ended = reader.try_wait()?;
        Ok((ended.is_some() || through.exists()).then_some(ended))
    })
    .await?;
    ensure!(ended.is_none(), "{ended:?}:\n{}", reader.log());

    let url = format!("http://{}/api/v1/executions?action=deploy.app", site.standby);
    eventually("all of it is deployed", LATER, async || {
        let page: serde_json::Value = http()?.get(&url).send().await?.json().await?;
        let statuses: Vec<_> = list(&page["data"])?.iter().map(|execution| execution["status"].clone()).collect();
        ensure!(statuses.len() == DEPLOYED && statuses.iter().all(|status| status == "completed"), "{statuses:?}");
        Ok(Some(()))
    })
    .await?;
    let log = reader.log();
    ensure!(log.contains("deploy.app created") && log.contains("{\"deployed\": \"web\"}"), "{log}");

    ensure!(log.contains("execution.settled completed {'deployed': 'shop'}"), "{log}");

    let again = site.lines(subscriber)?;
    let told = tokio::task::spawn_blocking(move || Command::new("sh").args(["-euc", &again]).output()).await??;
    let ends = String::from_utf8_lossy(&told.stdout).lines().filter(|line| line.contains(" completed None ")).count();
    ensure!(told.status.success() && ends == DEPLOYED - 1, "{told:?}");
    Ok(())
}

#[tokio::test]
async fn what_the_readme_builds_is_there_and_its_demo_ends_as_it_shows() -> Result<()> {
    let readme = blocks("README.md");
    let is_run = |block: &Block| matches!(block.language.as_str(), "" | "sh" | "python" | "text");
    ensure!(readme.iter().all(is_run), "a block in a language that no test runs");
    let text = std::fs::read_to_string(root().join("README.md"))?;
    let built: Vec<&str> = text.split("cargo ").skip(1).collect();
    for command in &BUILDS {
        let arguments = command.trim_start_matches("cargo ");
        ensure!(built.iter().any(|rest| rest.starts_with(arguments)), "README.md: `{command}` is gone");
    }
    ensure!(built.len() == BUILDS.len(), "README.md: a further `cargo` that this test does not know");
    ensure!(
        root().join("crates/slotline/Cargo.toml").exists() && root().join("tests/benches/compare/main.rs").exists()
    );

    let sandbox = Sandbox::new("readme-demo")?;
    let shown = Launch::new("demo", &["demo"]).output(&sandbox).await?;
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    let recording = readme.iter().find(|block| block.language == "text").context("a recording")?;
    for line in recording.text.lines().rev().take_while(|line| !line.is_empty()) {
        // The time depends on the machine.
        let line = line.split(", in ").next().unwrap_or_default();
        ensure!(shown.contains(line), "the demo does not show {line:?}:\n{shown}");
    }
    let help = Launch::new("help", &["--help"]).output(&sandbox).await?;
    let help = String::from_utf8_lossy(&help.stdout).into_owned();
    ensure!(help.contains("\n  demo ") && help.contains("\n  dev "), "{help}");
    Ok(())
}
