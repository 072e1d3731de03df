//! The leader's answers, from its scheduler; each leaves with the commit it belongs to.

use std::sync::Arc;

use slotline_api::control::{ControlError, LineOf, LineQuery, RefusalKind};
use slotline_protocol::http::{Action, QueueStats, Worker};
use slotline_protocol::{ActionId, ActionRef, By, ExecutionId, Status, Timestamp};
use slotline_scheduler::{Input, OtherLines, Scheduler, WhichLine, WorkerView};
use slotline_store::Audit;

use super::actions::{ActionTable, Registered};
use super::ask::{Answered, Ask, LeaderAnswer};
use super::outbox::Pending;
use super::quarantine::Quarantine;
use super::skew::Skews;

/// Why a waiting execution can't be ended now: it may run.
const IN_DOUBT: &str = "the journal may be older than its workers, and this execution may run on one of them; \
    ask again once the leader knows (GET /readyz?verbose)";

/// All that an answer may need; changes go into `pending` and into the scheduler.
pub(crate) struct Desk<'a> {
    pub(crate) scheduler: &'a mut Scheduler,
    pub(crate) registry: &'a mut ActionTable,
    pub(crate) quarantine: &'a Quarantine,
    pub(crate) skews: &'a Skews,
    pub(crate) pending: &'a mut Pending,
    pub(crate) now: Timestamp,
}

impl Desk<'_> {
    pub(crate) fn answer(&mut self, ask: Ask) -> Answered {
        match ask {
            Ask::PutAction { action_ref, policy, condition, by } => {
                self.put_action(action_ref, *policy, &condition, by)
            }
            Ask::PatchAction { action_ref, patch, condition, by } => {
                self.patch_action(action_ref, &patch, &condition, by)
            }
            Ask::Apply { actions, dry_run, by } => self.apply(actions, dry_run, &by),
            Ask::DeleteAction { action_ref, by } => self.delete_action(&action_ref, by),
            Ask::Pause { action_ref, paused, by } => self.pause(&action_ref, paused, by),
            Ask::OverrideLimit { action_ref, limit, duration, by } => {
                self.override_limit(&action_ref, limit, duration, by)
            }
            Ask::ClearOverride { action_ref, by } => self.clear_override(&action_ref, by),
            Ask::Cancel { id, by } => self.cancel(id, by),
            Ask::QueueStats { action_ref: Some(action_ref), .. } => self.queue_stats(&action_ref),
            Ask::QueueStats { action_ref: None, after, limit } => Ok(self.queue_page(after.as_ref(), limit)),
            Ask::Waiting(query) => self.waiting(&query),
            Ask::Holders(query) => self.holders(&query),
            Ask::Explain { ids } => {
                let is_one = ids.len() == 1;
                let explain = |id: ExecutionId| {
                    let waiting =
                        if is_one { self.scheduler.explain_whole(id, self.now) } else { self.scheduler.explain(id) };
                    waiting.map(|waiting| (id, waiting))
                };
                Ok(LeaderAnswer::Explained(ids.into_iter().filter_map(explain).collect()))
            }
            // A question of this process: its streams get every event anyway.
            Ask::Follow { .. } => Ok(LeaderAnswer::Following { is_new: false }),
            Ask::Workers => Ok(LeaderAnswer::Workers(self.workers())),
        }
    }

    fn cancel(&mut self, id: ExecutionId, by: By) -> Answered {
        let waits = self.scheduler.status(id).is_some_and(|status| status == Status::Queued);
        if waits && self.scheduler.is_in_doubt() {
            return Err(ControlError::unavailable(IN_DOUBT));
        }
        let asked = Cancellation::before(self.scheduler, id);
        let reason = self.quarantine.reason(id, by.reason.clone());
        self.scheduler.handle(Input::CancelRequested { id, reason }, self.now);
        self.pending.audit.extend(asked.after(self.scheduler, by, self.now));
        Ok(LeaderAnswer::Cancelled(self.scheduler.status(id)))
    }

    fn queue_stats(&self, action_ref: &ActionRef) -> Answered {
        let action = &self.registered(action_ref)?.action;
        let stats = self.scheduler.queue_stats(action.action_id, self.now);
        Ok(LeaderAnswer::QueueStats(stats.map(|stats| with_declared(stats, action)).into_iter().collect()))
    }

    /// Without the keys of each.
    fn queue_page(&self, after: Option<&ActionRef>, limit: Option<usize>) -> LeaderAnswer {
        let stats = self.registry.after(after).filter_map(|registered| {
            let stats = self.scheduler.queue_stats_without_keys(registered.action.action_id, self.now)?;
            Some(with_declared(stats, &registered.action))
        });
        LeaderAnswer::QueueStats(stats.take(limit.unwrap_or(usize::MAX)).collect())
    }

    fn waiting(&self, query: &LineQuery) -> Answered {
        let id = self.registered(&query.action_ref)?.action.action_id;
        let which = query.line.clone().map_or(WhichLine::Only, which);
        let page = self.scheduler.waiting_page(id, &which, query.cursor.as_deref(), query.limit, self.now);
        page.map(LeaderAnswer::Waiting).map_err(|other| other_lines(&query.action_ref, other))
    }

    fn holders(&self, query: &LineQuery) -> Answered {
        let id = self.registered(&query.action_ref)?.action.action_id;
        let cursor = query.cursor.as_deref().and_then(|cursor| cursor.parse().ok());
        let page = self.scheduler.holders_page(id, query.line.clone().map(which).as_ref(), cursor, query.limit);
        page.map(LeaderAnswer::Holders).map_err(|other| other_lines(&query.action_ref, other))
    }

    fn registered(&self, action_ref: &ActionRef) -> Result<&Arc<Registered>, ControlError> {
        self.registry.get(action_ref).ok_or_else(|| ControlError::unknown_action(action_ref))
    }

    fn workers(&self) -> Vec<Worker> {
        let worker = |view: WorkerView| Worker {
            worker: view.name,
            incarnation: view.incarnation,
            capacity: view.capacity,
            active_count: u32::try_from(view.leases.len()).unwrap_or(u32::MAX),
            holding: view.leases,
            draining: view.draining,
            silent: view.silent,
            actions: view.actions,
            labels: view.labels,
            last_heartbeat_at: view.last_heartbeat_at,
            clock_ahead_seconds: self.skews.of(view.incarnation).map(|us| us as f64 / 1e6),
        };
        self.scheduler.workers().map(worker).collect()
    }
}

