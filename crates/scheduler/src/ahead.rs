//! Run-ahead: the next of a line with one slot waits at the worker of the one before it, and starts the moment that one
//! has completed there, without waiting for the executor.
//!
//! ```text
//!   line     A (has the slot) | B  C  D  E ...      B after A, C after B: a chain, all at the worker of A
//!   A completed               -> B has the slot, and the next one behind the chain is sent
//!   A ended in any other way  -> the worker hands B, C, ... back; nothing of the line starts until all are back
//! ```
//!
//! What was sent ahead stands in its line as before and holds no slot. Only its worker knows whether it has begun, so
//! it is *recalled* and never just taken out; a recall is answered by its return, or was too late.
//! Not here: what a worker does with it (the duty book).

use std::collections::BTreeSet;

use slotline_protocol::message::AttemptKey;
use slotline_protocol::{ActionId, ExecutionId, Fence, Incarnation, Status, Timestamp};

use crate::deadline::Timer;
use crate::key::LineKey;
use crate::line::Line;
use crate::orders::UNSENT;
use crate::scheduler::Scheduler;
use crate::state::{AtWork, Consequence, Moved, StateKind, Transition};

/// A predecessor that no worker knows: an attempt that is to start after it is handed back.
pub(crate) const NOBODY: AttemptKey = (ExecutionId(0), 0);

impl Scheduler {
    /// Notes that the line of `id` may have an execution to send ahead. To be called when a slot of the line was taken,
    /// and when an execution joined it.
    pub(crate) fn consider_ahead(&mut self, id: ExecutionId) {
        let execution = self.executions.live(id);
        let action = self.actions.of(execution);
        if action.runs_ahead() {
            self.lengthening.insert((execution.action, action.line_key(&execution.key)));
        }
    }

    /// Lengthens chains. To be called when every execution that can have a slot has one.
    pub(crate) fn send_ahead(&mut self, now: Timestamp) {
        while let Some((action_id, key)) = self.lengthening.pop_first() {
            while let Some((id, worker, after)) = self.next_ahead(action_id, &key) {
                self.lease_ahead(id, worker, after, now);
            }
        }
    }

    /// The execution that may be sent ahead, to which worker, and after which attempt.
    fn next_ahead(&self, action_id: ActionId, key: &LineKey) -> Option<(ExecutionId, Incarnation, Fence)> {
        let action = self.actions.get(&action_id)?;
        let (holder, line) = action.only_holder(key)?;
        if line.is_rebuffed || line.ahead.len() >= action.limits.run_ahead as usize {
            return None;
        }
        let next = line.next_ahead()?;
        // A holder without an attempt keeps its slot while it backs off.
        let first = self.executions.live(holder).leased()?;
        let incarnation = first.assignment.worker;
        let mut after = first.assignment.fence;
        if matches!(first.at_work, AtWork::Cancelling(_)) {
            return None;
        }
        for id in &line.ahead {
            let execution = self.executions.live(*id);
            let ahead = execution.ahead()?;
            let is_to_stay = execution.orders.recall.is_none() && ahead.cancelling.is_none();
            if !is_to_stay || ahead.after != after || ahead.assignment.worker != incarnation {
                return None;
            }
            after = ahead.assignment.fence;
        }
        if self.counters.next_fence >= self.reserved.next_fence || self.followers.contains_key(&after) {
            // No number is left; or another line has a follower there, since a change of limits.
            return None;
        }
        let is_open = self.workers.get(&incarnation)?.is_open() && self.pools.servers_of(action).contains(&incarnation);
        (is_open && self.pools.is_unwanted(incarnation)).then_some((next.id, incarnation, after))
    }

    fn lease_ahead(&mut self, id: ExecutionId, incarnation: Incarnation, after: Fence, now: Timestamp) {
        let assignment = self.next_assignment(incarnation, now);
        if !self.issue(id, Transition::SentAhead { assignment, after }, now) {
            return;
        }
        self.followers.insert(after, id);
        let execution = self.executions.live(id);
        self.actions.of_mut(execution).send_ahead(id, &execution.key);
        self.holder_mut(incarnation).ahead.insert(id);
    }

    /// Takes `id`, which was sent to `worker` to start after the attempt `after`, out of its chain: it gets its slot,
    /// waits, or ends.
    pub(crate) fn unchain(&mut self, id: ExecutionId, worker: Incarnation, after: Fence) {
        self.followers.remove(&after);
        self.holder_mut(worker).ahead.remove(&id);
    }

