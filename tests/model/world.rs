//! The world: two kinds of daemon, the broker between them, the journal, and one clock. What may happen, and what then
//! is.
//!
//! Whoever has something to do does it in any order; so a message on its way and a commit that takes its time are nothing
//! special. A *slow* daemon may also put off everything for as long as it likes, and every message between it and the
//! broker takes a step of its own: it stands still, or is cut off, or both. Time waits for the others. What really goes
//! wrong is counted, so that there is an end to it.

use std::collections::VecDeque;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use slotline_protocol::message::AttemptKey;
use slotline_protocol::{Fence, Incarnation};
use slotline_scheduler::ProbedQueue;

use crate::action::{Action, Place};
use crate::executor::{Executor, Letter};
use crate::journal::{Journal, Row};
use crate::mistake::Mistake;
use crate::rules::Rule;
use crate::shared::Shared;
use crate::time::Tick;
use crate::wire::{Order, Word, worker_of};
use crate::worker::{Confirm, Process, Stage, Worker};

const QUEUES: [ProbedQueue; 2] = [ProbedQueue::Completions, ProbedQueue::Heartbeats];

/// How large a world is, and how much may go wrong in it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    pub(crate) executors: usize,
    pub(crate) workers: usize,
    pub(crate) executions: u8,
    pub(crate) limit: u32,
    /// How many of the daemons are slow; which of them, the search tries out.
    pub(crate) slow: u32,
    /// The last tick of the search.
    pub(crate) horizon: Tick,
    pub(crate) troubles: Troubles,
    pub(crate) mistake: Option<Mistake>,
}

/// What may still go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Troubles {
    /// Deaths of executors and workers.
    pub(crate) crashes: u8,
    /// Changes of leadership while somebody leads.
    pub(crate) coups: u8,
    /// Messages lost or delivered twice.
    pub(crate) losses: u8,
    /// Sessions lost, with the broker or the journal.
    pub(crate) cuts: u8,
}

#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) now: Tick,
    /// One bit for each daemon, executors first.
    slow: u32,
    pub(crate) journal: Shared<Journal>,
    pub(crate) executors: Vec<Shared<Executor>>,
    pub(crate) workers: Vec<Shared<Worker>>,
    pub(crate) troubles: Troubles,
    /// A rule that a step broke.
    pub(crate) broken: Option<Rule>,
    /// What the last step was remarkable for; no part of where the world stands.
    pub(crate) remarkable: Remarkable,
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Remarkable {
    /// An incarnation was declared lost for its silence.
    pub(crate) loss_by_silence: bool,
    /// A dispatch left that had left before.
    pub(crate) resend: bool,
    /// A batch was refused, for another leads.
    pub(crate) refusal: bool,
    /// A worker's order was old.
    pub(crate) stale_order: bool,
}

impl PartialEq for World {
    fn eq(&self, other: &Self) -> bool {
        let Self { now, slow, journal, executors, workers, troubles, broken, remarkable: _ } = self;
        *now == other.now
            && *slow == other.slow
            && *journal == other.journal
            && *executors == other.executors
            && *workers == other.workers
            && *troubles == other.troubles
            && *broken == other.broken
    }
}

impl Hash for World {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Self { now, slow, journal, executors, workers, troubles, broken, remarkable: _ } = self;
        (now, slow, journal, executors, workers, troubles, broken).hash(state);
    }
}

impl World {
    /// One world for each choice of who is slow.
    pub(crate) fn all(scale: &Scale) -> Vec<Self> {
        let daemons = scale.executors + scale.workers;
        let choices = (0..1_u32 << daemons).filter(|slow| slow.count_ones() == scale.slow);
        choices.map(|slow| Self::new(scale, slow)).collect()
    }

    /// Everybody has just started, and the first executor leads.
    fn new(scale: &Scale, slow: u32) -> Self {
        let mut world = Self {
            now: 0,
            slow,
            journal: Shared::new(Journal::new(scale.executions)),
            executors: vec![Shared::new(Executor::default()); scale.executors],
            workers: (0..scale.workers).map(|index| Shared::new(Worker::new(index, 0))).collect(),
            troubles: scale.troubles,
            broken: None,
            remarkable: Remarkable::default(),
        };
        world.take(scale, Action::TakeOver(0));
        world
    }

    // ---- what may happen ----

    pub(crate) fn actions(&self, scale: &Scale, actions: &mut Vec<Action>) {
        if self.broken.is_some() {
            return;
        }
        self.duties(actions);
        let is_waited_for = actions.iter().any(|action| self.is_urgent(*action));
        self.troubles(actions);
        if self.now < scale.horizon && !is_waited_for {
            actions.push(Action::Tick);
        }
    }

