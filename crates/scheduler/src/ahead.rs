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
use std::time::Duration;

use slotline_protocol::message::AttemptKey;
use slotline_protocol::{ActionId, ExecutionId, Fence, Incarnation, Status, Timestamp};

use crate::deadline::Timer;
use crate::key::LineKey;
use crate::line::Line;
use crate::orders::UNSENT;
use crate::scheduler::Scheduler;
use crate::state::{Assignment, AtWork, Consequence, Leased, Moved, StateKind, Transition};
use crate::window::BULKY_MAX;

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
            self.make_way_within(action_id);
            let Some(Refill { ids, incarnation, mut after }) = self.refill(action_id, &key) else { continue };
            for id in ids {
                let assignment = self.next_assignment(incarnation, now);
                let fence = assignment.fence;
                self.lease_ahead(id, assignment, after, now);
                after = fence;
            }
        }
    }

    /// What is to be sent ahead of this line now, to which worker, and after which attempt; `None` if nothing may be.
    fn refill(&self, action_id: ActionId, key: &LineKey) -> Option<Refill> {
        let action = self.actions.get(&action_id)?;
        let (holder, line) = action.only_holder(key)?;
        // A holder without an attempt keeps its slot while it backs off.
        let first = self.executions.live(holder).leased()?;
        let incarnation = first.assignment.worker;
        let worker = self.workers.get(&incarnation)?;
        let share = (self.worker_ahead_max / worker.leases.len().max(1)).max(1);
        let most = action.limits.run_ahead.map_or(share, |most| share.min(most as usize));
        let count = line.pace().refill(line.ahead_len(), most);
        if line.is_rebuffed || count == 0 || matches!(first.at_work, AtWork::Cancelling(_)) {
            return None;
        }
        let (after, bulky) = self.end_of_chain(line, first)?;
        let may_follow = !self.followers.contains_key(&after);
        let is_open = worker.is_open() && self.pools.servers_of(action).contains(&incarnation);
        // Another line may have a follower there, since a change of limits.
        if !may_follow || !is_open || !self.pools.is_unwanted(incarnation) {
            return None;
        }
        let numbers = usize::try_from(self.reserved.next_fence - self.counters.next_fence).unwrap_or(0);
        let mut room = BULKY_MAX.saturating_sub(bulky);
        let fits = |id: &ExecutionId| {
            let is_bulky = self.executions.is_bulky(*id);
            let fits = !is_bulky || room > 0;
            room -= usize::from(is_bulky && fits);
            fits
        };
        let ids: Vec<_> = line.behind_ahead().take(count.min(numbers)).take_while(fits).collect();
        Some(Refill { ids, incarnation, after })
    }

    /// The attempt that ends the chain behind `first`, and how many of the chain are bulky; `None` if an execution of it
    /// is to come back, or is not where and after which it should be.
    fn end_of_chain(&self, line: &Line, first: &Leased) -> Option<(Fence, usize)> {
        let mut after = first.assignment.fence;
        let mut bulky = 0;
        for id in line.ahead() {
            let execution = self.executions.live(id);
            let ahead = execution.ahead()?;
            let is_to_stay = execution.orders.recall.is_none() && ahead.cancelling.is_none();
            if !is_to_stay || ahead.after != after || ahead.assignment.worker != first.assignment.worker {
                return None;
            }
            after = ahead.assignment.fence;
            bulky += usize::from(self.executions.is_bulky(id));
        }
        Some((after, bulky))
    }

    fn lease_ahead(&mut self, id: ExecutionId, assignment: Assignment, after: Fence, now: Timestamp) {
        if !self.issue(id, Transition::SentAhead { assignment, after }, now) {
            return;
        }
        self.followers.insert(after, id);
        let execution = self.executions.live(id);
        self.actions.of_mut(execution).send_ahead(id, &execution.key, now);
        self.holder_mut(assignment.worker).ahead.insert(id);
    }

    /// Takes `id`, which was sent to `worker` to start after the attempt `after`, out of its chain: it gets its slot,
    /// waits, or ends.
    pub(crate) fn unchain(&mut self, id: ExecutionId, worker: Incarnation, after: Fence) {
        self.followers.remove(&after);
        self.holder_mut(worker).ahead.remove(&id);
    }

    /// The attempt with this fence has completed and left its slot: the attempt that was to start after it has begun.
    /// `round_trip`: of the attempt that has completed, if it is known.
    pub(crate) fn fire(&mut self, after: Fence, round_trip: Option<Duration>, now: Timestamp) {
        // Most attempts have no follower.
        let Some(id) = self.followers.get(&after).copied() else { return };
        let Some(Moved { to: next, .. }) = self.apply(id, Transition::Fired) else { return };
        let execution = self.executions.live_mut(id);
        execution.orders.recall = None;
        let assignment = execution.assignment().expect("what has fired is at its worker");
        let (incarnation, has_started) = (assignment.worker, assignment.started_at.is_some());
        let action_id = execution.action;
        self.actions.of_mut(execution).fire(id, execution, round_trip, now);
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
        let lines = action.lines.iter().filter(|line| line.ahead_len() > 0).filter(is_misfit);
        for id in lines.flat_map(Line::ahead).collect::<BTreeSet<_>>() {
            self.recall(id);
        }
    }

    /// The fence of an attempt that was sent ahead and has no slot yet, as far as is known.
    pub fn fence_ahead(&self, (id, attempt): AttemptKey) -> Option<Fence> {
        let execution = self.executions.get(&id).filter(|execution| execution.attempt == attempt)?;
        execution.ahead().map(|ahead| ahead.assignment.fence)
    }

    /// Recalls what was sent ahead to workers where an execution that may start waits for room since this input: a slot
    /// that its line leaves is the room that the other one gets.
    pub(crate) fn make_way(&mut self) {
        if self.followers.is_empty() {
            // Without a chain there is nothing to recall, whatever has come to wait.
            return self.pools.forget_wanted();
        }
        for incarnation in self.pools.take_wanted() {
            let Some(worker) = self.workers.get(&incarnation) else { continue };
            for id in worker.ahead.clone() {
                self.recall(id);
            }
        }
    }

    /// The same within an action: for the only slot there is, when it is another key's turn.
    fn make_way_within(&mut self, action_id: ActionId) {
        let Some(action) = self.actions.get(&action_id) else { return };
        for id in action.in_the_way(&self.executions) {
            self.recall(id);
        }
    }

    /// Recalls `id`, which its worker has had for long, unless it is the next of its line: the line is slower than it was
    /// when `id` was sent.
    #[cold]
    pub(crate) fn recall_stale(&mut self, id: ExecutionId) {
        let execution = self.executions.live(id);
        let action = self.actions.of(execution);
        let line = action.lines.get(&action.line_key(&execution.key));
        if line.is_none_or(|line| line.ahead().next() != Some(id)) {
            self.recall(id);
        }
    }

    /// The attempt that must complete before `id` starts, if there is one.
    pub(crate) fn predecessor(&self, id: ExecutionId) -> Option<AttemptKey> {
        let execution = self.executions.live(id);
        let after = execution.ahead()?.after;
        let action = self.actions.of(execution);
        let line = action.lines.get(&action.line_key(&execution.key))?;
        let is_it = |other: ExecutionId| {
            let before = self.executions.live(other);
            (before.assignment()?.fence == after).then_some((other, before.attempt))
        };
        let known = line.ahead_of(id).and_then(is_it);
        let found = known.or_else(|| action.holders(line).chain(line.ahead()).find_map(is_it));
        Some(found.unwrap_or(NOBODY))
    }
}

/// What is sent ahead at once: in this order, to this worker, the first to start after this attempt.
struct Refill {
    ids: Vec<ExecutionId>,
    incarnation: Incarnation,
    after: Fence,
}
