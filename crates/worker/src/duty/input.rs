//! What can happen to a worker, and its configuration: the arguments of the duty book.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use slotline_protocol::message::{self, AttemptKey, Failure};
use slotline_protocol::{ActionRef, Epoch, Incarnation, Timestamp, WorkerName};

use super::phase::Phase;
use super::shortage::Shortage;

/// A moment on both clocks: deadlines are judged on the first, the second is for people and the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Now {
    /// Since boot, suspended time included (`CLOCK_BOOTTIME`).
    pub boot: Duration,
    pub wall: Timestamp,
}

/// What a worker is: fixed for the life of the process.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Config {
    pub worker: WorkerName,
    pub capacity: u32,
    pub actions: BTreeMap<ActionRef, ServedAction>,
    pub labels: BTreeMap<String, String>,
    /// Until a leader's greeting brings others.
    pub terms: Terms,
    /// How long running work may go on once a drain was asked for.
    pub drain_timeout: Duration,
    /// Where it runs, for people.
    pub process: Option<message::Process>,
}

/// The lengths that executor and worker must agree on; those of the leader's greeting win.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Terms {
    pub lease: Duration,
    /// Attempts may run only while the last confirmed heartbeat was sent less than this ago.
    pub fence: Duration,
    pub heartbeat: Duration,
}

impl Default for Terms {
    fn default() -> Self {
        Self { lease: Duration::from_secs(60), fence: Duration::from_secs(45), heartbeat: Duration::from_secs(5) }
    }
}

impl Terms {
    /// Whether the fence falls before the lease ends, and a heartbeat may be late once without it falling.
    pub fn are_sound(&self) -> bool {
        !self.heartbeat.is_zero() && self.heartbeat * 2 <= self.fence && self.fence < self.lease
    }
}

/// How this worker runs one action.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServedAction {
    pub capabilities: Vec<String>,
    /// Between the interrupt and the kill, where an order names none.
    pub grace: Duration,
    pub on_drain: OnDrain,
    /// What percent follows from where a report names a phase; empty if none were declared.
    pub phases: Vec<Phase>,
}

/// What becomes of an attempt that still runs when the drain's time is up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnDrain {
    /// Ended and handed back: another worker runs the execution again.
    #[default]
    Return,
    /// Ended for good, as `cancelled`.
    Cancel,
}

/// What happened, in the past tense. Whatever is stale or repeated changes nothing.
#[derive(Clone, Debug)]
pub enum Input {
    /// An order of the executor, from the queue of that incarnation.
    Ordered { incarnation: Incarnation, order: Order },
    /// A hint that a report is wanted, perhaps by a new leader, from the same queue.
    Hinted { incarnation: Incarnation },
    /// An order of an executor that could not read any report of this incarnation before.
    Introduced { incarnation: Incarnation, order: Order },
    /// The process or handler of an attempt really started at that moment.
    Started { key: AttemptKey, at: Now },
    /// An attempt reported something.
    Reported { key: AttemptKey, event: AttemptOutput },
    /// Nothing of the attempt is left.
    Ended { key: AttemptKey, ending: Ending },
    /// An attempt could not be started, and nothing of it is left: the worker is short of something. Answers
    /// [`super::Effect::Start`] where neither `Started` nor `Ended` does.
    Unstarted { key: AttemptKey, shortage: Shortage },
    /// The broker has the heartbeat that was sent at `sent` for that incarnation.
    HeartbeatConfirmed { incarnation: Incarnation, sent: Duration },
    /// A queue did not take a heartbeat of that incarnation, whatever others did.
    HeartbeatRefused { incarnation: Incarnation },
    /// The broker has the farewell of that incarnation.
    FarewellConfirmed { incarnation: Incarnation },
    /// There is a new session, and the queue of that incarnation is consumed.
    SessionOpened { incarnation: Incarnation },
    /// No new work; what runs may finish in time.
    DrainRequested,
    /// End everything now.
    StopRequested,
    /// The outbox holds so much that only what must be is to be added.
    OutboxFilled,
    /// There is room again.
    OutboxEmptied,
    /// Go on as this incarnation; answers [`super::Effect::IncarnationOver`].
    NewIncarnation(Incarnation),
    /// Time passed.
    Tick,
}

/// What an executor orders one incarnation to do.
#[derive(Clone, Debug)]
pub enum Order {
    Scheduled(message::Scheduled),
    Cancel(message::Cancel),
    Recall(message::Recall),
    Recorded(message::Recorded),
    Resend(message::Resend),
    Hello(message::Hello),
}

impl Order {
    /// Rises from one order to the next; what is not above the highest seen is dropped.
    pub fn number(&self) -> (Epoch, u64) {
        match self {
            Self::Scheduled(order) => (order.epoch, order.n),
            Self::Cancel(order) => (order.epoch, order.n),
            Self::Recall(order) => (order.epoch, order.n),
            Self::Recorded(order) => (order.epoch, order.n),
            Self::Resend(order) => (order.epoch, order.n),
            Self::Hello(order) => (order.epoch, order.n),
        }
    }
}

/// What an attempt reports while it runs.
#[derive(Clone, Debug, PartialEq)]
pub enum AttemptOutput {
    Progress(message::Report),
    Log {
        stream: message::Stream,
        lines: Vec<String>,
    },
    /// So many reports with news, or pieces of output, found no room on their way here.
    Gap {
        count: u64,
    },
}

/// How the process or handler of an attempt ended, without regard to why it was asked to end.
///
/// [`Ending::failed`] is one that left no result.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ending {
    /// `Err`: it failed of itself.
    pub result: Result<JsonText, Failure>,
    /// What it left as its result although it failed.
    pub left: Option<JsonText>,
    pub return_code: Option<i32>,
    pub ended_at: Timestamp,
}

impl Ending {
    pub fn failed(error: Failure, ended_at: Timestamp) -> Self {
        Self { result: Err(error), left: None, return_code: None, ended_at }
    }
}

/// JSON as another program wrote it, compared by its text.
#[derive(Clone, Debug)]
pub struct JsonText(pub Arc<RawValue>);

impl JsonText {
    pub fn null() -> Self {
        Self(RawValue::NULL.to_owned().into())
    }
}

impl PartialEq for JsonText {
    fn eq(&self, other: &Self) -> bool {
        self.0.get() == other.0.get()
    }
}

impl Eq for JsonText {}

impl Hash for JsonText {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.get().hash(state);
    }
}
