//! `GET /metrics`, and what is counted of HTTP.

use anyhow::Context as _;
use axum::http::StatusCode;
use serde_json::json;

use crate::world::{TestRequest, World};

#[tokio::test]
async fn a_scrape_is_text_in_the_format_of_openmetrics() -> anyhow::Result<()> {
    let world = World::new().await?;
    let (parts, body) = world.response(TestRequest::get("/metrics")).await?.into_parts();
    assert_eq!(parts.status, StatusCode::OK);
    let kind = parts.headers.get("content-type").context("a content type")?.to_str()?;
    assert_eq!(kind, "application/openmetrics-text; version=1.0.0; charset=utf-8");
    let text = axum::body::to_bytes(body, 1 << 20).await?;
    assert_eq!(text, "slotline_streams 0\n# EOF\n");
    Ok(())
}

#[tokio::test]
async fn each_answer_is_counted_by_its_route_and_never_by_its_path() -> anyhow::Result<()> {
    let world = World::new().await?;
    world.ask(TestRequest::post("/api/v1/executions").json(&json!({"action_ref": "demo.echo"}))).await?;
    world.ask(TestRequest::get("/api/v1/executions/41")).await?;
    world.ask(TestRequest::get("/api/v1/executions/42")).await?;
    world.ask(TestRequest::get("/api/v1/nonsense/42")).await?;
    world.ask(TestRequest::get("/livez")).await?;
    let counted = [
        "201 /api/v1/executions",
        "404 /api/v1/executions/{id}",
        "404 /api/v1/executions/{id}",
        "404 unmatched",
        "200 /livez",
    ];
    assert_eq!(world.control.answered(), counted);
    Ok(())
}
