//! A small world around the scheduler: workers that obey, virtual time, a journal, and names for executions. Tests set
//! what happens and ask for the results; nothing here decides anything.

mod answers;
mod worker;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use slotline_protocol::message::{AttemptKey, EndReason, Failure, Highest, Lineage};
use slotline_protocol::policy::Retry;
use slotline_protocol::{
    ActionId, ActionRef, Epoch, ExecutionId, Fence, Incarnation, OutcomeKind, Policy, Status, Timestamp, WorkerName,
};
use slotline_scheduler::{
    AttemptEnded, Config, Counters, Effects, Enqueued, Evidence, Input, Limits, Missing, Order, Outcome, ProbedQueue,
    RecoveredAction, RefusedRequest, Scheduler, Sent, Settled, Snapshot,
};
use uuid::Uuid;

pub(crate) use worker::FakeWorker;

pub(crate) const LEASE: Duration = Duration::from_secs(60);
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(5);
pub(crate) const CONFIG: Config = Config { lease: LEASE, heartbeat: HEARTBEAT };
/// The worker that `World::with_line` starts; it has more room than any test fills.
pub(crate) const WORKER: &str = "w1";

pub(crate) fn unlimited() -> Limits {
    Limits { run_ahead: Some(0), ..Limits::from(&Policy::default()) }
}

pub(crate) fn slots(limit: u32) -> Limits {
    Limits { limit: Some(limit), ..unlimited() }
}

pub(crate) fn key_slots(key_limit: u32) -> Limits {
    Limits { key_limit: Some(key_limit), ..unlimited() }
}

/// Retries after exactly one second, give or take the spread of a fifth.
pub(crate) fn tries(max_attempts: u32) -> Retry {
    Retry { max_attempts, backoff: Duration::from_secs(1), backoff_max: Duration::from_secs(1), keep_place: false }
}

pub(crate) fn strict_tries(max_attempts: u32) -> Retry {
    Retry { keep_place: true, ..tries(max_attempts) }
}

/// Longer than any back-off of `tries`.
pub(crate) const BACKOFF: Duration = Duration::from_millis(1_201);

pub(crate) fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(crate) fn at(seconds: u64) -> Timestamp {
    Timestamp::from_micros(1_000_000_000_000_000) + Duration::from_secs(seconds)
}

/// The journal at some time.
pub(crate) struct Dump {
    journal: BTreeMap<ExecutionId, Snapshot>,
    ended: Vec<Incarnation>,
    statuses: BTreeMap<ExecutionId, Status>,
    counters: Counters,
}

pub(crate) struct World {
    pub(crate) scheduler: Scheduler,
    pub(crate) epoch: Epoch,
    pub(crate) now: Timestamp,
    pub(crate) actions: BTreeMap<String, (ActionId, Limits, bool)>,
    pub(crate) workers: BTreeMap<String, FakeWorker>,
    ids: BTreeMap<String, ExecutionId>,
    names: BTreeMap<ExecutionId, String>,
    tokens: u64,
    /// Of each request from now on.
    pub(crate) parameter_bytes: usize,
    incarnations: u128,
    /// The expected content of a database, by the effects alone.
    pub(crate) journal: BTreeMap<ExecutionId, Snapshot>,
    pub(crate) settled: Vec<Settled>,
    pub(crate) attempts: Vec<AttemptEnded>,
    pub(crate) refused: Vec<RefusedRequest>,
    pub(crate) accepted: Vec<Enqueued>,
    /// Every order of this epoch.
    pub(crate) orders: Vec<Sent>,
    pub(crate) probes: u64,
    pub(crate) hellos: u64,
    pub(crate) terms_are_known: bool,
    /// Taken over from workers.
    pub(crate) recovered: Vec<ExecutionId>,
    pub(crate) unknown_actions: BTreeSet<ActionRef>,
    pub(crate) evidence: Option<Evidence>,
    /// Reports with numbers that no journal can have come to.
    pub(crate) wild: u32,
    pub(crate) ended: Vec<Incarnation>,
    /// The incarnations that were greeted, each with the epoch of its leader.
    greeted: Vec<(Epoch, Incarnation)>,
    statuses: BTreeMap<ExecutionId, Status>,
    granted: BTreeMap<Fence, ExecutionId>,
    /// Every attempt that any worker ever began.
    begun: BTreeSet<AttemptKey>,
}

