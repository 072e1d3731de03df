//! The scheduler as it could be written with unlimited time to run: one flat list of executions, every question
//! answered by looking at all of them. It knows which grants may be made, not which comes next; it checks each grant of
//! the scheduler.

mod happenings;

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use slotline_protocol::http::WaitReason;
use slotline_protocol::message::AttemptKey;
use slotline_protocol::{ActionId, ActionRef, ExecutionId, Fence, Incarnation, Status, Timestamp};
use slotline_scheduler::{Limits, Snapshot};

use crate::world::HEARTBEAT;

pub(crate) struct Reference {
    pub(crate) now: Timestamp,
    pub(crate) next_id: i64,
    pub(crate) next_probe: Timestamp,
    pub(crate) actions: BTreeMap<ActionId, Action>,
    pub(crate) live: BTreeMap<ExecutionId, Execution>,
    pub(crate) settled: BTreeMap<ExecutionId, Status>,
    pub(crate) workers: BTreeMap<Incarnation, Worker>,
    pub(crate) ended: BTreeSet<Incarnation>,
}

pub(crate) struct Action {
    pub(crate) action_ref: ActionRef,
    pub(crate) limits: Limits,
    pub(crate) paused: bool,
    pub(crate) enqueued: u64,
    pub(crate) completed: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Execution {
    pub(crate) action: ActionId,
    pub(crate) key: Option<Arc<str>>,
    pub(crate) place: i64,
    pub(crate) attempt: u32,
    pub(crate) failures: u32,
    pub(crate) losses: u32,
    pub(crate) enqueued_at: Timestamp,
    pub(crate) queued_at: Timestamp,
    pub(crate) state: State,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    InLine,
    /// Due again, with its slot.
    Resuming,
    /// `until` is the scheduler's to choose, within bounds.
    BackingOff {
        until: Option<Timestamp>,
        keeps_slot: bool,
    },
    Out {
        worker: Incarnation,
        fence: Fence,
        at_work: Status,
    },
}

#[derive(Clone, Default)]
pub(crate) struct Worker {
    pub(crate) capacity: u32,
    listed: BTreeSet<ActionRef>,
    pub(crate) offered: BTreeSet<ActionRef>,
    pub(crate) draining: bool,
    pub(crate) reachable: bool,
    pub(crate) introduced: bool,
}

impl Execution {
    pub(crate) fn holds_slot(&self) -> bool {
        match self.state {
            State::Resuming | State::BackingOff { keeps_slot: true, .. } | State::Out { .. } => true,
            State::InLine | State::BackingOff { keeps_slot: false, .. } => false,
        }
    }

    pub(crate) fn status(&self) -> Status {
        match self.state {
            State::InLine | State::Resuming | State::BackingOff { .. } => Status::Queued,
            State::Out { at_work, .. } => at_work,
        }
    }

    fn is_out(&self, key: AttemptKey, fence: Fence) -> bool {
        self.attempt == key.1 && matches!(self.state, State::Out { fence: own, .. } if own == fence)
    }
}

impl Reference {
    pub(crate) fn new(now: Timestamp) -> Self {
        Self {
            now,
            next_id: 1,
            next_probe: now + HEARTBEAT,
            actions: BTreeMap::new(),
            live: BTreeMap::new(),
            settled: BTreeMap::new(),
            workers: BTreeMap::new(),
            ended: BTreeSet::new(),
        }
    }

    // ---- questions ----

    /// Executions that share `execution`'s line, itself included.
    fn line<'a>(&'a self, execution: &'a Execution) -> impl Iterator<Item = (&'a ExecutionId, &'a Execution)> {
        let keyed = self.actions[&execution.action].limits.key_limit.is_some();
        self.live
            .iter()
            .filter(move |(_, other)| other.action == execution.action && (!keyed || other.key == execution.key))
    }

    pub(crate) fn slots_of(&self, action: ActionId) -> Vec<ExecutionId> {
        let holds = |(id, one): (&ExecutionId, &Execution)| (one.action == action && one.holds_slot()).then_some(*id);
        self.live.iter().filter_map(holds).collect()
    }

    fn slots_of_line(&self, execution: &Execution) -> Vec<ExecutionId> {
        self.line(execution).filter(|(_, one)| one.holds_slot()).map(|(id, _)| *id).collect()
    }

    fn key_limit(&self, execution: &Execution) -> Option<u32> {
        self.actions[&execution.action].limits.key_limit
    }

    /// How the slots in use compare with the limits; `None` limits are never reached.
    fn stands(&self, execution: &Execution) -> (Ordering, Ordering) {
        let compare =
            |used: usize, limit: Option<u32>| limit.map_or(Ordering::Less, |limit| used.cmp(&(limit as usize)));
        let limits = &self.actions[&execution.action].limits;
        (
            compare(self.slots_of(execution.action).len(), limits.limit),
            compare(self.slots_of_line(execution).len(), self.key_limit(execution)),
        )
    }

    pub(crate) fn queue_length(&self, action: ActionId) -> usize {
        self.live.values().filter(|one| one.action == action && !one.holds_slot()).count()
    }

