//! One worker process: the production driver and duty book, its queue, what it reports, and the processes of its attempts.
//!
//! Stands for `crates/worker/src/{run,shared,link,running,process,lock}.rs` and the shim. A process ends by itself, by a
//! kill, or at its fence, which its shim keeps whatever has become of the worker.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{Hash, Hasher};
use std::sync::{Arc, LazyLock};

use slotline_protocol::message::{AttemptKey, Failure, Heartbeat, Message};
use slotline_protocol::{Fence, Incarnation, Sizes, Timestamp};
use slotline_worker::driver::{AttemptAction, Book, Confirm, Driver, DriverAction, Input};
use slotline_worker::duty::{self, Config, Effect, Ending, JsonText, OnDrain};

use crate::action::Stall;
use crate::codec::Codec;
use crate::mistake::Mistake;
use crate::rules::Rule;
use crate::shared::{Kept, Part};
use crate::time::{TERMS, Tick, of_worker, terms, tick};
use crate::wire::{CAPACITY, Order, Word, action_ref, incarnation, nothing, worker_name};

#[derive(Clone, Debug, Hash)]
pub(crate) struct Worker {
    index: usize,
    pub(crate) stall: Option<Stall>,
    /// `None`: the process is dead.
    memory: Option<Memory>,
    /// How many incarnations there were.
    pub(crate) incarnations: u8,
    /// How often the process was started.
    pub(crate) starts: u8,
    /// The queue of the current incarnation.
    pub(crate) orders: VecDeque<Arc<Vec<Order>>>,
    /// How many orders it took, for whom numbers mean nothing.
    orders_taken: u64,
    /// On its way to the broker, in order.
    pub(crate) outgoing: VecDeque<Outgoing>,
    /// On its way from the broker, in order.
    pub(crate) confirms: VecDeque<Confirmed>,
    pub(crate) processes: BTreeMap<Fence, Process>,
    /// Every attempt that ever started here.
    begun: BTreeSet<AttemptKey>,
}

/// What ends with the process.
#[derive(Clone, Debug, Hash)]
struct Memory {
    book: Book,
    driver: Driver<Codec>,
}

/// A publication.
#[derive(Clone, Debug, Hash)]
pub(crate) struct Outgoing {
    number: Number,
    /// Of a heartbeat.
    sent: Option<Tick>,
    words: Vec<Arc<Word>>,
}

/// The broker has a heartbeat, or the last word of this incarnation.
#[derive(Clone, Debug, Hash)]
pub(crate) struct Confirmed {
    number: Number,
    sent: Option<Tick>,
    incarnation: Incarnation,
}

/// Which publication of its driver that is: a name for it, and no part of where the world stands.
#[derive(Clone, Copy, Debug)]
struct Number(u64);

