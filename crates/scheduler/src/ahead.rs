//! Run-ahead: the next of a line with one slot waits at the worker of the one before it, and starts the moment that one
//! has completed there, without asking anyone.
//!
//! ```text
//!   line     A (has the slot) | B  C  D  E ...      B after A, C after B: a chain, all at the worker of A
//!   A completed               -> B has the slot, and somebody behind the chain is sent
//!   A ended in any other way  -> the worker hands B, C, ... back; nobody of the line starts until all are back
//! ```
//!
//! Whoever was sent ahead stands in its line as before and holds no slot. Only its worker knows whether it has begun, so
//! it is *recalled* and never just taken out; a recall is answered by its return, or was too late.
//! Not here: what a worker makes of it (the duty book).

use std::collections::BTreeSet;

use slotline_protocol::message::AttemptKey;
use slotline_protocol::{ActionId, ExecutionId, Fence, Incarnation, Status, Timestamp};

use crate::deadline::Timer;
use crate::execution::{Ahead, AtWork, Event, Execution, Phase, State};
use crate::key::LineKey;
use crate::line::Line;
use crate::orders::UNSENT;
use crate::scheduler::Scheduler;

/// A predecessor that no worker knows: whoever starts after it is handed back.
pub(crate) const NOBODY: AttemptKey = (ExecutionId(0), 0);

impl Scheduler {
    /// Notes that the line of `key` may have someone to send ahead. To be called when a slot of it was taken, and when
    /// someone joined it.
    pub(crate) fn consider_ahead(&mut self, id: ExecutionId) {
        let Some(execution) = self.executions.get(&id) else { return };
        let Some(action) = self.actions.get(&execution.action) else { return };
        let limits = &action.limits;
        if limits.run_ahead > 0 && (limits.limit == Some(1) || limits.key_limit == Some(1)) {
            self.lengthening.insert((execution.action, action.line_key(&execution.key)));
        }
    }

    /// Lengthens chains. To be called when everybody who can have a slot has one.
    pub(crate) fn send_ahead(&mut self, now: Timestamp) {
        while let Some((action_id, key)) = self.lengthening.pop_first() {
            while let Some((id, worker, after)) = self.next_ahead(action_id, &key) {
                self.lease_ahead(id, worker, after, now);
            }
        }
    }

    /// Who may be sent ahead, to which worker, and after which attempt.
    fn next_ahead(&self, action_id: ActionId, key: &LineKey) -> Option<(ExecutionId, Incarnation, Fence)> {
        let action = self.actions.get(&action_id)?;
        let (holder, line) = action.only_holder(key)?;
        if line.is_rebuffed || line.ahead.len() >= action.limits.run_ahead as usize {
            return None;
        }
        let next = line.next_ahead()?;
        let first = self.executions.get(&holder)?.leased()?;
        let incarnation = first.worker;
        let mut after = first.fence;
        if matches!(first.at_work, AtWork::Cancelling { .. }) {
            return None;
        }
        for id in &line.ahead {
            let leased = self.executions.get(id)?.leased()?;
            let follows = leased.ahead.as_ref().is_some_and(|ahead| ahead.after == after && ahead.recall.is_none());
            if !follows || leased.worker != incarnation || leased.at_work != AtWork::Scheduled {
                return None;
            }
            after = leased.fence;
        }
        if self.counters.next_fence >= self.reserved.next_fence || self.followers.contains_key(&after) {
            // No number is left; or another line has a follower there, since a change of limits.
            return None;
        }
        let is_open = self.workers.get(&incarnation)?.is_open() && self.pools.servers_of(action).contains(&incarnation);
        (is_open && self.pools.is_unwanted(incarnation)).then_some((next.id, incarnation, after))
    }

    fn lease_ahead(&mut self, id: ExecutionId, incarnation: Incarnation, after: Fence, now: Timestamp) {
        let Some(Phase::Ahead) = self.next_phase(id, Event::SentAhead) else { return };
        self.issue(id, incarnation, Some(Ahead { after, recall: None }), now);
        self.followers.insert(after, id);
        if let Some(execution) = self.executions.get(&id)
            && let Some(action) = self.actions.get_mut(&execution.action)
        {
            action.send_ahead(id, &execution.key);
        }
        if let Some(worker) = self.workers.get_mut(&incarnation) {
            worker.ahead.insert(id);
        }
    }

