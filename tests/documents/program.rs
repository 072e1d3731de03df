//! `crates/slotline/README.md`: commands, flags, variables, settings, the actions file, what a command is given.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value};
use slotline_protocol::message::{Report, Task};
use slotline_protocol::{Policy, duration, policy};
use slotline_tests::slotline_binary;
use slotline_worker::{HandlerConfig, HandlerRun, Phase, RunConfig};

use crate::page::{Page, Section, root, spans};
use crate::world::World;
use crate::{assert_same, fields, set, sources};

const PAGE: &str = "crates/slotline/README.md";
/// Flags that explain a command.
const HELP: [&str; 2] = ["--help", "--version"];

fn slotline(arguments: &[&str]) -> Result<(Option<i32>, String)> {
    let mut command = Command::new(slotline_binary()?);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SLOTLINE_")) {
        command.env_remove(name);
    }
    let done = command.args(arguments).output()?;
    let text = [done.stdout, done.stderr].concat();
    Ok((done.status.code(), String::from_utf8_lossy(&text).into_owned()))
}

/// The most columns before a flag; the text of a flag has more.
const FLAG_INDENT_MAX: usize = 6;

/// The `--help` of one command.
struct Help {
    commands: Vec<String>,
    flags: BTreeSet<String>,
    variables: BTreeSet<String>,
    /// Of the flags that have one.
    defaults: BTreeMap<String, String>,
}

impl Help {
    fn of(command: &[&str]) -> Result<Self> {
        let (code, text) = slotline(&[command, &["--help"]].concat())?;
        ensure!(code == Some(0), "{command:?}: {text}");
        let mut help =
            Self { commands: vec![], flags: BTreeSet::new(), variables: BTreeSet::new(), defaults: BTreeMap::new() };
        let (mut is_list, mut flag) = (false, String::new());
        let mut options: BTreeMap<String, String> = BTreeMap::new();
        for line in text.lines() {
            let trimmed = line.trim_start();
            if !line.starts_with(' ') {
                is_list = trimmed == "Commands:";
                flag.clear();
            } else if is_list && line.starts_with("  ") && !line.starts_with("   ") {
                help.commands.extend(trimmed.split_whitespace().next().map(str::to_owned));
            } else if trimmed.starts_with('-') && line.len() - trimmed.len() <= FLAG_INDENT_MAX {
                let long = trimmed.split([' ', ',', '=']).find(|word| word.starts_with("--"));
                flag = long.with_context(|| format!("a flag: {line}"))?.to_owned();
                options.insert(flag.clone(), trimmed.to_owned());
            } else if let Some(told) = options.get_mut(&flag) {
                told.push(' ');
                told.push_str(trimmed);
            }
        }
        for (flag, told) in options {
            let after = |marker: &str, end: [char; 2]| {
                told.split_once(marker).and_then(|(_, rest)| rest.split(end).next()).map(str::trim).map(str::to_owned)
            };
            help.variables.extend(after("[env: ", ['=', ']']));
            help.defaults.extend(after("[default: ", [']', ']']).map(|default| (flag.clone(), default)));
            help.flags.insert(flag);
        }
        help.commands.retain(|name| name != "help");
        Ok(help)
    }
}

/// Every command that does something, with its help.
fn commands() -> Result<Vec<(String, Help)>> {
    let (mut names, mut found) = (vec![Vec::<String>::new()], Vec::new());
    while let Some(name) = names.pop() {
        let words: Vec<&str> = name.iter().map(String::as_str).collect();
        let help = Help::of(&words)?;
        names.extend(help.commands.iter().map(|command| name.iter().chain([command]).cloned().collect()));
        if help.commands.is_empty() {
            found.push((name.join(" "), help));
        }
    }
    Ok(found)
}

/// The long flags that the first cells of a section's rows spell: of `--name VALUE` the name.
fn flags(section: &Section) -> BTreeSet<String> {
    let words = section.names().into_iter().filter_map(|span| Some(span.split(' ').next()?.to_owned()));
    words.filter(|word| word.starts_with("--")).collect()
}

#[test]
fn every_command_has_a_heading_and_every_flag_a_row() -> Result<()> {
    let (page, commands) = (Page::read(PAGE), commands()?);
    let global = Help::of(&[])?.flags;
    let documented: BTreeSet<String> = page
        .headings()
        .filter_map(|heading| heading.strip_prefix("`slotline ")?.strip_suffix('`'))
        .map(str::to_owned)
        .collect();
    assert_same(&format!("{PAGE}, the commands"), &documented, &set(commands.iter().map(|(name, _)| name)));
    let is_own = |flag: &&String| !global.contains(*flag) && !HELP.contains(&flag.as_str());
    for (name, help) in &commands {
        let own: BTreeSet<String> = help.flags.iter().filter(is_own).cloned().collect();
        assert_same(&format!("{PAGE}, slotline {name}"), &flags(page.section(&format!("`slotline {name}`"))), &own);
    }
    let global: BTreeSet<String> = global.into_iter().filter(|flag| !HELP.contains(&flag.as_str())).collect();
    assert_same(&format!("{PAGE}, all commands"), &flags(page.section("All commands")), &global);
    Ok(())
}