impl Hash for Number {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

impl Part for Worker {
    fn kept() -> &'static Kept<Self> {
        static KEPT: LazyLock<Kept<Worker>> = Kept::new();
        &KEPT
    }
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
            memory: None,
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
        let action = duty::ServedAction {
            capabilities: Vec::new(),
            grace: TERMS.heartbeat,
            on_drain: OnDrain::Return,
            phases: Vec::new(),
        };
        let config = Config {
            worker: worker_name(self.index),
            capacity: CAPACITY,
            actions: BTreeMap::from([(action_ref(), action)]),
            labels: BTreeMap::new(),
            terms: terms(mistake),
            drain_timeout: TERMS.lease,
            process: None,
        };
        let formers = if has_proof { vec![former] } else { Vec::new() };
        let book = Book::begin(config, name, of_worker(now), Vec::new(), &formers);
        self.memory = Some(Memory { book, driver: Driver::new(name, Codec::new(mistake)) });
        self.starts += 1;
        self.handle(Input::Subscribed { incarnation: name, sizes: Sizes::FULL }, now);
    }

    fn next_name(&mut self) -> Incarnation {
        self.incarnations += 1;
        self.orders.clear();
        incarnation(self.index, self.incarnations)
    }

    /// The process is dead; what it has started ends a little later.
    pub(crate) fn crash(&mut self) {
        self.stall = None;
        self.memory = None;
        self.outgoing.clear();
        self.confirms.clear();
        self.orders.clear();
        self.processes.retain(|_, process| process.runs());
        self.processes.values_mut().for_each(|process| process.stage = Stage::Orphan);
    }

    /// The session with the broker ends and the next begins: what was on its way is gone.
    pub(crate) fn reconnect(&mut self, now: Tick) {
        let confirms = self.confirms.drain(..).map(|confirmed| confirmed.number);
        let lost: Vec<_> = self.outgoing.drain(..).map(|outgoing| outgoing.number).chain(confirms).collect();
        let Some(incarnation) = self.incarnation() else { return };
        self.handle(Input::SessionLost, now);
        for Number(id) in lost {
            self.handle(Input::Confirmed { id, confirm: Confirm::Lost }, now);
        }
        self.handle(Input::Subscribed { incarnation, sizes: Sizes::FULL }, now);
    }

    /// Whether the process lives.
    pub(crate) fn is_up(&self) -> bool {
        self.memory.is_some()
    }

    pub(crate) fn incarnation(&self) -> Option<Incarnation> {
        self.memory.as_ref().map(|memory| memory.driver.incarnation())
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
        let Some(Memory { book, driver }) = &self.memory else { return false };
        let deadlines = [book.duty().next_deadline(), driver.next_deadline()];
        deadlines.into_iter().flatten().any(|at| at <= of_worker(now).boot)
    }

    pub(crate) fn wake(&mut self, now: Tick) {
        self.handle(Input::Tick, now);
    }

    /// Takes what is next in its queue. Gives the rule that this breaks.
    pub(crate) fn obey(&mut self, now: Tick, mistake: Option<Mistake>) -> Option<Rule> {
        let orders = self.orders.pop_front()?;
        let incarnation = self.incarnation()?;
        let mut orders = Arc::unwrap_or_clone(orders);
        if mistake == Some(Mistake::IgnoresOrderNumbers) {
            for order in &mut orders {
                self.orders_taken += 1;
                *order = order.renumbered(self.orders_taken);
            }
        }
        let delivery = self.memory.as_mut()?.driver.wire_mut().delivery(orders);
        self.handle(Input::Delivered { incarnation, delivery, is_last: true }, now)
    }

    /// Hears that the broker has what it reported.
    pub(crate) fn confirmed(&mut self, now: Tick) -> Option<Rule> {
        let Confirmed { number: Number(id), .. } = self.confirms.pop_front()?;
        self.handle(Input::Confirmed { id, confirm: Confirm::Stored }, now)
    }

    /// The broker takes what is next on its way. Nothing but heartbeats and last words is waited for: of all others the
    /// worker learns at once that the broker has them.
    pub(crate) fn published(&mut self, now: Tick) -> Vec<Arc<Word>> {
        let Some(Outgoing { number, sent, words }) = self.outgoing.pop_front() else { return Vec::new() };
        match words.first().and_then(|word| word.spoken_of()) {
            Some(incarnation) => self.confirms.push_back(Confirmed { number, sent, incarnation }),
            None => {
                self.handle(Input::Confirmed { id: number.0, confirm: Confirm::Stored }, now);
            }
        }
        words
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
        let result = if succeeded { Ok(JsonText(nothing())) } else { Err(Failure::new("signal", "killed")) };
        let ending = Ending { result, left: None, return_code: None, ended_at: Timestamp::from_micros(0) };
        let broken = self.report(duty::Input::Ended { key, ending }, now);
        broken.or(self.turn(now))
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
        self.memory.as_mut()?.driver.handle(of_worker(now), input);
        self.turn(now)
    }

    /// Reports to the book, and does at once what it asks of attempts.
    fn report(&mut self, input: duty::Input, now: Tick) -> Option<Rule> {
        let Memory { book, .. } = self.memory.as_mut()?;
        let mut broken = None;
        let name = incarnation(self.index, self.incarnations);
        let (processes, begun) = (&mut self.processes, &mut self.begun);
        book.handle(of_worker(now), input, |attempt| broken = broken.or(act(attempt, name, processes, begun)));
        broken
    }

    /// Does what there is to do, and hands in what the book asks for until it asks for no more.
    fn turn(&mut self, now: Tick) -> Option<Rule> {
        let (mut broken, mut is_ended) = (None, false);
        while let Some(Memory { book, driver }) = &mut self.memory {
            if let Some(action) = driver.next_action() {
                broken = broken.or(self.carry_out(action, now));
                continue;
            }
            let mut effects = book.take_deferred();
            effects.retain(|effect| !is_of_events(effect));
            if !effects.is_empty() {
                driver.handle(of_worker(now), Input::Asked(effects));
                is_ended = false;
            } else if !std::mem::replace(&mut is_ended, true) {
                driver.handle(of_worker(now), Input::TurnEnded);
            } else {
                break;
            }
        }
        broken
    }

    fn carry_out(&mut self, action: DriverAction, now: Tick) -> Option<Rule> {
        let input = match action {
            DriverAction::Duty(input) => return self.report(input, now),
            DriverAction::Publish(publication) => {
                let words = self.memory.as_mut()?.driver.wire_mut().read(&publication);
                let sent = (publication.message_type == Heartbeat::TYPE).then_some(now);
                self.outgoing.push_back(Outgoing { number: Number(publication.id), sent, words });
                return None;
            }
            DriverAction::ChooseName => Input::Named { incarnation: self.next_name(), nonce: String::new() },
            DriverAction::Subscribe(incarnation) => Input::Subscribed { incarnation, sizes: Sizes::FULL },
            DriverAction::Exit(exit) => {
                assert!(!exit.unstoppable.is_empty(), "nobody drains in this world");
                // What it could not end may go on for a moment longer than the process that gives up.
                self.crash();
                return None;
            }
            DriverAction::Attempt(AttemptAction::Extend { deadline: None }) => return None,
            DriverAction::Attempt(_) => unreachable!("the driver asks for nothing else of attempts"),
            // All of one broker; acked as it is taken; a process that is given up and the next have no folder in common.
            DriverAction::KeepTo(_)
            | DriverAction::Ack
            | DriverAction::Note(_)
            | DriverAction::Keep(_)
            | DriverAction::Log(_) => return None,
        };
        self.memory.as_mut()?.driver.handle(of_worker(now), input);
        None
    }
}

