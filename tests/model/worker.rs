//! One worker process: the production duty book, its queue, what it says, and the processes of its attempts.
//!
//! Stands for `crates/worker/src/{run,book,link,hands,process,lock}.rs` and the shim. A process ends by itself, by a
//! kill, or at its fence, which its shim keeps whatever has become of the worker.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, LazyLock};

use slotline_protocol::message::{AttemptKey, Failure};
use slotline_protocol::{Fence, Incarnation, Timestamp};
use slotline_worker::duty::{Action, Config, Duty, Effect, Ending, Input, Json, OnDrain};

use crate::action::Stall;
use crate::mistake::Mistake;
use crate::rules::Rule;
use crate::shared::{Kept, Part};
use crate::time::{TERMS, Tick, of_worker, terms, tick};
use crate::wire::{CAPACITY, Completed, Order, Returned, Word, action_ref, incarnation, nothing, worker_name};

#[derive(Clone, Debug, Hash)]
pub(crate) struct Worker {
    index: usize,
    pub(crate) stall: Option<Stall>,
    /// `None`: the process is dead.
    pub(crate) duty: Option<Duty>,
    /// How many incarnations there were.
    pub(crate) incarnations: u8,
    /// How often the process was started.
    pub(crate) starts: u8,
    /// The queue of the current incarnation.
    pub(crate) orders: VecDeque<Arc<Vec<Order>>>,
    /// How many orders it took, for whom numbers mean nothing.
    orders_taken: u64,
    /// On its way to the broker, in order.
    pub(crate) outgoing: VecDeque<Arc<Word>>,
    /// On its way from the broker, in order.
    pub(crate) confirms: VecDeque<Confirm>,
    pub(crate) processes: BTreeMap<Fence, Process>,
    /// Every attempt that ever started here.
    begun: BTreeSet<AttemptKey>,
}

impl Part for Worker {
    fn kept() -> &'static Kept<Self> {
        static KEPT: LazyLock<Kept<Worker>> = Kept::new();
        &KEPT
    }
}

/// The broker has this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Confirm {
    Beat { incarnation: Incarnation, sent: Tick },
    Farewell { incarnation: Incarnation },
}

/// The process of one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Process {
    pub(crate) key: AttemptKey,
    pub(crate) incarnation: Incarnation,
    /// When its shim ends it.
    pub(crate) deadline: Tick,
    pub(crate) stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Stage {
    Running,
    /// It still runs, and may even succeed before the kill reaches it.
    Killed,
    /// Ended by force; its worker does not know yet.
    Gone,
    /// It runs, and the worker process that started it is dead.
    Orphan,
}

impl Process {
    pub(crate) fn runs(&self) -> bool {
        match self.stage {
            Stage::Running | Stage::Killed | Stage::Orphan => true,
            Stage::Gone => false,
        }
    }
}

impl Worker {
    /// One that was just started, for the first time.
    pub(crate) fn new(index: usize, now: Tick, mistake: Option<Mistake>) -> Self {
        let mut worker = Self {
            index,
            stall: None,
            duty: None,
            incarnations: 0,
            starts: 0,
            orders: VecDeque::new(),
            orders_taken: 0,
            outgoing: VecDeque::new(),
            confirms: VecDeque::new(),
            processes: BTreeMap::new(),
            begun: BTreeSet::new(),
        };
        worker.start(false, now, mistake);
        worker
    }

    /// Starts the process. `has_proof`: nothing of the one before is left, and it says so.
    pub(crate) fn start(&mut self, has_proof: bool, now: Tick, mistake: Option<Mistake>) {
        let former = incarnation(self.index, self.incarnations);
        let name = self.next_name();
        let action =
            Action { capabilities: Vec::new(), grace: TERMS.heartbeat, on_drain: OnDrain::Return, phases: Vec::new() };
        let config = Config {
            worker: worker_name(self.index),
            capacity: CAPACITY,
            actions: BTreeMap::from([(action_ref(), action)]),
            labels: BTreeMap::new(),
            terms: terms(mistake),
            drain_timeout: TERMS.lease,
            process: None,
        };
        let mut duty = Duty::new(config, name, of_worker(now));
        if has_proof {
            duty.replaces(former);
        }
        self.duty = Some(duty);
        self.starts += 1;
        self.handle(Input::SessionOpened { incarnation: name }, now);
    }