    /// Whether time waits for it. Nobody knows how long an attempt takes, nor when somebody comes back or takes over.
    fn is_urgent(&self, action: Action) -> bool {
        match action {
            Action::Send(e) | Action::Commit(e) | Action::Hear(e, _) | Action::Alarm(e) => !self.is_slow_executor(e),
            Action::Publish(w) | Action::Confirm(w) | Action::Obey(w) | Action::Wake(w) | Action::Reap(w, _) => {
                !self.is_slow_worker(w)
            }
            _ => false,
        }
    }

    fn is_slow_executor(&self, e: usize) -> bool {
        self.slow & 1 << e != 0
    }

    fn is_slow_worker(&self, w: usize) -> bool {
        self.slow & 1 << (self.executors.len() + w) != 0
    }

    /// What somebody has to do, sooner or later, in the order in which a world where nothing goes wrong does it.
    pub(crate) fn duties(&self, actions: &mut Vec<Action>) {
        for (e, executor) in self.executors.iter().enumerate() {
            if !executor.outgoing.is_empty() {
                actions.push(Action::Send(e));
            }
            let Some(term) = &executor.term else { continue };
            if term.flight.is_some() {
                actions.push(Action::Commit(e));
            }
            if term.epoch < self.journal.epoch {
                actions.push(Action::StandDown(e));
            }
            let queues = QUEUES.into_iter().filter(|queue| !term.queued(*queue).is_empty());
            actions.extend(queues.map(|queue| Action::Hear(e, queue)));
            if executor.is_due(self.now) {
                actions.push(Action::Alarm(e));
            }
        }
        if !self.has_leader() {
            actions.extend((0..self.executors.len()).filter(|e| self.may_take_over(*e)).map(Action::TakeOver));
        }
        for (w, worker) in self.workers.iter().enumerate() {
            if !worker.outgoing.is_empty() {
                actions.push(Action::Publish(w));
            }
            if !worker.confirms.is_empty() {
                actions.push(Action::Confirm(w));
            }
            if worker.duty.is_some() && !worker.orders.is_empty() {
                actions.push(Action::Obey(w));
            }
            if worker.is_due(self.now) {
                actions.push(Action::Wake(w));
            }
            for (fence, process) in &worker.processes {
                match process.stage {
                    Stage::Gone => actions.push(Action::Reap(w, *fence)),
                    Stage::Killed => actions.extend([Action::Reap(w, *fence), Action::End(w, *fence)]),
                    Stage::Running | Stage::Orphan => actions.push(Action::End(w, *fence)),
                }
            }
            if worker.duty.is_none() {
                if worker.processes.is_empty() {
                    actions.push(Action::Restart { worker: w, has_proof: true });
                }
                actions.push(Action::Restart { worker: w, has_proof: false });
            }
        }
    }

    fn troubles(&self, actions: &mut Vec<Action>) {
        let Troubles { crashes, coups, losses, cuts } = self.troubles;
        for (e, executor) in self.executors.iter().enumerate() {
            let leads = executor.term.is_some();
            if crashes > 0 && (leads || !executor.outgoing.is_empty()) {
                actions.push(Action::CrashExecutor(e));
            }
            if coups > 0 && self.has_leader() && self.may_take_over(e) {
                actions.push(Action::TakeOver(e));
            }
            let Some(term) = &executor.term else { continue };
            if cuts > 0 {
                actions.push(Action::CutExecutor(e));
                if term.flight.is_some() && term.epoch == self.journal.epoch {
                    let lost = |is_committed| Action::LoseAnswer { executor: e, is_committed };
                    actions.extend([true, false].map(lost));
                }
            }
            if losses > 0 {
                for queue in QUEUES.into_iter().filter(|queue| !term.queued(*queue).is_empty()) {
                    let place = Place::Leader(e, queue);
                    actions.extend([Action::Drop(place), Action::Copy(place)]);
                }
            }
        }
        for (w, worker) in self.workers.iter().enumerate() {
            if worker.duty.is_none() {
                continue;
            }
            if crashes > 0 {
                actions.push(Action::CrashWorker(w));
            }
            if cuts > 0 {
                actions.push(Action::CutWorker(w));
            }
            if losses > 0 && !worker.orders.is_empty() {
                let place = Place::Orders(w);
                actions.extend([Action::Drop(place), Action::Copy(place)]);
            }
        }
    }

    pub(crate) fn has_leader(&self) -> bool {
        let leads = |executor: &Shared<Executor>| executor.term.as_ref().is_some_and(|t| t.epoch == self.journal.epoch);
        self.executors.iter().any(leads)
    }

    fn may_take_over(&self, e: usize) -> bool {
        self.executors[e].term.is_none()
    }

    // ---- what then is ----

