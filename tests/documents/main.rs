//! The documents, compared with the program: a missing or stale entry fails and is named.
//!
//! Fast and without servers: what has to run, runs on `slotline dev`.

mod fields;
mod http;
mod licences;
mod links;
mod messages;
mod metrics;
mod page;
mod program;
mod sources;
mod world;

use std::collections::BTreeSet;

/// Fails with what a reference lacks and what it has too much.
fn assert_same(what: &str, documented: &BTreeSet<String>, there: &BTreeSet<String>) {
    let missing: Vec<&String> = there.difference(documented).collect();
    let stale: Vec<&String> = documented.difference(there).collect();
    assert!(missing.is_empty() && stale.is_empty(), "{what}: missing {missing:?}, stale {stale:?}");
}

fn set<T: ToString>(items: impl IntoIterator<Item = T>) -> BTreeSet<String> {
    items.into_iter().map(|item| item.to_string()).collect()
}