impl World {
    pub(crate) fn new() -> Self {
        let counters = Counters { next_id: 1, next_fence: 1, next_action: 1 };
        let mut world = Self {
            scheduler: Scheduler::new(CONFIG, Epoch(1), counters),
            epoch: Epoch(1),
            now: at(0),
            actions: BTreeMap::new(),
            workers: BTreeMap::new(),
            ids: BTreeMap::new(),
            names: BTreeMap::new(),
            tokens: 0,
            parameter_bytes: 2,
            incarnations: 0,
            journal: BTreeMap::new(),
            settled: Vec::new(),
            attempts: Vec::new(),
            refused: Vec::new(),
            accepted: Vec::new(),
            orders: Vec::new(),
            probes: 0,
            hellos: 0,
            terms_are_known: false,
            recovered: Vec::new(),
            unknown_actions: BTreeSet::new(),
            evidence: None,
            wild: 0,
            ended: Vec::new(),
            greeted: Vec::new(),
            statuses: BTreeMap::new(),
            granted: BTreeMap::new(),
            begun: BTreeSet::new(),
        };
        world.tell(Input::SessionOpened);
        world
    }

    /// One action, and a worker with more room than is needed.
    pub(crate) fn with_line(name: &str, limits: Limits) -> Self {
        Self::without_workers(name, limits).with_worker(WORKER, 1_000_000)
    }

    pub(crate) fn without_workers(name: &str, limits: Limits) -> Self {
        Self::new().and_line(name, limits)
    }

    #[must_use]
    pub(crate) fn and_line(mut self, name: &str, limits: Limits) -> Self {
        self.put(name, limits);
        for worker in self.workers.keys().cloned().collect::<Vec<_>>() {
            self.serve_all(&worker);
        }
        self
    }

    /// Another worker, which serves every action there is.
    #[must_use]
    pub(crate) fn with_worker(mut self, name: &str, capacity: u32) -> Self {
        self.start_worker(name, capacity);
        self
    }

    // ---- what happens ----

    /// How many greetings there were, over all leaders.
    pub(crate) fn greeted(&self) -> usize {
        self.greeted.len()
    }

    /// Passes an input to the scheduler, and applies its effects to the world.
    pub(crate) fn tell(&mut self, input: Input) {
        self.scheduler.handle(input, self.now);
        self.settle_batch();
    }

    pub(crate) fn settle_batch(&mut self) {
        let effects = self.scheduler.take_effects();
        self.hear(effects);
    }

    pub(crate) fn put(&mut self, name: &str, limits: Limits) {
        let paused = self.actions.get(name).is_some_and(|(_, _, paused)| *paused);
        self.put_paused(name, limits, paused);
    }

    fn put_paused(&mut self, name: &str, limits: Limits, paused: bool) {
        let id = match self.actions.get(name) {
            Some((id, _, _)) => *id,
            None => self.scheduler.new_action_id(),
        };
        self.actions.insert(name.to_owned(), (id, limits.clone(), paused));
        self.tell(Input::ActionPut { id, action_ref: action_ref(name), limits, paused });
    }

    pub(crate) fn pause(&mut self, name: &str) {
        let limits = self.actions[name].1.clone();
        self.put_paused(name, limits, true);
    }

    pub(crate) fn resume(&mut self, name: &str) {
        let limits = self.actions[name].1.clone();
        self.put_paused(name, limits, false);
    }

    pub(crate) fn delete(&mut self, name: &str) {
        let (id, _, _) = self.actions.remove(name).expect("a known action");
        self.tell(Input::ActionDeleted { id });
    }

    /// Submits to the only action there is.
    pub(crate) fn submit<const N: usize>(&mut self, names: [&str; N]) {
        let action = self.only_action();
        self.submit_to(&action, None, names);
    }

    pub(crate) fn submit_key<const N: usize>(&mut self, key: &str, names: [&str; N]) {
        let action = self.only_action();
        self.submit_to(&action, Some(key), names);
    }

    pub(crate) fn submit_to<const N: usize>(&mut self, action: &str, key: Option<&str>, names: [&str; N]) {
        for name in names {
            self.submit_one(action, key, name);
        }
    }

    pub(crate) fn submit_many(&mut self, count: usize) {
        let action = self.only_action();
        for number in 0..count {
            self.submit_one(&action, None, &format!("{number:06}"));
        }
    }

