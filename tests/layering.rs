//! The map of the crates, compared with what they really link according to cargo.
//!
//! Only what ends up in a program counts: what tests and benches use is exempt, and so is this package.

#[path = "layering/files.rs"]
mod files;
#[path = "layering/lengths.rs"]
mod lengths;
#[path = "layering/names.rs"]
mod names;
#[path = "layering/wings.rs"]
mod wings;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, PackageId};

const PREFIX: &str = "slotline-";
const BINARY: &str = "slotline";

/// Each crate, with those of ours that it may import.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("protocol", &[]),
    ("scheduler", &["protocol"]),
    ("broker", &["protocol"]),
    ("store", &["scheduler", "protocol"]),
    ("api", &["store", "protocol"]),
    ("executor", &["api", "store", "broker", "scheduler", "protocol"]),
    ("worker", &["broker", "protocol"]),
    (BINARY, &["protocol", "scheduler", "broker", "store", "api", "executor", "worker"]),
];

/// Libraries that one crate alone may link, so that replacing one is the work of one crate.
const ALONE_MAY_LINK: &[(&str, &str)] = &[
    ("lapin", "broker"),
    ("sqlx", "store"),
    ("axum", "api"),
    ("prometheus-client", "executor"),
    ("clap", BINARY),
    ("reqwest", BINARY),
];

/// Crates that must not reach another of ours even through a third.
const NEVER_REACHES: &[(&str, &str)] = &[("worker", "store"), ("worker", "scheduler"), ("scheduler", "broker")];

fn metadata() -> Metadata {
    MetadataCommand::new()
        .manifest_path(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .other_options(["--locked".to_owned()])
        .exec()
        .expect("cargo metadata")
}

/// The crate's short name, if the map has it.
fn ours(package: &str) -> Option<&str> {
    let name = if package == BINARY { package } else { package.strip_prefix(PREFIX)? };
    (name != "tests").then_some(name)
}

/// Crate to the names of the packages it links directly, itself or in its build script.
fn direct(metadata: &Metadata) -> BTreeMap<&str, BTreeSet<&str>> {
    let crates = metadata.workspace_packages().into_iter().filter_map(|package| {
        let links = package.dependencies.iter().filter(|dependency| dependency.kind != DependencyKind::Development);
        Some((ours(&package.name)?, links.map(|dependency| dependency.name.as_str()).collect()))
    });
    crates.collect()
}

/// The names of everything that ends up in a program with `start`.
fn reached<'a>(metadata: &'a Metadata, start: &str) -> BTreeSet<&'a str> {
    let resolve = metadata.resolve.as_ref().expect("cargo metadata resolves unless told not to");
    let links: BTreeMap<&PackageId, Vec<&PackageId>> = resolve
        .nodes
        .iter()
        .map(|node| {
            let kept = node
                .deps
                .iter()
                .filter(|dep| dep.dep_kinds.iter().any(|kind| kind.kind != DependencyKind::Development));
            (&node.id, kept.map(|dep| &dep.pkg).collect())
        })
        .collect();
    let name_of = |id: &PackageId| metadata[id].name.as_str();
    let from = links.keys().find(|id| ours(name_of(id)) == Some(start)).expect("a crate of the map");
    let (mut seen, mut rest) = (BTreeSet::new(), vec![*from]);
    while let Some(id) = rest.pop() {
        if seen.insert(id) {
            rest.extend(&links[id]);
        }
    }
    seen.into_iter().map(|id| metadata[id].name.as_str()).collect()
}

#[test]
fn the_crates_are_those_of_the_map() {
    let metadata = metadata();
    let found: BTreeSet<&str> = direct(&metadata).into_keys().collect();
    let map: BTreeSet<&str> = MAY_IMPORT.iter().map(|(name, _)| *name).collect();
    assert_eq!(found, map, "a further crate needs a reason as strong as these have");
}

#[test]
fn every_crate_imports_only_what_lies_below_it() {
    let metadata = metadata();
    for (name, links) in direct(&metadata) {
        let (_, may) = MAY_IMPORT.iter().find(|(known, _)| *known == name).expect("another test compares the names");
        let imports: Vec<&str> = links.iter().filter_map(|link| ours(link)).collect();
        for import in imports {
            assert!(may.contains(&import), "{name} imports {import}; it may import only {may:?}");
        }
        assert!(!links.contains("slotline-tests"), "{name} links the harness into its program");
    }
}

#[test]
fn a_library_with_a_keeper_is_linked_by_its_keeper_alone() {
    let metadata = metadata();
    let crates = direct(&metadata);
    for (library, keeper) in ALONE_MAY_LINK {
        let users: Vec<&str> =
            crates.iter().filter(|(_, links)| links.contains(library)).map(|(name, _)| *name).collect();
        assert_eq!(users, [*keeper], "{library} belongs to {keeper}");
    }
}

