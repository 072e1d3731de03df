//! The position of an execution in its line, why it waits, and for about how long.
//!
//! Requested again every few seconds, since an execution has no event when others leave the line before it.

use std::time::Duration;

use slotline_protocol::http::{Execution, QueueStats, WaitReason, Waiting};
use slotline_protocol::{ExecutionId, Status};
use tokio::sync::mpsc;

use crate::client::{Client, Error};
use crate::show::style::Style;

/// Time between two looks at the line.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// Where the execution stands.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Position {
    /// From 1; 0 while no executor leads.
    pub(crate) number: u64,
    /// Why it waits, in one sentence.
    pub(crate) why: String,
    pub(crate) wait: Option<Duration>,
}

/// Requests the position until the execution has left the line; ends when dropped.
pub(crate) struct Positions(mpsc::Receiver<Position>);

impl Positions {
    pub(crate) fn new(client: Client, id: ExecutionId) -> Self {
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            loop {
                let looked = tokio::select! {
                    looked = look(&client, id) => looked,
                    () = sender.closed() => return,
                };
                match looked {
                    Ok(Some(position)) => {
                        if sender.send(position).await.is_err() {
                            return;
                        }
                    }
                    Ok(None) => return,
                    // The stream of events reports the error, once.
                    Err(_) => {}
                }
                tokio::select! {
                    () = tokio::time::sleep(LOOK_AGAIN) => {}
                    () = sender.closed() => return,
                }
            }
        });
        Self(receiver)
    }

    /// The next position; `None` once the execution has left the line. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<Position> {
        self.0.recv().await
    }
}

/// `None` if the execution has left the line.
async fn look(client: &Client, id: ExecutionId) -> Result<Option<Position>, Error> {
    let execution: Execution = client.get(&["executions", &id.to_string()]).await?;
    match execution.status {
        Status::Requested | Status::Queued => {}
        Status::Scheduled
        | Status::Running
        | Status::Cancelling
        | Status::Completed
        | Status::Failed
        | Status::Timeout
        | Status::Cancelled => return Ok(None),
    }
    let Some(waiting) = execution.waiting else {
        let why = "no executor leads, or the leader grants nothing now".to_owned();
        return Ok(Some(Position { number: execution.position.unwrap_or(0), why, wait: None }));
    };
    let action_ref = execution.action_ref.as_str();
    // Without the statistics there is no estimate.
    let stats: Option<QueueStats> = client.get(&["actions", action_ref, "queue-stats"]).await.ok();
    let wait = stats.and_then(|stats| estimate(&waiting, &stats));
    let why = match (waiting.reason, waiting.until) {
        // Not the point in time: the wait is looked at live.
        (WaitReason::Backoff, Some(until)) => {
            format!("an attempt failed; the next one is due {}", Style::now(false).moment(until))
        }
        _ => waiting.message,
    };
    Ok(Some(Position { number: waiting.position, why, wait }))
}

/// How long the execution will wait if runs take as long as the newest did. There is no estimate for when a worker comes or a
/// pause ends.
fn estimate(waiting: &Waiting, stats: &QueueStats) -> Option<Duration> {
    let slots = match waiting.reason {
        WaitReason::Limit => stats.max_concurrent?,
        WaitReason::KeyLimit => stats.key_limit?,
        WaitReason::NoWorker | WaitReason::Capacity | WaitReason::Paused | WaitReason::Backoff => return None,
    };
    // The executions before it and those that run now need as many turns as its position, shared by the slots.
    let turns = waiting.position.div_ceil(u64::from(slots.max(1)));
    let seconds = stats.run_seconds?.p50 * f64::from(u32::try_from(turns).unwrap_or(u32::MAX));
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use slotline_protocol::http::Percentiles;
    use slotline_protocol::{ActionId, ActionRef, Timestamp};

    use super::*;

    fn waiting(reason: WaitReason, position: u64) -> Waiting {
        Waiting {
            reason,
            message: String::new(),
            held_by: Vec::new(),
            position,
            until: None,
            eta_low: None,
            eta_high: None,
        }
    }

    fn stats(max_concurrent: Option<u32>, key_limit: Option<u32>, p50: Option<f64>) -> QueueStats {
        QueueStats {
            action_id: ActionId(1),
            action_ref: ActionRef::new("a.b").expect("a name"),
            queue_length: 9,
            active_count: 1,
            ahead_count: 0,
            max_concurrent,
            declared_limit: None,
            limit_override: None,
            key_limit,
            oldest_enqueued_at: None,
            total_enqueued: 10,
            total_completed: 0,
            last_updated: Timestamp::from_micros(0),
            paused: false,
            wait_seconds: None,
            run_seconds: p50.map(|p50| Percentiles { count: 5, p50, p90: p50, p99: p50 }),
            keys: Vec::new(),
        }
    }

    #[test]
    fn the_wait_is_estimated_from_recent_runs_and_the_slots_there_are() {
        let seconds = |reason, position, limit, key_limit, p50| {
            estimate(&waiting(reason, position), &stats(limit, key_limit, p50)).map(|wait| wait.as_secs())
        };
        assert_eq!(seconds(WaitReason::Limit, 6, Some(1), None, Some(30.0)), Some(180));
        assert_eq!(seconds(WaitReason::Limit, 6, Some(3), None, Some(30.0)), Some(60));
        assert_eq!(seconds(WaitReason::Limit, 1, Some(3), None, Some(30.0)), Some(30));
        assert_eq!(seconds(WaitReason::KeyLimit, 4, None, Some(2), Some(10.0)), Some(20));
    }

    #[test]
    fn what_can_not_be_known_is_not_estimated() {
        for (reason, limit, p50) in [
            (WaitReason::Limit, Some(1), None),
            (WaitReason::Limit, None, Some(1.0)),
            (WaitReason::KeyLimit, Some(1), Some(1.0)),
            (WaitReason::NoWorker, Some(1), Some(1.0)),
            (WaitReason::Capacity, Some(1), Some(1.0)),
            (WaitReason::Paused, Some(1), Some(1.0)),
            (WaitReason::Backoff, Some(1), Some(1.0)),
            (WaitReason::Limit, Some(1), Some(f64::INFINITY)),
        ] {
            assert_eq!(estimate(&waiting(reason, 2), &stats(limit, None, p50)), None, "{reason:?}");
        }
    }
}
