//! Every message on the broker: one struct per `message_type`, named as it is.
//!
//! A message from the executor to a worker carries a rising `(epoch, n)`; the worker drops one that is not above the
//! highest it has seen. A worker's message about an attempt carries its fence; a stale fence changes nothing. Unknown
//! members are ignored, so that shapes can grow, but not in a publisher's requests (`declared`).

mod heartbeat;
mod order;
mod parts;
mod report;
mod request;

use serde::{Deserialize, Serialize};

pub use heartbeat::{Account, EndReason, Ended, Heartbeat, Highest, Holding, Probe, Process, Served, Shown};
pub use order::{Cancel, Hello, Recall, Recorded, Resend, Scheduled};
pub use parts::{AttemptKey, Failure, Json, Lineage, grant};
pub use report::{
    Completed, Event, GapReason, Level, Progress, Report, Returned, StatusChanged, Stream, Task, TaskStatus,
};
pub use request::{Accepted, CancelRequested, Rejected, Reply, Requested, Settled};

/// A payload with the `message_type` it travels under.
pub trait Message: Serialize + for<'de> Deserialize<'de> {
    const TYPE: &'static str;
}

macro_rules! messages {
    ($($name:ident = $type:literal),* $(,)?) => {
        $(impl Message for $name { const TYPE: &'static str = $type; })*

        /// Every `message_type` there is.
        pub const TYPES: &[&str] = &[$($type),*];
    };
}

messages! {
    Requested = "execution.requested",
    CancelRequested = "execution.cancel_requested",
    Accepted = "execution.accepted",
    Rejected = "execution.rejected",
    Settled = "execution.settled",
    Scheduled = "execution.scheduled",
    Cancel = "execution.cancel",
    Recall = "execution.recall",
    Recorded = "execution.recorded",
    Resend = "execution.resend",
    Hello = "executor.hello",
    Completed = "execution.completed",
    Returned = "execution.returned",
    StatusChanged = "execution.status_changed",
    Progress = "execution.progress",
    Heartbeat = "worker.heartbeat",
    Ended = "worker.ended",
    Probe = "probe",
}