    pub(crate) fn leases_of(&self, incarnation: Incarnation) -> Vec<ExecutionId> {
        let holds = |one: &Execution| matches!(one.state, State::Out { worker, .. } if worker == incarnation);
        self.live.iter().filter(|(_, one)| holds(one)).map(|(id, _)| *id).collect()
    }

    /// Whether `id` may be granted now, workers aside.
    fn is_ready(&self, id: ExecutionId) -> bool {
        let execution = &self.live[&id];
        if self.actions[&execution.action].paused {
            return false;
        }
        match execution.state {
            State::Resuming => true,
            State::BackingOff { .. } | State::Out { .. } => false,
            State::InLine => {
                let mut line = self.line(execution).filter(|(_, other)| other.state == State::InLine);
                let is_head = line.all(|(_, other)| other.place >= execution.place);
                is_head && self.stands(execution) == (Ordering::Less, Ordering::Less)
            }
        }
    }

    /// The share of its capacity that a worker uses, if it could take one more of this action.
    fn load(&self, incarnation: Incarnation, action: ActionId) -> Option<(usize, u32)> {
        let worker = &self.workers[&incarnation];
        let leases = self.leases_of(incarnation).len();
        let serves = worker.introduced && worker.offered.contains(&self.actions[&action].action_ref);
        let has_room = worker.reachable && !worker.draining && leases < worker.capacity as usize;
        (serves && has_room).then_some((leases, worker.capacity))
    }

    /// Fails if a slot, a worker with room and an execution that waits for them are left.
    pub(crate) fn assert_work_is_conserved(&self) {
        for (id, execution) in &self.live {
            if self.is_ready(*id) {
                let mut workers = self.workers.keys();
                let idle = workers.find(|incarnation| self.load(**incarnation, execution.action).is_some());
                assert_eq!(idle, None, "{id} could run there: {execution:?}");
            }
        }
    }

    pub(crate) fn next_deadline(&self) -> Timestamp {
        let timers = self.live.values().filter_map(|one| match one.state {
            State::InLine => Some(one.queued_at + self.actions[&one.action].limits.queue_timeout?),
            State::BackingOff { until, .. } => until,
            State::Resuming | State::Out { .. } => None,
        });
        timers.chain([self.next_probe]).min().expect("at least the probe")
    }

    /// Why `id` waits, which executions hold it up, and its position.
    pub(crate) fn explain(&self, id: ExecutionId) -> Option<(WaitReason, Vec<ExecutionId>, u64)> {
        let execution = self.live.get(&id)?;
        let action = &self.actions[&execution.action];
        let ahead = self.line(execution).filter(|(_, one)| one.state == State::InLine && one.place < execution.place);
        let position = if execution.holds_slot() { 1 } else { 1 + ahead.count() as u64 };
        let (of_action, of_line) = self.stands(execution);
        let keeps = execution.holds_slot();
        let (reason, held_by) = match execution.state {
            State::Out { .. } => return None,
            State::BackingOff { .. } => (WaitReason::Backoff, Vec::new()),
            State::InLine | State::Resuming if action.paused => (WaitReason::Paused, Vec::new()),
            State::InLine if of_line.is_ge() && !keeps => (WaitReason::KeyLimit, self.slots_of_line(execution)),
            State::InLine if of_action.is_ge() && !keeps => (WaitReason::Limit, self.slots_of(execution.action)),
            State::InLine | State::Resuming => {
                let serves = |worker: &Worker| worker.introduced && worker.offered.contains(&action.action_ref);
                let servers: Vec<_> = self.workers.iter().filter(|(_, worker)| serves(worker)).collect();
                let held_by = servers.iter().flat_map(|(incarnation, _)| self.leases_of(**incarnation)).collect();
                (if servers.is_empty() { WaitReason::NoWorker } else { WaitReason::Capacity }, held_by)
            }
        };
        Some((reason, held_by, position))
    }

    pub(crate) fn assert_is(&self, id: ExecutionId, snapshot: &Snapshot) {
        let one = &self.live[&id];
        let (not_before, keeps_slot) = match one.state {
            State::BackingOff { until, keeps_slot } => (until, keeps_slot),
            State::InLine | State::Out { .. } => (None, false),
            State::Resuming => (None, true),
        };
        let lease = match one.state {
            State::Out { worker, fence, .. } => Some((worker, fence)),
            State::InLine | State::Resuming | State::BackingOff { .. } => None,
        };
        assert_eq!(
            (one.action, &one.key, one.status(), one.place, one.attempt, one.failures, one.losses),
            (
                snapshot.action,
                &snapshot.key,
                snapshot.status,
                snapshot.place,
                snapshot.attempt,
                snapshot.failures,
                snapshot.losses
            ),
            "{id}"
        );
        assert_eq!(
            (one.enqueued_at, one.queued_at, not_before, keeps_slot, one.status() == Status::Cancelling, lease),
            (
                snapshot.enqueued_at,
                snapshot.queued_at,
                snapshot.not_before,
                snapshot.keeps_slot,
                snapshot.cancel_requested,
                snapshot.lease.as_ref().map(|lease| (lease.incarnation, lease.fence))
            ),
            "{id}"
        );
    }
}
