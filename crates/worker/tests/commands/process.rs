//! Commands, with real processes: what they get, what they leave, and every way they can end.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use slotline_protocol::OutcomeKind;
use slotline_protocol::message::{Completed, Event, Failure};
use slotline_worker::RunConfig;

use super::stage::Stage;
use crate::executor::{self, Heard};
use crate::processes::shim_of;

fn result(completed: &Completed) -> Value {
    assert_eq!(completed.status, OutcomeKind::Completed, "{:?}", completed.error);
    // `null` and none are the same on the wire.
    completed.result.as_ref().map_or(Value::Null, |json| serde_json::from_str(json.get()).expect("a result is JSON"))
}

fn failure(completed: &Completed, status: OutcomeKind) -> Failure {
    assert_eq!(completed.status, status, "{completed:?}");
    completed.error.clone().expect("a failure has an error")
}

#[tokio::test]
async fn the_result_is_the_last_json_value_on_stdout() -> anyhow::Result<()> {
    let mut stage = Stage::script(r#"echo '{"a": 0}'; echo '{"a": 1}'; echo done; echo err >&2"#).await?;
    let completed = stage.run(1, json!({})).await?;
    assert_eq!(result(&completed), json!({"a": 1}));
    assert!(completed.started_at.is_some_and(|started| started < completed.completed_at));
    let events = stage.executor.events(1, completed.last_sequence).await?;
    let events: Vec<_> = events.into_values().collect();
    assert_eq!(events[..2], ["status running".to_owned(), "started".to_owned()]);
    assert_eq!(events.last().map(String::as_str), Some("finished Some(0)"));
    assert!(events.iter().any(|event| event.starts_with("Stdout") && event.contains("done")), "{events:?}");
    assert!(events.iter().any(|event| event == "Stderr err"), "{events:?}");
    stage.end().await
}

#[tokio::test]
async fn a_result_may_have_many_lines_and_one_without_an_end_fails() -> anyhow::Result<()> {
    let mut stage = Stage::script("echo 1; printf '[\\n  \"i-123\",\\n  \"i-456\"\\n]\\n'; echo done").await?;
    assert_eq!(result(&stage.run(1, json!({})).await?), json!(["i-123", "i-456"]));
    stage.end().await?;
    let mut stage = Stage::script("printf '[\\n  \"i-123\",\\n  \"i-456\"\\n'").await?;
    let error = failure(&stage.run(1, json!({})).await?, OutcomeKind::Failed);
    assert!(error.code == "handler_error" && error.message.contains("does not end"), "{error:?}");
    stage.end().await
}

#[tokio::test]
async fn a_program_that_returns_to_the_beginning_of_its_line_is_seen_as_it_goes() -> anyhow::Result<()> {
    // It prints no end of a line before the test has seen what stands on it.
    let script = r"printf '10 %%\r50 %%\r'; while [ ! -e go ]; do sleep 0.01; done; printf '100 %%\r\n\nend\r\n'";
    let mut stage = Stage::script(script).await?;
    stage.dispatch(1, json!({})).await?;
    let lines = |heard: &Heard| {
        let logs = heard.progress.iter().filter_map(|progress| match &progress.event {
            Event::Log { lines, .. } => Some(lines.as_slice()),
            _ => None,
        });
        logs.flatten().cloned().collect::<Vec<_>>()
    };
    stage.executor.until("half of it", |heard| (lines(heard) == ["10 %", "50 %"]).then_some(())).await?;
    std::fs::write(stage.folder.path().join("go"), "")?;
    stage.executor.completed(1).await?;
    stage.executor.until("all", |heard| (lines(heard)[2..] == ["100 %", "", "end"]).then_some(())).await?;
    stage.end().await
}

#[tokio::test]
async fn a_command_that_prints_no_json_has_a_null_result() -> anyhow::Result<()> {
    let mut stage = Stage::script("echo hello").await?;
    assert_eq!(result(&stage.run(1, json!({})).await?), Value::Null);
    stage.end().await
}

#[tokio::test]
async fn the_result_file_outweighs_stdout_and_is_removed() -> anyhow::Result<()> {
    let script = r#"echo 1; echo '{"from": "file"}' > "$SLOTLINE_RESULT_FILE"; echo "$SLOTLINE_RESULT_FILE" > where"#;
    let mut stage = Stage::script(script).await?;
    assert_eq!(result(&stage.run(1, json!({})).await?), json!({"from": "file"}));
    let file = stage.written("where").await?;
    assert!(file.starts_with('/') && !Path::new(&file).exists(), "{file}");
    stage.end().await
}

#[tokio::test]
async fn a_result_file_that_is_no_json_fails_and_says_so() -> anyhow::Result<()> {
    let mut stage = Stage::script(r#"echo nonsense > "$SLOTLINE_RESULT_FILE""#).await?;
    let error = failure(&stage.run(1, json!({})).await?, OutcomeKind::Failed);
    assert!(error.message.contains("result file holds no JSON"), "{error:?}");
    stage.end().await
}

#[tokio::test]
async fn a_result_larger_than_the_cap_fails_as_too_large() -> anyhow::Result<()> {
    let script = r#"printf '"'; head -c 1100000 /dev/zero | tr '\0' x; printf '"\n'"#;
    let mut stage = Stage::script(script).await?;
    assert_eq!(failure(&stage.run(1, json!({})).await?, OutcomeKind::Failed).code, "result_too_large");
    let script = r#"printf '"'; head -c 1000000 /dev/zero | tr '\0' x; printf '"\n'"#;
    let mut stage = Stage::script(script).await?;
    assert_eq!(result(&stage.run(1, json!({})).await?).as_str().map(str::len), Some(1_000_000));
    stage.end().await
}

#[tokio::test]
async fn a_command_is_given_its_identity_its_parameters_and_no_secrets() -> anyhow::Result<()> {
    let script = r#"printf '{"id":"%s","attempt":"%s","fence":"%s","ref":"%s","app":"%s","big":"%s","stage":"%s","url":"%s","stdin":%s}' \
        "$SLOTLINE_EXECUTION_ID" "$SLOTLINE_ATTEMPT" "$SLOTLINE_FENCE" "$SLOTLINE_ACTION_REF" "$SLOTLINE_PARAM_APP" \
        "${SLOTLINE_PARAM_BIG:-none}" "$STAGE" "${CARGO_BIN_EXE_x:-none}" "$(cat)""#;
    let mut stage = Stage::with(|_| RunConfig {
        env: [("STAGE".to_owned(), "prod".to_owned())].into(),
        ..RunConfig::new(["/bin/sh", "-c", script])
    })
    .await?;
    let parameters = json!({"app": "web ö", "big": "x".repeat(9000)});
    let found = result(&stage.run(7, parameters.clone()).await?);
    assert_eq!(found["id"], "7");
    assert_eq!(found["attempt"], "1");
    assert_eq!(found["fence"], "1007");
    assert_eq!(found["ref"], "test.run");
    assert_eq!(found["app"], "web ö");
    assert_eq!(found["big"], "none", "too long for the environment");
    assert_eq!(found["stage"], "prod");
    assert_eq!(found["stdin"], parameters, "stdin has it all");
    stage.end().await
}

#[tokio::test]
async fn a_command_has_a_session_of_its_own_and_so_no_terminal_to_wait_at() -> anyhow::Result<()> {
    // The sixth field of `stat` is the session, the fourth the parent, which is the shim; in front of them the
    // program's name stands in parentheses.
    let script = r#"stat=$(cat /proc/$$/stat); set -- ${stat##*) }
        if (read line < /dev/tty) 2>/dev/null; then tty=true; else tty=false; fi
        printf '{"session": %s, "shim": %s, "group": %s, "pid": %s, "tty": %s}' "$4" "$2" "$3" $$ $tty"#;
    let mut stage = Stage::script(script).await?;
    let found = result(&stage.run(1, json!({})).await?);
    assert_eq!(found["session"], found["shim"], "not this test's, by whatever number the command knows it: {found}");
    assert_eq!(found["group"], found["pid"], "its group is its own, too: that is what signals go to");
    assert_eq!(found["tty"], json!(false));
    stage.end().await
}

#[tokio::test]
async fn an_exit_status_is_a_failure_with_the_tail_of_stderr() -> anyhow::Result<()> {
    let mut stage = Stage::script("echo first >&2; echo last words >&2; exit 3").await?;
    let completed = stage.run(1, json!({})).await?;
    let error = failure(&completed, OutcomeKind::Failed);
    assert_eq!(error.code, "exit_status");
    assert_eq!(error.message, "the command exited with status 3: last words");
    assert_eq!(error.details, Some(json!({"return_code": 3, "stderr": "first\nlast words"})));
    let events = stage.executor.events(1, completed.last_sequence).await?;
    assert_eq!(events.into_values().next_back().as_deref(), Some("finished Some(3)"));
    stage.end().await
}

#[tokio::test]
async fn a_signal_is_a_failure_that_names_it() -> anyhow::Result<()> {
    let mut stage = Stage::script("kill -USR1 $$").await?;
    let error = failure(&stage.run(1, json!({})).await?, OutcomeKind::Failed);
    assert_eq!(error.code, "signal");
    assert!(error.message.contains("signal 10 (SIGUSR1)"), "{error:?}");
    stage.end().await
}

#[tokio::test]
async fn a_command_that_fails_says_why_in_its_result_or_else_at_the_end_of_its_stderr() -> anyhow::Result<()> {
    let script = r#"echo one >&2; echo two >&2
        case $SLOTLINE_PARAM_HOW in
            file) printf '%s' "$SLOTLINE_PARAM_RESULT" > "$SLOTLINE_RESULT_FILE" ;;
            *) printf '%s\n' "$SLOTLINE_PARAM_RESULT" ;;
        esac
        exit 3"#;
    let mut stage = Stage::script(script).await?;
    let said = json!({"error": {"code": "db_down", "message": "no database", "details": {"host": "db1"},
        "stack_trace": "at main"}, "rows": 5});
    for (id, how) in [(1, "file"), (2, "stdout")] {
        let completed = stage.run(id, json!({"how": how, "result": said})).await?;
        let error = failure(&completed, OutcomeKind::Failed);
        assert_eq!((error.code.as_str(), error.message.as_str()), ("db_down", "no database"), "{how}");
        assert_eq!((error.details, error.stack_trace.as_deref()), (Some(json!({"host": "db1"})), Some("at main")));
        let left: Value = serde_json::from_str(completed.result.as_ref().expect("it is kept").get())?;
        assert_eq!((left, completed.return_code), (said.clone(), Some(3)));
    }
    let half = json!({"error": {"message": "no code of its own"}});
    let error = failure(&stage.run(3, json!({"how": "file", "result": half})).await?, OutcomeKind::Failed);
    assert_eq!((error.code.as_str(), error.message.as_str()), ("exit_status", "no code of its own"));
    assert_eq!(error.details, Some(json!({"return_code": 3, "stderr": "one\ntwo"})));
    for (id, result) in [(4, json!({"error": "a word"})), (5, json!("no JSON of ours"))] {
        let completed = stage.run(id, json!({"how": "file", "result": result})).await?;
        let error = failure(&completed, OutcomeKind::Failed);
        let expected = "the command exited with status 3: two";
        assert_eq!((error.code.as_str(), error.message.as_str()), ("exit_status", expected));
        assert_eq!(error.details, Some(json!({"return_code": 3, "stderr": "one\ntwo"})));
        assert_eq!(completed.result.is_some(), id == 4, "what is JSON is kept");
    }
    stage.end().await
}

