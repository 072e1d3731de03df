//! A scheduler in full swing, for the benches: workers that are full, lines that are long, and time that moves by a
//! microsecond with each input.
//!
//! What is measured here is deciding alone: nothing is committed or sent, and the bench ends the attempts.
#![allow(dead_code, reason = "every bench uses its own part of the stage")]

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use slotline_protocol::message::{AttemptKey, Heartbeat, Served};
use slotline_protocol::{
    ActionId, ActionRef, Epoch, ExecutionId, Incarnation, OutcomeKind, Policy, Status, Timestamp, WorkerName,
};
use slotline_scheduler::{
    Config, Counters, Dispatch, Effects, Input, Limits, Order, Outcome, RecoveredAction, Scheduler, Snapshot,
};
use uuid::Uuid;

const CONFIG: Config = Config { lease: Duration::from_secs(60), heartbeat: Duration::from_secs(5) };
const COUNTERS: Counters = Counters { next_id: 1, next_fence: 1, next_action: 1 };

/// What the lines are: those of the keys of one action, or one line for each action. Each lets one run at a time.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Keys,
    Actions,
}

pub(crate) struct Stage {
    pub(crate) scheduler: Scheduler,
    now: Timestamp,
    lines: Vec<(ActionId, Option<Arc<str>>)>,
    refs: Vec<ActionRef>,
    /// The line whose turn it is to get a request.
    next_line: usize,
    tokens: u64,
    /// What is out and has not begun, and what has begun; the oldest first.
    dispatched: VecDeque<(Incarnation, Dispatch)>,
    running: VecDeque<(Incarnation, Dispatch)>,
}

impl Stage {
    /// As many lines, all empty, and no worker. Nothing is sent ahead.
    pub(crate) fn new(kind: Kind, lines: usize) -> Self {
        Self::running_ahead(0, kind, lines)
    }

    /// The same, where up to `run_ahead` of a line are sent ahead of their slot.
    pub(crate) fn running_ahead(run_ahead: u32, kind: Kind, lines: usize) -> Self {
        let mut stage = Self {
            scheduler: Scheduler::new(CONFIG, Epoch(1), COUNTERS),
            now: Timestamp::from_micros(0),
            lines: Vec::new(),
            refs: Vec::new(),
            next_line: 0,
            tokens: 0,
            dispatched: VecDeque::new(),
            running: VecDeque::new(),
        };
        match kind {
            Kind::Keys => {
                let id = stage.put(Policy { key_limit: Some(1), run_ahead: Some(run_ahead), ..Policy::default() });
                stage.lines = (0..lines).map(|number| (id, Some(Arc::from(format!("key {number}"))))).collect();
            }
            Kind::Actions => {
                for _ in 0..lines {
                    let id = stage.put(Policy { limit: Some(1), run_ahead: Some(run_ahead), ..Policy::default() });
                    stage.lines.push((id, None));
                }
            }
        }
        stage
    }

    /// One action that lets everything run at once, as far as workers have room.
    pub(crate) fn unlimited() -> Self {
        let mut stage = Self::new(Kind::Actions, 0);
        let id = stage.put(Policy::default());
        stage.lines.push((id, None));
        stage
    }

    fn put(&mut self, policy: Policy) -> ActionId {
        let action_ref = ActionRef::new(&format!("bench.a{}", self.refs.len())).expect("a valid name");
        let id = self.scheduler.new_action_id();
        self.refs.push(action_ref.clone());
        self.tell(Input::ActionPut { id, action_ref, limits: Limits::from(&policy), paused: false });
        id
    }

    /// So many workers come, each of which serves every action.
    pub(crate) fn with_workers(mut self, count: usize, capacity: u32) -> Self {
        for worker in 0..count {
            let heartbeat = self.heartbeat(worker, capacity);
            self.tell(Input::Heartbeat(heartbeat));
        }
        self.take();
        self
    }

    /// So many more are requested, the lines in turn; whatever can run begins.
    pub(crate) fn with_requests(mut self, count: usize) -> Self {
        for _ in 0..count {
            self.request();
            self.take();
        }
        self.begin();
        self.take();
        self
    }

    pub(crate) fn tell(&mut self, input: Input) {
        self.now = self.now + Duration::from_micros(1);
        self.scheduler.handle(input, self.now);
    }

    /// Ends the batch, and notes what is out.
    pub(crate) fn take(&mut self) -> Effects {
        let mut effects = self.scheduler.take_effects();
        for sent in effects.orders.drain(..) {
            if let Order::Dispatch(dispatch) = sent.order {
                self.dispatched.push_back((sent.incarnation, dispatch));
            }
        }
        effects
    }

