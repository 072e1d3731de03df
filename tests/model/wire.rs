//! What travels: small and comparable, and written out as the production messages where a machine takes it.
//!
//! Not here: requests (every execution is accepted before the world begins), cancellations, progress and status events;
//! events may be lost at any time by design, and here they always are. The simulation has all of those.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, LazyLock};

use serde_json::value::RawValue;
use slotline_protocol::message::{self, AttemptKey, EndReason, Holding, Served};
use slotline_protocol::{
    ActionId, ActionRef, Detail, Epoch, ExecutionId, Fence, Incarnation, OutcomeKind, Timestamp, WorkerName,
};
use slotline_scheduler::{Input, Outcome};
use slotline_worker::duty;
use uuid::Uuid;

use crate::mistake::Mistake;
use crate::time::{Tick, terms};

/// How many attempts a worker takes at once: more than any limit here, so that it is the limit that holds.
pub(crate) const CAPACITY: u32 = 3;
pub(crate) const ACTION: ActionId = ActionId(1);
const LONG_AGO: Timestamp = Timestamp::from_micros(0);

static ACTION_REF: LazyLock<ActionRef> = LazyLock::new(|| ActionRef::new("model.action").expect("words"));
static NAMES: LazyLock<[WorkerName; 2]> =
    LazyLock::new(|| ["w0", "w1"].map(|name| WorkerName::new(name).expect("a word")));
static NOTHING: LazyLock<Arc<RawValue>> = LazyLock::new(|| RawValue::NULL.to_owned().into());

pub(crate) fn action_ref() -> ActionRef {
    ACTION_REF.clone()
}

pub(crate) fn nothing() -> Arc<RawValue> {
    NOTHING.clone()
}

pub(crate) fn worker_name(worker: usize) -> WorkerName {
    NAMES[worker].clone()
}

/// The `life`-th incarnation of a worker.
pub(crate) fn incarnation(worker: usize, life: u8) -> Incarnation {
    Incarnation(Uuid::from_u128((worker as u128) << 64 | u128::from(life)))
}

/// Which worker that is an incarnation of.
pub(crate) fn worker_of(incarnation: Incarnation) -> usize {
    usize::try_from(incarnation.0.as_u128() >> 64).expect("made here")
}

/// From a leader to one incarnation.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Order {
    /// To all, and so of no proven origin: a leader of this epoch would like to hear from every worker.
    Hint {
        epoch: Epoch,
    },
    Hello {
        epoch: Epoch,
        n: u64,
        lost: bool,
    },
    Recorded {
        epoch: Epoch,
        n: u64,
        attempts: Vec<AttemptKey>,
    },
    Dispatch {
        epoch: Epoch,
        n: u64,
        key: AttemptKey,
        fence: Fence,
    },
}

/// What comes out of a leader's queues: a worker's words, and its own probes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Word {
    Beat(Beat),
    Completed(Completed),
    Returned(Returned),
    Ended { incarnation: Incarnation, reason: EndReason, completed: Vec<Completed>, returned: Vec<Returned> },
    Probe { published_at: Tick },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Beat {
    pub(crate) incarnation: Incarnation,
    holding: Vec<(ExecutionId, u32, Holding)>,
    unrecorded: Vec<AttemptKey>,
    seen: (Epoch, u64),
}

impl fmt::Display for Beat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { holding, unrecorded, seen: (epoch, n), .. } = self;
        write!(f, "beat: holds {holding:?}, unrecorded {unrecorded:?}, has seen ({epoch}, {n})")
    }
}

