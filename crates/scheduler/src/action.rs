//! One action: its lines, its slots, and which of its executions may start next.
//!
//! Invariant: no execution is granted while `slots` has `limit` members or its key's line has `key_limit`; a blocked
//! key never blocks another. Not here: which action's turn it is (`pool`), and on which worker (`worker`).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use slotline_protocol::policy::Retry;
use slotline_protocol::{ActionId, ActionRef, ExecutionId, Policy};

use crate::execution::Execution;
use crate::line::Line;

pub(crate) type Executions = BTreeMap<ExecutionId, Execution>;
/// Names a line within its action; `None` is the line of executions without a key, and the only one where keys do not
/// matter.
pub(crate) type LineKey = Option<Arc<str>>;

/// The part of a policy that the scheduler decides by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Limits {
    pub limit: Option<u32>,
    pub key_limit: Option<u32>,
    pub queue_timeout: Option<Duration>,
    pub max_queue_length: Option<u64>,
    pub max_lost_attempts: u32,
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
            retry: policy.retry,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Action {
    pub(crate) id: ActionId,
    pub(crate) action_ref: ActionRef,
    pub(crate) limits: Limits,
    pub(crate) paused: bool,
    pub(crate) lines: BTreeMap<LineKey, Line>,
    /// Lines that may have someone to start, in turn.
    turns: VecDeque<LineKey>,
    /// Executions that kept their slot and are due again: they start before anyone, whatever the limits say by now.
    resuming: VecDeque<ExecutionId>,
    /// Executions that hold a slot.
    pub(crate) slots: BTreeSet<ExecutionId>,
    /// How many wait in the lines.
    waiting: usize,
    /// Executions that back off without a slot.
    pub(crate) backing_off: BTreeSet<ExecutionId>,
    /// Stands in the ring of its pool.
    pub(crate) in_turn: bool,
    pub(crate) pool: usize,
    pub(crate) total_enqueued: u64,
    pub(crate) total_completed: u64,
}

impl Action {
    pub(crate) fn new(id: ActionId, action_ref: ActionRef, limits: Limits, paused: bool) -> Self {
        Self {
            id,
            action_ref,
            limits,
            paused,
            lines: BTreeMap::new(),
            turns: VecDeque::new(),
            resuming: VecDeque::new(),
            slots: BTreeSet::new(),
            waiting: 0,
            backing_off: BTreeSet::new(),
            in_turn: false,
            pool: 0,
            total_enqueued: 0,
            total_completed: 0,
        }
    }

    pub(crate) fn line_key(&self, key: &LineKey) -> LineKey {
        if self.limits.key_limit.is_some() { key.clone() } else { None }
    }

    /// Executions in line, those that back off without a slot included.
    pub(crate) fn queue_length(&self) -> usize {
        self.waiting + self.backing_off.len()
    }

    /// Puts `id` into its line by its place; gives its 1-based position there.
    pub(crate) fn enqueue(&mut self, id: ExecutionId, execution: &Execution, executions: &Executions) -> usize {
        let key = self.line_key(&execution.key);
        let line = self.lines.entry(key.clone()).or_default();
        let position = line.insert(id, execution.place, |id| place(executions, id));
        self.waiting += 1;
        self.offer_turn(key);
        position
    }

    /// Puts an execution that holds its slot already before everyone else.
    pub(crate) fn resume(&mut self, id: ExecutionId) {
        self.resuming.push_back(id);
    }

    /// Takes `id` out of its line, or from among those due again.
    pub(crate) fn withdraw(&mut self, id: ExecutionId, execution: &Execution, executions: &Executions) {
        self.resuming.retain(|other| *other != id);
        self.backing_off.remove(&id);
        let key = self.line_key(&execution.key);
        if let Some(line) = self.lines.get_mut(&key) {
            self.waiting -= usize::from(line.remove(execution.place, |id| place(executions, id)));
        }
        self.drop_if_idle(&key);
    }

