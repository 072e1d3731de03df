//! Granting: free slots go to the action whose turn it is, as long as workers have room.

use slotline_protocol::{ActionId, ExecutionId, Fence, Incarnation, Status, Timestamp};

use crate::doubt::attempt_after;
use crate::orders::{OrderNumbers, UNSENT};
use crate::scheduler::Scheduler;
use crate::state::{Assignment, Transition};

impl Scheduler {
    /// Lets an action stand in turn if one of its executions may start. To be called after every change of it.
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
            action.activity.started += 1;
            self.pools.end_turn(action);
            self.lease_out(id, incarnation, now);
        }
    }

    fn lease_out(&mut self, id: ExecutionId, incarnation: Incarnation, now: Timestamp) {
        let assignment = self.next_assignment(incarnation, now);
        if !self.issue(id, Transition::Granted(assignment), now) {
            return;
        }
        self.leave_line(id);
        self.holder_mut(incarnation).leases.insert(id);
        self.update_room(incarnation);
        self.announce(id, Status::Queued, Status::Scheduled, now);
        self.consider_ahead(id);
    }

    /// The assignment of an attempt that is granted now; [`Self::issue`] uses the fence up.
    pub(crate) fn next_assignment(&self, worker: Incarnation, now: Timestamp) -> Assignment {
        Assignment { worker, fence: Fence(self.counters.next_fence), scheduled_at: now, started_at: None }
    }

    /// Gives an execution its next attempt by `transition`, to be dispatched. False if the move is illegal.
    pub(crate) fn issue(&mut self, id: ExecutionId, transition: Transition, now: Timestamp) -> bool {
        let execution = self.executions.live_mut(id);
        if let Err(illegal) = execution.apply(transition) {
            self.report(id, *illegal);
            return false;
        }
        execution.attempt = attempt_after(self.rewound, id, execution.attempt);
        execution.orders = OrderNumbers::of_dispatch(UNSENT, now);
        self.counters.next_fence += 1;
        self.orders.dispatch.push(id);
        self.effects.changed.insert(id);
        true
    }
}
