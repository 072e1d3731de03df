//! A process lives only within its lease, and no attempt starts twice.

use slotline_protocol::{ExecutionId, Fence};

use super::Checker;
use super::journal::Ahead;
use super::rule::{Rule, Violation, ensure};

impl Checker {
    pub(super) fn began(&mut self, id: ExecutionId, attempt: u32, fence: Fence) -> Result<(), Violation> {
        let first = self.begun.insert((id, attempt));
        ensure(first, Rule::NoAttemptTwice, Some(id), || format!("attempt {attempt} of execution {id} began twice"))?;
        self.runs(id, attempt, fence)
    }

    pub(super) fn runs(&mut self, id: ExecutionId, attempt: u32, fence: Fence) -> Result<(), Violation> {
        self.running.insert(fence, (id, attempt));
        // Sent ahead, it begins by itself when nothing is left of the one before it.
        let is_next = |ahead: &Ahead| {
            (ahead.fence, ahead.attempt) == (fence, attempt) && !self.running.contains_key(&ahead.after)
        };
        let lives = || self.journals().filter_map(|journal| journal.live.get(&id));
        let is_leased = lives().any(|live| live.lease == Some((fence, attempt)));
        let is_ahead = lives().any(|live| live.ahead.as_ref().is_some_and(|(ahead, _)| is_next(ahead)));
        // Of one that the journal forgot the worker knows more.
        let may_run = self.runs_on(fence) || is_leased || is_ahead || self.is_forgotten(fence);
        ensure(may_run, Rule::ProcessesWithinLeases, Some(id), || {
            let known: Vec<_> =
                lives().map(|live| (live.lease, live.ahead.as_ref().map(|(ahead, _)| *ahead))).collect();
            format!("attempt {attempt} of execution {id} runs with fence {fence}; its lease is {known:?}")
        })?;
        self.count_processes(fence)
    }

    pub(super) fn released(&mut self, id: ExecutionId, fence: Fence) -> Result<(), Violation> {
        let live = self.live(id)?;
        let held = live.lease.take();
        let action_ref = live.action.clone();
        if let Some(action) = self.journal.actions.get_mut(&action_ref) {
            action.leases.remove(&id);
        }
        let runs_on = self.runs_on(fence);
        ensure(held.is_some_and(|(held, _)| held == fence), Rule::ProcessesWithinLeases, Some(id), || {
            format!("fence {fence} of execution {id} was released while it held {held:?}")
        })?;
        ensure(runs_on || !self.running.contains_key(&fence), Rule::ProcessesWithinLeases, Some(id), || {
            format!("the lease of execution {id}, fence {fence}, ended while its process runs")
        })
    }
}
