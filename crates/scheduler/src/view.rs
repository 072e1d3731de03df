//! What the scheduler shows to people: how lines stand, and why an execution waits. Nothing here changes anything.

use slotline_protocol::http::{KeyStats, QueueStats, WaitReason, Waiting};
use slotline_protocol::message::{AttemptKey, Served};
use slotline_protocol::{ActionId, ActionRef, ExecutionId, Fence, Incarnation, Status, Timestamp, WorkerName};
use std::collections::BTreeMap;

use crate::action::ActionLines;
use crate::execution::Execution;
use crate::line::Line;
use crate::pages::LINES_MAX;
use crate::scheduler::Scheduler;
use crate::snapshot::{Lease, Snapshot};
use crate::state::{State, StateKind};
use crate::worker::{Worker, Workers};

/// The most executions that `held_by` names.
const HELD_BY_MAX: usize = 100;
/// The most keys that the statistics of an action name.
const KEYS_MAX: usize = 1000;

/// A live incarnation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerView {
    pub name: WorkerName,
    pub incarnation: Incarnation,
    pub capacity: u32,
    pub leases: Vec<ExecutionId>,
    pub draining: bool,
    /// Two heartbeats in a row are missing, and its lease is not over.
    pub silent: bool,
    pub actions: Vec<Served>,
    pub labels: BTreeMap<String, String>,
    pub last_heartbeat_at: Timestamp,
}

/// How an incarnation stands, for the watch over workers: also one that is known only by its leases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attendance {
    pub incarnation: Incarnation,
    pub worker: WorkerName,
    pub capacity: u32,
    /// How many attempts it holds.
    pub leases: usize,
    /// It began under this leader.
    pub is_new: bool,
    pub is_draining: bool,
    pub is_silent: bool,
}

impl Scheduler {
    /// Whether an action has executions that did not settle.
    pub fn has_live(&self, id: ActionId) -> bool {
        self.actions.get(&id).is_some_and(|action| action.queue_length() > 0 || !action.slots.is_empty())
    }

    /// What the journal keeps of a live execution.
    pub fn snapshot(&self, id: ExecutionId) -> Option<Snapshot> {
        let execution = self.executions.get(&id)?;
        let (not_before, keeps_slot) = match *execution.state() {
            State::Waiting { keeps_slot } => (None, keeps_slot),
            State::BackingOff { until, keeps_slot } => (Some(until), keeps_slot),
            State::Ahead(_) | State::Leased(_) => (None, false),
        };
        Some(Snapshot {
            id,
            action: execution.action,
            key: execution.key.clone(),
            status: execution.status(),
            place: execution.spot(id).place,
            attempt: execution.attempt,
            tried: execution.tried,
            failures: execution.failures,
            losses: execution.losses,
            enqueued_at: execution.enqueued_at,
            queued_at: execution.queued_at(),
            not_before,
            keeps_slot,
            cancel_requested: execution.kind() == StateKind::Cancelling,
            is_bulky: self.executions.is_bulky(id),
            lease: self.lease(execution),
        })
    }

    fn lease(&self, execution: &Execution) -> Option<Lease> {
        lease_of(execution, &self.workers)
    }

    pub fn status(&self, id: ExecutionId) -> Option<Status> {
        self.executions.get(&id).map(Execution::status)
    }

    /// The action of a live execution.
    pub fn action_of(&self, id: ExecutionId) -> Option<(ActionId, &ActionRef)> {
        let action = self.actions.of(self.executions.get(&id)?);
        Some((action.id, &action.action_ref))
    }

    /// How the line of an action stands. Only the caller knows whether a limit is the declared one.
    pub fn queue_stats(&self, id: ActionId, now: Timestamp) -> Option<QueueStats> {
        let keys = longest_lines(self.actions.get(&id)?);
        Some(QueueStats { keys, ..self.queue_stats_without_keys(id, now)? })
    }

