//! Every source file is part of a program: a file that no `mod` names is compiled by nothing, and its tests never run.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use cargo_metadata::Metadata;

#[test]
fn every_source_file_is_compiled() {
    let metadata = crate::metadata();
    let compiled = compiled(&metadata);
    let members = metadata.workspace_packages().into_iter();
    let folders = members.map(|package| package.manifest_path.parent().expect("a folder").as_std_path().to_owned());
    let mut sources = BTreeSet::new();
    folders.for_each(|folder| add_sources(&folder, &mut sources));
    assert!(sources.len() > 400, "the sources were not found: {}", sources.len());
    let left_out: Vec<_> = sources.difference(&compiled).collect();
    assert!(left_out.is_empty(), "no `mod` names these: {left_out:#?}");
}

/// The files of all programs, libraries and tests, by following their modules.
fn compiled(metadata: &Metadata) -> BTreeSet<PathBuf> {
    let targets = metadata.workspace_packages().into_iter().flat_map(|package| &package.targets);
    let mut rest: Vec<(PathBuf, bool)> = targets.map(|target| (plain(target.src_path.as_std_path()), true)).collect();
    let mut compiled = BTreeSet::new();
    while let Some((path, is_root)) = rest.pop() {
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        rest.extend(modules(&path, is_root, &text).into_iter().map(|module| (module, false)));
        compiled.insert(path);
    }
    compiled
}

/// Where the modules that a file names may be.
fn modules(path: &Path, is_root: bool, text: &str) -> Vec<PathBuf> {
    let folder = path.parent().expect("a file is in a folder");
    let stem = path.file_stem().expect("a file has a name");
    let below = if is_root || stem == "mod" { folder.to_owned() } else { folder.join(stem) };
    let mut found = Vec::new();
    let mut named = None;
    for line in text.lines().map(str::trim) {
        if let Some(place) = line.strip_prefix("#[path = \"").and_then(|rest| rest.strip_suffix("\"]")) {
            named = Some(plain(&folder.join(place)));
        } else if let Some(module) = module(line) {
            match named.take() {
                Some(place) => found.push(place),
                None => found.extend([below.join(format!("{module}.rs")), below.join(module).join("mod.rs")]),
            }
        } else if !line.starts_with("#[") {
            named = None;
        }
    }
    found
}

/// `clock` of `pub(crate) mod clock;`.
fn module(line: &str) -> Option<&str> {
    let rest = line.strip_suffix(';')?;
    let (before, name) = rest.rsplit_once("mod ")?;
    (before.is_empty() || before.starts_with("pub")).then_some(name)
}

/// Without `..`, so that a file has one path.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => _ = plain.pop(),
            Component::CurDir => {}
            part => plain.push(part),
        }
    }
    plain
}

fn add_sources(folder: &Path, sources: &mut BTreeSet<PathBuf>) {
    for path in crate::names::entries(folder) {
        if path.is_dir() {
            // A package of its own has programs of its own.
            if !path.join("Cargo.toml").exists() && path.file_name().is_none_or(|name| name != "target") {
                add_sources(&path, sources);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            sources.insert(plain(&path));
        }
    }
}

#[test]
fn a_module_is_found_where_its_line_and_its_path_say() {
    assert_eq!(module("pub(crate) mod clock;"), Some("clock"));
    assert_eq!(module("mod clock;"), Some("clock"));
    assert_eq!(module("mod tests {"), None);
    assert_eq!(module("// a mod of old;"), None);
    let text = "#[cfg(test)]\n#[path = \"../other/near.rs\"]\nmod near;\nmod own;\n";
    let expected = ["/a/other/near.rs", "/a/b/file/own.rs", "/a/b/file/own/mod.rs"].map(PathBuf::from);
    assert_eq!(modules(Path::new("/a/b/file.rs"), false, text), expected);
    assert_eq!(modules(Path::new("/a/b/main.rs"), true, "mod own;")[0], PathBuf::from("/a/b/own.rs"));
}
