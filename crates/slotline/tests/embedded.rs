//! The program against its own embedded set-up: the exit codes of `run`, and what its commands show and change.

mod dev;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rustix::process::Signal;
use serde_json::Value;

use dev::{Dev, SOON, interrupt, printed, program};

const ACTIONS: &str = r#"
[[action]]
ref = "test.fail"
[action.run]
command = ["/bin/sh", "-c", "echo oh no >&2; exit 3"]

[[action]]
ref = "test.slow"
limit = 1
[action.run]
command = ["/bin/sh", "-c", "sleep 600"]
grace = "200ms"

[[action]]
ref = "test.talk"
[action.run]
command = ["/bin/sh", "-c", '''
echo begun
"$SLOTLINE_BIN" progress --phase copy --done 60 --total 1024 --unit Bytes "copying"
"$SLOTLINE_BIN" progress --error "the disk is slow"
"$SLOTLINE_BIN" progress --step 9/7
echo oops >&2
echo '{"n": 1.10}'
''']

[[action]]
ref = "test.strict"
schema = { type = "object", required = ["app"] }
[action.run]
command = ["/bin/sh", "-c", "true"]
"#;

#[test]
fn run_and_wait_ends_as_the_execution_did() -> anyhow::Result<()> {
    let dev = Dev::start(ACTIONS)?;
    let done = dev.slotline(&["run", "demo.echo", "-p", "message=hello", "-p", "n=1.10", "--wait"])?;
    assert_eq!(done.status.code(), Some(0), "{}", printed(&done));
    assert_eq!(String::from_utf8(done.stdout.clone())?, "{\"message\":\"hello\",\"n\":1.10}\n", "{}", printed(&done));
    for (arguments, code, expected) in [
        (&["run", "test.fail", "--watch"][..], 1, "exit_status"),
        (&["run", "test.slow", "--timeout", "300ms", "--wait"], 124, "timeout"),
        (&["run", "test.nothing", "--wait"], 3, "no action is called test.nothing"),
        (&["run", "test.strict", "--wait"], 2, "app"),
    ] {
        let done = dev.slotline(arguments)?;
        assert_eq!(done.status.code(), Some(code), "{arguments:?}: {}", printed(&done));
        assert!(printed(&done).contains(expected), "{arguments:?}: {}", printed(&done));
    }
    let waits = dev.command(&["run", "test.slow", "--wait", "--output", "json"]).stdout(Stdio::piped()).spawn()?;
    let begun = Instant::now();
    let id = loop {
        let running = dev.json(&["executions", "list", "--action", "test.slow", "--status", "running"])?;
        match running[0]["execution_id"].as_i64() {
            Some(id) => break id.to_string(),
            None => ensure!(begun.elapsed() < SOON, "nothing runs"),
        }
    };
    let cancelled = dev.slotline(&["executions", "cancel", &id, "--reason", "enough"])?;
    assert!(cancelled.status.success(), "{}", printed(&cancelled));
    let done = waits.wait_with_output()?;
    assert_eq!(done.status.code(), Some(130));
    assert_eq!(serde_json::from_slice::<Value>(&done.stdout)?["status"], "cancelled");
    dev.stop().map(drop)
}

#[test]
fn what_a_script_reports_and_writes_is_shown_live_and_afterwards() -> anyhow::Result<()> {
    let dev = Dev::start(ACTIONS)?;
    let watched = dev.slotline(&["run", "test.talk", "--watch", "--logs"])?;
    assert_eq!(watched.status.code(), Some(0), "{}", printed(&watched));
    assert_eq!(String::from_utf8(watched.stdout.clone())?, "{\"n\": 1.10}\n", "{}", printed(&watched));
    let news = String::from_utf8(watched.stderr)?;
    let mut rest = news.as_str();
    for expected in [
        "execution 1 is queued\n",
        "execution 1 is running on ",
        "[copy] 60 B/1.00 KiB: copying\n",
        "error: the disk is slow\n",
        "execution 1 completed after ",
    ] {
        rest = rest.split_once(expected).with_context(|| format!("no {expected:?} in its place: {news}"))?.1;
    }
    for expected in ["stdout | begun\n", "stderr | oops\n", "notice | "] {
        assert!(news.contains(expected), "no {expected:?}: {news}");
    }
    assert!(!news.contains('\u{1b}'), "no terminal, no escapes: {news}");

    let shown = printed(&dev.slotline(&["executions", "show", "1"])?);
    for expected in ["[copy] ", "60 B/1.00 KiB", "Info - copying\n", "Error - the disk is slow\n"] {
        assert!(shown.contains(expected), "no {expected:?}: {shown}");
    }
    for arguments in [&["logs", "1"][..], &["logs", "-f", "1"]] {
        let logs = dev.slotline(arguments)?;
        assert_eq!(String::from_utf8(logs.stdout.clone())?, "begun\n{\"n\": 1.10}\n", "{}", printed(&logs));
        assert!(printed(&logs).contains("oops\n"), "{}", printed(&logs));
    }
    dev.stop().map(drop)
}

