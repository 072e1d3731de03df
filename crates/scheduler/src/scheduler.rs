//! The machine itself: its state, and every input on one screen.
//!
//! Each arm of `handle` is one function in the module that its subject names. Every input ends with the timers that are
//! due, with the ready actions taking turns until no slot, no worker with room or no waiting execution is left, and
//! with the dispatch of executions that may be sent ahead of their slots.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use slotline_protocol::message::Lineage;
use slotline_protocol::{ActionId, Epoch, ExecutionId, Fence, Status, Timestamp};

use crate::action::Actions;
use crate::deadline::{Deadlines, Timer};
use crate::doubt::Doubt;
use crate::effect::{Announcement, Effects, IllegalMove};
use crate::executions::Executions;
use crate::input::Input;
use crate::key::LineKey;
use crate::loss::{EndedIncarnations, Probes};
use crate::orders::Orders;
use crate::pool::Pools;
use crate::state::{Illegal, Moved, Transition};
use crate::window::WORKER_AHEAD_MAX;
use crate::worker::Workers;

/// The most timers that one input fires; [`Scheduler::next_deadline`] then stays in the past.
const TIMERS_PER_INPUT_MAX: usize = 1_000;

/// The lengths that decide when an incarnation is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Config {
    /// `L`: the silence after which an incarnation is lost, counted between probes.
    pub lease: Duration,
    /// `H`: the time between two heartbeats, and between two probes.
    pub heartbeat: Duration,
}

/// The next unused numbers; journaled with every batch. Each starts at 1 and never falls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Counters {
    /// The next execution id, and the next place in a line.
    pub next_id: i64,
    pub next_fence: i64,
    pub next_action: i64,
}

impl Default for Counters {
    fn default() -> Self {
        Self { next_id: 1, next_fence: 1, next_action: 1 }
    }
}

/// The scheduler of one epoch.
#[derive(Clone, Debug)]
pub struct Scheduler {
    pub(crate) config: Config,
    pub(crate) epoch: Epoch,
    pub(crate) counters: Counters,
    pub(crate) actions: Actions,
    pub(crate) executions: Executions,
    pub(crate) workers: Workers,
    pub(crate) ended: EndedIncarnations,
    pub(crate) pools: Pools,
    pub(crate) deadlines: Deadlines,
    pub(crate) probes: Probes,
    /// See [`Self::doubt`].
    pub(crate) doubt: Option<Box<Doubt>>,
    /// See [`Self::know_as`].
    pub(crate) journal: Option<Lineage>,
    pub(crate) rewound: (ExecutionId, u32),
    /// No number from these on may be given yet; see [`Self::reserve`].
    pub(crate) reserved: Counters,
    /// See [`Self::inherit_lease`].
    pub(crate) former_lease: Duration,
    pub(crate) orders: Orders,
    /// Executions that were sent ahead, by the attempt that each starts after: a change of limits may have parted their
    /// lines.
    pub(crate) followers: BTreeMap<Fence, ExecutionId>,
    /// See [`Self::bound_held`].
    pub(crate) worker_ahead_max: usize,
    /// Lines that may have an execution to send ahead; empty between two inputs.
    pub(crate) lengthening: BTreeSet<(ActionId, LineKey)>,
    pub(crate) effects: Effects,
}

impl Scheduler {
    /// An empty scheduler; `recovery` fills it.
    pub fn new(config: Config, epoch: Epoch, counters: Counters) -> Self {
        Self {
            config,
            epoch,
            counters,
            actions: Actions::default(),
            executions: Executions::default(),
            workers: Workers::new(),
            ended: EndedIncarnations::default(),
            pools: Pools::default(),
            deadlines: Deadlines::default(),
            probes: Probes::default(),
            doubt: None,
            journal: None,
            rewound: (ExecutionId(0), 0),
            reserved: Counters { next_id: i64::MAX, next_fence: i64::MAX, next_action: i64::MAX },
            former_lease: Duration::ZERO,
            orders: Orders::default(),
            followers: BTreeMap::new(),
            worker_ahead_max: WORKER_AHEAD_MAX,
            lengthening: BTreeSet::new(),
            effects: Effects::default(),
        }
    }

    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Takes the next unused action id.
    pub fn new_action_id(&mut self) -> ActionId {
        self.counters.next_action += 1;
        ActionId(self.counters.next_action - 1)
    }

    /// Takes the bound of the numbers that may be given: it is kept where it outlives the journal.
    pub fn reserve(&mut self, reserved: Counters) {
        self.reserved = reserved;
    }

    /// Takes how many attempts a worker can hold on the broker of the day. No more than a quarter of that is sent ahead of
    /// lines that share a worker: the rest is for what runs, and for what has ended and is not known to be recorded.
    pub fn bound_held(&mut self, held: usize) {
        self.worker_ahead_max = WORKER_AHEAD_MAX.min(held / 4);
    }

