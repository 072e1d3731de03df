//! One leadership: what arrives is given to the production leader, and what it decides is carried out on the stage.
//!
//! As `crates/executor/src/term.rs`, its modules and `flight.rs` do it, without HTTP, the audit and the public's events. Not
//! here: how letters are written (`mail`), what comes in (`arrivals`), and how an executor comes to lead (`executor`).

mod arrivals;
mod commits;
mod marks;
mod operators;

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use slotline_broker::Tag;
use slotline_executor::leader::{
    Arrival, Bounds, Checked, Handled, Input, Leader, LeaderAction, LeaderSettings, Office, Purpose, Quarantine,
    Registered, Source, StandDown, SubscribedKeys, Unmarked, Witness,
};
use slotline_protocol::message::Probe;
use slotline_protocol::proof::Ring;
use slotline_protocol::{ActionRef, Epoch, Incarnation, Timestamp};
use slotline_store::Recovered;
use uuid::Uuid;

use crate::broker::MARKS_MAX;
use crate::clock::Clock;
use crate::faults::Node;
use crate::mail::{Letter, Writer};
use crate::plan::{Mistake, Terms};
use crate::stage::Stage;
use crate::wire::{self, Body, DbId, Queue, Route, SessionId, Up};
use arrivals::Checking;
use commits::Flight;
use marks::Errand;
use operators::Call;

pub(crate) use marks::Marked;

/// Small, so that every bound is met all the time.
pub(crate) const BOUNDS: Bounds = Bounds {
    inputs_max: 12,
    members_max: 6,
    unstored_max: 1_000,
    worth_a_batch: 3,
    numbers_per_turn: 15,
    reserve: 60,
    unlooked_max: MARKS_MAX as u32 / 2 - 1,
};
/// Events of one execution that are kept in full.
const EVENTS_KEPT: u64 = 100;

/// What came with the lock: the session that holds it, and the clock that its term goes by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Leadership {
    pub(crate) db: DbId,
    pub(crate) epoch: Epoch,
    pub(crate) clock: Clock,
}

/// Why a term is to end.
#[derive(Clone, Debug)]
pub(crate) enum End {
    Shutdown,
    Over,
    Brokerless,
    Doubted { reason: String, above: Epoch },
    Settled,
}

impl End {
    /// What is left of it once the broker is gone: nothing can be settled without the marks.
    pub(crate) fn without_a_broker(self) -> Self {
        match self {
            Self::Settled => Self::Brokerless,
            end => end,
        }
    }
}

pub(crate) struct Term {
    pub(crate) db: DbId,
    /// The copy of the journal that is led on.
    site: usize,
    executor: usize,
    life: u32,
    pub(crate) epoch: Epoch,
    pub(crate) clock: Clock,
    leader: Leader<Letter>,
    writer: Writer,
    registry: BTreeMap<ActionRef, Arc<Registered>>,
    /// The commit under way, and the one packed behind it.
    flights: VecDeque<Flight>,
    /// The last batch that is known to be committed.
    committed: i64,
    /// A session whose queues are not consumed yet.
    opening: Option<SessionId>,
    /// The session whose consumers it has.
    pub(crate) feed: Option<SessionId>,
    urgent: VecDeque<Arrival>,
    events: VecDeque<Arrival>,
    checked: VecDeque<Checked>,
    intake: VecDeque<(wire::Tag, Rc<Body>)>,
    checking: Option<Checking>,
    /// Leaves one after the other; what a freeze keeps back leaves after it.
    outgoing: VecDeque<Outgoing>,
    /// The mark that is being left, or looked for.
    errand: Option<Errand>,
    calls: BTreeMap<u64, Call>,
    next_call: u64,
    /// In worlds with a liar.
    ring: Option<Ring>,
    pub(crate) end: Option<End>,
    /// What the journal is to note before the end was begun.
    pub(crate) has_told: bool,
}

/// Something that leaves the process.
enum Outgoing {
    Letter(Letter, Purpose),
    Probe(Queue, Probe),
    Ack(Queue, wire::Tag),
}

