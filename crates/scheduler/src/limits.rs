//! What an action may use, and what happens when that changes under a backlog: raising promotes at once, lowering lets
//! the surplus run out.

use std::time::Duration;

use slotline_protocol::policy::Retry;
use slotline_protocol::{ActionId, ActionRef, Policy, Timestamp};

use crate::action::ActionLines;
use crate::deadline::Timer;
use crate::line::Line;
use crate::scheduler::Scheduler;
use crate::state::Transition;

/// The part of a policy that the scheduler decides by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Limits {
    pub limit: Option<u32>,
    pub key_limit: Option<u32>,
    pub queue_timeout: Option<Duration>,
    pub max_queue_length: Option<u64>,
    pub max_lost_attempts: u32,
    /// The most executions of a line that are sent ahead of their slot; 0 for none, `None` for as many as fit its speed.
    pub run_ahead: Option<u32>,
    pub retry: Retry,
}

impl From<&Policy> for Limits {
    fn from(policy: &Policy) -> Self {
        Self {
            limit: policy.limit,
            key_limit: policy.key_limit,
            queue_timeout: policy.queue_timeout,
            max_queue_length: policy.max_queue_length,
            max_lost_attempts: policy.max_lost_attempts,
            run_ahead: policy.run_ahead,
            retry: policy.retry,
        }
    }
}

impl Scheduler {
    pub(crate) fn put_action(
        &mut self,
        id: ActionId,
        action_ref: ActionRef,
        limits: Limits,
        paused: bool,
        now: Timestamp,
    ) {
        let Some(action) = self.actions.get_mut(&id) else {
            let mut action = ActionLines::new(id, action_ref, limits, paused);
            self.pools.admit(&mut action);
            self.actions.insert(id, action);
            return;
        };
        let before = action.limits.clone();
        action.paused = paused;
        action.relimit(limits, &self.executions, now);
        let slots = |limits: &Limits| (limits.limit, limits.key_limit, limits.run_ahead);
        if paused || slots(&before) != slots(&action.limits) {
            self.recall_all(id);
        }
        if self.actions[&id].limits.queue_timeout != before.queue_timeout {
            self.rearm_queue_timeouts(id, before.queue_timeout);
        }
        self.shed_surplus(id, now);
        self.offer(id);
    }

    pub(crate) fn delete_action(&mut self, id: ActionId) {
        debug_assert!(!self.has_live(id), "the caller refuses to delete an action with live executions");
        if !self.has_live(id)
            && let Some(mut action) = self.actions.remove(&id)
        {
            self.pools.dismiss_action(&mut action);
        }
    }

    /// Moves the queue time-outs of all that wait in line from what they were to what they are.
    pub(crate) fn rearm_queue_timeouts(&mut self, id: ActionId, before: Option<Duration>) {
        let action = &self.actions[&id];
        let after = action.limits.queue_timeout;
        for waiting in action.lines.iter().flat_map(Line::iter).map(|spot| spot.id) {
            let execution = self.executions.live(waiting);
            if let Some(timeout) = before {
                self.deadlines.clear(execution.queued_at() + timeout, Timer::QueueTimeout(waiting));
            }
            if let Some(timeout) = after {
                self.deadlines.set(execution.queued_at() + timeout, Timer::QueueTimeout(waiting));
            }
        }
    }

    /// Lets executions that kept their slot, but run nothing, give it up where more slots are held than allowed; the
    /// last in place goes first. At the head of their line they are the next to get one back.
    pub(crate) fn shed_surplus(&mut self, id: ActionId, now: Timestamp) {
        for spot in self.actions[&id].resuming.iter().rev().copied().collect::<Vec<_>>() {
            let execution = self.executions.live(spot.id);
            if self.actions.of(execution).has_surplus(&execution.key)
                && self.apply(spot.id, Transition::SlotShed).is_some()
            {
                let execution = self.executions.live(spot.id);
                let action = self.actions.of_mut(execution);
                action.resuming.remove(&spot);
                action.free_slot(spot.id, &execution.key);
                self.join_line(spot.id, now);
            }
        }
    }
}
