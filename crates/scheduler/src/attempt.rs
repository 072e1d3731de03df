//! Attempts: what their workers say of them, and what their end means for execution, slot and line.
//!
//! Every grant has an attempt number and a fence of its own, so `(execution, attempt)` names one grant for ever: also
//! an attempt that was handed back before it began is never dispatched again under its number.
//! Not here: attempts that end with their incarnation (`loss`).

use slotline_protocol::message::{AttemptKey, Failure, Json};
use slotline_protocol::{ExecutionId, Fence, Incarnation, OutcomeKind, Status, Timestamp};

use crate::effect::{AttemptEnded, Settled};
use crate::execution::{AtWork, Event, Execution, Leased, Phase, State, Verdict, judge};
use crate::input::Outcome;
use crate::scheduler::Scheduler;
use crate::snapshot::Lease;

/// A worker's reason for handing an attempt back: it takes no more, whatever its last heartbeat said.
const DRAIN: &str = "drain";
/// A worker's reason for handing an attempt back: it does not serve the action after all.
const UNKNOWN_ACTION: &str = "unknown_action";
/// A worker's reason for handing an attempt back: it is short of something, and takes no more than what it has.
const SHORTAGE: &str = "shortage";

/// What is known of an attempt, or of a wait, that is over.
pub(crate) struct Ending {
    pub(crate) result: Option<Json>,
    pub(crate) error: Option<Failure>,
    pub(crate) ended_at: Timestamp,
}

impl Scheduler {
    pub(crate) fn started(&mut self, key: AttemptKey, fence: Fence, started_at: Timestamp, now: Timestamp) {
        let Some(leased) = self.leased_by(key, fence) else { return };
        let incarnation = leased.worker;
        // It says so before the one before it is known to have completed: noted, and believed then.
        let is_ahead = leased.ahead.is_some();
        if leased.started_at.is_none() {
            leased.started_at = Some(started_at);
            self.effects.changed.insert(key.0);
        }
        if !is_ahead {
            self.runs(key.0);
        }
        self.heard_from(incarnation, now);
    }

    /// Notes that the attempt which is out has begun.
    pub(crate) fn runs(&mut self, id: ExecutionId) {
        let next = self.next_phase(id, Event::Started);
        if let Some(leased) = self.executions.get_mut(&id).and_then(Execution::leased_mut)
            && leased.at_work == AtWork::Scheduled
            && next == Some(Phase::Running)
        {
            leased.at_work = AtWork::Running;
            self.effects.changed.insert(id);
        }
    }

    pub(crate) fn completed(
        &mut self,
        key: AttemptKey,
        fence: Fence,
        incarnation: Incarnation,
        outcome: Outcome,
        now: Timestamp,
    ) {
        self.heard_from(incarnation, now);
        if self.is_unheard_of(key, fence) {
            return;
        }
        if self.is_in_doubt() && self.leased_by(key, fence).is_some() {
            self.fire_if_ahead(key.0, now);
        }
        let Some(leased) = self.leased_by(key, fence) else {
            self.forget(key, incarnation);
            return;
        };
        // Only what was cancelled ends before it began. Else the one before it has completed, which is told again until it
        // is known, and so is this.
        if leased.ahead.is_some() && outcome.kind != OutcomeKind::Cancelled {
            return;
        }
        leased.started_at = outcome.started_at.or(leased.started_at);
        self.orders.recorded(incarnation, key);
        let Some(execution) = self.executions.get_mut(&key.0) else { return };
        let Some(action) = self.actions.get(&execution.action) else { return };
        execution.failures += u32::from(matches!(outcome.kind, OutcomeKind::Failed | OutcomeKind::Timeout));
        let verdict = judge(outcome.kind, execution.failures, &action.limits);
        let Outcome { kind, result, error, ended_at, .. } = outcome;
        self.conclude(key.0, verdict, Some(kind), Ending { result, error, ended_at }, now);
        if kind == OutcomeKind::Completed {
            self.fire(fence, now);
        }
    }

    pub(crate) fn returned(
        &mut self,
        key: AttemptKey,
        fence: Fence,
        incarnation: Incarnation,
        started: bool,
        reason: &str,
        now: Timestamp,
    ) {
        self.heard_from(incarnation, now);
        if self.is_unheard_of(key, fence) {
            return;
        }
        if started && self.is_in_doubt() && self.leased_by(key, fence).is_some() {
            self.fire_if_ahead(key.0, now);
        }
        let Some(leased) = self.leased_by(key, fence) else {
            self.forget(key, incarnation);
            return;
        };
        let is_ahead = leased.ahead.is_some();
        if is_ahead && started {
            // The one before it has completed, and is told again until that is known; so is this.
            return;
        }
        let is_cancelling = matches!(leased.at_work, AtWork::Cancelling { .. });
        self.orders.recorded(incarnation, key);
        match reason {
            DRAIN => {
                if let Some(worker) = self.workers.get_mut(&incarnation) {
                    worker.draining = true;
                }
            }
            UNKNOWN_ACTION => self.disown(incarnation, key.0),
            SHORTAGE => {
                // Until its next heartbeat says how many it takes.
                if let Some(worker) = self.workers.get_mut(&incarnation) {
                    let others = worker.leases.iter().filter(|id| **id != key.0).count();
                    worker.capacity = worker.capacity.min(u32::try_from(others).unwrap_or(u32::MAX));
                }
            }
            _ => {}
        }
        if is_ahead && !is_cancelling {
            self.take_back(key.0);
        } else if started {
            self.runs(key.0);
            self.lose_attempt(key.0, false, "was handed back by its worker", now);
        } else {
            let ending = Ending { result: None, error: None, ended_at: now };
            self.conclude(key.0, Verdict::Requeue, None, ending, now);
        }
    }