impl Term {
    pub(crate) fn new(
        Leadership { db, epoch, clock }: Leadership,
        recovered: Recovered,
        office: Office,
        terms: Terms,
        (executor, life, site): (usize, u32, usize),
        stage: &Stage,
    ) -> Self {
        let lease = if stage.mistake == Some(Mistake::LosesTooEarly) { terms.fence / 2 } else { terms.lease };
        let settings = LeaderSettings { lease, heartbeat: terms.heartbeat, events_kept: EVENTS_KEPT, bounds: BOUNDS };
        let (journal, wants_accounts) = (office.lineage(), office.doubt().is_some());
        let (quarantine, now) = (Quarantine::default(), clock.wall(stage.now));
        Self {
            db,
            site,
            executor,
            life,
            epoch,
            clock,
            leader: Leader::new(epoch, settings, recovered, office, quarantine, lease, now),
            writer: Writer { epoch, terms, journal, wants_accounts },
            registry: BTreeMap::new(),
            flights: VecDeque::new(),
            committed: 0,
            opening: None,
            feed: None,
            urgent: VecDeque::new(),
            events: VecDeque::new(),
            checked: VecDeque::new(),
            intake: VecDeque::new(),
            checking: None,
            outgoing: VecDeque::new(),
            errand: None,
            calls: BTreeMap::new(),
            next_call: 0,
            ring: stage.secret.clone().map(Ring::new),
            end: None,
            has_told: false,
        }
    }

    fn node(&self) -> Node {
        Node::Executor(self.executor)
    }

    fn now(&self, stage: &Stage) -> Timestamp {
        self.clock.wall(stage.now)
    }

    pub(crate) fn is_flying(&self) -> bool {
        !self.flights.is_empty()
    }

    pub(crate) fn next_deadline(&self) -> Timestamp {
        match self.end {
            Some(_) => Timestamp::MAX,
            None => self.leader.next_deadline().unwrap_or(Timestamp::MAX),
        }
    }

    pub(crate) fn witness(&self) -> Option<Witness> {
        self.leader.witness()
    }

    // ---- the session ----

    pub(crate) fn open(&mut self, session: SessionId, stage: &mut Stage) {
        self.close(stage);
        self.opening = Some(session);
        self.handle(Input::SessionOpening { session: session as u64 }, stage);
        stage.send(session, Up::Lead { epoch: self.epoch });
    }

    pub(crate) fn close(&mut self, stage: &mut Stage) {
        (self.opening, self.feed) = (None, None);
        self.urgent.clear();
        self.events.clear();
        self.checked.clear();
        self.intake.clear();
        self.checking = None;
        self.handle(Input::SessionClosed, stage);
        if self.errand.take().is_some() {
            self.handle(Input::Marked(Err(Unmarked::NoSession)), stage);
        }
    }

    /// What became of an order.
    pub(crate) fn confirmed(&mut self, incarnation: Incarnation, is_returned: bool, stage: &mut Stage) {
        match is_returned {
            _ if self.end.is_some() => {}
            true if stage.mistake == Some(Mistake::TakesAReturnForALoss) => self.lose(incarnation, stage),
            true => self.handle(Input::OrderReturned(incarnation), stage),
            false => self.handle(Input::OrderConfirmed, stage),
        }
    }

    // ---- the loop ----

    /// Hands an input to the leader, and carries out what follows from it.
    fn handle(&mut self, input: Input<Letter>, stage: &mut Stage) {
        self.leader.handle(input, self.now(stage));
        self.carry_out(stage);
    }

    pub(crate) fn tick(&mut self, stage: &mut Stage) {
        if self.end.is_none() {
            self.handle(Input::Ticked, stage);
        }
    }

    /// Takes and cuts until there is nothing left to do, or something strikes.
    pub(crate) fn work(&mut self, stage: &mut Stage) {
        loop {
            self.carry_out(stage);
            if self.end.is_some() {
                return;
            }
            self.take_what_is_there(stage);
            if stage.struck.is_some() {
                return;
            }
            self.end = self.leader.verdict().map(|verdict| match verdict {
                StandDown::Doubted { reason, above } => End::Doubted { reason, above },
                StandDown::Settled => End::Settled,
            });
            if self.end.is_some() {
                return;
            }
            self.leader.cut(SubscribedKeys::default(), self.now(stage));
            self.carry_out(stage);
            let is_due = self.leader.is_urgent() && self.flights.is_empty();
            if stage.struck.is_some() || !is_due && !self.has_something_to_take() {
                return;
            }
        }
    }

