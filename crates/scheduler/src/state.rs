//! Where an execution stands, and the one table of the legal moves and of what each makes true.
//!
//! Not here: slots and lines (`action`, `line`), and what is announced of a move (`attempt`, `waiting`).

use slotline_protocol::{Fence, Incarnation, Status, Timestamp};

/// Where an execution stands, with nothing attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StateKind {
    Waiting,
    /// In its line still, and at a worker already: it starts when the attempt before it has completed there.
    Ahead,
    BackingOff,
    Scheduled,
    Running,
    Cancelling,
    Done(Status),
}

/// What can happen to an execution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transition {
    Granted(Assignment),
    /// It was sent to a worker, and its slot is still to come: that of the attempt with the fence `after`.
    SentAhead {
        assignment: Assignment,
        after: Fence,
    },
    /// A worker holds an attempt of it that the journal does not know.
    Shown(Assignment),
    /// Another worker holds the attempt that is being cancelled than the journal knows.
    Moved(Assignment),
    /// The attempt before it completed, and left it the slot.
    Fired,
    /// Its worker reports that it began; without a time, a heartbeat shows no more than that.
    Started {
        at: Option<Timestamp>,
    },
    CancelAsked {
        reason: Option<String>,
    },
    AttemptEnded(Consequence),
    BackoffOver,
    QueueTimedOut,
    /// More slots are held than allowed: it gives up the one that it kept.
    SlotShed,
}

/// What the end of an attempt means for its execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Consequence {
    Settle(Status),
    /// Try again after a while.
    Retry {
        until: Timestamp,
        keeps_slot: bool,
    },
    /// Back to its place in the line: the attempt was lost or handed back.
    Requeue,
}

/// A move that was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moved {
    pub(crate) from: StateKind,
    pub(crate) to: StateKind,
}

/// A move that no input may cause.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{transition:?} does not apply to an execution that is {state:?}")]
pub struct Illegal {
    pub state: StateKind,
    pub transition: Transition,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum State {
    /// In its line; or, keeping its slot, due again before all that wait in line.
    Waiting {
        keeps_slot: bool,
    },
    BackingOff {
        until: Timestamp,
        keeps_slot: bool,
    },
    Ahead(Ahead),
    Leased(Leased),
}

/// An attempt at its worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Assignment {
    pub worker: Incarnation,
    pub fence: Fence,
    pub scheduled_at: Timestamp,
    /// As its worker reported.
    pub started_at: Option<Timestamp>,
}

/// An attempt that was sent ahead of its slot: it waits at its worker for the attempt before it, and still in its line.
/// It is no lease.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Ahead {
    pub(crate) assignment: Assignment,
    /// Of the attempt that it starts after.
    pub(crate) after: Fence,
    pub(crate) cancelling: Option<Cancelling>,
}

/// An attempt that holds a slot.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Leased {
    pub(crate) assignment: Assignment,
    pub(crate) at_work: AtWork,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum AtWork {
    Scheduled,
    Running,
    Cancelling(Cancelling),
}

/// Its worker is to end it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Cancelling {
    pub(crate) reason: Option<String>,
}

impl State {
    /// In line, without a slot.
    pub(crate) const IN_LINE: Self = Self::Waiting { keeps_slot: false };

