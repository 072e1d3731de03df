//! What commands report while they run: through their socket, with the client, and in their output.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::json;
use slotline_protocol::message::{Event, Progress, Report, Stream};
use slotline_protocol::{Detail, ExecutionId, OutcomeKind};
use slotline_tests::now_ns;
use slotline_worker::progress::{self, LINE_BYTES_MAX, SOCKET};
use slotline_worker::{Phase, RunConfig};

use super::stage::Stage;
use crate::executor::Heard;

/// Writes down the path of its socket, and runs until it may end.
const WAITS: &str =
    r#"echo "$SLOTLINE_PROGRESS_SOCKET" > socket; while [ ! -e "end$SLOTLINE_EXECUTION_ID" ]; do sleep 0.01; done"#;

struct Waiting {
    stage: Stage,
    socket: String,
}

impl Waiting {
    async fn start() -> anyhow::Result<Self> {
        let mut stage = Stage::script(WAITS).await?;
        stage.dispatch(1, json!({})).await?;
        let socket = stage.written("socket").await?;
        Ok(Self { stage, socket })
    }

    fn call(&self) -> anyhow::Result<UnixStream> {
        Ok(UnixStream::connect(&self.socket)?)
    }

    fn write(&self, text: &[u8]) -> anyhow::Result<()> {
        Ok(self.call()?.write_all(text)?)
    }

    /// Lets it end; returns all its events, in order.
    async fn end(mut self) -> anyhow::Result<Vec<Event>> {
        std::fs::write(self.stage.folder.path().join("end1"), "")?;
        let completed = self.stage.executor.completed(1).await?;
        assert_eq!(completed.status, OutcomeKind::Completed, "{completed:?}");
        self.stage.executor.events(1, completed.last_sequence).await?;
        assert!(!std::path::Path::new(&self.socket).exists(), "the socket is gone with the attempt");
        let events = all(&self.stage.executor.heard, 1);
        self.stage.end().await?;
        Ok(events)
    }
}

fn all(heard: &Heard, id: i64) -> Vec<Event> {
    let mut events: Vec<&Progress> = heard.progress.iter().filter(|one| one.execution_id == ExecutionId(id)).collect();
    events.sort_by_key(|progress| progress.sequence);
    events.into_iter().map(|progress| progress.event.clone()).collect()
}

fn messages(events: &[Event]) -> Vec<&str> {
    events
        .iter()
        .filter_map(|event| if let Event::Progress(report) = event { report.message.as_deref() } else { None })
        .collect()
}

fn notices(events: &[Event]) -> Vec<&str> {
    let lines = events.iter().filter_map(|event| match event {
        Event::Log { stream: Stream::Notice, lines } => Some(lines),
        _ => None,
    });
    lines.flatten().map(String::as_str).collect()
}

/// This test is also the command that it runs.
#[tokio::test]
async fn a_command_reports_with_one_call() -> anyhow::Result<()> {
    let report = Report { step: Some((2, 7)), message: Some("pulling".to_owned()), ..Report::default() };
    if std::env::var_os(SOCKET).is_some() {
        return Ok(progress::send(&report)?);
    }
    let error = progress::send(&report).expect_err("nobody listens here");
    assert!(error.to_string().contains("nobody asked"), "{error}");
    let own = std::env::current_exe()?.to_string_lossy().into_owned();
    let mut stage = Stage::with(|_| {
        RunConfig::new([own.as_str(), "--exact", "commands::reports::a_command_reports_with_one_call", "--nocapture"])
    })
    .await?;
    let completed = stage.run(1, json!({})).await?;
    assert_eq!(completed.status, OutcomeKind::Completed, "{completed:?}");
    stage.executor.events(1, completed.last_sequence).await?;
    let events = all(&stage.executor.heard, 1);
    assert!(events.contains(&Event::Progress(report)), "{events:?}");
    stage.end().await
}

#[tokio::test]
async fn lines_on_the_socket_are_seen_while_the_command_runs() -> anyhow::Result<()> {
    let mut waiting = Waiting::start().await?;
    let mut caller = waiting.call()?;
    for step in 1..=12 {
        caller.write_all(format!("{{\"step\": [{step}, 12], \"message\": \"step {step}\"}}\n").as_bytes())?;
        let seen = waiting.stage.executor.until("the report", |heard| {
            messages(&all(heard, 1)).contains(&format!("step {step}").as_str()).then_some(heard.completed.len())
        });
        assert_eq!(seen.await?, 0, "before the end");
    }
    let events = waiting.end().await?;
    assert_eq!(messages(&events).len(), 12);
    assert!(notices(&events).is_empty(), "{events:?}");
    Ok(())
}

