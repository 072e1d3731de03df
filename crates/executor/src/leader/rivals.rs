//! Two live workers of one name: the later one is refused, with a notice that names the other.
//!
//! A worker that is started again has the name of the one before, whose last heartbeats may still be on their way; so
//! the order of arrivals proves nothing. When an incarnation appears whose name another one has, that other one is
//! greeted. Only a process that lives can have seen the number of that greeting, and its next heartbeat shows it: then
//! both live.
//!
//! The earlier is the one that an earlier leader has greeted, or else the one whose heartbeat came first. A worker that
//! drains is on its way out: it refuses none and is not refused. Pure: the loop numbers greetings and refusals, and
//! sends them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use slotline_protocol::message::{Heartbeat, Process};
use slotline_protocol::{Epoch, Incarnation, Timestamp, WorkerName};

/// The members of a heartbeat that matter here.
#[derive(Clone, Debug)]
pub(crate) struct Sign {
    pub(crate) incarnation: Incarnation,
    seen: (Epoch, u64),
    is_draining: bool,
    pub(crate) process: Option<Process>,
}

/// The workers of one name.
type Namesakes = BTreeMap<Incarnation, Worker>;

#[derive(Clone, Debug, Default)]
pub(crate) struct Rivals {
    workers: BTreeMap<WorkerName, Namesakes>,
    /// To be greeted with the next batch.
    greetings: BTreeMap<Incarnation, WorkerName>,
    /// To be refused with the next batch, and why.
    refusals: BTreeMap<Incarnation, String>,
}

#[derive(Clone, Debug)]
struct Worker {
    /// The leader that greeted it first, as far as this leader knows.
    since: Epoch,
    is_draining: bool,
    process: Option<Process>,
    /// The later ones of its name, each with the number of the greeting that only a process which lives beside it can
    /// have seen; `None` until it has a number.
    later: BTreeMap<Incarnation, Option<u64>>,
    /// Why it was refused, and when the last refusal was sent.
    refused: Option<(String, Timestamp)>,
}

/// A worker that is refused, for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RefusedWorker {
    pub(crate) incarnation: Incarnation,
    pub(crate) reason: String,
}

impl Sign {
    pub(crate) fn of(heartbeat: &Heartbeat) -> Self {
        let Heartbeat { incarnation, seen, draining, process, .. } = heartbeat;
        Self { incarnation: *incarnation, seen: *seen, is_draining: *draining, process: process.clone() }
    }
}

impl Rivals {
    /// Takes a heartbeat of a live incarnation of the worker `name`. Returns those that are refused by it for the first
    /// time. A refusal that is not obeyed is repeated after `patience`: it may have been lost.
    pub(crate) fn heard(
        &mut self,
        name: &WorkerName,
        sign: Sign,
        epoch: Epoch,
        now: Timestamp,
        patience: Duration,
    ) -> Vec<RefusedWorker> {
        let Sign { incarnation, seen, is_draining, process } = sign;
        let namesakes = self.workers.entry(name.clone()).or_default();
        let is_first = !namesakes.contains_key(&incarnation);
        let worker = namesakes.entry(incarnation).or_insert_with(|| Worker {
            since: seen.0,
            is_draining,
            process: None,
            later: BTreeMap::new(),
            refused: None,
        });
        worker.is_draining = is_draining;
        worker.process = process;
        if let Some((reason, said_at)) = worker.refused.as_mut().filter(|_| !is_draining)
            && now.since(*said_at) >= patience
        {
            *said_at = now;
            self.refusals.insert(incarnation, reason.clone());
        }
        if is_draining || worker.refused.is_some() {
            worker.later.clear();
            return Vec::new();
        }
        let proven: BTreeSet<_> = worker
            .later
            .iter()
            .filter(|(_, greeting)| greeting.is_some_and(|n| seen.0 == epoch && n <= seen.1))
            .map(|(later, _)| *later)
            .collect();
        worker.later.retain(|later, _| !proven.contains(later));
        if !worker.later.is_empty() {
            // The greeting may have been lost. The worker answers to the first one that was given a number.
            self.greetings.insert(incarnation, name.clone());
        }
        if is_first && namesakes.len() > 1 {
            self.meet(name, incarnation);
        }
        self.refuse(name, incarnation, proven, now)
    }

