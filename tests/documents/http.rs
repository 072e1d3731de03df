//! `crates/api/README.md`: every route, member, event and code; and its examples, run.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use slotline_protocol::audit::{By, Changed, Entry};
use slotline_protocol::change::{Applied, ApplyBody, LimitOverride, OverrideBody};
use slotline_protocol::message::Failure;
use slotline_protocol::record::{Event, Kind, Latest};
use slotline_protocol::{Policy, http, lines};

use crate::page::{Page, spans};
use crate::world::World;
use crate::{assert_same, fields, set, sources};

const PAGE: &str = "crates/api/README.md";

/// Whether a heading is a route.
fn is_route(heading: &str) -> bool {
    heading
        .split_once(' ')
        .is_some_and(|(method, path)| path.starts_with('/') && method.chars().all(char::is_uppercase))
}

#[test]
fn every_route_has_a_heading() {
    let page = Page::read(PAGE);
    let documented: BTreeSet<String> = page.headings().filter(|heading| is_route(heading)).map(str::to_owned).collect();
    assert_same(&format!("{PAGE}, the routes"), &documented, &set(slotline_api::served()));
    let first = page.headings().find(|heading| is_route(heading));
    assert_eq!(first, Some("GET /api/v1/actions/{action_ref}/queue-stats"), "what most come for stands first");
}

#[test]
fn every_member_of_a_body_or_an_answer_has_a_row() {
    let page = Page::read(PAGE);
    let entry: BTreeSet<String> = {
        let by: BTreeSet<String> = fields::of::<By>();
        let own = ["id", "at", "changed", "action_ref", "execution_id", "dead_letter", "changes"];
        by.into_iter().chain(own.map(str::to_owned)).collect()
    };
    let applied: BTreeSet<String> = fields::of::<Applied>().into_iter().chain(fields::of::<ApplyBody>()).collect();
    for (heading, members) in [
        ("GET /api/v1/actions/{action_ref}/queue-stats", fields::of::<http::QueueStats>()),
        ("GET /api/v1/lines", fields::of::<lines::LineRow>()),
        ("How lines change", fields::of::<lines::Rates>()),
        ("All lines at once", fields::of::<lines::Totals>()),
        ("GET /api/v1/lines/{action_ref}/waiting", fields::of::<lines::InLine>()),
        ("GET /api/v1/lines/{action_ref}/holders", fields::of::<lines::Holder>()),
        ("GET /api/v1/actions", fields::of::<http::Action>()),
        ("POST /api/v1/actions/apply", applied),
        ("PUT /api/v1/actions/{action_ref}/limit", fields::of::<OverrideBody>()),
        ("A limit override", fields::of::<LimitOverride>()),
        ("POST /api/v1/executions", fields::of::<http::Submitted>()),
        ("GET /api/v1/executions/{id}", fields::of::<http::Execution>()),
        ("Why it waits", fields::of::<http::Waiting>()),
        ("How far it is", fields::of::<Latest>()),
        ("A failure", fields::of::<Failure>()),
        ("An earlier attempt", fields::of::<http::Attempt>()),
        ("GET /api/v1/executions/{id}/events", fields::of::<http::Events>()),
        ("GET /api/v1/workers", fields::of::<http::Worker>()),
        ("GET /api/v1/audit", entry),
        ("GET /api/v1/dead/{id}", fields::of::<http::DeadLetter>()),
        ("GET /readyz", fields::of::<http::Health>()),
    ] {
        assert_same(&format!("{PAGE}, {heading}"), &page.section(heading).names(), &members);
    }
    // The audit's entry is flat, so its members are given above: an entry with all of them has those and no other.
    let full = Entry {
        id: 1,
        at: slotline_protocol::Timestamp::from_micros(0),
        changed: Changed::Paused,
        by: By::executor("a reason"),
        action_ref: Some(slotline_protocol::ActionRef::new("a.b").expect("a name")),
        execution_id: Some(slotline_protocol::ExecutionId(1)),
        dead_letter: Some("1".to_owned()),
        changes: slotline_protocol::change::differences(None, Some(&Policy { limit: Some(1), ..Policy::default() })),
    };
    let Value::Object(full) = serde_json::to_value(full).expect("plain data") else { panic!("an entry is an object") };
    assert_same(
        &format!("{PAGE}, an entry of the audit"),
        &page.section("GET /api/v1/audit").names(),
        &set(full.keys()),
    );
    let changes: BTreeSet<String> = page
        .section("GET /api/v1/audit")
        .rows()
        .iter()
        .filter(|row| row[0] == "`changed`")
        .flat_map(|row| spans(&row[1]))
        .collect();
    assert_same(&format!("{PAGE}, what is audited"), &changes, &set(Changed::ALL));
}

#[test]
fn every_event_and_every_member_of_one_has_a_row() {
    let page = Page::read(PAGE);
    let rows = page.section("Events").rows();
    let kinds = [Kind::Status, Kind::Started, Kind::Progress, Kind::Log, Kind::Gap, Kind::Finished, Kind::Settled]
        .map(Kind::as_str);
    let is_event = |row: &&Vec<String>| row.len() == 3;
    let events: BTreeSet<String> = rows.iter().filter(is_event).flat_map(|row| spans(&row[0])).collect();
    assert_same(&format!("{PAGE}, the events"), &events, &set(kinds));
    let there = fields::of::<Event>();
    let of_kinds = rows.iter().filter(is_event).flat_map(|row| spans(&row[2]));
    let of_all = rows.iter().filter(|row| row.len() == 2).flat_map(|row| spans(&row[0]));
    // Some rows also name the values of a member.
    let values = ["stdout", "stderr", "notice", "merged", "lost", "pruned", "refused"];
    let members: BTreeSet<String> = of_kinds.chain(of_all).filter(|name| !values.contains(&name.as_str())).collect();
    assert_same(&format!("{PAGE}, the members of events"), &members, &there);
}

