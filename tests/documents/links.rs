//! Rules for every document: links lead somewhere, and the first page is short.

use std::path::{Component, Path, PathBuf};

use crate::page::root;

/// The most words of the README, code and tables included.
const README_WORDS_MAX: usize = 900;

#[test]
fn the_readme_is_read_in_three_minutes() {
    let text = std::fs::read_to_string(root().join("README.md")).expect("the README");
    let words = text.split_whitespace().count();
    assert!(words <= README_WORDS_MAX, "README.md has {words} words: expected at most {README_WORDS_MAX}");
}

#[test]
fn every_link_in_a_document_leads_to_a_file_and_a_heading_that_are_there() {
    let pages = pages();
    assert!(pages.len() > 10, "{pages:?}");
    let mut broken = Vec::new();
    for page in &pages {
        for link in links(&prose(&root().join(page))) {
            let (path, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = match path {
                "" => page.clone(),
                path => joined(page.parent().expect("a file is in a folder"), path),
            };
            let is_page = target.extension().is_some_and(|extension| extension == "md");
            if !root().join(&target).exists() {
                broken.push(format!("{}: {link}: there is no {}", page.display(), target.display()));
            } else if !anchor.is_empty()
                && is_page
                && !anchors(&prose(&root().join(&target))).contains(&anchor.to_owned())
            {
                broken.push(format!("{}: {link}: {} has no such heading", page.display(), target.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// Every document below the root, but not what is built or belongs to others.
fn pages() -> Vec<PathBuf> {
    let (mut folders, mut pages) = (vec![PathBuf::new()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in root().join(&folder).read_dir().expect("a folder") {
            let entry = entry.expect("an entry");
            let name = entry.file_name().into_string().expect("UTF-8");
            let path = folder.join(&name);
            let is_foreign = matches!(name.as_str(), "target" | ".git" | "node_modules" | "vendor");
            if entry.file_type().expect("a type").is_dir() && !is_foreign {
                folders.push(path);
            } else if name.ends_with(".md") {
                pages.push(path);
            }
        }
    }
    pages
}

/// The lines of a page that are no code.
fn prose(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut is_code = false;
    let lines = text.lines().filter(|line| {
        let is_fence = line.starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    });
    lines.map(str::to_owned).collect()
}

/// The links that are relative.
fn links(lines: &[String]) -> Vec<String> {
    let targets = |line: &String| {
        let ends = line.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
        ends.map(|(target, _)| target.to_owned()).collect::<Vec<_>>()
    };
    lines.iter().flat_map(targets).filter(|target| !target.contains("://") && !target.starts_with("mailto:")).collect()
}

/// The names of a page's headings in links.
fn anchors(lines: &[String]) -> Vec<String> {
    let headings = lines.iter().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    headings.map(anchor).collect()
}

fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
}

/// `path` from `folder`, with its `..` taken away.
fn joined(folder: &Path, path: &str) -> PathBuf {
    let mut parts: Vec<_> = folder.components().collect();
    for part in Path::new(path).components() {
        match part {
            Component::ParentDir => drop(parts.pop()),
            Component::CurDir => {}
            part => parts.push(part),
        }
    }
    parts.into_iter().collect()
}