impl Hash for Beat {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.incarnation, &self.unrecorded, self.seen).hash(state);
        for (id, attempt, holding) in &self.holding {
            (id, attempt, std::mem::discriminant(holding)).hash(state);
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Completed {
    pub(crate) key: AttemptKey,
    fence: Fence,
    incarnation: Incarnation,
    kind: OutcomeKind,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Returned {
    pub(crate) key: AttemptKey,
    fence: Fence,
    incarnation: Incarnation,
    started: bool,
    reason: String,
}

impl Order {
    pub(crate) fn epoch(&self) -> Epoch {
        match self {
            Self::Hint { epoch }
            | Self::Hello { epoch, .. }
            | Self::Recorded { epoch, .. }
            | Self::Dispatch { epoch, .. } => *epoch,
        }
    }

    /// The same, as if it were the `number`-th that its first leader sent.
    pub(crate) fn renumbered(&self, number: u64) -> Self {
        let mut order = self.clone();
        match &mut order {
            Self::Hello { epoch, n, .. } | Self::Recorded { epoch, n, .. } | Self::Dispatch { epoch, n, .. } => {
                (*epoch, *n) = (Epoch(1), number);
            }
            Self::Hint { .. } => {}
        }
        order
    }

    /// As `crates/executor/src/mail.rs` writes it; a hint says nothing that is obeyed.
    pub(crate) fn write(&self, mistake: Option<Mistake>) -> Option<duty::Order> {
        let terms = terms(mistake);
        Some(match self.clone() {
            Self::Hint { .. } => return None,
            Self::Hello { epoch, n, lost } => duty::Order::Hello(message::Hello {
                epoch,
                n,
                lease_seconds: Some(terms.lease),
                fence_seconds: Some(terms.fence),
                heartbeat_seconds: Some(terms.heartbeat),
                lost,
                journal: None,
                account: false,
                refused: None,
            }),
            Self::Recorded { epoch, n, attempts } => duty::Order::Recorded(message::Recorded { epoch, n, attempts }),
            Self::Dispatch { epoch, n, key: (execution_id, attempt), fence } => {
                duty::Order::Scheduled(message::Scheduled {
                    epoch,
                    n,
                    execution_id,
                    attempt,
                    counts_as: None,
                    fence,
                    action_id: ACTION,
                    action_ref: action_ref(),
                    parameters: nothing(),
                    timeout_seconds: None,
                    start_timeout_seconds: None,
                    stall_timeout_seconds: None,
                    progress: Detail::default(),
                    starts_after: None,
                    scheduled_at: LONG_AGO,
                    concurrency_key: None,
                    message_id: None,
                    continue_when_isolated: false,
                    correlation_id: None,
                    trace_id: None,
                })
            }
        })
    }
}

impl Word {
    pub(crate) fn beat(heartbeat: message::Heartbeat) -> Self {
        let message::Heartbeat { incarnation, holding, unrecorded, seen, .. } = heartbeat;
        Self::Beat(Beat { incarnation, holding, unrecorded, seen })
    }

    pub(crate) fn ended(ended: message::Ended) -> Self {
        let message::Ended { incarnation, reason, outcomes, returned, told_by, has_more, .. } = ended;
        assert!(!has_more, "outcomes without results fit one envelope");
        let teller = told_by.unwrap_or(incarnation);
        let outcomes = outcomes.into_iter().map(|word| message::Completed { incarnation: teller, ..word });
        Self::Ended {
            incarnation,
            reason,
            completed: outcomes.map(Completed::from).collect(),
            returned: returned.into_iter().map(Returned::from).collect(),
        }
    }

    /// The incarnation of a heartbeat or a last word.
    pub(crate) fn spoken_of(&self) -> Option<Incarnation> {
        match self {
            Self::Beat(beat) => Some(beat.incarnation),
            Self::Ended { incarnation, .. } => Some(*incarnation),
            Self::Completed(_) | Self::Returned(_) | Self::Probe { .. } => None,
        }
    }

    /// Whether it comes through the heartbeats queue; the others come through the completions queue.
    pub(crate) fn is_heartbeat(&self) -> bool {
        match self {
            Self::Beat(_) | Self::Ended { .. } => true,
            Self::Completed(_) | Self::Returned(_) | Self::Probe { .. } => false,
        }
    }
}

impl Beat {
    /// As its worker sent it.
    pub(crate) fn write(&self) -> Input {
        Input::Heartbeat(message::Heartbeat {
            worker: worker_name(worker_of(self.incarnation)),
            incarnation: self.incarnation,
            capacity: CAPACITY,
            holding: self.holding.clone(),
            unrecorded: self.unrecorded.clone(),
            seen: self.seen,
            actions: vec![Served { action_ref: action_ref(), capabilities: Vec::new() }],
            labels: BTreeMap::new(),
            draining: false,
            sent_at: LONG_AGO,
            journal: None,
            highest: Default::default(),
            account: None,
            process: None,
        })
    }
}

impl Completed {
    pub(crate) fn write(&self) -> Input {
        Input::Completed {
            key: self.key,
            fence: self.fence,
            incarnation: self.incarnation,
            outcome: Outcome {
                kind: self.kind,
                result: None,
                error: None,
                started_at: None,
                ended_at: LONG_AGO,
                held: None,
            },
        }
    }
}

impl From<message::Completed> for Completed {
    fn from(word: message::Completed) -> Self {
        let key = word.key();
        Self { key, fence: word.fence, incarnation: word.incarnation, kind: word.status }
    }
}

impl Returned {
    pub(crate) fn write(&self) -> Input {
        Input::Returned {
            key: self.key,
            fence: self.fence,
            incarnation: self.incarnation,
            started: self.started,
            reason: self.reason.clone(),
        }
    }
}

impl From<message::Returned> for Returned {
    fn from(word: message::Returned) -> Self {
        let key = (word.execution_id, word.attempt);
        let message::Returned { fence, incarnation, started, reason, .. } = word;
        Self { key, fence, incarnation, started, reason }
    }
}
