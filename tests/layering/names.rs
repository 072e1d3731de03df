//! One word, one thing: no type name means something else in another crate, except for those listed here.
//!
//! Read off the sources: every `pub` and `pub(crate)` type at the start of a line. Not here: names within one crate,
//! and those of members and variants.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

type Names = BTreeMap<String, BTreeSet<String>>;

/// Names that several crates may define, each with the reason. It may name any crates.
const KEPT: &[(&str, &str)] = &[
    ("Command", "clap's name for the commands of a program, beside the command of an action"),
    ("Config", "the settings of the component that a crate is, always written with the crate's name"),
    ("Error", "the error of a crate, always written with the crate's name"),
    ("Execution", "the API's answer about an execution bears the name of what it shows"),
    ("Input", "what a pure machine is given: one for each of the four"),
    ("Order", "what the leader sends to a worker: as the scheduler decides it, and as the worker reads it"),
    ("Settled", "the end of an execution: as the scheduler decides it, and as its publisher is answered"),
    ("Worker", "the API's answer about a worker bears the name of what it shows"),
];

#[test]
fn no_type_name_is_defined_in_two_crates_without_a_reason() {
    let found = doubles();
    let kept: BTreeSet<&str> = KEPT.iter().map(|(name, _)| *name).collect();
    for (name, crates) in &found {
        let is_kept = kept.contains(name.as_str());
        assert!(is_kept, "{name} is defined in {crates:?}: find another name (crates/README.md, Glossary)");
    }
    let stale: Vec<&str> = kept.into_iter().filter(|name| !found.contains_key(*name)).collect();
    assert!(stale.is_empty(), "defined in one crate at most by now: take them off the list: {stale:?}");
}

/// The type names that two crates or more define, with those crates.
fn doubles() -> Names {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates");
    let mut names = Names::new();
    for folder in entries(&crates).into_iter().filter(|path| path.join("src").is_dir()) {
        let krate = folder.file_name().expect("a name").to_string_lossy().into_owned();
        let mut rest = vec![folder.join("src")];
        while let Some(path) = rest.pop() {
            if path.is_dir() {
                rest.extend(entries(&path));
            } else if is_source(path.strip_prefix(&folder).expect("it is below")) {
                let text = std::fs::read_to_string(&path).expect("source is text");
                let own = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
                for name in own.lines().filter_map(type_name) {
                    names.entry(name.to_owned()).or_default().insert(krate.clone());
                }
            }
        }
    }
    assert!(names.len() > 100, "the sources were not found: {names:?}");
    names.retain(|_, crates| crates.len() > 1);
    names
}

pub(crate) fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = folder.read_dir().unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    entries.map(|entry| entry.expect("an entry").path()).collect()
}

/// Whether a file of a crate is Rust and not its tests.
fn is_source(path: &Path) -> bool {
    let is_tests = path.components().any(|part| ["tests", "tests.rs"].iter().any(|tests| part.as_os_str() == *tests));
    path.extension().is_some_and(|extension| extension == "rs") && !is_tests
}

/// `Line` of `pub(crate) struct Line<T> {`.
fn type_name(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("pub ").or_else(|| line.strip_prefix("pub(crate) "))?;
    let rest = ["struct ", "enum ", "trait ", "type ", "union "].iter().find_map(|kind| rest.strip_prefix(kind))?;
    rest.split(|c: char| !c.is_alphanumeric() && c != '_').next()
}

#[test]
fn a_type_name_is_read_off_its_line() {
    assert_eq!(type_name("pub(crate) struct Line<T> {"), Some("Line"));
    assert_eq!(type_name("pub enum Status {"), Some("Status"));
    assert_eq!(type_name("pub(crate) type Names = u8;"), Some("Names"));
    for line in ["    pub struct Inner;", "pub(super) struct Near;", "struct Own;", "pub fn line() {}"] {
        assert_eq!(type_name(line), None, "{line}");
    }
}
