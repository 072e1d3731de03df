//! Orders that wait for the end of their batch, where they get their numbers.
//!
//! One batch first greets whoever is new, since nothing may start under terms it does not know. Then it says what to
//! start, what to hand back and what to end, and last what is recorded, which nobody waits for: messages of one type
//! travel together, and `n` still rises along the queue.

use std::collections::{BTreeMap, BTreeSet};

use slotline_protocol::message::AttemptKey;
use slotline_protocol::{ExecutionId, Incarnation};

use crate::effect::{Dispatch, Effects, Order, Sent};
use crate::execution::{Ahead, AtWork};
use crate::scheduler::Scheduler;

/// Stands for the number of an order that still waits for it: no heartbeat can have seen it.
pub(crate) const UNSENT: u64 = u64::MAX;
/// Stands for the number of an order that an earlier leader gave: whoever has seen anything of this epoch has seen all
/// that will ever come of it.
pub(crate) const FORMER: u64 = 0;

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Orders {
    /// The last number given in this epoch.
    n: u64,
    pub(crate) greet: bool,
    /// Incarnations that were heard for the first time.
    pub(crate) greetings: BTreeSet<Incarnation>,
    pub(crate) lost: BTreeSet<Incarnation>,
    recorded: BTreeMap<Incarnation, Vec<AttemptKey>>,
    /// Executions whose lease is to be sent, in order of grant; those among them that are [`UNSENT`] are.
    pub(crate) dispatch: Vec<ExecutionId>,
    /// Executions that are to be handed back; those among them whose order is [`UNSENT`] are.
    pub(crate) recall: Vec<ExecutionId>,
    /// Executions whose lease is to be ended; those among them whose order is [`UNSENT`] are.
    pub(crate) cancel: Vec<ExecutionId>,
}

impl Orders {
    pub(crate) fn recorded(&mut self, incarnation: Incarnation, attempt: AttemptKey) {
        self.recorded.entry(incarnation).or_default().push(attempt);
    }

    fn number(&mut self) -> u64 {
        self.n += 1;
        self.n
    }
}

impl Scheduler {
    /// What the world is owed since the last call. Numbers the orders; read changed executions with
    /// [`Self::snapshot`] before the next input.
    pub fn take_effects(&mut self) -> Effects {
        if std::mem::take(&mut self.orders.greet) {
            self.effects.hello = Some(self.orders.number());
        }
        for incarnation in std::mem::take(&mut self.orders.greetings) {
            let n = self.orders.number();
            self.effects.greetings.push((incarnation, n));
        }
        for incarnation in std::mem::take(&mut self.orders.lost) {
            self.send(incarnation, Order::Lost);
        }
        for id in std::mem::take(&mut self.orders.dispatch) {
            self.send_dispatch(id);
        }
        for id in std::mem::take(&mut self.orders.recall) {
            self.send_recall(id);
        }
        for id in std::mem::take(&mut self.orders.cancel) {
            self.send_cancel(id);
        }
        for (incarnation, mut attempts) in std::mem::take(&mut self.orders.recorded) {
            attempts.sort_unstable();
            attempts.dedup();
            self.send(incarnation, Order::Recorded { attempts });
        }
        debug_assert!(self.effects.changed.iter().all(|id| self.executions.contains_key(id)), "they are live");
        let next = Effects::with_room_of(&self.effects);
        std::mem::replace(&mut self.effects, next)
    }

    /// What the next [`Self::take_effects`] will give, as far as it is decided.
    pub fn effects(&self) -> &Effects {
        &self.effects
    }

    /// The number of an order that is not the scheduler's own; higher than all taken so far.
    pub fn number_order(&mut self) -> u64 {
        self.orders.number()
    }

    fn send(&mut self, incarnation: Incarnation, order: Order) -> u64 {
        let n = self.orders.number();
        self.effects.orders.push(Sent { incarnation, n, order });
        n
    }

    fn send_dispatch(&mut self, id: ExecutionId) {
        let Some(execution) = self.executions.get(&id) else { return };
        let Some(leased) = execution.leased().filter(|leased| leased.n == UNSENT) else { return };
        let Some(action) = self.actions.get(&execution.action) else { return };
        let dispatch = Dispatch {
            id,
            attempt: execution.attempt,
            // One that was sent ahead is out by the time it runs.
            counts_as: execution.tried + 1,
            fence: leased.fence,
            action: action.id,
            action_ref: action.action_ref.clone(),
            key: execution.key.clone(),
            scheduled_at: leased.scheduled_at,
            starts_after: self.predecessor(id),
        };
        let n = self.send(leased.worker, Order::Dispatch(dispatch));
        if let Some(leased) = self.executions.get_mut(&id).and_then(|execution| execution.leased_mut()) {
            leased.n = n;
        }
    }

    fn send_recall(&mut self, id: ExecutionId) {
        let Some(execution) = self.executions.get(&id) else { return };
        let Some(leased) = execution.leased() else { return };
        let Some(Ahead { recall: Some(UNSENT), .. }) = leased.ahead else { return };
        let order = Order::Recall { key: (id, execution.attempt), fence: leased.fence };
        let number = self.send(leased.worker, order);
        if let Some(leased) = self.executions.get_mut(&id).and_then(|execution| execution.leased_mut())
            && let Some(ahead) = &mut leased.ahead
        {
            ahead.recall = Some(number);
        }
    }

    fn send_cancel(&mut self, id: ExecutionId) {
        let Some(execution) = self.executions.get(&id) else { return };
        let Some(leased) = execution.leased() else { return };
        let AtWork::Cancelling { n: UNSENT, reason } = &leased.at_work else { return };
        let order = Order::Cancel { key: (id, execution.attempt), fence: leased.fence, reason: reason.clone() };
        let number = self.send(leased.worker, order);
        if let Some(leased) = self.executions.get_mut(&id).and_then(|execution| execution.leased_mut())
            && let AtWork::Cancelling { n, .. } = &mut leased.at_work
        {
            *n = number;
        }
    }
}
