//! One execution: the one table that says which moves are legal, and how the end of an attempt is judged.
//!
//! Not here: slots and lines (`action`, `line`), and what the world hears of a move (`attempt`, `waiting`).

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use slotline_protocol::{ActionId, ExecutionId, Fence, Incarnation, OutcomeKind, Status, Timestamp};

use crate::limits::Limits;
use crate::line::Spot;
use crate::snapshot::Snapshot;

/// Where an execution stands, with nothing attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    Waiting,
    /// In its line still, and at a worker already: it starts when the one before it has completed there.
    Ahead,
    BackingOff,
    Scheduled,
    Running,
    Cancelling,
    Done(Status),
}

/// What can happen to an execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    Granted,
    SentAhead,
    /// A worker holds an attempt of it that the journal does not know.
    Shown,
    /// The one before it completed, and left it the slot.
    Fired,
    Started,
    CancelAsked,
    AttemptEnded(Verdict),
    BackoffOver,
    QueueTimedOut,
}

/// What the end of an attempt means for its execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    Settle(Status),
    /// Try again after a while.
    Retry,
    /// Back to its place in the line: the attempt was lost or handed back.
    Requeue,
}

/// A move that no input may cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{event:?} does not apply to an execution that is {phase:?}")]
pub struct Illegal {
    pub phase: Phase,
    pub event: Event,
}

/// Moves one execution by one event. Every pair is answered.
pub fn step(phase: Phase, event: Event) -> Result<Phase, Illegal> {
    use Phase::{Ahead, BackingOff, Cancelling, Done, Running, Scheduled, Waiting};
    match (phase, event) {
        (Waiting, Event::Granted) => Ok(Scheduled),
        (Waiting | BackingOff, Event::CancelAsked) => Ok(Done(Status::Cancelled)),
        (Waiting, Event::QueueTimedOut) => Ok(Done(Status::Timeout)),
        (BackingOff, Event::BackoffOver) => Ok(Waiting),

        (Waiting | BackingOff, Event::Shown) => Ok(Scheduled),

        (Waiting, Event::SentAhead) => Ok(Ahead),
        (Ahead, Event::Fired) => Ok(Scheduled),
        (Ahead, Event::AttemptEnded(Verdict::Requeue)) => Ok(Waiting),
        // Its worker has it, so that only its worker can say whether it began.
        (Ahead, Event::CancelAsked) => Ok(Cancelling),
        (Cancelling, Event::Fired) => Ok(Cancelling),

        (Scheduled | Running, Event::Started) => Ok(Running),
        // The order to end it stands, whenever it began.
        (Cancelling, Event::Started) => Ok(Cancelling),
        // Asking is not ending: the slot stays taken until the worker's word.
        (Scheduled | Running | Cancelling, Event::CancelAsked) => Ok(Cancelling),

        (Scheduled | Running, Event::AttemptEnded(Verdict::Settle(status))) => Ok(Done(status)),
        (Scheduled | Running, Event::AttemptEnded(Verdict::Retry)) => Ok(BackingOff),
        (Scheduled | Running, Event::AttemptEnded(Verdict::Requeue)) => Ok(Waiting),
        // It finished its work before the order reached it.
        (Cancelling, Event::AttemptEnded(Verdict::Settle(Status::Completed))) => Ok(Done(Status::Completed)),
        // Failed, timed out, lost or handed back: it was to end, and is never tried again.
        (Cancelling, Event::AttemptEnded(Verdict::Settle(_) | Verdict::Retry | Verdict::Requeue)) => {
            Ok(Done(Status::Cancelled))
        }

        (Waiting | BackingOff, Event::Started | Event::AttemptEnded(_) | Event::Fired)
        | (Waiting, Event::BackoffOver)
        | (BackingOff, Event::Granted | Event::SentAhead | Event::QueueTimedOut)
        | (
            Ahead,
            Event::Granted
            | Event::SentAhead
            | Event::Shown
            | Event::Started
            | Event::AttemptEnded(Verdict::Settle(_) | Verdict::Retry)
            | Event::BackoffOver
            | Event::QueueTimedOut,
        )
        | (Scheduled | Running, Event::Fired)
        | (
            Scheduled | Running | Cancelling,
            Event::Granted | Event::SentAhead | Event::Shown | Event::BackoffOver | Event::QueueTimedOut,
        )
        | (
            Done(_),
            Event::Granted
            | Event::SentAhead
            | Event::Shown
            | Event::Fired
            | Event::Started
            | Event::CancelAsked
            | Event::AttemptEnded(_)
            | Event::BackoffOver
            | Event::QueueTimedOut,
        ) => Err(Illegal { phase, event }),
    }
}

