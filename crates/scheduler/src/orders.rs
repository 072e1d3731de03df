//! Orders that wait for the end of their batch, where they get their numbers.
//!
//! The orders of a batch are sorted by type, so that messages of one type travel together and `n` still rises along the
//! queue. Greetings come first, since nothing may start under terms that its worker does not know; then the lost
//! incarnations, dispatches, recalls and cancels; last what is recorded, since nothing waits for that.

use std::collections::{BTreeMap, BTreeSet};

use slotline_protocol::message::AttemptKey;
use slotline_protocol::{ExecutionId, Incarnation, Timestamp};

use crate::effect::{Dispatch, Effects, Order, Sent};
use crate::scheduler::Scheduler;
use crate::state::Assignment;

/// Stands for the number of an order that still waits for it: no heartbeat can have seen it.
pub(crate) const UNSENT: u64 = u64::MAX;
/// Stands for the number of an order of an earlier leader: a worker that has seen any order of this epoch will see no
/// more of that leader's.
pub(crate) const FORMER: u64 = 0;

/// The numbers of the newest orders about an attempt that is out, in this epoch, or one of the two above.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct OrderNumbers {
    pub(crate) dispatch: u64,
    pub(crate) dispatched_at: Timestamp,
    /// `None` unless it is to be handed back.
    pub(crate) recall: Option<u64>,
    /// `None` unless it is to be ended.
    pub(crate) cancel: Option<u64>,
}

impl OrderNumbers {
    /// Of an execution without an attempt that is out.
    pub(crate) const NONE: Self = Self::of_dispatch(FORMER, Timestamp::from_micros(0));

    /// Of an attempt about which there is no order but its dispatch.
    pub(crate) const fn of_dispatch(dispatch: u64, dispatched_at: Timestamp) -> Self {
        Self { dispatch, dispatched_at, recall: None, cancel: None }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Orders {
    /// The last number given in this epoch.
    n: u64,
    pub(crate) greet: bool,
    /// Incarnations whose first message has come.
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
    /// The effects since the last call. Numbers the orders; read changed executions with [`Self::snapshot`] before the
    /// next input.
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
        debug_assert!(
            self.effects.bugs.as_ref().is_none_or(|bugs| bugs.illegal.is_empty()),
            "no input may cause an illegal move: {:?}",
            self.effects.bugs
        );
        let next = Effects::with_room_of(&self.effects);
        std::mem::replace(&mut self.effects, next)
    }

    /// What the next [`Self::take_effects`] will return, as far as it is decided.
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

    // Each of these orders is numbered when it leaves. By then its attempt may be over, or the order sent already: then
    // nothing is sent.

    fn send_dispatch(&mut self, id: ExecutionId) {
        let Some(execution) = self.executions.get(&id) else { return };
        let Some(assignment) = execution.assignment().filter(|_| execution.orders.dispatch == UNSENT) else { return };
        let action = self.actions.of(execution);
        let worker = assignment.worker;
        let dispatch = Dispatch {
            id,
            attempt: execution.attempt,
            // An attempt that was sent ahead counts by the time it runs.
            counts_as: execution.tried + 1,
            fence: assignment.fence,
            action: action.id,
            action_ref: action.action_ref.clone(),
            key: execution.key.clone(),
            scheduled_at: assignment.scheduled_at,
            starts_after: self.predecessor(id),
        };
        let n = self.send(worker, Order::Dispatch(dispatch));
        self.executions.live_mut(id).orders.dispatch = n;
    }

    fn send_recall(&mut self, id: ExecutionId) {
        let Some(execution) = self.executions.get(&id) else { return };
        let Some(ahead) = execution.ahead().filter(|_| execution.orders.recall == Some(UNSENT)) else { return };
        let Assignment { worker, fence, .. } = ahead.assignment;
        let n = self.send(worker, Order::Recall { key: (id, execution.attempt), fence });
        self.executions.live_mut(id).orders.recall = Some(n);
    }

    fn send_cancel(&mut self, id: ExecutionId) {
        let Some(execution) = self.executions.get(&id) else { return };
        let Some(cancelling) = execution.state().cancelling().filter(|_| execution.orders.cancel == Some(UNSENT))
        else {
            return;
        };
        let Assignment { worker, fence, .. } = *execution.assignment().expect("what is to end is at a worker");
        let order = Order::Cancel { key: (id, execution.attempt), fence, reason: cancelling.reason.clone() };
        let n = self.send(worker, order);
        self.executions.live_mut(id).orders.cancel = Some(n);
    }
}
