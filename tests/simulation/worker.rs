//! One worker process: the production driver and duty book, in a shell that is simulated.
//!
//! The shell does what `crates/worker/src/shell/{run,shared,link,lock,legacy}.rs` do, without handlers, output and parameters:
//! a session with the broker, a lock file with what a process leaves beside it, and the shims that were started. Between
//! any two things that it carries out (`shell`) the process may die or freeze. Not here: the shims themselves (`process`).

mod notes;
mod shell;
mod shims;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use serde_json::value::RawValue;
use slotline_protocol::message::{AttemptKey, Ended};
use slotline_protocol::proof::Worth;
use slotline_protocol::{Incarnation, Sizes, WorkerName};
use slotline_worker::driver::{self, AttemptAction, Book, Confirm, Driver, Input, Wire};
use slotline_worker::duty::{self, Config, JsonText, Now, OnDrain, Terms};
use uuid::Uuid;

use crate::clock::{MS, Micros, SECOND};
use crate::codec::Codec;
use crate::faults::Node;
use crate::history::Fact;
use crate::journal::action_ref;
use crate::plan::{self, WorkerPlan};
use crate::process::Process;
use crate::stage::{Event, Stage};
use crate::wire::{Body, Down, Purpose, Queue, SessionId, Tag, Up, Verdict};

pub(crate) struct Worker {
    pub(crate) index: usize,
    pub(crate) life: u32,
    pub(crate) is_up: bool,
    pub(crate) plan: WorkerPlan,
    config: Config,
    /// While the process lives.
    memory: Option<Memory>,
    incarnations: u32,
    link: Link,
    pub(crate) failures: u32,
    /// The incarnations in the lock file.
    lock: Vec<Incarnation>,
    /// What a process has left beside the lock.
    kept: Vec<Ended>,
    /// Attempts of a process before this one, until this one has reported what it knows.
    left: BTreeSet<AttemptKey>,
    orders_taken: u64,
    wake_at: Option<Micros>,
    null: JsonText,
}

/// What ends with the process.
struct Memory {
    book: Book,
    driver: Driver<Codec>,
    /// What is to be done to attempts, before anything that the driver asks for.
    attempts: VecDeque<AttemptAction>,
    live: BTreeMap<AttemptKey, usize>,
    /// Attempts of this incarnation that the book has an outcome of, and that are not known to be recorded.
    owed: BTreeSet<AttemptKey>,
    unacked: Option<(Queue, Tag)>,
    /// Events that the book has numbered, and that the broker does not have.
    unstored: BTreeSet<Numbered>,
    /// Publications of events on their way.
    events: BTreeMap<u64, Rc<Body>>,
    /// Publications that found no session.
    unsent: Vec<u64>,
}

/// An event of an attempt, by its number.
type Numbered = (AttemptKey, u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    Dialing,
    Subscribing(SessionId),
    Open(SessionId, Incarnation),
}

impl Worker {
    pub(crate) fn new(index: usize, plan: WorkerPlan, terms: plan::Terms) -> Self {
        let action = duty::ServedAction {
            capabilities: Vec::new(),
            grace: Duration::from_secs(2),
            on_drain: OnDrain::Return,
            phases: Vec::new(),
        };
        let plan::Terms { lease, fence, heartbeat } = terms;
        let config = Config {
            worker: WorkerName::new(&format!("w{index}")).expect("a word"),
            capacity: plan.capacity,
            actions: plan.serves.iter().map(|index| (action_ref(*index), action.clone())).collect(),
            labels: BTreeMap::new(),
            terms: Terms { lease, fence, heartbeat },
            drain_timeout: Duration::from_secs(10),
            process: None,
        };
        Self {
            index,
            life: 0,
            is_up: false,
            plan,
            config,
            memory: None,
            incarnations: 0,
            link: Link::Dialing,
            failures: 0,
            lock: Vec::new(),
            kept: Vec::new(),
            left: BTreeSet::new(),
            orders_taken: 0,
            wake_at: None,
            null: JsonText(RawValue::from_string("null".to_owned()).expect("valid JSON").into()),
        }
    }

    pub(crate) fn node(&self) -> Node {
        Node::Worker(self.index)
    }

    fn now(&self, stage: &Stage) -> Now {
        Now { boot: self.plan.clock.boot(stage.now), wall: self.plan.clock.wall(stage.now) }
    }

    fn session(&self) -> Option<SessionId> {
        match self.link {
            Link::Dialing => None,
            Link::Subscribing(session) | Link::Open(session, _) => Some(session),
        }
    }

    fn next_name(&mut self) -> Incarnation {
        self.incarnations += 1;
        Incarnation(Uuid::from_u128((self.index as u128) << 64 | u128::from(self.incarnations)))
    }

    pub(crate) fn incarnation(&self) -> Option<Incarnation> {
        self.memory.as_ref().map(|memory| memory.driver.incarnation())
    }

