//! Changes of actions, as the leader makes them: checked whole, noted in the audit, and then given to the scheduler,
//! which has only one limit at a time.
//!
//! An override of a limit stands beside the policy and outlives its changes. It ends by the journal's time: with the
//! first turn of the loop after its time is over, or when the next leader begins.

use std::time::Duration;

use slotline_api::Condition;
use slotline_api::control::{ControlError, RefusalKind};
use slotline_protocol::audit::Changed;
use slotline_protocol::change::{
    Applied, ChangeOutcome, Declared, Difference, LimitOverride, differences, override_difference, pause_difference,
};
use slotline_protocol::http::Action;
use slotline_protocol::policy::InvalidPolicy;
use slotline_protocol::{ActionRef, By, Fence, Policy, Reason, Timestamp};
use slotline_scheduler::Input;
use slotline_store::{ActionChange, ActionState, Audit};

use super::actions::Registered;
use super::answer::Desk;
use super::ask::{Answered, LeaderAnswer};
use super::outbox::Pending;

/// The reason in the audit for an override that ends by itself.
const TIME_IS_OVER: &str = "its time is over";

/// A change that was checked and can be made.
struct Plan {
    registered: Registered,
    created: bool,
    changes: Vec<Difference>,
}

impl Desk<'_> {
    pub(crate) fn put_action(
        &mut self,
        action_ref: ActionRef,
        policy: Policy,
        condition: &Condition,
        by: By,
    ) -> Answered {
        let known = self.registry.get(&action_ref);
        condition.check_put(&action_ref, known.as_ref().map(|known| &known.action.policy))?;
        let plan = self.plan(action_ref, policy).map_err(|invalid| refused("", &invalid))?;
        Ok(self.carry_out(plan, by))
    }

    pub(crate) fn patch_action(
        &mut self,
        action_ref: ActionRef,
        patch: &serde_json::Value,
        condition: &Condition,
        by: By,
    ) -> Answered {
        let known = self.known(&action_ref)?;
        condition.check(&action_ref, Some(&known.policy))?;
        let policy =
            known.policy.merged(patch).map_err(|refusal| ControlError { kind: RefusalKind::Invalid, refusal })?;
        let plan = self.plan(action_ref, policy).map_err(|invalid| refused("", &invalid))?;
        Ok(self.carry_out(plan, by))
    }

    /// Makes all changes or none: nothing is changed before each was checked.
    pub(crate) fn apply(&mut self, actions: Vec<Declared>, dry_run: bool, by: &By) -> Answered {
        let mut plans = Vec::new();
        for (index, Declared { action_ref, policy }) in actions.into_iter().enumerate() {
            let name = action_ref.to_string();
            plans.push(self.plan(action_ref, policy).map_err(|invalid| {
                let message = format!("{name}: {}", invalid.message);
                refused(&format!("actions[{index}].policy."), &Invalid { message, ..invalid })
            })?);
        }
        let mut applied = Vec::new();
        for plan in plans {
            let Plan { registered: Registered { action, .. }, created, changes } = &plan;
            let outcome = match (created, changes.is_empty()) {
                (true, _) => ChangeOutcome::Created,
                (false, false) => ChangeOutcome::Changed,
                (false, true) => ChangeOutcome::Unchanged,
            };
            let mut told = Applied {
                action_ref: action.action_ref.clone(),
                action_id: (!created).then_some(action.action_id),
                outcome,
                changes: changes.clone(),
                limit_override: action.limit_override.clone(),
            };
            if !dry_run && let LeaderAnswer::Action { action, .. } = self.carry_out(plan, by.clone()) {
                told.action_id = Some(action.action_id);
            }
            applied.push(told);
        }
        Ok(LeaderAnswer::Applied(applied))
    }

    /// Creates an action that only a worker has announced, paused.
    pub(crate) fn make_up(&mut self, action_ref: ActionRef, policy: Policy, reason: &str) -> Answered {
        let mut plan = self.plan(action_ref, policy).map_err(|invalid| refused("", &invalid))?;
        plan.registered.action.paused = true;
        Ok(self.carry_out(plan, By::executor(reason)))
    }

    /// What the policy would change. An action that is new has no id yet.
    fn plan(&self, action_ref: ActionRef, policy: Policy) -> Result<Plan, Invalid> {
        if let Some(words) = self.quarantine.action(&action_ref, &policy, self.now) {
            return Err(Invalid { code: Reason::JournalRefused.as_str(), field: None, message: in_words(&words) });
        }
        let known = self.registry.get(&action_ref).map(|known| known.action.clone());
        let changes = differences(known.as_ref().map(|known| &known.policy), Some(&policy));
        let created = known.is_none();
        let new = || Action {
            action_id: slotline_protocol::ActionId(0),
            action_ref,
            paused: false,
            policy: Policy::default(),
            limit_override: None,
            created_at: self.now,
            updated_at: self.now,
        };
        let action = known.unwrap_or_else(new);
        let updated_at = if created || !changes.is_empty() { self.now } else { action.updated_at };
        let registered = Registered::new(Action { policy, updated_at, ..action })?;
        Ok(Plan { registered, created, changes })
    }

    fn carry_out(&mut self, plan: Plan, by: By) -> LeaderAnswer {
        let Plan { mut registered, created, changes } = plan;
        if created {
            registered.action.action_id = self.scheduler.new_action_id();
        }
        let action = registered.action.clone();
        if created || !changes.is_empty() {
            let changed = if created { Changed::ActionCreated } else { Changed::PolicyChanged };
            self.change(registered, changed, changes, by);
        }
        LeaderAnswer::Action { action: Box::new(action), created }
    }

    pub(crate) fn delete_action(&mut self, action_ref: &ActionRef, by: By) -> Answered {
        let action = self.known(action_ref)?;
        let id = action.action_id;
        if self.scheduler.has_live(id) {
            let message = format!("{action_ref} has executions that did not end; cancel them or wait");
            return Err(ControlError::new(RefusalKind::Conflict, "action_in_use", message));
        }
        let mut changes = differences(Some(&action.policy), None);
        changes.extend(action.limit_override.as_ref().map(|ended| override_difference(Some(ended), None)));
        self.note(&action, Changed::ActionDeleted, changes, by);
        self.scheduler.handle(Input::ActionDeleted { id }, self.now);
        self.registry.remove(action_ref);
        self.pending.actions.push(ActionChange::Delete { id, at: self.now });
        Ok(LeaderAnswer::Deleted)
    }

    pub(crate) fn pause(&mut self, action_ref: &ActionRef, paused: bool, by: By) -> Answered {
        let action = self.known(action_ref)?;
        let changed = if paused { Changed::Paused } else { Changed::Resumed };
        let changes = vec![pause_difference(paused)];
        let is_so = action.paused == paused;
        self.alter(Action { paused, ..action }, (!is_so).then_some((changed, changes)), by)
    }

    pub(crate) fn override_limit(
        &mut self,
        action_ref: &ActionRef,
        limit: Option<u32>,
        duration: Duration,
        by: By,
    ) -> Answered {
        let action = self.known(action_ref)?;
        let (actor, reason) = (by.actor.clone(), by.reason.clone());
        let temporary = LimitOverride { limit, until: self.now + duration, since: self.now, actor, reason };
        let changes = vec![override_difference(action.limit_override.as_ref(), Some(&temporary))];
        let action = Action { limit_override: Some(temporary), ..action };
        self.alter(action, Some((Changed::LimitOverridden, changes)), by)
    }

    pub(crate) fn clear_override(&mut self, action_ref: &ActionRef, by: By) -> Answered {
        let action = self.known(action_ref)?;
        let ended = action.limit_override.as_ref().map(|ended| override_difference(Some(ended), None));
        let changes = ended.map(|ended| (Changed::OverrideCleared, vec![ended]));
        self.alter(Action { limit_override: None, ..action }, changes, by)
    }

    /// Ends the overrides whose time is over.
    pub(crate) fn end_overrides(&mut self) -> Result<(), ControlError> {
        while let Some(known) = self.registry.due(self.now) {
            let action = known.action.clone();
            let changes = vec![override_difference(action.limit_override.as_ref(), None)];
            let action = Action { limit_override: None, ..action };
            self.alter(action, Some((Changed::OverrideEnded, changes)), By::executor(TIME_IS_OVER))?;
        }
        Ok(())
    }

    /// Alters an action beside its policy; without changes it is left as it was.
    fn alter(&mut self, action: Action, changes: Option<(Changed, Vec<Difference>)>, by: By) -> Answered {
        let Some((changed, changes)) = changes else {
            return Ok(LeaderAnswer::Action { action: Box::new(action), created: false });
        };
        let action = Action { updated_at: self.now, ..action };
        let registered = Registered::new(action.clone()).map_err(|invalid| refused("", &invalid.into()))?;
        self.change(registered, changed, changes, by);
        Ok(LeaderAnswer::Action { action: Box::new(action), created: false })
    }

    fn change(&mut self, registered: Registered, changed: Changed, changes: Vec<Difference>, by: By) {
        let action = registered.action.clone();
        self.note(&action, changed, changes, by);
        self.scheduler.handle(
            Input::ActionPut {
                id: action.action_id,
                action_ref: action.action_ref.clone(),
                limits: registered.limits(),
                paused: action.paused,
            },
            self.now,
        );
        self.registry.put(registered);
        self.pending.actions.push(ActionChange::Put(action));
    }

    /// To be called before the scheduler gets the change, which may grant by it at once.
    fn note(&mut self, action: &Action, changed: Changed, changes: Vec<Difference>, by: By) {
        let fence = Fence(self.scheduler.counters().next_fence);
        self.pending.audit.push(Audit::of_action(self.now, changed, by, action, fence, changes));
    }

    fn known(&self, action_ref: &ActionRef) -> Result<Action, ControlError> {
        let known = self.registry.get(action_ref).ok_or_else(|| ControlError::unknown_action(action_ref))?;
        Ok(known.action.clone())
    }
}