#[test]
fn events_as_json_are_one_a_line_and_begin_where_asked() -> anyhow::Result<()> {
    let dev = Dev::start(ACTIONS)?;
    let numbers = |arguments: &[&str]| -> anyhow::Result<(Vec<u64>, Vec<Value>)> {
        let output = dev.command(arguments).args(["--output", "json"]).output()?;
        ensure!(output.status.success() && output.stderr.is_empty(), "{arguments:?}: {}", printed(&output));
        let lines = String::from_utf8(output.stdout)?;
        let events: Vec<Value> = lines.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        Ok((events.iter().filter_map(|event| event["number"].as_u64()).collect(), events))
    };
    let (all, events) = numbers(&["run", "test.talk", "--watch"])?;
    let last = u64::try_from(events.len())?;
    assert_eq!(all, (1..=last).collect::<Vec<_>>(), "{events:?}");
    let end = events.last().context("an event")?;
    assert_eq!((&end["kind"], &end["status"]), (&"settled".into(), &"completed".into()));
    let (again, _) = numbers(&["watch", "1", "--after", "3"])?;
    assert_eq!(again, (4..=last).collect::<Vec<_>>());
    let (none, _) = numbers(&["watch", "1", "--after", &last.to_string()])?;
    assert!(none.is_empty());
    let (_, logs) = numbers(&["logs", "1"])?;
    assert!(!logs.is_empty() && logs.iter().all(|event| event["kind"] == "log"), "{logs:?}");
    let unknown = dev.slotline(&["watch", "77"])?;
    assert_eq!(unknown.status.code(), Some(3), "{}", printed(&unknown));
    dev.stop().map(drop)
}

#[test]
fn to_stop_waiting_leaves_the_execution_alone() -> anyhow::Result<()> {
    let dev = Dev::start(ACTIONS)?;
    let mut waits =
        dev.command(&["run", "test.slow", "--watch"]).stderr(Stdio::piped()).stdout(Stdio::null()).spawn()?;
    let mut news = BufReader::new(waits.stderr.take().context("a pipe")?).lines();
    let mut lines = Vec::new();
    while !lines.last().is_some_and(|line: &String| line.contains("is running")) {
        lines.push(news.next().with_context(|| format!("{lines:?}"))??);
    }
    interrupt(&waits, Signal::INT)?;
    let last = news.next().context("a last word")??;
    assert!(last.contains("execution 1 goes on") && last.contains("slotline cancel 1"), "{last}");
    assert_eq!(waits.wait()?.code(), Some(130));
    dev.reaches("1", "running")?;
    dev.json(&["executions", "cancel", "1"])?;
    let execution = dev.reaches("1", "cancelled")?;
    assert_eq!(execution["error"]["code"], "cancelled", "{execution}");
    dev.stop().map(drop)
}

#[test]
fn a_wait_in_line_names_the_executions_before_it_and_the_same_key_runs_once() -> anyhow::Result<()> {
    let dev = Dev::start(ACTIONS)?;
    for turn in 1..=3 {
        let submitted = dev.json(&["run", "test.slow", "--message-id", &format!("m-{}", turn.min(2))])?;
        assert_eq!(submitted["execution_id"], turn.min(2));
    }
    dev.reaches("1", "running")?;
    let waits = dev.json(&["executions", "show", "2"])?;
    assert_eq!((&waits["position"], &waits["waiting"]["reason"]), (&1.into(), &"limit".into()), "{waits}");
    assert_eq!(waits["waiting"]["held_by"], serde_json::json!([1]));
    let line = dev.json(&["queue", "test.slow"])?;
    assert_eq!((&line["queue_length"], &line["active_count"]), (&1.into(), &1.into()), "{line}");
    for arguments in [&["queue"][..], &["queue", "test.slow"], &["executions", "list"], &["executions", "show", "2"]] {
        let table = dev.slotline(arguments)?;
        assert!(table.status.success() && printed(&table).contains("test.slow"), "{arguments:?}: {}", printed(&table));
    }
    let workers = dev.json(&["workers"])?;
    assert_eq!(workers[0]["active_count"], 1, "{workers}");
    for id in ["2", "1"] {
        dev.json(&["executions", "cancel", id])?;
    }
    dev.stop().map(drop)
}

