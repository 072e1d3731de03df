//! What the scheduler can tell people: how lines stand, and why an execution waits. Nothing here changes anything.

use slotline_protocol::http::{KeyStats, QueueStats, WaitReason, Waiting};
use slotline_protocol::message::Served;
use slotline_protocol::{ActionId, ExecutionId, Incarnation, Status, Timestamp, WorkerName};
use std::collections::BTreeMap;

use crate::action::{Action, place};
use crate::execution::{Execution, State};
use crate::line::Line;
use crate::scheduler::Scheduler;

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
    pub actions: Vec<Served>,
    pub labels: BTreeMap<String, String>,
    pub last_heartbeat_at: Timestamp,
}

impl Scheduler {
    /// Whether an action has executions that did not settle.
    pub fn has_live(&self, id: ActionId) -> bool {
        self.actions.get(&id).is_some_and(|action| action.queue_length() > 0 || !action.slots.is_empty())
    }

    pub fn status(&self, id: ExecutionId) -> Option<Status> {
        self.executions.get(&id).map(Execution::status)
    }

    pub fn queue_stats(&self, id: ActionId, now: Timestamp) -> Option<QueueStats> {
        let action = self.actions.get(&id)?;
        let backing_off = action.backing_off.iter().copied();
        let oldest = action.lines.values().filter_map(Line::head).chain(backing_off);
        let mut keys: Vec<KeyStats> = action
            .lines
            .iter()
            .filter_map(|(key, line)| {
                Some(KeyStats {
                    key: key.as_deref()?.to_owned(),
                    queue_length: line.len() as u64,
                    active_count: line.slots.len() as u64,
                })
            })
            .collect();
        keys.sort_by(|one, other| other.queue_length.cmp(&one.queue_length).then_with(|| one.key.cmp(&other.key)));
        keys.truncate(KEYS_MAX);
        Some(QueueStats {
            action_id: id,
            action_ref: action.action_ref.clone(),
            queue_length: action.queue_length() as u64,
            active_count: action.slots.len() as u64,
            max_concurrent: action.limits.limit,
            oldest_enqueued_at: oldest.filter_map(|id| self.executions.get(&id)).map(|e| e.enqueued_at).min(),
            total_enqueued: action.total_enqueued,
            total_completed: action.total_completed,
            last_updated: now,
            paused: action.paused,
            wait_seconds: None,
            run_seconds: None,
            keys,
        })
    }

    /// Why `id` waits; `None` if it does not.
    pub fn explain(&self, id: ExecutionId) -> Option<Waiting> {
        let execution = self.executions.get(&id)?;
        let action = self.actions.get(&execution.action)?;
        let (until, keeps_slot) = match execution.state {
            State::Leased(_) => return None,
            State::BackingOff { until, keeps_slot } => (Some(until), keeps_slot),
            State::Waiting { keeps_slot } => (None, keeps_slot),
        };
        let key = action.line_key(&execution.key);
        let line = action.lines.get(&key);
        let position = line
            .and_then(|line| line.position(execution.place, |id| place(&self.executions, id)))
            .map_or(1, |position| position as u64);
        let name = &action.action_ref;
        let (reason, message, held_by) = if let Some(until) = until {
            let message = format!("an attempt failed; the next one is due at {until}");
            (WaitReason::Backoff, message, Vec::new())
        } else if action.paused {
            (WaitReason::Paused, format!("{name} is paused"), Vec::new())
        } else if let (Some(line), Some(key), false) = (line.filter(|line| action.is_key_full(line)), &key, keeps_slot)
        {
            let limit = action.limits.key_limit.unwrap_or_default();
            let message = format!("every slot of key {key:?} of {name} is taken (key_limit {limit})");
            (WaitReason::KeyLimit, message, line.slots.iter().copied().take(HELD_BY_MAX).collect())
        } else if action.is_full() && !keeps_slot {
            let limit = action.limits.limit.unwrap_or_default();
            let message = format!("every slot of {name} is taken (limit {limit})");
            (WaitReason::Limit, message, action.slots.iter().copied().take(HELD_BY_MAX).collect())
        } else {
            self.explain_workers(action)
        };
        Some(Waiting { reason, message, held_by, position, until })
    }

    fn explain_workers(&self, action: &Action) -> (WaitReason, String, Vec<ExecutionId>) {
        let name = &action.action_ref;
        let servers = self.pools.servers(action);
        if servers.is_empty() {
            return (WaitReason::NoWorker, format!("no live worker serves {name}"), Vec::new());
        }
        let workers = servers.iter().filter_map(|incarnation| self.workers.get(incarnation));
        let held_by = workers.flat_map(|worker| worker.leases.iter().copied()).take(HELD_BY_MAX).collect();
        let message = format!("none of the {} workers that serve {name} has room", servers.len());
        (WaitReason::Capacity, message, held_by)
    }

    pub fn workers(&self) -> impl Iterator<Item = WorkerView> {
        self.workers.iter().filter(|(_, worker)| worker.introduced).map(|(incarnation, worker)| WorkerView {
            name: worker.name.clone(),
            incarnation: *incarnation,
            capacity: worker.capacity,
            leases: worker.leases.iter().copied().collect(),
            draining: worker.draining,
            actions: worker.actions.clone(),
            labels: worker.labels.clone(),
            last_heartbeat_at: worker.last_heartbeat_at,
        })
    }

    pub fn action_ids(&self) -> impl Iterator<Item = ActionId> {
        self.actions.keys().copied()
    }
}
