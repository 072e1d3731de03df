//! The program at a terminal: nothing is wider than it, colours are there and can be refused, and a stray key ends
//! nothing. And without one.

mod dev;
#[path = "terminal/piped.rs"]
mod piped;
#[path = "terminal/screen.rs"]
mod screen;

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use dev::{Dev, SOON};
use screen::Screen;

const PTY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/terminal/in_terminal.py");
const ACTIONS: &str = r#"
[[action]]
ref = "deploy.a-service-with-a-rather-long-name"
limit = 1
[action.run]
command = ["/bin/sh", "-c", '''
"$SLOTLINE_BIN" progress --phase pull --step 2/7 --done 60 --total 1024 --unit Bytes "a message that is longer than a narrow terminal is wide"
sleep 600
''']
grace = "200ms"

[[action]]
ref = "deploy.unserved"
"#;

/// The program in a terminal; killed when dropped.
struct Terminal {
    process: Child,
    columns: usize,
    written: Arc<Mutex<Vec<u8>>>,
    reader: Option<std::thread::JoinHandle<()>>,
}

impl Terminal {
    fn start(dev: &Dev, columns: usize, arguments: &[&str], environment: &[(&str, &str)]) -> anyhow::Result<Self> {
        let mut command = Command::new("/usr/bin/python3");
        command.args([PTY, &columns.to_string(), env!("CARGO_BIN_EXE_slotline")]).args(arguments);
        command.current_dir(dev.folder.path()).env_clear().env("PATH", "/usr/bin:/bin").env("TERM", "xterm");
        // What is logged is no part of what is drawn.
        command.env("SLOTLINE_LOG_LEVEL", "off");
        command.env("SLOTLINE_API_URL", &dev.url).envs(environment.iter().copied());
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let written = Arc::new(Mutex::new(Vec::new()));
        let (mut out, kept) = (process.stdout.take().context("a pipe")?, Arc::clone(&written));
        let reader = std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = out.read(&mut bytes) {
                kept.lock().expect("no thread panicked").extend_from_slice(&bytes[..count]);
            }
        });
        Ok(Self { process, columns, written, reader: Some(reader) })
    }

    fn screen(&self) -> Screen {
        Screen::of(self.columns, &self.written.lock().expect("no thread panicked"))
    }

    fn press(&mut self, keys: &str) -> anyhow::Result<()> {
        let keyboard = self.process.stdin.as_mut().context("a pipe")?;
        keyboard.write_all(keys.as_bytes())?;
        Ok(keyboard.flush()?)
    }

    /// Waits until `text` is to be seen.
    fn shows(&self, text: &str) -> anyhow::Result<Screen> {
        let begun = Instant::now();
        loop {
            let screen = self.screen();
            if screen.text().contains(text) {
                return Ok(screen);
            }
            ensure!(begun.elapsed() < SOON, "{text:?} is not to be seen in\n{}", screen.text());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What is left on the screen, and how it ended.
    fn end(mut self) -> anyhow::Result<(Screen, Option<i32>)> {
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = self.process.try_wait()? {
                break status;
            }
            ensure!(begun.elapsed() < SOON, "it goes on: {}", self.screen().text());
            std::thread::sleep(Duration::from_millis(20));
        };
        // All that was written has been read when it ends.
        self.reader.take().and_then(|reader| reader.join().ok()).context("the reader")?;
        Ok((self.screen(), status.code()))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn running(dev: &Dev) -> anyhow::Result<String> {
    let id = dev.json(&["run", "deploy.a-service-with-a-rather-long-name"])?["execution_id"].to_string();
    dev.reaches(&id, "running")?;
    Ok(id)
}

#[test]
fn no_table_is_wider_than_the_terminal_and_it_is_coloured_unless_that_is_refused() -> anyhow::Result<()> {
    let dev = Dev::start(ACTIONS)?;
    ensure!(dev.slotline(&["run", "demo.echo", "--wait"])?.status.success());
    dev.slotline(&["run", "deploy.unserved"])?;
    let id = running(&dev)?;
    let commands: [&[&str]; 9] = [
        &["queue"],
        &["queue", "deploy.unserved"],
        &["actions"],
        &["actions", "show", "demo.sync"],
        &["executions", "list"],
        &["executions", "show", &id],
        &["workers"],
        &["audit"],
        &["cancel", "1"],
    ];
    for columns in [80, 50] {
        for command in commands {
            let (screen, code) = Terminal::start(&dev, columns, command, &[])?.end()?;
            ensure!(
                code == Some(0) && screen.wrapped.is_empty(),
                "{command:?} at {columns}: {code:?} {:?}\n{}",
                screen.wrapped,
                screen.text()
            );
        }
    }
    let (list, _) = Terminal::start(&dev, 80, &["executions", "list"], &[])?.end()?;
    ensure!(list.is_coloured && list.text().contains(" ago"), "{}", list.text());
    let (plain, _) = Terminal::start(&dev, 80, &["executions", "list"], &[("NO_COLOR", "1")])?.end()?;
    ensure!(!plain.is_coloured && plain.text().contains("completed"), "{}", plain.text());
    let (wide, _) = Terminal::start(&dev, 300, &["executions", "list", "--output", "wide"], &[])?.end()?;
    ensure!(wide.text().contains("Z ") && !wide.text().contains(" ago"), "{}", wide.text());
    let (queue, _) = Terminal::start(&dev, 80, &["queue"], &[])?.end()?;
    let unserved = queue.text().lines().find(|line| line.starts_with("deploy.unserved")).map(str::to_owned);
    ensure!(unserved.is_some_and(|line| line.contains("no worker")), "{}", queue.text());
    Ok(())
}

#[test]
fn a_stray_key_cancels_nothing_and_no_bar_is_left_behind() -> anyhow::Result<()> {
    let dev = Dev::start(ACTIONS)?;
    let id = running(&dev)?;
    for columns in [80, 50] {
        let mut watch = Terminal::start(&dev, columns, &["watch", &id], &[])?;
        watch.shows("is running")?;
        watch.press("\u{3}")?;
        watch.shows("s: stop watching, c: cancel it")?;
        watch.press("c")?;
        watch.shows("cancel the execution? Enter: yes")?;
        watch.press("x")?;
        watch.shows("s: stop watching, c: cancel it")?;
        ensure!(dev.json(&["executions", "show", &id])?["status"] == "running", "a key cancelled it");
        watch.press("s")?;
        watch.shows("stop watching? Enter")?;
        watch.press("\n")?;
        let (screen, code) = watch.end()?;
        ensure!(
            code == Some(130) && screen.wrapped.is_empty(),
            "{columns}: {code:?} {:?}\n{}",
            screen.wrapped,
            screen.text()
        );
        let left = format!("execution {id} goes on; end it with `slotline cancel {id}`");
        assert_eq!(screen.text().replace('\n', " "), left);
    }
    let mut watch = Terminal::start(&dev, 80, &["watch", &id], &[])?;
    watch.shows("is running")?;
    watch.press("\u{3}")?;
    watch.shows("c: cancel it")?;
    watch.press("c")?;
    watch.shows("cancel the execution?")?;
    watch.press("\n")?;
    let (screen, code) = watch.end()?;
    ensure!(code == Some(130), "{code:?}\n{}", screen.text());
    ensure!(screen.text().contains(&format!("\nexecution {id} was cancelled after ")), "{}", screen.text());
    Ok(())
}

#[test]
fn the_demo_draws_over_itself_and_names_the_next_step() -> anyhow::Result<()> {
    let dev = Dev::start(ACTIONS)?;
    for columns in [80, 50] {
        let (screen, code) = Terminal::start(&dev, columns, &["demo"], &[])?.end()?;
        let text = screen.text();
        ensure!(code == Some(0) && screen.wrapped.is_empty(), "{columns}: {code:?} {:?}\n{text}", screen.wrapped);
        assert_eq!(text.lines().filter(|line| line.starts_with("ACTION")).count(), 1, "{text}");
        assert_eq!(text.lines().filter(|line| line.starts_with("demo.deploy ")).count(), 1, "{text}");
        ensure!(text.contains("12/12") && text.lines().last().is_some_and(|last| last.contains("Ctrl-C")), "{text}");
    }
    Ok(())
}

#[test]
fn dev_names_its_actions_and_shows_executions_as_they_come() -> anyhow::Result<()> {
    let dev = Dev::start(ACTIONS)?;
    let arguments = ["dev", "--data", "other", "--listen", "127.0.0.1:0"];
    let other = Terminal::start(&dev, 80, &arguments, &[])?;
    let screen = other.shows("Stop:  Ctrl-C")?;
    ensure!(screen.wrapped.is_empty() && screen.text().contains("demo.deploy (limit 1)"), "{}", screen.text());
    let text = screen.text();
    let url = text.split([' ', ',', '\n']).find(|word| word.starts_with("http://")).context("where it serves")?;
    let ran = dev.command(&["run", "demo.echo", "--wait"]).env("SLOTLINE_API_URL", url).output()?;
    ensure!(ran.status.success(), "{ran:?}");
    other.shows("#1  demo.echo completed").map(drop)
}

#[test]
fn help_keeps_a_commands_own_options_apart_and_names_every_exit_code() -> anyhow::Result<()> {
    let dev = Dev::start(ACTIONS)?;
    let help = |command: &[&str]| -> anyhow::Result<String> { Ok(String::from_utf8(dev.slotline(command)?.stdout)?) };
    let of_run = help(&["run", "--help"])?;
    let (own, global) = of_run.split_once("Global options:").context("a heading of their own")?;
    ensure!(own.contains("--param") && !own.contains("--api-url") && global.contains("--api-url"), "{of_run}");
    let all = help(&["--help"])?;
    for code in ["  0  done", "  1  ", "  2  ", "  3  not found", " 69  ", " 75  ", "124  ", "130  "] {
        ensure!(all.contains(code), "{code:?}: {all}");
    }
    Ok(())
}

#[test]
fn of_several_executors_the_first_that_can_be_reached_is_asked() -> anyhow::Result<()> {
    let dev = Dev::start(ACTIONS)?;
    let closed = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let urls = format!("http://{closed},{}", dev.url);
    let ran = dev.command(&["run", "demo.echo", "--wait"]).env("SLOTLINE_API_URL", &urls).output()?;
    ensure!(ran.status.success(), "{ran:?}");
    let none =
        dev.command(&["workers"]).env("SLOTLINE_API_URL", format!("http://{closed},http://{closed}")).output()?;
    assert_eq!(none.status.code(), Some(69), "{none:?}");
    Ok(())
}

#[test]
fn executions_are_found_by_time_and_by_message_and_several_are_cancelled_at_once() -> anyhow::Result<()> {
    let dev = Dev::start(ACTIONS)?;
    let ids: Vec<String> = (1..=3)
        .map(|n| {
            Ok(dev.json(&["run", "deploy.unserved", "--message-id", &format!("m-{n}")])?["execution_id"].to_string())
        })
        .collect::<anyhow::Result<_>>()?;
    let found = |more: &[&str]| -> anyhow::Result<Vec<String>> {
        let list = dev.json(&[&["executions", "list"], more].concat())?;
        Ok(list.as_array().into_iter().flatten().map(|found| found["execution_id"].to_string()).collect())
    };
    assert_eq!(found(&["--message-id", "m-2"])?, [ids[1].clone()]);
    assert_eq!(found(&["--since", "1h"])?.len(), 3);
    assert_eq!(found(&["--before", "1h"])?.len(), 0);
    let unknown = dev.slotline(&["executions", "list", "--message-id", "m-9"])?;
    assert_eq!(unknown.status.code(), Some(3), "{unknown:?}");
    let cancelled = dev.slotline(&["cancel", &ids[0], "77", &ids[2]])?;
    assert_eq!(cancelled.status.code(), Some(3), "{cancelled:?}");
    assert_eq!(String::from_utf8(cancelled.stdout)?, "execution 1 is cancelled\nexecution 3 is cancelled\n");
    let deleted = dev.slotline(&["actions", "delete", "deploy.unserved"])?;
    ensure!(deleted.status.code() == Some(2), "one of it lives: {deleted:?}");
    dev.slotline(&["cancel", &ids[1]])?;
    let deleted = dev.slotline(&["actions", "delete", "deploy.unserved"])?;
    assert_eq!(String::from_utf8(deleted.stdout)?, "deploy.unserved is deleted\n");
    Ok(())
}
