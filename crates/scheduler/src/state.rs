//! Where an execution stands, and the one table of the legal moves and of what each makes true.
//!
//! Not here: slots and lines (`action`, `line`), and what is announced of a move (`attempt`, `waiting`).

use slotline_protocol::{Fence, Incarnation, Status, Timestamp};

/// Where an execution stands, with nothing attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
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
pub enum Event {
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
    AttemptEnded(Verdict),
    BackoffOver,
    QueueTimedOut,
    /// More slots are held than allowed: it gives up the one that it kept.
    SlotShed,
}

/// What the end of an attempt means for its execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
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
    pub(crate) from: Phase,
    pub(crate) to: Phase,
}

/// A move that no input may cause.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{event:?} does not apply to an execution that is {phase:?}")]
pub struct Illegal {
    pub phase: Phase,
    pub event: Event,
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

    /// Moves by one event, and returns the new phase. Every pair is answered. An execution that is done leaves the
    /// scheduler and has no further state: the last one stays until then, as it does when the move is illegal.
    #[inline]
    pub(crate) fn apply(&mut self, event: Event) -> Result<Phase, Box<Illegal>> {
        use AtWork::{Running, Scheduled};
        use State::{Ahead, BackingOff, Leased, Waiting};
        let next = match (&mut *self, event) {
            (Waiting { .. }, Event::Granted(assignment))
            | (Waiting { .. } | BackingOff { .. }, Event::Shown(assignment)) => Self::leased(assignment),
            (Waiting { .. }, Event::SentAhead { assignment, after }) => Self::ahead(assignment, after),
            (Waiting { .. } | BackingOff { .. }, Event::CancelAsked { .. }) => {
                return Ok(Phase::Done(Status::Cancelled));
            }
            (Waiting { .. }, Event::QueueTimedOut) => return Ok(Phase::Done(Status::Timeout)),
            (Waiting { keeps_slot: true }, Event::SlotShed) => Self::IN_LINE,
            (BackingOff { keeps_slot, .. }, Event::BackoffOver) => Waiting { keeps_slot: *keeps_slot },

            (Ahead(ahead), Event::Fired) => ahead.fired(),
            // The worker may report that before the attempt before it is known to have completed: noted, and believed
            // then.
            (Ahead(ahead), Event::Started { at }) => return Ok(ahead.started(at)),
            // Only its worker knows whether it began.
            (Ahead(ahead), Event::CancelAsked { reason }) => return Ok(ahead.cancel(reason)),
            (Ahead(self::Ahead { cancelling: None, .. }), Event::AttemptEnded(Verdict::Requeue)) => Self::IN_LINE,

            (Leased(leased), Event::Started { at }) => return Ok(leased.started(at)),
            // A cancellation alone ends nothing: the slot stays taken until the worker reports the end.
            (Leased(leased), Event::CancelAsked { reason }) => return Ok(leased.cancel(reason)),
            (Leased(self::Leased { at_work: Scheduled | Running, .. }), Event::AttemptEnded(verdict)) => {
                match verdict {
                    Verdict::Settle(status) => return Ok(Phase::Done(status)),
                    Verdict::Retry { until, keeps_slot } => BackingOff { until, keeps_slot },
                    Verdict::Requeue => Self::IN_LINE,
                }
            }
            // The order to end it goes to the worker that really has it.
            (Leased(leased @ self::Leased { at_work: AtWork::Cancelling(_), .. }), Event::Moved(assignment)) => {
                leased.assignment = assignment;
                return Ok(Phase::Cancelling);
            }
            // It finished its work before the order reached it.
            (
                Leased(self::Leased { at_work: AtWork::Cancelling(_), .. }),
                Event::AttemptEnded(Verdict::Settle(Status::Completed)),
            ) => return Ok(Phase::Done(Status::Completed)),
            // Failed, timed out, lost or handed back: it was to end, and is never tried again.
            (
                Leased(self::Leased { at_work: AtWork::Cancelling(_), .. })
                | Ahead(self::Ahead { cancelling: Some(_), .. }),
                Event::AttemptEnded(_),
            ) => return Ok(Phase::Done(Status::Cancelled)),

            (
                Waiting { .. },
                event @ (Event::Started { .. }
                | Event::AttemptEnded(_)
                | Event::Fired
                | Event::Moved(_)
                | Event::BackoffOver
                | Event::SlotShed),
            )
            | (
                BackingOff { .. },
                event @ (Event::Granted(_)
                | Event::SentAhead { .. }
                | Event::Started { .. }
                | Event::AttemptEnded(_)
                | Event::Fired
                | Event::Moved(_)
                | Event::QueueTimedOut
                | Event::SlotShed),
            )
            | (Ahead(_), event @ Event::AttemptEnded(Verdict::Settle(_) | Verdict::Retry { .. }))
            | (Leased(self::Leased { at_work: Scheduled | Running, .. }), event @ Event::Moved(_))
            | (Leased(_), event @ Event::Fired)
            | (Ahead(_), event @ Event::Moved(_))
            | (
                Ahead(_) | Leased(_),
                event @ (Event::Granted(_)
                | Event::SentAhead { .. }
                | Event::Shown(_)
                | Event::BackoffOver
                | Event::QueueTimedOut
                | Event::SlotShed),
            ) => return Err(Box::new(Illegal { phase: self.phase(), event })),
        };
        *self = next;
        Ok(self.phase())
    }

