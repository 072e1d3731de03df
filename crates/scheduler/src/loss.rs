//! The end of incarnations, by their own report or by proof of their silence, and what becomes of what they held.
//!
//! Silence is never counted in seconds alone: an incarnation is lost once a probe that was published a whole lease
//! after its last message has come back from both queues, since every message of it that was confirmed would have come
//! out before.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use slotline_protocol::message::{EndReason, Failure};
use slotline_protocol::{ExecutionId, Incarnation, OutcomeKind, Timestamp, WorkerName};

use crate::attempt::EndDetails;
use crate::deadline::Timer;
use crate::effect::{Departed, Departure};
use crate::execution::judge_loss;
use crate::input::ProbedQueue;
use crate::scheduler::Scheduler;
use crate::state::{Consequence, StateKind};
use crate::worker::Worker;

/// The most ended incarnations that are remembered; the longest gone is forgotten first.
const ENDED_MAX: usize = 100_000;
/// After how many heartbeats' time a worker is silent: two, and some for the second to be on its way.
const SILENT_AFTER: f64 = 2.5;

/// Incarnations that are over for ever.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct EndedIncarnations {
    known: BTreeSet<Incarnation>,
    by_age: VecDeque<Incarnation>,
}

impl EndedIncarnations {
    pub(crate) fn insert(&mut self, incarnation: Incarnation) {
        if self.known.insert(incarnation) {
            self.by_age.push_back(incarnation);
        }
        if self.by_age.len() > ENDED_MAX
            && let Some(oldest) = self.by_age.pop_front()
        {
            self.known.remove(&oldest);
        }
    }

    pub(crate) fn contains(&self, incarnation: Incarnation) -> bool {
        self.known.contains(&incarnation)
    }
}

/// The probes of this session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Probes {
    /// When the newest probe that came back from each queue was published.
    back: BTreeMap<ProbedQueue, Timestamp>,
    next: Option<Timestamp>,
}

impl Probes {
    /// When the next probe is due; `None` without a session.
    pub(crate) fn next(&self) -> Option<Timestamp> {
        self.next
    }

    /// Everything that was published before this has come out of both queues.
    fn proven(&self) -> Option<Timestamp> {
        let back = |queue| self.back.get(&queue).copied();
        Some(back(ProbedQueue::Completions)?.min(back(ProbedQueue::Heartbeats)?))
    }
}

impl Scheduler {
    pub(crate) fn session_opened(&mut self, now: Timestamp) {
        for worker in self.workers.values_mut() {
            worker.silent_since = now;
        }
        self.orders.greet = true;
        self.doubt_from(now);
        if let Some(at) = self.probes.next {
            self.deadlines.clear(at, Timer::Probe);
        }
        self.probes = Probes { back: BTreeMap::new(), next: Some(now) };
        self.deadlines.set(now, Timer::Probe);
    }

    pub(crate) fn probe(&mut self, now: Timestamp) {
        self.effects.probe = true;
        let next = now + self.config.heartbeat;
        self.probes.next = Some(next);
        self.deadlines.set(next, Timer::Probe);
    }

    pub(crate) fn probed(&mut self, queue: ProbedQueue, published_at: Timestamp, now: Timestamp) {
        let newest = self.probes.back.entry(queue).or_insert(published_at);
        *newest = published_at.max(*newest);
        // The first probe of a session has come out of one queue only.
        let Some(proven) = self.probes.proven() else { return };
        let silent = self.workers.iter().filter(|(_, worker)| worker.silent_since + self.lease_of(worker) <= proven);
        for incarnation in silent.map(|(incarnation, _)| *incarnation).collect::<Vec<_>>() {
            // Of a journal that went back: the incarnation may have ended in the time that is missing.
            self.lose(incarnation, Departure::Silent, !self.is_in_doubt(), now);
        }
        self.doubt_until(proven);
    }

    /// Takes the longest lease of earlier leaders that a worker may still go by. Until it has seen this leader's
    /// greeting, it ends its attempts no sooner than by the fence of that lease.
    pub fn inherit_lease(&mut self, lease: Duration) {
        self.former_lease = lease;
    }

    fn lease_of(&self, worker: &Worker) -> Duration {
        if worker.knows_terms { self.config.lease } else { self.config.lease.max(self.former_lease) }
    }

