//! What an operator sets on all queues of a virtual host, and the policy that keeps it from ours.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;
use slotline_tests::eventually;

use crate::actions::Action;
use crate::world::World;

/// The canaries are looked at once a minute.
const CHECKED: Duration = Duration::from_secs(240);

/// Whether a warning names `what`.
async fn warned(world: &World, what: &str) -> anyhow::Result<bool> {
    let ready = world.get("/readyz?verbose").await?;
    let warnings = ready["warnings"].as_array().context("warnings")?;
    Ok(warnings.iter().filter_map(Value::as_str).any(|warning| warning.contains(what)))
}

async fn until_warned(world: &World, what: &str, is_so: bool) -> anyhow::Result<()> {
    eventually(&format!("{what}: {is_so}"), CHECKED, async || {
        let warned = warned(world, what).await?;
        Ok((warned == is_so).then_some(()))
    })
    .await
}

async fn set(world: &World, name: &str, pattern: &str, definition: &str, priority: &str) -> anyhow::Result<()> {
    let vhost = world.vhost()?;
    let arguments =
        ["set_policy", "--vhost", vhost, "--priority", priority, "--apply-to", "queues", name, pattern, definition];
    world.rabbit.ctl(&arguments).await.map(drop)
}

async fn restart_executor(world: &mut World) -> anyhow::Result<()> {
    world.executors[0].kill()?;
    world.start_executor_again(0)?;
    world.ready().await
}

#[tokio::test]
async fn a_policy_that_loses_requests_is_found_and_one_of_ours_ranks_above_it() -> anyhow::Result<()> {
    const FATAL: [&str; 4] = ["message-ttl", "overflow", "delivery-limit", "a policy with expires"];
    // It takes the leader's own mark from the broker, too: the next leader bears a lease of doubt.
    let mut world = World::with([Action::stamp("line.one", "limit = 1")]).short_lease().start().await?;
    let everything =
        r#"{"message-ttl": 1000, "expires": 2000, "max-length": 1000, "overflow": "drop-head", "delivery-limit": 5}"#;
    world.rabbit.ctl(&["clear_policy", "--vhost", world.vhost()?, "slotline"]).await?;
    set(&world, "everything", ".*", everything, "0").await?;
    // What is found at once is found by each leader; what takes its time is found while it leads.
    restart_executor(&mut world).await?;
    for what in FATAL {
        until_warned(&world, what, true).await?;
    }
    ensure!(world.executors[0].log().contains("slotline rabbitmq definitions"), "the log names the cure");
    set(&world, "slotline", "^slotline\\.", r#"{"max-length-bytes": 1000000000000}"#, "1000").await?;
    restart_executor(&mut world).await?;
    // Not merely not yet: one message is there before the first look, and one more after each; two looks are over.
    eventually("the canaries were looked at twice", CHECKED, async || {
        let aged = world.canaries().await?;
        Ok((aged >= 3).then_some(()))
    })
    .await?;
    for what in FATAL {
        ensure!(!warned(&world, what).await?, "{what} is still said");
    }
    Ok(())
}