    pub(crate) fn request(&mut self) {
        let (action, key) = self.lines[self.next_line].clone();
        self.next_line = (self.next_line + 1) % self.lines.len();
        self.tokens += 1;
        self.tell(Input::Requested { token: self.tokens, action, key, bytes: 2 });
    }

    /// Everything that is out and has its slot begins.
    pub(crate) fn begin(&mut self) {
        let is_ahead = |(_, dispatch): &(Incarnation, Dispatch)| dispatch.starts_after.is_some();
        let (ahead, begins): (_, VecDeque<_>) = std::mem::take(&mut self.dispatched).into_iter().partition(is_ahead);
        self.dispatched = ahead;
        for (incarnation, dispatch) in begins {
            self.tell(Input::Started { key: key_of(&dispatch), fence: dispatch.fence, started_at: self.now });
            self.running.push_back((incarnation, dispatch));
        }
    }

    /// The oldest attempt that is out completes, and the next execution is granted its slot.
    pub(crate) fn complete(&mut self) {
        let first = self.running.pop_front().or_else(|| self.dispatched.pop_front());
        let (incarnation, dispatch) = first.expect("something is out");
        let outcome = Outcome {
            kind: OutcomeKind::Completed,
            result: None,
            error: None,
            started_at: Some(self.now),
            ended_at: self.now,
            held: None,
        };
        self.tell(Input::Completed { key: key_of(&dispatch), fence: dispatch.fence, incarnation, outcome });
    }

    /// One batch: what is out begins, so many come, and as many complete and are followed by the next.
    pub(crate) fn live(&mut self, lives: usize) {
        self.begin();
        for _ in 0..lives {
            self.request();
        }
        for _ in 0..lives {
            self.complete();
        }
        self.take();
    }

    pub(crate) fn cancel(&mut self, id: ExecutionId) {
        self.tell(Input::CancelRequested { id, reason: None });
    }

    /// The heartbeat that this worker would send now.
    pub(crate) fn heartbeat(&self, worker: usize, capacity: u32) -> Heartbeat {
        let incarnation = Incarnation(Uuid::from_u128(worker as u128));
        let served = |action_ref: &ActionRef| Served { action_ref: action_ref.clone(), capabilities: Vec::new() };
        let leases = self.scheduler.leases_of(incarnation);
        Heartbeat {
            worker: WorkerName::new(&format!("w{worker}")).expect("a valid name"),
            incarnation,
            capacity,
            holding: leases.into_iter().map(|((id, attempt), state)| (id, attempt, state)).collect(),
            unrecorded: Vec::new(),
            seen: (Epoch(1), u64::MAX / 2),
            actions: self.refs.iter().map(served).collect(),
            labels: BTreeMap::new(),
            draining: false,
            sent_at: self.now,
            journal: None,
            highest: Default::default(),
            account: None,
            process: None,
        }
    }
}

fn key_of(dispatch: &Dispatch) -> AttemptKey {
    (dispatch.id, dispatch.attempt)
}

/// What a journal gives a new leader: so many that wait, over so many actions.
pub(crate) struct Journal {
    pub(crate) actions: Vec<RecoveredAction>,
    pub(crate) live: Vec<Snapshot>,
}

impl Journal {
    pub(crate) fn new(waiting: usize, actions: usize) -> Self {
        let recovered = |number: usize| RecoveredAction {
            id: ActionId(number as i64),
            action_ref: ActionRef::new(&format!("bench.a{number}")).expect("a valid name"),
            limits: Limits::from(&Policy { limit: Some(1), ..Policy::default() }),
            paused: false,
            total_enqueued: (waiting / actions) as u64,
            total_completed: 0,
        };
        let at = Timestamp::from_micros(0);
        let waits = |number: usize| Snapshot {
            id: ExecutionId(number as i64 + 1),
            action: ActionId((number % actions) as i64),
            key: None,
            status: Status::Queued,
            place: number as i64 + 1,
            attempt: 0,
            tried: 0,
            failures: 0,
            losses: 0,
            enqueued_at: at,
            queued_at: at,
            not_before: None,
            keeps_slot: false,
            cancel_requested: false,
            is_bulky: false,
            lease: None,
        };
        Self { actions: (0..actions).map(recovered).collect(), live: (0..waiting).map(waits).collect() }
    }

    /// A new leader begins with it.
    pub(crate) fn recover(self) -> Scheduler {
        let next_id = self.live.len() as i64 + 1;
        let counters = Counters { next_id, next_fence: 1, next_action: self.actions.len() as i64 };
        Scheduler::recover(CONFIG, Epoch(2), counters, self.actions, self.live, [], Timestamp::from_micros(1))
    }
}