    pub(crate) fn take(&mut self, scale: &Scale, action: Action) {
        self.remarkable = Remarkable::default();
        let (now, mistake) = (self.now, scale.mistake);
        let broken = match action {
            Action::Tick => {
                self.pass_time();
                None
            }
            Action::Send(e) => {
                self.send(e, mistake);
                None
            }
            Action::Commit(e) => self.commit(e, mistake),
            Action::Hear(e, queue) => {
                let is_probe = matches!(self.next_word(e, queue), Some(Word::Probe { .. }));
                let ended = self.ended_by(e);
                self.executors[e].change(|executor| executor.hear(queue, now, mistake));
                self.remarkable.loss_by_silence = is_probe && self.ended_by(e) > ended;
                None
            }
            Action::Alarm(e) => {
                self.executors[e].change(|executor| executor.tick(now, mistake));
                None
            }
            Action::StandDown(e) => {
                self.executors[e].change(|executor| executor.term = None);
                None
            }
            Action::TakeOver(e) => {
                if self.has_leader() {
                    self.troubles.coups -= 1;
                }
                let Self { journal, executors, .. } = self;
                journal.change(|journal| {
                    executors[e].change(|executor| executor.take_over(journal, scale.limit, now, mistake));
                });
                None
            }
            Action::Publish(w) => {
                self.publish(w);
                None
            }
            Action::Confirm(w) => self.workers[w].change(|worker| worker.confirmed(now, mistake)),
            Action::Obey(w) => {
                self.remarkable.stale_order = self.is_next_order_stale(w);
                self.workers[w].change(|worker| worker.obey(now, mistake))
            }
            Action::Wake(w) => {
                self.workers[w].change(|worker| worker.wake(now));
                None
            }
            Action::End(w, fence) => self.workers[w].change(|worker| worker.end(fence, now)),
            Action::Reap(w, fence) => self.workers[w].change(|worker| worker.reap(fence, now)),
            Action::Restart { worker, has_proof } => {
                self.workers[worker].change(|worker| worker.start(has_proof, now));
                None
            }
            Action::CrashExecutor(e) => {
                self.troubles.crashes -= 1;
                self.executors[e] = Shared::new(Executor::default());
                None
            }
            Action::CrashWorker(w) => {
                self.troubles.crashes -= 1;
                self.workers[w].change(Worker::crash);
                None
            }
            Action::LoseAnswer { executor: e, is_committed } => {
                self.troubles.cuts -= 1;
                let flight = self.executors[e].change(|executor| executor.term.take()?.flight);
                match flight {
                    Some(flight) if is_committed => self.journal.change(|journal| journal.apply(&flight.batch)),
                    Some(_) | None => None,
                }
            }
            Action::CutExecutor(e) => {
                self.troubles.cuts -= 1;
                self.executors[e].change(|executor| executor.reconnect(now, mistake));
                None
            }
            Action::CutWorker(w) => {
                self.troubles.cuts -= 1;
                self.workers[w].change(|worker| worker.reconnect(now));
                None
            }
            Action::Drop(place) => {
                self.troubles.losses -= 1;
                self.lose(place, false);
                None
            }
            Action::Copy(place) => {
                self.troubles.losses -= 1;
                self.lose(place, true);
                None
            }
        };
        self.broken = self.broken.or(broken);
        self.flow(mistake);
    }

    /// Between the broker and whoever is not slow, nothing is ever on its way.
    fn flow(&mut self, mistake: Option<Mistake>) {
        loop {
            let sends = |e: &usize| !self.is_slow_executor(*e) && !self.executors[*e].outgoing.is_empty();
            let publishes = |w: &usize| !self.is_slow_worker(*w) && !self.workers[*w].outgoing.is_empty();
            let hears = |w: &usize| !self.is_slow_worker(*w) && !self.workers[*w].confirms.is_empty();
            if let Some(e) = (0..self.executors.len()).find(sends) {
                self.send(e, mistake);
            } else if let Some(w) = (0..self.workers.len()).find(publishes) {
                self.publish(w);
            } else if let Some(w) = (0..self.workers.len()).find(hears) {
                let now = self.now;
                let broken = self.workers[w].change(|worker| worker.confirmed(now, mistake));
                self.broken = self.broken.or(broken);
            } else {
                return;
            }
        }
    }

    fn pass_time(&mut self) {
        self.now += 1;
        let now = self.now;
        for worker in self.workers.iter_mut().filter(|worker| worker.has_fences_due(now)) {
            worker.change(|worker| worker.enforce_fences(now));
        }
    }

    fn commit(&mut self, e: usize, mistake: Option<Mistake>) -> Option<Rule> {
        let now = self.now;
        let Self { journal, executors, .. } = self;
        let broken = journal.change(|journal| executors[e].change(|executor| executor.commit(journal, now, mistake)));
        self.remarkable.refusal = self.executors[e].term.is_none();
        broken
    }

