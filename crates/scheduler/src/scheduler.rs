//! The machine itself: every input, and what it changes.
//!
//! Read `handle` first; each arm is one function below it or in `heartbeat`. Every input ends with the ready actions
//! taking turns until no slot, no worker or no one waiting is left.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use slotline_protocol::message::{AttemptKey, EndReason, Failure, Json};
use slotline_protocol::{ActionId, Epoch, ExecutionId, Fence, Incarnation, OutcomeKind, Status, Timestamp, duration};

use crate::action::{Action, Executions};
use crate::deadline::{Deadlines, Timer};
use crate::effect::{
    Accepted, Announcement, AttemptEnded, Dispatch, Effects, Order, RefusedRequest, Sent, Settled, Unacceptable,
};
use crate::execution::{AtWork, Event, Execution, Leased, Phase, State, Verdict, judge, judge_loss, step};
use crate::input::{Input, Outcome, ProbedQueue, Token};
use crate::orders::Orders;
use crate::pool::Pools;
use crate::retry;
use crate::snapshot::{Lease, Snapshot};
use crate::worker::{Worker, Workers};

/// The lengths that decide when an incarnation is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Config {
    /// `L`: the silence after which an incarnation is lost, counted between probes.
    pub lease: Duration,
    /// `H`: the time between two heartbeats, and between two probes.
    pub heartbeat: Duration,
}

/// The next unused numbers; journaled with every batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Counters {
    pub next_id: i64,
    pub next_fence: i64,
    pub next_action: i64,
}

/// The scheduler of one epoch.
#[derive(Clone, Debug)]
pub struct Scheduler {
    pub(crate) config: Config,
    pub(crate) epoch: Epoch,
    /// The last number given to an order of this epoch.
    n: u64,
    pub(crate) counters: Counters,
    pub(crate) actions: BTreeMap<ActionId, Action>,
    pub(crate) executions: Executions,
    pub(crate) workers: Workers,
    pub(crate) ended: BTreeSet<Incarnation>,
    pub(crate) pools: Pools,
    pub(crate) deadlines: Deadlines,
    /// When the newest probe that came back from each queue was published.
    probed: BTreeMap<ProbedQueue, Timestamp>,
    next_probe: Option<Timestamp>,
    greet: bool,
    pub(crate) orders: Orders,
    pub(crate) effects: Effects,
}

impl Scheduler {
    /// An empty scheduler; `recovery` fills it.
    pub fn new(config: Config, epoch: Epoch, counters: Counters) -> Self {
        Self {
            config,
            epoch,
            n: 0,
            counters,
            actions: BTreeMap::new(),
            executions: Executions::new(),
            workers: Workers::new(),
            ended: BTreeSet::new(),
            pools: Pools::default(),
            deadlines: Deadlines::default(),
            probed: BTreeMap::new(),
            next_probe: None,
            greet: false,
            orders: Orders::default(),
            effects: Effects::default(),
        }
    }

    pub fn counters(&self) -> Counters {
        self.counters
    }

    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Takes the next unused action id.
    pub fn new_action_id(&mut self) -> ActionId {
        self.counters.next_action += 1;
        ActionId(self.counters.next_action - 1)
    }

