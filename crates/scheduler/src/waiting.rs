//! Executions without a lease: how they come into a line, and how they leave it other than by a grant.
//!
//! Invariant: an execution in line has a timer for its queue time-out, if its action has one, and one that backs off
//! has a timer for the end of that; nobody else has one.

use std::sync::Arc;

use slotline_protocol::message::Failure;
use slotline_protocol::{ActionId, ExecutionId, Status, Timestamp, duration};

use crate::attempt::Ending;
use crate::deadline::Timer;
use crate::effect::{Accepted, RefusedRequest, Unacceptable};
use crate::execution::{AtWork, Event, Execution, Phase, State};
use crate::input::Token;
use crate::orders::UNSENT;
use crate::retry;
use crate::scheduler::Scheduler;

impl Scheduler {
    pub(crate) fn request(&mut self, token: Token, action_id: ActionId, key: Option<Arc<str>>, now: Timestamp) {
        let Some(action) = self.actions.get_mut(&action_id) else {
            self.effects.refused.push(RefusedRequest { token, reason: Unacceptable::UnknownAction });
            return;
        };
        if let Some(max_queue_length) = action.limits.max_queue_length
            && action.queue_length() as u64 >= max_queue_length
        {
            self.effects.refused.push(RefusedRequest { token, reason: Unacceptable::LineFull { max_queue_length } });
            return;
        }
        action.total_enqueued += 1;
        // It waits in the place of its number.
        let id = ExecutionId(self.new_place());
        self.executions.insert(id, Execution::requested(action_id, key, now));
        let position = self.join_line(id, now);
        self.announce(id, Status::Requested, Status::Queued, now);
        self.effects.accepted.push(Accepted { token, id, position });
    }

    /// The place behind everyone. Places and ids come from one counter, so a retry never stands where a request will.
    fn new_place(&mut self) -> i64 {
        self.counters.next_id += 1;
        self.counters.next_id - 1
    }

    /// Puts an execution that waits without a slot into its line, and arms its queue time-out.
    pub(crate) fn join_line(&mut self, id: ExecutionId, now: Timestamp) -> u64 {
        let Some(execution) = self.executions.get_mut(&id) else { return 0 };
        execution.set_queued_at(now);
        let Some(action) = self.actions.get_mut(&execution.action) else { return 0 };
        let position = action.enqueue(id, execution);
        if let Some(timeout) = action.limits.queue_timeout {
            self.deadlines.set(now + timeout, Timer::QueueTimeout(id));
        }
        self.pools.update_turn(action);
        self.effects.changed.insert(id);
        self.consider_ahead(id);
        position as u64
    }

    /// Clears the timer of an execution that is about to leave the line or its back-off.
    pub(crate) fn disarm(&mut self, id: ExecutionId) {
        let Some(execution) = self.executions.get(&id) else { return };
        match &execution.state {
            State::Leased(leased) if leased.ahead.is_none() => {}
            State::Waiting { .. } | State::Leased(_) => {
                let timeout = self.actions.get(&execution.action).and_then(|action| action.limits.queue_timeout);
                if let Some(timeout) = timeout {
                    self.deadlines.clear(execution.queued_at() + timeout, Timer::QueueTimeout(id));
                }
            }
            State::BackingOff { until, .. } => self.deadlines.clear(*until, Timer::BackoffOver(id)),
        }
    }

    pub(crate) fn cancel(&mut self, id: ExecutionId, reason: Option<String>, now: Timestamp) {
        let Some(execution) = self.executions.get_mut(&id) else { return };
        let from = execution.phase();
        if self.doubt.is_some() && matches!(from, Phase::Waiting | Phase::BackingOff) {
            // It may be out at a worker; the caller asks again.
            return;
        }
        match self.next_phase(id, Event::CancelAsked) {
            Some(Phase::Done(status)) => {
                let because = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
                self.settle_waiting(id, status, "cancelled", &format!("was cancelled in the line{because}"), now);
            }
            // It is asked already; heartbeats see to it that the worker knows.
            Some(Phase::Cancelling) if from == Phase::Cancelling => {}
            Some(Phase::Cancelling) => {
                self.announce(id, from.status(), Status::Cancelling, now);
                if let Some(leased) = self.executions.get_mut(&id).and_then(Execution::leased_mut) {
                    leased.at_work = AtWork::Cancelling { n: UNSENT, reason };
                }
                self.orders.cancel.push(id);
                self.effects.changed.insert(id);
            }
            Some(Phase::Waiting | Phase::Ahead | Phase::BackingOff | Phase::Scheduled | Phase::Running) | None => {}
        }
    }

    /// Settles an execution that has no lease; a slot that it kept is free again.
    fn settle_waiting(&mut self, id: ExecutionId, status: Status, code: &str, what: &str, now: Timestamp) {
        self.disarm(id);
        let Some(execution) = self.executions.get(&id) else { return };
        let action_id = execution.action;
        let Some(action) = self.actions.get_mut(&action_id) else { return };
        action.withdraw(id, execution);
        let error = Failure::new(code, format!("Execution {id} ({}) {what}", action.action_ref));
        self.settle(id, status, None, Ending { result: None, error: Some(error), ended_at: now }, now);
        self.offer(action_id);
    }

    /// Lets an execution wait for its next try, outside its line and with or without its slot.
    pub(crate) fn back_off(&mut self, id: ExecutionId, keeps_slot: bool, now: Timestamp) {
        let place = if keeps_slot { None } else { Some(self.new_place()) };
        let Some(execution) = self.executions.get_mut(&id) else { return };
        let Some(action) = self.actions.get_mut(&execution.action) else { return };
        let until = now + retry::backoff(&action.limits.retry, id, execution.failures);
        execution.state = State::BackingOff { until, keeps_slot };
        if let Some(place) = place {
            execution.set_place(place);
            action.set_back(id);
        }
        self.deadlines.set(until, Timer::BackoffOver(id));
        self.effects.changed.insert(id);
    }

    pub(crate) fn backoff_over(&mut self, id: ExecutionId, now: Timestamp) {
        let Some(Phase::Waiting) = self.next_phase(id, Event::BackoffOver) else { return };
        let Some(execution) = self.executions.get_mut(&id) else { return };
        let State::BackingOff { keeps_slot, .. } = execution.state else { return };
        execution.state = State::Waiting { keeps_slot };
        let (action_id, spot) = (execution.action, execution.spot(id));
        let Some(action) = self.actions.get_mut(&action_id) else { return };
        if keeps_slot {
            action.resuming.insert(spot);
            let has_surplus = action.has_surplus(&execution.key);
            self.effects.changed.insert(id);
            if has_surplus {
                self.shed_surplus(action_id, now);
            }
            self.offer(action_id);
        } else {
            action.backing_off.remove(&id);
            self.join_line(id, now);
        }
    }

    pub(crate) fn queue_timed_out(&mut self, id: ExecutionId, now: Timestamp) {
        if self.executions.get(&id).is_some_and(|execution| execution.ahead().is_some()) {
            // Once it is back, its time is over at once.
            return self.recall(id);
        }
        let Some(Phase::Done(status)) = self.next_phase(id, Event::QueueTimedOut) else { return };
        let action = self.executions.get(&id).and_then(|execution| self.actions.get(&execution.action));
        let Some(timeout) = action.and_then(|action| action.limits.queue_timeout) else { return };
        let length = duration::format(timeout);
        let what = format!("has timed out because it was waiting in the line longer than {length}.");
        self.settle_waiting(id, status, "queue_timeout", &what, now);
    }
}
