//! One worker process: the production duty book, its link to the broker, and the shims it has started.
//!
//! As `crates/worker/src/{run,book,link,report,lock}.rs` do it, without handlers, output and parameters.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use serde_json::value::RawValue;
use slotline_protocol::message::{AttemptKey, Ended, Failure, Report};
use slotline_protocol::proof::{Trust, Worth};
use slotline_protocol::{Incarnation, WorkerName};
use slotline_worker::duty::{
    Action, Config, Duty, Effect, Ending, Input, Json, Now, OnDrain, Order, Shortage, Terms, Told,
};
use uuid::Uuid;

use crate::clock::{MS, Micros, SECOND};
use crate::faults::Node;
use crate::history::Fact;
use crate::journal::action_ref;
use crate::plan::{self, Mistake, WorkerPlan};
use crate::process::Process;
use crate::seal;
use crate::stage::{Event, News, Stage};
use crate::wire::{Body, Down, Purpose, Queue, Route, SessionId, Up, Verdict};

/// The most former incarnations in a lock file.
const FORMERS_MAX: usize = 16;
/// Wait before an event that the broker refused is said again. The worker itself does not wait; to go round that fast
/// would show nothing here.
const RESAY_AFTER: Micros = 500 * MS;

pub(crate) struct Worker {
    pub(crate) index: usize,
    pub(crate) life: u32,
    pub(crate) is_up: bool,
    pub(crate) plan: WorkerPlan,
    config: Config,
    duty: Option<Duty>,
    incarnations: u32,
    link: Link,
    pub(crate) failures: u32,
    /// The incarnations in the lock file.
    lock: Vec<Incarnation>,
    /// What the incarnation knows of executors, where somebody lies.
    trust: Option<Trust>,
    /// What a process has left beside the lock.
    kept: Vec<Ended>,
    /// What the book asked for and is not done yet.
    effects: VecDeque<Effect>,
    scratch: Vec<Effect>,
    /// Events that wait for a session.
    events: VecDeque<Rc<Body>>,
    /// Events that the broker did not take.
    refused: VecDeque<Rc<Body>>,
    live: BTreeMap<AttemptKey, usize>,
    /// Attempts of this incarnation whose outcome is told and not known to be recorded.
    owed: BTreeSet<AttemptKey>,
    /// Those of a process before this one, until this one has told what it knows.
    left: BTreeSet<AttemptKey>,
    orders_taken: u64,
    wake_at: Option<Micros>,
    null: Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    Dialing,
    Subscribing(SessionId),
    Open(SessionId, Incarnation),
}

