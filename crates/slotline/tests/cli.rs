//! The command line without any server: where settings come from, and the errors of wrong ones.

mod desk;

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use desk::Desk;

/// How long a process may take for what it does at once.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn a_flag_goes_before_the_environment_which_goes_before_the_file() -> anyhow::Result<()> {
    for (flag, variable, expected) in
        [(true, true, "flag.db"), (false, true, "variable.db"), (false, false, "file.db"), (true, false, "flag.db")]
    {
        let desk = Desk::new()?;
        desk.write("slotline.toml", "database_url = 'sqlite:file.db'\n")?;
        let mut arguments = vec!["migrate", "--config", "slotline.toml"];
        if flag {
            arguments.extend(["--database-url", "sqlite:flag.db"]);
        }
        let environment: &[_] = if variable { &[("SLOTLINE_DATABASE_URL", "sqlite:variable.db")] } else { &[] };
        let output = desk.slotline(&arguments, environment)?;
        assert!(output.status.success(), "{output:?}");
        for name in ["flag.db", "variable.db", "file.db"] {
            assert_eq!(desk.path().join(name).exists(), name == expected, "{name}, for {expected}");
        }
    }
    Ok(())
}

#[test]
fn the_file_can_be_named_in_the_environment() -> anyhow::Result<()> {
    let desk = Desk::new()?;
    desk.write("slotline.toml", "database_url = 'sqlite:file.db'\n")?;
    let output = desk.slotline(&["migrate"], &[("SLOTLINE_CONFIG", "slotline.toml")])?;
    assert!(output.status.success(), "{output:?}");
    assert!(desk.path().join("file.db").exists());
    Ok(())
}

#[test]
fn a_url_is_taken_from_the_file_that_a_variable_or_the_settings_name() -> anyhow::Result<()> {
    let desk = Desk::new()?;
    std::fs::create_dir(desk.path().join("etc"))?;
    desk.write("etc/slotline.toml", "database_url_file = 'by-settings'\n")?;
    desk.write("etc/by-settings", "sqlite:settings.db\n")?;
    desk.write("by-variable", "  sqlite:variable.db\n\n")?;
    let named = ("SLOTLINE_DATABASE_URL_FILE", "by-variable");
    for (environment, expected) in [
        (&[][..], "settings.db"),
        (&[named], "variable.db"),
        (&[named, ("SLOTLINE_DATABASE_URL", "sqlite:url.db")], "url.db"),
        (&[("SLOTLINE_DATABASE_URL_FILE", "")], "settings.db"),
    ] {
        let output = desk.slotline(&["migrate", "--config", "etc/slotline.toml"], environment)?;
        assert!(output.status.success(), "{environment:?}: {output:?}");
        for name in ["settings.db", "variable.db", "url.db"] {
            let path = desk.path().join(name);
            assert_eq!(path.exists(), name == expected, "{name}, for {environment:?}");
            let _ = std::fs::remove_file(path);
        }
    }
    Ok(())
}

#[test]
fn a_file_that_holds_no_url_is_refused_by_the_name_of_the_setting() -> anyhow::Result<()> {
    let desk = Desk::new()?;
    desk.write("empty", " \n")?;
    desk.write("two", "amqp://u:geheim@h\namqp://u:geheim@h\n")?;
    desk.write("bytes", "")?;
    std::fs::write(desk.path().join("bytes"), b"amqp://u:geheim\xff@h")?;
    desk.write("wrong", "http://u:geheim@h\n")?;
    desk.write("both.toml", "amqp_url = 'amqp://h'\namqp_url_file = 'empty'\n")?;
    let executor = ["executor", "--database-url", "sqlite::memory:", "--listen", "127.0.0.1:0"];
    for (file, expected, code) in [
        ("none", "can't read amqp_url from none: No such file or directory", 2),
        (".", "can't read amqp_url from .: Is a directory", 2),
        ("bytes", "can't read amqp_url from bytes: stream did not contain valid UTF-8", 2),
        ("empty", "amqp_url: empty holds nothing: expected one line with the URL", 2),
        ("two", "amqp_url: two holds several lines: expected one line with the URL", 2),
        ("wrong", "", 2),
    ] {
        let (ended, stderr) = desk.fails(&executor, &[("SLOTLINE_AMQP_URL_FILE", file)])?;
        assert!(stderr.starts_with(&format!("slotline: {expected}")), "{file}: {stderr}");
        assert!(ended == Some(code) && !stderr.contains("geheim"), "{file}: {ended:?} {stderr}");
    }
    let (code, stderr) = desk.fails(&["migrate", "--config", "both.toml"], &[])?;
    assert!(code == Some(2) && stderr.contains("both `amqp_url` and `amqp_url_file` are set"), "{stderr}");
    for (file, expected) in [("none", "can't read the API token from none"), ("empty", "empty: ")] {
        let (code, stderr) = desk.fails(&["workers"], &[("SLOTLINE_API_TOKEN_FILE", file)])?;
        assert!(code == Some(2) && stderr.starts_with(&format!("slotline: {expected}")), "{file}: {stderr}");
    }
    Ok(())
}

