//! What happens to the reference: inputs, time, and the grants that it is shown.

use std::collections::BTreeSet;
use std::time::Duration;

use slotline_protocol::message::{AttemptKey, EndReason, Heartbeat, Holding};
use slotline_protocol::{ActionId, ExecutionId, Fence, Incarnation, OutcomeKind, Status, Timestamp};
use slotline_scheduler::Input;

use super::{Action, Execution, Reference, State, Worker};
use crate::world::HEARTBEAT;

impl Reference {
    /// Applies what an input changes before anything is granted. Losses by silence come in by `lose`.
    pub(crate) fn hear(&mut self, input: &Input) {
        match input {
            Input::ActionPut { id, action_ref, limits, paused } => {
                let new = || Action {
                    action_ref: action_ref.clone(),
                    limits: limits.clone(),
                    paused: *paused,
                    enqueued: 0,
                    completed: 0,
                };
                let action = self.actions.entry(*id).or_insert_with(new);
                (action.limits, action.paused) = (limits.clone(), *paused);
                self.shed(*id);
            }
            Input::ActionDeleted { id } => {
                self.actions.remove(id);
            }
            Input::Requested { action: id, key, .. } => {
                let full = |max| self.queue_length(*id) as u64 >= max;
                let action = &self.actions[id];
                if action.limits.max_queue_length.is_some_and(full) {
                    return;
                }
                let place = self.new_place();
                let execution = Execution {
                    action: *id,
                    key: key.clone(),
                    place,
                    attempt: 0,
                    failures: 0,
                    losses: 0,
                    enqueued_at: self.now,
                    queued_at: self.now,
                    state: State::InLine,
                };
                self.live.insert(ExecutionId(place), execution);
                self.action(*id).enqueued += 1;
            }
            Input::CancelRequested { id, .. } => match self.live.get_mut(id).map(|one| &mut one.state) {
                Some(State::Out { at_work, .. }) => *at_work = Status::Cancelling,
                Some(State::InLine | State::Resuming | State::BackingOff { .. }) => self.settle(*id, Status::Cancelled),
                None => {}
            },
            Input::Heartbeat(heartbeat) => self.heartbeat(heartbeat),
            Input::Started { key, fence, .. } => self.started(*key, *fence),
            Input::Completed { key, fence, outcome, .. } => {
                let Some(one) = self.live.get_mut(&key.0).filter(|one| one.is_out(*key, *fence)) else { return };
                one.failures += u32::from(matches!(outcome.kind, OutcomeKind::Failed | OutcomeKind::Timeout));
                let may_retry = one.failures < self.actions[&one.action].limits.retry.max_attempts;
                let cancelling = one.status() == Status::Cancelling;
                match outcome.kind {
                    OutcomeKind::Completed => self.settle(key.0, Status::Completed),
                    OutcomeKind::Cancelled => self.settle(key.0, Status::Cancelled),
                    OutcomeKind::Failed | OutcomeKind::Timeout if cancelling => self.settle(key.0, Status::Cancelled),
                    OutcomeKind::Failed | OutcomeKind::Timeout if may_retry => self.back_off(key.0),
                    OutcomeKind::Failed => self.settle(key.0, Status::Failed),
                    OutcomeKind::Timeout => self.settle(key.0, Status::Timeout),
                    OutcomeKind::Lost => unreachable!("no worker says so"),
                }
            }
            Input::Returned { key, fence, incarnation, reason, .. } => {
                let Some(one) = self.live.get(&key.0).filter(|one| one.is_out(*key, *fence)) else { return };
                let action_ref = self.actions[&one.action].action_ref.clone();
                if let Some(worker) = self.workers.get_mut(incarnation) {
                    worker.draining |= reason == "drain";
                    if reason == "unknown_action" {
                        worker.offered.remove(&action_ref);
                    }
                }
                self.requeue(key.0);
            }
            Input::IncarnationEnded { incarnation, reason } => {
                self.lose(*incarnation, *reason == EndReason::Replaced);
                self.ended.insert(*incarnation);
            }
            Input::OrderReturned { incarnation } => {
                if let Some(worker) = self.workers.get_mut(incarnation) {
                    worker.reachable = false;
                }
            }
            Input::SessionOpened => self.next_probe = self.now,
            Input::Probed { .. } | Input::Ticked => {}
        }
    }

