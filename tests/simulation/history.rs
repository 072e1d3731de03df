//! What truly happened, in order: all that the checker reads, and all that it may.
//!
//! A history is plain data that can be written down and read back, so that a run on real servers is judged by the same
//! rules as a simulated one. Nothing here knows who recorded it. Not here: the rules (`checker`).

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use slotline_protocol::{ActionRef, Epoch, ExecutionId, Fence, Status};

/// One fact and when it was true, in microseconds of a clock that all who record share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) at: u64,
    pub(crate) fact: Fact,
}

/// How a publisher names its request: the `message_id`.
pub(crate) type RequestId = Arc<str>;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "fact", rename_all = "snake_case")]
pub(crate) enum Fact {
    // ---- the broker and its publishers ----
    /// The requests queue took it for the first time.
    Enqueued {
        request: RequestId,
    },
    /// Its publisher was told so.
    Confirmed {
        request: RequestId,
    },
    /// A leader turned it away.
    Refused {
        request: RequestId,
    },

    // ---- the journal ----
    /// What the journal and its leader do from here on is of this copy of it. The first is 0.
    Of {
        site: usize,
    },
    /// Another copy holds what this one held at the last [`Fact::Dumped`], and is led on from there. This one may be led on
    /// as well, until its leader learns of the other.
    Promoted {
        site: usize,
    },
    /// A leader raised the epoch.
    Led {
        epoch: Epoch,
    },
    /// The leader's session with the journal is over, and the lock is free for the next.
    LockFreed,
    /// The database stands still from here on, or goes on.
    JournalStands {
        still: bool,
    },
    /// The leader has its consumers at the broker.
    Feeds {
        epoch: Epoch,
    },
    /// It has none of them: yet, or any more.
    Starves {
        epoch: Epoch,
    },
    /// A batch became durable; what it changed follows.
    Committed {
        epoch: Epoch,
        batch: i64,
    },
    ActionPut {
        action: ActionRef,
        rules: Rules,
    },
    /// Somebody keeps a copy of the journal.
    Dumped,
    /// The journal is what it was at the last [`Fact::Dumped`]; the rest of the world is not.
    Rewound,
    /// An execution that the journal forgot is known again, from a worker that holds it.
    Recovered {
        execution: ExecutionId,
        request: RequestId,
        action: ActionRef,
        key: Option<Arc<str>>,
    },
    /// An attempt that the journal forgot holds its slot again.
    Adopted {
        execution: ExecutionId,
        attempt: u32,
        fence: Fence,
    },
    Accepted {
        execution: ExecutionId,
        request: RequestId,
        action: ActionRef,
        key: Option<Arc<str>>,
    },
    /// It stands in its line, with this place.
    Waits {
        execution: ExecutionId,
        place: i64,
    },
    /// It stands in its line again, and no attempt of it has failed since it stood there last.
    Rejoins {
        execution: ExecutionId,
        place: i64,
    },
    /// It backs off, outside its line; or waits for room, because it kept its slot.
    Stands {
        execution: ExecutionId,
    },
    /// By the journal's clock it is due `due_in` microseconds after `since`, when its leader cut the batch; its policy says
    /// at most `at_most`.
    BacksOff {
        execution: ExecutionId,
        since: u64,
        due_in: i64,
        at_most: i64,
    },
    Granted {
        execution: ExecutionId,
        attempt: u32,
        fence: Fence,
        place: i64,
    },
    /// It stands in its line, and at a worker, too: it may begin, and gets its slot, when the attempt `after` completes.
    SentAhead {
        execution: ExecutionId,
        attempt: u32,
        fence: Fence,
        place: i64,
        after: Fence,
    },
    /// It was sent ahead in vain: it has not begun, or its incarnation is over.
    TakenBack {
        execution: ExecutionId,
        fence: Fence,
    },
    /// The lease is over.
    Released {
        execution: ExecutionId,
        fence: Fence,
    },
    Settled {
        execution: ExecutionId,
        status: Status,
    },
    /// The event of an execution got its place in the record.
    Numbered {
        execution: ExecutionId,
        number: u64,
    },

    // ---- what leaves a leader ----
    Dispatched {
        execution: ExecutionId,
        attempt: u32,
        fence: Fence,
    },
    Recorded {
        execution: ExecutionId,
        attempt: u32,
    },
    Answered {
        request: RequestId,
    },

    // ---- who is believed ----
    /// A leader or a worker acts on what a stranger said.
    Believed {
        lie: String,
    },

    // ---- processes, by their true times ----
    Began {
        execution: ExecutionId,
        attempt: u32,
        fence: Fence,
    },
    Ended {
        execution: ExecutionId,
        attempt: u32,
        fence: Fence,
    },
    /// It stood still with its machine, which counts as ended, and goes on.
    Resumed {
        execution: ExecutionId,
        attempt: u32,
        fence: Fence,
    },
    /// A worker numbered an event of an attempt.
    Said {
        execution: ExecutionId,
        attempt: u32,
        sequence: u64,
    },
    /// A worker told the end of an attempt, and the number of its last event.
    Told {
        execution: ExecutionId,
        attempt: u32,
        last_sequence: u64,
    },
    /// A worker's process went in good order, and the outcome of this attempt was told and is not known to be recorded.
    Left {
        execution: ExecutionId,
        attempt: u32,
    },
    /// The next process of that worker has its session with the broker, and has told what it knows.
    Followed {
        execution: ExecutionId,
        attempt: u32,
    },

    // ---- the observation itself ----
    /// From here on nothing hurts; everything is terminal within `bound` microseconds.
    FaultsStopped {
        bound: u64,
    },
    /// Nobody looks any more.
    Closed,
}

/// What the journal says an action may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rules {
    pub(crate) limit: Option<u32>,
    pub(crate) key_limit: Option<u32>,
    pub(crate) paused: bool,
    /// Its attempts run on when isolated, and so past their leases.
    pub(crate) runs_on: bool,
}