    /// Whether every outcome is known to be recorded, and the broker has had every event.
    pub(crate) fn owes_nothing(&self) -> bool {
        let owes_nothing =
            |memory: &Memory| memory.book.duty().unrecorded().next().is_none() && memory.unstored.is_empty();
        self.memory.as_ref().is_none_or(owes_nothing)
    }

    // ---- life and death ----

    /// The process starts. With a lock file, nothing of the one before may be left by then.
    pub(crate) fn start(&mut self, stage: &mut Stage) {
        self.is_up = true;
        self.failures = 0;
        self.link = Link::Dialing;
        self.lock = driver::newest(std::mem::take(&mut self.lock));
        let incarnation = self.next_name();
        stage.trace(|| format!("worker {} starts as {}", self.index, crate::broker::short(incarnation)));
        let book = Book::begin(self.config.clone(), incarnation, self.now(stage), self.kept.clone(), &self.lock);
        self.note_in_lock(incarnation);
        self.memory = Some(Memory {
            book,
            driver: Driver::new(incarnation, Codec::new(&self.config.worker, self.life, incarnation, stage)),
            attempts: VecDeque::new(),
            live: BTreeMap::new(),
            owed: BTreeSet::new(),
            unacked: None,
            unstored: BTreeSet::new(),
            events: BTreeMap::new(),
            unsent: Vec::new(),
        });
        stage.after(MS, Event::Dial { node: self.node(), life: self.life });
    }

    /// The process is gone; its sockets close behind it, and with them its shims end what they run.
    pub(crate) fn crash(&mut self, processes: &mut [Process], stage: &mut Stage) {
        let life = self.die(stage);
        for (index, process) in processes.iter_mut().enumerate() {
            if process.worker == self.index && process.life == life && !process.is_gone() {
                process.kill(index, stage);
            }
        }
    }

    /// The machine is gone, without a word to anybody.
    pub(crate) fn lose_power(&mut self, processes: &mut [Process], stage: &mut Stage) {
        if let Some(session) = self.session() {
            stage.sessions[session].client_up = false;
            stage.suspect(session, crate::stage::Side::Broker, crate::stage::Why::Gone);
        }
        self.die(stage);
        for process in processes.iter_mut().filter(|process| process.worker == self.index && !process.is_gone()) {
            process.vanish(stage);
        }
    }

    fn die(&mut self, stage: &mut Stage) -> u32 {
        if let Some(session) = self.session() {
            stage.hang_up(session);
        }
        self.is_up = false;
        self.memory = None;
        self.link = Link::Dialing;
        self.wake_at = None;
        self.life += 1;
        self.life - 1
    }

    // ---- the link ----

    pub(crate) fn dialed(&mut self, session: SessionId, stage: &mut Stage) {
        self.failures = 0;
        let Some(incarnation) = self.incarnation() else { return };
        self.link = Link::Subscribing(session);
        stage.send(session, Up::Serve { incarnation, former: None });
    }

    pub(crate) fn dial_failed(&mut self, stage: &mut Stage) {
        self.failures += 1;
        let pause = ((100 * MS) << self.failures.min(5)).min(2 * SECOND);
        let pause = pause / 2 + stage.chance.below(pause / 2);
        stage.after(pause, Event::Dial { node: self.node(), life: self.life });
    }

    /// The session is over, as this side sees it. Attempts go on.
    pub(crate) fn lost(&mut self, session: SessionId, processes: &mut Vec<Process>, stage: &mut Stage) {
        let unconfirmed = stage.hang_up(session);
        if self.session() == Some(session) {
            if matches!(self.link, Link::Open(..)) {
                self.handle(Input::SessionLost, stage);
            }
            self.link = Link::Dialing;
            self.dial_failed(stage);
        }
        for purpose in unconfirmed {
            if let Purpose::Report(id) = purpose {
                self.confirmed(id, Confirm::Lost, stage);
            }
        }
        self.turn(processes, stage);
    }

    pub(crate) fn hear(&mut self, session: SessionId, down: Down, processes: &mut Vec<Process>, stage: &mut Stage) {
        if self.session() != Some(session) {
            return;
        }
        match down {
            Down::Closed => return self.lost(session, processes, stage),
            Down::Serving { incarnation } => {
                self.link = Link::Open(session, incarnation);
                self.handle(Input::Subscribed { incarnation, sizes: Sizes::FULL }, stage);
            }
            Down::Delivered { queue, tag, body } => {
                let Link::Open(_, incarnation) = self.link else { return };
                if queue != Queue::Worker(incarnation) {
                    return;
                }
                self.delivered(incarnation, (queue, tag), &body, stage);
            }
            Down::Confirmed { seq, verdict } => {
                if let Some(Purpose::Report(id)) = stage.confirmed(session, seq) {
                    let confirm = match verdict {
                        Verdict::Stored => Confirm::Stored,
                        Verdict::Refused => Confirm::Refused,
                        Verdict::Returned => Confirm::Dropped,
                    };
                    self.confirmed(id, confirm, stage);
                }
            }
            Down::Leading { .. } | Down::Marks(_) | Down::Marked(_) => {}
        }
        self.turn(processes, stage);
    }

