//! The rules, held against a history one fact at a time.
//!
//! Leases follow from the journal, and a process may live only within its lease; so "leases within the limit" and
//! "processes within leases" together say that never more run than the limit. Both are also counted directly.
//! Deliberately absent: anything that knows how the history was made.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use slotline_protocol::{ActionRef, Epoch, ExecutionId, Fence, Status};

use crate::history::{Entry, Fact, RequestId, Rules};

/// What must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) enum Rule {
    LimitHolds,
    GrantsAreInOrder,
    AcceptedInOrder,
    OneTerminalStatus,
    NoAttemptTwice,
    /// Neither an id nor a fence is given twice, also by a journal that went back.
    NoNumberTwice,
    ProcessesWithinLeases,
    NoEffectBeforeItsCommit,
    EpochsRise,
    EventsAreGapFree,
    NothingIsLost,
    NothingUnacceptedRuns,
    NoOrphans,
    EverythingEnds,
    /// Whoever waits for another starts once that one has completed, and on nothing else.
    ChainsFollowSuccess,
    /// Leadership goes to an executor that can do the whole job: none keeps it for long without a broker.
    LeadersHaveABroker,
    /// What a stranger says changes nothing.
    LiesChangeNothing,
    /// The next process of a worker tells what had ended in one that went in good order.
    EndedIsTold,
    /// What backs off is due when its policy says, whichever clock shows what.
    DueWhenItWas,
    /// Whoever recorded the history fell over a bug.
    NothingPanics,
}

/// How long a leader may be without a broker: until it hands over, its last commit has landed, or its session with the
/// journal is ended by the server because it stands still.
const BROKERLESS_MAX: u64 = 40_000_000;
/// By how much a due time may be off: clocks go wrong by a fiftieth, for as long as a term lasts.
const DUE_WITHIN: i64 = 60_000_000;

/// A rule that did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) rule: Rule,
    pub(crate) at: u64,
    pub(crate) execution: Option<ExecutionId>,
    pub(crate) detail: String,
}

/// One copy of the journal, as far as it is judged.
#[derive(Clone, Default)]
struct Journal {
    /// Counts the rewinds and promotions that led to it.
    branch: usize,
    accepted: BTreeMap<RequestId, ExecutionId>,
    actions: BTreeMap<ActionRef, Action>,
    live: BTreeMap<ExecutionId, Live>,
    settled: BTreeMap<ExecutionId, Status>,
    /// When those that back off are due.
    due: BTreeMap<ExecutionId, i64>,
    epoch: Epoch,
    batch: i64,
    /// The highest fence that it has given, or knew to be given.
    newest: Option<Fence>,
    /// The leader that has the lock, and since when it has no broker.
    leader: Option<(Epoch, Option<u64>)>,
    stands: bool,
}