#[test]
fn apply_shows_what_differs_and_takes_a_file_whole_or_not_at_all() -> anyhow::Result<()> {
    let dev = Dev::start(ACTIONS)?;
    let apply = |text: &str, arguments: &[&str]| -> anyhow::Result<Output> {
        std::fs::write(dev.folder.path().join("more.toml"), text)?;
        dev.slotline(&[&["apply", "more.toml"], arguments].concat())
    };
    let shown = |text: &str, arguments: &[&str]| -> anyhow::Result<String> {
        let applied = apply(text, arguments)?;
        ensure!(applied.status.success(), "{}", printed(&applied));
        Ok(String::from_utf8(applied.stdout)?)
    };
    let one = "[[action]]\nref = 'more.one'\nlimit = 2\ntimeout = '60s'\n";
    assert_eq!(shown(one, &[])?, "more.one created\n    limit: none -> 2\n    timeout: none -> 1m\n");
    assert_eq!(shown(one, &[])?, "more.one unchanged\n");
    let changed = "[[action]]\nref = 'more.one'\nlimit = 5\nretry = { max_attempts = 3 }\n";
    let differences = "    limit: 2 -> 5\n    retry.max_attempts: 1 -> 3\n    timeout: 1m -> none\n";
    let dry = shown(changed, &["--dry-run"])?;
    assert_eq!(dry, format!("more.one would be changed\n{differences}"));
    assert_eq!(dev.json(&["actions", "more.one"])?["policy"]["limit"], 2, "a dry run changes nothing");
    assert_eq!(shown(changed, &["--reason", "more of them"])?, format!("more.one changed\n{differences}"));

    // One of them can't be taken, so none is.
    let bad = "[[action]]\nref = 'more.two'\n[[action]]\nref = 'more.bad'\nschema = { type = 'nonsense' }\n";
    for arguments in [&["--dry-run"][..], &[]] {
        let refused = apply(bad, arguments)?;
        assert_eq!(refused.status.code(), Some(2), "{}", printed(&refused));
        let words = printed(&refused);
        assert!(words.contains("actions[1].policy.schema") && words.contains("more.bad"), "{words}");
    }
    assert_eq!(dev.slotline(&["actions", "more.two"])?.status.code(), Some(3), "all or nothing");

    let entries = dev.json(&["audit", "--action", "more.one"])?;
    let entry = |index: usize| (entries[index]["changed"].as_str(), entries[index]["reason"].as_str());
    assert_eq!(entry(0), (Some("policy_changed"), Some("more of them")), "{entries}");
    assert_eq!(entry(1), (Some("action_created"), None), "{entries}");
    assert_eq!(entries.as_array().map(Vec::len), Some(2), "what changes nothing is no change: {entries}");
    assert_eq!(entries[0]["actor"], "local");
    let table = dev.slotline(&["audit", "--actor", "local"])?;
    assert!(String::from_utf8_lossy(&table.stdout).contains("limit 2 -> 5"), "{table:?}");
    dev.stop().map(drop)
}

