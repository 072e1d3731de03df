//! What is sent ahead of its slot starts once the attempt before it has completed, and on nothing else.

use slotline_protocol::{ExecutionId, Fence, Status};

use super::Checker;
use super::journal::{Ahead, Live};
use super::rule::{Rule, Violation, ensure};
use crate::history::Rules;

impl Checker {
    /// It may begin when the attempt `after` has completed, which is out before it in its line.
    pub(super) fn sent_ahead(&mut self, id: ExecutionId, ahead: Ahead, place: i64) -> Result<(), Violation> {
        let Ahead { attempt, fence, after, .. } = ahead;
        let live = self.live(id)?;
        live.place = Some(place);
        let (action_ref, out) = (live.action.clone(), live.lease);
        let Some(action) = self.journal.actions.get(&action_ref) else { return Ok(()) };
        let rules = action.rules;
        let fresh = action.before.filter(|(changed, _)| *changed == (self.journal.epoch, self.journal.batch));
        let is_fresh = fresh.is_some();
        // Within one batch it may have been sent before the rules changed.
        let before = fresh.map_or(rules, |(_, before)| before);
        let widest = rules.or(before);
        self.live(id)?.ahead = Some((Ahead { by_key: widest.key_limit.is_some(), ..ahead }, widest));
        self.give(id, attempt, fence, rules.runs_on)?;
        ensure(out.is_none(), Rule::NoAttemptTwice, Some(id), || {
            format!("execution {id} got fence {fence} while it held {out:?}")
        })?;
        let others = self.journal.live.iter().filter(|(other, live)| **other != id && live.action == action_ref);
        let is_follower = |live: &Live| live.ahead.as_ref().is_some_and(|(ahead, _)| ahead.after == after);
        // Its predecessor may be back by the end of this batch, and then it never begins.
        let follows = self.fences.contains_key(&after) && after < fence;
        let shares = others.map(|(_, live)| live).any(is_follower);
        ensure(follows && !shares && (is_fresh || !rules.paused), Rule::LimitHolds, Some(id), || {
            format!("execution {id} was sent ahead after fence {after}, which nobody of its line holds for it alone")
        })
    }

    /// Its predecessor left it the slot. By then it may have begun under the rules of when it was sent, and leases that were
    /// granted under wider rules since run on.
    pub(super) fn fired(
        &mut self,
        id: ExecutionId,
        ahead: Ahead,
        widest: Rules,
        fence: Fence,
        attempt: u32,
        place: Option<i64>,
    ) -> Result<(), Violation> {
        let live = self.live(id)?;
        let (action_ref, key) = (live.action.clone(), live.key.clone());
        ensure((ahead.fence, ahead.attempt) == (fence, attempt), Rule::NoAttemptTwice, Some(id), || {
            format!("execution {id} was granted with fence {fence} while fence {} is out ahead", ahead.fence)
        })?;
        let before = self.fences.get(&ahead.after);
        let is_left =
            before.is_some_and(|given| self.journal.settled.get(&given.execution) == Some(&Status::Completed));
        ensure(is_left, Rule::LimitHolds, Some(id), || {
            format!("execution {id} took the slot of fence {}, whose attempt did not complete", ahead.after)
        })?;
        let Some(action) = self.journal.actions.get_mut(&action_ref) else { return Ok(()) };
        action.leases.insert(id, key.clone());
        // What was taken over from its worker, perhaps one that waits for this very attempt, comes on top.
        let is_counted = |id: &ExecutionId| !self.journal.live.get(id).is_some_and(|live| live.is_adopted);
        let counted: Vec<_> = action.leases.iter().filter(|(id, _)| is_counted(id)).map(|(_, key)| key).collect();
        let (count, of_key) = (counted.len(), counted.iter().filter(|other| ***other == key).count());
        // One leaves and one comes: under narrower rules there may be no more than there were.
        let exceeds = |now: Option<u32>, then: Option<u32>, count: usize| {
            then.zip(now).is_some_and(|(then, now)| count > then.max(now) as usize)
        };
        let (now, then) = (action.rules, widest);
        let is_within = !exceeds(now.limit, then.limit, count) && !exceeds(now.key_limit, then.key_limit, of_key);
        ensure(is_within, Rule::LimitHolds, Some(id), || {
            format!("{action_ref} has {count} leases, {of_key} of key {key:?}, under {now:?} and {then:?}")
        })?;
        // Lines are others where keys began or ceased to matter.
        match place.filter(|_| now.key_limit.is_some() == ahead.by_key) {
            None => Ok(()),
            Some(place) => self.is_in_order(id, place, &action_ref, &key, now),
        }
    }

    pub(super) fn taken_back(&mut self, id: ExecutionId, fence: Fence) -> Result<(), Violation> {
        let live = self.live(id)?;
        let held = live.ahead.take().map(|(ahead, _)| ahead.fence);
        live.passes.clear();
        let runs_on = self.runs_on(fence);
        let is_idle = runs_on || !self.running.contains_key(&fence);
        ensure(held == Some(fence) && is_idle, Rule::ProcessesWithinLeases, Some(id), || {
            format!(
                "fence {fence} of execution {id} was taken back while {held:?} was ahead, or while its process runs"
            )
        })
    }
}