#[test]
fn every_code_of_a_refusal_has_a_row() {
    let documented = Page::read(PAGE).section("Codes of refusals").names();
    let sources = ["api", "executor", "protocol"].into_iter().flat_map(sources::of);
    let there: BTreeSet<String> = sources.flat_map(|source| codes(&source)).collect();
    assert!(there.contains("unknown_action") && there.contains("requests_full"), "the sources spell codes: {there:?}");
    let missing: Vec<_> = there.difference(&documented).collect();
    // A request that a publisher could have sent is refused over HTTP with the same reasons.
    let reasons = sources::reasons();
    let stale: Vec<_> = documented.iter().filter(|code| !there.contains(*code) && !reasons.contains(*code)).collect();
    assert!(missing.is_empty() && stale.is_empty(), "{PAGE}, the codes: missing {missing:?}, stale {stale:?}");
}

/// The codes that a source spells where it refuses something.
fn codes(source: &str) -> BTreeSet<String> {
    let mut markers = vec!["Refusal::new(", "not_found(", "code: "];
    // There axum's own refusals are given codes of ours.
    markers.extend(source.contains("fn uniform(").then_some("=> ("));
    let plain = markers.into_iter().flat_map(|marker| sources::quoted_after(source, marker));
    // A call may be broken over lines.
    let joined = source.split_whitespace().collect::<Vec<_>>().join(" ").replace("( ", "(");
    let kinds = joined.split("ControlError::new(RefusalKind::").skip(1);
    let of_kinds = kinds.filter_map(|rest| sources::quoted(rest.split_once(',')?.1));
    let unavailable = source.contains("fn unavailable(").then(|| "unavailable".to_owned());
    plain.chain(of_kinds).chain(unavailable).filter(|code| sources::is_code(code)).collect()
}

/// The body of an answer: what `curl -i` prints before it is left out.
fn answer(stdout: &str) -> Result<Value> {
    let body = stdout.find("{\"").map(|start| &stdout[start..]).with_context(|| format!("JSON: {stdout}"))?;
    Ok(serde_json::from_str(body.trim())?)
}

#[test]
fn every_example_is_answered_as_on_its_page() -> Result<()> {
    let (page, world) = (Page::read(PAGE), World::start(None)?);
    let names: BTreeSet<String> = page.sections.iter().flat_map(|section| section.names()).collect();
    let mut tried = BTreeSet::new();
    for section in &page.sections {
        for block in section.blocks() {
            let heading = &section.heading;
            match (block.language.as_str(), block.text.as_str()) {
                ("", text) if text.contains("/api/v1/events") || text.contains("/api/v1/stream") => {
                    let done = world.shell_for_a_while(text)?;
                    ensure!(!done.stdout.contains("error") && done.code == Some(124), "{heading}: {done:?}");
                }
                ("", text) if text.contains("/metrics") => {
                    let done = world.shell(text)?;
                    ensure!(done.code == Some(0) && done.stdout.ends_with("# EOF\n"), "{heading}: {done:?}");
                }
                ("", text) if text.contains("text/event-stream") => {
                    let done = world.shell(text)?;
                    ensure!(done.code == Some(0) && done.stdout.contains("event: settled"), "{heading}: {done:?}");
                }
                ("", text) => {
                    let done = world.shell(text)?;
                    let answer = answer(&done.stdout).with_context(|| format!("{heading}: {done:?}"))?;
                    match refusal(text) {
                        Some(code) => ensure!(answer["error"]["code"] == code, "{heading}: {answer}"),
                        None => ensure!(answer.get("data").is_some(), "{heading}: {answer}"),
                    }
                    let one = answer["data"].as_array().and_then(|items| items.first()).unwrap_or(&answer["data"]);
                    let unknown = one.as_object().into_iter().flatten().filter(|(name, _)| !names.contains(*name));
                    let unknown: Vec<&String> =
                        unknown.map(|(name, _)| name).filter(|name| !is_named(&page, name)).collect();
                    ensure!(unknown.is_empty(), "{heading}: no row says what these are: {unknown:?}");
                }
                ("python", text) => {
                    let done = world.python(text)?;
                    ensure!(done.code == Some(0) && done.stdout.contains("settled"), "{heading}: {done:?}");
                }
                _ => continue,
            }
            tried.insert(heading.clone());
        }
    }
    let untried: Vec<&str> = page.headings().filter(|heading| is_route(heading) && !tried.contains(*heading)).collect();
    ensure!(untried.is_empty(), "{PAGE}: these have no example: {untried:?}");
    Ok(())
}

/// The code of the refusal that an example shows: what is behind `# 404 ` or another status of the client's mistakes.
fn refusal(text: &str) -> Option<&str> {
    let (status, code) = text.rsplit_once("# ")?.1.trim().split_once(' ')?;
    (status.len() == 3 && status.starts_with('4')).then_some(code)
}

/// Whether a page names a member otherwise: in a sentence, or beside others.
fn is_named(page: &Page, name: &str) -> bool {
    let spelt = [format!("`{name}`"), format!("\"{name}\"")];
    let mut lines = page.sections.iter().flat_map(|section| &section.lines);
    lines.any(|line| spelt.iter().any(|spelt| line.contains(spelt)))
}
