//! What moves: bars, tabs that share a stream, and a leader that dies.

use anyhow::{Context, ensure};
use serde_json::json;
use slotline_tests::eventually;

use crate::actions::Action;
use crate::chromium::Chromium;
use crate::world::{SOON, World};

#[tokio::test]
async fn a_bar_moves_while_a_command_reports_and_its_output_comes() -> anyhow::Result<()> {
    let world = World::with([Action::reports("deploy.app", "limit = 1")]).start().await?;
    let steps = json!([
        {"report": {"progress": [1, 4], "message": "unpacking"}}, {"out": "line one"}, {"wait": "half"},
        {"report": {"progress": [2, 4], "message": "copying"}}, {"out": "line two"}, {"wait": "end"},
    ]);
    let id = world.submit_detailed("deploy.app", json!({"steps": steps})).await?;
    let (page, url) = (Chromium::start().await?, world.executors[0].api_url());
    page.go(&format!("{url}/ui/#/execution/{id}")).await?;
    page.reads("[data-percent]", "25 %").await?;
    page.reads("[data-log]", "line one").await?;
    page.reads("[data-why]", "Runs on worker-0").await?;
    page.until("document.querySelector('[data-bar]').value === 25").await?;
    world.open("half")?;
    page.until("document.querySelector('[data-bar]').value === 50").await?;
    page.reads("[data-message]", "copying").await?;
    page.reads("[data-log]", "line two").await?;
    page.shot("execution-running").await?;
    world.open("end")?;
    page.reads("[data-why]", "Completed").await?;
    page.is_content().await
}

#[tokio::test]
async fn nine_tabs_are_live_over_one_stream_which_moves_when_its_tab_is_closed() -> anyhow::Result<()> {
    let world = World::with([Action::stamp("deploy.app", "limit = 1")]).start().await?;
    let (page, url) = (Chromium::start().await?, world.executors[0].api_url());
    page.go(&format!("{url}/ui/")).await?;
    page.reads("header", "live").await?;
    for _ in 1..9 {
        page.new_tab().await?;
        page.go(&format!("{url}/ui/")).await?;
        page.reads("header", "live").await?;
        page.until("!!document.querySelector('[data-line=\"deploy.app\"]')").await?;
    }
    let tabs = page.tabs().await?;
    ensure!(tabs.len() == 9, "{tabs:?}");
    page.switch(&tabs[0]).await?;
    page.close_tab().await?;
    page.switch(tabs.last().context("a tab")?).await?;
    let id = world.submit("deploy.app", json!({"tag": "a"})).await?;
    world.reaches(id, "completed").await?;
    page.go(&format!("{url}/ui/#/execution/{id}")).await?;
    page.reads("main", "attempt 1 ended").await?;
    page.reads("header", "live").await?;
    page.is_content().await
}

#[tokio::test]
async fn the_page_of_a_follower_is_live_and_comes_back_when_the_leader_is_killed() -> anyhow::Result<()> {
    let mut world = World::with([Action::reports("deploy.app", "limit = 1")]).executors(2).start().await?;
    let leader = world.leader().await?.context("a leader")?;
    let page = Chromium::start().await?;
    page.go(&format!("{}/ui/#/line/deploy.app", world.executors[1 - leader].api_url())).await?;
    page.reads("[data-fact=running]", "0").await?;
    let first = world.submit("deploy.app", json!({"steps": [{"wait": "end"}]})).await?;
    page.reads("[data-fact=running]", "1").await?;
    page.until(&format!("!!document.querySelector('[data-holder=\"{first}\"]')")).await?;
    world.executors[leader].kill()?;
    eventually("the other leads", SOON, async || Ok(world.leader().await?.filter(|index| *index != leader))).await?;
    let second = world.submit("deploy.app", json!({"steps": [{"wait": "end"}]})).await?;
    page.reads("[data-fact=waiting]", "1").await?;
    page.until(&format!("!!document.querySelector('[data-waiting=\"{second}\"]')")).await?;
    page.reads("header", "live").await?;
    world.open("end")?;
    world.reaches(second, "completed").await?;
    page.reads("[data-fact=waiting]", "0").await?;
    page.is_content().await
}

#[tokio::test]
async fn a_page_whose_executor_is_gone_says_so_keeps_what_it_has_and_comes_back() -> anyhow::Result<()> {
    let mut world = World::with([Action::stamp("deploy.app", "limit = 1")]).start().await?;
    let page = Chromium::start().await?;
    page.go(&format!("{}/ui/", world.executors[0].api_url())).await?;
    page.reads("header", "live").await?;
    world.executors[0].kill()?;
    page.reads("header", "trying again").await?;
    page.reads("main", "deploy.app").await?;
    world.start_executor_again(0)?;
    page.reads("header", "live").await?;
    page.is_content().await
}
