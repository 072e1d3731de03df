//! One incarnation of a worker: what it serves, what it holds, and how long it has been silent.
//!
//! Not here: what a heartbeat changes (`heartbeat`), and what becomes of its leases when it is lost (`scheduler`).

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use slotline_protocol::message::Served;
use slotline_protocol::{ActionRef, ExecutionId, Incarnation, Timestamp, WorkerName};

pub(crate) type Workers = BTreeMap<Incarnation, Worker>;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Worker {
    pub(crate) name: WorkerName,
    pub(crate) capacity: u32,
    /// Sorted.
    pub(crate) actions: Vec<Served>,
    /// Actions it said it serves and then handed back as unknown; offered again once its list changes.
    pub(crate) disowned: BTreeSet<ActionRef>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) draining: bool,
    /// False from a returned order until the next heartbeat.
    pub(crate) reachable: bool,
    /// A heartbeat told what it is; before that it only holds what the journal remembers.
    pub(crate) introduced: bool,
    pub(crate) last_heartbeat_at: Timestamp,
    /// No message of it was received since.
    pub(crate) silent_since: Timestamp,
    pub(crate) leases: BTreeSet<ExecutionId>,
}

impl Worker {
    /// One that is known only by the leases the journal gives it.
    pub(crate) fn remembered(name: WorkerName, now: Timestamp) -> Self {
        Self {
            name,
            capacity: 0,
            actions: Vec::new(),
            disowned: BTreeSet::new(),
            labels: BTreeMap::new(),
            draining: false,
            reachable: false,
            introduced: false,
            last_heartbeat_at: now,
            silent_since: now,
            leases: BTreeSet::new(),
        }
    }

    pub(crate) fn serves(&self, action_ref: &ActionRef) -> bool {
        self.introduced
            && self.actions.binary_search_by(|served| served.action_ref.cmp(action_ref)).is_ok()
            && !self.disowned.contains(action_ref)
    }

    pub(crate) fn has_room(&self) -> bool {
        self.introduced && self.reachable && !self.draining && self.leases.len() < self.capacity as usize
    }

    /// Less loaded first, by the share of capacity in use.
    pub(crate) fn by_load(&self, other: &Self) -> Ordering {
        let share = |mine: &Self, theirs: &Self| mine.leases.len() as u64 * u64::from(theirs.capacity);
        share(self, other).cmp(&share(other, self))
    }
}

/// The least loaded of `candidates` that has room; the first by incarnation among equals.
pub(crate) fn least_loaded(workers: &Workers, candidates: &[Incarnation]) -> Option<Incarnation> {
    candidates
        .iter()
        .filter_map(|incarnation| workers.get_key_value(incarnation))
        .filter(|(_, worker)| worker.has_room())
        .min_by(|(_, one), (_, other)| one.by_load(other))
        .map(|(incarnation, _)| *incarnation)
}
