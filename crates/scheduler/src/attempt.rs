//! Attempts: what their workers report of them, and what their end means for execution, slot and line.
//!
//! Every grant has an attempt number and a fence of its own, so `(execution, attempt)` names one grant for ever: also
//! an attempt that was handed back before it began is never dispatched again under its number.
//! Not here: attempts that end with their incarnation (`loss`).

use slotline_protocol::message::{AttemptKey, Failure, Json};
use slotline_protocol::{ExecutionId, Fence, Incarnation, OutcomeKind, Status, Timestamp};

use crate::effect::{AttemptEnded, Settled};
use crate::execution::{Execution, judge};
use crate::input::Outcome;
use crate::scheduler::Scheduler;
use crate::snapshot::Lease;
use crate::state::{Assignment, Consequence, Moved, State, StateKind, Transition};
use crate::view::lease_of;

/// A worker's reason for handing an attempt back: it takes no more, whatever its last heartbeat reported.
const DRAIN: &str = "drain";
/// A worker's reason for handing an attempt back: it does not serve the action after all.
const UNKNOWN_ACTION: &str = "unknown_action";
/// A worker's reason for handing an attempt back: it is short of something, and takes no more than what it has.
const SHORTAGE: &str = "shortage";

/// What is known of an attempt, or of a wait, that is over.
pub(crate) struct EndDetails {
    /// As its worker reported; `None`: as was known before.
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) result: Option<Json>,
    pub(crate) error: Option<Failure>,
    pub(crate) ended_at: Timestamp,
}

impl EndDetails {
    /// For an end that its worker did not report.
    pub(crate) fn without_result(error: Option<Failure>, ended_at: Timestamp) -> Self {
        Self { started_at: None, result: None, error, ended_at }
    }
}

impl Scheduler {
    pub(crate) fn started(&mut self, key: AttemptKey, fence: Fence, started_at: Timestamp, now: Timestamp) {
        // The start of an attempt that is over here changes nothing.
        let Some(assignment) = self.assigned(key, fence) else { return };
        let (incarnation, is_known) = (assignment.worker, assignment.started_at.is_some());
        if let Some(moved) = self.apply(key.0, Transition::Started { at: Some(started_at) })
            && !(is_known && moved.from == moved.to)
        {
            self.effects.changed.insert(key.0);
        }
        self.heard_from(incarnation, now);
    }

