//! Never more leases than the limit of an action, and of each key, allows; nor more processes.

use slotline_protocol::{ActionRef, ExecutionId, Fence};

use super::Checker;
use super::journal::Given;
use super::rule::{Rule, Violation, ensure};
use crate::history::Rules;

impl Checker {
    pub(super) fn granted(&mut self, id: ExecutionId, attempt: u32, fence: Fence, place: i64) -> Result<(), Violation> {
        let live = self.live(id)?;
        let waited = live.waits.take();
        live.place = Some(place);
        let before = live.lease.replace((fence, attempt));
        live.is_adopted = false;
        let (action_ref, key) = (live.action.clone(), live.key.clone());
        let ahead = live.ahead.take();
        if let Some((ahead, rules)) = ahead {
            return self.fired(id, ahead, rules, fence, attempt, waited.map(|_| place));
        }
        let runs_on = self.journal.actions.get(&action_ref).is_some_and(|action| action.rules.runs_on);
        self.give(id, attempt, fence, runs_on)?;
        ensure(before.is_none(), Rule::NoAttemptTwice, Some(id), || {
            format!("execution {id} got fence {fence} while it held {before:?}")
        })?;
        let batch = (self.journal.epoch, self.journal.batch);
        let Some(action) = self.journal.actions.get_mut(&action_ref) else { return Ok(()) };
        action.leases.insert(id, key.clone());
        let rules = action.rules;
        let has_changed = action.before.is_some_and(|(changed, _)| changed == batch);
        let before = action.before.filter(|_| has_changed).map_or(rules, |(_, before)| before);
        let exceeds = |limit: Option<u32>, count: usize| limit.is_some_and(|limit| count > limit as usize);
        let of_key = action.leases.values().filter(|other| **other == key).count();
        let Rules { limit, key_limit, .. } = rules.or(before);
        ensure(!exceeds(limit, action.leases.len()), Rule::LimitHolds, Some(id), || {
            format!("{action_ref} has {} leases and a limit of {limit:?}", action.leases.len())
        })?;
        // Those without a key share one limit.
        ensure(!exceeds(key_limit, of_key), Rule::LimitHolds, Some(id), || {
            format!("{action_ref} has {of_key} leases for key {key:?} and a limit of {key_limit:?} for each")
        })?;
        ensure(!rules.paused || has_changed, Rule::LimitHolds, Some(id), || {
            format!("{action_ref} is paused and execution {id} was granted")
        })?;
        // One that did not stand in line has kept its slot, or went through the line within this batch.
        if has_changed || waited.is_none() {
            return Ok(());
        }
        self.is_in_order(id, place, &action_ref, &key, rules)
    }

    /// Never more processes of an action than were ever allowed, whatever the journal says of leases.
    pub(super) fn count_processes(&self, fence: Fence) -> Result<(), Violation> {
        let Some(Given { action: action_ref, .. }) = self.fences.get(&fence) else { return Ok(()) };
        let Some(Some(limit)) = self.widest.get(action_ref) else { return Ok(()) };
        let counts = |given: &Given| given.action == *action_ref && !given.runs_on;
        let count =
            self.running.keys().filter_map(|fence| self.fences.get(fence)).filter(|given| counts(given)).count();
        ensure(count <= *limit as usize, Rule::LimitHolds, None, || {
            format!("{count} processes of {action_ref} run, and its limit was never above {limit}")
        })
    }

    pub(super) fn action_put(&mut self, action: &ActionRef, rules: Rules) {
        let batch = (self.journal.epoch, self.journal.batch);
        for live in self.journal.live.values_mut().filter(|live| live.action == *action) {
            if let Some((_, widest)) = &mut live.ahead {
                *widest = widest.or(rules);
            }
        }
        let widest = self.widest.entry(action.clone()).or_insert(rules.limit);
        *widest = wider(*widest, rules.limit);
        let action = self.journal.actions.entry(action.clone()).or_default();
        action.before = Some((batch, action.rules));
        action.rules = rules;
    }
}

impl Rules {
    /// The wider of both limits.
    pub(super) fn or(self, other: Self) -> Self {
        let (limit, key_limit) = (wider(self.limit, other.limit), wider(self.key_limit, other.key_limit));
        Self { limit, key_limit, ..self }
    }
}

/// The wider of two limits; `None` is no limit.
pub(super) fn wider(one: Option<u32>, other: Option<u32>) -> Option<u32> {
    Some(one?.max(other?))
}
