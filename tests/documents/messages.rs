//! `crates/protocol/README.md`: every message and member, and every reason for which one is put aside.

use std::collections::BTreeSet;

use serde_json::Value;
use slotline_protocol::message::{self, Message, TYPES};
use slotline_protocol::{Detail, public};

use crate::page::{Page, root};
use crate::{assert_same, fields, set, sources};

const PAGE: &str = "crates/protocol/README.md";

/// Each message with its members; of the two that a publisher sends, an unknown one is refused.
fn messages() -> Vec<(&'static str, BTreeSet<String>)> {
    fn plain<M: Message>() -> (&'static str, BTreeSet<String>) {
        (M::TYPE, fields::of::<M>())
    }
    fn strict<M: Message>() -> (&'static str, BTreeSet<String>) {
        (M::TYPE, fields::of_strict::<M>(""))
    }
    vec![
        strict::<message::Requested>(),
        strict::<message::CancelRequested>(),
        plain::<message::Accepted>(),
        plain::<message::Rejected>(),
        plain::<message::Settled>(),
        plain::<message::Scheduled>(),
        plain::<message::Cancel>(),
        plain::<message::Recall>(),
        plain::<message::Recorded>(),
        plain::<message::Resend>(),
        plain::<message::Hello>(),
        plain::<message::Completed>(),
        plain::<message::Returned>(),
        plain::<message::StatusChanged>(),
        (message::Progress::TYPE, golden_members("execution.progress")),
        plain::<message::Heartbeat>(),
        plain::<message::Ended>(),
        plain::<message::Probe>(),
    ]
}

/// The members of all golden files with this prefix: those of a message that is flat over several kinds.
fn golden_members(name: &str) -> BTreeSet<String> {
    let folder = root().join("crates/protocol/tests/golden");
    let files = folder.read_dir().expect("the golden files").map(|file| file.expect("one").path());
    let of_it = files.filter(|path| path.file_name().is_some_and(|file| file.to_string_lossy().starts_with(name)));
    let members = of_it.flat_map(|path| {
        let text = std::fs::read_to_string(&path).expect("readable");
        let golden: serde_json::Map<String, Value> = serde_json::from_str(&text).expect("an object");
        golden.into_iter().map(|(name, _)| name)
    });
    members.collect()
}

#[test]
fn every_message_has_a_heading_and_every_member_a_row() {
    let (page, messages) = (Page::read(PAGE), messages());
    assert_same("the messages of this test", &set(messages.iter().map(|(name, _)| name)), &set(TYPES));
    for (name, members) in messages {
        assert_same(&format!("{PAGE}, {name}"), &page.section(name).names(), &members);
    }
    let spoken: BTreeSet<String> = page.headings().filter(|heading| is_message(heading)).map(str::to_owned).collect();
    assert_same(&format!("{PAGE}, the messages"), &spoken, &set(TYPES));
}

/// Whether a heading is the name of a message and nothing else.
fn is_message(heading: &str) -> bool {
    let is_part = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    heading == "probe" || heading.contains('.') && heading.split('.').all(is_part)
}

#[test]
fn what_subscribers_receive_has_a_row_for_every_member() {
    let page = Page::read(PAGE);
    for (heading, members) in [
        ("Event: execution.status_changed", fields::of::<public::StatusChanged>()),
        ("Event: execution.completed", fields::of::<public::Completed>()),
        ("The member `account`", fields::of::<message::Shown>()),
        (
            "The member `progress`",
            fields::of_strict::<Detail>("").into_iter().filter(|name| name.contains('_')).collect(),
        ),
    ] {
        assert_same(&format!("{PAGE}, {heading}"), &page.section(heading).names(), &members);
    }
    let there = fields::of::<message::Failure>();
    let told = &page.section("How an attempt fails").lines.join(" ");
    assert!(there.iter().all(|name| told.contains(&format!("`{name}`"))), "{PAGE}: a failure has {there:?}");
}

#[test]
fn every_reason_for_which_a_message_is_put_aside_is_there() {
    let documented = Page::read(PAGE).section("What is put aside").names();
    assert_same(&format!("{PAGE}, the reasons"), &documented, &sources::reasons());
}

#[test]
fn every_code_with_which_an_attempt_fails_has_a_row() {
    let documented = Page::read(PAGE).section("How an attempt fails").names();
    let sources = ["worker", "scheduler", "executor"].into_iter().flat_map(sources::of);
    let spelt = sources.flat_map(|source| sources::quoted_after(&source, "Failure::new("));
    let there: BTreeSet<String> = spelt.filter(|code| sources::is_code(code)).collect();
    assert!(there.contains("worker_lost") && there.contains("spawn_failed"), "the sources spell codes: {there:?}");
    let missing: Vec<_> = there.difference(&documented).collect();
    assert!(missing.is_empty(), "{PAGE}, the codes: missing {missing:?}");
}