    /// Moves by one transition, and returns the new state. Every pair is answered. An execution that is done leaves the
    /// scheduler and has no further state: the last one stays until then, as it does when the move is illegal.
    #[inline]
    pub(crate) fn apply(&mut self, transition: Transition) -> Result<StateKind, Box<Illegal>> {
        use AtWork::{Running, Scheduled};
        use State::{Ahead, BackingOff, Leased, Waiting};
        let next = match (&mut *self, transition) {
            (Waiting { .. }, Transition::Granted(assignment))
            | (Waiting { .. } | BackingOff { .. }, Transition::Shown(assignment)) => Self::leased(assignment),
            (Waiting { .. }, Transition::SentAhead { assignment, after }) => Self::ahead(assignment, after),
            (Waiting { .. } | BackingOff { .. }, Transition::CancelAsked { .. }) => {
                return Ok(StateKind::Done(Status::Cancelled));
            }
            (Waiting { .. }, Transition::QueueTimedOut) => return Ok(StateKind::Done(Status::Timeout)),
            (Waiting { keeps_slot: true }, Transition::SlotShed) => Self::IN_LINE,
            (BackingOff { keeps_slot, .. }, Transition::BackoffOver) => Waiting { keeps_slot: *keeps_slot },

            (Ahead(ahead), Transition::Fired) => ahead.fired(),
            // The worker may report that before the attempt before it is known to have completed: noted, and believed
            // then.
            (Ahead(ahead), Transition::Started { at }) => return Ok(ahead.started(at)),
            // Only its worker knows whether it began.
            (Ahead(ahead), Transition::CancelAsked { reason }) => return Ok(ahead.cancel(reason)),
            (Ahead(self::Ahead { cancelling: None, .. }), Transition::AttemptEnded(Consequence::Requeue)) => {
                Self::IN_LINE
            }

            (Leased(leased), Transition::Started { at }) => return Ok(leased.started(at)),
            // A cancellation alone ends nothing: the slot stays taken until the worker reports the end.
            (Leased(leased), Transition::CancelAsked { reason }) => return Ok(leased.cancel(reason)),
            (Leased(self::Leased { at_work: Scheduled | Running, .. }), Transition::AttemptEnded(consequence)) => {
                match consequence {
                    Consequence::Settle(status) => return Ok(StateKind::Done(status)),
                    Consequence::Retry { until, keeps_slot } => BackingOff { until, keeps_slot },
                    Consequence::Requeue => Self::IN_LINE,
                }
            }
            // The order to end it goes to the worker that really has it.
            (Leased(leased @ self::Leased { at_work: AtWork::Cancelling(_), .. }), Transition::Moved(assignment)) => {
                leased.assignment = assignment;
                return Ok(StateKind::Cancelling);
            }
            // It finished its work before the order reached it.
            (
                Leased(self::Leased { at_work: AtWork::Cancelling(_), .. }),
                Transition::AttemptEnded(Consequence::Settle(Status::Completed)),
            ) => return Ok(StateKind::Done(Status::Completed)),
            // Failed, timed out, lost or handed back: it was to end, and is never tried again.
            (
                Leased(self::Leased { at_work: AtWork::Cancelling(_), .. })
                | Ahead(self::Ahead { cancelling: Some(_), .. }),
                Transition::AttemptEnded(_),
            ) => return Ok(StateKind::Done(Status::Cancelled)),

            (
                Waiting { .. },
                transition @ (Transition::Started { .. }
                | Transition::AttemptEnded(_)
                | Transition::Fired
                | Transition::Moved(_)
                | Transition::BackoffOver
                | Transition::SlotShed),
            )
            | (
                BackingOff { .. },
                transition @ (Transition::Granted(_)
                | Transition::SentAhead { .. }
                | Transition::Started { .. }
                | Transition::AttemptEnded(_)
                | Transition::Fired
                | Transition::Moved(_)
                | Transition::QueueTimedOut
                | Transition::SlotShed),
            )
            | (Ahead(_), transition @ Transition::AttemptEnded(Consequence::Settle(_) | Consequence::Retry { .. }))
            | (Leased(self::Leased { at_work: Scheduled | Running, .. }), transition @ Transition::Moved(_))
            | (Leased(_), transition @ Transition::Fired)
            | (Ahead(_), transition @ Transition::Moved(_))
            | (
                Ahead(_) | Leased(_),
                transition @ (Transition::Granted(_)
                | Transition::SentAhead { .. }
                | Transition::Shown(_)
                | Transition::BackoffOver
                | Transition::QueueTimedOut
                | Transition::SlotShed),
            ) => return Err(Box::new(Illegal { state: self.kind(), transition })),
        };
        *self = next;
        Ok(self.kind())
    }

