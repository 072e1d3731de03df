//! The copies of the journal, as far as they are judged: one goes on, others were dumped, promoted or rolled back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use slotline_protocol::{ActionRef, Epoch, ExecutionId, Fence, Status};

use super::Checker;
use super::rule::{Rule, Violation, broken};
use crate::history::{RequestId, Rules};

/// One copy of the journal, as far as it is judged.
#[derive(Clone, Default)]
pub(super) struct Journal {
    /// Counts the rewinds and promotions that led to it.
    pub(super) branch: usize,
    pub(super) accepted: BTreeMap<RequestId, ExecutionId>,
    pub(super) actions: BTreeMap<ActionRef, Action>,
    pub(super) live: BTreeMap<ExecutionId, Live>,
    pub(super) settled: BTreeMap<ExecutionId, Status>,
    /// When those that back off are due.
    pub(super) due: BTreeMap<ExecutionId, i64>,
    pub(super) epoch: Epoch,
    pub(super) batch: i64,
    /// The highest fence that it has given, or knew to be given.
    pub(super) newest: Option<Fence>,
    /// The leader that has the lock, and since when it has no broker.
    pub(super) leader: Option<(Epoch, Option<u64>)>,
    pub(super) stands: bool,
}

/// A grant, whatever the journal forgot of it.
pub(super) struct Given {
    pub(super) execution: ExecutionId,
    pub(super) attempt: u32,
    /// Its attempt may run past its lease.
    pub(super) runs_on: bool,
    pub(super) action: ActionRef,
    /// The branch of the journal that has it.
    pub(super) branch: usize,
}

#[derive(Clone, Default)]
pub(super) struct Action {
    pub(super) rules: Rules,
    /// What held before the batch that is being read; a grant of the same batch may have been made under either.
    pub(super) before: Option<((Epoch, i64), Rules)>,
    pub(super) leases: BTreeMap<ExecutionId, Option<Arc<str>>>,
    /// Where its newest execution stood in the requests queue.
    pub(super) last_position: u64,
}

#[derive(Clone)]
pub(super) struct Live {
    pub(super) action: ActionRef,
    pub(super) key: Option<Arc<str>>,
    pub(super) request: RequestId,
    pub(super) waits: Option<i64>,
    /// Where it stood last.
    pub(super) place: Option<i64>,
    pub(super) lease: Option<(Fence, u32)>,
    /// That lease was taken over from the worker which holds it, whatever slots there were.
    pub(super) is_adopted: bool,
    /// Out at a worker without a slot, and the widest rules that have held since it was sent.
    pub(super) ahead: Option<(Ahead, Rules)>,
    /// Executions that came back in front of it after it was sent.
    pub(super) passes: BTreeSet<ExecutionId>,
}

impl Live {
    pub(super) fn new(request: &RequestId, action: &ActionRef, key: &Option<Arc<str>>) -> Self {
        Self {
            action: action.clone(),
            key: key.clone(),
            request: request.clone(),
            waits: None,
            place: None,
            lease: None,
            is_adopted: false,
            ahead: None,
            passes: BTreeSet::new(),
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Ahead {
    pub(super) attempt: u32,
    pub(super) fence: Fence,
    /// Of the attempt that it starts after.
    pub(super) after: Fence,
    /// Each key had a line of its own when it was sent.
    pub(super) by_key: bool,
}

impl Checker {
    pub(super) fn live(&mut self, id: ExecutionId) -> Result<&mut Live, Violation> {
        let settled = self.journal.settled.get(&id).copied();
        self.journal.live.get_mut(&id).ok_or_else(|| match settled {
            Some(status) => {
                broken(Rule::OneTerminalStatus, Some(id), format!("execution {id} goes on after it was {status}"))
            }
            None => {
                broken(Rule::NothingUnacceptedRuns, Some(id), format!("execution {id} was never accepted but lives"))
            }
        })
    }

    pub(super) fn turn_to(&mut self, site: usize) {
        let next = self.others.remove(&site).unwrap_or_default();
        let before = std::mem::replace(&mut self.journal, next);
        self.others.insert(std::mem::replace(&mut self.site, site), before);
    }

    /// The journal that was dumped last. What runs, what was begun, and every number that was given stay.
    pub(super) fn branch_off(&mut self) -> Journal {
        self.branches += 1;
        let dump = self.dumps.remove(&self.site).unwrap_or_default();
        let newest = self.fences.last_key_value().map(|(fence, _)| *fence);
        Journal { branch: self.branches, newest, leader: None, stands: false, ..dump }
    }

    /// The copy is an older one by now: what was accepted since is forgotten.
    pub(super) fn rewound(&mut self) {
        let before = std::mem::take(&mut self.journal);
        self.journal = self.branch_off();
        let forgotten = |request: &RequestId| !self.journal.accepted.contains_key(request);
        self.gone.extend(before.accepted.into_keys().filter(forgotten));
    }

    pub(super) fn journals(&self) -> impl Iterator<Item = &Journal> {
        std::iter::once(&self.journal).chain(self.others.values())
    }

    /// The copy that goes on.
    pub(super) fn main(&self) -> &Journal {
        let newest = self.others.last_key_value().filter(|(site, _)| **site > self.site);
        newest.map_or(&self.journal, |(_, journal)| journal)
    }

    pub(super) fn knows(&self, request: &RequestId) -> bool {
        self.gone.contains(request) || self.journals().any(|journal| journal.accepted.contains_key(request))
    }

    /// Whether an attempt was given by a journal that a later one has taken the place of: its lease may be forgotten.
    pub(super) fn is_forgotten(&self, fence: Fence) -> bool {
        self.fences.get(&fence).is_some_and(|given| given.branch < self.branches)
    }

    pub(super) fn runs_on(&self, fence: Fence) -> bool {
        self.fences.get(&fence).is_some_and(|given| given.runs_on)
    }
}
