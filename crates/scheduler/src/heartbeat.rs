//! A heartbeat, held against what the scheduler believes. Every lost message shows here, and its effect is mended.
//!
//! Only re-sends and facts follow from a heartbeat: a missing entry never ends a lease.

use std::collections::{BTreeMap, BTreeSet};

use slotline_protocol::message::{AttemptKey, Heartbeat, Holding};
use slotline_protocol::{Epoch, ExecutionId, Incarnation, Timestamp};

use crate::orders::UNSENT;
use crate::scheduler::Scheduler;
use crate::state::StateKind;
use crate::worker::Worker;

/// The part of a heartbeat that is about attempts.
struct Account {
    incarnation: Incarnation,
    holding: BTreeMap<AttemptKey, Holding>,
    unrecorded: BTreeSet<AttemptKey>,
    seen: (Epoch, u64),
}

impl Scheduler {
    pub(crate) fn heartbeat(&mut self, heartbeat: Heartbeat, now: Timestamp) {
        if self.is_wild(&heartbeat) {
            self.effects.wild += 1;
            return;
        }
        self.weigh(&heartbeat);
        let Heartbeat { worker: name, incarnation, mut actions, .. } = heartbeat;
        if self.ended.contains(incarnation) {
            self.orders.lost.insert(incarnation);
            return;
        }
        actions.sort_unstable();
        actions.dedup_by(|one, other| one.action_ref == other.action_ref);
        // This leader was the first to greet it, or it would have seen an order of another.
        let is_new = !self.workers.contains_key(&incarnation) && heartbeat.seen.0 == self.epoch;
        let worker = self.workers.entry(incarnation).or_insert_with(|| Worker::remembered(name, now));
        worker.is_new |= is_new;
        if !worker.introduced || worker.actions != actions {
            let serves = actions.iter().map(|served| served.action_ref.clone()).collect();
            self.pools.serve(incarnation, serves, &mut self.actions);
            worker.actions = actions;
        }
        if !worker.introduced {
            self.orders.greetings.insert(incarnation);
        }
        worker.introduced = true;
        let has_learnt = !worker.knows_terms && heartbeat.seen.0 == self.epoch;
        worker.knows_terms |= has_learnt;
        worker.reachable = true;
        worker.capacity = heartbeat.capacity;
        worker.draining = heartbeat.draining;
        worker.labels = heartbeat.labels;
        worker.last_heartbeat_at = now;
        worker.silent_since = now;
        let leases: Vec<_> = worker.held().collect();
        let has_heard = heartbeat.seen.0 == self.epoch;
        self.update_room(incarnation);
        if has_learnt {
            self.note_terms();
        }

        let account = Account {
            incarnation,
            holding: heartbeat.holding.into_iter().map(|(id, attempt, state)| ((id, attempt), state)).collect(),
            unrecorded: heartbeat.unrecorded.into_iter().collect(),
            seen: heartbeat.seen,
        };
        if !self.is_in_doubt() {
            return self.reconcile_all(leases, account, now);
        }
        match heartbeat.account.filter(|_| has_heard) {
            Some(shown) => {
                if self.take_account(incarnation, shown, now) {
                    self.reconcile_in_doubt(leases, &account, now);
                }
            }
            // It never got a greeting, or the greeting was lost.
            None => _ = self.orders.greetings.insert(incarnation),
        }
    }

    fn reconcile_all(&mut self, leases: Vec<ExecutionId>, account: Account, now: Timestamp) {
        for id in leases {
            self.reconcile(id, &account, now);
        }
        for key in account.unrecorded {
            self.forget(key, account.incarnation);
        }
    }

    /// As [`Self::reconcile`], of leases that the journal gave: what the worker does not show was over before.
    fn reconcile_in_doubt(&mut self, leases: Vec<ExecutionId>, account: &Account, now: Timestamp) {
        for id in leases {
            // What the account showed may have ended or moved it.
            let Some(execution) = self.executions.get(&id) else { continue };
            if execution.assignment().is_none_or(|assignment| assignment.worker != account.incarnation) {
                continue;
            }
            let key = (id, execution.attempt);
            match account.holding.get(&key) {
                Some(Holding::Running | Holding::Starting | Holding::Pending)
                    if execution.kind() == StateKind::Cancelling =>
                {
                    self.reconcile(id, account, now);
                }
                Some(Holding::Pending) => {}
                Some(Holding::Running) => {
                    self.fire_if_ahead(id, now);
                    self.runs(id);
                }
                Some(Holding::Starting | Holding::Cancelling) => self.fire_if_ahead(id, now),
                None if account.unrecorded.contains(&key) => self.fire_if_ahead(id, now),
                None => self.miss(id, now),
            }
        }
    }

    fn reconcile(&mut self, id: ExecutionId, account: &Account, now: Timestamp) {
        let covers = |n: u64| (self.epoch, n) <= account.seen;
        let patience = self.config.heartbeat * 2;
        let execution = self.executions.live_mut(id);
        let key = (id, execution.attempt);
        let (is_ahead, is_running) = (execution.ahead().is_some(), execution.kind() == StateKind::Running);
        let orders = &mut execution.orders;
        match account.holding.get(&key) {
            // By the time of this heartbeat the order to end it had arrived, or should have.
            Some(Holding::Running | Holding::Starting | Holding::Pending) if orders.cancel.is_some_and(covers) => {
                orders.cancel = Some(UNSENT);
                self.orders.cancel.push(id);
            }
            Some(Holding::Pending) if orders.recall.is_some_and(covers) => {
                orders.recall = Some(UNSENT);
                self.orders.recall.push(id);
            }
            Some(Holding::Pending) if is_ahead && now.since(orders.dispatched_at) > patience => self.recall_stale(id),
            // What began although it was sent ahead is believed with the end of the one before it; the rest is known.
            Some(Holding::Running) if is_ahead || is_running => {}
            Some(Holding::Running) => self.runs(id),
            Some(Holding::Pending | Holding::Starting | Holding::Cancelling) => {}
            // Its completion is on the way, and is repeated until it is recorded.
            None if account.unrecorded.contains(&key) => {}
            None if covers(orders.dispatch) || now.since(orders.dispatched_at) > patience => {
                orders.dispatch = UNSENT;
                orders.dispatched_at = now;
                self.orders.dispatch.push(id);
                if orders.cancel.is_some() {
                    orders.cancel = Some(UNSENT);
                    self.orders.cancel.push(id);
                }
                if orders.recall.is_some() {
                    orders.recall = Some(UNSENT);
                    self.orders.recall.push(id);
                }
            }
            None => {}
        }
    }
}