    /// Applies what is due by now.
    pub(crate) fn fire(&mut self) {
        if self.next_probe <= self.now {
            self.next_probe = self.now + HEARTBEAT;
        }
        let mut due: Vec<_> = self
            .live
            .iter()
            .filter_map(|(id, one)| match one.state {
                State::BackingOff { until: Some(until), keeps_slot } => Some((until, *id, keeps_slot)),
                State::BackingOff { until: None, .. } | State::InLine | State::Resuming | State::Out { .. } => None,
            })
            .filter(|(until, _, _)| *until <= self.now)
            .collect();
        due.sort_unstable();
        for (_, id, keeps_slot) in due {
            if keeps_slot {
                let one = self.live.get_mut(&id).expect("live");
                one.state = State::Resuming;
                let action = one.action;
                self.shed(action);
            } else {
                self.join_line(id);
            }
        }
        let timed_out: Vec<_> = self
            .live
            .iter()
            .filter(|(_, one)| one.state == State::InLine)
            .filter(|(_, one)| {
                let timeout = self.actions[&one.action].limits.queue_timeout;
                timeout.is_some_and(|timeout| one.queued_at + timeout <= self.now)
            })
            .map(|(id, _)| *id)
            .collect();
        for id in timed_out {
            self.settle(id, Status::Timeout);
        }
    }

    /// Checks a grant that the scheduler made.
    pub(crate) fn grant(&mut self, (id, attempt): AttemptKey, fence: Fence, worker: Incarnation) {
        assert!(self.is_ready(id), "{id} is not next: {:?}", self.live[&id]);
        let one = &self.live[&id];
        let resumes = self.live.values().any(|other| other.action == one.action && other.state == State::Resuming);
        assert!(one.state == State::Resuming || !resumes, "who kept its slot goes before {id}");
        let load = self.load(worker, one.action).expect("a worker that serves it and has room");
        for other in self.workers.keys() {
            if let Some(less) = self.load(*other, one.action) {
                let share = |one: (usize, u32), other: (usize, u32)| one.0 * other.1 as usize;
                assert!(share(load, less) <= share(less, load), "{other} is less loaded than {worker}");
            }
        }
        assert_eq!(attempt, one.attempt + 1, "every grant has a number of its own");
        let one = self.live.get_mut(&id).expect("live");
        one.attempt = attempt;
        one.state = State::Out { worker, fence, at_work: Status::Scheduled };
        let (of_action, of_line) = self.stands(&self.live[&id]);
        assert!(of_action.is_le() && of_line.is_le(), "{id} is one too many");
    }

    /// Checks that the time that the scheduler chose for `id` to back off is within bounds.
    pub(crate) fn backs_off(&mut self, id: ExecutionId, until: Timestamp) {
        let Some(one) = self.live.get_mut(&id) else { return };
        let retry = self.actions[&one.action].limits.retry;
        if let State::BackingOff { until: unknown @ None, .. } = &mut one.state {
            let base = retry.backoff.saturating_mul(1 << (one.failures - 1).min(20)).min(retry.backoff_max);
            let wait = until.since(self.now);
            assert!(wait >= base && wait <= base + base / 5 + Duration::from_micros(1), "{wait:?} for {base:?}");
            *unknown = Some(until);
        }
    }