    /// The incarnation is over.
    pub(crate) fn departed(&mut self, name: &WorkerName, incarnation: Incarnation) {
        let Some(namesakes) = self.workers.get_mut(name) else { return };
        namesakes.remove(&incarnation);
        for other in namesakes.values_mut() {
            other.later.remove(&incarnation);
        }
        if namesakes.is_empty() {
            self.workers.remove(name);
        }
        self.greetings.remove(&incarnation);
        self.refusals.remove(&incarnation);
    }

    /// Whether something is to be sent.
    #[cfg(test)]
    fn is_waiting(&self) -> bool {
        !self.greetings.is_empty() || !self.refusals.is_empty()
    }

    /// Incarnations to be greeted now, each with the number that `next` gives.
    pub(crate) fn greet(&mut self, mut next: impl FnMut() -> u64) -> Vec<(Incarnation, u64)> {
        let mut greetings = Vec::new();
        for (incarnation, name) in std::mem::take(&mut self.greetings) {
            let n = next();
            let worker = self.workers.get_mut(&name).and_then(|namesakes| namesakes.get_mut(&incarnation));
            for greeting in worker.into_iter().flat_map(|worker| worker.later.values_mut()) {
                greeting.get_or_insert(n);
            }
            greetings.push((incarnation, n));
        }
        greetings
    }

    /// Incarnations to be refused now, and why.
    pub(crate) fn take_refusals(&mut self) -> BTreeMap<Incarnation, String> {
        std::mem::take(&mut self.refusals)
    }

    /// Has the workers greeted that may live beside `newcomer`.
    fn meet(&mut self, name: &WorkerName, newcomer: Incarnation) {
        let Some(namesakes) = self.workers.get_mut(name) else { return };
        let Some(since) = namesakes.get(&newcomer).map(|worker| worker.since) else { return };
        let (mut sooner, others): (Vec<_>, Vec<_>) = namesakes
            .iter()
            .filter(|(other, worker)| **other != newcomer && !worker.is_draining)
            .map(|(other, worker)| (*other, worker.since))
            .partition(|(_, others_since)| since < *others_since);
        if let Some(worker) = namesakes.get_mut(&newcomer) {
            worker.later.extend(sooner.drain(..).map(|(later, _)| (later, None)));
            if !worker.later.is_empty() {
                self.greetings.insert(newcomer, name.clone());
            }
        }
        for (earlier, _) in others {
            if let Some(worker) = namesakes.get_mut(&earlier) {
                worker.later.insert(newcomer, None);
                self.greetings.insert(earlier, name.clone());
            }
        }
    }

    fn refuse(
        &mut self,
        name: &WorkerName,
        earlier: Incarnation,
        proven: BTreeSet<Incarnation>,
        now: Timestamp,
    ) -> Vec<RefusedWorker> {
        let Some(namesakes) = self.workers.get_mut(name) else { return Vec::new() };
        let process = namesakes.get(&earlier).and_then(|worker| worker.process.clone());
        let place =
            process.map(|Process { host, pid }| format!(" on host {host} as process {pid},")).unwrap_or_default();
        let mut refused = Vec::new();
        for later in proven {
            let Some(worker) = namesakes.get_mut(&later) else { continue };
            if worker.is_draining || worker.refused.is_some() {
                continue;
            }
            let reason = format!("a worker named {name} runs already,{place} incarnation {earlier}");
            worker.refused = Some((reason.clone(), now));
            self.refusals.insert(later, reason.clone());
            refused.push(RefusedWorker { incarnation: later, reason });
        }
        refused
    }
}

#[cfg(test)]
mod tests;