    fn leased(assignment: Assignment) -> Self {
        Self::Leased(Leased { assignment, at_work: AtWork::Scheduled })
    }

    fn ahead(assignment: Assignment, after: Fence) -> Self {
        Self::Ahead(Ahead { assignment, after, cancelling: None })
    }

    pub(crate) fn kind(&self) -> StateKind {
        match self {
            Self::Waiting { .. } => StateKind::Waiting,
            Self::BackingOff { .. } => StateKind::BackingOff,
            Self::Ahead(ahead) => ahead.kind(),
            Self::Leased(leased) => leased.kind(),
        }
    }

    /// The attempt that is at a worker, with a slot or ahead of it.
    pub(crate) fn assignment(&self) -> Option<&Assignment> {
        match self {
            Self::Waiting { .. } | Self::BackingOff { .. } => None,
            Self::Ahead(ahead) => Some(&ahead.assignment),
            Self::Leased(leased) => Some(&leased.assignment),
        }
    }

    /// That its worker is to end it, if it is.
    pub(crate) fn cancelling(&self) -> Option<&Cancelling> {
        match self {
            Self::Ahead(ahead) => ahead.cancelling.as_ref(),
            Self::Leased(Leased { at_work: AtWork::Cancelling(cancelling), .. }) => Some(cancelling),
            Self::Waiting { .. } | Self::BackingOff { .. } | Self::Leased(_) => None,
        }
    }
}

impl Assignment {
    /// The first time that is reported stays.
    fn started(&mut self, at: Option<Timestamp>) {
        self.started_at = self.started_at.or(at);
    }
}

impl Ahead {
    fn kind(&self) -> StateKind {
        if self.cancelling.is_some() { StateKind::Cancelling } else { StateKind::Ahead }
    }

    fn started(&mut self, at: Option<Timestamp>) -> StateKind {
        self.assignment.started(at);
        self.kind()
    }

    fn cancel(&mut self, reason: Option<String>) -> StateKind {
        self.cancelling.get_or_insert(Cancelling { reason });
        StateKind::Cancelling
    }

    /// It gets the slot of the attempt before it.
    fn fired(&mut self) -> State {
        let at_work = self.cancelling.take().map_or(AtWork::Scheduled, AtWork::Cancelling);
        State::Leased(Leased { assignment: self.assignment, at_work })
    }
}

impl Leased {
    fn kind(&self) -> StateKind {
        match self.at_work {
            AtWork::Scheduled => StateKind::Scheduled,
            AtWork::Running => StateKind::Running,
            AtWork::Cancelling(_) => StateKind::Cancelling,
        }
    }

    /// The order to end it stands, whenever it began.
    fn started(&mut self, at: Option<Timestamp>) -> StateKind {
        self.assignment.started(at);
        if self.at_work == AtWork::Scheduled {
            self.at_work = AtWork::Running;
        }
        self.kind()
    }

    fn cancel(&mut self, reason: Option<String>) -> StateKind {
        if !matches!(self.at_work, AtWork::Cancelling(_)) {
            self.at_work = AtWork::Cancelling(Cancelling { reason });
        }
        StateKind::Cancelling
    }
}

impl StateKind {
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

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn assignment() -> Assignment {
        let at = Timestamp::from_micros(1);
        Assignment { worker: Incarnation(Uuid::from_u128(1)), fence: Fence(1), scheduled_at: at, started_at: None }
    }

