//! What then is: each step of the world, and what flows by itself after it.

use std::collections::VecDeque;
use std::sync::Arc;

use slotline_scheduler::ProbedQueue;

use crate::action::{Action, Place};
use crate::executor::{Executor, Letter};
use crate::mistake::Mistake;
use crate::rules::Rule;
use crate::shared::Shared;
use crate::wire::{Word, worker_of};
use crate::worker::Worker;
use crate::world::{QUEUES, Remarkable, Scale, World};

impl World {
    pub(crate) fn take(&mut self, scale: &Scale, action: Action) {
        self.remarkable = Remarkable::default();
        let (now, mistake) = (self.now, scale.mistake);
        let broken = match action {
            Action::Tick => {
                self.pass_time();
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
                self.depose();
                let Self { journal, executors, .. } = self;
                journal.change(|journal| {
                    executors[e].change(|executor| executor.take_over(journal, scale.limit, now, mistake));
                });
                None
            }
            Action::Confirm(w) => self.workers[w].change(|worker| worker.confirmed(now)),
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
                self.workers[worker].change(|worker| worker.start(has_proof, now, mistake));
                None
            }
            Action::StallExecutor(e, stall) => {
                self.troubles.stalls -= 1;
                self.executors[e].change(|executor| executor.stall = Some(stall));
                None
            }
            Action::StallWorker(w, stall) => {
                self.troubles.stalls -= 1;
                self.workers[w].change(|worker| worker.stall = Some(stall));
                None
            }
            Action::ResumeExecutor(e) => {
                self.executors[e].change(|executor| executor.stall = None);
                None
            }
            Action::ResumeWorker(w) => {
                self.workers[w].change(|worker| worker.stall = None);
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
        self.journal.put_away();
        self.executors.iter_mut().for_each(Shared::put_away);
        self.workers.iter_mut().for_each(Shared::put_away);
    }

    /// Between the broker and a daemon that nothing stalls, nothing that is sent is ever on its way for long.
    fn flow(&mut self, mistake: Option<Mistake>) {
        for e in 0..self.executors.len() {
            while self.executors[e].stall.is_none() && !self.executors[e].outgoing.is_empty() {
                self.send(e, mistake);
            }
        }
        for w in 0..self.workers.len() {
            while self.workers[w].stall.is_none() && !self.workers[w].outgoing.is_empty() {
                self.publish(w);
            }
        }
    }

    /// Whoever leads is about to lead no more. What it hears from now on can only end in batches that are refused, and
    /// nothing leaves it before a commit but probes to itself; so it need not hear anything. The commit that is under way
    /// and the letters that have left it stay what they are.
    fn depose(&mut self) {
        for executor in self.executors.iter_mut().filter(|executor| executor.term.is_some()) {
            executor.change(|executor| {
                for queue in QUEUES {
                    executor.queue(queue).into_iter().for_each(VecDeque::clear);
                }
            });
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
                        executor.queue(*queue).into_iter().for_each(|queue| queue.push_back(probe.clone()));
                    });
                }
            }
        }
    }

    fn publish(&mut self, w: usize) {
        let now = self.now;
        let words = self.workers[w].change(|worker| worker.published(now));
        let epoch = self.journal.epoch;
        let leads = |executor: &&mut Shared<Executor>| executor.term.as_ref().is_some_and(|term| term.epoch == epoch);
        for executor in self.executors.iter_mut().filter(leads) {
            executor.change(|executor| {
                for word in &words {
                    let queue = if word.is_heartbeat() { ProbedQueue::Heartbeats } else { ProbedQueue::Completions };
                    executor.queue(queue).into_iter().for_each(|queue| queue.push_back(word.clone()));
                }
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
                executor.queue(queue).into_iter().for_each(|queue| lose(queue, comes_again));
            }),
        }
    }
}