    pub(crate) fn lose(&mut self, incarnation: Incarnation, charged: bool) {
        if self.workers.remove(&incarnation).is_none() {
            return;
        }
        self.ended.insert(incarnation);
        for id in self.leases_of(incarnation) {
            let one = self.live.get_mut(&id).expect("it has a lease");
            one.losses += u32::from(charged);
            let too_many = charged && one.losses > self.actions[&one.action].limits.max_lost_attempts;
            if one.status() != Status::Cancelling && too_many {
                self.settle(id, Status::Failed);
            } else {
                self.requeue(id);
            }
        }
    }

    /// A new leader knows no worker but by the leases it holds.
    pub(crate) fn change_leader(&mut self, ended: &[Incarnation]) {
        self.ended = ended.iter().copied().collect();
        self.workers.clear();
        for one in self.live.values() {
            if let State::Out { worker, .. } = one.state {
                self.workers.insert(worker, Worker::default());
            }
        }
        let actions: Vec<_> = self.actions.keys().copied().collect();
        for action in actions {
            self.shed(action);
        }
    }

    fn heartbeat(&mut self, heartbeat: &Heartbeat) {
        if self.ended.contains(&heartbeat.incarnation) {
            return;
        }
        let listed: BTreeSet<_> = heartbeat.actions.iter().map(|served| served.action_ref.clone()).collect();
        let worker = self.workers.entry(heartbeat.incarnation).or_default();
        if !worker.introduced || worker.listed != listed {
            worker.offered = listed.clone();
            worker.listed = listed;
        }
        worker.introduced = true;
        worker.reachable = true;
        worker.capacity = heartbeat.capacity;
        worker.draining = heartbeat.draining;
        for (id, attempt, state) in &heartbeat.holding {
            if *state == Holding::Running
                && let Some(State::Out { fence, worker, .. }) = self.live.get(id).map(|one| one.state.clone())
                && worker == heartbeat.incarnation
            {
                self.started((*id, *attempt), fence);
            }
        }
    }

    fn started(&mut self, key: AttemptKey, fence: Fence) {
        if let Some(one) = self.live.get_mut(&key.0).filter(|one| one.is_out(key, fence))
            && let State::Out { at_work: at_work @ Status::Scheduled, .. } = &mut one.state
        {
            *at_work = Status::Running;
        }
    }

    fn settle(&mut self, id: ExecutionId, status: Status) {
        let one = self.live.remove(&id).expect("an execution settles once");
        self.action(one.action).completed += 1;
        assert_eq!(self.settled.insert(id, status), None);
    }

    fn requeue(&mut self, id: ExecutionId) {
        if self.live[&id].status() == Status::Cancelling {
            self.settle(id, Status::Cancelled);
        } else {
            self.join_line(id);
        }
    }

    fn join_line(&mut self, id: ExecutionId) {
        let now = self.now;
        let one = self.live.get_mut(&id).expect("live");
        (one.state, one.queued_at) = (State::InLine, now);
    }

    fn back_off(&mut self, id: ExecutionId) {
        let keeps_slot = self.actions[&self.live[&id].action].limits.retry.keep_place;
        let place = if keeps_slot { self.live[&id].place } else { self.new_place() };
        let one = self.live.get_mut(&id).expect("live");
        one.place = place;
        one.state = State::BackingOff { until: None, keeps_slot };
    }

    /// An execution that kept a slot which is one too many by now waits in line for another; the last in place first.
    fn shed(&mut self, action: ActionId) {
        let resuming = |one: &Execution| one.action == action && one.state == State::Resuming;
        let mut ids: Vec<_> =
            self.live.iter().filter(|(_, one)| resuming(one)).map(|(id, one)| (one.place, *id)).collect();
        ids.sort_unstable();
        for (_, id) in ids.into_iter().rev() {
            let (of_action, of_line) = self.stands(&self.live[&id]);
            if of_action.is_gt() || of_line.is_gt() {
                self.join_line(id);
            }
        }
    }

    fn new_place(&mut self) -> i64 {
        self.next_id += 1;
        self.next_id - 1
    }

    fn action(&mut self, id: ActionId) -> &mut Action {
        self.actions.get_mut(&id).expect("a known action")
    }
}