#[tokio::test]
async fn an_attempt_has_the_number_that_people_count_and_its_grant_one_of_its_own() -> anyhow::Result<()> {
    let mut stage = Stage::script(r#"echo "[$SLOTLINE_ATTEMPT, $SLOTLINE_GRANT]""#).await?;
    let mut scheduled = stage.executor.scheduled(1, "test.run", &json!({}))?;
    (scheduled.attempt, scheduled.counts_as) = (3, Some(1));
    stage.executor.send(stage.worker, &scheduled).await?;
    let completed = stage.executor.completed(1).await?;
    assert_eq!(result(&completed), json!([1, 3]));
    assert_eq!((completed.counts_as, completed.grant), (1, Some(3)));
    Ok(())
}

#[tokio::test]
async fn a_command_that_can_not_be_started_says_which_and_why() -> anyhow::Result<()> {
    let mut stage = Stage::with(|_| RunConfig::new(["/no/such/program", "x"])).await?;
    let completed = stage.run(1, json!({})).await?;
    let error = failure(&completed, OutcomeKind::Failed);
    assert_eq!(error.code, "spawn_failed");
    assert!(error.message.contains("/no/such/program") && error.message.contains("there is no such file"), "{error:?}");
    assert_eq!(completed.started_at, None);
    let events = stage.executor.events(1, completed.last_sequence).await?;
    assert!(stage.executor.heard.status.is_empty() && events.len() == 1, "it never ran: {events:?}");
    stage.end().await?;
    let nowhere = |_: &Path| RunConfig { cwd: Some("/no/such/folder".into()), ..RunConfig::new(["true"]) };
    let mut stage = Stage::with(nowhere).await?;
    let error = failure(&stage.run(1, json!({})).await?, OutcomeKind::Failed);
    assert!(error.message.contains("/no/such/folder"), "{error:?}");
    stage.end().await
}

#[tokio::test]
async fn a_time_out_ends_the_command_and_tells_how_long_it_had() -> anyhow::Result<()> {
    let mut stage = Stage::script("echo $$ > pid; exec sleep 1000").await?;
    let mut scheduled = stage.executor.scheduled(1, "test.run", &json!({}))?;
    scheduled.timeout_seconds = Some(Duration::from_millis(300));
    stage.executor.send(stage.worker, &scheduled).await?;
    let completed = stage.executor.completed(1).await?;
    let error = failure(&completed, OutcomeKind::Timeout);
    assert_eq!(error.code, "timeout");
    assert_eq!(error.message, "Execution 1 (test.run) has timed out because it was processing longer than 0.3 s.");
    let ran = completed.completed_at.since(completed.started_at.expect("it started"));
    assert!(ran >= Duration::from_millis(300), "{ran:?}");
    stage.assert_nothing_is_left();
    stage.end().await
}

#[tokio::test]
async fn a_stalled_command_is_ended_and_one_that_prints_is_not() -> anyhow::Result<()> {
    let script = "for i in 1 2 3 4 5 6 7 8; do echo $i; sleep 0.3; done; [ \"$SLOTLINE_PARAM_HANG\" = true ] && exec sleep 1000; true";
    let mut stage = Stage::script(script).await?;
    for (id, hang) in [(1, false), (2, true)] {
        let mut scheduled = stage.executor.scheduled(id, "test.run", &json!({"hang": hang}))?;
        scheduled.stall_timeout_seconds = Some(Duration::from_secs(2));
        stage.executor.send(stage.worker, &scheduled).await?;
    }
    assert_eq!(stage.executor.completed(1).await?.status, OutcomeKind::Completed);
    assert_eq!(failure(&stage.executor.completed(2).await?, OutcomeKind::Timeout).code, "stall_timeout");
    stage.end().await
}

#[tokio::test]
async fn a_cancelled_command_may_tidy_up_within_its_grace() -> anyhow::Result<()> {
    let script = "trap 'echo tidied > tidied; exit 0' TERM; echo $$ > pid; while :; do sleep 0.01; done";
    let mut stage = Stage::script(script).await?;
    stage.dispatch(1, json!({})).await?;
    stage.written("pid").await?;
    stage.executor.cancel(stage.worker, 1, Duration::from_secs(10)).await?;
    let error = failure(&stage.executor.completed(1).await?, OutcomeKind::Cancelled);
    assert_eq!(
        (error.code.as_str(), error.message.as_str()),
        ("cancelled", "Execution 1 (test.run) was cancelled: the test says so.")
    );
    assert_eq!(stage.written("tidied").await?, "tidied");
    stage.assert_nothing_is_left();
    stage.end().await
}

#[tokio::test]
async fn a_command_that_ignores_sigterm_is_killed_when_its_grace_is_over() -> anyhow::Result<()> {
    let script = "trap '' TERM; echo $$ > pid; while :; do sleep 0.01; done";
    let mut stage = Stage::script(script).await?;
    stage.dispatch(1, json!({})).await?;
    stage.written("pid").await?;
    let asked = std::time::SystemTime::UNIX_EPOCH.elapsed()?;
    stage.executor.cancel(stage.worker, 1, Duration::from_millis(500)).await?;
    let completed = stage.executor.completed(1).await?;
    assert_eq!(completed.status, OutcomeKind::Cancelled);
    let ended = Duration::from_micros(completed.completed_at.as_micros().unsigned_abs());
    assert!(ended >= asked + Duration::from_millis(500), "it had its grace");
    stage.assert_nothing_is_left();
    stage.end().await
}

#[tokio::test]
async fn descendants_that_left_the_group_and_ignore_sigterm_are_gone_when_the_end_is_told() -> anyhow::Result<()> {
    let script = "setsid sh -c \"trap '' TERM; echo \\$\\$ > stray; while :; do sleep 0.01; done\" & \
                  while [ ! -s stray ]; do sleep 0.01; done; exit 0";
    let grace = Duration::from_millis(100);
    let mut stage = Stage::with(|folder| RunConfig {
        cwd: Some(folder.to_owned()),
        grace,
        ..RunConfig::new(["/bin/sh", "-c", script])
    })
    .await?;
    let completed = stage.run(1, json!({})).await?;
    assert_eq!(completed.status, OutcomeKind::Completed, "{completed:?}");
    stage.assert_nothing_is_left();
    stage.end().await
}

#[tokio::test]
async fn what_a_command_leaves_behind_may_finish_what_it_is_about_to_say() -> anyhow::Result<()> {
    let mut stage = Stage::script("(sleep 0.05; echo '\"late\"') & exit 0").await?;
    assert_eq!(result(&stage.run(1, json!({})).await?), json!("late"));
    stage.end().await
}

#[tokio::test]
async fn output_past_the_cap_is_cut_and_marked_and_the_command_never_blocks() -> anyhow::Result<()> {
    let script =
        "i=0; while [ $i -lt 2000 ]; do echo line $i of this very long story; i=$((i+1)); done; echo '{\"end\":true}'";
    let mut stage =
        Stage::with(|_| RunConfig { output_max: 1000, ..RunConfig::new(["/bin/sh", "-c", script]) }).await?;
    let completed = stage.run(1, json!({})).await?;
    assert_eq!(result(&completed), json!({"end": true}), "the result is read past the cap");
    let events = stage.executor.events(1, completed.last_sequence).await?;
    let lines: Vec<&str> =
        events.values().filter_map(|event| event.strip_prefix("Stdout ")).flat_map(|lines| lines.split('|')).collect();
    let (mark, kept) = lines.split_last().expect("something was printed");
    assert_eq!(*mark, "[output cut after 1000 bytes]");
    for (i, line) in kept.iter().enumerate() {
        assert_eq!(*line, format!("line {i} of this very long story"));
    }
    let bytes: usize = kept.iter().map(|line| line.len() + 1).sum();
    assert!((900..=1000).contains(&bytes), "{bytes}");
    stage.end().await
}

#[tokio::test]
async fn a_chain_of_commands_runs_one_after_the_other_without_being_asked() -> anyhow::Result<()> {
    let mut stage = Stage::script(
        "echo $SLOTLINE_EXECUTION_ID start >> order; sleep 0.02; echo $SLOTLINE_EXECUTION_ID end >> order",
    )
    .await?;
    for id in 1..=5 {
        let mut scheduled = stage.executor.scheduled(id, "test.run", &json!({}))?;
        scheduled.starts_after = (id > 1).then(|| executor::key(id - 1));
        stage.executor.send(stage.worker, &scheduled).await?;
    }
    let mut ends = Vec::new();
    for id in 1..=5 {
        ends.push(stage.executor.completed(id).await?);
    }
    for pair in ends.windows(2) {
        assert!(pair[1].started_at.expect("started") >= pair[0].completed_at, "they overlap");
    }
    let order = stage.written("order").await?;
    let expected: Vec<_> = (1..=5).flat_map(|id| [format!("{id} start"), format!("{id} end")]).collect();
    assert_eq!(order.lines().collect::<Vec<_>>(), expected);
    stage.end().await
}

#[tokio::test]
async fn a_drain_out_of_time_hands_back_what_runs() -> anyhow::Result<()> {
    let mut stage = Stage::script("echo $$ > pid; exec sleep 1000").await?;
    stage.dispatch(1, json!({})).await?;
    stage.written("pid").await?;
    stage.shutdown.drain();
    let returned = stage.executor.returned(1).await?;
    assert_eq!((returned.reason.as_str(), returned.started), ("drain", true));
    stage.assert_nothing_is_left();
    stage.executor.record(stage.worker, &[1]).await?;
    let ended = stage.executor.until("the last word", |heard| heard.ended.first().cloned()).await?;
    assert!(ended.returned.is_empty(), "it was recorded");
    stage.end().await
}

#[tokio::test]
async fn a_shim_that_is_killed_takes_its_attempt_with_it() -> anyhow::Result<()> {
    let mut stage = Stage::script("setsid sh -c 'echo $$ > stray; exec sleep 1000' & wait").await?;
    stage.dispatch(1, json!({})).await?;
    stage.written("stray").await?;
    let shim = shim_of(stage.folder.path()).expect("a shim");
    let pid = rustix::process::Pid::from_raw(shim).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL)?;
    let error = failure(&stage.executor.completed(1).await?, OutcomeKind::Failed);
    assert_eq!(error.code, "signal");
    stage.assert_nothing_is_left();
    stage.end().await
}

/// Prints the marks of all processes below one shim, and no others.
const MARK_OF_THE_SHIM: &str = "while read -r max name what soft rest; do \
    [ \"$name $what\" != 'realtime timeout' ] || echo $soft; done < /proc/self/limits";

#[tokio::test]
async fn many_commands_side_by_side_all_end_and_reuse_their_shims() -> anyhow::Result<()> {
    let mut stage = Stage::script(MARK_OF_THE_SHIM).await?;
    let mut shims = std::collections::BTreeSet::new();
    for round in 0..5 {
        for i in 0..8 {
            stage.dispatch(round * 8 + i, json!({})).await?;
        }
        for i in 0..8 {
            shims.insert(result(&stage.executor.completed(round * 8 + i).await?).to_string());
        }
    }
    assert!(shims.len() <= 8, "{shims:?}");
    stage.end().await
}
