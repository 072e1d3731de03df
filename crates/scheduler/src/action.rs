//! One action: its lines, its slots, and which of its executions may start next.
//!
//! Invariants: no execution is granted while `slots` has `limit` members or its line has `key_limit`; a blocked
//! key never blocks another; a line stands in turn exactly while it is ready. Not here: which action's turn it is
//! (`pool`), on which worker (`worker`), and what a change of limits means for the rest (`limits`).

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use slotline_protocol::{ActionId, ActionRef, ExecutionId, Timestamp};

use crate::execution::Execution;
use crate::executions::Executions;
use crate::forecast::RecentRuns;
use crate::key::LineKey;
use crate::limits::Limits;
use crate::line::{Line, Spot};
use crate::lines::{LineNumber, Lines};
use crate::pool::{PoolId, Ticket};
use crate::slots::Slots;

/// The actions by their ids.
#[derive(Clone, Debug, Default)]
pub(crate) struct Actions(BTreeMap<ActionId, ActionLines>);

impl Actions {
    /// The action of a live execution.
    pub(crate) fn of(&self, execution: &Execution) -> &ActionLines {
        self.get(&execution.action).expect("an action with live executions is never deleted")
    }

    /// The same, to be changed.
    pub(crate) fn of_mut(&mut self, execution: &Execution) -> &mut ActionLines {
        self.get_mut(&execution.action).expect("an action with live executions is never deleted")
    }
}

