//! From the journal to a scheduler: what a new leader starts with.
//!
//! Nobody is declared lost because of what happened before: every silence counts from the first session.

use slotline_protocol::message::{AttemptKey, Holding};
use slotline_protocol::{ActionId, ActionRef, Epoch, Incarnation, Status, Timestamp};

use crate::action::Action;
use crate::deadline::Timer;
use crate::execution::{Ahead, AtWork, Execution, Leased, State};
use crate::limits::Limits;
use crate::orders::FORMER;
use crate::scheduler::{Config, Counters, Scheduler};
use crate::snapshot::Snapshot;
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
            let mut action = Action::new(id, action_ref, limits, paused);
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
        let Snapshot { id, action: action_id, keeps_slot, not_before, .. } = snapshot;
        let Some(action) = self.actions.get_mut(&action_id) else { return };
        let state = match (&snapshot.lease, not_before) {
            (Some(lease), _) => {
                let worker = self
                    .workers
                    .entry(lease.incarnation)
                    .or_insert_with(|| Worker::remembered(lease.worker.clone(), now));
                match lease.after {
                    None => worker.leases.insert(id),
                    Some(_) => worker.ahead.insert(id),
                };
                State::Leased(Leased {
                    worker: lease.incarnation,
                    fence: lease.fence,
                    n: FORMER,
                    sent_at: now,
                    scheduled_at: lease.scheduled_at,
                    started_at: lease.started_at,
                    at_work: match snapshot.status {
                        Status::Cancelling => AtWork::Cancelling { n: FORMER, reason: None },
                        Status::Running => AtWork::Running,
                        Status::Requested
                        | Status::Queued
                        | Status::Scheduled
                        | Status::Completed
                        | Status::Failed
                        | Status::Timeout
                        | Status::Cancelled => AtWork::Scheduled,
                    },
                    ahead: lease.after.map(|after| Ahead { after, recall: None }),
                })
            }
            (None, Some(until)) => State::BackingOff { until, keeps_slot },
            (None, None) => State::Waiting { keeps_slot },
        };
        let is_ahead = matches!(&state, State::Leased(leased) if leased.ahead.is_some());
        let waits = is_ahead || matches!(state, State::Waiting { keeps_slot: false });
        let holds_slot = keeps_slot || !is_ahead && matches!(state, State::Leased(_));
        let execution = Execution::recovered(&snapshot, state);
        if let Some(after) = snapshot.lease.as_ref().and_then(|lease| lease.after) {
            self.followers.insert(after, id);
        }
        if holds_slot {
            action.take_slot(id, &snapshot.key);
        }
        match execution.state {
            State::BackingOff { until, keeps_slot } => {
                self.deadlines.set(until, Timer::BackoffOver(id));
                if !keeps_slot {
                    action.set_back(id);
                }
            }
            State::Waiting { keeps_slot: true } => {
                action.resuming.insert(execution.spot(id));
            }
            State::Waiting { keeps_slot: false } | State::Leased(_) => {}
        }
        self.executions.insert(id, execution);
        if waits && let Some(execution) = self.executions.get(&id) {
            action.enqueue(id, execution);
            if is_ahead {
                action.send_ahead(id, &snapshot.key);
            }
        }
    }

    /// What the scheduler believes a worker holds; for checks that compare the two sides.
    pub fn leases_of(&self, incarnation: Incarnation) -> Vec<(AttemptKey, Holding)> {
        let Some(worker) = self.workers.get(&incarnation) else { return Vec::new() };
        let holding = |at_work: &AtWork| match at_work {
            AtWork::Scheduled => Holding::Pending,
            AtWork::Running => Holding::Running,
            AtWork::Cancelling { .. } => Holding::Cancelling,
        };
        let told = |id| {
            let execution = self.executions.get(&id)?;
            Some(((id, execution.attempt), holding(&execution.leased()?.at_work)))
        };
        worker.held().filter_map(told).collect()
    }
}
