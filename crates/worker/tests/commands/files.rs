//! What a command can do with the files that its worker gives it: it may spoil its own result, and nothing else.

use serde_json::{Value, json};
use slotline_protocol::OutcomeKind;
use slotline_worker::RunConfig;

use super::stage::Stage;

/// Makes its result file into what its parameters name; without parameters it ends well.
const SPOIL: &str = r#"
    file="$SLOTLINE_RESULT_FILE"
    case "$SLOTLINE_PARAM_MAKE" in
        fifo) mkfifo "$file" ;;
        directory) mkdir -p "$file/deep" ;;
        link) ln -s /dev/zero "$file" ;;
        loop) ln -s "$file" "$file" ;;
        endless) head -c 3000000 /dev/zero | tr '\0' ' ' > "$file" ;;
        folder) rm -rf "$(dirname "$file")" ;;
        socket) rm -f "$SLOTLINE_PROGRESS_SOCKET"; mkfifo "$SLOTLINE_PROGRESS_SOCKET" ;;
        '') echo '"fine"' ;;
    esac
"#;

#[tokio::test]
async fn whatever_a_command_makes_of_its_result_file_fails_it_alone_and_by_name() -> anyhow::Result<()> {
    let mut stage = Stage::script(SPOIL).await?;
    let cases = [
        ("fifo", "it is a FIFO, expected a regular file"),
        ("directory", "it is a directory, expected a regular file"),
        ("link", "it is a symbolic link, expected a regular file"),
        ("loop", "it is a symbolic link, expected a regular file"),
        ("endless", "the result has more than"),
        ("folder", "is gone"),
    ];
    for (id, (make, expected)) in (1..).zip(cases) {
        let completed = stage.run(id, json!({ "make": make })).await?;
        let error = completed.error.as_ref().expect("a failure has an error");
        assert_eq!(completed.status, OutcomeKind::Failed, "{make}");
        assert!(error.message.contains(expected), "{make}: {error:?}");
        // The worker goes on as if nothing had happened, also where its folder had to be made again.
        let next = stage.run(100 + id, json!({})).await?;
        assert_eq!(next.status, OutcomeKind::Completed, "after {make}: {:?}", next.error);
    }
    let completed = stage.run(50, json!({ "make": "socket" })).await?;
    assert_eq!(completed.status, OutcomeKind::Completed, "reports never fail anything: {:?}", completed.error);
    stage.end().await
}

#[tokio::test]
async fn a_state_folder_that_disappears_under_a_running_command_is_made_again() -> anyhow::Result<()> {
    let script = r#"
        if [ -n "$SLOTLINE_PARAM_WAIT" ]; then
            echo > waiting
            while [ ! -e go ]; do sleep 0.01; done
        fi
        echo '{"from": "file"}' > "$SLOTLINE_RESULT_FILE"
    "#;
    let mut stage =
        Stage::with(|folder| RunConfig { cwd: Some(folder.to_owned()), ..RunConfig::new(["/bin/sh", "-c", script]) })
            .await?;
    stage.dispatch(1, json!({"wait": "yes"})).await?;
    stage.written("waiting").await?;
    let state = stage.folder.path().join("state");
    for entry in std::fs::read_dir(&state)?.flatten().filter(|entry| entry.file_name() != "w1.lock") {
        std::fs::remove_dir_all(entry.path())?;
    }
    let next = stage.run(2, json!({})).await?;
    let result: Value = serde_json::from_str(next.result.expect("a result").get())?;
    assert_eq!(result, json!({"from": "file"}), "the next attempt has its folder");
    std::fs::write(stage.folder.path().join("go"), "")?;
    assert_eq!(stage.executor.completed(1).await?.status, OutcomeKind::Completed, "and so has the one that runs");
    stage.end().await
}