    fn leased(assignment: Assignment) -> Self {
        Self::Leased(Leased { assignment, at_work: AtWork::Scheduled })
    }

    fn ahead(assignment: Assignment, after: Fence) -> Self {
        Self::Ahead(Ahead { assignment, after, cancelling: None })
    }

    pub(crate) fn phase(&self) -> Phase {
        match self {
            Self::Waiting { .. } => Phase::Waiting,
            Self::BackingOff { .. } => Phase::BackingOff,
            Self::Ahead(ahead) => ahead.phase(),
            Self::Leased(leased) => leased.phase(),
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
    fn phase(&self) -> Phase {
        if self.cancelling.is_some() { Phase::Cancelling } else { Phase::Ahead }
    }

    fn started(&mut self, at: Option<Timestamp>) -> Phase {
        self.assignment.started(at);
        self.phase()
    }

    fn cancel(&mut self, reason: Option<String>) -> Phase {
        self.cancelling.get_or_insert(Cancelling { reason });
        Phase::Cancelling
    }

    /// It gets the slot of the attempt before it.
    fn fired(&mut self) -> State {
        let at_work = self.cancelling.take().map_or(AtWork::Scheduled, AtWork::Cancelling);
        State::Leased(Leased { assignment: self.assignment, at_work })
    }
}

impl Leased {
    fn phase(&self) -> Phase {
        match self.at_work {
            AtWork::Scheduled => Phase::Scheduled,
            AtWork::Running => Phase::Running,
            AtWork::Cancelling(_) => Phase::Cancelling,
        }
    }

    /// The order to end it stands, whenever it began.
    fn started(&mut self, at: Option<Timestamp>) -> Phase {
        self.assignment.started(at);
        if self.at_work == AtWork::Scheduled {
            self.at_work = AtWork::Running;
        }
        self.phase()
    }

    fn cancel(&mut self, reason: Option<String>) -> Phase {
        if !matches!(self.at_work, AtWork::Cancelling(_)) {
            self.at_work = AtWork::Cancelling(Cancelling { reason });
        }
        Phase::Cancelling
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

    fn events() -> Vec<Event> {
        vec![
            Event::Granted(assignment()),
            Event::SentAhead { assignment: assignment(), after: Fence(0) },
            Event::Shown(assignment()),
            Event::Moved(assignment()),
            Event::Fired,
            Event::Started { at: Some(Timestamp::from_micros(3)) },
            Event::CancelAsked { reason: None },
            Event::AttemptEnded(Verdict::Settle(Status::Failed)),
            Event::AttemptEnded(Verdict::Retry { until: Timestamp::from_micros(4), keeps_slot: false }),
            Event::AttemptEnded(Verdict::Requeue),
            Event::BackoffOver,
            Event::QueueTimedOut,
            Event::SlotShed,
        ]
    }

    #[test]
    fn what_is_done_and_what_is_illegal_leaves_the_state_as_it_was() {
        for before in states() {
            for event in events() {
                let mut state = before.clone();
                match state.apply(event.clone()) {
                    Ok(Phase::Done(_)) => assert_eq!(state, before, "{event:?}"),
                    Ok(phase) => assert_eq!(state.phase(), phase, "{event:?}"),
                    Err(illegal) => {
                        assert_eq!(state, before, "{event:?}");
                        assert_eq!(*illegal, Illegal { phase: before.phase(), event });
                    }
                }
            }
        }
    }

    #[test]
    fn a_cancelling_attempt_only_ever_ends() {
        for mut state in states().into_iter().filter(|state| state.phase() == Phase::Cancelling) {
            let reason = state.cancelling().cloned();
            for event in events() {
                if let Ok(next) = state.apply(event.clone()) {
                    assert!(
                        matches!(next, Phase::Cancelling | Phase::Done(Status::Cancelled)),
                        "{event:?} -> {next:?}"
                    );
                }
                assert_eq!(state.cancelling(), reason.as_ref(), "the first reason stays: {event:?}");
            }
            let completed = Event::AttemptEnded(Verdict::Settle(Status::Completed));
            assert_eq!(state.apply(completed), Ok(Phase::Done(Status::Completed)));
        }
    }

    #[test]
    fn only_what_waits_can_be_granted() {
        for state in states() {
            let waits = state.phase() == Phase::Waiting;
            assert_eq!(state.clone().apply(Event::Granted(assignment())).is_ok(), waits, "{state:?}");
            let ahead = Event::SentAhead { assignment: assignment(), after: Fence(0) };
            assert_eq!(state.clone().apply(ahead).is_ok(), waits, "{state:?}");
        }
    }

    #[test]
    fn what_was_sent_ahead_keeps_when_it_began_and_why_it_is_to_end_until_it_has_its_slot() {
        let mut state = State::ahead(assignment(), Fence(0));
        let began = Timestamp::from_micros(7);
        assert_eq!(state.apply(Event::Started { at: Some(began) }), Ok(Phase::Ahead));
        assert_eq!(state.apply(Event::CancelAsked { reason: Some("late".to_owned()) }), Ok(Phase::Cancelling));
        assert_eq!(state.apply(Event::Fired), Ok(Phase::Cancelling));
        assert_eq!(state.assignment().and_then(|assignment| assignment.started_at), Some(began));
        assert_eq!(state.cancelling(), Some(&Cancelling { reason: Some("late".to_owned()) }));
        assert!(state.apply(Event::Fired).is_err());
    }
}
