//! What may happen next, and how it is told.

use std::fmt;

use slotline_protocol::Fence;
use slotline_scheduler::ProbedQueue;

/// One step of the world. Executors and workers go by their index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Time passes.
    Tick,
    /// The commit that is under way lands, or is refused.
    Commit(usize),
    /// A leader takes the next message out of one of its queues.
    Hear(usize, ProbedQueue),
    /// A timer of a leader rings.
    Alarm(usize),
    /// A leader notices that another leads.
    StandDown(usize),
    TakeOver(usize),
    /// A worker hears that the broker has something.
    Confirm(usize),
    /// A worker takes the next message out of its queue.
    Obey(usize),
    /// A timer of a worker rings.
    Wake(usize),
    /// An attempt has done its work.
    End(usize, Fence),
    /// A worker hears that an attempt, ended by force, is gone.
    Reap(usize, Fence),
    /// A worker's process starts again.
    Restart {
        worker: usize,
        has_proof: bool,
    },
    StallExecutor(usize, Stall),
    StallWorker(usize, Stall),
    /// What stood still goes on.
    ResumeExecutor(usize),
    ResumeWorker(usize),
    CrashExecutor(usize),
    CrashWorker(usize),
    /// The answer to a commit is lost, and with it the leadership; the commit itself may be as well.
    LoseAnswer {
        executor: usize,
        is_committed: bool,
    },
    /// A session with the broker ends, and the next begins.
    CutExecutor(usize),
    CutWorker(usize),
    /// The broker loses the next message of a queue.
    Drop(Place),
    /// A second copy of the next message of a queue turns up behind all others.
    Copy(Place),
}

/// How a daemon can be kept from what it has to do. The other's doings and time go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Stall {
    /// The process does nothing at all.
    Frozen,
    /// Nothing passes between it and the broker, in either direction; what is sent meanwhile passes later.
    CutOff,
}

impl fmt::Display for Stall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frozen => write!(f, "is frozen"),
            Self::CutOff => write!(f, "is cut off from the broker"),
        }
    }
}

/// A queue on the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Orders(usize),
    Leader(usize, ProbedQueue),
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tick => write!(f, "time passes"),
            Self::Commit(e) => write!(f, "the commit of executor {e} is decided"),
            Self::Hear(e, queue) => write!(f, "executor {e} takes the next message of its {}", name(*queue)),
            Self::Alarm(e) => write!(f, "a timer of executor {e} rings"),
            Self::StandDown(e) => write!(f, "executor {e} notices that another leads"),
            Self::TakeOver(e) => write!(f, "executor {e} takes the lead"),
            Self::Confirm(w) => write!(f, "worker {w} hears that the broker has what it said"),
            Self::Obey(w) => write!(f, "worker {w} takes its next orders"),
            Self::Wake(w) => write!(f, "a timer of worker {w} rings"),
            Self::End(w, fence) => write!(f, "the process with fence {fence} on worker {w} is done"),
            Self::Reap(w, fence) => write!(f, "worker {w} hears that the process with fence {fence} is gone"),
            Self::Restart { worker, has_proof: true } => {
                write!(f, "worker {worker} starts again, with proof that nothing is left")
            }
            Self::Restart { worker, has_proof: false } => write!(f, "worker {worker} starts again"),
            Self::StallExecutor(e, stall) => write!(f, "executor {e} {stall}"),
            Self::StallWorker(w, stall) => write!(f, "worker {w} {stall}"),
            Self::ResumeExecutor(e) => write!(f, "executor {e} goes on"),
            Self::ResumeWorker(w) => write!(f, "worker {w} goes on"),
            Self::CrashExecutor(e) => write!(f, "executor {e} crashes"),
            Self::CrashWorker(w) => write!(f, "worker {w} crashes"),
            Self::LoseAnswer { executor, is_committed: true } => {
                write!(f, "executor {executor} commits, never hears so, and gives up the lead")
            }
            Self::LoseAnswer { executor, is_committed: false } => {
                write!(f, "a commit of executor {executor} is lost, and it gives up the lead")
            }
            Self::CutExecutor(e) => write!(f, "executor {e} loses its session and opens the next"),
            Self::CutWorker(w) => write!(f, "worker {w} loses its session and opens the next"),
            Self::Drop(place) => write!(f, "the broker loses the next message {place}"),
            Self::Copy(place) => write!(f, "the broker delivers the next message {place} a second time, later"),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Orders(w) => write!(f, "to worker {w}"),
            Self::Leader(e, queue) => write!(f, "in the {} of executor {e}", name(*queue)),
        }
    }
}

fn name(queue: ProbedQueue) -> &'static str {
    match queue {
        ProbedQueue::Completions => "completions",
        ProbedQueue::Heartbeats => "heartbeats",
    }
}