/// A live execution. Small, since millions wait: what has happened to it is boxed, and bodies stay in the journal.
///
/// It reads as its [`Course`]. One to which nothing has happened yet has none: it reads as [`UNTOUCHED`], and the first
/// write of a field of the course gives it one of its own.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Execution {
    pub(crate) action: ActionId,
    pub(crate) key: Option<Arc<str>>,
    pub(crate) enqueued_at: Timestamp,
    course: Option<Box<Course>>,
}

/// What has happened to an execution since it was requested.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Course {
    /// `None`: where its request put it.
    place: Option<i64>,
    /// The number of the newest grant.
    pub(crate) attempt: u32,
    /// Attempts that have ended and had begun, or failed to.
    pub(crate) tried: u32,
    pub(crate) failures: u32,
    pub(crate) losses: u32,
    /// `None`: since it was requested.
    queued_at: Option<Timestamp>,
    pub(crate) state: State,
}

static UNTOUCHED: Course = Course {
    place: None,
    attempt: 0,
    tried: 0,
    failures: 0,
    losses: 0,
    queued_at: None,
    state: State::Waiting { keeps_slot: false },
};

impl Deref for Execution {
    type Target = Course;

    fn deref(&self) -> &Course {
        self.course.as_deref().unwrap_or(&UNTOUCHED)
    }
}

impl DerefMut for Execution {
    fn deref_mut(&mut self) -> &mut Course {
        self.course.get_or_insert_with(|| Box::new(UNTOUCHED.clone()))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum State {
    /// In its line; or, keeping its slot, due again before anyone in line.
    Waiting {
        keeps_slot: bool,
    },
    BackingOff {
        until: Timestamp,
        keeps_slot: bool,
    },
    Leased(Leased),
}

/// An attempt that is out.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Leased {
    pub(crate) worker: Incarnation,
    pub(crate) fence: Fence,
    /// Number of the newest dispatch of it in this epoch, or one of the two that `orders` gives a meaning.
    pub(crate) n: u64,
    pub(crate) sent_at: Timestamp,
    pub(crate) scheduled_at: Timestamp,
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) at_work: AtWork,
    /// No slot yet, and still in its line: it waits at its worker for the one before it.
    pub(crate) ahead: Option<Ahead>,
}

/// A grant that was sent ahead of its slot.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Ahead {
    /// Of the attempt that it starts after.
    pub(crate) after: Fence,
    /// Number of the newest order to hand it back, or one of the two that `orders` gives a meaning.
    pub(crate) recall: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum AtWork {
    Scheduled,
    Running,
    /// Asked to end; `n` is the number of the newest such order, as above.
    Cancelling {
        n: u64,
        reason: Option<String>,
    },
}

impl Execution {
    /// One that waits for its first attempt.
    pub(crate) fn requested(action: ActionId, key: Option<Arc<str>>, at: Timestamp) -> Self {
        Self { action, key, enqueued_at: at, course: None }
    }

    /// One as the journal has it; `state` is where it stands by that.
    pub(crate) fn recovered(snapshot: &Snapshot, state: State) -> Self {
        let mut execution = Self::requested(snapshot.action, snapshot.key.clone(), snapshot.enqueued_at);
        let course = Course {
            place: (snapshot.place != snapshot.id.0).then_some(snapshot.place),
            attempt: snapshot.attempt,
            tried: snapshot.tried,
            failures: snapshot.failures,
            losses: snapshot.losses,
            queued_at: (snapshot.queued_at != snapshot.enqueued_at).then_some(snapshot.queued_at),
            state,
        };
        execution.course = (course != UNTOUCHED).then(|| Box::new(course));
        execution
    }

    pub(crate) fn spot(&self, id: ExecutionId) -> Spot {
        Spot { place: self.place.unwrap_or(id.0), id }
    }

    /// Sends it to another place of its line.
    pub(crate) fn set_place(&mut self, place: i64) {
        self.place = Some(place);
    }

    /// Since when it waits in its line, if it does.
    pub(crate) fn queued_at(&self) -> Timestamp {
        self.queued_at.unwrap_or(self.enqueued_at)
    }

