//! Mistakes that people make, and the exact error for each: what is wrong, where, and what to do.
//!
//! Here are those that need no server; `tests/system/mistakes.rs` has the others.

mod desk;
mod dev;

use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use anyhow::{Context, ensure};
use desk::Desk;
use dev::{Dev, printed};
use serde_json::Value;

/// A text of the program, with its version replaced.
fn without_version(text: &str) -> String {
    text.replace(env!("CARGO_PKG_VERSION"), "VERSION")
}

/// Each of these commands is refused with these words.
fn refuses(desk: &Desk, cases: &[(&[&str], &str)]) -> anyhow::Result<()> {
    for (arguments, expected) in cases {
        let (code, stderr) = desk.fails(arguments, &[])?;
        // Lines that a daemon logs before the error are about the user that runs it.
        let stderr: String =
            stderr.lines().filter(|line| line.starts_with("slotline:")).map(|it| format!("{it}\n")).collect();
        assert_eq!((stderr.as_str(), code), (*expected, Some(2)), "{arguments:?}");
    }
    Ok(())
}

#[test]
fn a_wrong_setting_is_named_with_its_place_and_what_to_write() -> anyhow::Result<()> {
    let desk = Desk::new()?;
    desk.write("slotline.toml", "listen = 27099\n")?;
    desk.write("list.toml", "env_pass = 'HTTP_PROXY NO_PROXY'\n")?;
    let executor = ["executor", "--database-url", "sqlite::memory:"];
    let cases: [(&[&str], &str); 12] = [
        (
            &["dev", "--config", "slotline.toml"],
            "slotline: slotline.toml:1: listen: expected an address in numbers and a port: 127.0.0.1:27099 for this \
             machine, 0.0.0.0:27099 for all\n",
        ),
        (
            &["worker", "--config", "list.toml"],
            "slotline: list.toml:1: env_pass: found the text \"HTTP_PROXY NO_PROXY\", expected a list, such as \
             [\"HTTP_PROXY\", \"NO_PROXY\"]\n",
        ),
        (
            &["executor", "--database-url", "mysql://u:geheim@h/d"],
            "slotline: the database URL can't be used: expected postgres://user@host/database, sqlite:/path/file.db or \
             sqlite::memory: (--database-url, SLOTLINE_DATABASE_URL or `database_url`)\n",
        ),
        (
            &[executor[0], executor[1], executor[2], "--amqp-url", "http://u:geheim@h"],
            "slotline: the broker URL can't be used: Invalid AMQP scheme: http: expected amqp://user:password@host:port/vhost or amqps://..., several \
             of them separated by commas (--amqp-url, SLOTLINE_AMQP_URL or `amqp_url`)\n",
        ),
        (
            &[executor[0], executor[1], executor[2], "--lease", "40s", "--fence", "45s"],
            "slotline: the lease is 40s and the fence 45s: expected a lease at least a tenth longer than the fence, here \
             49.5s (--lease, --fence)\n",
        ),
        (
            &[executor[0], executor[1], executor[2], "--fence", "5s", "--heartbeat", "5s"],
            "slotline: the fence is 5s and the heartbeat 5s: expected a fence of at least two heartbeats, here 10s \
             (--fence, --heartbeat)\n",
        ),
        (
            &["workers", "--api-url", "ftp://127.0.0.1:7070"],
            "slotline: \"ftp://127.0.0.1:7070\" is no URL of an API: expected for example http://127.0.0.1:7070\n",
        ),
        (
            &["run", "a.b", "-p", r#"a={"x":"#],
            "slotline: -p a={\"x\":: the value begins like JSON and is none (EOF while parsing a value at line 1 column 5); \
             for the text itself, write it as a JSON string\n",
        ),
        (&["run", "a.b", "-p", "novalue"], "slotline: -p novalue: expected KEY=VALUE\n"),
        (
            &["migrate"],
            "slotline: the database is not set: give --database-url, SLOTLINE_DATABASE_URL or `database_url` in the file of \
             --config\n",
        ),
        (
            &["migrate", "--database-url", "sqlite:no/such/folder.db"],
            "slotline: the database at sqlite:no/such/folder.db refuses: no/such/folder.db can't be opened: No such file or \
             directory (os error 2): correct the URL (--database-url, SLOTLINE_DATABASE_URL or `database_url`)\n",
        ),
        (
            &["executor", "--no-migrate", "--database-url", "sqlite:new.db", "--listen", "127.0.0.1:0"],
            "slotline: the database at sqlite:new.db can't be used: it holds no schema of Slotline: run `slotline \
             migrate`, or start without --no-migrate\n",
        ),
    ];
    refuses(&desk, &cases)
}

#[test]
fn a_password_that_a_url_would_cut_off_is_found_and_never_shown() -> anyhow::Result<()> {
    let cases: [(&[&str], &str); 4] = [
        (
            &["executor", "--database-url", "sqlite::memory:", "--amqp-url", "amqp://u:12#geheim@h"],
            "slotline: the broker URL can't be used: a # ends a URL: in a user or password write %23 for it: expected \
             amqp://user:password@host:port/vhost or amqps://..., several of them separated by commas (--amqp-url, \
             SLOTLINE_AMQP_URL or `amqp_url`)\n",
        ),
        (
            &["executor", "--database-url", "postgres://u:12/geheim@h/d"],
            "slotline: the database URL can't be used: a / ends user and password: within them write %2F for it, and \
             behind them %40 for an @: expected postgres://user:password@host:port/database (--database-url, \
             SLOTLINE_DATABASE_URL or `database_url`)\n",
        ),
        (
            &["migrate", "--database-url", "postgres://u:geheim?@h/d"],
            "slotline: the database URL can't be used: a ? ends user and password: within them write %3F for it: expected \
             postgres://user:password@host:port/database (--database-url, SLOTLINE_DATABASE_URL or `database_url`)\n",
        ),
        (
            &["workers", "--api-url", "http://u:geheim#@h:7070"],
            "slotline: \"...@h:7070\" is no URL of an API: a # ends a URL: in a user or password write %23 for it: expected \
             for example http://127.0.0.1:7070\n",
        ),
    ];
    refuses(&Desk::new()?, &cases)
}

#[test]
fn a_port_alone_is_no_place_to_listen() -> anyhow::Result<()> {
    let desk = Desk::new()?;
    let (code, stderr) = desk.fails(&["dev", "--listen", "27099"], &[])?;
    let expected = "error: invalid value '27099' for '--listen <ADDRESS:PORT>': expected an address in numbers and a port: \
                    127.0.0.1:27099 for this machine, 0.0.0.0:27099 for all\n\nFor more information, try '--help'.\n";
    assert_eq!((stderr.as_str(), code), (expected, Some(2)));
    Ok(())
}

#[test]
fn a_daemon_that_runs_as_root_logs_what_that_means_and_what_to_do() -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let desk = Desk::new()?;
    desk.write("actions.toml", "[[action]]\nref = 'a.b'\n[action.run]\ncommand = ['true']\n")?;
    let away = ["--amqp-url", "amqp://127.0.0.1:1/%2f", "--lease", "1s"];
    for (daemon, expected) in [
        (
            &["executor", "--database-url", "sqlite::memory:", "--listen", "127.0.0.1:0"][..],
            "this executor runs as root, which it needs for nothing; run it as a user of its own",
        ),
        (
            &["worker", "--actions", "actions.toml", "--state-dir", "state"],
            "this worker runs as root: every command of its actions does, too, unless it has a `user`; run it as a user of \
             its own",
        ),
    ] {
        // A lease below the fence ends both after that.
        let (code, stderr) = desk.fails(&[daemon, &away].concat(), &[])?;
        assert!(code == Some(2) && stderr.contains(expected), "{daemon:?}: {stderr}");
    }
    Ok(())
}