    /// The attempt with this fence has completed and left its slot: the attempt that was to start after it has begun.
    pub(crate) fn fire(&mut self, after: Fence, now: Timestamp) {
        // Most attempts have no follower.
        let Some(id) = self.followers.get(&after).copied() else { return };
        let Some(Moved { to: next, .. }) = self.apply(id, Transition::Fired) else { return };
        let execution = self.executions.live_mut(id);
        execution.orders.recall = None;
        let assignment = execution.assignment().expect("what has fired is at its worker");
        let (incarnation, has_started) = (assignment.worker, assignment.started_at.is_some());
        let action_id = execution.action;
        self.actions.of_mut(execution).fire(id, execution);
        self.unchain(id, incarnation, after);
        self.leave_line(id);
        self.holder_mut(incarnation).leases.insert(id);
        self.update_room(incarnation);
        self.effects.changed.insert(id);
        if next == StateKind::Scheduled {
            self.announce(id, Status::Queued, Status::Scheduled, now);
        }
        if has_started {
            self.runs(id);
        }
        self.offer(action_id);
        self.consider_ahead(id);
    }

    /// The attempt has not begun and never will: its execution waits for a slot in its line.
    pub(crate) fn take_back(&mut self, id: ExecutionId) {
        let ahead = self.executions.live(id).ahead().expect("what is taken back was sent ahead");
        let (worker, after) = (ahead.assignment.worker, ahead.after);
        if self.apply(id, Transition::AttemptEnded(Consequence::Requeue)).is_none() {
            return;
        }
        self.unchain(id, worker, after);
        let execution = self.executions.live(id);
        let (action_id, queued_at) = (execution.action, execution.queued_at());
        let action = self.actions.of_mut(execution);
        action.take_back(id, &execution.key);
        if let Some(timeout) = action.limits.queue_timeout {
            // The time-out may have come while the attempt was out.
            self.deadlines.set(queued_at + timeout, Timer::QueueTimeout(id));
        }
        self.effects.changed.insert(id);
        self.offer(action_id);
    }

    /// Orders the worker to hand `id` back unless it has begun, once.
    pub(crate) fn recall(&mut self, id: ExecutionId) {
        let execution = self.executions.live_mut(id);
        if execution.ahead().is_some() && execution.orders.recall.is_none() {
            execution.orders.recall = Some(UNSENT);
            self.orders.recall.push(id);
        }
    }

    /// Recalls all that were sent ahead of an action whose slots are not what they were.
    pub(crate) fn recall_all(&mut self, action_id: ActionId) {
        for id in self.actions[&action_id].ahead() {
            self.recall(id);
        }
    }

    /// Recalls the chains of lines that have no single holder of the slot they wait for, as a new leader may find them.
    pub(crate) fn recall_misfits(&mut self, action_id: ActionId) {
        let action = &self.actions[&action_id];
        let is_misfit = |line: &&Line| action.only_holder(&line.key).is_none();
        let lines = action.lines.iter().filter(|line| !line.ahead.is_empty()).filter(is_misfit);
        for id in lines.flat_map(|line| line.ahead.clone()).collect::<BTreeSet<_>>() {
            self.recall(id);
        }
    }

    /// The fence of an attempt that was sent ahead and has no slot yet, as far as is known.
    pub fn fence_ahead(&self, (id, attempt): AttemptKey) -> Option<Fence> {
        let execution = self.executions.get(&id).filter(|execution| execution.attempt == attempt)?;
        execution.ahead().map(|ahead| ahead.assignment.fence)
    }

    /// The attempt that must complete before `id` starts, if there is one.
    pub(crate) fn predecessor(&self, id: ExecutionId) -> Option<AttemptKey> {
        let execution = self.executions.live(id);
        let after = execution.ahead()?.after;
        let action = self.actions.of(execution);
        let key = action.line_key(&execution.key);
        let line = action.lines.get(&key)?;
        let mut others = action.holders(line).chain(line.ahead.iter().copied());
        let found = others.find_map(|other| {
            let before = self.executions.live(other);
            (before.assignment()?.fence == after).then_some((other, before.attempt))
        });
        Some(found.unwrap_or(NOBODY))
    }
}
