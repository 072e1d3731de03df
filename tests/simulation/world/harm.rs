//! What hurts, how it heals, and who stands up again.

use super::{Frozen, World};
use crate::clock::{MS, Micros, SECOND};
use crate::faults::{Blow, Node, Rates};
use crate::history::Fact;
use crate::process::Process;
use crate::stage::{Event, Side, Strike, Why};

impl World {
    pub(super) fn start(&mut self, node: Node, life: u32) {
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

    pub(super) fn struck(&mut self, node: Node, strike: Strike) {
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

    pub(super) fn restart_if_gone(&mut self, index: usize, life: u32) {
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
            Node::Executor(index) if self.executors[index].is_up => self.executors[index].turn(&mut self.stage),
            Node::Worker(index) if self.workers[index].is_up => {
                self.workers[index].turn(&mut self.processes, &mut self.stage);
            }
            Node::Executor(_) | Node::Worker(_) | Node::Publisher => {}
        }
    }

    pub(super) fn strike(&mut self, index: usize) {
        let fault = self.plan.faults[index];
        if self.is_calm {
            return;
        }
        self.stage.trace(|| format!("!! {:?} for {} ms", fault.blow, fault.lasts / 1000));
        let stage = &mut self.stage;
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
            Blow::CutJournal(index) => stage.cut_journal(index),
            Blow::BrokerRestarts => self.broker.stop(stage),
            Blow::BrokerFreezes => self.broker.freeze(stage),
            Blow::BrokerEmptied => self.broker.empty(stage),
            Blow::BrokerBlocks => self.broker.block(),
            Blow::BrokerRefuses => self.broker.is_refusing = true,
            Blow::QueueGone(which) => self.broker.lose_queue(which, stage),
            Blow::ConsumerCancelled(which) => self.broker.cancel_consumers(which, stage),
            Blow::JournalRestarts => self.journal.stop(stage),
            Blow::JournalFreezes => self.journal.frozen = true,
            Blow::LeaderCutOff => self.journal.cut_leader_off(stage),
        }
        self.stage.after(fault.lasts, Event::Heal(index));
    }

    pub(super) fn heal(&mut self, blow: Blow) {
        let stage = &mut self.stage;
        match blow {
            Blow::Cut { node, .. } => stage.mend(node),
            Blow::CutJournal(index) => stage.mend_journal(index),
            Blow::BrokerRestarts => self.broker.is_up = true,
            Blow::BrokerFreezes => self.broker.thaw(stage),
            Blow::BrokerBlocks => self.broker.unblock(stage),
            Blow::BrokerRefuses => self.broker.is_refusing = false,
            Blow::JournalRestarts => self.journal.is_up = true,
            Blow::JournalFreezes => self.journal.thaw(stage),
            Blow::CrashExecutor(_)
            | Blow::EndExecutor(_)
            | Blow::FreezeExecutor(_)
            | Blow::CrashWorker(_)
            | Blow::LosePower(_)
            | Blow::FreezeWorker(_)
            | Blow::FreezeHost(_)
            | Blow::DrainWorker(_)
            | Blow::Reset(_)
            | Blow::BrokerEmptied
            | Blow::QueueGone(_)
            | Blow::ConsumerCancelled(_)
            | Blow::LeaderCutOff => {}
        }
    }

    /// From here on nothing hurts.
    pub(super) fn calm(&mut self) {
        self.stage.rates = Rates::default();
        for fault in self.plan.faults.clone() {
            self.heal(fault.blow);
        }
        for node in self.frozen.keys().copied().collect::<Vec<_>>() {
            self.thaw(node);
        }
        self.is_calm = true;
        self.stage.trace(|| "!! nothing hurts any more".to_owned());
        self.stage.record(Fact::FaultsStopped { bound: self.plan.bound() });
    }
}
