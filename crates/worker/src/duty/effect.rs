//! What the duty book owes the world: taken up by the driver, in order.

use std::sync::Arc;
use std::time::Duration;

use slotline_protocol::message::{self, AttemptKey};
use slotline_protocol::{ActionRef, Detail, Fence, Incarnation};

use super::input::Json;
use super::shortage::Shortage;

/// What is to be done now.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Start the attempt. Answered by `Started`, if it could be, and always by `Ended`.
    Start(Start),
    /// Ask the attempt to end: SIGTERM, or the handler's token.
    Interrupt {
        key: AttemptKey,
        grace: Duration,
    },
    /// End the attempt whatever it does.
    Kill {
        key: AttemptKey,
    },
    /// The attempts that obey the fence may run until then, should this process not be heard of again.
    Extend {
        deadline: Duration,
    },
    Complete(Traced<message::Completed>),
    Return(Traced<message::Returned>),
    ChangeStatus(Traced<message::StatusChanged>),
    Progress(Traced<message::Progress>),
    /// Say these events of an attempt again, those with the numbers from `first` to `last`. The book itself keeps none,
    /// and may not know the attempt any more.
    Resend {
        key: AttemptKey,
        action_ref: ActionRef,
        first: u64,
        /// `None`: whatever there is.
        last: Option<u64>,
    },
    /// Publish; its confirm is told by `HeartbeatConfirmed` with the same `sent`.
    Beat {
        heartbeat: message::Heartbeat,
        sent: Duration,
    },
    /// Publish an incarnation's last word; its confirm is told by `FarewellConfirmed`.
    Farewell(message::Ended),
    /// The worker is short of something: it takes no more than `most` attempts at once, and tries more after a while.
    TakeLess {
        shortage: Shortage,
        most: u32,
    },
    /// What was short has passed: the worker takes as many as ever.
    TakeAll,
    /// The executor does not take this worker, and it drains. It ends for this reason.
    Refused(String),
    /// Nothing of this incarnation runs under its name any more: choose a new one, and consume its queue.
    IncarnationOver(Incarnation),
    /// What must outlive this process, should it end now: what has ended and is not known to be recorded, as the last words
    /// of its incarnations. Takes the place of what was kept before; empty: nothing is to be kept.
    Keep(Vec<message::Ended>),
    /// These ignore their end. Only the end of the process ends them, and nothing may go on beside them.
    GiveUp(Vec<AttemptKey>),
    /// All is said; the process may exit.
    Finish,
}

/// One attempt to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    pub key: AttemptKey,
    /// As people count attempts.
    pub counts_as: u32,
    pub fence: Fence,
    pub action_ref: ActionRef,
    pub parameters: Json,
    pub progress: Detail,
    /// When it must be gone if nobody extends it; `None` where the action goes on when isolated.
    pub deadline: Option<Duration>,
    pub correlation_id: Option<Arc<str>>,
    pub trace_id: Option<Arc<str>>,
}

/// A message, and the request's thread that it belongs to.
#[derive(Clone, Debug)]
pub struct Traced<M> {
    pub message: M,
    pub correlation_id: Option<Arc<str>>,
    pub trace_id: Option<Arc<str>>,
}
