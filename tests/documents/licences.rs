//! Every dependency is under a licence that leaves the choice of ours open.

use cargo_metadata::MetadataCommand;

use crate::page::root;

/// Licences that ask for their text to be kept, and of files of their own at most that changes to them are shown.
const ALLOWED: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-1-Clause",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "MPL-2.0",
    "NCSA",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

#[test]
fn every_dependency_leaves_the_choice_of_a_licence_open() {
    let manifest = root().join("Cargo.toml");
    let metadata = MetadataCommand::new().manifest_path(manifest).other_options(["--locked".to_owned()]).exec();
    let metadata = metadata.expect("cargo metadata");
    let foreign = metadata.packages.iter().filter(|package| !metadata.workspace_members.contains(&package.id));
    let wrong: Vec<String> = foreign
        .filter(|package| !package.license.as_deref().is_some_and(is_allowed))
        .map(|package| {
            format!("{} {}: {}", package.name, package.version, package.license.as_deref().unwrap_or("none"))
        })
        .collect();
    assert!(wrong.is_empty(), "take another package, or agree to its licence in `ALLOWED`:\n{}", wrong.join("\n"));
}

/// Whether an expression of SPDX can be met with what is allowed: one side of each `OR`, both of each `AND`.
fn is_allowed(expression: &str) -> bool {
    let expression = strip(expression);
    if let Some((left, right)) = split(expression, " OR ").or_else(|| split(expression, "/")) {
        return is_allowed(left) || is_allowed(right);
    }
    if let Some((left, right)) = split(expression, " AND ") {
        return is_allowed(left) && is_allowed(right);
    }
    ALLOWED.contains(&expression)
}

/// Without parentheses around the whole.
fn strip(expression: &str) -> &str {
    let expression = expression.trim();
    match expression.strip_prefix('(').and_then(|inner| inner.strip_suffix(')')) {
        Some(inner) if is_closed(inner) => strip(inner),
        _ => expression,
    }
}

/// Whether every parenthesis within is closed within.
fn is_closed(text: &str) -> bool {
    let mut depth = 0;
    for c in text.chars() {
        depth += match c {
            '(' => 1,
            ')' => -1,
            _ => 0,
        };
        if depth < 0 {
            return false;
        }
    }
    depth == 0
}

/// At the first operator that stands in no parentheses.
fn split<'e>(expression: &'e str, operator: &str) -> Option<(&'e str, &'e str)> {
    let mut places = expression.match_indices(operator).map(|(place, _)| place);
    let place = places.find(|place| is_closed(&expression[..*place]))?;
    Some((&expression[..place], &expression[place + operator.len()..]))
}

#[test]
fn an_expression_is_met_by_one_side_of_each_or_and_both_of_each_and() {
    for good in ["MIT", "MIT OR GPL-3.0", "MIT/Apache-2.0", "(MIT OR GPL-2.0) AND ISC", "GPL-2.0 OR (MIT AND Zlib)"] {
        assert!(is_allowed(good), "{good}");
    }
    for bad in ["GPL-3.0", "MIT AND GPL-3.0", "(MIT OR ISC) AND AGPL-3.0", ""] {
        assert!(!is_allowed(bad), "{bad}");
    }
}