/// A daemon that waits for servers which do not exist; killed on drop.
struct Waiting(Child);

impl Drop for Waiting {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn no_password_that_a_daemon_is_given_stays_on_its_command_line() -> anyhow::Result<()> {
    const DATABASE: &str = "postgres://u:geheim@127.0.0.1:1/d";
    const BROKER: &str = "amqp://u:geheim@127.0.0.1:1/%2f";
    let desk = Desk::new()?;
    desk.write("actions.toml", "[[action]]\nref = 'a.b'\n[action.run]\ncommand = ['/bin/true']\n")?;
    let executor = ["executor", "--listen", "127.0.0.1:0", "--database-url", DATABASE, "--amqp-url", BROKER];
    let broker = format!("--amqp-url={BROKER}");
    let worker = ["worker", "--name", "w", "--state-dir", "state", "--actions", "actions.toml", &broker];
    for arguments in [&executor[..], &worker] {
        let mut command = desk.command(arguments, &[]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut daemon = Waiting(command.spawn()?);
        let proc = format!("/proc/{}", daemon.0.id());
        let since = Instant::now();
        loop {
            let line = std::fs::read_to_string(format!("{proc}/cmdline"))?;
            anyhow::ensure!(daemon.0.try_wait()?.is_none(), "{arguments:?} has ended");
            if line.contains(arguments[0]) && !line.contains("geheim") {
                break;
            }
            anyhow::ensure!(since.elapsed() < PATIENCE, "{line}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    Ok(())
}

#[test]
fn wrong_settings_are_refused_with_their_place_and_the_name_that_was_meant() -> anyhow::Result<()> {
    let desk = Desk::new()?;
    desk.write("typo.toml", "# settings\nlisten = '127.0.0.1:0'\namqp_ulr = 'amqp://h'\n")?;
    desk.write("both.toml", "api_token = 'a'\napi_token_file = 'b'\n")?;
    desk.write("actions.toml", "[[action]]\nref = 'a.b'\nlimt = 1\n")?;
    desk.write("idle.toml", "[[action]]\nref = 'a.b'\n")?;
    let database = ["--database-url", "sqlite::memory:"];
    let executor = |more: &[&'static str]| {
        ["executor", database[0], database[1]].into_iter().chain(more.iter().copied()).collect()
    };
    let cases: Vec<(Vec<&str>, &str)> = vec![
        (
            vec!["workers", "--config", "typo.toml"],
            "typo.toml:3: amqp_ulr: unknown key `amqp_ulr`: did you mean `amqp_url`?",
        ),
        (vec!["workers", "--config", "none.toml"], "can't read none.toml: No such file"),
        (vec!["workers", "--config", "both.toml"], "both `api_token` and `api_token_file` are set"),
        (vec!["apply", "actions.toml"], "actions.toml:3: a.b.limt: unknown key `limt`: did you mean `limit`?"),
        (vec!["apply", "none.toml"], "can't read none.toml"),
        (vec!["worker"], "the actions file is not set: give --actions, SLOTLINE_ACTIONS or `actions`"),
        (vec!["worker", "--actions", "actions.toml"], "actions.toml:3: a.b.limt: unknown key"),
        (vec!["worker", "--actions", "idle.toml"], "idle.toml: no action has an [action.run] table"),
        (vec!["migrate"], "the database is not set: give --database-url, SLOTLINE_DATABASE_URL or `database_url`"),
        (
            executor(&["--listen", "0.0.0.0:0"]),
            "listening on 0.0.0.0:0 would let anybody on the network in: set SLOTLINE_API_TOKEN",
        ),
        (executor(&["--log-level", "=loud="]), "log level \"=loud=\""),
        (vec!["workers", "--api-url", "nonsense"], "\"nonsense\" is no URL of an API"),
        (vec!["run", "a.b", "-p", "novalue"], "-p novalue: expected KEY=VALUE"),
        (vec!["run", "a.b", "--params", "[1]"], "--params: expected a JSON object"),
    ];
    for (arguments, expected) in cases {
        let (code, stderr) = desk.fails(&arguments, &[])?;
        assert!(stderr.starts_with(&format!("slotline: {expected}")), "{arguments:?}: {stderr}");
        assert_eq!(code, Some(2), "{arguments:?}: {stderr}");
    }
    Ok(())
}

#[test]
fn wrong_use_ends_with_2_and_says_what_is_wrong() -> anyhow::Result<()> {
    let desk = Desk::new()?;
    for (arguments, expected) in [
        (&["runn"][..], "run"),
        (&["run", "noname"], "pack.name"),
        (&["run"], "ACTION"),
        (&["executions", "show", "x"], "invalid"),
        (&["executions", "list", "--status", "done"], "unknown status"),
        (&["executor", "--lease", "soon"], "is no duration"),
        (&["worker", "--capacity", "0"], "0"),
        (&["workers", "--output", "yaml"], "table"),
        (&["run", "a.b", "--logs"], "--watch"),
        (&["watch", "x"], "invalid"),
        (&["watch", "1", "--after", "-1"], "--after"),
        (&["logs"], "ID"),
        (&["progress"], "--step"),
        (&["progress", "--step", "two"], "--step"),
        (&["progress", "--total", "7"], "--done"),
    ] {
        let (code, stderr) = desk.fails(arguments, &[])?;
        assert_eq!(code, Some(2), "{arguments:?}: {stderr}");
        assert!(stderr.contains(expected), "{arguments:?}: {stderr}");
    }
    Ok(())
}

#[test]
fn where_nothing_answers_the_error_names_the_next_step() -> anyhow::Result<()> {
    let desk = Desk::new()?;
    // While it is bound no other program gets the port; afterwards no connection to it is accepted.
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let url = format!("http://127.0.0.1:{port}");
    let (code, stderr) = desk.fails(&["run", "demo.echo", "--wait"], &[("SLOTLINE_API_URL", &url)])?;
    assert_eq!(code, Some(69), "{stderr}");
    assert!(stderr.contains(&url) && stderr.contains("slotline dev") && stderr.contains("--api-url"), "{stderr}");
    Ok(())
}

#[test]
fn a_report_that_no_worker_receives_fails_no_script() -> anyhow::Result<()> {
    let desk = Desk::new()?;
    // A socket that no worker listens at any more.
    drop(std::os::unix::net::UnixListener::bind(desk.path().join("left"))?);
    desk.write("file", "")?;
    let long = "/x".repeat(200);
    for socket in [None, Some(""), Some("nowhere"), Some("left"), Some("file"), Some(long.as_str())] {
        let environment: Vec<_> = socket.map(|socket| ("SLOTLINE_PROGRESS_SOCKET", socket)).into_iter().collect();
        let output = desk.slotline(&["progress", "--step", "9/7", "on it"], &environment)?;
        assert!(output.status.success(), "{socket:?}: {output:?}");
        assert!(output.stdout.is_empty() && output.stderr.is_empty(), "{socket:?}: {output:?}");
    }
    // Nor does an invalid report, where a worker runs the script.
    let running = [("SLOTLINE_PROGRESS_SOCKET", "left")];
    for (arguments, expected) in
        [(["progress", "--step", "1-2"], "--step"), (["progress", "--stepp", "1/2"], "--stepp")]
    {
        let output = desk.slotline(&arguments, &running)?;
        assert!(output.status.success(), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(expected), "{output:?}");
    }
    // It reads no settings.
    let output = desk.slotline(&["progress", "on it"], &[("SLOTLINE_CONFIG", "none.toml")])?;
    assert!(output.status.success(), "{output:?}");
    Ok(())
}

#[test]
fn secrets_show_neither_in_help_nor_in_errors() -> anyhow::Result<()> {
    let desk = Desk::new()?;
    let environment = [
        ("SLOTLINE_DATABASE_URL", "postgres://u:geheim@127.0.0.1:1/d?connect_timeout=x"),
        ("SLOTLINE_AMQP_URL", "amqp://u:geheim@127.0.0.1:1/%2f?heartbeat=x"),
        ("SLOTLINE_API_TOKEN", "geheim und mehr"),
    ];
    for arguments in [
        &["executor", "--help"][..],
        &["worker", "--help"],
        &["migrate", "--help"],
        &["executor", "--listen", "127.0.0.1:0"],
        &["workers"],
    ] {
        let output = desk.slotline(arguments, &environment)?;
        let shown = format!("{}{}", String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?);
        assert!(!shown.is_empty() && !shown.contains("geheim"), "{arguments:?}: {shown}");
    }
    Ok(())
}

#[test]
fn the_version_is_printed_in_two_ways() -> anyhow::Result<()> {
    let desk = Desk::new()?;
    let expected = format!("slotline {}\n", env!("CARGO_PKG_VERSION"));
    for arguments in [["version"], ["--version"]] {
        assert_eq!(String::from_utf8(desk.slotline(&arguments, &[])?.stdout)?, expected);
    }
    Ok(())
}