    fn states() -> Vec<State> {
        let cancelling = || Cancelling { reason: Some("enough".to_owned()) };
        let leased = |at_work| State::Leased(Leased { assignment: assignment(), at_work });
        let ahead = |cancelling| State::Ahead(Ahead { assignment: assignment(), after: Fence(0), cancelling });
        let until = Timestamp::from_micros(2);
        vec![
            State::IN_LINE,
            State::Waiting { keeps_slot: true },
            State::BackingOff { until, keeps_slot: false },
            State::BackingOff { until, keeps_slot: true },
            ahead(None),
            ahead(Some(cancelling())),
            leased(AtWork::Scheduled),
            leased(AtWork::Running),
            leased(AtWork::Cancelling(cancelling())),
        ]
    }

    fn transitions() -> Vec<Transition> {
        vec![
            Transition::Granted(assignment()),
            Transition::SentAhead { assignment: assignment(), after: Fence(0) },
            Transition::Shown(assignment()),
            Transition::Moved(assignment()),
            Transition::Fired,
            Transition::Started { at: Some(Timestamp::from_micros(3)) },
            Transition::CancelAsked { reason: None },
            Transition::AttemptEnded(Consequence::Settle(Status::Failed)),
            Transition::AttemptEnded(Consequence::Retry { until: Timestamp::from_micros(4), keeps_slot: false }),
            Transition::AttemptEnded(Consequence::Requeue),
            Transition::BackoffOver,
            Transition::QueueTimedOut,
            Transition::SlotShed,
        ]
    }

    #[test]
    fn what_is_done_and_what_is_illegal_leaves_the_state_as_it_was() {
        for before in states() {
            for transition in transitions() {
                let mut state = before.clone();
                match state.apply(transition.clone()) {
                    Ok(StateKind::Done(_)) => assert_eq!(state, before, "{transition:?}"),
                    Ok(kind) => assert_eq!(state.kind(), kind, "{transition:?}"),
                    Err(illegal) => {
                        assert_eq!(state, before, "{transition:?}");
                        assert_eq!(*illegal, Illegal { state: before.kind(), transition });
                    }
                }
            }
        }
    }

    #[test]
    fn a_cancelling_attempt_only_ever_ends() {
        for mut state in states().into_iter().filter(|state| state.kind() == StateKind::Cancelling) {
            let reason = state.cancelling().cloned();
            for transition in transitions() {
                if let Ok(next) = state.apply(transition.clone()) {
                    assert!(
                        matches!(next, StateKind::Cancelling | StateKind::Done(Status::Cancelled)),
                        "{transition:?} -> {next:?}"
                    );
                }
                assert_eq!(state.cancelling(), reason.as_ref(), "the first reason stays: {transition:?}");
            }
            let completed = Transition::AttemptEnded(Consequence::Settle(Status::Completed));
            assert_eq!(state.apply(completed), Ok(StateKind::Done(Status::Completed)));
        }
    }

    #[test]
    fn only_what_waits_can_be_granted() {
        for state in states() {
            let waits = state.kind() == StateKind::Waiting;
            assert_eq!(state.clone().apply(Transition::Granted(assignment())).is_ok(), waits, "{state:?}");
            let ahead = Transition::SentAhead { assignment: assignment(), after: Fence(0) };
            assert_eq!(state.clone().apply(ahead).is_ok(), waits, "{state:?}");
        }
    }

    #[test]
    fn what_was_sent_ahead_keeps_when_it_began_and_why_it_is_to_end_until_it_has_its_slot() {
        let mut state = State::ahead(assignment(), Fence(0));
        let began = Timestamp::from_micros(7);
        assert_eq!(state.apply(Transition::Started { at: Some(began) }), Ok(StateKind::Ahead));
        assert_eq!(state.apply(Transition::CancelAsked { reason: Some("late".to_owned()) }), Ok(StateKind::Cancelling));
        assert_eq!(state.apply(Transition::Fired), Ok(StateKind::Cancelling));
        assert_eq!(state.assignment().and_then(|assignment| assignment.started_at), Some(began));
        assert_eq!(state.cancelling(), Some(&Cancelling { reason: Some("late".to_owned()) }));
        assert!(state.apply(Transition::Fired).is_err());
    }
}