    pub(crate) fn set_queued_at(&mut self, at: Timestamp) {
        if at != self.queued_at() {
            self.queued_at = (at != self.enqueued_at).then_some(at);
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        match &self.state {
            State::Waiting { .. } => Phase::Waiting,
            State::BackingOff { .. } => Phase::BackingOff,
            State::Leased(leased) => match leased.at_work {
                AtWork::Scheduled if leased.ahead.is_some() => Phase::Ahead,
                AtWork::Scheduled => Phase::Scheduled,
                AtWork::Running => Phase::Running,
                AtWork::Cancelling { .. } => Phase::Cancelling,
            },
        }
    }

    pub(crate) fn status(&self) -> Status {
        self.phase().status()
    }

    pub(crate) fn leased(&self) -> Option<&Leased> {
        match &self.state {
            State::Leased(leased) => Some(leased),
            State::Waiting { .. } | State::BackingOff { .. } => None,
        }
    }

    /// The attempt that is out, or was last, as people count them.
    pub(crate) fn counts_as(&self) -> u32 {
        self.tried + u32::from(self.leased().is_some_and(|leased| leased.ahead.is_none()))
    }

    pub(crate) fn ahead(&self) -> Option<&Ahead> {
        self.leased().and_then(|leased| leased.ahead.as_ref())
    }

    pub(crate) fn leased_mut(&mut self) -> Option<&mut Leased> {
        match &mut self.course.as_deref_mut()?.state {
            State::Leased(leased) => Some(leased),
            State::Waiting { .. } | State::BackingOff { .. } => None,
        }
    }
}

impl Phase {
    pub fn status(self) -> Status {
        match self {
            Self::Waiting | Self::Ahead | Self::BackingOff => Status::Queued,
            Self::Scheduled => Status::Scheduled,
            Self::Running => Status::Running,
            Self::Cancelling => Status::Cancelling,
            Self::Done(status) => status,
        }
    }
}

/// Judges an attempt that ended by its worker's word. `failures` counts this one if it failed.
pub(crate) fn judge(outcome: OutcomeKind, failures: u32, limits: &Limits) -> Verdict {
    let may_retry = failures < limits.retry.max_attempts;
    match outcome {
        OutcomeKind::Completed => Verdict::Settle(Status::Completed),
        OutcomeKind::Cancelled => Verdict::Settle(Status::Cancelled),
        OutcomeKind::Failed | OutcomeKind::Timeout if may_retry => Verdict::Retry,
        OutcomeKind::Failed => Verdict::Settle(Status::Failed),
        OutcomeKind::Timeout => Verdict::Settle(Status::Timeout),
        OutcomeKind::Lost => Verdict::Requeue,
    }
}

/// Judges an attempt that was lost with its incarnation. `losses` counts this one if it is charged.
pub(crate) fn judge_loss(losses: u32, limits: &Limits) -> Verdict {
    if losses > limits.max_lost_attempts { Verdict::Settle(Status::Failed) } else { Verdict::Requeue }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PHASES: [Phase; 7] = [
        Phase::Waiting,
        Phase::Ahead,
        Phase::BackingOff,
        Phase::Scheduled,
        Phase::Running,
        Phase::Cancelling,
        Phase::Done(Status::Completed),
    ];
    const EVENTS: [Event; 11] = [
        Event::Granted,
        Event::Shown,
        Event::SentAhead,
        Event::Fired,
        Event::Started,
        Event::CancelAsked,
        Event::AttemptEnded(Verdict::Settle(Status::Failed)),
        Event::AttemptEnded(Verdict::Retry),
        Event::AttemptEnded(Verdict::Requeue),
        Event::BackoffOver,
        Event::QueueTimedOut,
    ];

    #[test]
    fn nothing_follows_a_terminal_status() {
        for event in EVENTS {
            assert!(step(Phase::Done(Status::Completed), event).is_err(), "{event:?}");
        }
    }

    #[test]
    fn a_cancelling_attempt_only_ever_ends() {
        for event in EVENTS {
            if let Ok(next) = step(Phase::Cancelling, event) {
                assert!(matches!(next, Phase::Cancelling | Phase::Done(Status::Cancelled)), "{event:?} -> {next:?}");
            }
        }
        let completed = Event::AttemptEnded(Verdict::Settle(Status::Completed));
        assert_eq!(step(Phase::Cancelling, completed), Ok(Phase::Done(Status::Completed)));
    }

    #[test]
    fn only_what_waits_can_be_granted() {
        for phase in PHASES {
            assert_eq!(step(phase, Event::Granted).is_ok(), phase == Phase::Waiting, "{phase:?}");
            assert_eq!(step(phase, Event::SentAhead).is_ok(), phase == Phase::Waiting, "{phase:?}");
        }
    }
}