impl Deref for Actions {
    type Target = BTreeMap<ActionId, ActionLines>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for Actions {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

#[derive(Clone, Debug)]
pub(crate) struct ActionLines {
    pub(crate) id: ActionId,
    pub(crate) action_ref: ActionRef,
    pub(crate) limits: Limits,
    pub(crate) paused: bool,
    pub(crate) lines: Lines,
    /// Executions that kept their slot and are due again, by place: they start before all that wait in line.
    pub(crate) resuming: BTreeSet<Spot>,
    /// Executions that hold a slot.
    pub(crate) slots: Slots,
    /// How many executions wait in the lines.
    waiting: usize,
    /// Executions that back off without a slot.
    pub(crate) backing_off: BTreeSet<ExecutionId>,
    /// Executions that wait, or back off, behind later requests: only these are older than what stands before them.
    set_back: BTreeSet<ExecutionId>,
    /// Where the action stands in the ring of its pool; it stands there exactly while one of its executions may start.
    pub(crate) ticket: Option<Ticket>,
    pub(crate) pool: PoolId,
    pub(crate) total_enqueued: u64,
    pub(crate) total_completed: u64,
    /// What people see; nothing is decided by it.
    pub(crate) activity: RecentRuns,
}

impl ActionLines {
    pub(crate) fn new(id: ActionId, action_ref: ActionRef, limits: Limits, paused: bool) -> Self {
        Self {
            id,
            action_ref,
            limits,
            paused,
            lines: Lines::default(),
            resuming: BTreeSet::new(),
            slots: Slots::default(),
            waiting: 0,
            backing_off: BTreeSet::new(),
            set_back: BTreeSet::new(),
            ticket: None,
            pool: PoolId::default(),
            total_enqueued: 0,
            total_completed: 0,
            activity: RecentRuns::default(),
        }
    }

    /// The line of executions with this key.
    pub(crate) fn line_key(&self, key: &Option<Arc<str>>) -> LineKey {
        match (self.limits.key_limit, key) {
            (None, _) => LineKey::WHOLE,
            (Some(_), None) => LineKey::KEYLESS,
            (Some(_), Some(key)) => LineKey::new(key.clone()),
        }
    }

    /// Whether its executions may be sent ahead of their slot: only those of lines with a single slot may.
    pub(crate) fn runs_ahead(&self) -> bool {
        let Limits { limit, key_limit, run_ahead, .. } = self.limits;
        run_ahead != Some(0) && (limit == Some(1) || key_limit == Some(1))
    }

    /// Executions in line, those that back off without a slot included.
    pub(crate) fn queue_length(&self) -> usize {
        self.waiting + self.backing_off.len()
    }

    /// Puts `id` into its line by its place and returns its 1-based position there.
    pub(crate) fn enqueue(&mut self, id: ExecutionId, execution: &Execution) -> usize {
        let key = self.line_key(&execution.key);
        let spot = execution.spot(id);
        let number = self.lines.open(key);
        let position = self.lines[number].insert(spot);
        self.update_turn(number);
        self.waiting += 1;
        if spot.place != id.0 {
            self.set_back.insert(id);
        }
        position
    }

    /// Lets `id` back off without a slot, outside its line.
    pub(crate) fn set_back(&mut self, id: ExecutionId) {
        self.backing_off.insert(id);
        self.set_back.insert(id);
    }

    /// The execution that has waited longest, in the first `lines_max` lines or backing off without a slot. Ids ascend as
    /// requests came.
    pub(crate) fn oldest(&self, lines_max: usize) -> Option<ExecutionId> {
        let heads = self.lines.iter().take(lines_max).filter_map(Line::head).map(|head| head.id);
        heads.chain(self.set_back.first().copied()).min()
    }

    /// Takes `id` out from wherever it waits, and its slot if it kept one.
    pub(crate) fn withdraw(&mut self, id: ExecutionId, execution: &Execution) {
        self.resuming.remove(&execution.spot(id));
        self.backing_off.remove(&id);
        self.set_back.remove(&id);
        let key = self.line_key(&execution.key);
        if let Some(number) = self.lines.find(&key) {
            let line = &mut self.lines[number];
            self.waiting -= usize::from(line.remove(execution.spot(id)));
            line.unchain(id);
        }
        self.free_slot(id, &execution.key);
    }

    /// `id`, which waits, was sent ahead of its slot.
    pub(crate) fn send_ahead(&mut self, id: ExecutionId, key: &Option<Arc<str>>, now: Timestamp) {
        let number = self.lines.find(&self.line_key(key)).expect("it waits in its line");
        self.lines[number].chain_mut().push(id, now);
        self.update_turn(number);
    }

    /// `id`, which was sent ahead, only waits in its line again.
    pub(crate) fn take_back(&mut self, id: ExecutionId, key: &Option<Arc<str>>) {
        let number = self.lines.find(&self.line_key(key)).expect("what was sent ahead stands in its line");
        let line = &mut self.lines[number];
        line.unchain(id);
        line.chain_mut().pace.restart();
        line.is_rebuffed = true;
        self.update_turn(number);
    }

    /// `id`, which was sent ahead, leaves its line with a slot: the attempt before it, of which the round trip may be
    /// known, has completed.
    pub(crate) fn fire(
        &mut self,
        id: ExecutionId,
        execution: &Execution,
        round_trip: Option<Duration>,
        now: Timestamp,
    ) {
        if let Some(number) = self.lines.find(&self.line_key(&execution.key)) {
            self.lines[number].chain_mut().pace.completed(round_trip, now);
        }
        self.withdraw(id, execution);
        self.take_slot(id, &execution.key);
        self.activity.started += 1;
    }

    /// The executions that were sent ahead for the only slot there is, while another line waits for that slot.
    pub(crate) fn in_the_way(&self, executions: &Executions) -> Vec<ExecutionId> {
        let Limits { limit: Some(1), key_limit: Some(_), .. } = self.limits else { return Vec::new() };
        let Some(holder) = self.slots.iter().next() else { return Vec::new() };
        let Some(number) = self.lines.find(&self.line_key(&executions.live(holder).key)) else { return Vec::new() };
        if self.lines.has_other_ready(number) { self.lines[number].ahead().collect() } else { Vec::new() }
    }

    /// The executions that were sent ahead, in order of id.
    pub(crate) fn ahead(&self) -> BTreeSet<ExecutionId> {
        self.lines.iter().flat_map(Line::ahead).collect()
    }

    /// The execution with the only slot that the next of this line waits for, if that slot may pass from one to the
    /// other without an overtaking: no other execution holds a slot that counts, and no other line could use it.
    pub(crate) fn only_holder(&self, key: &LineKey) -> Option<(ExecutionId, &Line)> {
        let number = self.lines.find(key)?;
        let line = &self.lines[number];
        let is_alone = self.limits.limit.is_none() || self.slots.len() == 1;
        let is_full = self.is_full() || key.has_limit() && self.is_key_full(line);
        let is_contested = self.lines.has_other_ready(number);
        if !is_alone || !is_full || self.paused || !self.resuming.is_empty() || is_contested {
            return None;
        }
        let mut holders = self.holders(line);
        let holder = holders.next()?;
        holders.next().is_none().then_some((holder, line))
    }

    /// Executions that hold a slot of this line, also where keys do not matter.
    pub(crate) fn holders<'a>(&'a self, line: &'a Line) -> impl Iterator<Item = ExecutionId> + use<'a> {
        let slots = if line.key.has_limit() { &line.slots } else { &self.slots };
        slots.iter()
    }

    pub(crate) fn take_slot(&mut self, id: ExecutionId, key: &Option<Arc<str>>) {
        let key = self.line_key(key);
        self.slots.insert(id);
        if key.has_limit() {
            let number = self.lines.open(key);
            let line = &mut self.lines[number];
            line.slots.insert(id);
            line.is_rebuffed = false;
            self.update_turn(number);
        } else if let Some(number) = self.lines.find(&key) {
            let line = &mut self.lines[number];
            line.is_rebuffed = false;
            if line.is_idle() {
                self.lines.close(number);
            }
        }
    }

    pub(crate) fn free_slot(&mut self, id: ExecutionId, key: &Option<Arc<str>>) {
        let key = self.line_key(key);
        self.slots.remove(id);
        // Where keys do not matter, a line in which nothing waits is closed although slots of it are held.
        let Some(number) = self.lines.find(&key) else { return };
        self.lines[number].slots.remove(id);
        self.update_turn(number);
        let line = &self.lines[number];
        // Where keys do not matter, a line does not know its slots; its `is_rebuffed` outlasts all that wait in it.
        let is_remembered = !key.has_limit() && line.is_rebuffed && !self.slots.is_empty();
        if line.is_idle() && !is_remembered {
            self.lines.close(number);
        }
    }

    /// Whether an execution may start now.
    pub(crate) fn has_next(&self) -> bool {
        !self.paused && (!self.resuming.is_empty() || !self.is_full() && self.lines.has_ready())
    }

    /// Takes the execution that starts next and gives it its slot; `None` exactly when [`Self::has_next`] is false.
    pub(crate) fn pop_next(&mut self) -> Option<ExecutionId> {
        if !self.has_next() {
            return None;
        }
        if let Some(spot) = self.resuming.pop_first() {
            return Some(spot.id);
        }
        let number = self.lines.pop_ready()?;
        let line = &mut self.lines[number];
        let id = line.pop()?;
        if line.key.has_limit() {
            line.slots.insert(id);
        }
        line.is_rebuffed = false;
        let is_idle = line.is_idle();
        self.update_turn(number);
        if is_idle {
            self.lines.close(number);
        }
        self.set_back.remove(&id);
        self.waiting -= 1;
        self.slots.insert(id);
        Some(id)
    }

    pub(crate) fn is_full(&self) -> bool {
        reached(self.limits.limit, self.slots.len())
    }

    pub(crate) fn is_key_full(&self, line: &Line) -> bool {
        reached(self.limits.key_limit, line.slots.len())
    }

    /// Whether more slots are held than the limits allow by now, of the action or of the line of `key`.
    pub(crate) fn has_surplus(&self, key: &Option<Arc<str>>) -> bool {
        let key = self.line_key(key);
        let of_line = self.lines.get(&key).filter(|line| line.key.has_limit()).map_or(0, |line| line.slots.len());
        exceeded(self.limits.limit, self.slots.len()) || exceeded(self.limits.key_limit, of_line)
    }

    /// Takes new limits; rebuilds the lines if keys began or ceased to matter.
    pub(crate) fn relimit(&mut self, limits: Limits, executions: &Executions, now: Timestamp) {
        let before = std::mem::replace(&mut self.limits, limits);
        if before.key_limit.is_some() != self.limits.key_limit.is_some() {
            self.rebuild_lines(executions, now);
        } else if before.key_limit != self.limits.key_limit {
            // Of the lines that become ready together, the one whose first has waited longest is first in turn.
            let mut lines: Vec<_> = self.lines.numbers().collect();
            lines.sort_unstable_by_key(|number| self.lines[*number].head());
            for number in lines {
                self.update_turn(number);
            }
        }
    }

    fn rebuild_lines(&mut self, executions: &Executions, now: Timestamp) {
        let lines = self.lines.close_all();
        self.waiting = 0;
        let mut waiting: Vec<_> = lines.iter().flat_map(Line::iter).collect();
        // In order, each of them goes to the end of its line.
        waiting.sort_unstable();
        for id in self.slots.iter().collect::<Vec<_>>() {
            self.take_slot(id, &executions.live(id).key);
        }
        for Spot { id, .. } in waiting {
            let execution = executions.live(id);
            self.enqueue(id, execution);
            if execution.ahead().is_some() {
                self.send_ahead(id, &execution.key, now);
            }
        }
    }

    /// Brings a line's turn up to date. To be called after every change of it.
    fn update_turn(&mut self, number: LineNumber) {
        let line = &self.lines[number];
        let is_ready = line.len() > 0 && line.ahead_len() == 0 && !(line.key.has_limit() && self.is_key_full(line));
        self.lines.set_ready(number, is_ready);
    }
}

fn reached(limit: Option<u32>, used: usize) -> bool {
    limit.is_some_and(|limit| used >= limit as usize)
}

fn exceeded(limit: Option<u32>, used: usize) -> bool {
    limit.is_some_and(|limit| used > limit as usize)
}

#[cfg(test)]
mod tests {
    use slotline_protocol::Policy;

    use super::*;

    #[test]
    fn a_line_that_nobody_is_in_is_forgotten_while_others_run() {
        let limits = Limits { key_limit: Some(1), ..Limits::from(&Policy::default()) };
        let name = ActionRef::new("mail.send").expect("a valid name");
        let mut action = ActionLines::new(ActionId(1), name, limits, false);
        let (one, other) = (Some(Arc::from("one")), Some(Arc::from("other")));
        action.take_slot(ExecutionId(1), &one);
        action.take_slot(ExecutionId(2), &other);
        action.free_slot(ExecutionId(1), &one);
        assert_eq!(action.lines.iter().count(), 1);
        assert!(action.slots.iter().eq([ExecutionId(2)]));
    }
}