    pub(crate) fn submit_one(&mut self, action: &str, key: Option<&str>, name: &str) {
        self.tokens += 1;
        let token = self.tokens;
        let action = self.actions.get(action).map_or(ActionId(-1), |(id, _, _)| *id);
        self.scheduler
            .handle(Input::Requested { token, action, key: key.map(Arc::from), bytes: self.parameter_bytes }, self.now);
        let effects = self.scheduler.take_effects();
        if let Some(accepted) = effects.accepted.first() {
            assert_eq!(accepted.token, token);
            self.ids.insert(name.to_owned(), accepted.id);
            self.names.insert(accepted.id, name.to_owned());
        }
        self.hear(effects);
    }

    pub(crate) fn cancel(&mut self, name: &str) {
        self.tell(Input::CancelRequested { id: self.id(name), reason: None });
    }

    pub(crate) fn complete(&mut self, name: &str) {
        self.end(name, OutcomeKind::Completed);
    }

    pub(crate) fn complete_all<const N: usize>(&mut self, names: [&str; N]) {
        for name in names {
            self.complete(name);
        }
    }

    pub(crate) fn fail(&mut self, name: &str) {
        self.end(name, OutcomeKind::Failed);
    }

    /// The worker that holds it reports how it ended.
    pub(crate) fn end(&mut self, name: &str, kind: OutcomeKind) {
        let input = self.word(name, kind);
        self.tell(input);
    }

    /// The worker's report of its end, not yet delivered; the worker then only waits for `recorded`.
    pub(crate) fn word(&mut self, name: &str, kind: OutcomeKind) -> Input {
        let (key, fence, incarnation) = self.let_go(name);
        if kind == OutcomeKind::Completed
            && let Some(worker) = self.workers.values_mut().find(|worker| worker.incarnation == incarnation)
        {
            worker.release(key, &mut self.begun);
        }
        Input::Completed { key, fence, incarnation, outcome: outcome(kind, self.now) }
    }

    /// The worker's report that hands it back, not yet delivered.
    pub(crate) fn hand_back(&mut self, name: &str, started: bool, reason: &str) -> Input {
        let (key, fence, incarnation) = self.let_go(name);
        Input::Returned { key, fence, incarnation, started, reason: reason.to_owned() }
    }

    fn let_go(&mut self, name: &str) -> (AttemptKey, Fence, Incarnation) {
        let id = self.id(name);
        let mut held = self.workers.values_mut().flat_map(|worker| {
            let key = worker.holding.keys().find(|(held, _)| *held == id).copied();
            key.map(|key| (key, worker))
        });
        let (key, worker) = held.next().unwrap_or_else(|| panic!("no worker holds {name}"));
        let fence = worker.let_go(key);
        (key, fence, worker.incarnation)
    }

    pub(crate) fn start_worker(&mut self, name: &str, capacity: u32) {
        let serves = self.actions.keys().map(|name| action_ref(name)).collect();
        self.start_worker_for(name, capacity, serves);
    }

    pub(crate) fn start_worker_for(&mut self, name: &str, capacity: u32, serves: Vec<ActionRef>) {
        self.add_worker(name, capacity, serves);
        self.beat(name);
    }

    /// A new process under this name, as a new incarnation that the leader does not know yet.
    pub(crate) fn add_worker(&mut self, name: &str, capacity: u32, serves: Vec<ActionRef>) {
        self.incarnations += 1;
        let worker = FakeWorker {
            incarnation: Incarnation(Uuid::from_u128(self.incarnations)),
            name: WorkerName::new(name).expect("a worker's name"),
            capacity,
            serves,
            draining: false,
            holding: BTreeMap::new(),
            unrecorded: BTreeMap::new(),
            waiting: BTreeMap::new(),
            seen: (Epoch(0), 0),
            is_lost: false,
            is_deaf: false,
            granted: BTreeMap::new(),
            wants_account: false,
            highest: Highest::default(),
        };
        self.workers.insert(name.to_owned(), worker);
    }

    fn serve_all(&mut self, worker: &str) {
        let serves = self.actions.keys().map(|name| action_ref(name)).collect();
        self.worker_mut(worker).serves = serves;
        self.beat(worker);
    }