#[tokio::test]
async fn what_was_written_before_the_end_is_taken_from_every_caller_before_it_is_told() -> anyhow::Result<()> {
    let waiting = Waiting::start().await?;
    // More callers than are read from at once; none hangs up, and the last line of each has no end.
    let mut callers = Vec::new();
    for i in 0..40 {
        let mut caller = waiting.call()?;
        caller.write_all(format!("{{\"progress\": [{i}, 40]}}\n{{\"data\": {i}}}").as_bytes())?;
        callers.push(caller);
    }
    callers[39].write_all(b"\n{\"phase\": \"the last\"}")?;
    let events = waiting.end().await?;
    assert!(matches!(events.last(), Some(Event::Finished { .. })), "{events:?}");
    let is_last =
        |event: &Event| matches!(event, Event::Progress(report) if report.phase.as_deref() == Some("the last"));
    assert!(events.iter().any(is_last), "{events:?}");
    drop(callers);
    Ok(())
}

#[tokio::test]
async fn nonsense_is_warned_of_in_the_log_and_the_rest_is_taken() -> anyhow::Result<()> {
    let waiting = Waiting::start().await?;
    let huge = format!("{{\"message\": \"{}\"}}\n", "x".repeat(10 << 20));
    let mut caller = waiting.call()?;
    caller.write_all(b"hello\n{\"step\": [9, 7], \"message\": \"clipped\", \"colour\": 1}\n")?;
    caller.write_all(b"{\"percent\": NaN}\n{\"message\": \"a\xff\"}\n")?;
    caller.write_all(huge.as_bytes())?;
    caller.write_all(b"{\"message\": \"after it\"}\n")?;
    let events = waiting.end().await?;
    let notices = notices(&events);
    let expected =
        ["no JSON object", "no member colour", "step 9 is beyond", "no JSON object", "not UTF-8", "65536 bytes"];
    assert_eq!(notices.len(), expected.len(), "{notices:?}");
    for (notice, expected) in notices.iter().zip(expected) {
        assert!(notice.contains(expected), "{notice}");
    }
    assert_eq!(messages(&events), ["clipped", "a\u{fffd}", "after it"]);
    Ok(())
}

#[tokio::test]
async fn a_line_at_the_limit_is_read_and_one_past_it_is_not() -> anyhow::Result<()> {
    let waiting = Waiting::start().await?;
    let line = |bytes: usize| format!("{{\"phase\":\"p{bytes}\",\"data\":\"{}\"}}\n", "x".repeat(bytes - 28));
    let at_the_limit = line(LINE_BYTES_MAX);
    assert_eq!(at_the_limit.len(), LINE_BYTES_MAX + 1);
    waiting.write(at_the_limit.as_bytes())?;
    waiting.write(line(LINE_BYTES_MAX + 1).as_bytes())?;
    let events = waiting.end().await?;
    assert_eq!(notices(&events).len(), 1, "{:?}", notices(&events));
    let phases = events.iter().filter(|event| matches!(event, Event::Progress(report) if report.phase.is_some()));
    assert_eq!(phases.count(), 1);
    Ok(())
}

#[tokio::test]
async fn percent_follows_from_the_phases_of_the_configuration_and_is_all_once_it_has_completed() -> anyhow::Result<()> {
    let phases = vec![Phase::new("pull", 3), Phase::new("start", 1)];
    let mut stage = Stage::with(|folder| RunConfig {
        phases,
        cwd: Some(folder.to_owned()),
        ..RunConfig::new(["/bin/sh", "-c", WAITS])
    })
    .await?;
    stage.dispatch(1, json!({})).await?;
    let socket = stage.written("socket").await?;
    let lines = b"{\"phase\": \"pull\", \"step\": [1, 2]}\n{\"phase\": \"start\"}\n";
    UnixStream::connect(socket)?.write_all(lines)?;
    std::fs::write(stage.folder.path().join("end1"), "")?;
    let completed = stage.executor.completed(1).await?;
    stage.executor.events(1, completed.last_sequence).await?;
    let percent = |event: &Event| if let Event::Progress(report) = event { report.percent } else { None };
    assert_eq!(all(&stage.executor.heard, 1).iter().filter_map(percent).collect::<Vec<_>>(), [37.5, 75.0, 100.0]);
    stage.end().await
}