    /// Takes one that was sent ahead out of its chain: it gets its slot, waits, or ends.
    pub(crate) fn unchain(&mut self, id: ExecutionId) {
        let Some(leased) = self.executions.get(&id).and_then(Execution::leased) else { return };
        let Some(ahead) = &leased.ahead else { return };
        self.followers.remove(&ahead.after);
        if let Some(worker) = self.workers.get_mut(&leased.worker) {
            worker.ahead.remove(&id);
        }
    }

    /// The attempt with this fence has completed and left its slot: whoever was to start after it has begun.
    pub(crate) fn fire(&mut self, after: Fence, now: Timestamp) {
        let Some(id) = self.followers.get(&after).copied() else { return };
        let Some(next) = self.next_phase(id, Event::Fired) else { return };
        self.unchain(id);
        self.disarm(id);
        let Some(execution) = self.executions.get_mut(&id) else { return };
        let action_id = execution.action;
        let Some(action) = self.actions.get_mut(&action_id) else { return };
        action.fire(id, execution);
        let Some(leased) = execution.leased_mut() else { return };
        leased.ahead = None;
        let (incarnation, has_started) = (leased.worker, leased.started_at.is_some());
        if let Some(worker) = self.workers.get_mut(&incarnation) {
            worker.leases.insert(id);
        }
        self.update_room(incarnation);
        self.effects.changed.insert(id);
        if next == Phase::Scheduled {
            self.announce(id, Status::Queued, Status::Scheduled, now);
        }
        if has_started {
            self.runs(id);
        }
        self.offer(action_id);
        self.consider_ahead(id);
    }

    /// It has not begun and never will: it waits for a slot like everyone else.
    pub(crate) fn take_back(&mut self, id: ExecutionId) {
        let Some(Phase::Waiting) = self.next_phase(id, Event::AttemptEnded(crate::Verdict::Requeue)) else { return };
        self.unchain(id);
        let Some(execution) = self.executions.get_mut(&id) else { return };
        execution.state = State::Waiting { keeps_slot: false };
        let (action_id, queued_at) = (execution.action, execution.queued_at());
        let Some(action) = self.actions.get_mut(&action_id) else { return };
        action.take_back(id, &execution.key);
        if let Some(timeout) = action.limits.queue_timeout {
            // It may have come while it was out.
            self.deadlines.set(queued_at + timeout, Timer::QueueTimeout(id));
        }
        self.effects.changed.insert(id);
        self.offer(action_id);
    }

    /// Asks a worker to hand back what it has not begun, once.
    pub(crate) fn recall(&mut self, id: ExecutionId) {
        let ahead =
            self.executions.get_mut(&id).and_then(Execution::leased_mut).and_then(|leased| leased.ahead.as_mut());
        if let Some(ahead) = ahead.filter(|ahead| ahead.recall.is_none()) {
            ahead.recall = Some(UNSENT);
            self.orders.recall.push(id);
        }
    }

    /// Recalls all of an action whose slots are not what they were.
    pub(crate) fn recall_all(&mut self, action_id: ActionId) {
        let Some(action) = self.actions.get(&action_id) else { return };
        for id in action.ahead() {
            self.recall(id);
        }
    }

    /// Recalls those whose slot is not the one of a single holder before them, by what a new leader found.
    pub(crate) fn recall_misfits(&mut self, action_id: ActionId) {
        let Some(action) = self.actions.get(&action_id) else { return };
        let is_misfit = |line: &&Line| action.only_holder(&line.key).is_none();
        let lines = action.lines.iter().filter(|line| !line.ahead.is_empty()).filter(is_misfit);
        for id in lines.flat_map(|line| line.ahead.clone()).collect::<BTreeSet<_>>() {
            self.recall(id);
        }
    }

    /// The fence of an attempt that was sent ahead and has no slot yet, as far as is known.
    pub fn fence_ahead(&self, (id, attempt): AttemptKey) -> Option<Fence> {
        let execution = self.executions.get(&id).filter(|execution| execution.attempt == attempt)?;
        execution.leased().filter(|leased| leased.ahead.is_some()).map(|leased| leased.fence)
    }

    /// Who must complete before `id` starts, if anyone.
    pub(crate) fn predecessor(&self, id: ExecutionId) -> Option<AttemptKey> {
        let execution = self.executions.get(&id)?;
        let after = execution.ahead()?.after;
        let action = self.actions.get(&execution.action)?;
        let key = action.line_key(&execution.key);
        let line = action.lines.get(&key)?;
        let mut others = action.holders(line).chain(line.ahead.iter().copied());
        let found = others.find_map(|other| {
            let before = self.executions.get(&other)?;
            (before.leased()?.fence == after).then_some((other, before.attempt))
        });
        Some(found.unwrap_or(NOBODY))
    }
}