    /// When `Ticked` is due next.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        if self.doubt.is_some() { self.probes.next() } else { self.deadlines.next() }
    }

    /// Takes one happening at `now`. Its effects gather until [`Self::take_effects`].
    ///
    /// `now` must advance steadily, as a monotonic clock does: silence is measured with it, and a leap forward would
    /// count as silence.
    pub fn handle(&mut self, input: Input, now: Timestamp) {
        match input {
            Input::ActionPut { id, action_ref, limits, paused } => self.put_action(id, action_ref, limits, paused, now),
            Input::ActionDeleted { id } => self.delete_action(id),
            Input::Requested { token, action, key, bytes } => self.request(token, action, key, bytes, now),
            Input::CancelRequested { id, reason } => self.cancel(id, reason, now),
            Input::Heartbeat(heartbeat) => self.heartbeat(heartbeat, now),
            Input::Started { key, fence, started_at } => self.started(key, fence, started_at, now),
            Input::Completed { key, fence, incarnation, outcome } => {
                self.completed(key, fence, incarnation, outcome, now);
            }
            Input::Returned { key, fence, incarnation, started, reason } => {
                self.returned(key, fence, incarnation, started, &reason, now);
            }
            Input::IncarnationEnded { incarnation, reason } => self.incarnation_ended(incarnation, reason, now),
            Input::OrderReturned { incarnation } => self.order_returned(incarnation),
            Input::Probed { queue, published_at } => self.probed(queue, published_at, now),
            Input::SessionOpened => self.session_opened(now),
            Input::Ticked => {}
        }
        if self.doubt.is_some() {
            // An execution whose time is over may be out at a worker.
            if self.probes.next().is_some_and(|at| at <= now) {
                self.deadlines.clear(self.probes.next().unwrap_or(now), Timer::Probe);
                self.probe(now);
            }
            self.pools.forget_wanted();
            return;
        }
        for _ in 0..TIMERS_PER_INPUT_MAX {
            match self.deadlines.pop(now) {
                None => break,
                Some(Timer::Probe) => self.probe(now),
                Some(Timer::BackoffOver(id)) => self.backoff_over(id, now),
                Some(Timer::QueueTimeout(id)) => self.queue_timed_out(id, now),
            }
        }
        self.grant(now);
        self.make_way();
        self.send_ahead(now);
    }

    /// Moves `id`, which is live, by the table. An illegal move is a bug of this crate: it is reported and not made.
    pub(crate) fn apply(&mut self, id: ExecutionId, transition: Transition) -> Option<Moved> {
        match self.executions.live_mut(id).apply(transition) {
            Ok(moved) => Some(moved),
            Err(illegal) => {
                self.report(id, *illegal);
                None
            }
        }
    }

    /// Reports an illegal move.
    #[cold]
    pub(crate) fn report(&mut self, id: ExecutionId, illegal: Illegal) {
        let execution = self.executions.live(id);
        let fence = execution.assignment().map(|assignment| assignment.fence);
        let (action, attempt) = (execution.action, execution.attempt);
        let illegal = IllegalMove { id, action, attempt, fence, illegal };
        self.effects.bugs.get_or_insert_default().illegal.push(illegal);
    }

    /// Announces a move. To be called while the execution has the lease that the move is about, if any.
    pub(crate) fn announce(&mut self, id: ExecutionId, from: Status, to: Status, at: Timestamp) {
        self.announce_of(id, None, from, to, at);
    }

    /// The same for a move of an attempt that is over, `counted` as people count it: the execution has gone on since.
    pub(crate) fn announce_of(
        &mut self,
        id: ExecutionId,
        counted: Option<u32>,
        from: Status,
        to: Status,
        at: Timestamp,
    ) {
        let execution = self.executions.live(id);
        let action = self.actions.of(execution);
        let worker = execution.assignment().and_then(|assignment| self.workers.get(&assignment.worker));
        self.effects.announcements.push(Announcement {
            id,
            action_ref: action.action_ref.clone(),
            attempt: execution.attempt,
            counts_as: counted.unwrap_or_else(|| execution.counts_as()),
            worker: worker.map(|worker| worker.name.clone()),
            from,
            to,
            at,
        });
    }
}

#[cfg(test)]
mod tests {
    use slotline_protocol::{ActionRef, Policy};

    use super::*;
    use crate::{Limits, RecoveredAction, Snapshot, StateKind};

    const ID: ExecutionId = ExecutionId(1);

    fn waiting() -> Snapshot {
        Snapshot {
            id: ID,
            action: ActionId(1),
            key: None,
            status: Status::Queued,
            place: ID.0,
            attempt: 0,
            tried: 0,
            failures: 0,
            losses: 0,
            enqueued_at: Timestamp::default(),
            queued_at: Timestamp::default(),
            not_before: None,
            keeps_slot: false,
            cancel_requested: false,
            is_bulky: false,
            lease: None,
        }
    }

    fn recovered(actions: impl IntoIterator<Item = RecoveredAction>) -> Scheduler {
        let config = Config { lease: Duration::from_secs(60), heartbeat: Duration::from_secs(5) };
        let counters = Counters { next_id: 2, next_fence: 1, next_action: 2 };
        Scheduler::recover(config, Epoch(1), counters, actions, [waiting()], [], Timestamp::default())
    }

    #[test]
    fn an_illegal_move_moves_nothing_and_is_reported_with_its_ids() {
        let mut scheduler = recovered([RecoveredAction {
            id: ActionId(1),
            action_ref: ActionRef::new("mail.send").expect("a name"),
            limits: Limits::from(&Policy::default()),
            paused: false,
            total_enqueued: 1,
            total_completed: 0,
        }]);
        assert_eq!(scheduler.apply(ID, Transition::Fired), None);
        assert_eq!(scheduler.snapshot(ID), Some(waiting()));
        let illegal = Illegal { state: StateKind::Waiting, transition: Transition::Fired };
        let reported = IllegalMove { id: ID, action: ActionId(1), attempt: 0, fence: None, illegal };
        let bugs = scheduler.effects().bugs.as_deref().expect("it is reported");
        assert_eq!((&bugs.illegal[..], &bugs.unplaced[..]), (&[reported][..], &[][..]));
    }

    #[test]
    fn an_execution_whose_action_is_not_in_the_journal_is_reported_and_left_alone() {
        let scheduler = recovered([]);
        assert_eq!(scheduler.snapshot(ID), None);
        let bugs = scheduler.effects().bugs.as_deref().expect("it is reported");
        assert_eq!(bugs.unplaced, [ID]);
    }
}
