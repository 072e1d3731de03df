//! Granting: free slots go to whose turn it is, as long as workers have room.

use slotline_protocol::{ActionId, ExecutionId, Fence, Incarnation, Status, Timestamp};

use crate::doubt::attempt_after;
use crate::execution::{Ahead, AtWork, Event, Leased, Phase, State};
use crate::orders::UNSENT;
use crate::scheduler::Scheduler;

impl Scheduler {
    /// Lets an action stand in turn if someone of it may start. To be called after every change of it.
    pub(crate) fn offer(&mut self, id: ActionId) {
        if let Some(action) = self.actions.get_mut(&id) {
            self.pools.update_turn(action);
        }
    }

    /// To be called after every change of what a worker holds or can hold.
    pub(crate) fn update_room(&mut self, incarnation: Incarnation) {
        if let Some(worker) = self.workers.get(&incarnation) {
            self.pools.update_room(incarnation, worker);
        }
    }

    pub(crate) fn grant(&mut self, now: Timestamp) {
        while self.counters.next_fence < self.reserved.next_fence
            && let Some((action_id, incarnation)) = self.pools.next()
        {
            let action = self.actions.get_mut(&action_id).expect("a deleted action has left its ring");
            let id = action.pop_next().expect("an action stands in turn only while someone of it may start");
            self.pools.end_turn(action);
            self.lease_out(id, incarnation, now);
        }
    }

    fn lease_out(&mut self, id: ExecutionId, incarnation: Incarnation, now: Timestamp) {
        let Some(Phase::Scheduled) = self.next_phase(id, Event::Granted) else { return };
        self.disarm(id);
        self.issue(id, incarnation, None, now);
        if let Some(worker) = self.workers.get_mut(&incarnation) {
            worker.leases.insert(id);
        }
        self.update_room(incarnation);
        self.announce(id, Status::Queued, Status::Scheduled, now);
        self.consider_ahead(id);
    }

    /// Gives an execution its next attempt, with a fence of its own, to be dispatched; `ahead` if its slot is still to come.
    pub(crate) fn issue(&mut self, id: ExecutionId, worker: Incarnation, ahead: Option<Ahead>, now: Timestamp) {
        let Some(execution) = self.executions.get_mut(&id) else { return };
        execution.attempt = attempt_after(self.rewound, id, execution.attempt);
        execution.state = State::Leased(Leased {
            worker,
            fence: Fence(self.counters.next_fence),
            n: UNSENT,
            sent_at: now,
            scheduled_at: now,
            started_at: None,
            at_work: AtWork::Scheduled,
            ahead,
        });
        self.counters.next_fence += 1;
        self.orders.dispatch.push(id);
        self.effects.changed.insert(id);
    }
}
