//! From the journal to a scheduler: what a new leader starts with.
//!
//! No worker is declared lost because of what happened before: every silence counts from the first session.

use slotline_protocol::message::{AttemptKey, Holding};
use slotline_protocol::{ActionId, ActionRef, Epoch, Incarnation, Status, Timestamp};

use crate::action::ActionLines;
use crate::deadline::Timer;
use crate::execution::Execution;
use crate::limits::Limits;
use crate::orders::{FORMER, OrderNumbers};
use crate::scheduler::{Config, Counters, Scheduler};
use crate::snapshot::{Lease, Snapshot};
use crate::state::{Ahead, Assignment, AtWork, Cancelling, Leased, State, StateKind};
use crate::worker::Worker;

/// An action as the journal has it.
#[derive(Clone, Debug)]
pub struct RecoveredAction {
    pub id: ActionId,
    pub action_ref: ActionRef,
    pub limits: Limits,
    pub paused: bool,
    pub total_enqueued: u64,
    pub total_completed: u64,
}

impl Scheduler {
    /// Rebuilds the scheduler from the journal as it stood after the epoch was raised. `live` ascends by place.
    pub fn recover(
        config: Config,
        epoch: Epoch,
        counters: Counters,
        actions: impl IntoIterator<Item = RecoveredAction>,
        live: impl IntoIterator<Item = Snapshot>,
        ended: impl IntoIterator<Item = Incarnation>,
        now: Timestamp,
    ) -> Self {
        let mut scheduler = Self::new(config, epoch, counters);
        for recovered in actions {
            let RecoveredAction { id, action_ref, limits, paused, total_enqueued, total_completed } = recovered;
            let mut action = ActionLines::new(id, action_ref, limits, paused);
            action.total_enqueued = total_enqueued;
            action.total_completed = total_completed;
            scheduler.pools.admit(&mut action);
            scheduler.actions.insert(id, action);
        }
        for incarnation in ended {
            scheduler.ended.insert(incarnation);
        }
        for snapshot in live {
            scheduler.restore(snapshot, now);
        }
        let ids: Vec<_> = scheduler.actions.keys().copied().collect();
        for id in ids {
            scheduler.rearm_queue_timeouts(id, None);
            scheduler.shed_surplus(id, now);
            scheduler.recall_misfits(id);
            scheduler.offer(id);
        }
        scheduler
    }

    fn restore(&mut self, snapshot: Snapshot, now: Timestamp) {
        let Snapshot { id, keeps_slot, .. } = snapshot;
        // The journal deletes no action with live executions: it was changed by hand.
        let Some(action) = self.actions.get_mut(&snapshot.action) else {
            self.effects.bugs.get_or_insert_default().unplaced.push(id);
            return;
        };
        let state = state_of(&snapshot);
        let is_ahead = matches!(state, State::Ahead(_));
        let waits = is_ahead || matches!(state, State::Waiting { keeps_slot: false });
        let holds_slot = keeps_slot || matches!(state, State::Leased(_));
        if let Some(lease) = &snapshot.lease {
            let remembered = || Worker::remembered(lease.worker.clone(), now);
            let worker = self.workers.entry(lease.incarnation).or_insert_with(remembered);
            match lease.after {
                None => worker.leases.insert(id),
                Some(_) => worker.ahead.insert(id),
            };
            self.followers.extend(lease.after.map(|after| (after, id)));
        }
        let execution = Execution::recovered(&snapshot, state, orders_of(&snapshot, now));
        if holds_slot {
            action.take_slot(id, &snapshot.key);
        }
        match *execution.state() {
            State::BackingOff { until, keeps_slot } => {
                self.deadlines.set(until, Timer::BackoffOver(id));
                if !keeps_slot {
                    action.set_back(id);
                }
            }
            State::Waiting { keeps_slot: true } => {
                action.resuming.insert(execution.spot(id));
            }
            State::Waiting { keeps_slot: false } | State::Ahead(_) | State::Leased(_) => {}
        }
        if waits {
            action.enqueue(id, &execution);
        }
        if is_ahead {
            action.send_ahead(id, &snapshot.key, now);
        }
        self.executions.insert(id, execution, snapshot.is_bulky);
    }

    /// What the scheduler believes a worker holds; for checks that compare the two sides.
    pub fn leases_of(&self, incarnation: Incarnation) -> Vec<(AttemptKey, Holding)> {
        // An incarnation that this leader does not know holds nothing.
        let Some(worker) = self.workers.get(&incarnation) else { return Vec::new() };
        let held = |id| {
            let execution = self.executions.live(id);
            let holding = match execution.kind() {
                StateKind::Running => Holding::Running,
                StateKind::Cancelling => Holding::Cancelling,
                StateKind::Waiting
                | StateKind::Ahead
                | StateKind::BackingOff
                | StateKind::Scheduled
                | StateKind::Done(_) => Holding::Pending,
            };
            ((id, execution.attempt), holding)
        };
        worker.held().map(held).collect()
    }
}

/// Where an execution stands by what the journal keeps of it.
fn state_of(snapshot: &Snapshot) -> State {
    let keeps_slot = snapshot.keeps_slot;
    let Some(lease) = &snapshot.lease else {
        return match snapshot.not_before {
            Some(until) => State::BackingOff { until, keeps_slot },
            None => State::Waiting { keeps_slot },
        };
    };
    let Lease { incarnation: worker, fence, scheduled_at, started_at, .. } = *lease;
    let assignment = Assignment { worker, fence, scheduled_at, started_at };
    // The reason is known only to the leader that got the cancellation.
    let cancelling = (snapshot.status == Status::Cancelling).then_some(Cancelling { reason: None });
    match (lease.after, cancelling) {
        (Some(after), cancelling) => State::Ahead(Ahead { assignment, after, cancelling }),
        (None, Some(cancelling)) => State::Leased(Leased { assignment, at_work: AtWork::Cancelling(cancelling) }),
        (None, None) if snapshot.status == Status::Running => {
            State::Leased(Leased { assignment, at_work: AtWork::Running })
        }
        (None, None) => State::Leased(Leased { assignment, at_work: AtWork::Scheduled }),
    }
}

/// What earlier leaders may have sent about an attempt that is out. The journal does not keep recalls.
fn orders_of(snapshot: &Snapshot, now: Timestamp) -> OrderNumbers {
    if snapshot.lease.is_none() {
        return OrderNumbers::NONE;
    }
    let cancel = (snapshot.status == Status::Cancelling).then_some(FORMER);
    OrderNumbers { cancel, ..OrderNumbers::of_dispatch(FORMER, now) }
}
