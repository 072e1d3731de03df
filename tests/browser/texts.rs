//! Texts of others are text on the page, whatever they are.

use anyhow::ensure;
use serde_json::json;

use crate::actions::Action;
use crate::chromium::Chromium;
use crate::world::World;

const HOSTILE: [&str; 5] = [
    "<img src=x onerror=\"document.title='caught'\">",
    "</pre><script>document.title='caught'</script>",
    "\u{202e}gnirts desrever\u{2066} \u{1b}[31mred\u{1b}[0m",
    "javascript:document.title='caught' https://example.invalid/\"onmouseover=\"document.title='caught'",
    "${document.title='caught'} {{constructor.constructor('x')()}}",
];

#[tokio::test]
async fn hostile_keys_parameters_messages_output_and_reasons_are_text() -> anyhow::Result<()> {
    let policy = "limit = 4\nkey_limit = 1\nkey = \"/key\"";
    let world = World::with([Action::reports("deploy.app", policy)]).start().await?;
    let (page, url) = (Chromium::start().await?, world.executors[0].api_url());
    for text in HOSTILE {
        let steps = json!([{"report": {"message": text, "progress": [1, 2]}}, {"out": text}, {"err": "x".repeat(200_000)}, {"wait": "end"}]);
        let id = world.submit("deploy.app", json!({"key": text, "steps": steps})).await?;
        page.go(&format!("{url}/ui/#/execution/{id}?tab=log")).await?;
        let shown: String = text.trim_start_matches('\u{202e}').chars().take(14).collect();
        page.reads("[data-log]", &shown).await?;
        page.reads("[data-message]", &shown).await?;
        for tab in ["parameters", "events", "raw"] {
            page.go(&format!("{url}/ui/#/execution/{id}?tab={tab}")).await?;
            page.until("document.querySelector('[role=tabpanel] pre').innerText.length > 20").await?;
        }
        let cancel = json!({"reason": text});
        world.ask("POST", &format!("/api/v1/executions/{id}/cancel"), Some(cancel)).await?;
        world.reaches(id, "cancelled").await?;
    }
    for screen in ["lines", "line/deploy.app", "executions", "audit", "workers", "dead", "run?action=deploy.app"] {
        page.go(&format!("{url}/ui/#/{screen}")).await?;
        page.until("!!document.querySelector('main h1')").await?;
    }
    page.go(&format!("{url}/ui/#/audit")).await?;
    page.reads("main", "onerror").await?;
    ensure!(page.js("document.title.includes('caught')").await? == false, "a text was run");
    ensure!(page.js("document.querySelectorAll('main img, main script').length").await? == 0, "a text is markup");
    page.is_content().await
}
