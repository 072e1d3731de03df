//! Texts in the sources of a crate, for names that no type has.

use std::collections::BTreeSet;
use std::path::Path;

use crate::page::root;

/// Each source of a crate, without its tests, with all white space as single spaces.
pub(crate) fn of(krate: &str) -> Vec<String> {
    let (mut folders, mut sources) = (vec![root().join("crates").join(krate).join("src")], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in folder.read_dir().unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if is_source(&path) {
                let text = std::fs::read_to_string(&path).expect("source is text");
                let text = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
                sources.push(text.split_whitespace().collect::<Vec<_>>().join(" "));
            }
        }
    }
    assert!(!sources.is_empty(), "{krate} has no sources");
    sources
}

fn is_source(path: &Path) -> bool {
    let is_rust = path.extension().is_some_and(|extension| extension == "rs");
    is_rust && !path.file_stem().is_some_and(|name| ["tests", "strangers", "fuzz"].iter().any(|tests| name == *tests))
}

/// The texts in quotes that stand right behind `marker`.
pub(crate) fn quoted_after(source: &str, marker: &str) -> Vec<String> {
    source.split(marker).skip(1).filter_map(quoted).collect()
}

/// The text in quotes that a source begins with.
pub(crate) fn quoted(source: &str) -> Option<String> {
    source.trim_start().strip_prefix('"')?.split('"').next().map(str::to_owned)
}

/// The reasons for which a message is put aside, as they are spelt on the wire.
pub(crate) fn reasons() -> BTreeSet<String> {
    let sources = of("protocol");
    let spelt = sources.iter().find_map(|source| source.split_once("impl Reason {")?.1.split_once("} }"));
    let (spelt, _) = spelt.expect("the protocol has reasons");
    quoted_after(spelt, "=>").into_iter().collect()
}

/// Whether a text is a code: `worker_lost`.
pub(crate) fn is_code(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_lowercase() || c == '_')
}