#[test]
fn a_port_that_is_taken_is_named() -> anyhow::Result<()> {
    let desk = Desk::new()?;
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?.to_string();
    let (code, stderr) = desk.fails(&["dev", "--data", "data", "--listen", &address], &[])?;
    let expected = format!(
        "slotline: can't listen on {address}, which another program uses: stop that program, or choose another address \
         with --listen: Address already in use (os error 98)\n"
    );
    assert_eq!((stderr, code), (expected, Some(2)));
    Ok(())
}

#[test]
fn an_error_in_an_actions_file_names_its_line() -> anyhow::Result<()> {
    let desk = Desk::new()?;
    for (text, expected) in [
        ("# nothing yet\n", "1: the file holds no action: expected tables, each headed [[action]]"),
        ("", "1: the file holds no action: expected tables, each headed [[action]]"),
        (
            "[[action]]\nref = 'a.b'\nlimit = 0\n",
            "3: a.b.limit: expected at least 1, or left out for no limit; to run nothing, pause the action",
        ),
        (
            "[[action]]\nref = 'a.b'\nlimit = -1\n",
            "3: a.b.limit: found the number -1, expected a whole number, not below zero",
        ),
        (
            "[[action]]\nref = 'a.b'\n[action.run]\ncommand = \"./x.sh\"\n",
            "4: a.b: run.command: found the text \"./x.sh\", expected a list, such as [\"./x.sh\"]",
        ),
        (
            "[[action]]\nref = 'a.b'\n\n[[action]]\nref = 'a.b'\n",
            "4: the action a.b is declared twice, first at line 1: leave one",
        ),
    ] {
        desk.write("actions.toml", text)?;
        let (code, stderr) = desk.fails(&["apply", "actions.toml"], &[])?;
        assert_eq!((stderr, code), (format!("slotline: actions.toml:{expected}\n"), Some(2)), "{text}");
    }
    Ok(())
}

