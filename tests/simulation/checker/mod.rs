//! The rules, held against a history one fact at a time. Each rule has a file.
//!
//! Leases follow from the journal, and a process may live only within its lease; so "leases within the limit" and
//! "processes within leases" together say that never more run than the limit. Both are also counted directly.
//! Deliberately absent: anything that knows how the history was made.

mod acceptance;
mod chains;
mod due;
mod effects;
mod ends;
mod epochs;
mod events;
mod journal;
mod leaders;
mod limits;
mod numbers;
mod order;
mod processes;
mod rule;

use std::collections::{BTreeMap, BTreeSet};

use slotline_protocol::{ActionRef, Epoch, ExecutionId, Fence};

use crate::history::{Entry, Fact, RequestId};
use journal::{Ahead, Given, Journal};
use rule::broken;
pub(crate) use rule::{Rule, Violation};

#[derive(Default)]
pub(crate) struct Checker {
    enqueued: BTreeMap<RequestId, u64>,
    confirmed: BTreeSet<RequestId>,
    refused: BTreeSet<RequestId>,
    /// The copy of the journal that the facts are of, and the others.
    site: usize,
    journal: Journal,
    others: BTreeMap<usize, Journal>,
    /// What each copy held at its last dump.
    dumps: BTreeMap<usize, Journal>,
    branches: usize,
    /// Every grant there was.
    fences: BTreeMap<Fence, Given>,
    begun: BTreeSet<(ExecutionId, u32)>,
    running: BTreeMap<Fence, (ExecutionId, u32)>,
    /// The attempt that was heard last of each execution, and its last sequence.
    said: BTreeMap<(ExecutionId, u32), u64>,
    numbered: BTreeMap<ExecutionId, u64>,
    deadline: Option<u64>,
    /// Executions, and which request each is of, whatever the journal forgot.
    given: BTreeMap<ExecutionId, RequestId>,
    /// Epochs under which anything was sent, and on which branch of the journal.
    led: BTreeMap<Epoch, usize>,
    /// Requests that were accepted and forgotten.
    gone: BTreeSet<RequestId>,
    /// The highest limit there ever was of each action; `None` if there was none for a while.
    widest: BTreeMap<ActionRef, Option<u32>>,
    /// Attempts that a process has left to the next one of its worker.
    left: BTreeSet<(ExecutionId, u32)>,
}

impl Checker {
    /// Judges a history that is complete.
    pub(crate) fn check<'a>(history: impl IntoIterator<Item = &'a Entry>) -> Result<(), Violation> {
        let mut checker = Self::default();
        history.into_iter().try_for_each(|entry| checker.observe(entry))
    }

    /// Takes the next fact.
    pub(crate) fn observe(&mut self, entry: &Entry) -> Result<(), Violation> {
        self.judge(entry).map_err(|mut violation| {
            violation.at = entry.at;
            violation
        })
    }

    /// Which rule a fact is held against. A table, longer than other functions.
    fn judge(&mut self, entry: &Entry) -> Result<(), Violation> {
        self.leads_with_a_broker(entry.at)?;
        match &entry.fact {
            Fact::Enqueued { request } => {
                let position = self.enqueued.len() as u64;
                self.enqueued.entry(request.clone()).or_insert(position);
            }
            Fact::Confirmed { request } => _ = self.confirmed.insert(request.clone()),
            Fact::Refused { request } => _ = self.refused.insert(request.clone()),
            Fact::Led { epoch } => return self.led(*epoch),
            Fact::LockFreed => self.journal.leader = None,
            Fact::JournalStands { still } => self.stands(*still, entry.at),
            Fact::Feeds { epoch } => return self.feeds(*epoch),
            Fact::Starves { epoch } => self.starves(*epoch, Some(entry.at)),
            Fact::BacksOff { execution, since, due_in, at_most } => {
                return self.backs_off(*execution, *since, *due_in, *at_most);
            }
            Fact::Committed { epoch, batch } => return self.committed(*epoch, *batch),
            Fact::ActionPut { action, rules } => self.action_put(action, *rules),
            Fact::Accepted { execution, request, action, key } => {
                return self.accepted(*execution, request, action, key);
            }
            Fact::Of { site } => self.turn_to(*site),
            Fact::Dumped => _ = self.dumps.insert(self.site, self.journal.clone()),
            Fact::Promoted { site } => {
                let copy = self.branch_off();
                self.others.insert(*site, copy);
            }
            Fact::Rewound => self.rewound(),
            Fact::Recovered { execution, request, action, key } => {
                return self.recovered(*execution, request, action, key);
            }
            Fact::Adopted { execution, attempt, fence } => return self.adopted(*execution, *attempt, *fence),
            Fact::Waits { execution, place } => {
                self.live(*execution)?.place = Some(*place);
                return self.waits(*execution, *place);
            }
            Fact::Rejoins { execution, place } => return self.rejoins(*execution, *place),
            Fact::Stands { execution } => {
                let live = self.live(*execution)?;
                (live.waits, live.place) = (None, None);
            }
            Fact::Granted { execution, attempt, fence, place } => {
                self.is_due(*execution, entry.at)?;
                return self.granted(*execution, *attempt, *fence, *place);
            }
            Fact::SentAhead { execution, attempt, fence, place, after } => {
                let ahead = Ahead { attempt: *attempt, fence: *fence, after: *after, by_key: false };
                return self.sent_ahead(*execution, ahead, *place);
            }
            Fact::TakenBack { execution, fence } => return self.taken_back(*execution, *fence),
            Fact::Released { execution, fence } => return self.released(*execution, *fence),
            Fact::Settled { execution, status } => return self.settle(*execution, *status),
            Fact::Numbered { execution, number } => return self.numbered(*execution, *number),
            Fact::Dispatched { execution, attempt, fence } => return self.dispatched(*execution, *attempt, *fence),
            Fact::Recorded { execution, attempt } => return self.recorded(*execution, *attempt),
            Fact::Answered { request } => return self.answered(request),
            Fact::Began { execution, attempt, fence } => return self.began(*execution, *attempt, *fence),
            Fact::Ended { fence, .. } => _ = self.running.remove(fence),
            Fact::Resumed { execution, attempt, fence } => return self.runs(*execution, *attempt, *fence),
            Fact::Said { execution, attempt, sequence } => return self.said((*execution, *attempt), *sequence),
            Fact::Told { execution, attempt, last_sequence } => {
                return self.told((*execution, *attempt), *last_sequence);
            }
            Fact::Believed { lie } => {
                return Err(broken(Rule::LiesChangeNothing, None, format!("a stranger is believed: {lie}")));
            }
            Fact::Left { execution, attempt } => _ = self.left.insert((*execution, *attempt)),
            Fact::Followed { execution, attempt } => return self.followed((*execution, *attempt)),
            Fact::FaultsStopped { bound } => self.deadline = Some(entry.at + bound),
            Fact::Closed => return self.close(entry.at),
        }
        Ok(())
    }
}
