//! A journal that may be older than the world: a dump was restored, a replica promoted, a snapshot rolled back.
//!
//! While there is doubt nothing is granted and no timer but the probes' fires: workers may hold attempts that this
//! journal never gave, or gave and forgot. Every worker is asked for an account of what it holds, and a worker that is
//! silent for a whole lease has passed its fence; then everything that may run is known. What an account shows becomes
//! a lease:
//!
//! ```text
//!   the journal has the execution ...   and the worker shows an attempt of it
//!   not, and never had its number       the execution is taken over from the worker, with all that it was given
//!   not, but had its number             nothing: it has settled, and the worker may forget the attempt
//!   waiting or backing off              the attempt becomes its lease
//!   the same, after that attempt        nothing: the attempt has ended, and the worker may forget it
//!   leased, by the same fence           as always
//!   leased, by a lower fence            that lease was over before the higher one was given: it is moved
//!   leased, by a higher fence           nothing: the attempt shown was over by then
//!   leased, and its worker shows none   that attempt is over: lost, uncharged, back to its place
//! ```
//!
//! Numbers that no worker shows may have been given as well, so none is given before the caller has raised the
//! counters.
//! Not here: what the journal and the broker remember of the world (the caller compares them).

use std::collections::BTreeSet;
use std::time::Duration;

use slotline_protocol::message::{Account, AttemptKey, Heartbeat, Highest, Holding, Lineage, Shown};
use slotline_protocol::{ActionId, ActionRef, Epoch, ExecutionId, Fence, Incarnation, Status, Timestamp, WorkerName};

use crate::effect::AdoptedExecution;
use crate::execution::Execution;
use crate::orders::{FORMER, OrderNumbers, UNSENT};
use crate::scheduler::{Counters, Scheduler};
use crate::state::{Assignment, StateKind, Transition};
use crate::window::is_bulky;

/// How far above the journal's own numbers those that a worker shows may be: what is further is not believed.
const BELIEVED: i64 = 1 << 40;
/// How far above the journal's own generation one that a worker shows may be, to be believed.
const GENERATIONS_BELIEVED: u64 = 1_000;
/// After a rewind, attempts of executions that were known before it are numbered from here for each generation: the
/// numbers between may have been used.
const ATTEMPTS_PER_GENERATION: u32 = 1_000;

/// What is not known yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Doubt {
    /// The first numbers that this journal has not given.
    floor: Counters,
    /// Since when every message that a worker got through was received; `None` without a session.
    since: Option<Timestamp>,
    /// The longest that a worker may live without getting a message through.
    lease: Duration,
    /// Incarnations that have given their account.
    told: BTreeSet<Incarnation>,
    /// Executions taken over from workers, those that have ended since among them.
    recovered: BTreeSet<ExecutionId>,
    /// The highest that any worker showed.
    shown: Highest,
    generation: u64,
    is_over: bool,
}

impl Doubt {
    /// The worker may show the attempt again before it receives `recorded`; the execution is not to be taken over then,
    /// whichever leader took it over at first.
    pub(crate) fn settled(&mut self, id: ExecutionId) {
        if id.0 >= self.floor.next_id {
            self.recovered.insert(id);
        }
    }
}

/// Numbers that a worker shows and the journal does not have: the journal is older.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    pub epoch: Epoch,
    pub highest: Highest,
    /// Of the journal that a worker was led by.
    pub journal: Option<Lineage>,
}

/// What a leader in doubt waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DoubtView {
    /// When it is over at the soonest; `None` without a session.
    pub until: Option<Timestamp>,
    /// Workers that have not given account.
    pub awaited: Vec<WorkerName>,
    /// Executions that the journal did not know and a worker holds.
    pub recovered: Vec<ExecutionId>,
    pub shown: Highest,
    /// The highest generation of this journal that any worker was led by; 0 if no worker reported one.
    pub generation: u64,
    pub floor: Counters,
    /// Everything that may run is known.
    pub is_over: bool,
}

/// The number of the next attempt of `id` after the one with this number.
pub(crate) fn attempt_after((below, floor): (ExecutionId, u32), id: ExecutionId, attempt: u32) -> u32 {
    if id < below { (attempt + 1).max(floor + 1) } else { attempt + 1 }
}