#[test]
fn a_variable_that_nothing_reads_is_named_and_changes_nothing() -> anyhow::Result<()> {
    let desk = Desk::new()?;
    let kubernetes = ("SLOTLINE_SERVICE_HOST", "10.0.0.1");
    let output = desk.slotline(&["version"], &[("SLOTLINE_DATABSE_URL", "x"), ("SLOTLINE_OWN", "y"), kubernetes])?;
    assert!(output.status.success(), "{output:?}");
    let expected = "slotline: the variable SLOTLINE_DATABSE_URL is set, and nothing reads it: did you mean \
                    SLOTLINE_DATABASE_URL?\nslotline: the variable SLOTLINE_OWN is set, and nothing reads it\n";
    assert_eq!(String::from_utf8(output.stderr)?, expected);
    Ok(())
}

#[test]
fn a_schema_that_a_newer_program_made_is_refused_by_both_versions() -> anyhow::Result<()> {
    let desk = Desk::new()?;
    let url = "sqlite:journal.db";
    ensure!(desk.slotline(&["migrate", "--database-url", url], &[])?.status.success());
    let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
                 VALUES (7, 'from the future', true, x'00', 0)";
    ensure!(desk.sql("journal.db", newer)?, "the row is in");
    for arguments in [
        &["executor", "--database-url", url, "--listen", "127.0.0.1:0"][..],
        &["executor", "--database-url", url, "--listen", "127.0.0.1:0", "--no-migrate"],
        &["migrate", "--database-url", url],
    ] {
        let (code, stderr) = desk.fails(arguments, &[])?;
        let expected = "slotline: the database at sqlite:journal.db can't be used: its schema is 7, made by a newer program; \
                        this one (slotline VERSION) knows those up to 1: start the newer one, or, to go back by one version, \
                        this one with --allow-newer-schema\n";
        let stderr = without_version(&stderr);
        assert!(stderr.ends_with(expected) && code == Some(2), "{arguments:?}: {code:?} {stderr}");
    }
    Ok(())
}

#[test]
fn another_server_than_slotline_has_another_error_than_no_answer() -> anyhow::Result<()> {
    let dev = Dev::start("[[action]]\nref = 'a.b'\n")?;
    let port = dev.url.rsplit(':').next().context("a port")?.to_owned();
    let at = |arguments: &[&str], url: &str| -> anyhow::Result<(Option<i32>, String)> {
        let output = dev.command(arguments).env("SLOTLINE_API_URL", url).output()?;
        Ok((output.status.code(), String::from_utf8(output.stderr)?))
    };
    let (code, stderr) = at(&["workers"], &format!("https://127.0.0.1:{port}"))?;
    let expected = format!(
        "slotline: what listens at https://127.0.0.1:{port}/ speaks no TLS: name it as http:// (--api-url or \
         SLOTLINE_API_URL)\n"
    );
    assert_eq!((code, stderr), (Some(2), expected));
    // A URL that was copied with its routes is meant as it is.
    let (code, stderr) = at(&["workers"], &format!("http://127.0.0.1:{port}/api/v1/"))?;
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    let (code, stderr) = at(&["workers"], &format!("http://127.0.0.1:{port}/other"))?;
    let expected = "slotline: no such route: the URL has the path /other, below which /api/v1 is asked; leave it out unless \
                    a proxy serves Slotline there\n";
    assert_eq!((code, stderr.as_str()), (Some(3), expected));
    Ok(())
}

#[test]
fn a_request_that_is_refused_names_the_part_and_what_to_do() -> anyhow::Result<()> {
    let actions = "[[action]]\nref = 'job.slow'\nlimit = 1\n\n[[action]]\nref = 'job.keyed'\nkey_limit = 1\n";
    let dev = Dev::start(actions)?;
    let twice = ["run", "demo.echo", "--message-id", "m-1"];
    ensure!(dev.slotline(&twice)?.status.success());
    for (arguments, code, expected) in [
        (
            &["run", "demo.echo", "--message-id", "m-1", "-p", "a=1"][..],
            2,
            "slotline: message_id: it was used for another request, which became execution 1: each request needs its own\n",
        ),
        (
            &["run", "job.slo"],
            3,
            "slotline: action_ref: no action is called job.slo: did you mean `job.slow`? (see `slotline actions` for those \
             there are, `slotline apply` for new ones)\n",
        ),
        (&["executions", "show", "77"], 3, "slotline: there is no execution 77\n"),
    ] {
        let output = dev.slotline(arguments)?;
        assert_eq!((printed(&output).as_str(), output.status.code()), (expected, Some(code)), "{arguments:?}");
    }
    let applied = dev.slotline(&["apply", "actions.toml", "--dry-run"])?;
    let expected = "job.keyed: `key_limit` holds for each concurrency key, and no `key` says where it is: requests must give \
                    `concurrency_key`, and those without one share one line; set `key = \"/name\"`, or `key_required = true`";
    assert!(printed(&applied).contains(expected), "{}", printed(&applied));
    Ok(())
}

