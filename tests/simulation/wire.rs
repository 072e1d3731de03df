//! What travels: between daemons and the broker, and between leaders and the journal.

use std::rc::Rc;
use std::sync::Arc;

use slotline_executor::leader::{Mark, Marks};
use slotline_protocol::message::{Completed, Ended, Heartbeat, Probe, Progress, Returned, StatusChanged};
use slotline_protocol::{Epoch, ExecutionId, Incarnation, Timestamp};
use slotline_store::{Batch, Recovered, Request, Rewind, Standing};
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
    /// What this incarnation says of its attempts, where messages travel as values and nothing proves it.
    Of(Incarnation, Rc<Body>),
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
    /// Leaves a mark of the journal. `asks`: whether it was taken.
    Mark {
        mark: Rc<Mark>,
        asks: bool,
    },
    ReadMarks,
    Close,
}

/// From the broker.
#[derive(Clone, Debug)]
pub(crate) enum Down {
    Leading {
        epoch: Epoch,
    },
    Serving {
        incarnation: Incarnation,
    },
    Delivered {
        queue: Queue,
        tag: Tag,
        body: Rc<Body>,
    },
    Confirmed {
        seq: u64,
        verdict: Verdict,
    },
    Marks(Rc<Marks>),
    /// Whether a mark was taken.
    Marked(bool),
    Closed,
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
    Stand,
    /// Why the leader doubts the journal, if it does.
    TakeTerms {
        doubt: Option<String>,
    },
    Recover,
    Commit(Box<Commit>),
    /// The journal is older than something shows.
    Doubt {
        reason: String,
        above: Epoch,
    },
    /// All that it may have forgotten is known.
    Settle(Box<Rewind>),
    Ping,
    Close,
}

/// A batch, and what is read with it.
#[derive(Clone, Debug)]
pub(crate) struct Commit {
    /// By true time.
    pub(crate) cut_at: Micros,
    pub(crate) epoch: Epoch,
    pub(crate) batch: Batch,
    /// Executions whose requests its letters lack.
    pub(crate) lacking: Vec<ExecutionId>,
}

/// What it is answered. An error also means that the session is over.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// With the database's clock.
    Led {
        epoch: Epoch,
        at: Timestamp,
    },
    Stands(Box<Standing>),
    Recovered(Box<Recovered>),
    /// With the requests that were asked for.
    Committed(Vec<(ExecutionId, Arc<Request>)>),
    Noted,
    Pong,
    Failed,
}