    /// When `Ticked` is due next.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        self.deadlines.next()
    }

    /// Takes one happening at `now`. Its effects gather until [`Self::take_effects`].
    pub fn handle(&mut self, input: Input, now: Timestamp) {
        match input {
            Input::ActionPut { id, action_ref, limits, paused } => {
                let known = self.actions.contains_key(&id);
                let action =
                    self.actions.entry(id).or_insert_with(|| Action::new(id, action_ref, limits.clone(), paused));
                action.paused = paused;
                action.relimit(limits, &self.executions);
                if !known {
                    self.pools.admit(action, &self.workers);
                }
                self.rearm_queue_timeouts(id);
                self.offer(id);
            }
            Input::ActionDeleted { id } => {
                debug_assert!(!self.has_live(id), "the caller refuses to delete an action with live executions");
                if !self.has_live(id) {
                    self.actions.remove(&id);
                }
            }
            Input::Requested { token, action, key } => self.request(token, action, key, now),
            Input::CancelRequested { id, reason } => self.cancel(id, reason, now),
            Input::Heartbeat(heartbeat) => self.heartbeat(heartbeat, now),
            Input::Started { key, fence, started_at } => self.started(key, fence, started_at),
            Input::Completed { key, fence, incarnation, outcome } => {
                self.completed(key, fence, incarnation, outcome, now);
            }
            Input::Returned { key, fence, incarnation, started, reason } => {
                self.returned(key, fence, incarnation, started, &reason, now);
            }
            Input::IncarnationEnded { incarnation, reason } => {
                let charged = match reason {
                    EndReason::Drain | EndReason::Fence => false,
                    EndReason::Replaced => true,
                };
                self.lose(incarnation, charged, now);
            }
            Input::OrderReturned { incarnation } => {
                if let Some(worker) = self.workers.get_mut(&incarnation) {
                    worker.reachable = false;
                }
            }
            Input::Probed { queue, published_at } => {
                let newest = self.probed.entry(queue).or_insert(published_at);
                *newest = published_at.max(*newest);
                self.declare_losses(now);
            }
            Input::SessionOpened => {
                self.probed.clear();
                for worker in self.workers.values_mut() {
                    worker.silent_since = now;
                }
                self.greet = true;
                if let Some(at) = self.next_probe.replace(now) {
                    self.deadlines.clear(at, Timer::Probe);
                }
                self.deadlines.set(now, Timer::Probe);
            }
            Input::Ticked => {}
        }
        while let Some(timer) = self.deadlines.pop(now) {
            self.fire(timer, now);
        }
        self.grant(now);
    }

    /// What the world is owed since the last call. Numbers the orders; read changed executions with [`Self::snapshot`].
    pub fn take_effects(&mut self) -> Effects {
        if std::mem::take(&mut self.greet) {
            self.effects.hello = Some(self.next_n());
        }
        let orders = std::mem::take(&mut self.orders);
        for incarnation in orders.lost {
            self.send(incarnation, Order::Lost);
        }
        for (incarnation, attempts) in orders.recorded {
            self.send(incarnation, Order::Recorded { attempts: attempts.into_iter().collect() });
        }
        for id in orders.dispatch {
            self.send_dispatch(id);
        }
        for id in orders.cancel {
            self.send_cancel(id);
        }
        let mut effects = std::mem::take(&mut self.effects);
        effects.changed.retain(|id| self.executions.contains_key(id));
        effects
    }

    // ---- requests ----

    fn request(&mut self, token: Token, id: ActionId, key: Option<Arc<str>>, now: Timestamp) {
        let refuse = |reason| RefusedRequest { token, reason };
        let Some(action) = self.actions.get_mut(&id) else {
            self.effects.refused.push(refuse(Unacceptable::UnknownAction));
            return;
        };
        if let Some(max_queue_length) = action.limits.max_queue_length
            && action.queue_length() as u64 >= max_queue_length
        {
            self.effects.refused.push(refuse(Unacceptable::LineFull { max_queue_length }));
            return;
        }
        action.total_enqueued += 1;
        let execution_id = ExecutionId(self.counters.next_id);
        self.counters.next_id += 1;
        let execution = Execution {
            action: id,
            key,
            place: execution_id.0,
            attempt: 0,
            failures: 0,
            losses: 0,
            enqueued_at: now,
            queued_at: now,
            state: State::Waiting { keeps_slot: false },
        };
        self.executions.insert(execution_id, execution);
        self.announce_move(execution_id, Status::Requested, Status::Queued, now);
        let position = self.join_line(execution_id, now);
        self.effects.accepted.push(Accepted { token, id: execution_id, position });
    }

    /// Puts a waiting execution into its line and arms its queue time-out.
    fn join_line(&mut self, id: ExecutionId, now: Timestamp) -> u64 {
        let Some(execution) = self.executions.get_mut(&id) else { return 0 };
        execution.queued_at = now;
        let Some(action) = self.actions.get_mut(&execution.action) else { return 0 };
        let execution = &self.executions[&id];
        let position = action.enqueue(id, execution, &self.executions) as u64;
        if let Some(timeout) = action.limits.queue_timeout {
            self.deadlines.set(now + timeout, Timer::QueueTimeout(id));
        }
        self.pools.offer(action);
        self.effects.changed.insert(id);
        position
    }

    fn cancel(&mut self, id: ExecutionId, reason: Option<String>, now: Timestamp) {
        let Some(execution) = self.executions.get_mut(&id) else { return };
        let from = execution.status();
        match step(execution.phase(), Event::CancelAsked) {
            Ok(Phase::Done(status)) => {
                let because = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
                let message = format!("was cancelled in the line{because}");
                self.settle_waiting(id, status, "cancelled", &message, now);
            }
            Ok(Phase::Cancelling) if from != Status::Cancelling => {
                if let Some(leased) = execution.leased_mut() {
                    leased.at_work = AtWork::Cancelling { n: 0, reason };
                }
                self.orders.cancel.push(id);
                self.effects.changed.insert(id);
                self.announce_move(id, from, Status::Cancelling, now);
            }
            // It is being cancelled already; heartbeats see to it that the worker knows.
            Ok(Phase::Cancelling) => {}
            Ok(phase @ (Phase::Waiting | Phase::BackingOff | Phase::Scheduled | Phase::Running)) => {
                debug_assert!(false, "a cancellation never leads to {phase:?}");
            }
            Err(illegal) => debug_assert!(false, "{illegal}"),
        }
    }

    // ---- attempts ----

    fn started(&mut self, key: AttemptKey, fence: Fence, started_at: Timestamp) {
        let (id, _) = key;
        let Some(leased) = self.leased_by(key, fence) else { return };
        if leased.started_at.is_none() {
            leased.started_at = Some(started_at);
            if leased.at_work == AtWork::Scheduled {
                leased.at_work = AtWork::Running;
            }
            self.effects.changed.insert(id);
        }
    }

    fn completed(&mut self, key: AttemptKey, fence: Fence, incarnation: Incarnation, outcome: Outcome, now: Timestamp) {
        self.heard_from(incarnation, now);
        // Whether it counts or is stale, the worker may forget it once this batch is committed.
        self.orders.recorded(incarnation, key);
        if let Some(leased) = self.leased_by(key, fence) {
            leased.started_at = outcome.started_at.or(leased.started_at);
            self.end_attempt(key.0, outcome, now);
        }
    }

    fn returned(
        &mut self,
        key: AttemptKey,
        fence: Fence,
        incarnation: Incarnation,
        started: bool,
        reason: &str,
        now: Timestamp,
    ) {
        self.heard_from(incarnation, now);
        self.orders.recorded(incarnation, key);
        if self.leased_by(key, fence).is_none() {
            return;
        }
        if reason == "unknown_action" {
            self.disown(incarnation, key.0);
        }
        if started {
            self.lose_attempt(key.0, false, "was handed back by its worker", now);
        } else if let Some(execution) = self.executions.get_mut(&key.0) {
            // It never began, so its number is not used up.
            execution.attempt -= 1;
            self.conclude(key.0, Verdict::Requeue, None, None, now, now);
        }
    }

    /// The lease of this very grant, if it is live.
    fn leased_by(&mut self, (id, attempt): AttemptKey, fence: Fence) -> Option<&mut Leased> {
        let execution = self.executions.get_mut(&id).filter(|execution| execution.attempt == attempt)?;
        execution.leased_mut().filter(|leased| leased.fence == fence)
    }

    fn end_attempt(&mut self, id: ExecutionId, outcome: Outcome, now: Timestamp) {
        let Some(execution) = self.executions.get_mut(&id) else { return };
        let Some(action) = self.actions.get(&execution.action) else { return };
        if matches!(outcome.kind, OutcomeKind::Failed | OutcomeKind::Timeout) {
            execution.failures += 1;
        }
        let verdict = judge(outcome.kind, execution.failures, &action.limits);
        let Outcome { kind, result, error, ended_at, .. } = outcome;
        self.log_attempt(id, kind, error.clone(), ended_at, verdict);
        self.conclude(id, verdict, result, error, ended_at, now);
    }

    /// The lease ended without the worker's outcome.
    pub(crate) fn lose_attempt(&mut self, id: ExecutionId, charged: bool, how: &str, now: Timestamp) {
        let Some(execution) = self.executions.get_mut(&id) else { return };
        let Some(action) = self.actions.get(&execution.action) else { return };
        execution.losses += u32::from(charged);
        let verdict = judge_loss(execution.losses, &action.limits);
        let worker = execution.leased().and_then(|leased| self.workers.get(&leased.worker));
        let name = worker.map_or("unknown", |worker| worker.name.as_str());
        let attempt = execution.attempt;
        let message = format!("Execution {id} ({}): attempt {attempt} on worker {name} {how}", action.action_ref);
        let error = Some(Failure::new("worker_lost", message));
        self.log_attempt(id, OutcomeKind::Lost, error.clone(), now, verdict);
        self.conclude(id, verdict, None, error, now, now);
    }

    /// Keeps a record of an attempt that does not settle its execution.
    fn log_attempt(
        &mut self,
        id: ExecutionId,
        outcome: OutcomeKind,
        error: Option<Failure>,
        ended_at: Timestamp,
        verdict: Verdict,
    ) {
        let Some(execution) = self.executions.get(&id) else { return };
        let settles = matches!(step(execution.phase(), Event::AttemptEnded(verdict)), Ok(Phase::Done(_)));
        if let (false, Some(lease)) = (settles, self.lease(execution)) {
            self.effects.attempts.push(AttemptEnded {
                id,
                attempt: execution.attempt,
                lease,
                outcome,
                error,
                ended_at,
            });
        }
    }

    /// Ends the lease of `id` and moves the execution on as `verdict` says. `ended_at` is the worker's stamp, if it gave one.
    fn conclude(
        &mut self,
        id: ExecutionId,
        verdict: Verdict,
        result: Option<Json>,
        error: Option<Failure>,
        ended_at: Timestamp,
        now: Timestamp,
    ) {
        let Some(execution) = self.executions.get(&id) else { return };
        let from = execution.status();
        let next = match step(execution.phase(), Event::AttemptEnded(verdict)) {
            Ok(next) => next,
            Err(illegal) => {
                debug_assert!(false, "{illegal}");
                return;
            }
        };
        let lease = self.lease(execution);
        if let Some(leased) = execution.leased()
            && let Some(worker) = self.workers.get_mut(&leased.worker)
        {
            worker.leases.remove(&id);
        }
        let (action_id, key) = (execution.action, execution.key.clone());
        let Some(action) = self.actions.get_mut(&action_id) else { return };
        let retry = action.limits.retry;
        let keeps_slot = next == Phase::BackingOff && retry.keep_place;
        if !keeps_slot {
            action.free_slot(id, &key);
        }
        match next {
            Phase::Done(status) => self.settle(id, status, from, lease, result, error, ended_at, now),
            Phase::BackingOff => {
                let Some(execution) = self.executions.get_mut(&id) else { return };
                let until = now + retry::backoff(&retry, id, execution.failures);
                execution.state = State::BackingOff { until, keeps_slot };
                if !keeps_slot {
                    execution.place = self.counters.next_id;
                    self.counters.next_id += 1;
                    if let Some(action) = self.actions.get_mut(&action_id) {
                        action.backing_off.insert(id);
                    }
                }
                self.deadlines.set(until, Timer::BackoffOver(id));
                self.effects.changed.insert(id);
                self.announce_move(id, from, Status::Queued, now);
            }
            Phase::Waiting => {
                if let Some(execution) = self.executions.get_mut(&id) {
                    execution.state = State::Waiting { keeps_slot: false };
                }
                self.join_line(id, now);
                self.announce_move(id, from, Status::Queued, now);
            }
            Phase::Scheduled | Phase::Running | Phase::Cancelling => {
                debug_assert!(false, "an attempt that ended is not at work");
            }
        }
        self.offer(action_id);
    }

    /// Settles an execution that holds no lease.
    fn settle_waiting(&mut self, id: ExecutionId, status: Status, code: &str, what: &str, now: Timestamp) {
        let Some(execution) = self.executions.get(&id) else { return };
        let (from, action_id, key) = (execution.status(), execution.action, execution.key.clone());
        let Some(action) = self.actions.get_mut(&action_id) else { return };
        action.withdraw(id, execution, &self.executions);
        action.free_slot(id, &key);
        let error = Failure::new(code, format!("Execution {id} ({}) {what}", action.action_ref));
        self.settle(id, status, from, None, None, Some(error), now, now);
        self.offer(action_id);
    }

    #[expect(clippy::too_many_arguments, reason = "everything a terminal status is recorded with")]
    fn settle(
        &mut self,
        id: ExecutionId,
        status: Status,
        from: Status,
        lease: Option<Lease>,
        result: Option<Json>,
        error: Option<Failure>,
        ended_at: Timestamp,
        now: Timestamp,
    ) {
        self.announce_move(id, from, status, now);
        let Some(execution) = self.executions.remove(&id) else { return };
        let Some(action) = self.actions.get_mut(&execution.action) else { return };
        action.total_completed += 1;
        let error = match status {
            Status::Completed => None,
            Status::Cancelled if error.is_none() => {
                Some(Failure::new("cancelled", format!("Execution {id} ({}) was cancelled", action.action_ref)))
            }
            Status::Requested
            | Status::Queued
            | Status::Scheduled
            | Status::Running
            | Status::Cancelling
            | Status::Failed
            | Status::Timeout
            | Status::Cancelled => error,
        };
        self.effects.settled.push(Settled {
            id,
            action: execution.action,
            action_ref: action.action_ref.clone(),
            status,
            attempt: execution.attempt,
            failures: execution.failures,
            losses: execution.losses,
            lease,
            result,
            error,
            ended_at,
        });
    }

    // ---- workers ----

    pub(crate) fn heard_from(&mut self, incarnation: Incarnation, now: Timestamp) {
        if let Some(worker) = self.workers.get_mut(&incarnation) {
            worker.silent_since = now;
        }
    }

    /// The incarnation is over: nothing of it runs, or by the probes its fence has fallen.
    fn lose(&mut self, incarnation: Incarnation, charged: bool, now: Timestamp) {
        let Some(worker) = self.workers.get_mut(&incarnation) else { return };
        let leases = std::mem::take(&mut worker.leases);
        let name = worker.name.clone();
        for id in leases {
            self.lose_attempt(id, charged, "was lost with it", now);
        }
        self.workers.remove(&incarnation);
        self.ended.insert(incarnation);
        self.effects.ended_incarnations.push((incarnation, name));
        self.rebuild_pools();
    }

    /// An incarnation is lost once a probe published `lease` after its last message came back from both queues: what
    /// the worker had got confirmed before the probe would have come out before it.
    fn declare_losses(&mut self, now: Timestamp) {
        let probed = |queue| self.probed.get(&queue).copied();
        let (Some(completions), Some(heartbeats)) = (probed(ProbedQueue::Completions), probed(ProbedQueue::Heartbeats))
        else {
            return;
        };
        let proven = completions.min(heartbeats);
        let lease = self.config.lease;
        let silent = |worker: &Worker| worker.silent_since + lease <= proven;
        let lost: Vec<_> = self.workers.iter().filter(|(_, worker)| silent(worker)).map(|(id, _)| *id).collect();
        for incarnation in lost {
            self.lose(incarnation, true, now);
        }
    }

    pub(crate) fn rebuild_pools(&mut self) {
        self.pools.rebuild(&mut self.actions, &self.workers);
    }

    fn disown(&mut self, incarnation: Incarnation, id: ExecutionId) {
        let action = self.executions.get(&id).and_then(|execution| self.actions.get(&execution.action));
        if let (Some(action), Some(worker)) = (action, self.workers.get_mut(&incarnation))
            && worker.disowned.insert(action.action_ref.clone())
        {
            self.rebuild_pools();
        }
    }

    // ---- grants ----

    fn offer(&mut self, id: ActionId) {
        if let Some(action) = self.actions.get_mut(&id) {
            self.pools.offer(action);
        }
    }

    /// Gives free slots to whose turn it is, as long as workers have room.
    fn grant(&mut self, now: Timestamp) {
        while let Some((action_id, worker)) = self.pools.next(&self.workers) {
            let Some(action) = self.actions.get_mut(&action_id) else { continue };
            action.in_turn = false;
            if action.has_next()
                && let Some(id) = action.pop_next()
            {
                self.lease_out(id, worker, now);
            }
            self.offer(action_id);
        }
    }

    fn lease_out(&mut self, id: ExecutionId, incarnation: Incarnation, now: Timestamp) {
        let Some(execution) = self.executions.get_mut(&id) else { return };
        debug_assert_eq!(step(execution.phase(), Event::Granted), Ok(Phase::Scheduled));
        if let Some(timeout) = self.actions.get(&execution.action).and_then(|action| action.limits.queue_timeout) {
            self.deadlines.clear(execution.queued_at + timeout, Timer::QueueTimeout(id));
        }
        execution.attempt += 1;
        execution.state = State::Leased(Box::new(Leased {
            worker: incarnation,
            fence: Fence(self.counters.next_fence),
            n: 0,
            sent_at: now,
            scheduled_at: now,
            started_at: None,
            at_work: AtWork::Scheduled,
        }));
        self.counters.next_fence += 1;
        if let Some(worker) = self.workers.get_mut(&incarnation) {
            worker.leases.insert(id);
        }
        self.orders.dispatch.push(id);
        self.effects.changed.insert(id);
        self.announce_move(id, Status::Queued, Status::Scheduled, now);
    }

    fn next_n(&mut self) -> u64 {
        self.n += 1;
        self.n
    }

    fn send(&mut self, incarnation: Incarnation, order: Order) {
        let n = self.next_n();
        self.effects.orders.push(Sent { incarnation, n, order });
    }

    fn send_dispatch(&mut self, id: ExecutionId) {
        let n = self.n + 1;
        let Some(execution) = self.executions.get_mut(&id) else { return };
        let (attempt, action) = (execution.attempt, execution.action);
        let Some(action_ref) = self.actions.get(&action).map(|action| action.action_ref.clone()) else { return };
        let Some(leased) = execution.leased_mut() else { return };
        leased.n = n;
        let (incarnation, fence, scheduled_at) = (leased.worker, leased.fence, leased.scheduled_at);
        self.send(incarnation, Order::Dispatch(Dispatch { id, attempt, fence, action, action_ref, scheduled_at }));
    }

    fn send_cancel(&mut self, id: ExecutionId) {
        let new = self.n + 1;
        let Some(execution) = self.executions.get_mut(&id) else { return };
        let key = (id, execution.attempt);
        let Some(leased) = execution.leased_mut() else { return };
        let (incarnation, fence) = (leased.worker, leased.fence);
        let AtWork::Cancelling { n, reason } = &mut leased.at_work else { return };
        *n = new;
        let reason = reason.clone();
        self.send(incarnation, Order::Cancel { key, fence, reason });
    }

    // ---- time ----

    fn fire(&mut self, timer: Timer, now: Timestamp) {
        match timer {
            Timer::Probe => {
                self.effects.probe = true;
                let next = now + self.config.heartbeat;
                self.next_probe = Some(next);
                self.deadlines.set(next, Timer::Probe);
            }
            Timer::BackoffOver(id) => self.backoff_over(id, now),
            Timer::QueueTimeout(id) => self.queue_timed_out(id, now),
        }
    }

    fn backoff_over(&mut self, id: ExecutionId, now: Timestamp) {
        let Some(execution) = self.executions.get_mut(&id) else { return };
        let State::BackingOff { until, keeps_slot } = execution.state else { return };
        if until > now {
            return;
        }
        debug_assert_eq!(step(execution.phase(), Event::BackoffOver), Ok(Phase::Waiting));
        execution.state = State::Waiting { keeps_slot };
        let action_id = execution.action;
        let Some(action) = self.actions.get_mut(&action_id) else { return };
        action.backing_off.remove(&id);
        if keeps_slot {
            action.resume(id);
            self.effects.changed.insert(id);
        } else {
            self.join_line(id, now);
        }
        self.offer(action_id);
    }

    fn queue_timed_out(&mut self, id: ExecutionId, now: Timestamp) {
        let Some(execution) = self.executions.get(&id) else { return };
        let Some(timeout) = self.actions.get(&execution.action).and_then(|action| action.limits.queue_timeout) else {
            return;
        };
        let waits = execution.state == (State::Waiting { keeps_slot: false });
        if waits && execution.queued_at + timeout <= now {
            let length = duration::format(timeout);
            let what = format!("has timed out because it was waiting in the line longer than {length}.");
            self.settle_waiting(id, Status::Timeout, "queue_timeout", &what, now);
        }
    }

    /// Arms the queue time-out of everyone who waits, after a change of policy.
    pub(crate) fn rearm_queue_timeouts(&mut self, id: ActionId) {
        let Some(action) = self.actions.get(&id) else { return };
        let Some(timeout) = action.limits.queue_timeout else { return };
        for waiting in action.lines.values().flat_map(crate::line::Line::iter) {
            if let Some(execution) = self.executions.get(&waiting) {
                self.deadlines.set(execution.queued_at + timeout, Timer::QueueTimeout(waiting));
            }
        }
    }

    // ---- what is told ----

    fn announce_move(&mut self, id: ExecutionId, from: Status, to: Status, at: Timestamp) {
        let Some(execution) = self.executions.get(&id) else { return };
        let Some(action) = self.actions.get(&execution.action) else { return };
        let worker = execution.leased().and_then(|leased| self.workers.get(&leased.worker));
        self.effects.announcements.push(Announcement {
            id,
            action_ref: action.action_ref.clone(),
            attempt: execution.attempt,
            worker: worker.map(|worker| worker.name.clone()),
            from,
            to,
            at,
        });
    }

    fn lease(&self, execution: &Execution) -> Option<Lease> {
        let leased = execution.leased()?;
        Some(Lease {
            worker: self.workers.get(&leased.worker)?.name.clone(),
            incarnation: leased.worker,
            fence: leased.fence,
            scheduled_at: leased.scheduled_at,
            started_at: leased.started_at,
        })
    }

    /// What the journal keeps of a live execution.
    pub fn snapshot(&self, id: ExecutionId) -> Option<Snapshot> {
        let execution = self.executions.get(&id)?;
        let (not_before, keeps_slot) = match execution.state {
            State::Waiting { keeps_slot } => (None, keeps_slot),
            State::BackingOff { until, keeps_slot } => (Some(until), keeps_slot),
            State::Leased(_) => (None, false),
        };
        Some(Snapshot {
            id,
            action: execution.action,
            key: execution.key.clone(),
            status: execution.status(),
            place: execution.place,
            attempt: execution.attempt,
            failures: execution.failures,
            losses: execution.losses,
            enqueued_at: execution.enqueued_at,
            queued_at: execution.queued_at,
            not_before,
            keeps_slot,
            cancel_requested: execution.phase() == Phase::Cancelling,
            lease: self.lease(execution),
        })
    }
}
