//! The ground that all parts stand on: true time, what will happen when, the connections, and the record of it all.
//!
//! A connection is first in, first out in each direction; a cut holds what travels until it heals, or until one side
//! gives the other up. Not here: what anybody makes of what arrives.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use slotline_executor::leader::Came;
use slotline_protocol::ExecutionId;
use slotline_protocol::proof::Secret;
use slotline_store::{Known, Request};

use crate::chance::Chance;
use crate::checker::{Checker, Rule, Violation};
use crate::clock::{MS, Micros, SECOND};
use crate::faults::{Node, Rates};
use crate::history::{Entry, Fact, RequestId};
use crate::mail::{came, parameters, request};
use crate::plan::{Mistake, Plan, RequestPlan};
use crate::process::Step;
use crate::wire::{Answer, Ask, Body, DbId, Down, LANES, Purpose, Queue, Route, SessionId, Up};

/// Without a sign of life for so long, a peer is given up: two AMQP heartbeats, and a bit.
pub(crate) const SILENCE: (Micros, Micros) = (20 * SECOND, 30 * SECOND);
/// How long a confirm may take.
const CONFIRM_DEADLINE: Micros = 10 * SECOND;
/// How long a call of the journal may take, and how long the journal bears a leader's silence.
pub(crate) const CALL_DEADLINE: Micros = 10 * SECOND;
/// The most lines of a trace that are kept.
const TRACE_MAX: usize = 4_000;

/// Something that is due.
#[derive(Debug)]
pub(crate) enum Event {
    ToBroker {
        session: SessionId,
        up: Up,
    },
    ToClient {
        session: SessionId,
        down: Down,
    },
    /// It has come through the link of `node`, which was frozen then.
    Arrived {
        node: Node,
        event: Box<Event>,
    },
    /// A session that would have been given up by now, if its reason still holds.
    Suspect {
        session: SessionId,
        by: Side,
        why: Why,
    },
    Overdue {
        session: SessionId,
    },
    Dial {
        node: Node,
        life: u32,
    },
    ToJournal {
        db: DbId,
        ask: Ask,
    },
    FromJournal {
        db: DbId,
        answer: Answer,
    },
    JournalSuspects {
        db: DbId,
        why: Why,
    },
    CallOverdue {
        db: DbId,
        call: u64,
    },
    LookUp {
        executor: usize,
        life: u32,
        session: SessionId,
    },
    LookedUp {
        executor: usize,
        life: u32,
        session: SessionId,
        known: Option<Vec<Option<Known>>>,
    },
    Wake {
        node: Node,
        life: u32,
        at: Micros,
    },
    SeekAgain {
        executor: usize,
        life: u32,
    },
    Ping {
        executor: usize,
        life: u32,
        db: DbId,
    },
    Process {
        process: usize,
        step: Step,
    },
    Shim {
        worker: usize,
        life: u32,
        process: usize,
        news: News,
    },
    Duplicate {
        queue: Queue,
        body: Rc<Body>,
    },
    Strike(usize),
    Heal(usize),
    /// The stranger says the next thing, until then.
    Lie {
        until: Micros,
    },
    Thaw {
        node: Node,
        since: Micros,
    },
    Start {
        node: Node,
        life: u32,
    },
    Submit {
        number: usize,
        cancel: bool,
    },
    Operate {
        index: usize,
    },
    /// An operation reaches an executor.
    Put {
        executor: usize,
        index: usize,
    },
    Publish,
    Calm,
}

/// What a shim tells its worker.
#[derive(Clone, Copy, Debug)]
pub(crate) enum News {
    Started,
    Told {
        numbers: bool,
    },
    Ended {
        succeeded: bool,
    },
    /// Its worker is short of something.
    Unstarted,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Broker,
    Client,
}

/// What happens to a daemon between two of its effects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Strike {
    Crash,
    Freeze,
}

/// Why a peer is silent. It is given up only if it has been silent ever since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    CutSince(Micros),
    FrozenSince(Micros),
    Gone,
}