    pub(crate) fn take_slot(&mut self, id: ExecutionId, key: &LineKey) {
        let key = self.line_key(key);
        self.slots.insert(id);
        self.lines.entry(key).or_default().slots.insert(id);
    }

    pub(crate) fn free_slot(&mut self, id: ExecutionId, key: &LineKey) {
        let key = self.line_key(key);
        self.slots.remove(&id);
        if let Some(line) = self.lines.get_mut(&key) {
            line.slots.remove(&id);
        }
        self.offer_turn(key.clone());
        self.drop_if_idle(&key);
    }

    /// Whether someone may start now.
    pub(crate) fn has_next(&mut self) -> bool {
        if self.paused {
            return false;
        }
        if !self.resuming.is_empty() {
            return true;
        }
        if self.is_full() {
            return false;
        }
        while let Some(key) = self.turns.front().cloned() {
            if self.is_ready(&key) {
                return true;
            }
            self.turns.pop_front();
            if let Some(line) = self.lines.get_mut(&key) {
                line.in_turn = false;
            }
            self.drop_if_idle(&key);
        }
        false
    }

    /// Takes who starts next and gives it its slot; call only after [`Self::has_next`] said yes.
    pub(crate) fn pop_next(&mut self) -> Option<ExecutionId> {
        if let Some(id) = self.resuming.pop_front() {
            return Some(id);
        }
        let key = self.turns.pop_front()?;
        let line = self.lines.get_mut(&key)?;
        line.in_turn = false;
        let id = line.pop()?;
        self.waiting -= 1;
        line.slots.insert(id);
        self.slots.insert(id);
        self.offer_turn(key);
        Some(id)
    }

    pub(crate) fn is_full(&self) -> bool {
        self.limits.limit.is_some_and(|limit| self.slots.len() >= limit as usize)
    }

    pub(crate) fn is_key_full(&self, line: &Line) -> bool {
        self.limits.key_limit.is_some_and(|limit| line.slots.len() >= limit as usize)
    }

    /// Takes a new policy; rebuilds the lines if keys began or ceased to matter.
    pub(crate) fn relimit(&mut self, limits: Limits, executions: &Executions) {
        let keyed = |limits: &Limits| limits.key_limit.is_some();
        let rebuild = keyed(&self.limits) != keyed(&limits);
        self.limits = limits;
        if rebuild {
            let lines = std::mem::take(&mut self.lines);
            self.turns.clear();
            self.waiting = 0;
            let mut waiting: Vec<_> =
                lines.values().flat_map(Line::iter).map(|id| (place(executions, id), id)).collect();
            waiting.sort_unstable();
            for id in self.slots.clone() {
                if let Some(execution) = executions.get(&id) {
                    self.take_slot(id, &execution.key);
                }
            }
            for (_, id) in waiting {
                if let Some(execution) = executions.get(&id) {
                    self.enqueue(id, execution, executions);
                }
            }
        }
        for key in self.lines.keys().cloned().collect::<Vec<_>>() {
            self.offer_turn(key);
        }
    }

    pub(crate) fn is_ready(&self, key: &LineKey) -> bool {
        self.lines.get(key).is_some_and(|line| line.len() > 0 && !(key.is_some() && self.is_key_full(line)))
    }

    fn offer_turn(&mut self, key: LineKey) {
        if self.is_ready(&key)
            && let Some(line) = self.lines.get_mut(&key)
            && !line.in_turn
        {
            line.in_turn = true;
            self.turns.push_back(key);
        }
    }

    fn drop_if_idle(&mut self, key: &LineKey) {
        if self.lines.get(key).is_some_and(Line::is_idle) {
            self.lines.remove(key);
        }
    }
}

pub(crate) fn place(executions: &Executions, id: ExecutionId) -> i64 {
    executions.get(&id).map_or(i64::MAX, |execution| execution.place)
}
