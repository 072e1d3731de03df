//! One execution: what has happened to it, and how the end of an attempt is judged.
//!
//! Only [`Execution::apply`] writes its state, by the table in `state`.
//! Not here: slots and lines (`action`, `line`), and how a move is announced (`attempt`, `waiting`).

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use slotline_protocol::{ActionId, ExecutionId, OutcomeKind, Status, Timestamp};

use crate::limits::Limits;
use crate::line::Spot;
use crate::orders::OrderNumbers;
use crate::retry;
use crate::snapshot::Snapshot;
use crate::state::{Ahead, Assignment, Consequence, Illegal, Leased, Moved, State, StateKind, Transition};

/// A live execution. Small, since millions wait: what has happened to it is boxed, and bodies stay in the journal.
///
/// It reads as its [`Course`]. An execution to which nothing has happened yet has none: it reads as [`UNTOUCHED`], and
/// the first write of a field of the course gives it one of its own.
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
    /// Numbers of the orders about the attempt that is out.
    pub(crate) orders: OrderNumbers,
    state: State,
}

static UNTOUCHED: Course = Course::UNTOUCHED;

impl Course {
    const UNTOUCHED: Self = Self {
        place: None,
        attempt: 0,
        tried: 0,
        failures: 0,
        losses: 0,
        queued_at: None,
        orders: OrderNumbers::NONE,
        state: State::IN_LINE,
    };
}

impl Deref for Execution {
    type Target = Course;

    fn deref(&self) -> &Course {
        self.course.as_deref().unwrap_or(&UNTOUCHED)
    }
}

impl DerefMut for Execution {
    fn deref_mut(&mut self) -> &mut Course {
        self.course.get_or_insert_with(|| Box::new(Course::UNTOUCHED))
    }
}

impl Execution {
    /// A new execution, which waits for its first attempt.
    pub(crate) fn requested(action: ActionId, key: Option<Arc<str>>, at: Timestamp) -> Self {
        Self { action, key, enqueued_at: at, course: None }
    }

    /// An execution as the journal has it; `state` is derived from that, and `orders` is what was sent about it.
    pub(crate) fn recovered(snapshot: &Snapshot, state: State, orders: OrderNumbers) -> Self {
        let mut execution = Self::requested(snapshot.action, snapshot.key.clone(), snapshot.enqueued_at);
        let course = Course {
            place: (snapshot.place != snapshot.id.0).then_some(snapshot.place),
            attempt: snapshot.attempt,
            tried: snapshot.tried,
            failures: snapshot.failures,
            losses: snapshot.losses,
            queued_at: (snapshot.queued_at != snapshot.enqueued_at).then_some(snapshot.queued_at),
            orders,
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

    /// Moves the execution by one transition; nothing else writes its state. An illegal move changes nothing. An execution
    /// that is done is to be taken out of the scheduler at once.
    #[inline]
    pub(crate) fn apply(&mut self, transition: Transition) -> Result<Moved, Box<Illegal>> {
        let from = self.kind();
        let to = match &mut self.course {
            Some(course) => {
                let to = course.state.apply(transition)?;
                if course.state.assignment().is_none() {
                    course.orders = OrderNumbers::NONE;
                }
                to
            }
            untouched @ None => {
                let mut state = State::IN_LINE;
                let to = state.apply(transition)?;
                if state != State::IN_LINE {
                    *untouched = Some(Box::new(Course { state, ..Course::UNTOUCHED }));
                }
                to
            }
        };
        Ok(Moved { from, to })
    }

    pub(crate) fn state(&self) -> &State {
        &self.state
    }

    pub(crate) fn kind(&self) -> StateKind {
        self.state.kind()
    }

    pub(crate) fn status(&self) -> Status {
        self.kind().status()
    }

    /// The attempt that is at a worker, with a slot or ahead of it.
    pub(crate) fn assignment(&self) -> Option<&Assignment> {
        self.state.assignment()
    }

    /// The attempt that holds a slot.
    pub(crate) fn leased(&self) -> Option<&Leased> {
        match &self.state {
            State::Leased(leased) => Some(leased),
            State::Waiting { .. } | State::BackingOff { .. } | State::Ahead(_) => None,
        }
    }

    /// The attempt that was sent ahead of its slot.
    pub(crate) fn ahead(&self) -> Option<&Ahead> {
        match &self.state {
            State::Ahead(ahead) => Some(ahead),
            State::Waiting { .. } | State::BackingOff { .. } | State::Leased(_) => None,
        }
    }

    /// The attempt that is out, or was last, as people count them.
    pub(crate) fn counts_as(&self) -> u32 {
        self.tried + u32::from(self.leased().is_some())
    }
}

/// Judges an attempt of `id` whose end its worker reported at `now`. `failures` counts this attempt if it failed.
pub(crate) fn judge(
    id: ExecutionId,
    outcome: OutcomeKind,
    failures: u32,
    limits: &Limits,
    now: Timestamp,
) -> Consequence {
    let retry = &limits.retry;
    match outcome {
        OutcomeKind::Completed => Consequence::Settle(Status::Completed),
        OutcomeKind::Cancelled => Consequence::Settle(Status::Cancelled),
        OutcomeKind::Failed | OutcomeKind::Timeout if failures < retry.max_attempts => {
            Consequence::Retry { until: now + retry::backoff(retry, id, failures), keeps_slot: retry.keep_place }
        }
        OutcomeKind::Failed => Consequence::Settle(Status::Failed),
        OutcomeKind::Timeout => Consequence::Settle(Status::Timeout),
        OutcomeKind::Lost => Consequence::Requeue,
    }
}

/// Judges an attempt that was lost with its incarnation. `losses` counts this attempt if it is charged.
pub(crate) fn judge_loss(losses: u32, limits: &Limits) -> Consequence {
    if losses > limits.max_lost_attempts { Consequence::Settle(Status::Failed) } else { Consequence::Requeue }
}