    /// The same for a list of actions.
    pub fn queue_stats_without_keys(&self, id: ActionId, now: Timestamp) -> Option<QueueStats> {
        let action = self.actions.get(&id)?;
        Some(QueueStats {
            action_id: id,
            action_ref: action.action_ref.clone(),
            queue_length: action.queue_length() as u64,
            active_count: action.slots.len() as u64,
            ahead_count: action.lines.iter().map(Line::ahead_len).sum::<usize>() as u64,
            max_concurrent: action.limits.limit,
            declared_limit: action.limits.limit,
            limit_override: None,
            key_limit: action.limits.key_limit,
            oldest_enqueued_at: self
                .oldest_of(action)
                .and_then(|id| self.executions.get(&id))
                .map(|oldest| oldest.enqueued_at),
            total_enqueued: action.total_enqueued,
            total_completed: action.total_completed,
            last_updated: now,
            paused: action.paused,
            wait_seconds: None,
            run_seconds: None,
            keys: Vec::new(),
        })
    }

    /// Why `id` waits; `None` if it does not.
    pub fn explain(&self, id: ExecutionId) -> Option<Waiting> {
        let execution = self.executions.get(&id)?;
        let action = self.actions.of(execution);
        let (until, keeps_slot) = match *execution.state() {
            State::Leased(_) => return None,
            State::Ahead(_) => (None, false),
            State::BackingOff { until, keeps_slot } => (Some(until), keeps_slot),
            State::Waiting { keeps_slot } => (None, keeps_slot),
        };
        let key = action.line_key(&execution.key);
        let line = action.lines.get(&key);
        let position = match line {
            Some(line) if !keeps_slot => line.position(execution.spot(id)) as u64,
            Some(_) | None => 1,
        };
        let name = &action.action_ref;
        let (reason, message, held_by) = if let Some(until) = until {
            let message = format!("an attempt failed; the next one is due at {until}");
            (WaitReason::Backoff, message, Vec::new())
        } else if action.paused {
            (WaitReason::Paused, format!("{name} is paused"), Vec::new())
        } else if let (Some(line), false) = (line.filter(|line| action.is_key_full(line)), keeps_slot) {
            let limit = action.limits.key_limit.unwrap_or_default();
            let whose = key.text().map_or_else(|| "executions without a key".to_owned(), |key| format!("key {key:?}"));
            let message = format!("every slot of {whose} of {name} is taken (key_limit {limit})");
            (WaitReason::KeyLimit, message, line.slots.iter().take(HELD_BY_MAX).collect())
        } else if action.is_full() && !keeps_slot {
            let limit = action.limits.limit.unwrap_or_default();
            let message = format!("every slot of {name} is taken (limit {limit})");
            (WaitReason::Limit, message, action.slots.iter().take(HELD_BY_MAX).collect())
        } else {
            self.explain_workers(action)
        };
        Some(Waiting { reason, message, held_by, position, until, eta_low: None, eta_high: None })
    }

    /// The same with an estimate of its start, if there is one.
    pub fn explain_whole(&self, id: ExecutionId, now: Timestamp) -> Option<Waiting> {
        let waiting = self.explain(id)?;
        let eta = self.eta(id, now).filter(|_| matches!(waiting.reason, WaitReason::Limit | WaitReason::KeyLimit));
        let (eta_low, eta_high) = eta.unzip();
        Some(Waiting { eta_low, eta_high, ..waiting })
    }

    fn explain_workers(&self, action: &ActionLines) -> (WaitReason, String, Vec<ExecutionId>) {
        let name = &action.action_ref;
        let servers = self.pools.servers_of(action);
        if servers.is_empty() {
            return (WaitReason::NoWorker, format!("no live worker serves {name}"), Vec::new());
        }
        let workers = servers.iter().filter_map(|incarnation| self.workers.get(incarnation));
        let held_by = workers.flat_map(|worker| worker.leases.iter().copied()).take(HELD_BY_MAX).collect();
        let message = match servers.len() {
            1 => format!("the worker that serves {name} has no room"),
            several => format!("none of the {several} workers that serve {name} has room"),
        };
        (WaitReason::Capacity, message, held_by)
    }

    pub fn workers(&self) -> impl Iterator<Item = WorkerView> {
        self.workers.iter().filter(|(_, worker)| worker.introduced).map(|(incarnation, worker)| WorkerView {
            name: worker.name.clone(),
            incarnation: *incarnation,
            capacity: worker.capacity,
            leases: worker.leases.iter().copied().collect(),
            draining: worker.draining,
            silent: self.is_silent(worker),
            actions: worker.actions.clone(),
            labels: worker.labels.clone(),
            last_heartbeat_at: worker.last_heartbeat_at,
        })
    }

