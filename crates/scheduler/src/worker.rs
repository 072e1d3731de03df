//! One incarnation of a worker: what it serves, what it holds, and how long it has been silent.
//!
//! Not here: what a heartbeat changes (`heartbeat`), and what becomes of its leases when it is lost (`loss`).

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use slotline_protocol::message::Served;
use slotline_protocol::{ExecutionId, Incarnation, Timestamp, WorkerName};

use crate::scheduler::Scheduler;

pub(crate) type Workers = BTreeMap<Incarnation, Worker>;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Worker {
    pub(crate) name: WorkerName,
    pub(crate) capacity: u32,
    /// As its heartbeat lists them, sorted. What it is offered may be less: `pool` knows.
    pub(crate) actions: Vec<Served>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) draining: bool,
    /// False from a returned order until the next heartbeat.
    pub(crate) reachable: bool,
    /// It has sent a heartbeat; before that, all that is known of it is what the journal gives it.
    pub(crate) introduced: bool,
    /// It began under this leader: neither the journal nor an earlier leader knows of it.
    pub(crate) is_new: bool,
    /// It has seen an order of this epoch, and so its greeting: it goes by this leader's terms.
    pub(crate) knows_terms: bool,
    pub(crate) last_heartbeat_at: Timestamp,
    /// When its last message was received, or the session began if that was later.
    pub(crate) silent_since: Timestamp,
    pub(crate) leases: BTreeSet<ExecutionId>,
    /// Sent ahead of their slots: each will take the room of the attempt before it.
    pub(crate) ahead: BTreeSet<ExecutionId>,
}

impl Scheduler {
    /// The worker of an attempt that is out, or goes out: it is forgotten after all that it holds.
    pub(crate) fn holder_mut(&mut self, incarnation: Incarnation) -> &mut Worker {
        self.workers.get_mut(&incarnation).expect("a worker is forgotten after all that it holds")
    }
}

impl Worker {
    /// A worker that is known only by the leases the journal gives it.
    pub(crate) fn remembered(name: WorkerName, now: Timestamp) -> Self {
        Self {
            name,
            capacity: 0,
            actions: Vec::new(),
            labels: BTreeMap::new(),
            draining: false,
            reachable: false,
            introduced: false,
            is_new: false,
            knows_terms: false,
            last_heartbeat_at: now,
            silent_since: now,
            leases: BTreeSet::new(),
            ahead: BTreeSet::new(),
        }
    }

    /// What may run on it, with a slot or ahead of it.
    pub(crate) fn held(&self) -> impl Iterator<Item = ExecutionId> {
        self.leases.iter().chain(&self.ahead).copied()
    }

    /// Whether it holds anything that may run.
    pub(crate) fn is_idle(&self) -> bool {
        self.held().next().is_none()
    }

    /// Whether it may be sent something.
    pub(crate) fn is_open(&self) -> bool {
        self.introduced && self.reachable && !self.draining
    }

    /// Its place among workers with room; `None` if it can take nothing now.
    pub(crate) fn seat(&self, incarnation: Incarnation) -> Option<Seat> {
        let leases = u32::try_from(self.leases.len()).unwrap_or(u32::MAX);
        let has_room = self.is_open() && leases < self.capacity;
        has_room.then_some(Seat { leases, capacity: self.capacity, incarnation })
    }
}

/// A worker with room. Ordered by the share of its capacity in use, and among equals by incarnation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Seat {
    leases: u32,
    capacity: u32,
    pub(crate) incarnation: Incarnation,
}

impl Ord for Seat {
    fn cmp(&self, other: &Self) -> Ordering {
        let share = |mine: &Self, theirs: &Self| u64::from(mine.leases) * u64::from(theirs.capacity);
        share(self, other)
            .cmp(&share(other, self))
            .then_with(|| self.incarnation.cmp(&other.incarnation))
            .then_with(|| (self.leases, self.capacity).cmp(&(other.leases, other.capacity)))
    }
}

impl PartialOrd for Seat {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