#[test]
fn a_wait_for_an_action_that_no_worker_serves_prints_that() -> anyhow::Result<()> {
    let dev = Dev::start("[[action]]\nref = 'job.slow'\n")?;
    let mut waits = dev.command(&["run", "job.slow", "--wait"]).stderr(Stdio::piped()).spawn()?;
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(waits.stderr.take().context("a pipe")?), &mut line)?;
    assert_eq!(line, "no worker serves job.slow now: it waits in line until one does\n");
    waits.kill()?;
    waits.wait()?;
    Ok(())
}

#[test]
fn a_command_that_can_not_be_started_names_the_reason_and_what_to_change() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let script = |name: &str, text: &str, mode: u32| -> anyhow::Result<()> {
        std::fs::write(folder.path().join(name), text)?;
        Ok(std::fs::set_permissions(folder.path().join(name), std::fs::Permissions::from_mode(mode))?)
    };
    script("plain.sh", "#!/bin/sh\n", 0o644)?;
    script("crlf.sh", "#!/bin/sh\r\nexit 0\r\n", 0o755)?;
    script("bang.sh", "#!/nowhere/bash\n", 0o755)?;
    let cases = [
        ("no.mode", "./plain.sh", "it is not executable: chmod +x FOLDER/./plain.sh"),
        (
            "no.crlf",
            "./crlf.sh",
            "its lines end with CRLF, and its first names a program whose name ends so: sed -i 's/\\r$//' FOLDER/./crlf.sh",
        ),
        ("no.bang", "./bang.sh", "its first line names /nowhere/bash, which is not there: install it, or name another"),
        ("no.file", "./none.sh", "there is no such file"),
        (
            "no.list",
            "echo hello",
            "no program has this name; a command is a list of a program and its arguments: [\"echo\", \"hello\"]",
        ),
        ("no.path", "no-such-program", "no program of this name is in PATH"),
    ];
    let action = |(name, command, _): &(&str, &str, &str)| {
        format!("[[action]]\nref = '{name}'\n[action.run]\ncommand = ['{command}']\n\n")
    };
    std::fs::write(folder.path().join("actions.toml"), cases.iter().map(action).collect::<String>())?;
    let dev = Dev::start_in(folder)?;
    let place = std::path::absolute(dev.folder.path())?.display().to_string();
    for (name, command, expected) in cases {
        let program = match command.strip_prefix("./") {
            Some(_) => format!("{place}/{command}"),
            None => command.to_owned(),
        };
        let reason = format!("can't start {program:?}: {}", expected.replace("FOLDER", &place));
        let output = dev.slotline(&["run", name, "--wait"])?;
        let text = printed(&output);
        assert_eq!(
            (text.trim_end(), output.status.code()),
            (
                &*format!("execution {} failed: spawn_failed: {reason}", text.split(' ').nth(1).unwrap_or_default()),
                Some(1)
            ),
            "{name}"
        );
        // The log has it at the start, too, before an execution failed.
        ensure!(dev.log()?.contains(&reason), "{name}: {}", dev.log()?);
    }
    Ok(())
}

#[test]
fn a_wrong_token_has_another_error_than_a_missing_one() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join("actions.toml"), "[[action]]\nref = 'a.b'\n")?;
    let dev = Dev::start_with(folder, &[("SLOTLINE_API_TOKEN", "the-right-one")])?;
    for (token, expected) in [
        (
            "",
            "slotline: a bearer token is needed, in the header Authorization (give it in SLOTLINE_API_TOKEN or --api-token-file)\n",
        ),
        (
            "another",
            "slotline: the token is not one of this API's (give it in SLOTLINE_API_TOKEN or --api-token-file)\n",
        ),
    ] {
        let output = dev.command(&["workers"]).env("SLOTLINE_API_TOKEN", token).output()?;
        assert_eq!((printed(&output).as_str(), output.status.code()), (expected, Some(2)));
    }
    let output = dev.command(&["workers", "--output", "json"]).env("SLOTLINE_API_TOKEN", "the-right-one").output()?;
    serde_json::from_slice::<Value>(&output.stdout)?;
    Ok(())
}