    /// Whether two heartbeats of the worker in a row are missing, by the proof that a loss has: every message of it
    /// that was confirmed by then would have come out before the probes.
    pub(crate) fn is_silent(&self, worker: &Worker) -> bool {
        let overdue = worker.silent_since + self.config.heartbeat.mul_f64(SILENT_AFTER);
        self.probes.proven().is_some_and(|proven| overdue <= proven)
    }

    /// Reports, once, that no worker is left that holds a lease under the terms of an earlier leader.
    pub(crate) fn note_terms(&mut self) {
        let is_known = self.workers.values().all(|worker| worker.knows_terms || worker.is_idle());
        if is_known && self.former_lease > self.config.lease {
            self.former_lease = Duration::ZERO;
            self.effects.terms_are_known = true;
        }
    }

    pub(crate) fn heard_from(&mut self, incarnation: Incarnation, now: Timestamp) {
        if let Some(worker) = self.workers.get_mut(&incarnation) {
            worker.silent_since = now;
        }
    }

    pub(crate) fn incarnation_ended(&mut self, incarnation: Incarnation, reason: EndReason, now: Timestamp) {
        let charged = match reason {
            EndReason::Drain | EndReason::Fence => false,
            EndReason::Replaced => true,
        };
        self.lose(incarnation, reason.into(), charged, now);
        self.ended.insert(incarnation);
    }

    /// The worker that an incarnation is of, by its first heartbeat or by the journal.
    pub fn name_of(&self, incarnation: Incarnation) -> Option<&WorkerName> {
        self.workers.get(&incarnation).map(|worker| &worker.name)
    }

    /// The queue of the incarnation could not be reached. That ends nothing; its next heartbeat shows it reachable.
    pub(crate) fn order_returned(&mut self, incarnation: Incarnation) {
        if let Some(worker) = self.workers.get_mut(&incarnation) {
            worker.reachable = false;
        }
        self.update_room(incarnation);
    }

    /// The incarnation is over: nothing of it runs, or by the probes its fence has fallen.
    fn lose(&mut self, incarnation: Incarnation, how: Departure, charged: bool, now: Timestamp) {
        // It is over already, or unknown to this leader, and holds nothing.
        let Some(worker) = self.workers.get(&incarnation) else { return };
        let name = worker.name.clone();
        let ahead = worker.ahead.clone();
        let lost: Vec<_> = worker.leases.iter().copied().collect();
        for id in &lost {
            self.lose_attempt(*id, charged, "was lost with it", now);
        }
        for id in ahead {
            if self.executions.live(id).kind() == StateKind::Ahead {
                self.take_back(id);
            } else {
                self.lose_attempt(id, false, "was lost with it", now);
            }
        }
        self.workers.remove(&incarnation);
        self.pools.dismiss_worker(incarnation, &mut self.actions);
        self.ended.insert(incarnation);
        self.effects.ended_incarnations.push(Departed { incarnation, worker: name, how, lost });
    }

    /// The lease ended without an outcome that its worker reported.
    pub(crate) fn lose_attempt(&mut self, id: ExecutionId, charged: bool, how: &str, now: Timestamp) {
        let execution = self.executions.live_mut(id);
        let action = self.actions.of(execution);
        let verdict = if charged {
            execution.losses += 1;
            judge_loss(execution.losses, &action.limits)
        } else {
            Consequence::Requeue
        };
        let worker = execution.assignment().and_then(|assignment| self.workers.get(&assignment.worker));
        let name = worker.map_or("unknown", |worker| worker.name.as_str());
        let attempt = execution.counts_as();
        let message = format!("Execution {id} ({}): attempt {attempt} on worker {name} {how}", action.action_ref);
        let ending = EndDetails::without_result(Some(Failure::new("worker_lost", message)), now);
        self.conclude(id, verdict, Some(OutcomeKind::Lost), ending, now);
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn incarnation(number: usize) -> Incarnation {
        Incarnation(Uuid::from_u128(number as u128))
    }

    #[test]
    fn of_too_many_ended_the_longest_gone_is_forgotten() {
        let mut ended = EndedIncarnations::default();
        (0..ENDED_MAX).for_each(|number| ended.insert(incarnation(number)));
        ended.insert(incarnation(0));
        assert!((0..ENDED_MAX).all(|number| ended.contains(incarnation(number))));
        ended.insert(incarnation(ENDED_MAX));
        assert!(!ended.contains(incarnation(0)));
        assert!((1..=ENDED_MAX).all(|number| ended.contains(incarnation(number))));
    }
}