/// Ends the overrides whose time was over before this leader began: nothing was granted by them since.
pub(crate) fn end_past_overrides(actions: &mut [ActionState], next_fence: i64, now: Timestamp, pending: &mut Pending) {
    for ActionState { action, .. } in actions {
        let Some(ended) = action.limit_override.take_if(|temporary| temporary.until <= now) else { continue };
        action.updated_at = now;
        let (changed, by) = (Changed::OverrideEnded, By::executor(TIME_IS_OVER));
        let changes = vec![override_difference(Some(&ended), None)];
        pending.audit.push(Audit::of_action(now, changed, by, action, Fence(next_fence), changes));
        pending.actions.push(ActionChange::Put(action.clone()));
    }
}

/// Why a policy can't be taken.
struct Invalid {
    code: &'static str,
    /// `None`: the policy as a whole.
    field: Option<&'static str>,
    message: String,
}

impl From<InvalidPolicy> for Invalid {
    fn from(invalid: InvalidPolicy) -> Self {
        Self { code: "invalid_policy", field: Some(invalid.field), message: invalid.to_string() }
    }
}

/// The refusal of a policy that is at `place` in the question.
fn refused(place: &str, invalid: &Invalid) -> ControlError {
    let field = match invalid.field {
        Some(field) => format!("{place}{field}"),
        None => format!("{place}policy"),
    };
    ControlError::new(RefusalKind::Invalid, invalid.code, invalid.message.clone()).at(&field)
}

fn in_words(words: &str) -> String {
    format!("policy: the database refuses it: {words}")
}

/// The answer to a client's action whose policy the database refuses.
pub(crate) fn refused_policy(words: &str) -> ControlError {
    ControlError::new(RefusalKind::Invalid, Reason::JournalRefused.as_str(), in_words(words)).at("policy")
}