#[derive(Default)]
pub(crate) struct Checker {
    enqueued: BTreeMap<RequestId, u64>,
    confirmed: BTreeSet<RequestId>,
    refused: BTreeSet<RequestId>,
    /// The copy of the journal that is told of, and the others.
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

/// A grant, whatever the journal forgot of it.
struct Given {
    execution: ExecutionId,
    attempt: u32,
    /// Its attempt may run past its lease.
    runs_on: bool,
    action: ActionRef,
    /// The branch of the journal that has it.
    branch: usize,
}

#[derive(Clone, Default)]
struct Action {
    rules: Rules,
    /// What held before the batch that is being read; a grant of the same batch may have been made under either.
    before: Option<((Epoch, i64), Rules)>,
    leases: BTreeMap<ExecutionId, Option<Arc<str>>>,
    /// Where its newest execution stood in the requests queue.
    last_position: u64,
}

#[derive(Clone)]
struct Live {
    action: ActionRef,
    key: Option<Arc<str>>,
    request: RequestId,
    waits: Option<i64>,
    /// Where it stood last.
    place: Option<i64>,
    lease: Option<(Fence, u32)>,
    /// That lease was taken over from the worker which holds it, whatever slots there were.
    is_adopted: bool,
    /// Out at a worker without a slot, and the widest rules that have held since it was sent.
    ahead: Option<(Ahead, Rules)>,
    /// Those who came back in front of it after it was sent.
    passes: BTreeSet<ExecutionId>,
}

impl Live {
    fn new(request: &RequestId, action: &ActionRef, key: &Option<Arc<str>>) -> Self {
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
struct Ahead {
    attempt: u32,
    fence: Fence,
    /// Of the attempt that it starts after.
    after: Fence,
    /// Each key had a line of its own when it was sent.
    by_key: bool,
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

    fn judge(&mut self, entry: &Entry) -> Result<(), Violation> {
        self.leads_with_a_broker(entry.at)?;
        match &entry.fact {
            Fact::Enqueued { request } => {
                let position = self.enqueued.len() as u64;
                self.enqueued.entry(request.clone()).or_insert(position);
                Ok(())
            }
            Fact::Confirmed { request } => {
                self.confirmed.insert(request.clone());
                Ok(())
            }
            Fact::Refused { request } => {
                self.refused.insert(request.clone());
                Ok(())
            }
            Fact::Led { epoch } => {
                let before = std::mem::replace(&mut self.journal.epoch, *epoch);
                self.journal.batch = 0;
                self.journal.leader = Some((*epoch, None));
                ensure(*epoch > before, Rule::EpochsRise, None, || format!("epoch {epoch} after epoch {before}"))
            }
            Fact::LockFreed => {
                self.journal.leader = None;
                Ok(())
            }
            Fact::JournalStands { still } => {
                self.journal.stands = *still;
                self.journal.leader = self.journal.leader.map(|(epoch, since)| (epoch, since.map(|_| entry.at)));
                Ok(())
            }
            Fact::Feeds { epoch } | Fact::Starves { epoch } => {
                // One that has lost the lock may not have heard of that.
                let has_lock = self.journal.leader.is_some_and(|(leads, _)| leads == *epoch);
                if has_lock && matches!(entry.fact, Fact::Feeds { .. }) {
                    let branch = *self.led.entry(*epoch).or_insert(self.journal.branch);
                    ensure(branch == self.journal.branch, Rule::NoNumberTwice, None, || {
                        format!(
                            "epoch {epoch} is led under by branch {} of the journal, and was by {branch}",
                            self.journal.branch
                        )
                    })?;
                }
                let since = matches!(entry.fact, Fact::Starves { .. }).then_some(entry.at);
                self.journal.leader =
                    self.journal.leader.map(|(leads, was)| (leads, if leads == *epoch { since } else { was }));
                Ok(())
            }
            Fact::BacksOff { execution, since, due_in, at_most } => {
                self.journal.due.insert(*execution, signed(*since) + due_in);
                let is_right = -DUE_WITHIN <= *due_in && *due_in <= at_most + DUE_WITHIN;
                ensure(is_right, Rule::DueWhenItWas, Some(*execution), || {
                    format!("execution {execution} is due in {due_in} microseconds, of at most {at_most}")
                })
            }
            Fact::Committed { epoch, batch } => {
                let (ours, before) = (self.journal.epoch, std::mem::replace(&mut self.journal.batch, *batch));
                ensure(*epoch == ours && *batch == before + 1, Rule::EpochsRise, None, || {
                    format!("batch {batch} of epoch {epoch} was committed after batch {before} in epoch {ours}")
                })
            }
            Fact::ActionPut { action, rules } => {
                let batch = (self.journal.epoch, self.journal.batch);
                for live in self.journal.live.values_mut().filter(|live| live.action == *action) {
                    if let Some((_, widest)) = &mut live.ahead {
                        *widest = widest.or(*rules);
                    }
                }
                let widest = self.widest.entry(action.clone()).or_insert(rules.limit);
                *widest = wider(*widest, rules.limit);
                let action = self.journal.actions.entry(action.clone()).or_default();
                action.before = Some((batch, action.rules));
                action.rules = *rules;
                Ok(())
            }
            Fact::Accepted { execution, request, action, key } => self.accepted(*execution, request, action, key),
            Fact::Of { site } => {
                self.turn_to(*site);
                Ok(())
            }
            Fact::Dumped => {
                self.dumps.insert(self.site, self.journal.clone());
                Ok(())
            }
            Fact::Promoted { site } => {
                let copy = self.branch_off();
                self.others.insert(*site, copy);
                Ok(())
            }
            Fact::Rewound => {
                let before = std::mem::take(&mut self.journal);
                self.journal = self.branch_off();
                let forgotten = |request: &RequestId| !self.journal.accepted.contains_key(request);
                self.gone.extend(before.accepted.into_keys().filter(forgotten));
                Ok(())
            }
            Fact::Recovered { execution, request, action, key } => self.recovered(*execution, request, action, key),
            Fact::Adopted { execution, attempt, fence } => self.adopted(*execution, *attempt, *fence),
            Fact::Waits { execution, place } => {
                let live = self.live(*execution)?;
                live.place = Some(*place);
                self.waits(*execution, *place)
            }
            Fact::Rejoins { execution, place } => {
                let live = self.live(*execution)?;
                let stood = live.place.replace(*place);
                self.waits(*execution, *place)?;
                ensure(stood.is_none_or(|stood| stood == *place), Rule::GrantsAreInOrder, Some(*execution), || {
                    format!(
                        "execution {execution} rejoins its line at {place}, though nothing of it failed at {stood:?}"
                    )
                })
            }
            Fact::Stands { execution } => {
                let live = self.live(*execution)?;
                (live.waits, live.place) = (None, None);
                Ok(())
            }
            Fact::Granted { execution, attempt, fence, place } => {
                let early = self.journal.due.remove(execution).map_or(0, |due| due - signed(entry.at));
                ensure(early <= DUE_WITHIN, Rule::DueWhenItWas, Some(*execution), || {
                    format!("execution {execution} was granted {early} microseconds before it was due")
                })?;
                self.granted(*execution, *attempt, *fence, *place)
            }
            Fact::SentAhead { execution, attempt, fence, place, after } => {
                let ahead = Ahead { attempt: *attempt, fence: *fence, after: *after, by_key: false };
                self.sent_ahead(*execution, ahead, *place)
            }
            Fact::TakenBack { execution, fence } => self.taken_back(*execution, *fence),
            Fact::Released { execution, fence } => self.released(*execution, *fence),
            Fact::Settled { execution, status } => self.settle(*execution, *status),
            Fact::Numbered { execution, number } => {
                let before = self.numbered.insert(*execution, *number).unwrap_or(0);
                ensure(*number == before + 1, Rule::EventsAreGapFree, Some(*execution), || {
                    format!("event {number} follows event {before} in the record of execution {execution}")
                })
            }
            Fact::Dispatched { execution, attempt, fence } => {
                let given = self.fences.get(fence).map(|given| (&given.execution, &given.attempt));
                let granted = given == Some((execution, attempt));
                ensure(granted, Rule::NoEffectBeforeItsCommit, Some(*execution), || {
                    format!("attempt {attempt} of execution {execution} was dispatched before its grant was committed")
                })
            }
            Fact::Recorded { execution, attempt } => {
                let lease = self.journal.live.get(execution).and_then(|live| live.lease);
                // Of what a rewound journal forgot, the word of its last leader may still be on its way.
                ensure(
                    lease.is_none_or(|(fence, out)| out != *attempt || self.is_forgotten(fence)),
                    Rule::NoEffectBeforeItsCommit,
                    Some(*execution),
                    || format!("attempt {attempt} of execution {execution} was called recorded while its lease lives"),
                )
            }
            Fact::Answered { request } => ensure(self.knows(request), Rule::NoEffectBeforeItsCommit, None, || {
                format!("request {request} was answered before it was committed")
            }),
            Fact::Began { execution, attempt, fence } => self.began(*execution, *attempt, *fence),
            Fact::Ended { fence, .. } => {
                self.running.remove(fence);
                Ok(())
            }
            Fact::Resumed { execution, attempt, fence } => self.runs(*execution, *attempt, *fence),
            Fact::Said { execution, attempt, sequence } => {
                let before = self.said.insert((*execution, *attempt), *sequence).unwrap_or(0);
                ensure(*sequence == before + 1, Rule::EventsAreGapFree, Some(*execution), || {
                    format!("event {sequence} of attempt {attempt} of execution {execution} follows event {before}")
                })
            }
            Fact::Told { execution, attempt, last_sequence } => {
                self.left.remove(&(*execution, *attempt));
                let said = self.said.get(&(*execution, *attempt)).copied().unwrap_or(0);
                ensure(said == *last_sequence, Rule::EventsAreGapFree, Some(*execution), || {
                    format!("attempt {attempt} of execution {execution} said {said} events and counts {last_sequence}")
                })
            }
            Fact::Believed { lie } => {
                Err(broken(Rule::LiesChangeNothing, None, format!("a stranger is believed: {lie}")))
            }
            Fact::Left { execution, attempt } => {
                self.left.insert((*execution, *attempt));
                Ok(())
            }
            Fact::Followed { execution, attempt } => {
                let is_untold = self.left.contains(&(*execution, *attempt));
                ensure(!is_untold, Rule::EndedIsTold, Some(*execution), || {
                    format!(
                        "attempt {attempt} of execution {execution} had ended, and the next process does not tell how"
                    )
                })
            }
            Fact::FaultsStopped { bound } => {
                self.deadline = Some(entry.at + bound);
                Ok(())
            }
            Fact::Closed => self.close(entry.at),
        }
    }

    fn leads_with_a_broker(&self, at: u64) -> Result<(), Violation> {
        let Some((epoch, Some(since))) = self.journal.leader.filter(|_| !self.journal.stands) else { return Ok(()) };
        ensure(at <= since + BROKERLESS_MAX, Rule::LeadersHaveABroker, None, || {
            format!("the leader of epoch {epoch} has had no broker since {since}, and leads on at {at}")
        })
    }

    fn live(&mut self, id: ExecutionId) -> Result<&mut Live, Violation> {
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

    fn accepted(
        &mut self,
        id: ExecutionId,
        request: &RequestId,
        action_ref: &ActionRef,
        key: &Option<Arc<str>>,
    ) -> Result<(), Violation> {
        // One that was turned away, or forgotten, and came again has lost its position.
        let came_again = self.refused.contains(request) || self.knows(request);
        if let Some(before) = self.journal.accepted.insert(request.clone(), id) {
            let detail = format!("request {request} was accepted as execution {before} and as {id}");
            return Err(broken(Rule::OneTerminalStatus, Some(id), detail));
        }
        let Some(position) = self.enqueued.get(request).copied() else {
            let detail = format!("request {request} was accepted as execution {id} but never enqueued");
            return Err(broken(Rule::NothingUnacceptedRuns, Some(id), detail));
        };
        if let Some(before) = self.given.insert(id, request.clone()).filter(|before| before != request) {
            let detail = format!("execution {id} is of request {request}, and was of {before}");
            return Err(broken(Rule::NoNumberTwice, Some(id), detail));
        }
        let action = self.journal.actions.entry(action_ref.clone()).or_default();
        let in_order = action.last_position <= position || came_again;
        action.last_position = action.last_position.max(position);
        self.journal.live.insert(id, Live::new(request, action_ref, key));
        ensure(in_order, Rule::AcceptedInOrder, Some(id), || {
            format!("request {request} (execution {id}) was accepted after one that the broker took later")
        })
    }

    fn turn_to(&mut self, site: usize) {
        let next = self.others.remove(&site).unwrap_or_default();
        let before = std::mem::replace(&mut self.journal, next);
        self.others.insert(std::mem::replace(&mut self.site, site), before);
    }

    /// The journal that was dumped last. What runs, what was begun, and every number that was given stay.
    fn branch_off(&mut self) -> Journal {
        self.branches += 1;
        let dump = self.dumps.remove(&self.site).unwrap_or_default();
        let newest = self.fences.last_key_value().map(|(fence, _)| *fence);
        Journal { branch: self.branches, newest, leader: None, stands: false, ..dump }
    }

    fn journals(&self) -> impl Iterator<Item = &Journal> {
        std::iter::once(&self.journal).chain(self.others.values())
    }

    /// The copy that goes on.
    fn main(&self) -> &Journal {
        let newest = self.others.last_key_value().filter(|(site, _)| **site > self.site);
        newest.map_or(&self.journal, |(_, journal)| journal)
    }

    fn knows(&self, request: &RequestId) -> bool {
        self.gone.contains(request) || self.journals().any(|journal| journal.accepted.contains_key(request))
    }

    /// Whether an attempt was given by a journal that a later one has taken the place of: its lease may be forgotten.
    fn is_forgotten(&self, fence: Fence) -> bool {
        self.fences.get(&fence).is_some_and(|given| given.branch < self.branches)
    }

    /// A fence is given, for the first time.
    fn give(&mut self, id: ExecutionId, attempt: u32, fence: Fence, runs_on: bool) -> Result<(), Violation> {
        let action = self.live(id)?.action.clone();
        let branch = self.journal.branch;
        let newest = self.journal.newest.replace(fence);
        let before = self.fences.insert(fence, Given { execution: id, attempt, runs_on, action, branch });
        ensure(before.is_none() && newest < Some(fence), Rule::NoNumberTwice, Some(id), || {
            let before = before.map(|given| (given.execution, given.attempt));
            format!("execution {id} got fence {fence}, which is of {before:?}; {newest:?} was the newest")
        })
    }

    fn runs_on(&self, fence: Fence) -> bool {
        self.fences.get(&fence).is_some_and(|given| given.runs_on)
    }

    /// It is the execution that it was.
    fn recovered(
        &mut self,
        id: ExecutionId,
        request: &RequestId,
        action_ref: &ActionRef,
        key: &Option<Arc<str>>,
    ) -> Result<(), Violation> {
        let is_its_own =
            self.given.get(&id) == Some(request) && self.journal.accepted.insert(request.clone(), id).is_none();
        self.journal.live.insert(id, Live::new(request, action_ref, key));
        self.gone.remove(request);
        ensure(is_its_own, Rule::NoNumberTwice, Some(id), || {
            format!("execution {id} was taken over as request {request}; it was of {:?}", self.given.get(&id))
        })
    }

    /// The lease is of an attempt that was really given to this execution.
    fn adopted(&mut self, id: ExecutionId, attempt: u32, fence: Fence) -> Result<(), Violation> {
        let live = self.live(id)?;
        (live.waits, live.ahead) = (None, None);
        live.lease = Some((fence, attempt));
        live.is_adopted = true;
        let (action_ref, key) = (live.action.clone(), live.key.clone());
        if let Some(action) = self.journal.actions.get_mut(&action_ref) {
            action.leases.insert(id, key);
        }
        let given = self.fences.get(&fence).map(|given| (given.execution, given.attempt));
        ensure(given == Some((id, attempt)), Rule::NoNumberTwice, Some(id), || {
            format!("attempt {attempt} of execution {id} was taken over with fence {fence}, which is of {given:?}")
        })
    }

    /// Never more processes of an action than were ever allowed, whatever the journal says of leases.
    fn count_processes(&self, fence: Fence) -> Result<(), Violation> {
        let Some(Given { action: action_ref, .. }) = self.fences.get(&fence) else { return Ok(()) };
        let Some(Some(limit)) = self.widest.get(action_ref) else { return Ok(()) };
        let counts = |given: &Given| given.action == *action_ref && !given.runs_on;
        let count =
            self.running.keys().filter_map(|fence| self.fences.get(fence)).filter(|given| counts(given)).count();
        ensure(count <= *limit as usize, Rule::LimitHolds, None, || {
            format!("{count} processes of {action_ref} run, and its limit was never above {limit}")
        })
    }

    fn granted(&mut self, id: ExecutionId, attempt: u32, fence: Fence, place: i64) -> Result<(), Violation> {
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

    /// It stands in its line. Whoever was sent ahead before may pass it.
    fn waits(&mut self, id: ExecutionId, place: i64) -> Result<(), Violation> {
        let live = self.live(id)?;
        if live.waits.replace(place).is_none() {
            let action = live.action.clone();
            for other in self.journal.live.values_mut().filter(|other| other.action == action && other.ahead.is_some())
            {
                other.passes.insert(id);
            }
        }
        Ok(())
    }

    /// Nobody of its line waits in front.
    fn is_in_order(
        &self,
        id: ExecutionId,
        place: i64,
        action: &ActionRef,
        key: &Option<Arc<str>>,
        rules: Rules,
    ) -> Result<(), Violation> {
        let same_line = |live: &Live| live.action == *action && (rules.key_limit.is_none() || live.key == *key);
        let may_pass = |other: &ExecutionId| self.journal.live.get(&id).is_some_and(|live| live.passes.contains(other));
        let mut waiting = self.journal.live.iter().filter(|(_, live)| live.waits.is_some_and(|other| other < place));
        let passed = waiting.find(|(other, live)| same_line(live) && !may_pass(other));
        match passed {
            None => Ok(()),
            Some((other, _)) => {
                let detail = format!("execution {id} (place {place}) was granted before {other}, which waits in front");
                Err(broken(Rule::GrantsAreInOrder, Some(id), detail))
            }
        }
    }

    /// It may begin when the attempt `after` has completed, which is out before it in its line.
    fn sent_ahead(&mut self, id: ExecutionId, ahead: Ahead, place: i64) -> Result<(), Violation> {
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
    fn fired(
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

    fn taken_back(&mut self, id: ExecutionId, fence: Fence) -> Result<(), Violation> {
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

    fn released(&mut self, id: ExecutionId, fence: Fence) -> Result<(), Violation> {
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

    fn settle(&mut self, id: ExecutionId, status: Status) -> Result<(), Violation> {
        let lease = self.live(id)?.lease;
        self.journal.live.remove(&id);
        self.journal.settled.insert(id, status);
        ensure(status.is_terminal() && lease.is_none(), Rule::OneTerminalStatus, Some(id), || {
            format!("execution {id} was settled as {status} and holds {lease:?}")
        })
    }

    fn began(&mut self, id: ExecutionId, attempt: u32, fence: Fence) -> Result<(), Violation> {
        let first = self.begun.insert((id, attempt));
        ensure(first, Rule::NoAttemptTwice, Some(id), || format!("attempt {attempt} of execution {id} began twice"))?;
        self.runs(id, attempt, fence)
    }

    fn runs(&mut self, id: ExecutionId, attempt: u32, fence: Fence) -> Result<(), Violation> {
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

    fn close(&self, at: u64) -> Result<(), Violation> {
        if let Some((_, (id, attempt))) = self.running.first_key_value() {
            let detail = format!("attempt {attempt} of execution {id} still runs");
            return Err(broken(Rule::NoOrphans, Some(*id), detail));
        }
        if let Some((id, live)) = self.main().live.first_key_value() {
            let detail = format!(
                "execution {id} ({}, request {}) has not ended: {:?} {:?}",
                live.action, live.request, live.waits, live.lease
            );
            return Err(broken(Rule::EverythingEnds, Some(*id), detail));
        }
        let missing = |request: &&RequestId| !self.knows(request) && !self.refused.contains(*request);
        if let Some(request) = self.confirmed.iter().find(missing) {
            let detail = format!("request {request} was confirmed, and neither accepted nor refused");
            return Err(broken(Rule::NothingIsLost, None, detail));
        }
        ensure(self.deadline.is_none_or(|deadline| at <= deadline), Rule::EverythingEnds, None, || {
            "it took longer than the bound until all was quiet".to_owned()
        })
    }

    /// Whether everything the history tells of is over.
    pub(crate) fn is_quiet(&self) -> bool {
        self.running.is_empty()
            && self.main().live.is_empty()
            && self.confirmed.iter().all(|request| self.knows(request) || self.refused.contains(request))
    }
}

impl Rules {
    /// The wider of both limits.
    fn or(self, other: Self) -> Self {
        let (limit, key_limit) = (wider(self.limit, other.limit), wider(self.key_limit, other.key_limit));
        Self { limit, key_limit, ..self }
    }
}

/// The wider of two limits; `None` is no limit.
fn wider(one: Option<u32>, other: Option<u32>) -> Option<u32> {
    Some(one?.max(other?))
}

fn signed(at: u64) -> i64 {
    i64::try_from(at).unwrap_or(i64::MAX)
}

fn ensure(
    holds: bool,
    rule: Rule,
    execution: Option<ExecutionId>,
    detail: impl FnOnce() -> String,
) -> Result<(), Violation> {
    if holds { Ok(()) } else { Err(broken(rule, execution, detail())) }
}

fn broken(rule: Rule, execution: Option<ExecutionId>, detail: String) -> Violation {
    Violation { rule, at: 0, execution, detail }
}