#[test]
fn a_limit_for_a_while_stands_beside_the_declared_one_and_ends_by_itself() -> anyhow::Result<()> {
    let dev = Dev::start(ACTIONS)?;
    let long = printed(&dev.slotline(&["limit", "test.slow", "4", "--for", "2h", "--reason", "a backlog"])?);
    assert!(long.starts_with("the limit of test.slow is 4 until ") && long.contains("(local: a backlog)"), "{long}");
    for arguments in [&["queue"][..], &["queue", "test.slow"], &["actions"], &["actions", "test.slow"]] {
        let shown = printed(&dev.slotline(arguments)?);
        assert!(shown.contains("(local: a backlog)"), "{arguments:?}: {shown}");
    }
    let stats = dev.json(&["queue", "test.slow"])?;
    assert_eq!((&stats["max_concurrent"], &stats["declared_limit"]), (&4.into(), &1.into()), "{stats}");
    let applied = printed(&dev.slotline(&["apply", "actions.toml"])?);
    assert!(applied.contains("test.slow unchanged\n    the limit is 4 until "), "{applied}");
    assert_eq!(dev.json(&["queue", "test.slow"])?["max_concurrent"], 4, "it survives what is declared");

    for turn in 1..=3 {
        dev.json(&["run", "test.slow", "--message-id", &format!("m-{turn}")])?;
    }
    for id in ["1", "2", "3"] {
        dev.reaches(id, "running")?;
    }
    let cleared = printed(&dev.slotline(&["limit", "test.slow", "--clear", "--reason", "done"])?);
    assert_eq!(cleared, "the limit of test.slow is 1, as declared\n");
    assert!(dev.slotline(&["limit", "test.slow", "--clear"])?.status.success(), "once more changes nothing");

    // An override that is over while no process is there is ended by the next.
    dev.json(&["limit", "test.slow", "2", "--for", "1s"])?;
    let dev = Dev::start_in(dev.stop()?)?;
    let begun = Instant::now();
    while dev.json(&["queue", "test.slow"])?["max_concurrent"] != 1 {
        ensure!(begun.elapsed() < SOON, "the override does not end");
        std::thread::sleep(Duration::from_millis(20));
    }
    let entries = dev.json(&["audit", "--action", "test.slow"])?;
    let changed: Vec<&str> = entries.as_array().into_iter().flatten().filter_map(|it| it["changed"].as_str()).collect();
    let expected = ["override_ended", "limit_overridden", "override_cleared", "limit_overridden", "action_created"];
    assert_eq!(changed, expected, "{entries}");
    assert_eq!((&entries[0]["actor"], &entries[0]["via"]), (&"executor".into(), &"executor".into()), "{entries}");
    for wrong in
        [&["limit", "test.slow", "4"][..], &["limit", "test.slow", "0", "--for", "1h"], &["limit", "test.slow"]]
    {
        assert_eq!(dev.slotline(wrong)?.status.code(), Some(2), "{wrong:?}");
    }
    dev.stop().map(drop)
}

#[test]
fn a_pause_and_a_cancellation_are_in_the_audit_and_the_log_with_actor_and_reason() -> anyhow::Result<()> {
    let dev = Dev::start(ACTIONS)?;
    let paused = printed(&dev.slotline(&["pause", "test.slow", "--reason", "a flood"])?);
    assert_eq!(paused, "test.slow is paused\n");
    dev.json(&["run", "test.slow"])?;
    dev.json(&["executions", "cancel", "1", "--reason", "not wanted"])?;
    for _ in 0..2 {
        assert_eq!(printed(&dev.slotline(&["resume", "test.slow"])?), "test.slow is open\n");
        dev.json(&["executions", "cancel", "1"])?;
    }
    let entries = dev.json(&["audit", "--limit", "3"])?;
    let entry = |index: usize| {
        let entry: &Value = &entries[index];
        (entry["changed"].as_str(), entry["reason"].as_str(), entry["execution_id"].as_i64())
    };
    assert_eq!(entry(0), (Some("resumed"), None, None), "what is so already is no change: {entries}");
    assert_eq!(entry(1), (Some("cancel_requested"), Some("not wanted"), Some(1)), "{entries}");
    assert_eq!(entry(2), (Some("paused"), Some("a flood"), None), "{entries}");
    let of_one = dev.json(&["audit", "--execution", "1"])?;
    assert_eq!((of_one.as_array().map(Vec::len), &of_one[0]["action_ref"]), (Some(1), &"test.slow".into()), "{of_one}");
    let log = dev.log()?;
    for (message, fields) in [
        ("an action was paused", &["action.ref=\"test.slow\"", "actor=\"local\"", "reason=\"a flood\""][..]),
        ("an execution is to be cancelled", &["execution.id=1", "reason=\"not wanted\"", "via=\"http\""]),
        ("an action was resumed", &["action.ref=\"test.slow\""]),
    ] {
        let lines: Vec<&str> = log.lines().filter(|line| line.contains(message)).collect();
        let [line] = lines.as_slice() else { panic!("one line that says {message:?}: {log}") };
        assert!(fields.iter().all(|field| line.contains(field)), "{line}");
    }
    dev.stop().map(drop)
}