impl Scheduler {
    /// Doubts the journal, until [`DoubtView::is_over`]. `floor` are the numbers that come next by the journal alone,
    /// `lease` is the longest that any worker may go by, and `settled` are the executions from the floor on that an
    /// earlier leader in the same doubt has taken over from workers and that have ended since. To be called before the
    /// first input.
    pub fn doubt(&mut self, floor: Counters, lease: Duration, settled: impl IntoIterator<Item = ExecutionId>) {
        let lease = lease.max(self.config.lease).max(self.former_lease);
        self.doubt = Some(Box::new(Doubt {
            floor,
            since: None,
            lease,
            told: BTreeSet::new(),
            recovered: settled.into_iter().collect(),
            shown: Highest::default(),
            generation: 0,
            is_over: false,
        }));
    }

    /// Raises what comes next: numbers below may have been given.
    pub fn raise(&mut self, counters: Counters) {
        self.counters.next_id = self.counters.next_id.max(counters.next_id);
        self.counters.next_fence = self.counters.next_fence.max(counters.next_fence);
        self.counters.next_action = self.counters.next_action.max(counters.next_action);
    }

    /// Sets the name of the journal; executions below `rewound_below` were known before its last rewind.
    pub fn know_as(&mut self, journal: Lineage, rewound_below: ExecutionId) {
        self.journal = Some(journal);
        let generations = u32::try_from(journal.generation.saturating_sub(1)).unwrap_or(u32::MAX);
        self.rewound = (rewound_below, generations.saturating_mul(ATTEMPTS_PER_GENERATION));
    }

    pub fn in_doubt(&self) -> Option<DoubtView> {
        let doubt = self.doubt.as_ref()?;
        let untold = self.workers.iter().filter(|(id, worker)| worker.introduced && !doubt.told.contains(id));
        Some(DoubtView {
            until: doubt.since.map(|since| since + doubt.lease),
            awaited: untold.map(|(_, worker)| worker.name.clone()).collect(),
            recovered: doubt.recovered.iter().copied().collect(),
            shown: doubt.shown,
            generation: doubt.generation,
            floor: doubt.floor,
            is_over: doubt.is_over,
        })
    }

    pub fn is_in_doubt(&self) -> bool {
        self.doubt.is_some()
    }

    pub(crate) fn doubt_from(&mut self, now: Timestamp) {
        if let Some(doubt) = &mut self.doubt {
            doubt.since = Some(now);
            doubt.told.clear();
            doubt.is_over = false;
        }
    }

    /// Everything that was published before `proven` has come out of the queues.
    pub(crate) fn doubt_until(&mut self, proven: Timestamp) {
        // Without a doubt there is nothing to wait for.
        let Some(doubt) = &self.doubt else { return };
        let has_waited = doubt.since.is_some_and(|since| since + doubt.lease <= proven);
        let all_told = self.workers.iter().all(|(id, worker)| !worker.introduced || doubt.told.contains(id));
        if let Some(doubt) = &mut self.doubt {
            doubt.is_over = has_waited && all_told;
        }
    }

    /// Whether a report bears a fence that this journal has not given. Its worker keeps such a report, and nothing may
    /// answer it before the account that names the attempt.
    pub(crate) fn is_unheard_of(&mut self, (id, _): AttemptKey, fence: Fence) -> bool {
        let next = self.doubt.as_ref().map_or(self.counters.next_fence, |doubt| doubt.floor.next_fence);
        if fence.0 < next {
            return false;
        }
        let assignment = self.executions.get(&id).and_then(Execution::assignment);
        let has_lease = assignment.is_some_and(|assignment| assignment.fence == fence);
        if !has_lease {
            self.note(Evidence { highest: Highest { execution_id: id, fence }, ..Evidence::default() });
        }
        !has_lease
    }

    /// Whether a heartbeat bears numbers that no journal can have reached. It is dropped as if it had not been sent.
    pub(crate) fn is_wild(&self, heartbeat: &Heartbeat) -> bool {
        let Heartbeat { seen, highest, journal, account, .. } = heartbeat;
        let shown = account.iter().flat_map(|account| &account.attempts);
        let has_wild_journal = journal.zip(self.journal).is_some_and(|(theirs, ours)| {
            theirs.identity == ours.identity
                && theirs.generation >= ours.generation.saturating_add(GENERATIONS_BELIEVED)
        });
        has_wild_journal
            || !self.is_believed(seen.0, *highest)
            || shown.into_iter().any(|shown| {
                !self.is_believed(Epoch(0), Highest { execution_id: shown.execution_id, fence: shown.fence })
            })
    }

    fn is_believed(&self, epoch: Epoch, highest: Highest) -> bool {
        let is_near = |theirs: i64, ours: i64| theirs < ours.saturating_add(BELIEVED);
        is_near(epoch.0, self.epoch.0)
            && is_near(highest.fence.0, self.counters.next_fence)
            && is_near(highest.execution_id.0, self.counters.next_id)
    }

