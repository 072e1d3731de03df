//! Executions without a lease: how they come into a line, and how they leave it other than by a grant.
//!
//! Invariant: an execution in line has a timer for its queue time-out, if its action has one, and one that backs off
//! has a timer for the end of that; no other execution has one.

use std::sync::Arc;

use slotline_protocol::message::Failure;
use slotline_protocol::{ActionId, ExecutionId, Status, Timestamp, duration};

use crate::attempt::EndDetails;
use crate::deadline::Timer;
use crate::effect::{Enqueued, RefusedRequest, Unacceptable};
use crate::execution::Execution;
use crate::input::RequestToken;
use crate::orders::UNSENT;
use crate::scheduler::Scheduler;
use crate::state::{Moved, State, StateKind, Transition};
use crate::window::is_bulky;

impl Scheduler {
    pub(crate) fn request(
        &mut self,
        token: RequestToken,
        action_id: ActionId,
        key: Option<Arc<str>>,
        bytes: usize,
        now: Timestamp,
    ) {
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
        self.executions.insert(id, Execution::requested(action_id, key, now), is_bulky(bytes));
        let position = self.join_line(id, now);
        self.announce(id, Status::Requested, Status::Queued, now);
        self.effects.accepted.push(Enqueued { token, id, position });
    }

    /// The place behind all others. Places and ids come from one counter, so a retry never stands where a request will.
    fn new_place(&mut self) -> i64 {
        self.counters.next_id += 1;
        self.counters.next_id - 1
    }

    /// Puts an execution that waits without a slot into its line, and arms its queue time-out.
    pub(crate) fn join_line(&mut self, id: ExecutionId, now: Timestamp) -> u64 {
        let execution = self.executions.live_mut(id);
        execution.set_queued_at(now);
        let action = self.actions.of_mut(execution);
        let position = action.enqueue(id, execution);
        if let Some(timeout) = action.limits.queue_timeout {
            self.deadlines.set(now + timeout, Timer::QueueTimeout(id));
        }
        self.pools.update_turn(action);
        self.effects.changed.insert(id);
        if action.runs_ahead() {
            self.consider_ahead(id);
        }
        position as u64
    }

    /// Clears the timer of an execution that left the line.
    pub(crate) fn leave_line(&mut self, id: ExecutionId) {
        let execution = self.executions.live(id);
        if let Some(timeout) = self.actions.of(execution).limits.queue_timeout {
            self.deadlines.clear(execution.queued_at() + timeout, Timer::QueueTimeout(id));
        }
    }

    /// The timer of an execution that waits in its line or backs off.
    pub(crate) fn timer_of(&self, id: ExecutionId) -> Option<(Timestamp, Timer)> {
        let execution = self.executions.live(id);
        match *execution.state() {
            State::Waiting { .. } | State::Ahead(_) => {
                let timeout = self.actions.of(execution).limits.queue_timeout?;
                Some((execution.queued_at() + timeout, Timer::QueueTimeout(id)))
            }
            State::BackingOff { until, .. } => Some((until, Timer::BackoffOver(id))),
            State::Leased(_) => None,
        }
    }

    pub(crate) fn cancel(&mut self, id: ExecutionId, reason: Option<String>, now: Timestamp) {
        // What has settled stays as it ended.
        let Some(execution) = self.executions.get(&id) else { return };
        if self.doubt.is_some() && execution.assignment().is_none() {
            // It may be out at a worker; the caller asks again.
            return;
        }
        let Some(moved) = self.apply(id, Transition::CancelAsked { reason: reason.clone() }) else { return };
        if let StateKind::Done(status) = moved.to {
            let because = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
            self.settle_waiting(id, status, "cancelled", &format!("was cancelled in the line{because}"), now);
        } else if moved.from != moved.to {
            self.announce(id, moved.from.status(), Status::Cancelling, now);
            self.executions.live_mut(id).orders.cancel = Some(UNSENT);
            self.orders.cancel.push(id);
            self.effects.changed.insert(id);
        } // Otherwise it is asked already; heartbeats see to it that the worker knows.
    }

    /// Settles an execution that has no lease; a slot that it kept is free again.
    fn settle_waiting(&mut self, id: ExecutionId, status: Status, code: &str, what: &str, now: Timestamp) {
        if let Some((at, timer)) = self.timer_of(id) {
            self.deadlines.clear(at, timer);
        }
        let execution = self.executions.live(id);
        let action_id = execution.action;
        let action = self.actions.of_mut(execution);
        action.withdraw(id, execution);
        let error = Failure::new(code, format!("Execution {id} ({}) {what}", action.action_ref));
        self.settle(id, Status::Queued, status, None, EndDetails::without_result(Some(error), now), now);
        self.offer(action_id);
    }

    /// Lets an execution that backs off wait for its next try, outside its line and with or without its slot.
    pub(crate) fn back_off(&mut self, id: ExecutionId, until: Timestamp, keeps_slot: bool) {
        if !keeps_slot {
            let place = self.new_place();
            let execution = self.executions.live_mut(id);
            execution.set_place(place);
            self.actions.of_mut(execution).set_back(id);
        }
        self.deadlines.set(until, Timer::BackoffOver(id));
        self.effects.changed.insert(id);
    }

    pub(crate) fn backoff_over(&mut self, id: ExecutionId, now: Timestamp) {
        if self.apply(id, Transition::BackoffOver).is_none() {
            return;
        }
        let execution = self.executions.live(id);
        let (action_id, spot) = (execution.action, execution.spot(id));
        let action = self.actions.of_mut(execution);
        if let State::Waiting { keeps_slot: true } = execution.state() {
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
        let execution = self.executions.live(id);
        if execution.ahead().is_some() {
            // Once it is back, its time is over at once.
            return self.recall(id);
        }
        let timeout = self.actions.of(execution).limits.queue_timeout;
        let length = duration::format(timeout.expect("an action without a time-out has no timer for it"));
        let Some(Moved { to: StateKind::Done(status), .. }) = self.apply(id, Transition::QueueTimedOut) else { return };
        let what = format!("has timed out because it was waiting in the line longer than {length}.");
        self.settle_waiting(id, status, "queue_timeout", &what, now);
    }
}
