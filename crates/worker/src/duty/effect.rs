//! What the duty book wants done: the driver carries it out, in order.

use std::sync::Arc;
use std::time::Duration;

use slotline_protocol::message::{self, AttemptKey};
use slotline_protocol::{ActionRef, Detail, Fence, Incarnation};

use super::input::JsonText;
use super::shortage::Shortage;

/// What is to be done now.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Start the attempt. Answered by `Ended`, and before it by `Started` if it could be started; or by `Unstarted`.
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
    /// The attempts that obey the fence may run until then, even if this process ends or stands still.
    Extend {
        deadline: Duration,
    },
    Complete(Traced<message::Completed>),
    Return(Traced<message::Returned>),
    ChangeStatus(Traced<message::StatusChanged>),
    Progress(Traced<message::Progress>),
    /// Send the events `first` to `last` of an attempt again. The book itself keeps none, and may not know the attempt
    /// any more.
    Resend {
        key: AttemptKey,
        action_ref: ActionRef,
        first: u64,
        /// `None`: whatever there is.
        last: Option<u64>,
    },
    /// Publish; its confirm comes as `HeartbeatConfirmed` with the same `sent`.
    Beat {
        heartbeat: message::Heartbeat,
        sent: Duration,
    },
    /// Publish an incarnation's farewell; its confirm comes as `FarewellConfirmed`.
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
    /// Nothing of this incarnation runs any more: choose a new one, and consume its queue.
    IncarnationOver(Incarnation),
    /// What must outlive this process, should it end now: the outcomes that are not known to be recorded, as the
    /// farewells of its incarnations. Takes the place of what was kept before; empty: nothing is to be kept.
    Keep(Vec<message::Ended>),
    /// These attempts survive their kill. Only the end of the process ends them, and nothing may go on beside them.
    GiveUp(Vec<AttemptKey>),
    /// All is reported; the process may exit.
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
    pub parameters: JsonText,
    pub progress: Detail,
    /// When it must be gone unless it is extended; `None` where the action goes on when isolated.
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
