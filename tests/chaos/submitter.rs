//! A client that submits over HTTP: one after the other, each repeated with its key until some executor has taken it.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::history::Fact;
use crate::installation::Api;
use crate::publisher::Notebook;

const PAUSE: Duration = Duration::from_millis(400);
const AGAIN: Duration = Duration::from_millis(200);

/// Submits until `stop`; a submission that is under way is still taken. An answer that must not come is an error.
pub(crate) async fn submit(
    api: Api,
    action: &str,
    name: &str,
    notes: Notebook,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    for turn in 0.. {
        let id = format!("{name}-{turn}");
        let request: Arc<str> = id.as_str().into();
        let body = json!({"action_ref": action, "parameters": {"tag": id, "sleep_ms": 30, "beat_ms": 5}});
        notes.note(Fact::Enqueued { request: request.clone() });
        for attempt in turn.. {
            let post = api.post(attempt, "/api/v1/executions").header("idempotency-key", &id).json(&body);
            // If an executor is away, the other is tried next.
            if let Ok(answer) = post.send().await {
                let (status, text) = (answer.status().as_u16(), answer.text().await.unwrap_or_default());
                match status {
                    200..=202 => break,
                    500.. => {}
                    _ => anyhow::bail!("{id}: {status} {text}"),
                }
            }
            tokio::time::sleep(AGAIN).await;
        }
        notes.note(Fact::Confirmed { request });
        if stop.run_until_cancelled(tokio::time::sleep(PAUSE)).await.is_none() {
            break;
        }
    }
    Ok(())
}
