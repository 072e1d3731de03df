//! The results of what happened: the questions that tests ask.

use std::collections::BTreeSet;

use slotline_protocol::http::Waiting;
use slotline_protocol::{ActionId, ExecutionId, Incarnation, Status};
use slotline_scheduler::{Order, Sent, Settled, Snapshot};

use super::{FakeWorker, HEARTBEAT, World};

impl World {
    pub(crate) fn id(&self, name: &str) -> ExecutionId {
        *self.ids.get(name).unwrap_or_else(|| panic!("{name} was never accepted"))
    }

    pub(crate) fn name(&self, id: ExecutionId) -> String {
        self.names[&id].clone()
    }

    pub(crate) fn action(&self, name: &str) -> ActionId {
        self.actions[name].0
    }

    pub(super) fn only_action(&self) -> String {
        assert_eq!(self.actions.len(), 1, "name the action: there are several");
        self.actions.keys().next().expect("one action").clone()
    }

    pub(crate) fn worker(&self, name: &str) -> &FakeWorker {
        &self.workers[name]
    }

    pub(crate) fn worker_mut(&mut self, name: &str) -> &mut FakeWorker {
        self.workers.get_mut(name).expect("a known worker")
    }

    pub(crate) fn incarnation(&self, name: &str) -> Incarnation {
        self.worker(name).incarnation
    }

    /// Executions in the order in which they were granted, once for each grant of this epoch.
    pub(crate) fn started(&self) -> Vec<String> {
        let mut fences = BTreeSet::new();
        let dispatches = self.orders.iter().filter_map(|sent| match &sent.order {
            Order::Dispatch(dispatch) => Some(dispatch),
            Order::Recorded { .. } | Order::Recall { .. } | Order::Cancel { .. } | Order::Lost => None,
        });
        dispatches.filter(|dispatch| fences.insert(dispatch.fence)).map(|dispatch| self.name(dispatch.id)).collect()
    }

    /// Executions that hold a lease, in order of grant.
    pub(crate) fn running(&self) -> Vec<String> {
        let mut leases: Vec<_> =
            self.journal.values().filter_map(|live| Some((live.leased()?.fence, live.id))).collect();
        leases.sort_unstable();
        leases.into_iter().map(|(_, id)| self.name(id)).collect()
    }

    /// Executions that were sent ahead of their slots, in the order in which they were.
    pub(crate) fn ahead(&self) -> Vec<String> {
        let after = |live: &&Snapshot| live.lease.as_ref().is_some_and(|lease| lease.after.is_some());
        let mut leases: Vec<_> = self
            .journal
            .values()
            .filter(after)
            .filter_map(|live| Some((live.lease.as_ref()?.fence, live.id)))
            .collect();
        leases.sort_unstable();
        leases.into_iter().map(|(_, id)| self.name(id)).collect()
    }

    /// Executions that are to be handed back, one for each such order.
    pub(crate) fn recalled(&self) -> Vec<String> {
        let recall = |sent: &Sent| match &sent.order {
            Order::Recall { key: (id, _), .. } => Some(self.name(*id)),
            Order::Recorded { .. } | Order::Dispatch(_) | Order::Cancel { .. } | Order::Lost => None,
        };
        self.orders.iter().filter_map(recall).collect()
    }

    /// Executions that the worker holds, by the scheduler's state.
    pub(crate) fn held_by(&self, worker: &str) -> Vec<String> {
        let leases = self.scheduler.leases_of(self.incarnation(worker));
        leases.into_iter().map(|((id, _), _)| self.name(id)).collect()
    }

    pub(crate) fn orders_to(&self, worker: &str) -> Vec<Order> {
        let incarnation = self.incarnation(worker);
        self.orders.iter().filter(|sent| sent.incarnation == incarnation).map(|sent| sent.order.clone()).collect()
    }

    pub(crate) fn status(&self, name: &str) -> Status {
        let id = self.id(name);
        match self.scheduler.status(id) {
            Some(status) => status,
            None => self.ending(name).status,
        }
    }

    pub(crate) fn ending(&self, name: &str) -> &Settled {
        let id = self.id(name);
        self.settled.iter().find(|settled| settled.id == id).unwrap_or_else(|| panic!("{name} has not settled"))
    }

    /// The code of the error that it ended with.
    pub(crate) fn code(&self, name: &str) -> &str {
        self.ending(name).error.as_ref().map_or("", |error| &error.code)
    }

    /// Executions in the order in which they settled.
    pub(crate) fn finished(&self) -> Vec<String> {
        self.settled.iter().map(|settled| self.name(settled.id)).collect()
    }

    pub(crate) fn snapshot(&self, name: &str) -> Snapshot {
        self.scheduler.snapshot(self.id(name)).unwrap_or_else(|| panic!("{name} is not live"))
    }

    pub(crate) fn why(&self, name: &str) -> Waiting {
        self.scheduler.explain(self.id(name)).unwrap_or_else(|| panic!("{name} does not wait"))
    }

    /// Nothing is held, waiting or timed any more.
    #[track_caller]
    pub(crate) fn assert_nothing_is_left(&self) {
        for (name, (id, _, _)) in &self.actions {
            let stats = self.scheduler.queue_stats(*id, self.now).expect("a known action");
            assert_eq!((stats.queue_length, stats.active_count), (0, 0), "{name}");
            assert_eq!(stats.keys, [], "{name}");
            assert!(!self.scheduler.has_live(*id), "{name}");
        }
        assert!(self.journal.is_empty());
        for worker in self.scheduler.workers() {
            assert!(worker.leases.is_empty(), "{worker:?}");
        }
        let probe_only = self.scheduler.next_deadline().is_none_or(|due| due <= self.now + HEARTBEAT);
        assert!(probe_only, "a timer was left behind");
    }
}