struct Due {
    at: Micros,
    order: u64,
    event: Event,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

/// A session with the broker, with what is on its way in each direction.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) owner: Node,
    pub(crate) life: u32,
    pub(crate) client_up: bool,
    pub(crate) broker_up: bool,
    up_at: Micros,
    down_at: Micros,
    /// When the last message of each queue is delivered; confirms come by a connection of their own.
    delivered_at: [Micros; LANES],
    next_seq: u64,
    pub(crate) unconfirmed: VecDeque<Unconfirmed>,
    is_watched: bool,
}

#[derive(Debug)]
pub(crate) struct Unconfirmed {
    pub(crate) seq: u64,
    pub(crate) sent_at: Micros,
    pub(crate) purpose: Purpose,
}

/// The way between one node and the broker.
#[derive(Debug, Default)]
pub(crate) struct Link {
    pub(crate) up_cut: Option<Micros>,
    pub(crate) down_cut: Option<Micros>,
    held: Vec<Event>,
}

/// A session with the journal.
#[derive(Debug)]
pub(crate) struct Db {
    /// The copy of the journal at its other end.
    pub(crate) site: usize,
    pub(crate) executor: usize,
    pub(crate) life: u32,
    pub(crate) client_up: bool,
    pub(crate) server_up: bool,
    ask_at: Micros,
    answer_at: Micros,
    /// The call that has no answer yet.
    pub(crate) call: Option<u64>,
    pub(crate) heard_at: Micros,
}

pub(crate) struct Stage {
    pub(crate) now: Micros,
    pub(crate) seed: u64,
    order: u64,
    due: BinaryHeap<Due>,
    pub(crate) chance: Chance,
    pub(crate) rates: Rates,
    pub(crate) mistake: Option<Mistake>,
    /// The journal's, where messages are written out; else nothing is proved.
    pub(crate) secret: Option<Secret>,
    /// A proof that anybody can have seen.
    pub(crate) overheard: Option<String>,
    /// What was planned for each request, and what it is called.
    pub(crate) plans: Rc<[RequestPlan]>,
    pub(crate) requests: Vec<RequestId>,
    /// Each as a leader reads it, and how all of them come.
    pub(crate) read: Vec<Arc<Request>>,
    pub(crate) came: Arc<Came>,
    /// Operations that were carried out, and on which copy of the journal.
    pub(crate) operated: Vec<(usize, usize)>,
    /// Who is struck between two of its effects; the world sees to it when the turn is over.
    pub(crate) struck: Option<(Node, Strike)>,
    pub(crate) sessions: Vec<Session>,
    pub(crate) links: BTreeMap<Node, Link>,
    pub(crate) dbs: Vec<Db>,
    /// The way between an executor and the journal.
    pub(crate) journal_links: Vec<Link>,
    calls: u64,
    /// Each latency is up to this.
    latency: Micros,
    checker: Checker,
    /// The copy of the journal that is spoken of.
    site: usize,
    pub(crate) violation: Option<Violation>,
    pub(crate) history: Option<Vec<Entry>>,
    trace: Option<VecDeque<(Micros, String)>>,
    pub(crate) steps: u64,
    /// What was published, where a history is kept.
    pub(crate) published: Vec<(Route, Rc<Body>)>,
}