    /// Holds the numbers of a heartbeat against those that this journal has given.
    pub(crate) fn weigh(&mut self, heartbeat: &Heartbeat) {
        let journal = heartbeat.journal.filter(|theirs| {
            let ours = self.journal;
            ours.is_some_and(|ours| theirs.identity != ours.identity || theirs.generation > ours.generation)
        });
        let is_ahead = heartbeat.seen.0 > self.epoch
            || heartbeat.highest.fence.0 >= self.counters.next_fence
            || heartbeat.highest.execution_id.0 >= self.counters.next_id;
        if is_ahead || journal.is_some() {
            self.note(Evidence { epoch: heartbeat.seen.0, highest: heartbeat.highest, journal });
        }
        if let Some(doubt) = &mut self.doubt {
            doubt.shown.execution_id = doubt.shown.execution_id.max(heartbeat.highest.execution_id);
            doubt.shown.fence = doubt.shown.fence.max(heartbeat.highest.fence);
            if let (Some(theirs), Some(ours)) = (heartbeat.journal, self.journal)
                && theirs.identity == ours.identity
            {
                doubt.generation = doubt.generation.max(theirs.generation);
            }
        }
    }

    fn note(&mut self, evidence: Evidence) {
        let Evidence { epoch, highest, journal } = evidence;
        if !self.is_believed(epoch, highest) {
            self.effects.wild += 1;
            return;
        }
        if self.doubt.is_some() {
            // Nothing is given meanwhile, so that raising is all there is to do; only the epoch needs a new leader.
            let (next_id, next_fence) = (highest.execution_id.0 + 1, highest.fence.0 + 1);
            self.raise(Counters { next_id, next_fence, next_action: 0 });
            if epoch <= self.epoch {
                return;
            }
        }
        let known = self.effects.missing.get_or_insert_default().evidence.get_or_insert_default();
        known.epoch = known.epoch.max(epoch);
        known.highest.execution_id = known.highest.execution_id.max(highest.execution_id);
        known.highest.fence = known.highest.fence.max(highest.fence);
        known.journal = known.journal.max(journal);
    }

    /// Takes a worker's account, from a heartbeat that it sent after this leader's greeting. True if the account is now
    /// whole, so that what it does not show is not there.
    pub(crate) fn take_account(&mut self, incarnation: Incarnation, account: Account, now: Timestamp) -> bool {
        let is_last = account.is_last();
        for shown in account.attempts {
            self.take_over(incarnation, shown, now);
        }
        if is_last && let Some(doubt) = &mut self.doubt {
            doubt.told.insert(incarnation);
        }
        is_last
    }

    /// One row of the table above.
    fn take_over(&mut self, incarnation: Incarnation, shown: Shown, now: Timestamp) {
        let doubt = self.doubt.as_ref().expect("accounts are taken while there is doubt");
        let floor = doubt.floor;
        if shown.fence.0 < floor.next_fence {
            return;
        }
        // An execution that was taken over before, and is not there any more, has ended since.
        let is_new = shown.execution_id.0 >= floor.next_id && !doubt.recovered.contains(&shown.execution_id);
        self.note(Evidence {
            highest: Highest { execution_id: shown.execution_id, fence: shown.fence },
            ..Evidence::default()
        });
        let id = shown.execution_id;
        let known = self.executions.get(&id).map(|execution| {
            (execution.kind(), execution.assignment().map(|assignment| assignment.fence), execution.attempt)
        });
        match known {
            None if is_new => self.recover_from_worker(incarnation, shown, now),
            // It has settled.
            None => self.orders.recorded(incarnation, shown.key()),
            Some((_, Some(fence), _)) if fence > shown.fence => self.orders.recorded(incarnation, shown.key()),
            Some((_, Some(fence), _)) if fence == shown.fence => {}
            Some((StateKind::Cancelling, Some(_), _)) => self.move_lease(incarnation, &shown, now),
            Some((_, Some(_), _)) => {
                self.fire_if_ahead(id, now);
                self.lose_attempt(id, false, "was over by the time that the journal goes back to", now);
                self.adopt(incarnation, &shown, now);
            }
            Some((_, None, attempt)) if attempt >= shown.attempt => self.orders.recorded(incarnation, shown.key()),
            Some((_, None, _)) => self.adopt(incarnation, &shown, now),
        }
    }

