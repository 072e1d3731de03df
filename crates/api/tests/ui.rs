//! The page: its files, what the browser may do with them, and where they come from.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use axum::http::StatusCode;
use sha2::{Digest, Sha256};

use crate::world::{TestRequest, World};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("ui")
}

fn files_in(folder: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).expect("the folder is there");
    let names = entries.map(|entry| entry.expect("an entry"));
    let files = names.filter(|entry| entry.path().is_file());
    files.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn every_file_of_the_folder_is_served_and_no_other() {
    let own = files_in(&folder());
    let of_others = files_in(&folder().join("vendor"));
    let code = of_others.iter().filter(|name| name.ends_with(".js")).map(|name| format!("vendor/{name}"));
    let there: BTreeSet<String> = own.into_iter().chain(code).collect();
    assert_eq!(slotline_api::ui::files().map(str::to_owned).collect::<BTreeSet<_>>(), there);
}

#[test]
fn what_the_page_uses_of_others_is_listed_with_its_licence_and_digest() {
    let vendor = folder().join("vendor");
    let list = std::fs::read_to_string(vendor.join("README.md")).expect("the list");
    let mut listed = BTreeMap::new();
    for line in list.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let licence = cells[4].split_once('(').and_then(|(_, rest)| rest.strip_suffix(')')).expect("a licence");
        assert!(vendor.join(licence).is_file(), "{licence}");
        listed.insert(cells[1].trim_matches('`').to_owned(), cells[5].trim_matches('`').to_owned());
    }
    let files = files_in(&vendor).into_iter().filter(|name| name.ends_with(".js"));
    let digests: BTreeMap<_, _> = files
        .map(|name| {
            let digest = Sha256::digest(std::fs::read(vendor.join(&name)).expect("a file"));
            (name, digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
        })
        .collect();
    assert_eq!(listed, digests);
}

/// Also what a browser would ask for by itself.
#[test]
fn no_file_names_another_place() {
    for name in slotline_api::ui::files().filter(|name| !name.starts_with("vendor/")) {
        let text = std::fs::read_to_string(folder().join(name)).expect("a file");
        let named: Vec<&str> = text.match_indices("//").map(|(at, _)| &text[at.saturating_sub(8)..]).collect();
        let places =
            named.iter().filter(|rest| rest.starts_with("https:") || rest[..8.min(rest.len())].contains("http:"));
        let foreign: Vec<_> = places.filter(|rest| !rest.contains("//www.w3.org/2000/svg")).collect();
        assert!(foreign.is_empty(), "{name}: {:?}", foreign.first().map(|rest| rest.lines().next()));
        assert!(!text.contains("innerHTML") && !text.contains("eval("), "{name}");
        if name.ends_with(".html") {
            assert!(!text.contains(" style=") && !text.contains(" onclick="), "{name}");
        }
    }
}

#[tokio::test]
async fn each_file_is_served_with_what_the_browser_may_do_with_it() -> anyhow::Result<()> {
    let world = World::new().await?;
    for name in slotline_api::ui::files() {
        let answer = world.response(TestRequest::get(&format!("/ui/{name}"))).await?;
        assert_eq!(answer.status(), StatusCode::OK, "{name}");
        let header =
            |header: &str| answer.headers().get(header).and_then(|value| value.to_str().ok()).unwrap_or_default();
        assert!(header("content-security-policy").starts_with("default-src 'none'; script-src 'self';"), "{name}");
        assert!(header("content-security-policy").contains("frame-ancestors 'none'"), "{name}");
        assert_eq!((header("x-content-type-options"), header("cache-control")), ("nosniff", "no-cache"), "{name}");
        let kind = if name.ends_with(".js") { "text/javascript; charset=utf-8" } else { header("content-type") };
        assert_eq!(header("content-type"), kind, "{name}");
        let tag = header("etag").to_owned();
        let again = TestRequest::get(&format!("/ui/{name}")).header("if-none-match", &tag);
        assert_eq!(world.response(again).await?.status(), StatusCode::NOT_MODIFIED, "{name}");
    }
    Ok(())
}

#[tokio::test]
async fn the_page_is_found_from_the_root_below_any_path() -> anyhow::Result<()> {
    let world = World::new().await?;
    for path in ["/", "/ui"] {
        let browser = TestRequest::get(path).header("accept", "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8");
        let answer = world.response(browser).await?;
        assert_eq!((answer.status(), answer.headers()["location"].to_str()?), (StatusCode::FOUND, "ui/"), "{path}");
        assert_eq!(
            world.ask(TestRequest::get(path)).await?.code(),
            "no_such_route",
            "{path}: a program is not led there"
        );
    }
    let answer = world.response(TestRequest::get("/ui/")).await?;
    assert_eq!(answer.headers()["content-type"], "text/html; charset=utf-8");
    for path in ["/ui/no.js", "/ui/vendor/README.md", "/ui/..%2fCargo.toml", "/ui/vendor"] {
        assert_eq!(world.ask(TestRequest::get(path)).await?.status, StatusCode::NOT_FOUND, "{path}");
    }
    Ok(())
}

#[tokio::test]
async fn the_page_needs_no_token_and_what_it_shows_does() -> anyhow::Result<()> {
    let world = World::guarded("s3cret").await?;
    assert_eq!(world.response(TestRequest::get("/ui/")).await?.status(), StatusCode::OK);
    for path in ["/api/v1/lines", "/api/v1/stream", "/api/v1/workers"] {
        assert_eq!(world.ask(TestRequest::get(path)).await?.status, StatusCode::UNAUTHORIZED, "{path}");
    }
    Ok(())
}

#[tokio::test]
async fn a_page_under_a_foreign_name_is_refused() -> anyhow::Result<()> {
    let world = World::new().await?;
    let rebound = TestRequest::get("/ui/").header("host", "evil.example");
    assert_eq!(world.ask(rebound).await?.status, StatusCode::FORBIDDEN);
    Ok(())
}
