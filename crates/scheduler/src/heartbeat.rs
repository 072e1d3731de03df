//! What a heartbeat tells, held against what the scheduler believes. Whatever message was lost shows here and is mended.
//!
//! Only re-sends and facts follow from a heartbeat: a missing entry never ends a lease.

use std::collections::BTreeMap;

use slotline_protocol::message::{AttemptKey, Heartbeat, Holding};
use slotline_protocol::{ExecutionId, Incarnation, Timestamp};

use crate::execution::AtWork;
use crate::scheduler::Scheduler;
use crate::worker::Worker;

impl Scheduler {
    pub(crate) fn heartbeat(&mut self, mut heartbeat: Heartbeat, now: Timestamp) {
        let incarnation = heartbeat.incarnation;
        if self.ended.contains(&incarnation) {
            self.orders.lost.insert(incarnation);
            return;
        }
        heartbeat.actions.sort_unstable();
        heartbeat.actions.dedup_by(|one, other| one.action_ref == other.action_ref);
        let worker =
            self.workers.entry(incarnation).or_insert_with(|| Worker::remembered(heartbeat.worker.clone(), now));
        let serves_others = !worker.introduced || worker.actions != heartbeat.actions;
        if serves_others {
            worker.actions = std::mem::take(&mut heartbeat.actions);
            worker.disowned.clear();
        }
        worker.introduced = true;
        worker.reachable = true;
        worker.capacity = heartbeat.capacity;
        worker.draining = heartbeat.draining;
        worker.labels = std::mem::take(&mut heartbeat.labels);
        worker.last_heartbeat_at = now;
        worker.silent_since = now;
        if serves_others {
            self.rebuild_pools();
        }
        self.reconcile(incarnation, &heartbeat, now);
    }

    fn reconcile(&mut self, incarnation: Incarnation, heartbeat: &Heartbeat, now: Timestamp) {
        let holding: BTreeMap<AttemptKey, Holding> =
            heartbeat.holding.iter().map(|(id, attempt, state)| ((*id, *attempt), *state)).collect();
        let Some(worker) = self.workers.get(&incarnation) else { return };
        for id in worker.leases.clone() {
            self.reconcile_lease(id, heartbeat, &holding, now);
        }
        for key in &heartbeat.unrecorded {
            let leased = self.executions.get(&key.0).filter(|execution| execution.attempt == key.1);
            let live =
                leased.and_then(|execution| execution.leased()).is_some_and(|leased| leased.worker == incarnation);
            if !live {
                self.orders.recorded(incarnation, *key);
            }
        }
    }

    fn reconcile_lease(
        &mut self,
        id: ExecutionId,
        heartbeat: &Heartbeat,
        holding: &BTreeMap<AttemptKey, Holding>,
        now: Timestamp,
    ) {
        let covers = |n: u64| (self.epoch, n) <= heartbeat.seen;
        let patience = self.config.heartbeat * 2;
        let Some(execution) = self.executions.get_mut(&id) else { return };
        let key = (id, execution.attempt);
        let Some(leased) = execution.leased_mut() else { return };
        match holding.get(&key) {
            Some(Holding::Running) if leased.at_work == AtWork::Scheduled => {
                leased.at_work = AtWork::Running;
                self.effects.changed.insert(id);
            }
            // The order to end it got lost: by the time of this heartbeat it had arrived, or should have.
            Some(Holding::Running | Holding::Pending) if matches!(leased.at_work, AtWork::Cancelling { n, .. } if covers(n)) =>
            {
                self.orders.cancel.push(id);
            }
            Some(Holding::Running | Holding::Pending | Holding::Cancelling) => {}
            None if heartbeat.unrecorded.contains(&key) => {}
            None => {
                let overdue = now.since(leased.sent_at) > patience;
                if covers(leased.n) || overdue {
                    leased.sent_at = now;
                    self.orders.dispatch.push(id);
                    if matches!(leased.at_work, AtWork::Cancelling { .. }) {
                        self.orders.cancel.push(id);
                    }
                }
            }
        }
    }
}