impl Stage {
    pub(crate) fn new(plan: &Plan, is_traced: bool) -> Self {
        let mut chance = Chance::of(plan.seed, 2);
        let latency = chance.spread(200, 20 * MS);
        Self {
            now: 0,
            seed: plan.seed,
            order: 0,
            due: BinaryHeap::with_capacity(256),
            chance,
            rates: plan.rates,
            mistake: plan.mistake,
            secret: crate::codec::is_written(plan.seed, plan.has_liar()).then(crate::seal::secret),
            overheard: None,
            plans: plan.requests.clone().into(),
            requests: plan.requests.iter().map(|request| request.id.clone()).collect(),
            read: plan.requests.iter().enumerate().map(|(number, one)| request(one, parameters(number))).collect(),
            came: came(),
            operated: Vec::new(),
            struck: None,
            sessions: Vec::new(),
            links: BTreeMap::new(),
            dbs: Vec::new(),
            journal_links: plan.executors.iter().map(|_| Link::default()).collect(),
            calls: 0,
            latency,
            checker: Checker::default(),
            site: 0,
            violation: None,
            history: is_traced.then(Vec::new),
            trace: is_traced.then(VecDeque::new),
            steps: 0,
            published: Vec::new(),
        }
    }

    // ---- time ----

    pub(crate) fn at(&mut self, at: Micros, event: Event) {
        self.order += 1;
        self.due.push(Due { at: at.max(self.now), order: self.order, event });
    }

    pub(crate) fn after(&mut self, delay: Micros, event: Event) {
        self.at(self.now + delay, event);
    }

    /// Moves on to what is due next.
    pub(crate) fn next(&mut self) -> Option<Event> {
        let due = self.due.pop()?;
        self.now = due.at;
        self.steps += 1;
        Some(due.event)
    }

    /// When something is due next.
    pub(crate) fn next_at(&self) -> Option<Micros> {
        self.due.peek().map(|due| due.at)
    }

    fn latency(&mut self) -> Micros {
        let delay = 50 + self.chance.below(self.latency);
        if self.chance.parts(self.rates.delayed) { delay + self.chance.spread(10 * MS, 8 * SECOND) } else { delay }
    }

    /// Whether a daemon stops here, between two of its effects.
    pub(crate) fn strikes_between(&mut self, node: Node) -> bool {
        if self.struck.is_none() {
            if self.chance.parts(self.rates.crash_between) {
                self.struck = Some((node, Strike::Crash));
            } else if self.chance.parts(self.rates.freeze_between) {
                self.struck = Some((node, Strike::Freeze));
            }
        }
        self.struck.is_some()
    }

    // ---- the record ----

    pub(crate) fn record(&mut self, fact: Fact) {
        let entry = Entry { at: self.now, fact };
        if self.violation.is_none()
            && let Err(violation) = self.checker.observe(&entry)
        {
            self.violation = Some(violation);
        }
        if self.history.is_some() {
            self.trace(|| format!("  {:?}", entry.fact));
            self.history.get_or_insert_default().push(entry);
        }
    }

    /// The record of an execution has a number that does not follow the one before.
    pub(crate) fn misnumbered(&mut self, execution: ExecutionId, number: u64) {
        let detail = format!("event {number} of execution {execution} is written behind another than the one before");
        self.violation.get_or_insert(Violation {
            rule: Rule::EventsAreGapFree,
            at: self.now,
            execution: Some(execution),
            detail,
        });
    }

    /// The same, of this copy of the journal or of its leader.
    pub(crate) fn record_of(&mut self, site: usize, fact: Fact) {
        if std::mem::replace(&mut self.site, site) != site {
            self.record(Fact::Of { site });
        }
        self.record(fact);
    }

    pub(crate) fn is_quiet(&self) -> bool {
        self.checker.is_quiet()
    }

    pub(crate) fn is_traced(&self) -> bool {
        self.trace.is_some()
    }