    /// A heartbeat of the worker in its present state.
    pub(crate) fn beat(&mut self, name: &str) {
        let heartbeat = self.worker(name).heartbeat(self.now);
        self.tell(Input::Heartbeat(heartbeat));
    }

    /// Orders to the worker vanish until [`Self::undeafen`].
    pub(crate) fn deafen(&mut self, name: &str) {
        self.worker_mut(name).is_deaf = true;
    }

    /// Orders reach the worker again; it has meanwhile seen others, so that the lost ones will not come late.
    pub(crate) fn undeafen(&mut self, name: &str) {
        let n = self.orders.last().map_or(0, |sent| sent.n);
        let epoch = self.epoch;
        let worker = self.worker_mut(name);
        worker.is_deaf = false;
        worker.seen = worker.seen.max((epoch, n));
    }

    pub(crate) fn end_worker(&mut self, name: &str, reason: EndReason) {
        let incarnation = self.incarnation(name);
        self.tell(Input::IncarnationEnded { incarnation, reason });
    }

    /// Time passes; the scheduler is woken at each of its deadlines.
    pub(crate) fn pass(&mut self, duration: Duration) {
        let end = self.now + duration;
        while let Some(due) = self.scheduler.next_deadline().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.tell(Input::Ticked);
        }
        self.now = end;
    }

    /// A probe published now comes back from this queue.
    pub(crate) fn probe(&mut self, queue: ProbedQueue) {
        self.tell(Input::Probed { queue, published_at: self.now });
    }

    pub(crate) fn probe_both(&mut self) {
        self.probe(ProbedQueue::Completions);
        self.probe(ProbedQueue::Heartbeats);
    }

    /// Every worker completes what it holds, in the order of the grants, until nothing is left to start.
    pub(crate) fn run_until_idle(&mut self) {
        while let Some(name) = self.running().first().cloned() {
            self.complete(&name);
        }
    }

    /// The leader dies; the next one knows only the journal.
    pub(crate) fn change_leader(&mut self) {
        let counters = self.scheduler.counters();
        self.lead_with(counters);
        self.orders.clear();
        self.tell(Input::SessionOpened);
    }

    /// Everything that was journaled since `dump` is forgotten, and the next leader knows that it may be.
    pub(crate) fn rewind(&mut self, dump: Dump) {
        self.journal = dump.journal;
        self.ended = dump.ended;
        self.statuses = dump.statuses;
        self.lead_with(dump.counters);
        self.scheduler.doubt(dump.counters, LEASE, []);
        self.orders.clear();
        self.tell(Input::SessionOpened);
    }

    /// What the journal holds now.
    pub(crate) fn dump(&self) -> Dump {
        Dump {
            journal: self.journal.clone(),
            ended: self.ended.clone(),
            statuses: self.statuses.clone(),
            counters: self.scheduler.counters(),
        }
    }

    /// The next leader settles what the last one found out, and leads without doubt.
    pub(crate) fn settle_doubt(&mut self) {
        let view = self.scheduler.in_doubt().expect("in doubt");
        assert!(view.is_over, "{view:?}");
        let counters = self.scheduler.counters();
        self.lead_with(counters);
        let journal = Lineage { identity: Uuid::nil(), generation: 2 };
        self.scheduler.know_as(journal, ExecutionId(counters.next_id));
        self.orders.clear();
        self.tell(Input::SessionOpened);
    }

    fn lead_with(&mut self, counters: Counters) {
        let ended = self.ended.clone();
        let mut live: Vec<_> = self.journal.values().cloned().collect();
        live.sort_by_key(|snapshot| snapshot.place);
        let actions = self.actions.iter().map(|(name, (id, limits, paused))| {
            let stats = self.scheduler.queue_stats(*id, self.now).expect("a known action");
            RecoveredAction {
                id: *id,
                action_ref: action_ref(name),
                limits: limits.clone(),
                paused: *paused,
                total_enqueued: stats.total_enqueued,
                total_completed: stats.total_completed,
            }
        });
        let actions: Vec<_> = actions.collect();
        self.epoch = Epoch(self.epoch.0 + 1);
        self.scheduler = Scheduler::recover(CONFIG, self.epoch, counters, actions, live, ended, self.now);
    }

    fn hear(&mut self, effects: Effects) {
        let Effects {
            accepted,
            refused,
            changed,
            attempts,
            settled,
            ended_incarnations,
            announcements,
            orders,
            hello,
            greetings,
            probe,
            terms_are_known,
            missing,
            wild,
            bugs,
        } = effects;
        assert!(bugs.is_none(), "{bugs:?}");
        let Missing { recovered, unknown_actions, evidence } = missing.map(|missing| *missing).unwrap_or_default();
        self.recovered.extend(recovered.into_iter().map(|recovered| recovered.shown.execution_id));
        self.unknown_actions.extend(unknown_actions);
        self.evidence = evidence.or(self.evidence.take());
        self.wild += wild;
        let wants_account = self.scheduler.is_in_doubt();
        self.accepted.extend(accepted);
        self.refused.extend(refused);
        for announced in announcements {
            let last = self.statuses.insert(announced.id, announced.to).unwrap_or(Status::Requested);
            let is_running = (last, announced.from) == (Status::Scheduled, Status::Running);
            assert!(last == announced.from || is_running, "{announced:?} after {last:?}");
            assert!(!last.is_terminal(), "{announced:?} after {last:?}");
        }
        let newest = self.granted.keys().next_back().copied();
        for id in changed {
            let snapshot = self.scheduler.snapshot(id).expect("what changed is live");
            if let Some(lease) = &snapshot.lease {
                let rises = newest.is_none_or(|newest| lease.fence > newest);
                let known = self.granted.insert(lease.fence, id);
                assert!(known.map_or(rises, |known| known == id), "fences rise, and none is given twice: {lease:?}");
            }
            // A worker's report announces that it runs.
            if snapshot.status != Status::Running {
                assert_eq!(self.statuses.get(&id), Some(&snapshot.status), "every move is announced");
            }
            self.journal.insert(id, snapshot);
        }
        for settled in settled {
            assert_eq!(self.statuses.get(&settled.id), Some(&settled.status), "every end is announced");
            self.journal.remove(&settled.id).expect("an execution settles once, and was journaled before");
            assert!(settled.status.is_terminal());
            self.settled.push(settled);
        }
        self.attempts.extend(attempts);
        self.ended.extend(ended_incarnations.into_iter().map(|departed| departed.incarnation));
        self.probes += u64::from(probe);
        self.terms_are_known |= terms_are_known;
        self.hellos += u64::from(hello.is_some());
        if let Some(n) = hello {
            assert!(self.orders.last().is_none_or(|last| last.n < n), "n rises");
            for worker in self.workers.values_mut().filter(|worker| !worker.is_deaf) {
                worker.wants_account = wants_account;
                worker.seen = worker.seen.max((self.epoch, n));
            }
        }
        for (incarnation, n) in greetings {
            assert!(orders.iter().all(|sent| n < sent.n), "whoever is new is greeted before all orders");
            self.greeted.push((self.epoch, incarnation));
            let worker = self.workers.values_mut().find(|worker| worker.incarnation == incarnation);
            if let Some(worker) = worker.filter(|worker| !worker.is_deaf) {
                worker.wants_account = wants_account;
                worker.seen = worker.seen.max((self.epoch, n));
            }
        }
        for sent in orders {
            if let Order::Dispatch(_) = sent.order {
                let is_greeted = self.greeted.contains(&(self.epoch, sent.incarnation));
                assert!(is_greeted, "nothing is dispatched under terms its worker may not know: {sent:?}");
            }
            assert!(self.orders.last().is_none_or(|last| last.n < sent.n), "n rises");
            if let Some(worker) = self.workers.values_mut().find(|worker| worker.incarnation == sent.incarnation) {
                worker.receive(self.epoch, &sent, &mut self.begun);
            }
            self.orders.push(sent);
        }
    }
}

pub(crate) fn action_ref(name: &str) -> ActionRef {
    ActionRef::new(&format!("test.{name}")).expect("an action's name")
}

pub(crate) fn outcome(kind: OutcomeKind, now: Timestamp) -> Outcome {
    let error = match kind {
        OutcomeKind::Completed | OutcomeKind::Lost => None,
        OutcomeKind::Failed => Some(Failure::new("exit_status", "exit status 1")),
        OutcomeKind::Timeout => Some(Failure::new("timeout", "too slow")),
        OutcomeKind::Cancelled => Some(Failure::new("cancelled", "ended as asked")),
    };
    Outcome { kind, result: None, error, started_at: Some(now), ended_at: now, held: None }
}
