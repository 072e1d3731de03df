//! A disk that is really full below a journal on SQLite.

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};
use slotline_tests::{Daemon, Disk, Launch, Sandbox, eventually};

use crate::world::{LATER, SOON, http};

const DISK_BYTES: u64 = 24 << 20;

/// Submits a request; returns the status and the answer.
async fn submit(dev: &Daemon, client: &reqwest::Client, key: &str) -> anyhow::Result<(u16, String)> {
    let request = json!({"action_ref": "demo.echo", "parameters": {"message": "x".repeat(10_000)}});
    let url = format!("{}/api/v1/executions", dev.api_url());
    let answer = client.post(url).header("idempotency-key", key).json(&request).send().await?;
    Ok((answer.status().as_u16(), answer.text().await?))
}

/// Waits until the request with this key has run.
async fn has_run(dev: &Daemon, client: &reqwest::Client, key: &str) -> anyhow::Result<()> {
    eventually(&format!("{key} has run"), LATER, async || {
        let known: Value = client.get(format!("{}/api/v1/requests/{key}", dev.api_url())).send().await?.json().await?;
        let Some(id) = known["data"]["execution_id"].as_i64() else { bail!("{known}") };
        let url = format!("{}/api/v1/executions/{id}", dev.api_url());
        let execution: Value = client.get(url).send().await?.json().await?;
        if execution["data"]["status"] == "completed" { Ok(Some(())) } else { bail!("{execution}") }
    })
    .await
}

#[tokio::test]
async fn dev_whose_disk_is_full_reports_it_and_goes_on_by_itself_when_there_is_room() -> anyhow::Result<()> {
    let sandbox = Sandbox::new("full")?;
    let disk = Disk::mount(&sandbox, DISK_BYTES)?;
    let data = disk.path().join("data").display().to_string();
    let mut dev =
        Launch::new("dev", &["dev", "--data", &data]).started_by(&disk.starter()).start_listening(&sandbox)?;
    let client = http()?;
    eventually("dev takes a request", SOON, async || match submit(&dev, &client, "before").await? {
        (200 | 201, _) => Ok(Some(())),
        (status, answer) => bail!("{status} {answer}"),
    })
    .await?;
    has_run(&dev, &client, "before").await?;

    // A journal that was just opened needs less room and may go on for a moment: a request that it takes meanwhile has
    // to run, too.
    let (mut accepted, mut refused) = (Vec::new(), None);
    let health = eventually("it refuses requests and says that the disk is full", LATER, async || {
        disk.fill()?;
        let key = format!("full-{}", accepted.len());
        match submit(&dev, &client, &key).await? {
            (200..=299, _) => accepted.push(key),
            (status, answer) => refused = Some(format!("{status} {answer}")),
        }
        let health = client.get(format!("{}/readyz?verbose", dev.api_url())).send().await?;
        let said = format!("{} {}", health.status(), health.text().await?);
        let is_full = said.starts_with("503") && said.contains("disk is full");
        match &refused {
            Some(refused) if is_full && refused.starts_with("503 ") && refused.contains("journal_unavailable") => {
                Ok(Some(said))
            }
            _ => bail!("{said} {refused:?}"),
        }
    })
    .await?;
    ensure!(dev.is_running()?, "it has ended: {health}");

    disk.make_room()?;
    eventually("dev takes requests again", LATER, async || match submit(&dev, &client, "after").await? {
        (200 | 201, _) => Ok(Some(())),
        (status, answer) => bail!("{status} {answer}"),
    })
    .await?;
    for key in accepted.iter().map(String::as_str).chain(["after"]) {
        has_run(&dev, &client, key).await?;
    }
    let status = dev.stop(SOON).await?;
    ensure!(status.success(), "{status}");
    dev.start_again(&sandbox)?;
    eventually("the journal is whole", SOON, async || {
        let url = format!("{}/api/v1/requests/after", dev.api_url());
        let known: Value = client.get(url).send().await?.json().await?;
        known["data"]["execution_id"].as_i64().context("an id").map(Some)
    })
    .await?;
    Ok(())
}
