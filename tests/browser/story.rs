//! A person finds why a deployment waits, and does something about it.

use anyhow::ensure;
use serde_json::json;

use crate::actions::Action;
use crate::chromium::Chromium;
use crate::world::World;

#[tokio::test]
async fn why_it_waits_is_found_the_limit_is_raised_and_the_audit_has_it() -> anyhow::Result<()> {
    let world = World::with([Action::reports("deploy.app", "limit = 1")]).start().await?;
    let steps = json!([{"report": {"progress": [1, 2], "message": "restarting"}}, {"wait": "end"}]);
    let first = world.submit("deploy.app", json!({"steps": steps})).await?;
    world.reaches(first, "running").await?;
    let second = world.submit("deploy.app", json!({"steps": steps})).await?;
    let (page, url) = (Chromium::start().await?, world.executors[0].api_url());

    page.go(&url).await?;
    page.reads("[data-line='deploy.app']", "waiting").await?;
    page.shot("story-1-lines").await?;
    page.click("deploy.app").await?;
    page.reads(&format!("[data-holder='{first}']"), "worker-0").await?;
    page.until(&format!("!!document.querySelector('[data-waiting=\"{second}\"]')")).await?;
    page.click(&second.to_string()).await?;
    page.reads("[data-why]", &format!("Waits: 1st of deploy.app. Every slot is taken. Held by {first} on worker-0"))
        .await?;
    page.shot("story-2-why").await?;

    page.click("deploy.app").await?;
    page.click("Override").await?;
    page.fill("limit", "2").await?;
    page.fill("reason", "two hotfixes at once").await?;
    page.shot("story-3-limit").await?;
    page.click("Override the limit").await?;
    page.reads(&format!("[data-holder='{second}']"), "worker-0").await?;
    page.reads("main", "override 2").await?;
    page.shot("story-4-both-run").await?;
    let stats = world.stats("deploy.app").await?;
    ensure!(stats["max_concurrent"] == 2 && stats["declared_limit"] == 1, "{stats}");

    page.click("Its audit").await?;
    page.reads("[data-audit=limit_overridden]", "two hotfixes at once").await?;
    page.reads("[data-audit=limit_overridden]", "local").await?;
    page.shot("story-5-audit").await?;
    world.open("end")?;
    page.is_content().await
}

#[tokio::test]
async fn a_whole_case_goes_by_keys_alone() -> anyhow::Result<()> {
    let world = World::with([Action::reports("deploy.app", "limit = 1")]).start().await?;
    let id = world.submit("deploy.app", json!({"steps": [{"wait": "end"}]})).await?;
    world.reaches(id, "running").await?;
    let (page, url) = (Chromium::start().await?, world.executors[0].api_url());
    page.go(&format!("{url}/ui/")).await?;
    page.reads("[data-line='deploy.app']", "running").await?;
    let enter = "\u{e007}";
    page.press(&["j", enter]).await?;
    page.until(&format!("!!document.querySelector('[data-holder=\"{id}\"]')")).await?;
    page.press(&["j", enter]).await?;
    page.reads("[data-why]", "Runs on worker-0").await?;
    page.press(&["c"]).await?;
    page.until("!!document.querySelector('dialog[open]')").await?;
    page.press(&["n", "o", enter]).await?;
    world.reaches(id, "cancelled").await?;
    page.reads("[data-why]", "Was cancelled").await?;
    page.press(&["g", "w"]).await?;
    page.reads("h1", "Workers").await?;
    page.press(&["?"]).await?;
    page.until("!!document.querySelector('dialog[open]')").await?;
    page.is_content().await
}