impl Worker {
    pub(crate) fn new(index: usize, plan: WorkerPlan, terms: plan::Terms) -> Self {
        let action = Action {
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
            duty: None,
            incarnations: 0,
            link: Link::Dialing,
            failures: 0,
            lock: Vec::new(),
            trust: None,
            kept: Vec::new(),
            effects: VecDeque::new(),
            scratch: Vec::new(),
            events: VecDeque::new(),
            refused: VecDeque::new(),
            live: BTreeMap::new(),
            owed: BTreeSet::new(),
            left: BTreeSet::new(),
            orders_taken: 0,
            wake_at: None,
            null: Json(RawValue::from_string("null".to_owned()).expect("valid JSON").into()),
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

    fn name_incarnation(&mut self) -> Incarnation {
        self.incarnations += 1;
        let incarnation = Incarnation(Uuid::from_u128((self.index as u128) << 64 | u128::from(self.incarnations)));
        self.lock.push(incarnation);
        incarnation
    }

    pub(crate) fn incarnation(&self) -> Option<Incarnation> {
        self.duty.as_ref().map(Duty::incarnation)
    }

    /// Whether every outcome it has told is known to be recorded.
    pub(crate) fn owes_nothing(&self) -> bool {
        self.duty.as_ref().is_none_or(|duty| duty.unrecorded().next().is_none())
    }

    // ---- life and death ----

    /// The process starts. With a lock file, nothing of the one before may be left by then.
    pub(crate) fn start(&mut self, stage: &mut Stage) {
        self.is_up = true;
        self.failures = 0;
        self.link = Link::Dialing;
        let mut formers = std::mem::take(&mut self.lock);
        formers.drain(..formers.len().saturating_sub(FORMERS_MAX));
        if self.plan.has_lock {
            self.lock.clone_from(&formers);
        }
        let incarnation = self.name_incarnation();
        self.trust = trust(incarnation, stage);
        stage.trace(|| format!("worker {} starts as {}", self.index, crate::broker::short(incarnation)));
        let mut duty = Duty::new(self.config.clone(), incarnation, self.now(stage));
        if self.plan.has_lock {
            self.kept.iter().for_each(|ended| duty.inherits(ended.clone()));
            formers.into_iter().for_each(|former| duty.replaces(former));
        }
        self.duty = Some(duty);
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
        self.duty = None;
        self.link = Link::Dialing;
        self.effects.clear();
        self.events.clear();
        self.refused.clear();
        self.live.clear();
        self.owed.clear();
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
    pub(crate) fn lost(&mut self, session: SessionId, stage: &mut Stage) {
        let unconfirmed = stage.hang_up(session);
        for purpose in unconfirmed.into_iter().rev() {
            if let Purpose::Event(body) = purpose {
                self.events.push_front(body);
            }
        }
        if self.session() == Some(session) {
            self.link = Link::Dialing;
            self.dial_failed(stage);
        }
    }

    pub(crate) fn hear(&mut self, session: SessionId, down: Down, processes: &mut Vec<Process>, stage: &mut Stage) {
        if self.session() != Some(session) {
            return;
        }
        match down {
            Down::Closed => self.lost(session, stage),
            Down::Serving { incarnation } => match self.incarnation() {
                Some(current) if current == incarnation => {
                    self.link = Link::Open(session, incarnation);
                    self.handle(Input::SessionOpened { incarnation }, stage);
                }
                Some(current) => {
                    self.link = Link::Subscribing(session);
                    stage.send(session, Up::Serve { incarnation: current, former: Some(incarnation) });
                }
                None => {}
            },
            Down::Delivered { queue, tag, body } => {
                let Link::Open(_, incarnation) = self.link else { return };
                if queue != Queue::Worker(incarnation) {
                    return;
                }
                let (worth, body) = seal::judge(self.trust.as_mut(), &body, stage);
                let orders = match (worth, body) {
                    (Worth::Hint, _) => {
                        stage.trace(|| format!("worker {} <- {}", self.index, crate::broker::kind(body)));
                        self.handle(Input::Hinted { incarnation }, stage);
                        &[][..]
                    }
                    (Worth::Order | Worth::Introduction, Body::Orders(orders)) => orders,
                    (Worth::Order | Worth::Introduction | Worth::Nothing, _) => &[][..],
                };
                for order in orders {
                    let mut order = order.clone();
                    if stage.mistake == Some(Mistake::IgnoresOrderNumbers) {
                        self.orders_taken += 1;
                        renumber(&mut order, self.orders_taken);
                    }
                    stage.trace(|| format!("worker {} <- {}", self.index, describe(&order)));
                    if let Order::Recorded(order) = &order {
                        self.owed.retain(|key| !order.attempts.contains(key));
                    }
                    let input = match worth {
                        Worth::Introduction => Input::Introduced { incarnation, order },
                        Worth::Order | Worth::Hint | Worth::Nothing => Input::Ordered { incarnation, order },
                    };
                    self.handle(input, stage);
                }
                stage.send(session, Up::Ack { queue, tag });
            }
            Down::Confirmed { seq, verdict } => match (stage.confirmed(session, seq), verdict) {
                (Some(Purpose::Beat { incarnation, sent }), Verdict::Stored) => {
                    self.handle(Input::HeartbeatConfirmed { incarnation, sent }, stage);
                }
                (Some(Purpose::Beat { incarnation, .. }), Verdict::Refused) => {
                    self.handle(Input::HeartbeatRefused { incarnation }, stage);
                }
                (Some(Purpose::Farewell { incarnation }), Verdict::Stored) => {
                    self.handle(Input::FarewellConfirmed { incarnation }, stage);
                }
                (Some(Purpose::Event(body)), Verdict::Refused) => {
                    if self.refused.is_empty() {
                        stage.after(RESAY_AFTER, Event::Resay { worker: self.index, life: self.life });
                    }
                    self.refused.push_back(body);
                }
                (_, _) => {}
            },
            Down::Leading { .. } | Down::Marks(_) | Down::Marked(_) => {}
        }
        self.turn(processes, stage);
    }

    // ---- the book ----

    pub(crate) fn handle(&mut self, input: Input, stage: &Stage) {
        let now = self.now(stage);
        if let Some(duty) = &mut self.duty {
            duty.handle(now, input, &mut self.scratch);
            self.effects.extend(self.scratch.drain(..));
        }
    }

    /// What a shim has to say.
    pub(crate) fn told(&mut self, process: usize, news: News, processes: &mut Vec<Process>, stage: &mut Stage) {
        let (key, began_at) = (processes[process].key, processes[process].began_at);
        let input = match news {
            News::Started => {
                let clock = self.plan.clock;
                Input::Started { key, at: Now { boot: clock.boot(began_at), wall: clock.wall(began_at) } }
            }
            News::Told { numbers } => {
                let report = Report {
                    progress: numbers.then_some((stage.now, None)),
                    message: (!numbers).then(|| "it goes on".to_owned()),
                    ..Report::default()
                };
                Input::Reported { key, event: Told::Progress(report) }
            }
            News::Unstarted => {
                self.live.remove(&key);
                Input::Unstarted { key, shortage: Shortage::Processes }
            }
            News::Ended { succeeded } => {
                self.live.remove(&key);
                let result = if succeeded { Ok(self.null.clone()) } else { Err(Failure::new("exit_status", "1")) };
                let ended_at = self.now(stage).wall;
                Input::Ended {
                    key,
                    ending: Ending { result, left: None, return_code: Some(i32::from(!succeeded)), ended_at },
                }
            }
        };
        self.handle(input, stage);
        self.turn(processes, stage);
    }

    /// Tries again with what the broker refused.
    pub(crate) fn resay(&mut self, processes: &mut Vec<Process>, stage: &mut Stage) {
        self.events.append(&mut self.refused);
        self.turn(processes, stage);
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

    /// Does what the book asked for, and sets the next wake-up.
    pub(crate) fn turn(&mut self, processes: &mut Vec<Process>, stage: &mut Stage) {
        while let Some(effect) = self.effects.pop_front() {
            self.carry_out(effect, processes, stage);
            if !self.is_up || stage.strikes_between(self.node()) {
                return;
            }
        }
        if matches!(self.link, Link::Open(..)) {
            for (execution, attempt) in std::mem::take(&mut self.left) {
                stage.record(Fact::Followed { execution, attempt });
            }
        }
        while let Link::Open(session, _) = self.link
            && self.trust.as_ref().is_none_or(Trust::is_known)
            && let Some(body) = self.events.pop_front()
        {
            if let Some(sealed) = seal::report(self.trust.as_ref(), (*body).clone()) {
                stage.publish(session, Route::Events, Rc::new(sealed), false, Purpose::Event(body));
            }
        }
        if let Some(at) = self.duty.as_ref().and_then(Duty::next_deadline) {
            let at = self.plan.clock.when(at).max(stage.now);
            if self.wake_at.is_none_or(|wake_at| at < wake_at) {
                self.wake_at = Some(at);
                stage.at(at, Event::Wake { node: self.node(), life: self.life, at });
            }
        }
    }

    fn carry_out(&mut self, effect: Effect, processes: &mut Vec<Process>, stage: &mut Stage) {
        match effect {
            Effect::Start(start) => {
                let number = start.parameters.0.get().parse().expect("a request's number");
                let index = processes.len();
                let owner = (self.index, self.life);
                let process = Process::start(stage, index, owner, (start.key, start.fence), start.deadline, number);
                processes.push(process);
                self.live.insert(start.key, index);
            }
            Effect::Interrupt { key, grace } => {
                if let Some(index) = self.live.get(&key) {
                    processes[*index].interrupt(*index, grace, stage);
                }
            }
            Effect::Kill { key } => {
                if let Some(index) = self.live.get(&key) {
                    processes[*index].kill(*index, stage);
                }
            }
            Effect::Extend { deadline } => {
                for index in self.live.values() {
                    processes[*index].extend(deadline);
                }
            }
            Effect::Complete(word) => {
                let word = word.message;
                let (id, attempt) = word.key();
                self.owed.insert((id, attempt));
                note_told((id.0, attempt, word.last_sequence), stage);
                self.say(Route::Completions, Body::Completed(word), Purpose::Other, stage);
            }
            Effect::Return(word) => {
                let word = word.message;
                note_told((word.execution_id.0, word.attempt, word.last_sequence), stage);
                self.say(Route::Completions, Body::Returned(word), Purpose::Other, stage);
            }
            Effect::ChangeStatus(word) => {
                let word = word.message;
                if let Some(sequence) = word.sequence {
                    let (execution, attempt) = word.key();
                    stage.record(Fact::Said { execution, attempt, sequence });
                }
                self.events.push_back(Rc::new(Body::StatusChanged(word)));
            }
            Effect::Progress(word) => {
                let word = word.message;
                let ((execution, attempt), sequence) = (word.key(), word.sequence);
                stage.record(Fact::Said { execution, attempt, sequence });
                self.events.push_back(Rc::new(Body::Progress(word)));
            }
            // The leader here takes what comes of events, and asks for none again.
            Effect::Resend { .. } => {}
            Effect::Beat { heartbeat, sent } => {
                let incarnation = heartbeat.incarnation;
                self.say(Route::Heartbeats, Body::Heartbeat(heartbeat), Purpose::Beat { incarnation, sent }, stage);
            }
            Effect::Farewell(word) => {
                for one in &word.outcomes {
                    note_told((one.execution_id.0, one.key().1, one.last_sequence), stage);
                }
                let incarnation = word.incarnation;
                stage.trace(|| format!("worker {}: last word of {}", self.index, crate::broker::short(incarnation)));
                self.say(Route::Heartbeats, Body::Ended(word), Purpose::Farewell { incarnation }, stage);
            }
            Effect::IncarnationOver(_) => {
                self.owed.clear();
                let next = self.name_incarnation();
                self.trust = trust(next, stage);
                stage.trace(|| format!("worker {} goes on as {}", self.index, crate::broker::short(next)));
                self.handle(Input::NewIncarnation(next), stage);
                if let Link::Open(session, former) = self.link {
                    self.link = Link::Subscribing(session);
                    stage.send(session, Up::Serve { incarnation: next, former: Some(former) });
                }
            }
            // Its next heartbeat says what it takes.
            Effect::TakeLess { .. } | Effect::TakeAll => {}
            Effect::Keep(words) => self.kept = words,
            Effect::Refused(reason) => panic!("nothing refuses a worker here: {reason}"),
            Effect::GiveUp(_) => {
                stage.trace(|| format!("worker {} gives itself up", self.index));
                self.crash(processes, stage);
                stage.after(SECOND, Event::Start { node: self.node(), life: self.life });
            }
            Effect::Finish => {
                if let Link::Open(session, incarnation) = self.link {
                    stage.send(session, Up::Delete { queue: Queue::Worker(incarnation) });
                }
                if self.plan.has_lock {
                    self.leave_what_is_owed(stage);
                }
                self.crash(processes, stage);
                self.lock.clear();
                stage.trace(|| format!("worker {} has drained", self.index));
                let delay = stage.chance.spread(100 * MS, 20 * SECOND);
                stage.after(delay, Event::Start { node: self.node(), life: self.life });
            }
        }
    }

    /// The process goes in good order.
    fn leave_what_is_owed(&mut self, stage: &mut Stage) {
        for (execution, attempt) in std::mem::take(&mut self.owed) {
            stage.record(Fact::Left { execution, attempt });
            self.left.insert((execution, attempt));
        }
    }

    /// Leaves now or not at all: whatever matters is said again.
    fn say(&self, route: Route, body: Body, purpose: Purpose, stage: &mut Stage) {
        if let (Link::Open(session, _), Some(body)) = (self.link, seal::report(self.trust.as_ref(), body)) {
            if let Body::Sealed(sealed) = &body {
                stage.overheard.clone_from(&sealed.proof);
            }
            stage.publish(session, route, Rc::new(body), false, purpose);
        }
    }
}

fn trust(incarnation: Incarnation, stage: &mut Stage) -> Option<Trust> {
    stage.secret.is_some().then(|| Trust::new(incarnation, format!("{:x}", stage.chance.next())))
}

fn note_told((execution, attempt, last_sequence): (i64, u32, u64), stage: &mut Stage) {
    stage.record(Fact::Told { execution: slotline_protocol::ExecutionId(execution), attempt, last_sequence });
}

fn describe(order: &Order) -> String {
    let (epoch, n) = order.number();
    let what = match order {
        Order::Scheduled(order) => {
            format!("run {}/{} (fence {})", order.execution_id, order.attempt, order.fence)
        }
        Order::Cancel(order) => format!("cancel {}/{}", order.execution_id, order.attempt),
        Order::Recall(order) => format!("recall {}/{}", order.execution_id, order.attempt),
        Order::Recorded(order) => format!("recorded {:?}", order.attempts),
        Order::Resend(order) => format!("say {}/{} again", order.execution_id, order.attempt),
        Order::Hello(order) if order.lost => "you are lost".to_owned(),
        Order::Hello(_) => "hello".to_owned(),
    };
    format!("({epoch}, {n}) {what}")
}

fn renumber(order: &mut Order, number: u64) {
    let (epoch, n) = match order {
        Order::Scheduled(order) => (&mut order.epoch, &mut order.n),
        Order::Cancel(order) => (&mut order.epoch, &mut order.n),
        Order::Recall(order) => (&mut order.epoch, &mut order.n),
        Order::Recorded(order) => (&mut order.epoch, &mut order.n),
        Order::Resend(order) => (&mut order.epoch, &mut order.n),
        Order::Hello(order) => (&mut order.epoch, &mut order.n),
    };
    *epoch = slotline_protocol::Epoch(i64::MAX);
    *n = number;
}
