//! Waits until a request has an execution, and until an execution has ended.
//!
//! Not here: showing its events meanwhile (`watch`).

use slotline_protocol::ExecutionId;
use slotline_protocol::http::{Execution, Submitted};
use tokio::time::Instant;

use crate::client::backoff::{Backoff, Outage};
use crate::client::stream::{Follow, StreamItem};
use crate::client::{Client, Error};
use crate::show::output;

/// Waits until the journal has the request `message_id`.
pub(crate) async fn accepted(client: &Client, message_id: &str) -> Result<ExecutionId, Error> {
    let (mut backoff, mut outage) = (Backoff::new(), Outage::default());
    loop {
        match client.get::<Submitted>(&["requests", message_id]).await {
            Ok(Submitted { execution_id: Some(id), .. }) => return Ok(id),
            Ok(_) => outage.end(),
            Err(Error::Refused { refusal, .. }) if refusal.code == "unknown_request" => outage.end(),
            Err(error) => away(outage.extend(error, Instant::now())?),
        }
        backoff.pause().await;
    }
}

/// Waits for the end, and returns the ended execution.
pub(crate) async fn end(client: &Client, id: ExecutionId) -> Result<Execution, Error> {
    let mut follow = Follow::new(client.clone(), id, 0);
    while let Some(item) = follow.next().await {
        match item? {
            StreamItem::Event(_) => {}
            StreamItem::Away(error) => away(Some(error)),
        }
    }
    ended(client, id).await
}

/// The ended execution `id`, once its last event was seen.
pub(crate) async fn ended(client: &Client, id: ExecutionId) -> Result<Execution, Error> {
    let (mut backoff, mut outage) = (Backoff::new(), Outage::default());
    loop {
        match client.get::<Execution>(&["executions", &id.to_string()]).await {
            Ok(execution) if execution.status.is_terminal() => return Ok(execution),
            // This answer may be from an executor that does not see the last commit yet.
            Ok(_) => outage.end(),
            Err(error) => away(outage.extend(error, Instant::now())?),
        }
        backoff.pause().await;
    }
}

fn away(error: Option<Error>) {
    if let Some(error) = error {
        output::note(format!("{error}; waiting"));
    }
}
