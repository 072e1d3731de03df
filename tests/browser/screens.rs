//! Every screen, with nothing and with much to show.

use anyhow::ensure;
use serde_json::json;

use crate::actions::Action;
use crate::chromium::Chromium;
use crate::world::World;

/// Each screen with words that it shows where there is nothing.
const EMPTY: [(&str, &str); 6] = [
    ("lines", "slotline apply actions.toml"),
    ("executions", "slotline run"),
    ("workers", "slotline worker"),
    ("dead", "every message could be read"),
    ("audit", "Nothing was changed"),
    ("run", "Action"),
];

#[tokio::test]
async fn an_empty_installation_says_the_next_command_on_every_screen() -> anyhow::Result<()> {
    let world = World::with([]).workers(0, 0).start().await?;
    let (page, url) = (Chromium::start().await?, world.executors[0].api_url());
    page.go(&url).await?;
    for (screen, words) in EMPTY {
        page.go(&format!("{url}/ui/#/{screen}")).await?;
        page.reads("main", words).await?;
    }
    page.go(&format!("{url}/ui/#/execution/7")).await?;
    page.reads("main", "there is no execution 7").await?;
    page.go(&format!("{url}/ui/#/line/no.such")).await?;
    page.reads("main", "no action is called no.such").await?;
    page.is_content().await
}

#[tokio::test]
async fn hundreds_of_lines_come_by_pages_and_are_found_by_their_names() -> anyhow::Result<()> {
    let world = World::with([Action::stamp("a.first", "limit = 1")]).start().await?;
    let many: Vec<_> =
        (0..250).map(|number| json!({"action_ref": format!("many.n{number:03}"), "policy": {}})).collect();
    world.ask("POST", "/api/v1/actions/apply", Some(json!({"actions": many}))).await?;
    let (page, url) = (Chromium::start().await?, world.executors[0].api_url());
    page.go(&format!("{url}/ui/#/lines?sort=name")).await?;
    page.until("document.querySelectorAll('tr[data-line]').length === 100").await?;
    page.reads("main", "251 actions").await?;
    page.click("More lines").await?;
    page.until("!!document.querySelector('[data-line=\"many.n150\"]')").await?;
    page.press(&["/"]).await?;
    page.until("document.activeElement.type === 'search'").await?;
    page.press(&["a", "."]).await?;
    page.until("document.querySelectorAll('tr[data-line]').length === 1").await?;
    let address = page.js("location.hash").await?;
    ensure!(address.as_str().is_some_and(|address| address.contains("prefix=a.")), "{address}");
    page.is_content().await
}

#[tokio::test]
async fn the_page_is_readable_on_a_telephone_and_in_the_dark() -> anyhow::Result<()> {
    let world = World::with([Action::stamp("deploy.app", "limit = 1")]).start().await?;
    let id = world.submit("deploy.app", json!({"tag": "a"})).await?;
    world.reaches(id, "completed").await?;
    let (page, url) = (Chromium::start().await?, world.executors[0].api_url());
    page.go(&format!("{url}/ui/")).await?;
    for (width, scheme) in [(1300, "light"), (1300, "dark"), (375, "dark")] {
        page.resize(width, 900).await?;
        page.colours(scheme).await?;
        for (screen, ready) in [
            ("lines".to_owned(), "deploy.app"),
            ("line/deploy.app".to_owned(), "Waiting, in order"),
            (format!("execution/{id}"), "Completed"),
            ("workers".to_owned(), "worker-0"),
        ] {
            page.go(&format!("{url}/ui/#/{screen}")).await?;
            page.reads("main", ready).await?;
            let name = screen.split('/').next().unwrap_or_default();
            page.shot(&format!("{name}-{scheme}-{width}")).await?;
            let is_wide = page.js("document.documentElement.scrollWidth > innerWidth").await?;
            ensure!(is_wide == false, "{screen} at {width} is wider than its window");
            let small = page.js(TOO_SMALL).await?;
            ensure!(small == json!([]), "{screen} has text below 12 px: {small}");
        }
    }
    page.is_content().await
}

/// The texts that are smaller than can be read.
const TOO_SMALL: &str = "[...document.querySelectorAll('main *, header *')].filter((element) => \
    [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim()) && \
    parseFloat(getComputedStyle(element).fontSize) < 12).map((element) => element.textContent)";