    fn delivered(&mut self, incarnation: Incarnation, came: (Queue, Tag), body: &Rc<Body>, stage: &mut Stage) {
        let now = self.now(stage);
        let Some(memory) = &mut self.memory else { return };
        memory.unacked = Some(came);
        let delivery = memory.driver.wire_mut().delivery(body);
        memory.driver.handle(now, Input::Delivered { incarnation, delivery, is_last: true });
        let worth = memory.driver.wire().worth;
        stage.trace(|| format!("worker {} <- {}: {worth:?}", self.index, crate::broker::kind(body)));
        if let Body::Written(written) = &**body
            && written.is_lie
            && matches!(worth, Worth::Order | Worth::Introduction)
        {
            stage.record(Fact::Believed { lie: crate::broker::kind(body) });
        }
    }

    fn confirmed(&mut self, id: u64, confirm: Confirm, stage: &Stage) {
        if let Some(memory) = &mut self.memory
            && let Some(body) = memory.events.remove(&id)
            && confirm == Confirm::Stored
        {
            notes::each_event(&body, &mut |event| {
                memory.unstored.remove(&event);
            });
        }
        self.handle(Input::Confirmed { id, confirm }, stage);
    }

    // ---- what happens ----

    fn handle(&mut self, input: Input, stage: &Stage) {
        let now = self.now(stage);
        if let Some(memory) = &mut self.memory {
            memory.driver.handle(now, input);
        }
    }

    /// Reports to the book.
    fn report(&mut self, input: duty::Input, stage: &Stage) {
        let now = self.now(stage);
        if let Some(Memory { book, attempts, .. }) = &mut self.memory {
            book.handle(now, input, |attempt| attempts.push_back(attempt));
        }
    }

    pub(crate) fn drain(&mut self, processes: &mut Vec<Process>, stage: &mut Stage) {
        self.handle(Input::DrainRequested, stage);
        self.turn(processes, stage);
    }

    // ---- the loop ----

    pub(crate) fn wake(&mut self, at: Micros, processes: &mut Vec<Process>, stage: &mut Stage) {
        if self.wake_at != Some(at) {
            return;
        }
        self.wake_at = None;
        self.handle(Input::Tick, stage);
        self.turn(processes, stage);
    }

    /// Does what there is to do, hands in what the book asks for until it asks for no more, and sets the next wake-up.
    pub(crate) fn turn(&mut self, processes: &mut Vec<Process>, stage: &mut Stage) {
        let mut is_ended = false;
        while let Some(memory) = &mut self.memory {
            if let Some(attempt) = memory.attempts.pop_front() {
                self.act(attempt, processes, stage);
            } else if let Some(action) = memory.driver.next_action() {
                self.carry_out(action, processes, stage);
            } else if let Some(id) = memory.unsent.pop() {
                self.confirmed(id, Confirm::Lost, stage);
                continue;
            } else {
                let effects = memory.book.take_deferred();
                if !effects.is_empty() {
                    effects.iter().for_each(|effect| memory.note(effect, stage));
                    self.handle(Input::Asked(effects), stage);
                    is_ended = false;
                } else if !std::mem::replace(&mut is_ended, true) {
                    self.handle(Input::TurnEnded, stage);
                } else {
                    break;
                }
                continue;
            }
            if !self.is_up || stage.strikes_between(self.node()) {
                return;
            }
        }
        self.note_followed(stage);
        self.arm(stage);
    }

    /// Once executors believe this process, it has reported what the one before it left.
    fn note_followed(&mut self, stage: &mut Stage) {
        let is_known = self.memory.as_ref().is_some_and(|memory| memory.driver.wire().is_known());
        if is_known && matches!(self.link, Link::Open(..)) {
            for (execution, attempt) in std::mem::take(&mut self.left) {
                stage.record(Fact::Followed { execution, attempt });
            }
        }
    }

    fn arm(&mut self, stage: &mut Stage) {
        let Some(Memory { book, driver, .. }) = &self.memory else { return };
        let deadlines = [book.duty().next_deadline(), driver.next_deadline()];
        if let Some(at) = deadlines.into_iter().flatten().min() {
            let at = self.plan.clock.when(at).max(stage.now);
            if self.wake_at.is_none_or(|wake_at| at < wake_at) {
                self.wake_at = Some(at);
                stage.at(at, Event::Wake { node: self.node(), life: self.life, at });
            }
        }
    }
}