#[test]
fn every_exit_code_has_a_row() -> Result<()> {
    let (_, help) = slotline(&["--help"])?;
    let codes = help.lines().skip_while(|line| *line != "Exit codes:").skip(1);
    let codes = codes.map_while(|line| line.split_whitespace().next()).map(str::to_owned).collect();
    assert_same(&format!("{PAGE}, exit codes"), &Page::read(PAGE).section("Exit codes").names(), &codes);
    Ok(())
}

#[test]
fn every_setting_is_there_as_flag_variable_and_key_with_its_default() -> Result<()> {
    let page = Page::read(PAGE);
    let rows = page.section("Settings").rows();
    let column = |index: usize| -> BTreeSet<String> { rows.iter().flat_map(|row| spans(&row[index])).collect() };
    let commands = commands()?;
    let told: BTreeSet<String> = commands.iter().flat_map(|(_, help)| help.variables.clone()).collect();
    // Read without a flag of their own.
    let alone = ["SLOTLINE_API_TOKEN", "SLOTLINE_AMQP_URL_FILE", "SLOTLINE_DATABASE_URL_FILE"].map(str::to_owned);
    let there: BTreeSet<String> = told.into_iter().chain(alone).collect();
    assert_same(&format!("{PAGE}, the variables"), &column(1), &there);

    let folder = tempfile::tempdir()?;
    let file = folder.path().join("settings.toml");
    std::fs::write(&file, "zzz = 1\n")?;
    let (_, refusal) = slotline(&["--config", file.to_str().context("UTF-8")?, "workers"])?;
    let (_, keys) = refusal.split_once("expected one of ").with_context(|| refusal.clone())?;
    let keys = keys.lines().next().unwrap_or_default().split(", ").map(|key| key.trim().to_owned()).collect();
    assert_same(&format!("{PAGE}, the keys of the file"), &column(2), &keys);

    for row in &rows {
        let [flag, variable, key, default] = [0, 1, 2, 3].map(|index| spans(&row[index]).pop());
        let name = variable.as_deref().and_then(|variable| variable.strip_prefix("SLOTLINE_")).context("a variable")?;
        ensure!(key.is_none_or(|key| key.to_uppercase() == name), "{row:?}: the key is not that of the variable");
        let Some(flag) = flag else { continue };
        ensure!(flag[2..].replace('-', "_").to_uppercase() == name, "{row:?}: the flag is not that of the variable");
        let defaults: BTreeSet<&String> = commands
            .iter()
            .filter(|(name, _)| name == "executor" || name == "worker" || name == "run")
            .filter_map(|(_, help)| help.defaults.get(&flag))
            .collect();
        let is_same = |told: &str, documented: &str| match (duration::parse(told), duration::parse(documented)) {
            (Ok(told), Ok(documented)) => told == documented,
            _ => told == documented || !told.contains(|c: char| c.is_ascii_digit()),
        };
        if let Some(documented) = &default {
            ensure!(defaults.iter().all(|told| is_same(told, documented)), "{row:?}: --help says {defaults:?}");
        }
    }
    Ok(())
}

#[test]
fn every_variable_that_the_program_names_is_on_the_page() {
    let page = std::fs::read_to_string(root().join(PAGE)).expect("the page");
    let spelt = sources::of("slotline").into_iter().flat_map(|source| {
        let named = source.split("\"SLOTLINE_").skip(1).filter_map(|rest| rest.split('"').next().map(str::to_owned));
        named.collect::<Vec<_>>()
    });
    let is_name = |name: &String| !name.is_empty() && name.chars().all(|c| c.is_ascii_uppercase() || c == '_');
    let there: BTreeSet<String> = spelt.filter(is_name).map(|name| format!("SLOTLINE_{name}")).collect();
    let missing: Vec<_> = there.iter().filter(|name| !page.contains(*name)).collect();
    assert!(missing.is_empty(), "{PAGE}: missing {missing:?}");
}

