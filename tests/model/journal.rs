//! The journal as data: who leads, and what every batch made durable. It also notes where a batch broke a rule, since
//! only here the state before and the state after are both at hand.
//!
//! Stands for `crates/store`: a batch is committed whole, under the epoch it was made in and behind the batch before it,
//! or not at all.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::sync::LazyLock;

use slotline_protocol::{Epoch, ExecutionId, Incarnation, Status, Timestamp};
use slotline_scheduler::{Counters, Snapshot};

use crate::rules::Rule;
use crate::shared::{Kept, Part};
use crate::wire::ACTION;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Journal {
    pub(crate) epoch: Epoch,
    batch: i64,
    pub(crate) counters: Counters,
    pub(crate) live: BTreeMap<ExecutionId, Row>,
    pub(crate) settled: BTreeSet<ExecutionId>,
    pub(crate) ended: Vec<Incarnation>,
}

impl Part for Journal {
    fn kept() -> &'static Kept<Self> {
        static KEPT: LazyLock<Kept<Journal>> = Kept::new();
        &KEPT
    }
}

/// A live execution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row(pub(crate) Snapshot);

impl Hash for Row {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Snapshot { id, status, place, attempt, failures, losses, queued_at, lease, .. } = &self.0;
        (id, status, place, attempt, failures, losses, queued_at).hash(state);
        lease.as_ref().map(|lease| (lease.incarnation, lease.fence, lease.scheduled_at, lease.started_at)).hash(state);
    }
}

/// What one commit writes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Batch {
    pub(crate) epoch: Epoch,
    pub(crate) number: i64,
    pub(crate) counters: Counters,
    pub(crate) live: Vec<Row>,
    pub(crate) settled: Vec<(ExecutionId, Status)>,
    pub(crate) ended: Vec<Incarnation>,
}

impl Journal {
    /// With this many executions in line, and nobody who leads.
    pub(crate) fn new(executions: u8) -> Self {
        let began_at = Timestamp::from_micros(0);
        let row = |id: i64| Snapshot {
            id: ExecutionId(id),
            action: ACTION,
            key: None,
            status: Status::Queued,
            place: id,
            attempt: 0,
            tried: 0,
            failures: 0,
            losses: 0,
            enqueued_at: began_at,
            queued_at: began_at,
            not_before: None,
            keeps_slot: false,
            cancel_requested: false,
            is_bulky: false,
            lease: None,
        };
        let last = i64::from(executions);
        Self {
            epoch: Epoch(0),
            batch: 0,
            counters: Counters { next_id: last + 1, next_fence: 1, next_action: 2 },
            live: (1..=last).map(|id| (ExecutionId(id), Row(row(id)))).collect(),
            settled: BTreeSet::new(),
            ended: Vec::new(),
        }
    }

    /// Seats a leader; whoever led before can't commit any more.
    pub(crate) fn seat(&mut self) -> Epoch {
        self.epoch = Epoch(self.epoch.0 + 1);
        self.batch = 0;
        self.epoch
    }

    /// Whether the batch may be committed now.
    pub(crate) fn admits(&self, batch: &Batch) -> bool {
        batch.epoch == self.epoch && batch.number == self.batch + 1
    }

    /// Commits a batch; gives the rule it breaks, if it does.
    pub(crate) fn apply(&mut self, batch: &Batch) -> Option<Rule> {
        let mut broken = (!self.admits(batch)).then_some(Rule::OnlyTheLeaderWrites);
        let first_new_fence = self.counters.next_fence;
        let waited: Vec<i64> = self.waiting().collect();
        self.batch = batch.number;
        self.counters = batch.counters;
        for (id, status) in &batch.settled {
            if self.live.remove(id).is_none() || !self.settled.insert(*id) || !status.is_terminal() {
                broken = broken.or(Some(Rule::SettledOnce));
            }
        }
        let mut granted = Vec::new();
        for row in &batch.live {
            let Row(snapshot) = row;
            if self.settled.contains(&snapshot.id) {
                broken = broken.or(Some(Rule::SettledOnce));
            }
            if snapshot.lease.as_ref().is_some_and(|lease| lease.fence.0 >= first_new_fence) {
                granted.push(snapshot.place);
            }
            self.live.insert(snapshot.id, row.clone());
        }
        // Whoever stood in line before and stands there still was passed by everyone granted from behind.
        let is_passed = |place: i64| waited.contains(&place) && granted.iter().any(|other| *other > place);
        if self.waiting().any(is_passed) {
            broken = broken.or(Some(Rule::GrantsInOrder));
        }
        for incarnation in &batch.ended {
            if !self.ended.contains(incarnation) {
                self.ended.push(*incarnation);
            }
        }
        broken
    }

    /// The places of those who stand in line.
    fn waiting(&self) -> impl Iterator<Item = i64> + '_ {
        self.live.values().filter(|Row(snapshot)| snapshot.lease.is_none()).map(|Row(snapshot)| snapshot.place)
    }

    pub(crate) fn leases(&self) -> usize {
        self.live.values().filter(|Row(snapshot)| snapshot.lease.is_some()).count()
    }
}

impl Batch {
    /// Whether nothing but the counters would be written.
    pub(crate) fn is_empty(&self) -> bool {
        self.live.is_empty() && self.settled.is_empty() && self.ended.is_empty()
    }
}