#[tokio::test]
async fn a_phase_that_its_action_does_not_declare_is_taken_and_warned_of_once() -> anyhow::Result<()> {
    let phases = vec![Phase::new("pull", 3), Phase::new("start", 1)];
    let mut stage = Stage::with(|folder| RunConfig {
        phases,
        cwd: Some(folder.to_owned()),
        ..RunConfig::new(["/bin/sh", "-c", WAITS])
    })
    .await?;
    stage.dispatch(1, json!({})).await?;
    let socket = stage.written("socket").await?;
    let lines = b"{\"phase\": \"pul\"}\n{\"phase\": \"start\"}\n{\"phase\": \"pul\"}\n";
    UnixStream::connect(socket)?.write_all(lines)?;
    std::fs::write(stage.folder.path().join("end1"), "")?;
    let completed = stage.executor.completed(1).await?;
    assert_eq!(completed.status, OutcomeKind::Completed, "{completed:?}");
    stage.executor.events(1, completed.last_sequence).await?;
    let events = all(&stage.executor.heard, 1);
    let warning = "phase pul is not declared, so it has no percentage: declared are pull, start: did you mean `pull`?";
    assert_eq!(notices(&events), [warning]);
    let phase = |event: &Event| if let Event::Progress(report) = event { report.phase.clone() } else { None };
    assert_eq!(events.iter().filter_map(phase).collect::<Vec<_>>(), ["pul", "start", "pul"]);
    stage.end().await
}

#[tokio::test]
async fn a_flood_of_a_hundred_thousand_lines_costs_few_events_and_delays_no_other_command() -> anyhow::Result<()> {
    let mut waiting = Waiting::start().await?;
    let mut caller = waiting.call()?;
    let flood = tokio::task::spawn_blocking(move || {
        (0..100_000_u32)
            .try_for_each(|i| writeln!(caller, "{{\"message\": \"message {i}\", \"progress\": [{i}, 100000]}}"))
    });
    let stage = &mut waiting.stage;
    std::fs::write(stage.folder.path().join("end2"), "")?;
    stage.dispatch(2, json!({})).await?;
    assert_eq!(stage.executor.completed(2).await?.status, OutcomeKind::Completed);
    flood.await??;
    let events = waiting.end().await?;
    assert!(events.len() < 2_000, "{}", events.len());
    assert_eq!(messages(&events).last(), Some(&"message 99999"));
    let merged =
        events.iter().filter_map(|event| if let Event::Gap { count, .. } = event { Some(*count) } else { None });
    let told = u64::try_from(messages(&events).len())? + merged.sum::<u64>();
    assert_eq!(told, 100_000, "each is said or counted");
    Ok(())
}

#[tokio::test]
async fn a_command_that_reports_does_not_stall_though_nobody_wants_to_hear_its_numbers() -> anyhow::Result<()> {
    let mut stage = Stage::script(WAITS).await?;
    let mut scheduled = stage.executor.scheduled(1, "test.run", &json!({}))?;
    scheduled.stall_timeout_seconds = Some(Duration::from_secs(1));
    scheduled.progress = Detail::Quiet;
    stage.executor.send(stage.worker, &scheduled).await?;
    let mut caller = UnixStream::connect(stage.written("socket").await?)?;
    for done in 0..8 {
        writeln!(caller, "{{\"progress\": [{done}, 8]}}")?;
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    let last = now_ns();
    let completed = stage.executor.completed(1).await?;
    assert_eq!(completed.error.map(|error| error.code).as_deref(), Some("stall_timeout"));
    // If it had stalled any earlier, the report would have arrived by now.
    let silent = Duration::from_nanos(now_ns() - last);
    assert!(silent > Duration::from_millis(500), "{silent:?}");
    stage.end().await
}

#[tokio::test]
async fn capabilities_are_what_a_command_can_do_and_reports_what_it_declares() -> anyhow::Result<()> {
    let cat = || RunConfig::new(["/bin/cat"]);
    let phases = vec![Phase::new("pull", 1)];
    for (config, expected) in [
        (cat(), &["cancel", "logs"][..]),
        (RunConfig { progress: true, ..cat() }, &["report-progress", "cancel", "logs"]),
        (RunConfig { tasks: true, ..cat() }, &["report-progress", "cancel", "logs"]),
        (RunConfig { phases, ..cat() }, &["report-progress", "cancel", "logs"]),
    ] {
        let mut stage = Stage::with(|_| config).await?;
        let beat = stage.executor.until("a heartbeat", |heard| heard.heartbeats.last().cloned()).await?;
        assert_eq!(beat.actions[0].capabilities[..expected.len()], *expected);
        stage.end().await?;
    }
    Ok(())
}
