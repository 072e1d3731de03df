//! The world: everybody on one stage, and what is due happens, one thing after the other, until all is quiet.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::broker::Broker;
use crate::chance::Chance;
use crate::checker::{Rule, Violation};
use crate::clock::{MS, Micros, SECOND};
use crate::executor::Executor;
use crate::faults::{Blow, Node, Rates};
use crate::history::{Entry, Fact};
use crate::journal::Journal;
use crate::liar::{self, Known};
use crate::plan::Plan;
use crate::process::Process;
use crate::publisher::Publisher;
use crate::stage::{CALL_DEADLINE, Event, Side, Stage, Strike, Why};
use crate::wire::Answer;
use crate::worker::Worker;

/// How long all must stay quiet, for what is late to come out.
const QUIET_FOR: Micros = 20 * SECOND;
/// How long an operator waits for an answer.
const OPERATOR_WAITS: Micros = 5 * SECOND;
/// The most steps of one run; what needs more goes round in circles.
const STEPS_MAX: u64 = 2_000_000;
/// How long a connection that nobody answers is waited for.
const DIAL_DEADLINE: Micros = 5 * SECOND;

pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) stage: Stage,
    pub(crate) broker: Broker,
    /// Every copy of the journal that was led on; the last is the one that goes on.
    pub(crate) journals: Vec<Journal>,
    pub(crate) executors: Vec<Executor>,
    pub(crate) workers: Vec<Worker>,
    pub(crate) processes: Vec<Process>,
    publisher: Publisher,
    /// How many operations were carried out.
    operated: usize,
    submitted: usize,
    frozen: BTreeMap<Node, Frozen>,
    /// Executors that were cut off while they led.
    alone: Vec<usize>,
    /// What the stranger comes up with.
    lies: Chance,
    is_calm: bool,
    quiet_since: Option<Micros>,
}

/// A process that stands still, and what waits for it.
struct Frozen {
    since: Micros,
    /// Its whole machine stands still.
    with_host: bool,
    held: Vec<Event>,
}

/// How a run went.
pub(crate) struct Outcome {
    pub(crate) violation: Option<Violation>,
    pub(crate) trace: Vec<(Micros, String)>,
    pub(crate) history: Vec<Entry>,
    pub(crate) steps: u64,
    pub(crate) took: Micros,
}