/// Events have no part in who may run what; they are lost before they reach the driver.
fn is_of_events(effect: &Effect) -> bool {
    matches!(effect, Effect::ChangeStatus(_) | Effect::Progress(_) | Effect::Resend { .. })
}

fn act(
    attempt: AttemptAction,
    incarnation: Incarnation,
    processes: &mut BTreeMap<Fence, Process>,
    begun: &mut BTreeSet<AttemptKey>,
) -> Option<Rule> {
    match attempt {
        AttemptAction::Start(start) => {
            let deadline = tick(start.deadline.expect("nobody here goes on when isolated"));
            let process = Process { key: start.key, incarnation, deadline, stage: Stage::Running };
            processes.insert(start.fence, process);
            return (!begun.insert(start.key)).then_some(Rule::NoAttemptTwice);
        }
        AttemptAction::Kill { key } => {
            let own = |process: &&mut Process| process.key == key && process.stage == Stage::Running;
            processes.values_mut().filter(own).for_each(|process| process.stage = Stage::Killed);
        }
        AttemptAction::Extend { deadline } => {
            let own = |process: &&mut Process| matches!(process.stage, Stage::Running | Stage::Killed);
            for process in processes.values_mut().filter(own) {
                process.deadline = deadline.map_or(process.deadline, |at| process.deadline.max(tick(at)));
            }
        }
        AttemptAction::Interrupt { .. } => unreachable!("nobody cancels or drains in this world"),
    }
    None
}