#[test]
fn a_worker_reaches_no_database_even_through_others() {
    let metadata = metadata();
    for (from, forbidden) in NEVER_REACHES {
        let reached = reached(&metadata, from);
        assert!(reached.contains("slotline-protocol"), "the walk from {from} went nowhere");
        assert!(!reached.contains(format!("{PREFIX}{forbidden}").as_str()), "{from} reaches {forbidden}");
    }
    let reached = reached(&metadata, "worker");
    assert!(!reached.iter().any(|name| name.starts_with("sqlx")), "worker reaches a database driver");
}

#[test]
fn both_databases_have_the_same_migrations() {
    let names = |database: &str| -> BTreeSet<String> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../migrations").join(database);
        let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        entries.map(|entry| entry.expect("readable").file_name().into_string().expect("UTF-8")).collect()
    };
    let (postgres, sqlite) = (names("postgres"), names("sqlite"));
    assert_eq!(postgres, sqlite);
    assert!(!postgres.is_empty() && postgres.iter().all(|name| name.ends_with(".sql")), "{postgres:?}");
}

/// The message of an error without its causes ("database unavailable") rarely shows what went wrong.
#[test]
fn an_error_in_a_log_has_all_its_causes() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates");
    let mut folders: Vec<_> =
        crates.read_dir().expect("the crates").map(|folder| folder.expect("one").path().join("src")).collect();
    let mut wrong = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in folder.read_dir().into_iter().flatten() {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).expect("source is text");
                let is_short = |line: &str| line.contains("%error") || line.contains("as &dyn std::error::Error");
                let lines = text.lines().enumerate().filter(|(_, line)| is_short(line));
                wrong.extend(lines.map(|(index, line)| format!("{}:{}: {}", path.display(), index + 1, line.trim())));
            }
        }
    }
    assert!(wrong.is_empty(), "write `error = %chain(&error)` (slotline_protocol::chain):\n{}", wrong.join("\n"));
}

/// With one test program a crate, a file that it does not name would never run.
#[test]
fn every_file_of_tests_belongs_to_a_test_program() {
    let metadata = metadata();
    let mut forgotten = Vec::new();
    for package in metadata.workspace_packages() {
        let programs: Vec<&Path> = package
            .targets
            .iter()
            .filter(|target| target.is_test())
            .map(|target| target.src_path.as_std_path())
            .collect();
        let said: String = programs.iter().map(|path| std::fs::read_to_string(path).expect("source is text")).collect();
        let folder = package.manifest_path.with_file_name("tests");
        for entry in folder.read_dir_utf8().into_iter().flatten() {
            let path = entry.expect("an entry").into_path();
            let stem = path.file_stem().expect("a name").to_owned();
            let is_source = path.extension() == Some("rs");
            if is_source && !programs.contains(&path.as_std_path()) && !said.contains(&format!("mod {stem};")) {
                forgotten.push(path);
            }
        }
    }
    assert!(forgotten.is_empty(), "no test program has these: {forgotten:?}");
}

/// What `cargo t` leaves out: it needs servers or minutes.
const NOT_FAST: &[&str] = &["browser", "harness", "model", "system"];

#[test]
fn cargo_t_runs_every_fast_test_program() {
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cargo/config.toml");
    let config = std::fs::read_to_string(config).expect("cargo's settings");
    let (_, alias) = config.split_once("\nt = [").expect("the alias");
    let metadata = metadata();
    for target in metadata.workspace_packages().iter().flat_map(|package| &package.targets) {
        if target.is_test() && target.test && !NOT_FAST.contains(&target.name.as_str()) {
            assert!(
                alias.contains(&format!("\"--test\", \"{}\"", target.name)),
                "{} is missing in `cargo t`",
                target.name
            );
        }
    }
}

/// What can act, wait, read a clock or draw by chance.
const ACTS: &[&str] = &[
    "tokio",
    "futures",
    "tracing",
    "rustix",
    "nix::",
    "std::fs",
    "std::io",
    "std::thread",
    "std::process",
    "std::sync::Mutex",
    "crate::clock",
    "crate::draw",
    "crash::point",
    "slotline_broker",
];

#[test]
fn what_decides_in_a_worker_acts_on_nothing() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/worker/src");
    let mut paths = vec![source.join("duty.rs"), source.join("driver.rs")];
    for folder in ["duty", "driver"] {
        let entries = source.join(folder).read_dir().expect("a module's folder");
        paths.extend(entries.map(|entry| entry.expect("an entry").path()).filter(|path| path.is_file()));
    }
    assert!(paths.len() > 10, "{paths:?}");
    for path in paths {
        let text = std::fs::read_to_string(&path).expect("source is text");
        // The names of queues and keys are plain data.
        let text = text.replace("slotline_broker::topology::LOGS_KEY", "");
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        for line in code {
            let acts: Vec<_> = ACTS.iter().filter(|name| line.contains(**name)).collect();
            assert!(acts.is_empty(), "{}: {acts:?} in `{line}`", path.display());
        }
    }
}