impl World {
    pub(crate) fn new(plan: Plan, is_traced: bool) -> Self {
        let mut stage = Stage::new(&plan, is_traced);
        let policies: Vec<_> = plan.actions.iter().map(|action| action.policy.clone()).collect();
        let journal = Journal::new(&policies, plan.terms.lease, &mut stage);
        let mut world = Self {
            broker: Broker::new(plan.requests.len()),
            journals: vec![journal],
            executors: plan
                .executors
                .iter()
                .enumerate()
                .map(|(index, clock)| Executor::new(index, *clock, plan.terms))
                .collect(),
            workers: plan
                .workers
                .iter()
                .enumerate()
                .map(|(index, worker)| Worker::new(index, worker.clone(), plan.terms))
                .collect(),
            processes: Vec::new(),
            publisher: Publisher::default(),
            operated: 0,
            submitted: 0,
            frozen: BTreeMap::new(),
            alone: Vec::new(),
            lies: Chance::of(plan.seed, 7),
            is_calm: false,
            quiet_since: None,
            stage,
            plan,
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        let Self { stage, plan, .. } = self;
        for index in 0..plan.executors.len() {
            let delay = stage.chance.below(SECOND);
            stage.at(delay, Event::Start { node: Node::Executor(index), life: 0 });
        }
        for index in 0..plan.workers.len() {
            let delay = stage.chance.below(SECOND);
            stage.at(delay, Event::Start { node: Node::Worker(index), life: 0 });
        }
        stage.at(MS, Event::Dial { node: Node::Publisher, life: 0 });
        for (number, request) in plan.requests.iter().enumerate() {
            stage.at(request.at, Event::Submit { number, cancel: false });
            if let Some(at) = request.cancel_at {
                stage.at(at, Event::Submit { number, cancel: true });
            }
        }
        if let Some(first) = plan.operations.first() {
            stage.at(first.at, Event::Operate { index: 0 });
        }
        for (index, fault) in plan.faults.iter().enumerate() {
            stage.at(fault.at, Event::Strike(index));
        }
        stage.at(plan.calm_at, Event::Calm);
    }

    /// Runs to the end, or to the first rule that does not hold.
    pub(crate) fn run(self) -> Outcome {
        self.run_while(&|| true)
    }

    /// The same, or until `goes_on` is false: then nothing follows from how far it came.
    pub(crate) fn run_while(mut self, goes_on: &dyn Fn() -> bool) -> Outcome {
        let panicked = catch_unwind(AssertUnwindSafe(|| while goes_on() && self.step() {})).err();
        if let Some(panic) = panicked {
            let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
            self.stage.violation = Some(Violation {
                rule: Rule::NothingPanics,
                at: self.stage.now,
                execution: None,
                detail: text.unwrap_or("a panic").to_owned(),
            });
        }
        self.outcome()
    }

    pub(crate) fn outcome(mut self) -> Outcome {
        Outcome {
            trace: self.stage.take_trace(),
            history: self.stage.history.take().unwrap_or_default(),
            violation: self.stage.violation,
            steps: self.stage.steps,
            took: self.stage.now,
        }
    }

    /// Lets happen what is due next. False once it is over.
    pub(crate) fn step(&mut self) -> bool {
        if self.stage.violation.is_some() || self.is_over() {
            return false;
        }
        let Some(event) = self.stage.next() else { return false };
        self.happen(event);
        if let Some((node, strike)) = self.stage.struck.take() {
            self.struck(node, strike);
        }
        for (site, index) in std::mem::take(&mut self.stage.operated) {
            if index == self.operated && site == self.site() {
                self.operated += 1;
                if let Some(next) = self.plan.operations.get(self.operated) {
                    self.stage.at(next.at, Event::Operate { index: self.operated });
                }
            }
        }
        true
    }

    fn is_over(&mut self) -> bool {
        assert!(self.stage.steps <= STEPS_MAX, "it goes round in circles");
        if !self.is_calm {
            return false;
        }
        let is_late = self.stage.now > self.plan.calm_at + self.plan.bound();
        let is_quiet = self.submitted == self.plan.requests.len()
            && self.operated == self.plan.operations.len()
            && self.publisher.is_done()
            && self.workers.iter().all(Worker::owes_nothing)
            && self.stage.is_quiet();
        if !is_quiet {
            self.quiet_since = None;
        }
        let now = self.stage.now;
        let is_done = is_quiet && now >= *self.quiet_since.get_or_insert(now) + QUIET_FOR;
        if is_done || is_late {
            self.stage.record(Fact::Closed);
        }
        is_done || is_late
    }

    /// Which copy of the journal goes on.
    pub(crate) fn site(&self) -> usize {
        self.journals.len() - 1
    }

    pub(crate) fn journal(&self) -> &Journal {
        &self.journals[self.site()]
    }

    // ---- who is there ----

    fn is_there(&self, node: Node, life: u32) -> bool {
        match node {
            Node::Executor(index) => self.executors[index].is_up && self.executors[index].life == life,
            Node::Worker(index) => self.workers[index].is_up && self.workers[index].life == life,
            Node::Publisher => true,
        }
    }

    /// Keeps what happens to someone who stands still.
    fn awake(&mut self, node: Node, event: Event) -> Option<Event> {
        match self.frozen.get_mut(&node) {
            Some(frozen) => {
                frozen.held.push(match event {
                    Event::ToClient { .. } | Event::FromJournal { .. } => Event::Arrived { node, event: event.into() },
                    _ => event,
                });
                None
            }
            None => Some(event),
        }
    }

    fn is_host_frozen(&self, worker: usize) -> bool {
        self.frozen.get(&Node::Worker(worker)).is_some_and(|frozen| frozen.with_host)
    }

    // ---- what happens ----

    pub(crate) fn happen(&mut self, event: Event) {
        let event = match &event {
            Event::ToBroker { session, .. } => {
                let owner = self.stage.sessions[*session].owner;
                self.stage.passes(owner, event)
            }
            Event::ToClient { session, .. } => {
                let owner = self.stage.sessions[*session].owner;
                self.stage.passes(owner, event).and_then(|event| self.awake(owner, event))
            }
            Event::ToJournal { db, .. } => self.stage.passes_journal(*db, event),
            Event::FromJournal { db, .. } => {
                let (db, executor) = (*db, self.stage.dbs[*db].executor);
                let passed = self.stage.passes_journal(db, event);
                passed.and_then(|event| self.awake(Node::Executor(executor), event))
            }
            Event::Suspect { session, by: Side::Client, .. } | Event::Overdue { session } => {
                let owner = self.stage.sessions[*session].owner;
                self.awake(owner, event)
            }
            Event::CallOverdue { db, .. } => {
                let executor = self.stage.dbs[*db].executor;
                self.awake(Node::Executor(executor), event)
            }
            Event::LookedUp { executor, .. }
            | Event::SeekAgain { executor, .. }
            | Event::Ping { executor, .. }
            | Event::Put { executor, .. } => {
                let node = Node::Executor(*executor);
                self.awake(node, event)
            }
            Event::Wake { node, .. }
            | Event::Dial { node, .. }
            | Event::Start { node, .. }
            | Event::Arrived { node, .. } => {
                let node = *node;
                self.awake(node, event)
            }
            Event::Shim { worker, .. } => {
                let node = Node::Worker(*worker);
                self.awake(node, event)
            }
            Event::Process { process, .. } => {
                let worker = self.processes[*process].worker;
                if self.is_host_frozen(worker) { self.awake(Node::Worker(worker), event) } else { Some(event) }
            }
            Event::Submit { .. } | Event::Publish => self.awake(Node::Publisher, event),
            Event::Suspect { by: Side::Broker, .. }
            | Event::JournalSuspects { .. }
            | Event::LookUp { .. }
            | Event::Duplicate { .. }
            | Event::Strike(_)
            | Event::Heal(_)
            | Event::Lie { .. }
            | Event::Thaw { .. }
            | Event::Operate { .. }
            | Event::Calm => Some(event),
        };
        if let Some(event) = event {
            self.take(event);
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::ToBroker { session, up } => self.broker.arrive(session, up, &mut self.stage),
            Event::ToClient { session, down } => self.hear(session, down),
            Event::Arrived { event, .. } => self.take(*event),
            Event::Suspect { session, by, why } => self.suspect(session, by, why),
            Event::Overdue { session } => {
                if self.stage.is_overdue(session) {
                    self.lost(session);
                }
            }
            Event::Dial { node, life } => self.dial(node, life),
            Event::ToJournal { db, ask } => {
                let site = self.stage.dbs[db].site;
                self.journals[site].arrive(db, ask, &mut self.stage);
            }
            Event::FromJournal { db, answer } => self.answered(db, answer),
            Event::JournalSuspects { db, why } => {
                let site = self.stage.dbs[db].site;
                self.journals[site].suspect(db, why, &mut self.stage);
            }
            Event::CallOverdue { db, call } => {
                if self.stage.dbs[db].call == Some(call) {
                    self.answered(db, Answer::Failed);
                }
            }
            Event::LookUp { executor, life, session } => self.look_up(executor, life, session),
            Event::LookedUp { executor, life, session, known } => {
                if self.is_there(Node::Executor(executor), life) {
                    match known {
                        None => self.stage.after(500 * MS, Event::LookUp { executor, life, session }),
                        Some(known) => {
                            if let Some(term) = self.executors[executor].term() {
                                term.found(session, known, &mut self.stage);
                            }
                            self.executors[executor].turn(&mut self.stage);
                        }
                    }
                }
            }
            Event::Wake { node, life, at } => {
                if self.is_there(node, life) {
                    match node {
                        Node::Executor(index) => {
                            self.executors[index].wake(at, &mut self.stage);
                            self.restart_if_gone(index, life);
                        }
                        Node::Worker(index) => {
                            self.workers[index].wake(at, &mut self.processes, &mut self.stage);
                        }
                        Node::Publisher => {}
                    }
                }
            }
            Event::SeekAgain { executor, life } => {
                if self.is_there(Node::Executor(executor), life) {
                    self.executors[executor].seek(&mut self.stage);
                }
            }
            Event::Ping { executor, life, db } => {
                if self.is_there(Node::Executor(executor), life) {
                    self.executors[executor].ping(db, &mut self.stage);
                    self.restart_if_gone(executor, life);
                }
            }
            Event::Process { process, step } => {
                let worker = self.processes[process].worker;
                let clock = self.plan.workers[worker].clock;
                self.processes[process].step(process, step, clock, &mut self.stage);
            }
            Event::Shim { worker, life, process, news } => {
                if self.is_there(Node::Worker(worker), life) {
                    self.workers[worker].told(process, news, &mut self.processes, &mut self.stage);
                }
            }
            Event::Duplicate { queue, body } => self.broker.duplicate(queue, body, &mut self.stage),
            Event::Strike(index) => self.strike(index),
            Event::Heal(index) => {
                let blow = self.plan.faults[index].blow;
                self.heal(blow);
            }
            Event::Lie { until } => self.lie(until),
            Event::Thaw { node, since } => {
                if self.frozen.get(&node).is_some_and(|frozen| frozen.since == since) {
                    self.thaw(node);
                }
            }
            Event::Start { node, life } => self.start(node, life),
            Event::Submit { number, cancel } => {
                self.submitted += usize::from(!cancel);
                self.publisher.submit(number, cancel, &mut self.stage);
            }
            Event::Operate { index } => self.operate(index),
            Event::Put { executor, index } => self.put(executor, index),
            Event::Publish => self.publisher.try_again(&mut self.stage),
            Event::Calm => self.calm(),
        }
    }

    fn hear(&mut self, session: usize, down: crate::wire::Down) {
        let (owner, life) = (self.stage.sessions[session].owner, self.stage.sessions[session].life);
        if !self.stage.sessions[session].client_up || !self.is_there(owner, life) {
            return;
        }
        match owner {
            Node::Executor(index) => {
                self.executors[index].hear(session, down, &mut self.stage);
                self.restart_if_gone(index, life);
            }
            Node::Worker(index) => self.workers[index].hear(session, down, &mut self.processes, &mut self.stage),
            Node::Publisher => self.publisher.hear(session, down, &mut self.stage),
        }
    }

    /// The client's side of a session ends.
    fn lost(&mut self, session: usize) {
        let (owner, life) = (self.stage.sessions[session].owner, self.stage.sessions[session].life);
        if self.stage.sessions[session].client_up && self.is_there(owner, life) {
            match owner {
                Node::Executor(index) => {
                    self.executors[index].lost(session, &mut self.stage);
                    self.restart_if_gone(index, life);
                }
                Node::Worker(index) => self.workers[index].lost(session, &mut self.processes, &mut self.stage),
                Node::Publisher => self.publisher.lost(session, &mut self.stage),
            }
        }
    }

    fn suspect(&mut self, session: usize, by: Side, why: Why) {
        let owner = self.stage.sessions[session].owner;
        let link = self.stage.links.get(&owner);
        match by {
            Side::Broker if !self.broker.accepts_sessions() => {
                self.stage.after(SECOND, Event::Suspect { session, by, why });
            }
            Side::Broker => {
                let holds = match why {
                    Why::CutSince(since) => link.is_some_and(|link| link.up_cut == Some(since)),
                    Why::FrozenSince(since) => self.frozen.get(&owner).is_some_and(|frozen| frozen.since == since),
                    Why::Gone => true,
                };
                if holds {
                    self.broker.end_session(session, &mut self.stage);
                }
            }
            Side::Client => {
                let holds = match why {
                    Why::CutSince(since) => link.is_some_and(|link| link.down_cut == Some(since)),
                    Why::FrozenSince(since) => self.broker.frozen == Some(since),
                    Why::Gone => true,
                };
                if holds {
                    self.lost(session);
                }
            }
        }
    }

    fn dial(&mut self, node: Node, life: u32) {
        if !self.is_there(node, life) {
            return;
        }
        if self.stage.is_cut(node) || self.broker.frozen.is_some() {
            return self.stage.after(DIAL_DEADLINE, Event::Dial { node, life });
        }
        if !self.broker.accepts_sessions() {
            return match node {
                Node::Executor(index) => self.executors[index].dial_failed(&mut self.stage),
                Node::Worker(index) => self.workers[index].dial_failed(&mut self.stage),
                Node::Publisher => self.stage.after(SECOND, Event::Dial { node, life }),
            };
        }
        let session = self.stage.open(node, life);
        match node {
            Node::Executor(index) => self.executors[index].dialed(session, &mut self.stage),
            Node::Worker(index) => self.workers[index].dialed(session, &mut self.stage),
            Node::Publisher => self.publisher.dialed(session, &mut self.stage),
        }
    }

    fn answered(&mut self, db: usize, answer: Answer) {
        let (executor, life) = (self.stage.dbs[db].executor, self.stage.dbs[db].life);
        if self.stage.dbs[db].client_up && self.is_there(Node::Executor(executor), life) {
            self.executors[executor].answered(db, answer, &mut self.stage);
            self.restart_if_gone(executor, life);
        }
    }

    fn look_up(&mut self, executor: usize, life: u32, session: usize) {
        let Some(numbers) = self.executors[executor].term().and_then(|term| term.sought(session)) else { return };
        let is_cut = self.stage.journal_links[executor].up_cut.is_some();
        let journal = &self.journals[self.executors[executor].site];
        let known = if is_cut { None } else { journal.look_up(&numbers) };
        let delay = match &known {
            Some(_) => self.stage.chance.spread(100, 5_000),
            None if is_cut || journal.frozen => CALL_DEADLINE,
            None => MS,
        };
        self.stage.after(delay, Event::LookedUp { executor, life, session, known });
    }

    // ---- operators ----

    fn operate(&mut self, index: usize) {
        if index != self.operated {
            return;
        }
        let site = self.site();
        let leads = |executor: &&Executor| executor.leads() && executor.site == site;
        let leaders: Vec<_> = self.executors.iter().filter(leads).map(|executor| executor.index).collect();
        if !leaders.is_empty() {
            let executor = self.stage.chance.pick(&leaders);
            self.stage.after(MS, Event::Put { executor, index });
        }
        self.stage.after(OPERATOR_WAITS, Event::Operate { index });
    }

    fn put(&mut self, executor: usize, index: usize) {
        if index != self.operated {
            return;
        }
        let operation = &self.plan.operations[index];
        if self.executors[executor].site == self.site()
            && let Some(term) = self.executors[executor].term()
        {
            term.put(index, operation, &mut self.stage);
            self.executors[executor].turn(&mut self.stage);
        }
    }

    // ---- what hurts ----

    fn start(&mut self, node: Node, life: u32) {
        match node {
            Node::Executor(index) => {
                let executor = &mut self.executors[index];
                if !executor.is_up && executor.life == life {
                    executor.start(&mut self.stage);
                }
            }
            Node::Worker(index) => {
                let worker = &mut self.workers[index];
                if worker.is_up || worker.life != life {
                    return;
                }
                let is_left = |process: &Process| process.worker == index && !process.is_gone();
                if worker.plan.has_lock && self.processes.iter().any(is_left) {
                    // Someone holds the lock still.
                    return self.stage.after(20 * MS, Event::Start { node, life });
                }
                worker.start(&mut self.stage);
            }
            Node::Publisher => {}
        }
    }

    fn struck(&mut self, node: Node, strike: Strike) {
        self.stage.trace(|| format!("!! {strike:?} of {node:?} between two effects"));
        match (strike, node) {
            (Strike::Crash, Node::Executor(index)) => self.crash_executor(index),
            (Strike::Crash, Node::Worker(index)) => self.crash_worker(index),
            (Strike::Crash, Node::Publisher) => {}
            (Strike::Freeze, node) => {
                let lasts = self.stage.chance.spread(10 * MS, 120 * SECOND);
                self.freeze(node, false, lasts);
            }
        }
    }

    fn restart_if_gone(&mut self, index: usize, life: u32) {
        let executor = &self.executors[index];
        if !executor.is_up && executor.life != life {
            let event = Event::Start { node: executor.node(), life: executor.life };
            let delay = self.stage.chance.spread(50 * MS, 20 * SECOND);
            self.stage.after(delay, event);
        }
    }

    pub(crate) fn crash_executor(&mut self, index: usize) {
        let life = self.executors[index].life;
        self.thaw_dead(Node::Executor(index));
        if self.executors[index].is_up {
            self.executors[index].crash(&mut self.stage);
            self.restart_if_gone(index, life);
        }
    }

    pub(crate) fn crash_worker(&mut self, index: usize) {
        if !self.workers[index].is_up {
            return;
        }
        self.thaw_host(index);
        self.thaw_dead(Node::Worker(index));
        self.workers[index].crash(&mut self.processes, &mut self.stage);
        self.restart_worker(index);
    }

    fn restart_worker(&mut self, index: usize) {
        let event = Event::Start { node: Node::Worker(index), life: self.workers[index].life };
        let delay = self.stage.chance.spread(50 * MS, 90 * SECOND);
        self.stage.after(delay, event);
    }

    fn lose_power(&mut self, index: usize) {
        self.thaw_dead(Node::Worker(index));
        let was_up = self.workers[index].is_up;
        self.workers[index].lose_power(&mut self.processes, &mut self.stage);
        if was_up {
            self.restart_worker(index);
        } else {
            self.start(Node::Worker(index), self.workers[index].life);
        }
    }

    pub(crate) fn freeze(&mut self, node: Node, with_host: bool, lasts: Micros) {
        if self.frozen.contains_key(&node) {
            return;
        }
        let since = self.stage.now;
        if let (Node::Worker(index), true) = (node, with_host) {
            for process in self.processes.iter_mut().filter(|process| process.worker == index) {
                process.pause(&mut self.stage);
            }
        }
        self.frozen.insert(node, Frozen { since, with_host, held: Vec::new() });
        for session in 0..self.stage.sessions.len() {
            if self.stage.sessions[session].owner == node && self.stage.sessions[session].broker_up {
                self.stage.suspect(session, Side::Broker, Why::FrozenSince(since));
            }
        }
        self.stage.after(lasts, Event::Thaw { node, since });
    }

    /// What stood still is killed as it stands; what waited for it finds nobody.
    fn thaw_dead(&mut self, node: Node) {
        if let Some(frozen) = self.frozen.remove(&node) {
            let now = self.stage.now;
            frozen.held.into_iter().for_each(|event| self.stage.at(now, event));
        }
    }

    fn thaw_host(&mut self, worker: usize) {
        if self.is_host_frozen(worker) {
            let clock = self.plan.workers[worker].clock;
            for (index, process) in self.processes.iter_mut().enumerate().filter(|(_, one)| one.worker == worker) {
                process.resume(index, clock, &mut self.stage);
            }
        }
    }

    pub(crate) fn thaw(&mut self, node: Node) {
        if let Node::Worker(index) = node {
            self.thaw_host(index);
        }
        let Some(frozen) = self.frozen.remove(&node) else { return };
        self.stage.trace(|| format!("!! {node:?} goes on"));
        // Which of what waits is seen first is anybody's guess; within a connection the order holds.
        let (mut wakes, arrivals): (Vec<_>, Vec<_>) =
            frozen.held.into_iter().partition(|event| matches!(event, Event::Wake { .. }));
        let wakes_first = self.stage.chance.percent(50);
        let now = self.stage.now;
        if wakes_first {
            wakes.drain(..).for_each(|event| self.stage.at(now, event));
        }
        arrivals.into_iter().for_each(|event| self.stage.at(now, event));
        wakes.into_iter().for_each(|event| self.stage.at(now, event));
        match node {
            Node::Executor(index) if self.executors[index].is_up => {
                let life = self.executors[index].life;
                self.executors[index].turn(&mut self.stage);
                self.restart_if_gone(index, life);
            }
            Node::Worker(index) if self.workers[index].is_up => {
                self.workers[index].turn(&mut self.processes, &mut self.stage);
            }
            Node::Executor(_) | Node::Worker(_) | Node::Publisher => {}
        }
    }

    fn strike(&mut self, index: usize) {
        let fault = self.plan.faults[index];
        if self.is_calm {
            return;
        }
        self.stage.trace(|| format!("!! {:?} for {} ms", fault.blow, fault.lasts / 1000));
        let site = self.site();
        let (stage, journal) = (&mut self.stage, &mut self.journals[site]);
        match fault.blow {
            Blow::CrashExecutor(index) => self.crash_executor(index),
            Blow::EndExecutor(index) => {
                if self.executors[index].is_up && !self.frozen.contains_key(&Node::Executor(index)) {
                    let life = self.executors[index].life;
                    self.executors[index].end(&mut self.stage);
                    self.restart_if_gone(index, life);
                }
            }
            Blow::FreezeExecutor(index) => self.freeze(Node::Executor(index), false, fault.lasts),
            Blow::CrashWorker(index) => self.crash_worker(index),
            Blow::LosePower(index) => self.lose_power(index),
            Blow::FreezeWorker(index) => self.freeze(Node::Worker(index), false, fault.lasts),
            Blow::FreezeHost(index) => self.freeze(Node::Worker(index), true, fault.lasts),
            Blow::DrainWorker(index) => {
                if self.workers[index].is_up && !self.frozen.contains_key(&Node::Worker(index)) {
                    self.workers[index].drain(&mut self.processes, stage);
                }
            }
            Blow::Cut { node, up, down } => stage.cut(node, up, down),
            Blow::Reset(node) => self.broker.reset(node, stage),
            Blow::Flood { node, lane } => stage.flood(node, lane, fault.lasts),
            Blow::CutJournal(index) => stage.cut_journal(index),
            Blow::BrokerRestarts => self.broker.stop(stage),
            Blow::BrokerFreezes => self.broker.freeze(stage),
            Blow::BrokerEmptied => self.broker.empty(!self.plan.rewinds(), stage),
            Blow::BrokerBlocks => self.broker.block(),
            Blow::BrokerRefuses => self.broker.is_refusing = true,
            Blow::QueueRefuses(worker) => self.broker.refused = Some(worker),
            Blow::QueueGone(which) => self.broker.lose_queue(which, stage),
            Blow::ConsumerCancelled(which) => self.broker.cancel_consumers(which, stage),
            Blow::JournalRestarts => journal.stop(stage),
            Blow::JournalFreezes => journal.freeze(stage),
            Blow::JournalRewinds | Blow::TwoPrimaries => journal.dump(stage),
            Blow::LeaderCutOff => journal.cut_leader_off(stage),
            Blow::LeaderAlone => {
                if let Some(leader) = self.executors.iter().find(|executor| executor.leads()) {
                    self.alone.push(leader.index);
                    stage.cut(leader.node(), true, true);
                }
            }
            Blow::ClockSteps(index, wall) => self.executors[index].wall = wall,
            Blow::Liar => {
                let until = self.stage.now + fault.lasts;
                self.stage.after(0, Event::Lie { until });
            }
        }
        self.stage.after(fault.lasts, Event::Heal(index));
    }

    fn heal(&mut self, blow: Blow) {
        let stage = &mut self.stage;
        match blow {
            Blow::Cut { node, .. } => stage.mend(node),
            Blow::CutJournal(index) => stage.mend_journal(index),
            Blow::BrokerRestarts => self.broker.is_up = true,
            Blow::BrokerFreezes => self.broker.thaw(stage),
            Blow::BrokerBlocks => self.broker.unblock(stage),
            Blow::BrokerRefuses => self.broker.is_refusing = false,
            Blow::QueueRefuses(_) => self.broker.refused = None,
            Blow::JournalRestarts => self.journals.iter_mut().for_each(Journal::start),
            Blow::JournalRewinds => {
                let site = self.journals.len() - 1;
                if self.journals[site].rewind(&self.broker.marks, stage) {
                    self.operate_again();
                }
            }
            Blow::TwoPrimaries => self.promote(),
            Blow::JournalFreezes => self.journals.iter_mut().for_each(|journal| journal.thaw(stage)),
            Blow::LeaderAlone => {
                if let Some(index) = self.alone.pop() {
                    stage.mend(Node::Executor(index));
                }
            }
            Blow::ClockSteps(..)
            | Blow::Liar
            | Blow::CrashExecutor(_)
            | Blow::EndExecutor(_)
            | Blow::FreezeExecutor(_)
            | Blow::CrashWorker(_)
            | Blow::LosePower(_)
            | Blow::FreezeWorker(_)
            | Blow::FreezeHost(_)
            | Blow::DrainWorker(_)
            | Blow::Reset(_)
            | Blow::Flood { .. }
            | Blow::BrokerEmptied
            | Blow::QueueGone(_)
            | Blow::ConsumerCancelled(_)
            | Blow::LeaderCutOff => {}
        }
    }

    /// A stranger says something of an attempt that runs, or ran a while ago.
    fn lie(&mut self, until: Micros) {
        if self.is_calm || self.stage.now > until {
            return;
        }
        let worker = self.lies.index(self.workers.len());
        let newest = self.processes.iter().rev().filter(|process| process.worker == worker).take(3);
        let attempts: Vec<_> = newest.map(|process| (process.key, process.fence)).collect();
        if let (Some(incarnation), false) = (self.workers[worker].incarnation(), attempts.is_empty()) {
            let (key, fence) = self.lies.pick(&attempts);
            let (epoch, actions, proof) =
                (self.journal().epoch(), self.plan.actions.len(), self.stage.overheard.clone());
            let known = Known { worker, incarnation, key, fence, epoch, actions, proof };
            let (route, body) = liar::lie(&known, &mut self.lies);
            self.broker.inject(route, body, &mut self.stage);
        }
        let pause = self.lies.spread(10 * MS, 5 * SECOND);
        self.stage.after(pause, Event::Lie { until });
    }

    /// What operators did since the dump is forgotten too: they do it all again.
    fn operate_again(&mut self) {
        if !self.plan.operations.is_empty() {
            self.operated = 0;
            self.stage.after(MS, Event::Operate { index: 0 });
        }
    }

    /// The replica becomes a primary beside the old one, and some executors go over to it.
    fn promote(&mut self) {
        let site = self.site();
        let Some(copy) = self.journals[site].promote(&self.broker.marks, &mut self.stage) else { return };
        self.journals.push(copy);
        let first = self.stage.chance.index(self.executors.len());
        for index in 0..self.executors.len() {
            if index == first || self.stage.chance.percent(50) {
                self.connect_to_newest(index);
            }
        }
        self.operate_again();
    }

    /// An operator starts the executor anew, with the address of the copy of the journal that goes on.
    fn connect_to_newest(&mut self, index: usize) {
        if self.executors[index].site != self.site() {
            self.crash_executor(index);
            self.executors[index].site = self.site();
        }
    }

    /// From here on nothing hurts.
    fn calm(&mut self) {
        self.stage.rates = Rates::default();
        for fault in self.plan.faults.clone() {
            self.heal(fault.blow);
        }
        for node in self.frozen.keys().copied().collect::<Vec<_>>() {
            self.thaw(node);
        }
        (0..self.executors.len()).for_each(|index| self.connect_to_newest(index));
        self.is_calm = true;
        self.stage.trace(|| "!! nothing hurts any more".to_owned());
        self.stage.record(Fact::FaultsStopped { bound: self.plan.bound() });
    }
}
