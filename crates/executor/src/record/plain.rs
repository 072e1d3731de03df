//! Which events follow from an execution's row, so that they need not be written: the leader's half of
//! `slotline_store::plain`.

use std::sync::Arc;

use slotline_protocol::record::{Event, What};
use slotline_protocol::{Status, Timestamp};

/// Whether `what` is the next event in the life of an execution without reports.
pub(super) fn may_follow(events: &[Arc<Event>], what: &What, attempt: u32) -> bool {
    match (events.len(), what) {
        (0, What::Status { new: Status::Queued, .. }) => true,
        (1, What::Status { new: Status::Scheduled, .. }) | (2, What::Status { new: Status::Running, .. }) => {
            attempt == 1
        }
        (3, What::Started) | (4, What::Finished { return_code: None, .. }) => true,
        _ => false,
    }
}

/// Whether all of `events`, and the end, follow from the row of the settled execution.
pub(super) fn is_told_by_the_row(
    events: &[Arc<Event>],
    settled: &What,
    started_at: Option<Timestamp>,
    ended_at: Timestamp,
) -> bool {
    let What::Settled { status, error, .. } = settled else { return false };
    match events {
        [_queued] => true,
        [_queued, _scheduled, _running, started, finished] => {
            let What::Finished { outcome, message, .. } = &finished.what else { return false };
            Some(started.timestamp) == started_at
                && finished.timestamp == ended_at
                && outcome.is_some_and(|outcome| outcome.as_str() == status.as_str())
                && message.as_ref() == error.as_ref().map(|error| &error.message)
        }
        _ => false,
    }
}