    fn next_name(&mut self) -> Incarnation {
        self.incarnations += 1;
        self.orders.clear();
        incarnation(self.index, self.incarnations)
    }

    /// The process is dead; what it has started ends a little later.
    pub(crate) fn crash(&mut self) {
        self.stall = None;
        self.duty = None;
        self.outgoing.clear();
        self.confirms.clear();
        self.orders.clear();
        self.processes.retain(|_, process| process.runs());
        self.processes.values_mut().for_each(|process| process.stage = Stage::Orphan);
    }

    /// The session with the broker ends and the next begins: what was on its way is gone.
    pub(crate) fn reconnect(&mut self, now: Tick) {
        self.outgoing.clear();
        self.confirms.clear();
        if let Some(incarnation) = self.incarnation() {
            self.handle(Input::SessionOpened { incarnation }, now);
        }
    }

    pub(crate) fn incarnation(&self) -> Option<Incarnation> {
        self.duty.as_ref().map(Duty::incarnation)
    }

    pub(crate) fn begun(&self) -> impl Iterator<Item = AttemptKey> {
        self.begun.iter().copied()
    }

    pub(crate) fn has_begun(&self, key: AttemptKey) -> bool {
        self.begun.contains(&key)
    }

    /// Whether its current incarnation has a process.
    pub(crate) fn runs_something(&self) -> bool {
        self.processes.values().any(|process| process.runs() && Some(process.incarnation) == self.incarnation())
    }

    /// Whether an order for this incarnation is put anywhere. The queue of one whose process died outlives it a while;
    /// one that was given up for the next is deleted.
    pub(crate) fn has_queue(&self, incarnation: Incarnation) -> bool {
        incarnation == self.name()
    }

    /// Its incarnation, or its last one.
    pub(crate) fn name(&self) -> Incarnation {
        incarnation(self.index, self.incarnations)
    }

    pub(crate) fn is_due(&self, now: Tick) -> bool {
        let deadline = self.duty.as_ref().and_then(Duty::next_deadline);
        deadline.is_some_and(|at| at <= of_worker(now).boot)
    }

    pub(crate) fn wake(&mut self, now: Tick) {
        self.handle(Input::Tick, now);
    }

    /// Takes what is next in its queue. Gives the rule that this breaks.
    pub(crate) fn obey(&mut self, now: Tick, mistake: Option<Mistake>) -> Option<Rule> {
        let orders = self.orders.pop_front()?;
        let incarnation = self.incarnation()?;
        let mut broken = None;
        for order in &*orders {
            let order = if mistake == Some(Mistake::IgnoresOrderNumbers) {
                self.orders_taken += 1;
                order.renumbered(self.orders_taken).write(mistake)
            } else {
                order.write(mistake)
            };
            let input = match order {
                Some(order) => Input::Ordered { incarnation, order },
                None => Input::Hinted { incarnation },
            };
            broken = broken.or(self.handle(input, now));
        }
        broken
    }

    /// Hears that the broker has what it said.
    pub(crate) fn confirmed(&mut self, now: Tick) -> Option<Rule> {
        let input = match self.confirms.pop_front()? {
            Confirm::Beat { incarnation, sent } => {
                Input::HeartbeatConfirmed { incarnation, sent: of_worker(sent).boot }
            }
            Confirm::Farewell { incarnation } => Input::FarewellConfirmed { incarnation },
        };
        self.handle(input, now)
    }

    /// A process ends by itself, having done its work; its worker hears of it at once.
    pub(crate) fn end(&mut self, fence: Fence, now: Tick) -> Option<Rule> {
        let process = self.processes.remove(&fence)?;
        if process.stage == Stage::Orphan {
            return None;
        }
        self.ended(process.key, true, now)
    }

