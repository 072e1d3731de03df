//! What a scrape gives, compared with its reference; and the rules and the board that are made of it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::page::{Page, root, spans};
use crate::world::World;
use crate::{assert_same, set};

const PAGE: &str = "crates/api/README.md";
/// The last parts of the names of a family's samples.
const SUFFIXES: [&str; 3] = ["_bucket", "_count", "_sum"];

fn observability() -> PathBuf {
    root().join("deploy/observability")
}

/// A scrape of a site that has done something.
fn scrape() -> Result<String> {
    let world = World::start(None)?;
    let done = world.shell("slotline run demo.echo -p hello=world --api-url http://127.0.0.1:7070")?;
    ensure!(done.code == Some(0), "{done:?}");
    // The first answer of a route is counted after it is given.
    world.shell("curl -s http://127.0.0.1:7070/livez")?;
    Ok(world.shell("curl -sS --fail-with-body http://127.0.0.1:7070/metrics")?.stdout)
}

/// `name type` of each family; a counter by the name of its sample.
fn families(scrape: &str) -> BTreeSet<String> {
    let family = |line: &str| {
        let (name, kind) = line.strip_prefix("# TYPE ")?.split_once(' ')?;
        let suffix = match kind {
            "counter" => "_total",
            "info" => "_info",
            _ => "",
        };
        Some(format!("{name}{suffix} {kind}"))
    };
    scrape.lines().filter_map(family).collect()
}

/// The names of our metrics in a text.
fn used(text: &str) -> BTreeSet<String> {
    let is_part = |char: char| char.is_ascii_alphanumeric() || char == '_' || char == ':';
    let names = text.split(|char| !is_part(char)).filter(|word| {
        // A label of a query of the board is no metric.
        word.starts_with("slotline_") || word.starts_with("process_")
    });
    let family = |name: &str| {
        let cut = SUFFIXES.iter().find_map(|suffix| name.strip_suffix(suffix));
        cut.unwrap_or(name).to_owned()
    };
    names.map(family).collect()
}

#[test]
fn every_metric_is_in_the_reference_with_its_type_and_in_a_rule_or_on_the_board() -> Result<()> {
    let scrape = scrape()?;
    ensure!(scrape.ends_with("# EOF\n"), "the scrape is cut off: {scrape}");
    let there = families(&scrape);
    let rows = Page::read(PAGE).section("GET /metrics").rows();
    let documented = rows.iter().flat_map(|row| spans(&row[0]).into_iter().map(|name| format!("{name} {}", row[1])));
    assert_same(&format!("{PAGE}, the metrics"), &documented.collect(), &there);

    let read = |name| std::fs::read_to_string(observability().join(name)).with_context(|| format!("no {name}"));
    let shown = used(&(read("alerts.yaml")? + &read("dashboard.json")?));
    let names: BTreeSet<String> = set(there.iter().filter_map(|family| family.split(' ').next()));
    let unknown: Vec<&String> = shown.difference(&names).collect();
    assert!(unknown.is_empty(), "in a rule or on the board, and in no scrape: {unknown:?}");
    let unused: Vec<&String> = names.difference(&shown).filter(|name| name.starts_with("slotline_")).collect();
    assert!(unused.is_empty(), "in no rule and not on the board: {unused:?}");
    Ok(())
}

#[test]
fn each_alert_fires_for_its_fault_and_for_no_other() -> Result<()> {
    for arguments in [["check", "rules", "alerts.yaml"], ["test", "rules", "alerts_test.yaml"]] {
        let promtool = Command::new("promtool").args(arguments).current_dir(observability()).output();
        let done = promtool.context("promtool can't be started: install Debian's package prometheus")?;
        let said = String::from_utf8_lossy(&done.stdout) + String::from_utf8_lossy(&done.stderr);
        ensure!(done.status.success(), "promtool {arguments:?}:\n{said}");
    }
    Ok(())
}

#[test]
fn every_alert_has_a_test_and_a_row_that_says_what_to_do() -> Result<()> {
    let rules = std::fs::read_to_string(observability().join("alerts.yaml"))?;
    let tests = std::fs::read_to_string(observability().join("alerts_test.yaml"))?;
    let alerts: BTreeSet<String> = set(rules.lines().filter_map(|line| line.trim_start().strip_prefix("- alert: ")));
    ensure!(alerts.len() > 9, "{alerts:?}");
    assert_same("deploy/README.md, the alerts", &Page::read("deploy/README.md").section("Alerts").names(), &alerts);
    let untested: Vec<&String> =
        alerts.iter().filter(|alert| !tests.contains(&format!("alertname=\"{alert}\""))).collect();
    ensure!(untested.is_empty(), "no test has {untested:?}");
    Ok(())
}