/// Every file below a folder, with its content and its mode.
fn files(folder: &Path) -> anyhow::Result<Vec<(std::path::PathBuf, u32, Vec<u8>)>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path)?.permissions());
        if path.is_dir() {
            files.extend(self::files(&path)?);
        } else {
            let bytes = std::fs::read(&path)?;
            files.push((path, mode, bytes));
        }
    }
    files.sort();
    Ok(files)
}

#[test]
fn to_verify_a_journal_changes_no_file_and_makes_none_whatever_the_url_names() -> anyhow::Result<()> {
    let dev = Dev::start(ACTIONS)?;
    assert!(dev.slotline(&["run", "demo.echo", "--wait"])?.status.success());
    let verify = |folder: &Path, url: &str| program(folder, &["verify", "--database-url", url]).output();
    let live = verify(dev.folder.path(), "sqlite:data/slotline.db")?;
    assert!(live.status.success() && printed(&live).contains("All of it holds."), "{}", printed(&live));
    let folder = dev.stop()?;
    let folder = folder.path();
    // A database of another program, in the ways in which that may be.
    std::fs::write(folder.join("empty.db"), "")?;
    std::fs::write(folder.join("text.db"), "no database at all, but long enough to be looked at as one".repeat(100))?;
    let foreign = [0x53, 0x51, 0x4c, 0x69, 0x74, 0x65];
    std::fs::write(folder.join("foreign.db"), foreign)?;
    let before = files(folder)?;
    for (url, code, words) in [
        ("sqlite:data/slotline.db", 0, "All of it holds."),
        ("sqlite:data/slotlin.db", 2, "data/slotlin.db can't be read: No such file or directory"),
        ("sqlite:nowhere/slotline.db", 2, "nowhere/slotline.db can't be read"),
        ("sqlite:data", 2, "data is no file"),
        ("sqlite:empty.db", 2, "it holds no journal of Slotline"),
        ("sqlite:text.db", 2, "the journal could not be verified"),
        ("sqlite:foreign.db", 2, "the journal could not be verified"),
        ("sqlite::memory:", 2, "the journal could not be verified"),
    ] {
        let done = verify(folder, url)?;
        assert_eq!(done.status.code(), Some(code), "{url}: {}", printed(&done));
        assert!(printed(&done).contains(words), "{url}: {}", printed(&done));
        assert!(files(folder)? == before, "{url}: a file was made or changed");
    }
    Ok(())
}

#[test]
fn what_is_refused_in_the_answer_is_not_put_aside_as_well() -> anyhow::Result<()> {
    let dev = Dev::start(ACTIONS)?;
    ensure!(dev.slotline(&["run", "demo.echo", "--message-id", "m", "-p", "message=1"])?.status.success());
    let mut slow = 0;
    for (arguments, code, refusal) in [
        (&["run", "demo.ecko"][..], 3, "no action is called demo.ecko"),
        (&["run", "test.strict"], 2, "app"),
        (&["run", "demo.echo", "--message-id", "m", "-p", "message=2"], 2, "message_id"),
    ] {
        let begun = Instant::now();
        let refused = dev.slotline(arguments)?;
        // After three seconds the client of a request may be gone.
        slow += usize::from(begun.elapsed() > Duration::from_secs(3));
        let text = printed(&refused);
        ensure!(refused.status.code() == Some(code) && text.contains(refusal), "{arguments:?}: {text}");
    }
    let letters = dev.json(&["dead", "list"])?;
    let count = letters.as_array().context("a list")?.len();
    ensure!(count <= slow && dev.log()?.matches("put a message aside").count() == count, "{letters}\n{}", dev.log()?);
    dev.stop().map(drop)
}

#[test]
fn the_journal_outlives_the_process_and_is_used_by_one_at_a_time() -> anyhow::Result<()> {
    let dev = Dev::start(ACTIONS)?;
    assert!(dev.slotline(&["run", "demo.echo", "--wait"])?.status.success());
    let second = dev.slotline(&["dev", "--data", "data", "--listen", "127.0.0.1:0"])?;
    assert_eq!(second.status.code(), Some(2));
    assert!(printed(&second).contains("another slotline works in data"), "{}", printed(&second));
    let dev = Dev::start_in(dev.stop()?)?;
    assert_eq!(dev.json(&["executions", "show", "1"])?["status"], "completed");
    assert_eq!(dev.json(&["run", "demo.echo"])?["execution_id"], 2);
    dev.stop().map(drop)
}