fn with_declared(stats: QueueStats, action: &Action) -> QueueStats {
    QueueStats { declared_limit: action.policy.limit, limit_override: action.limit_override.clone(), ..stats }
}

fn which(line: LineOf) -> WhichLine {
    match line {
        LineOf::Keyless => WhichLine::Keyless,
        LineOf::Key(key) => WhichLine::Of(key.into()),
    }
}

fn other_lines(action_ref: &ActionRef, OtherLines { has_keys }: OtherLines) -> ControlError {
    let message = if has_keys {
        format!("{action_ref} has a line for each key: name it by key, or take keyless=true")
    } else {
        format!("{action_ref} has one line for all keys: leave this out")
    };
    ControlError::new(RefusalKind::Invalid, "invalid_request", message).at("key")
}

/// The wish to end an execution; the audit has it if it changes anything.
pub(crate) struct Cancellation {
    id: ExecutionId,
    status: Option<Status>,
    action: Option<(ActionId, ActionRef)>,
}

impl Cancellation {
    pub(crate) fn before(scheduler: &Scheduler, id: ExecutionId) -> Self {
        let action = scheduler.action_of(id).map(|(action, name)| (action, name.clone()));
        Self { id, status: scheduler.status(id), action }
    }

    pub(crate) fn after(self, scheduler: &Scheduler, by: By, now: Timestamp) -> Option<Audit> {
        let action = self.action.filter(|_| scheduler.status(self.id) != self.status)?;
        Some(Audit::of_cancel(now, by, self.id, action))
    }
}