    /// Hears that a process which was ended by force is gone.
    pub(crate) fn reap(&mut self, fence: Fence, now: Tick) -> Option<Rule> {
        let process = self.processes.remove(&fence)?;
        self.ended(process.key, false, now)
    }

    fn ended(&mut self, key: AttemptKey, succeeded: bool, now: Tick) -> Option<Rule> {
        let result = if succeeded { Ok(Json(nothing())) } else { Err(Failure::new("signal", "killed")) };
        let ending = Ending { result, left: None, return_code: None, ended_at: Timestamp::from_micros(0) };
        self.handle(Input::Ended { key, ending }, now)
    }

    /// Every shim looks at its clock.
    pub(crate) fn enforce_fences(&mut self, now: Tick) {
        self.processes.retain(|_, process| process.stage != Stage::Orphan || now < process.deadline);
        for process in self.processes.values_mut().filter(|process| process.deadline <= now) {
            process.stage = Stage::Gone;
        }
    }

    /// Whether [`Self::enforce_fences`] would end anything.
    pub(crate) fn has_fences_due(&self, now: Tick) -> bool {
        self.processes.values().any(|process| process.runs() && process.deadline <= now)
    }

    fn handle(&mut self, input: Input, now: Tick) -> Option<Rule> {
        let mut broken = None;
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let mut effects = Vec::new();
            let Some(duty) = &mut self.duty else { return broken };
            duty.handle(of_worker(now), input, &mut effects);
            for effect in effects {
                broken = broken.or(self.carry_out(effect, &mut inputs));
            }
        }
        broken
    }

    fn carry_out(&mut self, effect: Effect, inputs: &mut VecDeque<Input>) -> Option<Rule> {
        match effect {
            Effect::Start(start) => {
                let process = Process {
                    key: start.key,
                    incarnation: incarnation(self.index, self.incarnations),
                    deadline: tick(start.deadline.expect("nobody here goes on when isolated")),
                    stage: Stage::Running,
                };
                self.processes.insert(start.fence, process);
                return (!self.begun.insert(start.key)).then_some(Rule::NoAttemptTwice);
            }
            Effect::Kill { key } => {
                let own = |process: &&mut Process| process.key == key && process.stage == Stage::Running;
                self.processes.values_mut().filter(own).for_each(|process| process.stage = Stage::Killed);
            }
            Effect::Extend { deadline } => {
                let own = |process: &&mut Process| matches!(process.stage, Stage::Running | Stage::Killed);
                for process in self.processes.values_mut().filter(own) {
                    process.deadline = process.deadline.max(tick(deadline));
                }
            }
            Effect::Complete(word) => {
                self.outgoing.push_back(Arc::new(Word::Completed(Completed::from(word.message))));
            }
            Effect::Return(word) => {
                self.outgoing.push_back(Arc::new(Word::Returned(Returned::from(word.message))));
            }
            Effect::Beat { heartbeat, sent } => {
                self.outgoing.push_back(Arc::new(Word::beat(heartbeat, tick(sent))));
            }
            Effect::Farewell(ended) => self.outgoing.push_back(Arc::new(Word::ended(ended))),
            Effect::IncarnationOver(_) => {
                let name = self.next_name();
                inputs.extend([Input::NewIncarnation(name), Input::SessionOpened { incarnation: name }]);
            }
            // What it could not end may go on for a moment longer than the process that gives up.
            Effect::GiveUp(_) => self.crash(),
            Effect::Interrupt { .. } | Effect::Finish => unreachable!("nobody cancels or drains in this world"),
            // A process that is given up and the next have no folder in common here.
            Effect::Keep(_) => {}
            Effect::Refused(_) => unreachable!("nothing refuses a worker in this world"),
            Effect::TakeLess { .. } | Effect::TakeAll => unreachable!("nothing is short in this world"),
            Effect::ChangeStatus(_) | Effect::Progress(_) | Effect::Resend { .. } => {}
        }
        None
    }
}
