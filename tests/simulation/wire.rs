//! What travels: between daemons and the broker, and between leaders and the journal.

use std::collections::BTreeMap;
use std::rc::Rc;

use slotline_protocol::message::{Completed, Ended, Heartbeat, Probe, Progress, Returned, StatusChanged};
use slotline_protocol::{ActionId, ActionRef, Epoch, ExecutionId, Incarnation, Policy, Timestamp};
use slotline_scheduler::{Counters, Snapshot};
use slotline_worker::duty::Order;

use crate::clock::Micros;
use crate::codec::Written;

/// A session with the broker: one connection, as far as it matters here.
pub(crate) type SessionId = usize;
/// A session with the journal.
pub(crate) type DbId = usize;
/// Stands for a delivery; acking it acks all before it.
pub(crate) type Tag = u64;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Queue {
    Requests,
    Completions(Epoch),
    Heartbeats(Epoch),
    Events(Epoch),
    Worker(Incarnation),
}

impl Queue {
    /// Which of [`LANES`] its messages come by. Only within one is there an order.
    pub(crate) fn lane(self) -> usize {
        match self {
            Self::Requests => 0,
            Self::Completions(_) => 1,
            Self::Heartbeats(_) => 2,
            Self::Events(_) => 3,
            Self::Worker(_) => 4,
        }
    }
}

pub(crate) const LANES: usize = 5;

/// Where a publication goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    Requests,
    /// The completions queue of every leader there was.
    Completions,
    Heartbeats,
    Events,
    Workers,
    /// Straight into one queue.
    To(Queue),
}

#[derive(Clone, Debug)]
pub(crate) enum Body {
    Request {
        number: usize,
    },
    Cancel {
        number: usize,
    },
    /// To all workers, and so of no proven origin: a hint that a leader would like to hear from them.
    Greeting(Epoch),
    Orders(Vec<Order>),
    Completed(Completed),
    Returned(Returned),
    Heartbeat(Heartbeat),
    Ended(Ended),
    StatusChanged(StatusChanged),
    Progress(Progress),
    Probe(Probe),
    /// What a worker publishes in one message.
    Several(Vec<Rc<Body>>),
    /// Reports or orders of one type, as bytes.
    Written(Box<Written>),
}

/// To the broker.
#[derive(Clone, Debug)]
pub(crate) enum Up {
    Publish {
        seq: u64,
        route: Route,
        body: Rc<Body>,
        mandatory: bool,
    },
    Ack {
        queue: Queue,
        tag: Tag,
    },
    /// Declares the queues of an epoch and consumes them, and the requests.
    Lead {
        epoch: Epoch,
    },
    /// Declares the queue of an incarnation and consumes it; `former` is then deleted.
    Serve {
        incarnation: Incarnation,
        former: Option<Incarnation>,
    },
    Delete {
        queue: Queue,
    },
    /// Leaves a mark of the journal.
    Mark(Mark),
    ReadMarks,
    Close,
}

/// From the broker.
#[derive(Clone, Debug)]
pub(crate) enum Down {
    Leading { epoch: Epoch },
    Serving { incarnation: Incarnation },
    Delivered { queue: Queue, tag: Tag, body: Rc<Body> },
    Confirmed { seq: u64, verdict: Verdict },
    Marks(Vec<Mark>),
    Marked(Mark),
    Closed,
}

/// How far a journal has come, where it outlives the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) generation: u64,
    pub(crate) epoch: Epoch,
    pub(crate) batch: i64,
    pub(crate) next: Counters,
    pub(crate) reserved: Counters,
    /// Which copy of the journal it is of.
    pub(crate) site: usize,
    /// Copies that another has taken the place of, by bit.
    pub(crate) retired: u64,
}

impl Mark {
    /// Whether another leader that counts left the other.
    pub(crate) fn is_beside(&self, other: &Self) -> bool {
        other.epoch > self.epoch
            || other.epoch == self.epoch && other.site != self.site
            || other.generation > self.generation
            || other.retired & (1 << self.site) != 0
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Stored,
    Refused,
    /// Mandatory, and no queue took it.
    Returned,
}

/// What a confirm is for.
#[derive(Clone, Debug)]
pub(crate) enum Purpose {
    /// A worker's, under the number that its driver gave it.
    Report(u64),
    Order(Incarnation),
    Request(usize),
    Cancel(usize),
    Other,
}

// ---- the journal ----

/// What a leader asks of the journal.
#[derive(Clone, Debug)]
pub(crate) enum Ask {
    Lead,
    Recover,
    Commit(Box<Batch>),
    /// Whether the leader doubts the journal.
    Judge {
        doubt: bool,
    },
    /// The journal is older than something shows.
    Doubt {
        above: Epoch,
    },
    /// All that it may have forgotten is known.
    Settle {
        generation: u64,
        next: Counters,
    },
    Ping,
    Close,
}

/// What it is answered. An error also means that the session is over.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// With the database's clock.
    Led {
        epoch: Epoch,
        at: Timestamp,
    },
    Recovered(Box<Recovered>),
    Committed {
        batch: i64,
    },
    Noted,
    Pong,
    Failed,
}

#[derive(Clone, Debug)]
pub(crate) struct ActionRow {
    pub(crate) id: ActionId,
    pub(crate) action_ref: ActionRef,
    pub(crate) policy: Rc<Policy>,
    pub(crate) paused: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Batch {
    /// By true time.
    pub(crate) cut_at: Micros,
    pub(crate) epoch: Epoch,
    pub(crate) number: i64,
    pub(crate) counters: Counters,
    pub(crate) actions: Vec<ActionRow>,
    /// With the number of the request each answers.
    pub(crate) accepted: Vec<(Snapshot, usize)>,
    /// As accepted, of executions that were taken over from their workers.
    pub(crate) recovered: Vec<(Snapshot, usize)>,
    pub(crate) live: Vec<Snapshot>,
    pub(crate) settled: Vec<(ExecutionId, slotline_protocol::Status)>,
    pub(crate) ended: Vec<Incarnation>,
    pub(crate) attempts: usize,
}

impl Batch {
    /// Whether nothing but the counters would be written.
    pub(crate) fn is_empty(&self) -> bool {
        self.actions.is_empty()
            && self.accepted.is_empty()
            && self.recovered.is_empty()
            && self.live.is_empty()
            && self.settled.is_empty()
            && self.ended.is_empty()
            && self.attempts == 0
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Recovered {
    pub(crate) actions: Vec<ActionRow>,
    pub(crate) live: Vec<Snapshot>,
    pub(crate) ended: Vec<Incarnation>,
    pub(crate) counters: Counters,
    /// Which request each execution answers.
    pub(crate) requests: BTreeMap<ExecutionId, usize>,
    pub(crate) standing: Standing,
}

/// Where the journal stood before this leader.
#[derive(Clone, Debug)]
pub(crate) struct Standing {
    pub(crate) generation: u64,
    pub(crate) rewound_below: ExecutionId,
    pub(crate) former: (Epoch, i64),
    /// `Some(true)`: a leader doubted it, and did not settle that.
    pub(crate) doubt: Option<bool>,
    pub(crate) floor: Counters,
    /// Executions from the floor on that have settled.
    pub(crate) settled: Vec<ExecutionId>,
    /// Which copy of the journal this is.
    pub(crate) site: usize,
    /// Which life of the server this is.
    pub(crate) life: u32,
}
