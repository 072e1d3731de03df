//! What the leader answers, from its scheduler; each answer leaves with the commit it belongs to.

use slotline_api::control::{Kind, Refused};
use slotline_protocol::http::{Action, Worker};
use slotline_protocol::{ActionRef, ExecutionId, Policy, Reason, Status, Timestamp};
use slotline_scheduler::{Input, Limits, Scheduler};
use slotline_store::ActionChange;

use crate::ask::{Answer, Answered, Ask};
use crate::outbox::Pending;
use crate::quarantine::Quarantine;
use crate::registry::{Registered, Registry};
use crate::skew::Skews;

/// Why what waits can't be ended now: it may be out.
const IN_DOUBT: &str = "the journal may be older than its workers, and this execution may run on one of them; \
    ask again once the leader knows (GET /readyz?verbose)";

/// Answers `ask`; changes go into `pending` and into the scheduler.
pub(crate) fn answer(
    ask: Ask,
    scheduler: &mut Scheduler,
    registry: &Registry,
    quarantine: &Quarantine,
    skews: &Skews,
    pending: &mut Pending,
    now: Timestamp,
) -> Answered {
    match ask {
        Ask::PutAction { action_ref, policy } => match quarantine.action(&action_ref, &policy) {
            Some(words) => Err(refused_policy(&words)),
            None => put_action(action_ref, *policy, false, scheduler, registry, pending, now),
        },
        Ask::DeleteAction { action_ref } => {
            let registered = registry.get(&action_ref).ok_or_else(|| Refused::unknown_action(&action_ref))?;
            let id = registered.action.action_id;
            if scheduler.has_live(id) {
                let message = format!("{action_ref} has executions that did not end; cancel them or wait");
                return Err(Refused::new(Kind::Conflict, "action_in_use", message));
            }
            scheduler.handle(Input::ActionDeleted { id }, now);
            registry.remove(&action_ref);
            pending.actions.push(ActionChange::Delete { id, at: now });
            Ok(Answer::Deleted)
        }
        Ask::Pause { action_ref, paused } => {
            let registered = registry.get(&action_ref).ok_or_else(|| Refused::unknown_action(&action_ref))?;
            let action = Action { paused, updated_at: now, ..registered.action.clone() };
            store(action, false, scheduler, registry, pending, now)
        }
        Ask::Cancel { id, reason } => {
            let reason = quarantine.reason(id, reason);
            let waits = scheduler.status(id).is_some_and(|status| status == Status::Queued);
            if waits && scheduler.is_in_doubt() {
                return Err(Refused::unavailable(IN_DOUBT));
            }
            scheduler.handle(Input::CancelRequested { id, reason }, now);
            Ok(Answer::Cancelled(scheduler.status(id)))
        }
        Ask::QueueStats { action_ref } => {
            let ids = match action_ref {
                Some(action_ref) => {
                    let registered = registry.get(&action_ref).ok_or_else(|| Refused::unknown_action(&action_ref))?;
                    vec![registered.action.action_id]
                }
                None => scheduler.action_ids().collect(),
            };
            Ok(Answer::QueueStats(ids.into_iter().filter_map(|id| scheduler.queue_stats(id, now)).collect()))
        }
        Ask::Explain { ids } => {
            let explain = |id: ExecutionId| scheduler.explain(id).map(|waiting| (id, waiting));
            Ok(Answer::Explained(ids.into_iter().filter_map(explain).collect()))
        }
        // Who asks here is told anyway.
        Ask::Follow { .. } => Ok(Answer::Following { is_new: false }),
        Ask::Workers => {
            let workers = scheduler.workers().map(|view| Worker {
                worker: view.name,
                incarnation: view.incarnation,
                capacity: view.capacity,
                active_count: u32::try_from(view.leases.len()).unwrap_or(u32::MAX),
                holding: view.leases,
                draining: view.draining,
                actions: view.actions,
                labels: view.labels,
                last_heartbeat_at: view.last_heartbeat_at,
                clock_ahead_seconds: skews.of(view.incarnation).map(|us| us as f64 / 1e6),
            });
            Ok(Answer::Workers(workers.collect()))
        }
    }
}

/// The answer to a client that put an action whose policy the database refuses.
pub(crate) fn refused_policy(words: &str) -> Refused {
    let message = format!("policy: the database refuses it: {words}");
    Refused::new(Kind::Invalid, Reason::JournalRefused.as_str(), message).at("policy")
}

/// Puts an action; a new one is `paused` or not.
pub(crate) fn put_action(
    action_ref: ActionRef,
    policy: Policy,
    paused: bool,
    scheduler: &mut Scheduler,
    registry: &Registry,
    pending: &mut Pending,
    now: Timestamp,
) -> Answered {
    let known = registry.get(&action_ref);
    let action = match &known {
        Some(registered) => Action { policy, updated_at: now, ..registered.action.clone() },
        None => Action {
            action_id: scheduler.new_action_id(),
            action_ref,
            paused,
            policy,
            created_at: now,
            updated_at: now,
        },
    };
    store(action, known.is_none(), scheduler, registry, pending, now)
}

fn store(
    action: Action,
    created: bool,
    scheduler: &mut Scheduler,
    registry: &Registry,
    pending: &mut Pending,
    now: Timestamp,
) -> Answered {
    let registered = Registered::new(action.clone())
        .map_err(|invalid| Refused::new(Kind::Invalid, "invalid_policy", invalid.to_string()).at(invalid.field))?;
    scheduler.handle(
        Input::ActionPut {
            id: action.action_id,
            action_ref: action.action_ref.clone(),
            limits: Limits::from(&action.policy),
            paused: action.paused,
        },
        now,
    );
    registry.put(registered);
    pending.actions.push(ActionChange::Put(action.clone()));
    Ok(Answer::Action { action: Box::new(action), created })
}