    fn send(&mut self, e: usize, mistake: Option<Mistake>) {
        let Some(letter) = self.executors[e].change(|executor| executor.outgoing.pop_front()) else { return };
        match &*letter {
            Letter::Hello(order) => {
                let orders = Arc::new(vec![order.clone()]);
                for worker in &mut self.workers {
                    worker.change(|worker| worker.orders.push_back(orders.clone()));
                }
            }
            Letter::Orders(incarnation, orders) => {
                let worker = worker_of(*incarnation);
                if self.workers[worker].has_queue(*incarnation) {
                    self.remarkable.resend |= orders.iter().any(|order| self.has_left_before(worker, order));
                    let orders = Arc::new(orders.clone());
                    self.workers[worker].change(|worker| worker.orders.push_back(orders));
                } else {
                    let now = self.now;
                    self.executors[e].change(|executor| executor.order_returned(*incarnation, now, mistake));
                }
            }
            Letter::Probe { queue, epoch, published_at } => {
                if self.executors[e].term.as_ref().is_some_and(|term| term.epoch == *epoch) {
                    let probe = Arc::new(Word::Probe { published_at: *published_at });
                    self.executors[e].change(|executor| {
                        executor.term.as_mut().map(|term| term.queue(*queue).push_back(probe));
                    });
                }
            }
        }
    }

    fn publish(&mut self, w: usize) {
        let word = self.workers[w].change(|worker| {
            let word = worker.outgoing.pop_front()?;
            match &*word {
                Word::Beat(beat) => {
                    worker.confirms.push_back(Confirm::Beat { incarnation: beat.incarnation, sent: beat.sent });
                }
                Word::Ended { incarnation, .. } => {
                    worker.confirms.push_back(Confirm::Farewell { incarnation: *incarnation });
                }
                Word::Completed(_) | Word::Returned(_) | Word::Probe { .. } => {}
            }
            Some(word)
        });
        let Some(word) = word else { return };
        let queue = if word.is_heartbeat() { ProbedQueue::Heartbeats } else { ProbedQueue::Completions };
        for executor in self.executors.iter_mut().filter(|executor| executor.term.is_some()) {
            executor.change(|executor| {
                executor.term.as_mut().map(|term| term.queue(queue).push_back(word.clone()));
            });
        }
    }

    /// The next message of a queue is lost; with `comes_again` it is put behind all others instead, and stays.
    fn lose(&mut self, place: Place, comes_again: bool) {
        fn lose<T: Clone>(queue: &mut VecDeque<T>, comes_again: bool) {
            if comes_again {
                queue.extend(queue.front().cloned());
            } else {
                queue.pop_front();
            }
        }
        match place {
            Place::Orders(w) => self.workers[w].change(|worker| lose(&mut worker.orders, comes_again)),
            Place::Leader(e, queue) => self.executors[e].change(|executor| {
                executor.term.as_mut().map(|term| lose(term.queue(queue), comes_again));
            }),
        }
    }

    // ---- what it looks like ----

    /// Every process that runs, by its fence.
    pub(crate) fn running(&self) -> impl Iterator<Item = (Fence, &Process)> {
        let processes = self.workers.iter().flat_map(|worker| worker.processes.iter());
        processes.filter(|(_, process)| process.runs()).map(|(fence, process)| (*fence, process))
    }

    /// The lease that the journal has of an attempt.
    pub(crate) fn lease(&self, (id, attempt): AttemptKey) -> Option<(Fence, Incarnation)> {
        let Row(snapshot) = self.journal.live.get(&id)?;
        let lease = snapshot.lease.as_ref().filter(|_| snapshot.attempt == attempt)?;
        Some((lease.fence, lease.incarnation))
    }

    fn next_word(&self, e: usize, queue: ProbedQueue) -> Option<&Word> {
        self.executors[e].term.as_ref()?.queued(queue).front().map(|word| &**word)
    }

    /// How many incarnations end with the commit that is under way.
    fn ended_by(&self, e: usize) -> usize {
        let flight = self.executors[e].term.as_ref().and_then(|term| term.flight.as_ref());
        flight.map_or(0, |flight| flight.batch.ended.len())
    }

    /// Whether the worker has this attempt, or had it, or has an order for it in its queue.
    fn has_left_before(&self, w: usize, order: &Order) -> bool {
        let Order::Dispatch { key, .. } = order else { return false };
        let same = |other: &Order| matches!(other, Order::Dispatch { key: other, .. } if other == key);
        let worker = &self.workers[w];
        worker.has_begun(*key) || worker.orders.iter().any(|orders| orders.iter().any(same))
    }

    fn is_next_order_stale(&self, w: usize) -> bool {
        let worker = &self.workers[w];
        worker.orders.front().is_some_and(|orders| {
            orders.iter().all(|order| order.epoch() < self.journal.epoch && matches!(order, Order::Dispatch { .. }))
        })
    }
}
