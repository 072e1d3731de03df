//! The folders of a crate: each imports from those below it only, so that a name tells where a line lives.
//!
//! Not here: files beside the folders (`config`, `clock`, ...), which all of them may use.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::names::entries;

/// The folders of each crate that has some, the lowest first; those of one line may import each other.
const WINGS: &[(&str, &[&[&str]])] = &[
    ("executor", &[&["record"], &["leader"], &["shell"], &["process"]]),
    ("worker", &[&["duty"], &["driver"], &["report"], &["process", "handler"], &["shell"]]),
    ("slotline", &[&["settings", "show", "client"], &["commands"], &["daemons"]]),
];

#[test]
fn every_folder_of_a_crate_imports_only_from_those_below_it() {
    let mut wrong = Vec::new();
    for (krate, layers) in WINGS {
        let source = source_of(krate);
        let wings = layers.iter().enumerate().flat_map(|(layer, wings)| wings.iter().map(move |wing| (layer, *wing)));
        for (layer, wing) in wings {
            let above: BTreeSet<&str> = layers[layer + 1..].concat().into_iter().collect();
            let files = files(&source, wing);
            assert!(files.len() > 1, "{krate} has no folder {wing}");
            for path in files {
                let text = std::fs::read_to_string(&path).expect("source is text");
                let named = modules_of(&text);
                wrong.extend(named.intersection(&above).map(|above| format!("{} imports {above}", path.display())));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The folders of `executor` and `worker` are all there is of them, but for what all of them use.
#[test]
fn a_file_beside_the_folders_is_used_by_several_of_them() {
    let beside: &[(&str, &[&str])] =
        &[("executor", &["config", "error"]), ("worker", &["clock", "draw", "error", "shutdown", "text", "worker"])];
    for (krate, known) in beside {
        let (_, layers) = WINGS.iter().find(|(name, _)| name == krate).expect("it has folders");
        let stems = entries(&source_of(krate)).into_iter().filter(|path| path.is_file());
        let stems: BTreeSet<String> =
            stems.map(|path| path.file_stem().expect("a name").to_string_lossy().into_owned()).collect();
        let expected = layers.concat().into_iter().chain(known.iter().copied()).chain(["lib"]).map(str::to_owned);
        assert_eq!(stems, expected.collect(), "{krate}: find the folder that it belongs to");
    }
}

fn source_of(krate: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates").join(krate).join("src")
}

/// `wing.rs` and all files of its folder.
fn files(source: &Path, wing: &str) -> Vec<PathBuf> {
    let mut files = vec![source.join(format!("{wing}.rs"))];
    let mut rest = vec![source.join(wing)];
    while let Some(path) = rest.pop() {
        if path.is_dir() {
            rest.extend(entries(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// The modules at the root of a crate that its lines name.
fn modules_of(text: &str) -> BTreeSet<&str> {
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    let mut found = BTreeSet::new();
    for line in code {
        for (_, rest) in line.match_indices("crate::").map(|(at, prefix)| line.split_at(at + prefix.len())) {
            match rest.strip_prefix('{') {
                // `use crate::{clock, shell::dead};`
                Some(group) => found.extend(group.split(['{', ',', '}', ';', ' ']).filter_map(first)),
                None => found.extend(first(rest)),
            }
        }
    }
    found
}

fn first(path: &str) -> Option<&str> {
    path.split(|c: char| !c.is_alphanumeric() && c != '_').next().filter(|name| !name.is_empty())
}

#[test]
fn the_modules_of_a_line_are_read_off_it() {
    let found = |line| modules_of(line).into_iter().collect::<Vec<_>>();
    assert_eq!(found("use crate::shell::{clock, dead};"), ["shell"]);
    assert_eq!(found("use crate::{clock, shell::dead};"), ["clock", "shell"]);
    assert_eq!(found("    fn arrive(&mut self, it: crate::leader::Item) {"), ["leader"]);
    assert!(found("// crate::shell").is_empty());
}