    /// The lease of this very grant, if it is live.
    fn leased_by(&mut self, (id, attempt): AttemptKey, fence: Fence) -> Option<&mut Leased> {
        let execution = self.executions.get_mut(&id).filter(|execution| execution.attempt == attempt)?;
        execution.leased_mut().filter(|leased| leased.fence == fence)
    }

    /// Lets a worker forget an attempt that is over here; one whose lease is live must be told under its own fence.
    pub(crate) fn forget(&mut self, key: AttemptKey, incarnation: Incarnation) {
        let execution = self.executions.get(&key.0).filter(|execution| execution.attempt == key.1);
        let leased = execution.and_then(Execution::leased);
        if leased.is_none_or(|leased| leased.worker != incarnation) {
            self.orders.recorded(incarnation, key);
        }
    }

    /// Its worker does not know the action: it is not offered any of it until it lists other actions.
    fn disown(&mut self, incarnation: Incarnation, id: ExecutionId) {
        let action = self.executions.get(&id).and_then(|execution| self.actions.get(&execution.action));
        if let Some(action_ref) = action.map(|action| action.action_ref.clone()) {
            self.pools.unserve(incarnation, &action_ref, &mut self.actions);
        }
    }

    /// Ends the lease of `id` and moves the execution on as `verdict` says. `outcome` is how the attempt ended; `None` if
    /// it never began, and so leaves no record.
    pub(crate) fn conclude(
        &mut self,
        id: ExecutionId,
        verdict: Verdict,
        outcome: Option<OutcomeKind>,
        ending: Ending,
        now: Timestamp,
    ) {
        let Some(next) = self.next_phase(id, Event::AttemptEnded(verdict)) else { return };
        let Some(execution) = self.executions.get(&id) else { return };
        let (from, attempt, action_id, key) =
            (execution.status(), execution.attempt, execution.action, execution.key.clone());
        let counts_as = execution.counts_as();
        let lease = self.lease(execution);
        let is_ahead = execution.ahead().is_some();
        let is_running = execution.leased().is_some_and(|leased| leased.at_work == AtWork::Running);
        if is_ahead {
            self.unchain(id);
            self.disarm(id);
        }
        let Some(action) = self.actions.get_mut(&action_id) else { return };
        if is_ahead && let Some(execution) = self.executions.get(&id) {
            action.withdraw(id, execution);
        }
        let keeps_slot = next == Phase::BackingOff && action.limits.retry.keep_place;
        if !keeps_slot {
            action.free_slot(id, &key);
        }
        if let Phase::Done(status) = next {
            self.settle(id, status, lease.clone(), ending, now);
        } else {
            if let (Some(outcome), Some(lease)) = (outcome, &lease) {
                let Ending { result, error, ended_at } = ending;
                let mut lease = lease.clone();
                if outcome == OutcomeKind::Lost && is_running {
                    // Only a heartbeat has shown that it began, and its worker's stamp of when went with it: no sooner
                    // than it was granted.
                    lease.started_at.get_or_insert(lease.scheduled_at);
                }
                let has_begun = outcome != OutcomeKind::Lost || lease.started_at.is_some();
                if has_begun && let Some(execution) = self.executions.get_mut(&id) {
                    execution.tried += 1;
                }
                self.effects.attempts.push(AttemptEnded { id, attempt, lease, outcome, result, error, ended_at });
            }
            if next == Phase::BackingOff {
                self.back_off(id, keeps_slot, now);
            } else {
                debug_assert_eq!(next, Phase::Waiting, "an attempt that ended is not at work");
                if let Some(execution) = self.executions.get_mut(&id) {
                    execution.state = State::Waiting { keeps_slot: false };
                }
                self.join_line(id, now);
            }
            self.announce_of(id, Some(counts_as), from, Status::Queued, now);
        }
        if let Some(lease) = lease {
            if let Some(worker) = self.workers.get_mut(&lease.incarnation) {
                worker.leases.remove(&id);
            }
            self.update_room(lease.incarnation);
        }
        self.offer(action_id);
    }

    /// Ends an execution, which holds no slot any more, for good.
    pub(crate) fn settle(
        &mut self,
        id: ExecutionId,
        status: Status,
        lease: Option<Lease>,
        ending: Ending,
        now: Timestamp,
    ) {
        let Some(from) = self.executions.get(&id).map(Execution::status) else { return };
        self.announce(id, from, status, now);
        let Some(execution) = self.executions.remove(&id) else { return };
        if let Some(doubt) = &mut self.doubt {
            doubt.settled(id);
        }
        self.effects.changed.remove(&id);
        let Some(action) = self.actions.get_mut(&execution.action) else { return };
        action.total_completed += 1;
        let Ending { result, mut error, ended_at } = ending;
        if status == Status::Completed {
            error = None;
        } else if status == Status::Cancelled && error.is_none() {
            error = Some(Failure::new("cancelled", format!("Execution {id} ({}) was cancelled", action.action_ref)));
        }
        self.effects.settled.push(Settled {
            id,
            action: execution.action,
            action_ref: action.action_ref.clone(),
            status,
            attempt: execution.attempt,
            counts_as: execution.tried + u32::from(lease.is_some()),
            failures: execution.failures,
            losses: execution.losses,
            lease,
            result,
            error,
            ended_at,
        });
    }
}
