//! What the journal keeps of a live execution: enough to rebuild the scheduler, and nothing it does not need.

use std::sync::Arc;

use slotline_protocol::{ActionId, ExecutionId, Fence, Incarnation, Status, Timestamp, WorkerName};

/// One execution that has not settled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    pub id: ExecutionId,
    pub action: ActionId,
    pub key: Option<Arc<str>>,
    /// `Queued`, `Scheduled`, `Running` or `Cancelling`.
    pub status: Status,
    /// Order within the line; from the same counter as ids, so a retry at the back of the line gets a higher one.
    pub place: i64,
    /// The number of the newest grant, 1-based; 0 before the first.
    pub attempt: u32,
    /// Attempts that have ended and had begun, or failed to: what people count.
    pub tried: u32,
    /// Attempts that failed or timed out.
    pub failures: u32,
    /// Attempts lost with their workers and charged to the execution.
    pub losses: u32,
    /// When the journal took the request.
    pub enqueued_at: Timestamp,
    /// Since when it waits in the line this time.
    pub queued_at: Timestamp,
    /// Backs off until then.
    pub not_before: Option<Timestamp>,
    /// Holds its slot although no attempt is out: `keep_place` while it backs off, and then until a worker has room.
    pub keeps_slot: bool,
    /// A cancellation was asked for.
    pub cancel_requested: bool,
    /// Its parameters are larger than [`BULKY_BYTES`](crate::BULKY_BYTES).
    pub is_bulky: bool,
    /// The attempt that is out, if one is.
    pub lease: Option<Lease>,
}

/// The right to run one attempt: from dispatch until the outcome is journaled or the incarnation is lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    pub worker: WorkerName,
    pub incarnation: Incarnation,
    pub fence: Fence,
    pub scheduled_at: Timestamp,
    /// When the attempt really started, as its worker reported.
    pub started_at: Option<Timestamp>,
    /// The fence of the attempt that it starts after: until that has completed, it is no lease yet and holds no slot.
    pub after: Option<Fence>,
}

impl Snapshot {
    /// The attempt that is out, or was last, as people count them.
    pub fn counts_as(&self) -> u32 {
        self.tried + u32::from(self.leased().is_some())
    }

    /// The attempt that is out, if it holds a slot.
    pub fn leased(&self) -> Option<&Lease> {
        self.lease.as_ref().filter(|lease| lease.after.is_none())
    }
}
