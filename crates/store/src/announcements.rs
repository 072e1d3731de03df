//! Which events may not have been published yet: one row for each batch with events for a subscriber, written with the
//! batch and deleted once the broker has the events. So the public loses none when a leader dies in between: the next
//! one publishes them again, from the record.

use serde::{Deserialize, Serialize};
use slotline_protocol::{ActionId, Epoch, ExecutionId, Fence, Incarnation, RequestName, Timestamp, WorkerName};

use crate::Error;
use crate::row::{self, Columns};

/// Events of one execution, by the numbers of the first and the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(ExecutionId, u64, u64)", into = "(ExecutionId, u64, u64)")]
pub struct EventRange {
    pub id: ExecutionId,
    pub first: u64,
    pub last: u64,
}

impl From<(ExecutionId, u64, u64)> for EventRange {
    fn from((id, first, last): (ExecutionId, u64, u64)) -> Self {
        Self { id, first, last }
    }
}

impl From<EventRange> for (ExecutionId, u64, u64) {
    fn from(range: EventRange) -> Self {
        (range.id, range.first, range.last)
    }
}

/// A batch of a leader; those of later epochs come after all of earlier ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BatchKey {
    pub epoch: Epoch,
    pub number: i64,
}

/// The facts that events of an execution are published with, and those of its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    pub id: ExecutionId,
    pub action_id: ActionId,
    /// The id that its publisher gave the request.
    pub message_id: Option<String>,
    pub correlation_id: Option<String>,
    pub trace_id: Option<String>,
    /// Of the last attempt; absent where none was out at the end.
    pub lease: Option<(Fence, WorkerName, Incarnation)>,
    pub started_at: Option<Timestamp>,
}

/// The columns of [`Facts`]; the table and the condition follow.
macro_rules! facts {
    ($($rest:literal)*) => {
        concat!(
            "SELECT id, action_id, message_id, correlation_id, trace_id, fence, worker, incarnation, started_at FROM ",
            $($rest,)*
        )
    };
}

pub(crate) use facts;

pub(crate) const BEFORE: &str = "SELECT epoch, batch FROM announcements WHERE epoch < $1 ORDER BY epoch, batch";

pub(crate) const RANGES: &str = "SELECT events FROM announcements WHERE epoch = $1 AND batch = $2";

pub(crate) const FORGET: &str = "DELETE FROM announcements WHERE epoch < $1 OR epoch = $1 AND batch <= $2";

/// `None` where there are none.
pub(crate) fn column(ranges: &[EventRange]) -> Option<String> {
    (!ranges.is_empty()).then(|| row::json(&ranges))
}

pub(crate) fn key(row: &impl Columns) -> Result<BatchKey, Error> {
    Ok(BatchKey { epoch: Epoch(row.number("epoch")?), number: row.number("batch")? })
}

pub(crate) fn ranges(row: &impl Columns) -> Result<Vec<EventRange>, Error> {
    let ranges = serde_json::from_str(row.text("events")?);
    ranges.map_err(|error| Error::Corrupt { column: "announcements.events", id: 0, reason: error.to_string() })
}

pub(crate) fn facts_of(row: &impl Columns) -> Result<Facts, Error> {
    let id = ExecutionId(row.number("id")?);
    let lease = match (row.maybe_number("fence")?, row::worker(row, id)?, row.maybe_uuid("incarnation")?) {
        (Some(fence), Some(worker), Some(incarnation)) => Some((Fence(fence), worker, Incarnation(incarnation))),
        _ => None,
    };
    Ok(Facts {
        id,
        action_id: ActionId(row.number("action_id")?),
        message_id: row::shown(row, "message_id")?.map(|text| RequestName::from_text(text).message_id().to_owned()),
        correlation_id: row::shown(row, "correlation_id")?,
        trace_id: row::shown(row, "trace_id")?,
        lease,
        started_at: row.maybe_time("started_at")?,
    })
}