    /// The execution is not in the journal: it goes on as its worker knows it.
    fn recover_from_worker(&mut self, incarnation: Incarnation, shown: Shown, now: Timestamp) {
        let id = shown.execution_id;
        let Some(action_id) = self.action_called(&shown.action_ref) else {
            self.effects.missing.get_or_insert_default().unknown_actions.insert(shown.action_ref);
            return;
        };
        let execution = Execution::requested(action_id, shown.concurrency_key.clone(), now);
        self.actions.of_mut(&execution).total_enqueued += 1;
        self.executions.insert(id, execution, is_bulky(shown.parameters.get().len()));
        self.join_line(id, now);
        self.announce(id, Status::Requested, Status::Queued, now);
        self.adopt(incarnation, &shown, now);
        if let Some(doubt) = &mut self.doubt {
            doubt.recovered.insert(id);
        }
        let recovered = AdoptedExecution { action: action_id, incarnation, shown };
        self.effects.missing.get_or_insert_default().recovered.push(recovered);
    }

    fn action_called(&self, action_ref: &ActionRef) -> Option<ActionId> {
        self.actions.values().find(|action| action.action_ref == *action_ref).map(|action| action.id)
    }

    /// The attempt shown becomes the lease of an execution that has none, and takes a slot, whether or not one is free.
    fn adopt(&mut self, incarnation: Incarnation, shown: &Shown, now: Timestamp) {
        let id = shown.execution_id;
        let timer = self.timer_of(id);
        if self.apply(id, Transition::Shown(assignment(incarnation, shown, now))).is_none() {
            return;
        }
        if let Some((at, timer)) = timer {
            self.deadlines.clear(at, timer);
        }
        let execution = self.executions.live_mut(id);
        (execution.attempt, execution.tried) = (shown.attempt, tried_before(shown));
        execution.orders = OrderNumbers::of_dispatch(FORMER, now);
        let action_id = execution.action;
        let action = self.actions.of_mut(execution);
        action.withdraw(id, execution);
        action.take_slot(id, &execution.key);
        self.effects.changed.insert(id);
        self.hold(incarnation, id);
        self.announce(id, Status::Queued, Status::Scheduled, now);
        if shown.state == Some(Holding::Running) {
            self.runs(id);
        }
        self.offer(action_id);
    }

    /// What is being cancelled stays so: the order goes to the worker that really holds it.
    fn move_lease(&mut self, incarnation: Incarnation, shown: &Shown, now: Timestamp) {
        let id = shown.execution_id;
        self.fire_if_ahead(id, now);
        let former = self.executions.live(id).assignment().expect("what is being cancelled is at a worker").worker;
        if self.apply(id, Transition::Moved(assignment(incarnation, shown, now))).is_none() {
            return;
        }
        let execution = self.executions.live_mut(id);
        (execution.attempt, execution.tried) = (shown.attempt, tried_before(shown));
        execution.orders = OrderNumbers { cancel: Some(UNSENT), ..OrderNumbers::of_dispatch(FORMER, now) };
        self.orders.cancel.push(id);
        self.effects.changed.insert(id);
        self.holder_mut(former).leases.remove(&id);
        self.update_room(former);
        self.hold(incarnation, id);
    }

    fn hold(&mut self, incarnation: Incarnation, id: ExecutionId) {
        self.holder_mut(incarnation).leases.insert(id);
        self.update_room(incarnation);
    }

    /// To be called for an attempt that has begun or is over: if it was sent ahead, the attempt before it had
    /// completed, whatever the journal knows.
    pub(crate) fn fire_if_ahead(&mut self, id: ExecutionId, now: Timestamp) {
        let after = self.executions.get(&id).and_then(Execution::ahead).map(|ahead| ahead.after);
        if let Some(after) = after {
            self.fire(after, None, now);
        }
    }

    /// The worker's whole account does not show an attempt that the journal gave it: the attempt ended after the time
    /// that the journal goes back to, and how is not known.
    pub(crate) fn miss(&mut self, id: ExecutionId, now: Timestamp) {
        if self.executions.live(id).kind() == StateKind::Ahead {
            self.take_back(id);
        } else {
            self.lose_attempt(id, false, "ended after the time that the journal goes back to", now);
        }
    }
}

/// How many attempts there were before the one that is shown.
fn tried_before(shown: &Shown) -> u32 {
    shown.counts_as.unwrap_or(shown.attempt).saturating_sub(1)
}

fn assignment(worker: Incarnation, shown: &Shown, now: Timestamp) -> Assignment {
    Assignment { worker, fence: shown.fence, scheduled_at: now, started_at: None }
}