    /// Carries out what the leader has decided, until something strikes.
    fn carry_out(&mut self, stage: &mut Stage) {
        while stage.struck.is_none() {
            if let Some(outgoing) = self.outgoing.pop_front() {
                self.send(outgoing, stage);
                stage.strikes_between(self.node());
            } else if let Some(action) = self.leader.next_action() {
                self.act(action, stage);
            } else {
                return;
            }
        }
    }

    fn send(&mut self, outgoing: Outgoing, stage: &mut Stage) {
        let Some(session) = self.feed else { return };
        match outgoing {
            Outgoing::Letter(letter, purpose) => letter.send(purpose, session, self.site, self.ring.as_ref(), stage),
            Outgoing::Probe(queue, probe) => {
                let body = Rc::new(Body::Probe(probe));
                stage.publish(session, Route::To(queue), body, false, wire::Purpose::Other);
            }
            Outgoing::Ack(queue, tag) => stage.send(session, Up::Ack { queue, tag }),
        }
    }

    fn act(&mut self, action: LeaderAction<Letter>, stage: &mut Stage) {
        match action {
            LeaderAction::Commit(commit) => self.commit(*commit, stage),
            LeaderAction::Encode(letters) => {
                let mail = self.writer.write(*letters, &self.registry);
                self.leader.handle(Input::Encoded(mail), self.now(stage));
            }
            LeaderAction::Publish { publications, .. } => {
                let letters = publications.into_iter().map(|(letter, purpose)| Outgoing::Letter(letter, purpose));
                self.outgoing.extend(letters);
            }
            LeaderAction::Probe { published_at } => {
                let Some(session) = self.feed else { return };
                for queue in [Queue::Completions(self.epoch), Queue::Heartbeats(self.epoch)] {
                    let probe = Probe { generation: session as u64, nonce: nonce(self.epoch), published_at };
                    self.outgoing.push_back(Outgoing::Probe(queue, probe));
                }
            }
            LeaderAction::Ack(acks) => self.ack(&acks),
            LeaderAction::AckRequests(Handled { tag, dead }) => {
                debug_assert!(dead.is_empty(), "every publisher is answered");
                self.outgoing.extend(tag.map(|tag| Outgoing::Ack(Queue::Requests, tag.number())));
            }
            LeaderAction::Answer(asker, answer) => self.answer(&asker, &answer, stage),
            LeaderAction::Register { action_ref, registered } => match registered {
                Some(registered) => drop(self.registry.insert(action_ref, registered)),
                None => drop(self.registry.remove(&action_ref)),
            },
            LeaderAction::ClaimMark(mark) => self.claim_mark(*mark, stage),
            LeaderAction::RenewMark(mark) => self.renew_mark(*mark, stage),
            LeaderAction::LeaveMark(mark) => self.leave_mark(*mark, stage),
            // No client watches here.
            LeaderAction::Show(_)
            | LeaderAction::SendNews { .. }
            | LeaderAction::Announce { .. }
            | LeaderAction::Note { .. }
            | LeaderAction::Refuse { .. } => {}
        }
    }

    /// One ack of a queue takes all before it along.
    fn ack(&mut self, acks: &[(Source, Tag)]) {
        for source in [Source::Completions, Source::Heartbeats, Source::Events] {
            let newest = acks.iter().filter(|(from, _)| *from == source).map(|(_, tag)| tag.number()).max();
            let queue = match source {
                Source::Completions => Queue::Completions(self.epoch),
                Source::Heartbeats => Queue::Heartbeats(self.epoch),
                Source::Events | Source::Calls => Queue::Events(self.epoch),
            };
            self.outgoing.extend(newest.map(|tag| Outgoing::Ack(queue, tag)));
        }
    }

    /// The end of the term: what was taken is acked, and the rest goes back to its place.
    pub(crate) fn say_farewell(&mut self, stage: &mut Stage) {
        let takes_leave = matches!(self.end, Some(End::Shutdown | End::Over));
        if let Some(mark) = self.leader.last_mark().filter(|_| takes_leave) {
            self.leave_mark(mark, stage);
        }
        self.handle(Input::Leaving, stage);
    }
}

fn nonce(epoch: Epoch) -> Uuid {
    Uuid::from_u128(epoch.0.unsigned_abs().into())
}
