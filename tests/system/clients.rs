//! The library for Python as a client, a publisher and a subscriber, with an executor that dies meanwhile.

use std::process::Stdio;

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use crate::actions::{Action, LIBRARY};
use crate::world::{LATER, PYTHON, World};

const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/system/clients.py");

#[tokio::test]
async fn clients_in_python_submit_once_miss_no_event_and_know_every_end() -> anyhow::Result<()> {
    let actions = ["line.one", "py.waits", "py.fails"].map(|name| Action::python(name, ""));
    let mut world = World::with(actions).workers(1, 4).start().await?;
    let gate = world.gate("watched").display().to_string();
    let (publisher, reader) = (world.login("publisher"), world.login("reader"));
    let mut program = Command::new(PYTHON)
        .args([PROGRAM, &world.executors[0].api_url(), &publisher, &reader, &gate])
        .env("PYTHONPATH", LIBRARY)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut lines = BufReader::new(program.stdout.take().context("its output")?).lines();
    let watching = tokio::time::timeout(LATER, lines.next_line()).await??;
    assert_eq!(watching.as_deref(), Some("watching"));
    world.executors[0].kill()?;
    world.start_executor_again(0)?;
    world.ready().await?;
    world.open("watched")?;
    let found = tokio::time::timeout(LATER, lines.next_line()).await??.context("what it found")?;
    ensure!(program.wait().await?.success(), "{found}");
    let expected = json!({
        "same": true,
        "numbers": true,
        "again": [],
        "result": {"tag": "watched"},
        "ends": {"completed": 21, "cancelled": 1},
        "failed": ["failed", "out_of_paper"],
        "refused": [422, "invalid_request"],
        "unknown": [404, "unknown_action"],
        "cancel": true,
        "cancelled": ["cancelled", "cancelled"],
    });
    assert_eq!(serde_json::from_str::<Value>(&found)?, expected);
    Ok(())
}