    /// Notes a step for whoever reads the failure.
    pub(crate) fn trace(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            if trace.len() >= TRACE_MAX {
                trace.pop_front();
            }
            trace.push_back((self.now, line()));
        }
    }

    pub(crate) fn take_trace(&mut self) -> Vec<(Micros, String)> {
        self.trace.take().unwrap_or_default().into()
    }

    // ---- sessions with the broker ----

    pub(crate) fn open(&mut self, owner: Node, life: u32) -> SessionId {
        self.sessions.push(Session {
            owner,
            life,
            client_up: true,
            broker_up: true,
            up_at: self.now,
            down_at: self.now,
            delivered_at: [self.now; LANES],
            next_seq: 0,
            unconfirmed: VecDeque::new(),
            is_watched: false,
        });
        self.sessions.len() - 1
    }

    pub(crate) fn send(&mut self, session: SessionId, up: Up) {
        if !self.sessions[session].client_up {
            return;
        }
        let at = self.sessions[session].up_at.max(self.now + self.latency());
        self.sessions[session].up_at = at;
        self.at(at, Event::ToBroker { session, up });
    }

    pub(crate) fn deliver(&mut self, session: SessionId, down: Down) {
        let soonest = self.sessions[session].down_at.max(self.now + self.latency());
        let open = &mut self.sessions[session];
        let last = match &down {
            Down::Delivered { queue, .. } => &mut open.delivered_at[queue.lane()],
            Down::Leading { .. }
            | Down::Serving { .. }
            | Down::Confirmed { .. }
            | Down::Marks(_)
            | Down::Marked(_)
            | Down::Closed => &mut open.down_at,
        };
        *last = soonest.max(*last);
        let at = *last;
        self.at(at, Event::ToClient { session, down });
    }

    /// What is delivered to this node by one lane from now on waits behind a flood, for so long.
    pub(crate) fn flood(&mut self, node: Node, lane: usize, lasts: Micros) {
        let until = self.now + lasts;
        for open in self.sessions.iter_mut().filter(|open| open.owner == node && open.client_up) {
            open.delivered_at[lane] = open.delivered_at[lane].max(until);
        }
    }

    pub(crate) fn publish(
        &mut self,
        session: SessionId,
        route: Route,
        body: Rc<Body>,
        mandatory: bool,
        purpose: Purpose,
    ) {
        let now = self.now;
        let open = &mut self.sessions[session];
        if !open.client_up {
            return;
        }
        let seq = open.next_seq;
        open.next_seq += 1;
        open.unconfirmed.push_back(Unconfirmed { seq, sent_at: now, purpose });
        if !std::mem::replace(&mut open.is_watched, true) {
            self.after(CONFIRM_DEADLINE, Event::Overdue { session });
        }
        if self.history.is_some() {
            self.published.push((route, body.clone()));
        }
        self.send(session, Up::Publish { seq, route, body, mandatory });
    }

    /// What the confirm of `seq` is for.
    pub(crate) fn confirmed(&mut self, session: SessionId, seq: u64) -> Option<Purpose> {
        let unconfirmed = &mut self.sessions[session].unconfirmed;
        let index = unconfirmed.iter().position(|waiting| waiting.seq == seq)?;
        unconfirmed.remove(index).map(|waiting| waiting.purpose)
    }

    /// Whether a publication of the session is overdue; if not, it is looked at again in time.
    pub(crate) fn is_overdue(&mut self, session: SessionId) -> bool {
        let open = &mut self.sessions[session];
        open.is_watched = false;
        if !open.client_up {
            return false;
        }
        let Some(oldest) = open.unconfirmed.front().map(|waiting| waiting.sent_at + CONFIRM_DEADLINE) else {
            return false;
        };
        if oldest <= self.now {
            return true;
        }
        open.is_watched = true;
        self.at(oldest, Event::Overdue { session });
        false
    }

    /// The client's side ends; the broker hears of it if the way is open. Gives back what was not confirmed.
    pub(crate) fn hang_up(&mut self, session: SessionId) -> Vec<Purpose> {
        if !self.sessions[session].client_up {
            return Vec::new();
        }
        self.send(session, Up::Close);
        self.sessions[session].client_up = false;
        self.sessions[session].unconfirmed.drain(..).map(|waiting| waiting.purpose).collect()
    }

    /// Whether a message may pass now; if not, it is held until the cut heals.
    pub(crate) fn passes(&mut self, node: Node, event: Event) -> Option<Event> {
        let link = self.links.entry(node).or_default();
        let cut = match &event {
            Event::ToBroker { .. } => link.up_cut,
            _ => link.down_cut,
        };
        match cut {
            None => Some(event),
            Some(_) => {
                link.held.push(event);
                None
            }
        }
    }

    pub(crate) fn cut(&mut self, node: Node, up: bool, down: bool) {
        let now = self.now;
        let link = self.links.entry(node).or_default();
        if up {
            link.up_cut = Some(now);
        }
        if down {
            link.down_cut = Some(now);
        }
        for session in 0..self.sessions.len() {
            let open = &self.sessions[session];
            if open.owner == node && open.broker_up && up {
                self.suspect(session, Side::Broker, Why::CutSince(now));
            }
            let open = &self.sessions[session];
            if open.owner == node && open.client_up && down {
                self.suspect(session, Side::Client, Why::CutSince(now));
            }
        }
    }

    pub(crate) fn suspect(&mut self, session: SessionId, by: Side, why: Why) {
        let delay = self.chance.between(SILENCE.0, SILENCE.1);
        self.after(delay, Event::Suspect { session, by, why });
    }

    pub(crate) fn mend(&mut self, node: Node) {
        let link = self.links.entry(node).or_default();
        link.up_cut = None;
        link.down_cut = None;
        for event in std::mem::take(&mut link.held) {
            self.at(self.now, event);
        }
    }

    pub(crate) fn is_cut(&self, node: Node) -> bool {
        self.links.get(&node).is_some_and(|link| link.up_cut.is_some() || link.down_cut.is_some())
    }

    // ---- sessions with the journal ----

    pub(crate) fn connect(&mut self, executor: usize, life: u32, site: usize) -> DbId {
        self.dbs.push(Db {
            site,
            executor,
            life,
            client_up: true,
            server_up: true,
            ask_at: self.now,
            answer_at: self.now,
            call: None,
            heard_at: self.now,
        });
        self.dbs.len() - 1
    }

    /// Asks, and waits for the answer no longer than a call may take; for the lock, for ever.
    pub(crate) fn ask(&mut self, db: DbId, ask: Ask, slow: Micros) {
        if !self.dbs[db].client_up {
            return;
        }
        let waits = !matches!(ask, Ask::Lead | Ask::Close);
        let at = self.dbs[db].ask_at.max(self.now + self.latency() + slow);
        self.dbs[db].ask_at = at;
        self.at(at, Event::ToJournal { db, ask });
        if waits {
            self.calls += 1;
            let call = self.calls;
            self.dbs[db].call = Some(call);
            self.after(CALL_DEADLINE, Event::CallOverdue { db, call });
        }
    }

    pub(crate) fn answer(&mut self, db: DbId, answer: Answer) {
        let at = self.dbs[db].answer_at.max(self.now + self.latency());
        self.dbs[db].answer_at = at;
        self.at(at, Event::FromJournal { db, answer });
    }

    pub(crate) fn disconnect(&mut self, db: DbId) {
        self.ask(db, Ask::Close, 0);
        self.dbs[db].client_up = false;
    }

    pub(crate) fn passes_journal(&mut self, db: DbId, event: Event) -> Option<Event> {
        let link = &mut self.journal_links[self.dbs[db].executor];
        if link.up_cut.is_some() {
            link.held.push(event);
            return None;
        }
        Some(event)
    }

    pub(crate) fn cut_journal(&mut self, executor: usize) {
        let now = self.now;
        self.journal_links[executor].up_cut = Some(now);
        for db in 0..self.dbs.len() {
            if self.dbs[db].executor == executor && self.dbs[db].server_up {
                self.after(CALL_DEADLINE, Event::JournalSuspects { db, why: Why::CutSince(now) });
            }
        }
    }

    pub(crate) fn mend_journal(&mut self, executor: usize) {
        let link = &mut self.journal_links[executor];
        link.up_cut = None;
        for event in std::mem::take(&mut link.held) {
            self.at(self.now, event);
        }
    }
}