#[test]
fn every_key_of_an_actions_file_has_a_row_with_its_default() -> Result<()> {
    let page = Page::read(PAGE);
    let members = |value: Value| -> Result<Map<String, Value>> { Ok(value.as_object().context("an object")?.clone()) };
    let policy = members(serde_json::to_value(Policy::default())?)?;
    let beside = ["ref".to_owned(), "run".to_owned()];
    let keys = set(policy.keys()).into_iter().chain(beside).collect();
    let run = fields::of::<RunConfig>();
    for (heading, keys, defaults) in [
        ("The policy: `[[action]]`", keys, policy),
        ("`retry`", fields::of::<policy::Retry>(), members(serde_json::to_value(policy::Retry::default())?)?),
        ("What a worker runs: `[action.run]`", run, members(serde_json::to_value(RunConfig::new(["x"]))?)?),
        (
            "Programs that stay: `[[handler]]`",
            fields::of::<HandlerConfig>(),
            members(serde_json::to_value(HandlerConfig::new("x", ["x"]))?)?,
        ),
        (
            "`[action.run]` with a handler",
            fields::of::<HandlerRun>(),
            members(serde_json::to_value(HandlerRun::by("x"))?)?,
        ),
        ("`phases`", fields::of::<Phase>(), members(serde_json::to_value(Phase::new("x", 1))?)?),
    ] {
        let section = page.section(heading);
        assert_same(&format!("{PAGE}, {heading}"), &section.names(), &keys);
        for row in section.rows() {
            let (name, spelt) = (spans(&row[0]).pop().context("a key")?, spans(&row[1]).pop());
            let (Some(spelt), Some(default)) = (spelt, defaults.get(&name)) else { continue };
            ensure!(serde_json::from_str::<Value>(&spelt)? == *default, "{heading}, {name}: the default is {default}");
        }
    }
    Ok(())
}

#[test]
fn every_member_of_a_report_has_a_row() {
    let page = Page::read(PAGE);
    // A command does not send `tasks`, in which a worker joins several reports.
    let report = fields::of::<Report>().into_iter().filter(|name| name != "tasks").collect();
    assert_same(&format!("{PAGE}, a report"), &page.section("The progress socket").names(), &report);
    assert_same(&format!("{PAGE}, a task"), &page.section("A task").names(), &fields::of::<Task>());
}

/// Actions that print what a command is given, and report as the examples of the page do.
const SHOW: &str = r#"
[[action]]
ref = "show.environment"
[action.run]
command = ["/usr/bin/env"]

[[action]]
ref = "show.progress"
[action.run]
command = ["/bin/sh", "-euc", '''PATH="${SLOTLINE_BIN%/*}:$PATH"; eval "$SLOTLINE_PARAM_LINES"''']
phases = [{ name = "pull", weight = 2 }, { name = "start", weight = 1 }]

[[action]]
ref = "show.python"
[action.run]
command = ["/bin/sh", "-euc", '/usr/bin/python3 -c "$SLOTLINE_PARAM_LINES"']
"#;

#[test]
fn a_command_is_given_the_variables_of_the_page_and_reports_as_in_its_examples() -> Result<()> {
    let (page, world) = (Page::read(PAGE), World::start(Some(SHOW))?);
    let done = world.shell("id=$(slotline run show.environment -p n=1 --wait --output json | sed -n 's/.*\"execution_id\": \\([0-9]*\\).*/\\1/p'); slotline logs $id")?;
    ensure!(done.code == Some(0), "{done:?}");
    let given = done
        .stdout
        .lines()
        .filter_map(|line| Some(line.split_once('=')?.0))
        .filter(|name| name.starts_with("SLOTLINE_"));
    let is_parameter = |name: &&str| name.starts_with("SLOTLINE_PARAM_");
    ensure!(done.stdout.contains("SLOTLINE_PARAM_N=1"), "{done:?}");
    let documented =
        page.section("What a command is given").names().into_iter().filter(|name| !name.contains('<')).collect();
    assert_same(
        &format!("{PAGE}, what a command is given"),
        &documented,
        &set(given.filter(|name| !is_parameter(name))),
    );

    for (heading, action, shown) in [
        ("Reporting progress", "show.progress", &["\"phase\":\"pull\"", "\"compile\"", "503"][..]),
        ("The progress socket", "show.python", &["1024", "Bytes"][..]),
    ] {
        let language = if action == "show.python" { "python" } else { "sh" };
        let block = page.section(heading).blocks().into_iter().find(|block| block.language == language);
        let lines = block.with_context(|| format!("{heading} has a block of {language}"))?.text;
        let parameters = serde_json::json!({ "lines": lines }).to_string();
        let done = world
            .shell(&format!("slotline run {action} --params - --wait --output json <<'END'\n{parameters}\nEND"))?;
        ensure!(done.code == Some(0), "{heading}: {done:?}");
        let execution: Value = serde_json::from_str(&done.stdout)?;
        let told = format!("{} {}", execution["progress"], execution["progress_events"]);
        ensure!(shown.iter().all(|shown| told.contains(shown)), "{heading}: {told}");
    }
    Ok(())
}