    /// Notes that the attempt which is out has begun.
    pub(crate) fn runs(&mut self, id: ExecutionId) {
        match self.executions.live_mut(id).apply(Transition::Started { at: None }) {
            Ok(moved) if moved.from != moved.to => _ = self.effects.changed.insert(id),
            Ok(_) => {}
            Err(illegal) => self.report(id, *illegal),
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
        if self.is_in_doubt() && self.assigned(key, fence).is_some() {
            self.fire_if_ahead(key.0, now);
        }
        let Some(assignment) = self.assigned(key, fence) else { return self.forget(key, incarnation) };
        let round_trip = outcome.held.map(|held| now.since(assignment.scheduled_at).saturating_sub(held));
        let execution = self.executions.live_mut(key.0);
        // Only what is being cancelled ends before it began. Else the attempt before it has completed; both completions
        // are repeated until they are recorded.
        if let Some(ahead) = execution.ahead()
            && (ahead.cancelling.is_none() || outcome.kind != OutcomeKind::Cancelled)
        {
            return;
        }
        self.orders.recorded(incarnation, key);
        execution.failures += u32::from(matches!(outcome.kind, OutcomeKind::Failed | OutcomeKind::Timeout));
        let limits = &self.actions.of(execution).limits;
        let verdict = judge(key.0, outcome.kind, execution.failures, limits, now);
        let Outcome { kind, result, error, started_at, ended_at, held: _ } = outcome;
        self.conclude(key.0, verdict, Some(kind), EndDetails { started_at, result, error, ended_at }, now);
        if kind == OutcomeKind::Completed {
            self.fire(fence, round_trip, now);
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
        if started && self.is_in_doubt() && self.assigned(key, fence).is_some() {
            self.fire_if_ahead(key.0, now);
        }
        if self.assigned(key, fence).is_none() {
            self.forget(key, incarnation);
            return;
        }
        let kind = self.executions.live(key.0).kind();
        let is_ahead = self.executions.live(key.0).ahead().is_some();
        if is_ahead && started {
            // The attempt before it has completed; that completion and this return are repeated until recorded.
            return;
        }
        self.orders.recorded(incarnation, key);
        match reason {
            DRAIN => {
                if let Some(worker) = self.workers.get_mut(&incarnation) {
                    worker.draining = true;
                }
            }
            UNKNOWN_ACTION => self.disown(incarnation, key.0),
            SHORTAGE => {
                // Until its next heartbeat reports its capacity.
                if let Some(worker) = self.workers.get_mut(&incarnation) {
                    let others = worker.leases.iter().filter(|id| **id != key.0).count();
                    worker.capacity = worker.capacity.min(u32::try_from(others).unwrap_or(u32::MAX));
                }
            }
            _ => {}
        }
        if kind == StateKind::Ahead {
            self.take_back(key.0);
        } else if started {
            self.runs(key.0);
            self.lose_attempt(key.0, false, "was handed back by its worker", now);
        } else {
            self.conclude(key.0, Consequence::Requeue, None, EndDetails::without_result(None, now), now);
        }
    }

    /// The attempt of this very grant, if it is out.
    fn assigned(&self, (id, attempt): AttemptKey, fence: Fence) -> Option<&Assignment> {
        let execution = self.executions.get(&id).filter(|execution| execution.attempt == attempt)?;
        execution.assignment().filter(|assignment| assignment.fence == fence)
    }

    /// Lets a worker forget an attempt that is over here; one with a live lease must be reported under its own fence.
    pub(crate) fn forget(&mut self, key: AttemptKey, incarnation: Incarnation) {
        let execution = self.executions.get(&key.0).filter(|execution| execution.attempt == key.1);
        let assignment = execution.and_then(Execution::assignment);
        if assignment.is_none_or(|assignment| assignment.worker != incarnation) {
            self.orders.recorded(incarnation, key);
        }
    }

    /// The worker does not know the action: it is not offered any of it until it lists other actions.
    fn disown(&mut self, incarnation: Incarnation, id: ExecutionId) {
        let action_ref = self.actions.of(self.executions.live(id)).action_ref.clone();
        self.pools.unserve(incarnation, &action_ref, &mut self.actions);
    }

    /// Ends the lease of `id` and moves the execution on by `verdict`. `outcome` is how the attempt ended; `None` if it
    /// never began, and so leaves no record.
    pub(crate) fn conclude(
        &mut self,
        id: ExecutionId,
        verdict: Consequence,
        outcome: Option<OutcomeKind>,
        ending: EndDetails,
        now: Timestamp,
    ) {
        let execution = self.executions.live_mut(id);
        let (attempt, action_id, counts_as) = (execution.attempt, execution.action, execution.counts_as());
        let after = execution.ahead().map(|ahead| ahead.after);
        let mut lease = lease_of(execution, &self.workers).expect("what ends is out");
        lease.started_at = ending.started_at.or(lease.started_at);
        let Moved { from, to: next } = match execution.apply(Transition::AttemptEnded(verdict)) {
            Ok(moved) => moved,
            Err(illegal) => return self.report(id, *illegal),
        };
        let action = self.actions.of_mut(execution);
        if let (Some(OutcomeKind::Completed | OutcomeKind::Failed | OutcomeKind::Timeout), Some(began)) =
            (outcome, lease.started_at)
        {
            action.activity.ran(ending.ended_at.since(began));
        }
        let keeps_slot = matches!(execution.state(), State::BackingOff { keeps_slot: true, .. });
        if after.is_some() {
            action.withdraw(id, execution);
        } else if !keeps_slot {
            action.free_slot(id, &execution.key);
        }
        if let Some(after) = after {
            self.unchain(id, lease.incarnation, after);
            self.leave_line(id);
        }
        let incarnation = lease.incarnation;
        if let StateKind::Done(status) = next {
            self.settle(id, from.status(), status, Some(lease), ending, now);
        } else {
            if let Some(outcome) = outcome {
                self.note_attempt(id, attempt, lease, outcome, from, ending);
            }
            if let State::BackingOff { until, keeps_slot } = *self.executions.live(id).state() {
                self.back_off(id, until, keeps_slot);
            } else {
                self.join_line(id, now);
            }
            self.announce_of(id, Some(counts_as), from.status(), Status::Queued, now);
        }
        self.holder_mut(incarnation).leases.remove(&id);
        self.update_room(incarnation);
        self.offer(action_id);
    }

    /// Records an attempt that did not settle its execution. `from`: the execution's state before the attempt ended.
    fn note_attempt(
        &mut self,
        id: ExecutionId,
        attempt: u32,
        mut lease: Lease,
        outcome: OutcomeKind,
        from: StateKind,
        ending: EndDetails,
    ) {
        if outcome == OutcomeKind::Lost && from == StateKind::Running {
            // Only a heartbeat has shown that it began, and the time was lost with its worker: it began no sooner than
            // its grant.
            lease.started_at.get_or_insert(lease.scheduled_at);
        }
        let has_begun = outcome != OutcomeKind::Lost || lease.started_at.is_some();
        let execution = self.executions.live_mut(id);
        execution.tried += u32::from(has_begun);
        let (action, queued_at) = (execution.action, execution.queued_at());
        let EndDetails { result, error, ended_at, .. } = ending;
        let ended = AttemptEnded { id, action, attempt, queued_at, lease, outcome, result, error, ended_at };
        self.effects.attempts.push(ended);
    }

    /// Ends an execution, which holds no slot any more, for good.
    pub(crate) fn settle(
        &mut self,
        id: ExecutionId,
        from: Status,
        status: Status,
        lease: Option<Lease>,
        ending: EndDetails,
        now: Timestamp,
    ) {
        self.announce(id, from, status, now);
        let execution = self.executions.remove(&id).expect("it was live a moment ago");
        if let Some(doubt) = &mut self.doubt {
            doubt.settled(id);
        }
        self.effects.changed.remove(&id);
        let action = self.actions.of_mut(&execution);
        action.total_completed += 1;
        action.activity.failed += u64::from(matches!(status, Status::Failed | Status::Timeout));
        let EndDetails { result, mut error, ended_at, .. } = ending;
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
            queued_at: execution.queued_at(),
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
