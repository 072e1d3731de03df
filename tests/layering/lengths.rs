//! How long functions and files may be: what has more is cut by subject, or stands here with a reason.
//!
//! Read off the text as rustfmt leaves it: a function ends with the first brace that is indented as its line is.

use std::path::{Path, PathBuf};

use crate::names::entries;

const FUNCTION_MAX: usize = 60;
const SOURCE_MAX: usize = 450;
const TESTS_MAX: usize = 400;

/// Functions of the crates that may be longer.
const LONG_FUNCTIONS: &[(&str, &str, &str)] =
    &[("scheduler/src/state.rs", "apply", "one table: every state with every transition")];

/// Sources that may be longer. An entry goes when its file is cut; none is added.
const LONG_SOURCES: &[&str] = &["executor/src/shell/mail.rs", "executor/src/shell/term.rs", "store/src/row.rs"];

/// Files of tests that may be longer. An entry goes when its file is cut; none is added.
const LONG_TESTS: &[&str] = &[
    "api/tests/router.rs",
    "api/tests/world/mod.rs",
    "scheduler/tests/ahead.rs",
    "scheduler/tests/model.rs",
    "scheduler/tests/world/mod.rs",
    "store/tests/conformance/postgres.rs",
    "tests/model/worker.rs",
    "tests/simulation/broker.rs",
    "tests/simulation/scenarios.rs",
    "tests/simulation/stage.rs",
    "tests/simulation/world.rs",
    "tests/src/proxy.rs",
    "tests/system/journal.rs",
    "tests/system/progress.rs",
    "worker/tests/commands/process.rs",
    "worker/tests/duty/world.rs",
];

#[test]
fn no_function_is_longer_than_a_page() {
    let mut long = Vec::new();
    let mut used = Vec::new();
    for (name, text) in sources() {
        for (function, line, length) in functions(&text) {
            let known = LONG_FUNCTIONS.iter().find(|(file, known, _)| *file == name && *known == function);
            match known {
                Some(known) if length > FUNCTION_MAX => used.push(known),
                None if length > FUNCTION_MAX => long.push(format!("{name}:{line}: {function} has {length} lines")),
                _ => {}
            }
        }
    }
    assert!(long.is_empty(), "cut them by subject:\n{}", long.join("\n"));
    assert_eq!(used.len(), LONG_FUNCTIONS.len(), "a function on the list is short by now, or gone");
}

#[test]
fn no_file_is_longer_than_one_reads_at_once() {
    check(sources(), SOURCE_MAX, LONG_SOURCES);
    check(tests(), TESTS_MAX, LONG_TESTS);
}

fn check(files: Vec<(String, String)>, most: usize, known: &[&str]) {
    assert!(files.len() > 100, "the files were not found");
    let long = files.iter().filter(|(_, text)| text.lines().count() > most).map(|(name, _)| name.as_str());
    let long: Vec<&str> = long.collect();
    let new: Vec<_> = long.iter().filter(|name| !known.contains(name)).collect();
    assert!(new.is_empty(), "cut them by subject, to {most} lines at most: {new:?}");
    let short: Vec<_> = known.iter().filter(|name| !long.contains(name)).collect();
    assert!(short.is_empty(), "short by now: take them off the list: {short:?}");
}

/// The sources of the crates, without their tests.
fn sources() -> Vec<(String, String)> {
    let files = crates().into_iter().flat_map(|folder| read(&folder.join("src")));
    files.filter(|(name, _)| !is_test(name)).map(|(name, text)| (name, without_tests(text))).collect()
}

/// The files of tests, of the crates and of this package.
fn tests() -> Vec<(String, String)> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).to_owned();
    let beside = crates().into_iter().flat_map(|folder| read(&folder.join("tests")));
    let among = crates().into_iter().flat_map(|folder| read(&folder.join("src"))).filter(|(name, _)| is_test(name));
    beside.chain(among).chain(read(&own)).collect()
}

fn crates() -> Vec<PathBuf> {
    entries(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates")).into_iter().filter(|path| path.is_dir()).collect()
}

/// All Rust files below a folder, named from the folder of the crates or of this package.
fn read(folder: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut rest = vec![folder.to_owned()];
    while let Some(path) = rest.pop().filter(|path| path.exists()) {
        if path.is_dir() {
            rest.extend(
                entries(&path).into_iter().filter(|path| path.file_name().is_some_and(|name| name != "target")),
            );
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.to_string_lossy();
            let name = match name.split_once("/../crates/") {
                Some((_, below)) => below.to_owned(),
                None => format!("tests/{}", path.strip_prefix(env!("CARGO_MANIFEST_DIR")).expect("below").display()),
            };
            found.push((name, std::fs::read_to_string(&path).expect("source is text")));
        }
    }
    found
}

fn is_test(name: &str) -> bool {
    name.split('/').skip(2).any(|part| part == "tests" || part == "tests.rs")
}

fn without_tests(text: String) -> String {
    match text.split_once("#[cfg(test)]\nmod tests {") {
        Some((own, _)) => own.to_owned(),
        None => text,
    }
}

/// The functions of a file: name, line and number of lines.
fn functions(text: &str) -> Vec<(&str, usize, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let Some(name) = function_name(line) else { continue };
        let indent = &line[..line.len() - line.trim_start().len()];
        // One that stands on one line, or a declaration without a body.
        if line.ends_with(['}', ';']) {
            continue;
        }
        let is_end =
            |line: &&str| line.strip_prefix(indent).is_some_and(|rest| rest == "}" || is_declaration_end(rest));
        if let Some(length) = lines[index..].iter().position(is_end)
            && lines[index + length].trim() == "}"
        {
            found.push((name, index + 1, length + 1));
        }
    }
    found
}

/// `) -> Answer;` of a declaration that has several lines.
fn is_declaration_end(rest: &str) -> bool {
    rest.starts_with(')') && rest.ends_with(';')
}

/// `apply` of `pub(crate) async fn apply<T>(`.
fn function_name(line: &str) -> Option<&str> {
    let (before, rest) = line.trim_start().split_once("fn ")?;
    let is_function = before.split_whitespace().all(|word| {
        word.starts_with("pub") || ["async", "const", "unsafe", "in"].contains(&word) || word.ends_with(')')
    });
    is_function.then(|| rest.split(|c: char| !c.is_alphanumeric() && c != '_').next()).flatten()
}

#[test]
fn functions_are_found_with_their_lengths() {
    let text = "fn one() {}\n\nimpl It {\n    pub(crate) async fn two(\n        a: u8,\n    ) -> u8 {\n        a\n    }\n\n    \
        fn three(\n        a: u8,\n    ) -> u8;\n\n    fn four() {\n        if true {\n        }\n    }\n}\n";
    assert_eq!(functions(text), [("two", 4, 5), ("four", 14, 4)]);
    assert_eq!(function_name("let of = |number: fn(&Mark) -> i64| {"), None);
}