    /// How every incarnation stands.
    pub fn attendance(&self) -> impl Iterator<Item = Attendance> {
        self.workers.iter().map(|(incarnation, worker)| self.attended(*incarnation, worker))
    }

    /// How this one stands.
    pub fn attendance_of(&self, incarnation: Incarnation) -> Option<Attendance> {
        self.workers.get(&incarnation).map(|worker| self.attended(incarnation, worker))
    }

    fn attended(&self, incarnation: Incarnation, worker: &Worker) -> Attendance {
        Attendance {
            incarnation,
            worker: worker.name.clone(),
            capacity: worker.capacity,
            leases: worker.leases.len(),
            is_new: worker.is_new,
            is_draining: worker.draining,
            is_silent: self.is_silent(worker),
        }
    }

    /// Actions of which an execution could start but for want of an open worker that serves them, and how many wait.
    pub fn unserved(&self) -> impl Iterator<Item = (&ActionRef, usize)> {
        let is_open = |incarnation| self.workers.get(&incarnation).is_some_and(Worker::is_open);
        let actions = self.pools.unserved(is_open).filter_map(|id| self.actions.get(&id));
        actions.map(|action| (&action.action_ref, action.queue_length()))
    }

    /// Whether a worker takes executions of the action.
    pub fn is_served(&self, action_ref: &ActionRef) -> bool {
        let action = self.pools.action_named(action_ref).and_then(|id| self.actions.get(&id));
        let takes = |incarnation| self.workers.get(incarnation).is_some_and(Worker::is_open);
        action.is_some_and(|action| self.pools.servers_of(action).iter().any(takes))
    }

    /// Whether this incarnation is alive, as far as is known.
    pub fn knows(&self, incarnation: Incarnation) -> bool {
        self.workers.contains_key(&incarnation)
    }

    /// The incarnation that has this attempt, and when it was granted; `None` if it is no longer out.
    pub fn grant_of(&self, key: AttemptKey) -> Option<(Incarnation, Timestamp)> {
        let execution = self.executions.get(&key.0).filter(|execution| execution.attempt == key.1)?;
        execution.assignment().map(|assignment| (assignment.worker, assignment.scheduled_at))
    }

    /// The incarnation that holds the attempt by this fence.
    pub fn holder_of(&self, key: AttemptKey, fence: Fence) -> Option<Incarnation> {
        let execution = self.executions.get(&key.0).filter(|execution| execution.attempt == key.1)?;
        execution.assignment().filter(|assignment| assignment.fence == fence).map(|assignment| assignment.worker)
    }

    pub fn action_ids(&self) -> impl Iterator<Item = ActionId> {
        self.actions.keys().copied()
    }
}

/// The lease of the attempt that is out, or what will be one.
pub(crate) fn lease_of(execution: &Execution, workers: &Workers) -> Option<Lease> {
    let assignment = execution.assignment()?;
    let worker = workers.get(&assignment.worker).expect("a worker is forgotten after all that it held");
    Some(Lease {
        worker: worker.name.clone(),
        incarnation: assignment.worker,
        fence: assignment.fence,
        scheduled_at: assignment.scheduled_at,
        started_at: assignment.started_at,
        after: execution.ahead().map(|ahead| ahead.after),
    })
}

/// The lines of an action's keys, and of its executions without one, the longest first. Of an action with more lines than
/// [`LINES_MAX`] so many are looked at.
fn longest_lines(action: &ActionLines) -> Vec<KeyStats> {
    let lines = action.lines.iter().filter(|line| line.key.has_limit());
    let mut lines: Vec<&Line> = lines.take(LINES_MAX).collect();
    let longer =
        |one: &&Line, other: &&Line| other.len().cmp(&one.len()).then_with(|| one.key.text().cmp(&other.key.text()));
    // Only those that are shown are put in order.
    if lines.len() > KEYS_MAX {
        lines.select_nth_unstable_by(KEYS_MAX, longer);
        lines.truncate(KEYS_MAX);
    }
    lines.sort_unstable_by(longer);
    let stats = |line: &Line| KeyStats {
        key: line.key.text().map(str::to_owned),
        queue_length: line.len() as u64,
        active_count: line.slots.len() as u64,
        ahead_count: line.ahead_len() as u64,
    };
    lines.into_iter().map(stats).collect()
}
